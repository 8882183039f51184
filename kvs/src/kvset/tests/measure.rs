//! Measures lookups in a kvset of a million keys, everything resident.
//!
//! `cargo test --release -p millpond-kvs kvset::tests::measure -- --ignored --nocapture`

use super::*;
use crate::entry::version::VersionCursor;
use crate::kvset::{Probe, ReadMode};

const KEYS: u64 = 1_000_000;

fn key_of(number: u64) -> String {
    // Scatters the numbers as YCSB's hashed insert order does.
    format!("user{:020}", Random(number).next())
}

/// Nanoseconds of CPU time of this thread: other load on the machine does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

#[expect(clippy::print_stderr, reason = "what this is for")]
fn report(what: &str, count: u64, start: u64) {
    let each = (cpu_ns() - start) / count;
    eprintln!("{what}: {each} ns of CPU each, {count} times");
}

#[test]
#[ignore = "measures, asserts little; run in release"]
fn lookups_in_a_million_keys() {
    let dir = tempfile::tempdir().unwrap();
    let pool_options = mpool::Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 8 << 30,
        reserve_bytes: Some(0),
        ..mpool::Options::default()
    };
    let pool = Pool::open_or_create(dir.path(), &pool_options).unwrap();
    let mut keys: Vec<String> = (0..KEYS).map(key_of).collect();
    keys.sort_unstable();
    let start = cpu_ns();
    let mut builder = KvsetBuilder::new(&pool, options(256, KEYS));
    for key in &keys {
        builder.add(key.as_bytes(), Revision::new(1), Op::Inline(&[7; 300])).unwrap();
    }
    let kvset = commit(&pool, builder.finish().unwrap().unwrap());
    report("build, commit and open", KEYS, start);

    let order: Vec<String> = (0..KEYS).map(|number| key_of((number * 7919) % KEYS)).collect();
    let strangers: Vec<String> = (0..KEYS).map(|number| key_of(number + KEYS)).collect();
    let probe = |key: &String| probe(&kvset, key.as_bytes()).unwrap();
    // Once to verify the pages.
    assert!(order.iter().all(|key| matches!(probe(key), Probe::Extern(..))));
    let start = cpu_ns();
    assert!(order.iter().all(|key| matches!(probe(key), Probe::Extern(..))));
    report("probe of a present key", KEYS, start);
    let start = cpu_ns();
    let absent =
        strangers.iter().filter(|key| matches!(probe(key), Probe::Excluded | Probe::Miss)).count();
    report("probe of an absent key", KEYS, start);
    assert_eq!(absent, strangers.len());
    for mode in [ReadMode::Direct, ReadMode::Mapped] {
        for (what, with_values) in [("keys", false), ("keys and values", true)] {
            let start = cpu_ns();
            let mut cursor = kvset.cursor(mode);
            cursor.seek_first().unwrap();
            let mut seen = 0;
            while cursor.valid() {
                if with_values {
                    assert_eq!(cursor.value().unwrap().len(), 300);
                }
                seen += 1;
                cursor.next().unwrap();
            }
            assert_eq!(seen, KEYS);
            report(&format!("{mode:?} walk over {what}"), KEYS, start);
        }
    }
    let start = cpu_ns();
    let mut cursor = kvset.cursor(ReadMode::Mapped);
    cursor.seek_last().unwrap();
    while cursor.valid() {
        cursor.prev().unwrap();
    }
    report("Mapped walk backward over keys", KEYS, start);
    let start = cpu_ns();
    for key in order.iter().take(200_000) {
        cursor.seek(key.as_bytes()).unwrap();
        assert_eq!(cursor.key(), key.as_bytes());
    }
    report("Mapped seek", 200_000, start);
}
