//! Power cuts at every point: what was acknowledged with `Durability::Sync` survives, whole batches
//! only.
//!
//! A workload runs once to count the device's calls; then again and again with the power cut at one
//! call after the other. After the crash each unflushed sector survives by the toss of a seeded
//! coin. The recovered database must hold every acknowledged batch, the one in flight whole or not
//! at all, and must take writes and reopen.
//!
//! `CRASH=<cut>:<seed> cargo test -p millpond-kvs --test crash` replays one case.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Options, Range};
use mpool::SimDevice;
use std::collections::BTreeMap;
use support::Rng;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Batches of the workload. Every 7th is followed by a flush, every 21st by a compaction.
const BATCHES: u64 = 90;

fn options() -> Options {
    Options { value_cache_bytes: Some(64 << 10), ..support::options() }
}

/// Batch `n`: overwrites and deletes among 40 keys, values inline and not, over two KVSs.
fn batch(n: u64) -> Vec<(usize, Vec<u8>, Option<Vec<u8>>)> {
    let mut rng = Rng(n);
    let mut ops = Vec::new();
    for _ in 0..=rng.below(6) {
        let kvs = usize::try_from(rng.below(2)).unwrap();
        let key = format!("key{:02}", rng.below(40)).into_bytes();
        let len = [0, 10, 300, 5000][usize::try_from(rng.below(4)).unwrap()];
        let value = (rng.below(5) > 0).then(|| {
            let mut value = n.to_le_bytes().to_vec();
            value.resize(8 + len, b'v');
            value
        });
        ops.push((kvs, key, value));
    }
    ops
}

fn apply(maps: &mut [Map; 2], n: u64) {
    for (kvs, key, value) in batch(n) {
        match value {
            Some(value) => maps[kvs].insert(key, value),
            None => maps[kvs].remove(&key),
        };
    }
}

fn write(db: &Database, n: u64, durability: Durability) -> kvs::Result<()> {
    let kvs = [db.kvs("a")?, db.kvs("b")?];
    let mut all = db.batch();
    for (which, key, value) in batch(n) {
        match value {
            Some(value) => all.put(&kvs[which], &key, &value)?,
            None => all.delete(&kvs[which], &key)?,
        }
    }
    db.write(all, durability).map(|_| ())
}

/// Runs the workload until the power goes; returns how many batches were acknowledged.
fn workload(device: &SimDevice, durability: Durability, acked: &mut u64) -> kvs::Result<()> {
    let db = support::create(device, &options())?;
    db.create_kvs("a")?;
    db.create_kvs("b")?;
    for n in 0..BATCHES {
        write(&db, n, durability)?;
        *acked = n + 1;
        if n % 7 == 6 {
            db.flush()?;
        }
        if n % 21 == 20 {
            db.compact()?;
        }
    }
    db.close()
}

fn contents(db: &Database) -> kvs::Result<[Map; 2]> {
    let mut maps = [Map::new(), Map::new()];
    for (map, name) in maps.iter_mut().zip(["a", "b"]) {
        // Before the first batch the KVS may not exist yet.
        let kvs = match db.kvs(name) {
            Err(kvs::Error::NoSuchKvs { .. }) => continue,
            kvs => kvs?,
        };
        let mut cursor = kvs.cursor(Range::default())?;
        while let Some(item) = cursor.next()? {
            assert_eq!(kvs.get(&item.key)?.expect("the cursor saw it").value, item.value);
            map.insert(item.key.to_vec(), item.value.to_vec());
        }
    }
    Ok(maps)
}

/// How many batches the recovered contents are the sum of, if any number at least `acked` fits.
fn batches_in(found: &[Map; 2], least: u64) -> Option<u64> {
    let mut maps = [Map::new(), Map::new()];
    for n in 0..=BATCHES {
        if n >= least && maps == *found {
            return Some(n);
        }
        apply(&mut maps, n);
    }
    None
}

/// `promised` is what the oracle holds the database to; it differs from `durability` only where the
/// harness itself is tested.
fn check(cut: u64, seed: u64, durability: Durability, promised: Durability) {
    let case = format!("CRASH={cut}:{seed} {durability:?}");
    let device = SimDevice::new(1 << 30);
    device.cut_at(cut);
    let mut acked = 0;
    let done = workload(&device, durability, &mut acked);
    assert!(done.is_err() || acked == BATCHES, "{case}: {done:?}");
    let device = device.after_crash(seed);
    let db = match support::open(&device, &options()) {
        Ok(db) => db,
        // Nothing was acknowledged before the pool itself was made.
        Err(error) if acked == 0 => {
            println!("{case}: nothing acknowledged, {error}");
            return;
        }
        Err(error) => panic!("{case}: {acked} acknowledged, recovery failed: {error:?}"),
    };
    let least = if promised == Durability::Sync { acked } else { 0 };
    let found = contents(&db).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let survived = batches_in(&found, least);
    let most = if done.is_ok() { acked } else { acked + 1 };
    assert!(
        survived.is_some_and(|n| n <= most),
        "{case}: {acked} acknowledged, found {survived:?}"
    );
    if db.kvs("a").is_err() || db.kvs("b").is_err() {
        return;
    }
    // Life goes on: a write, a flush, a reopen.
    write(&db, 1000, Durability::Sync).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    db.flush().unwrap();
    let expect = contents(&db).unwrap();
    db.close().unwrap();
    drop(db);
    let db = support::open(&device, &options())
        .unwrap_or_else(|error| panic!("{case}: second: {error:?}"));
    assert_eq!(contents(&db).unwrap(), expect, "{case}: second recovery differs");
}

fn calls(durability: Durability) -> u64 {
    let device = SimDevice::new(1 << 30);
    workload(&device, durability, &mut 0).unwrap();
    device.calls()
}

fn check_many(durability: Durability, stride: u64) {
    if let Ok(case) = std::env::var("CRASH") {
        let (cut, seed) = case.split_once(':').expect("CRASH=<cut>:<seed>");
        return check(cut.parse().unwrap(), seed.parse().unwrap(), durability, durability);
    }
    let calls = calls(durability);
    assert!(calls > 100, "the workload writes");
    for cut in (0..calls).step_by(usize::try_from(stride).unwrap()) {
        check(cut, cut, durability, durability);
    }
}

#[test]
fn acknowledged_batches_survive_a_power_cut_at_every_call() {
    check_many(Durability::Sync, 1);
}

#[test]
fn unsynced_batches_survive_as_a_prefix() {
    check_many(Durability::Off, 3);
}

/// The planted bug: writes that are acknowledged as durable without being synced.
#[test]
#[should_panic(expected = "acknowledged, found")]
fn the_harness_catches_writes_that_are_not_synced() {
    for cut in (0..calls(Durability::Off)).step_by(5) {
        check(cut, cut, Durability::Off, Durability::Sync);
    }
}

#[test]
fn the_oracle_notices_a_lost_batch() {
    let mut maps = [Map::new(), Map::new()];
    for n in 0..10 {
        apply(&mut maps, n);
    }
    assert_eq!(batches_in(&maps, 5), Some(10));
    assert_eq!(batches_in(&maps, 11), None, "ten batches are not eleven");
    let key = maps[0].keys().next().unwrap().clone();
    maps[0].remove(&key);
    assert_eq!(batches_in(&maps, 0), None, "a missing key is noticed");
}
