//! PURE: how large a leaf is for what it may have, and into how many one is divided.

use super::leaves::Extremes;
use super::shape::NodeShape;
use super::{Limits, percent};

/// What a leaf has, or several taken as one.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    /// Different ones.
    pub(super) keys: u64,
    pub(super) index_bytes: u64,
    /// Without those that are shadowed.
    pub(super) value_bytes: u64,
}

impl Extent {
    pub(super) fn of<'a>(leaves: impl IntoIterator<Item = &'a NodeShape>) -> Self {
        leaves.into_iter().fold(Self::default(), |sum, leaf| Self {
            keys: sum.keys + leaf.distinct_keys,
            index_bytes: sum.index_bytes + leaf.kblock_bytes(),
            value_bytes: sum.value_bytes + leaf.current_value_bytes(),
        })
    }

    /// More than any leaf of a chunk has.
    pub(super) fn greatest(most: &Extremes) -> Self {
        Self {
            keys: most.distinct_keys,
            index_bytes: most.kblock_bytes,
            value_bytes: most.current_value_bytes,
        }
    }

    /// Less than any leaf of a chunk has.
    pub(super) fn least(most: &Extremes) -> Self {
        Self {
            keys: most.least_keys,
            index_bytes: most.least_kblock_bytes,
            value_bytes: most.least_value_bytes,
        }
    }

    /// In percent of what a leaf may have, by that of which it has most.
    pub(super) fn size(self, limits: Limits) -> u64 {
        let index = percent(self.index_bytes, limits.leaf_bytes_max.max(1));
        let values = percent(self.value_bytes, limits.leaf_value_bytes_max.max(1));
        percent(self.keys, limits.leaf_keys_max.max(2)).max(index).max(values)
    }
}

/// How large a leaf is, in percent of what it may have.
pub(super) fn of_leaf(leaf: &NodeShape, limits: Limits) -> u64 {
    Extent::of([leaf]).size(limits)
}

/// Leaves of half the limit for so many percent of it.
pub(super) fn halves(size: u64) -> u64 {
    size.saturating_mul(2).div_ceil(100)
}

/// Bytes of values at which a part of a leaf that is divided ends, though it has few keys: more
/// than the half that parts of like values have, and less than calls for another split.
pub(super) fn part_value_bytes_max(limits: Limits) -> u64 {
    limits.leaf_value_bytes_max - limits.leaf_value_bytes_max / 4
}
