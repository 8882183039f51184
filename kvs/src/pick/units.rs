//! PURE: what objects take beside what lies in them, and what of it a tree can do without.
//!
//! An object takes whole units of 64 KiB: of an hblock, the last of the kblocks and a vblock most
//! of one is empty where they are short. Beside gigabytes that is nothing; of a KVS of a megabyte
//! in four kvsets it may be a third. What a tree cannot do without is a kvset for each leaf, and a
//! vblock for each of its [`LONG_VBLOCK_BYTES`] of values; that is no garbage.
//!
//! Jobs count it only where it is a good part of what they write: no large leaf is written for it.

use super::length;
use super::shape::{KvsetShape, NodeShape, TreeShape};

/// Of a kvset: its hblock, and the rest of its last kblock; as seen of short ones.
const KVSET_UNIT_BYTES: u64 = 128 << 10;
/// The rest of a vblock's last unit, and its checksums; as seen.
const VBLOCK_UNIT_BYTES: u64 = 48 << 10;
/// A vblock of this many bytes loses less than a hundredth by it.
const LONG_VBLOCK_BYTES: u64 = 4 << 20;
/// A tree in which less than this part is not in its longest objects is left alone: it would be
/// written anew for every little that is put.
const FRESH_PART: u64 = 4;
/// Units are worth a job that writes at most so many times what they take.
const WORTH_WRITING: u64 = 16;

/// How many objects a tree has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) kvsets: u64,
    pub(crate) vblocks: u64,
}

impl TreeShape {
    /// What objects take beside what lies in them, about, as far as they could be fewer and it is
    /// time for that.
    pub(super) fn surplus_unit_bytes(&self) -> u64 {
        let kvsets = self.objects.kvsets.saturating_sub(self.least_kvsets());
        let surplus = bytes(kvsets, self.surplus_vblocks());
        // Where they are next to nothing, the objects are not looked at: this is asked for often.
        let is_little = surplus.saturating_mul(2 * FRESH_PART) < self.stored_bytes();
        if is_little || self.is_fresh() { surplus } else { 0 }
    }

    /// Whether a good part of it is not in its longest kvset and vblock.
    fn is_fresh(&self) -> bool {
        let kvsets = || self.leaves.iter().flat_map(|leaf| &leaf.kvsets).chain(&self.root.kvsets);
        let longest = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.max(b.1));
        let of = |kvset: &KvsetShape| {
            let vblock = kvset.refs.iter().map(|(_, bytes)| *bytes).max();
            (kvset.kblock_bytes, vblock.unwrap_or(0))
        };
        let (keys, values) = kvsets().map(of).fold((0, 0), longest);
        let all: u64 = kvsets().map(|kvset| kvset.kblock_bytes + kvset.value_bytes).sum();
        (all - keys).saturating_sub(values).saturating_mul(FRESH_PART) >= all
    }

    fn least_kvsets(&self) -> u64 {
        length(self.leaves.len()).max(1)
    }

    fn surplus_vblocks(&self) -> u64 {
        let least = self.least_kvsets() + self.value_bytes / LONG_VBLOCK_BYTES;
        self.objects.vblocks.saturating_sub(least)
    }

    /// What a spill of the whole root brings down to merges that let go of it; nothing where there
    /// are more leaves that get a kvset than the root has.
    pub(super) fn spilled_unit_bytes(&self, written_bytes: u64) -> u64 {
        let kvsets = length(self.root.kvsets.len());
        let fewer = self.objects.kvsets > self.least_kvsets() && kvsets >= self.least_kvsets();
        if fewer { worth(bytes(kvsets, 0), written_bytes) } else { 0 }
    }

    /// What writing a leaf with its values lets go of, where vblocks become at most `object_bytes`
    /// long. Half of that is enough: else a leaf on a volume with short free ranges would be
    /// written again and again, with as many vblocks as before.
    pub(super) fn gathered_unit_bytes(
        &self,
        leaf: &NodeShape,
        (written_bytes, object_bytes): (u64, u64),
    ) -> u64 {
        let long_bytes = LONG_VBLOCK_BYTES.min(object_bytes / 2).max(1);
        let least = 1 + leaf.value_bytes() / long_bytes;
        let vblocks = leaf.vblocks_max().saturating_sub(least).min(self.surplus_vblocks());
        self.worth(bytes(0, vblocks) + surplus_of(leaf), written_bytes)
    }

    /// What a merge of a leaf lets go of.
    pub(super) fn merged_unit_bytes(&self, leaf: &NodeShape, written_bytes: u64) -> u64 {
        self.worth(surplus_of(leaf), written_bytes)
    }

    /// What a job on a leaf lets go of, as far as the tree has so much too many, and if it is worth
    /// what it writes; else 0.
    fn worth(&self, unit_bytes: u64, written_bytes: u64) -> u64 {
        match worth(unit_bytes, written_bytes) {
            0 => 0,
            unit_bytes => worth(unit_bytes.min(self.surplus_unit_bytes()), written_bytes),
        }
    }
}

