//! The volume seen as memory: one read-only mapping, made once, as long as the volume may grow.
//!
//! A mapping far past the end of the file costs microseconds and no memory, follows the file as it
//! grows, and spares every later map a system call. It is advised `RANDOM`: read-ahead around
//! faults ruins random reads, and the price (the kernel's reclaim ignores recency) is paid by the
//! reaper, which picks the victims itself.
//!
//! A region knows offsets and pages, not objects or policy. Whether a page should be read, and
//! whether its bytes are to be believed, is decided by `PageStates` and `Map`.

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr, slice,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use memmap2::{MmapOptions, MmapRaw};

use super::pages::{PAGE_BYTES, PAGE_LEN};
use crate::sys::{
    advise::{self, AddressRange, Ask},
    cachestat,
    sigbus::{Lost, Registration},
};

/// A page-aligned piece of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The one mapping of a volume.
#[derive(Debug)]
pub(crate) struct Region {
    // Declared first, dropped first: the handler forgets the range before it is unmapped.
    guard: Registration,
    map: MmapRaw,
    /// The same file without `O_DIRECT` and without read-ahead: reads through it fill the page
    /// cache. `None` where it cannot be had; populating then is slower.
    buffered: Option<File>,
    /// Set where the kernel does not know `MADV_POPULATE_READ` (before 5.14).
    populate_by_touch: AtomicBool,
}

impl Region {
    /// Maps `file` for its greatest length. Fails where the system's pages are not 4 KiB, where the
    /// address space is limited, or where a process has too many regions: then a pool works by
    /// direct reads.
    pub(crate) fn map_volume(file: &File, len_max: u64) -> io::Result<Self> {
        if rustix::param::page_size() != PAGE_LEN {
            return Err(io::Error::other("the system's pages are not 4,096 bytes"));
        }
        let len = usize::try_from(len_max).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let range = AddressRange { start: map.as_ptr().expose_provenance(), len };
        let guard = Registration::new(range)?;
        let (buffered, populate_by_touch) = (reopen_buffered(file), AtomicBool::new(false));
        let region = Self { guard, map, buffered, populate_by_touch };
        region.ask(Span { offset: 0, len: len_max }, Ask::Random)?;
        Ok(region)
    }

