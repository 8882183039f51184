//! Dead ranges found before anybody scans: a thread that walks where many keys were deleted.
//!
//! A scan learns only what it has walked over. Where a million keys are deleted and then the first
//! scan comes, it would walk over all of them. So one delete in two thousand of a KVS leaves its
//! key here, and the thread `db-dead` walks from it both ways, to the nearest key that lives or the
//! nearest range that is known: what a queue deletes between two hints. After an open it begins
//! with the kvsets that hold more tombstones than anything else.
//!
//! It is a scan like any other, keeps nothing, and may fall behind: then hints are dropped, the
//! oldest first, and what they meant is found from a later one if there lies nothing in between.

use super::Way;
use super::walk::DeadWalk;
use crate::error::Result;
use crate::iter::bounded::{Advance, Range};
use crate::key::{KvsId, Revision};
use crate::kvset::Holes;
use crate::read::scan;
use crate::snapshot;
use crate::store::Store;
use crate::view::View;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Hints that may wait.
const HINTS_MAX: usize = 64;
/// Kvsets that are looked at after an open.
const KVSETS_MAX: usize = 1024;
/// Versions looked at between two looks whether the database is closed.
const STEPS: u32 = 1 << 14;

type Hint = (KvsId, Bytes);

#[derive(Default)]
struct Waiting {
    hints: VecDeque<Hint>,
    closed: bool,
}

/// Where keys were deleted. See the module.
#[derive(Default)]
pub(crate) struct Hints {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Hints {
    pub(crate) fn push(&self, kvs: KvsId, key: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.hints.len() == HINTS_MAX {
            waiting.hints.pop_front();
        }
        waiting.hints.push_back((kvs, Bytes::copy_from_slice(key)));
        self.bell.notify_one();
    }

    /// The next hint; `None` once they are closed.
    fn next(&self) -> Option<Hint> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(hint) = waiting.hints.pop_front() {
                return Some(hint);
            }
            self.bell.wait(&mut waiting);
        }
    }

    fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.bell.notify_all();
    }

    /// The thread, for whoever joins it after [`close`](Self::close).
    pub(crate) fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().take()
    }
}

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
        *store.hints.thread.lock() = Some(thread.expect("the system gives us a thread at start"));
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
    let of_tree = |(kvs, tree): (&KvsId, &Arc<crate::tree::Tree>)| {
        let is_dead = |meta: &&crate::kvset::KvsetMeta| meta.tombstones > meta.keys / 2;
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
            // Whoever reads there is told.
            tracing::debug!(%error, %kvs, "dead ranges were not looked for");
        }
    }
}

/// Walks from `key` to the nearest key that lives.
fn learn(store: &Arc<Store>, kvs: KvsId, key: &[u8], way: Way) -> Result<()> {
    let (view, at) = snapshot::moment(store);
    let holes = Arc::new(Holes::default());
    let range = Range { reverse: way == Way::Backward, ..Range::default() };
    let mut visible = scan::visible(store, &view, (kvs, at), range, &holes);
    visible.seek(key)?;
    while visible.advance(STEPS)? == Advance::Paused && !store.hints.is_closed() {}
    Ok(())
}

/// What a scan of `view` asks and tells about dead ranges.
pub(crate) fn walk_of(
    store: &Arc<Store>,
    view: &View,
    (kvs, at): (KvsId, Revision),
    way: Way,
    holes: &Arc<Holes>,
) -> Option<DeadWalk> {
    let table = &view.trees.get(&kvs)?.dead;
    let (store, active) = (Arc::clone(store), Arc::clone(&view.active));
    let is_current = move || Arc::ptr_eq(&store.view.load().active, &active);
    Some(DeadWalk::new(table, (at, way), holes, Box::new(is_current)))
}
