//! Damage that readers meet is counted by who met it: the alert on it was silent when values were
//! damaged.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Database, Durability, Options, Range, TryGet};
use mpool::{Faults, SimDevice};

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
    let fail_next_read = || {
        device.set_faults(Faults { read_eio_at: Some(0), ..Faults::default() });
    };
    fail_next_read();
    kvs.get(b"a").unwrap_err();
    assert_eq!(met(&db), "1 0 0");
    fail_next_read();
    match kvs.try_get(b"a") {
        Ok(TryGet::Cold(cold)) => drop(cold.wait().unwrap_err()),
        Ok(TryGet::Ready(_)) => panic!("it was not in memory"),
        Err(_) => {}
    }
    assert_eq!(met(&db), "2 0 0");
    fail_next_read();
    db.snapshot().get(&kvs, b"a").unwrap_err();
    assert_eq!(met(&db), "3 0 0");
    let mut cursor = kvs.cursor(Range::default()).unwrap();
    fail_next_read();
    cursor.next().unwrap().unwrap_err();
    assert_eq!(met(&db), "3 1 0");
    fail_next_read();
    db.compact().unwrap();
    assert_eq!(met(&db), "3 1 1");
    // What is wrong with a call is no damage.
    kvs.get(b"").unwrap_err();
    assert_eq!(met(&db), "3 1 1");
}
