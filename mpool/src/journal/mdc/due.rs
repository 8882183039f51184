//! PURE: when a log is rewritten, and how much of it is kept for what shrinks its state.
//!
//! ```text
//! 0                        70 %            90 %    limit   len
//! [begin state end][record][record][record]....... |reserve|
//!                          ^ from here on the background looks whether there is garbage
//!                                          ^ from here on it is content with less of it
//!                                                  ^ an append that does not fit waits for a
//!                                                    rewriting; deletions go on to the very end
//! ```

use mpool_device::IO_ALIGN;

/// A log this full is looked at, percent.
const LOOK_PCT: u64 = 70;
/// It is rewritten if this part of what it holds is garbage, percent.
const GARBAGE_PCT: u64 = 20;
/// A log this full is rewritten for less, percent ...
const URGENT_PCT: u64 = 90;
/// ... of its length.
const URGENT_GARBAGE_PCT: u64 = 5;
/// After a look that led to nothing, the next is when this much more has been appended, percent of
/// the log's length.
const LOOK_AGAIN_PCT: u64 = 5;
/// State beyond this part of the log makes a journal that can grow move to longer logs, percent.
const GROW_PCT: u64 = 50;
/// No log grows beyond this.
pub(crate) const GROWN_LOG_BYTES_MAX: u64 = 1 << 30;
/// The end of a log that only shrinking appends may use: this share of it ...
const RESERVE_SHARE: u64 = 8;
/// ... at most. The longest record of deletions is shorter (a commit's objects at 12 bytes each).
const RESERVE_BYTES_MAX: u64 = 512 << 10;

/// How a log is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) len: u64,
    pub(crate) used: u64,
}

/// What is to be done with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing: rewriting it would win too little.
    Keep,
    /// Rewrite it into its other half.
    Rewrite,
    /// Move to logs of this length.
    Grow { len: u64 },
}

/// May its logs be exchanged for longer ones?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    Fixed,
    Possible,
}

impl Fill {
    /// Whether it is time to look how much of the log is garbage.
    pub(crate) fn is_look_due(self) -> bool {
        self.used >= percent(self.len, LOOK_PCT)
    }

    /// Where the log must have come before it is looked at again.
    pub(crate) fn look_again_at(self) -> u64 {
        self.used + percent(self.len, LOOK_AGAIN_PCT)
    }

    /// What follows from a look: `live` is what the state would take in a log of its own.
    pub(crate) fn due(self, live: u64, growth: Growth) -> Due {
        if growth == Growth::Possible
            && let Some(len) = self.longer(live)
        {
            return Due::Grow { len };
        }
        let garbage = self.used.saturating_sub(live);
        let plenty = self.is_look_due() && garbage >= percent(self.used, GARBAGE_PCT);
        let urgent = self.used >= percent(self.len, URGENT_PCT)
            && garbage >= percent(self.len, URGENT_GARBAGE_PCT);
        if plenty || urgent { Due::Rewrite } else { Due::Keep }
    }

    /// The length of log that this much state asks for, if it is more than there is.
    fn longer(self, live: u64) -> Option<u64> {
        let mut len = self.len;
        while live > percent(len, GROW_PCT) && len.checked_mul(2)? <= GROWN_LOG_BYTES_MAX {
            len *= 2;
        }
        (len > self.len).then_some(len)
    }
}

/// What any append may fill; the rest is for those that make the state shorter.
pub(crate) fn usual_limit(len: u64) -> u64 {
    let reserve = (len / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
    len - reserve / IO_ALIGN as u64 * IO_ALIGN as u64
}

/// Exact for any length of log: divides last.
fn percent(of: u64, pct: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(pct) / 100).expect("a part is not longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1000 << 10;

    fn fill(used_pct: u64) -> Fill {
        Fill { len: LEN, used: percent(LEN, used_pct) }
    }

    #[test]
    fn a_log_is_rewritten_when_it_is_full_enough_of_garbage() {
        // (used, live, percent of the log) -> what is due
        let table = [
            (69, 0, Due::Keep),
            (70, 0, Due::Rewrite),
            (70, 56, Due::Rewrite),
            (70, 57, Due::Keep),
            (89, 80, Due::Keep),
            (90, 80, Due::Rewrite),
            (90, 86, Due::Keep),
            (100, 95, Due::Rewrite),
            (100, 96, Due::Keep),
        ];
        for (used, live, due) in table {
            let found = fill(used).due(percent(LEN, live), Growth::Fixed);
            assert_eq!(found, due, "{used} % used, {live} % live");
        }
    }

    #[test]
    fn a_rewritten_log_is_not_due_again_at_once() {
        for used in 70..=100 {
            for live in 0..=used {
                if fill(used).due(percent(LEN, live), Growth::Fixed) == Due::Rewrite {
                    let after = fill(live);
                    assert_eq!(after.due(after.used, Growth::Fixed), Due::Keep);
                }
            }
        }
    }

    #[test]
    fn a_journal_grows_until_its_state_is_half_a_log_and_no_further_than_the_limit() {
        let due = |live, growth| fill(75).due(live, growth);
        assert_eq!(due(LEN / 2, Growth::Possible), Due::Rewrite);
        assert_eq!(due(LEN / 2 + 1, Growth::Possible), Due::Grow { len: 2 * LEN });
        assert_eq!(due(LEN / 2 + 1, Growth::Fixed), Due::Rewrite);
        assert_eq!(due(LEN + 1, Growth::Possible), Due::Grow { len: 4 * LEN });
        let longest = Fill { len: GROWN_LOG_BYTES_MAX, used: GROWN_LOG_BYTES_MAX };
        assert_eq!(longest.due(percent(longest.len, 60), Growth::Possible), Due::Rewrite);
        assert_eq!(longest.due(longest.len, Growth::Possible), Due::Keep);
        let odd = Fill { len: 3 << 28, used: 3 << 28 };
        assert_eq!(odd.due(odd.len, Growth::Possible), Due::Keep, "twice would be too long");
    }

    #[test]
    fn the_reserve_is_whole_pages_and_bounded() {
        assert_eq!(usual_limit(64 << 10), 56 << 10);
        assert_eq!(usual_limit(128 << 10), 112 << 10);
        assert_eq!(usual_limit(8 << 20), (8 << 20) - (512 << 10));
        assert_eq!(usual_limit(1 << 30), (1 << 30) - (512 << 10));
    }
}
