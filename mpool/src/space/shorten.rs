//! PURE: which objects move down, so that the end of a volume can be cut off.
//!
//! Only the end of a volume becomes shorter, and one object that lives there keeps it as long as it
//! is. Free ranges below it become holes, but a copy of the file, and its length, have all of it.
//! Rules, in order:
//!
//! 1. What is used, and what is free but was in use a short time ago, is needed. Nothing moves
//!    before the volume is longer than that by a [`LONG_PART`] and by [`LONG_MIN`].
//! 2. The end should come down to what is needed and a [`GOAL_PART`] of that, which leaves room for
//!    objects to fit, or to the end of the last log: logs stay where they are.
//! 3. All objects beyond it move below it, those at the end first.
//!
//! So a pool that is written to all the time is left alone, and what moves is at most as much as
//! the volume is too long by, and what objects in several extents have below the goal.

use super::{ALLOC_UNIT, extent::Extent};
use crate::id::MblockId;
use std::cmp::Reverse;

/// Nothing moves in a volume that is longer than needed by less than a fourth.
const LONG_PART: u64 = 4;
/// ... nor by less than this.
const LONG_MIN: u64 = 4 << 20;
/// An eighth more than what is needed is where the end should be.
const GOAL_PART: u64 = 8;

/// A volume that may be too long. Places are offsets within it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stretch {
    /// Bytes that are used, and those that were a short time ago.
    pub(crate) needed_bytes: u64,
    /// The end of the last log or segment.
    pub(crate) logs_end: u64,
    /// Each object and its last extent.
    pub(crate) objects: Vec<(MblockId, Extent)>,
}

/// What follows, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shorten {
    /// It is hardly longer than needed.
    Short,
    /// Too little lies beyond its last log.
    Logs,
    /// These move below `goal`, in this order.
    Move { goal: u64, ids: Vec<MblockId> },
}

/// Whether something ends so far behind what is needed that it is worth a look.
pub(crate) fn is_long(needed_bytes: u64, end: u64) -> bool {
    end > needed_bytes + (needed_bytes / LONG_PART).max(LONG_MIN)
}

/// Applies the rules.
pub(crate) fn choose(stretch: Stretch) -> Shorten {
    let Stretch { needed_bytes, logs_end, mut objects } = stretch;
    let objects_end = objects.iter().map(|(_, last)| last.end()).max().unwrap_or(0);
    let end = objects_end.max(logs_end);
    if !is_long(needed_bytes, end) {
        return Shorten::Short;
    }
    let wanted = (needed_bytes + needed_bytes / GOAL_PART).next_multiple_of(ALLOC_UNIT);
    let goal = wanted.max(logs_end);
    if end - goal < LONG_MIN {
        return Shorten::Logs;
    }
    objects.retain(|(_, last)| last.end() > goal);
    objects.sort_unstable_by_key(|(id, last)| (Reverse(last.end()), *id));
    Shorten::Move { goal, ids: objects.into_iter().map(|(id, _)| id).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Objects by (offset, length) in MiB; their ids begin with 1.
    fn stretch(needed: u64, logs_end: u64, objects: &[(u64, u64)]) -> Stretch {
        let object = |(n, (offset, len)): (usize, &(u64, u64))| {
            let id = MblockId::new(n as u64 + 1).unwrap();
            (id, Extent { offset: offset * MIB, len: len * MIB })
        };
        Stretch {
            needed_bytes: needed * MIB,
            logs_end: logs_end * MIB,
            objects: objects.iter().enumerate().map(object).collect(),
        }
    }

    fn moved(stretch: Stretch) -> Option<(u64, Vec<u64>)> {
        match choose(stretch) {
            Shorten::Move { goal, ids } => {
                Some((goal / MIB, ids.into_iter().map(MblockId::get).collect()))
            }
            Shorten::Short | Shorten::Logs => None,
        }
    }

    #[test]
    fn objects_beyond_what_is_needed_move_the_last_first() {
        let objects = [(90, 10), (10, 10), (150, 2), (50, 60), (89, 1)];
        assert_eq!(moved(stretch(80, 40, &objects)), Some((90, vec![3, 4, 1])));
        assert_eq!(moved(stretch(160, 40, &objects)), None, "it is as long as needed");
        assert_eq!(moved(stretch(122, 40, &objects)), None, "or nearly");
        assert_eq!(moved(stretch(121, 40, &objects)), Some((136, vec![3])));
    }

    #[test]
    fn logs_stay_and_nothing_below_the_last_one_moves() {
        let objects = [(90, 10), (150, 2)];
        assert_eq!(moved(stretch(20, 120, &objects)), Some((120, vec![2])));
        assert_eq!(choose(stretch(20, 149, &objects)), Shorten::Logs);
        assert_eq!(choose(stretch(20, 200, &objects)), Shorten::Logs);
    }

    #[test]
    fn a_small_volume_is_left_alone() {
        assert_eq!(choose(stretch(2, 1, &[(5, 1)])), Shorten::Short);
        assert_eq!(choose(Stretch::default()), Shorten::Short);
        assert!(moved(stretch(2, 1, &[(9, 1)])).is_some());
    }
}