    /// Bytes of the volume within reach of the mapping.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.map.len()).expect("64 bits at most")
    }

    /// The bytes at `span`. Touching one that is not resident reads the drive; if that fails, the
    /// bytes are zeros and [`Region::faults`] has grown.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        let offset = usize::try_from(offset).expect("within the mapping");
        let end = offset.checked_add(len).expect("within the mapping");
        assert!(end <= self.map.len());
        // SAFETY: `offset` is within the mapping, asserted above.
        let start = unsafe { self.map.as_ptr().add(offset) };
        // SAFETY: the range is within the mapping, which lives as long as `self`. Its bytes do not
        // change while they are borrowed: callers name extents of committed mblocks, which are
        // immutable, and hold the `Mblock` that keeps the extent from being reused. A page lost to
        // a drive error turns into zeros; readers detect that by `faults` and discard what they
        // read.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// Reads the pages of `span` in and maps them. A drive error is an `Err`.
    ///
    /// The pages are read by `pread` first and only then mapped by `MADV_POPULATE_READ`. That one
    /// alone would do, but where it has to wait for the drive it retries in a way that costs a turn
    /// of the scheduler: measured on a busy machine, 3,900 us at the median against 60 us.
    pub(crate) fn populate(&self, span: Span) -> io::Result<()> {
        if let Some(file) = &self.buffered {
            self.fetch(file, span)?;
        }
        if !self.populate_by_touch.load(Relaxed) {
            match self.ask(span, Ask::Populate) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    self.populate_by_touch.store(true, Relaxed);
                }
                other => return other,
            }
        }
        let before = self.faults();
        let bytes = self.bytes(span.offset, usize::try_from(span.len).expect("within the map"));
        for page in bytes.chunks(PAGE_LEN) {
            std::hint::black_box(page[0]);
        }
        if self.faults() == before { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    /// Waits until the pages of `span` are in the page cache. What was ordered as one piece arrives
    /// together, so the wait is for the last page of each piece, and for the few others that are
    /// not there then. A call for each page costs 0.8 us a page of the 2.2 that populating takes.
    fn fetch(&self, file: &File, span: Span) -> io::Result<()> {
        let read = |offset| file.read_exact_at(&mut [0], offset);
        if span.len == PAGE_BYTES {
            return read(span.offset);
        }
        read_ahead(file, span)?;
        for piece in pieces(span) {
            read(piece.offset + piece.len - PAGE_BYTES)?;
        }
        let mut here = Vec::new();
        self.list_resident(span, &mut here)?;
        let mut pages = (span.offset..).step_by(PAGE_LEN).zip(&here);
        pages.try_for_each(|(offset, here)| if here & 1 == 1 { Ok(()) } else { read(offset) })
    }

    /// Drops the pages of `span` from the page tables and from the page cache.
    pub(crate) fn drop_span(&self, file: &File, span: Span) -> io::Result<()> {
        self.ask(span, Ask::Unmap)?;
        advise::drop_cached(file, span.offset, nonzero(span.len))
    }

    /// Evicts scattered pieces. Works on single pages; on pieces of large folios it does nothing.
    pub(crate) fn page_out(&self, spans: &[Span]) -> io::Result<()> {
        let ranges: Vec<AddressRange> = spans.iter().map(|s| self.range(*s)).collect();
        // SAFETY: the ranges lie in this mapping, a shared one of a file; see `range`.
        unsafe { advise::page_out(&ranges) }
    }

    /// Lists which pages of `span` are in the page cache: bit 0 of one byte a page.
    pub(crate) fn list_resident(&self, span: Span, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.resize(usize::try_from(span.len / PAGE_BYTES).expect("within the mapping"), 0);
        cachestat::resident_pages(self.range(span), out)
    }

    /// Puts the file's pages back where lost ones were replaced by zeros.
    pub(crate) fn restore(&self, file: &File, span: Span) -> io::Result<()> {
        let range = self.range(span);
        let offset = libc::off_t::try_from(span.offset).map_err(io::Error::other)?;
        // SAFETY: replaces a part of our own mapping by the same part of the same file. The caller
        // has seen the last reader of the extent go.
        let mapped = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut(range.start),
                range.len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.ask(span, Ask::Random)
    }

    /// Pages lost to drive errors so far.
    pub(crate) fn faults(&self) -> u64 {
        self.guard.faults()
    }

    /// Volume offsets of the pages lost since the last call; `None` if they were too many to name.
    pub(crate) fn drain_lost(&self) -> Option<Vec<u64>> {
        let base = self.map.as_ptr().expose_provenance();
        let offset = |address: usize| u64::try_from(address - base).expect("64 bits at most");
        match self.guard.drain() {
            Lost::Pages(pages) => Some(pages.into_iter().map(offset).collect()),
            Lost::Everything => None,
        }
    }

    fn ask(&self, span: Span, ask: Ask) -> io::Result<()> {
        // SAFETY: the range lies in this mapping, a shared one of a file; see `range`.
        unsafe { advise::advise_map(self.range(span), ask) }
    }

    fn range(&self, span: Span) -> AddressRange {
        let offset = usize::try_from(span.offset).expect("within the mapping");
        let len = usize::try_from(span.len).expect("within the mapping");
        assert!(offset.is_multiple_of(PAGE_LEN));
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.map.len()));
        AddressRange { start: self.map.as_ptr().expose_provenance() + offset, len }
    }
}

/// Another open file for the same inode: the flags of the original, `O_DIRECT` above all, are not
/// inherited, and neither is its lock.
fn reopen_buffered(file: &File) -> Option<File> {
    let reopened = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    advise::no_read_ahead(&reopened).ok()?;
    Some(reopened)
}

/// Starts reading `span` of the file into the page cache.
pub(crate) fn read_ahead(file: &File, span: Span) -> io::Result<()> {
    pieces(span).try_for_each(|piece| advise::will_need(file, piece.offset, nonzero(piece.len)))
}

/// `span` in pieces no larger than the smallest usual read-ahead window, because one call reads no
/// more than a window.
fn pieces(span: Span) -> impl Iterator<Item = Span> {
    const PIECE_BYTES: u64 = 128 * 1024;
    let end = span.offset + span.len;
    let step = usize::try_from(PIECE_BYTES).expect("a small number");
    let starts = (span.offset..end).step_by(step);
    starts.map(move |offset| Span { offset, len: PIECE_BYTES.min(end - offset) })
}

