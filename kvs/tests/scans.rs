//! What scans wait for, and what they walk over.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{Advance, CompactionRequest, Database, Durability, Kvs, Options, Range};
use mpool_sim::SimDevice;
use std::collections::BTreeSet;
use support::metric;

const KEYS: u64 = 20_000;

fn key(number: u64) -> Vec<u8> {
    format!("user{number:08}").into_bytes()
}

fn open(dir: &std::path::Path) -> Database {
    let options = Options { background_threads: 1, memtable_bytes: 64 << 20, ..support::options() };
    Database::open(dir, options).unwrap()
}

/// Writes every `step`th key.
fn fill(kvs: &Kvs, step: usize, value: &[u8]) {
    for number in (0..KEYS).step_by(step) {
        kvs.put(&key(number), value, Durability::Off).unwrap();
    }
}

/// Index pages that were read one by one, because somebody asked for them.
fn pages_asked_for(db: &Database) -> u64 {
    metric(db, "mpool_mcache_filled_bytes_total") / 4096
}

/// An index was read in the background after the kvset was in the view, behind all other jobs: the
/// first scans after a flush or a compaction waited for the drive page by page.
#[test]
fn scans_of_new_kvsets_wait_for_no_page_of_their_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let kvs = db.create_kvs("a").unwrap();
    let count = |what: &str| {
        let before = pages_asked_for(&db);
        let keys = kvs.cursor(Range::default()).unwrap().keys().map(Result::unwrap).count();
        assert_eq!(keys as u64, KEYS, "{what}");
        assert_eq!(pages_asked_for(&db) - before, 0, "{what}");
    };
    fill(&kvs, 1, &[1; 200]);
    db.flush().unwrap();
    count("after a flush");
    fill(&kvs, 3, &[2; 200]);
    db.flush().unwrap();
    count("after the second");
    db.start_compaction(CompactionRequest::default()).unwrap().wait().unwrap();
    count("after a compaction");
    db.close().unwrap();
}

/// A scan learned where keys were dead, and the next open forgot it: its first scan walked over all
/// that was deleted and not collected yet, 260,000 keys in a window.
#[test]
fn the_first_scan_after_an_open_walks_over_nothing_that_was_known_to_be_dead() {
    let device = SimDevice::new(1 << 30);
    let options = support::options();
    let db = support::create(&device, &options).unwrap();
    let kvs = db.create_kvs("a").unwrap();
    fill(&kvs, 1, &[1; 20]);
    db.flush().unwrap();
    let mut live: BTreeSet<Vec<u8>> = (0..KEYS).map(key).collect();
    for number in 0..KEYS / 10 * 9 {
        kvs.delete(&key(number), Durability::Off).unwrap();
        live.remove(&key(number));
    }
    let shown =
        |kvs: &Kvs| kvs.cursor(Range::default()).unwrap().map(|item| item.unwrap().key.to_vec());
    assert!(shown(&kvs).eq(live.iter().cloned()));
    db.close().unwrap();
    let head_is_near = |kvs: &Kvs| {
        let mut cursor = kvs.cursor(Range::default()).unwrap();
        cursor.advance(4).unwrap() == Advance::Key
    };
    for round in 0..2 {
        let db = support::open(&device, &options).unwrap();
        assert!(head_is_near(&db.open_kvs("a").unwrap()), "open {round}");
        db.close().unwrap();
    }
    // A put in the range that only the log has at the next open, and one that was flushed.
    for (number, flushes) in [(7, false), (5000, true)] {
        let device = device.after_crash(1);
        let db = support::open(&device, &options).unwrap();
        let kvs = db.open_kvs("a").unwrap();
        kvs.put(&key(number), b"back", Durability::Sync).unwrap();
        if flushes {
            db.flush().unwrap();
        }
        let device = device.after_crash(2);
        let db = support::open(&device, &options).unwrap();
        let mut live = live.clone();
        live.insert(key(number));
        assert!(shown(&db.open_kvs("a").unwrap()).eq(live), "with {number}");
    }
}
