//! A handle is good for the open database that made it, and for no other: KVSs of two databases
//! have the same numbers, so a handle taken for one of the other's would read and write there.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, Range, Scope, WriteBatch};
use mpool_sim::SimDevice;
use support::options;

fn database() -> Database {
    let db = support::create(&SimDevice::new(1 << 30), &options()).unwrap();
    db.create_kvs("birds").unwrap().put(b"heron", b"grey", Durability::Sync).unwrap();
    db
}

/// The error names the handle and both databases, which differ.
fn assert_foreign<T>(outcome: kvs::Result<T>, what: &str) {
    let Err(error) = outcome else { panic!("{what} is accepted") };
    assert_eq!(error.scope(), Scope::Call, "{error}");
    let text = error.to_string();
    assert!(text.contains(what), "{text}");
    let Error::ForeignHandle { owner, given_to, .. } = error else { panic!("{error}") };
    assert_ne!(owner, given_to);
    assert!(text.contains(&*owner) && text.contains(&*given_to), "{text}");
}

#[test]
fn a_batch_takes_handles_of_one_database_only() {
    let (ours, theirs) = (database(), database());
    let (our_birds, their_birds) = (ours.kvs("birds").unwrap(), theirs.kvs("birds").unwrap());
    assert_eq!(our_birds.id(), their_birds.id(), "or the test tests nothing");
    let mut batch = ours.batch();
    batch.put(&our_birds, b"teal", b"small").unwrap();
    assert_foreign(batch.put(&their_birds, b"heron", b"white"), "KVS \"birds\"");
    assert_foreign(batch.delete(&their_birds, b"heron"), "KVS \"birds\"");
    assert_eq!(batch.len(), 1, "what is refused leaves the batch as it was");
    ours.write(batch, Durability::Sync).unwrap();
    assert_eq!(their_birds.get(b"heron").unwrap().unwrap().value, "grey");
}

#[test]
fn a_batch_is_written_by_the_database_of_its_handles_only() {
    let (ours, theirs) = (database(), database());
    let before = (ours.revision(), theirs.revision());
    let filled = || {
        let mut batch = WriteBatch::new();
        batch.delete(&theirs.kvs("birds").unwrap(), b"heron").unwrap();
        batch
    };
    assert_foreign(ours.write(filled(), Durability::Sync), "a batch");
    let (told, hears) = std::sync::mpsc::channel();
    let done = Box::new(move |outcome| told.send(outcome).unwrap());
    ours.write_async(filled(), Durability::Sync, done);
    assert_foreign(hears.recv().unwrap(), "a batch");
    assert_eq!((ours.revision(), theirs.revision()), before, "nothing was written");
    theirs.write(filled(), Durability::Sync).unwrap();
}

#[test]
fn a_refused_entry_ties_a_batch_to_nothing() {
    let (ours, theirs) = (database(), database());
    let mut batch = WriteBatch::new();
    assert!(batch.put(&theirs.kvs("birds").unwrap(), b"", b"").is_err());
    batch.put(&ours.kvs("birds").unwrap(), b"teal", b"small").unwrap();
    ours.write(batch, Durability::Sync).unwrap();
}

#[test]
fn a_snapshot_reads_its_own_database_only() {
    let (ours, theirs) = (database(), database());
    let (snapshot, foreign) = (ours.snapshot(), theirs.kvs("birds").unwrap());
    assert_foreign(snapshot.get(&foreign, b"heron"), "KVS \"birds\"");
    assert_foreign(snapshot.cursor(&foreign, Range::default()).map(drop), "KVS \"birds\"");
    assert!(snapshot.get(&ours.kvs("birds").unwrap(), b"heron").unwrap().is_some());
}

