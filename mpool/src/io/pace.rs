//! PURE: how much background work the drive may be given, so that who waits for an answer is served
//! as if it were not there.
//!
//! Three bounds, of which the narrowest holds:
//!
//! ```text
//!              foreground quiet                     foreground at work
//! request      as long as the caller likes          `chunk_bytes`
//! in flight    a quarter of the queue's depth       `depth`
//! rate         `bytes_per_second_max`               the same, and what the feedback allows
//! ```
//!
//! A drive serves a long request whole, so a reader that comes behind it waits for it: the length
//! and number of background requests bound how long. What is left is the drive's own capacity: the
//! feedback compares the latency of foreground requests with what it is while no background request
//! is in flight, and lowers the rate by a quarter, or raises it by an eighth, every [`STEP_US`].
//! The rate never falls below [`RATE_MIN`], so that compaction keeps up with *something*; and
//! whoever sees debt grow lifts all bounds by `hurry`, because a store that stops its writers is
//! worse than one that is slow to answer.

/// The rate is looked at again after this long.
pub(crate) const STEP_US: u64 = 20_000;
/// What background work gets however slow the drive is.
pub(crate) const RATE_MIN: u64 = 16 << 20;
/// Where the feedback starts, and as far as it goes: more than any single drive.
pub(crate) const RATE_MAX: u64 = 8 << 30;
/// Latency over its quiet value, in percent, below which the rate rises and above which it falls.
const STRAIN_LOW_PCT: u64 = 150;
const STRAIN_HIGH_PCT: u64 = 200;
/// The rate may be used up this far ahead, which is what makes it smooth.
const BURST_US: u64 = 1_000;

/// What a user chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) bytes_per_second_max: u64,
    pub(crate) chunk_bytes: u64,
    /// Requests in flight while the foreground is at work, and while it is quiet.
    pub(crate) depth: u32,
    pub(crate) depth_quiet: u32,
}

/// The state of things when a background request would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Whether somebody waited for the drive lately.
    pub(crate) foreground: bool,
    /// Background requests in flight.
    pub(crate) background: u32,
    /// Bytes that the rate has left, less than zero after a long request.
    pub(crate) allowance: i64,
    /// All bounds are lifted.
    pub(crate) hurry: bool,
}

/// Why a request starts, or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Debt is worse than latency.
    Hurry,
    /// Nobody waits for the drive.
    Quiet,
    /// Within all bounds.
    Fits,
    /// Enough is in flight; the end of one lets the next start.
    Depth,
    /// The rate is used up; time lets the next start.
    Rate,
}

/// What a background request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start, with this many bytes at most.
    Start { bytes: u64, reason: Reason },
    /// Ask again after the next end of a request, or after this long.
    Wait { us: u64, reason: Reason },
}

/// Whether a request may start that would like to be `want` bytes long.
pub(crate) fn verdict(limits: &Limits, rate: u64, now: &Snapshot, want: u64) -> Verdict {
    if now.hurry {
        return Verdict::Start { bytes: want, reason: Reason::Hurry };
    }
    let depth = if now.foreground { limits.depth } else { limits.depth_quiet };
    if now.background >= depth.max(1) {
        return Verdict::Wait { us: STEP_US, reason: Reason::Depth };
    }
    if now.allowance < 0 {
        let us = now.allowance.unsigned_abs().saturating_mul(1_000_000) / rate.max(1);
        return Verdict::Wait { us: us.clamp(1, STEP_US), reason: Reason::Rate };
    }
    if now.foreground {
        Verdict::Start { bytes: want.min(limits.chunk_bytes), reason: Reason::Fits }
    } else {
        Verdict::Start { bytes: want, reason: Reason::Quiet }
    }
}

/// The rate after one step; `strain_pct` is the foreground's latency over its quiet value, `None`
/// where the foreground was quiet or nothing is known.
pub(crate) fn next_rate(limits: &Limits, rate: u64, strain_pct: Option<u64>) -> u64 {
    let next = match strain_pct {
        None => rate.saturating_mul(2),
        Some(strain) if strain > STRAIN_HIGH_PCT => rate / 4 * 3,
        Some(strain) if strain < STRAIN_LOW_PCT => rate + rate / 8,
        Some(_) => rate,
    };
    let max = limits.bytes_per_second_max.min(RATE_MAX);
    next.clamp(RATE_MIN.min(max), max)
}

