//! The log of a queue: what it may forget, and its segments.

use super::{CommitQueue, CommitSink, Shared};
use crate::error::Result;
use crate::key::Revision;
use crate::wal::{Wal, Wanted};
use mpool::{Segment, SegmentId};
use std::sync::atomic::Ordering;

impl<S: CommitSink> CommitQueue<S> {
    /// Revisions up to `floor` are durable in kvsets: the log may forget them.
    pub(crate) fn release_wal(&self, floor: Revision) -> Result<()> {
        self.shared.release(floor)
    }

    /// Takes the log off volumes that are being emptied, but for what is not released yet.
    pub(crate) fn leave_volumes(&self) -> Result<()> {
        let shared = &self.shared;
        let mut log = shared.log.lock();
        shared.check_poison()?;
        let left = log.leave_volumes();
        shared.note(&log);
        left.map_err(|error| shared.refuse(error))
    }

    /// The last durable revision in a segment of the log; `None` if there is no log in it.
    pub(crate) fn log_in(&self, segment: SegmentId) -> Option<Revision> {
        self.shared.log.lock().last_in(segment)
    }

    /// The segment that is to be made now, if one is; told once.
    pub(crate) fn take_wanted(&self) -> Option<Wanted> {
        let is_wanted = self.shared.wal_wants.swap(false, Ordering::Relaxed);
        is_wanted.then(|| self.shared.log.lock().wants()).flatten()
    }

    /// Gives the log a segment that was made for it.
    pub(crate) fn add_segment(&self, segment: Segment) {
        let mut log = self.shared.log.lock();
        log.add_spare(segment);
        self.shared.note(&log);
    }

    /// The length of a segment to rest on, if the log takes more than that.
    pub(crate) fn rest_bytes(&self) -> Option<u64> {
        let log = self.shared.log.lock();
        log.is_long().then(|| log.short_bytes())
    }

    /// Takes the log's spares, those included that `floor` releases; they are to be deleted.
    pub(crate) fn give_up_spares(&self, floor: Revision) -> Result<Vec<Segment>> {
        let mut log = self.shared.log.lock();
        let spares = log.give_up_spares(floor);
        self.shared.note(&log);
        spares
    }

    /// Has the log rest on a segment, if kvsets have everything in it; returns those that are to be
    /// deleted.
    pub(crate) fn rest(&self, floor: Revision, short: Segment) -> Result<Vec<Segment>> {
        let shared = &self.shared;
        let mut log = shared.log.lock();
        shared.check_poison()?;
        let gone = log.rest(floor, short);
        shared.note(&log);
        gone.map_err(|error| shared.refuse(error))
    }
}

impl<S: CommitSink> Shared<S> {
    pub(super) fn release(&self, floor: Revision) -> Result<()> {
        let mut log = self.log.lock();
        let released = log.release(floor);
        self.note(&log);
        released
    }

    /// Copies the log's figures.
    pub(super) fn note(&self, log: &Wal) {
        self.wal_live_bytes.store(log.live_bytes(), Ordering::Relaxed);
        if log.wants().is_none() {
            self.wal_told.store(false, Ordering::Relaxed);
        } else if !self.wal_told.swap(true, Ordering::Relaxed) {
            // Whoever takes it makes one; until that is there, nothing is told again.
            self.wal_wants.store(true, Ordering::Relaxed);
            self.sink.log_wants_segment();
        }
    }
}
