//! Volumes of an open database: what goes where, and how one leaves while the database serves.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Kvs, MediaPolicy, Options};
use mpool::{MediaClass, VolumeId, VolumeInfo};
use mpool_sim::SimDevice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use support::Rng;
use support::place::{Kind, Place, drain, zones};

const KEYS: u64 = 400;

fn key(n: u64) -> Vec<u8> {
    format!("key{n:05}").into_bytes()
}

/// Tells which key and which round it is of, over all its length.
fn value(n: u64, round: u64) -> Vec<u8> {
    let mut value = Vec::new();
    while value.len() < 4_000 {
        value.extend_from_slice(&n.to_le_bytes());
        value.extend_from_slice(&round.to_le_bytes());
    }
    value
}

/// The round of a value, which must be one of key `n`.
fn round_of(n: u64, bytes: &[u8]) -> u64 {
    let round = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert_eq!(bytes, value(n, round), "key {n}");
    round
}

fn volume(db: &Database, id: VolumeId) -> VolumeInfo {
    db.volumes().into_iter().find(|volume| volume.id == id).unwrap()
}

/// A few flushes, and no compaction.
fn load(db: &Database, kvs: &Kvs, rounds: std::ops::Range<u64>) {
    for round in rounds {
        for n in 0..KEYS / 4 {
            kvs.put(&key(n), &value(n, round), Durability::Interval).unwrap();
        }
        db.flush().unwrap();
    }
}

#[test]
fn the_policy_says_what_is_on_the_staging_volume() {
    use MediaPolicy::{CapacityOnly, StagingMaxCapacity, StagingMinCapacity, StagingOnly};
    // Mblocks on capacity and on staging, while all is in the root, and when all is in one leaf. A
    // kvset has two of keys (hblock, kblock) and one of values.
    let table = [
        (MediaPolicy::Auto, (0, 9), (1, 2)),
        (CapacityOnly, (9, 0), (3, 0)),
        (StagingOnly, (0, 9), (0, 3)),
        (StagingMaxCapacity, (0, 9), (1, 2)),
        (StagingMinCapacity, (0, 9), (3, 0)),
    ];
    for (media_policy, root, leaves) in table {
        let options = Options { media_policy, ..support::options() };
        let mut place = Place::on(SimDevice::new(256 << 20));
        let db = place.create(&options).unwrap();
        let staging = place.add(&db, MediaClass::Staging, Kind::Plain);
        let kvs = db.create_kvs("k").unwrap();
        let mblocks = || (volume(&db, VolumeId::ROOT).mblocks, volume(&db, staging).mblocks);
        load(&db, &kvs, 0..3);
        assert_eq!(mblocks(), root, "{media_policy}: root");
        assert!(volume(&db, staging).logs > 0, "{media_policy}: the log prefers staging");
        load(&db, &kvs, 3..4);
        db.compact().unwrap();
        assert_eq!(mblocks(), leaves, "{media_policy}: leaves");
        for n in 0..KEYS / 4 {
            assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), 3);
        }
    }
}

/// Writers go on, readers verify every byte, and the volume leaves under them, round after round.
#[test]
fn a_volume_leaves_under_readers_and_writers() {
    for (kind, class) in [
        (Kind::Plain, MediaClass::Staging),
        (Kind::Zoned, MediaClass::Capacity),
        (Kind::Zoned, MediaClass::Staging),
    ] {
        let mut options = Options { background_threads: 2, ..support::options() };
        options.pool.background = true;
        // Smaller than the other one, which is therefore preferred within its class.
        let mut place = Place::on(SimDevice::new(200 << 20));
        let db = place.create(&options).unwrap();
        let kvs = db.create_kvs("k").unwrap();
        let rounds = [const { AtomicU64::new(0) }; 2];
        let done = AtomicBool::new(false);
        for n in 0..KEYS {
            kvs.put(&key(n), &value(n, 0), Durability::Off).unwrap();
        }
        thread::scope(|scope| {
            let (db, kvs, rounds, done) = (&db, &kvs, &rounds, &done);
            let stop = Stop(done);
            for (id, round) in (0..).zip(rounds) {
                scope.spawn(move || write_rounds(kvs, round, id, done));
            }
            scope.spawn(move || read_and_check(kvs, rounds, done));
            for _ in 0..3 {
                let id = place.add(db, class, kind);
                let target = rounds[0].load(Ordering::Acquire) + 3;
                while rounds[0].load(Ordering::Acquire) < target {
                    thread::yield_now();
                }
                db.flush().unwrap();
                assert!(volume(db, id).used_bytes > 64 << 10, "something went there");
                drain(db, id);
            }
            drop(stop);
        });
        let newest = |n: u64| rounds[usize::try_from(n % 2).unwrap()].load(Ordering::Acquire);
        let check = |kvs: &Kvs| {
            for n in 0..KEYS {
                assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), newest(n));
            }
        };
        check(&kvs);
        db.close().unwrap();
        drop((kvs, db));
        let db = place.open(&options).unwrap();
        assert_eq!(db.volumes().len(), 1);
        check(&db.open_kvs("k").unwrap());
    }
}

/// Ends the other threads also when this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Rewrites every other key, round after round.
fn write_rounds(kvs: &Kvs, round: &AtomicU64, id: u64, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let next = round.load(Ordering::Acquire) + 1;
        for n in (0..KEYS).filter(|n| n % 2 == id) {
            kvs.put(&key(n), &value(n, next), Durability::Interval).unwrap();
        }
        round.store(next, Ordering::Release);
    }
}

