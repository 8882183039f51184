//! Point lookups: is a key here, what is held for it, and the value's bytes.
//!
//! Sketch of a lookup with everything resident: an absent key costs two key comparisons and one
//! cache line of the filter; a present one a binary search in a page a level, about 4 lines each,
//! and one allocation for an inline value. Nothing else is allocated. Map pages are asked for by
//! `try_page`, which answers without a system call, and only then by `page`, which populates.
//!
//! Mapped memory may be replaced by zeros under a reader when the drive fails (`Pool::map_faults`).
//! A search that saw such a fault is void and is done once more: pages name themselves, so zeros
//! are told from pages; if faults go on it fails. Values need no such guard: it is the copy that is
//! checked.

use super::corrupt;
use super::kblock::read::Stop;
use super::open::Kvset;
use super::page::{PAGE_BYTES, Reason, is_whole};
use super::vblock::format::{record_range, record_value};
use super::vblock::read::record_corrupt;
use crate::entry::op::Op;
use crate::entry::version::ValuePtr;
use crate::error::{Error, Result};
use crate::key::Revision;
use bytes::Bytes;
use mpool::{IO_ALIGN, IoBuf, Map, Mblock, PageRef};
use std::cell::Cell;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// A key's entry in this kvset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Key range or filter say that the key is not here.
    Excluded,
    /// The filter took it for one that is here.
    Miss,
    Tombstone(Revision),
    Inline(Revision, Bytes),
    Extern(Revision, ValuePtr),
    /// A page is not resident, and the probe does not block.
    Cold,
}

/// What happens on the way to a probe's answer.
pub(crate) enum Passed<'e> {
    /// The filter cannot be read, so it excludes no key.
    Filter(&'e Error),
    /// A page was read from the drive.
    Read,
}

/// How a probe gets at pages.
pub(crate) trait Pages {
    /// A page of a kblock, whole; `None` if it is not resident, and this does not block.
    fn page<'k>(&self, kvset: &'k Kvset, kblock: usize, page: u32) -> Result<Option<PageRef<'k>>>;
    /// A filter that cannot be read is passed over.
    fn unfiltered(&self, error: &Error);
}

/// Pages that are resident.
pub(crate) struct Resident<F>(pub(crate) F);

/// All pages: reads what is not resident.
pub(crate) struct Blocking<F>(pub(crate) F);

impl<F: Fn(Passed<'_>)> Pages for Resident<F> {
    #[inline]
    fn page<'k>(&self, kvset: &'k Kvset, kblock: usize, page: u32) -> Result<Option<PageRef<'k>>> {
        Ok(kvset.index.try_page(kblock, page).map(PageRef::Mapped))
    }

    fn unfiltered(&self, error: &Error) {
        (self.0)(Passed::Filter(error));
    }
}

impl<F: Fn(Passed<'_>)> Pages for Blocking<F> {
    #[inline]
    fn page<'k>(&self, kvset: &'k Kvset, kblock: usize, page: u32) -> Result<Option<PageRef<'k>>> {
        let page = kvset.page(kblock, page)?;
        if !matches!(page, PageRef::Mapped(_)) {
            (self.0)(Passed::Read);
        }
        Ok(Some(page))
    }

    fn unfiltered(&self, error: &Error) {
        (self.0)(Passed::Filter(error));
    }
}

/// Why a search ends without an answer.
enum Halt {
    Cold,
    Failed(Error),
}

/// A value's buffer stays with its thread up to this length.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static SCRATCH: Cell<Option<IoBuf>> = const { Cell::new(None) };
}

impl Kvset {
    /// Key range, then filter. No IO unless a filter page is cold (then true).
    pub(crate) fn may_contain(&self, key: &[u8], hash: u64) -> bool {
        let Some(index) = self.kblock_of(key) else { return false };
        let kblock = &self.kblocks[index];
        let ask = || {
            let page = self.index.try_page(index, kblock.filter_page(hash))?;
            kblock.may_hold::<Infallible>(page, hash).ok()
        };
        // A page that is cold, bad or failing says nothing: the probe that follows reports it.
        !matches!(self.guarded(ask), Ok(Some(false)))
    }

