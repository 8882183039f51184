//! What the leader of a commit drives: room in the memtable, application, visibility.
//!
//! Room is where writers feel debt: [`stall::verdict`] says go, wait a little, or stop until flush
//! or compaction has caught up. A stopped leader waits for the bell, and gives up with
//! [`Error::Stalled`] after [`STOP_MAX`], so that no writer hangs forever on a store that cannot
//! recover. Memtables and free space are everybody's debt. A long root and garbage are those of
//! their KVS alone, whose batches are held in the queue (`gate`), while others go on; only where
//! nothing works in the background does the leader work a root off, for the KVSs of its group.

use super::apply::apply;
use crate::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use crate::stall::{self, Debt, ROOT_SLOW, ROOT_STOP, StallReason, Verdict};
use crate::store::Store;
use crate::view::Lagging;
use crate::write::group::CommitSink;
use mpool::FreeSpace;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a waiting writer looks again by itself.
const WAIT_SLICE: Duration = Duration::from_millis(50);
/// Longest a writer is stopped before it is told so.
const STOP_MAX: Duration = Duration::from_secs(30);

impl CommitSink for Store {
    fn lagging(&self) -> Lagging {
        if self.is_alone() || self.check_writable().is_err() {
            return Lagging::new();
        }
        self.lagging_by_work()
    }

    fn log_wants_segment(&self) {
        if !self.is_alone() {
            self.ring();
        }
    }

    fn note_held(&self, time: Duration, reason: StallReason) {
        self.metrics.stalls.add(reason, time);
    }

    fn make_room(&self, batches: &[&WriteBatch], wal_live_bytes: u64) -> Result<()> {
        self.check_writable()?;
        let bytes = batches.iter().map(|batch| batch.len_bytes()).sum();
        let free = self.throttle(batches, bytes)?;
        self.ready_log(free);
        let view = self.view.load();
        let active = view.active.bytes();
        let full =
            active + bytes > usize::try_from(self.options.memtable_bytes).unwrap_or(usize::MAX);
        // A long log needs one early flush, not one for each commit until that flush is done.
        let log_is_long = view.sealed.is_empty() && self.is_long(wal_live_bytes);
        drop(view);
        if full || log_is_long {
            self.seal();
        }
        Ok(())
    }

    fn flush_log(&self) -> Result<Option<Revision>> {
        self.seal();
        let Some(newest) = self.view.load().sealed.first().map(|sealed| sealed.last) else {
            // A flush may have ended just now, and not told the log yet.
            return self.raise_floor(None).map(Some);
        };
        let (start, failures) = (Instant::now(), self.metrics.job_failures.get());
        while self.view.load().sealed.iter().any(|sealed| sealed.last <= newest) {
            if self.metrics.job_failures.get() > failures || self.flush_waits() {
                // The flush has no room either.
                return Ok(None);
            }
            if start.elapsed() >= STOP_MAX {
                return Err(Error::Stalled { reason: StallReason::LogSpace.as_str() });
            }
            self.wait_for_relief(WAIT_SLICE, StallReason::LogSpace)?;
        }
        self.raise_floor(None).map(Some)
    }

    fn apply(&self, batch: &WriteBatch, revision: Revision) {
        apply(self, batch, revision);
    }

    fn publish(&self, revision: Revision) {
        // Release pairs with the Acquire in `Store::visible`.
        self.visible.store(revision.get(), Ordering::Release);
    }
}

impl Store {
    /// Whether so much log should not wait for a flush. On a full volume one segment is much: small
    /// deletes fill the log long before the memtable, and each further segment would be taken from
    /// the reserve. The same where the part that can be overwritten, which alone takes logs, has no
    /// room for another one.
    fn is_long(&self, log_bytes: u64) -> bool {
        let segment = self.options.wal_segment_bytes;
        let no_room = || self.is_full() || self.pool.free_space().log_bytes < segment;
        log_bytes > self.log_bytes_max.load(Ordering::Relaxed) || log_bytes > segment && no_room()
    }

    /// Whether nothing works in the background.
    fn is_alone(&self) -> bool {
        self.options.background_threads == 0
    }