fn read_and_check(kvs: &Kvs, rounds: &[AtomicU64; 2], done: &AtomicBool) {
    let mut rng = Rng(7);
    while !done.load(Ordering::Acquire) {
        let n = rng.below(KEYS);
        let least = rounds[usize::try_from(n % 2).unwrap()].load(Ordering::Acquire);
        let entry = kvs.get(&key(n)).unwrap().expect("no key is ever deleted");
        let round = round_of(n, &entry.value);
        assert!(round >= least, "key {n} is of round {round}, {least} was acknowledged");
    }
}

#[test]
fn a_snapshot_keeps_a_volume_until_it_ends() {
    let mut place = Place::on(SimDevice::new(256 << 20));
    let options = Options { media_policy: MediaPolicy::StagingOnly, ..support::options() };
    let db = place.create(&options).unwrap();
    let staging = place.add(&db, MediaClass::Staging, Kind::Plain);
    let kvs = db.create_kvs("k").unwrap();
    load(&db, &kvs, 0..2);
    let snapshot = db.snapshot();
    let done = db.evacuate_volume(staging, &mut |_| ()).unwrap();
    assert_eq!((done.moved, done.left.len(), done.failed.len()), (6, 0, 0));
    let error = db.remove_volume(staging).unwrap_err().to_string();
    assert!(error.contains("in use") && error.contains("readers"), "{error}");
    for n in 0..KEYS / 4 {
        assert_eq!(round_of(n, &snapshot.get(&kvs, &key(n)).unwrap().unwrap().value), 1);
    }
    drop(snapshot);
    db.remove_volume(staging).unwrap();
    assert_eq!(db.volumes().len(), 1);
    for n in 0..KEYS / 4 {
        assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), 1);
    }
}

/// Nothing is written after the evacuation, and what the log holds may be of nobody any more.
#[test]
fn the_log_leaves_a_volume_also_when_all_is_quiet() {
    for dropped in [false, true] {
        let mut place = Place::on(SimDevice::new(256 << 20));
        let db = place.create(&support::options()).unwrap();
        let staging = place.add(&db, MediaClass::Staging, Kind::Plain);
        let kvs = db.create_kvs("k").unwrap();
        kvs.put(b"a", b"b", Durability::Sync).unwrap();
        assert!(volume(&db, staging).logs > 0);
        if dropped {
            db.drop_kvs("k").unwrap();
            db.close().unwrap();
            drop((kvs, db));
            // Replay finds entries of a KVS that is not there.
            let db = place.open(&support::options()).unwrap();
            drain(&db, staging);
        } else {
            drain(&db, staging);
            assert_eq!(kvs.get(b"a").unwrap().unwrap().value, "b");
            db.close().unwrap();
        }
        let db = place.open(&support::options()).unwrap();
        assert_eq!(db.revision().get(), 1);
        assert_eq!(db.open_kvs("k").is_err(), dropped);
    }
}

/// A root volume too small for the manifest.
#[test]
fn the_manifest_leaves_with_the_rest() {
    let mut place = Place::on(SimDevice::new(4 << 20));
    let options = support::options();
    let pool = place.create_pool(&options).unwrap();
    let first = place.add_to(&pool, MediaClass::Capacity, Kind::Plain);
    let db = Database::open_pool(pool, options.clone()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    load(&db, &kvs, 0..3);
    place.add(&db, MediaClass::Capacity, Kind::Plain);
    drain(&db, first);
    load(&db, &kvs, 3..8);
    db.compact().unwrap();
    db.close().unwrap();
    drop((kvs, db));
    let db = place.open(&options).unwrap();
    assert_eq!((db.pool().mdc_ids().len(), db.volumes().len()), (1, 2));
    let kvs = db.open_kvs("k").unwrap();
    for n in 0..KEYS / 4 {
        assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), 7);
    }
}

/// More is written than the zones hold, many times over, so they must be reset and used again.
#[test]
fn zones_are_used_again_and_again() {
    let sequential = 80;
    let place = Place::on(SimDevice::zoned(zones(64, sequential)));
    let db = place.create(&support::options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let rounds = 200;
    for round in 1..=rounds {
        for n in 0..KEYS {
            kvs.put(&key(n), &value(n, round), Durability::Interval).unwrap();
        }
        if round % 20 == 0 {
            db.compact().unwrap();
            for n in 0..KEYS {
                assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), round);
            }
        }
    }
    let mut flushed = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == "flush_bytes_total" {
            flushed = sample.value.number().expect("a counter");
        }
    });
    let capacity = f64::from(sequential) * f64::from(1 << 20);
    assert!(flushed > 3.0 * capacity, "only {flushed} bytes were flushed");
    let info = volume(&db, VolumeId::ROOT);
    assert!(info.zones.is_some_and(|(_, whole)| whole > 0), "{info:?}");
    db.close().unwrap();
    drop((kvs, db));
    let db = place.open(&support::options()).unwrap();
    let kvs = db.open_kvs("k").unwrap();
    for n in 0..KEYS {
        assert_eq!(round_of(n, &kvs.get(&key(n)).unwrap().unwrap().value), rounds);
    }
}
