//! The background threads: they do jobs, and tell the queue of writes.
//!
//! ```text
//!   worker   step: a job ----> news to the queue: the log forgets, held batches go
//!      |
//!      +---- nothing to do: the log gets its next segment, or rests; what is in memory is flushed
//!            when the database is quiet
//! ```
//!
//! Threads that call [`Work::step`] live here and nowhere else. With `background_threads` 0 there
//! are none, and `Database::flush` and `compact` step themselves. Of several threads one is kept
//! free of compaction, so that a flush never waits for one.

pub(crate) mod dead;
mod log;
mod requested;
mod warm;

use crate::error::{Error, Result, Scope};
use crate::jobs::{Jobs, LOOK_AGAIN, News, PANICKED};
use crate::store::Store;
use crate::write::group::CommitQueue;
use crate::write::sink::Sink;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an idle worker sleeps when nothing rings.
const IDLE: Duration = Duration::from_secs(1);
/// A quiet database flushes a memtable that is filled to this part.
const QUIET_FLUSH_SHARE: u64 = 16;

/// The work of an open database.
pub(crate) struct Work {
    pub(crate) store: Arc<Store>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) commits: Arc<CommitQueue<Sink>>,
    /// That of the last compaction that was asked for.
    requested: Mutex<Option<JoinHandle<()>>>,
}

impl Work {
    pub(crate) fn new(jobs: Arc<Jobs>, commits: Arc<CommitQueue<Sink>>) -> Self {
        Self { store: Arc::clone(&jobs.store), jobs, commits, requested: Mutex::default() }
    }

    /// Does one unit of work; `false` if there is none to be had now.
    pub(crate) fn step(&self, compactions_max: usize) -> Result<bool> {
        let done = self.jobs.step(compactions_max);
        self.pass_on(self.jobs.take_news())?;
        done
    }

    /// Tells the queue of writes what jobs have changed.
    fn pass_on(&self, News { floor, relief }: News) -> Result<()> {
        if relief {
            self.commits.relieve();
        }
        floor.map_or(Ok(()), |floor| self.commits.release_wal(floor))
    }

    /// Seals the active memtable, between two groups.
    pub(crate) fn seal(&self) {
        self.commits.exclusive(|| self.store.seal());
    }

    /// Works, or waits for the workers, until `done` says so.
    pub(crate) fn until(&self, done: impl Fn(&Store) -> bool) -> Result<()> {
        loop {
            let rings = self.store.life.bell.rings();
            if done(&self.store) {
                return Ok(());
            }
            self.store.life.check_writable()?;
            if self.is_alone() {
                self.step(1)?;
            } else {
                self.store.life.bell.wait(rings, LOOK_AGAIN);
            }
        }
    }

    /// Works until no plan is left.
    pub(crate) fn until_idle(&self) -> Result<()> {
        loop {
            let rings = self.store.life.bell.rings();
            self.store.life.check_writable()?;
            if self.step(usize::MAX)? {
                continue;
            }
            if self.jobs.is_done() {
                return Ok(());
            }
            self.store.life.bell.wait(rings, LOOK_AGAIN);
        }
    }

    /// Whether nothing works in the background.
    fn is_alone(&self) -> bool {
        self.store.options.background_threads == 0
    }

    fn run_worker(&self) {
        let threads = usize::try_from(self.store.options.background_threads)
            .expect("validated to 16 at most");
        let compactions_max = threads.saturating_sub(1).max(1);
        while !self.store.life.is_closed() {
            let rings = self.store.life.bell.rings();
            if self.store.life.check_writable().is_err() {
                self.store.shape.retired.drop_unused();
                self.wait(rings);
                continue;
            }
            self.prepare_log();
            // A panic must not leave writers waiting for a flush that no thread will do.
            let step = catch_unwind(AssertUnwindSafe(|| self.step(compactions_max)));
            match step.unwrap_or_else(|_| Err(Error::Poisoned { cause: PANICKED.to_owned() })) {
                Ok(false) => {
                    self.wait(rings);
                    self.store.space.note(self.store.pool.free_space());
                    self.flush_deletes();
                    self.flush_when_quiet();
                    self.rest_log_when_idle();
                }
                Err(error) if error.scope() == Scope::Store => self.store.life.fail_shape(&error),
                // What failed waits for its turn; other work goes on.
                Ok(true) | Err(_) => {}
            }
        }
    }

    /// Waits for the next ring after the first `rings`.
    fn wait(&self, rings: u64) {
        if !self.store.life.is_closed() {
            self.store.life.bell.wait(rings, IDLE);
        }
    }

    /// On a volume that is nearly full, takes the deletes in the active memtable to where
    /// compaction can turn them into free space; they alone would not fill it soon. Not each of
    /// them: a flush takes a few units of space itself.
    fn flush_deletes(&self) {
        let is_last = self.store.space.take_last_deletes();
        if !self.store.shape.view.load().active.has_deletes()
            || !(is_last || self.store.space.is_emptying())
        {
            return;
        }
        let bytes = self.store.shape.view.load().active.bytes() as u64;
        if !is_last && !self.jobs.deletes_are_due(bytes) {
            return;
        }
        self.seal();
    }

    /// When hardly anything is put any more, takes what is in the active memtable to the root,
    /// unless it is little: older versions of its keys are garbage, and the log holds it until
    /// then.
    fn flush_when_quiet(&self) {
        let active_bytes = self.store.shape.view.load().active.bytes() as u64;
        if active_bytes < self.store.options.memtable_bytes / QUIET_FLUSH_SHARE
            || !self.jobs.is_quiet()
        {
            return;
        }
        self.seal();
    }
}

/// Starts the background threads.
pub(crate) fn start(work: &Arc<Work>) -> Vec<JoinHandle<()>> {
    let store = &work.store;
    // Nothing that is open for reading only has work to do.
    let threads = if store.pool.is_read_only() { 0 } else { store.options.background_threads };
    let spawn = |n| {
        let work = Arc::clone(work);
        let builder = std::thread::Builder::new().name(format!("db-work-{n}"));
        let run = move || {
            if let Err(error) = mpool::lower_priority(work.store.options.background_nice) {
                tracing::warn!(%error, "background threads have the priority of all others");
            }
            work.run_worker();
        };
        builder.spawn(run).expect("the system gives us a thread at start")
    };
    (0..threads).map(spawn).chain(warm::start(store)).collect()
}
