//! How much may enter the page cache until the reaper looks again.
//!
//! The reaper sets an allowance each tick; whoever fills pages takes from it. So between two ticks
//! the mcache never grows by more than was granted, and asking costs one atomic operation on a path
//! that is about to read the drive. Without a reaper the allowance has no bound.

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};

/// The allowance. Relaxed throughout: a grant that arrives a little late is a page read directly.
pub(crate) struct Room {
    bytes: AtomicI64,
    /// Accesses that a page must have seen before to be admitted.
    admit_at: AtomicU8,
}

/// No reaper, no bound. Halved so that takes and gives cannot overflow.
const UNBOUNDED: i64 = i64::MAX / 2;

impl Room {
    /// Everything is admitted at the first touch: the kernel's reclaim is on its own.
    pub(crate) fn unbounded() -> Self {
        Self { bytes: AtomicI64::new(UNBOUNDED), admit_at: AtomicU8::new(0) }
    }

    pub(crate) fn lift(&self) {
        self.bytes.store(UNBOUNDED, Relaxed);
        self.admit_at.store(0, Relaxed);
    }

    /// Grants `bytes` from here on, to pages that were touched `admit_at` times before.
    pub(crate) fn grant(&self, bytes: u64, admit_at: u8) {
        self.bytes.store(i64::try_from(bytes).unwrap_or(UNBOUNDED).min(UNBOUNDED), Relaxed);
        self.admit_at.store(admit_at, Relaxed);
    }

    pub(crate) fn admit_at(&self) -> u8 {
        self.admit_at.load(Relaxed)
    }

    /// Bytes that may still be taken.
    pub(crate) fn left(&self) -> u64 {
        u64::try_from(self.bytes.load(Relaxed)).unwrap_or(0)
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(UNBOUNDED);
        if self.bytes.load(Relaxed) < bytes {
            return false;
        }
        // Two takers at once may overdraw by what they take; the next tick sees it.
        self.bytes.fetch_sub(bytes, Relaxed);
        true
    }

    /// Takes `bytes` whether they are there or not: for pages that are needed in any case.
    pub(crate) fn take_anyway(&self, bytes: u64) {
        self.bytes.fetch_sub(i64::try_from(bytes).unwrap_or(UNBOUNDED), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_used_up_and_renewed() {
        let room = Room::unbounded();
        assert!(room.take(1 << 40));
        room.grant(8192, 1);
        assert!(room.take(4096) && room.take(4096));
        assert!(!room.take(4096));
        room.take_anyway(4096);
        assert_eq!(room.left(), 0);
        room.grant(4096, 2);
        assert_eq!((room.left(), room.admit_at()), (4096, 2));
        room.lift();
        assert!(room.take(u64::MAX >> 2));
    }
}
