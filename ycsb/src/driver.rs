//! The driver: threads, time, and when to stop.
//!
//! Closed loop (the default, as the original): a thread begins its next operation when the last
//! one is done; latency runs from the begin. Open loop (a rate): operation `k` of thread `i` of
//! `n` is due at `(i + k n) / rate`; latency runs from then, so a store that stalls pays for
//! everybody who would have waited.
//!
//! ```text
//!   sessions, sums --> barrier --> warm-up --> measured --> all threads done --> merge
//!                                  (epoch 0)   (epoch 1 ..)
//! ```
//!
//! Crossing into the measured part, each thread drops what it recorded and counts its share of
//! the operations from there. With [`Plan::by_second`] each second of the measured part is an
//! epoch of its own, and a thread that meets the next one hands in what it recorded and begins
//! anew: the report then has latencies second by second, for 0.3 ms of merging each.

use crate::cgroup::MemoryGroup;
use crate::client::{Client, Done};
use crate::dist::counter::Acknowledged;
use crate::measure::Recorder;
use crate::number::float;
use crate::observe::{Observation, Observer};
use crate::random::Rng;
use crate::target::Target;
use crate::workload::Workload;
use anyhow::{Result, bail};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Failures in a row after which a thread ends the run: the store is gone, or was never loaded.
const FAILURES_MAX: u32 = 1000;
/// Why a worker's report cannot fail.
const LISTENS: &str = "the main thread listens until every worker is gone";
const TICK: Duration = Duration::from_millis(200);
/// Timers are late by some 60 us; the last part of a wait is spent looking at the clock.
const TIMER_SLACK: Duration = Duration::from_micros(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Load,
    Run,
    /// Reads every loaded record once and checks it.
    Verify,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) phase: Phase,
    pub(crate) warmup: Duration,
    /// Ends the measured part, however many operations are left; none given, operations end it.
    pub(crate) time: Option<Duration>,
    /// Operations of the measured part, over all threads; 0 for as many as the time allows.
    pub(crate) operations: u64,
    pub(crate) seed: u64,
    /// Keeps the latencies of each second apart, too.
    pub(crate) by_second: bool,
}

/// What a run was.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) recorder: Recorder,
    /// The recorders of the measured seconds, where the plan asks for them.
    pub(crate) seconds: Vec<Recorder>,
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// What happened around the operations of the measured part.
    pub(crate) observed: Observation,
    /// Some thread gave up.
    pub(crate) aborted: bool,
}

/// How far a run is, for the progress bar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    pub(crate) warming: bool,
    pub(crate) elapsed: Duration,
    pub(crate) done: u64,
}

struct Shared {
    barrier: Barrier,
    stop: AtomicBool,
    aborted: AtomicBool,
    /// 0 while warming up; from 1 on while measured.
    epoch: AtomicU32,
    /// The next record to load or verify.
    next: AtomicU64,
    done: Vec<Padded>,
    inserted: Acknowledged,
}

/// What a thread recorded in one epoch.
struct Part {
    epoch: u32,
    recorder: Recorder,
}

/// A counter with a cache line to itself, written by one thread and watched by the main one.
#[repr(align(128))]
#[derive(Default)]
struct Padded(AtomicU64);

/// Runs the plan. Blocks until all threads are done.
pub(crate) fn drive(
    target: &dyn Target,
    workload: &Workload,
    plan: &Plan,
    group: Option<&MemoryGroup>,
    pulse: &mut dyn FnMut(Pulse),
) -> Result<Outcome> {
    if plan.phase == Phase::Run && plan.operations == 0 && plan.time.is_none() {
        bail!(
            "neither operationcount nor a time is given, so the run would never end; \
             add -p operationcount=N or --seconds S"
        );
    }
    let shared = Shared::new(workload, plan);
    let keys = workload.choose_keys(&shared.inserted);
    let sessions = (0..workload.threads).map(|_| target.session()).collect::<Result<Vec<_>>>()?;
    let observer = Observer::new(target, group);
    let (report, reports) = channel();
    Ok(std::thread::scope(|scope| {
        for (thread, session) in sessions.into_iter().enumerate() {
            let rng = Rng::new(plan.seed, u64::try_from(thread).expect("fits"));
            let client = Client::new(workload, &shared.inserted, session, rng, keys.clone());
            let worker = Worker { client, shared: &shared, workload, plan, thread };
            let report = report.clone();
            scope.spawn(move || worker.work(&report));
        }
        drop(report);
        conduct(&shared, plan, &observer, &reports, pulse)
    }))
}

