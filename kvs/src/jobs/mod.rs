//! Flushes, compactions, and new handles of what the pool has moved.
//!
//! [`Jobs::step`] does one of them: it takes the most urgent, carries it out on the thread of the
//! caller, and remembers what it came to. Flush goes first: writers wait for it. No thread lives
//! here: those of `work` call it, and where nothing works in the background (`background_threads`
//! 0), so do `Database::flush` and `compact` and the leader of a commit; so tests see the same
//! schedule every time.
//!
//! A job changes the shape of the store and knows nothing of the queue of writes above it. What
//! that has to learn of a job is [`News`], for the caller to pass on.

mod ailments;
mod compact;
pub(crate) mod flush;
#[cfg(test)]
mod held_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod in_vain_tests;
pub(crate) mod ledger;
mod moved;
mod pace;
mod plan;
mod quiet;
pub(crate) mod requested;
mod rest;
mod setbacks;
mod unreadable;
mod watch;

use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, KvsetId, Revision};
use crate::pick::{Gathered, Plan, VblockIndex};
use crate::shape::change::Change;
use crate::shape::change::Installed;
use crate::shape::tree::Tree;
use crate::store::Store;
use ailments::Ailments;
use ledger::{Ledger, Progress};
use mpool::MblockId;
use parking_lot::Mutex;
use quiet::Quiet;
use requested::Requested;
use setbacks::{Cramp, Setbacks, What};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unreadable::{Unreadable, is_about_inputs};

/// The cause of [`Error::Poisoned`] after a panic of a job.
pub(crate) const PANICKED: &str = "a background job panicked";
/// How often, at most, kvsets are looked through for objects that have moved; oftener when space is
/// short, for their old places hold some.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How often those look again who wait for work that others do.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Flushes that fail in a row, for another reason than a full volume, before the database takes no
/// more writes: with the pauses between them about 20 seconds.
const FLUSH_FAILURES_MAX: u32 = 8;

/// The jobs of a store. Lock order: `table` before the view; nothing is locked across device IO.
pub(crate) struct Jobs {
    pub(crate) store: Arc<Store>,
    table: Mutex<Table>,
    /// What the picker has found of vblocks, by tree.
    vblock_indexes: Mutex<BTreeMap<KvsId, VblockIndex>>,
    /// KVSs with garbage that delays writers, and in which nothing is due and nothing runs.
    helpless: Mutex<BTreeSet<KvsId>>,
    pub(crate) ailments: Ailments,
    news: Mutex<News>,
}

/// What the queue of writes has to learn of the jobs that were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the log keeps what is flushed, and writers wait"]
pub(crate) struct News {
    /// Up to here everything is in kvsets: the log may forget it.
    pub(crate) floor: Option<Revision>,
    /// The shape has changed, or it is known that nothing can be done about a KVS's garbage: what
    /// is held back is looked at again.
    pub(crate) relief: bool,
}

/// What runs now.
#[derive(Default)]
struct Table {
    flushing: bool,
    compactions: usize,
    /// What running compactions may write, together.
    admitted_bytes: u64,
    /// What has failed and waits, on a clock that began with the first failure.
    setbacks: Setbacks,
    cramp: Cramp,
    first_failure: Option<Instant>,
    /// Counts what the picker's decisions depend on: compactions that begin or end, and what is
    /// left alone.
    changes: u64,
    /// A thread picks; others have come meanwhile.
    is_picking: bool,
    wants_to_pick: bool,
    /// Inputs of running compactions.
    busy: BTreeSet<KvsetId>,
    /// Trees whose leaves a job changes.
    reshaping: BTreeSet<KvsId>,
    unreadable: Unreadable,
    gathered: Arc<Gathered>,
    quiet: Quiet,
    /// Where the picker starts, so that no KVS starves.
    turn: usize,
    /// Jobs begun, and those of them that run, by number.
    begun: u64,
    running: BTreeSet<u64>,
    refresh: Refresh,
    ledger: Ledger,
    requested: Requested,
}

