//! Bump memory for one memtable: allocations are handed out one after the other and freed together.
//!
//! Memory comes in blocks of [`BLOCK_BYTES`]. An allocation is one `fetch_add` on the current
//! block's mark; the thread that finds the block exhausted takes the lock and installs the next.
//! An allocation that would waste much of a block gets a block of its own, so a block's unused tail
//! is at most [`SOLO_BYTES_MIN`].
//!
//! ```text
//! blocks: [ full ][ full ][ solo: 3 MiB value ][ current | free ]
//!                                                        ^ mark
//! ```
//!
//! Blocks are not the allocator's: it would keep a flushed memtable's memory, and all other caches
//! would have to make do with less.
//!
//! The only file of the memtable that obtains memory. It gives out pointers, never references: what
//! is stored behind them, and who may look at it when, is decided by `skiplist`.

use mpool::Pages;
use parking_lot::Mutex;
use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Bytes of a block: large enough that its lock and its system call vanish among its allocations.
const BLOCK_BYTES: usize = 1 << 20;
/// Allocations from this size up get a block of their own.
const SOLO_BYTES_MIN: usize = BLOCK_BYTES / 8;
/// Blocks are whole pages.
const BLOCK_ALIGN: usize = 4096;
/// Alignment of every allocation.
pub(super) const ALIGN: usize = 16;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(BLOCK_ALIGN));
const _: () = assert!(SOLO_BYTES_MIN <= BLOCK_BYTES);
const _: () = assert!(BLOCK_ALIGN.is_multiple_of(ALIGN));

struct Block {
    memory: Pages,
    /// Bytes handed out; runs past the end when the block is exhausted.
    mark: AtomicUsize,
}

/// Memory that lives as long as this value.
pub(super) struct Arena {
    current: AtomicPtr<Block>,
    /// Every block, for the drop. Its lock also serialises the change of `current`.
    blocks: Mutex<Vec<NonNull<Block>>>,
    used: AtomicUsize,
}