    /// What is held for `key`: key range, filter, root, interior pages, leaf.
    #[inline]
    pub(crate) fn probe(&self, key: &[u8], hash: u64, pages: &impl Pages) -> Result<Probe> {
        let Some(index) = self.kblock_of(key) else { return Ok(Probe::Excluded) };
        match self.guarded(|| self.search((index, hash), key, pages))? {
            Ok(probe) => Ok(probe),
            Err(Stop::Fetch(Halt::Cold)) => Ok(Probe::Cold),
            Err(Stop::Fetch(Halt::Failed(error))) => Err(error),
            Err(Stop::Bad { page, reason }) => Err(self.page_corrupt(index, page, reason)),
        }
    }

    #[inline]
    fn search(
        &self,
        (index, hash): (usize, u64),
        key: &[u8],
        pages: &impl Pages,
    ) -> Result<Probe, Stop<Halt>> {
        let kblock = &self.kblocks[index];
        let fetch = |page| match pages.page(self, index, page) {
            Ok(page) => page.ok_or(Halt::Cold),
            Err(error) => Err(Halt::Failed(error)),
        };
        if !self.may_hold((index, hash), fetch, pages)? {
            return Ok(Probe::Excluded);
        }
        let page = kblock.leaf_of(key, fetch)?;
        let leaf = fetch(page).map_err(Stop::Fetch)?;
        kblock.find((page, &leaf), key, |found| match found {
            None => Probe::Miss,
            Some((revision, Op::Tombstone)) => Probe::Tombstone(revision),
            Some((revision, Op::Inline(value))) => {
                Probe::Inline(revision, Bytes::copy_from_slice(value))
            }
            Some((revision, Op::Extern(ptr))) => Probe::Extern(revision, ptr),
        })
    }

