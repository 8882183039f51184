//! How a database begins: with its first KVSs, or not at all; and what its later openings write.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Error, Options, Scope};
use mpool::{Pool, Priority};
use mpool_sim::{Faults, SimDevice};
use std::sync::Arc;

const NAMES: [&str; 2] = ["default", "birds"];

fn options() -> Options {
    Options { initial_kvs: NAMES.map(str::to_owned).to_vec(), ..support::options() }
}

fn names(db: &Database) -> Vec<String> {
    db.list_kvs().into_iter().map(|kvs| kvs.name).collect()
}

fn open_pool(device: &SimDevice) -> Arc<Pool> {
    Pool::open(Arc::new(device.clone()), &support::pool_options()).unwrap()
}

#[test]
fn a_new_database_has_its_first_kvss_and_what_is_dropped_stays_dropped() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    assert_eq!(names(&db), ["birds", "default"]);
    drop(db);
    for (dropped, left) in [("default", &["birds"][..]), ("birds", &[])] {
        support::open(&device, &options()).unwrap().drop_kvs(dropped).unwrap();
        let db = support::open(&device, &options()).unwrap();
        assert_eq!(names(&db), left, "after the drop of {dropped}");
    }
}

/// A full set of KVSs without `default`: an open that created it was refused for ever.
#[test]
fn a_database_with_all_the_kvss_there_may_be_opens() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    db.drop_kvs("default").unwrap();
    for n in 0..kvs::KVS_MAX - 1 {
        db.create_kvs(&format!("kvs{n}")).unwrap();
    }
    assert!(matches!(db.kvs("one-more"), Err(Error::KvsLimit)));
    db.close().unwrap();
    drop(db);
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(names(&db).len(), kvs::KVS_MAX);
}

#[test]
fn first_names_are_checked() {
    let of = |names: &[&str]| Options {
        initial_kvs: names.iter().map(|name| (*name).to_owned()).collect(),
        ..support::options()
    };
    assert!(matches!(of(&["a/b"]).validate(), Err(Error::KvsName { .. })));
    assert!(matches!(of(&["a", "b", "a"]).validate(), Err(Error::KvsExists { .. })));
    let many: Vec<String> = (0..=kvs::KVS_MAX).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(|name| &**name).collect();
    assert!(matches!(of(&many).validate(), Err(Error::KvsLimit)));
    of(&many[1..]).validate().unwrap();
}

/// Programs that created the first KVS in a step of its own could be cut off before it.
#[test]
fn a_database_that_never_had_a_kvs_gets_its_first_ones() {
    let device = SimDevice::new(1 << 30);
    support::create(&device, &support::options()).unwrap().close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(names(&db), ["birds", "default"]);
    db.drop_kvs("default").unwrap();
    db.drop_kvs("birds").unwrap();
    db.close().unwrap();
    drop(db);
    assert!(names(&support::open(&device, &options()).unwrap()).is_empty(), "it has had some");
}

#[test]
fn a_power_cut_leaves_all_first_kvss_or_no_database() {
    let device = SimDevice::new(1 << 30);
    drop(Pool::create(Arc::new(device.clone()), &support::pool_options()).unwrap());
    let pool = device.after_crash(0);
    let whole = pool.after_crash(0);
    support::open(&whole, &options()).unwrap();
    let calls = whole.calls();
    for cut in 0..calls {
        for seed in 0..3 {
            let device = pool.after_crash(0);
            device.cut_at(cut);
            drop(support::open(&device, &options()));
            let device = device.after_crash(seed);
            // An opening without first KVSs shows what there is.
            let found = names(&support::open(&device, &support::options()).unwrap());
            assert!(found.is_empty() || found == ["birds", "default"], "{cut}:{seed}: {found:?}");
            // And the next one makes up for it, also over what was cut off.
            let db = support::open(&device, &options()).unwrap();
            assert_eq!(names(&db), ["birds", "default"], "{cut}:{seed}");
            assert_eq!(db.pool().mdc_ids().len(), 1, "{cut}:{seed}: nothing lies about");
        }
    }
    println!("{calls} cuts");
}

/// Orphans, log segments of no use, an unfinished manifest: to delete them is housekeeping. Where
/// it fails the database opens all the same.
#[test]
fn housekeeping_that_fails_does_not_keep_a_database_closed() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    let birds = db.open_kvs("birds").unwrap();
    birds.put(b"heron", b"grey", Durability::Sync).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    drop((birds, db));
    let pool = open_pool(&device);
    let mut writer = pool.allocate(4096, Priority::Flush).unwrap();
    writer.append(b"nobody's").unwrap();
    pool.commit(vec![writer], &[]).unwrap();
    pool.create_mdc(64 << 10).unwrap();
    drop(pool);
    let left = device.after_crash(0);
    // The segment that there is, is too short for this.
    let options = Options { wal_segment_bytes: 8 << 20, ..options() };
    let mut failed = 0;
    for write in 0..8 {
        let device = left.after_crash(0);
        let pool = open_pool(&device);
        device.set_faults(Faults { write_eio_at: Some(write), ..Faults::default() });
        let db = Database::open_pool(pool, options.clone()).unwrap();
        let birds = db.open_kvs("birds").unwrap();
        assert_eq!(birds.get(b"heron").unwrap().unwrap().value, "grey", "write {write}");
        failed += u32::from(birds.put(b"heron", b"white", Durability::Sync).is_err());
    }
    assert!(failed > 2, "the writes that failed were those of the opening: {failed}");
}

/// The log may hold more memtables than may wait now: they were larger.
#[test]
fn a_full_volume_opens_with_more_unflushed_writes_than_its_options_allow() {
    let device = SimDevice::new(1 << 30);
    let mut large = Options { memtable_bytes: 64 << 20, ..options() };
    large.pool.spare_pct = 0;
    let db = support::create(&device, &large).unwrap();
    let birds = db.open_kvs("birds").unwrap();
    let key = |n: u32| format!("bird{n:04}").into_bytes();
    for n in 0..600 {
        birds.put(&key(n), &[7; 10_000], Durability::Off).unwrap();
    }
    db.sync().unwrap();
    let killed = device.after_crash(1);
    drop((birds, db));
    let pool = Pool::open(Arc::new(killed), &large.pool).unwrap();
    let mut taken = Vec::new();
    for bytes in [8 << 20, 1 << 20, 64 << 10, 4096] {
        while let Ok(writer) = pool.allocate(bytes, Priority::Flush) {
            taken.push(writer);
        }
    }
    let small = Options { memtable_bytes: 1 << 20, memtables_max: 1, ..large };
    let db = Database::open_pool(pool, small).unwrap();
    let birds = db.open_kvs("birds").unwrap();
    for n in 0..600 {
        assert_eq!(birds.get(&key(n)).unwrap().unwrap().value.len(), 10_000);
    }
    let full = db.flush().unwrap_err();
    assert_eq!(full.scope(), Scope::Moment, "{full}");
    drop(taken);
    db.flush().unwrap();
    birds.put(b"bird", &[7; 10_000], Durability::Sync).unwrap();
}
