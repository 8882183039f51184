//! A page of keys that cannot be read stops one kvset, and nothing else: writes go on for ever, to
//! the same KVS and to others, and so do compaction and space.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use kvs::{Database, Durability, Kvs, Options, Range};
use mpool::{Device, IoBuf};
use mpool_sim::{Faults, SimDevice};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

const LEAF: u8 = 1;
const KEYS: u64 = 40;

fn key(n: u64) -> Vec<u8> {
    format!("key{n:04}").into_bytes()
}

fn value(n: u64, round: u64) -> Vec<u8> {
    let mut value = format!("{n} in round {round} ").into_bytes();
    value.resize(400, b'v');
    value
}

/// Pages of keys on the device, with what is in them.
fn leaf_pages(device: &SimDevice) -> BTreeSet<(u64, Vec<u8>)> {
    let mut page = IoBuf::zeroed(4096);
    let mut leaf = |at: u64| {
        let is_read = device.read_at(at, &mut page).is_ok();
        let is_leaf = is_read && page[4076] == LEAF && page[..62].iter().any(|byte| *byte != 0);
        is_leaf.then(|| (at, page.to_vec()))
    };
    (0..device.geometry().len_bytes).step_by(4096).filter_map(&mut leaf).collect()
}

fn gauge(db: &Database, name: &str, label: &str) -> f64 {
    let mut found = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == name && sample.labels.iter().any(|(_, value)| *value == label) {
            found = sample.value.number().unwrap();
        }
    });
    found
}

fn put_round(db: &Database, kvs: &[Kvs], round: u64) {
    for kvs in kvs {
        for n in 0..KEYS {
            kvs.put(&key(n), &value(n, round), Durability::Off).unwrap();
        }
    }
    db.flush().unwrap();
}

/// Spoils the keys of the kvset that a round in `bad` writes.
fn spoil(device: &SimDevice, db: &Database, bad: &Kvs, round: u64) {
    let before = leaf_pages(device);
    put_round(db, std::slice::from_ref(bad), round);
    let after = leaf_pages(device);
    let mut fresh = after.difference(&before).peekable();
    assert!(fresh.peek().is_some());
    for (at, _) in fresh {
        device.flip_bit(at + 9, 2);
    }
}

