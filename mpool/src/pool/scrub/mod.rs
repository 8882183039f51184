//! Scrub: verifying everything that a pool has stored, while it is in use.
//!
//! A pass goes through the superblock's copies, the labels of the volumes, the frames of all
//! journals, the segments, and every page of every mblock with its table of checksums. It reads
//! past the page cache, in small pieces, one at a time, behind whoever is more urgent, and no
//! faster than it is told. It can be stopped at any time and goes on from there, also after a
//! restart: its place is a property of the pool, written now and then.
//!
//! What it finds is a [`Finding`]: which object, where in it, where on which volume, and whose it
//! is in the words of the pool's user. Nothing is repaired: a pool has one copy of its data. (Of
//! superblock, labels and journals it has two, and the bad one is written again at the next open.)
//!
//! Not covered, because nothing depends on it: free space, dead bytes in journals behind their
//! tails, and padding behind an object's last page. Segments are verified by their owner, through
//! [`ScrubOwners::segment`].

mod run;
#[cfg(test)]
mod tests;

pub use crate::verify::finding::{Damage, Finding, ScrubPart, ScrubTarget};

use crate::{
    error::{Error, Result},
    id::MblockId,
    object::{segment::Segment, sums},
    options::in_range,
    pool::Pool,
    verify::{
        control::Seen,
        reader::Reader,
        state::{self, Stage, State},
    },
};
use mpool_device::IO_ALIGN;
use run::{Scrub, now_s};
use std::sync::Arc;

/// How to scrub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes verified per second at most; 0 = as fast as the drive and its other users allow.
    /// Default 64 MiB: a terabyte in five hours.
    pub bytes_per_s: u64,
    /// Bytes of one read, 4 KiB..=1 MiB, a multiple of 4 KiB. Default 128 KiB: a foreground read
    /// waits for at most one of these at the drive.
    pub read_bytes: usize,
    /// Begin a new pass even if an earlier one was stopped before its end. Default false.
    pub from_start: bool,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_s: 64 << 20, read_bytes: 128 << 10, from_start: false }
    }
}

/// What the owner of a segment found in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentScrub {
    /// Bytes that it verified.
    pub bytes: u64,
    /// Damaged places: offset within the segment, and length, both in whole pages.
    pub damaged: Vec<(u64, u64)>,
}

/// Verifies a segment; `None` if nothing in it can be verified at the moment. It calls its second
/// argument before it reads so many bytes, which keeps the scrub's pace, and ends when that is
/// false.
pub type VerifySegment<'a> =
    &'a (dyn Fn(&Segment, &mut dyn FnMut(u64) -> bool) -> Option<SegmentScrub> + 'a);

/// What only the pool's user knows.
#[derive(Clone, Copy)]
pub struct ScrubOwners<'a> {
    /// Names whose the damaged place is: "kvset 17 of users, vblock", say. Asked once a finding, so
    /// it may read.
    pub owner_of: &'a dyn Fn(&Finding) -> Option<String>,
    /// Verifies a segment.
    pub segment: VerifySegment<'a>,
}

impl Default for ScrubOwners<'_> {
    fn default() -> Self {
        Self { owner_of: &|_| None, segment: &|_, _| None }
    }
}

/// How far a scrub is, or what the last one came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// A scrub is running.
    pub running: bool,
    /// A pass has begun and not come to its end; the next scrub goes on with it.
    pub under_way: bool,
    /// What is being verified: "heads", "journals", "segments" or "mblocks".
    pub stage: &'static str,
    /// Number of the object that is next, within the stage.
    pub next_id: u64,
    /// Bytes verified in this pass.
    pub bytes: u64,
    /// What this pass will have verified at its end, about: `bytes`, and the mblocks that are left.
    pub goal_bytes: u64,
    /// Objects verified in this pass.
    pub objects: u64,
    /// When this pass began, seconds since 1970.
    pub began_s: u64,
    /// When the last whole pass ended, seconds since 1970; 0 = never.
    pub completed_s: u64,
    /// Whole passes of this pool.
    pub passes: u64,
    /// Findings of this pass, those included that are not listed.
    pub findings_total: u64,
    /// The first 30 findings of this pass.
    pub findings: Vec<Finding>,
}

