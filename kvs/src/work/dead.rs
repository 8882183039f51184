//! Dead ranges found before anybody scans, and kept from a close to the next open.
//!
//! A scan learns only what it has walked over. Where a million keys are deleted and then the first
//! scan comes, it would walk over all of them. So deletes leave hints ([`Hints`]), and the thread
//! `db-dead` walks from each both ways, to the nearest key that lives or the nearest range that is
//! known: what a queue deletes between two hints. After an open it begins with the kvsets that hold
//! more tombstones than anything else. It is a scan like any other, and keeps nothing.
//!
//! A walk holds its view, and so the space of what compaction removes meanwhile. It looks at
//! [`STEPS`] versions at most before it lets go of a view that is not the newest, and goes on in
//! the newest from the key where it is. `Database::compact` waits for that.
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
use crate::shape::tree::Tree;
use crate::shape::view::View;
use crate::store::Store;
use bytes::Bytes;
use std::sync::Arc;

/// Kvsets that are looked at after an open.
const KVSETS_MAX: usize = 1024;
/// Versions looked at between two looks whether the view is the newest and the database is open.
const STEPS: u32 = 1 << 12;

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
    for (kvs, key) in of_kvsets(&store.shape.view.load()) {
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
    let Some(table) = store.shape.tree(kvs).map(|tree| Arc::clone(&tree.dead)) else { return };
    let is_known = || table.skip(key, Revision::MAX, Way::Forward, false).is_some();
    let grown = table.end_before(key).map(|end| (end, Way::Forward));
    let here = Bytes::copy_from_slice(key);
    let walks = [(here.clone(), Way::Backward), (here, Way::Forward)];
    for (from, way) in grown.into_iter().chain(walks) {
        if store.hints.is_closed() || is_known() {
            return;
        }
        if let Err(error) = learn(store, (kvs, &from), way, &|| !store.hints.is_closed()) {
            // A read of that place returns the error.
            tracing::debug!(%error, %kvs, "dead ranges were not looked for");
        }
    }
}

/// Walks from `key` to the nearest key that lives, or as long as `goes_on`, which is asked at every
/// pause.
fn learn(
    store: &Arc<Store>,
    (kvs, key): (KvsId, &[u8]),
    way: Way,
    goes_on: &dyn Fn() -> bool,
) -> Result<()> {
    let range = Range { reverse: way == Way::Backward, ..Range::default() };
    let mut from = key.to_vec();
    loop {
        let _holds_a_view = store.hints.begin_walk();
        let (view, at) = store.shape.moment();
        let holes = Arc::new(Holes::default());
        let mut visible = scan::visible(store, &view, (kvs, at), range.clone(), &holes);
        visible.seek(&from)?;
        // Compaction has removed nothing of the newest view.
        let is_newest = || Arc::ptr_eq(&view, &store.shape.view.load());
        loop {
            if visible.advance(STEPS)? != Advance::Paused || !goes_on() {
                return Ok(());
            }
            if !is_newest() {
                break;
            }
        }
        from = visible.key().to_vec();
    }
}

/// Writes what is known for the next open, if kvsets have everything. The close has
/// ended all writing.
pub(crate) fn keep(store: &Store) {
    let floor = store.shape.versions.lock().manifest.live().floor;
    if floor != store.shape.visible() {
        return;
    }
    let view = store.shape.view.load();
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
    let floor = store.shape.versions.lock().manifest.live().floor;
    match Kept::read(&store.pool) {
        Ok(Some(kept)) if kept.floor == floor => {
            let view = store.shape.view.load();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::jobs::requested::info::CompactionRequest;
    use crate::options::{Durability, Options};
    use mpool::Pool;
    use mpool_sim::SimDevice;
    use std::cell::Cell;

    /// Nothing in the background.
    fn database() -> Database {
        let pool = mpool::Options { background: false, ..mpool::Options::default() };
        let options = Options { background_threads: 0, pool, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(256 << 20)), &options.pool).unwrap();
        Database::open_pool(pool, options).unwrap()
    }

    /// The walk held its view until it had seen all of it: a database that was full had no space
    /// for puts though everything was deleted and compacted.
    #[test]
    fn a_walk_lets_go_of_what_compaction_removes() {
        let db = database();
        let key = |n: u32| format!("{n:06}").into_bytes();
        for (from, way) in [(0, Way::Forward), (4 * STEPS, Way::Backward)] {
            db.create_kvs("other").unwrap().put(b"key", &[7; 9000], Durability::Off).unwrap();
            db.start_compaction(CompactionRequest::default()).unwrap().wait().unwrap();
            let kvs = db.create_kvs(&format!("{way:?}")).unwrap();
            for n in 0..4 * STEPS {
                kvs.delete(&key(n), Durability::Off).unwrap();
            }
            let held_bytes = || db.pool().metrics().held_bytes();
            let pauses = Cell::new(0);
            let at_pause = || {
                pauses.set(pauses.get() + 1);
                match pauses.get() {
                    1 => {
                        db.drop_kvs("other").unwrap();
                        db.work().until_idle().unwrap();
                        assert!(held_bytes() > 0, "{way:?}: the walk is in the view of before");
                    }
                    2 => assert_eq!(held_bytes(), 0, "{way:?}"),
                    _ => {}
                }
                true
            };
            learn(db.store(), (kvs.id(), &key(from)), way, &at_pause).unwrap();
            assert!(pauses.get() >= 2, "{way:?}: {} pauses", pauses.get());
        }
    }
}
