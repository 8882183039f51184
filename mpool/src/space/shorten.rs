//! PURE: which objects move down, so that the end of a volume can be cut off, and what that takes.
//!
//! Only the end of a volume becomes shorter, and one object that lives there keeps it as long as it
//! is. Free ranges below it become holes, but a copy of the file, and its length, have all of it.
//! Rules, in order:
//!
//! 1. What is used, and what is free but was in use a short time ago, is needed. Nothing moves
//!    before the volume is longer than that by a [`LONG_PART`] and by [`LONG_MIN`].
//! 2. The end should come down to what is needed and a [`GOAL_PART`] of that, which leaves room for
//!    objects to fit, or to the end of the last log: logs stay where they are.
//! 3. All objects beyond it move below it, those at the end first. Where the last one does not fit
//!    there, it moves to the lowest place that it fits in: that is shorter, too.
//! 4. What fits nowhere is put off: behind it nothing can be cut off. Others move nevertheless if
//!    the range that they leave holds what is put off, with something to cut off behind it: the
//!    next look finds it room there. Otherwise nothing would be gained, and nothing moves.
//! 5. A move takes room twice until the last reader of the old place is gone. It waits while such
//!    places have a [`LEFT_PART`] of what is used, and where it would not leave the spare part and
//!    [`WRITERS_BYTES`]. The disk has what is free below already, as holes: a shorter file is no
//!    reason to refuse a put.
//!
//! So a pool that is written to all the time is left alone, and what moves is at most as much as
//! the volume is too long by, and what objects in several extents have below the goal. What has
//! moved below a goal moves again only if less is needed than then, so there is an end to it.

use super::lower::Below;
use crate::{
    address::{ALLOC_UNIT, Extent},
    id::MblockId,
};
use std::cmp::Reverse;

/// Nothing moves in a volume that is longer than needed by less than a fourth.
const LONG_PART: u64 = 4;
/// ... nor by less than this.
const LONG_MIN: u64 = 4 << 20;
/// An eighth more than what is needed is where the end should be.
const GOAL_PART: u64 = 8;
/// Objects put off in one look: each costs a search of what is free.
const PUT_OFF_MAX: u64 = 16;
/// Places that are left and still read have an eighth of what is used, or [`LONG_MIN`], or are
/// those of one object.
const LEFT_PART: u64 = 8;
/// More than memtables, log and one compaction of the engine take; of a small volume its half.
const WRITERS_BYTES: u64 = 1 << 30;

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
    Move(Moves),
}

/// What moves, and how far that has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) goal: u64,
    /// In reverse.
    left: Vec<(MblockId, Extent)>,
    /// Of what has moved and is beyond the goal: what lies before this keeps nothing long.
    settled_end: u64,
    /// What fits nowhere: how many, their bytes, and the end of the first, which is the last.
    put_off: u64,
    put_off_bytes: u64,
    put_off_end: u64,
}

impl Moves {
    fn new(goal: u64, mut objects: Vec<(MblockId, Extent)>) -> Self {
        objects.retain(|(_, last)| last.end() > goal);
        objects.sort_unstable_by_key(|(id, last)| (last.end(), Reverse(*id)));
        Self { goal, left: objects, settled_end: goal, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.left.len()
    }

    /// What moves next, and where to; `None` if that is all, or the rest would move in vain.
    pub(crate) fn next(&self) -> Option<(MblockId, Below)> {
        let (id, last) = *self.left.last()?;
        let goal = self.goal;
        if self.put_off == 0 {
            let lower = last.end().saturating_sub(LONG_MIN);
            let else_lowest = (lower > goal).then_some(lower);
            return (last.end() > self.settled_end).then_some((id, Below { goal, else_lowest }));
        }
        let pays = goal + self.put_off_bytes + LONG_MIN <= self.put_off_end;
        let goes_on = pays && self.put_off <= PUT_OFF_MAX;
        goes_on.then_some((id, Below { goal, else_lowest: None }))
    }

    /// The next one is where it ends at `end`, or gone.
    pub(crate) fn done(&mut self, end: u64) {
        self.left.pop();
        self.settled_end = self.settled_end.max(end);
    }

    /// The next one, of so many bytes, fits nowhere.
    pub(crate) fn put_off(&mut self, bytes: u64) {
        let (_, last) = self.left.pop().expect("it was the next");
        self.put_off += 1;
        self.put_off_bytes += bytes;
        self.put_off_end = self.put_off_end.max(last.end());
    }
}

/// What a move may use.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units stand last in names")]
pub(crate) struct Means {
    pub(crate) used_bytes: u64,
    /// Of them at places that were left and are still read.
    pub(crate) left_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) spare_bytes: u64,
}

