//! How pages get into memory, and bytes past it.
//!
//! Four ways, from dear to cheap:
//!
//! - `fill_page`: one index page, always, verified before anybody else may use it;
//! - `preload`: an object or a part of it, read ahead in large pieces;
//! - `fill_range`: the pages of a value that is asked for again, if the reaper grants room;
//! - `read_direct`: an uncached read into the caller's buffer, which leaves no trace but a count.
//!
//! The first three go through `Region::populate`, which reports a drive error as a value. When it
//! fails, the same bytes are read directly: that either yields them or names the error exactly.

use std::{ops::Range, sync::Arc};

use super::{
    Class, Map, Mcache,
    map::{PageRef, ReadDone, pages_of},
    mapping::Mapping,
    object::Object,
    pages::{Leave, Owned, PAGE_BYTES, PAGE_LEN, Take},
    region::{Span, read_ahead},
};
use crate::{
    error::{Error, Result},
    media::Priority,
};
use mpool_device::IoBuf;

/// Values on more pages than this are read directly however often: their transfer costs more than
/// the trip, and they would push out hundreds of smaller ones.
const ADMIT_PAGES_MAX: usize = 16;

/// Pages that preloading has on order at a time: 1 MiB.
const PRELOAD_PAGES: u32 = 256;

impl Map {
    /// Makes the page resident and verified. `None` if it cannot be had through the map now:
    /// somebody else is at work on it, or the drive failed under it.
    pub(super) fn fill_page<'o>(
        &'o self,
        object: &'o Object,
        page: u32,
        verify: fn(&[u8]) -> bool,
    ) -> Result<Option<PageRef<'o>>> {
        let Some(mapping) = &object.mapping else { return Ok(None) };
        object.states.touch(page);
        // A page that is resident but unverified is owned as well while it is checked, so that the
        // verdict is about the residency it is recorded for.
        let Some(owner) = object.states.own(page, Take::Readable) else { return Ok(None) };
        let span = object.page(page);
        let was_resident = owner.was().is_resident();
        if !was_resident {
            self.mcache.room.take_anyway(PAGE_BYTES);
            if !self.populate(mapping, object, span) {
                return Ok(None);
            }
        }
        let faults = self.mcache.map_faults();
        let bytes = mapping.region.bytes(span.offset, PAGE_LEN);
        let good = verify(bytes);
        if self.mcache.map_faults() != faults {
            return Ok(None);
        }
        if !good {
            // The bytes leave the page cache, so that a later try asks the drive again.
            mapping.drop_span(span);
            drop(owner);
            return Err(self.verify_failed(object, u64::from(page) * PAGE_BYTES));
        }
        owner.release(Leave::Verified);
        let page = if was_resident { PageRef::Mapped(bytes) } else { PageRef::Filled(bytes) };
        Ok(Some(page))
    }

    /// Whether the pages of `range`, which are not all resident, are worth their place in memory.
    /// Counts an access to each.
    pub(super) fn deserves_admission(&self, object: &Object, range: &Range<u64>) -> bool {
        if !object.is_mapped() {
            return false;
        }
        let coldest = pages_of(range).map(|page| object.states.touch(page).frequency()).min();
        let pages = pages_of(range).len();
        let deserves = pages <= ADMIT_PAGES_MAX
            && coldest.is_some_and(|seen| seen >= self.mcache.room.admit_at())
            && !object.is_dead();
        self.mcache.metrics.ghost_hits.add(deserves.into());
        deserves
    }

    /// Reads the pages of `range` into memory, if there is room and nobody else is at work on one.
    pub(super) fn fill_range<'o>(
        &'o self,
        object: &'o Object,
        range: &Range<u64>,
    ) -> Option<&'o [u8]> {
        let mapping = object.mapping.as_ref()?;
        // What lies in two pieces cannot be shown as one slice; it is read into a buffer.
        let offset = object.contiguous(range)?;
        let pages = pages_of(range);
        let mut owners: [Option<Owned<'_>>; ADMIT_PAGES_MAX] = [const { None }; ADMIT_PAGES_MAX];
        let mut count = 0;
        for page in pages.clone().filter(|page| !object.states.state(*page).is_resident()) {
            owners[count] = Some(object.states.own(page, Take::Absent)?);
            count += 1;
        }
        let bytes = u64::try_from(count).expect("a few pages") * PAGE_BYTES;
        if !self.mcache.room.take(bytes) {
            self.mcache.metrics.fills_refused.add(1);
            return None;
        }
        if !object.pages(pages).all(|span| self.populate(mapping, object, span)) {
            return None;
        }
        owners.into_iter().flatten().for_each(|owner| owner.release(Leave::Resident));
        let len = usize::try_from(range.end - range.start).expect("a few pages");
        Some(mapping.region.bytes(offset, len))
    }

    /// Reads `range` past the page cache; what is returned lies in `scratch`.
    pub(super) fn read_direct<'a>(
        &self,
        object: &Object,
        range: Range<u64>,
        scratch: &'a mut IoBuf,
    ) -> Result<&'a [u8]> {
        let read = direct_read(&range);
        if scratch.len() < read.len {
            *scratch = IoBuf::zeroed(read.len);
        }
        self.count_direct(&read);
        let mut rest = &mut scratch[..read.len];
        for part in object.layout.parts(read.range()) {
            let (now, later) = rest.split_at_mut(usize::try_from(part.len).expect("a part"));
            self.mcache.volumes.read(part.offset, now, Priority::Read)?;
            rest = later;
        }
        Ok(&scratch[read.part])
    }

    /// Reads `range` past the page cache through the queue.
    pub(super) fn submit_direct(self: Arc<Self>, object: usize, range: Range<u64>, done: ReadDone) {
        if range.is_empty() {
            return done(Ok(&[]));
        }
        let read = direct_read(&range);
        let target = &self.shared.objects[object];
        let Some(address) = target.layout.address_of(&read.range()) else {
            // In several pieces: one after the other, on a thread that may wait.
            let queue = Arc::clone(&self.queue);
            let job = move || {
                let mut scratch = IoBuf::zeroed(read.len);
                done(self.read_direct(&self.shared.objects[object], range, &mut scratch));
            };
            return queue.run_blocking(Priority::Read, Box::new(job));
        };
        self.count_direct(&read);
        let queue = Arc::clone(&self.queue);
        let finish = move |outcome: Result<IoBuf>| match outcome {
            Ok(buf) => {
                done(Ok(&buf[read.part]));
                self.mcache.volumes.bufs().put(buf);
            }
            Err(error) => done(Err(error)),
        };
        queue.submit_read(address, read.len, Priority::Read, Box::new(finish));
    }

    pub(super) fn count_direct(&self, read: &DirectRead) {
        self.shared.counters.direct_reads.add(1);
        self.mcache.metrics.direct_reads.add(1);
        self.mcache.metrics.direct_bytes.add(read.len as u64);
    }

    pub(super) fn verify_failed(&self, object: &Object, offset: u64) -> Error {
        self.mcache.metrics.verify_failures.add(1);
        let what = object.id.to_string();
        Error::Corrupt { what, offset, reason: "the page's checksum does not match" }
    }

    /// Whether the pages of `span` are in memory now.
    fn populate(&self, mapping: &Mapping, object: &Object, span: Span) -> bool {
        match self.mcache.metrics.fill.time(|| mapping.region.populate(span)) {
            Ok(()) => {
                self.shared.counters.faults.add(span.len / PAGE_BYTES);
                self.mcache.metrics.filled_bytes.add(span.len);
                self.mcache.room.faulted(object);
                true
            }
            Err(error) => {
                self.mcache.metrics.fill_errors.add(1);
                let Span { offset, len } = span;
                tracing::warn!(offset, len, %error, "populating failed; reading directly");
                false
            }
        }
    }
}

