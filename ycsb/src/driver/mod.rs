//! The driver: threads, time, and when to stop.
//!
//! Closed loop (the default, as the original): a thread begins its next operation when the last
//! one is done; latency runs from the begin. Open loop (a rate): operation `k` of thread `i` of
//! `n` is due at `(i + k n) / rate`; latency runs from then, so a store that stalls pays for
//! everybody who would have waited.
//!
//! ```text
//!   sessions, sums --> gate --> warm-up --> measured --> all threads done --> merge
//!                               (epoch 0)   (epoch 1 ..)
//! ```
//!
//! Crossing into the measured part, each thread drops what it recorded and counts its share of
//! the operations from there. With [`Plan::by_second`] each second of the measured part is an
//! epoch of its own, and a thread that meets the next one hands in what it recorded and begins
//! anew: the report then has latencies second by second, for 0.3 ms of merging each.
//!
//! In a course ([`course`](mod@crate::course)) the clients of a stage do its task in the place of a
//! mix of operations, and others may do something else beside them until they are done.
//!
//! Whoever watches the run may break it off. What was measured until then is the outcome; of a run
//! that was broken off while it warmed up, that is nothing.

pub(crate) mod client;
pub(crate) mod gate;
pub(crate) mod measure;
pub(crate) mod observe;
pub(crate) mod pace;
pub(crate) mod progress;

use crate::driver::client::course::Wire;
use crate::driver::client::{Client, Done};
use crate::driver::gate::{Gate, Verdict};
use crate::driver::measure::Recorder;
use crate::driver::observe::{Observation, Observer};
use crate::driver::pace::{Pace, Turn};
use crate::machine::cgroup::MemoryGroup;
use crate::target::Target;
use crate::workload::Workload;
use crate::workload::course::ledger::Ledger;
use crate::workload::course::steps::{Duty, Task};
use crate::workload::dist::counter::Acknowledged;
use crate::workload::random::Rng;
use anyhow::{Context as _, Result, bail};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Failures in a row after which a thread ends the run: the store is gone, or was never loaded.
const FAILURES_MAX: u32 = 1000;
/// Why a worker's report cannot fail.
const LISTENS: &str = "the main thread listens until every worker is gone";
const TICK: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    Load,
    #[default]
    Run,
    /// A stage of a course that is not its load.
    Course,
    /// Reads every loaded record once, so that what memory there is holds it.
    Fill,
    /// Reads every loaded record once and checks it.
    Verify,
}

/// Where a run was when it was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Loading,
    /// Filling included: nothing was measured.
    WarmUp,
    Measuring,
    Verifying,
}

impl Part {
    /// As reports name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::WarmUp => "warm-up",
            Self::Measuring => "measuring",
            Self::Verifying => "verifying",
        }
    }
}

#[derive(Clone, Debug, Default)]
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
    /// The account of a course.
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// Who does what in a stage of a course; none in its load.
    pub(crate) duty: Option<Duty>,
}

/// What a run was.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) recorder: Recorder,
    /// The recorders of the measured seconds, where the plan asks for them.
    pub(crate) seconds: Vec<Recorder>,
    pub(crate) operations: u64,
    /// Of the clients beside the others.
    pub(crate) beside: u64,
    pub(crate) elapsed: Duration,
    /// What happened around the operations of the measured part.
    pub(crate) observed: Observation,
    /// Some thread gave up.
    pub(crate) aborted: bool,
    /// Where it was when it was broken off.
    pub(crate) interrupted: Option<Part>,
}

/// How far a run is, for the progress bar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    pub(crate) warming: bool,
    pub(crate) elapsed: Duration,
    pub(crate) done: u64,
}

struct Shared {
    gate: Gate,
    stop: AtomicBool,
    aborted: AtomicBool,
    /// 0 while warming up; from 1 on while measured.
    epoch: AtomicU32,
    /// The next record to load or verify.
    next: AtomicU64,
    /// Of those beside the others, too; they come last.
    done: Vec<Padded>,
    /// Clients whose work it is; when the last of them is done, so are those beside them.
    workers: usize,
    working: AtomicUsize,
    inserted: Acknowledged,
}

/// One client's part of a run.
#[derive(Clone, Copy, Debug)]
struct Post {
    task: Option<Task>,
    /// Of those beside the others.
    beside: Option<Every>,
}

/// How often a client beside the others begins.
#[derive(Clone, Copy, Debug)]
struct Every(Option<Duration>);

