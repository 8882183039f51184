//! The writes that are not flushed, of all KVSs: a skiplist in an arena.
//!
//! A skip list in an arena, ordered by (KVS, key, revision descending), with a lock-free filter in
//! front. Readers take no lock and inserts may be concurrent. Nothing is ever removed: a deletion
//! is a tombstone, and a full memtable is sealed, flushed and dropped as a whole.
//!
//! Cost: an insert writes the entry once (32 bytes of node, 8 a level, key, value) and searches the
//! list once; `get` of an absent key reads one cache line of the filter.
//!
//! When a key is written twice at one revision - twice in one batch - the last write wins, and
//! cursors show one version. Which revisions a reader may see is not decided here: a reader asks
//! for the versions up to a published revision.

mod arena;
mod filter;
#[cfg(test)]
#[cfg(loom)]
mod interleavings;
pub(crate) mod retired;
mod skiplist;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor};
use crate::error::Result;
use crate::key::{KvsId, Revision};
use bytes::Bytes;
use filter::Filter;
use mpool::MblockId;
pub(crate) use skiplist::prefix;
use skiplist::{Entry, HEIGHT_MAX, ListCursor, Position, SkipList};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Unflushed writes.
pub(crate) struct Memtable {
    list: Arc<SkipList>,
    filter: Filter,
    /// Unknown to clients, so that nobody can choose keys that all become low nodes.
    salt: u64,
    has_deletes: AtomicBool,
}

/// What the newest visible version of a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) revision: Revision,
    pub(crate) op: Op<'a>,
}

impl Memtable {
    /// An empty memtable that is expected to grow to `bytes_hint`.
    pub(crate) fn new(bytes_hint: usize) -> Self {
        Self {
            list: Arc::new(SkipList::new()),
            filter: Filter::new(bytes_hint),
            salt: RandomState::new().hash_one(0),
            has_deletes: AtomicBool::new(false),
        }
    }

    /// Adds a version. Concurrent with readers and other inserts. `hash` is the key's
    /// [`key_hash`](crate::key::key_hash).
    #[expect(clippy::too_many_arguments, reason = "the parts of one version, on the hot path")]
    pub(crate) fn insert(&self, kvs: KvsId, key: &[u8], hash: u64, revision: Revision, op: Op<'_>) {
        self.filter.add(hash);
        if op == Op::Tombstone {
            // Relaxed: a worker that looks too early looks again.
            self.has_deletes.store(true, Ordering::Relaxed);
        }
        let height = height(hash ^ self.salt ^ revision.get());
        self.list.insert(&Position::new(kvs, key, revision), height, op);
    }

    /// The newest version of a key at or before `at`. Probes the filter first.
    pub(crate) fn get(&self, kvs: KvsId, key: &[u8], hash: u64, at: Revision) -> Option<Found<'_>> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        let position = Position::new(kvs, key, at);
        let entry = self.list.first_from(&position).filter(|entry| entry.is_key_of(&position))?;
        Some(Found { revision: entry.revision(), op: entry.op() })
    }

    /// Bytes of entries (what counts against `memtable_bytes`).
    pub(crate) fn bytes(&self) -> usize {
        self.list.used_bytes()
    }

    /// Whether a tombstone was inserted.
    pub(crate) fn has_deletes(&self) -> bool {
        self.has_deletes.load(Ordering::Relaxed)
    }

    /// Whether nothing else owns this memtable, nor its entries.
    fn is_unshared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && Arc::strong_count(&self.list) == 1
    }

    /// Whether nothing was inserted.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.first().is_none()
    }

    /// KVSs that have entries, ascending.
    pub(crate) fn kvs_ids(&self) -> Vec<KvsId> {
        let mut ids = Vec::new();
        let mut entry = self.list.first();
        while let Some(found) = entry {
            ids.push(found.kvs());
            entry = self.list.first_from(&Position::end_of(found.kvs()));
        }
        ids
    }

    /// A cursor over the versions of one KVS, at no version. Sees entries inserted after its birth.
    pub(crate) fn cursor(self: &Arc<Self>, kvs: KvsId) -> MemtableCursor {
        MemtableCursor { kvs, place: ListCursor::new(Arc::clone(&self.list)) }
    }
}

/// One node in four rises a level.
fn height(seed: u64) -> usize {
    // Fibonacci hashing spreads the revision's low bits over the high half.
    let bits = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) | 1 << (2 * (HEIGHT_MAX - 1));
    1 + usize::try_from(bits.trailing_zeros() / 2).expect("less than HEIGHT_MAX")
}

/// Over the versions of one KVS. `Stored` is `Tombstone` or `Inline`.
pub(crate) struct MemtableCursor {
    kvs: KvsId,
    place: ListCursor,
}

impl MemtableCursor {
    /// Moves to where `find` says, if that is in this KVS.
    fn seek_to(&mut self, find: impl FnOnce(&SkipList) -> Option<Entry<'_>>) {
        self.place.seek(find);
        self.place.stay_in(self.kvs);
    }

    fn entry(&self) -> Entry<'_> {
        self.place.entry().expect("the cursor is valid")
    }
}

impl VersionCursor for MemtableCursor {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        let position = Position::new(self.kvs, key, Revision::MAX);
        self.seek_to(|list| list.first_from(&position));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let position = Position::new(self.kvs, key, Revision::MAX);
        self.seek_to(|list| list.last_before(&position));
        Ok(())
    }

    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        let position = Position::new(self.kvs, key, at);
        self.seek_to(|list| list.first_from(&position));
        Ok(())
    }

    fn seek_first(&mut self) -> Result<()> {
        let position = Position::start_of(self.kvs);
        self.seek_to(|list| list.first_from(&position));
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        let position = Position::end_of(self.kvs);
        self.seek_to(|list| list.last_before(&position));
        Ok(())
    }

    fn valid(&self) -> bool {
        self.place.entry().is_some()
    }

    fn key(&self) -> &[u8] {
        self.entry().key()
    }

    fn revision(&self) -> Revision {
        self.entry().revision()
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        match self.entry().op() {
            Op::Tombstone => Op::Tombstone,
            Op::Inline(value) => Op::Inline(value),
        }
    }

    /// # Panics
    ///
    /// Always: a memtable's values are inline.
    fn vblock(&self, ptr: ValuePtr) -> MblockId {
        unreachable!("a memtable has no vblock {}", ptr.vblock)
    }

    fn next(&mut self) -> Result<()> {
        self.place.next();
        self.place.stay_in(self.kvs);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.place.prev();
        self.place.stay_in(self.kvs);
        Ok(())
    }

    fn may_have_newer(&self) -> bool {
        self.place.has_newer()
    }

    fn value(&self) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.entry().op().value().expect("the version has a value")))
    }
}
