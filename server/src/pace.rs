//! Whether a peer takes, or sends, at least so many bytes a second. PURE.
//!
//! A peer may be behind the least rate by a limit of time: bytes that moved make up for the time
//! they would have taken at the rate, and being early earns nothing, because what socket buffers
//! swallow at the start says nothing about the peer.
//!
//! ```text
//!   behind    0 -> grows with time -> minus bytes / rate when bytes move -> 0 at the least
//!   limit     behind >= limit: the peer is too slow
//! ```
//!
//! So a peer that stops is told after the limit, one at half the rate after twice the limit, and
//! one at the rate never, however coarse the steps in which its bytes move.

use std::time::Duration;

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Least rate, bytes per second. 0: whatever moves is enough.
    pub bytes_per_s: u64,
    /// How far behind it a peer may be.
    pub behind_max: Duration,
}

/// How a peer has kept to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    behind: Duration,
}

impl Ledger {
    /// Time has passed in which it was the peer's turn.
    pub fn pass(&mut self, time: Duration) {
        self.behind = self.behind.saturating_add(time);
    }

    /// Bytes have moved.
    pub fn moved(&mut self, bytes: u64, pace: Pace) {
        if pace.bytes_per_s == 0 {
            if bytes > 0 {
                self.behind = Duration::ZERO;
            }
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(pace.bytes_per_s);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.behind = self.behind.saturating_sub(earned);
    }

    /// What is left of the limit; zero: too slow.
    pub fn left(&self, pace: Pace) -> Duration {
        pace.behind_max.saturating_sub(self.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { bytes_per_s: 16_000, behind_max: Duration::from_mins(1) };

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

    #[test]
    fn without_a_rate_whatever_moves_is_enough() {
        let pace = Pace { bytes_per_s: 0, ..PACE };
        assert_eq!(cut_after(1, 59, pace), None);
        assert_eq!(cut_after(0, 1, pace), Some(60));
    }
}
