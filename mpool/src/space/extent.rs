//! PURE: the set of free extents.
//!
//! Two views of the same set: by offset, to coalesce neighbours, and by (length, offset), to find
//! the smallest that fits (best fit, lowest offset first). All places and lengths are multiples of
//! [`ALLOC_UNIT`]. Taking what is not free is an error, because the request may come from a
//! journal; giving back what is not taken is a bug, and asserted.

use super::ALLOC_UNIT;
use std::collections::{BTreeMap, BTreeSet};

/// A contiguous part of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    /// Whole units that do not wrap: what any extent read from the medium must be.
    pub(crate) fn is_sound(self) -> bool {
        self.len > 0
            && self.offset.is_multiple_of(ALLOC_UNIT)
            && self.len.is_multiple_of(ALLOC_UNIT)
            && self.offset.checked_add(self.len).is_some()
    }
}

#[derive(Clone)]
pub(crate) struct FreeSet {
    by_offset: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    free_bytes: u64,
    volume_len: u64,
}

impl FreeSet {
    /// A volume of this length, all free.
    pub(crate) fn new(volume_len: u64) -> Self {
        let mut set = Self {
            by_offset: BTreeMap::new(),
            by_len: BTreeSet::new(),
            free_bytes: 0,
            volume_len: 0,
        };
        set.extend_to(volume_len);
        set
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    pub(crate) fn volume_len(&self) -> u64 {
        self.volume_len
    }

    /// The length of the free extent that touches the volume's end; growth adds to it.
    pub(crate) fn free_tail(&self) -> u64 {
        match self.by_offset.last_key_value() {
            Some((offset, len)) if offset + len == self.volume_len => *len,
            _ => 0,
        }
    }

    /// The volume has grown; a length that is not longer changes nothing.
    pub(crate) fn extend_to(&mut self, volume_len: u64) {
        assert!(volume_len.is_multiple_of(ALLOC_UNIT));
        if volume_len > self.volume_len {
            let grown = Extent { offset: self.volume_len, len: volume_len - self.volume_len };
            self.volume_len = volume_len;
            self.release(grown);
        }
    }

    /// Best fit: the smallest extent that holds `len`, the lowest of equals.
    pub(crate) fn allocate(&mut self, len: u64) -> Option<Extent> {
        assert!(len > 0 && len.is_multiple_of(ALLOC_UNIT));
        let (found_len, offset) = *self.by_len.range((len, 0)..).next()?;
        self.remove(offset, found_len);
        if found_len > len {
            self.insert(offset + len, found_len - len);
        }
        Some(Extent { offset, len })
    }

    /// Takes a given extent; the error says why it cannot be.
    pub(crate) fn take(&mut self, extent: Extent) -> Result<(), &'static str> {
        if !extent.is_sound() {
            return Err("an extent is not in whole allocation units");
        }
        if extent.end() > self.volume_len {
            return Err("an extent lies beyond the end of the volume");
        }
        let before = self.by_offset.range(..=extent.offset).next_back();
        let Some((offset, len)) = before.map(|(o, l)| (*o, *l)) else {
            return Err("two objects own the same extent");
        };
        if offset + len < extent.end() {
            return Err("two objects own the same extent");
        }
        self.remove(offset, len);
        if offset < extent.offset {
            self.insert(offset, extent.offset - offset);
        }
        if extent.end() < offset + len {
            self.insert(extent.end(), offset + len - extent.end());
        }
        Ok(())
    }

    /// Gives an extent back, joining it with its free neighbours.
    pub(crate) fn release(&mut self, extent: Extent) {
        assert!(extent.is_sound());
        assert!(extent.end() <= self.volume_len);
        let Extent { mut offset, mut len } = extent;
        if let Some((before, before_len)) = self.neighbour_before(offset) {
            assert!(before + before_len <= offset, "an extent is freed once");
            if before + before_len == offset {
                self.remove(before, before_len);
                offset = before;
                len += before_len;
            }
        }
        if let Some((after, after_len)) =
            self.by_offset.range(offset..).next().map(|(o, l)| (*o, *l))
        {
            assert!(extent.end() <= after, "an extent is freed once");
            if extent.end() == after {
                self.remove(after, after_len);
                len += after_len;
            }
        }
        self.insert(offset, len);
    }

