//! Who holds old views: snapshots with their cursors, how old they are, and their end.
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
//! They are ended on request, and where an option bounds their age, beyond it: a snapshot's view is
//! taken away at once, and a cursor lets go of its own when it is used next. From then on both are
//! errors. Who has a cursor that stands still asks to be called at the end, and lets go then.

use crate::error::{Error, Result, SnapshotEnd};
use crate::key::{Revision, SnapshotId};
use crate::metrics::{Counter, MetricKind, Sample, emit};
use crate::shape::view::View;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    /// Those that were ended on request.
    pub ended_requested: u64,
    /// The age at which they are ended, if there is one.
    pub age_max: Option<Duration>,
}

/// A snapshot that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its name.
    pub id: SnapshotId,
    /// The revision that it shows.
    pub revision: Revision,
    /// How long ago it was taken.
    pub age: Duration,
    /// Name of the KVS, of a cursor over a snapshot of its own; `None`: a snapshot of all KVSs, by
    /// [`Database::snapshot`](crate::Database::snapshot).
    pub kvs: Option<Arc<str>>,
    /// The name that its owner gave.
    pub holder: Option<Arc<str>>,
    /// Whether it was ended: then a cursor that was not used since holds it.
    pub is_ended: bool,
}

/// Whose a snapshot is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holder {
    /// Name of the KVS of a cursor over a snapshot of its own.
    pub(crate) kvs: Option<Arc<str>>,
    /// What they call themselves.
    pub(crate) name: Option<Arc<str>>,
}

/// What is called at an end.
type Call = Box<dyn FnOnce() + Send>;

/// A view that is held.
struct Held {
    id: SnapshotId,
    holder: Holder,
    at: Revision,
    since: Instant,
    /// `None` once it is ended.
    view: Mutex<Option<Arc<View>>>,
    /// The same, to see whether a cursor still has it.
    seen: Weak<View>,
    end: OnceLock<SnapshotEnd>,
    /// Made when it is ended.
    calls: Mutex<Vec<Call>>,
}

/// The list.
#[derive(Default)]
pub(crate) struct Holds {
    age_max: Option<Duration>,
    /// In the order in which they were taken.
    held: Mutex<BTreeMap<SnapshotId, Arc<Held>>>,
    /// The number of the next one. Begins with the microseconds of the clock: ids that were noted
    /// before a restart name nothing after it, as no database takes a million snapshots a second
    /// for as long as it is open.
    next: AtomicU64,
    ended: Counter,
    ended_requested: Counter,
}

/// A place in the list, given up when it is dropped.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    held: Arc<Held>,
}

impl Holds {
    pub(crate) fn new(age_max_ms: Option<u64>) -> Self {
        let age_max = age_max_ms.map(Duration::from_millis);
        Self { age_max, next: AtomicU64::new(microseconds()), ..Self::default() }
    }

    /// Takes a place for a view.
    pub(crate) fn hold(self: &Arc<Self>, view: &View, at: Revision, holder: Holder) -> Hold {
        // A copy, so that others who hold the same one are not taken for it.
        let view = Arc::new(view.clone());
        let id = SnapshotId::new(self.next.fetch_add(1, Ordering::Relaxed));
        let held = Arc::new(Held {
            id,
            holder,
            at,
            since: Instant::now(),
            seen: Arc::downgrade(&view),
            view: Mutex::new(Some(view)),
            end: OnceLock::new(),
            calls: Mutex::default(),
        });
        self.held.lock().insert(id, Arc::clone(&held));
        Hold { holds: Arc::clone(self), held }
    }

    /// Ends those that are too old.
    pub(crate) fn end_old(&self) {
        let Some(age_max) = self.age_max else { return };
        let now = Instant::now();
        let is_due = |held: &&Arc<Held>| held.age(now) > age_max;
        // Outside of the lock, because the last handle of a view takes a while to go.
        let old: Vec<Arc<Held>> = self.held.lock().values().take_while(is_due).cloned().collect();
        let max_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        for held in old.iter().filter(|held| held.end(SnapshotEnd::Age { max_ms })) {
            self.ended.add(1);
            let (id, revision, age_s) = (held.id.get(), held.at.get(), held.age(now).as_secs());
            let Holder { kvs, name } = &held.holder;
            let (kvs, holder) = (kvs.as_deref(), name.as_deref());
            tracing::warn!(
                id,
                revision,
                age_s,
                kvs,
                holder,
                "a snapshot was held for too long and is ended"
            );
        }
    }

