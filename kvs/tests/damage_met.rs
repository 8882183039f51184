//! Damage that readers meet is counted by who met it: the alert on it was silent when values were
//! damaged.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Database, Durability, Options, Range, TryGet};
use mpool::{Device, IoBuf};
use mpool_sim::{Faults, SimDevice};

/// A page of a filter that is damaged failed the lookups of every key of its kblock, while scans
/// showed them.
#[test]
fn keys_are_found_without_their_filter() {
    let device = SimDevice::new(256 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    for n in 0..100_u8 {
        kvs.put(&[b'k', n], &[0x55; 300], Durability::Off).unwrap();
    }
    db.flush().unwrap();
    db.close().unwrap();
    drop((kvs, db));
    // Pages of kblocks say in their trailer what they are; this one is the only filter.
    let mut page = IoBuf::zeroed(4096);
    let is_filter = |page: &[u8]| page[4076] == 3 && page[..62].iter().any(|byte| *byte != 0);
    let found: Vec<u64> = (0..device.geometry().len_bytes)
        .step_by(4096)
        .filter(|at| device.read_at(*at, &mut page).is_ok() && is_filter(&page))
        .collect();
    assert!(!found.is_empty());
    for at in found {
        device.flip_bit(at + 7, 3);
    }
    let db = support::open(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    for n in 0..100_u8 {
        let read = match kvs.try_get(&[b'k', n]).unwrap() {
            TryGet::Ready(entry) => entry,
            TryGet::Cold(cold) => cold.wait().unwrap(),
        };
        assert_eq!(read.unwrap().value, vec![0x55; 300]);
        assert!(db.snapshot().get(&kvs, &[b'k', n]).unwrap().is_some());
    }
    assert_eq!(kvs.get(b"kx").unwrap(), None);
    assert_eq!(met(&db), "0 0 0");
    let mut filters = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == "damage_met_total" && sample.labels[0].1 == "filter" {
            filters = sample.value.number().unwrap();
        }
    });
    assert!(filters >= 200.0, "{filters} lookups went on without");
}

/// Gets, scans and compactions that met damage.
fn met(db: &Database) -> String {
    let mut seen = Vec::new();
    db.visit_metrics(&mut |sample| {
        if sample.name == "damage_met_total" {
            seen.push((sample.labels[0].1.to_owned(), sample.value.number().unwrap()));
        }
    });
    ["get", "scan", "compaction"]
        .map(|by| seen.iter().find(|(label, _)| label == by).expect("there from the start").1)
        .map(|count| count.to_string())
        .join(" ")
}

#[test]
fn whoever_meets_damage_counts_it() {
    let device = SimDevice::new(256 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    for n in 0..8_u8 {
        kvs.put(&[b'a' + n], &[n; 5000], Durability::Sync).unwrap();
        db.flush().unwrap();
    }
    assert_eq!(met(&db), "0 0 0");
    let fail_read = |n| {
        device.set_faults(Faults { read_eio_at: Some(n), ..Faults::default() });
    };
    // The first page is the filter's, which a lookup does without.
    fail_read(1);
    assert!(kvs.get(b"a").is_err());
    assert_eq!(met(&db), "1 0 0");
    fail_read(1);
    match kvs.try_get(b"a") {
        Ok(TryGet::Cold(cold)) => drop(cold.wait().unwrap_err()),
        Ok(TryGet::Ready(_)) => panic!("it was not in memory"),
        Err(_) => {}
    }
    assert_eq!(met(&db), "2 0 0");
    fail_read(1);
    db.snapshot().get(&kvs, b"a").unwrap_err();
    assert_eq!(met(&db), "3 0 0");
    let mut cursor = kvs.cursor(Range::default()).unwrap();
    fail_read(0);
    cursor.next().unwrap().unwrap_err();
    assert_eq!(met(&db), "3 1 0");
    fail_read(0);
    // The drive has failed once, and the caller may try again.
    db.compact().unwrap_err();
    assert_eq!(met(&db), "3 1 1");
    db.compact().unwrap();
    assert_eq!(met(&db), "3 1 1");
    // What is wrong with a call is no damage.
    kvs.get(b"").unwrap_err();
    assert_eq!(met(&db), "3 1 1");
}
