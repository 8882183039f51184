//! PURE: which of the two logs counts.
//!
//! A checkpoint writes the other log from `begin` to `end`, and only then retires the old one,
//! before the first append to the new one. So:
//!
//! - a complete log that is not retired holds everything, or exactly what its complete successor
//!   holds: using it loses nothing;
//! - of two complete logs the newer one counts (the crash came before the old one was retired);
//! - a retired log says that its successor *must* be there: if not, it has rotted, and falling back
//!   would silently forget what was acknowledged.
//!
//! A half-written passive log (its `begin` torn, its `end` missing) never stands in the way of
//! opening: it is what a crash during a checkpoint leaves.
//!
//! Nor does a log that the medium refuses to read, *if the other one counts*. That one is intact up
//! to its tail and its first frame does not say `retired`. Were the unreadable log its successor,
//! then `retired` would have been durable before the successor's first append, so the successor
//! holds no append, and nothing but what this log holds. Were it the predecessor, it is needed no
//! more. If the readable log is retired, incomplete or damaged, then the unreadable one may be the
//! truth, and opening fails with the error of its read.
//!
//! But what cannot be read today may be read tomorrow, as a complete log of a later generation, and
//! would then count more than what has been appended to this one since. So before the first append
//! it is made void: a `begin` over its first frame, of a generation far beyond any that the hidden
//! frames may have ([`HIDDEN_GENERATIONS`]), which also keeps the next attempt from reusing one of
//! theirs. If that cannot be written either, the journal does not open.

use super::pair::Position;
use crate::heads::log::Log;

/// What a scan found in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogState {
    /// No intact first frame. `generation_max` is the newest that any frame in it speaks of.
    Unusable { generation_max: u64 },
    /// A checkpoint that never ended.
    Incomplete { generation: u64 },
    /// Begin to end, and appends up to `tail`. `rot`: where a bad frame lies before intact ones.
    Complete { generation: u64, seqno: u64, tail: u64, rot: Option<u64> },
    /// Succeeded by the other log, whose generation it names.
    Retired { successor: u64 },
    /// The medium returned an error.
    Unreadable,
}

/// More attempts than any log sees between two that succeed; a generation has room for 2^32 such
/// steps.
const HIDDEN_GENERATIONS: u64 = 1 << 32;

/// What must happen to the log that does not count, before the first append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// Nothing: it never counts again.
    Dead,
    /// It is complete and older: retire it.
    Retire,
    /// It could not be read: begin it anew, with the elected `generation_max`.
    Void,
}

/// The log to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elected {
    /// 0 or 1.
    pub(crate) active: usize,
    pub(crate) generation: u64,
    pub(crate) seqno: u64,
    pub(crate) tail: u64,
    /// The newest generation that either log may hold; the next checkpoint goes beyond it.
    pub(crate) generation_max: u64,
    /// What to do with the other log.
    pub(crate) other: Other,
}

impl Elected {
    /// Where the journal is by this election.
    pub(crate) fn position(&self, logs: [Log; 2]) -> Position {
        let Self { active, generation, seqno, tail, .. } = *self;
        Position { logs, active, generation, seqno, tail }
    }
}

/// Why no log can be used: which one, where in it, and what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unelectable {
    pub(crate) log: usize,
    pub(crate) at: u64,
    pub(crate) reason: &'static str,
}

const NONE_COMPLETE: &str = "neither of its logs is complete";
const SUCCESSOR_LOST: &str = "a log was retired, but its successor is damaged or older";
const SAME_GENERATION: &str = "both logs claim the same generation";
const ROT: &str = "a damaged frame lies before intact ones of the same generation";

pub(crate) fn elect(logs: [LogState; 2]) -> Result<Elected, Unelectable> {
    use LogState::{Complete, Retired};
    let active = match logs {
        [Complete { generation: a, .. }, Complete { generation: b, .. }] if a == b => {
            return Err(Unelectable { log: 0, at: 0, reason: SAME_GENERATION });
        }
        [Complete { generation: a, .. }, Complete { generation: b, .. }] => usize::from(b > a),
        [Complete { .. }, _] => 0,
        [_, Complete { .. }] => 1,
        [Retired { .. }, _] => return Err(Unelectable { log: 1, at: 0, reason: SUCCESSOR_LOST }),
        [_, Retired { .. }] => return Err(Unelectable { log: 0, at: 0, reason: SUCCESSOR_LOST }),
        _ => return Err(Unelectable { log: 0, at: 0, reason: NONE_COMPLETE }),
    };
    let other = logs[1 - active];
    let Complete { generation, seqno, tail, rot } = logs[active] else {
        unreachable!("chosen above for being complete");
    };
    if let Retired { successor } = other
        && successor != generation
    {
        return Err(Unelectable { log: active, at: 0, reason: SUCCESSOR_LOST });
    }
    if let Some(at) = rot {
        return Err(Unelectable { log: active, at, reason: ROT });
    }
    let generation_max = match other {
        LogState::Unreadable => generation.saturating_add(HIDDEN_GENERATIONS),
        seen => generation.max(newest(seen)),
    };
    let other = match other {
        Complete { .. } => Other::Retire,
        LogState::Unreadable => Other::Void,
        _ => Other::Dead,
    };
    Ok(Elected { active, generation, seqno, tail, generation_max, other })
}