fn surplus_of(leaf: &NodeShape) -> u64 {
    bytes(length(leaf.kvsets.len()).saturating_sub(1), 0)
}

fn bytes(kvsets: u64, vblocks: u64) -> u64 {
    kvsets * KVSET_UNIT_BYTES + vblocks * VBLOCK_UNIT_BYTES
}

/// What a job lets go of, if that is worth what it writes; else 0.
fn worth(unit_bytes: u64, written_bytes: u64) -> u64 {
    if unit_bytes.saturating_mul(WORTH_WRITING) >= written_bytes { unit_bytes } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::shape::{KvsetShape, Lands};
    use super::super::{Action, LeafShapes, Limits, Plan, Why, garbage_bytes, pick};
    use super::*;
    use crate::key::{KvsetId, NodeId};
    use mpool::MblockId;
    use std::sync::Arc;

    /// A kvset with so many KiB of values in so many vblocks.
    type Kvset = (u64, u64);

    fn tree(root: &[Kvset], leaf: &[Kvset]) -> TreeShape {
        let mut id = 0;
        let mut node = |node: u64, kvsets: &[Kvset]| {
            let kvset = |(kib, vblocks): &Kvset| {
                id += 1;
                KvsetShape {
                    id: KvsetId::new(id),
                    keys: *kib,
                    tombstones: 0,
                    kblock_bytes: kib * 20,
                    value_bytes: kib << 10,
                    vblocks: *vblocks,
                    refs: refs(id, (kib << 10, *vblocks)),
                }
            };
            let keys = kvsets.iter().map(|(kib, _)| kib).sum();
            NodeShape::new(NodeId::new(node), kvsets.iter().map(kvset).collect(), keys)
        };
        let (root, below) = (node(0, root), node(1, leaf));
        let leaves: LeafShapes = (!leaf.is_empty()).then(|| Arc::new(below)).into_iter().collect();
        let nodes = || leaves.iter().chain([&root]);
        let value_bytes = nodes().map(NodeShape::value_bytes).sum();
        let kvsets: Vec<_> = nodes().flat_map(|node| &node.kvsets).collect();
        let vblocks = kvsets.iter().map(|kvset| kvset.vblocks).sum();
        let objects = Objects { kvsets: length(kvsets.len()), vblocks };
        TreeShape {
            distinct_keys: nodes().map(|node| node.distinct_keys).sum(),
            lands: Lands::Apart,
            busy: Arc::default(),
            unreadable: Arc::default(),
            vblocks: Arc::default(),
            held: Arc::default(),
            gathered: Arc::default(),
            vblock_bytes: value_bytes,
            value_bytes,
            reshaping: false,
            objects,
            root,
            leaves,
        }
    }

    /// Equal parts of its values in each of its vblocks.
    fn refs(kvset: u64, (bytes, vblocks): (u64, u64)) -> Arc<[(MblockId, u64)]> {
        let id = |n| MblockId::new(kvset * 1000 + n).unwrap();
        (1..=vblocks).map(|n| (id(n), bytes / vblocks)).collect()
    }

    fn quiet(root: &[Kvset], leaf: &[Kvset]) -> Option<Plan> {
        pick(&tree(root, leaf), Limits::QUIET)
    }

    /// Three flushes of 250 KiB each were three kvsets for ever: half as much again as they held.
    #[test]
    fn a_small_tree_in_many_objects_becomes_one_kvset_with_one_vblock() {
        let steps: [(&[Kvset], &[Kvset], Action); 4] = [
            (&[(250, 1), (250, 1), (250, 1)], &[], Action::Spill),
            (&[(250, 1)], &[(500, 2), (50, 1)], Action::KCompact),
            (&[(250, 1)], &[(550, 1)], Action::Spill),
            (&[], &[(400, 3)], Action::KvCompact),
        ];
        for (root, leaf, action) in steps {
            let plan = quiet(root, leaf).unwrap();
            assert_eq!((plan.action, plan.why), (action, Why::Garbage), "{root:?} {leaf:?}");
        }
        assert_eq!(quiet(&[], &[(400, 2)]), None);
        assert_eq!(quiet(&[], &[(400, 1)]), None);
        assert_eq!(quiet(&[(250, 1)], &[(2000, 1)]), None, "a tenth");
        assert_eq!(quiet(&[(10, 1)], &[]), None, "nothing has less than one");
    }

    /// It would come out as it went in, for ever.
    #[test]
    fn no_leaf_is_gathered_where_vblocks_stay_short() {
        let leaf: [Kvset; 1] = [(400, 6)];
        let limits = |object_bytes| Limits { object_bytes, ..Limits::QUIET };
        let plan = |object_bytes| pick(&tree(&[], &leaf), limits(object_bytes));
        assert_eq!(plan(32 << 20).unwrap().action, Action::KvCompact);
        assert_eq!(plan(64 << 10), None);
        assert!(plan(1 << 20).is_some(), "one is enough");
    }

    #[test]
    fn it_counts_beside_what_is_small_only() {
        let flushes = [(64 << 10, 2); 3];
        assert_eq!(quiet(&flushes, &[(500 << 10, 16)]), None);
        let (garbage, all) = garbage_bytes(&tree(&flushes, &[(500 << 10, 16)]));
        assert!(garbage * 100 < all, "{garbage} of {all}");
        // Busy or not, it is garbage like any other.
        let mut small = tree(&[(900, 1), (1, 1), (900, 1)], &[(12_000, 18)]);
        assert_eq!(garbage_bytes(&small).0, (3 * 128 + (21 - 1 - 3) * 48) << 10);
        small.vblock_bytes += small.vblock_bytes * 33 / 100;
        assert!(pick(&small, Limits::DEFAULT).is_some());
        small.objects = Objects::default();
        assert!(pick(&small, Limits::DEFAULT).is_none());
    }

    /// A KVS of a megabyte was written anew for every 16 KiB: 24 times what was put.
    #[test]
    fn a_small_tree_waits_until_a_good_part_of_it_is_new() {
        assert_eq!(quiet(&[(16, 1)], &[(1000, 1)]), None);
        assert_eq!(quiet(&[(16, 1), (16, 1), (16, 1)], &[(1000, 1)]), None);
        assert_eq!(quiet(&[], &[(16, 1), (48, 1), (1000, 1)]), None);
        assert!(quiet(&[(170, 1), (170, 1)], &[(1000, 1)]).is_some());
        assert!(quiet(&[], &[(340, 9), (1000, 1)]).is_some());
    }

    /// No leaf of gigabytes is written for the rests of a few units.
    #[test]
    fn units_alone_are_no_reason_to_write_much() {
        let few = tree(&[], &[(100 << 10, 40), (1, 1)]);
        assert!(few.surplus_unit_bytes() > 0);
        let leaf = &few.leaves[0];
        assert_eq!(
            few.gathered_unit_bytes(leaf, (leaf.index_bytes() + leaf.value_bytes(), 32 << 20)),
            0
        );
        assert_eq!(few.merged_unit_bytes(leaf, leaf.index_bytes()), 0);
    }
}
