//! What jobs run, and what the last ones came to, for `millpond tree` and `Database::jobs`.
//!
//! A job has an entry from its beginning; at its end the entry goes to a ring of the last
//! [`ENDED_MAX`]. Nothing is decided by it, and nothing is kept beyond the process. Time is given
//! by the caller. What a job has done so far stands in its [`Progress`], which it shares with those
//! who watch: a job adds, they read, and no lock is taken for it.

use super::{Job, PANICKED};
use crate::error::{Error, Result};
use crate::metrics::Counter;
use crate::shape::view::View;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Jobs that are remembered after their end.
const ENDED_MAX: usize = 64;
/// Inputs that an entry names; there may be more.
const INPUTS_NAMED: usize = 64;

/// What a job has done so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Entries that its inputs hold, and those of them that it is past.
    pub(crate) entries_total: Counter,
    pub(crate) entries: Counter,
    /// Shared with the cursors over its inputs.
    pub(crate) read_bytes: Arc<Counter>,
    pub(crate) written_bytes: Counter,
    /// Values that were to move and stay where they are, because they cannot be read.
    pub(crate) values_left: Counter,
    cancelled: AtomicBool,
}

impl Progress {
    /// Asks the job to end without a result; it looks between two entries.
    pub(crate) fn cancel(&self) {
        // Relaxed: a hint, nothing is published by it.
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// It did what it was begun for.
    Done,
    /// It was told to end, or its KVS was dropped: it changed nothing.
    Cancelled,
    /// It failed, and changed nothing: why, with its causes, on one line.
    Failed(String),
}

/// A job of the background: a flush or a compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobInfo {
    /// Counts the jobs since the open.
    pub number: u64,
    /// What it does: `flush`, `refresh` (of kvsets that the pool has moved), or the action of a
    /// compaction, as in the metrics.
    pub action: &'static str,
    /// Why it was begun: the reason of a compaction, as in the metrics.
    pub reason: &'static str,
    /// Name of the KVS, of a compaction.
    pub kvs: Option<Arc<str>>,
    /// The node that it begins at, of a compaction; 0 is the root.
    pub node: Option<u64>,
    /// Ids of the kvsets that it replaces, the first 64.
    pub inputs: Vec<u64>,
    /// How many there are.
    pub inputs_total: u64,
    /// For how long it runs, or ran.
    pub elapsed: Duration,
    /// Entries of its inputs that it is past, and how many they hold; 0 where it does not tell.
    pub entries: u64,
    /// See `entries`.
    pub entries_total: u64,
    /// Bytes that it read from the drive.
    pub read_bytes: u64,
    /// Bytes of the objects that it wrote.
    pub written_bytes: u64,
    /// How it ended, and how long ago; `None` while it runs.
    pub ended: Option<(JobOutcome, Duration)>,
}

/// An entry.
struct Entry {
    action: &'static str,
    reason: &'static str,
    kvs: Option<Arc<str>>,
    node: Option<u64>,
    inputs: Vec<u64>,
    inputs_total: u64,
    began: Instant,
    progress: Arc<Progress>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Ledger {
    running: BTreeMap<u64, Entry>,
    /// Oldest first.
    ended: VecDeque<(u64, Entry, Instant, JobOutcome)>,
}

impl Ledger {
    /// Begins the entry of a job.
    pub(super) fn begin(
        &mut self,
        number: u64,
        job: &Job,
        view: &View,
        now: Instant,
    ) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        let mut entry = Entry {
            action: "flush",
            reason: "memtable",
            kvs: None,
            node: None,
            inputs: Vec::new(),
            inputs_total: 0,
            began: now,
            progress: Arc::clone(&progress),
        };
        match job {
            Job::Flush => {}
            Job::Refresh(_) => (entry.action, entry.reason) = ("refresh", "moved"),
            Job::Compact(kvs, plan) => {
                (entry.action, entry.reason) = (plan.action.as_str(), plan.why.as_str());
                entry.kvs = view.trees.get(kvs).map(|tree| Arc::clone(&tree.name));
                entry.node = Some(plan.node.get());
                let ids = plan.inputs.iter().map(|kvset| kvset.get());
                entry.inputs = ids.take(INPUTS_NAMED).collect();
                entry.inputs_total = plan.inputs.len() as u64;
            }
        }
        self.running.insert(number, entry);
        progress
    }

    /// Ends it; nothing where it has ended.
    pub(super) fn end(&mut self, number: u64, done: &Result<()>, now: Instant) {
        let Some(entry) = self.running.remove(&number) else { return };
        let outcome = match done {
            Err(Error::KvsDropped | Error::Closed) => JobOutcome::Cancelled,
            Err(error) => JobOutcome::Failed(error.with_sources()),
            Ok(()) if entry.progress.is_cancelled() => JobOutcome::Cancelled,
            Ok(()) => JobOutcome::Done,
        };
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((number, entry, now, outcome));
    }