fn newest(log: LogState) -> u64 {
    match log {
        LogState::Unreadable => 0,
        LogState::Unusable { generation_max } => generation_max,
        LogState::Incomplete { generation } | LogState::Complete { generation, .. } => generation,
        LogState::Retired { successor } => successor,
    }
}

#[cfg(test)]
mod tests {
    use super::{LogState::*, *};

    const BLANK: LogState = Unusable { generation_max: 0 };

    fn complete(generation: u64) -> LogState {
        Complete { generation, seqno: 9, tail: 4096, rot: None }
    }

    #[test]
    fn every_crash_point_of_a_checkpoint_leaves_one_log_that_counts() {
        // (other log while this one is active, active generation expected, index, retire)
        let table = [
            // Fresh journal; begin torn; begin written; end written; retired.
            ([complete(1), BLANK], 0, 1, Other::Dead),
            ([complete(1), Unusable { generation_max: 2 }], 0, 1, Other::Dead),
            ([complete(1), Incomplete { generation: 2 }], 0, 1, Other::Dead),
            ([complete(1), complete(2)], 1, 2, Other::Retire),
            ([Retired { successor: 2 }, complete(2)], 1, 2, Other::Dead),
            // And back again.
            ([Incomplete { generation: 3 }, complete(2)], 1, 2, Other::Dead),
            ([complete(3), complete(2)], 0, 3, Other::Retire),
            ([complete(3), Retired { successor: 3 }], 0, 3, Other::Dead),
            // A retired log that has rotted is not needed.
            ([Unusable { generation_max: 1 }, complete(2)], 1, 2, Other::Dead),
            // Nor is one that cannot be read, which must not come back.
            ([complete(2), Unreadable], 0, 2, Other::Void),
            ([Unreadable, complete(2)], 1, 2, Other::Void),
        ];
        for (logs, active, generation, other) in table {
            let elected = elect(logs).unwrap();
            assert_eq!((elected.active, elected.generation), (active, generation), "{logs:?}");
            assert_eq!(elected.other, other, "{logs:?}");
        }
    }

    #[test]
    fn losing_the_active_log_is_an_error_and_not_an_older_state() {
        for (logs, reason) in [
            ([Retired { successor: 2 }, BLANK], SUCCESSOR_LOST),
            ([Retired { successor: 2 }, Incomplete { generation: 2 }], SUCCESSOR_LOST),
            ([Retired { successor: 4 }, complete(2)], SUCCESSOR_LOST),
            ([Incomplete { generation: 3 }, Retired { successor: 3 }], SUCCESSOR_LOST),
            ([Retired { successor: 2 }, Retired { successor: 3 }], SUCCESSOR_LOST),
            ([Retired { successor: 2 }, Unreadable], SUCCESSOR_LOST),
            ([Unreadable, Incomplete { generation: 3 }], NONE_COMPLETE),
            ([Unreadable, Unreadable], NONE_COMPLETE),
            ([BLANK, BLANK], NONE_COMPLETE),
            ([BLANK, Incomplete { generation: 3 }], NONE_COMPLETE),
            ([complete(2), complete(2)], SAME_GENERATION),
        ] {
            assert_eq!(elect(logs).unwrap_err().reason, reason, "{logs:?}");
        }
        let rotten = Complete { generation: 2, seqno: 9, tail: 8192, rot: Some(4096) };
        let refused = elect([Retired { successor: 2 }, rotten]).unwrap_err();
        assert_eq!(refused, Unelectable { log: 1, at: 4096, reason: ROT });
    }

    #[test]
    fn the_next_generation_goes_beyond_every_attempt() {
        let elected = elect([complete(4), Incomplete { generation: 9 }]).unwrap();
        assert_eq!(elected.generation_max, 9);
        let hidden = elect([complete(4), Unreadable]).unwrap();
        assert_eq!(hidden.generation_max, 4 + HIDDEN_GENERATIONS);
        // The void mark is found again, and keeps the next attempt beyond what it hides.
        let void = Incomplete { generation: hidden.generation_max };
        assert_eq!(elect([complete(4), void]).unwrap().generation_max, hidden.generation_max);
    }
}
