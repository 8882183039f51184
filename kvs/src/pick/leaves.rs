//! PURE: the leaves as the picker sees them, in chunks that trees share, with what each comes to.
//!
//! ```text
//!   LeafShapes   [ chunk | chunk | chunk ]      sums of all; the greatest of any leaf
//!                   |       |       |
//!                l l l l  l l l l  l l l l      a tree makes a chunk's shape when it changes
//! ```
//!
//! A rule looks at the leaves of those chunks only in which one may be due. So a pick of a tree in
//! which little is due costs a pass over its chunks.

use super::percent;
use super::shape::NodeShape;
use std::collections::HashSet;
use std::ops::Index;
use std::sync::Arc;

/// Leaves of a chunk that is made of a list.
const CHUNK_LEN: usize = 64;

/// Leaves that lie side by side, in key order.
#[derive(Clone, Debug)]
pub(crate) struct ChunkShape {
    leaves: Vec<Arc<NodeShape>>,
    sums: Sums,
}

/// What leaves come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) keys: u64,
    pub(super) tombstones: u64,
    pub(super) distinct_keys: u64,
    pub(super) kblock_bytes: u64,
    pub(super) value_bytes: u64,
    pub(super) shadowed_bytes: u64,
    pub(super) extremes: Extremes,
}

/// The greatest that any of them has, and of keys the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extremes {
    pub(super) kvsets: usize,
    pub(super) distinct_keys: u64,
    pub(super) kblock_bytes: u64,
    pub(super) current_value_bytes: u64,
    pub(super) shadowed_bytes: u64,
    /// vblocks of one kvset.
    pub(super) vblocks: u64,
    pub(super) tombstone_pct: u64,
    pub(super) least_keys: u64,
    pub(super) least_kblock_bytes: u64,
    pub(super) least_value_bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeafShapes {
    /// None is empty.
    chunks: Vec<Arc<ChunkShape>>,
    /// The place of each chunk's first leaf.
    starts: Vec<usize>,
    len: usize,
    sums: Sums,
}

impl Default for Sums {
    fn default() -> Self {
        Self::NONE
    }
}

impl Sums {
    const NONE: Self = Self {
        keys: 0,
        tombstones: 0,
        distinct_keys: 0,
        kblock_bytes: 0,
        value_bytes: 0,
        shadowed_bytes: 0,
        extremes: Extremes {
            kvsets: 0,
            distinct_keys: 0,
            kblock_bytes: 0,
            current_value_bytes: 0,
            shadowed_bytes: 0,
            vblocks: 0,
            tombstone_pct: 0,
            least_keys: u64::MAX,
            least_kblock_bytes: u64::MAX,
            least_value_bytes: u64::MAX,
        },
    };

    fn of(leaf: &NodeShape) -> Self {
        Self {
            keys: leaf.keys(),
            tombstones: leaf.tombstones(),
            distinct_keys: leaf.distinct_keys,
            kblock_bytes: leaf.kblock_bytes(),
            value_bytes: leaf.value_bytes(),
            shadowed_bytes: leaf.shadowed_bytes(),
            extremes: Extremes {
                kvsets: leaf.kvsets.len(),
                distinct_keys: leaf.distinct_keys,
                kblock_bytes: leaf.kblock_bytes(),
                current_value_bytes: leaf.current_value_bytes(),
                shadowed_bytes: leaf.shadowed_bytes(),
                vblocks: leaf.vblocks_max(),
                tombstone_pct: percent(leaf.tombstones(), leaf.live_keys()),
                least_keys: leaf.distinct_keys,
                least_kblock_bytes: leaf.kblock_bytes(),
                least_value_bytes: leaf.current_value_bytes(),
            },
        }
    }

    fn and(self, other: Self) -> Self {
        let (one, two) = (self.extremes, other.extremes);
        Self {
            keys: self.keys + other.keys,
            tombstones: self.tombstones + other.tombstones,
            distinct_keys: self.distinct_keys + other.distinct_keys,
            kblock_bytes: self.kblock_bytes + other.kblock_bytes,
            value_bytes: self.value_bytes + other.value_bytes,
            shadowed_bytes: self.shadowed_bytes + other.shadowed_bytes,
            extremes: Extremes {
                kvsets: one.kvsets.max(two.kvsets),
                distinct_keys: one.distinct_keys.max(two.distinct_keys),
                kblock_bytes: one.kblock_bytes.max(two.kblock_bytes),
                current_value_bytes: one.current_value_bytes.max(two.current_value_bytes),
                shadowed_bytes: one.shadowed_bytes.max(two.shadowed_bytes),
                vblocks: one.vblocks.max(two.vblocks),
                tombstone_pct: one.tombstone_pct.max(two.tombstone_pct),
                least_keys: one.least_keys.min(two.least_keys),
                least_kblock_bytes: one.least_kblock_bytes.min(two.least_kblock_bytes),
                least_value_bytes: one.least_value_bytes.min(two.least_value_bytes),
            },
        }
    }
}

