//! A position in a kvset, moving either way.
//!
//! The leaf under the cursor is copied into the cursor, 4 KiB for some hundred entries, so that the
//! cursor owns what it reads and no map page is borrowed while the caller thinks. A seek goes from
//! the root down; after that leaves follow each other by number.
//!
//! [`ReadMode::Mapped`] takes pages and resident values through the maps, and reads other values
//! ahead once a scan shows. [`ReadMode::Direct`] takes all past the cache in chunks of 256 KiB and
//! never touches mapped memory, so that compaction neither evicts what readers need nor faults.
//!
//! A cursor with [`Holes`] goes past what it cannot read (`damage`); any other fails there.

mod damage;

use super::holes::Holes;
use super::kblock::leaf::Leaf;
use super::kblock::read::Stop;
use super::kblock::walk::LeafWalk;
use super::lookup::object_of;
use super::open::Kvset;
use super::page::{Decode, PAGE_BYTES, PageHead, is_whole};
use super::vblock::ahead::ScanAhead;
use super::vblock::read::ValueReader;
use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor};
use crate::error::{Error, Result, Scope};
use crate::key::Revision;
use crate::metrics::Counter;
use bytes::Bytes;
use mpool::{IoBuf, MblockId, Priority};
use std::cell::RefCell;
use std::sync::Arc;

/// How a cursor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// Pages through the map (users' cursors); values from it if resident, else read ahead, or by
    /// `Map::read`.
    Mapped,
    /// Uncached direct reads in large chunks, kblocks and vblocks (compaction): never pollutes the
    /// cache.
    Direct,
}

/// Pages that a direct cursor reads at once.
const CHUNK_PAGES: u32 = 64;

/// Where the cursor goes after the leaf it is about to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toward {
    End,
    Start,
}

#[cfg(test)]
thread_local! {
    /// Steps of all cursors of this thread.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A leaf, by number of its kblock and page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeafAt {
    kblock: usize,
    page: u32,
}

/// See the module.
pub(crate) struct KvsetCursor {
    kvset: Arc<Kvset>,
    mode: ReadMode,
    chunk: LeafChunk,
    values: RefCell<ValueReader>,
    at: LeafAt,
    /// The leaf `at`, and its trailer once it was loaded.
    page: Vec<u8>,
    head: Option<PageHead>,
    walk: LeafWalk,
    valid: bool,
    /// Takes what could not be read and was passed over.
    holes: Option<Arc<Holes>>,
}

/// What the sources of one scan share.
pub(crate) type Shared<'a> = (&'a Arc<Holes>, &'a Arc<ScanAhead>);

impl Kvset {
    /// A cursor; not valid before its first seek.
    pub(crate) fn cursor(self: &Arc<Self>, mode: ReadMode) -> KvsetCursor {
        let priority = match mode {
            ReadMode::Mapped => Priority::Read,
            ReadMode::Direct => Priority::Compaction,
        };
        KvsetCursor {
            kvset: Arc::clone(self),
            mode,
            chunk: LeafChunk::default(),
            values: RefCell::new(ValueReader::new(priority, self.meta.vblocks.len())),
            at: LeafAt { kblock: 0, page: 0 },
            page: vec![0; PAGE_BYTES],
            head: None,
            walk: LeafWalk::default(),
            valid: false,
            holes: None,
        }
    }

    /// A user's cursor: it goes past leaves that cannot be read, and notes them, and reads ahead
    /// within the bounds of its scan.
    pub(crate) fn scan(self: &Arc<Self>, (holes, ahead): Shared<'_>) -> KvsetCursor {
        let mut cursor = self.cursor(ReadMode::Mapped);
        cursor.holes = Some(Arc::clone(holes));
        if let Some(values) = &self.values {
            let reader = cursor.values.into_inner().with_ahead(ahead, values.queue());
            cursor.values = RefCell::new(reader);
        }
        cursor
    }
}

impl KvsetCursor {
    /// A direct one that counts the bytes it reads from the drive.
    pub(crate) fn counting(mut self, read_bytes: Arc<Counter>) -> Self {
        self.values.get_mut().count(read_bytes);
        self
    }

