//! The hash table of one shard: from a tag to the number of a slot.
//!
//! Open addressing with linear probing over 8-byte buckets, at most three quarters full. A bucket
//! holds the tag (32 bits of the key's hash) and the slot, so a probe touches one cache line and
//! only a true match, or one in four billion others, touches the slot. Home of a tag is its low
//! bits, so the table grows and deletes (by shifting back) without looking at any key.

/// A bucket: tag in the high half, slot + 1 in the low half; 0 is empty.
type Bucket = u64;

const LEN_MIN: usize = 16;

/// Multimap from tags to slots.
#[derive(Default)]
pub(crate) struct Table {
    buckets: Vec<Bucket>,
    used: usize,
}

/// The 32 bits of a hash that a table uses.
pub(crate) fn tag_of(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).expect("masked to 32 bits")
}

fn bucket(tag: u32, slot: u32) -> Bucket {
    (u64::from(tag) << 32) | u64::from(slot + 1)
}

fn tag(bucket: Bucket) -> u32 {
    u32::try_from(bucket >> 32).expect("shifted to 32 bits")
}

fn slot(bucket: Bucket) -> u32 {
    tag_of(bucket) - 1
}

impl Table {
    /// The slot among those of `tag` that `is` accepts.
    pub(crate) fn find(&self, tag: u32, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut place = self.home(tag)?;
        loop {
            let found = self.buckets[place];
            if found == 0 {
                return None;
            }
            if self::tag(found) == tag && is(slot(found)) {
                return Some(slot(found));
            }
            place = self.after(place);
        }
    }

    /// Adds a pair that is not in the table.
    pub(crate) fn insert(&mut self, tag: u32, slot: u32) {
        if (self.used + 1) * 4 > self.buckets.len() * 3 {
            self.resize((self.buckets.len() * 2).max(LEN_MIN));
        }
        self.used += 1;
        self.put(bucket(tag, slot));
    }

    /// Removes a pair that is in the table.
    pub(crate) fn remove(&mut self, tag: u32, slot: u32) {
        let wanted = bucket(tag, slot);
        let mut hole = self.home(tag).expect("the pair is in the table");
        while self.buckets[hole] != wanted {
            assert!(self.buckets[hole] != 0, "the pair is in the table");
            hole = self.after(hole);
        }
        self.used -= 1;
        let mut next = self.after(hole);
        // Whatever could not stay at home before the hole moves back into it.
        while self.buckets[next] != 0 {
            let home = self.home(self::tag(self.buckets[next])).expect("not empty");
            if self.distance(home, next) >= self.distance(hole, next) {
                self.buckets[hole] = self.buckets[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.buckets[hole] = 0;
    }

    /// Room for `len` pairs, forgetting all there are.
    pub(crate) fn reset(&mut self, len: usize) {
        let buckets = (len * 2).next_power_of_two().max(LEN_MIN);
        *self = Self { buckets: vec![0; buckets], used: 0 };
    }

    /// Memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    fn home(&self, tag: u32) -> Option<usize> {
        let mask = self.buckets.len().checked_sub(1)?;
        Some(usize::try_from(tag).expect("32 bits fit an address") & mask)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.buckets.len() - 1)
    }

    /// Steps from `a` to `b`.
    fn distance(&self, a: usize, b: usize) -> usize {
        b.wrapping_sub(a) & (self.buckets.len() - 1)
    }

    fn put(&mut self, bucket: Bucket) {
        let mut place = self.home(tag(bucket)).expect("not empty");
        while self.buckets[place] != 0 {
            place = self.after(place);
        }
        self.buckets[place] = bucket;
    }

    fn resize(&mut self, len: usize) {
        assert!(len.is_power_of_two(), "a mask addresses the buckets");
        let old = std::mem::replace(&mut self.buckets, vec![0; len]);
        for bucket in old.into_iter().filter(|&bucket| bucket != 0) {
            self.put(bucket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(crate::iter::model::config())]
        #[test]
        fn table_equals_a_set_of_pairs(
            ops in proptest::collection::vec((0..40u32, 0..4u32), 0..300),
        ) {
            // Few tags that collide in their low bits, so that clusters form and wrap.
            let tag_of = |n: u32| (n % 7) << 29 | (n % 3) | (n / 20 * 0xf);
            let (mut table, mut model) = (Table::default(), BTreeSet::new());
            for (n, slot) in ops {
                let pair = (tag_of(n), slot);
                if model.remove(&pair) {
                    table.remove(pair.0, pair.1);
                } else {
                    model.insert(pair);
                    table.insert(pair.0, pair.1);
                }
                for n in 0..40 {
                    for slot in 0..4 {
                        let found = table.find(tag_of(n), |found| found == slot);
                        prop_assert_eq!(found.is_some(), model.contains(&(tag_of(n), slot)));
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_table_finds_nothing_and_holds_nothing() {
        let table = Table::default();
        assert_eq!(table.find(1, |_| true), None);
        assert_eq!(table.bytes(), 0);
    }
}
