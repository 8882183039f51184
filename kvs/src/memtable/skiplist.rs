//! An insert-only skip list in an arena: concurrent inserts by compare-and-swap, reads without
//! locks.
//!
//! Ordered by (KVS, key, revision descending). A node holds its key inline, and a value of up to
//! [`BESIDE_BYTES_MAX`] beside it. Longer values, and those that replace another, lie in an arena
//! of their own, so that the nodes that a search walks over are near each other: in few cache lines
//! and pages.
//!
//! ```text
//! | prefix | revision | value* | kvs, key_len, height | link* x height | key | value record |
//!   8        8          8        8                      8 each           ..    8 + ..
//! ```
//!
//! `prefix` is the first 8 bytes of the key as a big-endian number: most comparisons end there,
//! in the node's first cache line.
//!
//! A node is published level by level from the bottom, each by one compare-and-swap in its
//! predecessor's link:
//!
//! ```text
//! allocated --fill fields, Relaxed--> private --CAS level 0, Release--> present
//!     --CAS level 1..height, Release--> linked    (nothing ever leaves the list)
//! ```
//!
//! Links are loaded with Acquire, which pairs with that Release: whoever sees a node sees its
//! fields. A failed CAS searches on from the same predecessor. Level 0 decides about equal
//! positions: the loser of the race hands its value to the winner's node. An equal position means
//! the same key again in one batch; the value pointer is swapped, so the last one wins.
//!
//! Nodes and values live until the list drops. A cursor keeps the list alive by its `Arc`.

use super::arena::{ALIGN, Arena};
use crate::entry::op::{Op, kind};
use crate::key::{KvsId, Revision};
use std::cell::Cell;
use std::cmp::Ordering as Order;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Levels of the tallest node: with one node in four rising, 12 levels serve 4^12 nodes.
pub(super) const HEIGHT_MAX: usize = 12;

/// Longest value that lies beside its node: about what a node and its key take.
const BESIDE_BYTES_MAX: usize = 64;

type Link = AtomicPtr<Node>;

#[repr(C)]
struct Node {
    prefix: u64,
    revision: u64,
    value: AtomicPtr<Value>,
    kvs: u32,
    key_len: u16,
    height: u16,
}

/// A value record; its bytes follow.
#[repr(C)]
struct Value {
    len: u32,
    kind: u32,
}

#[cfg(test)]
thread_local! {
    /// Nodes that were compared with a position.
    pub(super) static COMPARED: Cell<u64> = const { Cell::new(0) };
}

const LINKS_AT: usize = size_of::<Node>().next_multiple_of(align_of::<Link>());
const VALUE_BYTES_AT: usize = size_of::<Value>();
const _: () = assert!(align_of::<Node>() <= ALIGN);
#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() == 32);

/// A place in the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position<'a> {
    /// Wider than an id, so that the place after the last KVS has a name.
    kvs: u64,
    prefix: u64,
    key: &'a [u8],
    revision: u64,
}

impl<'a> Position<'a> {
    /// Of the version of `key` at `revision`.
    pub(super) fn new(kvs: KvsId, key: &'a [u8], revision: Revision) -> Self {
        Self { kvs: kvs.get().into(), prefix: prefix(key), key, revision: revision.get() }
    }

    /// Before every version of the KVS.
    pub(super) fn start_of(kvs: KvsId) -> Self {
        Self { kvs: kvs.get().into(), prefix: 0, key: &[], revision: u64::MAX }
    }

    /// After every version of the KVS, before those of the next.
    pub(super) fn end_of(kvs: KvsId) -> Self {
        Self { kvs: u64::from(kvs.get()) + 1, prefix: 0, key: &[], revision: u64::MAX }
    }
}

/// The first 8 bytes, zero-padded, as a number that orders as they do.
pub(crate) fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    // Little-endian bytes of the reversed order: a big-endian read.
    bytes.reverse();
    u64::from_le_bytes(bytes)
}

/// A node of a list that is alive for `'a`.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    node: NonNull<Node>,
    list: PhantomData<&'a SkipList>,
}

impl<'a> Entry<'a> {
    /// `node` must have been filled by [`SkipList::create`] in a list alive for `'a`.
    fn new(node: NonNull<Node>) -> Self {
        Self { node, list: PhantomData }
    }

