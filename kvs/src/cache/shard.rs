//! One shard of the value cache: entries under one lock.
//!
//! ```text
//!  table    tag -> slot number           8 bytes a bucket
//!  slots    kvs, hash, revision, record  64 bytes a slot
//!  counts   how often, by slot           1 byte (policy.rs)
//!  ghosts   tags of what was evicted     1/2 byte an entry (ghost.rs)
//!  record   key and value, one buffer    reference-counted
//! ```
//!
//! A hit reads one bucket, one slot, the key at the front of the record, and one counter. What it
//! hands out is another reference to the record.
//!
//! The memory charged is what the shard takes from the allocator: records with the allocator's
//! rounding, and the capacity of every array.

use super::ghost::Ghosts;
use super::policy::Policy;
use super::table::{Table, tag_of};
use crate::key::{KvsId, Revision};
use bytes::{Buf, Bytes};

/// Entries that one hold of the lock evicts at most, unless an insert needs the room.
pub(crate) const EVICT_STEP: usize = 256;
/// Slots below which arrays are not worth shrinking.
const SLOTS_MIN: usize = 64;
/// What the arrays take for each entry once they fit: slot, two buckets, counter, sketch.
const ARRAY_BYTES: u64 = 64 + 16 + 1 + 32;
/// The block of a `Bytes` that counts references: three words and the allocator's head.
const SHARED_BYTES: u64 = 32;

/// What is counted under the lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) inserts: u64,
    pub(crate) refused: u64,
    pub(crate) evictions: u64,
    pub(crate) refreshes: u64,
}

/// A key as the cache knows it.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) kvs: KvsId,
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
}

/// Key and value in one buffer.
pub(crate) struct Record {
    bytes: Bytes,
    key_len: u16,
    revision: Revision,
}

impl Record {
    /// Copies both, so that the cache holds no larger buffer alive through the value.
    pub(crate) fn new(key: &[u8], value: &[u8], revision: Revision) -> Self {
        // One byte to spare: a full buffer would grow its reference count at the first hit, not
        // now.
        let mut bytes = Vec::with_capacity(key.len() + value.len() + 1);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        let key_len = u16::try_from(key.len()).expect("keys are under 1,345 bytes");
        Self { bytes: bytes.into(), key_len, revision }
    }

    fn value(&self) -> Bytes {
        let mut value = self.bytes.clone();
        value.advance(usize::from(self.key_len));
        value
    }

    fn charge(&self) -> u64 {
        charge(self.bytes.len())
    }
}

/// Memory that a record of `len` bytes takes: rounded up to 16 with a head of 8, and its reference
/// count.
pub(crate) fn charge(len: usize) -> u64 {
    let len = u64::try_from(len).expect("lengths fit 64 bits");
    (len + 1 + 8).next_multiple_of(16).max(32) + SHARED_BYTES
}

struct Slot {
    record: Record,
    hash: u64,
    kvs: KvsId,
}

const _: () = assert!(size_of::<Slot>() <= 64);

/// Entries, and who of them stays.
#[derive(Default)]
pub(crate) struct Shard {
    epoch: u64,
    table: Table,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    policy: Policy,
    ghosts: Ghosts,
    record_bytes: u64,
    pub(crate) stats: Stats,
}

const _: () = assert!(size_of::<Option<Slot>>() <= 64);

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit an address")
}

impl Shard {
    /// The value, if the entry is not newer than `at`.
    pub(crate) fn get(&mut self, name: Name<'_>, at: Revision) -> Option<(Bytes, Revision)> {
        let found = self.find(name).filter(|&slot| self.record(slot).revision <= at);
        let Some(slot) = found else {
            self.stats.misses += 1;
            return None;
        };
        self.stats.hits += 1;
        self.policy.hit(slot);
        let record = self.record(slot);
        Some((record.value(), record.revision))
    }

    /// Whether a record of `len` bytes is wanted under this name. Counts the key.
    pub(crate) fn wants(&mut self, epoch: u64, name: Name<'_>, len: usize, budget: u64) -> bool {
        if epoch < self.epoch {
            self.stats.refused += 1;
            return false;
        }
        if self.find(name).is_some() {
            return true;
        }
        self.ghosts.missed(tag_of(name.hash));
        let count = self.policy.missed(name.hash);
        let need = charge(len);
        if self.bytes() + need <= budget {
            return true;
        }
        let wanted = self.policy.victim().is_some_and(|victim| {
            // Hits a byte: a large record must be worth all that leave for it.
            u64::from(count) * self.record(victim.slot).charge() > u64::from(victim.count) * need
        });
        self.stats.refused += u64::from(!wanted);
        wanted
    }

    /// Enters a record unless the epoch has passed or the entry is newer. Others leave for it.
    pub(crate) fn insert(&mut self, epoch: u64, name: Name<'_>, record: Record, budget: u64) {
        if epoch < self.epoch {
            self.stats.refused += 1;
            return;
        }
        if let Some(slot) = self.find(name) {
            if self.record(slot).revision < record.revision {
                self.replace(slot, record);
            }
            return;
        }
        if !self.make_room(record.charge(), budget) {
            self.stats.refused += 1;
            return;
        }
        self.stats.inserts += 1;
        self.add(name, record);
    }

    /// From now on inserts of an earlier epoch are refused.
    pub(crate) fn raise_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Revision of the version that is cached.
    pub(crate) fn revision(&self, name: Name<'_>) -> Option<Revision> {
        self.find(name).map(|slot| self.record(slot).revision)
    }

