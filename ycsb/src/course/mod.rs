//! Courses: workloads of several stages, which change and delete what they have loaded.
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

pub(crate) mod check;
pub(crate) mod ledger;
pub(crate) mod quiet;
pub(crate) mod run;
pub(crate) mod samples;
pub(crate) mod space;

use crate::dist::Lengths;
use crate::key::InsertOrder;
use crate::property::Properties;
use crate::workload::Workload;
use anyhow::{Result, bail};
use std::time::Duration;

const OVERWRITES_MAX: u64 = 1_000_000;
/// A day: whoever waits for longer does not wait for a benchmark.
const WAIT_SECONDS_MAX: u64 = 86_400;
const HEAD_SCAN_MS_MAX: u64 = 3_600_000;

/// Properties of courses, and which courses they mean something to; sorted.
const OWN: &[(&str, &[&str])] = &[
    ("headscanms", &["queue"]),
    ("loaded", &["overwrite"]),
    ("overwrites", &["overwrite"]),
    ("quietseconds", ALL),
    ("silenceseconds", ALL),
];
const ALL: &[&str] = &["overwrite", "queue"];

/// Properties of the core workload that no course has a use for.
const CORE: &[&str] = &[
    "insertcount",
    "insertproportion",
    "insertstart",
    "maxexecutiontime",
    "maxscanlength",
    "minscanlength",
    "readmodifywriteproportion",
    "readproportion",
    "scanlengthdistribution",
    "scanproportion",
    "updateproportion",
    "writeallfields",
];

#[derive(Clone, Debug)]
pub(crate) struct Course {
    pub(crate) kind: Kind,
    /// The records are there already, as `ycsb load` has left them.
    pub(crate) loaded: bool,
    /// How long nothing must happen for the store to count as quiet.
    pub(crate) silence: Duration,
    /// How long it is waited for.
    pub(crate) quiet_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every record is written so many times more, in the mean.
    Overwrite { rounds: u64 },
    /// Inserted at the tail, deleted at the head; `recordcount` of them live.
    Queue { head_scan_every: Option<Duration> },
}

/// What a client does over and over in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Writes a record that is there, without reading it.
    Overwrite,
    /// Inserts at the tail, or deletes at the head where so many records are there.
    Queue { live: u64 },
    /// Asks for the first record.
    HeadScan,
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
    /// Flushes and compacts until nothing is due, by the store's own word.
    Settle,
    Drive(Shift),
    /// Takes a snapshot and holds it.
    Hold,
    Release,
    /// Looks on until the store is quiet.
    Quiet(&'static str),
    /// Compares what is there with what must be.
    Check,
}

/// A stage that is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shift {
    pub(crate) name: &'static str,
    pub(crate) task: Task,
    pub(crate) operations: u64,
    pub(crate) beside: Option<Beside>,
}

/// What the command line has to say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) settle: bool,
    pub(crate) hold_snapshot: bool,
}

impl Course {
    /// The course that the properties ask for; none for YCSB's own workloads.
    pub(crate) fn new(p: &Properties) -> Result<Option<Self>> {
        let name = p.text("course", "");
        if !name.is_empty() && !ALL.contains(&name) {
            bail!("course={name}: must be {}", ALL.join(" or "));
        }
        refuse_strangers(p, name)?;
        let kind = match name {
            "" => return Ok(None),
            "overwrite" => {
                Kind::Overwrite { rounds: p.whole("overwrites", 0..=OVERWRITES_MAX)?.unwrap_or(10) }
            }
            _queue => {
                let ms = p.whole("headscanms", 0..=HEAD_SCAN_MS_MAX)?.unwrap_or(10);
                let every = Duration::from_millis(ms);
                Kind::Queue { head_scan_every: Some(every).filter(|every| !every.is_zero()) }
            }
        };
        let seconds = |name, default| -> Result<Duration> {
            let seconds = p.whole(name, 1..=WAIT_SECONDS_MAX)?;
            Ok(Duration::from_secs(seconds.unwrap_or(default)))
        };
        Ok(Some(Self {
            kind,
            loaded: p.flag("loaded", false)?,
            silence: seconds("silenceseconds", 3)?,
            quiet_max: seconds("quietseconds", 300)?,
        }))
    }

