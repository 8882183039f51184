//! How much may enter the page cache until the reaper looks again.
//!
//! The reaper sets an allowance each tick; whoever fills pages takes from it. So between two ticks
//! the mcache never grows by more than was granted, and asking costs one atomic operation on a path
//! that is about to read the drive. Without a reaper the allowance has no bound.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{Class, object::Object};
use crate::{metrics::Counter, object::mcache::fault_age};

/// The allowance. Relaxed throughout: a grant that arrives a little late is a page read directly.
pub(crate) struct Room {
    bytes: AtomicI64,
    /// Accesses that a page must have seen before to be admitted.
    admit_at: AtomicU8,
    /// The reaper's clock, by which faults are stamped: as of its last look.
    clock_us: AtomicU64,
    /// Of the policy `mpool`; 0 under the others.
    urgency: AtomicU32,
    throttles: AtomicBool,
    pub(crate) throttled_us: Counter,
}

/// No reaper, no bound. Halved so that takes and gives cannot overflow.
const UNBOUNDED: i64 = i64::MAX / 2;

impl Room {
    /// Everything is admitted at the first touch: the kernel's reclaim is on its own.
    pub(crate) fn unbounded() -> Self {
        Self {
            bytes: AtomicI64::new(UNBOUNDED),
            admit_at: AtomicU8::new(0),
            clock_us: AtomicU64::new(0),
            urgency: AtomicU32::new(0),
            throttles: AtomicBool::new(false),
            throttled_us: Counter::default(),
        }
    }

    pub(crate) fn lift(&self) {
        self.bytes.store(UNBOUNDED, Relaxed);
        self.admit_at.store(0, Relaxed);
        self.press(0, false);
    }

    /// Says how urgent the policy `mpool` finds it, and whether faults wait for that.
    pub(crate) fn press(&self, urgency: u32, throttles: bool) {
        self.urgency.store(urgency, Relaxed);
        self.throttles.store(throttles, Relaxed);
    }

    pub(crate) fn set_clock(&self, us: u64) {
        self.clock_us.store(us, Relaxed);
    }

    /// A page of `object` was read in: renews its age, and waits if it must.
    pub(crate) fn faulted(&self, object: &Object) {
        let now_us = self.clock_us.load(Relaxed);
        if fault_age::renews(object.faulted_us(), now_us) {
            object.set_faulted_us(now_us);
        }
        if self.throttles.load(Relaxed) {
            let least = fault_age::throttle_us(self.urgency.load(Relaxed));
            // Between once and twice as long, by where the object lies and how often others waited.
            let salt = object.key() ^ self.throttled_us.get();
            let us = least + (salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % least.max(1);
            if us > 0 {
                self.throttled_us.add(us);
                pause(Duration::from_micros(us));
            }
        }
    }

    /// Pages that read-ahead of `class` may order at a time; at most `usual`.
    pub(crate) fn read_ahead_pages(&self, class: Class, usual: u32) -> u32 {
        if fault_age::is_duress(class, self.urgency.load(Relaxed)) {
            usual.min(fault_age::READ_AHEAD_PAGES)
        } else {
            usual
        }
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

#[expect(clippy::disallowed_methods, reason = "the policy wants its readers slower, for so long")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::{super::tests::World, *};

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

    #[test]
    fn faults_renew_an_age_and_wait_only_when_told_to() {
        let (room, object) = (Room::unbounded(), World::object(0));
        room.set_clock(20_000);
        room.faulted(&object);
        assert_eq!((object.faulted_us(), room.throttled_us.get()), (20_000, 0));
        room.press(5000, false);
        room.faulted(&object);
        assert_eq!(room.throttled_us.get(), 0);
        assert_eq!(room.read_ahead_pages(Class::Cold, 256), 8);
        assert_eq!(room.read_ahead_pages(Class::Hot, 256), 256);
        room.press(5000, true);
        room.faulted(&object);
        assert!((50..100).contains(&room.throttled_us.get()));
        room.lift();
        assert_eq!(room.read_ahead_pages(Class::Cold, 256), 256);
    }
}
