//! A replay of much log: what it comes to, how little it reads again, and that it ends.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, OpenProgress, Options, Range};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use support::{Rng, metric};

type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;
const KVSS: [&str; 3] = ["a", "b", "c"];

/// Batches over several KVSs that say little of their keys' order; keys are written again, also in
/// one batch, and deleted. One of the KVSs is dropped in the end.
fn fill(db: &Database, rng: &mut Rng, batches: u64) -> Model {
    let kvss = KVSS.map(|name| db.create_kvs(name).unwrap());
    let mut model = Model::new();
    for _ in 0..batches {
        let mut batch = db.batch();
        for _ in 0..=rng.below(8) {
            let at = usize::try_from(rng.below(3)).unwrap();
            let key = format!("user{:05}", rng.below(3000)).into_bytes();
            if rng.below(5) == 0 {
                batch.delete(&kvss[at], &key).unwrap();
                model.remove(&(at, key));
            } else {
                let len = [0, 20, 300, 3000][usize::try_from(rng.below(4)).unwrap()];
                let value = rng.bytes(len);
                batch.put(&kvss[at], &key, &value).unwrap();
                model.insert((at, key), value);
            }
        }
        db.write(batch, Durability::Off).unwrap();
    }
    db.sync().unwrap();
    db.drop_kvs(KVSS[2]).unwrap();
    model.retain(|(at, _), _| *at < 2);
    model
}

fn found(db: &Database) -> Model {
    let mut found = Model::new();
    for (at, name) in KVSS.iter().enumerate().take(2) {
        let kvs = db.open_kvs(name).unwrap();
        for item in kvs.cursor(Range::default()).unwrap() {
            let item = item.unwrap();
            assert_eq!(kvs.get(&item.key).unwrap().unwrap().value, item.value);
            found.insert((at, item.key.to_vec()), item.value.to_vec());
        }
    }
    found
}

/// A store that was killed with some MiB in its log, and what it holds.
fn killed(seed: u64) -> (SimDevice, Model) {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &large()).unwrap();
    let model = fill(&db, &mut Rng(seed), 1500);
    assert_eq!(metric(&db, "flushes_total"), 0, "all of it is in the log");
    (device.after_kill(0), model)
}

/// Nothing is flushed before the end.
fn large() -> Options {
    Options { memtable_bytes: 64 << 20, wal_bytes_max: 64 << 20, ..support::options() }
}

#[test]
fn a_replay_comes_to_what_was_written_with_and_without_threads() {
    for seed in support::seeds(0..3) {
        println!("MILLPOND_SEED={seed}");
        let (device, model) = killed(seed);
        for background_threads in [0, 2] {
            for memtable_bytes in [1 << 20, 64 << 20] {
                let device = device.after_kill(0);
                let options = Options { background_threads, memtable_bytes, ..support::options() };
                let progress = OpenProgress::default();
                let pool = mpool::Pool::open(std::sync::Arc::new(device), &options.pool).unwrap();
                let db = Database::open_pool_watched(pool, options, &progress).unwrap();
                let (all, done) = progress.log();
                assert!(all > 4 << 20 && done == all, "{all} {done}");
                assert!(found(&db) == model, "{background_threads} threads, {memtable_bytes}");
                let flushes = metric(&db, "flushes_total");
                assert!(memtable_bytes > 1 << 20 || flushes >= 2, "{flushes} on the way");
                db.close().unwrap();
            }
        }
    }
}

/// What was flushed on the way is not replayed again, so killing each recovery does not keep a
/// store from opening.
#[test]
fn a_recovery_that_is_killed_again_and_again_has_less_to_do_each_time() {
    let (mut device, model) = killed(7);
    let whole = device.after_kill(0);
    let all =
        metric(&support::open(&whole, &support::options()).unwrap(), "wal_replay_bytes_total");
    let (mut left, mut kills) = (all, 0);
    loop {
        // Long enough for a flush, too short for all of it.
        device.cut_at(device.calls() + 40);
        match support::open(&device, &support::options()) {
            Ok(db) => {
                assert!(metric(&db, "wal_replay_bytes_total") <= left);
                break;
            }
            Err(_) => kills += 1,
        }
        device = device.after_kill(kills);
        let again = device.after_kill(0);
        let db = support::open(&again, &support::options()).unwrap();
        assert!(found(&db) == model, "after {kills} kills");
        let now = metric(&db, "wal_replay_bytes_total");
        assert!(now < left, "{now} of {left} after {kills} kills");
        left = now;
    }
    assert!(kills > 1, "{kills}");
}

/// Once a replay was slow, the log is kept short.
#[test]
fn the_log_is_as_long_as_a_recovery_may_take() {
    let device = SimDevice::new(1 << 30);
    let options = Options { wal_bytes_max: 64 << 20, memtable_bytes: 64 << 20, ..large() };
    let db = support::create(&device, &options).unwrap();
    assert_eq!(metric(&db, "wal_live_limit_bytes"), 64 << 20, "nobody has measured");
    // Two MiB a second, ten seconds.
    let rate = [&[1][..], &(2_u64 << 20).to_le_bytes()].concat();
    db.pool().set_property("kvs.replay", &rate).unwrap();
    db.close().unwrap();
    drop(db);
    let db = support::open(&device, &options).unwrap();
    assert_eq!(metric(&db, "wal_live_limit_bytes"), 20 << 20);
    let kvs = db.create_kvs("a").unwrap();
    // A page of log each, and a hundredth of that in memory.
    let mut n = 0_u64;
    while metric(&db, "memtable_seals_total") == 0 {
        kvs.put(&n.to_le_bytes(), b"small", Durability::Sync).unwrap();
        n += 1;
    }
    let live = metric(&db, "wal_live_bytes");
    assert!((19 << 20..22 << 20).contains(&live), "{live}");
    assert!(metric(&db, "memtable_bytes") < 2 << 20);
}

/// The puts that write the log's buffer, and that begin another segment, wait for the drive: in no
/// stall, and so in no figure.
#[test]
fn puts_that_write_the_log_are_counted() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("a").unwrap();
    let counts = |name: &str| {
        let mut found = None;
        db.visit_metrics(&mut |sample| {
            if let (true, kvs::metrics::Value::Histogram(counts)) =
                (sample.name == name, &sample.value)
            {
                found = Some(counts.count);
            }
        });
        found.unwrap_or_else(|| panic!("there is no {name}"))
    };
    let both = || (counts("wal_write_duration_seconds"), counts("wal_rotation_duration_seconds"));
    assert_eq!(both(), (0, 0));
    for n in 0..50_u64 {
        kvs.put(&n.to_le_bytes(), &vec![1; 100_000], Durability::Off).unwrap();
    }
    // 5 MB: four times a MiB, and another segment after 4 MiB.
    let (writes, rotations) = both();
    assert!((3..=5).contains(&writes) && rotations == 2, "{writes} {rotations}");
}
