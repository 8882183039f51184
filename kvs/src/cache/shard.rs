//! One shard of the value cache: entries under one lock.
//!
//! ```text
//!  table    tag -> slot number             8 bytes a bucket
//!  slots    kvs, hash, revision, where     48 bytes a slot
//!  counts   how often, by slot             1 byte (policy.rs)
//!  ghosts   tags of what was evicted       1/2 byte an entry (ghost.rs)
//!  slab     key and value, side by side    a place in a chunk (slab.rs)
//! ```
//!
//! A hit reads one bucket, one slot, the key at the front of the record, and one counter, and
//! copies the value out. So places are the shard's alone, and memory that the cache gives up goes
//! back to the kernel at once, whoever still has a value in hand.
//!
//! The memory charged is what the shard takes: chunks, records outside of them with the allocator's
//! rounding, and the capacity of every array.

use super::ghost::Ghosts;
use super::policy::Policy;
use super::record::{Body, Incoming, Record, charge, in_slab, own_charge};
use super::sketch::Sketch;
use super::slab::{self, Place, Slab};
use super::table::{Table, tag_of};
use crate::key::{KvsId, Revision};
use bytes::{Buf, Bytes};

/// Entries that one hold of the lock evicts at most, unless an insert needs the room.
pub(crate) const EVICT_STEP: usize = 256;
/// Slots below which arrays are not worth shrinking.
const SLOTS_MIN: usize = 64;
/// What the arrays take for each entry once they fit: slot, two buckets, counter, sketch.
const ARRAY_BYTES: u64 = 48 + 16 + 1 + 32;
/// Entries colder than one that must move are looked for this often.
const WAYS: usize = 4;

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

struct Slot {
    record: Record,
    hash: u64,
    kvs: KvsId,
}

const _: () = assert!(size_of::<Option<Slot>>() <= 48);