impl Mcache {
    /// Reads pages of one object ahead, as far as there is room. Returns the bytes made resident,
    /// and whether there is room for more. Somebody holds the mblock. Of one that is deleted
    /// nothing is read, which says nothing about room.
    pub(super) fn preload(&self, object: &Object, pages: Range<u32>) -> Result<(u64, bool)> {
        let Some(mapping) = object.mapping.as_ref().filter(|_| !object.is_dead()) else {
            return Ok((0, true));
        };
        let mut loaded = 0;
        for (part, class) in object.pieces(pages) {
            let pages_max = self.room.read_ahead_pages(class, PRELOAD_PAGES);
            let piece_at = |first: u32| first..first.saturating_add(pages_max).min(part.end);
            self.read_ahead(mapping, object, piece_at(part.start));
            let mut first = part.start;
            while first < part.end {
                let piece = piece_at(first);
                // The next piece is on its way while this one is waited for.
                self.read_ahead(mapping, object, piece_at(piece.end));
                first = piece.end;
                match self.preload_piece(mapping, object, piece, class)? {
                    Some(bytes) => loaded += bytes,
                    None => return Ok((loaded, false)),
                }
            }
        }
        Ok((loaded, true))
    }

    /// Orders what is absent of some pages, if there is room for it.
    pub(super) fn order(&self, object: &Object, pages: Range<u32>) {
        if let Some(mapping) = &object.mapping
            && !pages.is_empty()
        {
            self.read_ahead(mapping, object, pages);
        }
    }

