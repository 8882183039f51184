//! PURE: what the picker sees of a tree, and the sums it forms of it.

use super::gathered::Gathered;
use super::leaves::LeafShapes;
use super::plan::{Action, NewLeaves, Plan, Why};
use super::units::Objects;
use super::vblocks::Vblocks;
use super::{COST_MAX, Limits, fits, length, percent};
use crate::key::{KvsetId, NodeId};
use mpool::MblockId;
use std::collections::BTreeSet;
use std::sync::Arc;

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
    /// Which, and how many bytes of each.
    pub(crate) refs: Arc<[(MblockId, u64)]>,
}

/// One node, kvsets newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeShape {
    pub(crate) id: NodeId,
    pub(crate) kvsets: Vec<KvsetShape>,
    /// About how many different keys its kvsets have together.
    pub(crate) distinct_keys: u64,
    sums: NodeSums,
}

/// What the kvsets of a node come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeSums {
    keys: u64,
    tombstones: u64,
    kblock_bytes: u64,
    value_bytes: u64,
    vblocks_max: u64,
}

/// One KVS's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeShape {
    pub(crate) root: NodeShape,
    /// Where the keys of the root's oldest kvset belong.
    pub(crate) lands: Lands,
    pub(crate) leaves: LeafShapes,
    /// Inputs of running jobs.
    pub(crate) busy: Arc<BTreeSet<KvsetId>>,
    /// Kvsets of which a job could not read all keys: they stay where they are.
    pub(crate) unreadable: Arc<BTreeSet<KvsetId>>,
    /// All its vblocks; none unless [`super::needs_vblocks`] says so.
    pub(crate) vblocks: Arc<Vblocks>,
    /// Of those the ones that no job on a leaf can let go of, but for the root's: because of what
    /// cannot be read.
    pub(crate) held: Arc<BTreeSet<MblockId>>,
    /// All its vblocks on the medium.
    pub(crate) vblock_bytes: u64,
    /// What all its kvsets refer to, keys shadowed by newer ones among them.
    pub(crate) value_bytes: u64,
    /// About how many different keys all kvsets have together.
    pub(crate) distinct_keys: u64,
    /// Leaves whose values were gathered in vain.
    pub(crate) gathered: Arc<Gathered>,
    /// A job runs that changes which leaves there are.
    pub(crate) reshaping: bool,
    /// All of its objects.
    pub(crate) objects: Objects,
}

/// One vblock, with what refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VblockShape {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    live_bytes: u64,
    /// Bytes that kvsets refer to, by their node, ascending: the root comes first.
    refs: Vec<(NodeId, u64)>,
}

/// Kvsets of a node that a job may take: nothing unreadable lies among them.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) kvsets: &'a [KvsetShape],
    /// Nothing older lies below them in their node.
    pub(super) bottom: bool,
}

impl VblockShape {
    /// One to which these nodes refer.
    pub(crate) fn new(id: MblockId, len_bytes: u64, mut refs: Vec<(NodeId, u64)>) -> Self {
        refs.sort_unstable();
        Self { id, len_bytes, live_bytes: refs.iter().map(|(_, bytes)| bytes).sum(), refs }
    }

    pub(crate) fn refs(&self) -> &[(NodeId, u64)] {
        &self.refs
    }

    pub(super) fn add(&mut self, node: NodeId, bytes: u64) {
        self.live_bytes += bytes;
        match self.find(node) {
            Ok(at) => self.refs[at].1 += bytes,
            Err(at) => self.refs.insert(at, (node, bytes)),
        }
    }

    pub(super) fn take(&mut self, node: NodeId, bytes: u64) {
        let at = self.find(node).expect("what is let go of was referred to");
        self.live_bytes -= bytes;
        self.refs[at].1 -= bytes;
        if self.refs[at].1 == 0 {
            self.refs.remove(at);
        }
    }

    fn find(&self, node: NodeId) -> Result<usize, usize> {
        self.refs.binary_search_by_key(&node, |(node, _)| *node)
    }

    pub(super) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether the root refers to it.
    pub(super) fn is_in_root(&self) -> bool {
        self.refs.first().is_some_and(|(node, _)| *node == NodeId::ROOT)
    }

    pub(super) fn garbage_bytes(&self) -> u64 {
        self.len_bytes.saturating_sub(self.live_bytes())
    }

    pub(super) fn of_leaf(&self, leaf: NodeId) -> u64 {
        self.find(leaf).map_or(0, |found| self.refs[found].1)
    }

    /// Garbage in percent of the vblock.
    pub(super) fn share(&self) -> u64 {
        percent(self.garbage_bytes(), self.len_bytes)
    }
}

impl TreeShape {
    pub(super) fn is_busy(&self, node: &NodeShape) -> bool {
        !self.busy.is_empty() && node.kvsets.iter().any(|kvset| self.busy.contains(&kvset.id))
    }

    fn is_unreadable(&self, kvset: &KvsetShape) -> bool {
        !self.unreadable.is_empty() && self.unreadable.contains(&kvset.id)
    }

    /// Whether all keys of a node can be read.
    pub(super) fn is_readable(&self, node: &NodeShape) -> bool {
        !node.kvsets.iter().any(|kvset| self.is_unreadable(kvset))
    }