    /// Makes `at` the leaf under the cursor.
    fn load(&mut self, at: LeafAt, toward: Toward) -> Result<()> {
        if self.head.is_some() && self.at == at {
            return Ok(());
        }
        self.head = None;
        self.at = at;
        match self.mode {
            ReadMode::Direct => {
                let values = self.values.borrow();
                let bytes = self.chunk.page(&self.kvset, at, toward, values.counter())?;
                self.page.copy_from_slice(bytes);
            }
            ReadMode::Mapped => {
                self.kvset.guarded(|| {
                    let bytes = self.kvset.page(at.kblock, at.page)?;
                    self.page.copy_from_slice(&bytes);
                    Ok::<(), Error>(())
                })??;
            }
        }
        let kblock = &self.kvset.kblocks[at.kblock];
        let head = kblock.leaf_head::<Error>(at.page, &self.page);
        let head = head.map_err(|stop| self.stopped(at.kblock, stop))?;
        Leaf::of(&self.page, head).map_err(|reason| self.bad(reason))?;
        self.head = Some(head);
        Ok(())
    }

    /// The leaf of a kblock that holds `key` if anything does.
    fn leaf_of(&self, kblock: usize, key: &[u8]) -> Result<LeafAt> {
        let tree = &self.kvset.kblocks[kblock];
        let found = match self.mode {
            ReadMode::Mapped => {
                self.kvset.guarded(|| tree.leaf_of(key, |page| self.kvset.page(kblock, page)))?
            }
            ReadMode::Direct => {
                tree.leaf_of(key, |page| read_page(&self.kvset, LeafAt { kblock, page }))
            }
        };
        let page = found.map_err(|stop| self.stopped(kblock, stop))?;
        Ok(LeafAt { kblock, page })
    }

    /// The leaf of a kblock that holds `key` if anything does; and the last of those after it, as
    /// far as they cannot be read, where the pages above cannot be read either.
    fn leaves_of(&mut self, kblock: usize, key: &[u8]) -> Result<(LeafAt, LeafAt)> {
        match self.leaf_of(kblock, key) {
            Ok(at) => Ok((at, at)),
            Err(error) => self.search_leaves(kblock, key, error),
        }
    }

    /// Whether a leaf has an entry at or after `key`; the walk stands there, or at the last.
    fn seek_in(&mut self, at: LeafAt, toward: Toward, key: &[u8]) -> Result<bool> {
        self.load(at, toward)?;
        self.walk(|walk, leaf| walk.seek(leaf, key))
    }

    fn after(&self, at: LeafAt) -> Option<LeafAt> {
        if at.page + 1 < self.kvset.kblocks[at.kblock].footer().leaf_pages {
            return Some(LeafAt { page: at.page + 1, ..at });
        }
        let kblock = at.kblock + 1;
        (kblock < self.kvset.kblocks.len()).then_some(LeafAt { kblock, page: 0 })
    }

    fn before(&self, at: LeafAt) -> Option<LeafAt> {
        match at.page.checked_sub(1) {
            Some(page) => Some(LeafAt { page, ..at }),
            None => at.kblock.checked_sub(1).map(|kblock| self.last_leaf(kblock)),
        }
    }

    fn last_leaf(&self, kblock: usize) -> LeafAt {
        LeafAt { kblock, page: self.kvset.kblocks[kblock].footer().leaf_pages - 1 }
    }

    /// To the first entry of a leaf, or past the end if there is no such leaf.
    fn enter_first(&mut self, mut at: Option<LeafAt>) -> Result<()> {
        while let Some(leaf) = at {
            match self.load(leaf, Toward::End).and_then(|()| self.walk(LeafWalk::first)) {
                Ok(()) => {
                    self.valid = true;
                    return Ok(());
                }
                Err(error) => at = self.pass(leaf, error)?.after,
            }
        }
        Ok(())
    }

    /// To the last entry of a leaf, or before the start if there is no such leaf.
    fn enter_last(&mut self, mut at: Option<LeafAt>) -> Result<()> {
        while let Some(leaf) = at {
            match self.load(leaf, Toward::Start).and_then(|()| self.walk(LeafWalk::last)) {
                Ok(()) => {
                    self.valid = true;
                    return Ok(());
                }
                Err(error) => at = self.pass(leaf, error)?.before,
            }
        }
        Ok(())
    }

    fn walk<T>(&mut self, go: impl FnOnce(&mut LeafWalk, &Leaf<'_>) -> Decode<T>) -> Result<T> {
        let head = self.head.expect("a leaf is loaded");
        let leaf = Leaf::of(&self.page, head).expect("checked when the leaf was loaded");
        go(&mut self.walk, &leaf).map_err(|reason| self.bad(reason))
    }

    fn leaf(&self) -> Leaf<'_> {
        assert!(self.valid, "the cursor is at an entry");
        let head = self.head.expect("a valid cursor has a leaf");
        Leaf::of(&self.page, head).expect("checked when the leaf was loaded")
    }

