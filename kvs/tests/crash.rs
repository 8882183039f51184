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

use kvs::{CompactionRequest, Durability, Options};
use mpool_sim::SimDevice;
use support::batches::{Map, apply, batches_in, contents, write};

/// Batches of the workload. Every 7th is followed by a flush, every 21st by a compaction, every
/// 45th by one that is asked for.
const BATCHES: u64 = 90;

fn options() -> Options {
    Options { value_cache_bytes: Some(64 << 10), ..support::options() }
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
        if n % 45 == 44 {
            db.start_compaction(CompactionRequest::default())?.wait()?;
        }
    }
    db.close()
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
    let survived = batches_in(&found, least, BATCHES);
    let most = if done.is_ok() { acked } else { acked + 1 };
    assert!(
        survived.is_some_and(|n| n <= most),
        "{case}: {acked} acknowledged, found {survived:?}"
    );
    if db.open_kvs("a").is_err() || db.open_kvs("b").is_err() {
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
    assert_eq!(batches_in(&maps, 5, BATCHES), Some(10));
    assert_eq!(batches_in(&maps, 11, BATCHES), None, "ten batches are not eleven");
    let key = maps[0].keys().next().unwrap().clone();
    maps[0].remove(&key);
    assert_eq!(batches_in(&maps, 0, BATCHES), None, "a missing key is noticed");
}
