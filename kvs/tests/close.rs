//! A clean close leaves nothing to replay; one that cannot flush, or is cut off, leaves the log.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Options};
use mpool_sim::{Faults, SimDevice};
use support::batches::{batches_in, contents, write};
use support::metric;

const BATCHES: u64 = 60;

fn options() -> Options {
    Options { value_cache_bytes: Some(64 << 10), ..support::options() }
}

/// A database with batches in kvsets and in its log.
fn database(device: &SimDevice) -> Database {
    let db = support::create(device, &options()).unwrap();
    db.create_kvs("a").unwrap();
    db.create_kvs("b").unwrap();
    for n in 0..BATCHES {
        write(&db, n, Durability::Sync).unwrap();
        if n == BATCHES / 2 {
            db.flush().unwrap();
        }
    }
    db
}

fn check(device: &SimDevice, case: &str) -> Database {
    let db = support::open(device, &options()).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let found = contents(&db).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert_eq!(batches_in(&found, BATCHES, BATCHES), Some(BATCHES), "{case}");
    db
}

fn replayed(db: &Database) -> u64 {
    metric(db, "wal_replay_bytes_total")
}

/// Each open replayed the same log again, for as long as nobody wrote more than a memtable.
#[test]
fn opens_after_clean_closes_replay_nothing() {
    let device = SimDevice::new(1 << 30);
    database(&device).close().unwrap();
    for n in 0..3 {
        let db = check(&device, "closed");
        assert_eq!((replayed(&db), metric(&db, "wal_live_bytes")), (0, 0), "open {n}");
        // Of the log nothing is read but the heads of its segments.
        let segments = db.pool().segment_ids().len() as u64;
        assert!(metric(&db, "mpool_wal_reads_total") <= segments, "open {n}");
        db.close().unwrap();
    }
    // Of each life only what it wrote.
    let db = check(&device, "closed");
    db.open_kvs("a").unwrap().put(b"new", b"value", Durability::Sync).unwrap();
    let killed = device.after_kill(0);
    assert!((1..100).contains(&replayed(&support::open(&killed, &options()).unwrap())));
    db.close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(replayed(&db), 0);
    assert_eq!(db.open_kvs("a").unwrap().get(b"new").unwrap().unwrap().value, "value");
}

/// Nothing was in memory, so nothing was flushed, and the log was replayed at each open.
#[test]
fn a_log_of_dropped_kvss_is_forgotten_too() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    db.create_kvs("gone").unwrap().put(b"k", &[7; 5000], Durability::Sync).unwrap();
    db.drop_kvs("gone").unwrap();
    drop(db);
    let db = support::open(&device.after_kill(0), &options()).unwrap();
    assert_eq!(replayed(&db), 0, "a drop without a kill is a close");
    let db = support::open(&device, &options()).unwrap();
    assert_eq!((replayed(&db), db.list_kvs().len()), (0, 0));
}

#[test]
fn a_close_that_cannot_flush_leaves_the_log() {
    let device = SimDevice::new(1 << 30);
    support::close_unflushed(&device, &database(&device));
    let db = check(&device, "unflushed");
    assert!(replayed(&db) > 1000);
    // No revision is skipped: it was a clean close.
    let revision = db.revision().get();
    assert_eq!(
        db.open_kvs("a").unwrap().delete(b"x", Durability::Off).unwrap().get(),
        revision + 1
    );
    db.close().unwrap();
    assert_eq!(replayed(&support::open(&device, &options()).unwrap()), 0);
}

/// A drive that fails under the flush costs no more than the flush.
#[test]
fn each_write_of_a_close_may_fail() {
    for strike in 0..40 {
        let device = SimDevice::new(1 << 30);
        let db = database(&device);
        device.set_faults(Faults { write_eio_at: Some(strike), ..Faults::default() });
        // Where the mark or the manifest is hit the close fails, and says so.
        drop(db.close());
        device.set_faults(Faults::default());
        drop(db);
        check(&device, &format!("write {strike} failed"));
    }
}

/// The supervisor's patience is shorter than the flush: SIGKILL, or the power, at each call of the
/// close, and again at each of the open after it.
#[test]
fn a_close_may_be_cut_off_anywhere() {
    let whole = SimDevice::new(1 << 30);
    let db = database(&whole);
    let before = whole.calls();
    db.close().unwrap();
    let calls = whole.calls() - before;
    assert!(calls > 8, "a close writes: {calls} calls");
    drop(db);
    for cut in 0..calls {
        let device = SimDevice::new(1 << 30);
        let db = database(&device);
        device.cut_at(device.calls() + cut);
        // An error is the power cut.
        drop(db.close());
        drop(db);
        for (end, left) in [("kill", device.after_kill(cut)), ("power", device.after_crash(cut))] {
            let case = format!("{end} at call {cut}");
            let again = left.after_kill(0);
            check(&left, &case).close().unwrap();
            assert_eq!(replayed(&check(&left, &case)), 0, "{case}");
            // The next life is cut off as well, somewhere between its open and its close.
            again.cut_at(again.calls() + cut % 7);
            drop(support::open(&again, &options()).and_then(|db| db.close()));
            check(&again.after_crash(cut), &format!("{case}, then power"));
        }
    }
}
