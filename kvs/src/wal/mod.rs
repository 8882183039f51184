//! The write-ahead log: frames of batches in recycled segments of the pool.
//!
//! ```text
//!  spare      closed          closed          tail
//! [ old ]   [ 41: 100.. ]   [ 42: 180.. ]   [ 43: 231.. | free ]
//!            every frame up to the next segment's first is durable
//! ```
//!
//! One segment is the tail and takes frames (`append`). When a group of frames does not fit, the
//! tail is made durable and closed, and a spare segment, or a new one, gets the next sequence
//! number. `release` turns closed segments that hold nothing later than the floor into spares. So
//! in the steady state no segment is created, and a durable append is one write to blocks that were
//! written before. When nothing is put any more, the log goes over to one short
//! segment, and gives the others back (`spares`).
//!
//! On a volume that is being emptied, the next append leaves the tail, spares are deleted, and so
//! are closed segments once they are released; so the log has left when everything in it is
//! flushed.
//!
//! A revision names one batch for ever. Whatever was given out and is in no frame after a crash had
//! its frame in the tail behind the last one that can be read, for the log before the tail is
//! durable. So an open skips as many revisions as frames would have fitted there, and the next
//! segment's head says so. A clean close leaves a mark (`mark`), and the open after it skips none.
//!
//! A segment that is taken into use is noted in the pool (`note`), so that rot at its start is not
//! taken for a log that ended before it. What no evidence tells from a torn tail is rot in the last
//! write before a crash, and in what was written without asking for durability just before it.
//!
//! Cost of a group: one copy of its bytes, one CRC-32C of them, one write padded to 4 KiB.
//!
//! An `Err` other than a full pool leaves the log in an unknown state: the owner must not use it
//! again. `Error::LogFull` comes before anything is logged.
//!
//! Not here: who may append and when it is durable (`write::group`), what a bad frame means
//! (`replay`), how bytes lie in a segment (`segment_head`, `frame`, and `wide` in those of earlier
//! programs).

mod ahead;
mod append;
#[cfg(test)]
mod crash_tests;
mod damage;
#[cfg(test)]
mod damage_tests;
mod frame;
mod live;
pub(crate) mod mark;
mod metrics;
mod note;
#[cfg(test)]
mod old_tests;
mod reader;
pub(crate) mod recovery;
mod replay;
mod scrub;
mod segment_head;
mod spares;
mod survey;
#[cfg(test)]
mod tests;
mod wide;

pub(crate) use damage::Hole;
pub(crate) use metrics::WalMetrics;
pub(crate) use scrub::{Damaged, Verified, sequence_of, verify};
pub(crate) use spares::Wanted;
pub(crate) use survey::{ends, survey};

use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result, Scope};
use crate::key::Revision;
use crate::options::Options;
use crate::progress::OpenProgress;
use crate::wal::mark::{LogEnd, Mark};
use append::Tail;
use damage::Damage;
use frame::{Frames, PAGE_BYTES, frame_len_max, frame_len_min};
use live::Live;
use mpool::{Pool, Segment, SegmentId};
use note::Note;
use replay::Way;
use segment_head::SegmentHead;
use std::collections::VecDeque;
use std::sync::Arc;

/// The log.
pub(crate) struct Wal {
    pool: Arc<Pool>,
    segment_bytes: u64,
    memtable_bytes: u64,
    /// Shortest segment that takes any group: those of an earlier setting may be shorter.
    least_bytes: u64,
    /// The segment of a log that rests.
    short_bytes: u64,
    tail: Option<Tail>,
    /// Oldest first.
    closed: VecDeque<Closed>,
    spares: Vec<Segment>,
    /// Whether the last segment that was filled was synced often: then it costs zeros to make one.
    syncs_often: bool,
    /// Greatest sequence number given to a segment.
    sequence: u64,
    /// Of the last frame, or what kvsets held beyond it at the open.
    end: Revision,
    /// The last one in use; greater than `end` until the first append after an open that skipped.
    last: Revision,
    /// Everything up to it is on stable storage.
    durable: Revision,
    live: Live,
    metrics: Arc<WalMetrics>,
}

