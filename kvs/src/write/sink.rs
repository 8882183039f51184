//! What the leader of a commit asks of the store: room in the memtable, application, visibility.
//!
//! Room is where writers feel debt: [`stall::verdict`] says go, wait a little, or stop until flush
//! or compaction has caught up, and the queue waits as it says. Memtables and free space are
//! everybody's debt. A long root and garbage are those of their KVS alone, whose batches are held
//! in the queue (`gate`), while others go on. Only where nothing works in the background the leader
//! works instead of waiting, and works a root off for the KVSs of its group.

use super::apply::apply;
use super::group::{CommitSink, LogFlush, LogRoom, Relief, Room};
use crate::debt::patience::{self, Next, Waited};
use crate::debt::space::SEGMENTS_MIN;
use crate::debt::stall::{self, Debt, ROOT_SLOW, ROOT_STOP, StallReason, Verdict};
use crate::entry::batch::WriteBatch;
use crate::error::Result;
use crate::jobs::Jobs;
use crate::key::Revision;
use crate::shape::view::Lagging;
use crate::store::Store;
use mpool::FreeSpace;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a waiting writer looks again by itself.
const WAIT_SLICE: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Sink {
    store: Arc<Store>,
    jobs: Arc<Jobs>,
}

impl Sink {
    pub(crate) fn new(jobs: &Arc<Jobs>) -> Self {
        Self { store: Arc::clone(&jobs.store), jobs: Arc::clone(jobs) }
    }
}

impl CommitSink for Sink {
    fn lagging(&self) -> Lagging {
        if self.works() || self.store.life.check_writable().is_err() {
            return Lagging::new();
        }
        self.jobs.lagging()
    }

    fn log_wants_segment(&self) {
        if !self.works() {
            self.store.life.bell.ring();
        }
    }

    fn note_wait(&self, time: Duration, reason: StallReason) {
        self.store.metrics.stalls.add(reason, time);
    }

    fn works(&self) -> bool {
        self.store.options.background_threads == 0
    }

    fn make_room(
        &self,
        batches: &[&WriteBatch],
        wal_live_bytes: u64,
        waited: Waited,
    ) -> Result<Room> {
        let store = &self.store;
        let seen = store.life.bell.rings();
        store.life.check_writable()?;
        let bytes = batches.iter().map(|batch| batch.len_bytes()).sum();
        let free = store.pool.free_space();
        match patience::next(self.verdict(batches, free, bytes), waited) {
            Next::Write => {}
            Next::Wait(at_most, reason) => return Ok(Room::Wait { at_most, reason, seen }),
            Next::Refuse(reason) => return Err(reason.into()),
        }
        let log_segments = store.space.log_gets_ready(free).then_some(SEGMENTS_MIN);
        let view = store.shape.view.load();
        let active = view.active.bytes();
        let full =
            active + bytes > usize::try_from(store.options.memtable_bytes).unwrap_or(usize::MAX);
        // A long log needs one early flush, not one for each commit until that flush is done.
        let log_is_long = view.sealed.is_empty() && self.is_long(wal_live_bytes);
        drop(view);
        if full || log_is_long {
            store.seal();
        }
        Ok(Room::Made { log_segments })
    }

    fn flush_log(&self) -> LogFlush {
        self.store.seal();
        let newest = self.store.shape.view.load().sealed.first().map(|sealed| sealed.last);
        LogFlush { newest, job_failures: self.store.metrics.job_failures.get() }
    }

    fn log_room(&self, flush: &LogFlush) -> Result<LogRoom> {
        let store = &self.store;
        let seen = store.life.bell.rings();
        store.life.check_writable()?;
        let LogFlush { newest, job_failures } = *flush;
        let waits =
            |newest| store.shape.view.load().sealed.iter().any(|sealed| sealed.last <= newest);
        if !newest.is_some_and(waits) {
            // A flush may have ended just now, and the log may not know of it yet.
            return store.shape.raise_floor(None).map(LogRoom::Made);
        }
        if store.metrics.job_failures.get() > job_failures || self.jobs.flush_waits() {
            // The flush has no room either.
            return Ok(LogRoom::None);
        }
        Ok(LogRoom::Wait { at_most: WAIT_SLICE, seen })
    }

    fn wait(&self, at_most: Duration, seen: u64) -> Result<Relief> {
        if self.works() {
            let worked = self.jobs.step(1);
            let floor = self.jobs.take_news().floor;
            if worked? {
                return Ok(Relief { floor, is_hopeful: true });
            }
            if self.jobs.is_idle() {
                return Ok(Relief { floor, is_hopeful: false });
            }
        }
        // In slices, because space changes without a ring.
        self.store.life.bell.wait(seen, at_most.min(WAIT_SLICE));
        Ok(Relief { floor: None, is_hopeful: true })
    }

    fn apply(&self, batch: &WriteBatch, revision: Revision) {
        apply(&self.store, batch, revision);
    }

    fn publish(&self, revision: Revision) {
        self.store.shape.publish(revision);
    }
}

impl Sink {
    /// Whether so much log should not wait for a flush. On a full volume one segment is much: small
    /// deletes fill the log long before the memtable, and each further segment would be taken from
    /// the reserve. The same where the part that can be overwritten, which alone takes logs, has no
    /// room for another one.
    fn is_long(&self, log_bytes: u64) -> bool {
        let store = &self.store;
        let segment = store.options.wal_segment_bytes;
        let no_room = || store.space.is_full() || store.pool.free_space().log_bytes < segment;
        log_bytes > store.log_bytes_max.load(Ordering::Relaxed) || log_bytes > segment && no_room()
    }

    /// What the store owes says for a group, but for the debts of KVSs that the queue holds.
    fn verdict(&self, batches: &[&WriteBatch], free: FreeSpace, bytes: usize) -> Verdict {
        let debt = self.jobs.pace(free, bytes);
        let root_kvsets = if self.works() { self.longest_root(batches) } else { 0 };
        let debt = Debt { root_kvsets, root_slow: ROOT_SLOW, root_stop: ROOT_STOP, ..debt };
        match stall::verdict(debt) {
            // Puts are refused at the door of a full volume (`Space::check_put`); what comes here
            // are deletes, and the few puts that were on their way. They still wait for memtables
            // and root.
            Verdict::Stop(StallReason::FreeSpace) => {
                stall::verdict(Debt { free_bytes: u64::MAX, ..debt })
            }
            verdict => verdict,
        }
    }

    /// The longest root, of those that delay writers, of the KVSs that batches write to.
    fn longest_root(&self, batches: &[&WriteBatch]) -> u64 {
        let view = self.store.shape.view.load();
        let lagging = view.lagging();
        if lagging.is_empty() {
            return 0;
        }
        let kvss = batches.iter().flat_map(|batch| batch.kvss());
        kvss.filter_map(|kvs| lagging.get(&kvs)).map(|debt| debt.root_kvsets).max().unwrap_or(0)
    }
}
