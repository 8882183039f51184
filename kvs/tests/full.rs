//! A full volume: puts are refused with the way out, reads and deletes go on, and space comes back
//! without a restart.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options, Scope};
use mpool_sim::{Faults, SimDevice};
use support::place::{Place, zones};

fn key(n: u32) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn value(n: u32) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(20_000, b'f');
    value
}

/// Puts until the volume refuses; returns how many keys are in.
fn fill(db: &Database, kvs: &Kvs) -> u32 {
    for n in 0..100_000 {
        match kvs.put(&key(n), &value(n), Durability::Interval) {
            Ok(_) => {}
            Err(error @ (Error::Full { .. } | Error::LogFull { .. })) => {
                assert_eq!(error.scope(), Scope::Moment);
                assert!(db.revision().get() >= u64::from(n));
                return n;
            }
            Err(other) => panic!("put {n}: {other}"),
        }
    }
    panic!("the volume never fills");
}

/// As a client does: what is refused for want of space is tried again when work has made some.
fn put_again(db: &Database, kvs: &Kvs, n: u32) {
    for _ in 0..3 {
        match kvs.put(&key(n), &value(n + 1), Durability::Interval) {
            Ok(_) => return,
            Err(Error::Full { .. } | Error::LogFull { .. }) => {
                db.flush().unwrap();
                db.compact().unwrap();
            }
            Err(other) => panic!("put {n}: {other}"),
        }
    }
    panic!("put {n} finds no space after all was deleted: {:?}", db.pool().info());
}

/// Fills a database, empties it, and fills half of it again.
fn fill_and_empty(place: &Place, options: &Options) {
    let db = place.create(options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let keys = fill(&db, &kvs);
    assert!(keys > 1_000, "only {keys} keys fit");
    let free = db.pool().free_space();
    assert!(free.object_bytes < 64 << 20 || free.object_bytes < 2 * free.spare_bytes, "{free:?}");
    assert!(
        free.object_bytes + (4 << 20) > free.spare_bytes,
        "puts leave the spare part: {free:?}"
    );
    for n in (0..keys).step_by(97) {
        assert_eq!(kvs.get(&key(n)).unwrap().unwrap().value, value(n));
    }
    for n in 0..keys {
        kvs.delete(&key(n), Durability::Interval).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    assert!(kvs.get(&key(7)).unwrap().is_none());
    for n in 0..keys / 2 {
        put_again(&db, &kvs, n);
    }
    assert_eq!(kvs.get(&key(7)).unwrap().unwrap().value, value(8));
    db.close().unwrap();
    drop((kvs, db));
    let db = place.open(options).unwrap();
    let kvs = db.open_kvs("k").unwrap();
    for n in (0..keys / 2).step_by(31) {
        assert_eq!(kvs.get(&key(n)).unwrap().unwrap().value, value(n + 1));
    }
}

#[test]
fn a_full_database_reads_and_deletes_and_recovers_without_a_restart() {
    // Beside a thread, writers of a volume that is nearly full wait: once is enough.
    for (spare_pct, background_threads) in [(0, 0), (5, 1), (40, 0)] {
        let mut options = Options { background_threads, ..support::options() };
        options.pool.spare_pct = spare_pct;
        fill_and_empty(&Place::on(SimDevice::new(160 << 20)), &options);
    }
}

/// As on any disk that is smaller than the default limit of a pool, which is 1 TiB.
#[test]
fn so_does_one_whose_disk_ends_before_its_limit() {
    let device = SimDevice::new(1 << 40);
    let (enospc_after_bytes, enospc_is_told) = (Some(160 << 20), true);
    device.set_faults(Faults { enospc_after_bytes, enospc_is_told, ..Faults::default() });
    let options = Options { background_threads: 1, ..support::options() };
    fill_and_empty(&Place::on(device), &options);
}

#[test]
fn so_does_one_on_a_zoned_drive() {
    fill_and_empty(&Place::on(SimDevice::zoned(zones(64, 160))), &support::options());
}

/// Where little of the drive can be overwritten, the log is short, and flushes keep it so.
#[test]
fn a_short_log_is_flushed_rather_than_full() {
    let options = Options { background_threads: 1, ..support::options() };
    // Journals of the pool and of the database, and two segments.
    let place = Place::on(SimDevice::zoned(zones(29, 91)));
    let db = place.create(&options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    // Each is a page of log and a few bytes of memtable, so that only the log calls for a flush.
    for n in 0..8_000 {
        kvs.put(&key(n % 100), b"small", Durability::Sync).unwrap();
    }
    assert!(db.pool().free_space().log_bytes < 4 << 20, "no room for another segment");
    assert_eq!(kvs.get(&key(99)).unwrap().unwrap().value, "small");
}

/// It said how much to delete, and deleting freed nothing.
#[test]
fn a_full_one_says_what_a_snapshot_holds() {
    let options = Options { background_threads: 0, ..support::options() };
    let place = Place::on(SimDevice::new(160 << 20));
    let db = place.create(&options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let keys = fill(&db, &kvs) * 3 / 5;
    for n in keys..keys * 5 / 3 {
        kvs.delete(&key(n), Durability::Interval).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    let snapshot = db.snapshot();
    let refused = (0..10 * keys).find_map(|n| {
        let put = || kvs.put(&key(n % keys), &value(n + 1), Durability::Interval);
        put().err()?;
        db.flush().unwrap();
        db.compact().unwrap();
        put().err()
    });
    let refused = refused.expect("what is held cannot be used again");
    let Error::Full { held_bytes, .. } = refused else { panic!("{refused}") };
    assert!(held_bytes >= 10 << 20, "{refused}");
    assert!(refused.to_string().contains(&format!("hold {held_bytes} bytes")), "{refused}");
    drop(snapshot);
    db.flush().unwrap();
    db.compact().unwrap();
    assert!(kvs.put(&key(0), &value(0), Durability::Interval).is_ok());
    db.close().unwrap();
}
