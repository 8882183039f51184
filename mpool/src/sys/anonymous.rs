//! Anonymous memory that goes back to the kernel when it is dropped.
//!
//! An allocator keeps what it is given back, in holes between what is still in use. To whoever
//! works against a limit of memory, that is memory which nobody has. What a memory governor moves
//! back and forth, such as caches and memtables, is therefore taken from here.
//!
//! | type | for | where it goes |
//! |---|---|---|
//! | [`Pages`] | few, large | unmapped |
//! | [`Chunk`] | many, of [`CHUNK_LEN`] | its pages are dropped, its address is kept for the next |
//!
//! Unmapping each chunk would leave a mapping for every gap, and the kernel allows 65,530.

use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use parking_lot::Mutex;

/// Bytes of a [`Chunk`].
pub const CHUNK_LEN: usize = 16 << 10;
/// Chunks are cut from regions of this size, which stay mapped as long as the process lives.
const REGION_LEN: usize = 8 << 20;

/// Zeroed pages, exclusively owned.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the value and is tied to no thread.
unsafe impl Send for Pages {}
// SAFETY: `&Pages` gives out no more than an address.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` bytes, rounded up to pages of 4 KiB. None where there is no memory, or `len` is 0.
    pub fn new(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(4096).filter(|len| *len > 0)?;
        Some(Self { start: map(len)?, len })
    }

    /// Where they begin: at a page's border. Valid for reads and writes until the value drops.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes there are.
    #[expect(clippy::len_without_is_empty, reason = "there is at least a page")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range came from `map`, and whoever borrowed from it is gone.
        unsafe { unmap(self.start, self.len) };
    }
}

/// [`CHUNK_LEN`] bytes, exclusively owned. What is in a new one is unspecified.
#[derive(Debug)]
pub struct Chunk {
    start: NonNull<u8>,
}

// SAFETY: the memory belongs to the value and is tied to no thread.
unsafe impl Send for Chunk {}
// SAFETY: `&Chunk` only reads.
unsafe impl Sync for Chunk {}

/// An address that no [`Chunk`] has.
struct Free(NonNull<u8>);

// SAFETY: nobody has it but this value.
unsafe impl Send for Free {}

static FREE: Mutex<Vec<Free>> = Mutex::new(Vec::new());

impl Chunk {
    /// None where there is no memory.
    pub fn new() -> Option<Self> {
        let mut free = FREE.lock();
        if free.is_empty() {
            let region = map(REGION_LEN)?;
            let at = (0..REGION_LEN / CHUNK_LEN).rev().map(|n| n * CHUNK_LEN);
            // SAFETY: within the region.
            free.extend(at.map(|at| Free(unsafe { region.add(at) })));
        }
        free.pop().map(|Free(start)| Self { start })
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped as long as the process lives, all bytes initialised, and only ours.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), CHUNK_LEN) }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` says that nobody else looks.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), CHUNK_LEN) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the chunk is ours until it is in the list; its contents are of no use any more.
        unsafe { drop_pages(self.start, CHUNK_LEN) };
        FREE.lock().push(Free(self.start));
    }
}

#[cfg(not(miri))]
fn map(len: usize) -> Option<NonNull<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, rights, MapFlags::PRIVATE) };
    NonNull::new(start.ok()?.cast())
}

/// # Safety
///
/// The range came from [`map`], and nobody uses it.
#[cfg(not(miri))]
unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: passed on from the caller. A failure leaks the range, which is the lesser evil.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len) };
}

/// # Safety
///
/// The range is within one that came from [`map`], and nobody needs its contents.
#[cfg(not(miri))]
unsafe fn drop_pages(start: NonNull<u8>, len: usize) {
    use rustix::mm::{Advice, madvise};
    // SAFETY: passed on from the caller. What cannot be dropped is overwritten by the next owner.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontNeed) };
}

// Miri knows no mappings; there, the allocator stands in for the kernel.

#[cfg(miri)]
fn map(len: usize) -> Option<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(len, 4096).ok()?;
    // SAFETY: `len` is not 0: both callers see to that.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

#[cfg(miri)]
unsafe fn unmap(start: NonNull<u8>, len: usize) {
    let layout = std::alloc::Layout::from_size_align(len, 4096).expect("as in `map`");
    // SAFETY: passed on from the caller.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
}

#[cfg(miri)]
unsafe fn drop_pages(_start: NonNull<u8>, _len: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of this range that are in memory.
    #[cfg(not(miri))]
    fn resident(start: NonNull<u8>, len: usize) -> usize {
        let mut pages = vec![0_u8; len / 4096];
        // SAFETY: `pages` has a byte for each page of the range, which is mapped.
        let outcome = unsafe { libc::mincore(start.as_ptr().cast(), len, pages.as_mut_ptr()) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 == 1).count() * 4096
    }

    #[test]
    fn pages_are_zero_writable_and_of_the_asked_length() {
        assert!(Pages::new(0).is_none());
        let pages = Pages::new(5000).unwrap();
        assert_eq!(pages.len(), 8192);
        // SAFETY: the pages are alive and nobody else writes to them.
        let bytes = unsafe { slice::from_raw_parts_mut(pages.start().as_ptr(), pages.len()) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn chunks_share_nothing() {
        let mut chunks: Vec<_> = (0..100).map(|_| Chunk::new().unwrap()).collect();
        for (n, chunk) in (0_u8..).zip(&mut chunks) {
            chunk.fill(n);
        }
        chunks.swap_remove(50);
        let mut other = Chunk::new().unwrap();
        other.fill(200);
        assert!(chunks.iter().all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
        let mut firsts: Vec<u8> = chunks.iter().map(|chunk| chunk[0]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 99);
    }

    #[cfg(not(miri))]
    #[test]
    fn what_is_dropped_is_not_in_memory_any_more() {
        // Other tests take chunks at the same time, so a dropped one may be theirs at once: of
        // many, almost all must be gone.
        let mut chunks: Vec<_> = (0..1000).map(|_| Chunk::new().unwrap()).collect();
        for chunk in &mut chunks {
            chunk.fill(1);
        }
        let starts: Vec<_> = chunks.iter().map(|chunk| chunk.start).collect();
        let sum = || starts.iter().map(|start| resident(*start, CHUNK_LEN)).sum::<usize>();
        assert_eq!(sum(), 1000 * CHUNK_LEN);
        drop(chunks);
        assert!(sum() < 300 * CHUNK_LEN, "{} bytes are still there", sum());
    }
}
