//! Dead ranges found before anybody scans, and kept from a close to the next open.
//!
//! A scan learns only what it has walked over. Where a million keys are deleted and then the first
//! scan comes, it would walk over all of them. So deletes leave hints ([`Hints`]), and the thread
//! `db-dead` walks from each both ways, to the nearest key that lives or the nearest range that is
//! known: what a queue deletes between two hints. After an open it begins with the kvsets that hold
//! more tombstones than anything else. It is a scan like any other, and keeps nothing.
//!
//! [`Hints`]: crate::dead::hints::Hints

use crate::dead::Way;
use crate::dead::hints::Hint;
use crate::dead::kept::Kept;
use crate::error::Result;
use crate::iter::bounded::{Advance, Range};
use crate::key::{KvsId, Revision};
use crate::kvset::{Holes, KvsetMeta};
use crate::read::scan;
use crate::store::Store;
use crate::tree::Tree;
use crate::view::View;
use bytes::Bytes;
use std::sync::Arc;

/// Kvsets that are looked at after an open.
const KVSETS_MAX: usize = 1024;
/// Versions looked at between two looks whether the database is closed.
const STEPS: u32 = 1 << 14;

/// The thread of an open that may still fail: dropped, it ends it.
#[must_use = "dropping it ends the thread"]
pub(crate) struct Started(Option<Arc<Store>>);

impl Started {
    /// The open has succeeded: its close ends the thread.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(store) = &self.0 else { return };
        store.hints.close();
        if store.hints.take_thread().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a background thread panicked");
        }
    }
}

/// Starts the thread. Without background threads there is none, and scans learn by themselves.
pub(crate) fn start(store: &Arc<Store>) -> Started {
    if store.options.background_threads > 0 {
        let of_thread = Arc::clone(store);
        let thread = std::thread::Builder::new().name("db-dead".to_owned());
        let thread = thread.spawn(move || run(&of_thread));
        store.hints.set_thread(thread.expect("the system gives us a thread at start"));
    }
    Started(Some(Arc::clone(store)))
}

fn run(store: &Arc<Store>) {
    for (kvs, key) in of_kvsets(&store.view.load()) {
        follow(store, kvs, &key);
    }
    while let Some((kvs, key)) = store.hints.next() {
        follow(store, kvs, &key);
    }
}

/// The beginnings of kvsets that are mostly tombstones.
fn of_kvsets(view: &View) -> Vec<Hint> {
    let of_tree = |(kvs, tree): (&KvsId, &Arc<Tree>)| {
        let is_dead = |meta: &&KvsetMeta| meta.tombstones > meta.keys / 2;
        let metas = tree.kvsets().map(|kvset| kvset.meta()).filter(is_dead);
        metas.map(|meta| (*kvs, meta.min_key.clone())).collect::<Vec<_>>()
    };
    view.trees.iter().flat_map(of_tree).take(KVSETS_MAX).collect()
}

/// Mostly a range grows at its end, as keys are deleted in their order: then one walk forward from
/// there comes to `key` and beyond it. Walking back through a memtable is a search a version.
fn follow(store: &Arc<Store>, kvs: KvsId, key: &[u8]) {
    let Some(table) = store.tree(kvs).map(|tree| Arc::clone(&tree.dead)) else { return };
    let is_known = || table.skip(key, Revision::MAX, Way::Forward, false).is_some();
    let grown = table.end_before(key).map(|end| (end, Way::Forward));
    let here = Bytes::copy_from_slice(key);
    let walks = [(here.clone(), Way::Backward), (here, Way::Forward)];
    for (from, way) in grown.into_iter().chain(walks) {
        if store.hints.is_closed() || is_known() {
            return;
        }
        if let Err(error) = learn(store, kvs, &from, way) {
            // A read of that place returns the error.
            tracing::debug!(%error, %kvs, "dead ranges were not looked for");
        }
    }
}

/// Walks from `key` to the nearest key that lives.
fn learn(store: &Arc<Store>, kvs: KvsId, key: &[u8], way: Way) -> Result<()> {
    let (view, at) = store.moment();
    let holes = Arc::new(Holes::default());
    let range = Range { reverse: way == Way::Backward, ..Range::default() };
    let mut visible = scan::visible(store, &view, (kvs, at), range, &holes);
    visible.seek(key)?;
    while visible.advance(STEPS)? == Advance::Paused && !store.hints.is_closed() {}
    Ok(())
}

/// Writes what is known for the next open, if kvsets have everything. The close has
/// ended all writing.
pub(crate) fn keep(store: &Store) {
    let floor = store.versions.lock().manifest.live().floor;
    if floor != store.visible() {
        return;
    }
    let view = store.view.load();
    let of_tree = |(kvs, tree): (&KvsId, &Arc<Tree>)| {
        tree.dead.all().into_iter().map(|range| (*kvs, range)).collect::<Vec<_>>()
    };
    let ranges: Vec<_> = view.trees.iter().flat_map(of_tree).collect();
    if ranges.is_empty() {
        return;
    }
    if let Err(error) = (Kept { floor, ranges }).write(&store.pool) {
        tracing::warn!(%error, "dead ranges are not kept: scans learn them anew");
    }
}

/// Takes what the last close has kept, if it still holds. Nothing has been replayed yet.
pub(crate) fn restore(store: &Store) {
    let floor = store.versions.lock().manifest.live().floor;
    match Kept::read(&store.pool) {
        Ok(Some(kept)) if kept.floor == floor => {
            let view = store.view.load();
            for (kvs, range) in kept.ranges {
                if let Some(tree) = view.trees.get(&kvs) {
                    tree.dead.restore(range);
                }
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "kept dead ranges are lost: scans learn them anew"),
    }
}
