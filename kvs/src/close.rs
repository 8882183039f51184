//! Closing a database, as one readable list of steps.
//!
//! 1. Nothing new is accepted; what is queued is committed and synced.
//! 2. Background work ends; what a job has not installed is done again after the next open.
//! 3. What the value cache has learned is kept.
//! 4. The mark of a clean close is left, last of all: nothing is written after it.
//!
//! A close that fails leaves what a crash would leave.

use crate::db::Open;
use crate::error::{Result, Scope};
use crate::frequencies;
use crate::mark::Mark;
use crate::scrub;

impl Open {
    /// A second call does nothing.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.store.close_once() {
            return Ok(());
        }
        self.store.ring();
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
        self.store.join_errand();
        closed?;
        if self.store.pool.is_read_only() {
            return Ok(());
        }
        frequencies::keep(&self.store);
        self.leave_mark()
    }

    fn leave_mark(&self) -> Result<()> {
        let Some(log) = self.commits.log_end()? else { return Ok(()) };
        let manifest = self.store.versions.lock().manifest.end();
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
