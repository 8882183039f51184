//! Who stays and who goes, for one shard.
//!
//! Sampled least-frequently-used with admission by frequency. Each slot has a counter in a dense
//! array of bytes; a key that is not cached has one in a [`Sketch`]. A hit raises the slot's
//! counter. The victim is the least counted of the next [`SAMPLE`] slots, one cache line of
//! counters. A key enters a full shard only if it was asked for more often, per byte, than the
//! victim; on its way out a key's counter goes back to the sketch. After [`AGE_FACTOR`] accesses an
//! entry all counters are halved.
//!
//! Miss ratios with room for 0.5, 1.0 and 1.5 GiB of 8 M records of 1,164 bytes under YCSB's
//! scrambled zipfian, after 30 M requests (`cargo run --release -p millpond-kvs --example cache_sim
//! -- steady warm`):
//!
//! | policy | 0.5 GiB | 1.0 GiB | 1.5 GiB | requests 5-10 M from empty, 1.0 GiB |
//! |---|---|---|---|---|
//! | ideal (fixed set of the most probable) | 0.419 | 0.361 | 0.318 | 0.361 |
//! | this one | 0.440 | 0.387 | 0.349 | 0.417 |
//! | S3-FIFO | | | | 0.424 |
//! | LRU | 0.502 | 0.440 | 0.394 | 0.440 |
//! | FIFO | 0.524 | 0.463 | 0.416 | 0.462 |
//!
//! A long memory is what wins: two of five requests go to keys that are not asked for again for
//! millions of requests, so an entry's worth shows only over many accesses an entry.
//!
//! This file knows slot numbers and hashes, not keys, bytes or locks.

use super::sketch::{COUNT_MAX, Sketch};

/// Slots among which a victim is sought: a cache line of counters.
pub(crate) const SAMPLE: usize = 64;
/// Accesses for each entry between two halvings. Twice as many miss 0.002 to 0.006 less of what is
/// asked for steadily, and 0.005 to 0.009 more while the hot set moves (`cache_sim -- steady
/// moving`).
pub(crate) const AGE_FACTOR: u64 = 16;
/// Counters of the sketch for each entry: 16 bytes.
pub(crate) const COUNTERS_PER_ENTRY: usize = 32;

/// Marks a free slot. No counter gets there.
const VACANT: u8 = u8::MAX;
const _: () = assert!(COUNT_MAX < VACANT);

/// A slot that may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) slot: u32,
    pub(crate) count: u8,
}

/// Frequencies of slots and of keys that are not cached.
#[derive(Default)]
pub(crate) struct Policy {
    counts: Vec<u8>,
    occupied: u64,
    hand: usize,
    sketch: Sketch,
    accesses: u64,
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit an address")
}

impl Policy {
    /// A cached key was asked for.
    pub(crate) fn hit(&mut self, slot: u32) {
        let count = &mut self.counts[index(slot)];
        if *count < COUNT_MAX {
            *count += 1;
        }
        self.age();
    }

    /// A key that is not cached was asked for. Returns how often it was, in recent times.
    pub(crate) fn missed(&mut self, hash: u64) -> u8 {
        self.age();
        if self.sketch.bytes() == 0 {
            return 1;
        }
        self.sketch.count(hash)
    }