    /// The kvsets that a job on a node takes: all, or those newer than what cannot be read.
    pub(super) fn run<'a>(&self, node: &'a NodeShape) -> Run<'a> {
        let end = node.kvsets.iter().position(|kvset| self.is_unreadable(kvset));
        let len = end.unwrap_or(node.kvsets.len());
        Run { kvsets: &node.kvsets[..len], bottom: end.is_none() }
    }

    /// The kvsets of the root that may go down: those older than anything that cannot be read, for
    /// what is newer must stay above it.
    pub(super) fn spillable(&self) -> &[KvsetShape] {
        let all = &self.root.kvsets;
        let start = all.iter().rposition(|kvset| self.is_unreadable(kvset)).map_or(0, |at| at + 1);
        &all[start..]
    }

    /// A job on the kvsets of a node's run.
    pub(super) fn plan(&self, node: &NodeShape, action: Action, why: Why) -> Plan {
        node.plan_of(self.run(node).kvsets, action, why)
    }

    pub(super) fn leaf_index_bytes(&self) -> u64 {
        self.leaves.sums().kblock_bytes
    }

    fn leaf_bytes(&self) -> u64 {
        self.leaves.sums().kblock_bytes + self.leaves.sums().value_bytes
    }

    /// Different keys that are not deleted, about.
    pub(super) fn live_keys(&self) -> u64 {
        let tombstones = self.root.tombstones() + self.leaves.sums().tombstones;
        self.distinct_keys.saturating_sub(tombstones)
    }

    /// Whether taking so many keys that may kill something to the older ones below may free a good
    /// part of the bytes that it writes.
    pub(super) fn pays(&self, keys: u64, written_bytes: u64) -> bool {
        let (leaf_keys, leaf_bytes) = (self.leaves.sums().keys, self.leaf_bytes());
        let may_free = u128::from(keys) * u128::from(leaf_bytes) * u128::from(COST_MAX);
        leaf_keys == 0 || may_free >= u128::from(written_bytes) * u128::from(leaf_keys)
    }

    /// Bytes of keys and values on the medium, and what more objects than are needed take.
    pub(super) fn bytes(&self) -> u64 {
        self.stored_bytes() + self.surplus_unit_bytes()
    }

    /// Bytes of kblocks and vblocks on the medium.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.root.kblock_bytes() + self.leaf_index_bytes() + self.vblock_bytes
    }

    /// Bytes of vblocks that nothing refers to.
    pub(super) fn unreferenced_bytes(&self) -> u64 {
        self.vblock_bytes.saturating_sub(self.value_bytes)
    }

    /// Bytes in leaves that newer kvsets of the same leaf shadow, about.
    pub(super) fn shadowed_in_leaves(&self) -> u64 {
        self.leaves.sums().shadowed_bytes
    }

    /// Bytes in root and leaves that the root shadows, about.
    pub(super) fn shadowed_by_root(&self) -> u64 {
        let leaf_keys = self.leaves.sums().distinct_keys;
        let apart = self.root.distinct_keys + leaf_keys;
        let shadowed = apart.saturating_sub(self.distinct_keys).min(self.root.distinct_keys);
        let in_leaves = part_of(self.leaf_bytes(), shadowed, leaf_keys);
        self.root.shadowed_bytes() + in_leaves
    }
}

impl NodeShape {
    pub(crate) fn new(id: NodeId, kvsets: Vec<KvsetShape>, distinct_keys: u64) -> Self {
        let mut sums = NodeSums::default();
        for kvset in &kvsets {
            sums.keys += kvset.keys;
            sums.tombstones += kvset.tombstones;
            sums.kblock_bytes += kvset.kblock_bytes;
            sums.value_bytes += kvset.value_bytes;
            sums.vblocks_max = sums.vblocks_max.max(kvset.vblocks);
        }
        Self { id, kvsets, distinct_keys, sums }
    }

    pub(super) fn keys(&self) -> u64 {
        self.sums.keys
    }

    pub(super) fn tombstones(&self) -> u64 {
        self.sums.tombstones
    }

    /// Different keys that are not deleted, about: each tombstone is taken to be of a key of its
    /// own.
    pub(super) fn live_keys(&self) -> u64 {
        self.distinct_keys.saturating_sub(self.tombstones())
    }

    pub(super) fn value_bytes(&self) -> u64 {
        self.sums.value_bytes
    }

    /// Bytes of values that no newer kvset of the node shadows, about.
    pub(super) fn current_value_bytes(&self) -> u64 {
        part_of(self.value_bytes(), self.distinct_keys.min(self.keys()), self.keys())
    }

    pub(super) fn kblock_bytes(&self) -> u64 {
        self.sums.kblock_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kblock_bytes() + self.value_bytes()
    }

    /// The most vblocks that one of its kvsets refers to.
    pub(super) fn vblocks_max(&self) -> u64 {
        self.sums.vblocks_max
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

    /// A job on some of its kvsets, which lie one above the other.
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
            new_leaves: action.reshapes().then_some(NewLeaves::by_keys(parts)),
            output_bytes: kblock_bytes + values + parts * KVSET_BYTES,
        }
    }
}

/// `whole * part / of`, nothing of nothing.
fn part_of(whole: u64, part: u64, of: u64) -> u64 {
    let bytes = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