fn nonzero(len: u64) -> NonZeroU64 {
    NonZeroU64::new(len).expect("spans are not empty")
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn volume(pages: u8) -> (File, Region) {
        let mut file = tempfile::tempfile().unwrap();
        for page in 0..pages {
            file.write_all(&[page + 1; PAGE_LEN]).unwrap();
        }
        file.sync_all().unwrap();
        let region = Region::map_volume(&file, 1 << 40).unwrap();
        (file, region)
    }

    fn page(n: u64) -> Span {
        Span { offset: n * PAGE_BYTES, len: PAGE_BYTES }
    }

    #[test]
    fn the_mapping_follows_the_file_as_it_grows() {
        let (mut file, region) = volume(1);
        assert_eq!(region.bytes(0, PAGE_LEN), [1; PAGE_LEN]);
        assert!(region.populate(page(1)).is_err(), "past the end");
        file.write_all(&[2; PAGE_LEN]).unwrap();
        region.populate(page(1)).unwrap();
        assert_eq!(region.bytes(PAGE_BYTES, PAGE_LEN), [2; PAGE_LEN]);
        assert_eq!(region.faults(), 0);
    }

    #[test]
    fn long_spans_are_populated_whole_whatever_is_there_of_them() {
        let (file, region) = volume(200);
        let (whole, tail) = (Span { offset: 0, len: 200 * PAGE_BYTES }, page(199));
        region.drop_span(&file, whole).unwrap();
        // The last page of a piece says nothing of the others of it, where it came by itself.
        for span in [tail, page(31), page(77)] {
            region.populate(span).unwrap();
        }
        region.populate(whole).unwrap();
        let mut listed = Vec::new();
        region.list_resident(whole, &mut listed).unwrap();
        assert!(listed.iter().all(|page| page & 1 == 1), "{listed:?}");
        for n in 0..200u8 {
            assert_eq!(region.bytes(u64::from(n) * PAGE_BYTES, PAGE_LEN), [n + 1; PAGE_LEN]);
        }
        file.set_len(100 * PAGE_BYTES).unwrap();
        assert!(region.populate(whole).is_err(), "a part of it is past the end");
        assert_eq!(region.faults(), 0);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_zeros_and_a_count() {
        let (file, region) = volume(3);
        file.set_len(PAGE_BYTES).unwrap();
        assert_eq!(region.bytes(2 * PAGE_BYTES, PAGE_LEN), [0; PAGE_LEN]);
        assert_eq!(region.faults(), 1);
        assert_eq!(region.bytes(2 * PAGE_BYTES, PAGE_LEN), [0; PAGE_LEN]);
        assert_eq!(region.faults(), 1, "a replaced page faults once");
        assert_eq!(region.drain_lost(), Some(vec![2 * PAGE_BYTES]));
        assert_eq!(region.drain_lost(), Some(vec![]));
        assert_eq!(region.bytes(0, PAGE_LEN), [1; PAGE_LEN], "its neighbours live");
    }

    #[test]
    fn a_restored_page_shows_the_file_again() {
        let (mut file, region) = volume(2);
        file.set_len(PAGE_BYTES).unwrap();
        assert_eq!(region.bytes(PAGE_BYTES, 1), [0]);
        file.seek(SeekFrom::Start(PAGE_BYTES)).unwrap();
        file.write_all(&[9; PAGE_LEN]).unwrap();
        assert_eq!(region.bytes(PAGE_BYTES, 1), [0], "the zeros stay until then");
        region.restore(&file, page(1)).unwrap();
        assert_eq!(region.bytes(PAGE_BYTES, 1), [9]);
    }

    #[test]
    fn more_losses_than_the_ring_holds_are_named_as_such() {
        let (file, region) = volume(70);
        file.set_len(0).unwrap();
        for n in 0..70 {
            assert_eq!(region.bytes(n * PAGE_BYTES, 1), [0]);
        }
        assert_eq!(region.faults(), 70);
        assert_eq!(region.drain_lost(), None);
    }

    #[test]
    fn pages_are_evicted_by_both_ways() {
        let (file, region) = volume(8);
        let whole = Span { offset: 0, len: 8 * PAGE_BYTES };
        let mut listed = Vec::new();
        let mut count = |region: &Region| {
            region.list_resident(whole, &mut listed).unwrap();
            listed.iter().filter(|page| **page & 1 == 1).count()
        };
        region.populate(whole).unwrap();
        assert_eq!(count(&region), 8);
        region.drop_span(&file, whole).unwrap();
        if count(&region) == 8 {
            return; // tmpfs: its pages have nowhere to go
        }
        assert_eq!(count(&region), 0);
        region.populate(page(3)).unwrap();
        region.populate(page(5)).unwrap();
        region.page_out(&[page(3), page(5)]).unwrap();
        // The kernel passes over a page that still stands on another core's list of new pages.
        assert!(count(&region) <= 1, "{listed:?}");
    }
}
