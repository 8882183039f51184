//! Room for a group before it is logged: the sink says what to wait for, the leader waits.

use super::{CommitSink, Shared};
use crate::debt::patience::{STOP_MAX, Waited};
use crate::debt::stall::StallReason;
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Whether there is room for a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// There is. The log is to have so many segments before it needs them, if a count is given.
    Made { log_segments: Option<u64> },
    /// There may be after a ring of the bell that follows the first `seen`.
    Wait { at_most: Duration, reason: StallReason, seen: u64 },
}

/// A flush of what the log holds, because it has no room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogFlush {
    /// The newest revision to be flushed; `None`: there is nothing.
    pub(crate) newest: Option<Revision>,
    /// Jobs that had failed before.
    pub(crate) job_failures: u64,
}

/// What has come of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogRoom {
    /// Up to here everything is in kvsets.
    Made(Revision),
    /// It cannot be done now.
    None,
    /// As with [`Room::Wait`].
    Wait { at_most: Duration, seen: u64 },
}

/// What a wait has brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Relief {
    /// Up to here everything is in kvsets, by a flush of the leader's own.
    pub(crate) floor: Option<Revision>,
    /// Something was done, or may be: another look is worth it.
    pub(crate) is_hopeful: bool,
}

impl<S: CommitSink> Shared<S> {
    /// Waits until there is room for the batches, or there will be none.
    pub(super) fn make_room(&self, batches: &[&WriteBatch]) -> Result<()> {
        let start = Instant::now();
        let mut waited = Waited::default();
        loop {
            let live = self.wal_live_bytes.load(Ordering::Relaxed);
            match self.sink.make_room(batches, live, waited)? {
                Room::Made { log_segments } => {
                    if let Some(count) = log_segments {
                        self.ready_log(count);
                    }
                    return Ok(());
                }
                Room::Wait { at_most, reason, seen } => {
                    waited.in_vain = !self.wait((at_most, seen), reason)?;
                    waited.time = start.elapsed();
                    waited.is_delayed = waited.time >= at_most;
                }
            }
        }
    }

    /// Flushes what the log holds, because it has no room. The floor after that; `None` if that
    /// cannot be done now.
    pub(super) fn flush_log(&self) -> Result<Option<Revision>> {
        let flush = self.sink.flush_log();
        let start = Instant::now();
        loop {
            let (at_most, seen) = match self.sink.log_room(&flush)? {
                LogRoom::Made(floor) => return Ok(Some(floor)),
                LogRoom::None => return Ok(None),
                LogRoom::Wait { at_most, seen } => (at_most, seen),
            };
            let reason = StallReason::LogSpace;
            if start.elapsed() >= STOP_MAX {
                return Err(reason.into());
            }
            self.wait((at_most, seen), reason)?;
        }
    }

    /// False: nothing is done, and nothing will be.
    fn wait(&self, (at_most, seen): (Duration, u64), reason: StallReason) -> Result<bool> {
        let start = Instant::now();
        // The leader that waits here may be the thread that makes `Interval` writes durable in
        // time; before a long wait it does so first.
        if at_most >= self.limits.interval && !self.sink.works() {
            self.sync()?;
        }
        let relief = self.sink.wait(at_most, seen)?;
        self.sink.note_wait(start.elapsed(), reason);
        if let Some(floor) = relief.floor {
            self.release(floor)?;
        }
        Ok(relief.is_hopeful)
    }

    fn ready_log(&self, count: u64) {
        if let Err(error) = self.log.lock().ready(count) {
            tracing::warn!(%error, "the log has fewer segments than it may need");
        }
    }
}

impl From<StallReason> for Error {
    fn from(reason: StallReason) -> Self {
        Self::Stalled { reason: reason.as_str() }
    }
}
