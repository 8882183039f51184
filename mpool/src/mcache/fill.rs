//! How pages get into memory, and bytes past it.
//!
//! Four ways, from dear to cheap:
//!
//! - `fill_page`: one index page, always, verified before anybody else may use it;
//! - `preload_object`: a whole object, read ahead in large pieces;
//! - `fill_range`: the pages of a value that is asked for again, if the reaper grants room;
//! - `read_direct`: an uncached read into the caller's buffer, which leaves no trace but a count.
//!
//! The first three go through `Region::populate`, which reports a drive error as a value. When it
//! fails, the same bytes are read directly: that either yields them or names the error exactly.

use std::{ops::Range, sync::Arc};

use super::{
    Map,
    map::{ReadDone, pages_of},
    object::Object,
    pages::{Leave, Owned, PAGE_BYTES, PAGE_LEN, Take},
    region::{Region, Span, read_ahead},
};
use crate::{
    error::{Error, Result},
    io::{buf::IoBuf, queue::Priority},
};

/// Values on more pages than this are read directly however often: their transfer costs more than
/// the trip, and they would push out hundreds of smaller ones.
const ADMIT_PAGES_MAX: usize = 16;

/// Pages that preloading has on order at a time: 1 MiB.
const PRELOAD_PAGES: u32 = 256;

impl Map {
    /// Makes the page resident and verified. `None` if it cannot be had through the map now:
    /// somebody else is at work on it, or the drive failed under it.
    pub(super) fn fill_page(
        &self,
        object: &Object,
        page: u32,
        verify: fn(&[u8]) -> bool,
    ) -> Result<Option<&[u8]>> {
        let Some(region) = self.region(object) else { return Ok(None) };
        object.states.touch(page);
        // A page that is resident but unverified is owned as well while it is checked, so that the
        // verdict is about the residency it is recorded for.
        let Some(owner) = object.states.own(page, Take::Readable) else { return Ok(None) };
        let span = object.pages(page, 1);
        if !owner.was().is_resident() {
            self.mcache.room.take_anyway(PAGE_BYTES);
            if !self.populate(region, span) {
                return Ok(None);
            }
        }
        let faults = self.mcache.map_faults();
        let bytes = region.bytes(span.offset, PAGE_LEN);
        let good = verify(bytes);
        if self.mcache.map_faults() != faults {
            return Ok(None);
        }
        if !good {
            // The bytes leave the page cache, so that a later try asks the drive again.
            self.mcache.drop_span(region, span);
            drop(owner);
            return Err(self.verify_failed(object, u64::from(page) * PAGE_BYTES));
        }
        owner.release(Leave::Verified);
        Ok(Some(bytes))
    }

    /// Whether the pages of `range`, which are not all resident, are worth their place in memory.
    /// Counts an access to each.
    pub(super) fn deserves_admission(&self, object: &Object, range: &Range<u64>) -> bool {
        if !object.is_mapped() {
            return false;
        }
        let coldest = pages_of(range).map(|page| object.states.touch(page).frequency()).min();
        let pages = pages_of(range).len();
        pages <= ADMIT_PAGES_MAX
            && coldest.is_some_and(|seen| seen >= self.mcache.room.admit_at())
            && !object.is_dead()
    }

    /// Reads the pages of `range` into memory, if there is room and nobody else is at work on one.
    pub(super) fn fill_range(&self, object: &Object, range: &Range<u64>) -> Option<&[u8]> {
        let region = self.region(object)?;
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
        let length = u32::try_from(pages.len()).expect("a few pages");
        if !self.populate(region, object.pages(pages.start, length)) {
            return None;
        }
        owners.into_iter().flatten().for_each(|owner| owner.release(Leave::Resident));
        let len = usize::try_from(range.end - range.start).expect("a few pages");
        Some(region.bytes(object.span.offset + range.start, len))
    }

    /// Reads one object ahead. Returns the bytes made resident, and whether there is room for more.
    pub(super) fn preload_object(&self, object: &Object) -> Result<(u64, bool)> {
        let (Some(region), Some(file)) = (self.region(object), self.mcache.file()) else {
            return Ok((0, true));
        };
        let pages = object.states.len();
        let ahead = |first: u32| {
            let count = PRELOAD_PAGES.min(pages - first);
            // Only a hint: what it fails to read, populating reads or reports.
            read_ahead(file, object.pages(first, count)).is_ok()
        };
        let mut loaded = 0;
        let mut first = 0;
        while first < pages {
            let count = PRELOAD_PAGES.min(pages - first);
            if object.is_dead() || !self.preload_room(u64::from(count) * PAGE_BYTES) {
                return Ok((loaded, false));
            }
            if first == 0 {
                ahead(first);
            }
            // The next piece is on its way while this one is waited for.
            if first + count < pages {
                ahead(first + count);
            }
            loaded += self.preload_piece(region, object, first..first + count)?;
            first += count;
        }
        Ok((loaded, true))
    }

    fn preload_room(&self, bytes: u64) -> bool {
        let room = &self.mcache.room;
        if self.class().is_index() {
            room.take_anyway(bytes);
            return true;
        }
        room.take(bytes)
    }

    fn preload_piece(&self, region: &Region, object: &Object, pages: Range<u32>) -> Result<u64> {
        let absent = |page: u32| object.states.own(page, Take::Absent);
        let owners: Vec<Owned<'_>> = pages.clone().filter_map(absent).collect();
        if owners.is_empty() {
            return Ok(0);
        }
        let span = object.pages(pages.start, pages.end - pages.start);
        if let Err(source) = region.populate(span) {
            self.mcache.metrics.fill_errors.add(1);
            let (offset, len) = (span.offset, span.len);
            return Err(Error::Io { op: "read", offset, len, source });
        }
        let loaded = u64::try_from(owners.len()).expect("a piece") * PAGE_BYTES;
        for owner in owners {
            owner.release(Leave::Resident);
        }
        self.mcache.metrics.preloaded_bytes.add(loaded);
        Ok(loaded)
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
        let offset = object.span.offset + read.offset;
        let buf = &mut scratch[..read.len];
        self.mcache.volume.read(offset, buf, Priority::Read)?;
        Ok(&scratch[read.part])
    }

    /// Reads `range` past the page cache through the queue.
    pub(super) fn submit_direct(self: Arc<Self>, object: usize, range: Range<u64>, done: ReadDone) {
        if range.is_empty() {
            return done(Ok(&[]));
        }
        let read = direct_read(&range);
        self.count_direct(&read);
        let offset = self.shared.objects[object].span.offset + read.offset;
        let queue = Arc::clone(&self.queue);
        let finish = move |outcome: Result<IoBuf>| match outcome {
            Ok(buf) => {
                done(Ok(&buf[read.part]));
                self.mcache.volume.bufs().put(buf);
            }
            Err(error) => done(Err(error)),
        };
        queue.submit_read(offset, read.len, Priority::Read, Box::new(finish));
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
    fn populate(&self, region: &Region, span: Span) -> bool {
        match region.populate(span) {
            Ok(()) => {
                self.shared.counters.faults.add(span.len / PAGE_BYTES);
                self.mcache.metrics.filled_bytes.add(span.len);
                true
            }
            Err(error) => {
                self.mcache.metrics.fill_errors.add(1);
                tracing::warn!(offset = span.offset, len = span.len, %error, "populating failed; reading directly");
                false
            }
        }
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
