//! A batch that is logged, applied: to the active memtable, and to what is known of dead ranges.

use crate::dead;
use crate::entry::batch::WriteBatch;
use crate::entry::op::Op;
use crate::key::{KvsId, Revision, key_hash};
use crate::shape::view::View;
use crate::store::Store;

/// Puts a batch into the active memtable. Entries of a KVS that was dropped after they were logged
/// are passed over.
pub(crate) fn apply(store: &Store, batch: &WriteBatch, revision: Revision) {
    let view = store.shape.view.load();
    for (kvs, key, op) in batch.ops() {
        if view.trees.contains_key(&kvs) {
            view.active.insert(kvs, key, key_hash(kvs, key), revision, op);
        }
        if let Op::Inline(value) = op {
            store.metrics.put_bytes.add((key.len() + value.len()) as u64);
        }
    }
    cut_dead_ranges(store, &view, batch.ops());
    store.metrics.writes.add(batch.len() as u64);
}

/// Takes the keys of puts out of the dead ranges. They are in the view's active memtable, and not
/// visible yet.
pub(crate) fn cut_dead_ranges<'a>(
    store: &Store,
    view: &View,
    writes: impl Iterator<Item = (KvsId, &'a [u8], Op<'a>)>,
) {
    dead::inserted();
    for (kvs, key, op) in writes {
        let Some(tree) = view.trees.get(&kvs) else { continue };
        match op {
            Op::Inline(_) => tree.dead.put(key),
            Op::Tombstone if tree.dead.count_delete() => store.hints.push(kvs, key),
            Op::Tombstone => {}
        }
    }
}
