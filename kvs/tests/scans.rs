//! What scans wait for, on files, where maps are real.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kvs::{CompactionRequest, Database, Durability, Kvs, Options, Range};
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
