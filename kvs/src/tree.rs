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

use crate::compact::pick::{KvsetShape, NodeShape, TreeShape, VblockShape};
use crate::dead::DeadRanges;
use crate::key::{KvsId, KvsetId, NodeId};
use crate::kvset::Kvset;
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
}

/// What changes in a tree, by one edit of the manifest.
#[derive(Default)]
pub(crate) struct TreeEdit {
    pub(crate) remove: Vec<KvsetId>,
    pub(crate) add: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) leaves_remove: Vec<NodeId>,
    pub(crate) leaves_add: Vec<(NodeId, Bytes)>,
}

impl Tree {
    pub(crate) fn new(kvs: KvsId, name: &str) -> Self {
        let (name, dead) = (name.into(), Arc::default());
        Self { kvs, name, dead, root: Vec::new(), leaves: Vec::new() }
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

    pub(crate) fn is_empty(&self) -> bool {
        self.kvsets().next().is_none()
    }

    pub(crate) fn leaf(&self, id: NodeId) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.id == id)
    }

    /// The tree after an edit.
    pub(crate) fn edited(&self, edit: &TreeEdit) -> Self {
        let mut next = self.clone();
        let gone = |kvset: &Arc<Kvset>| edit.remove.contains(&kvset.meta().id);
        next.root.retain(|kvset| !gone(kvset));
        for leaf in &mut next.leaves {
            leaf.kvsets.retain(|kvset| !gone(kvset));
        }
        next.leaves.retain(|leaf| {
            let removed = edit.leaves_remove.contains(&leaf.id);
            assert!(!removed || leaf.kvsets.is_empty(), "a removed leaf holds nothing");
            !removed
        });
        for (id, first_key) in &edit.leaves_add {
            let leaf = Leaf { id: *id, first_key: first_key.clone(), kvsets: Vec::new() };
            let at = next.leaves.partition_point(|other| other.first_key < leaf.first_key);
            next.leaves.insert(at, leaf);
        }
        for (node, kvset) in &edit.add {
            next.kvsets_of(*node).push(Arc::clone(kvset));
        }
        next.sort();
        next
    }

    /// The tree with these kvsets in the place of those with the same ids, as far as it has them;
    /// `None` if it has none.
    pub(crate) fn renewed(&self, kvsets: &BTreeMap<KvsetId, Arc<Kvset>>) -> Option<Self> {
        let in_place_of = |old: &Arc<Kvset>| kvsets.get(&old.meta().id);
        self.kvsets().find_map(in_place_of)?;
        let mut next = self.clone();
        let nodes = std::iter::once(&mut next.root)
            .chain(next.leaves.iter_mut().map(|leaf| &mut leaf.kvsets));
        for kvset in nodes.flatten() {
            if let Some(new) = in_place_of(kvset) {
                *kvset = Arc::clone(new);
            }
        }
        Some(next)
    }

    fn kvsets_of(&mut self, node: NodeId) -> &mut Vec<Arc<Kvset>> {
        if node == NodeId::ROOT {
            return &mut self.root;
        }
        let leaf = self.leaves.iter_mut().find(|leaf| leaf.id == node);
        &mut leaf.expect("a kvset is added to a leaf that exists").kvsets
    }

    /// Restores the order that the module's description promises.
    fn sort(&mut self) {
        let nodes = std::iter::once(&mut self.root)
            .chain(self.leaves.iter_mut().map(|leaf| &mut leaf.kvsets));
        for kvsets in nodes {
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
    }

    /// What the picker decides on. `busy` are the inputs of running jobs, `vblock_bytes` the sizes
    /// of all vblocks.
    pub(crate) fn shape(
        &self,
        busy: &BTreeSet<KvsetId>,
        vblock_bytes: &BTreeMap<MblockId, u64>,
    ) -> TreeShape {
        let kvset = |kvset: &Arc<Kvset>| {
            let meta = kvset.meta();
            KvsetShape {
                id: meta.id,
                keys: meta.keys,
                tombstones: meta.tombstones,
                kblock_bytes: meta.kblock_bytes,
                value_bytes: meta.vblocks.iter().map(|(_, bytes)| bytes).sum(),
                vblocks: meta.vblocks.len() as u64,
                busy: busy.contains(&meta.id),
            }
        };
        let node = |id, kvsets: &[Arc<Kvset>]| NodeShape {
            id,
            kvsets: kvsets.iter().map(kvset).collect(),
        };
        let referenced: BTreeSet<MblockId> = self
            .kvsets()
            .flat_map(|kvset| kvset.meta().vblocks.iter().map(|(id, _)| *id))
            .collect();
        let size = |id: &MblockId| vblock_bytes.get(id).copied().unwrap_or(0);
        TreeShape {
            root: node(NodeId::ROOT, &self.root),
            leaves: self.leaves.iter().map(|leaf| node(leaf.id, &leaf.kvsets)).collect(),
            vblocks: Vec::new(),
            vblock_bytes: referenced.iter().map(size).sum(),
            value_bytes: self
                .kvsets()
                .flat_map(|kvset| &kvset.meta().vblocks)
                .map(|(_, bytes)| bytes)
                .sum(),
        }
    }

    /// Each vblock with what refers to it: for the picker, when space is short.
    pub(crate) fn vblock_shapes(&self, sizes: &BTreeMap<MblockId, u64>) -> Vec<VblockShape> {
        let of = |at: Option<usize>, kvsets: &[Arc<Kvset>]| {
            let vblocks = kvsets.iter().flat_map(|kvset| &kvset.meta().vblocks);
            vblocks.map(|(id, bytes)| (*id, at, *bytes)).collect::<Vec<_>>()
        };
        let mut references = of(None, &self.root);
        for (at, leaf) in self.leaves.iter().enumerate() {
            references.extend(of(Some(at), &leaf.kvsets));
        }
        references.sort_unstable();
        let one = |references: &[(MblockId, Option<usize>, u64)]| {
            let id = references[0].0;
            let len_bytes = sizes.get(&id).copied().unwrap_or(0);
            let mut shape = VblockShape { id, len_bytes, root_bytes: 0, leaf_bytes: Vec::new() };
            for (_, at, bytes) in references {
                match (at, shape.leaf_bytes.last_mut()) {
                    (None, _) => shape.root_bytes += bytes,
                    (Some(at), Some((last, sum))) if last == at => *sum += bytes,
                    (Some(at), _) => shape.leaf_bytes.push((*at, *bytes)),
                }
            }
            shape
        };
        references.chunk_by(|a, b| a.0 == b.0).map(one).collect()
    }
}
