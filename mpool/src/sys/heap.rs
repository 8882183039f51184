//! The heap's habit of keeping blocks that were freed.
//!
//! glibc takes a large block from the kernel and gives it back when it is freed; but each such
//! block raises the size from which it does so, up to 32 MiB. After the first few values of 16 MiB
//! all further ones lie in its arenas, which give back little: a burst of large responses stays in
//! the process for ever. A threshold that is set by hand stays where it is.

/// Blocks of at least this size go back when they are freed. Below, what the arenas keep is little,
/// and a system call for each would be much.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: libc::c_int = 1 << 20;

/// Makes the heap return blocks of a megabyte and more to the kernel as soon as they are freed. For
/// programs that hold large blocks for short; it concerns the whole process. Says whether the heap
/// is one that can be told.
pub fn return_large_allocations() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two numbers, may be called at any time, and only changes where
        // later blocks come from.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Gives free blocks of any size back to the kernel. For a program of which a burst of work has
/// gone; it concerns the whole process, and takes time with the memory that is free. Says whether
/// there was any.
pub fn return_free_memory() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes a number, may be called at any time from any thread, and
        // touches nothing but free blocks.
        unsafe { libc::malloc_trim(0) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_takes_it() {
        assert_eq!(return_large_allocations(), cfg!(target_env = "gnu"));
    }

    #[test]
    fn free_blocks_go_back_and_others_stay() {
        let blocks: Vec<Vec<u8>> = (0..200).map(|n| vec![n; 32 << 10]).collect();
        let kept: Vec<Vec<u8>> = blocks.into_iter().step_by(20).collect();
        return_free_memory();
        for (n, block) in (0..200).step_by(20).zip(kept) {
            assert!(block.iter().all(|byte| *byte == n));
        }
    }
}