    /// Orders what is absent of a piece, if there is room for it. Only a hint: what it fails to
    /// read, populating reads or reports.
    fn read_ahead(&self, mapping: &Mapping, object: &Object, piece: Range<u32>) {
        let absent = |page: &u32| !object.states.state(*page).is_resident();
        let (first, last) = (piece.clone().find(absent), piece.clone().rfind(absent));
        let (Some(first), Some(last)) = (first, last) else { return };
        if object.is_dead() || self.room.left() < u64::from(last + 1 - first) * PAGE_BYTES {
            return;
        }
        for span in object.pages(first..last + 1) {
            // A drive that cannot be asked ahead is asked in time.
            let _ = read_ahead(mapping.file(), span);
        }
    }

    /// Makes the absent pages of a piece resident; `None` if there is no room for them. Index pages
    /// need none.
    fn preload_piece(
        &self,
        mapping: &Mapping,
        object: &Object,
        piece: Range<u32>,
        class: Class,
    ) -> Result<Option<u64>> {
        let absent = |page: u32| object.states.own(page, Take::Absent);
        let owners: Vec<Owned<'_>> = piece.filter_map(absent).collect();
        if owners.is_empty() || object.is_dead() {
            return Ok(Some(0));
        }
        let bytes = u64::try_from(owners.len()).expect("a piece") * PAGE_BYTES;
        if !self.preload_room(class, bytes) {
            return Ok(None);
        }
        for run in owners.chunk_by(|a, b| a.page() + 1 == b.page()) {
            let pages = run[0].page()..run[run.len() - 1].page() + 1;
            for span in object.pages(pages) {
                if let Err(source) = mapping.region.populate(span) {
                    self.metrics.fill_errors.add(1);
                    let offset = mapping.volume_id().address(span.offset);
                    return Err(Error::Io { op: "read", offset, len: span.len, source });
                }
            }
        }
        for owner in owners {
            owner.release(Leave::Resident);
        }
        self.metrics.preloaded_bytes.add(bytes);
        self.room.faulted(object);
        Ok(Some(bytes))
    }

    fn preload_room(&self, class: Class, bytes: u64) -> bool {
        if class.is_index() {
            self.room.take_anyway(bytes);
            return true;
        }
        self.room.take(bytes)
    }
}

/// The aligned read that covers a range of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DirectRead {
    /// Within the object.
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Where in the buffer the bytes asked for are.
    pub(super) part: Range<usize>,
}

impl DirectRead {
    /// The pages, as bytes of the object.
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len as u64
    }
}

pub(super) fn direct_read(range: &Range<u64>) -> DirectRead {
    assert!(range.start < range.end);
    let offset = range.start / PAGE_BYTES * PAGE_BYTES;
    let memory = |n: u64| usize::try_from(n).expect("a range of one object");
    let len = memory(range.end.next_multiple_of(PAGE_BYTES) - offset);
    DirectRead { offset, len, part: memory(range.start - offset)..memory(range.end - offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_read_covers_its_range_in_whole_pages() {
        let table = [
            (0..1, 0, 4096, 0..1),
            (0..4096, 0, 4096, 0..4096),
            (4095..4097, 0, 8192, 4095..4097),
            (5000..9000, 4096, 8192, 904..4904),
        ];
        for (range, offset, len, part) in table {
            assert_eq!(direct_read(&range), DirectRead { offset, len, part }, "{range:?}");
        }
    }
}
