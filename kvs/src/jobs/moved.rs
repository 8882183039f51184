//! Objects that the pool has moved: kvsets take handles of the new places.
//!
//! The pool moves mblocks off a volume that is being emptied, and out of zones that are mostly
//! dead. Handles of the old place go on working, and keep it from being used again; so whoever
//! holds handles for long has to exchange them. That is the view. A kvset with handles of places
//! that are left is opened again, under the same ids, and takes the old one's place:
//!
//! ```text
//!   pool: moves 17 -> 18      find kvsets that have moved      open them again      new view
//! ```
//!
//! Nothing durable changes, and neither do contents or epoch, so nobody needs to know: a compaction
//! that reads the old kvset goes on, and names what it removes by id; a reader with an older view
//! ends some time, and with the last of them the old places are free.

use crate::error::{Error, Result, Scope};
use crate::key::KvsetId;
use crate::kvset::Kvset;
use crate::shape::view::View;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kvsets opened before they enter the view together: each change of the view copies the tree's
/// lists, and what waits holds two indexes.
const AT_ONCE: usize = 16;

/// Exchanges all kvsets in the view that have moved; returns how many.
pub(crate) fn renew(store: &Store) -> Result<u64> {
    let moved: Vec<Arc<Kvset>> = {
        let view = store.shape.view.load();
        let kvsets = view.trees.values().flat_map(|tree| tree.kvsets());
        kvsets.filter(|kvset| kvset.has_moved()).cloned().collect()
    };
    let mut count = 0;
    for some in moved.chunks(AT_ONCE) {
        let mut renewed = BTreeMap::new();
        for kvset in some {
            if store.life.is_closed() {
                return Err(Error::Closed);
            }
            if let Some(new) = reopen(store, kvset)? {
                renewed.insert(new.meta().id, new);
            }
        }
        count += renewed.len() as u64;
        let leaving_bytes = some.iter().map(|kvset| kvset.resident_index_bytes()).sum();
        store.shape.bring(&renewed.values(), leaving_bytes);
        {
            // Trees change under it only.
            let _versions = store.shape.versions.lock();
            store.shape.update_view(|view| exchanged(view, &renewed));
        }
    }
    Ok(count)
}

/// `None` if it stays as it is: it left the tree meanwhile, or it cannot be read; what can be had
/// of it is served from where it was.
fn reopen(store: &Store, kvset: &Arc<Kvset>) -> Result<Option<Arc<Kvset>>> {
    match kvset.renewed() {
        Ok(new) => Ok(Some(new)),
        // Its objects are deleted after it has left the view.
        Err(_) if !is_in_view(store, kvset) => Ok(None),
        Err(error) if matches!(error.scope(), Scope::Object | Scope::Call) => {
            tracing::error!(kvset = kvset.meta().id.get(), %error, "a kvset that moved cannot be opened");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_in_view(store: &Store, kvset: &Arc<Kvset>) -> bool {
    let meta = kvset.meta();
    let tree = store.shape.tree(meta.kvs);
    tree.is_some_and(|tree| tree.kvsets().any(|other| other.meta().id == meta.id))
}

fn exchanged(view: &View, renewed: &BTreeMap<KvsetId, Arc<Kvset>>) -> View {
    let mut next = view.clone();
    for tree in view.trees.values() {
        if let Some(new) = tree.renewed(renewed) {
            next.set_tree(new);
        }
    }
    next
}