    /// From the map if it is resident; read ahead if it continues what was read before, past the
    /// cache or, where all of it fits in memory, into the map; else as a point lookup reads it. So
    /// a scan neither waits for the drive at each value nor fills the cache with what has no room.
    fn mapped_value(&self, ptr: ValuePtr) -> Result<Bytes> {
        if let Some(value) = self.kvset.try_read_value(ptr)? {
            return Ok(value);
        }
        let object = self.kvset.value_object(ptr)?;
        let mut reader = self.values.borrow_mut();
        if let Some((part, next)) = reader.to_admit(object, ptr) {
            let has_room = self.kvset.admit(ptr, part.clone(), next);
            if let Some(value) = self.kvset.try_read_value(ptr)? {
                reader.admitted(object, ptr, &part);
                return Ok(value);
            }
            // Else it is deleted, or another reader is at work on it.
            if !has_room {
                reader.admit_no_more();
            }
        }
        if reader.follows(object, ptr) {
            match reader.read(object, ptr) {
                // What is read ahead may hold the damage of another value.
                Err(error) if error.scope() == Scope::Object => {}
                ahead => return ahead,
            }
        }
        let value = self.kvset.read_value(ptr)?;
        reader.passed(object, ptr);
        Ok(value)
    }

    #[cold]
    fn bad(&self, reason: &'static str) -> Error {
        self.kvset.page_corrupt(self.at.kblock, self.at.page, reason)
    }

    #[cold]
    fn stopped(&self, kblock: usize, stop: Stop<Error>) -> Error {
        match stop {
            Stop::Fetch(error) => error,
            Stop::Bad { page, reason } => self.kvset.page_corrupt(kblock, page, reason),
        }
    }
}

impl VersionCursor for KvsetCursor {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.valid = false;
        let kblocks = &self.kvset.kblocks;
        let kblock = kblocks.partition_point(|kblock| kblock.footer().max_key.as_slice() < key);
        if kblock == kblocks.len() {
            return Ok(());
        }
        if key <= kblocks[kblock].footer().min_key.as_slice() {
            return self.enter_first(Some(LeafAt { kblock, page: 0 }));
        }
        let (at, _) = self.leaves_of(kblock, key)?;
        match self.seek_in(at, Toward::End, key) {
            Ok(true) => {
                self.valid = true;
                Ok(())
            }
            Ok(false) => self.enter_first(self.after(at)),
            Err(error) => {
                let sides = self.pass(at, error)?;
                self.enter_first(sides.after)
            }
        }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.valid = false;
        let kblocks = &self.kvset.kblocks;
        let starting = kblocks.partition_point(|kblock| kblock.footer().min_key.as_slice() < key);
        let Some(kblock) = starting.checked_sub(1) else { return Ok(()) };
        if kblocks[kblock].footer().max_key.as_slice() < key {
            return self.enter_last(Some(self.last_leaf(kblock)));
        }
        let (at, last) = self.leaves_of(kblock, key)?;
        match self.seek_in(at, Toward::Start, key) {
            Ok(true) => {
                self.valid = true;
                self.prev()
            }
            Ok(false) if last == at => {
                self.valid = true;
                Ok(())
            }
            // The last one cannot be read, and is passed on the way.
            Ok(false) => self.enter_last(Some(last)),
            Err(error) => {
                let sides = self.pass(at, error)?;
                self.enter_last(sides.before)
            }
        }
    }

    fn seek_first(&mut self) -> Result<()> {
        self.valid = false;
        self.enter_first(Some(LeafAt { kblock: 0, page: 0 }))
    }

    fn seek_last(&mut self) -> Result<()> {
        self.valid = false;
        self.enter_last(Some(self.last_leaf(self.kvset.kblocks.len() - 1)))
    }

    fn valid(&self) -> bool {
        self.valid
    }

    fn key(&self) -> &[u8] {
        assert!(self.valid, "the cursor is at an entry");
        self.walk.key()
    }

    fn revision(&self) -> Revision {
        self.walk.revision(&self.leaf())
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        self.walk.op(&self.leaf())
    }

    fn vblock(&self, ptr: ValuePtr) -> MblockId {
        self.kvset.meta.vblocks[object_of(ptr)].0
    }

    fn next(&mut self) -> Result<()> {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
        if !self.valid {
            return Ok(());
        }
        self.valid = false;
        match self.walk(LeafWalk::next) {
            Ok(true) => {
                self.valid = true;
                Ok(())
            }
            Ok(false) => self.enter_first(self.after(self.at)),
            Err(error) => {
                let sides = self.pass(self.at, error)?;
                self.enter_first(sides.after)
            }
        }
    }

    fn prev(&mut self) -> Result<()> {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
        if !self.valid {
            return Ok(());
        }
        self.valid = false;
        match self.walk(LeafWalk::prev) {
            Ok(true) => {
                self.valid = true;
                Ok(())
            }
            Ok(false) => self.enter_last(self.before(self.at)),
            Err(error) => {
                let sides = self.pass(self.at, error)?;
                self.enter_last(sides.before)
            }
        }
    }

    /// A kvset holds one version a key.
    fn may_have_newer(&self) -> bool {
        false
    }

    fn value(&self) -> Result<Bytes> {
        match (self.op(), self.mode) {
            (Op::Tombstone, _) => panic!("a tombstone has no value"),
            (Op::Inline(value), _) => Ok(Bytes::copy_from_slice(value)),
            (Op::Extern(ptr), ReadMode::Mapped) => self.mapped_value(ptr),
            (Op::Extern(ptr), ReadMode::Direct) => {
                let object = self.kvset.value_object(ptr)?;
                self.values.borrow_mut().read(object, ptr)
            }
        }
    }
}