/// Entries, and who of them stays.
#[derive(Default)]
pub(crate) struct Shard {
    epoch: u64,
    table: Table,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    policy: Policy,
    ghosts: Ghosts,
    slab: Slab,
    /// What records outside of chunks take.
    own_bytes: u64,
    pub(crate) stats: Stats,
}

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
        let key_len = usize::from(record.key_len);
        let value = match &record.body {
            Body::InSlab(place) => {
                let bytes = self.slab.bytes_at(*place, index(record.len));
                Bytes::copy_from_slice(&bytes[key_len..])
            }
            Body::Own(bytes) => {
                let mut value = Bytes::clone(bytes);
                value.advance(key_len);
                value
            }
        };
        Some((value, record.revision))
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
        if self.fits(len, budget) {
            return true;
        }
        let need = charge(len, budget);
        let wanted = self.policy.victim().is_some_and(|victim| {
            // Hits a byte: a large record must be worth all that leave for it.
            u64::from(count) * self.record(victim.slot).charge() > u64::from(victim.count) * need
        });
        self.stats.refused += u64::from(!wanted);
        wanted
    }

    /// Enters a record unless the epoch has passed or the entry is newer. Others leave for it.
    pub(crate) fn insert(&mut self, epoch: u64, name: Name<'_>, record: Incoming<'_>, budget: u64) {
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
        let entered = self.make_room(record.len(), budget) && self.add(name, record);
        self.stats.inserts += u64::from(entered);
        self.stats.refused += u64::from(!entered);
    }

    /// From now on inserts of an earlier epoch are refused.
    pub(crate) fn raise_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Inserts of this epoch are taken again.
    pub(crate) fn lower_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Revision of the version that is cached.
    pub(crate) fn revision(&self, name: Name<'_>) -> Option<Revision> {
        self.find(name).map(|slot| self.record(slot).revision)
    }

    /// Enters a flushed version of a name that is not cached, into free room.
    pub(crate) fn warm(&mut self, name: Name<'_>, record: Incoming<'_>) {
        assert!(self.find(name).is_none(), "asked for under the flush's epoch");
        let entered = self.add(name, record);
        self.stats.inserts += u64::from(entered);
    }

    /// Puts a newer version in the place of an older one that is cached.
    pub(crate) fn refresh(&mut self, name: Name<'_>, record: Incoming<'_>) {
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
        let mut evicted = 0;
        while evicted < EVICT_STEP {
            self.release_arrays();
            if self.bytes() <= budget {
                return true;
            }
            if self.policy.fold() {
                continue;
            }
            match self.give_up() {
                // What is left is too little to be worth a thought.
                0 => return true,
                some => evicted += some,
            }
        }
        false
    }

    /// How often keys were asked for, cached or not.
    pub(crate) fn frequencies(&self) -> Sketch {
        let slots = (0..).zip(&self.slots);
        self.policy.frequencies(
            slots.filter_map(|(slot, entry)| entry.as_ref().map(|entry| (slot, entry.hash))),
        )
    }

    /// Starts from what was known before. It is empty.
    pub(crate) fn restore(&mut self, frequencies: Sketch) {
        self.policy.restore(frequencies);
    }

    /// Requests that a little more memory would have answered, and how much that is.
    pub(crate) fn marginal(&self) -> (u64, u64) {
        let entries = u64::try_from(self.len()).expect("counts fit 64 bits");
        let ghosts = u64::try_from(self.ghosts.len()).expect("counts fit 64 bits");
        (self.ghosts.hits(), ghosts * (self.needed_bytes() / entries.max(1)))
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
        self.own_bytes + self.slab.bytes() + u64::try_from(arrays).expect("memory fits 64 bits")
    }

    /// Memory it would take with arrays that fit.
    fn needed_bytes(&self) -> u64 {
        let entries = u64::try_from(self.len()).expect("counts fit 64 bits");
        self.own_bytes + self.slab.bytes() + entries * ARRAY_BYTES
    }

    fn find(&self, name: Name<'_>) -> Option<u32> {
        self.table.find(tag_of(name.hash), |slot| {
            let slot = self.slots[index(slot)].as_ref().expect("the table names slots in use");
            let Record { body, len, key_len, .. } = &slot.record;
            slot.kvs == name.kvs
                && usize::from(*key_len) == name.key.len()
                && match body {
                    Body::InSlab(place) => self.slab.bytes_at(*place, index(*len)),
                    Body::Own(bytes) => bytes,
                }
                .starts_with(name.key)
        })
    }

    fn record(&self, slot: u32) -> &Record {
        &self.slots[index(slot)].as_ref().expect("the slot is in use").record
    }

    fn record_mut(&mut self, slot: u32) -> &mut Record {
        &mut self.slots[index(slot)].as_mut().expect("the slot is in use").record
    }

    /// Stores a record's bytes for `slot`. None where there is no memory.
    fn store(&mut self, record: Incoming<'_>, slot: u32) -> Option<Record> {
        let len = u32::try_from(record.len()).expect("records are under 4 GiB");
        let key_len = u16::try_from(record.parts[0].len()).expect("keys are under 1,345 bytes");
        let body = match record.own {
            Some(bytes) => {
                self.own_bytes += own_charge(bytes.len());
                Body::Own(bytes.into())
            }
            None => Body::InSlab(self.slab.put(record.parts, slot)?),
        };
        Some(Record { body, len, key_len, revision: record.revision })
    }

    fn discard(&mut self, record: Record) {
        match record.body {
            Body::InSlab(place) => self.slab.free(place),
            Body::Own(bytes) => self.own_bytes -= own_charge(bytes.len()),
        }
    }

    /// False where there is no memory.
    fn add(&mut self, name: Name<'_>, record: Incoming<'_>) -> bool {
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots.len() == self.slots.capacity() {
                // By an eighth, not to twice: the capacity is charged.
                self.slots.reserve_exact(self.slots.len() / 8 + 16);
            }
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a shard has under 4 G entries")
        });
        let Some(record) = self.store(record, slot) else {
            self.free.push(slot);
            return false;
        };
        self.slots[index(slot)] = Some(Slot { record, hash: name.hash, kvs: name.kvs });
        self.table.insert(tag_of(name.hash), slot);
        self.policy.occupy(slot, name.hash);
        true
    }

    /// Puts a newer version of the same key in a slot. Without memory for it the slot is freed: the
    /// older one must not stay.
    fn replace(&mut self, slot: u32, record: Incoming<'_>) {
        if let (Body::InSlab(place), None) = (&self.record(slot).body, &record.own) {
            let place = *place;
            if self.slab.overwrite(place, record.parts) {
                let len = u32::try_from(record.len()).expect("it fits a place");
                let known = self.record_mut(slot);
                (known.len, known.revision) = (len, record.revision);
                return;
            }
        }
        match self.store(record, slot) {
            Some(new) => {
                let old = std::mem::replace(self.record_mut(slot), new);
                self.discard(old);
            }
            None => self.remove(slot),
        }
    }

    fn remove(&mut self, slot: u32) {
        let entry = self.slots[index(slot)].take().expect("the slot is in use");
        self.table.remove(tag_of(entry.hash), slot);
        self.policy.vacate(slot, entry.hash);
        self.free.push(slot);
        self.discard(entry.record);
    }

    fn evict(&mut self, slot: u32) {
        self.stats.evictions += 1;
        let entry = self.slots[index(slot)].as_ref().expect("a victim's slot is in use");
        let tag = tag_of(entry.hash);
        self.ghosts.evicted(tag, self.len());
        self.remove(slot);
    }

    /// Whether a further record of `len` bytes stays within `budget`.
    fn fits(&self, len: usize, budget: u64) -> bool {
        let more = if !in_slab(len, budget) {
            own_charge(len)
        } else if self.slab.has_place(len) {
            0
        } else {
            slab::chunk_charge(len)
        };
        self.bytes() + more <= budget
    }

    /// Evicts until a record of `len` bytes fits, within bounds: a target that has just fallen far
    /// is `shrink`'s.
    fn make_room(&mut self, len: usize, budget: u64) -> bool {
        let mut evicted = 0;
        while evicted < EVICT_STEP {
            if self.fits(len, budget) {
                return true;
            }
            // The least asked for makes way, if that helps; else whoever is in its chunk.
            let victim = self.policy.victim().filter(|_| self.bytes() <= budget);
            let alike = |slot: &u32| match self.record(*slot).body {
                Body::InSlab(place) => in_slab(len, budget) && self.slab.is_alike(place, len),
                Body::Own(_) => true,
            };
            evicted += match victim.map(|victim| victim.slot).filter(alike) {
                Some(slot) => {
                    self.evict(slot);
                    1
                }
                None => match self.give_up() {
                    0 => return false,
                    some => some,
                },
            };
        }
        false
    }

    /// Gives up a chunk, or a record outside of chunks: the one of a victim, or a chunk that few
    /// are in. Returns how much work it was, in entries; 0 if there is nothing.
    fn give_up(&mut self) -> usize {
        if let Some(chunk) = self.slab.sparse_chunk() {
            return self.empty(chunk);
        }
        let Some(victim) = self.policy.victim() else { return 0 };
        match self.record(victim.slot).body {
            Body::InSlab(place) => self.empty(Slab::chunk_of(place)),
            Body::Own(_) => {
                self.evict(victim.slot);
                1
            }
        }
    }

    /// Empties a chunk and gives it back. Of what is in it, records that are asked for more often
    /// than others of their size take the others' places; the rest is evicted.
    fn empty(&mut self, chunk: u32) -> usize {
        let owners = self.slab.withdraw(chunk);
        let work = owners.len().max(1);
        for owner in owners {
            let Body::InSlab(place) = self.record(owner).body else {
                unreachable!("chunks know the owners of their places")
            };
            let mut to = self.slab.move_out(place);
            if to.is_none() && self.make_way(owner, place, chunk) {
                to = self.slab.move_out(place);
            }
            match to {
                Some(to) => self.record_mut(owner).body = Body::InSlab(to),
                None => self.evict(owner),
            }
        }
        self.slab.release();
        work
    }

    /// Evicts an entry that was asked for less than `owner` and has a place as large, not in
    /// `chunk`.
    fn make_way(&mut self, owner: u32, place: Place, chunk: u32) -> bool {
        let (count, len) = (self.policy.count(owner), index(self.record(owner).len));
        for _ in 0..WAYS {
            let Some(victim) = self.policy.victim().filter(|victim| victim.count < count) else {
                return false;
            };
            let Body::InSlab(other) = self.record(victim.slot).body else { continue };
            debug_assert!(self.slab.is_alike(place, len), "a record is in a place of its size");
            if Slab::chunk_of(other) != chunk && self.slab.is_alike(other, len) {
                self.evict(victim.slot);
                return true;
            }
        }
        false
    }

    /// Gives back arrays that have become much too large for what is in them. Milliseconds, so not
    /// for a little memory.
    fn release_arrays(&mut self) {
        let (live, slots) = (self.len(), self.slots.len());
        if slots == 0 || live > 0 && (slots < SLOTS_MIN || live * 2 >= slots) {
            return;
        }
        let entries: Vec<_> = std::mem::take(&mut self.slots);
        for (slot, entry) in (0..).zip(&entries) {
            if let Some(entry) = entry {
                self.policy.vacate(slot, entry.hash);
            }
        }
        self.free = Vec::new();
        self.table.reset(live);
        self.policy.renumber(live);
        self.slots.reserve_exact(live);
        for (slot, entry) in (0..).zip(entries.into_iter().flatten()) {
            self.table.insert(tag_of(entry.hash), slot);
            self.policy.occupy(slot, entry.hash);
            if let Body::InSlab(place) = entry.record.body {
                self.slab.set_owner(place, slot);
            }
            self.slots.push(Some(entry));
        }
    }
}