    /// Enters a flushed version of a name that is not cached, into free room.
    pub(crate) fn warm(&mut self, name: Name<'_>, record: Record) {
        assert!(self.find(name).is_none(), "asked for under the flush's epoch");
        self.stats.inserts += 1;
        self.add(name, record);
    }

    /// Puts a newer version in the place of an older one that is cached.
    pub(crate) fn refresh(&mut self, name: Name<'_>, record: Record) {
        if let Some(slot) = self.find(name)
            && self.record(slot).revision < record.revision
        {
            self.stats.refreshes += 1;
            self.replace(slot, record);
        }
    }

    /// Removes a version older than `revision`.
    pub(crate) fn forget(&mut self, name: Name<'_>, revision: Revision) {
        if let Some(slot) = self.find(name)
            && self.record(slot).revision < revision
        {
            self.stats.refreshes += 1;
            self.remove(slot);
        }
    }

    /// Evicts some entries; true when what is left fits `budget`.
    pub(crate) fn shrink(&mut self, budget: u64) -> bool {
        for _ in 0..EVICT_STEP {
            let entries = u64::try_from(self.len()).expect("counts fit 64 bits");
            if self.record_bytes + entries * ARRAY_BYTES <= budget || self.bytes() <= budget {
                self.release_arrays(budget);
                return true;
            }
            self.evict();
        }
        false
    }

    /// Requests that a little more memory would have answered, and how much that is.
    pub(crate) fn marginal(&self) -> (u64, u64) {
        let entries = u64::try_from(self.len()).expect("counts fit 64 bits");
        let ghosts = u64::try_from(self.ghosts.len()).expect("counts fit 64 bits");
        let mean = (self.record_bytes + entries * ARRAY_BYTES) / entries.max(1);
        (self.ghosts.hits(), ghosts * mean)
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let arrays = self.slots.capacity() * size_of::<Option<Slot>>()
            + self.free.capacity() * size_of::<u32>()
            + self.table.bytes()
            + self.policy.bytes()
            + self.ghosts.bytes();
        self.record_bytes + u64::try_from(arrays).expect("memory fits 64 bits")
    }

    fn find(&self, name: Name<'_>) -> Option<u32> {
        self.table.find(tag_of(name.hash), |slot| {
            let slot = self.slots[index(slot)].as_ref().expect("the table names slots in use");
            slot.kvs == name.kvs
                && usize::from(slot.record.key_len) == name.key.len()
                && slot.record.bytes.starts_with(name.key)
        })
    }

    fn record(&self, slot: u32) -> &Record {
        &self.slots[index(slot)].as_ref().expect("the slot is in use").record
    }

    fn add(&mut self, name: Name<'_>, record: Record) {
        self.record_bytes += record.charge();
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots.len() == self.slots.capacity() {
                // By half, not to twice: the capacity is charged.
                self.slots.reserve_exact(self.slots.len() / 2 + 16);
            }
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a shard has under 4 G entries")
        });
        self.slots[index(slot)] = Some(Slot { record, hash: name.hash, kvs: name.kvs });
        self.table.insert(tag_of(name.hash), slot);
        self.policy.occupy(slot, name.hash);
    }

    fn replace(&mut self, slot: u32, record: Record) {
        let entry = self.slots[index(slot)].as_mut().expect("the slot is in use");
        self.record_bytes = self.record_bytes - entry.record.charge() + record.charge();
        entry.record = record;
    }

    fn remove(&mut self, slot: u32) {
        let entry = self.slots[index(slot)].take().expect("the slot is in use");
        self.record_bytes -= entry.record.charge();
        self.table.remove(tag_of(entry.hash), slot);
        self.policy.vacate(slot, entry.hash);
        self.free.push(slot);
    }

    fn evict(&mut self) -> bool {
        let Some(victim) = self.policy.victim() else { return false };
        self.stats.evictions += 1;
        let entry = self.slots[index(victim.slot)].as_ref().expect("a victim's slot is in use");
        let tag = tag_of(entry.hash);
        self.ghosts.evicted(tag, self.len());
        self.remove(victim.slot);
        true
    }

    /// Evicts until `need` more fits, within bounds: a target that has just fallen far is
    /// `shrink`'s.
    fn make_room(&mut self, need: u64, budget: u64) -> bool {
        for _ in 0..EVICT_STEP {
            if self.bytes() + need <= budget {
                return true;
            }
            if !self.evict() {
                return false;
            }
        }
        false
    }

    /// Gives back arrays that have become too large for the budget or for what is in them.
    fn release_arrays(&mut self, budget: u64) {
        let sparse = self.len() * 2 < self.slots.len();
        if self.slots.len() < SLOTS_MIN || !(sparse || self.bytes() > budget) {
            return;
        }
        let entries: Vec<_> = std::mem::take(&mut self.slots);
        for (slot, entry) in (0..).zip(&entries) {
            if let Some(entry) = entry {
                self.policy.vacate(slot, entry.hash);
            }
        }
        let live = entries.len() - self.free.len();
        self.free = Vec::new();
        self.table.reset(live);
        self.policy.renumber(live);
        self.slots.reserve_exact(live);
        for (slot, entry) in (0..).zip(entries.into_iter().flatten()) {
            self.table.insert(tag_of(entry.hash), slot);
            self.policy.occupy(slot, entry.hash);
            self.slots.push(Some(entry));
        }
    }
}
