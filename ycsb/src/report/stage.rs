//! The stages of a course in a report: what each did and what it cost, as JSON and as tables.

use super::{Latency, Report, Setting};
use crate::number::{bytes, short};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What must be said beside the slowest second.
const SECOND_IS_SHORT: &str = "a second is short: one pause of the drive or of the machine makes the \
                               slowest one; the median is the steadier figure";

/// What must be said where a server runs in a directory that was not named.
const FILES_UNKNOWN: &str = "the server's files are not known (- in the columns file and allocated): \
                             with --data DIR in place of --url a server is started there, and they \
                             are";

/// What the report says where the store does not say what it reads and writes.
const QUIET_UNKNOWN: &str = "neither the kernel nor the store's /metrics tell here what it reads and \
                             writes; nothing was waited for. With --data DIR, or --server-pid PID of \
                             a server on this machine, it is known";

/// [`QuietReport::known_by`] of a store elsewhere.
pub(crate) const COUNTERS: &str = "counters";
/// [`QuietReport::known_by`] of one on this machine.
pub(crate) const PROCESS: &str = "process";

/// One stage of a course.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageReport {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// Of the clients whose work it is, not of those beside them.
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    /// Of the clients beside them.
    pub(crate) beside_ops: u64,
    pub(crate) beside_ops_per_s: f64,
    /// Over the seconds of the stage; null where it has none.
    pub(crate) throughput: Option<Throughput>,
    /// Of all clients.
    pub(crate) operations: BTreeMap<String, Latency>,
    /// Times that a writer was refused, and asked again.
    pub(crate) refused: u64,
    /// Time that writers were held back, over all of them, by reason; empty where nobody says.
    pub(crate) stall_seconds: BTreeMap<String, f64>,
    /// Keys and rows that were put, and keys that were deleted.
    pub(crate) put_bytes: u64,
    /// What the store's process read and wrote.
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    pub(crate) written_per_put: Option<f64>,
    pub(crate) read_per_put: Option<f64>,
    pub(crate) read_per_written: Option<f64>,
    pub(crate) space: SpaceReport,
    /// Of a stage that waits for the store to be quiet.
    pub(crate) quiet: Option<QuietReport>,
    pub(crate) samples: Vec<Sample>,
}

/// Operations a second, over the seconds of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) median: f64,
    pub(crate) slowest: f64,
    pub(crate) fastest: f64,
    /// How many there were.
    pub(crate) seconds: u64,
}

/// Space at the end of a stage, against what lives by the driver's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SpaceReport {
    pub(crate) live_bytes: u64,
    pub(crate) used_bytes: Option<u64>,
    /// Of these, what records take, current ones and old ones: without logs and journals.
    pub(crate) data_bytes: Option<u64>,
    pub(crate) file_bytes: Option<u64>,
    pub(crate) allocated_bytes: Option<u64>,
    pub(crate) used_per_live: Option<f64>,
    /// Of all its seconds.
    pub(crate) used_per_live_highest: Option<f64>,
    pub(crate) data_per_live: Option<f64>,
    pub(crate) data_per_live_highest: Option<f64>,
    pub(crate) file_per_used: Option<f64>,
    pub(crate) allocated_per_used: Option<f64>,
}

/// A stage that the store could not be asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// When the store was quiet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuietReport {
    /// Seconds until the last background work had ended; null where it had not in the time given,
    /// and where it does not say so.
    pub(crate) after_seconds: Option<f64>,
    /// By what it is known: `process` (what the kernel counts), `counters` (the store's own); null
    /// where it does not say so.
    #[serde(default)]
    pub(crate) known_by: Option<String>,
    /// How long nothing had to happen.
    pub(crate) silence_seconds: f64,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The later look, since the stage began.
    pub(crate) at_seconds: f64,
    /// Between the two.
    pub(crate) seconds: f64,
    pub(crate) ops: u64,
    pub(crate) put_bytes: u64,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    pub(crate) stall_seconds: Option<f64>,
    /// Levels, at the later look.
    pub(crate) live_bytes: u64,
    pub(crate) used_bytes: Option<u64>,
    pub(crate) data_bytes: Option<u64>,
    pub(crate) file_bytes: Option<u64>,
    pub(crate) allocated_bytes: Option<u64>,
}

/// All stages together: what the load, the work and the quiet after it have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) put_bytes: u64,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    pub(crate) written_per_put: Option<f64>,
    pub(crate) read_per_put: Option<f64>,
    pub(crate) read_per_written: Option<f64>,
    pub(crate) stall_seconds: f64,
    pub(crate) refused: u64,
}