/// A segment that takes no more frames.
struct Closed {
    segment: Segment,
    /// Of its last frame.
    end: Revision,
    /// The last revision that may have been in it: what the floor must reach before the segment,
    /// and with it the knowledge of what was skipped, may go.
    last: Revision,
    /// Whether it may have another life. One whose head is damaged is deleted instead.
    is_whole: bool,
}

/// What replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Frames given to `apply`.
    pub(crate) frames: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    /// Bytes of log that they took.
    pub(crate) log_bytes: u64,
    /// Of the last frame, or the floor where that is greater.
    pub(crate) end: Revision,
    /// The last revision in use: `end`, and what is skipped after a crash.
    pub(crate) last: Revision,
    /// What was left out because of damage, as the options ask.
    pub(crate) holes: Vec<Hole>,
}

impl Wal {
    /// Opens the pool's segments, replays every frame with a revision after `floor` in order into
    /// `apply`, and is ready to append. A torn tail ends the log; a gap before a frame, or before
    /// the end of a clean close, that proves the missing ones durable is [`Error::Corrupt`].
    pub(crate) fn open(
        pool: &Arc<Pool>,
        options: &Options,
        floor: Revision,
        progress: &OpenProgress,
        apply: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
    ) -> Result<(Self, Replayed)> {
        let metrics = Arc::new(WalMetrics::default());
        let segment_bytes = options.wal_segment_bytes / PAGE_BYTES * PAGE_BYTES;
        let batch_bytes = options.batch_bytes_max() as u64;
        let mut wal = Self {
            pool: Arc::clone(pool),
            segment_bytes,
            memtable_bytes: options.memtable_bytes,
            least_bytes: segment_bytes.min(batch_bytes / 15 * 16 + 2 * PAGE_BYTES),
            short_bytes: spares::SHORT_BYTES.min(segment_bytes),
            tail: None,
            closed: VecDeque::new(),
            spares: Vec::new(),
            syncs_often: false,
            sequence: 0,
            end: floor,
            last: floor,
            durable: floor,
            live: Live::default(),
            metrics,
        };
        let damage = Damage::new(options.salvage.log);
        let replayed = wal.recover(floor, damage, progress, apply)?;
        wal.metrics.replay_bytes.add(replayed.bytes);
        Ok((wal, replayed))
    }

