//! The tree of one KVS: a root and leaves, each a list of kvsets, newest first.
//!
//! ```text
//!                     root:  k9 k8 k7          flushed, whole key range
//!                            /    |    \       spill: keys only, values stay
//!   leaf ["", "g")   leaf ["g", "p")   leaf ["p", ..)
//!      k6 k2             k5 k3             k4
//! ```
//!
//! A tree is immutable; an edit makes another one, which shares what it does not change: leaves by
//! chunks (`leaves`), references to vblocks by a persistent map. So an edit copies the leaves and
//! nodes that it changes and the list of chunks, and joins the sketches of the chunks.
//!
//! Within a node the revisions of two kvsets never overlap, because flushes take memtables oldest
//! first, a spill takes the root's oldest kvsets, and what is merged in a node lies one above the
//! other: so the newest version of a key is in the first kvset that knows it, and sorting by
//! revision restores the order at recovery.

mod leaves;
mod shape;
#[cfg(test)]
mod tests;

pub(crate) use leaves::{Leaf, Leaves};

use crate::dead::DeadRanges;
use crate::key::{KvsId, KvsetId, NodeId};
use crate::kvset::sketch::{KeySet, union};
use crate::kvset::{Kvset, KvsetMeta};
use crate::pick::Gathered;
use bytes::Bytes;
use mpool::{MblockId, SharedMap};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The kvsets of one KVS.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) kvs: KvsId,
    pub(crate) name: Arc<str>,
    /// Where nothing lives; the same for every tree of the KVS.
    pub(crate) dead: Arc<DeadRanges>,
    /// Newest first.
    pub(crate) root: Vec<Arc<Kvset>>,
    /// In key order. Empty until the first spill; then the first leaf's range starts with the empty
    /// key.
    pub(crate) leaves: Leaves,
    vblocks: SharedMap<MblockId, VblockUse>,
    totals: Totals,
    /// The keys of the root, and how many different ones root and leaves have together.
    root_keys: Arc<KeySet>,
    distinct_keys: u64,
}

/// Sums over all kvsets of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) kvsets: u64,
    /// Entries, tombstones and shadowed ones among them.
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) kblock_bytes: u64,
    /// Bytes of values that they refer to.
    pub(crate) value_bytes: u64,
    /// Bytes of all vblocks on the medium.
    pub(crate) vblock_bytes: u64,
}

/// A vblock, and what kvsets refer to in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VblockUse {
    len_bytes: u64,
    live_bytes: u64,
    kvsets: u32,
}

/// What changes in a tree, by one edit of the manifest.
#[derive(Default)]
pub(crate) struct TreeEdit {
    pub(crate) remove: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) add: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) leaves_remove: Vec<NodeId>,
    pub(crate) leaves_add: Vec<(NodeId, Bytes)>,
}

/// What the picker leaves alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// Inputs of running jobs.
    pub(crate) busy: Arc<BTreeSet<KvsetId>>,
    /// Kvsets whose keys cannot all be read, and vblocks with values that cannot.
    pub(crate) unreadable: Arc<BTreeSet<KvsetId>>,
    pub(crate) unreadable_vblocks: Arc<BTreeSet<MblockId>>,
    /// Leaves whose values were gathered in vain.
    pub(crate) gathered: Arc<Gathered>,
    /// Whether a job runs that changes which leaves there are.
    pub(crate) reshaping: bool,
}

fn keys_of(kvsets: &[Arc<Kvset>]) -> Arc<KeySet> {
    let metas = kvsets.iter().map(|kvset| kvset.meta());
    Arc::new(union(metas.map(|meta| (meta.keys, meta.sketch.as_deref()))))
}

/// Newest first.
fn put_in_order(kvsets: &mut [Arc<Kvset>]) {
    kvsets.sort_by_key(|kvset| Reverse(kvset.meta().max_revision));
    for pair in kvsets.windows(2) {
        let (newer, older) = (pair[0].meta(), pair[1].meta());
        assert!(
            newer.min_revision > older.max_revision,
            "revisions of a node's kvsets are disjoint"
        );
    }
}

impl Tree {
    pub(crate) fn new(kvs: KvsId, name: &str) -> Self {
        Self {
            kvs,
            name: name.into(),
            dead: Arc::default(),
            root: Vec::new(),
            leaves: Leaves::default(),
            vblocks: SharedMap::default(),
            totals: Totals::default(),
            root_keys: keys_of(&[]),
            distinct_keys: 0,
        }
    }

    /// The leaf whose range holds `key`.
    pub(crate) fn route(&self, key: &[u8]) -> Option<&Leaf> {
        self.leaves.route(key)
    }

    /// Where a key may be, in the order in which it must be looked for.
    pub(crate) fn sources(&self, key: &[u8]) -> impl Iterator<Item = &Arc<Kvset>> {
        self.root.iter().chain(self.route(key).into_iter().flat_map(|leaf| &leaf.kvsets))
    }

    pub(crate) fn kvsets(&self) -> impl Iterator<Item = &Arc<Kvset>> {
        self.root.iter().chain(self.leaves.iter().flat_map(|leaf| &leaf.kvsets))
    }

    pub(crate) fn leaf(&self, id: NodeId) -> Option<&Leaf> {
        self.leaves.find_id(id).map(|place| self.leaves.at(place))
    }