/// The main thread's part: warm-up, seconds, time limit, progress; and the merge.
fn conduct(
    shared: &Shared,
    plan: &Plan,
    observer: &Observer<'_>,
    reports: &Receiver<Part>,
    pulse: &mut dyn FnMut(Pulse),
) -> Outcome {
    let mut recorder = Recorder::default();
    let mut seconds = Vec::new();
    let mut warming = !plan.warmup.is_zero();
    let mut before = observer.look();
    let mut began = Instant::now();
    shared.barrier.wait();
    loop {
        match reports.recv_timeout(plan.pause(warming, began.elapsed())) {
            Ok(part) => {
                if plan.by_second {
                    add_to_second(&mut seconds, &part);
                }
                recorder.merge(part.recorder);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let elapsed = began.elapsed();
        pulse(Pulse { warming, elapsed, done: shared.done() });
        if warming && elapsed >= plan.warmup {
            warming = false;
            before = observer.look();
            began = Instant::now();
            // Pairs with the load in `work`; nothing but the number itself is passed on.
            shared.epoch.store(1, Ordering::Relaxed);
        } else if !warming && plan.time.is_some_and(|time| elapsed >= time) {
            shared.stop.store(true, Ordering::Relaxed);
        } else if !warming && plan.by_second {
            shared.epoch.store(plan.epoch_at(elapsed), Ordering::Relaxed);
        }
    }
    let elapsed = began.elapsed();
    let observed = observer.look().since(&before);
    let aborted = shared.aborted.load(Ordering::Relaxed);
    Outcome { recorder, seconds, operations: shared.done(), elapsed, observed, aborted }
}

/// Puts a part with those of the same second. What a run that ended in its warm-up recorded
/// belongs to none.
fn add_to_second(seconds: &mut Vec<Recorder>, part: &Part) {
    let Some(at) = part.epoch.checked_sub(1) else { return };
    let at = usize::try_from(at).expect("seconds of a run");
    seconds.resize_with(seconds.len().max(at + 1), Recorder::default);
    seconds[at].merge(part.recorder.clone());
}

impl Plan {
    /// The epoch of a moment of the measured part. The last second takes in what is left of the
    /// time, so that there is no sliver of a second at the end.
    fn epoch_at(&self, elapsed: Duration) -> u32 {
        let last = self.time.map_or(u64::MAX, |time| time.as_secs().saturating_sub(1));
        u32::try_from(elapsed.as_secs().min(last) + 1).unwrap_or(u32::MAX)
    }

    /// How long the main thread may wait until something is due.
    fn pause(&self, warming: bool, elapsed: Duration) -> Duration {
        let second = Duration::from_secs(elapsed.as_secs() + 1);
        let due = match (warming, self.time) {
            (true, _) => Some(self.warmup),
            (false, time) if self.by_second => Some(time.map_or(second, |time| time.min(second))),
            (false, time) => time,
        };
        due.map_or(TICK, |due| due.saturating_sub(elapsed).min(TICK))
    }
}

impl Shared {
    fn new(workload: &Workload, plan: &Plan) -> Self {
        Self {
            barrier: Barrier::new(workload.threads + 1),
            stop: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            epoch: AtomicU32::new(u32::from(plan.warmup.is_zero())),
            next: AtomicU64::new(workload.insert_start),
            done: (0..workload.threads).map(|_| Padded::default()).collect(),
            inserted: Acknowledged::new(workload.records),
        }
    }

    fn done(&self) -> u64 {
        self.done.iter().map(|n| n.0.load(Ordering::Relaxed)).sum()
    }
}

struct Worker<'a> {
    client: Client<'a>,
    shared: &'a Shared,
    workload: &'a Workload,
    plan: &'a Plan,
    thread: usize,
}

impl Worker<'_> {
    fn work(mut self, report: &Sender<Part>) {
        let mut pace = Pace::new(self.workload, self.thread);
        let count = &self.shared.done[self.thread].0;
        let share = self.share();
        let mut epoch = 0;
        let mut failures = 0;
        self.shared.barrier.wait();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let current = self.shared.epoch.load(Ordering::Relaxed);
            if current != epoch {
                let recorder = std::mem::take(&mut self.client.recorder);
                if epoch == 0 {
                    count.store(0, Ordering::Relaxed);
                    pace.restart();
                } else {
                    report.send(Part { epoch, recorder }).expect(LISTENS);
                }
                epoch = current;
            }
            let mine = count.load(Ordering::Relaxed);
            if epoch > 0 && share.is_some_and(|share| mine >= share) {
                break;
            }
            let Some(done) = self.step(&mut pace) else { break };
            count.store(mine + 1, Ordering::Relaxed);
            failures = if done == Done::Well { 0 } else { failures + 1 };
            if failures >= FAILURES_MAX && self.plan.phase != Phase::Verify {
                self.shared.aborted.store(true, Ordering::Relaxed);
                self.shared.stop.store(true, Ordering::Relaxed);
            }
        }
        report.send(Part { epoch, recorder: self.client.recorder }).expect(LISTENS);
    }

    /// The operations of this thread: an even share of all, the first threads one more.
    fn share(&self) -> Option<u64> {
        if self.plan.phase != Phase::Run || self.plan.operations == 0 {
            return None;
        }
        let threads = u64::try_from(self.workload.threads).expect("fits");
        let thread = u64::try_from(self.thread).expect("fits");
        let (each, rest) = (self.plan.operations / threads, self.plan.operations % threads);
        Some(each + u64::from(thread < rest))
    }

    /// One operation, or `None` when all records are done.
    fn step(&mut self, pace: &mut Pace) -> Option<Done> {
        if self.plan.phase == Phase::Run {
            let intended = pace.wait();
            return Some(self.client.transaction(intended));
        }
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.workload.insert_start + self.workload.insert_count {
            return None;
        }
        let intended = pace.wait();
        Some(match self.plan.phase {
            Phase::Verify => self.client.verify(number),
            Phase::Load | Phase::Run => self.client.insert(number, intended),
        })
    }
}