impl Pool {
    /// Verifies everything that the pool has stored, on the calling thread; goes on with an earlier
    /// pass that was stopped. Returns when the pass is complete or [`Pool::stop_scrub`] was called.
    /// Findings are no error: they are in the result, in the log and in the metrics.
    ///
    /// [`Error::Options`] if a scrub is running; [`Error::Corrupt`] ends it where a journal is of a
    /// format that this program does not know.
    pub fn scrub(
        self: &Arc<Self>,
        options: &ScrubOptions,
        owners: &ScrubOwners<'_>,
    ) -> Result<ScrubProgress> {
        let (align, max) = (IO_ALIGN as u64, 1 << 20);
        in_range("read_bytes of a scrub", options.read_bytes as u64, align, max)?;
        if !options.read_bytes.is_multiple_of(IO_ALIGN) {
            let text = format!("read_bytes of a scrub must be a multiple of {IO_ALIGN}");
            return Err(Error::Options(text));
        }
        let Some(turn) = self.scrubbing.begin() else {
            let text = "a scrub is running already; stop it first, or wait for its end";
            return Err(Error::Options(text.to_owned()));
        };
        let mut state = self.stored_scrub();
        if options.from_start || !state.under_way {
            let State { completed_s, passes, .. } = state;
            let (under_way, began_s) = (true, now_s());
            state = State { under_way, began_s, completed_s, passes, ..State::default() };
        }
        for finding in &mut state.findings {
            finding.owner = (owners.owner_of)(finding);
        }
        let pace = (options.bytes_per_s, options.read_bytes);
        let reader = Reader::paced((&self.volumes, &self.queue), &self.scrubbing, pace);
        let mut scrub = Scrub::new(self, owners, state, reader);
        let outcome = scrub.run();
        scrub.show();
        scrub.save();
        drop(turn);
        outcome.map(|()| self.scrub_progress())
    }

    /// How far the running scrub is, or the last one came. Owners are named for findings of scrubs
    /// that ran in this process.
    pub fn scrub_progress(&self) -> ScrubProgress {
        let (running, seen) = self.scrubbing.look();
        let seen = seen.unwrap_or_else(|| {
            let state = self.stored_scrub();
            Seen { goal_bytes: self.scrub_goal_bytes(&state), state }
        });
        let Seen { state, goal_bytes } = seen;
        let stage = match state.stage {
            Stage::Heads => "heads",
            Stage::Journals => "journals",
            Stage::Segments => "segments",
            Stage::Mblocks => "mblocks",
        };
        ScrubProgress {
            running,
            under_way: state.under_way,
            stage,
            next_id: state.next_id,
            bytes: state.bytes,
            goal_bytes,
            objects: state.objects,
            began_s: state.began_s,
            completed_s: state.completed_s,
            passes: state.passes,
            findings_total: state.findings_total.into(),
            findings: state.findings,
        }
    }

    /// Asks the running scrub to end, and waits until it has; it goes on from there the next time.
    /// False if none runs.
    pub fn stop_scrub(&self) -> bool {
        self.scrubbing.stop()
    }

    /// What an earlier process has verified, for the metrics.
    pub(crate) fn publish_scrub(&self) {
        let state = self.stored_scrub();
        let metrics = self.metrics();
        metrics.scrub_completed_s.set(state.completed_s);
        metrics.scrub_position_bytes.set(state.bytes);
        metrics.scrub_goal_bytes.set(self.scrub_goal_bytes(&state));
    }

    fn stored_scrub(&self) -> State {
        let stored = self.property(state::PROPERTY);
        stored.and_then(|bytes| State::decode(&bytes)).unwrap_or_default()
    }

    /// What the pass will have read at its end. How much there is in journals and segments shows
    /// only as they are read, so they count once they were.
    fn scrub_goal_bytes(&self, state: &State) -> u64 {
        if !state.under_way && state.passes > 0 {
            return state.bytes;
        }
        let next_id = if state.stage == Stage::Mblocks { state.next_id } else { 0 };
        let first = MblockId::new(next_id.max(1)).expect("not 0");
        let table = self.table.read();
        let left = table.mblocks.range(first..).map(|(_, mblock)| mblock.len_bytes());
        state.bytes + left.map(sums::total_len).sum::<u64>()
    }
}
