//! Background work: which job runs next, on which threads.
//!
//! [`Store::step`] does one unit of work: one flush, one look for objects that the pool has moved
//! (`moved`), or one compaction plan. Threads that call it
//! live here and nowhere else; with `background_threads` 0 there are none, and `Database::flush`
//! and `compact` step themselves, so that tests see the same schedule every time. Flush goes first:
//! writers wait for it. Of several threads one is kept free of compaction, so that a flush never
//! waits for one.

mod compact;
pub(crate) mod dead;
pub(crate) mod flush;
#[cfg(test)]
mod held_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod in_vain_tests;
pub(crate) mod ledger;
mod log;
mod moved;
mod plan;
mod quiet;
pub(crate) mod requested;
mod rest;
mod setbacks;
mod unreadable;
mod warm;
mod watch;

use crate::error::{Error, Result, Scope};
use crate::key::{KvsId, KvsetId};
use crate::pick::{Gathered, Plan};
use crate::store::Store;
use ledger::{Ledger, Progress};
use quiet::Quiet;
use requested::Requested;
use setbacks::{Cramp, Setbacks, What};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use unreadable::{Unreadable, is_about_inputs};

/// How long an idle worker sleeps when nobody rings.
const IDLE: Duration = Duration::from_secs(1);
/// Why a database takes no more writes after a panic of a worker.
const PANICKED: &str = "a background job panicked";
/// How often, at most, kvsets are looked through for objects that have moved; oftener when space is
/// short, for their old places hold some.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How often those look again who wait for work that others do.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Flushes that fail in a row, for another reason than a full volume, before the database takes no
/// more writes: with the pauses between them about 20 seconds.
const FLUSH_FAILURES_MAX: u32 = 8;

/// What runs now.
#[derive(Default)]
pub(crate) struct Jobs {
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
    /// Times the bell has rung.
    rings: u64,
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

impl Jobs {
    /// The clock of the setbacks.
    fn now(&self) -> Duration {
        self.first_failure.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether nothing runs, and nobody is about to begin something.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && !self.is_picking
    }
}

/// A job that runs; dropped, also by a panic, it is no longer busy.
struct Running<'a> {
    store: &'a Store,
    number: u64,
    job: Job,
    progress: Arc<Progress>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.store.give_back(&self.job, self.number);
    }
}

/// One unit of work, taken.
enum Job {
    Flush,
    Compact(KvsId, Plan),
    /// Takes new handles of what has moved, up to this count of the pool's moves.
    Refresh(u64),
}

impl Store {
    /// Does one unit of work; `false` if there is none to be had now.
    pub(crate) fn step(&self, compactions_max: usize) -> Result<bool> {
        self.holds.end_old();
        self.retired.drop_unused();
        let Some(running) = self.take_job(compactions_max) else { return Ok(false) };
        let done = self.carry_out(&running);
        self.retired.drop_unused();
        done
    }

