//! Runs courses, workloads of several stages, which change and delete what they have loaded.
//!
//! YCSB's workloads ask a data set that stays. A course begins with an empty table, loads it,
//! changes it at full speed, and then looks on until the store has nothing left to do. What it
//! measures besides latencies is what that costs: bytes written and read for those put, space for
//! what lives, seconds in which writers stood still ([`samples`]).
//!
//! ```text
//!   properties --> Course --> steps (pure) --> run --> driver, client::course --> target
//!                                               |
//!                                   samples, quiet, check <-- ledger: what must be there
//! ```
//!
//! | course | stages |
//! |---|---|
//! | `overwrite` | load, overwrite, quiet |
//! | `queue` | queue (head scans beside it), quiet |
//! | `delete-most` | load, delete, flush, head scans, compact, quiet, head scans |
//! | `scans` | load, scans of everything alone, a writer alone, both beside each other, quiet |
//!
//! `docs/benchmarks.md` has a row for each stage, as a test sees to.

pub(crate) mod check;
mod quiet;
pub(crate) mod samples;
mod space;

use crate::driver::measure::Recorder;
use crate::driver::progress::watched;
use crate::driver::{Outcome, Part, Phase, Plan};
use crate::interrupt;
use crate::machine::bound;
use crate::machine::cgroup::MemoryGroup;
use crate::number::{float, ratio};
use crate::output::say;
use crate::report::by_name;
use crate::report::stage::{LeftOut, QuietReport, StageReport, amplified};
use crate::target::{Hold, Target};
use crate::workload::Way;
use crate::workload::Workload;
use crate::workload::course::ledger::Ledger;
use crate::workload::course::steps::{Chore, Crew, Duty, Shift, Step, Wishes};
use crate::workload::course::{Course, Kind, victims};
use anyhow::{Result, anyhow, bail};
use quiet::{Look, Quiet};
use samples::{Activity, Measured, Sampler, throughput};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at whether the store is quiet.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where a course runs.
pub(crate) struct Ground<'a> {
    pub(crate) target: &'a dyn Target,
    pub(crate) workload: &'a Workload,
    /// Seed, time, and whether seconds are kept apart.
    pub(crate) plan: &'a Plan,
    pub(crate) group: Option<&'a MemoryGroup>,
    pub(crate) wishes: Wishes,
}

/// What a course came to.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// That of the main stage; with the errors of all.
    pub(crate) outcome: Outcome,
    pub(crate) stages: Vec<StageReport>,
    pub(crate) left_out: Vec<LeftOut>,
}

struct Runner<'a> {
    course: &'a Course,
    ground: &'a Ground<'a>,
    ledger: Arc<Ledger>,
    held: Option<Hold>,
    ran: Ran,
    /// What went wrong beside the main stage.
    others: Recorder,
    interrupted: Option<Part>,
}

/// Runs all steps, or those before a signal.
pub(crate) fn run(course: &Course, ground: &Ground<'_>) -> Result<Ran> {
    let ledger = Arc::new(ledger(course, ground));
    let (ran, others) = (Ran::default(), Recorder::default());
    let mut runner = Runner { course, ground, ledger, held: None, ran, others, interrupted: None };
    runner.begin()?;
    for step in course.steps(ground.workload, ground.wishes) {
        runner.step(step)?;
        if runner.interrupted.is_some() || runner.ran.outcome.aborted {
            break;
        }
    }
    let Runner { mut ran, others, interrupted, .. } = runner;
    ran.outcome.recorder.merge(others);
    ran.outcome.interrupted = ran.outcome.interrupted.or(interrupted);
    Ok(ran)
}

fn ledger(course: &Course, ground: &Ground<'_>) -> Ledger {
    match course.kind {
        Kind::DeleteMost { share, order, .. } => {
            let (w, seed) = (ground.workload, ground.plan.seed);
            Ledger::with_victims(victims::choose(w, share, order, seed))
        }
        Kind::Overwrite { .. } | Kind::Queue { .. } | Kind::Scans { .. } => Ledger::new(),
    }
}

