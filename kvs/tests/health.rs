//! A failure of the drive is told at once, by whoever asks how the database is, and not by the next
//! write only.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Database, Durability, Health, Options, Part, State};
use mpool_sim::{Faults, SimDevice};

fn metric(db: &Database, part: Part) -> bool {
    let mut found = None;
    db.visit_metrics(&mut |sample| {
        if sample.name == "store_part_failed" && sample.labels == [("part", part.as_str())] {
            found = sample.value.number();
        }
    });
    found.expect("every part is shown") > 0.0
}

fn failed_parts(health: &Health) -> Vec<Part> {
    health.ailments.iter().map(|ailment| ailment.part).collect()
}

#[test]
fn a_sync_in_the_background_that_fails_is_told_without_a_write() {
    let device = SimDevice::new(256 << 20);
    let options = Options { interval_ms: 1, ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    assert_eq!((db.health(), metric(&db, Part::Log)), (Health::default(), false));
    // The log's first segment is made durable before it takes anything.
    kvs.put(b"a", b"value", Durability::Sync).unwrap();
    device.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
    kvs.put(b"a", b"value", Durability::Interval).unwrap();
    // Nobody writes any more; the commit thread meets the failure when the interval is over.
    while db.health().state() == State::Sound {
        std::thread::yield_now();
    }
    while !db.health().has_failed(Part::Log) {
        std::thread::yield_now();
    }
    let health = db.health();
    assert_eq!(health.state(), State::Failed);
    assert_eq!(failed_parts(&health), [Part::Log, Part::Volumes]);
    assert!(health.cause().unwrap().starts_with("log: "), "{health:?}");
    assert!(metric(&db, Part::Log) && metric(&db, Part::Volumes) && !metric(&db, Part::Shape));
    assert_eq!(kvs.get(b"a").unwrap().unwrap().value, "value");
}

#[test]
fn a_flush_that_fails_is_told_until_one_succeeds() {
    let device = SimDevice::new(256 << 20);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.kvs("k").unwrap();
    kvs.put(b"a", b"value", Durability::Sync).unwrap();
    device.set_faults(Faults { write_eio_at: Some(0), ..Faults::default() });
    db.flush().unwrap_err();
    let health = db.health();
    assert_eq!((health.state(), failed_parts(&health)), (State::Failed, vec![Part::Flush]));
    assert!(metric(&db, Part::Flush));
    db.flush().unwrap();
    assert_eq!((db.health(), metric(&db, Part::Flush)), (Health::default(), false));
}

#[test]
fn a_manifest_that_cannot_be_written_is_told() {
    let device = SimDevice::new(256 << 20);
    let db = support::create(&device, &support::options()).unwrap();
    device.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
    assert!(db.kvs("k").is_err());
    assert_eq!(failed_parts(&db.health()), [Part::Shape, Part::Volumes]);
}

#[test]
fn a_compaction_that_cannot_read_degrades() {
    let device = SimDevice::new(256 << 20);
    let options = Options { value_cache_bytes: Some(0), ..support::options() };
    let db = support::create(&device, &options).unwrap();
    let kvs = db.kvs("k").unwrap();
    // A root of kvsets that wants to be spilled.
    for n in 0..8_u8 {
        kvs.put(&[n], &[n; 2000], Durability::Sync).unwrap();
        db.flush().unwrap();
    }
    device.set_faults(Faults { unreadable: Some((0, 256 << 20)), ..Faults::default() });
    db.compact().unwrap();
    device.set_faults(Faults::default());
    let health = db.health();
    assert_eq!((health.state(), failed_parts(&health)), (State::Degraded, vec![Part::Compaction]));
    assert!(metric(&db, Part::Compaction));
    kvs.put(b"more", b"value", Durability::Sync).unwrap();
}