    /// The kvsets of a node, newest first; none if there is no such node.
    pub(crate) fn kvsets_of(&self, id: NodeId) -> &[Arc<Kvset>] {
        if id == NodeId::ROOT {
            return &self.root;
        }
        self.leaf(id).map_or(&[], |leaf| &leaf.kvsets)
    }

    /// Sums over all kvsets.
    pub(crate) const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// How many vblocks they refer to.
    pub(crate) fn vblocks(&self) -> u64 {
        self.vblocks.len() as u64
    }

    /// How long a vblock is that a kvset refers to.
    pub(crate) fn vblock_bytes(&self, id: MblockId) -> u64 {
        self.vblocks.get(&id).expect("counted when the kvset came").len_bytes
    }

    /// About how many different keys it has, tombstones among them.
    pub(crate) const fn distinct_keys(&self) -> u64 {
        self.distinct_keys
    }

    /// The tree after an edit; `len_of` tells how long the vblocks are that it adds.
    pub(crate) fn edited(&self, edit: &TreeEdit, len_of: &dyn Fn(MblockId) -> u64) -> Self {
        let mut next = self.clone();
        for (node, kvset) in &edit.remove {
            let kvsets = next.change(*node, kvset.meta());
            let id = kvset.meta().id;
            let at = kvsets.iter().position(|other| other.meta().id == id);
            kvsets.remove(at.expect("a kvset that goes is in its node"));
            next.discount(kvset.meta());
        }
        for id in &edit.leaves_remove {
            let place = next.leaves.find_id(*id).expect("a leaf that goes is there");
            assert!(next.leaves.at(place).kvsets.is_empty(), "a removed leaf holds nothing");
            next.leaves.remove(place);
        }
        for (id, first_key) in &edit.leaves_add {
            next.leaves.insert(Leaf::new(*id, first_key.clone()));
        }
        for (node, kvset) in &edit.add {
            next.change(*node, kvset.meta()).push(Arc::clone(kvset));
            next.count(kvset.meta(), len_of);
        }
        next.leaves.settle();
        let changed = || edit.remove.iter().chain(&edit.add).map(|(node, _)| *node);
        if changed().any(|node| node == NodeId::ROOT) {
            put_in_order(&mut next.root);
            next.root_keys = keys_of(&next.root);
        }
        next.distinct_keys = next.count_distinct();
        next
    }

    /// The kvsets of a node, to be changed by one with this meta. Its keys say where a leaf is.
    fn change(&mut self, node: NodeId, meta: &KvsetMeta) -> &mut Vec<Arc<Kvset>> {
        if node == NodeId::ROOT {
            return &mut self.root;
        }
        let place = self.leaves.find(&meta.min_key);
        let place = place.filter(|place| self.leaves.at(*place).id == node);
        let place = place.expect("a kvset is in the node that its keys belong to");
        &mut self.leaves.change(place).kvsets
    }

    fn count(&mut self, meta: &KvsetMeta, len_of: &dyn Fn(MblockId) -> u64) {
        let totals = &mut self.totals;
        totals.kvsets += 1;
        totals.keys += meta.keys;
        totals.tombstones += meta.tombstones;
        totals.kblock_bytes += meta.kblock_bytes;
        totals.value_bytes += meta.value_bytes;
        for (id, bytes) in meta.vblocks.iter() {
            let used = self.vblocks.get(id).copied().unwrap_or_else(|| {
                let len_bytes = len_of(*id);
                totals.vblock_bytes += len_bytes;
                VblockUse { len_bytes, live_bytes: 0, kvsets: 0 }
            });
            let (live_bytes, kvsets) = (used.live_bytes + bytes, used.kvsets + 1);
            self.vblocks.insert(*id, VblockUse { live_bytes, kvsets, ..used });
        }
    }

    fn discount(&mut self, meta: &KvsetMeta) {
        let totals = &mut self.totals;
        totals.kvsets -= 1;
        totals.keys -= meta.keys;
        totals.tombstones -= meta.tombstones;
        totals.kblock_bytes -= meta.kblock_bytes;
        totals.value_bytes -= meta.value_bytes;
        for (id, bytes) in meta.vblocks.iter() {
            let used = *self.vblocks.get(id).expect("counted when the kvset came");
            if used.kvsets == 1 {
                totals.vblock_bytes -= used.len_bytes;
                self.vblocks.remove(id);
                continue;
            }
            let (live_bytes, kvsets) = (used.live_bytes - bytes, used.kvsets - 1);
            self.vblocks.insert(*id, VblockUse { live_bytes, kvsets, ..used });
        }
    }

    /// The tree with these kvsets in the place of those with the same ids, as far as it has them;
    /// `None` if it has none.
    pub(crate) fn renewed(&self, kvsets: &BTreeMap<KvsetId, Arc<Kvset>>) -> Option<Self> {
        let in_place_of = |old: &Arc<Kvset>| kvsets.get(&old.meta().id).cloned();
        self.kvsets().find_map(in_place_of)?;
        let mut next = self.clone();
        for kvset in &mut next.root {
            if let Some(new) = in_place_of(kvset) {
                *kvset = new;
            }
        }
        next.leaves.exchange(in_place_of);
        Some(next)
    }

    /// Leaves have no key in common, so their numbers add up; only the root's keys may be theirs.
    fn count_distinct(&self) -> u64 {
        let leaves = self.leaves.keys();
        if self.root.is_empty() || leaves.keys == 0 {
            return leaves.keys + self.root_keys.keys;
        }
        union([self.root_keys.as_pair(), leaves.as_pair()].into_iter()).keys
    }
}
