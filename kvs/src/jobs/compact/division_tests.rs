//! Leaves that are divided by the bytes of their values: what comes of it, and that a power cut at
//! any call leaves the leaf as it was or all of its parts.
//!
//! The plans are made here, as the picker makes them of leaves of gigabytes only.
//!
//! `CRASH=<cut>:<seed> cargo test -p millpond-kvs --lib division_tests::a_power_cut` replays one
//! case.

use super::job;
use crate::db::Database;
use crate::db::handle::Kvs;
use crate::error::Result;
use crate::iter::bounded::Range;
use crate::jobs::ledger::Progress;
use crate::key::{KvsId, KvsetId, NodeId, VALUE_BYTES_MAX};
use crate::options::{Durability, Options};
use crate::pick::{Action, NewLeaves, Plan, Why};
use crate::shape::tree::Tree;
use mpool::Pool;
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    let mut options = Options { background_threads: 0, ..Options::default() };
    options.pool.background = false;
    options.pool.grow_step_bytes = 16 << 20;
    options
}

fn key(n: usize) -> Vec<u8> {
    format!("key{n:06}").into_bytes()
}

fn value(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + n) % 251).unwrap()).collect()
}

/// A database with one leaf whose values have these lengths, in the order of their keys.
fn with_a_leaf(device: &SimDevice, lens: &[usize]) -> (Database, Kvs, Map) {
    let options = options();
    let pool = Pool::create(Arc::new(device.clone()), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let mut map = Map::new();
    for (n, len) in lens.iter().enumerate() {
        kvs.put(&key(n), &value(n, *len), Durability::Off).unwrap();
        map.insert(key(n), value(n, *len));
    }
    db.flush().unwrap();
    run(&db, kvs.id(), Action::Spill, NewLeaves { count: 1, value_bytes_max: u64::MAX }).unwrap();
    assert_eq!(tree(&db, kvs.id()).leaves.len(), 1);
    (db, kvs, map)
}

fn tree(db: &Database, kvs: KvsId) -> Arc<Tree> {
    db.store().shape.tree(kvs).unwrap()
}

/// Carries out a job on all of the root, or of the first leaf.
fn run(db: &Database, kvs: KvsId, action: Action, new_leaves: NewLeaves) -> Result<()> {
    let tree = tree(db, kvs);
    let (node, kvsets) = match tree.leaves.get(0) {
        Some(leaf) => (leaf.id, &leaf.kvsets),
        None => (NodeId::ROOT, &tree.root),
    };
    let inputs: Vec<KvsetId> = kvsets.iter().map(|kvset| kvset.meta().id).collect();
    let distinct_keys = kvsets.iter().map(|kvset| kvset.meta().keys).sum();
    let output_bytes = kvsets.iter().map(|kvset| kvset.meta().kblock_bytes).sum();
    let (why, vblocks) = (Why::LeafKeys, Vec::new());
    let new_leaves = Some(new_leaves);
    let plan = Plan { node, inputs, action, why, vblocks, distinct_keys, new_leaves, output_bytes };
    job::run(&db.work().jobs, kvs, &plan, &Progress::default())
}

/// Keys of each leaf, and bytes of their values in vblocks.
fn told(db: &Database, kvs: KvsId) -> Vec<(u64, u64)> {
    let tree = tree(db, kvs);
    let sum = |leaf: &crate::shape::tree::Leaf| {
        let metas = leaf.kvsets.iter().map(|kvset| kvset.meta());
        metas.fold((0, 0), |(keys, bytes), meta| (keys + meta.keys, bytes + meta.value_bytes))
    };
    tree.leaves.iter().map(sum).collect()
}

fn contents(kvs: &Kvs) -> Map {
    let items = kvs.cursor(Range::default()).unwrap();
    items.map(|item| item.unwrap()).map(|item| (item.key.to_vec(), item.value.to_vec())).collect()
}

/// Parts were as many keys each, so that one of them had nearly all bytes.
#[test]
fn a_leaf_is_divided_where_its_values_are_too_long_together() {
    const LONG: usize = 100_000;
    let mut lens = vec![10; 300];
    lens.extend([LONG; 20]);
    lens.extend([10; 80]);
    let (db, kvs, map) = with_a_leaf(&SimDevice::new(1 << 30), &lens);
    let split = |parts, value_bytes_max| {
        let new_leaves = NewLeaves { count: parts as u64, value_bytes_max };
        run(&db, kvs.id(), Action::Split { parts }, new_leaves).unwrap();
    };
    split(2, 700_000);
    // Two by keys, and of the second one three more by the bytes of 7, 7 and 6 values.
    let parts = told(&db, kvs.id());
    let keys: Vec<u64> = parts.iter().map(|(keys, _)| *keys).collect();
    assert_eq!(keys.iter().sum::<u64>(), 400);
    assert_eq!(keys.len(), 4, "{parts:?}");
    assert_eq!(keys[0], 200, "{parts:?}");
    assert!(parts.iter().all(|(_, bytes)| *bytes <= 7 * (LONG as u64 + 64)), "{parts:?}");
    assert_eq!(contents(&kvs), map);
}

#[test]
fn values_of_the_greatest_length_have_leaves_of_their_own_if_need_be() {
    let lens = [VALUE_BYTES_MAX; 5];
    let (db, kvs, map) = with_a_leaf(&SimDevice::new(1 << 30), &lens);
    let most = VALUE_BYTES_MAX as u64;
    // Two of them, and none: each has a leaf then.
    for (value_bytes_max, leaves) in [(2 * most + most / 2, 3), (most / 2, 4)] {
        let new_leaves = NewLeaves { count: 2, value_bytes_max };
        run(&db, kvs.id(), Action::Split { parts: 2 }, new_leaves).unwrap();
        assert_eq!(tree(&db, kvs.id()).leaves.len(), leaves);
        assert!(contents(&kvs) == map);
    }
    // A rewriting moves them all.
    for n in 0..5 {
        assert!(kvs.get(&key(n)).unwrap().unwrap().value == map[&key(n)]);
    }
    db.compact().unwrap();
    assert!(contents(&kvs) == map);
}

const LENS: [usize; 12] = [2000, 10, 2000, 2000, 10, 10, 6000, 2000, 10, 2000, 10, 10];
const PARTS: NewLeaves = NewLeaves { count: 2, value_bytes_max: 4500 };

/// The leaf is divided; the power goes at some call.
fn scenario(device: &SimDevice) -> Result<()> {
    let options = options();
    let pool = Pool::open(Arc::new(device.clone()), &options.pool)?;
    let db = Database::open_pool(pool, options)?;
    let kvs = db.open_kvs("k")?;
    run(&db, kvs.id(), Action::Split { parts: 2 }, PARTS)?;
    db.close()
}

fn check(prepared: &SimDevice, map: &Map, cut: u64, seed: u64) -> usize {
    let case = format!("CRASH={cut}:{seed}");
    let device = prepared.after_crash(0);
    device.cut_at(cut);
    let done = scenario(&device);
    let device = device.after_crash(seed);
    let options = options();
    let pool = Pool::open(Arc::new(device), &options.pool).unwrap();
    let db = Database::open_pool(pool, options).unwrap();
    let kvs = db.open_kvs("k").unwrap();
    assert!(contents(&kvs) == *map, "{case}: {done:?}");
    let parts = told(&db, kvs.id());
    assert!(parts.len() == 1 || parts.len() == 4, "{case}: {parts:?}");
    kvs.put(b"later", b"v", Durability::Sync).unwrap();
    db.flush().unwrap();
    run(&db, kvs.id(), Action::Split { parts: 2 }, PARTS).unwrap();
    assert_eq!(contents(&kvs).len(), map.len() + 1, "{case}");
    parts.len()
}

#[test]
#[allow(clippy::print_stdout, reason = "says how many calls there were")]
fn a_power_cut_leaves_the_leaf_or_all_of_its_parts() {
    let device = SimDevice::new(256 << 20);
    let (db, kvs, map) = with_a_leaf(&device, &LENS);
    db.close().unwrap();
    drop((kvs, db));
    if let Ok(case) = std::env::var("CRASH") {
        let (cut, seed) = case.split_once(':').expect("CRASH=<cut>:<seed>");
        check(&device, &map, cut.parse().unwrap(), seed.parse().unwrap());
        return;
    }
    let whole = device.after_crash(0);
    scenario(&whole).unwrap();
    let found: Vec<usize> = (0..whole.calls()).map(|cut| check(&device, &map, cut, cut)).collect();
    println!("{} calls", found.len());
    assert!(found.contains(&1), "{found:?}");
    assert!(found.contains(&4), "{found:?}");
}
