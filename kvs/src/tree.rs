//! The tree of one KVS: a root and leaves, each a list of kvsets, newest first.
//!
//! ```text
//!                     root:  k9 k8 k7          flushed, whole key range
//!                            /    |    \       spill: keys only, values stay
//!   leaf ["", "g")   leaf ["g", "p")   leaf ["p", ..)
//!      k6 k2             k5 k3             k4
//! ```
//!
//! A tree is immutable; an edit makes another one that shares the kvsets. Within a node the
//! revisions of two kvsets never overlap, because flushes take memtables oldest first, a spill
//! takes the root's oldest kvsets, and a leaf is compacted whole: so the newest version of a key is
//! in the first kvset that knows it, and sorting by revision restores the order at recovery.

use crate::compact::pick::{KvsetShape, Lands, NodeShape, TreeShape, VblockShape};
use crate::dead::DeadRanges;
use crate::key::{KvsId, KvsetId, NodeId};
use crate::kvset::Kvset;
use crate::kvset::sketch::{KeySet, joined, union};
use bytes::Bytes;
use mpool::MblockId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A key range and its kvsets.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) id: NodeId,
    /// First key of the range; the range ends where the next leaf begins.
    pub(crate) first_key: Bytes,
    /// Newest first.
    pub(crate) kvsets: Vec<Arc<Kvset>>,
    /// The keys of all of them.
    keys: Arc<KeySet>,
}

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
    pub(crate) leaves: Vec<Leaf>,
    /// Bytes of all its vblocks on the medium.
    vblock_bytes: u64,
    /// The keys of the root, and how many different ones root and leaves have together.
    root_keys: Arc<KeySet>,
    distinct_keys: u64,
}

/// What changes in a tree, by one edit of the manifest.
#[derive(Default)]
pub(crate) struct TreeEdit {
    pub(crate) remove: Vec<KvsetId>,
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
    /// Whether a job runs that changes which leaves there are.
    pub(crate) reshaping: bool,
}

fn keys_of(kvsets: &[Arc<Kvset>]) -> Arc<KeySet> {
    let metas = kvsets.iter().map(|kvset| kvset.meta());
    Arc::new(union(metas.map(|meta| (meta.keys, meta.sketch.as_deref()))))
}

impl Leaf {
    fn new(id: NodeId, first_key: Bytes) -> Self {
        Self { id, first_key, kvsets: Vec::new(), keys: keys_of(&[]) }
    }
}

impl Tree {
    pub(crate) fn new(kvs: KvsId, name: &str) -> Self {
        Self {
            kvs,
            name: name.into(),
            dead: Arc::default(),
            root: Vec::new(),
            leaves: Vec::new(),
            vblock_bytes: 0,
            root_keys: keys_of(&[]),
            distinct_keys: 0,
        }
    }

    /// The leaf whose range holds `key`.
    pub(crate) fn route(&self, key: &[u8]) -> Option<&Leaf> {
        let after = self.leaves.partition_point(|leaf| *leaf.first_key <= *key);
        self.leaves.get(after.checked_sub(1)?)
    }

    /// Where a key may be, in the order in which it must be looked for.
    pub(crate) fn sources(&self, key: &[u8]) -> impl Iterator<Item = &Arc<Kvset>> {
        self.root.iter().chain(self.route(key).into_iter().flat_map(|leaf| &leaf.kvsets))
    }

    pub(crate) fn kvsets(&self) -> impl Iterator<Item = &Arc<Kvset>> {
        self.root.iter().chain(self.leaves.iter().flat_map(|leaf| &leaf.kvsets))
    }