impl Runner<'_> {
    /// Makes sure that the account begins with what is there.
    fn begin(&self) -> Result<()> {
        let Ground { target, workload, .. } = self.ground;
        if self.course.loaded {
            let mut key = Vec::new();
            for number in 0..workload.records {
                workload.keys.write(number, &mut key);
                self.ledger.found(&key, workload.row_bytes());
            }
            return Ok(());
        }
        let mut is_empty = true;
        let walked = target.session()?.walk(Way::Forward, &mut |_, _| {
            is_empty = false;
            ControlFlow::Break(())
        });
        match walked {
            Ok(()) if is_empty => Ok(()),
            Ok(()) => bail!(
                "table={} has records; a course begins with none: give an empty --data or another \
                 -p table=NAME (or, to go on from `ycsb load`, -p loaded=true)",
                workload.table
            ),
            Err(failure) => {
                bail!("cannot look whether table={} is empty: {failure}", workload.table)
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Load => self.load(),
            Step::Ask(chore) => self.ask(chore),
            Step::Drive(shift) => self.drive(shift),
            Step::Hold => {
                self.held = Some(self.ground.target.hold()?);
                Ok(())
            }
            Step::Release => {
                self.held = None;
                Ok(())
            }
            Step::Quiet(name) => {
                self.wait_for_quiet(name);
                Ok(())
            }
            Step::Check => self.check(),
            Step::Kill => bound::kill_self(),
        }
    }

    fn load(&mut self) -> Result<()> {
        let plan =
            Plan { phase: Phase::Load, time: None, operations: 0, ..self.ground.plan.clone() };
        self.stage("load", &plan)
    }

    fn drive(&mut self, shift: Shift) -> Result<()> {
        let Shift { name, task, crew, turns, time, beside } = shift;
        let is_main = name == self.course.main_stage();
        let time = time.or(self.ground.plan.time.filter(|_| is_main));
        let threads = match crew {
            Crew::All => self.ground.workload.threads,
            Crew::One => 1,
        };
        let plan = Plan {
            phase: Phase::Course,
            time,
            operations: if time.is_some() { 0 } else { turns },
            duty: Some(Duty { task, threads, beside }),
            ..self.ground.plan.clone()
        };
        self.stage(name, &plan)
    }

    fn stage(&mut self, name: &'static str, plan: &Plan) -> Result<()> {
        let Ground { target, workload, group, .. } = *self.ground;
        say(&format!("{name} ..."));
        let plan = Plan { ledger: Some(Arc::clone(&self.ledger)), ..plan.clone() };
        let ledger = Arc::clone(&self.ledger);
        let mut sampler = Sampler::new(target, group, &ledger);
        let outcome = watched(target, workload, (&plan, group), &mut |done| sampler.tick(done))?;
        let measured = sampler.end(outcome.operations);
        let mut report = report(name, measured);
        report.seconds = outcome.elapsed.as_secs_f64();
        report.ops = outcome.operations;
        report.ops_per_s = ratio(float(outcome.operations), report.seconds);
        report.beside_ops = outcome.beside;
        report.beside_ops_per_s = ratio(float(outcome.beside), report.seconds);
        report.throughput = throughput(&report.samples);
        report.operations = by_name(&outcome.recorder);
        report.refused = outcome.recorder.retries;
        if plan.phase == Phase::Load {
            // While they come, what lives is hardly anything.
            report.space.used_per_live_highest = None;
            report.space.data_per_live_highest = None;
        }
        self.ran.stages.push(report);
        self.interrupted = outcome.interrupted;
        if name == self.course.main_stage() {
            self.ran.outcome = outcome;
        } else {
            self.ran.outcome.aborted |= outcome.aborted;
            self.others.merge(outcome.recorder.without_latencies());
        }
        Ok(())
    }

    /// Asks the store to do something, and looks on.
    fn ask(&mut self, chore: Chore) -> Result<()> {
        let Ground { target, group, .. } = *self.ground;
        if let Some(why) = target.deaf().filter(|_| chore != Chore::Compact) {
            say(&format!("{}: left out: {why}", chore.name()));
            self.ran.left_out.push(LeftOut { name: chore.name().into(), why: why.into() });
            return Ok(());
        }
        say(&format!("{} ...", chore.name()));
        let ledger = Arc::clone(&self.ledger);
        let mut sampler = Sampler::new(target, group, &ledger);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| match chore {
                Chore::Flush => target.flush(),
                Chore::Settle => target.settle(),
                Chore::Compact => target.compact(),
            });
            while !asked.is_finished() {
                sampler.tick(0);
                std::thread::park_timeout(LOOK_EVERY);
            }
            asked.join().map_err(|_| anyhow!("{} has panicked", chore.name()))?
        })?;
        let mut report = report(chore.name(), sampler.end(0));
        report.seconds = began.elapsed().as_secs_f64();
        self.ran.stages.push(report);
        if interrupt::pending().is_some() {
            self.interrupted = Some(Part::Measuring);
        }
        Ok(())
    }

    /// Looks on until the store is quiet, or the time for it is over.
    fn wait_for_quiet(&mut self, name: &'static str) {
        let Ground { target, group, .. } = *self.ground;
        let Course { silence, quiet_max, .. } = *self.course;
        say(&format!("{name} ..."));
        let ledger = Arc::clone(&self.ledger);
        let mut sampler = Sampler::new(target, group, &ledger);
        let (mut quiet, began) = (Quiet::new(silence), Instant::now());
        let (mut bytes, mut known_by) = (0, None);
        let after = loop {
            let Activity { moved, waits } = sampler.activity();
            let at = began.elapsed();
            if let Some((now, by)) = moved {
                (bytes, known_by) = (now, Some(by));
            } else if known_by.is_none() {
                break None;
            }
            // What does not tell any more may be at work.
            let since = quiet.look(Look { at, bytes, waits: waits || moved.is_none() });
            if since.is_some() || at >= quiet_max {
                break since;
            }
            if interrupt::pending().is_some() {
                self.interrupted = Some(Part::Measuring);
                break None;
            }
            sampler.tick(0);
            std::thread::park_timeout(LOOK_EVERY);
        };
        let mut report = report(name, sampler.end(0));
        report.seconds = began.elapsed().as_secs_f64();
        report.quiet = Some(QuietReport {
            after_seconds: after.map(|after| after.as_secs_f64()),
            known_by: known_by.map(str::to_owned),
            silence_seconds: silence.as_secs_f64(),
        });
        self.ran.stages.push(report);
    }

    fn check(&mut self) -> Result<()> {
        let Ground { target, workload, .. } = *self.ground;
        say("verify ...");
        let mut recorder = Recorder::default();
        let whole = check::check(target, workload, &self.ledger, &mut recorder)?;
        if !whole {
            self.interrupted = Some(Part::Verifying);
        }
        self.others.merge(recorder.without_latencies());
        Ok(())
    }
}

fn report(name: &str, measured: Measured) -> StageReport {
    let Measured { samples, put_bytes, read_bytes, written_bytes, stalls, space } = measured;
    let [written_per_put, read_per_put, read_per_written] =
        amplified(put_bytes, read_bytes, written_bytes);
    StageReport {
        name: name.into(),
        stall_seconds: stalls,
        put_bytes,
        read_bytes,
        written_bytes,
        written_per_put,
        read_per_put,
        read_per_written,
        space,
        samples,
        ..StageReport::default()
    }
}

#[cfg(test)]
mod tests;