/// Whether an object of so many bytes may take room twice for a while.
pub(crate) fn affords(means: Means, bytes: u64) -> bool {
    let Means { used_bytes, left_bytes, free_bytes, spare_bytes } = means;
    let left_max = (used_bytes / LEFT_PART).max(LONG_MIN);
    let writers = WRITERS_BYTES.min(u64::midpoint(used_bytes, free_bytes));
    (left_bytes == 0 || left_bytes + bytes <= left_max)
        && free_bytes >= spare_bytes.saturating_add(writers).saturating_add(bytes)
}

/// Whether something ends so far behind what is needed that it is worth a look.
pub(crate) fn is_long(needed_bytes: u64, end: u64) -> bool {
    end > needed_bytes + (needed_bytes / LONG_PART).max(LONG_MIN)
}

/// Applies the rules.
pub(crate) fn choose(stretch: Stretch) -> Shorten {
    let Stretch { needed_bytes, logs_end, objects } = stretch;
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
    Shorten::Move(Moves::new(goal, objects))
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
            Shorten::Move(moves) => {
                let ids = moves.left.iter().rev().map(|(id, _)| id.get()).collect();
                Some((moves.goal / MIB, ids))
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

    /// Moves below 90 MiB.
    fn moves(objects: &[(u64, u64)]) -> Moves {
        let Shorten::Move(moves) = choose(stretch(80, 40, objects)) else { panic!("it is long") };
        assert_eq!(moves.goal, 90 * MIB);
        moves
    }

    /// The id and, in MiB, the end of what is as low as it goes.
    fn next(moves: &Moves) -> Option<(u64, Option<u64>)> {
        moves.next().map(|(id, below)| (id.get(), below.else_lowest.map(|end| end / MIB)))
    }

    #[test]
    fn the_last_one_moves_as_low_as_it_goes_and_what_is_below_it_then_stays() {
        let mut moves = moves(&[(100, 2), (150, 2), (120, 1), (92, 1)]);
        assert_eq!(next(&moves), Some((2, Some(148))));
        moves.done(110 * MIB);
        assert_eq!(next(&moves), Some((3, Some(117))));
        moves.done(80 * MIB);
        assert_eq!(next(&moves), None, "the others lie before what has moved");
    }

    #[test]
    fn others_move_for_what_fits_nowhere_if_that_makes_room_for_it() {
        let objects = [(150, 3), (120, 10), (110, 1)];
        let mut some = moves(&objects);
        some.put_off(3 * MIB);
        assert_eq!(next(&some), Some((2, None)), "anywhere else is no gain");
        some.put_off(10 * MIB);
        assert_eq!(next(&some), Some((3, None)));
        some.done(80 * MIB);
        assert_eq!(next(&some), None);
        let mut moves = moves(&objects);
        moves.put_off(60 * MIB);
        assert_eq!(next(&moves), None, "90 and 60 and something is no less than 153");
    }

    #[test]
    fn what_is_put_off_in_one_look_is_bounded() {
        let objects: Vec<(u64, u64)> = (100..200).map(|at| (at, 1)).collect();
        let mut moves = moves(&objects);
        let mut count = 0;
        while moves.next().is_some() {
            moves.put_off(MIB / 8);
            count += 1;
        }
        assert_eq!(count, PUT_OFF_MAX + 1);
    }

    #[test]
    fn moves_wait_for_readers_and_leave_what_writers_need() {
        let means = |used, left, free, spare| Means {
            used_bytes: used * MIB,
            left_bytes: left * MIB,
            free_bytes: free * MIB,
            spare_bytes: spare * MIB,
        };
        assert!(affords(means(800, 98, 9000, 100), 2 * MIB));
        assert!(!affords(means(800, 99, 9000, 100), 2 * MIB), "readers hold an eighth");
        assert!(affords(means(800, 0, 9000, 100), 200 * MIB), "one object always moves");
        assert!(!affords(means(800, 1, 9000, 100), 200 * MIB));
        assert!(affords(means(8, 2, 9000, 100), 2 * MIB), "of a small volume 4 MiB");
        assert!(affords(means(8000, 0, 1126, 100), 2 * MIB));
        assert!(!affords(means(8000, 0, 1125, 100), 2 * MIB), "the spare part and 1 GiB stay");
        assert!(affords(means(40, 0, 70, 10), 2 * MIB));
        assert!(!affords(means(60, 0, 70, 10), 2 * MIB), "of a small volume its half");
    }
}