    fn node(self) -> &'a Node {
        // SAFETY: by the contract of `new` the node is initialised and outlives 'a; only its
        // atomics change.
        unsafe { self.node.as_ref() }
    }

    fn link(self, level: usize) -> &'a Link {
        assert!(level < usize::from(self.node().height));
        let at = LINKS_AT + level * size_of::<Link>();
        // SAFETY: the node's allocation has `height` links from LINKS_AT on, see `create`.
        let link = unsafe { self.node.byte_add(at) }.cast::<Link>();
        // SAFETY: `create` initialised every link of the node.
        unsafe { link.as_ref() }
    }

    /// Acquire pairs with the Release that linked the next node: its fields are seen.
    fn next_at(self, level: usize) -> Option<Entry<'a>> {
        NonNull::new(self.link(level).load(Ordering::Acquire)).map(Entry::new)
    }

    pub(super) fn kvs(self) -> KvsId {
        KvsId::new(self.node().kvs)
    }

    pub(super) fn revision(self) -> Revision {
        Revision::new(self.node().revision)
    }

    pub(super) fn key(self) -> &'a [u8] {
        let node = self.node();
        let at = LINKS_AT + usize::from(node.height) * size_of::<Link>();
        // SAFETY: the node's allocation has `key_len` bytes of key after its links.
        let key = unsafe { self.node.byte_add(at) }.cast::<u8>();
        // SAFETY: `create` wrote them, nothing writes them again, and they outlive 'a.
        unsafe { std::slice::from_raw_parts(key.as_ptr(), node.key_len.into()) }
    }

    /// None is a tombstone.
    pub(super) fn op(self) -> Op<'a> {
        // Acquire pairs with the Release of `replace_value`: the new record is seen.
        let record = self.node().value.load(Ordering::Acquire);
        // SAFETY: a node's value points to a record that `fill_value` filled in one of the arenas.
        let Value { len, kind } = unsafe { record.read() };
        let len = usize::try_from(len).expect("a length that was a usize");
        // SAFETY: `len` bytes follow the record's head, in the same allocation.
        let bytes = unsafe { record.byte_add(VALUE_BYTES_AT) }.cast::<u8>();
        // SAFETY: `write_value` wrote them, nothing writes them again, and they outlive 'a.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
        if kind == u32::from(kind::INLINE) { Op::Inline(bytes) } else { Op::Tombstone }
    }

    fn replace_value(self, record: *mut Value) {
        // Release pairs with the Acquire in `value`.
        self.node().value.store(record, Ordering::Release);
    }

    /// How this node stands to `position`.
    fn compare(self, position: &Position<'_>) -> Order {
        #[cfg(test)]
        COMPARED.set(COMPARED.get() + 1);
        let node = self.node();
        u64::from(node.kvs)
            .cmp(&position.kvs)
            .then_with(|| node.prefix.cmp(&position.prefix))
            .then_with(|| self.key().cmp(position.key))
            .then_with(|| position.revision.cmp(&node.revision))
    }

    /// Whether it is a version of that position's key.
    pub(super) fn is_key_of(self, position: &Position<'_>) -> bool {
        let node = self.node();
        u64::from(node.kvs) == position.kvs
            && node.prefix == position.prefix
            && self.key() == position.key
    }
}

/// Between which nodes of one level a position lies.
#[derive(Clone, Copy)]
struct Gap<'a> {
    before: Entry<'a>,
    after: Option<Entry<'a>>,
}

/// The list.
pub(super) struct SkipList {
    nodes: Arena,
    values: Arena,
    /// Of full height, before everything, never compared.
    head: NonNull<Node>,
    /// Levels in use. A stale read costs speed only.
    height: AtomicUsize,
}

impl SkipList {
    pub(super) fn new() -> Self {
        let (nodes, values) = (Arena::new(), Arena::new());
        let start = Position::new(KvsId::new(0), &[], Revision::ZERO);
        let head = create((&nodes, &values), &start, HEIGHT_MAX, Op::Tombstone);
        Self { nodes, values, head, height: AtomicUsize::new(1) }
    }

    /// Bytes taken by nodes and values.
    pub(super) fn used_bytes(&self) -> usize {
        self.nodes.used_bytes() + self.values.used_bytes()
    }

    /// Adds a version. An equal position gets the new value.
    ///
    /// # Panics
    ///
    /// If `height` is not in `1..=HEIGHT_MAX`, or the key or value is longer than its length field.
    pub(super) fn insert(&self, at: &Position<'_>, height: usize, op: Op<'_>) {
        assert!((1..=HEIGHT_MAX).contains(&height));
        // Relaxed: see the field.
        self.height.fetch_max(height, Ordering::Relaxed);
        let mut gaps = self.gaps(at);
        if let Some(same) = gaps[0].after.filter(|node| node.compare(at).is_eq()) {
            return same.replace_value(write_value(&self.values, op));
        }
        let node = Entry::new(create((&self.nodes, &self.values), at, height, op));
        for (level, gap) in gaps.iter_mut().enumerate().take(height) {
            while !link(node, level, gap) {
                *gap = gap_from(gap.before, level, at, None);
                if let Some(winner) =
                    gap.after.filter(|node| level == 0 && node.compare(at).is_eq())
                {
                    // Relaxed: this thread wrote it.
                    return winner.replace_value(node.node().value.load(Ordering::Relaxed));
                }
            }
        }
    }