/// Whether `compact` brings the spoiled kvset to a leaf first does not matter to what must hold.
fn goes_on(compacted_first: bool) {
    let device = SimDevice::new(512 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = [db.kvs("bad").unwrap(), db.kvs("good").unwrap()];
    for round in 0..4 {
        put_round(&db, &kvs, round);
    }
    if compacted_first {
        db.compact().unwrap();
    }
    spoil(&device, &db, &kvs[0], 4);
    // Beyond the 40 kvsets of a root at which writers stop.
    for round in 5..120 {
        put_round(&db, &kvs, round);
        db.compact().unwrap();
    }
    let left_alone = gauge(&db, "left_alone", "kvset");
    assert!((0.5..1.5).contains(&left_alone), "the one that cannot be read");
    assert!(gauge(&db, "kvs_kvsets", "bad") <= 16.0);
    assert!(gauge(&db, "kvs_kvsets", "good") <= 8.0);
    for kvs in &kvs {
        for n in 0..KEYS {
            assert_eq!(kvs.get(&key(n)).unwrap().unwrap().value, value(n, 119));
        }
    }
    let live = 2.0 * 40.0 * 500.0;
    let values = gauge(&db, "kvs_value_bytes", "bad") + gauge(&db, "kvs_value_bytes", "good");
    assert!(values <= 16.0 * live, "{values} bytes of values for {live}");
    db.close().unwrap();
    drop((kvs, db));
    let db = support::open(&device, &options).unwrap();
    let kvs = db.kvs("bad").unwrap();
    assert_eq!(kvs.get(&key(7)).unwrap().unwrap().value, value(7, 119));
}

/// What was left alone in a KVS that is dropped was told, and copied for each pick, until the next
/// open.
#[test]
fn what_was_left_alone_goes_with_its_kvs() {
    let device = SimDevice::new(512 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = [db.kvs("bad").unwrap(), db.kvs("good").unwrap()];
    put_round(&db, &kvs, 0);
    spoil(&device, &db, &kvs[0], 1);
    for round in 2..10 {
        put_round(&db, &kvs, round);
        db.compact().unwrap();
    }
    assert!(gauge(&db, "left_alone", "kvset") > 0.5);
    assert_eq!(db.health().state(), kvs::State::Degraded);
    db.drop_kvs("bad").unwrap();
    assert_eq!(db.health().state(), kvs::State::Sound);
    assert!(gauge(&db, "left_alone", "kvset") < 0.5);
    assert_eq!(db.tree("good", &kvs::TreePage::default()).unwrap().left_alone, 0);
    put_round(&db, &kvs[1..], 10);
    db.compact().unwrap();
}

#[test]
fn a_page_that_rots_in_the_root_stops_no_writes() {
    goes_on(false);
}

#[test]
fn a_page_that_rots_above_a_leaf_stops_no_writes() {
    goes_on(true);
}

/// Works until nothing is due; where that does not come, the database is closed under it.
fn settle(db: &Database) {
    const JOBS_MAX: u64 = 500;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if db.jobs().first().is_some_and(|last| last.number > JOBS_MAX) {
                    db.close().unwrap();
                    return;
                }
                std::thread::yield_now();
            }
        });
        let done = db.compact();
        is_over.store(true, Ordering::Relaxed);
        done.unwrap();
    });
}