/// What a thread recorded in one epoch.
struct Harvest {
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
    pulse: &mut dyn FnMut(Pulse) -> ControlFlow<()>,
) -> Result<Outcome> {
    plan.check()?;
    let shared = Shared::new(workload, plan);
    let keys = workload.choose_keys(&shared.inserted);
    let posts = plan.posts(workload);
    let sessions = posts.iter().map(|_| target.session()).collect::<Result<Vec<_>>>()?;
    let observer = Observer::new(target, group);
    let (report, reports) = channel();
    std::thread::scope(|scope| {
        for (thread, (session, post)) in sessions.into_iter().zip(posts).enumerate() {
            let rng = Rng::new(plan.seed, u64::try_from(thread).expect("fits"));
            let mut client = Client::new(workload, &shared.inserted, session, rng, keys.clone());
            client.ledger.clone_from(&plan.ledger);
            let worker = Worker { client, shared: &shared, workload, plan, post, thread };
            let report = report.clone();
            let builder = std::thread::Builder::new().name(format!("client-{thread}"));
            if let Err(error) = builder.spawn_scoped(scope, move || worker.work(&report)) {
                shared.gate.open(Verdict::GiveUp);
                let threads = shared.done.len();
                return Err(error).with_context(|| format!("thread {thread} of {threads}"));
            }
        }
        drop(report);
        Ok(conduct(&shared, plan, &observer, &reports, pulse))
    })
}

