//! Who holds old views: snapshots with their cursors, how old they are, and the end of old ones.
//!
//! A view keeps the memtables and kvsets of its moment alive, and with them space that would be
//! free otherwise. So every snapshot has a [`Hold`], which its clones and its cursors share, and a
//! place in the list of the database until the last of them is gone.
//!
//! ```text
//!   Snapshot --+
//!   clone    --+--> Hold --> Held { since, view }     list of the database, oldest first
//!   Cursor   --+
//! ```
//!
//! Where an option bounds their age, those beyond it are ended: a snapshot's view is taken away at
//! once, and a cursor lets go of its own when it is used next. From then on both are errors.

use crate::error::{Error, Result};
use crate::key::Revision;
use crate::metrics::{Counter, MetricKind, Sample, emit};
use crate::view::View;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Snapshots that are told one by one.
const TOLD_MAX: usize = 100;

/// What is known of the snapshots of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotsInfo {
    /// Snapshots, and cursors over one of their own, that live.
    pub count: u64,
    /// The oldest of them, at most 100, oldest first.
    pub oldest: Vec<SnapshotInfo>,
    /// Bytes of deleted objects that somebody still reads: what would be free if there were none.
    pub held_bytes: u64,
    /// Those that were ended because of their age.
    pub ended: u64,
    /// The age at which they are ended, if there is one.
    pub age_max: Option<Duration>,
}

/// A snapshot that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The revision that it shows.
    pub revision: Revision,
    /// How long ago it was taken.
    pub age: Duration,
}

/// A view that is held.
struct Held {
    at: Revision,
    since: Instant,
    /// `None` once it is ended.
    view: Mutex<Option<Arc<View>>>,
    /// The same, to see whether a cursor still has it.
    seen: Weak<View>,
    is_ended: AtomicBool,
}

/// The list.
#[derive(Default)]
pub(crate) struct Holds {
    age_max: Option<Duration>,
    /// In the order in which they were taken.
    held: Mutex<BTreeMap<u64, Arc<Held>>>,
    next: AtomicU64,
    ended: Counter,
}

/// A place in the list, given up when it is dropped.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    number: u64,
    held: Arc<Held>,
}

impl Holds {
    pub(crate) fn new(age_max_ms: Option<u64>) -> Self {
        Self { age_max: age_max_ms.map(Duration::from_millis), ..Self::default() }
    }

    /// Takes a place for a view.
    pub(crate) fn hold(self: &Arc<Self>, view: Arc<View>, at: Revision) -> Hold {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (since, seen, is_ended) =
            (Instant::now(), Arc::downgrade(&view), AtomicBool::new(false));
        let held = Arc::new(Held { at, since, view: Mutex::new(Some(view)), seen, is_ended });
        self.held.lock().insert(number, Arc::clone(&held));
        Hold { holds: Arc::clone(self), number, held }
    }

    /// Ends those that are too old.
    pub(crate) fn end_old(&self) {
        let Some(age_max) = self.age_max else { return };
        let now = Instant::now();
        let age = |held: &Arc<Held>| now.saturating_duration_since(held.since);
        let is_due = |held: &&Arc<Held>| age(held) > age_max;
        // Outside of the lock, because the last handle of a view takes a while to go.
        let old: Vec<Arc<Held>> = self.held.lock().values().take_while(is_due).cloned().collect();
        for held in old.iter().filter(|held| held.end()) {
            self.ended.add(1);
            let (revision, age_s) = (held.at.get(), age(held).as_secs());
            tracing::warn!(revision, age_s, "a snapshot was held for too long and is ended");
        }
    }

    pub(crate) fn info(&self, held_bytes: u64) -> SnapshotsInfo {
        let now = Instant::now();
        let held = self.held.lock();
        let holding = || held.values().filter(|held| held.holds_view());
        let info = |held: &Arc<Held>| SnapshotInfo {
            revision: held.at,
            age: now.saturating_duration_since(held.since),
        };
        SnapshotsInfo {
            count: holding().count() as u64,
            oldest: holding().take(TOLD_MAX).map(info).collect(),
            held_bytes,
            ended: self.ended.get(),
            age_max: self.age_max,
        }
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let SnapshotsInfo { count, oldest, ended, .. } = self.info(0);
        let oldest_s = oldest.first().map_or(0, |oldest| oldest.age.as_secs());
        let help = "Snapshots and cursors that live.";
        emit(see, MetricKind::Gauge, ("snapshots", help), &[], count);
        let help = "Age of the oldest snapshot or cursor; 0 where there is none.";
        emit(see, MetricKind::Gauge, ("snapshot_oldest_age_seconds", help), &[], oldest_s);
        let help = "Snapshots and cursors that were ended because of their age.";
        emit(see, MetricKind::Counter, ("snapshots_ended_total", help), &[], ended);
    }
}

impl Held {
    /// True for the one caller that ends it.
    fn end(&self) -> bool {
        self.is_ended.store(true, Ordering::Relaxed);
        self.view.lock().take().is_some()
    }

    /// Whether anything is held by it: of one that is ended a cursor may not know yet.
    fn holds_view(&self) -> bool {
        !self.is_ended.load(Ordering::Relaxed) || self.seen.strong_count() > 0
    }
}

impl Hold {
    /// The view, unless it was ended.
    pub(crate) fn view(&self) -> Result<Arc<View>> {
        self.held.view.lock().clone().ok_or_else(|| self.error())
    }

    /// `Err` once it was ended. Costs a load.
    pub(crate) fn check(&self) -> Result<()> {
        // Relaxed: a hint, nothing is published by it; a step more or less is no matter.
        if self.held.is_ended.load(Ordering::Relaxed) { Err(self.error()) } else { Ok(()) }
    }

    #[cold]
    fn error(&self) -> Error {
        let age_max_ms = self.holds.age_max.unwrap_or_default().as_millis();
        let age_max_ms = u64::try_from(age_max_ms).unwrap_or(u64::MAX);
        Error::SnapshotEnded { at: self.held.at, age_max_ms }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.held.lock().remove(&self.number);
    }
}
