//! A tree as the picker sees it.

use super::{Aside, Tree, VblockUse};
use crate::compact::pick::{KvsetShape, Lands, NodeShape, TreeShape, VblockShape};
use crate::key::NodeId;
use crate::kvset::Kvset;
use crate::kvset::sketch::KeySet;
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
            vblocks: Vec::new(),
            vblock_bytes: self.totals.vblock_bytes,
            value_bytes: self.totals.value_bytes,
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

    /// Each vblock of at least so much garbage that a leaf may free, with what refers to it. Those
    /// that the root refers to, or in a leaf an unreadable kvset or an older one, are held by
    /// those, for no job takes them; and so are the unreadable ones.
    pub(crate) fn vblock_shapes(&self, aside: &Aside, garbage_min: u64) -> Vec<VblockShape> {
        let garbage = |used: &VblockUse| used.len_bytes.saturating_sub(used.live_bytes);
        let all = self.vblocks.iter().filter(|(_, used)| garbage(used) >= garbage_min);
        // In the order of their ids, by which they are looked for.
        let mut shapes: Vec<VblockShape> = all
            .map(|(id, used)| VblockShape {
                id: *id,
                len_bytes: used.len_bytes,
                held_bytes: 0,
                leaf_bytes: Vec::new(),
            })
            .collect();
        if shapes.is_empty() {
            return shapes;
        }
        let mut refer = |at: Option<usize>, kvset: &Kvset| {
            for (id, bytes) in &kvset.meta().vblocks {
                let Ok(found) = shapes.binary_search_by_key(id, |shape| shape.id) else { continue };
                let shape = &mut shapes[found];
                let at = at.filter(|_| !aside.unreadable_vblocks.contains(id));
                match (at, shape.leaf_bytes.last_mut()) {
                    (None, _) => shape.held_bytes += bytes,
                    (Some(at), Some((last, sum))) if *last == at => *sum += bytes,
                    (Some(at), _) => shape.leaf_bytes.push((at, *bytes)),
                }
            }
        };
        self.root.iter().for_each(|kvset| refer(None, kvset));
        for (at, leaf) in self.leaves.iter().enumerate() {
            let mut at = Some(at);
            for kvset in &leaf.kvsets {
                at = at.filter(|_| !aside.unreadable.contains(&kvset.meta().id));
                refer(at, kvset);
            }
        }
        shapes
    }
}