impl Totals {
    pub(crate) fn of(stages: &[StageReport]) -> Self {
        let put_bytes = stages.iter().map(|stage| stage.put_bytes).sum();
        let sum = |of: fn(&StageReport) -> Option<u64>| stages.iter().map(of).sum::<Option<u64>>();
        let (read, written) = (sum(|stage| stage.read_bytes), sum(|stage| stage.written_bytes));
        let [written_per_put, read_per_put, read_per_written] = amplified(put_bytes, read, written);
        Self {
            put_bytes,
            read_bytes: read,
            written_bytes: written,
            written_per_put,
            read_per_put,
            read_per_written,
            stall_seconds: stages.iter().flat_map(|stage| stage.stall_seconds.values()).sum(),
            refused: stages.iter().map(|stage| stage.refused).sum(),
        }
    }
}

/// Written per put, read per put, read per written; null where there is nothing to divide by.
pub(crate) fn amplified(put: u64, read: Option<u64>, written: Option<u64>) -> [Option<f64>; 3] {
    let over = |part: Option<u64>, whole: Option<u64>| {
        let whole = whole.filter(|whole| *whole > 0)?;
        Some(crate::number::float(part?) / crate::number::float(whole))
    };
    [over(written, Some(put)), over(read, Some(put)), over(read, written)]
}

impl Report {
    /// The tables of a course.
    pub(super) fn stage_tables(&self) -> String {
        let mut text = String::new();
        for table in [self.speeds(), self.latencies(), self.costs(), self.spaces()] {
            let _infallible = writeln!(text, "{table}\n");
        }
        for stage in &self.stages {
            if let Some(quiet) = &stage.quiet {
                let _infallible = writeln!(text, "{}", quiet.sentence(&stage.name));
            }
        }
        for LeftOut { name, why } in &self.left_out {
            let _infallible = writeln!(text, "{name}: left out: {why}");
        }
        if self.setting.target == "http" && files_unknown(&self.stages) {
            let _infallible = writeln!(text, "{FILES_UNKNOWN}");
        }
        let _infallible = writeln!(text, "{SECOND_IS_SHORT}\n{}", self.setting.conditions());
        text
    }

    fn speeds(&self) -> Table {
        let mut table = empty(&[
            "stage",
            "s",
            "ops",
            "ops/s",
            "beside/s",
            "median s",
            "slowest s",
            "stalled s",
            "refused",
            "by",
        ]);
        for stage in self.stages.iter().filter(|stage| stage.ops > 0) {
            let seconds = |of: fn(&Throughput) -> f64| {
                stage.throughput.as_ref().map_or("-".into(), |throughput| short(of(throughput)))
            };
            let stalled: f64 = stage.stall_seconds.values().sum();
            let known = !stage.stall_seconds.is_empty();
            table.add_row([
                stage.name.clone(),
                short(stage.seconds),
                stage.ops.to_string(),
                short(stage.ops_per_s),
                if stage.beside_ops > 0 { short(stage.beside_ops_per_s) } else { "-".into() },
                seconds(|throughput| throughput.median),
                seconds(|throughput| throughput.slowest),
                if known { short(stalled) } else { "-".into() },
                stage.refused.to_string(),
                reasons(&stage.stall_seconds),
            ]);
        }
        aligned(table)
    }

    fn latencies(&self) -> Table {
        let mut table = empty(&[
            "stage",
            "operation",
            "count",
            "errors",
            "mean us",
            "p50",
            "p99",
            "p99.9",
            "p99.99",
            "max",
        ]);
        for stage in &self.stages {
            for (name, l) in &stage.operations {
                let mut row = vec![stage.name.clone(), name.clone()];
                row.extend([l.count, l.errors].map(|n| n.to_string()));
                let times = [l.mean_us, l.p50_us, l.p99_us, l.p999_us, l.p9999_us, l.max_us];
                row.extend(times.map(short));
                table.add_row(row);
            }
        }
        aligned(table)
    }

    fn costs(&self) -> Table {
        let mut table =
            empty(&["stage", "put", "written", "read", "written/put", "read/put", "read/written"]);
        for stage in &self.stages {
            let ratios = [stage.written_per_put, stage.read_per_put, stage.read_per_written];
            table.add_row(cost_row(
                &stage.name,
                [Some(stage.put_bytes), stage.written_bytes, stage.read_bytes],
                ratios,
            ));
        }
        let t = &self.totals;
        let ratios = [t.written_per_put, t.read_per_put, t.read_per_written];
        table.add_row(cost_row("all", [Some(t.put_bytes), t.written_bytes, t.read_bytes], ratios));
        aligned(table)
    }

