//! PURE: what the picker sees of a tree, and the sums it forms of it.

use super::plan::{Action, Plan, Why};
use super::{COST_MAX, Limits, fits, length, percent};
use crate::key::{KvsetId, NodeId};
use mpool::MblockId;

/// What a kvset takes beside its keys and values: an hblock, and the rests of its last units.
pub(super) const KVSET_BYTES: u64 = 256 << 10;

/// Where the keys of a root kvset belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lands {
    /// In several leaves; or in none, as there are none and other kvsets have keys in its range.
    Apart,
    /// In one leaf.
    InOne,
    /// After every key of every leaf.
    After,
}

/// One kvset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvsetShape {
    pub(crate) id: KvsetId,
    /// Entries, tombstones among them.
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) kblock_bytes: u64,
    /// Bytes of values its keys point at.
    pub(crate) value_bytes: u64,
    /// vblocks it refers to: scatter.
    pub(crate) vblocks: u64,
    /// Told of the oldest kvset of the root that can be read; `Apart` of others.
    pub(crate) lands: Lands,
    /// An input of a running job.
    pub(crate) busy: bool,
    /// A job could not read all of its keys: it stays where it is.
    pub(crate) unreadable: bool,
}

/// One node, kvsets newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeShape {
    pub(crate) id: NodeId,
    pub(crate) kvsets: Vec<KvsetShape>,
    /// About how many different keys its kvsets have together.
    pub(crate) distinct_keys: u64,
}

/// One KVS's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeShape {
    pub(crate) root: NodeShape,
    pub(crate) leaves: Vec<NodeShape>,
    /// Each vblock with garbage that may be worth a job; none unless [`super::needs_vblocks`] says
    /// so.
    pub(crate) vblocks: Vec<VblockShape>,
    /// All its vblocks on the medium.
    pub(crate) vblock_bytes: u64,
    /// What all its kvsets refer to, keys shadowed by newer ones among them.
    pub(crate) value_bytes: u64,
    /// About how many different keys all kvsets have together.
    pub(crate) distinct_keys: u64,
    /// A job runs that changes which leaves there are.
    pub(crate) reshaping: bool,
}

/// One vblock, with what refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VblockShape {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    /// Bytes that no leaf can let go of: those of the root, or that cannot be read.
    pub(crate) held_bytes: u64,
    /// Bytes that kvsets of leaves refer to, by the leaf's place in the tree, ascending.
    pub(crate) leaf_bytes: Vec<(usize, u64)>,
}

/// Kvsets of a node that a job may take: nothing unreadable lies among them.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) kvsets: &'a [KvsetShape],
    /// Nothing older lies below them in their node.
    pub(super) bottom: bool,
}

impl VblockShape {
    pub(super) fn live_bytes(&self) -> u64 {
        self.held_bytes + self.leaf_bytes.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    pub(super) fn garbage_bytes(&self) -> u64 {
        self.len_bytes.saturating_sub(self.live_bytes())
    }

    pub(super) fn of_leaf(&self, leaf: usize) -> u64 {
        self.leaf_bytes.iter().find(|(at, _)| *at == leaf).map_or(0, |(_, bytes)| *bytes)
    }

    /// Garbage in percent of the vblock.
    pub(super) fn share(&self) -> u64 {
        percent(self.garbage_bytes(), self.len_bytes)
    }
}

impl TreeShape {
    fn leaf_sum(&self, of: fn(&NodeShape) -> u64) -> u64 {
        self.leaves.iter().map(of).sum()
    }

    pub(super) fn leaf_index_bytes(&self) -> u64 {
        self.leaf_sum(NodeShape::kblock_bytes)
    }

    /// Different keys that are not deleted, about.
    pub(super) fn live_keys(&self) -> u64 {
        let tombstones = self.root.tombstones() + self.leaf_sum(NodeShape::tombstones);
        self.distinct_keys.saturating_sub(tombstones)
    }

    /// Whether taking so many keys that may kill something to the older ones below may free a good
    /// part of the bytes that it writes.
    pub(super) fn pays(&self, keys: u64, written_bytes: u64) -> bool {
        let leaf_keys = self.leaf_sum(NodeShape::keys);
        let leaf_bytes = self.leaf_sum(NodeShape::bytes);
        let may_free = u128::from(keys) * u128::from(leaf_bytes) * u128::from(COST_MAX);
        leaf_keys == 0 || may_free >= u128::from(written_bytes) * u128::from(leaf_keys)
    }

    /// Bytes of keys and values on the medium.
    pub(super) fn bytes(&self) -> u64 {
        self.root.kblock_bytes() + self.leaf_sum(NodeShape::kblock_bytes) + self.vblock_bytes
    }