/// The allowance after `elapsed_us` more at `rate`: no more than a burst is saved up.
pub(crate) fn refill(allowance: i64, rate: u64, elapsed_us: u64) -> i64 {
    let gained = |us: u64| {
        let bytes = u128::from(rate) * u128::from(us) / 1_000_000;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    };
    allowance.saturating_add(gained(elapsed_us)).min(gained(BURST_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { bytes_per_second_max: u64::MAX, chunk_bytes: 64 << 10, depth: 2, depth_quiet: 16 };
    const CALM: Snapshot =
        Snapshot { foreground: false, background: 0, allowance: 0, hurry: false };

    #[test]
    fn each_bound_holds_and_says_so() {
        let busy = Snapshot { foreground: true, ..CALM };
        let start = |bytes, reason| Verdict::Start { bytes, reason };
        let table = [
            (CALM, start(1 << 20, Reason::Quiet)),
            (busy, start(64 << 10, Reason::Fits)),
            (Snapshot { background: 1, ..busy }, start(64 << 10, Reason::Fits)),
            (
                Snapshot { background: 2, ..busy },
                Verdict::Wait { us: STEP_US, reason: Reason::Depth },
            ),
            (Snapshot { background: 2, ..CALM }, start(1 << 20, Reason::Quiet)),
            (
                Snapshot { background: 16, ..CALM },
                Verdict::Wait { us: STEP_US, reason: Reason::Depth },
            ),
            (
                Snapshot { allowance: -1_000, ..busy },
                Verdict::Wait { us: 1_000, reason: Reason::Rate },
            ),
            (
                Snapshot { allowance: -1 << 40, background: 99, hurry: true, foreground: true },
                start(1 << 20, Reason::Hurry),
            ),
        ];
        for (now, expect) in table {
            assert_eq!(verdict(&LIMITS, 1_000_000, &now, 1 << 20), expect, "{now:?}");
        }
        let short = verdict(&LIMITS, 1_000_000, &busy, 4096);
        assert_eq!(short, start(4096, Reason::Fits), "a short request stays short");
    }

    #[test]
    fn strain_lowers_the_rate_to_its_floor_and_calm_raises_it_to_the_limit() {
        let mut rate = RATE_MAX;
        for _ in 0..100 {
            rate = next_rate(&LIMITS, rate, Some(300));
        }
        assert_eq!(rate, RATE_MIN, "compaction is never starved");
        assert_eq!(next_rate(&LIMITS, rate, Some(170)), rate, "between the marks it stays");
        let mut steps = 0;
        while rate < RATE_MAX {
            rate = next_rate(&LIMITS, rate, Some(100));
            steps += 1;
        }
        assert!(steps * STEP_US < 2_000_000, "back at full speed within two seconds: {steps}");
        let limited = Limits { bytes_per_second_max: 5 << 20, ..LIMITS };
        assert_eq!(next_rate(&limited, RATE_MAX, None), 5 << 20, "what the user says counts");
        assert_eq!(next_rate(&limited, 1 << 20, Some(900)), 5 << 20, "and the floor bows to it");
    }

    /// Simulates requests of `len` bytes one after the other for a second.
    fn bytes_in_a_second(rate: u64, len: i64) -> u64 {
        let (mut allowance, mut done) = (0, 0);
        for _ in 0..100_000 {
            allowance = refill(allowance, rate, 10);
            if allowance >= 0 {
                allowance -= len;
                done += len.unsigned_abs();
            }
        }
        done
    }

    #[test]
    fn the_rate_is_kept_whatever_the_length_of_requests() {
        for len in [4 << 10, 64 << 10, 1 << 20] {
            let done = bytes_in_a_second(250 << 20, len);
            let (low, high) = (245 << 20, 256 << 20);
            assert!((low..high).contains(&done), "{done} bytes with requests of {len}");
        }
    }

    #[test]
    fn a_pause_saves_up_a_burst_and_no_more() {
        assert_eq!(refill(0, 100 << 20, 60_000_000), refill(0, 100 << 20, BURST_US));
        assert_eq!(refill(i64::MAX, RATE_MAX, u64::MAX), refill(0, RATE_MAX, BURST_US));
    }
}
