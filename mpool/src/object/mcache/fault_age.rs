//! The policy `mpool`: whole objects leave by the time since their last fault.
//!
//! Pure. This is the algorithm of mpool's kernel module (reaper.c of 2020, posted to the kernel's
//! list as patch 20 of 22), number by number. What differs is named here:
//!
//! - *Free memory* is the budget's free part, not `MemFree`: a process in a cgroup is done for when
//!   its own limit is reached, however much the machine has left.
//! - One thread does the rounds of its three workers, each after the other.
//! - What the kernel evicts on its own faults in again without us: such a fault renews no age.
//!
//! ```text
//!   free part     hwm = 1.03 lwm          lwm = 100 % - mempct                       0
//!   |--------------|-----------------------|---------------------------------------|
//!     urgency 0       as before (hysteresis)    urgency 1..10,000: how far under hwm
//! ```
//!
//! Rules:
//!
//! 1. Under the low watermark urgency rises from 0, and it stays until the high one is passed.
//! 2. An object may stay for `ttl * 250,000 / urgency^2`, at most `ttl`, after a fault: `Cold` ones
//!    that long, `Warm` ones 10 and `Hot` ones 100 times that. `Pinned` ones stay.
//! 3. Maps are visited in turn, [`MAPS_AT_A_TIME`]; of one with [`MAP_PAGES_MIN`] resident pages or
//!    more, objects past their time are dropped whole until fewer are left.
//! 4. From urgency [`THROTTLE_FROM`] on a fault sleeps, if that is wanted; and read-ahead is cut to
//!    [`READ_AHEAD_PAGES`] pages, for `Cold` objects from [`DURESS_FROM`] on.

use std::time::Duration;

use crate::object::mcache::Class;

/// How often urgency is decided: three times a second.
pub(crate) const TUNE_EVERY: Duration = Duration::from_millis(333);
/// Maps a worker takes at a time, and then sleeps 300 to 700 us.
pub(crate) const MAPS_AT_A_TIME: usize = 5;
/// The mean of that sleep.
pub(crate) const WORKER_REST: Duration = Duration::from_micros(500);
/// Workers at most; one more joins at each decision while there is urgency.
pub(crate) const WORKERS_MAX: u32 = 3;
/// Maps with fewer resident pages are left alone.
pub(crate) const MAP_PAGES_MIN: u64 = 32;
/// Pages that read-ahead may order at a time under duress.
pub(crate) const READ_AHEAD_PAGES: u32 = 8;
/// Microseconds for which an object's age is not renewed again.
const RENEW_AFTER_US: u64 = 10_000;
const DURESS_FROM: u32 = 1500;
const DURESS_FOR_ALL_OVER: u32 = 3000;
const THROTTLE_FROM: u32 = 3333;
/// An object that was dropped has this for an age until it is touched again.
pub(crate) const DROPPED: u64 = u64::MAX;

/// What is compared: the budget's free part with what is in memory of maps, index or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supply {
    pub(crate) free_bytes: u64,
    pub(crate) tracked_bytes: u64,
}

/// Urgency from 0, idle, to 10,000; `before` is what it was.
pub(crate) fn urgency(supply: Supply, mempct: u8, before: u32) -> u32 {
    let all = u128::from(supply.free_bytes) + u128::from(supply.tracked_bytes);
    let held = (u128::from(supply.tracked_bytes) * 10_000).checked_div(all).unwrap_or(0);
    let free = 10_000 - u32::try_from(held).expect("a part of 10,000");
    let low = 100_u32.saturating_sub(mempct.into()) * 100;
    let high = (low * 103 / 100).min(9700);
    if free >= high {
        0
    } else if free < low || before > 0 {
        10_000 - free * 10_000 / high
    } else {
        0
    }
}

/// How long a `Cold` object may stay after a fault.
pub(crate) fn ttl_us(ttl_us: u64, urgency: u32) -> u64 {
    let square = u128::from(urgency) * u128::from(urgency);
    let shrunk = (u128::from(ttl_us) * 250_000).checked_div(square);
    shrunk.and_then(|shrunk| u64::try_from(shrunk).ok()).map_or(ttl_us, |us| us.min(ttl_us))
}

/// Whether an object has had its time. `last_us` is its last fault; 0 has had it from the start,
/// and [`DROPPED`] has nothing left to drop.
pub(crate) fn is_expired(class: Class, last_us: u64, now_us: u64, ttl_us: u64) -> bool {
    let times = match class {
        Class::Cold => 1,
        Class::Warm => 10,
        Class::Hot => 100,
        Class::Pinned => return false,
    };
    last_us <= now_us.saturating_sub(ttl_us.saturating_mul(times))
}

