//! Reading a range of keys: the sources of a view merged, bounded and filtered.
//!
//! Memtables and root kvsets cover every key, so each is a source of its own; the leaves divide the
//! keys, so all of them together are one source ([`Leaves`]) that opens only the leaf it stands in.
//!
//! Kvsets go past pages that cannot be read, and note what they left out in the scan's [`Holes`].

use crate::dead::Way;
use crate::dead::walk::DeadWalk;
use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor, step_to};
use crate::error::Result;
use crate::iter::bounded::{Range, Visible};
use crate::iter::merge::Merge;
use crate::key::{KvsId, Revision};
use crate::kvset::{Holes, KvsetCursor, ScanAhead, Shared};
use crate::memtable::MemtableCursor;
use crate::shape::tree::Tree;
use crate::shape::view::View;
use crate::store::Store;
use bytes::Bytes;
use mpool::MblockId;
use std::sync::Arc;

/// One source of a scan.
pub(crate) enum Source {
    Memtable(MemtableCursor),
    Kvset(KvsetCursor),
    Leaves(Leaves),
}

/// The keys of a KVS in `view` that a reader at `at` sees.
pub(crate) fn visible(
    store: &Arc<Store>,
    view: &View,
    (kvs, at): (KvsId, Revision),
    range: Range,
    holes: &Arc<Holes>,
) -> Visible<Merge<Source>> {
    let way = if range.reverse { Way::Backward } else { Way::Forward };
    let dead = walk_of(store, view, (kvs, at), way, holes);
    let tree = view.trees.get(&kvs).cloned();
    let pool = Arc::clone(&store.pool);
    let fits = move || {
        let reaper = pool.reaper();
        let memory = Memory { room: reaper.room(), budget_bytes: reaper.stats().budget_bytes };
        tree.as_ref().is_none_or(|tree| {
            let absent = || tree.kvsets().map(|kvset| kvset.absent_value_bytes()).sum();
            fit(tree.totals().value_bytes, absent, memory)
        })
    };
    let ahead = ScanAhead::new(&store.read_ahead, Box::new(fits));
    Visible::new(merged(view, kvs, (holes, &ahead)), at, range).with_dead(dead)
}

/// What the governor has for values.
#[derive(Clone, Copy)]
struct Memory {
    /// Bytes that may enter.
    room: u64,
    /// Bytes that all may take, what is there among them.
    budget_bytes: u64,
}

/// Whether so many bytes of values can all be in memory: there is room for those that are `absent`.
/// These are counted only where the budget takes all values, because the count takes time.
fn fit(value_bytes: u64, absent: impl FnOnce() -> u64, memory: Memory) -> bool {
    let Memory { room, budget_bytes } = memory;
    value_bytes <= room || (value_bytes <= budget_bytes && absent() <= room)
}

/// All sources of a KVS in a view, newest first, merged.
fn merged(view: &View, kvs: KvsId, shared: Shared<'_>) -> Merge<Source> {
    let mut sources: Vec<Source> =
        view.memtables().map(|memtable| Source::Memtable(memtable.cursor(kvs))).collect();
    if let Some(tree) = view.trees.get(&kvs) {
        sources.extend(tree.root.iter().map(|kvset| Source::Kvset(kvset.scan(shared))));
        if !tree.leaves.is_empty() {
            let (tree, shared) = (Arc::clone(tree), (Arc::clone(shared.0), Arc::clone(shared.1)));
            sources.push(Source::Leaves(Leaves { tree, shared, open: None }));
        }
    }
    Merge::new(sources)
}

/// The leaves of a tree as one cursor.
pub(crate) struct Leaves {
    tree: Arc<Tree>,
    shared: (Arc<Holes>, Arc<ScanAhead>),
    /// The leaf the cursor stands in, and the merge of its kvsets. `None`: past an end, or not yet
    /// positioned.
    open: Option<(usize, Merge<KvsetCursor>)>,
}

impl Leaves {
    fn open(&self, index: usize) -> Merge<KvsetCursor> {
        let kvsets = &self.tree.leaves[index].kvsets;
        let shared = (&self.shared.0, &self.shared.1);
        Merge::new(kvsets.iter().map(|kvset| kvset.scan(shared)).collect())
    }

    /// The leaf whose range holds `key`; every key has one.
    fn index_of(&self, key: &[u8]) -> usize {
        self.tree.leaves.place_of(key).unwrap_or(0)
    }