    fn neighbour_before(&self, offset: u64) -> Option<(u64, u64)> {
        self.by_offset.range(..=offset).next_back().map(|(o, l)| (*o, *l))
    }

    fn insert(&mut self, offset: u64, len: u64) {
        let old = self.by_offset.insert(offset, len);
        assert!(old.is_none(), "extents in the set are disjoint");
        self.by_len.insert((len, offset));
        self.free_bytes += len;
    }

    fn remove(&mut self, offset: u64, len: u64) {
        let was_there = self.by_len.remove(&(len, offset));
        assert!(was_there, "both views hold the same extents");
        self.by_offset.remove(&offset);
        self.free_bytes -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const U: u64 = ALLOC_UNIT;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset: offset * U, len: len * U }
    }

    #[test]
    fn best_fit_takes_the_smallest_hole_that_holds_it() {
        let mut set = FreeSet::new(20 * U);
        for used in [extent(3, 1), extent(6, 1), extent(12, 1)] {
            set.take(used).unwrap();
        }
        // Holes: 0..3, 4..6, 7..12, 13..20.
        assert_eq!(set.allocate(2 * U), Some(extent(4, 2)));
        assert_eq!(set.allocate(4 * U), Some(extent(7, 4)));
        assert_eq!(set.allocate(8 * U), None);
        assert_eq!(set.free_tail(), 7 * U);
    }

    #[test]
    fn extents_that_no_journal_may_name_are_refused() {
        let mut set = FreeSet::new(8 * U);
        set.take(extent(2, 2)).unwrap();
        for (bad, why) in [
            (extent(3, 1), "same"),
            (extent(1, 2), "same"),
            (extent(0, 8), "same"),
            (extent(7, 2), "beyond"),
            (Extent { offset: 1, len: U }, "units"),
            (Extent { offset: 0, len: 0 }, "units"),
            (Extent { offset: u64::MAX / U * U, len: U }, "units"),
        ] {
            assert!(set.take(bad).unwrap_err().contains(why), "{bad:?}");
        }
        assert_eq!(set.free_bytes(), 6 * U);
    }

    #[test]
    #[should_panic(expected = "freed once")]
    fn freeing_twice_is_a_bug() {
        let mut set = FreeSet::new(8 * U);
        let taken = set.allocate(U).unwrap();
        set.release(taken);
        set.release(taken);
    }

    proptest! {
        /// Against a bitmap: same answers, nothing lost, nothing given twice, neighbours joined.
        #[test]
        fn behaves_as_a_bitmap(ops in prop::collection::vec((0_u8..3, 1_u64..9), 1..200)) {
            let mut set = FreeSet::new(32 * U);
            let mut used = [false; 32];
            let mut held: Vec<Extent> = Vec::new();
            for (op, n) in ops {
                if op < 2 {
                    let fits = used.split(|u| *u).any(|hole| hole.len() as u64 >= n);
                    let got = set.allocate(n * U);
                    prop_assert_eq!(got.is_some(), fits);
                    if let Some(got) = got {
                        for unit in got.offset / U..got.end() / U {
                            let unit = usize::try_from(unit).unwrap();
                            prop_assert!(!std::mem::replace(&mut used[unit], true));
                        }
                        held.push(got);
                    }
                } else if !held.is_empty() {
                    let at = usize::try_from(n).unwrap() % held.len();
                    let gone = held.swap_remove(at);
                    set.release(gone);
                    for unit in gone.offset / U..gone.end() / U {
                        used[usize::try_from(unit).unwrap()] = false;
                    }
                }
                let free = used.iter().filter(|u| !**u).count() as u64;
                prop_assert_eq!(set.free_bytes(), free * U);
            }
            for extent in held {
                set.release(extent);
            }
            prop_assert_eq!(set.by_offset.len(), 1);
        }
    }
}
