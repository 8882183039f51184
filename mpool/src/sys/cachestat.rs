//! Which pages of a file are in the page cache: `cachestat(2)` counts, `mincore(2)` lists.
//!
//! `cachestat` (Linux 6.5) costs a microsecond for a fully cached object, a hundredth of `mincore`,
//! but only counts. No crate wraps it, and its number is the same on every architecture that
//! matters here. Where the kernel does not know it, the answer is `Unsupported` and callers fall
//! back to their own books.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::advise::AddressRange;

/// The system call's number, on every architecture but alpha and the MIPS variants.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct Range {
    off: u64,
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`, in pages.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of `[offset, offset + len)` of `file` are in the page cache. `len` is not 0,
/// which the kernel would take for "to the end".
pub(crate) fn cached_pages(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    static MISSING: AtomicBool = AtomicBool::new(false);
    assert!(len > 0);
    if MISSING.load(Relaxed) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let range = Range { off: offset, len };
    let mut counts = Counts::default();
    let (range, out) = (ptr::from_ref(&range), ptr::from_mut(&mut counts));
    // SAFETY: both structures have the kernel's layout and outlive the call.
    let rc = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, out, 0) };
    if rc == 0 {
        return Ok(counts.cached);
    }
    let error = io::Error::last_os_error();
    if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        MISSING.store(true, Relaxed);
        return Err(io::ErrorKind::Unsupported.into());
    }
    Err(error)
}

/// Lists the residency of a mapped range: one byte a page in `out`, bit 0 set if in the page cache.
pub(crate) fn resident_pages(range: AddressRange, out: &mut [u8]) -> io::Result<()> {
    assert!(out.len() >= range.len.div_ceil(rustix::param::page_size()));
    let start = ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: `mincore` only writes `out`, which has a byte for each page of the range; a range
    // that is not mapped is an error.
    let rc = unsafe { libc::mincore(start, range.len, out.as_mut_ptr()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn counts_what_a_buffered_read_left_in_the_cache() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 64 * 1024]).unwrap();
        let pages = match cached_pages(&file, 0, 64 * 1024) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return,
            other => other.unwrap(),
        };
        assert_eq!(pages, 16);
        assert_eq!(cached_pages(&file, 64 * 1024, 4096).unwrap(), 0);
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut [0; 16]).unwrap();
        assert_eq!(cached_pages(&file, 4096, 4096).unwrap(), 1);
    }
}