/// Values of the kvsets below the one that cannot be read were to be collected, which no job can:
/// what lies above was merged in vain instead, as fast as the drive could write, and for ever.
#[test]
fn garbage_below_a_page_that_rots_above_a_leaf_is_left_alone() {
    let device = SimDevice::new(512 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.create_kvs("bad").unwrap();
    let put = |keys: std::ops::Range<u64>, byte: u8, len: usize| {
        for n in keys {
            kvs.put(&key(n), &vec![byte; len], Durability::Off).unwrap();
        }
        db.flush().unwrap();
    };
    let short_rounds = || {
        for round in 0..4 {
            put(1..3, round, 300);
        }
    };
    // A leaf with a quarter of garbage, which is not worth a job yet.
    put(0..500, 1, 4000);
    short_rounds();
    db.compact().unwrap();
    db.start_compaction(kvs::CompactionRequest::default()).unwrap().wait().unwrap();
    for n in 0..130 {
        kvs.delete(&key(n * 3 + 50), Durability::Off).unwrap();
    }
    short_rounds();
    db.compact().unwrap();
    let before = leaf_pages(&device);
    put(1..41, 2, 300);
    for (at, _) in leaf_pages(&device).difference(&before) {
        device.flip_bit(at + 9, 2);
    }
    for round in 0..20 {
        put(1..10, 3 + round, 300);
        settle(&db);
    }
    assert!(gauge(&db, "left_alone", "kvset") > 0.5, "the page was met");
    for n in 0..500 {
        let is_deleted = n >= 50 && n % 3 == 2 && n < 50 + 3 * 130;
        let found = kvs.get(&key(n));
        match n {
            1..10 => assert_eq!(found.unwrap().unwrap().value, vec![22; 300]),
            // What is newest of them cannot be read.
            10..41 => assert!(found.is_err()),
            _ => assert_eq!(found.unwrap().is_none(), is_deleted, "key {n}"),
        }
    }
}

/// All kvsets of a job were left alone until the next open when the drive failed one read: what was
/// newer stayed above them, and the space of what it overwrote never came back.
#[test]
fn a_read_that_fails_once_leaves_nothing_alone() {
    let device = SimDevice::new(512 << 20);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = [db.create_kvs("k").unwrap()];
    for round in 0..8 {
        put_round(&db, &kvs, round);
    }
    device.set_faults(Faults { read_eio_at: Some(0), ..Faults::default() });
    db.compact().unwrap_err();
    db.compact().unwrap();
    assert!(gauge(&db, "left_alone", "kvset") < 0.5);
    assert!(gauge(&db, "kvs_kvsets", "k") <= 2.0);
}

/// A delete above a kvset that cannot be read hides what is older than that one, in whatever merge
/// it takes part: it may go only when nothing older holds its key.
fn stay_deleted(compacted_first: bool) {
    let device = SimDevice::new(512 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = [db.create_kvs("bad").unwrap()];
    for round in 0..4 {
        put_round(&db, &kvs, round);
    }
    if compacted_first {
        db.compact().unwrap();
    }
    let before = leaf_pages(&device);
    kvs[0].put(b"key9999", b"of the page that rots", Durability::Off).unwrap();
    db.flush().unwrap();
    for (at, _) in leaf_pages(&device).difference(&before) {
        device.flip_bit(at + 9, 2);
    }
    for n in 0..KEYS / 2 {
        kvs[0].delete(&key(n), Durability::Off).unwrap();
    }
    db.flush().unwrap();
    for round in 0..30 {
        for n in KEYS / 2..KEYS {
            kvs[0].put(&key(n), &value(n, round), Durability::Off).unwrap();
        }
        db.flush().unwrap();
        settle(&db);
    }
    assert!(gauge(&db, "left_alone", "kvset") > 0.5, "the page was met");
    let check = |kvs: &Kvs| {
        for n in 0..KEYS {
            let lives = kvs.get(&key(n)).unwrap().is_some();
            assert_eq!(lives, n >= KEYS / 2, "key {n}");
        }
        let shown = kvs.cursor(Range::default()).unwrap().filter_map(Result::ok);
        let keys: Vec<_> = shown.map(|item| item.key.to_vec()).collect();
        assert_eq!(keys, (KEYS / 2..KEYS).map(key).collect::<Vec<_>>());
    };
    check(&kvs[0]);
    db.close().unwrap();
    drop((kvs, db));
    let db = support::open(&device, &options).unwrap();
    let kvs = db.kvs("bad").unwrap();
    check(&kvs);
    settle(&db);
    check(&kvs);
}

#[test]
fn what_is_deleted_above_a_page_that_rots_in_the_root_stays_deleted() {
    stay_deleted(false);
}

#[test]
fn what_is_deleted_above_a_page_that_rots_above_a_leaf_stays_deleted() {
    stay_deleted(true);
}

/// A scan that could not read a live key among many that are deleted must not tell the next one
/// that nothing lives there.
#[test]
fn what_a_scan_cannot_read_is_not_taken_for_deleted() {
    let device = SimDevice::new(512 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let before = leaf_pages(&device);
    for n in 0..400 {
        kvs.put(&key(n), &[b'v'; 200], Durability::Off).unwrap();
    }
    db.flush().unwrap();
    let after = leaf_pages(&device);
    let pages: Vec<u64> = after.difference(&before).map(|(at, _)| *at).collect();
    for n in (0..400).filter(|n| *n != 200) {
        kvs.delete(&key(n), Durability::Off).unwrap();
    }
    for reverse in [false, true] {
        let scan = || kvs.cursor(Range { reverse, ..Range::default() }).unwrap();
        let unreadable = Some((pages[0], pages[pages.len() - 1] + 4096));
        device.set_faults(Faults { unreadable, ..Faults::default() });
        assert!(scan().any(|item| item.is_err()), "what is missing is told");
        device.set_faults(Faults::default());
        let shown: Vec<_> = scan().map(|item| item.unwrap().key.to_vec()).collect();
        assert_eq!(shown, [key(200)]);
    }
}
