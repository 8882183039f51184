//! PURE. The steps of a course, in their order.

use super::{Course, Kind, Then};
use crate::workload::Way;
use crate::workload::Workload;
use std::time::Duration;

/// What a client does over and over in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Writes a record that is there, without reading it.
    Overwrite,
    /// Inserts at the tail, or deletes at the head where so many records are there.
    Queue { live: u64 },
    /// Deletes the next one of the records that were chosen.
    Delete,
    /// Asks for the first record.
    HeadScan,
    /// Asks for all records.
    Walk(Way),
}

/// Who does what in a stage that is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duty {
    pub(crate) task: Task,
    pub(crate) threads: usize,
    pub(crate) beside: Option<Beside>,
}

/// Clients that do something else until the others are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) task: Task,
    pub(crate) threads: usize,
    /// How often each of them begins; as fast as it goes where nothing is said.
    pub(crate) every: Option<Duration>,
}

/// One step of a course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Load,
    /// Something that the store is asked to do, and does until it is done.
    Ask(Chore),
    Drive(Shift),
    /// Takes a snapshot and holds it.
    Hold,
    Release,
    /// Looks on until the store is quiet.
    Quiet(&'static str),
    /// Compares what is there with what must be.
    Check,
    /// Ends the process by SIGKILL.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Flushes and compacts until nothing is due, by the store's own word.
    Settle,
    Flush,
    /// Merges and writes anew everything.
    Compact,
}

impl Chore {
    /// The name of its stage.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Flush => "flush",
            Self::Compact => "compact",
        }
    }
}

/// A stage that is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shift {
    pub(crate) name: &'static str,
    pub(crate) task: Task,
    pub(crate) crew: Crew,
    /// Turns over all threads; 0 for as many as the time allows.
    pub(crate) turns: u64,
    pub(crate) time: Option<Duration>,
    pub(crate) beside: Option<Beside>,
}

/// How many clients do the work of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crew {
    /// As many as the workload has threads.
    All,
    One,
}

/// What the command line has to say about a course.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) settle: bool,
    pub(crate) hold_snapshot: bool,
    /// The process is to end by SIGKILL when all is written.
    pub(crate) kill: bool,
}

impl Shift {
    /// A stage of so many turns of all clients, with nobody beside them.
    fn new(name: &'static str, task: Task, turns: u64) -> Self {
        Self { name, task, crew: Crew::All, turns, time: None, beside: None }
    }
}

impl Course {
    /// What is done, in this order.
    pub(crate) fn steps(&self, w: &Workload, wishes: Wishes) -> Vec<Step> {
        let mut steps = Vec::new();
        let loads = !self.loaded && !matches!(self.kind, Kind::Queue { .. });
        steps.extend(loads.then_some(Step::Load));
        steps.extend(wishes.settle.then_some(Step::Ask(Chore::Settle)));
        steps.extend(wishes.hold_snapshot.then_some(Step::Hold));
        let turns = self.operations(w);
        match self.kind {
            Kind::Overwrite { rounds: 0 } => {}
            Kind::Overwrite { .. } => {
                steps.push(Step::Drive(Shift::new("overwrite", Task::Overwrite, turns)));
            }
            Kind::Queue { head_scan_every } => {
                let task = Task::HeadScan;
                let every = head_scan_every.map(Some);
                let beside = every.map(|every| Beside { task, threads: 1, every });
                let queue = Task::Queue { live: w.records };
                steps.push(Step::Drive(Shift { beside, ..Shift::new("queue", queue, turns) }));
            }
            Kind::DeleteMost { then, head_scans, .. } => {
                let scan = |name| {
                    let shift = Shift::new(name, Task::HeadScan, head_scans);
                    Step::Drive(Shift { crew: Crew::One, ..shift })
                };
                steps.push(Step::Drive(Shift::new("delete", Task::Delete, turns)));
                steps.extend([Step::Ask(Chore::Flush), scan("head scans")]);
                steps.extend(match then {
                    Then::Compact => Some(Step::Ask(Chore::Compact)),
                    Then::Settle => Some(Step::Ask(Chore::Settle)),
                    Then::Quiet => None,
                });
                push_quiet(&mut steps, wishes);
                steps.extend([scan("head scans, quiet"), Step::Check]);
                return steps;
            }
            Kind::Scans { passes, writer } => push_scans(&mut steps, passes, writer, w.threads),
        }
        if wishes.kill {
            steps.push(Step::Kill);
            return steps;
        }
        push_quiet(&mut steps, wishes);
        steps.push(Step::Check);
        steps
    }
}

fn push_quiet(steps: &mut Vec<Step>, wishes: Wishes) {
    if wishes.hold_snapshot {
        steps.extend([Step::Quiet("quiet, held"), Step::Release]);
    }
    steps.push(Step::Quiet("quiet"));
}

/// The first pass has caches to fill, so it stands for itself. Alone first: a writer leaves work
/// behind.
fn push_scans(steps: &mut Vec<Step>, passes: u64, writer: Duration, writers: usize) {
    let walk = |name, way, turns, beside| {
        let shift = Shift::new(name, Task::Walk(way), turns);
        Step::Drive(Shift { crew: Crew::One, beside, ..shift })
    };
    steps.push(walk("first scan", Way::Forward, 1, None));
    steps.push(walk("forward", Way::Forward, passes, None));
    steps.push(walk("reverse", Way::Reverse, passes, None));
    if writer.is_zero() {
        return;
    }
    let alone = Shift::new("writer alone", Task::Overwrite, 0);
    steps.push(Step::Drive(Shift { time: Some(writer), ..alone }));
    let beside = Some(Beside { task: Task::Overwrite, threads: writers, every: None });
    steps.push(walk("forward, beside it", Way::Forward, passes, beside));
    steps.push(walk("reverse, beside it", Way::Reverse, passes, beside));
}
