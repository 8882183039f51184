//! PURE: what a writer does with a verdict, after what it has waited already.

use super::stall::{StallReason, Verdict};
use std::time::Duration;

/// Longest a writer is stopped before it is refused.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(30);

/// What a writer has waited already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) time: Duration,
    /// Its delay is over.
    pub(crate) is_delayed: bool,
    /// Nothing was done meanwhile, and nothing will be.
    pub(crate) in_vain: bool,
}

/// What a writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Write,
    /// Waits so long at most, and looks again.
    Wait(Duration, StallReason),
    /// Gives up.
    Refuse(StallReason),
}

/// A delay is waited for once. A stop ends with the debt, or after [`STOP_MAX`], so that no writer
/// hangs for ever on a store that cannot recover.
pub(crate) fn next(verdict: Verdict, waited: Waited) -> Next {
    let Waited { time, is_delayed, in_vain } = waited;
    match verdict {
        Verdict::Go => Next::Write,
        Verdict::Delay(..) if is_delayed || in_vain => Next::Write,
        Verdict::Delay(delay, reason) => Next::Wait(delay, reason),
        Verdict::Stop(reason) if in_vain || time >= STOP_MAX => Next::Refuse(reason),
        Verdict::Stop(reason) => Next::Wait(STOP_MAX.saturating_sub(time), reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_waited_for_once_and_a_stop_has_an_end() {
        let reason = StallReason::Memtables;
        let (second, rest) = (Duration::from_secs(1), Duration::from_secs(29));
        let of = |time, is_delayed, in_vain| Waited { time, is_delayed, in_vain };
        let (delay, stop) = (Verdict::Delay(second, reason), Verdict::Stop(reason));
        for (verdict, waited, expected) in [
            (Verdict::Go, of(Duration::ZERO, false, false), Next::Write),
            (delay, of(Duration::ZERO, false, false), Next::Wait(second, reason)),
            (delay, of(second / 2, false, false), Next::Wait(second, reason)),
            (delay, of(second, true, false), Next::Write),
            (delay, of(Duration::ZERO, false, true), Next::Write),
            (stop, of(Duration::ZERO, false, false), Next::Wait(STOP_MAX, reason)),
            (stop, of(second, true, false), Next::Wait(rest, reason)),
            (stop, of(STOP_MAX, true, false), Next::Refuse(reason)),
            (stop, of(Duration::ZERO, false, true), Next::Refuse(reason)),
        ] {
            assert_eq!(next(verdict, waited), expected, "{verdict:?} {waited:?}");
        }
    }
}
