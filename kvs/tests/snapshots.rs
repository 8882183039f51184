//! Snapshots that hold space: they are listed with their age, whose they are and what they hold,
//! and one that is too old, or that somebody has enough of, is ended, with an error that says so.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options, Range, SnapshotEnd, SnapshotId};
use mpool_sim::SimDevice;
use std::sync::{Arc, Mutex};

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
    gauges(db, name).pop().unwrap_or_else(|| panic!("{name} is not shown"))
}

/// One for each label.
fn gauges(db: &Database, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    db.visit_metrics(&mut |sample| {
        if sample.name == name {
            found.extend(sample.value.number().map(|number| number.to_string()));
        }
    });
    found
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
    let too_old = SnapshotEnd::Age { max_ms: 1 };
    assert!(matches!(error, Error::SnapshotEnded { why, .. } if why == too_old), "{error}");
    let text = error.to_string();
    assert!(text.contains("snapshot_age_max") && text.contains("take another"), "{text}");
    assert!(matches!(snapshot.cursor(&kvs, Range::default()), Err(Error::SnapshotEnded { .. })));
    let met = cursor.next().unwrap().unwrap_err();
    assert!(matches!(met, Error::SnapshotEnded { .. }), "{met}");
    assert!(cursor.next().is_none(), "it is at its end");
    // It showed an empty table from there on.
    let met = cursor.seek(b"key0000").unwrap_err();
    assert!(matches!(met, Error::SnapshotEnded { why, .. } if why == too_old), "{met}");
    assert_eq!(
        (db.snapshots().count, db.snapshots().held_bytes),
        (0, 0),
        "both live and hold nothing"
    );
    assert_eq!(gauges(&db, "snapshots_ended_total"), ["1", "0"]);
    let fresh = db.snapshot();
    assert_eq!(fresh.get(&kvs, b"key0001").unwrap().unwrap().value, vec![2; 4000]);
}

/// It was seen that something held space, and not whose it was; and it went when its holder did.
#[test]
fn one_is_told_by_its_holder_and_ended_on_request() {
    let (db, kvs) = database(&support::options());
    write(&db, &kvs, 1);
    let of_all = db.snapshot_for("the backup");
    let mut moving = kvs.cursor_for(Range::default(), "a report").unwrap();
    let still = Arc::new(Mutex::new(kvs.cursor(Range::default()).unwrap()));
    let there = Arc::downgrade(&still);
    still.lock().unwrap().on_end(move || {
        let cursor = there.upgrade().unwrap();
        assert!(cursor.lock().unwrap().check().is_err());
    });
    moving.next().unwrap().unwrap();
    write(&db, &kvs, 2);
    db.start_compaction(kvs::CompactionRequest::default()).unwrap().wait().unwrap();
    let seen = db.snapshots().oldest;
    let names: Vec<_> =
        seen.iter().map(|one| (one.kvs.as_deref(), one.holder.as_deref())).collect();
    let (mine, report) = ((None, Some("the backup")), (Some("k"), Some("a report")));
    assert_eq!(names, [mine, report, (Some("k"), None)]);
    assert_eq!(seen[0].id, of_all.id());
    let held = db.snapshots().held_bytes;
    assert!(held >= 500 * 4000, "{held}");

    for one in &seen {
        let ended = db.end_snapshot(one.id).unwrap();
        assert_eq!((ended.id, &ended.holder, ended.is_ended), (one.id, &one.holder, false));
    }
    // The cursor that is used now and then has not met its end; the others hold nothing.
    let left = db.snapshots();
    assert_eq!((left.count, left.ended, left.ended_requested), (1, 0, 3));
    assert!(left.oldest[0].is_ended && left.held_bytes == held, "{left:?}");
    assert!(db.end_snapshot(seen[1].id).unwrap().is_ended, "a second end changes nothing");
    let met = moving.next().unwrap().unwrap_err();
    let text = met.to_string();
    assert!(matches!(met, Error::SnapshotEnded { why: SnapshotEnd::Requested, .. }), "{text}");
    assert!(text.contains("on request") && text.contains("take another"), "{text}");
    assert!(moving.next().is_none() && moving.check().is_err());
    assert_eq!((db.snapshots().count, db.snapshots().held_bytes), (0, 0));
    let error = of_all.get(&kvs, b"key0001").unwrap_err();
    assert!(matches!(error, Error::SnapshotEnded { .. }), "{error}");
    let met = still.lock().unwrap().next();
    assert!(met.is_none(), "it was told at its end");

    for gone in [seen[0].id, SnapshotId::new(0), SnapshotId::new(u64::MAX)] {
        let error = db.end_snapshot(gone).unwrap_err();
        assert!(matches!(error, Error::NoSuchSnapshot { .. }), "{error}");
    }
    assert_eq!(gauges(&db, "snapshots_ended_total"), ["0", "3"]);
    let snapshot = db.snapshot();
    let cursor = snapshot.cursor(&kvs, Range::default()).unwrap();
    db.end_snapshot(snapshot.id()).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    cursor.on_end(move || sender.send(()).unwrap());
    receiver.try_recv().expect("of one that was ended the call is made at once");
    db.close().unwrap();
    assert!(matches!(db.end_snapshot(SnapshotId::new(1)), Err(Error::Closed)));
}

/// Ids began with 1 at each open: one that was noted before a restart named another's snapshot.
#[test]
fn an_id_that_was_noted_before_a_restart_names_nothing_after_it() {
    let device = SimDevice::new(512 * MIB);
    let db = support::create(&device, &support::options()).unwrap();
    let noted: Vec<_> = (0..3).map(|_| db.snapshot().id()).collect();
    assert!(noted.is_sorted_by(|one, next| one < next), "{noted:?}");
    db.close().unwrap();
    drop(db);
    let db = support::open(&device, &support::options()).unwrap();
    let others: Vec<_> = (0..3).map(|_| db.snapshot()).collect();
    for id in noted {
        assert!(others.iter().all(|other| other.id() > id), "{id}");
        assert!(matches!(db.end_snapshot(id), Err(Error::NoSuchSnapshot { .. })), "{id}");
    }
    assert!(others[2].id().get() < 1 << 53, "JSON has no greater numbers that are exact");
}

#[test]
fn the_limit_has_a_range() {
    for bad in [0, 31 * 86_400_000] {
        let options = Options { snapshot_age_max_ms: Some(bad), ..support::options() };
        let error = options.validate().unwrap_err().to_string();
        assert!(error.contains("snapshot_age_max_ms"), "{error}");
    }
}