    /// What the filter says. One that cannot be read excludes no key.
    #[inline]
    fn may_hold<'k>(
        &'k self,
        (index, hash): (usize, u64),
        fetch: impl Fn(u32) -> Result<PageRef<'k>, Halt>,
        pages: &impl Pages,
    ) -> Result<bool, Stop<Halt>> {
        let kblock = &self.kblocks[index];
        let asked = match fetch(kblock.filter_page(hash)) {
            Ok(page) => kblock.may_hold::<Infallible>(&page, hash).map_err(|stop| match stop {
                Stop::Bad { page, reason } => self.page_corrupt(index, page, reason),
                Stop::Fetch(never) => match never {},
            }),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Cold) => return Err(Stop::Fetch(Halt::Cold)),
        };
        Ok(asked.unwrap_or_else(|error| {
            pages.unfiltered(&error);
            true
        }))
    }

    /// The value of a probe; blocks; verified by its checksum.
    pub(crate) fn read_value(&self, ptr: ValuePtr) -> Result<Bytes> {
        let (map, record) = self.locate(ptr)?;
        let object = object_of(ptr);
        let mut scratch = SCRATCH.take().unwrap_or_else(|| IoBuf::zeroed(2 * IO_ALIGN));
        let value = map
            .read(object, record, &mut scratch)
            .map_err(Error::from)
            .and_then(|record| checked_value(map, ptr, record));
        if scratch.len() <= SCRATCH_BYTES_MAX {
            SCRATCH.set(Some(scratch));
        }
        value
    }

    /// Only if resident; never blocks.
    pub(crate) fn try_read_value(&self, ptr: ValuePtr) -> Result<Option<Bytes>> {
        let (map, record) = self.locate(ptr)?;
        let Some(record) = map.try_read(object_of(ptr), record) else { return Ok(None) };
        checked_value(map, ptr, record).map(Some)
    }

    /// Reads a part of the vblock of `ptr` into memory and orders what is next. False: there is no
    /// room for it, or the drive fails.
    pub(super) fn admit(&self, ptr: ValuePtr, part: Range<u64>, next: Range<u64>) -> bool {
        let Ok(map) = self.map_of(ptr) else { return false };
        map.preload_part(object_of(ptr), part, next).unwrap_or_else(|error| {
            // Each value that cannot be had is read by itself, and fails by itself.
            tracing::debug!(kvset = self.meta.id.get(), %error, "values were not read ahead");
            false
        })
    }

    /// As [`read_value`](Self::read_value); `done` is called on a thread of the pool's queue, or,
    /// if `ptr` is bad, at once.
    pub(crate) fn read_value_async(
        self: &Arc<Self>,
        ptr: ValuePtr,
        done: Box<dyn FnOnce(Result<Bytes>) + Send>,
    ) {
        let (map, record) = match self.locate(ptr) {
            Ok(located) => located,
            Err(error) => return done(Err(error)),
        };
        let kept = Arc::clone(map);
        let done = Box::new(move |record: mpool::Result<&[u8]>| {
            done(record.map_err(Error::from).and_then(|record| checked_value(&kept, ptr, record)));
        });
        map.read_async(object_of(ptr), record, done);
    }

    /// Number of the kblock whose key range has `key`.
    #[inline]
    fn kblock_of(&self, key: &[u8]) -> Option<usize> {
        let index = self.kblocks.partition_point(|kblock| kblock.footer().max_key.as_slice() < key);
        let kblock = self.kblocks.get(index)?;
        (kblock.footer().min_key.as_slice() <= key).then_some(index)
    }

    /// A page of a kblock, resident and whole.
    #[inline]
    pub(super) fn page(&self, kblock: usize, page: u32) -> Result<PageRef<'_>> {
        if let Some(bytes) = self.index.try_page(kblock, page) {
            return Ok(PageRef::Mapped(bytes));
        }
        self.index.page(kblock, page, is_whole).map_err(|error| match error {
            mpool::Error::Corrupt { .. } => {
                self.page_corrupt(kblock, page, "page has a wrong checksum")
            }
            error => error.into(),
        })
    }

    /// Runs `read`, which uses mapped bytes; fails if the drive failed under them.
    #[inline]
    pub(super) fn guarded<T>(&self, mut read: impl FnMut() -> T) -> Result<T> {
        for _ in 0..2 {
            let faults = self.pool.map_faults();
            let seen = read();
            if self.pool.map_faults() == faults {
                return Ok(seen);
            }
        }
        Err(self.map_failed())
    }

    #[cold]
    fn map_failed(&self) -> Error {
        let source = std::io::Error::other("the drive failed while a mapped page was read");
        let offset = self.meta.hblock.get();
        mpool::Error::Io { op: "mapped read", offset, len: PAGE_BYTES as u64, source }.into()
    }

    #[cold]
    pub(super) fn page_corrupt(&self, kblock: usize, page: u32, reason: Reason) -> Error {
        corrupt(format!("page {page} of kblock {}", self.meta.kblocks[kblock]), reason)
    }

    /// The map of a record and its place there.
    fn locate(&self, ptr: ValuePtr) -> Result<(&Arc<Map>, Range<u64>)> {
        let map = self.map_of(ptr)?;
        let object = map.mblock(object_of(ptr));
        let record = record_range(ptr, object.len_bytes())
            .map_err(|reason| record_corrupt(object, ptr, reason))?;
        Ok((map, record))
    }

    fn map_of(&self, ptr: ValuePtr) -> Result<&Arc<Map>> {
        let known = object_of(ptr) < self.meta.vblocks.len();
        self.values.as_ref().filter(|_| known).ok_or_else(|| {
            let what = format!("entry of kvset {}", self.meta.id.get());
            corrupt(what, format!("names vblock {} and there is none", ptr.vblock))
        })
    }

    /// The vblock of a value.
    pub(super) fn value_object(&self, ptr: ValuePtr) -> Result<&Mblock> {
        Ok(self.map_of(ptr)?.mblock(object_of(ptr)))
    }
}

/// Number of the vblock in its map.
pub(super) fn object_of(ptr: ValuePtr) -> usize {
    usize::try_from(ptr.vblock).expect("usize has at least 32 bits")
}

/// Copies the record, then checks the copy: mapped bytes may change under a reader when the drive
/// fails.
fn checked_value(map: &Map, ptr: ValuePtr, record: &[u8]) -> Result<Bytes> {
    let record = Bytes::copy_from_slice(record);
    let object = map.mblock(object_of(ptr));
    let value = record_value(object.id(), ptr.offset, &record)
        .map_err(|reason| record_corrupt(object, ptr, reason))?;
    Ok(record.slice_ref(value))
}
