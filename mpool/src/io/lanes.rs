//! PURE: who goes first when the drive has room.
//!
//! Four lanes in order of urgency. A lane is served before every less urgent one, but each has a
//! share of the depth it cannot exceed: a flood of compaction writes leaves room for reads, and a
//! flood of reads leaves one request each to flush and compaction, so nothing starves.
//!
//! ```text
//! depth 64:   wal 64 | foreground reads 62 | flush 32 | compaction 16
//! ```

use crate::media::Priority;
use std::collections::VecDeque;

/// Requests that may wait per unit of depth before submitters are held.
pub(crate) const WAITING_PER_DEPTH: u32 = 16;

pub(crate) struct Lanes<T> {
    waiting: [VecDeque<T>; Priority::COUNT],
    running: [u32; Priority::COUNT],
    depth: u32,
}

impl<T> Lanes<T> {
    pub(crate) fn new(depth: u32) -> Self {
        assert!(depth > 0, "a queue without depth serves nobody");
        Self { waiting: Default::default(), running: [0; Priority::COUNT], depth }
    }

    pub(crate) fn push(&mut self, priority: Priority, item: T) {
        self.waiting[priority.index()].push_back(item);
    }

    /// Requests that have not been started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn running(&self) -> u32 {
        self.running.iter().sum()
    }

    /// True when `pop` would give something.
    pub(crate) fn has_next(&self) -> bool {
        self.next_lane().is_some()
    }

    /// The next request to start; the caller reports its end to [`finish`](Self::finish).
    pub(crate) fn pop(&mut self) -> Option<(Priority, T)> {
        let priority = self.next_lane()?;
        let item = self.waiting[priority.index()].pop_front()?;
        self.running[priority.index()] += 1;
        Some((priority, item))
    }

    pub(crate) fn finish(&mut self, priority: Priority) {
        let running = &mut self.running[priority.index()];
        *running = running.checked_sub(1).expect("a request ends once, after it started");
    }

    fn next_lane(&self) -> Option<Priority> {
        if self.running() >= self.depth {
            return None;
        }
        Priority::ALL.into_iter().find(|p| {
            let lane = p.index();
            !self.waiting[lane].is_empty() && self.running[lane] < self.share(*p)
        })
    }

    fn share(&self, priority: Priority) -> u32 {
        let share = match priority {
            Priority::Wal => self.depth,
            Priority::Read => self.depth.saturating_sub(2),
            Priority::Flush => self.depth / 2,
            Priority::Compaction => self.depth / 4,
        };
        share.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_lanes_go_first() {
        let mut lanes = Lanes::new(8);
        for priority in [Priority::Compaction, Priority::Read, Priority::Flush, Priority::Wal] {
            lanes.push(priority, ());
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.pop()).map(|(p, ())| p).collect();
        assert_eq!(order, Priority::ALL);
    }

    #[test]
    fn no_lane_takes_the_whole_depth_from_the_others() {
        let mut lanes = Lanes::new(8);
        (0..20).for_each(|_| lanes.push(Priority::Compaction, ()));
        let compactions = std::iter::from_fn(|| lanes.pop()).count();
        assert_eq!(compactions, 2);
        (0..20).for_each(|_| lanes.push(Priority::Read, ()));
        assert_eq!(std::iter::from_fn(|| lanes.pop()).count(), 6);
        lanes.push(Priority::Wal, ());
        assert!(lanes.pop().is_none(), "the depth is the limit of all together");
        lanes.finish(Priority::Read);
        assert_eq!(lanes.pop(), Some((Priority::Wal, ())));
    }

    #[test]
    fn reads_alone_leave_room_for_background_work() {
        let mut lanes = Lanes::new(8);
        (0..20).for_each(|_| lanes.push(Priority::Read, ()));
        assert_eq!(std::iter::from_fn(|| lanes.pop()).count(), 6);
        lanes.push(Priority::Compaction, ());
        assert_eq!(lanes.pop(), Some((Priority::Compaction, ())));
    }

    #[test]
    fn a_depth_of_one_serves_every_lane() {
        for priority in Priority::ALL {
            let mut lanes = Lanes::new(1);
            lanes.push(priority, ());
            assert!(lanes.has_next());
            assert_eq!(lanes.pop(), Some((priority, ())));
            assert_eq!((lanes.running(), lanes.waiting()), (1, 0));
        }
    }
}