    /// Waits as long as the debt says; what is free after that.
    fn throttle(&self, batches: &[&WriteBatch], bytes: usize) -> Result<FreeSpace> {
        let start = Instant::now();
        let (mut delayed, mut in_vain) = (false, false);
        loop {
            let free = self.pool.free_space();
            let debt = self.debt(free, bytes);
            self.pool.queue().hurry(stall::is_short(debt) || self.is_behind());
            let root_kvsets = if self.is_alone() { self.longest_root(batches) } else { 0 };
            let debt = Debt { root_kvsets, root_slow: ROOT_SLOW, root_stop: ROOT_STOP, ..debt };
            let verdict = match stall::verdict(debt) {
                // Puts are refused at the door of a full volume (`Store::check_space`); what comes
                // here are deletes, and the few puts that were on their way. They still wait for
                // memtables and root.
                Verdict::Stop(StallReason::FreeSpace) => {
                    stall::verdict(Debt { free_bytes: u64::MAX, ..debt })
                }
                verdict => verdict,
            };
            let (wait, reason) = match verdict {
                Verdict::Go => return Ok(free),
                Verdict::Delay(..) if delayed || in_vain => return Ok(free),
                Verdict::Delay(delay, reason) => (delay, reason),
                Verdict::Stop(reason) if in_vain => (Duration::ZERO, reason),
                Verdict::Stop(reason) => (STOP_MAX.saturating_sub(start.elapsed()), reason),
            };
            if wait.is_zero() {
                return Err(Error::Stalled { reason: reason.as_str() });
            }
            in_vain = !self.wait_for_relief(wait, reason)?;
            delayed = start.elapsed() >= wait;
        }
    }

    /// Lets compaction have the drive while it is behind, and only then.
    pub(crate) fn pace_compaction(&self) {
        self.pool
            .queue()
            .hurry(stall::is_short(self.debt(self.pool.free_space(), 0)) || self.is_behind());
    }

    /// Whether writers of some KVS wait for compaction, or would if they wrote now.
    pub(crate) fn is_behind(&self) -> bool {
        !self.lagging_by_work().is_empty()
    }

    /// Waits, or without threads works; `false` if nothing is to be done and nobody does anything.
    fn wait_for_relief(&self, wait: Duration, reason: StallReason) -> Result<bool> {
        let start = Instant::now();
        let is_alone = self.is_alone();
        let hopeful =
            if is_alone && self.step(1)? { true } else { self.wait_for_others(wait, is_alone)? };
        self.metrics.stalls.add(reason, start.elapsed());
        self.check_writable()?;
        Ok(hopeful)
    }

    /// Waits for those who work now, or with threads may begin to; `false` if there are none.
    fn wait_for_others(&self, wait: Duration, is_alone: bool) -> Result<bool> {
        if !is_alone {
            self.keep_interval(wait)?;
        }
        let mut jobs = self.jobs.lock();
        if is_alone && jobs.is_idle() {
            return Ok(false);
        }
        // In slices, because what is waited for may have happened before the lock was taken.
        self.bell.wait_for(&mut jobs, wait.min(WAIT_SLICE));
        Ok(true)
    }

    /// The leader that waits here may be the thread that makes `Interval` writes durable in time;
    /// before a long wait it does so first.
    fn keep_interval(&self, wait: Duration) -> Result<()> {
        if wait < Duration::from_millis(self.options.interval_ms) {
            return Ok(());
        }
        match self.commits.get().and_then(Weak::upgrade) {
            Some(commits) => commits.sync().map(|_| ()),
            None => Ok(()),
        }
    }

    /// The longest root, of those that delay writers, of the KVSs that batches write to.
    fn longest_root(&self, batches: &[&WriteBatch]) -> u64 {
        let view = self.view.load();
        let lagging = view.lagging();
        if lagging.is_empty() {
            return 0;
        }
        let kvss = batches.iter().flat_map(|batch| batch.kvss());
        kvss.filter_map(|kvs| lagging.get(&kvs)).map(|debt| debt.root_kvsets).max().unwrap_or(0)
    }

    /// The KVSs that are behind with what compaction can do: garbage that it cannot take away is
    /// nothing to wait for.
    fn lagging_by_work(&self) -> Lagging {
        let mut lagging = self.view.load().lagging().clone();
        if !lagging.is_empty() {
            let helpless = self.helpless.lock();
            lagging.retain(|kvs, debt| {
                if helpless.contains(kvs) {
                    debt.garbage_bytes = 0;
                }
                debt.reason().is_some()
            });
        }
        lagging
    }

    /// What the store owes, but for what its KVSs owe.
    fn debt(&self, free: FreeSpace, bytes: usize) -> Debt {
        let view = self.view.load();
        self.note_space(free);
        Debt {
            sealed_memtables: view.sealed.len() as u64,
            memtables_max: self.options.memtables_max,
            free_bytes: free.object_bytes,
            free_slow_bytes: self.needs.tight_bytes(free),
            free_reserve_bytes: self.needs.reserve_bytes(free),
            write_bytes: bytes as u64,
            ..Debt::NONE
        }
    }
}
