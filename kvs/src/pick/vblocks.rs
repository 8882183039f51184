//! PURE: which leaves refer to each vblock, kept from pick to pick.
//!
//! To ask all kvsets of a large tree what they refer to takes a tenth of a second. So what was
//! found last is kept, with the shapes that it was found in, and follows a later shape by the nodes
//! that are not the same: chunks of leaves that trees share are told by their addresses, kvsets by
//! their ids. Nothing of a tree but shapes is kept, so no object is held.

use super::leaves::LeafShapes;
use super::shape::{KvsetShape, NodeShape, TreeShape, VblockShape};
use crate::key::{KvsetId, NodeId};
use mpool::MblockId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All vblocks that something refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vblocks {
    by_id: BTreeMap<MblockId, VblockShape>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct VblockIndex {
    root: Option<NodeShape>,
    leaves: LeafShapes,
    vblocks: Arc<Vblocks>,
}

impl Vblocks {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VblockShape> {
        self.by_id.values()
    }

    fn refer(&mut self, node: NodeId, kvset: &KvsetShape, len_of: &dyn Fn(MblockId) -> u64) {
        for (id, bytes) in referred(kvset) {
            let new = || VblockShape::new(*id, len_of(*id), Vec::new());
            self.by_id.entry(*id).or_insert_with(new).add(node, *bytes);
        }
    }

    fn let_go(&mut self, node: NodeId, kvset: &KvsetShape) {
        for (id, bytes) in referred(kvset) {
            let vblock = self.by_id.get_mut(id).expect("told when the kvset came");
            vblock.take(node, *bytes);
            if vblock.refs().is_empty() {
                self.by_id.remove(id);
            }
        }
    }
}

/// What a kvset refers to. A reference to no bytes, which only a foreign hblock has, is none.
fn referred(kvset: &KvsetShape) -> impl Iterator<Item = &(MblockId, u64)> {
    kvset.refs.iter().filter(|(_, bytes)| *bytes > 0)
}

impl FromIterator<VblockShape> for Vblocks {
    fn from_iter<I: IntoIterator<Item = VblockShape>>(vblocks: I) -> Self {
        Self { by_id: vblocks.into_iter().map(|vblock| (vblock.id, vblock)).collect() }
    }
}

impl VblockIndex {
    /// The vblocks of a later shape of the same tree; `len_of` tells how long those are that are
    /// new.
    pub(crate) fn follow(
        &mut self,
        tree: &TreeShape,
        len_of: &dyn Fn(MblockId) -> u64,
    ) -> Arc<Vblocks> {
        let gone = self.leaves.not_in(&tree.leaves).chain(&self.root);
        let come = tree.leaves.not_in(&self.leaves).chain([&tree.root]);
        let (gone, come) = (kvsets_of(gone), kvsets_of(come));
        let vblocks = Arc::make_mut(&mut self.vblocks);
        for ((node, id), kvset) in &come {
            if !gone.contains_key(&(*node, *id)) {
                vblocks.refer(*node, kvset, len_of);
            }
        }
        for ((node, id), kvset) in &gone {
            if !come.contains_key(&(*node, *id)) {
                vblocks.let_go(*node, kvset);
            }
        }
        self.root = Some(tree.root.clone());
        self.leaves = tree.leaves.clone();
        Arc::clone(&self.vblocks)
    }
}

fn kvsets_of<'a>(
    nodes: impl Iterator<Item = &'a NodeShape>,
) -> HashMap<(NodeId, KvsetId), &'a KvsetShape> {
    let of = |node: &'a NodeShape| node.kvsets.iter().map(|kvset| ((node.id, kvset.id), kvset));
    nodes.flat_map(of).collect()
}
