//! What the value cache has learned outlives a clean restart, and nothing depends on it.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Kvs, Options};
use mpool::{Device, MblockId, ScrubOptions, ScrubTarget};
use mpool_sim::SimDevice;
use std::collections::BTreeSet;
use support::Rng;

/// Records of half a KiB, of which the cache holds an eighth.
const KEYS: u64 = 32_000;
const HOT: u64 = 1_000;

fn options() -> Options {
    Options { value_cache_bytes: Some(4 << 20), ..support::options() }
}

fn key(n: u64) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn ask(kvs: &Kvs, n: u64) {
    let entry = kvs.get(&key(n)).unwrap().expect("it was put");
    assert_eq!(entry.value[..8], n.to_le_bytes());
}

fn metric(db: &Database, name: &str) -> f64 {
    let mut found = None;
    db.visit_metrics(&mut |sample| {
        if sample.name == name {
            found = sample.value.number();
        }
    });
    found.unwrap_or_else(|| panic!("there is no metric {name}"))
}

/// A database whose cache has seen that the first thousand keys are asked for ten times as often as
/// the others. Returns the ids of its mblocks before it was closed.
fn learn(device: &SimDevice, options: &Options) -> BTreeSet<MblockId> {
    let db = support::create(device, options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let mut rng = Rng(1);
    for n in 0..KEYS {
        let value = [&n.to_le_bytes()[..], &rng.bytes(500)].concat();
        kvs.put(&key(n), &value, Durability::Off).unwrap();
    }
    db.flush().unwrap();
    for n in 0..KEYS {
        ask(&kvs, n);
        for m in 0..10 {
            ask(&kvs, (n * 10 + m) % HOT);
        }
    }
    let mblocks = db.pool().mblock_ids().into_iter().collect();
    db.close().unwrap();
    mblocks
}

/// Asks for cold keys until the cache is full of them, then twice for each hot one; returns how
/// many of the second requests it answered.
fn hot_hits(db: &Database) -> u64 {
    let kvs = db.open_kvs("k").unwrap();
    (KEYS / 2..KEYS).for_each(|n| ask(&kvs, n));
    (0..HOT).for_each(|n| ask(&kvs, n));
    let before = metric(db, "value_cache_hits_total");
    (0..HOT).for_each(|n| ask(&kvs, n));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let hits = (metric(db, "value_cache_hits_total") - before) as u64;
    hits
}

fn kept(db: &Database, known: &BTreeSet<MblockId>) -> Vec<MblockId> {
    db.pool().mblock_ids().into_iter().filter(|id| !known.contains(id)).collect()
}

#[test]
fn a_reopened_database_knows_its_hot_keys() {
    let device = SimDevice::new(1 << 30);
    let known = learn(&device, &options());
    let db = support::open(&device, &options()).unwrap();
    assert!(metric(&db, "value_cache_restored_bytes") > 0.0);
    let with = hot_hits(&db);
    assert!(with > HOT * 9 / 10, "{with} of {HOT}");
    let before = kept(&db, &known);
    assert!(!before.is_empty());

    // Too few lookups for newer counts: the old ones stay, also over an end without a close.
    db.close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(kept(&db, &known), before);

    // Newer counts take the place of the old ones.
    let kvs = db.open_kvs("k").unwrap();
    (0..3 * KEYS).for_each(|n| ask(&kvs, n % KEYS));
    db.close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    let after = kept(&db, &known);
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|id| !before.contains(id)), "{after:?} {before:?}");

    // A program that does not know of them deletes them.
    db.pool().commit(Vec::new(), &after).unwrap();
    drop(db);
    let db = support::open(&device, &options()).unwrap();
    assert!(metric(&db, "value_cache_restored_bytes") < 1.0);
    let without = hot_hits(&db);
    assert!(without < with / 2, "{without} hits without counts, {with} with them");
}

#[test]
fn damaged_counts_are_named_by_a_scrub_and_no_harm() {
    let device = SimDevice::new(1 << 30);
    let known = learn(&device, &options());
    let mut image = vec![0; usize::try_from(device.geometry().len_bytes).unwrap()];
    device.read_at(0, &mut image).unwrap();
    let at = image.windows(6).position(|bytes| bytes == b"MPFQ\x01\0").unwrap();
    device.flip_bit(at as u64 + 100, 5);
    let db = support::open(&device, &options()).unwrap();
    let [id] = kept(&db, &known)[..] else { panic!("one mblock holds them") };
    assert!(metric(&db, "value_cache_restored_bytes") < 1.0);
    let scrub = ScrubOptions { bytes_per_s: 0, from_start: true, ..ScrubOptions::default() };
    let findings = db.scrub(&scrub).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].target, ScrubTarget::Mblock(id));
    let owner = findings[0].owner.as_deref();
    assert_eq!(owner, Some("request counts of the value cache, which can do without"));
    // The next close replaces them, and the damage is gone.
    let kvs = db.open_kvs("k").unwrap();
    (0..3 * KEYS).for_each(|n| ask(&kvs, n % KEYS));
    db.close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    assert!(metric(&db, "value_cache_restored_bytes") > 0.0);
    assert_eq!(db.scrub(&scrub).unwrap().findings, []);
}

#[test]
fn a_cache_that_is_off_neither_keeps_nor_loses_counts() {
    let device = SimDevice::new(1 << 30);
    let known = learn(&device, &options());
    let off = Options { value_cache_bytes: Some(0), ..options() };
    let db = support::open(&device, &off).unwrap();
    let before = kept(&db, &known);
    let kvs = db.open_kvs("k").unwrap();
    (0..3 * KEYS).for_each(|n| ask(&kvs, n % KEYS));
    db.close().unwrap();
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(kept(&db, &known), before);
    assert!(hot_hits(&db) > HOT * 9 / 10);
}

#[test]
fn a_full_volume_keeps_the_old_counts() {
    let device = SimDevice::new(256 << 20);
    let known = learn(&device, &options());
    let db = support::open(&device, &options()).unwrap();
    let before = kept(&db, &known);
    let mut held = Vec::new();
    for len in [16 << 20, 1 << 20, 1] {
        while let Ok(writer) = db.pool().allocate(len, mpool::Priority::Flush) {
            held.push(writer);
        }
    }
    let kvs = db.open_kvs("k").unwrap();
    (0..3 * KEYS).for_each(|n| ask(&kvs, n % KEYS));
    db.close().unwrap();
    drop((held, kvs, db));
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(kept(&db, &known), before);
    assert!(metric(&db, "value_cache_restored_bytes") > 0.0);
}
