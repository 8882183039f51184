//! The value cache: records in user memory, in front of the index.
//!
//! It holds the newest kvset-level version of hot keys; memtables are asked before it. Entries are
//! named by (KVS, key), not by place, so they outlive compaction. A hit costs one short lock, one
//! bucket, one key comparison, and a copy of the value.
//!
//! ```text
//!  hash   |6 bits: shard|                        |32 bits: tag in the shard's table|
//! ```
//!
//! | part | what |
//! |---|---|
//! | this file | sharding, the staleness protocol, the budget |
//! | `shard` | entries of one lock |
//! | `record`, `slab` | their memory, which goes back to the kernel when the cache shrinks |
//! | `table` | hash table |
//! | `policy` | who enters and who leaves |
//! | `ghost` | what a larger cache would still hold |
//! | `sketch` | how often keys were asked for that are not here |
//!
//! # Staleness
//!
//! Every view of the database has an epoch, raised by each memtable flush. A flush calls
//! [`ValueCache::begin_flush`] with the new epoch, then [`ValueCache::refresh`] for each flushed
//! key, then publishes the view that has the new kvset in the memtable's place. A reader inserts
//! what it found under its view's epoch. So a value found in an old view, which the flush may have
//! outdated, is refused from the moment that the flush began, and one that came before is met by
//! `refresh`. A reader of the new view never meets an entry older than what was flushed.
//!
//! # Memory
//!
//! An entry is charged what it takes: its chunks or its record with the allocator's overhead, and
//! the capacity of all arrays. The memory governor reads it and sets the target.
//! A lower target evicts at once, a few hundred entries at a hold of each lock. A target of 0,
//! which the reaper's policies `mpool` and `off` set, empties the cache and lets nothing in. Values
//! over [`VALUE_BYTES_MAX`], or over a 64th of a shard, are not cached.

mod ghost;
mod policy;
mod record;
mod shard;
mod sketch;
mod slab;
mod table;

use crate::key::{KvsId, Revision};
use crate::metrics::{MetricKind, Sample, emit};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use record::Incoming;
use shard::{Name, Shard, Stats};
pub(crate) use sketch::Sketch;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARD_BITS: u32 = 6;
/// Shards, each with a lock and a sketch of its own.
pub(crate) const SHARDS: usize = 1 << SHARD_BITS;
/// Longest record that is cached, key and value.
const VALUE_BYTES_MAX: usize = 256 << 10;
/// A record takes at most this part of its shard.
const SHARD_PART: u64 = 64;

/// A shard on cache lines of its own, and its memory as last seen under the lock.
#[repr(align(128))]
#[derive(Default)]
struct Place {
    shard: Mutex<Shard>,
    bytes: AtomicU64,
}

/// The cache. Shared by all readers, all KVSs.
pub(crate) struct ValueCache {
    places: Box<[Place]>,
    target_bytes: AtomicU64,
    restored_bytes: AtomicU64,
}

/// The lock on a shard; on release it tells the shard's memory.
struct Held<'a> {
    shard: MutexGuard<'a, Shard>,
    bytes: &'a AtomicU64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Relaxed: a gauge, exact whenever nobody holds the lock.
        self.bytes.store(self.shard.bytes(), Ordering::Relaxed);
    }
}

impl Place {
    fn hold(&self) -> Held<'_> {
        Held { shard: self.shard.lock(), bytes: &self.bytes }
    }

    /// Whether a record of `len` bytes fits without an eviction, with a sixteenth to spare: arrays
    /// grow in steps.
    fn has_room(&self, len: usize, budget: u64) -> bool {
        // Relaxed: a gauge; a record too many is evicted by the next insert.
        self.bytes.load(Ordering::Relaxed) + record::charge(len, budget) <= budget - budget / 16
    }
}

