//! Closing a database, as one readable list of steps.
//!
//! 1. Nothing new is accepted; what is queued is committed and synced.
//! 2. Background work ends; what a job has not installed is done again after the next open.
//! 3. What is in memory only is flushed, so that the next open has nothing to replay.
//! 4. What the value cache has learned is kept, and where keys are dead.
//! 5. The mark of a clean close is left, last of all: nothing is written after it.
//!
//! A close that fails, or is cut off, leaves what a crash would leave. A flush that fails fails no
//! close: what it would have written stays in the log, and the mark says where that ends. It takes
//! as long as the drive needs for what memtables hold, which is `memtables_max` and one more of
//! them.

use crate::db::Open;
use crate::db::frequencies;
use crate::db::scrub;
use crate::error::{Result, Scope};
use crate::shape::life::Failed;
use crate::wal::mark::Mark;
use crate::work;
use std::time::Instant;

impl Open {
    /// A second call does nothing.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.store.life.close_once() {
            return Ok(());
        }
        self.store.life.bell.ring();
        self.store.hints.close();
        scrub::stop(&self.store.pool);
        let closed = self.commits.close();
        for consumer in &self.consumers {
            self.store.pool.reaper().unregister(consumer);
        }
        for worker in self.workers.lock().drain(..) {
            // A worker that panicked has said so; what is acknowledged is in the WAL either way.
            if worker.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
        self.work.join_errand();
        closed?;
        if self.store.pool.is_read_only() {
            return Ok(());
        }
        self.empty_log();
        frequencies::keep(&self.store);
        work::dead::keep(&self.store);
        self.leave_mark()
    }

    /// Flushes what is in memory only. What cannot be flushed is left to the log.
    fn empty_log(&self) {
        // Batches may still come, or the drive has refused the last ones.
        if !self.commits.is_over() || self.store.life.failure(Failed::Shape).is_some() {
            return;
        }
        let begun = Instant::now();
        match self.work.jobs.flush_all().and_then(|bytes| self.forget_log().map(|()| bytes)) {
            Ok(0) => {}
            Ok(bytes) => {
                tracing::info!(bytes, elapsed = ?begun.elapsed(), "what was in memory is flushed");
            }
            Err(error) => {
                let cause = error.with_sources();
                tracing::warn!(
                    cause,
                    "what is in memory stays in the log, which the next open replays"
                );
            }
        }
    }

    /// Gives the log's segments back if kvsets have everything that it holds.
    pub(crate) fn forget_log(&self) -> Result<()> {
        let floor = self.work.settle_floor()?;
        self.commits.release_wal(floor)
    }

    fn leave_mark(&self) -> Result<()> {
        let Some(log) = self.commits.log_end()? else { return Ok(()) };
        let manifest = self.store.shape.versions.lock().manifest.end();
        match (Mark { log, manifest }).leave(&self.store.pool) {
            Err(error) if error.scope() == Scope::Moment => {
                tracing::warn!(%error, "no room for the mark of a clean close");
                Ok(())
            }
            left => left,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the database failed");
        }
    }
}