impl ChunkShape {
    pub(crate) fn new(leaves: Vec<Arc<NodeShape>>) -> Self {
        let sums = leaves.iter().map(|leaf| Sums::of(leaf)).fold(Sums::NONE, Sums::and);
        Self { leaves, sums }
    }
}

impl LeafShapes {
    pub(crate) fn new(chunks: impl Iterator<Item = Arc<ChunkShape>>) -> Self {
        let mut leaves = Self { chunks: Vec::new(), starts: Vec::new(), len: 0, sums: Sums::NONE };
        for chunk in chunks.filter(|chunk| !chunk.leaves.is_empty()) {
            leaves.starts.push(leaves.len);
            leaves.len += chunk.leaves.len();
            leaves.sums = leaves.sums.and(chunk.sums);
            leaves.chunks.push(chunk);
        }
        leaves
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &NodeShape> {
        self.among(|_| true)
    }

    pub(super) fn last(&self) -> Option<&NodeShape> {
        self.chunks.last()?.leaves.last().map(|leaf| &**leaf)
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// The leaves of those chunks that `other` does not share.
    pub(super) fn not_in(&self, other: &Self) -> impl Iterator<Item = &NodeShape> {
        let shared: HashSet<*const ChunkShape> = other.chunks.iter().map(Arc::as_ptr).collect();
        let own = self.chunks.iter().filter(move |chunk| !shared.contains(&Arc::as_ptr(chunk)));
        own.flat_map(|chunk| &chunk.leaves).map(|leaf| &**leaf)
    }

    /// The leaves of those chunks of whose extremes it is said that one may be due.
    pub(super) fn among(
        &self,
        may_be: impl Fn(&Extremes) -> bool,
    ) -> impl Iterator<Item = &NodeShape> {
        let chunks = self.chunks.iter().filter(move |chunk| may_be(&chunk.sums.extremes));
        chunks.flat_map(|chunk| &chunk.leaves).map(|leaf| &**leaf)
    }

    /// The first two neighbours that are `wanted`, both in chunks in which they may be.
    pub(super) fn find_pair(
        &self,
        may_be: impl Fn(&Extremes) -> bool,
        wanted: impl Fn([&NodeShape; 2]) -> bool,
    ) -> Option<[&NodeShape; 2]> {
        let mut last: Option<&NodeShape> = None;
        for chunk in &self.chunks {
            if !may_be(&chunk.sums.extremes) {
                last = None;
                continue;
            }
            for leaf in &chunk.leaves {
                if let Some(pair) = last.map(|last| [last, &**leaf])
                    && wanted(pair)
                {
                    return Some(pair);
                }
                last = Some(leaf);
            }
        }
        None
    }
}

/// In chunks of [`CHUNK_LEN`].
impl FromIterator<Arc<NodeShape>> for LeafShapes {
    fn from_iter<I: IntoIterator<Item = Arc<NodeShape>>>(leaves: I) -> Self {
        let leaves: Vec<_> = leaves.into_iter().collect();
        let chunks = leaves.chunks(CHUNK_LEN).map(<[_]>::to_vec);
        Self::new(chunks.map(|leaves| Arc::new(ChunkShape::new(leaves))))
    }
}

impl Index<usize> for LeafShapes {
    type Output = NodeShape;

    fn index(&self, at: usize) -> &NodeShape {
        assert!(at < self.len, "a place within the list");
        let chunk = self.starts.partition_point(|start| *start <= at) - 1;
        &self.chunks[chunk].leaves[at - self.starts[chunk]]
    }
}

/// However they are divided into chunks.
impl PartialEq for LeafShapes {
    fn eq(&self, other: &Self) -> bool {
        self.sums == other.sums && self.iter().eq(other.iter())
    }
}

impl Eq for LeafShapes {}