    fn spaces(&self) -> Table {
        let mut table = empty(&[
            "stage",
            "live",
            "used",
            "used/live",
            "highest",
            "data",
            "data/live",
            "highest",
            "file",
            "file/used",
            "allocated/used",
        ]);
        for stage in &self.stages {
            let s = &stage.space;
            table.add_row([
                stage.name.clone(),
                bytes(s.live_bytes),
                size(s.used_bytes),
                times(s.used_per_live),
                times(s.used_per_live_highest),
                size(s.data_bytes),
                times(s.data_per_live),
                times(s.data_per_live_highest),
                size(s.file_bytes),
                times(s.file_per_used),
                times(s.allocated_per_used),
            ]);
        }
        aligned(table)
    }
}

impl Setting {
    /// Under what it was measured.
    pub(crate) fn conditions(&self) -> String {
        let s = self;
        let memory = match s.memory_limit_bytes {
            Some(limit) => format!("memory {}", bytes(limit)),
            None => "memory without a limit (--memory)".into(),
        };
        let facts = s.target_facts.iter().map(|(name, value)| format!("{name}={value}"));
        let facts = facts.collect::<Vec<_>>().join(" ");
        format!(
            "durability {}, {} threads, {memory}, {} processors, {}\n{} {facts}",
            s.durability,
            s.threads,
            s.cpus,
            s.device.as_deref().unwrap_or("no device"),
            s.target,
        )
    }
}

impl QuietReport {
    fn sentence(&self, name: &str) -> String {
        let silence = short(self.silence_seconds);
        let by = match self.known_by.as_deref() {
            None => return format!("{name}: NOT KNOWN: {QUIET_UNKNOWN}"),
            Some(COUNTERS) => ", by the server's own counters",
            Some(_) => "",
        };
        match self.after_seconds {
            Some(after) => format!(
                "{name}: after {after:.1} s (nothing read or written for {silence} s from then \
                 on{by})"
            ),
            None => format!("{name}: NOT within the time given{by}"),
        }
    }
}

fn cost_row(name: &str, sizes: [Option<u64>; 3], ratios: [Option<f64>; 3]) -> Vec<String> {
    let row = std::iter::once(name.to_owned());
    row.chain(sizes.map(size)).chain(ratios.map(times)).collect()
}

fn files_unknown(stages: &[StageReport]) -> bool {
    stages.iter().all(|stage| stage.space.file_bytes.is_none())
}

/// Those that held writers back.
fn reasons(stalls: &BTreeMap<String, f64>) -> String {
    let worth = stalls.iter().filter(|(_, seconds)| **seconds >= 0.005);
    let named: Vec<String> = worth.map(|(why, seconds)| format!("{why} {seconds:.2}")).collect();
    named.join(", ")
}

fn size(n: Option<u64>) -> String {
    n.map_or("-".into(), bytes)
}

fn times(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{x:.2}"))
}

fn empty(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    table
}

fn aligned(mut table: Table) -> Table {
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_that_nobody_saw_is_no_quiet() {
        let quiet = |after_seconds, known_by: Option<&str>| {
            let known_by = known_by.map(str::to_owned);
            QuietReport { after_seconds, known_by, silence_seconds: 3.0 }.sentence("quiet, held")
        };
        assert!(quiet(None, None).starts_with("quiet, held: NOT KNOWN: "));
        let by_counters = quiet(Some(2.0), Some(COUNTERS));
        assert!(by_counters.ends_with("from then on, by the server's own counters)"));
        assert!(quiet(Some(2.0), Some(PROCESS)).ends_with("for 3.00 s from then on)"));
        assert_eq!(quiet(None, Some(PROCESS)), "quiet, held: NOT within the time given");
    }

    #[test]
    fn totals_add_up_what_is_known_of_every_stage() {
        let stage = |read| StageReport {
            put_bytes: 100,
            read_bytes: read,
            written_bytes: Some(200),
            refused: 2,
            stall_seconds: BTreeMap::from([("memtables".to_owned(), 1.5)]),
            ..StageReport::default()
        };
        let all = Totals::of(&[stage(Some(50)), stage(Some(150))]);
        assert_eq!((all.put_bytes, all.read_bytes, all.refused), (200, Some(200), 4));
        assert_eq!((all.written_per_put, all.read_per_written), (Some(2.0), Some(0.5)));
        assert!((all.stall_seconds - 3.0).abs() < 1e-9, "{all:?}");
        let unknown = Totals::of(&[stage(Some(50)), stage(None)]);
        assert_eq!((unknown.read_bytes, unknown.read_per_put), (None, None));
        assert_eq!(amplified(0, Some(1), Some(1)), [None, None, Some(1.0)]);
    }
}