    /// Does a unit of work that was taken.
    fn carry_out(&self, running: &Running<'_>) -> Result<bool> {
        self.pace_compaction();
        let done = match &running.job {
            Job::Flush => flush::flush_oldest(self, &running.progress).map(|_| ()),
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

    /// Remembers what a flush came to, for whoever asks how the database is. What passes by itself,
    /// such as a full volume, is no ailment.
    fn note_outcome(&self, done: &Result<()>, running: &Running<'_>) {
        self.jobs.lock().ledger.end(running.number, done, Instant::now());
        self.note_requested(running, done);
        match (done, &running.job) {
            (Ok(()), Job::Flush) => self.work_health.flushed(),
            (Err(error), Job::Flush)
                if !matches!(error, Error::Closed | Error::KvsDropped)
                    && error.scope() != Scope::Moment =>
            {
                self.work_health.flush_failed(error);
            }
            _ => {}
        }
    }

    /// Puts off what has failed; the first failure of a row is told. What a flush could not write
    /// the WAL still holds, so a full volume ends nothing; a drive that goes on refusing it, or
    /// what leaves the store's own state in doubt, ends all writing.
    fn set_back(&self, what: What, error: &Error) {
        self.metrics.job_failures.add(1);
        let view = self.view.load();
        let failures = {
            let mut jobs = self.jobs.lock();
            jobs.setbacks.retain(|kvs| view.trees.contains_key(&kvs));
            jobs.first_failure.get_or_insert_with(Instant::now);
            let now = jobs.now();
            jobs.changes += 1;
            jobs.setbacks.failed(what, now)
        };
        let passes = error.scope() == Scope::Moment;
        let is_final = what == What::Flush && failures >= FLUSH_FAILURES_MAX && !passes;
        if error.scope() == Scope::Store || is_final {
            self.fail(error);
        } else if failures == 1 {
            tracing::warn!(%error, ?what, "background work failed; it is tried again, more and more rarely");
        } else {
            tracing::debug!(%error, ?what, failures, "background work failed again");
        }
    }

    /// A compaction found less room than it was promised; whether smaller ones are worth a try.
    fn try_smaller(&self) -> bool {
        let free_bytes = self.pool.free_space().object_bytes;
        let is_worth_it = self.jobs.lock().cramp.found_none(free_bytes);
        if is_worth_it {
            self.metrics.job_failures.add(1);
            tracing::debug!(free_bytes, "a compaction found no room; the next ones are smaller");
        }
        is_worth_it
    }

    fn end_setback(&self, what: What) {
        let failures = self.jobs.lock().setbacks.succeeded(what);
        if failures > 0 {
            tracing::info!(?what, failures, "background work goes on");
        }
    }

    /// Whether a flush has failed and waits.
    pub(crate) fn flush_waits(&self) -> bool {
        !self.is_due(&self.jobs.lock(), What::Flush)
    }

    /// Whether something may be tried. Without threads nothing waits: the caller decides when.
    fn is_due(&self, jobs: &Jobs, what: What) -> bool {
        self.options.background_threads == 0 || jobs.setbacks.is_due(what, jobs.now())
    }

    fn take_job(&self, compactions_max: usize) -> Option<Running<'_>> {
        let has_sealed = !self.view.load().sealed.is_empty();
        let soon = self.options.background_threads == 0 || self.is_tight();
        {
            let mut jobs = self.jobs.lock();
            if has_sealed && !jobs.flushing && self.is_due(&jobs, What::Flush) {
                jobs.flushing = true;
                return Some(self.running(&mut jobs, Job::Flush));
            }
            if self.is_due(&jobs, What::Refresh)
                && let Some(job) = jobs.refresh.take(self.pool.moves(), soon)
            {
                return Some(self.running(&mut jobs, job));
            }
            if jobs.compactions >= compactions_max {
                return None;
            }
        }
        self.take_plan()
    }

    fn running(&self, jobs: &mut Jobs, job: Job) -> Running<'_> {
        let number = jobs.begun;
        jobs.begun += 1;
        jobs.running.insert(number);
        let progress = jobs.ledger.begin(number, &job, &self.view.load(), Instant::now());
        Running { store: self, number, job, progress }
    }

    fn give_back(&self, job: &Job, number: u64) {
        let mut jobs = self.jobs.lock();
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
        jobs.rings += 1;
        drop(jobs);
        self.bell.notify_all();
    }

    /// Wakes everybody who waits for the state to change.
    pub(crate) fn ring(&self) {
        self.jobs.lock().rings += 1;
        self.bell.notify_all();
    }

    /// Whether nothing runs and nothing is sealed.
    fn is_idle(&self, jobs: &Jobs) -> bool {
        jobs.is_idle() && self.view.load().sealed.is_empty()
    }

    fn run_refresh(&self, moves: u64) -> Result<()> {
        let renewed = moved::renew(self)?;
        self.metrics.kvsets_renewed.add(renewed);
        let mut jobs = self.jobs.lock();
        jobs.refresh.seen = Some(moves);
        jobs.refresh.last = Some(Instant::now());
        Ok(())
    }

    /// A kvset with handles of places that are left joins the view: the next refresh looks at it.
    pub(crate) fn refresh_again(&self) {
        self.jobs.lock().refresh.seen = None;
    }

