//! Snapshots that hold space: they are counted with their age and what they hold, and one that is
//! too old is ended, with an error that says so.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options, Range};
use mpool::SimDevice;

const MIB: u64 = 1 << 20;

fn database(options: &Options) -> (Database, Kvs) {
    let db = support::create(&SimDevice::new(512 * MIB), options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    (db, kvs)
}

fn write(db: &Database, kvs: &Kvs, byte: u8) {
    for n in 0..500_u32 {
        kvs.put(format!("key{n:04}").as_bytes(), &[byte; 4000], Durability::Off).unwrap();
    }
    db.flush().unwrap();
}

fn gauge(db: &Database, name: &str) -> String {
    let mut found = None;
    db.visit_metrics(&mut |sample| {
        if sample.name == name {
            found = sample.value.number();
        }
    });
    found.unwrap_or_else(|| panic!("{name} is not shown")).to_string()
}

#[test]
fn what_snapshots_hold_is_seen_and_comes_back() {
    let (db, kvs) = database(&support::options());
    write(&db, &kvs, 1);
    assert_eq!((db.snapshots().count, db.snapshots().held_bytes), (0, 0));
    let snapshot = db.snapshot();
    let clone = snapshot.clone();
    let cursor = snapshot.cursor(&kvs, Range::default()).unwrap();
    let seen = db.snapshots();
    assert_eq!((seen.count, seen.oldest.len()), (1, 1), "clones and cursors share it");
    assert_eq!((seen.oldest[0].revision, seen.age_max), (snapshot.revision(), None));
    write(&db, &kvs, 2);
    db.start_compaction(kvs::CompactionRequest::default()).unwrap().wait().unwrap();
    let held = db.snapshots().held_bytes;
    assert!(held >= 500 * 4000, "{held}");
    assert_eq!(gauge(&db, "snapshots"), "1");
    assert_eq!(gauge(&db, "mpool_space_held_bytes"), held.to_string());
    drop((snapshot, clone));
    assert_eq!(db.snapshots().count, 1, "the cursor has it");
    drop(cursor);
    assert_eq!((db.snapshots().count, db.snapshots().held_bytes), (0, 0));
    // One that walks on a snapshot of its own.
    let cursor = kvs.cursor(Range::default()).unwrap();
    assert_eq!(db.snapshots().count, 1);
    drop(cursor);
    assert_eq!(db.snapshots().count, 0);
}

#[test]
fn one_that_is_too_old_is_ended_and_lets_go() {
    let options = Options { snapshot_age_max_ms: Some(1), ..support::options() };
    let (db, kvs) = database(&options);
    write(&db, &kvs, 1);
    let snapshot = db.snapshot();
    let mut cursor = snapshot.cursor(&kvs, Range::default()).unwrap();
    cursor.next().unwrap().unwrap();
    write(&db, &kvs, 2);
    db.start_compaction(kvs::CompactionRequest::default()).unwrap().wait().unwrap();
    // It is ended by the work of the background, which is ours here; each turn takes time.
    while db.snapshots().ended == 0 {
        db.compact().unwrap();
    }
    let error = snapshot.get(&kvs, b"key0001").unwrap_err();
    assert!(matches!(error, Error::SnapshotEnded { age_max_ms: 1, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("snapshot_age_max") && text.contains("take another"), "{text}");
    assert!(matches!(snapshot.cursor(&kvs, Range::default()), Err(Error::SnapshotEnded { .. })));
    let met = cursor.next().unwrap().unwrap_err();
    assert!(matches!(met, Error::SnapshotEnded { .. }), "{met}");
    assert!(cursor.next().is_none(), "it is at its end");
    // It showed an empty table from there on.
    let met = cursor.seek(b"key0000").unwrap_err();
    assert!(matches!(met, Error::SnapshotEnded { age_max_ms: 1, .. }), "{met}");
    assert_eq!(
        (db.snapshots().count, db.snapshots().held_bytes),
        (0, 0),
        "both live and hold nothing"
    );
    assert_eq!(gauge(&db, "snapshots_ended_total"), "1");
    let fresh = db.snapshot();
    assert_eq!(fresh.get(&kvs, b"key0001").unwrap().unwrap().value, vec![2; 4000]);
}

#[test]
fn the_limit_has_a_range() {
    for bad in [0, 31 * 86_400_000] {
        let options = Options { snapshot_age_max_ms: Some(bad), ..support::options() };
        let error = options.validate().unwrap_err().to_string();
        assert!(error.contains("snapshot_age_max_ms"), "{error}");
    }
}