/// When a thread's operations are due.
struct Pace {
    /// Between two operations of this thread; none in a closed loop.
    interval: Option<Duration>,
    offset: Duration,
    due: Instant,
}

impl Pace {
    fn new(workload: &Workload, thread: usize) -> Self {
        let threads = float(u64::try_from(workload.threads).expect("fits"));
        let thread = float(u64::try_from(thread).expect("fits"));
        let seconds = |operations: f64| {
            workload.rate.map(|rate| Duration::try_from_secs_f64(operations / rate))
        };
        let bounded = |time: Option<Result<Duration, _>>| {
            // A rate of nearly nothing is due in a year at the latest.
            time.map(|time| time.unwrap_or(Duration::from_hours(24 * 365)))
        };
        let interval = bounded(seconds(threads));
        let offset = bounded(seconds(thread)).unwrap_or_default();
        Self { interval, offset, due: Instant::now() }
    }

    fn restart(&mut self) {
        self.due = Instant::now() + self.offset;
    }

    /// Waits until the next operation is due and says when that was. Late operations are due in
    /// the past, and do not wait.
    fn wait(&mut self) -> Option<Instant> {
        let interval = self.interval?;
        let due = self.due;
        self.due += interval;
        loop {
            let now = Instant::now();
            let Some(left) = due.checked_duration_since(now).filter(|left| !left.is_zero()) else {
                return Some(due);
            };
            match left.checked_sub(TIMER_SLACK) {
                Some(sleep) => std::thread::park_timeout(sleep),
                None => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::Properties;
    use crate::target::memory::Memory;
    use crate::workload::Operation;

    fn workload(file: &str, pairs: &[&str]) -> Workload {
        let pairs: Vec<String> = pairs.iter().map(|s| (*s).to_owned()).collect();
        Workload::new(&Properties::gather(&[file.to_owned()], &pairs).unwrap()).unwrap()
    }

    fn plan(phase: Phase, operations: u64) -> Plan {
        Plan { phase, warmup: Duration::ZERO, time: None, operations, seed: 1, by_second: false }
    }

    fn run(memory: &Memory, w: &Workload, plan: &Plan) -> Outcome {
        drive(memory, w, plan, None, &mut |_| {}).unwrap()
    }

    #[test]
    fn every_workload_runs_and_verifies() {
        for file in ["a", "b", "c", "d", "e", "f"] {
            let w = workload(
                file,
                &["recordcount=2000", "operationcount=6000", "threadcount=3", "dataintegrity=true"],
            );
            let memory = Memory::new();
            let load = run(&memory, &w, &plan(Phase::Load, 0));
            assert_eq!(load.operations, 2000, "{file}");
            let outcome = run(&memory, &w, &plan(Phase::Run, 6000));
            let recorder = outcome.recorder;
            assert_eq!(outcome.operations, 6000, "{file}");
            assert_eq!((recorder.errors_total(), recorder.mismatches), (0, 0), "{file}");
            assert!(recorder.verified > 2500, "{file}: {} verified", recorder.verified);
            let verify = run(&memory, &w, &plan(Phase::Verify, 0));
            assert_eq!((verify.recorder.verified, verify.recorder.mismatches), (2000, 0), "{file}");
        }
    }

    #[test]
    fn time_ends_a_run_and_warm_up_is_not_counted() {
        let w = workload("c", &["recordcount=100", "threadcount=2"]);
        let memory = Memory::new();
        run(&memory, &w, &plan(Phase::Load, 0));
        let mut timed = plan(Phase::Run, 0);
        timed.time = Some(Duration::from_millis(300));
        timed.warmup = Duration::from_millis(300);
        let mut warm = 0;
        let outcome = drive(&memory, &w, &timed, None, &mut |pulse| {
            warm += u64::from(pulse.warming);
        })
        .unwrap();
        assert!(warm > 0, "no pulse while warming up");
        let reads = outcome.recorder.latencies(Operation::Read).unwrap().len();
        assert_eq!(reads, outcome.operations);
    }

    #[test]
    fn seconds_are_kept_apart_and_add_up() {
        let w = workload("a", &["recordcount=100", "threadcount=2"]);
        let memory = Memory::new();
        run(&memory, &w, &plan(Phase::Load, 0));
        let mut timed = plan(Phase::Run, 0);
        timed.time = Some(Duration::from_millis(2200));
        timed.warmup = Duration::from_millis(100);
        timed.by_second = true;
        let outcome = run(&memory, &w, &timed);
        // The last 200 ms belong to the second second.
        assert_eq!(outcome.seconds.len(), 2);
        for operation in [Operation::Read, Operation::Update] {
            let count = |recorder: &Recorder| recorder.latencies(operation).unwrap().len();
            let sum: u64 = outcome.seconds.iter().map(count).sum();
            assert_eq!(sum, count(&outcome.recorder), "{operation:?}");
        }
        assert_eq!(outcome.operations, outcome.seconds.iter().map(all).sum::<u64>());
    }

    fn all(recorder: &Recorder) -> u64 {
        let of = |op: &Operation| recorder.latencies(*op).map_or(0, hdrhistogram::Histogram::len);
        Operation::ALL.iter().map(of).sum()
    }

    #[test]
    fn epochs_are_seconds_and_the_last_takes_the_rest() {
        let mut p = plan(Phase::Run, 0);
        let at = |p: &Plan, ms| p.epoch_at(Duration::from_millis(ms));
        assert_eq!((at(&p, 0), at(&p, 999), at(&p, 1000), at(&p, 61_500)), (1, 1, 2, 62));
        p.time = Some(Duration::from_millis(2500));
        assert_eq!((at(&p, 1999), at(&p, 2000), at(&p, 2499)), (2, 2, 2));
        p.time = Some(Duration::from_millis(300));
        assert_eq!(at(&p, 299), 1);
    }

    #[test]
    fn an_endless_plan_is_refused() {
        let w = workload("c", &[]);
        let error = drive(&Memory::new(), &w, &plan(Phase::Run, 0), None, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("--seconds"), "{error}");
    }

    #[test]
    fn a_store_that_was_not_loaded_ends_the_run() {
        let w = workload("c", &["recordcount=100"]);
        let outcome = run(&Memory::new(), &w, &plan(Phase::Run, 1_000_000));
        assert!(outcome.aborted);
        assert_eq!(outcome.recorder.errors_total(), u64::from(FAILURES_MAX));
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let w = workload("c", &["recordcount=10", "target=10000", "threadcount=2"]);
        let memory = Memory::new();
        run(&memory, &w, &plan(Phase::Load, 0));
        let outcome = run(&memory, &w, &plan(Phase::Run, 1000));
        // 1000 operations at 10000 a second are due over 0.1 s; they cannot be faster.
        assert!(outcome.elapsed >= Duration::from_millis(99), "{:?}", outcome.elapsed);
        assert_eq!(outcome.operations, 1000);
    }

    #[test]
    fn shares_add_up() {
        let w = workload("c", &["recordcount=10", "threadcount=7"]);
        let memory = Memory::new();
        run(&memory, &w, &plan(Phase::Load, 0));
        assert_eq!(run(&memory, &w, &plan(Phase::Run, 1003)).operations, 1003);
    }
}