impl Arena {
    pub(super) fn new() -> Self {
        let first = new_block(BLOCK_BYTES, 0);
        Self {
            current: AtomicPtr::new(first.as_ptr()),
            blocks: Mutex::new(vec![first]),
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes handed out so far.
    pub(super) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// `len` uninitialised bytes, aligned to [`ALIGN`], disjoint from every other allocation and
    /// valid until the arena drops.
    ///
    /// # Panics
    ///
    /// If `len` is zero.
    pub(super) fn allocate(&self, len: usize) -> NonNull<u8> {
        assert!(len > 0);
        let len = len.checked_next_multiple_of(ALIGN).expect("lengths are bounded by a value's");
        self.used.fetch_add(len, Ordering::Relaxed);
        if len >= SOLO_BYTES_MIN {
            let solo = new_block(len, len);
            self.blocks.lock().push(solo);
            // SAFETY: `solo` is a live block, freed only by `drop`.
            return unsafe { solo.as_ref() }.memory.start();
        }
        loop {
            // Acquire pairs with the Release in `install`: the block's fields are seen.
            let current = self.current.load(Ordering::Acquire);
            // SAFETY: `current` always holds a block of `blocks`, freed only by `drop`.
            let block = unsafe { &*current };
            if let Some(bytes) = block.take(len) {
                return bytes;
            }
            self.install(current);
        }
    }

    /// Replaces the exhausted block, unless another thread has done it.
    fn install(&self, exhausted: *mut Block) {
        let mut blocks = self.blocks.lock();
        if self.current.load(Ordering::Relaxed) == exhausted {
            let next = new_block(BLOCK_BYTES, 0);
            blocks.push(next);
            // Release pairs with the Acquire in `allocate`.
            self.current.store(next.as_ptr(), Ordering::Release);
        }
    }
}

impl Block {
    fn take(&self, len: usize) -> Option<NonNull<u8>> {
        // A thread overshoots at most once a block, by less than SOLO_BYTES_MIN: no overflow.
        let start = self.mark.fetch_add(len, Ordering::Relaxed);
        if start + len > self.memory.len() {
            return None;
        }
        // SAFETY: `start + len` is within the block's allocation, by the check above.
        Some(unsafe { self.memory.start().add(start) })
    }
}

fn new_block(len: usize, mark: usize) -> NonNull<Block> {
    let Some(memory) = Pages::new(len) else {
        let layout = Layout::from_size_align(len, BLOCK_ALIGN).expect("lengths are bounded");
        handle_alloc_error(layout)
    };
    NonNull::from(Box::leak(Box::new(Block { memory, mark: AtomicUsize::new(mark) })))
}

impl Drop for Arena {
    fn drop(&mut self) {
        for block in self.blocks.get_mut().drain(..) {
            // SAFETY: `block` came from `Box::leak` in `new_block` and is taken out of the list
            // here, once; `&mut self` says that nobody else looks at it.
            drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
    }
}

// SAFETY: the arena owns its blocks; the pointers in it are not tied to a thread.
unsafe impl Send for Arena {}
// SAFETY: `allocate` synchronises by atomics and a lock, and gives each byte to one caller.
unsafe impl Sync for Arena {}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn fill(arena: &Arena, len: usize, byte: u8) -> NonNull<u8> {
        let bytes = arena.allocate(len);
        // SAFETY: `bytes` is valid for `len` bytes and nobody else has it.
        unsafe { bytes.as_ptr().write_bytes(byte, len) };
        bytes
    }

    fn holds(bytes: NonNull<u8>, len: usize, byte: u8) -> bool {
        // SAFETY: written by `fill`, and the arena is alive in every caller.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), len) };
        bytes == vec![byte; len]
    }

    #[test]
    fn allocations_are_aligned_and_disjoint() {
        let arena = Arena::new();
        let lens = [1, 15, 16, 17, 4096, SOLO_BYTES_MIN - 1, SOLO_BYTES_MIN, BLOCK_BYTES + 1];
        let mut all = Vec::new();
        for round in 0..3_u8 {
            for (at, &len) in lens.iter().enumerate() {
                let byte = round * 16 + u8::try_from(at).unwrap();
                all.push((fill(&arena, len, byte), len, byte));
            }
        }
        for (bytes, len, byte) in all {
            assert!(bytes.as_ptr().addr().is_multiple_of(ALIGN));
            assert!(holds(bytes, len, byte), "{len} bytes of {byte}");
        }
    }

    #[test]
    fn used_bytes_count_what_was_handed_out() {
        let arena = Arena::new();
        assert_eq!(arena.used_bytes(), 0);
        arena.allocate(1);
        arena.allocate(BLOCK_BYTES);
        assert_eq!(arena.used_bytes(), ALIGN + BLOCK_BYTES);
    }

    /// An allocation that one thread has filled, for another to look at.
    struct Filled(NonNull<u8>);

    // SAFETY: the bytes belong to an arena that outlives the test's threads.
    unsafe impl Send for Filled {}

    #[test]
    fn threads_never_share_a_byte() {
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        let len_of = |at: usize| 1 + at % 3000;
        let arena = Arena::new();
        let fill_many = |byte: u8| {
            let mine = (0..rounds).map(|at| Filled(fill(&arena, len_of(at), byte)));
            (byte, mine.collect::<Vec<_>>())
        };
        let all: Vec<(u8, Vec<Filled>)> = std::thread::scope(|scope| {
            let spawn = |byte| scope.spawn(move || fill_many(byte));
            let threads: Vec<_> = (1..=4).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Each thread's bytes are as it left them.
        for (byte, mine) in all {
            for (at, filled) in mine.into_iter().enumerate() {
                assert!(holds(filled.0, len_of(at), byte), "thread {byte}, allocation {at}");
            }
        }
        let expected: usize = (0..rounds).map(|at| len_of(at).next_multiple_of(ALIGN)).sum();
        assert_eq!(arena.used_bytes(), 4 * expected);
    }
}