/// The main thread's part: warm-up, seconds, time limit, progress; and the merge.
fn conduct(
    shared: &Shared,
    plan: &Plan,
    observer: &Observer<'_>,
    reports: &Receiver<Harvest>,
    pulse: &mut dyn FnMut(Pulse) -> ControlFlow<()>,
) -> Outcome {
    let mut recorder = Recorder::default();
    let mut seconds = Vec::new();
    let mut warming = !plan.warmup.is_zero();
    let mut interrupted = None;
    shared.gate.wait_for(shared.done.len());
    let mut before = observer.look();
    let mut began = Instant::now();
    shared.gate.open(Verdict::Begin);
    loop {
        match reports.recv_timeout(plan.pause(warming, began.elapsed())) {
            Ok(harvest) => {
                if plan.by_second {
                    add_to_second(&mut seconds, &harvest);
                }
                recorder.merge(harvest.recorder);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let elapsed = began.elapsed();
        let flow = pulse(Pulse { warming, elapsed, done: shared.done() });
        if flow.is_break() && interrupted.is_none() {
            interrupted = Some(if warming { Part::WarmUp } else { plan.phase.part() });
            shared.stop.store(true, Ordering::Relaxed);
        }
        if interrupted.is_some() {
            continue;
        }
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
    let (operations, beside) = (shared.done(), shared.beside());
    let outcome =
        Outcome { recorder, seconds, operations, beside, elapsed, observed, aborted, interrupted };
    if interrupted == Some(Part::WarmUp) { outcome.without_measurement() } else { outcome }
}

impl Outcome {
    /// What is left of a run that was broken off while it warmed up: what went wrong.
    fn without_measurement(self) -> Self {
        let recorder = self.recorder.without_latencies();
        let (aborted, interrupted) = (self.aborted, self.interrupted);
        Self { recorder, aborted, interrupted, ..Self::default() }
    }
}

/// Puts a harvest with those of the same second. What a run that ended in its warm-up recorded
/// belongs to none.
fn add_to_second(seconds: &mut Vec<Recorder>, harvest: &Harvest) {
    let Some(at) = harvest.epoch.checked_sub(1) else { return };
    let at = usize::try_from(at).expect("seconds of a run");
    seconds.resize_with(seconds.len().max(at + 1), Recorder::default);
    seconds[at].merge(harvest.recorder.clone());
}

impl Phase {
    /// The part that is not warm-up.
    fn part(self) -> Part {
        match self {
            Self::Load => Part::Loading,
            Self::Run | Self::Course => Part::Measuring,
            Self::Fill => Part::WarmUp,
            Self::Verify => Part::Verifying,
        }
    }
}

impl Plan {
    /// Refuses what would never end.
    pub(crate) fn check(&self) -> Result<()> {
        if self.phase == Phase::Run && self.operations == 0 && self.time.is_none() {
            bail!(
                "neither operationcount nor a time is given, so the run would never end; \
                 add -p operationcount=N or --seconds S"
            );
        }
        Ok(())
    }

    /// Every client's part: those whose work it is, then those beside them.
    fn posts(&self, workload: &Workload) -> Vec<Post> {
        let task = self.duty.map(|duty| duty.task);
        let mut posts = vec![Post { task, beside: None }; self.workers(workload)];
        if let Some(beside) = self.duty.and_then(|duty| duty.beside) {
            let post = Post { task: Some(beside.task), beside: Some(Every(beside.every)) };
            posts.extend(std::iter::repeat_n(post, beside.threads));
        }
        posts
    }

    /// How many clients there are whose work it is.
    fn workers(&self, workload: &Workload) -> usize {
        self.duty.map_or(workload.threads, |duty| duty.threads)
    }

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
        let workers = plan.workers(workload);
        Self {
            gate: Gate::default(),
            stop: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            epoch: AtomicU32::new(u32::from(plan.warmup.is_zero())),
            next: AtomicU64::new(workload.insert_start),
            done: plan.posts(workload).iter().map(|_| Padded::default()).collect(),
            workers,
            working: AtomicUsize::new(workers),
            inserted: Acknowledged::new(workload.records),
        }
    }

    fn beside(&self) -> u64 {
        self.done.iter().skip(self.workers).map(|n| n.0.load(Ordering::Relaxed)).sum()
    }

    fn done(&self) -> u64 {
        self.done.iter().take(self.workers).map(|n| n.0.load(Ordering::Relaxed)).sum()
    }
}

struct Worker<'a> {
    client: Client<'a>,
    shared: &'a Shared,
    workload: &'a Workload,
    plan: &'a Plan,
    post: Post,
    thread: usize,
}

/// A client that leaves, by whatever way.
struct Leaving<'a>(Option<&'a Shared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // Counts only; what the clients have done is passed on by the channel.
        if let Some(shared) = self.0
            && shared.working.fetch_sub(1, Ordering::Relaxed) == 1
        {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Worker<'_> {
    fn work(mut self, report: &Sender<Harvest>) {
        let _leaving = Leaving(self.post.beside.is_none().then_some(self.shared));
        let mut pace = self.pace();
        let count = &self.shared.done[self.thread].0;
        let share = self.share();
        let mut turns = 0;
        let mut epoch = 0;
        let mut failures = 0;
        if self.shared.gate.pass() == Verdict::GiveUp {
            return;
        }
        while !self.shared.stop.load(Ordering::Relaxed) {
            let current = self.shared.epoch.load(Ordering::Relaxed);
            if current != epoch {
                let recorder = std::mem::take(&mut self.client.recorder);
                if epoch == 0 {
                    count.store(0, Ordering::Relaxed);
                    turns = 0;
                    pace.restart();
                } else {
                    report.send(Harvest { epoch, recorder }).expect(LISTENS);
                }
                epoch = current;
            }
            if epoch > 0 && share.is_some_and(|share| turns >= share) {
                break;
            }
            let Some(done) = self.step(&mut pace) else { break };
            turns += 1;
            if !matches!(self.post.task, Some(Task::Walk(_))) {
                count.store(turns, Ordering::Relaxed);
            }
            failures = if done == Done::Well { 0 } else { failures + 1 };
            if failures >= FAILURES_MAX && self.plan.phase != Phase::Verify {
                self.shared.aborted.store(true, Ordering::Relaxed);
                self.shared.stop.store(true, Ordering::Relaxed);
            }
        }
        report.send(Harvest { epoch, recorder: self.client.recorder }).expect(LISTENS);
    }

    fn pace(&self) -> Pace {
        match self.post.beside {
            Some(Every(interval)) => Pace::every(interval),
            None => Pace::new(self.workload.rate, self.thread, self.shared.workers),
        }
    }

    /// The operations of this thread: an even share of all, the first threads one more.
    fn share(&self) -> Option<u64> {
        let counts = matches!(self.plan.phase, Phase::Run | Phase::Course);
        if !counts || self.plan.operations == 0 || self.post.beside.is_some() {
            return None;
        }
        let threads = u64::try_from(self.shared.workers).expect("fits");
        let thread = u64::try_from(self.thread).expect("fits");
        let (each, rest) = (self.plan.operations / threads, self.plan.operations % threads);
        Some(each + u64::from(thread < rest))
    }

    /// One operation, or `None` when all records are done or the run is over.
    fn step(&mut self, pace: &mut Pace) -> Option<Done> {
        let number = match self.plan.phase {
            Phase::Run | Phase::Course => None,
            Phase::Load | Phase::Fill | Phase::Verify => Some(self.next()?),
        };
        let paced = matches!(self.plan.phase, Phase::Run | Phase::Load | Phase::Course);
        let turn = if paced { pace.wait(&self.shared.stop) } else { Turn::Begin(None) };
        let Turn::Begin(intended) = turn else { return None };
        if let Some(task) = self.post.task {
            return Some(self.turn(task, intended, pace));
        }
        Some(match (self.plan.phase, number) {
            (Phase::Load, Some(number)) => self.client.insert(number, intended),
            (Phase::Fill, Some(number)) => self.client.fill(number),
            (Phase::Verify, Some(number)) => self.client.verify(number),
            _ => self.client.transaction(intended),
        })
    }

    /// One turn of a course's stage. Who works beside others at intervals is no open loop: turns
    /// that one of them has outlasted are left out.
    fn turn(&mut self, task: Task, intended: Option<Instant>, pace: &mut Pace) -> Done {
        let wire = Wire { count: &self.shared.done[self.thread].0, stop: &self.shared.stop };
        if self.post.beside.is_none() {
            return self.client.work_on(task, intended, wire);
        }
        let done = self.client.work_on(task, None, wire);
        pace.skip_missed();
        done
    }

    /// The next record that is loaded, or read once.
    fn next(&self) -> Option<u64> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        (number < self.workload.insert_start + self.workload.insert_count).then_some(number)
    }
}

#[cfg(test)]
mod tests;