/// Whether a fault at `now_us` renews an age of `last_us`.
pub(crate) fn renews(last_us: u64, now_us: u64) -> bool {
    last_us == DROPPED || last_us.saturating_add(RENEW_AFTER_US) <= now_us
}

/// What a fault sleeps at least; at most it is twice that.
pub(crate) fn throttle_us(urgency: u32) -> u64 {
    if urgency < THROTTLE_FROM {
        return 0;
    }
    (500_000 / (10_001 - u64::from(urgency.min(10_000))) - 49).min(3000)
}

/// Whether read-ahead is cut for objects of `class`.
pub(crate) fn is_duress(class: Class, urgency: u32) -> bool {
    match class {
        Class::Hot | Class::Pinned => false,
        Class::Warm => urgency > DURESS_FOR_ALL_OVER,
        Class::Cold => urgency >= DURESS_FROM,
    }
}

#[cfg(test)]
mod tests {
    use super::{Class::*, *};

    /// Of 1,000,000 bytes `free` hundredths of a per cent are free.
    fn supply(free: u64) -> Supply {
        Supply { free_bytes: free * 100, tracked_bytes: 1_000_000 - free * 100 }
    }

    #[test]
    fn rule_1_urgency_has_hysteresis() {
        #[rustfmt::skip]
        let table = [
            // name                          free   mempct  before  urgency
            ("plenty",                       5000,    87,       0,      0),
            ("over the high watermark",      1339,    87,     500,      0),
            ("between, from above",          1320,    87,       0,      0),
            ("between, from below",          1320,    87,     500,    142),
            ("under the low one",            1299,    87,       0,    299),
            ("at the low one",               1300,    87,       0,      0),
            ("half of the high one",          669,    87,       0,   5004),
            ("nothing free",                    0,    87,       0, 10_000),
            ("100 % is off",                    0,   100,     500,      0),
            ("the high watermark is bounded", 9699,    5,    9000,      2),
        ];
        for (name, free, mempct, before, expect) in table {
            assert_eq!(urgency(supply(free), mempct, before), expect, "{name}");
        }
        assert_eq!(urgency(Supply { free_bytes: 0, tracked_bytes: 0 }, 50, 0), 0, "no memory");
        let huge = Supply { free_bytes: u64::MAX, tracked_bytes: u64::MAX };
        assert_eq!(urgency(huge, 40, 0), 10_000 - 5000 * 10_000 / 6180);
    }

    /// The numbers that the original's formulas give.
    #[test]
    fn rule_2_and_4_by_urgency() {
        #[rustfmt::skip]
        let table = [
            // urgency  ttl, us   sleep  cold    warm
            (     0, 10_000_000,     0, false, false),
            (   291, 10_000_000,     0, false, false),
            (   500, 10_000_000,     0, false, false),
            (  1000,  2_500_000,     0, false, false),
            (  1500,  1_111_111,     0, true,  false),
            (  2000,    625_000,     0, true,  false),
            (  3000,    277_777,     0, true,  false),
            (  3333,    225_045,    25, true,  true),
            (  5000,    100_000,    50, true,  true),
            (  9000,     30_864,   450, true,  true),
            (10_000,     25_000,  3000, true,  true),
        ];
        for (urgency, ttl, sleep, cold, warm) in table {
            assert_eq!(ttl_us(10_000_000, urgency), ttl, "{urgency}");
            assert_eq!(throttle_us(urgency), sleep, "{urgency}");
            assert_eq!(is_duress(Cold, urgency), cold, "{urgency}");
            assert_eq!(is_duress(Warm, urgency), warm, "{urgency}");
            assert!(!is_duress(Hot, urgency) && !is_duress(Pinned, urgency), "{urgency}");
        }
    }

    #[test]
    fn rule_2_classes_multiply_the_time() {
        const NOW: u64 = 1_000_000_000;
        const TTL: u64 = 1_000_000;
        for (class, times) in [(Cold, 1), (Warm, 10), (Hot, 100)] {
            assert!(is_expired(class, NOW - TTL * times, NOW, TTL), "{class:?}");
            assert!(!is_expired(class, NOW - TTL * times + 1, NOW, TTL), "{class:?}");
            assert!(!is_expired(class, DROPPED, NOW, TTL), "{class:?}: once is enough");
            assert!(is_expired(class, 0, TTL / 2, TTL), "{class:?}: never faulted");
        }
        assert!(!is_expired(Pinned, 0, NOW, TTL));
    }

    #[test]
    fn an_age_is_renewed_every_ten_milliseconds_and_after_a_drop() {
        for (last, now, expect) in
            [(0, 9_999, false), (0, 10_000, true), (5, 10_004, false), (DROPPED, 1, true)]
        {
            assert_eq!(renews(last, now), expect, "{last} {now}");
        }
    }
}
