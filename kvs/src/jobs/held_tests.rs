//! A KVS that compaction cannot follow holds up its own writers, and no others.

use crate::db::Database;
use crate::db::handle::Kvs;
use crate::db::tree_info::TreePage;
use crate::debt::stall::ROOT_STOP;
use crate::key::Revision;
use crate::metrics::Sample;
use crate::options::{Durability, Options};
use mpool::Pool;
use mpool_sim::SimDevice;
use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};

const KVSS: [&str; 2] = ["a", "b"];

fn stall_seconds(db: &Database, reason: &str) -> f64 {
    let mut found = 0.0;
    db.visit_metrics(&mut |sample: Sample<'_>| {
        let is_it = sample.labels.iter().any(|(_, value)| *value == reason);
        if sample.name == "write_stall_seconds_total" && is_it {
            found = sample.value.number().unwrap();
        }
    });
    found
}

fn gauge_of_a(db: &Database, name: &str) -> f64 {
    let mut found = None;
    db.visit_metrics(&mut |sample: Sample<'_>| {
        if sample.name == name && sample.labels == [("kvs", "a")] {
            found = sample.value.number();
        }
    });
    found.unwrap_or_else(|| panic!("{name} is not shown"))
}

/// The throttle took the longest root of all KVSs: every writer was refused after 30 seconds.
#[test]
fn a_root_that_stays_long_stops_no_writer_of_another_kvs() {
    let options = Options { background_threads: 2, ..Options::default() };
    let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    let [a, b] = KVSS.map(|name| db.create_kvs(name).unwrap());
    a.put(b"k", b"0", Durability::Off).unwrap();
    db.flush().unwrap();
    // As if a job had it that never ends: no other may touch the root.
    let stuck: BTreeSet<_> =
        db.store().shape.tree(a.id()).unwrap().root.iter().map(|kvset| kvset.meta().id).collect();
    db.work().jobs.table.lock().busy.extend(&stuck);
    for n in 1..ROOT_STOP {
        a.put(b"k", &n.to_le_bytes(), Durability::Off).unwrap();
        db.flush().unwrap();
    }
    let (sender, receiver) = mpsc::channel();
    let submit = |name: &'static str, batch| {
        let sender = sender.clone();
        let done = move |result: crate::Result<Revision>| {
            sender.send((name, result.unwrap())).unwrap();
        };
        db.write_async(batch, Durability::Sync, Box::new(done));
    };
    let mut batch = db.batch();
    batch.put(&a, b"k", b"held").unwrap();
    submit("a", batch);
    let mut last = Revision::ZERO;
    for round in 0..3 {
        for n in 0..100_u8 {
            last = b.put(&[n], &[round; 100], Durability::Sync).unwrap();
        }
        db.flush().unwrap();
    }
    assert_eq!(receiver.try_recv().ok(), None);
    // And in one batch with a, b waits.
    let mut both = db.batch();
    both.put(&a, b"both", b"held").unwrap();
    both.put(&b, b"both", b"held").unwrap();
    submit("both", both);
    db.work().jobs.table.lock().busy.retain(|kvset| !stuck.contains(kvset));
    db.store().life.bell.ring();
    let (first, second) = (receiver.recv().unwrap(), receiver.recv().unwrap());
    assert_eq!((first.0, second.0), ("a", "both"));
    assert!(first.1 > last && second.1 > first.1);
    assert_eq!(a.get(b"k").unwrap().unwrap().value, &b"held"[..]);
    assert!(stall_seconds(&db, "root_length") > 0.0, "the wait is counted");
    db.close().unwrap();
}

/// Space was bounded by nothing but the volume.
#[test]
fn garbage_slows_the_writers_of_its_kvs_as_long_as_something_can_be_done_about_it() {
    let memtable_bytes = 1 << 20;
    let options = Options { background_threads: 2, memtable_bytes, ..Options::default() };
    let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    let [a, b] = KVSS.map(|name| db.create_kvs(name).unwrap());
    let write = |kvs: &Kvs, rounds: u8| {
        for n in 0..rounds {
            kvs.put(&[n], &vec![n; 64 << 10], Durability::Off).unwrap();
        }
    };
    let mut busy = BTreeSet::new();
    for _ in 0..8 {
        write(&a, 14);
        db.flush().unwrap();
        // As if a job had all of it.
        let root = &db.store().shape.tree(a.id()).unwrap().root;
        busy.extend(root.iter().map(|kvset| kvset.meta().id));
        db.work().jobs.table.lock().busy.extend(&busy);
    }
    let waited = || stall_seconds(&db, "garbage");
    let debt = || db.tree("a", &TreePage::default()).unwrap().debt;
    let gauge = |name: &str| gauge_of_a(&db, name);
    let tries = (0..1000).take_while(|_| {
        write(&b, 1);
        write(&a, 1);
        waited() == 0.0
    });
    assert!(tries.count() < 1000, "writers of a do not wait");
    // It was seen that writers waited, and neither whose nor how much garbage they waited for.
    assert_eq!((debt().writers_wait_for, debt().garbage_helpless), (Some("garbage"), false));
    assert_eq!(db.tree("b", &TreePage::default()).unwrap().debt.writers_wait_for, None);
    assert!(debt().garbage_bytes > debt().garbage_slow_bytes, "{:?}", debt());
    assert!(gauge("kvs_garbage_bytes") > gauge("kvs_garbage_slow_bytes"));
    assert!(gauge("kvs_garbage_slow_bytes") < gauge("kvs_garbage_slowest_bytes"));
    assert!(gauge("kvs_garbage_helpless") == 0.0);
    assert!(db.work().jobs.is_behind(), "compaction has the drive");

    // Nothing can be done: what is there cannot be read.
    let mut jobs = db.work().jobs.table.lock();
    jobs.busy.clear();
    jobs.unreadable.kvsets.extend(&busy);
    jobs.changes += 1;
    drop(jobs);
    while !db.work().jobs.helpless.lock().contains(&a.id()) {
        db.store().life.bell.ring();
        std::thread::yield_now();
    }
    assert!(db.work().jobs.lagging().is_empty());
    assert!(!db.work().jobs.is_behind(), "compaction has the drive for nothing");
    assert!(gauge("kvs_garbage_helpless") > 0.0);
    assert_eq!((debt().writers_wait_for, debt().garbage_helpless), (None, true));
    // Those who wait still are let go.
    write(&a, 1);
    let before = waited();
    write(&a, 8);
    assert!(waited() <= before, "writers of a wait in vain");
    assert_eq!(a.get(&[7]).unwrap().unwrap().value, vec![7; 64 << 10]);
    db.close().unwrap();
}
