//! A tree as the picker sees it.

use super::{Aside, Tree};
use crate::key::NodeId;
use crate::kvset::Kvset;
use crate::kvset::sketch::KeySet;
use crate::pick::{KvsetShape, Lands, NodeShape, Objects, TreeShape};
use mpool::MblockId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A node as the picker sees it.
pub(super) fn node_shape(id: NodeId, kvsets: &[Arc<Kvset>], keys: &KeySet) -> NodeShape {
    let kvset = |kvset: &Arc<Kvset>| {
        let meta = kvset.meta();
        KvsetShape {
            id: meta.id,
            keys: meta.keys,
            tombstones: meta.tombstones,
            kblock_bytes: meta.kblock_bytes,
            value_bytes: meta.value_bytes,
            vblocks: meta.vblocks.len() as u64,
            refs: Arc::clone(&meta.vblocks),
        }
    };
    NodeShape::new(id, kvsets.iter().map(kvset).collect(), keys.keys)
}

impl Tree {
    /// What the picker decides on, but for the vblocks. The shapes of leaves are shared with
    /// the tree.
    pub(crate) fn shape(&self, aside: &Aside) -> TreeShape {
        TreeShape {
            root: node_shape(NodeId::ROOT, &self.root, &self.root_keys),
            lands: self.root.last().map_or(Lands::Apart, |oldest| self.lands(oldest)),
            leaves: self.leaves.shapes(),
            busy: Arc::clone(&aside.busy),
            unreadable: Arc::clone(&aside.unreadable),
            vblocks: Arc::default(),
            held: Arc::default(),
            gathered: Arc::clone(&aside.gathered),
            vblock_bytes: self.totals.vblock_bytes,
            value_bytes: self.totals.value_bytes,
            distinct_keys: self.distinct_keys,
            reshaping: aside.reshaping,
            objects: self.objects(aside),
        }
    }

    /// Values that cannot be read stay in their vblocks, however often a leaf is written: then no
    /// vblock counts as one too many.
    fn objects(&self, aside: &Aside) -> Objects {
        let vblocks = if aside.unreadable_vblocks.is_empty() { self.vblocks() } else { 0 };
        Objects { kvsets: self.totals.kvsets, vblocks }
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

    /// vblocks that no job on a leaf can let go of, but for the root's: those that an unreadable
    /// kvset refers to or an older one of its leaf, for no job takes them; and those with values
    /// that cannot be read.
    pub(crate) fn held_vblocks(&self, aside: &Aside) -> Arc<BTreeSet<MblockId>> {
        if aside.unreadable.is_empty() {
            return Arc::clone(&aside.unreadable_vblocks);
        }
        let mut held = BTreeSet::clone(&aside.unreadable_vblocks);
        for leaf in self.leaves.iter() {
            let is_bad = |kvset: &Arc<Kvset>| aside.unreadable.contains(&kvset.meta().id);
            let first = leaf.kvsets.iter().position(is_bad).unwrap_or(leaf.kvsets.len());
            for kvset in &leaf.kvsets[first..] {
                held.extend(kvset.meta().vblocks.iter().map(|(id, _)| *id));
            }
        }
        Arc::new(held)
    }
}