    /// The first node at or after `position`.
    pub(super) fn first_from(&self, position: &Position<'_>) -> Option<Entry<'_>> {
        self.lowest_gap(position).after
    }

    /// The last node before `position`.
    pub(super) fn last_before(&self, position: &Position<'_>) -> Option<Entry<'_>> {
        let before = self.lowest_gap(position).before;
        (before.node != self.head).then_some(before)
    }

    /// The first node of all.
    pub(super) fn first(&self) -> Option<Entry<'_>> {
        self.head().next_at(0)
    }

    fn head(&self) -> Entry<'_> {
        Entry::new(self.head)
    }

    fn lowest_gap(&self, position: &Position<'_>) -> Gap<'_> {
        let mut gap = Gap { before: self.head(), after: None };
        // Relaxed: see the field.
        for level in (0..self.height.load(Ordering::Relaxed)).rev() {
            gap = gap_from(gap.before, level, position, gap.after);
        }
        gap
    }

    fn gaps(&self, position: &Position<'_>) -> [Gap<'_>; HEIGHT_MAX] {
        let mut gap = Gap { before: self.head(), after: None };
        let mut gaps = [gap; HEIGHT_MAX];
        // Relaxed: see the field. The caller has raised it to its own node's height.
        for level in (0..self.height.load(Ordering::Relaxed)).rev() {
            gap = gap_from(gap.before, level, position, gap.after);
            gaps[level] = gap;
        }
        gaps
    }
}

/// The gap of `position` on `level`, searched from `before`. `known` is a node that is known not to
/// be before the position: it needs no comparison.
fn gap_from<'a>(
    mut before: Entry<'a>,
    level: usize,
    position: &Position<'_>,
    known: Option<Entry<'a>>,
) -> Gap<'a> {
    loop {
        let after = before.next_at(level);
        match after {
            Some(next)
                if known.is_none_or(|known| known.node != next.node)
                    && next.compare(position).is_lt() =>
            {
                before = next;
            }
            _ => return Gap { before, after },
        }
    }
}

/// Links `node` into the gap; false when another node got there first.
fn link(node: Entry<'_>, level: usize, gap: &Gap<'_>) -> bool {
    let after = gap.after.map_or(std::ptr::null_mut(), |after| after.node.as_ptr());
    // Relaxed: nobody follows this link before the Release below publishes the level.
    node.link(level).store(after, Ordering::Relaxed);
    gap.before
        .link(level)
        // Release publishes the node's fields and this level's link to `next_at`.
        .compare_exchange(after, node.node.as_ptr(), Ordering::Release, Ordering::Relaxed)
        .is_ok()
}

/// A private node with null links.
fn create(
    (nodes, values): (&Arena, &Arena),
    at: &Position<'_>,
    height: usize,
    op: Op<'_>,
) -> NonNull<Node> {
    let key_at = LINKS_AT + height * size_of::<Link>();
    let value_at = (key_at + at.key.len()).next_multiple_of(align_of::<Value>());
    let is_beside = op.value().is_none_or(|value| value.len() <= BESIDE_BYTES_MAX);
    let beside_bytes = if is_beside { value_len(op) } else { 0 };
    let bytes = nodes.allocate(value_at + beside_bytes);
    let record = if is_beside {
        // SAFETY: `value_at` is within the allocation, and leaves room for the record.
        fill_value(unsafe { bytes.add(value_at) }, op)
    } else {
        write_value(values, op)
    };
    let node = Node {
        prefix: at.prefix,
        revision: at.revision,
        value: AtomicPtr::new(record),
        kvs: u32::try_from(at.kvs).expect("a position of a KVS that exists"),
        key_len: u16::try_from(at.key.len()).expect("keys have at most KEY_BYTES_MAX bytes"),
        height: u16::try_from(height).expect("at most HEIGHT_MAX"),
    };
    // SAFETY: the allocation is private, aligned to ALIGN and longer than a node.
    unsafe { bytes.cast::<Node>().write(node) };
    for level in 0..height {
        // SAFETY: links lie between LINKS_AT and `key_at`, within the allocation.
        let link = unsafe { bytes.add(LINKS_AT + level * size_of::<Link>()) };
        // SAFETY: LINKS_AT is a multiple of a link's alignment, the memory is private.
        unsafe { link.cast::<Link>().write(Link::new(std::ptr::null_mut())) };
    }
    // SAFETY: the key lies between `key_at` and `value_at`, within the allocation.
    let key = unsafe { bytes.add(key_at) };
    // SAFETY: fresh memory of `key.len()` bytes that nobody else has.
    unsafe { key.copy_from_nonoverlapping(NonNull::from(at.key).cast(), at.key.len()) };
    bytes.cast()
}

