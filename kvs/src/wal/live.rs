//! How much log lies after the floor: what a replay would read.
//!
//! Counted by marks of a MiB, so that neither a frame nor a release of many is looked at one by
//! one.

use crate::key::Revision;
use std::collections::VecDeque;

/// Grain of [`Live::bytes`].
const MARK_BYTES: u64 = 1 << 20;

/// How much log lies after the floor, without looking at each frame.
#[derive(Default)]
pub(super) struct Live {
    /// Bytes of log ever counted, and those of them that are released.
    total: u64,
    released: u64,
    /// (revision, total after it), ascending, at least [`MARK_BYTES`] apart.
    marks: VecDeque<(Revision, u64)>,
    last: Revision,
}

impl Live {
    pub(super) fn advance(&mut self, bytes: u64, last: Revision) {
        self.total += bytes;
        self.last = last;
        let marked = self.marks.back().map_or(self.released, |(_, total)| *total);
        if self.total - marked >= MARK_BYTES {
            self.marks.push_back((last, self.total));
        }
    }

    pub(super) fn release(&mut self, floor: Revision) {
        while let Some((_, total)) = self.marks.front().filter(|(revision, _)| *revision <= floor) {
            self.released = *total;
            self.marks.pop_front();
        }
        if self.last <= floor {
            self.released = self.total;
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.total - self.released
    }
}
