//! PURE: a set of disjoint ranges of a volume, ordered twice.
//!
//! By offset, to join neighbours, and by (length, offset), to find the smallest that fits. What is
//! joined must not be there yet; what is cut need not be.

use crate::address::Extent;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    by_offset: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
}

impl Ranges {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn count(&self) -> usize {
        self.by_offset.len()
    }

    /// The longest, the lowest of equals.
    pub(super) fn longest(&self) -> Option<Extent> {
        let (len, _) = self.by_len.last()?;
        self.best_fit(*len)
    }

    /// The last on the volume.
    pub(super) fn last(&self) -> Option<Extent> {
        self.by_offset.last_key_value().map(extent)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> {
        self.by_offset.iter().map(extent)
    }

    /// The smallest that holds `len`, the lowest of equals.
    pub(super) fn best_fit(&self, len: u64) -> Option<Extent> {
        let (len, offset) = *self.by_len.range((len, 0)..).next()?;
        Some(Extent { offset, len })
    }

    /// The smallest that holds `len` before `end`, the lowest of equals.
    pub(super) fn best_fit_before(&self, len: u64, end: u64) -> Option<Extent> {
        let fits = |(_, offset): &&(u64, u64)| offset + len <= end;
        let (len, offset) = *self.by_len.range((len, 0)..).find(fits)?;
        Some(Extent { offset, len })
    }

    /// The longest ones before `end` that hold `len` together, at most `count` of at least
    /// `len_min` each; of the last of them what is needed. `None` if they do not.
    pub(super) fn longest_for(
        &self,
        len: u64,
        end: u64,
        (len_min, count): (u64, usize),
    ) -> Option<Vec<Extent>> {
        let mut found = Vec::new();
        let mut left = len;
        let before = |(len, offset): &(u64, u64)| (end.saturating_sub(*offset).min(*len), *offset);
        let long = self.by_len.iter().rev().take_while(|(len, _)| *len >= len_min).map(before);
        // One of them may lie across the end, and be shorter before it than the others.
        let mut longest: Vec<_> = long.filter(|(len, _)| *len >= len_min).take(count + 1).collect();
        longest.sort_by_key(|(len, _)| Reverse(*len));
        for (range_len, offset) in longest.into_iter().take(count) {
            if left == 0 {
                break;
            }
            let len = left.min(range_len);
            found.push(Extent { offset, len });
            left -= len;
        }
        (left == 0).then_some(found)
    }

    /// Whether all of `wanted` is there.
    pub(super) fn has(&self, wanted: Extent) -> bool {
        self.before(wanted.offset).is_some_and(|range| range.end() >= wanted.end())
    }

    /// The parts of `within` that are there, in order.
    pub(super) fn parts(&self, within: Extent) -> Vec<Extent> {
        let first = self.before(within.offset).map_or(within.offset, |range| range.offset);
        let touching = self.by_offset.range(first..within.end()).map(extent);
        touching.filter_map(|range| overlap(range, within)).collect()
    }

    /// The parts of `within` that are not there, in order.
    pub(super) fn gaps(&self, within: Extent) -> Vec<Extent> {
        let mut gaps = Vec::new();
        let mut at = within.offset;
        let end = Extent { offset: within.end(), len: 0 };
        for part in self.parts(within).into_iter().chain([end]) {
            if part.offset > at {
                gaps.push(Extent { offset: at, len: part.offset - at });
            }
            at = part.end();
        }
        gaps
    }

    /// Adds a range that is not there, and joins it with its neighbours.
    pub(super) fn join(&mut self, added: Extent) {
        let Extent { mut offset, mut len } = added;
        if let Some(before) = self.before(offset) {
            assert!(before.end() <= offset, "an extent is freed once");
            if before.end() == offset {
                self.remove(before);
                offset = before.offset;
                len += before.len;
            }
        }
        if let Some(after) = self.by_offset.range(offset..).next().map(extent) {
            assert!(added.end() <= after.offset, "an extent is freed once");
            if added.end() == after.offset {
                self.remove(after);
                len += after.len;
            }
        }
        self.insert(Extent { offset, len });
    }

    /// Takes out whatever of `gone` is there.
    pub(super) fn cut(&mut self, gone: Extent) {
        for part in self.parts(gone) {
            let whole = self.before(part.offset).expect("a part is of something");
            self.remove(whole);
            if whole.offset < part.offset {
                self.insert(Extent { offset: whole.offset, len: part.offset - whole.offset });
            }
            if part.end() < whole.end() {
                self.insert(Extent { offset: part.end(), len: whole.end() - part.end() });
            }
        }
    }

    /// The range that begins at `offset` or, if none does, the one before.
    fn before(&self, offset: u64) -> Option<Extent> {
        self.by_offset.range(..=offset).next_back().map(extent)
    }

    fn insert(&mut self, range: Extent) {
        let old = self.by_offset.insert(range.offset, range.len);
        assert!(old.is_none(), "ranges of a set are disjoint");
        self.by_len.insert((range.len, range.offset));
        self.bytes += range.len;
    }

    fn remove(&mut self, range: Extent) {
        let was_there = self.by_len.remove(&(range.len, range.offset));
        assert!(was_there, "both orders are of the same ranges");
        self.by_offset.remove(&range.offset);
        self.bytes -= range.len;
    }
}

fn extent((offset, len): (&u64, &u64)) -> Extent {
    Extent { offset: *offset, len: *len }
}

fn overlap(a: Extent, b: Extent) -> Option<Extent> {
    let (offset, end) = (a.offset.max(b.offset), a.end().min(b.end()));
    (offset < end).then(|| Extent { offset, len: end - offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS: u64 = 40;

    fn range(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    /// The runs of `true`, or of `false`, within a range of a bitmap.
    fn runs(bits: &[bool], within: Extent, wanted: bool) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for at in within.offset..within.end() {
            if bits[usize::try_from(at).unwrap()] == wanted {
                match runs.last_mut() {
                    Some(last) if last.end() == at => last.len += 1,
                    _ => runs.push(range(at, 1)),
                }
            }
        }
        runs
    }

    proptest! {
        /// Against a bitmap: same parts, same gaps, neighbours joined.
        #[test]
        fn behaves_as_a_bitmap(
            ops in prop::collection::vec((0_u8..3, 0..UNITS, 1_u64..9), 1..120)
        ) {
            let mut set = Ranges::default();
            let mut bits = vec![false; usize::try_from(UNITS).unwrap()];
            for (op, offset, len) in ops {
                let at = range(offset, len.min(UNITS - offset));
                if op == 0 {
                    set.cut(at);
                } else {
                    // Only what is not there can be added.
                    set.gaps(at).into_iter().for_each(|gap| set.join(gap));
                }
                for unit in at.offset..at.end() {
                    bits[usize::try_from(unit).unwrap()] = op > 0;
                }
                let all = range(0, UNITS);
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&bits, all, true));
                prop_assert_eq!(set.parts(at), runs(&bits, at, true));
                prop_assert_eq!(set.gaps(all), runs(&bits, all, false));
                prop_assert_eq!(set.has(at), op > 0);
                prop_assert_eq!(set.bytes(), bits.iter().filter(|bit| **bit).count() as u64);
                let fits = |found: &Extent| found.len >= len && found.offset + len <= offset;
                let best = set.iter().filter(fits).min_by_key(|found| (found.len, found.offset));
                prop_assert_eq!(set.best_fit_before(len, offset), best);
                let longest = set.iter().map(|found| found.len).max();
                prop_assert_eq!(set.longest().map(|found| found.len), longest);
                prop_assert_eq!(set.last(), runs(&bits, all, true).last().copied());
            }
        }
    }

    #[test]
    fn the_longest_hold_together_what_none_of_them_does() {
        let mut set = Ranges::default();
        for part in [range(0, 3), range(10, 5), range(20, 4), range(30, 1)] {
            set.join(part);
        }
        assert_eq!(
            set.longest_for(11, 40, (2, 3)),
            Some(vec![range(10, 5), range(20, 4), range(0, 2)])
        );
        assert_eq!(set.longest_for(4, 40, (2, 3)), Some(vec![range(10, 4)]));
        assert_eq!(set.longest_for(10, 40, (2, 2)), None, "too many");
        assert_eq!(set.longest_for(13, 40, (2, 9)), None, "too short");
        assert_eq!(set.longest_for(6, 22, (2, 9)), Some(vec![range(10, 5), range(0, 1)]));
    }

    /// The longest range often lies across the end: the little of it that is before the end was
    /// taken for the longest, and nothing was found.
    #[test]
    fn what_lies_across_the_end_counts_as_long_as_it_is_before_it() {
        let mut set = Ranges::default();
        for part in [range(0, 3), range(10, 5), range(20, 9)] {
            set.join(part);
        }
        assert_eq!(set.longest_for(8, 21, (2, 9)), Some(vec![range(10, 5), range(0, 3)]));
        assert_eq!(set.longest_for(8, 22, (2, 2)), Some(vec![range(10, 5), range(0, 3)]));
        assert_eq!(set.longest_for(9, 22, (2, 2)), None);
    }

    #[test]
    #[should_panic(expected = "freed once")]
    fn what_is_there_is_not_added_again() {
        let mut set = Ranges::default();
        set.join(range(3, 4));
        set.join(range(5, 1));
    }
}
