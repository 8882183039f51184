//! Advice to the kernel about pages: read these in, give those up.
//!
//! Thin wrappers over `madvise(2)`, `process_madvise(2)` and `posix_fadvise(2)`. Callers pass
//! addresses of a mapping they own; `mcache/region.rs` is the only one and checks the ranges.
//! Policy (what to read, what to give up) lives in `mcache` and `reaper`.

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::OnceLock,
};

use rustix::{
    fs::{Advice as FileAdvice, fadvise},
    mm::{Advice as MapAdvice, madvise},
    process::{PidfdFlags, getpid, pidfd_open},
};

/// Ranges that one `process_madvise` call takes at most; the kernel's own bound is 1,024.
pub(crate) const RANGES_PER_CALL: usize = 512;

/// A piece of the address space of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// What is asked for a piece of a file mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// No read-ahead around faults.
    Random,
    /// Reads the pages and maps them; a drive error is an error here instead of a signal.
    Populate,
    /// Removes the pages from the page tables; the page cache keeps them.
    Unmap,
    /// Evicts the pages, mapped as they are.
    PageOut,
}

impl Ask {
    fn raw(self) -> MapAdvice {
        match self {
            Ask::Random => MapAdvice::Random,
            Ask::Populate => MapAdvice::LinuxPopulateRead,
            Ask::Unmap => MapAdvice::LinuxDontNeed,
            Ask::PageOut => MapAdvice::LinuxPageOut,
        }
    }
}

/// Asks `ask` for one range.
///
/// # Safety
///
/// The range lies within a shared mapping of a file that the caller owns. (In private or anonymous
/// memory, [`Ask::Unmap`] would destroy the contents.)
pub(crate) unsafe fn advise_map(range: AddressRange, ask: Ask) -> io::Result<()> {
    let start = ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the caller vouches for the range; none of the four asks changes what a later load
    // from a shared file mapping returns.
    unsafe { madvise(start, range.len, ask.raw()) }?;
    Ok(())
}

/// Evicts many ranges: one system call for up to [`RANGES_PER_CALL`] of them where the kernel and
/// the seccomp profile allow `process_madvise`, else one call each.
///
/// # Safety
///
/// As [`advise_map`], for every range.
pub(crate) unsafe fn page_out(ranges: &[AddressRange]) -> io::Result<()> {
    for chunk in ranges.chunks(RANGES_PER_CALL) {
        let done = page_out_vectored(chunk);
        for range in &chunk[done..] {
            // SAFETY: passed on from the caller.
            unsafe { advise_map(*range, Ask::PageOut) }?;
        }
    }
    Ok(())
}

/// Evicts leading ranges of `chunk` by `process_madvise`; returns how many it has dealt with,
/// 0 where the call is not to be had.
fn page_out_vectored(chunk: &[AddressRange]) -> usize {
    static SELF: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let Some(pidfd) = SELF.get_or_init(|| pidfd_open(getpid(), PidfdFlags::empty()).ok()) else {
        return 0;
    };
    let ranges: Vec<libc::iovec> = chunk
        .iter()
        .map(|r| libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(r.start),
            iov_len: r.len,
        })
        .collect();
    // SAFETY: the vector outlives the call. PAGEOUT changes no memory contents, whatever the
    // ranges; the callers of `page_out` pass ranges of a file mapping.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            ranges.as_ptr(),
            ranges.len(),
            libc::MADV_PAGEOUT,
            0,
        )
    };
    // An error, and a partial result, leave the rest to the caller's single calls.
    let mut advised = usize::try_from(advised).unwrap_or(0);
    let mut done = 0;
    while done < chunk.len() && advised >= chunk[done].len {
        advised -= chunk[done].len;
        done += 1;
    }
    done
}

/// Starts reading a range of the file into the page cache. One call reads no more than the
/// device's read-ahead window, so callers ask in small pieces.
pub(crate) fn will_need(file: &File, offset: u64, len: NonZeroU64) -> io::Result<()> {
    Ok(fadvise(file, offset, Some(len), FileAdvice::WillNeed)?)
}

/// Reads through this open file fetch what they ask for and no more.
pub(crate) fn no_read_ahead(file: &File) -> io::Result<()> {
    Ok(fadvise(file, 0, None, FileAdvice::Random)?)
}

/// Drops a range of the file from the page cache. Pages that are still mapped stay.
pub(crate) fn drop_cached(file: &File, offset: u64, len: NonZeroU64) -> io::Result<()> {
    Ok(fadvise(file, offset, Some(len), FileAdvice::DontNeed)?)
}

/// Gives free pages of the heap back to the kernel, where the allocator is glibc's.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` takes the allocator's own locks and has no preconditions.
        unsafe { libc::malloc_trim(0) };
    }
}