    fn recover(
        &mut self,
        floor: Revision,
        mut damage: Damage,
        progress: &OpenProgress,
        apply: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
    ) -> Result<Replayed> {
        let closed = Mark::read(&self.pool)?.map(|mark| mark.log);
        let found = replay::find(&self.pool, floor, closed, &mut damage)?;
        self.sequence = found.sequence.max(closed.map_or(0, |closed| closed.sequence));
        self.spares = found.spares;
        let mut replayed = Replayed { end: floor, last: floor, ..Replayed::default() };
        progress.expect_log(found.runs.iter().map(|run| run.segment.len_bytes()).sum());
        let mut done = 0;
        for run in found.runs {
            let (pool, reached) = (&*self.pool, |at| progress.reached_log(done + at));
            let way = Way { floor, pool, reached: &reached };
            let walked = replay::walk(&run, &way, &mut damage, apply)?;
            done += run.segment.len_bytes();
            progress.reached_log(done);
            replayed.frames += walked.frames;
            replayed.bytes += walked.bytes;
            replayed.log_bytes += walked.log_bytes;
            replayed.end = replayed.end.max(walked.last);
            replayed.last =
                replayed.end.max(walked.last.plus(unread_frames(&run.segment, &walked)));
            self.live.advance(walked.end - PAGE_BYTES, replayed.end);
            let (end, last, is_whole) = (walked.last, replayed.end, run.is_whole);
            self.closed.push_back(Closed { segment: run.segment, end, last, is_whole });
        }
        if let Some(closed) = closed {
            if let Err(Error::Corrupt { what, reason }) = closed.check(replayed.end) {
                let lost = (replayed.end.next(), closed.end);
                damage.meet(what, reason, Some(lost))?;
                replayed.end = closed.end;
            }
            replayed.last = replayed.last.max(replayed.end);
            if found.sequence <= closed.sequence && replayed.end <= closed.end {
                replayed.last = replayed.end.max(closed.last);
            }
        }
        for segment in found.strays {
            // Frames of it may have been given out.
            replayed.last = replayed.last.plus(segment.len_bytes() / frame_len_min());
            let end = replayed.end;
            self.closed.push_back(Closed { segment, end, last: end, is_whole: false });
        }
        if let Some(tail) = self.closed.back_mut() {
            tail.last = replayed.last;
        }
        replayed.holes = damage.into_holes();
        if replayed.frames > 0 {
            // It may be in the drive's cache only: a killed process, then a power cut, must not
            // lose what this open has shown.
            self.pool.flush()?;
        }
        (self.end, self.last, self.durable) = (replayed.end, replayed.last, replayed.last);
        if replayed.last > replayed.end {
            let (after, last) = (replayed.end, replayed.last);
            tracing::info!(%after, %last, "revisions are skipped: a crash may have lost writes \
                that had them");
        }
        if let Err(error) = self.release(floor) {
            tracing::warn!(%error, "segments that are not needed stay until the next release");
        }
        Ok(replayed)
    }

    /// Appends frames for consecutive revisions starting at `first`. Durable: on stable storage on
    /// return, with everything before. Not durable: buffered in memory up to 1 MiB.
    ///
    /// # Panics
    ///
    /// If `first` does not follow the last revision, or the frames together exceed a segment.
    pub(crate) fn append(
        &mut self,
        first: Revision,
        batches: &[&WriteBatch],
        durable: bool,
    ) -> Result<()> {
        assert_eq!(first, self.last.next(), "revisions are consecutive");
        let len = batches.iter().map(|batch| frame_len_max(body_len(batch))).sum();
        let mut tail = match self.tail.take() {
            Some(tail) if tail.room_bytes() >= len && self.is_leaving(tail.segment()) => {
                self.rotate_or_stay(tail, len)?
            }
            Some(tail) if tail.room_bytes() >= len => tail,
            full => self.rotate(full, len)?,
        };
        let start = tail.position();
        for batch in batches {
            let revision = self.last.next();
            tail.push(revision, self.durable, batch.body())?;
            self.last = revision;
        }
        self.end = self.last;
        if durable {
            tail.sync(&self.pool)?;
            self.durable = self.last;
        }
        self.live.advance(tail.position() - start, self.last);
        self.tail = Some(tail);
        self.metrics.appends.add(1);
        self.metrics.frames.add(u64::try_from(batches.len()).expect("a count in memory"));
        Ok(())
    }

    /// As [`rotate_now`](Self::rotate_now), and counts how long the writer waits.
    fn rotate(&mut self, tail: Option<Tail>, len: u64) -> Result<Tail> {
        let metrics = Arc::clone(&self.metrics);
        metrics.rotation_times.time(|| self.rotate_now(tail, len))
    }

