//! What is left to flush when a database closes.
//!
//! The threads have ended by then. A caller of `Database::flush` may still be at it: two flushes at
//! a time would write the same memtable.

use super::{Job, Jobs, LOOK_AGAIN, Running};
use crate::error::Result;

impl Jobs {
    /// Flushes every memtable, whatever failed before; returns how many bytes they held.
    pub(crate) fn flush_all(&self) -> Result<u64> {
        self.store.seal();
        let mut bytes = 0;
        loop {
            let Some(running) = self.take_last_flush() else { return Ok(bytes) };
            let (left, memtable) = {
                let view = self.store.shape.view.load();
                let oldest = view.sealed.last().map_or(0, |oldest| oldest.memtable.bytes());
                (view.sealed.len(), oldest as u64)
            };
            if left > 1 {
                tracing::info!(memtables = left, "memtables are flushed before the close");
            }
            self.flush_oldest(&running.progress)?;
            bytes += memtable;
            drop(running);
        }
    }

    /// The next flush, once nobody else is at one.
    fn take_last_flush(&self) -> Option<Running<'_>> {
        let mut jobs = loop {
            let rings = self.store.life.bell.rings();
            let jobs = self.table.lock();
            if !jobs.flushing {
                break jobs;
            }
            drop(jobs);
            self.store.life.bell.wait(rings, LOOK_AGAIN);
        };
        if self.store.shape.view.load().sealed.is_empty() {
            return None;
        }
        jobs.flushing = true;
        Some(self.running(&mut jobs, Job::Flush))
    }
}
