//! Second looks at index pages that the kernel may have read in by itself.
//!
//! A page that has passed its checksum can be evicted by the kernel behind our back, and the next
//! touch brings it back from the drive unchecked, while its state still says *verified*. Nothing
//! tells which page that was. Two signs are cheap:
//!
//! - The process's count of major faults. While it stands still, nothing has come back by a fault,
//!   and a tick costs one system call.
//! - Fewer cached pages of an object than we believe resident: the kernel has been there.
//!
//! When the first moves, a round over all objects with verified pages starts, [`LOOKS_PER_TICK`] a
//! tick. An object that shows the second sign loses the verification of *all* its pages, because
//! others of it may have gone and come back. Pages that all came back before anybody looked show no
//! sign; against those each tick that saw the count move also doubts [`DOUBTS_PER_TICK`] pages in
//! turn, whoever's they are. So while faults go on, every index page is checked anew within index
//! bytes / 16 MiB seconds (a minute a GiB, at 0.4 % of a core), and in a quiet process none is.
//!
//! What remains: the use of such a page between its return and that moment, and processes whose
//! reaper does not run. Records carry checksums of their own, so values are not concerned.

use super::{Mcache, evict::cached_pages, object::Object};
use crate::sys::faults;

/// Objects of the registry that a tick passes over at most.
const OBJECTS_PER_TICK: usize = 256;
/// Objects compared with the page cache in a tick: 1-50 us each.
const LOOKS_PER_TICK: usize = 8;
/// Pages doubted in a tick that saw a fault; each costs its next reader a checksum, 1 us.
const DOUBTS_PER_TICK: u32 = 40;

/// Where the rounds are.
#[derive(Debug, Default)]
pub(crate) struct Recheck {
    faults: u64,
    round: Round,
    /// The count has moved since the round began.
    again: bool,
    /// Of the doubts: the object before, and pages of the next that had their turn.
    doubts_after: (Option<u64>, u32),
}

/// A round of looks over all objects.
#[derive(Clone, Copy, Debug, Default)]
enum Round {
    #[default]
    Over,
    /// Goes on after this object; before the first there is none.
    After(Option<u64>),
}

impl Mcache {
    /// One step; called every tick of the reaper.
    pub(crate) fn recheck(&self) {
        if let Ok(faults) = faults::major_faults() {
            self.recheck_at(faults);
        }
    }

    /// One step, with this many major faults so far.
    pub(super) fn recheck_at(&self, faults: u64) {
        let mut recheck = self.recheck.lock();
        if faults != recheck.faults {
            recheck.faults = faults;
            recheck.again = true;
            recheck.doubts_after = self.doubt_some(recheck.doubts_after);
        }
        // A round under way has passed some objects already: another follows.
        if matches!(recheck.round, Round::Over) && std::mem::take(&mut recheck.again) {
            recheck.round = Round::After(None);
        }
        if let Round::After(after) = recheck.round {
            recheck.round = self.look_at_some(after);
        }
    }

    /// Looks at a few objects after `after`.
    fn look_at_some(&self, mut after: Option<u64>) -> Round {
        let objects = self.objects_after(after, OBJECTS_PER_TICK);
        let mut looks = 0;
        for object in &objects {
            if looks == LOOKS_PER_TICK {
                return Round::After(after);
            }
            if object.states.is_verified() {
                looks += 1;
                self.look_at(object);
            }
            after = Some(object.key());
        }
        if objects.len() == OBJECTS_PER_TICK { Round::After(after) } else { Round::Over }
    }

    fn look_at(&self, object: &Object) {
        let ours = u64::from(object.states.resident());
        if cached_pages(object).is_none_or(|cached| cached >= ours) {
            return;
        }
        self.resync_pages(object);
        self.doubt(object, 0..object.states.len());
    }

    fn doubt_some(&self, (mut after, mut page): (Option<u64>, u32)) -> (Option<u64>, u32) {
        let mut left = DOUBTS_PER_TICK;
        let objects = self.objects_after(after, OBJECTS_PER_TICK);
        for object in &objects {
            if object.states.is_verified() {
                let end = object.states.len().min(page.saturating_add(left));
                self.doubt(object, page..end);
                left -= end.saturating_sub(page);
                if left == 0 {
                    return (after, end);
                }
            }
            (after, page) = (Some(object.key()), 0);
        }
        if objects.len() == OBJECTS_PER_TICK { (after, 0) } else { (None, 0) }
    }

    fn doubt(&self, object: &Object, pages: std::ops::Range<u32>) {
        let doubted = pages.filter(|page| object.states.unverify(*page)).count();
        self.metrics.doubted_pages.add(doubted as u64);
    }
}