/// The same pool opened again is another database: what a handle of the first opening has seen need
/// not be there.
#[test]
fn a_handle_does_not_outlive_its_opening() {
    let device = SimDevice::new(1 << 30);
    let first = support::create(&device, &options()).unwrap();
    let old = first.create_kvs("birds").unwrap();
    first.close().unwrap();
    let second = support::open(&device, &options()).unwrap();
    assert!(matches!(old.get(b"heron"), Err(Error::Closed)));
    assert_foreign(second.snapshot().get(&old, b"heron"), "KVS \"birds\"");
    let mut batch = second.batch();
    batch.put(&old, b"heron", b"grey").unwrap();
    assert_foreign(second.write(batch, Durability::Sync), "a batch");
}

#[test]
fn a_handle_of_a_dropped_kvs_is_not_one_of_its_successor() {
    let db = database();
    let old = db.kvs("birds").unwrap();
    db.drop_kvs("birds").unwrap();
    let new = db.kvs("birds").unwrap();
    assert_ne!(old.id(), new.id());
    assert!(matches!(old.get(b"heron"), Err(Error::KvsDropped)));
    let mut batch = db.batch();
    batch.put(&old, b"heron", b"grey").unwrap();
    assert!(matches!(db.write(batch, Durability::Sync), Err(Error::KvsDropped)));
    assert!(matches!(db.snapshot().get(&old, b"heron"), Err(Error::KvsDropped)));
    assert!(new.get(b"heron").unwrap().is_none());
}

/// Which was told "the KVS was dropped".
#[test]
fn a_kvs_that_was_created_after_a_snapshot_is_told_as_such() {
    let db = support::create(&SimDevice::new(256 << 20), &options()).unwrap();
    let snapshot = db.snapshot();
    let kvs = db.kvs("birds").unwrap();
    let error = snapshot.get(&kvs, b"heron").unwrap_err();
    assert!(matches!(error, Error::KvsNewer { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("\"birds\" was created after the snapshot of revision 0"), "{text}");
    assert!(matches!(snapshot.cursor(&kvs, Range::default()), Err(Error::KvsNewer { .. })));
    db.drop_kvs("birds").unwrap();
    assert!(matches!(snapshot.get(&kvs, b"heron"), Err(Error::KvsDropped)));
}

#[test]
fn a_name_is_opened_created_or_either() {
    let db = database();
    assert!(matches!(db.create_kvs("birds"), Err(Error::KvsExists { .. })));
    assert!(matches!(db.open_kvs("fish"), Err(Error::NoSuchKvs { .. })));
    let fish = db.kvs("fish").unwrap();
    assert_eq!(db.kvs("fish").unwrap().id(), fish.id());
    assert_eq!(db.open_kvs("fish").unwrap().id(), fish.id());
    assert!(matches!(db.kvs("fish/eel"), Err(Error::KvsName { .. })));
}

#[test]
fn threads_that_open_one_name_get_one_kvs() {
    let db = database();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let open = |_| scope.spawn(|| db.kvs("fish").unwrap().id());
        let threads: Vec<_> = (0..8).map(open).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

/// Values were copied out of the memtable before anybody asked whether there was room for them.
#[test]
fn a_value_for_which_there_is_no_room_is_not_copied() {
    let birds = database().kvs("birds").unwrap();
    birds.put(b"a", &[7; 5000], Durability::Off).unwrap();
    let mut asked = Vec::new();
    let refused = birds.try_get_within(b"a", |len| {
        asked.push(len);
        false
    });
    assert_eq!(refused.unwrap().err(), Some(kvs::NoRoom { value_len: 5000 }));
    assert_eq!(asked, [5000]);
    let absent = birds.try_get_within(b"b", |_| panic!("there is nothing to copy")).unwrap();
    assert!(matches!(absent, Ok(kvs::TryGet::Ready(None))));
    let found = birds.try_get_within(b"a", |len| len == 5000).unwrap();
    assert!(matches!(found, Ok(kvs::TryGet::Ready(Some(entry))) if entry.value.len() == 5000));
}