    /// Bytes of vblocks that nothing refers to.
    pub(super) fn unreferenced_bytes(&self) -> u64 {
        self.vblock_bytes.saturating_sub(self.value_bytes)
    }

    /// Bytes in leaves that newer kvsets of the same leaf shadow, about.
    pub(super) fn shadowed_in_leaves(&self) -> u64 {
        self.leaf_sum(NodeShape::shadowed_bytes)
    }

    /// Bytes in root and leaves that the root shadows, about.
    pub(super) fn shadowed_by_root(&self) -> u64 {
        let leaf_keys = self.leaf_sum(|leaf| leaf.distinct_keys);
        let apart = self.root.distinct_keys + leaf_keys;
        let shadowed = apart.saturating_sub(self.distinct_keys).min(self.root.distinct_keys);
        let in_leaves = part_of(self.leaf_sum(NodeShape::bytes), shadowed, leaf_keys);
        self.root.shadowed_bytes() + in_leaves
    }
}

impl NodeShape {
    pub(super) fn is_busy(&self) -> bool {
        self.kvsets.iter().any(|kvset| kvset.busy)
    }

    /// Whether all of its keys can be read.
    pub(super) fn is_readable(&self) -> bool {
        !self.kvsets.iter().any(|kvset| kvset.unreadable)
    }

    /// The kvsets that a job on the node takes: all, or those newer than what cannot be read.
    pub(super) fn run(&self) -> Run<'_> {
        let end = self.kvsets.iter().position(|kvset| kvset.unreadable);
        let len = end.unwrap_or(self.kvsets.len());
        Run { kvsets: &self.kvsets[..len], bottom: end.is_none() }
    }

    /// The kvsets of a root that may go down: those older than anything that cannot be read, for
    /// what is newer must stay above it.
    pub(super) fn spillable(&self) -> &[KvsetShape] {
        let start = self.kvsets.iter().rposition(|kvset| kvset.unreadable).map_or(0, |at| at + 1);
        &self.kvsets[start..]
    }

    fn sum(&self, of: impl Fn(&KvsetShape) -> u64) -> u64 {
        self.kvsets.iter().map(of).sum()
    }

    pub(super) fn keys(&self) -> u64 {
        self.sum(|kvset| kvset.keys)
    }

    pub(super) fn tombstones(&self) -> u64 {
        self.sum(|kvset| kvset.tombstones)
    }

    /// Different keys that are not deleted, about: each tombstone is taken to be of a key of its
    /// own.
    pub(super) fn live_keys(&self) -> u64 {
        self.distinct_keys.saturating_sub(self.tombstones())
    }

    pub(super) fn value_bytes(&self) -> u64 {
        self.sum(|kvset| kvset.value_bytes)
    }

    pub(super) fn kblock_bytes(&self) -> u64 {
        self.sum(|kvset| kvset.kblock_bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kblock_bytes() + self.value_bytes()
    }

    /// Bytes that newer kvsets of the node shadow, about.
    pub(super) fn shadowed_bytes(&self) -> u64 {
        let keys = self.keys();
        part_of(self.bytes(), keys.saturating_sub(self.distinct_keys), keys)
    }

    /// What a merge of its keys writes, at most.
    pub(super) fn index_bytes(&self) -> u64 {
        self.kblock_bytes() + KVSET_BYTES
    }

    /// Whether there is room for all of its values, beside what is kept for jobs that free space
    /// sooner.
    pub(super) fn can_be_rewritten(&self, limits: Limits) -> bool {
        let room = limits.room_bytes.saturating_sub(limits.kept_bytes);
        fits(room, self.index_bytes() + self.value_bytes())
    }

    /// A job on the kvsets of its run.
    pub(super) fn plan(&self, action: Action, why: Why) -> Plan {
        self.plan_of(self.run().kvsets, action, why)
    }

    /// A job on some of the kvsets of its run, which lie one above the other.
    pub(super) fn plan_of(&self, kvsets: &[KvsetShape], action: Action, why: Why) -> Plan {
        let kblock_bytes: u64 = kvsets.iter().map(|kvset| kvset.kblock_bytes).sum();
        let keys = kvsets.iter().map(|kvset| kvset.keys).sum();
        let values = if action == Action::KvCompact { self.value_bytes() } else { 0 };
        let parts = if let Action::Split { parts } = action { length(parts) } else { 1 };
        Plan {
            node: self.id,
            inputs: kvsets.iter().map(|kvset| kvset.id).collect(),
            action,
            why,
            vblocks: Vec::new(),
            distinct_keys: self.distinct_keys.min(keys),
            new_leaves: action.reshapes().then_some(parts),
            output_bytes: kblock_bytes + values + parts * KVSET_BYTES,
        }
    }
}

/// `whole * part / of`, nothing of nothing.
fn part_of(whole: u64, part: u64, of: u64) -> u64 {
    let bytes = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