    pub(crate) fn leaf(&self, id: NodeId) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.id == id)
    }

    /// Bytes of all its vblocks on the medium.
    pub(crate) const fn vblock_bytes(&self) -> u64 {
        self.vblock_bytes
    }

    /// About how many different keys it has, tombstones among them.
    pub(crate) const fn distinct_keys(&self) -> u64 {
        self.distinct_keys
    }

    /// The tree after an edit that leaves it with so many bytes of vblocks.
    pub(crate) fn edited(&self, edit: &TreeEdit, vblock_bytes: u64) -> Self {
        let mut next = Self { vblock_bytes, ..self.clone() };
        let removed: BTreeSet<KvsetId> = edit.remove.iter().copied().collect();
        let is_left = |kvset: &Arc<Kvset>| !removed.contains(&kvset.meta().id);
        let mut touched = BTreeSet::new();
        for (id, kvsets) in next.nodes() {
            let before = kvsets.len();
            kvsets.retain(is_left);
            if kvsets.len() < before {
                touched.insert(id);
            }
        }
        next.leaves.retain(|leaf| {
            let removed = edit.leaves_remove.contains(&leaf.id);
            assert!(!removed || leaf.kvsets.is_empty(), "a removed leaf holds nothing");
            !removed
        });
        for (id, first_key) in &edit.leaves_add {
            let leaf = Leaf::new(*id, first_key.clone());
            let at = next.leaves.partition_point(|other| other.first_key < leaf.first_key);
            next.leaves.insert(at, leaf);
        }
        let mut added: BTreeMap<NodeId, Vec<Arc<Kvset>>> = BTreeMap::new();
        for (node, kvset) in &edit.add {
            added.entry(*node).or_default().push(Arc::clone(kvset));
        }
        for (id, kvsets) in next.nodes() {
            if let Some(added) = added.remove(&id) {
                kvsets.extend(added);
                touched.insert(id);
            }
        }
        assert!(added.is_empty(), "a kvset is added to a node that exists");
        next.settle(&touched);
        next
    }

    /// The tree with these kvsets in the place of those with the same ids, as far as it has them;
    /// `None` if it has none.
    pub(crate) fn renewed(&self, kvsets: &BTreeMap<KvsetId, Arc<Kvset>>) -> Option<Self> {
        let in_place_of = |old: &Arc<Kvset>| kvsets.get(&old.meta().id);
        self.kvsets().find_map(in_place_of)?;
        let mut next = self.clone();
        for kvset in next.nodes().flat_map(|(_, kvsets)| kvsets) {
            if let Some(new) = in_place_of(kvset) {
                *kvset = Arc::clone(new);
            }
        }
        Some(next)
    }

    fn nodes(&mut self) -> impl Iterator<Item = (NodeId, &mut Vec<Arc<Kvset>>)> {
        let leaves = self.leaves.iter_mut().map(|leaf| (leaf.id, &mut leaf.kvsets));
        std::iter::once((NodeId::ROOT, &mut self.root)).chain(leaves)
    }

    /// Restores the order that the module's description promises, and what is known of the nodes
    /// that an edit has touched.
    fn settle(&mut self, touched: &BTreeSet<NodeId>) {
        for (_, kvsets) in self.nodes().filter(|(id, _)| touched.contains(id)) {
            kvsets.sort_by_key(|kvset| Reverse(kvset.meta().max_revision));
            for pair in kvsets.windows(2) {
                let (newer, older) = (pair[0].meta(), pair[1].meta());
                assert!(
                    newer.min_revision > older.max_revision,
                    "revisions of a node's kvsets are disjoint"
                );
            }
        }
        assert!(
            self.leaves.first().is_none_or(|leaf| leaf.first_key.is_empty()),
            "every key has a leaf"
        );
        if touched.contains(&NodeId::ROOT) {
            self.root_keys = keys_of(&self.root);
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| touched.contains(&leaf.id)) {
            leaf.keys = keys_of(&leaf.kvsets);
        }
        self.distinct_keys = self.count_distinct();
    }

    /// Leaves have no key in common, so their numbers add up; only the root's keys may be theirs.
    fn count_distinct(&self) -> u64 {
        let in_leaves: u64 = self.leaves.iter().map(|leaf| leaf.keys.keys).sum();
        if self.root.is_empty() || in_leaves == 0 {
            return in_leaves + self.root_keys.keys;
        }
        let sketch = joined(self.leaves.iter().map(|leaf| leaf.keys.as_pair()));
        let leaves = (in_leaves, sketch.as_deref());
        union([self.root_keys.as_pair(), leaves].into_iter()).keys
    }

    /// What the picker decides on, but for the vblocks.
    pub(crate) fn shape(&self, aside: &Aside) -> TreeShape {
        let oldest = self.root.last().map(|kvset| kvset.meta().id);
        let kvset = |kvset: &Arc<Kvset>| {
            let meta = kvset.meta();
            KvsetShape {
                id: meta.id,
                keys: meta.keys,
                tombstones: meta.tombstones,
                kblock_bytes: meta.kblock_bytes,
                value_bytes: meta.value_bytes,
                vblocks: meta.vblocks.len() as u64,
                lands: if oldest == Some(meta.id) { self.lands(kvset) } else { Lands::Apart },
                busy: aside.busy.contains(&meta.id),
                unreadable: aside.unreadable.contains(&meta.id),
            }
        };
        let node = |id, kvsets: &[Arc<Kvset>], keys: &KeySet| NodeShape {
            id,
            kvsets: kvsets.iter().map(kvset).collect(),
            distinct_keys: keys.keys,
        };
        let leaf = |leaf: &Leaf| node(leaf.id, &leaf.kvsets, &leaf.keys);
        TreeShape {
            root: node(NodeId::ROOT, &self.root, &self.root_keys),
            leaves: self.leaves.iter().map(leaf).collect(),
            vblocks: Vec::new(),
            vblock_bytes: self.vblock_bytes,
            value_bytes: self.kvsets().map(|kvset| kvset.meta().value_bytes).sum(),
            distinct_keys: self.distinct_keys,
            reshaping: aside.reshaping,
        }
    }

    /// Where the keys of the root's oldest kvset belong.
    fn lands(&self, kvset: &Kvset) -> Lands {
        let meta = kvset.meta();
        let is_after = |other: &Arc<Kvset>| other.meta().min_key > meta.max_key;
        let Some(last) = self.leaves.last() else {
            let newer = &self.root[..self.root.len() - 1];
            return if newer.iter().all(is_after) { Lands::After } else { Lands::Apart };
        };
        let node = |key: &[u8]| self.route(key).map(|leaf| leaf.id);
        let first = node(&meta.min_key);
        if first != node(&meta.max_key) {
            return Lands::Apart;
        }
        let is_before = |other: &Arc<Kvset>| other.meta().max_key < meta.min_key;
        let after = first == Some(last.id) && last.kvsets.iter().all(is_before);
        if after { Lands::After } else { Lands::InOne }
    }

    /// Each vblock that a leaf may free, with what refers to it. Those that the root refers to, or
    /// in a leaf an unreadable kvset or an older one, are held by those, for no job takes them; and
    /// so are the unreadable ones.
    pub(crate) fn vblock_shapes(&self, aside: &Aside) -> Vec<VblockShape> {
        let lens: BTreeMap<MblockId, u64> =
            self.kvsets().flat_map(|kvset| kvset.vblock_lens()).collect();
        let of = |at: Option<usize>, kvset: &Kvset| {
            let vblocks = kvset.meta().vblocks.iter();
            vblocks.map(|(id, bytes)| (*id, at, *bytes)).collect::<Vec<_>>()
        };
        let mut references: Vec<_> = self.root.iter().flat_map(|kvset| of(None, kvset)).collect();
        for (at, leaf) in self.leaves.iter().enumerate() {
            let mut at = Some(at);
            for kvset in &leaf.kvsets {
                at = at.filter(|_| !aside.unreadable.contains(&kvset.meta().id));
                references.extend(of(at, kvset));
            }
        }
        references.sort_unstable();
        let one = |references: &[(MblockId, Option<usize>, u64)]| {
            let id = references[0].0;
            let mut shape =
                VblockShape { id, len_bytes: lens[&id], held_bytes: 0, leaf_bytes: Vec::new() };
            for (_, at, bytes) in references {
                let at = at.filter(|_| !aside.unreadable_vblocks.contains(&id));
                match (at, shape.leaf_bytes.last_mut()) {
                    (None, _) => shape.held_bytes += bytes,
                    (Some(at), Some((last, sum))) if *last == at => *sum += bytes,
                    (Some(at), _) => shape.leaf_bytes.push((at, *bytes)),
                }
            }
            shape
        };
        references.chunk_by(|a, b| a.0 == b.0).map(one).collect()
    }
}