    /// Closes the tail, if there is one, and starts the next segment, with room for `len`.
    fn rotate_now(&mut self, tail: Option<Tail>, len: u64) -> Result<Tail> {
        assert!(len <= self.least_bytes - PAGE_BYTES, "a group fits in a segment");
        let segment = match self.spare(len, tail.as_ref()) {
            Ok(segment) => segment,
            Err(error) => {
                // Nothing was logged: the next append finds the log as it was.
                self.tail = tail;
                return Err(error);
            }
        };
        if let Some(mut tail) = tail {
            tail.sync(&self.pool)?;
            self.syncs_often = tail.syncs_often();
            let (end, last) = (self.end, self.last);
            let segment = tail.into_segment();
            self.closed.push_back(Closed { segment, end, last, is_whole: true });
        }
        self.durable = self.last;
        self.sequence += 1;
        let (sequence, first, gap) = (self.sequence, self.last.next(), self.gap());
        let head = SegmentHead { sequence, first, gap, frames: Frames::Compact };
        let note = Note { segment: segment.id().get(), head };
        let tail = Tail::start(segment, head, Arc::clone(&self.metrics))?;
        match note.leave(&self.pool) {
            // The log is as good without, only rot at the segment's start may be taken for its end.
            Err(error) if error.scope() == Scope::Moment => {
                tracing::warn!(%error, "no room to note the log's new segment");
                Ok(tail)
            }
            noted => noted.map(|()| tail),
        }
    }

    /// Leaves a volume for another, if another has room.
    fn rotate_or_stay(&mut self, tail: Tail, len: u64) -> Result<Tail> {
        match self.rotate(Some(tail), len) {
            Err(error) if error.scope() == Scope::Moment => {
                Ok(self.tail.take().expect("it was put back"))
            }
            outcome => outcome,
        }
    }

    /// Whether a segment is on a volume that is being emptied.
    fn is_leaving(&self, segment: &Segment) -> bool {
        self.pool.is_evacuating(segment.volume())
    }

    /// Takes no more frames, and keeps no spares, on volumes that are being emptied. What is left
    /// there goes when it is released. `Error::LogFull` if no other volume has room.
    pub(crate) fn leave_volumes(&mut self) -> Result<()> {
        if self.tail.as_ref().is_some_and(|tail| self.is_leaving(tail.segment())) {
            let tail = self.tail.take();
            self.tail = Some(self.rotate(tail, 0)?);
        }
        self.delete_surplus()
    }

    /// Everything appended so far onto stable storage.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if let Some(tail) = &mut self.tail {
            let start = tail.position();
            tail.sync(&self.pool)?;
            self.live.advance(tail.position() - start, self.last);
        }
        self.durable = self.last;
        Ok(())
    }

    /// Revisions before the next one that are in no frame of this log.
    fn gap(&self) -> u32 {
        let gap = self.last.get().saturating_sub(self.end.get());
        u32::try_from(gap).expect("fewer than the frames of a segment of 1 GiB")
    }

    /// Where it ends, with everything on stable storage; for the mark of a clean close. Nothing may
    /// be appended after.
    pub(crate) fn end(&mut self) -> Result<LogEnd> {
        self.sync()?;
        let Self { sequence, end, last, .. } = *self;
        Ok(LogEnd { sequence, end, last })
    }

    /// Bytes of log after the released floor, which a replay would apply; to within 1 MiB.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.bytes()
    }

    /// The last durable revision in a segment; `None` if there is no log in it.
    pub(crate) fn last_in(&self, segment: SegmentId) -> Option<Revision> {
        if self.tail.as_ref().is_some_and(|tail| tail.segment().id() == segment) {
            return Some(self.durable);
        }
        let closed = self.closed.iter().find(|closed| closed.segment.id() == segment);
        closed.map(|closed| closed.end)
    }

    /// The last revision appended.
    pub(crate) fn last(&self) -> Revision {
        self.last
    }

    /// Whether something appended may not be on stable storage.
    #[cfg(test)]
    pub(crate) fn is_dirty(&self) -> bool {
        self.durable < self.last
    }

    pub(crate) fn metrics(&self) -> &Arc<WalMetrics> {
        &self.metrics
    }
}

/// Frames that may have been in a segment behind what a walk has read.
fn unread_frames(segment: &Segment, walked: &replay::Walked) -> u64 {
    (segment.len_bytes() - walked.end) / frame_len_min()
}

fn body_len(batch: &WriteBatch) -> u64 {
    u64::try_from(batch.len_bytes()).expect("a length in memory")
}