    /// Ends the entry of a job whose end nobody has told: it has panicked.
    pub(super) fn lose(&mut self, number: u64, now: Instant) {
        self.end(number, &Err(Error::Poisoned { cause: PANICKED.to_owned() }), now);
    }

    /// Those that run, the oldest first, and then the last ones that ended, the newest first.
    pub(super) fn jobs(&self, now: Instant) -> Vec<JobInfo> {
        let running = self.running.iter().map(|(number, entry)| entry.info(*number, now));
        let ended = self.ended.iter().rev().map(|(number, entry, at, outcome)| JobInfo {
            ended: Some((outcome.clone(), now.saturating_duration_since(*at))),
            ..entry.info(*number, *at)
        });
        running.chain(ended).collect()
    }
}

impl Entry {
    fn info(&self, number: u64, now: Instant) -> JobInfo {
        JobInfo {
            number,
            action: self.action,
            reason: self.reason,
            kvs: self.kvs.clone(),
            node: self.node,
            inputs: self.inputs.clone(),
            inputs_total: self.inputs_total,
            elapsed: now.saturating_duration_since(self.began),
            entries: self.progress.entries.get(),
            entries_total: self.progress.entries_total.get(),
            read_bytes: self.progress.read_bytes.get(),
            written_bytes: self.progress.written_bytes.get(),
            ended: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::db::tree_info::TreePage;
    use crate::jobs::compact::job;
    use crate::options::{Durability, Options};
    use crate::pick::{Action, Limits, Plan, pick};
    use mpool::Pool;
    use mpool_sim::SimDevice;

    /// A job over a leaf of gigabytes went on to its end, whoever wanted it to stop.
    #[test]
    fn a_job_that_is_cancelled_ends_between_two_entries_and_leaves_nothing() {
        let options = Options { background_threads: 0, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        let kvs = db.create_kvs("k").unwrap();
        // Two that overlap: one alone would be moved as it is.
        for _ in 0..2 {
            for n in 0..100_u8 {
                kvs.put(&[n], &[n; 1000], Durability::Off).unwrap();
            }
            db.flush().unwrap();
        }
        let jobs = &*db.work().jobs;
        let before = (db.tree("k", &TreePage::default()).unwrap(), db.pool().mblock_ids());
        let tree = jobs.store.shape.tree(kvs.id()).unwrap();
        let (shape, limits) = jobs.picture(&tree, &jobs.aside(kvs.id()));
        let plan = pick(&shape, Limits { spill_min: 1, ..limits }).unwrap();
        let progress = Progress::default();
        progress.cancel();
        job::run(jobs, kvs.id(), &plan, &progress).unwrap();
        assert_eq!((progress.entries.get(), progress.entries_total.get()), (1, 200));
        let after = (db.tree("k", &TreePage::default()).unwrap(), db.pool().mblock_ids());
        assert_eq!(after, before);
        // What it has written is counted: the value of the one entry, where values move.
        let moving = Plan { action: Action::KvCompact, ..plan.clone() };
        let progress = Progress::default();
        progress.cancel();
        job::run(jobs, kvs.id(), &moving, &progress).unwrap();
        assert!(progress.written_bytes.get() > 1000);
        job::run(jobs, kvs.id(), &plan, &Progress::default()).unwrap();
        assert_eq!(db.tree("k", &TreePage::default()).unwrap().root_kvsets, 0);
    }

    #[test]
    fn jobs_are_told_while_they_run_and_the_last_ones_after_their_end() {
        let view = View::of_nothing();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut ledger = Ledger::default();
        for number in 0..70 {
            let at = start + second * u32::try_from(number).unwrap();
            let progress = ledger.begin(number, &Job::Flush, &view, at);
            progress.entries.add(number);
            if number == 69 {
                break;
            }
            let done = match number {
                67 => Err(Error::KvsLimit),
                68 => {
                    progress.cancel();
                    Ok(())
                }
                _ => Ok(()),
            };
            ledger.end(number, &done, at + second);
            ledger.end(number, &Ok(()), at + 2 * second);
        }
        let jobs = ledger.jobs(start + 71 * second);
        assert_eq!(jobs.len(), 1 + ENDED_MAX);
        assert_eq!((jobs[0].number, jobs[0].ended.clone()), (69, None));
        assert_eq!((jobs[0].elapsed, jobs[0].entries), (2 * second, 69));
        let ended = |at: usize| (jobs[at].number, jobs[at].elapsed, jobs[at].ended.clone());
        assert_eq!(ended(1), (68, second, Some((JobOutcome::Cancelled, 2 * second))));
        let failed = JobOutcome::Failed(Error::KvsLimit.to_string());
        assert_eq!(ended(2), (67, second, Some((failed, 3 * second))));
        assert_eq!(ended(3), (66, second, Some((JobOutcome::Done, 4 * second))));
        assert_eq!(jobs.last().map(|job| job.number), Some(5));
    }
}