/// Leaf pages that a direct cursor read ahead.
#[derive(Default)]
struct LeafChunk {
    kblock: usize,
    start: u32,
    pages: u32,
    buf: Option<IoBuf>,
}

impl LeafChunk {
    /// A leaf, whole; read with those that follow it in the cursor's direction, and counted.
    fn page(
        &mut self,
        kvset: &Kvset,
        at: LeafAt,
        toward: Toward,
        read_bytes: Option<&Counter>,
    ) -> Result<&[u8]> {
        let end = self.start + self.pages;
        if self.kblock != at.kblock || !(self.start..end).contains(&at.page) {
            let read = self.fill(kvset, at, toward)?;
            if let Some(read_bytes) = read_bytes {
                read_bytes.add(read as u64);
            }
        }
        let buf = self.buf.as_ref().expect("a chunk was read");
        let offset = pages_to_bytes(at.page - self.start);
        let bytes = &buf[offset..offset + PAGE_BYTES];
        if is_whole(bytes) {
            Ok(bytes)
        } else {
            Err(kvset.page_corrupt(at.kblock, at.page, "page has a wrong checksum"))
        }
    }

    /// Returns the bytes that were read.
    fn fill(&mut self, kvset: &Kvset, at: LeafAt, toward: Toward) -> Result<usize> {
        let leaf_pages = kvset.kblocks[at.kblock].footer().leaf_pages;
        let (start, end) = match toward {
            Toward::End => (at.page, leaf_pages.min(at.page + CHUNK_PAGES)),
            Toward::Start => ((at.page + 1).saturating_sub(CHUNK_PAGES), at.page + 1),
        };
        // Until the read succeeded the chunk holds nothing.
        self.pages = 0;
        let len = pages_to_bytes(end - start);
        let kept = self.buf.take().filter(|buf| buf.len() == len);
        let buf = self.buf.insert(kept.unwrap_or_else(|| IoBuf::zeroed(len)));
        let offset = u64::from(start) * PAGE_BYTES as u64;
        kvset.index.mblock(at.kblock).read_at_priority(offset, buf, Priority::Compaction)?;
        (self.kblock, self.start, self.pages) = (at.kblock, start, end - start);
        Ok(len)
    }
}

/// One page, read directly and checked.
fn read_page(kvset: &Kvset, at: LeafAt) -> Result<IoBuf> {
    let mut buf = IoBuf::zeroed(PAGE_BYTES);
    let offset = u64::from(at.page) * PAGE_BYTES as u64;
    kvset.index.mblock(at.kblock).read_at_priority(offset, &mut buf, Priority::Compaction)?;
    if is_whole(&buf) {
        Ok(buf)
    } else {
        Err(kvset.page_corrupt(at.kblock, at.page, "page has a wrong checksum"))
    }
}

fn pages_to_bytes(pages: u32) -> usize {
    usize::try_from(pages).expect("usize has at least 32 bits") * PAGE_BYTES
}
