//! Whole kvsets on the simulated device, against a sorted map.
//!
//! Everything random comes from a seed, and every assertion names it: replay one with
//! `MILLPOND_SEED=<seed> cargo test -p millpond-kvs kvset`.

mod budget;
mod corruption;
mod cursor;
mod lookup;
mod mapped;
mod measure;
mod open;

use super::builder::ObjectSizes;
use super::{Blocking, Passed, Probe, Resident};
use super::{BuildOptions, BuiltKvset, IndexPart, Kvset, KvsetBuilder, SharedValue};
use crate::entry::op::Op;
use crate::key::{KEY_BYTES_MAX, KvsId, KvsetId, Revision, key_hash};
use mpool::{Class, Pool, Priority};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use std::sync::Arc;

const KVS: KvsId = KvsId::new(5);
const WHOLE: ObjectSizes = ObjectSizes { kblock_bytes_max: 32 << 20, vblock_bytes_max: 32 << 20 };
const SMALL: ObjectSizes = ObjectSizes { kblock_bytes_max: 128 << 10, vblock_bytes_max: 256 << 10 };

/// What a key holds; `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    revision: Revision,
    value: Option<Vec<u8>>,
}

type Model = BTreeMap<Vec<u8>, Held>;

/// The seeds of a test: `count` of them, or the one that is to be replayed.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MILLPOND_SEED") {
        Ok(seed) => vec![seed.parse().expect("MILLPOND_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// The generator `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Few letters and a few long common beginnings, so that keys share prefixes of all lengths.
    fn key(&mut self) -> Vec<u8> {
        let len = match self.below(10) {
            0 => KEY_BYTES_MAX,
            1 => 1 + self.below(KEY_BYTES_MAX),
            2..=4 => 1 + self.below(4),
            _ => 1 + self.below(40),
        };
        let common = if self.below(2) == 0 { 0 } else { self.below(len) };
        let letters = if self.below(3) == 0 { 256 } else { 3 };
        let letter =
            |random: &mut Self| b'a'.wrapping_add(random.below(letters).try_into().unwrap());
        let mut key = vec![b'b'; common];
        key.extend((common..len).map(|_| letter(self)));
        key
    }

    fn held(&mut self) -> Held {
        let len = match self.below(20) {
            0 => 0,
            1 => self.below(20_000),
            2..=8 => self.below(64),
            _ => self.below(1200),
        };
        let value = (self.below(8) != 0).then(|| self.bytes(len));
        let revision = if self.below(50) == 0 { self.next() >> 1 } else { self.next() % 100_000 };
        Held { revision: Revision::new(revision), value }
    }

    fn model(&mut self, keys: usize) -> Model {
        (0..keys).map(|_| (self.key(), self.held())).collect()
    }
}

fn new_pool() -> (SimDevice, Arc<Pool>) {
    let device = SimDevice::new(1 << 30);
    let options = mpool::Options { grow_step_bytes: 16 << 20, ..mpool::Options::default() };
    let pool = Pool::create(Arc::new(device.clone()), &options).unwrap();
    (device, pool)
}

fn options(inline_bytes_max: usize, keys_hint: u64) -> BuildOptions {
    let priority = Priority::Flush;
    BuildOptions {
        id: KvsetId::new(77),
        kvs: KVS,
        keys: priority.into(),
        values: priority.into(),
        inline_bytes_max,
        index_bytes_hint: keys_hint.saturating_mul(3200),
        value_bytes_hint: u64::MAX,
        object_bytes_max: 32 << 20,
    }
}

fn build(pool: &Arc<Pool>, model: &Model, sizes: ObjectSizes) -> Option<BuiltKvset> {
    let mut builder = KvsetBuilder::with_sizes(pool, options(256, model.len() as u64), sizes);
    for (key, held) in model {
        let value = held.value.as_deref().map_or(Op::Tombstone, Op::Inline);
        builder.add(key, held.revision, value).unwrap();
    }
    assert_eq!(builder.keys(), model.len() as u64);
    builder.finish().unwrap()
}

fn commit(pool: &Arc<Pool>, built: BuiltKvset) -> Arc<Kvset> {
    let BuiltKvset { meta, writers } = built;
    pool.commit(writers, &[]).unwrap();
    let kvset = Kvset::open(pool, meta.hblock, Class::Hot, Class::Warm).unwrap();
    assert_eq!(*kvset.meta(), meta);
    kvset
}

fn build_and_open(pool: &Arc<Pool>, model: &Model) -> Arc<Kvset> {
    commit(pool, build(pool, model, SMALL).unwrap())
}

fn hash(key: &[u8]) -> u64 {
    key_hash(KVS, key)
}

fn probe(kvset: &Kvset, key: &[u8]) -> crate::Result<Probe> {
    kvset.probe(key, hash(key), &Blocking(|_: Passed<'_>| {}))
}

fn try_probe(kvset: &Kvset, key: &[u8]) -> crate::Result<Probe> {
    kvset.probe(key, hash(key), &Resident(|_: Passed<'_>| {}))
}
