//! Every interleaving of the skip list's insert protocol, and of a put with a scan that learns
//! where nothing lives ([`dead`](crate::dead)), by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p millpond-kvs --release --lib interleavings`.

use super::skiplist::{ListCursor, Position, SkipList};
use crate::dead::{DeadRanges, Way, inserted};
use crate::entry::op::Op;
use crate::key::{KvsId, Revision};
use bytes::Bytes;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;
use std::sync::Arc;

const KVS: KvsId = KvsId::new(1);

fn position(key: &[u8]) -> Position<'_> {
    Position::new(KVS, key, Revision::new(1))
}

fn keys(list: &SkipList) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut entry = list.first();
    while let Some(found) = entry {
        assert_eq!(found.op().value(), Some(found.key()), "a visible node is whole");
        keys.push(found.key().to_vec());
        entry = found.next();
    }
    keys
}

#[test]
fn two_inserts_into_one_gap_both_stay() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || other.insert(&position(b"a"), 2, Op::Inline(b"a")));
        list.insert(&position(b"b"), 2, Op::Inline(b"b"));
        let seen = keys(&list);
        assert!(seen == [b"b"] || seen == [b"a", b"b"]);
        thread.join().unwrap();
        assert_eq!(keys(&list), [b"a", b"b"]);
        assert_eq!(list.last_before(&position(b"b")).unwrap().key(), b"a");
        assert_eq!(list.first_from(&position(b"b")).unwrap().key(), b"b");
    });
}

#[test]
fn a_reader_sees_whole_nodes_only() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || {
            other.insert(&position(b"b"), 2, Op::Inline(b"b"));
            other.insert(&position(b"a"), 1, Op::Inline(b"a"));
        });
        let seen = keys(&list);
        assert!(seen.is_empty() || seen == [b"b"] || seen == [b"a", b"b"]);
        if let Some(found) = list.first_from(&position(b"b")) {
            assert_eq!(found.op().value(), Some(&b"b"[..]));
        }
        thread.join().unwrap();
    });
}

/// What was there before the walk is met, in order; what comes meanwhile may be.
#[test]
fn a_walk_back_meets_what_was_there_whatever_is_inserted() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        list.insert(&position(b"b"), 2, Op::Inline(b"b"));
        list.insert(&position(b"e"), 1, Op::Inline(b"e"));
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || {
            other.insert(&position(b"d"), 2, Op::Inline(b"d"));
            other.insert(&position(b"c"), 1, Op::Inline(b"c"));
        });
        let mut cursor = ListCursor::new(Arc::clone(&list));
        cursor.seek(|list| list.last_before(&position(b"f")));
        let mut seen = Vec::new();
        while let Some(entry) = cursor.entry() {
            assert_eq!(entry.op().value(), Some(entry.key()), "a visible node is whole");
            seen.push(entry.key().to_vec());
            assert!(!cursor.has_newer());
            cursor.prev();
        }
        assert!(seen.is_sorted_by(|a, b| a > b));
        assert!([b"b", b"e"].iter().all(|key| seen.iter().any(|seen| seen == key)));
        thread.join().unwrap();
        cursor.seek(|list| list.last_before(&position(b"f")));
        let mut all = Vec::new();
        while let Some(entry) = cursor.entry() {
            all.push(entry.key().to_vec());
            cursor.prev();
        }
        assert_eq!(all, [b"e", b"d", b"c", b"b"]);
    });
}

#[test]
fn equal_positions_become_one_node() {
    loom::model(|| {
        let list = Arc::new(SkipList::new());
        let other = Arc::clone(&list);
        let thread = thread::spawn(move || other.insert(&position(b"k"), 1, Op::Inline(b"k")));
        list.insert(&position(b"k"), 2, Op::Inline(b"k"));
        thread.join().unwrap();
        assert_eq!(keys(&list), [b"k"]);
    });
}

const AT: Revision = Revision::new(1);
const KEY: &[u8] = b"k";

/// Two memtables, of which one is active; `k` is deleted in the first.
struct World {
    memtables: [SkipList; 2],
    active: AtomicUsize,
    visible: AtomicU64,
    dead: DeadRanges,
}

fn version(revision: Revision) -> Position<'static> {
    Position::new(KVS, KEY, revision)
}

impl World {
    fn new() -> Arc<Self> {
        let memtables = [SkipList::new(), SkipList::new()];
        memtables[0].insert(&version(AT), 1, Op::Tombstone);
        let (active, visible) = (AtomicUsize::new(0), AtomicU64::new(AT.get()));
        Arc::new(Self { memtables, active, visible, dead: DeadRanges::default() })
    }

    /// A put as a commit applies it.
    fn put(&self) {
        let active = self.active.load(Ordering::Acquire);
        self.memtables[active].insert(&version(AT.next()), 1, Op::Inline(b"v"));
        inserted();
        self.dead.put(KEY);
        self.visible.store(AT.next().get(), Ordering::Release);
    }

    /// A scan over the first memtable alone.
    fn learn(&self) {
        let Some(watch) = self.dead.watch(Way::Forward, Some(Bytes::from_static(b"a"))) else {
            return;
        };
        if self.active.load(Ordering::Acquire) == 0 {
            let newest = self.memtables[0].first().expect("it holds a version");
            let end = (newest.revision() > AT).then(|| Bytes::from_static(KEY));
            self.dead.enter(watch, end, AT, 100);
        }
        self.dead.end(watch);
    }

    /// Whoever sees the put is not led past it.
    fn check(&self) {
        let at = Revision::new(self.visible.load(Ordering::Acquire));
        if at > AT {
            assert!(self.dead.skip(KEY, at, Way::Forward, false).is_none());
        }
    }
}

#[test]
fn a_put_is_seen_by_the_scan_or_sees_its_watch() {
    loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let thread = thread::spawn(move || other.put());
        world.learn();
        world.check();
        thread.join().unwrap();
        world.check();
    });
}

#[test]
fn a_put_into_the_next_memtable_sees_the_watch() {
    loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let thread = thread::spawn(move || {
            other.active.store(1, Ordering::Release);
            other.put();
        });
        world.learn();
        world.check();
        thread.join().unwrap();
        world.check();
    });
}