fn value_len(op: Op<'_>) -> usize {
    VALUE_BYTES_AT + op.value().map_or(0, <[u8]>::len)
}

/// A value record of its own.
fn write_value(arena: &Arena, op: Op<'_>) -> *mut Value {
    fill_value(arena.allocate(value_len(op)), op)
}

/// Fills a record into `bytes`: private memory of `value_len(op)` bytes, aligned for [`Value`].
fn fill_value(bytes: NonNull<u8>, op: Op<'_>) -> *mut Value {
    let (kind, value) = match op {
        Op::Tombstone => (kind::TOMBSTONE, &[][..]),
        Op::Inline(value) => (kind::INLINE, value),
    };
    let kind = u32::from(kind);
    let len = u32::try_from(value.len()).expect("values have at most VALUE_BYTES_MAX bytes");
    let record = bytes.cast::<Value>();
    // SAFETY: both callers give aligned private memory that holds a record.
    unsafe { record.write(Value { len, kind }) };
    // SAFETY: the record's bytes follow its head, within `value_len(op)`.
    let to = unsafe { bytes.add(VALUE_BYTES_AT) };
    // SAFETY: fresh memory of `value.len()` bytes that nobody else has.
    unsafe { to.copy_from_nonoverlapping(NonNull::from(value).cast(), value.len()) };
    record.as_ptr()
}

// SAFETY: `head` points into `nodes`, which moves with it; nodes are not tied to a thread.
unsafe impl Send for SkipList {}
// SAFETY: shared nodes change only through their atomics, by the protocol of the module.
unsafe impl Sync for SkipList {}

/// A place in a list that it keeps alive.
///
/// A step back is a search, for nodes have no link back: not from the top of the list, but from the
/// *finger*, the nodes that the last step back came by. Levels on which nothing lies between finger
/// and place are left alone, so a step back compares a few keys, however long the list is.
pub(super) struct ListCursor {
    list: Arc<SkipList>,
    /// A node of `list`.
    at: Option<NonNull<Node>>,
    /// On each level a node of that level, or the head: none is after `at`. What is inserted behind
    /// them is found on the way.
    finger: [Cell<NonNull<Node>>; HEIGHT_MAX],
}

// SAFETY: the nodes belong to `list`, which is Send and Sync and lives as long as the cursor.
unsafe impl Send for ListCursor {}

impl ListCursor {
    /// At no node.
    pub(super) fn new(list: Arc<SkipList>) -> Self {
        let finger = std::array::from_fn(|_| Cell::new(list.head));
        Self { list, at: None, finger }
    }

    /// The node it is at.
    pub(super) fn entry(&self) -> Option<Entry<'_>> {
        self.at.map(Entry::new)
    }

    /// Whether the node before the present one is of the same key.
    pub(super) fn has_newer(&self) -> bool {
        let (Some(entry), Some(before)) = (self.entry(), self.before()) else { return false };
        before.is_key_of(&entry.position())
    }

    /// Moves to where `find` says.
    pub(super) fn seek(&mut self, find: impl FnOnce(&SkipList) -> Option<Entry<'_>>) {
        self.at = find(&self.list).map(|entry| entry.node);
        self.finger.iter().for_each(|node| node.set(self.list.head));
    }

    /// To the node after the present one.
    pub(super) fn next(&mut self) {
        self.at = self.entry().and_then(Entry::next).map(|entry| entry.node);
    }

    /// To the node before the present one.
    pub(super) fn prev(&mut self) {
        self.at = self.before().map(|entry| entry.node);
    }

    /// Stays at its node only if that is of the KVS.
    pub(super) fn stay_in(&mut self, kvs: KvsId) {
        self.at = self.entry().filter(|entry| entry.kvs() == kvs).map(|entry| entry.node);
    }

    /// The node before the present one. The finger follows.
    fn before(&self) -> Option<Entry<'_>> {
        let at = self.entry()?;
        let position = at.position();
        let finger = |level: usize| Entry::new(self.finger[level].get());
        let nearest = |level: usize| {
            let next = finger(level).next_at(level).filter(|next| next.node != at.node);
            finger(level).node != at.node && !next.is_some_and(|n| n.compare(&position).is_lt())
        };
        let start = (0..HEIGHT_MAX).find(|&level| nearest(level));
        let mut before = start.map_or(self.list.head(), finger);
        for level in (0..start.unwrap_or(HEIGHT_MAX)).rev() {
            before = gap_from(before, level, &position, Some(at)).before;
            self.finger[level].set(before.node);
        }
        (before.node != self.list.head).then_some(before)
    }
}

impl Entry<'_> {
    /// The node after it.
    pub(super) fn next(self) -> Option<Self> {
        self.next_at(0)
    }

    /// Its place.
    pub(super) fn position(&self) -> Position<'_> {
        Position::new(self.kvs(), self.key(), self.revision())
    }
}
