//! A change of shape: what jobs hand in, and what is left behind.

use super::manifest::record::Item;
use super::tree::TreeEdit;
use crate::key::{KvsId, KvsetId, NodeId, Revision};
use crate::kvset::{BuiltKvset, Kvset, KvsetMeta};
use bytes::Bytes;
use mpool::{MblockId, MblockWriter};
use std::sync::Arc;

/// A tree's edit with the kvsets it adds still to be committed.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) kvs: Option<KvsId>,
    pub(crate) remove: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) add: Vec<(NodeId, BuiltKvset)>,
    /// Kvsets that are removed from one node and added to another.
    pub(crate) moved: Vec<(NodeId, Arc<Kvset>)>,
    pub(crate) leaves_remove: Vec<NodeId>,
    pub(crate) leaves_add: Vec<(NodeId, Bytes)>,
}

/// A tree's edit whose kvsets are built but not yet open.
pub(super) type Planned = (KvsId, TreeEdit, Vec<(NodeId, KvsetMeta)>);

/// What a change of shape has left behind.
#[must_use = "the mblocks are to be deleted"]
pub(crate) struct Installed {
    /// Kvsets that have left their tree.
    pub(crate) kvsets: Vec<KvsetId>,
    /// Mblocks that no kvset references any more.
    pub(crate) mblocks: Vec<MblockId>,
    /// One of the new kvsets has handles of places that the pool has left meanwhile.
    pub(crate) has_moved: bool,
}

/// What a flush adds to a change of shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushed {
    /// Last revision of the memtable that leaves the view.
    pub(crate) last: Revision,
    /// Epoch of the view after it.
    pub(crate) epoch: u64,
}

impl Change {
    /// Splits it into writers to commit, manifest items, and what remains for the tree.
    pub(super) fn plan(self, writers: &mut Vec<MblockWriter>, items: &mut Vec<Item>) -> Planned {
        let Self { kvs, remove, add, moved, leaves_remove, leaves_add } = self;
        let kvs = kvs.expect("a change names its KVS");
        let mut metas = Vec::new();
        for (node, built) in add {
            writers.extend(built.writers);
            metas.push((node, built.meta));
        }
        let gone = remove.iter().map(|(_, kvset)| Item::KvsetRemove { kvset: kvset.meta().id });
        items.extend(gone);
        items.extend(leaves_remove.iter().map(|node| Item::LeafRemove { kvs, node: *node }));
        for (node, first_key) in &leaves_add {
            items.push(Item::LeafAdd { kvs, node: *node, first_key: first_key.clone() });
        }
        for (node, meta) in &metas {
            items.push(Item::KvsetAdd { kvs, node: *node, kvset: meta.id, hblock: meta.hblock });
        }
        for (node, kvset) in &moved {
            let KvsetMeta { id: kvset, hblock, .. } = *kvset.meta();
            items.push(Item::KvsetAdd { kvs, node: *node, kvset, hblock });
        }
        (kvs, TreeEdit { remove, add: moved, leaves_remove, leaves_add }, metas)
    }
}

/// The kvsets that leave a tree, not only their node.
pub(super) fn gone(edit: &TreeEdit) -> impl Iterator<Item = KvsetId> + '_ {
    let stays = |id: &KvsetId| edit.add.iter().any(|(_, kvset)| kvset.meta().id == *id);
    edit.remove.iter().map(|(_, kvset)| kvset.meta().id).filter(move |id| !stays(id))
}
