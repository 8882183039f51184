//! PURE: where a log lies, and how often it is kept.
//!
//! ```text
//! once   [frame][frame]....................
//! twice  [frame][frame]........[frame][frame]........
//!        ^ first copy          ^ second copy: the same bytes at the same offsets
//! ```
//!
//! Offsets in a log, and its length, are those of one copy: who appends knows of no second one. A
//! frame counts if either copy has it (`scan`), a copy that lacks it gets it at open (`heal`). Logs
//! of pools from before there were two copies stay as they are.

use crate::address::{Extent, VolumeId};

/// How often a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Once,
    Twice,
}

impl Kept {
    pub(crate) const fn copies(self) -> u64 {
        match self {
            Self::Once => 1,
            Self::Twice => 2,
        }
    }
}

/// One log of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// Where the first copy begins; the second lies behind it.
    pub(crate) offset: u64,
    /// Of one copy.
    pub(crate) len: u64,
    pub(crate) kept: Kept,
}

impl Log {
    /// A log kept once, which takes all of an extent.
    #[cfg(test)]
    pub(crate) const fn once(extent: Extent) -> Self {
        Self { offset: extent.offset, len: extent.len, kept: Kept::Once }
    }

    /// A log kept twice, which takes all of an extent.
    pub(crate) fn twice(extent: Extent) -> Self {
        let log = Self { offset: extent.offset, len: extent.len / 2, kept: Kept::Twice };
        assert!(log.is_sound(), "each copy is whole allocation units");
        log
    }

    /// What it takes on the medium.
    pub(crate) fn extent(self) -> Extent {
        Extent { offset: self.offset, len: self.len.saturating_mul(self.kept.copies()) }
    }

    pub(crate) fn copies(self) -> impl Iterator<Item = Extent> + Clone {
        let Self { offset, len, kept } = self;
        (0..kept.copies()).map(move |n| Extent { offset: offset + n * len, len })
    }

    pub(crate) fn is_twice(self) -> bool {
        self.kept == Kept::Twice
    }

    pub(crate) fn volume(self) -> VolumeId {
        VolumeId::of(self.offset)
    }

    /// Whether both copies can be extents.
    pub(crate) fn is_sound(self) -> bool {
        let Self { offset, len, .. } = self;
        Extent { offset, len }.is_sound() && self.extent().is_sound()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::ALLOC_UNIT;

    #[test]
    fn copies_lie_side_by_side_and_fill_the_extent() {
        let extent = Extent { offset: 3 * ALLOC_UNIT, len: 4 * ALLOC_UNIT };
        let copy = |n: u64| Extent { offset: (3 + 2 * n) * ALLOC_UNIT, len: 2 * ALLOC_UNIT };
        let twice = Log::twice(extent);
        assert_eq!(twice.copies().collect::<Vec<_>>(), [copy(0), copy(1)]);
        assert_eq!((twice.extent(), twice.len), (extent, 2 * ALLOC_UNIT));
        let once = Log::once(extent);
        assert_eq!((once.copies().collect::<Vec<_>>(), once.extent()), (vec![extent], extent));
    }

    #[test]
    fn what_cannot_be_an_extent_is_not_sound() {
        let log = |len, kept| Log { offset: ALLOC_UNIT, len, kept };
        for (len, kept, sound) in [
            (ALLOC_UNIT, Kept::Once, true),
            (ALLOC_UNIT, Kept::Twice, true),
            (ALLOC_UNIT / 2, Kept::Twice, false),
            (u64::MAX / ALLOC_UNIT * ALLOC_UNIT, Kept::Twice, false),
            (1 << 63, Kept::Twice, false),
        ] {
            assert_eq!(log(len, kept).is_sound(), sound, "{len} {kept:?}");
        }
    }
}
