//! The immutable picture that a read uses: memtables and trees, swapped as a whole.
//!
//! A reader loads the view *first* and the visible revision *after*: a memtable is sealed only when
//! all its batches are visible, so everything in the view's sealed memtables and kvsets is at or
//! before that revision, and no version a reader may need has been merged away. The view's `epoch`
//! rises with every flush; the value cache uses it to refuse values that a reader found before the
//! flush (see `cache`).

use crate::debt::stall::KvsDebt;
use crate::key::{KvsId, Revision};
use crate::memtable::Memtable;
use crate::shape::amplification::{self, Bytes};
use crate::shape::tree::Tree;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A memtable that takes no more writes.
pub(crate) struct Sealed {
    pub(crate) memtable: Arc<Memtable>,
    /// Last revision it holds: once it is flushed, the WAL is not needed up to here.
    pub(crate) last: Revision,
}

/// The KVSs whose writers wait, with what they owe.
pub(crate) type Lagging = BTreeMap<KvsId, KvsDebt>;

/// What a read sees.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) epoch: u64,
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Sealed>>,
    /// Changed by [`set_tree`](Self::set_tree) and [`without_tree`](Self::without_tree).
    pub(crate) trees: Arc<BTreeMap<KvsId, Arc<Tree>>>,
    lagging: Lagging,
    /// Of a full memtable.
    memtable_bytes: u64,
}

impl View {
    /// One with an empty memtable, which takes so much.
    pub(crate) fn new(
        active: Memtable,
        memtable_bytes: u64,
        trees: impl IntoIterator<Item = Tree>,
    ) -> Self {
        let (sealed, active) = (Vec::new(), Arc::new(active));
        let (none, lagging) = (Arc::default(), Lagging::new());
        let mut view = Self { epoch: 0, active, sealed, trees: none, lagging, memtable_bytes };
        trees.into_iter().for_each(|tree| view.set_tree(tree));
        view
    }

    /// One that shows nothing.
    pub(crate) fn of_nothing() -> Self {
        Self::new(Memtable::new(0), 0, [])
    }

    /// The KVSs whose roots or garbage delay their writers, with what they owe. Kept by each change
    /// of a tree, so that a commit asks the KVSs that are behind, not all.
    pub(crate) const fn lagging(&self) -> &Lagging {
        &self.lagging
    }

    /// Newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.sealed.iter().map(|sealed| &sealed.memtable))
    }

    /// The active memtable sealed at `last`, and a new one in its place.
    pub(crate) fn with_sealed(&self, last: Revision, active: Memtable) -> Self {
        let sealed = Arc::new(Sealed { memtable: Arc::clone(&self.active), last });
        let mut next = self.clone();
        next.sealed.insert(0, sealed);
        next.active = Arc::new(active);
        next
    }

    /// One tree replaced, or added.
    pub(crate) fn with_tree(&self, tree: Tree) -> Self {
        let mut next = self.clone();
        next.set_tree(tree);
        next
    }

    /// Replaces a tree, or adds one.
    pub(crate) fn set_tree(&mut self, tree: Tree) {
        let debt = self.debt(&tree);
        if debt.reason().is_some() {
            self.lagging.insert(tree.kvs, debt);
        } else {
            self.lagging.remove(&tree.kvs);
        }
        Arc::make_mut(&mut self.trees).insert(tree.kvs, Arc::new(tree));
    }

    /// What a tree owes to compaction.
    pub(crate) fn debt(&self, tree: &Tree) -> KvsDebt {
        let Bytes { used, live } = amplification::bytes(tree);
        KvsDebt {
            root_kvsets: tree.root.len() as u64,
            garbage_bytes: used - live,
            live_bytes: live,
            memtable_bytes: self.memtable_bytes,
        }
    }

    /// One tree gone.
    pub(crate) fn without_tree(&self, kvs: KvsId) -> Self {
        let mut next = self.clone();
        Arc::make_mut(&mut next.trees).remove(&kvs);
        next.lagging.remove(&kvs);
        next
    }
}
