//! Whether a peer takes, or sends, at least so many bytes a second. PURE.
//!
//! A peer may be behind the least rate by a limit of time: bytes that moved make up for the time
//! they would have taken at the rate.
//!
//! Programs read by fits and starts: they take megabytes as fast as they come, and rest until these
//! are worked up, or until the rate is right that somebody has asked them for. So a peer may also
//! come ahead of the rate, by a limit of bytes. It holds a response no longer by that than one that
//! reads at the least rate all the time. What the system has taken counts as read, so one that
//! never reads comes ahead by what fits into the buffers of the connection.
//!
//! ```text
//!   account   grows with time, falls by bytes / rate when bytes move
//!             -ahead_bytes_max / rate at the least <= 0 <= behind_max: the peer is too slow
//! ```
//!
//! So a peer that stops is told after the limit and the time that it was ahead, one at half the
//! rate after twice the limit, and one at the rate never, however coarse the steps in which its
//! bytes move.

use std::time::Duration;

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Least rate, bytes per second. 0: whatever moves is enough.
    pub bytes_per_s: u64,
    /// How far behind it a peer may be.
    pub behind_max: Duration,
    /// How many bytes ahead of it a peer may be.
    pub ahead_bytes_max: u64,
}

impl Pace {
    /// What bytes take at the rate, which is not 0.
    fn nanos(self, bytes: u64) -> i64 {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        i64::try_from(nanos).unwrap_or(i64::MAX)
    }
}

/// How a peer has kept to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Negative: ahead.
    behind_nanos: i64,
}

impl Ledger {
    /// Time has passed in which it was the peer's turn.
    pub fn pass(&mut self, time: Duration) {
        let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        self.behind_nanos = self.behind_nanos.saturating_add(nanos);
    }

    /// Bytes have moved.
    pub fn moved(&mut self, bytes: u64, pace: Pace) {
        if pace.bytes_per_s == 0 {
            if bytes > 0 {
                self.behind_nanos = 0;
            }
            return;
        }
        let behind_nanos = self.behind_nanos.saturating_sub(pace.nanos(bytes));
        self.behind_nanos = behind_nanos.max(-pace.nanos(pace.ahead_bytes_max));
    }

    /// What is left until the peer is too slow; zero: it is.
    pub fn left(&self, pace: Pace) -> Duration {
        let limit = i64::try_from(pace.behind_max.as_nanos()).unwrap_or(i64::MAX);
        let left = limit.saturating_sub(self.behind_nanos);
        Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { bytes_per_s: 16_000, behind_max: Duration::from_mins(1), ahead_bytes_max: 0 };

    /// Seconds until a peer is too slow that moves `bytes` every `every` seconds; none in an hour.
    fn cut_after(bytes: u64, every: u64, pace: Pace) -> Option<u64> {
        let mut ledger = Ledger::default();
        (1..=3600).find(|second| {
            ledger.pass(Duration::from_secs(1));
            if second % every == 0 {
                ledger.moved(bytes, pace);
            }
            ledger.left(pace).is_zero()
        })
    }

    #[test]
    fn the_slower_the_sooner() {
        for (bytes, every, want) in [
            (0, 1, Some(60)),
            (6_000, 1, Some(96)),
            (8_000, 1, Some(120)),
            (16_000, 1, None),
            // Half a minute of nothing, then what came together in it.
            (480_000, 30, None),
            // A large start earns nothing.
            (10_000_000, 3000, Some(60)),
        ] {
            assert_eq!(cut_after(bytes, every, PACE), want, "{bytes} every {every} s");
        }
    }

    /// `curl --limit-rate 40k` takes 4 MB at once and rests for 105 s: it used to be cut off after
    /// 60 of them.
    #[test]
    fn who_reads_by_fits_and_starts_may_rest_on_what_was_read() {
        let pace = Pace { ahead_bytes_max: 8 << 20, ..PACE };
        let (burst, mut ledger) = (4_200_000, Ledger::default());
        for _ in 0..30 {
            ledger.moved(burst, pace);
            ledger.pass(Duration::from_secs(105));
            assert!(!ledger.left(pace).is_zero());
        }
        // However much came before: the limit, and what the bytes take that may be ahead.
        ledger.moved(1 << 40, pace);
        assert_eq!(ledger.left(pace).as_secs(), 60 + (8 << 20) / 16_000);
        // Who has read nothing has nothing to rest on.
        assert_eq!(Ledger::default().left(pace).as_secs(), 60);
    }

    #[test]
    fn without_a_rate_whatever_moves_is_enough() {
        let pace = Pace { bytes_per_s: 0, ahead_bytes_max: 8 << 20, ..PACE };
        assert_eq!(cut_after(1, 59, pace), None);
        assert_eq!(cut_after(0, 1, pace), Some(60));
    }
}
