//! Live progress on standard error: a bar on a terminal, else a line every ten seconds.

use super::{Outcome, Phase, Plan, Pulse, drive};
use crate::interrupt;
use crate::machine::cgroup::MemoryGroup;
use crate::number::short;
use crate::number::{float, ratio};
use crate::output::say;
use crate::target::Target;
use crate::workload::Workload;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// What the end of the bar stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Operations(u64),
    Time(Duration),
}

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    goal: Goal,
    verb: &'static str,
    /// The last pulse shown, for the throughput since then.
    shown: Option<(Instant, u64)>,
    warmed: bool,
    was_warming: bool,
}

impl Progress {
    pub(crate) fn new(phase: Phase, goal: Goal) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let len = match goal {
                Goal::Operations(n) => n,
                Goal::Time(time) => millis(time),
            };
            let style = ProgressStyle::with_template("{prefix:>9} {wide_bar} {percent:>3}%  {msg}")
                .expect("the template is well-formed");
            ProgressBar::new(len).with_style(style)
        });
        let verb = match phase {
            Phase::Load => "loading",
            Phase::Run | Phase::Course => "running",
            Phase::Fill => "filling",
            Phase::Verify => "verifying",
        };
        Self { bar, goal, verb, shown: None, warmed: true, was_warming: false }
    }

    pub(crate) fn show(&mut self, pulse: Pulse) {
        let every = if self.bar.is_some() { Duration::ZERO } else { LINE_EVERY };
        let now = Instant::now();
        if self.was_warming && !pulse.warming {
            // The count begins anew after the warm-up, and so does the time it is divided by.
            self.shown = Some((now, pulse.done));
        }
        self.was_warming = pulse.warming;
        let (then, before) = *self.shown.get_or_insert((now, pulse.done));
        let since = now - then;
        if since < every || since.is_zero() {
            return;
        }
        // Some thread may not have begun anew yet when the time did.
        let done = pulse.done.checked_sub(before).unwrap_or(pulse.done);
        let speed = ratio(float(done), since.as_secs_f64());
        self.shown = Some((now, pulse.done));
        let verb = if pulse.warming { "warming" } else { self.verb };
        if let Some(bar) = &self.bar {
            if self.warmed == pulse.warming {
                self.warmed = !pulse.warming;
                bar.reset();
            }
            bar.set_prefix(verb);
            bar.set_position(match self.goal {
                Goal::Operations(_) => pulse.done,
                Goal::Time(_) => millis(pulse.elapsed),
            });
            bar.set_message(format!("{:>8} ops/s", short(speed)));
            return;
        }
        let (elapsed, done) = (pulse.elapsed.as_secs(), pulse.done);
        say(&format!("{verb}: {elapsed} s, {done} operations, {} ops/s", short(speed)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Drives a plan with a progress bar, until a signal breaks it off; `watch` is told every now and
/// then how many operations are done.
pub(crate) fn watched(
    target: &dyn Target,
    workload: &Workload,
    (plan, group): (&Plan, Option<&MemoryGroup>),
    watch: &mut dyn FnMut(u64),
) -> Result<Outcome> {
    let goal = match (plan.phase, plan.time) {
        (Phase::Load | Phase::Fill | Phase::Verify, _) => Goal::Operations(workload.insert_count),
        (_, Some(time)) if plan.operations == 0 => Goal::Time(time),
        (Phase::Run | Phase::Course, _) => Goal::Operations(plan.operations),
    };
    let mut progress = Progress::new(plan.phase, goal);
    drive(target, workload, plan, group, &mut |pulse: Pulse| {
        progress.show(pulse);
        watch(pulse.done);
        match interrupt::pending() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