/// What is known of objects that the pool has moved.
#[derive(Default)]
struct Refresh {
    running: bool,
    /// The pool's count of moves when kvsets were last looked at; `None`: look in any case.
    seen: Option<u64>,
    last: Option<Instant>,
}

impl Table {
    /// The clock of the setbacks.
    fn now(&self) -> Duration {
        self.first_failure.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether no job runs, and no thread picks one.
    fn is_idle(&self) -> bool {
        self.running.is_empty() && !self.is_picking
    }
}

/// A job that runs; dropped, also by a panic, it is no longer busy.
struct Running<'a> {
    jobs: &'a Jobs,
    number: u64,
    job: Job,
    progress: Arc<Progress>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.jobs.give_back(&self.job, self.number);
    }
}

/// One unit of work, taken.
enum Job {
    Flush,
    Compact(KvsId, Plan),
    /// Takes new handles of what has moved, up to this count of the pool's moves.
    Refresh(u64),
}

impl Jobs {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            table: Mutex::default(),
            vblock_indexes: Mutex::default(),
            helpless: Mutex::default(),
            ailments: Ailments::default(),
            news: Mutex::default(),
        }
    }

    /// Does one unit of work; `false` if there is none to be had now. There may be [`News`] in any
    /// case, after an error too.
    pub(crate) fn step(&self, compactions_max: usize) -> Result<bool> {
        self.store.holds.end_old();
        self.store.shape.retired.drop_unused();
        let Some(running) = self.take_job(compactions_max) else { return Ok(false) };
        let done = self.carry_out(&running);
        self.store.shape.retired.drop_unused();
        done
    }

    /// The news since the last call.
    pub(crate) fn take_news(&self) -> News {
        std::mem::take(&mut *self.news.lock())
    }

    /// Changes the shape; what was left alone and has gone is forgotten.
    fn install(&self, change: Change) -> Result<()> {
        let installed = self.store.shape.install(vec![change], Vec::new(), None)?;
        self.installed(&installed)
    }

    fn installed(&self, installed: &Installed) -> Result<()> {
        self.news.lock().relief = true;
        if installed.has_moved {
            self.refresh_again();
        }
        self.forget_unreadable(installed.kvsets.iter().copied(), &installed.mblocks);
        self.store.shape.delete(&installed.mblocks)
    }

    /// A KVS was dropped, with this tree and these mblocks.
    pub(crate) fn forget(&self, tree: &Tree, mblocks: &[MblockId]) {
        self.helpless.lock().remove(&tree.kvs);
        self.forget_unreadable(tree.kvsets().map(|kvset| kvset.meta().id), mblocks);
    }

    /// KVSs with garbage that delays writers, and in which nothing is due and nothing runs.
    pub(crate) fn helpless(&self) -> BTreeSet<KvsId> {
        self.helpless.lock().clone()
    }

    /// Does a unit of work that was taken.
    fn carry_out(&self, running: &Running<'_>) -> Result<bool> {
        self.pace(self.store.pool.free_space(), 0);
        let done = match &running.job {
            Job::Flush => self.flush_oldest(&running.progress),
            Job::Compact(kvs, plan) => compact::job::run(self, *kvs, plan, &running.progress),
            Job::Refresh(moves) => self.run_refresh(*moves),
        };
        self.note_outcome(&done, running);
        match (done, &running.job) {
            // The KVS went away while the job ran: nothing is left to do for it.
            (Ok(()) | Err(Error::KvsDropped), job) => {
                self.end_setback(job.what());
                Ok(true)
            }
            (Err(error), Job::Compact(kvs, plan))
                if is_about_inputs(&error) && self.leave_alone(*kvs, plan, &error) =>
            {
                Ok(true)
            }
            (Err(error), Job::Compact(..)) if is_full(&error) && self.try_smaller() => Ok(true),
            (Err(error), job) => {
                self.set_back(job.what(), &error);
                Err(error)
            }
        }
    }

    /// Remembers what a job came to, and for the health of the database whether flushes succeed.
    /// What passes by itself, such as a full volume, is no ailment.
    fn note_outcome(&self, done: &Result<()>, running: &Running<'_>) {
        self.table.lock().ledger.end(running.number, done, Instant::now());
        self.note_requested(running, done);
        match (done, &running.job) {
            (Ok(()), Job::Flush) => self.ailments.flushed(),
            (Err(error), Job::Flush)
                if !matches!(error, Error::Closed | Error::KvsDropped)
                    && error.scope() != Scope::Moment =>
            {
                self.ailments.flush_failed(error);
            }
            _ => {}
        }
    }

    /// Puts off what has failed; the first failure of a row is told. What a flush could not write
    /// the WAL still holds, so a full volume ends nothing; a drive that goes on refusing it, or
    /// what leaves the store's own state in doubt, ends all writing.
    fn set_back(&self, what: What, error: &Error) {
        self.store.metrics.job_failures.add(1);
        let view = self.store.shape.view.load();
        let failures = {
            let mut jobs = self.table.lock();
            jobs.setbacks.retain(|kvs| view.trees.contains_key(&kvs));
            jobs.first_failure.get_or_insert_with(Instant::now);
            let now = jobs.now();
            jobs.changes += 1;
            jobs.setbacks.failed(what, now)
        };
        let passes = error.scope() == Scope::Moment;
        let is_final = what == What::Flush && failures >= FLUSH_FAILURES_MAX && !passes;
        if error.scope() == Scope::Store || is_final {
            self.store.life.fail_shape(error);
        } else if failures == 1 {
            tracing::warn!(%error, ?what, "background work failed; it is tried again, more and more rarely");
        } else {
            tracing::debug!(%error, ?what, failures, "background work failed again");
        }
    }

    /// A compaction found less room than it was promised; whether smaller ones are worth a try.
    fn try_smaller(&self) -> bool {
        let free_bytes = self.store.pool.free_space().object_bytes;
        let is_worth_it = self.table.lock().cramp.found_none(free_bytes);
        if is_worth_it {
            self.store.metrics.job_failures.add(1);
            tracing::debug!(free_bytes, "a compaction found no room; the next ones are smaller");
        }
        is_worth_it
    }

    fn end_setback(&self, what: What) {
        let failures = self.table.lock().setbacks.succeeded(what);
        if failures > 0 {
            tracing::info!(?what, failures, "background work goes on");
        }
    }

    /// Whether a flush has failed and waits.
    pub(crate) fn flush_waits(&self) -> bool {
        !self.is_due(&self.table.lock(), What::Flush)
    }

    /// Whether something may be tried. Without threads nothing waits: the caller decides when.
    fn is_due(&self, jobs: &Table, what: What) -> bool {
        self.store.options.background_threads == 0 || jobs.setbacks.is_due(what, jobs.now())
    }

    fn take_job(&self, compactions_max: usize) -> Option<Running<'_>> {
        let has_sealed = !self.store.shape.view.load().sealed.is_empty();
        let soon = self.store.options.background_threads == 0 || self.store.space.is_tight();
        {
            let mut jobs = self.table.lock();
            if has_sealed && !jobs.flushing && self.is_due(&jobs, What::Flush) {
                jobs.flushing = true;
                return Some(self.running(&mut jobs, Job::Flush));
            }
            if self.is_due(&jobs, What::Refresh)
                && let Some(job) = jobs.refresh.take(self.store.pool.moves(), soon)
            {
                return Some(self.running(&mut jobs, job));
            }
            if jobs.compactions >= compactions_max {
                return None;
            }
        }
        self.take_plan()
    }

    fn running(&self, jobs: &mut Table, job: Job) -> Running<'_> {
        let number = jobs.begun;
        jobs.begun += 1;
        jobs.running.insert(number);
        let progress =
            jobs.ledger.begin(number, &job, &self.store.shape.view.load(), Instant::now());
        Running { jobs: self, number, job, progress }
    }

    fn give_back(&self, job: &Job, number: u64) {
        let mut jobs = self.table.lock();
        jobs.running.remove(&number);
        jobs.ledger.lose(number, Instant::now());
        jobs.requested.give_back(number);
        match job {
            Job::Flush => jobs.flushing = false,
            Job::Compact(kvs, plan) => {
                jobs.changes += 1;
                if plan.action.reshapes() {
                    jobs.reshaping.remove(kvs);
                }
                jobs.compactions -= plan.takes_turn();
                jobs.admitted_bytes -= plan.output_bytes;
                for kvset in &plan.inputs {
                    jobs.busy.remove(kvset);
                }
            }
            Job::Refresh(_) => jobs.refresh.running = false,
        }
        drop(jobs);
        self.store.life.bell.ring();
    }

    /// Whether no job runs, and no thread is about to begin one.
    pub(crate) fn is_idle(&self) -> bool {
        self.table.lock().is_idle()
    }

    /// Whether no job runs or is about to begin, and no memtable is sealed.
    pub(crate) fn is_done(&self) -> bool {
        let jobs = self.table.lock();
        jobs.is_idle() && self.store.shape.view.load().sealed.is_empty()
    }

    fn run_refresh(&self, moves: u64) -> Result<()> {
        // Before the look: kvsets that join the view meanwhile may ask for another one.
        self.table.lock().refresh.seen = Some(moves);
        let renewed = moved::renew(&self.store).inspect_err(|_| self.refresh_again())?;
        self.store.metrics.kvsets_renewed.add(renewed);
        self.table.lock().refresh.last = Some(Instant::now());
        Ok(())
    }

    /// A kvset with handles of places that are left joins the view: the next refresh looks at it.
    pub(crate) fn refresh_again(&self) {
        self.table.lock().refresh.seen = None;
    }

    /// Takes new handles of all objects that the pool has moved until now.
    pub(crate) fn refresh_moved(&self) -> Result<()> {
        loop {
            self.store.life.check_open()?;
            let rings = self.store.life.bell.rings();
            let mut jobs = self.table.lock();
            let Some(job) = jobs.refresh.take(self.store.pool.moves(), true) else {
                if !jobs.refresh.running {
                    return Ok(());
                }
                drop(jobs);
                self.store.life.bell.wait(rings, LOOK_AGAIN);
                continue;
            };
            let running = self.running(&mut jobs, job);
            drop(jobs);
            if let Job::Refresh(moves) = running.job {
                self.run_refresh(moves)?;
            }
        }
    }

    /// Waits until the jobs that run now have ended.
    pub(crate) fn wait_for_jobs(&self) -> Result<()> {
        let begun = self.table.lock().begun;
        let runs = || self.table.lock().running.first().is_some_and(|oldest| *oldest < begun);
        loop {
            let rings = self.store.life.bell.rings();
            if !runs() {
                return Ok(());
            }
            self.store.life.check_open()?;
            self.store.life.bell.wait(rings, LOOK_AGAIN);
        }
    }
}

impl Job {
    fn what(&self) -> What {
        match self {
            Self::Flush => What::Flush,
            Self::Refresh(_) => What::Refresh,
            Self::Compact(kvs, plan) => What::Node(*kvs, plan.node),
        }
    }
}

impl Refresh {
    /// A refresh, if something has moved and none runs; not before its time unless it is to be
    /// `soon`.
    fn take(&mut self, moves: u64, soon: bool) -> Option<Job> {
        let early = self.last.is_some_and(|last| last.elapsed() < REFRESH_EVERY);
        if self.running || self.seen == Some(moves) || early && !soon {
            return None;
        }
        self.running = true;
        Some(Job::Refresh(moves))
    }
}

/// Whether a job found no room for what it wrote.
fn is_full(error: &Error) -> bool {
    matches!(error, Error::Pool(mpool::Error::Full { .. }))
}