    /// From `merge`, which stands in leaf `index`, on to the first leaf that has something.
    fn settle_forward(&mut self, mut index: usize, mut merge: Merge<KvsetCursor>) -> Result<()> {
        self.open = None;
        while !merge.valid() {
            index += 1;
            if index == self.tree.leaves.len() {
                return Ok(());
            }
            merge = self.open(index);
            merge.seek_first()?;
        }
        self.open = Some((index, merge));
        Ok(())
    }

    fn settle_backward(&mut self, mut index: usize, mut merge: Merge<KvsetCursor>) -> Result<()> {
        self.open = None;
        while !merge.valid() {
            let Some(before) = index.checked_sub(1) else { return Ok(()) };
            index = before;
            merge = self.open(index);
            merge.seek_last()?;
        }
        self.open = Some((index, merge));
        Ok(())
    }

    fn here(&self) -> &Merge<KvsetCursor> {
        &self.open.as_ref().expect("the cursor is valid").1
    }
}

impl VersionCursor for Leaves {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let index = self.index_of(key);
        let mut merge = self.open(index);
        merge.seek(key)?;
        self.settle_forward(index, merge)
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let index = self.index_of(key);
        let mut merge = self.open(index);
        merge.seek_before(key)?;
        self.settle_backward(index, merge)
    }

    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        let index = self.index_of(key);
        let mut merge = self.open(index);
        merge.seek_version(key, at)?;
        self.settle_forward(index, merge)
    }

    fn seek_first(&mut self) -> Result<()> {
        let mut merge = self.open(0);
        merge.seek_first()?;
        self.settle_forward(0, merge)
    }

    fn seek_last(&mut self) -> Result<()> {
        let index = self.tree.leaves.len() - 1;
        let mut merge = self.open(index);
        merge.seek_last()?;
        self.settle_backward(index, merge)
    }

    fn valid(&self) -> bool {
        self.open.is_some()
    }

    fn key(&self) -> &[u8] {
        self.here().key()
    }

    fn revision(&self) -> Revision {
        self.here().revision()
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        self.here().op()
    }

    fn vblock(&self, ptr: ValuePtr) -> MblockId {
        self.here().vblock(ptr)
    }

    fn next(&mut self) -> Result<()> {
        let Some((index, mut merge)) = self.open.take() else { return Ok(()) };
        merge.next()?;
        self.settle_forward(index, merge)
    }

    fn prev(&mut self) -> Result<()> {
        let Some((index, mut merge)) = self.open.take() else { return Ok(()) };
        merge.prev()?;
        self.settle_backward(index, merge)
    }

    fn may_have_newer(&self) -> bool {
        self.here().may_have_newer()
    }

    fn value(&self) -> Result<Bytes> {
        self.here().value()
    }

    /// Within its leaf by that leaf's merge, which takes back one step of one kvset.
    fn return_to(&mut self, key: &[u8], revision: Revision) -> Result<()> {
        let here = self.index_of(key);
        let Some((index, mut merge)) = self.open.take_if(|(index, _)| *index == here) else {
            return step_to(self, key, revision);
        };
        merge.return_to(key, revision)?;
        self.settle_forward(index, merge)
    }
}

/// Passes a call on to whichever source it is.
macro_rules! each {
    ($source:expr, $cursor:ident => $call:expr) => {
        match $source {
            Source::Memtable($cursor) => $call,
            Source::Kvset($cursor) => $call,
            Source::Leaves($cursor) => $call,
        }
    };
}

impl VersionCursor for Source {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        each!(self, cursor => cursor.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        each!(self, cursor => cursor.seek_before(key))
    }

    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        each!(self, cursor => cursor.seek_version(key, at))
    }

    fn seek_first(&mut self) -> Result<()> {
        each!(self, cursor => cursor.seek_first())
    }

    fn seek_last(&mut self) -> Result<()> {
        each!(self, cursor => cursor.seek_last())
    }

    fn valid(&self) -> bool {
        each!(self, cursor => cursor.valid())
    }

    fn key(&self) -> &[u8] {
        each!(self, cursor => cursor.key())
    }

    fn revision(&self) -> Revision {
        each!(self, cursor => cursor.revision())
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        each!(self, cursor => cursor.op())
    }

    fn vblock(&self, ptr: ValuePtr) -> MblockId {
        each!(self, cursor => cursor.vblock(ptr))
    }

    fn next(&mut self) -> Result<()> {
        each!(self, cursor => cursor.next())
    }

    fn prev(&mut self) -> Result<()> {
        each!(self, cursor => cursor.prev())
    }

    fn may_have_newer(&self) -> bool {
        each!(self, cursor => cursor.may_have_newer())
    }

    fn value(&self) -> Result<Bytes> {
        each!(self, cursor => cursor.value())
    }

    fn return_to(&mut self, key: &[u8], revision: Revision) -> Result<()> {
        each!(self, cursor => cursor.return_to(key, revision))
    }
}