    /// Its name as a property.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Overwrite { .. } => "overwrite",
            Kind::Queue { .. } => "queue",
        }
    }

    /// Refuses workloads that it cannot keep account of.
    pub(crate) fn check(&self, w: &Workload) -> Result<()> {
        let name = self.name();
        if !matches!(w.field_lengths(), Lengths::Constant(_)) {
            bail!(
                "course={name} keeps account of bytes, so all rows must be of one length: \
                 fieldlengthdistribution must be constant"
            );
        }
        match self.kind {
            Kind::Overwrite { .. } if w.operations > 0 => bail!(
                "operationcount={}: course=overwrite takes its operations from recordcount and \
                 overwrites",
                w.operations
            ),
            Kind::Queue { .. } if w.keys.order != InsertOrder::Ordered => bail!(
                "course=queue deletes at the head of the keys' order: insertorder must be ordered"
            ),
            Kind::Queue { .. } if w.keys.zero_padding < w.digits_max() => bail!(
                "zeropadding={}: keys of {} operations are in the order of their numbers with \
                 zeropadding={} or more",
                w.keys.zero_padding,
                w.operations,
                w.digits_max()
            ),
            Kind::Queue { .. } if w.records < w.threads as u64 => bail!(
                "recordcount={}: a queue needs a live record for each of its {} threads",
                w.records,
                w.threads
            ),
            _ => Ok(()),
        }
    }

    /// Runs it, whatever it finds wrong.
    pub(crate) fn run(&self, ground: &run::Ground<'_>) -> Result<run::Ran> {
        run::run(self, ground)
    }

    /// Operations of its main stage.
    pub(crate) fn operations(&self, w: &Workload) -> u64 {
        match self.kind {
            Kind::Overwrite { rounds: 0 } => w.records,
            Kind::Overwrite { rounds } => w.records.saturating_mul(rounds),
            Kind::Queue { .. } => w.operations,
        }
    }

    /// What is done, in this order.
    pub(crate) fn steps(&self, w: &Workload, wishes: Wishes) -> Vec<Step> {
        let mut steps = Vec::new();
        match self.kind {
            Kind::Overwrite { rounds } => {
                steps.extend((!self.loaded).then_some(Step::Load));
                steps.extend(wishes.settle.then_some(Step::Settle));
                steps.extend(wishes.hold_snapshot.then_some(Step::Hold));
                let operations = self.operations(w);
                let overwrite =
                    Shift { name: "overwrite", task: Task::Overwrite, operations, beside: None };
                steps.extend((rounds > 0).then_some(Step::Drive(overwrite)));
            }
            Kind::Queue { head_scan_every } => {
                steps.extend(wishes.hold_snapshot.then_some(Step::Hold));
                let beside = head_scan_every.map(|every| Beside {
                    task: Task::HeadScan,
                    threads: 1,
                    every: Some(every),
                });
                let task = Task::Queue { live: w.records };
                let operations = self.operations(w);
                steps.push(Step::Drive(Shift { name: "queue", task, operations, beside }));
            }
        }
        if wishes.hold_snapshot {
            steps.extend([Step::Quiet("quiet, held"), Step::Release]);
        }
        steps.extend([Step::Quiet("quiet"), Step::Check]);
        steps
    }

    /// The stage whose operations are the report's; the last step of the course that has it.
    pub(crate) fn main_stage(&self) -> &'static str {
        match self.kind {
            Kind::Overwrite { rounds: 0 } => "load",
            Kind::Overwrite { .. } => "overwrite",
            Kind::Queue { .. } => "queue",
        }
    }
}

/// Refuses properties that would be passed over.
fn refuse_strangers(p: &Properties, course: &str) -> Result<()> {
    if let Some((name, courses)) =
        OWN.iter().find(|(name, courses)| p.given(name).is_some() && !courses.contains(&course))
    {
        let courses = courses.join(" or ");
        match course {
            "" => bail!("{name} means something only with course={courses}"),
            course => bail!("{name} means nothing to course={course}, only to {courses}"),
        }
    }
    let stranger = CORE.iter().find(|name| p.given(name).is_some());
    match stranger.filter(|_| !course.is_empty()) {
        Some(name) => bail!("{name} means nothing to course={course}; leave it away"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