impl ValueCache {
    /// An empty cache that may take `capacity_bytes`.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let places = (0..SHARDS).map(|_| Place::default()).collect();
        let target_bytes = AtomicU64::new(capacity_bytes);
        Self { places, target_bytes, restored_bytes: AtomicU64::new(0) }
    }

    /// The cached version of a key. None also when it is newer than `at`.
    pub(crate) fn get(
        &self,
        kvs: KvsId,
        key: &[u8],
        hash: u64,
        at: Revision,
    ) -> Option<(Bytes, Revision)> {
        // A hit changes no sizes, so the lock need not tell them.
        self.place(hash).shard.lock().get(Name { kvs, key, hash }, at)
    }

    /// Offers what a reader of a view of `epoch` found in a kvset. Refused if a flush has begun
    /// since.
    #[expect(
        clippy::too_many_arguments,
        reason = "a name, a version and an epoch, all in use once"
    )]
    pub(crate) fn insert(
        &self,
        epoch: u64,
        kvs: KvsId,
        key: &[u8],
        hash: u64,
        value: &Bytes,
        revision: Revision,
    ) {
        let name = Name { kvs, key, hash };
        let len = key.len() + value.len();
        let budget = self.shard_budget();
        if !fits(len, budget) {
            return;
        }
        let place = self.place(hash);
        if !place.hold().shard.wants(epoch, name, len, budget) {
            return;
        }
        // Outside the lock, where it copies a long value; the epoch counts when it is entered.
        let record = Incoming::new(key, value, revision, budget);
        place.hold().shard.insert(epoch, name, record, budget);
    }

    /// Before the first `refresh` of a flush: inserts of earlier epochs are refused from now on.
    pub(crate) fn begin_flush(&self, epoch: u64) {
        for place in &self.places {
            place.shard.lock().raise_epoch(epoch);
        }
    }

    /// The flush has failed, and views keep this epoch. What `refresh` has entered is newer than
    /// what kvsets hold, and stays: readers find the same in the memtable before, and the next try
    /// refreshes it again.
    pub(crate) fn cancel_flush(&self, epoch: u64) {
        for place in &self.places {
            place.shard.lock().lower_epoch(epoch);
        }
    }

    /// A flushed key: if it is cached it is replaced (and stays as hot as it is), or removed by a
    /// tombstone. If it is not, it enters where there is free room, so that a data set that fits in
    /// memory is served from memory without a first read of each value; it displaces nobody.
    #[expect(clippy::too_many_arguments, reason = "a name and a version, as in `insert`")]
    pub(crate) fn refresh(
        &self,
        kvs: KvsId,
        key: &[u8],
        hash: u64,
        value: Option<&[u8]>,
        revision: Revision,
    ) {
        let name = Name { kvs, key, hash };
        let place = self.place(hash);
        let budget = self.shard_budget();
        let value = value.filter(|value| fits(key.len() + value.len(), budget));
        // None can enter between the locks: this epoch has no readers yet.
        let cached = place.shard.lock().revision(name);
        match (cached, value) {
            (Some(cached), _) if cached >= revision => {}
            (Some(_), Some(value)) => {
                let record = Incoming::new(key, value, revision, budget);
                place.hold().shard.refresh(name, record);
            }
            (Some(_), None) => place.hold().shard.forget(name, revision),
            (None, Some(value)) if place.has_room(key.len() + value.len(), budget) => {
                let record = Incoming::new(key, value, revision, budget);
                place.hold().shard.warm(name, record);
            }
            (None, _) => {}
        }
    }

    /// Whether it is in use, and was asked `lookups_min` times at least.
    pub(crate) fn has_learned(&self, lookups_min: u64) -> bool {
        let lookups = |place: &Place| {
            let stats = place.shard.lock().stats;
            stats.hits + stats.misses
        };
        let in_use = self.target_bytes.load(Ordering::Relaxed) > 0;
        in_use && self.places.iter().map(lookups).sum::<u64>() >= lookups_min
    }

    /// How often the keys of a shard were asked for.
    pub(crate) fn frequencies(&self, shard: usize) -> Sketch {
        self.places[shard].shard.lock().frequencies()
    }

    /// Gives a shard, before its first record, what [`frequencies`](Self::frequencies) said.
    pub(crate) fn restore(&self, shard: usize, frequencies: Sketch) {
        self.places[shard].hold().shard.restore(frequencies);
    }

    /// How much was restored, for the metric.
    pub(crate) fn note_restored(&self, bytes: u64) {
        self.restored_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Shows the counters and gauges.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let mut all = Stats::default();
        let mut entries = 0;
        for place in &self.places {
            let shard = place.shard.lock();
            all.add(shard.stats);
            entries += u64::try_from(shard.len()).expect("counts fit 64 bits");
        }
        let target = self.target_bytes.load(Ordering::Relaxed);
        let bytes = mpool::MemoryConsumer::used_bytes(self);
        let mut show = |name, help, kind, value| emit(see, kind, (name, help), &[], value);
        let counter = MetricKind::Counter;
        show("value_cache_hits_total", "Lookups answered by the value cache.", counter, all.hits);
        show("value_cache_misses_total", "Lookups not in the value cache.", counter, all.misses);
        show("value_cache_inserts_total", "Records that entered.", counter, all.inserts);
        let help = "Records not let in: asked for too seldom, or read before a flush.";
        show("value_cache_refused_total", help, counter, all.refused);
        show("value_cache_evictions_total", "Records evicted.", counter, all.evictions);
        let help = "Cached records replaced or dropped by a flushed version.";
        show("value_cache_refreshes_total", help, counter, all.refreshes);
        let marginal = mpool::MemoryConsumer::marginal_hits(self).unwrap_or_default();
        let help = "Misses that a slightly larger value cache would have answered.";
        show("value_cache_ghost_hits_total", help, counter, marginal.hits);
        let gauge = MetricKind::Gauge;
        let restored = self.restored_bytes.load(Ordering::Relaxed);
        let help = "Request counts kept by the last clean close and read at open.";
        show("value_cache_restored_bytes", help, gauge, restored);
        let help = "How much larger, by the names remembered.";
        show("value_cache_ghost_bytes", help, gauge, marginal.ghost_bytes);
        show("value_cache_entries", "Records held.", gauge, entries);
        show("value_cache_bytes", "Memory held, with overhead.", gauge, bytes);
        show("value_cache_target_bytes", "Memory granted.", gauge, target);
    }

    fn place(&self, hash: u64) -> &Place {
        let shard = usize::try_from(hash >> (u64::BITS - SHARD_BITS)).expect("shifted to 6 bits");
        &self.places[shard]
    }

    fn shard_budget(&self) -> u64 {
        // Relaxed: a limit that takes effect soon.
        self.target_bytes.load(Ordering::Relaxed) >> SHARD_BITS
    }
}