/// What a scan of `view` asks and tells about dead ranges.
fn walk_of(
    store: &Arc<Store>,
    view: &View,
    (kvs, at): (KvsId, Revision),
    way: Way,
    holes: &Arc<Holes>,
) -> Option<DeadWalk> {
    let table = &view.trees.get(&kvs)?.dead;
    let (store, active) = (Arc::clone(store), Arc::clone(&view.active));
    let is_current = move || Arc::ptr_eq(&store.shape.view.load().active, &active);
    Some(DeadWalk::new(table, (at, way), holes, Box::new(is_current)))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::iter::merge::Merge;
    use crate::key::NodeId;
    use crate::kvset::{ReadAhead, STEPS};
    use crate::options::{Durability, Options};
    use crate::shape::tree::TreeEdit;
    use mpool::Pool;
    use mpool_sim::SimDevice;

    const KEYS: u64 = 300;

    fn text(number: u64) -> Vec<u8> {
        format!("{number:06}").into_bytes()
    }

    /// A leaf of kvsets that have keys in common.
    fn leaf(kvsets: u64) -> (Database, Tree) {
        let options = Options { background_threads: 0, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        let kvs = db.create_kvs("k").unwrap();
        for number in 0..kvsets {
            for key in (0..KEYS).filter(|key| number == 0 || key % (number + 1) == 0) {
                kvs.put(&text(key), &text(number), Durability::Off).unwrap();
            }
            db.flush().unwrap();
        }
        let flushed = db.store().shape.tree(kvs.id()).unwrap();
        let add = flushed.root.iter().map(|kvset| (NodeId::new(1), Arc::clone(kvset))).collect();
        let leaves_add = vec![(NodeId::new(1), Bytes::new())];
        let edit = TreeEdit { add, leaves_add, ..TreeEdit::default() };
        let tree = Tree::new(kvs.id(), "k").edited(&edit, &|_| 1 << 20);
        (db, tree)
    }

    #[test]
    fn values_fit_where_there_is_room_for_those_that_are_absent() {
        let memory = Memory { room: 10, budget_bytes: 20 };
        // Bytes of values, of which absent, if these need a count; whether they fit.
        let table = [
            (0, None, true),
            (10, None, true),
            (11, Some(0), true),
            (11, Some(10), true),
            (11, Some(11), false),
            (20, Some(10), true),
            (20, Some(20), false),
            (21, None, false),
        ];
        for (bytes, absent, expected) in table {
            let mut left = absent;
            let count = || left.take().expect("it needs no count");
            assert_eq!(fit(bytes, count, memory), expected, "{bytes} {absent:?}");
            assert_eq!(left, None, "{bytes} {absent:?}");
        }
    }

    /// A merge within a leaf was turned round, all of its kvsets, to take back one step of one of
    /// them, and round again to go on: for each key that has versions in two.
    #[test]
    fn a_scan_back_moves_the_kvset_that_it_has_moved_too_far_and_no_other() {
        let (db, tree) = leaf(6);
        let shared = (
            Arc::new(Holes::default()),
            ScanAhead::new(&Arc::new(ReadAhead::default()), Box::new(|| false)),
        );
        let versions: u64 = tree.totals().keys;
        let leaves = Leaves { tree: Arc::new(tree), shared, open: None };
        let merge = Merge::new(vec![Source::Leaves(leaves)]);
        let range = Range { reverse: true, ..Range::default() };
        let mut visible = Visible::new(merge, Revision::MAX, range);
        let before = STEPS.get();
        for key in (0..KEYS).rev() {
            visible.advance(u32::MAX).unwrap();
            assert_eq!(visible.key(), text(key));
            let newest = (0..6).rev().find(|number| key % (number + 1) == 0).expect("the oldest");
            assert_eq!(visible.value().unwrap(), text(newest));
        }
        // Each version is stepped over, and of each key one step is taken back and done again.
        let steps = STEPS.get() - before;
        assert!(steps <= versions + 2 * KEYS, "{steps} steps over {versions} versions");
        drop(db);
    }
}