    /// Takes new handles of all objects that the pool has moved until now.
    pub(crate) fn refresh_moved(&self) -> Result<()> {
        loop {
            self.check_open()?;
            let mut jobs = self.jobs.lock();
            let Some(job) = jobs.refresh.take(self.pool.moves(), true) else {
                if !jobs.refresh.running {
                    return Ok(());
                }
                self.bell.wait_for(&mut jobs, LOOK_AGAIN);
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
        let mut jobs = self.jobs.lock();
        let begun = jobs.begun;
        while jobs.running.first().is_some_and(|oldest| *oldest < begun) {
            self.check_open()?;
            self.bell.wait_for(&mut jobs, LOOK_AGAIN);
        }
        Ok(())
    }

    /// Works, or waits for the workers, until `done` says so.
    pub(crate) fn work_until(&self, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            self.check_writable()?;
            if self.options.background_threads == 0 {
                self.step(1)?;
                continue;
            }
            let mut jobs = self.jobs.lock();
            self.bell.wait_for(&mut jobs, LOOK_AGAIN);
        }
        Ok(())
    }

    /// Works until no plan is left.
    pub(crate) fn work_until_idle(&self) -> Result<()> {
        loop {
            self.check_writable()?;
            let worked = self.step(usize::MAX)?;
            let mut jobs = self.jobs.lock();
            if worked {
                continue;
            }
            if self.is_idle(&jobs) {
                return Ok(());
            }
            self.bell.wait_for(&mut jobs, LOOK_AGAIN);
        }
    }

    fn run_worker(&self) {
        let threads =
            usize::try_from(self.options.background_threads).expect("validated to 16 at most");
        let compactions_max = threads.saturating_sub(1).max(1);
        while !self.is_closed() {
            let rings = self.jobs.lock().rings;
            if self.check_writable().is_err() {
                self.retired.drop_unused();
                self.wait(rings, IDLE);
                continue;
            }
            self.prepare_log();
            // A panic must not leave writers waiting for a flush that nobody will do.
            let step = catch_unwind(AssertUnwindSafe(|| self.step(compactions_max)));
            match step.unwrap_or_else(|_| Err(Error::Poisoned { cause: PANICKED.to_owned() })) {
                Ok(false) => {
                    self.wait(rings, IDLE);
                    self.note_space(self.pool.free_space());
                    self.flush_deletes();
                    self.flush_when_quiet();
                    self.rest_log_when_idle();
                }
                Err(error) if error.scope() == Scope::Store => self.fail(&error),
                // What failed waits for its turn; other work goes on.
                Ok(true) | Err(_) => {}
            }
        }
    }

    /// On a volume that is nearly full, takes the deletes in the active memtable to where
    /// compaction can turn them into free space; they alone would not fill it soon. Not each of
    /// them: a flush takes a few units of space itself.
    fn flush_deletes(&self) {
        let is_last = self.take_last_deletes();
        if !self.view.load().active.has_deletes() || !(is_last || self.is_emptying()) {
            return;
        }
        let bytes = self.view.load().active.bytes() as u64;
        if !is_last && !self.jobs.lock().deletes_are_due(bytes) {
            return;
        }
        if let Some(commits) = self.commits.get().and_then(Weak::upgrade) {
            commits.exclusive(|| self.seal());
        }
    }

    /// Waits for the next ring after `rings`.
    fn wait(&self, rings: u64, at_most: Duration) {
        let mut jobs = self.jobs.lock();
        if jobs.rings == rings && !self.is_closed() {
            self.bell.wait_for(&mut jobs, at_most);
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

/// Starts the background threads.
pub(crate) fn start(store: &Arc<Store>) -> Vec<JoinHandle<()>> {
    // Nothing that is open for reading only has work to do.
    let threads = if store.pool.is_read_only() { 0 } else { store.options.background_threads };
    let spawn = |n| {
        let store = Arc::clone(store);
        let builder = std::thread::Builder::new().name(format!("db-work-{n}"));
        let work = move || {
            if let Err(error) = mpool::lower_priority(store.options.background_nice) {
                tracing::warn!(%error, "background threads have the priority of all others");
            }
            store.run_worker();
        };
        builder.spawn(work).expect("the system gives us a thread at start")
    };
    (0..threads).map(spawn).chain(warm::start(store)).collect()
}