    /// Ends a snapshot and returns it as it was before. Ending one again is no error while it is
    /// held.
    pub(crate) fn end(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        // The guard goes with the statement: see `end_old`.
        let held = self.held.lock().get(&id).filter(|held| held.holds_view()).cloned();
        let held = held.ok_or(Error::NoSuchSnapshot { id })?;
        let info = held.info(Instant::now());
        if held.end(SnapshotEnd::Requested) {
            self.ended_requested.add(1);
            let (id, revision, age_s) = (id.get(), info.revision.get(), info.age.as_secs());
            let (kvs, holder) = (info.kvs.as_deref(), info.holder.as_deref());
            tracing::info!(id, revision, age_s, kvs, holder, "a snapshot is ended on request");
        }
        Ok(info)
    }

    pub(crate) fn info(&self, held_bytes: u64) -> SnapshotsInfo {
        let now = Instant::now();
        let held = self.held.lock();
        let holding = || held.values().filter(|held| held.holds_view());
        SnapshotsInfo {
            count: holding().count() as u64,
            oldest: holding().take(TOLD_MAX).map(|held| held.info(now)).collect(),
            held_bytes,
            ended: self.ended.get(),
            ended_requested: self.ended_requested.get(),
            age_max: self.age_max,
        }
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let SnapshotsInfo { count, oldest, ended, ended_requested, .. } = self.info(0);
        let oldest_s = oldest.first().map_or(0, |oldest| oldest.age.as_secs());
        let help = "Snapshots and cursors that live.";
        emit(see, MetricKind::Gauge, ("snapshots", help), &[], count);
        let help = "Age of the oldest snapshot or cursor; 0 where there is none.";
        emit(see, MetricKind::Gauge, ("snapshot_oldest_age_seconds", help), &[], oldest_s);
        let help = "Snapshots and cursors that were ended, because of their age or on request.";
        for (reason, ended) in [("age", ended), ("requested", ended_requested)] {
            let labels = [("reason", reason)];
            emit(see, MetricKind::Counter, ("snapshots_ended_total", help), &labels, ended);
        }
    }
}

/// Of the clock, since 1970; what stands before that is wrong in any case.
#[expect(clippy::disallowed_methods, reason = "ids are told apart by it, nothing is decided")]
fn microseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

impl Held {
    /// True for the one caller that ends it.
    fn end(&self, why: SnapshotEnd) -> bool {
        if self.end.set(why).is_err() {
            return false;
        }
        drop(self.view.lock().take());
        let calls = std::mem::take(&mut *self.calls.lock());
        for call in calls {
            call();
        }
        true
    }

    /// Whether anything is held by it: of one that is ended a cursor may not know yet.
    fn holds_view(&self) -> bool {
        self.end.get().is_none() || self.seen.strong_count() > 0
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn info(&self, now: Instant) -> SnapshotInfo {
        let Holder { kvs, name } = self.holder.clone();
        SnapshotInfo {
            id: self.id,
            revision: self.at,
            age: self.age(now),
            kvs,
            holder: name,
            is_ended: self.end.get().is_some(),
        }
    }
}

impl Hold {
    pub(crate) fn id(&self) -> SnapshotId {
        self.held.id
    }

    /// The view, unless it was ended.
    pub(crate) fn view(&self) -> Result<Arc<View>> {
        let view = self.held.view.lock().clone();
        view.ok_or_else(|| {
            let why = self.ended().expect("a view is taken away after its end is known");
            Error::SnapshotEnded { at: self.held.at, why }
        })
    }

    /// Why it was ended, if it was. Costs a load.
    pub(crate) fn ended(&self) -> Option<SnapshotEnd> {
        self.held.end.get().copied()
    }

    /// Has this called when it is ended; at once if it has been.
    pub(crate) fn on_end(&self, call: Call) {
        let mut calls = self.held.calls.lock();
        // Who ends it takes the calls after that is known: one of the two makes this one.
        if self.ended().is_none() {
            calls.push(call);
            return;
        }
        drop(calls);
        call();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.held.lock().remove(&self.held.id);
    }
}
