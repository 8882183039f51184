//! What a course is: its stages by their properties. [`crate::course`] runs them.

pub(crate) mod ledger;
pub(crate) mod steps;
pub(crate) mod victims;

use crate::number::{float, floor};
use crate::workload::Workload;
use crate::workload::dist::Lengths;
use crate::workload::key::InsertOrder;
use crate::workload::property::Properties;
use anyhow::{Result, bail};
use std::time::Duration;
use victims::Order;

const OVERWRITES_MAX: u64 = 1_000_000;
/// A day: whoever waits for longer does not wait for a benchmark.
const WAIT_SECONDS_MAX: u64 = 86_400;
const HEAD_SCAN_MS_MAX: u64 = 3_600_000;
const HEAD_SCANS_MAX: u64 = 1_000_000_000;
const PASSES_MAX: u64 = 1_000_000;

/// Properties of courses, and which courses they mean something to; sorted.
const OWN: &[(&str, &[&str])] = &[
    ("deleteorder", &["delete-most"]),
    ("deleteproportion", &["delete-most"]),
    ("deletethen", &["delete-most"]),
    ("headscanms", &["queue"]),
    ("headscans", &["delete-most"]),
    ("loaded", &["overwrite", "delete-most", "scans"]),
    ("overwrites", &["overwrite"]),
    ("passes", &["scans"]),
    ("quietseconds", ALL),
    ("silenceseconds", ALL),
    ("tables", &["overwrite"]),
    ("writerseconds", &["scans"]),
];
const ALL: &[&str] = &["overwrite", "queue", "delete-most", "scans"];

/// Properties that mean something to this course and not to all of them.
fn own(course: &str) -> Vec<&'static str> {
    let of_it = |courses: &[&str]| courses.len() < ALL.len() && courses.contains(&course);
    OWN.iter().filter(|(_, courses)| of_it(courses)).map(|(name, _)| *name).collect()
}

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

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Every record is written so many times more, in the mean.
    Overwrite { rounds: u64 },
    /// Inserted at the tail, deleted at the head; `recordcount` of them live.
    Queue { head_scan_every: Option<Duration> },
    /// Most of the records are deleted, and the first of the others looked for.
    DeleteMost { share: f64, order: Order, then: Then, head_scans: u64 },
    /// Everything is scanned, alone and beside writers.
    Scans { passes: u64, writer: Duration },
}

/// What comes after the deletes and their flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Everything is merged and written anew, because somebody asks for it.
    Compact,
    /// What is due is done, by the store's own word.
    Settle,
    /// Nothing but waiting.
    Quiet,
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
            "queue" => {
                let ms = p.whole("headscanms", 0..=HEAD_SCAN_MS_MAX)?.unwrap_or(10);
                let every = Duration::from_millis(ms);
                Kind::Queue { head_scan_every: Some(every).filter(|every| !every.is_zero()) }
            }
            "delete-most" => delete_most(p)?,
            _scans => {
                let seconds = p.whole("writerseconds", 0..=WAIT_SECONDS_MAX)?.unwrap_or(10);
                Kind::Scans {
                    passes: p.whole("passes", 1..=PASSES_MAX)?.unwrap_or(3),
                    writer: Duration::from_secs(seconds),
                }
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
            Kind::DeleteMost { .. } => "delete-most",
            Kind::Scans { .. } => "scans",
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
            Kind::Queue { .. } => self.check_queue(w),
            _ if w.operations > 0 => bail!(
                "operationcount={}: course={name} takes its operations from recordcount and its \
                 own properties ({}); leave operationcount away",
                w.operations,
                own(name).join(", ")
            ),
            Kind::DeleteMost { .. } if w.records > victims::RECORDS_MAX => bail!(
                "recordcount={}: delete-most has a list of all records in memory, {} at most",
                w.records,
                victims::RECORDS_MAX
            ),
            Kind::DeleteMost { share, .. } if self.operations(w) == 0 => {
                bail!("recordcount={}: deleteproportion={share} of it is no record", w.records)
            }
            _ => Ok(()),
        }
    }

    fn check_queue(&self, w: &Workload) -> Result<()> {
        match self.kind {
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

    /// Operations of its main stage.
    pub(crate) fn operations(&self, w: &Workload) -> u64 {
        match self.kind {
            Kind::Overwrite { rounds: 0 } => w.records,
            Kind::Overwrite { rounds } => w.records.saturating_mul(rounds),
            Kind::Queue { .. } => w.operations,
            Kind::DeleteMost { share, .. } => floor(float(w.records) * share),
            Kind::Scans { passes, .. } => passes,
        }
    }

    /// The stage whose operations are the report's; the last step of the course that has it.
    pub(crate) fn main_stage(&self) -> &'static str {
        match self.kind {
            Kind::Overwrite { rounds: 0 } => "load",
            Kind::Overwrite { .. } => "overwrite",
            Kind::Queue { .. } => "queue",
            Kind::DeleteMost { .. } => "delete",
            Kind::Scans { .. } => "forward",
        }
    }
}

fn delete_most(p: &Properties) -> Result<Kind> {
    let order = match p.text("deleteorder", "contiguous") {
        "contiguous" => Order::Contiguous,
        "striped" => Order::Striped,
        "random" => Order::Random,
        other => bail!("deleteorder={other}: must be contiguous, striped or random"),
    };
    let then = match p.text("deletethen", "compact") {
        "compact" => Then::Compact,
        "settle" => Then::Settle,
        "quiet" => Then::Quiet,
        other => bail!("deletethen={other}: must be compact, settle or quiet"),
    };
    Ok(Kind::DeleteMost {
        share: p.share("deleteproportion", 0.9)?,
        order,
        then,
        head_scans: p.whole("headscans", 1..=HEAD_SCANS_MAX)?.unwrap_or(1000),
    })
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
