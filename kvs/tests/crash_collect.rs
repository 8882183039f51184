//! Power cuts at every point of a collection: what lives in a vblock that is collected survives,
//! what was deleted stays deleted, and life goes on.
//!
//! The volume is nearly full, so garbage is collected by the vblock: live values move, and vblocks
//! are given back one by one. What is on it is prepared once; each cut works on a copy.
//!
//! `CRASH=<cut>:<seed> cargo test -p millpond-kvs --test crash_collect` replays one case.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
/// Little more than the work of the engine needs, so that space is short from the start.
const VOLUME: u64 = 52 * MIB;
const KEYS: u64 = 240;
/// Rounds of deletes, each with a collection.
const ROUNDS: u64 = 3;
/// What is put after the collection, into space that was garbage.
const LATER: u64 = 6;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u64) -> Vec<u8> {
    // Not in the order of their insertion: each flush has keys of all leaves.
    format!("{:08x}", n.wrapping_mul(0x9E37_79B1) & 0xffff_ffff).into_bytes()
}

fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(16_000, b'c');
    value
}

/// Which round deletes the key; a part of each flush goes in each of them.
fn deleted_in(n: u64) -> u64 {
    n % 5
}

/// What is there after so many of the scenario's writes: first the rounds, then puts.
fn model(writes: u64) -> Map {
    let lives = |n: &u64| deleted_in(*n) >= writes.min(ROUNDS);
    let later = (KEYS..).take(usize::try_from(writes.saturating_sub(ROUNDS)).unwrap());
    (0..KEYS).filter(lives).chain(later).map(|n| (key(n), value(n))).collect()
}

fn prepared() -> SimDevice {
    let device = SimDevice::new(VOLUME);
    let db = support::create(&device, &support::options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    for n in 0..KEYS {
        kvs.put(&key(n), &value(n), Durability::Off).unwrap();
    }
    db.flush().unwrap();
    db.close().unwrap();
    device
}

/// Runs the scenario until the power goes; counts the writes that were acknowledged.
fn scenario(device: &SimDevice, acked: &mut u64) -> kvs::Result<f64> {
    let db = support::open(device, &support::options())?;
    let kvs = db.open_kvs("k")?;
    for round in 0..ROUNDS {
        let mut batch = db.batch();
        for n in (0..KEYS).filter(|n| deleted_in(*n) == round) {
            batch.delete(&kvs, &key(n))?;
        }
        db.write(batch, Durability::Sync)?;
        *acked += 1;
        db.flush()?;
        db.compact()?;
    }
    for n in KEYS..KEYS + LATER {
        kvs.put(&key(n), &value(n), Durability::Sync)?;
        *acked += 1;
    }
    let collections = collections(&db);
    db.close()?;
    Ok(collections)
}

/// Compactions that collected garbage by the vblock.
fn collections(db: &Database) -> f64 {
    let mut count = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == "compactions_total" && sample.labels.contains(&("action", "collect")) {
            count += sample.value.number().unwrap();
        }
    });
    count
}

fn contents(db: &Database) -> kvs::Result<Map> {
    let kvs = db.open_kvs("k")?;
    let mut map = Map::new();
    for item in kvs.cursor(kvs::Range::default())? {
        let item = item?;
        map.insert(item.key.to_vec(), item.value.to_vec());
    }
    Ok(map)
}

fn check(prepared: &SimDevice, cut: u64, seed: u64) {
    let case = format!("CRASH={cut}:{seed}");
    let device = prepared.after_crash(0);
    device.cut_at(cut);
    let mut acked = 0;
    let done = scenario(&device, &mut acked);
    let device = device.after_crash(seed);
    let db = support::open(&device, &support::options())
        .unwrap_or_else(|error| panic!("{case}: {acked} acknowledged, recovery failed: {error:?}"));
    let found = contents(&db).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let most = acked + u64::from(done.is_err());
    let whole = (acked..=most).any(|writes| found == model(writes));
    assert!(whole, "{case}: {acked} acknowledged, {} keys found", found.len());
    // Life goes on: what was begun is done again, and a reopen finds the same.
    db.compact().unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert!(contents(&db).unwrap() == found, "{case}: a compaction changed something");
    db.close().unwrap();
    drop(db);
    let db = support::open(&device, &support::options()).unwrap();
    assert!(contents(&db).unwrap() == found, "{case}: second recovery differs");
}

#[test]
fn what_lives_beside_garbage_survives_a_power_cut_at_every_call() {
    let prepared = prepared();
    if let Ok(case) = std::env::var("CRASH") {
        let (cut, seed) = case.split_once(':').expect("CRASH=<cut>:<seed>");
        return check(&prepared, cut.parse().unwrap(), seed.parse().unwrap());
    }
    let device = prepared.after_crash(0);
    let mut acked = 0;
    let collections = scenario(&device, &mut acked).unwrap();
    assert!(collections >= 3.0, "each round collects: {collections}");
    assert_eq!(acked, ROUNDS + LATER);
    println!("{collections} collections, {} calls", device.calls());
    (0..device.calls()).for_each(|cut| check(&prepared, cut, cut));
}