fn fits(len: usize, shard_budget: u64) -> bool {
    len <= VALUE_BYTES_MAX && record::charge(len, shard_budget) <= shard_budget / SHARD_PART
}

impl mpool::MemoryConsumer for ValueCache {
    fn name(&self) -> &'static str {
        "value_cache"
    }

    fn used_bytes(&self) -> u64 {
        self.places.iter().map(|place| place.bytes.load(Ordering::Relaxed)).sum()
    }

    fn set_target_bytes(&self, bytes: u64) {
        // Relaxed: the locks below order it before the evictions.
        self.target_bytes.store(bytes, Ordering::Relaxed);
        let budget = self.shard_budget();
        for place in &self.places {
            while !place.hold().shard.shrink(budget) {}
        }
    }

    fn marginal_hits(&self) -> Option<mpool::MarginalHits> {
        let mut sum = mpool::MarginalHits::default();
        for place in &self.places {
            let (hits, ghost_bytes) = place.shard.lock().marginal();
            sum.hits += hits;
            sum.ghost_bytes += ghost_bytes;
        }
        Some(sum)
    }

    fn weight(&self) -> u32 {
        1
    }
}

impl Stats {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.inserts += other.inserts;
        self.refused += other.refused;
        self.evictions += other.evictions;
        self.refreshes += other.refreshes;
    }
}

#[cfg(test)]
mod stale;
#[cfg(test)]
mod tests;