    /// The key of `hash` enters `slot`.
    pub(crate) fn occupy(&mut self, slot: u32, hash: u64) {
        let place = index(slot);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, VACANT);
        }
        assert!(self.counts[place] == VACANT, "slot {slot} is free");
        self.occupied += 1;
        self.fit_sketch();
        self.counts[place] = self.sketch.estimate(hash).max(1);
    }

    /// The key of `hash` leaves `slot`.
    pub(crate) fn vacate(&mut self, slot: u32, hash: u64) {
        let count = std::mem::replace(&mut self.counts[index(slot)], VACANT);
        assert!(count != VACANT, "slot {slot} is in use");
        self.occupied -= 1;
        self.sketch.raise(hash, count);
    }

    /// How often the key in a slot was asked for.
    pub(crate) fn count(&self, slot: u32) -> u8 {
        self.counts[index(slot)]
    }

    /// The least counted of the next slots. None if no slot is in use.
    pub(crate) fn victim(&mut self) -> Option<Victim> {
        let rounds = self.counts.len().div_ceil(SAMPLE);
        for _ in 0..rounds {
            if self.hand >= self.counts.len() {
                self.hand = 0;
            }
            let first = self.hand;
            let last = (first + SAMPLE).min(self.counts.len());
            self.hand = last;
            let sample = &self.counts[first..last];
            let least = sample.iter().copied().min().expect("a sample is not empty");
            if least == VACANT {
                continue;
            }
            let at = sample.iter().position(|&count| count == least).expect("the least is in it");
            let slot = u32::try_from(first + at).expect("slots are numbered by u32");
            return Some(Victim { slot, count: least });
        }
        None
    }

    /// Starts anew with room for `slots`, none of them in use. The history of keys stays.
    pub(crate) fn renumber(&mut self, slots: usize) {
        assert!(self.occupied == 0, "every key has taken its count with it");
        self.counts = Vec::with_capacity(slots);
        self.hand = 0;
        while self.fold_for(slots) {}
    }

    /// What is known of all keys, with those that the slots' hashes name.
    pub(crate) fn frequencies(&self, hashes: impl Iterator<Item = (u32, u64)>) -> Sketch {
        let mut all = if self.sketch.bytes() == 0 { Sketch::new(0) } else { self.sketch.clone() };
        for (slot, hash) in hashes {
            all.raise(hash, self.counts[index(slot)]);
        }
        all
    }

    /// Knows what another one knew. Nothing is in a slot yet.
    pub(crate) fn restore(&mut self, frequencies: Sketch) {
        assert!(self.occupied == 0, "a key in a slot has its count there");
        self.sketch = frequencies;
    }

    /// Halves a sketch that is much too large for the slots there are. False if it is not.
    pub(crate) fn fold(&mut self) -> bool {
        self.fold_for(self.counts.len())
    }

    fn fold_for(&mut self, slots: usize) -> bool {
        let wanted = COUNTERS_PER_ENTRY * slots.max(SAMPLE);
        self.sketch.counters() >= 2 * wanted && self.sketch.fold()
    }

    /// Memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.counts.capacity() + self.sketch.bytes()
    }

    fn fit_sketch(&mut self) {
        let wanted = self.counts.len() * COUNTERS_PER_ENTRY;
        if self.sketch.bytes() == 0 {
            self.sketch = Sketch::new(wanted);
        }
        while self.sketch.counters() < wanted {
            self.sketch.double();
        }
    }

    fn age(&mut self) {
        self.accesses += 1;
        // Counts of a larger cache, which this one was or will be, fade as slowly as there.
        let counted = self.sketch.counters() / (2 * COUNTERS_PER_ENTRY);
        let entries = self.occupied.max(u64::try_from(counted).expect("memory fits 64 bits"));
        if self.accesses < AGE_FACTOR * entries.max(256) {
            return;
        }
        self.accesses = 0;
        self.sketch.halve();
        for count in &mut self.counts {
            if *count != VACANT {
                *count >>= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    fn filled(slots: u32) -> Policy {
        let mut policy = Policy::default();
        for slot in 0..slots {
            policy.occupy(slot, hash(u64::from(slot)));
        }
        policy
    }

    #[test]
    fn the_least_asked_for_in_the_sample_is_the_victim() {
        let mut policy = filled(40);
        for slot in (0..40).filter(|&slot| slot != 17) {
            policy.hit(slot);
        }
        assert_eq!(policy.victim(), Some(Victim { slot: 17, count: 1 }));
        policy.vacate(17, hash(17));
        assert_eq!(policy.victim(), Some(Victim { slot: 0, count: 2 }));
    }

    #[test]
    fn the_hand_goes_round_and_skips_free_slots() {
        let mut policy = filled(300);
        for slot in 0..300 {
            if slot != 200 {
                policy.vacate(slot, hash(u64::from(slot)));
            }
        }
        for _ in 0..3 {
            assert_eq!(policy.victim().map(|victim| victim.slot), Some(200));
        }
        policy.vacate(200, hash(200));
        assert_eq!(policy.victim(), None);
    }

    #[test]
    fn a_key_takes_its_count_with_it() {
        let mut policy = filled(64);
        for _ in 0..5 {
            policy.hit(3);
        }
        policy.vacate(3, hash(3));
        assert_eq!(policy.missed(hash(3)), 7);
        policy.occupy(3, hash(3));
        assert_eq!(policy.counts[3], 7);
    }

    #[test]
    fn what_was_known_is_known_again() {
        let mut before = filled(1000);
        for slot in 0..1000 {
            for _ in 0..slot % 10 {
                before.hit(slot);
            }
        }
        before.vacate(7, hash(7));
        let known = |slot: u32| (slot != 7).then(|| (slot, hash(u64::from(slot))));
        let frequencies = before.frequencies((0..1000).filter_map(known));
        let mut after = Policy::default();
        after.restore(frequencies);
        assert!(after.fold(), "much too large for no slots: the least memory of all");
        for slot in 0..1000 {
            after.occupy(slot, hash(u64::from(slot)));
        }
        let least = |slot: u32| u8::try_from(slot % 10 + 1).unwrap();
        assert!((0..1000).all(|slot| after.count(slot) >= least(slot)));
        let high = (0..1000).filter(|&slot| after.count(slot) > least(slot)).count();
        assert!(high < 50, "{high} of 1000 too high");
        assert!(!after.fold(), "it fits");
    }

    #[test]
    fn popularity_fades() {
        let mut policy = filled(64);
        for _ in 0..100 {
            policy.hit(3);
        }
        assert_eq!(policy.counts[3], COUNT_MAX);
        for _ in 0..AGE_FACTOR * 256 * 4 {
            policy.hit(5);
        }
        assert_eq!((policy.counts[3], policy.counts[9]), (0, 0));
    }
}
