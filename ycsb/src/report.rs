//! The report of one run: as JSON, as a table, and as the original prints it.
//!
//! [`Report`] is the schema `millpond-ycsb/1` (README.md describes each field). Adding a field
//! keeps the version; changing or removing one raises it.

use crate::block::DriveCounts;
use crate::cgroup::MemoryUse;
use crate::driver::Outcome;
use crate::measure::{Latencies, Recorder};
use crate::number::{float, ratio};
use crate::resources::Process;
use crate::workload::{Operation, Workload};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) const SCHEMA: &str = "millpond-ycsb/1";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    /// What was measured where; see [`Setting`].
    pub(crate) setting: Setting,
    /// Operations of the measured part, failed ones included.
    pub(crate) ops: u64,
    pub(crate) seconds: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) operations: BTreeMap<String, Latency>,
    pub(crate) errors: u64,
    pub(crate) error_examples: Vec<String>,
    /// Times an overloaded store was asked again; their waits are part of the latencies.
    pub(crate) retries: u64,
    pub(crate) verified: u64,
    pub(crate) mismatches: u64,
    pub(crate) mismatch_examples: Vec<String>,
    /// Client and server together, as are the next five.
    pub(crate) cpu_user_s: Option<f64>,
    pub(crate) cpu_sys_s: Option<f64>,
    pub(crate) cpu_us_per_op: Option<f64>,
    pub(crate) storage_read_bytes: Option<u64>,
    pub(crate) storage_write_bytes: Option<u64>,
    pub(crate) storage_read_bytes_per_op: Option<f64>,
    pub(crate) storage_write_bytes_per_op: Option<f64>,
    pub(crate) client: Process,
    /// The server's process, where this program started one.
    pub(crate) server: Option<Process>,
    /// The block device under the data, where it can be known.
    pub(crate) drive: Option<Drive>,
    /// The memory cgroup, where `--memory` was given.
    pub(crate) memory: Option<MemoryUse>,
    /// The target's own counters: what they grew by, and levels at the end.
    pub(crate) counters: BTreeMap<String, f64>,
    /// The measured seconds, with `--by-second`.
    pub(crate) by_second: Vec<Second>,
    /// Seconds that closing the store took; not part of `seconds`.
    pub(crate) close_seconds: f64,
    /// A thread gave up after too many failures in a row.
    pub(crate) aborted: bool,
}

/// Everything one must know to repeat the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) phase: String,
    pub(crate) target: String,
    /// Version of this program, and of the source it was built from, if known.
    pub(crate) version: String,
    pub(crate) commit: Option<String>,
    /// Facts that the target states about itself.
    pub(crate) target_facts: BTreeMap<String, String>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) records: u64,
    /// Keys and rows of all records as loaded, at most.
    pub(crate) dataset_bytes: u64,
    pub(crate) threads: usize,
    /// Operations a second that were offered; absent in a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) warmup_seconds: f64,
    pub(crate) durability: String,
    pub(crate) verify: bool,
    pub(crate) seed: u64,
    pub(crate) memory_limit_bytes: Option<u64>,
    /// Block device and file system of the data directory.
    pub(crate) device: Option<String>,
    pub(crate) file_system: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) cpus: usize,
}

/// What a block device completed during the measured part, whoever asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Drive {
    pub(crate) device: String,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) write_bytes: u64,
}

/// One second of the measured part: latencies by operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// The first is 0.
    pub(crate) second: u32,
    pub(crate) operations: BTreeMap<String, SecondLatency>,
}

/// Latencies of one kind of operation in one second, microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct SecondLatency {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Latencies of one kind of operation, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Successful ones; only these have latencies.
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) mean_us: f64,
    pub(crate) min_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p95_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    fn of(latencies: Option<&Latencies>, errors: u64) -> Self {
        let Some(of) = latencies else { return Self { errors, ..Self::default() } };
        let at = |quantile| float(of.value_at_quantile(quantile)) / 1000.0;
        Self {
            count: of.len(),
            errors,
            mean_us: of.mean() / 1000.0,
            min_us: float(of.min()) / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: float(of.max()) / 1000.0,
        }
    }

    /// The numbers by name, for comparisons.
    pub(crate) fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("mean_us", self.mean_us),
            ("p50_us", self.p50_us),
            ("p90_us", self.p90_us),
            ("p99_us", self.p99_us),
            ("p999_us", self.p999_us),
            ("p9999_us", self.p9999_us),
            ("max_us", self.max_us),
        ]
    }
}

impl Report {
    pub(crate) fn new(setting: Setting, outcome: &Outcome) -> Self {
        let Outcome { recorder, seconds: by_second, operations, elapsed, observed, aborted } =
            outcome;
        let usage = &observed.usage;
        let (ops, seconds, total) = (*operations, elapsed.as_secs_f64(), usage.total());
        let per_op = |x: f64| ratio(x, float(ops));
        let cpu = total.cpu_user_s.zip(total.cpu_sys_s).map(|(user, sys)| user + sys);
        Self {
            schema: SCHEMA.into(),
            setting,
            ops,
            seconds,
            ops_per_s: ratio(float(ops), seconds),
            operations: by_name(recorder),
            errors: recorder.errors_total(),
            error_examples: recorder.error_examples.clone(),
            retries: recorder.retries,
            verified: recorder.verified,
            mismatches: recorder.mismatches,
            mismatch_examples: recorder.mismatch_examples.clone(),
            cpu_user_s: total.cpu_user_s,
            cpu_sys_s: total.cpu_sys_s,
            cpu_us_per_op: cpu.map(|s| per_op(s * 1e6)),
            storage_read_bytes: total.read_bytes,
            storage_write_bytes: total.write_bytes,
            storage_read_bytes_per_op: total.read_bytes.map(|n| per_op(float(n))),
            storage_write_bytes_per_op: total.write_bytes.map(|n| per_op(float(n))),
            client: usage.client,
            server: usage.server,
            drive: observed.drive.as_ref().map(|(device, counts)| drive(device, *counts)),
            memory: None,
            counters: observed.counters.iter().map(|c| (c.name.clone(), c.value)).collect(),
            by_second: (0..).zip(by_second).map(|(at, recorder)| second(at, recorder)).collect(),
            close_seconds: 0.0,
            aborted: *aborted,
        }
    }

    /// Whether everything that was asked for happened, and was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0
            && self.mismatches == 0
            && !self.aborted
            && self.memory.is_none_or(|memory| memory.oom_kills.unwrap_or(0) == 0)
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "operation",
            "count",
            "errors",
            "mean us",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
        ]);
        for operation in Operation::ALL {
            let Some(l) = self.operations.get(operation.name()) else { continue };
            let mut row =
                vec![operation.name().to_owned(), l.count.to_string(), l.errors.to_string()];
            let times = [l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.p9999_us, l.max_us];
            row.extend(times.map(short));
            table.add_row(row);
        }
        table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        let mut text = self.headline();
        let _infallible = writeln!(text, "{table}");
        text.push_str(&self.footer());
        text
    }

    fn headline(&self) -> String {
        let s = &self.setting;
        let open = s.rate.map_or(String::new(), |rate| format!(", {} ops/s offered", short(rate)));
        format!(
            "{} on {}: {} ops in {:.1} s = {} ops/s ({} threads{open}, {} records, durability {})\n",
            s.phase,
            s.target,
            self.ops,
            self.seconds,
            short(self.ops_per_s),
            s.threads,
            s.records,
            s.durability,
        )
    }

    fn footer(&self) -> String {
        let mut lines = Vec::new();
        if let (Some(user), Some(sys), Some(each)) =
            (self.cpu_user_s, self.cpu_sys_s, self.cpu_us_per_op)
        {
            lines.push(format!("CPU {user:.1} s user, {sys:.1} s system ({each:.1} us/op)"));
        }
        if let (Some(read), Some(write)) = (self.storage_read_bytes, self.storage_write_bytes) {
            lines.push(format!("storage {} read, {} written", bytes(read), bytes(write)));
        }
        if let Some(memory) = &self.memory {
            lines.push(memory.sentence());
        }
        if self.verified > 0 {
            lines.push(format!("{} records verified, {} wrong", self.verified, self.mismatches));
        }
        if self.retries > 0 {
            lines.push(format!("{} retries of an overloaded store", self.retries));
        }
        if let Some(rate) = self.setting.rate.filter(|rate| self.ops_per_s < rate * 0.99) {
            lines.push(format!("the store did not keep up with {} ops/s", short(rate)));
        }
        if self.errors > 0 {
            lines.push(format!("{} errors", self.errors));
        }
        if self.aborted {
            lines.push("gave up: too many failures in a row".into());
        }
        let examples = self.error_examples.iter().chain(&self.mismatch_examples);
        lines.extend(examples.map(|example| format!("  for example {example}")));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// The lines that the original prints, for the scripts that plot them.
pub(crate) fn original_lines(report: &Report, recorder: &Recorder, workload: &Workload) -> String {
    let mut text = String::new();
    let mut line = |section: &str, name: &str, value: &str| {
        let _infallible = writeln!(text, "[{section}], {name}, {value}");
    };
    line("OVERALL", "RunTime(ms)", &format!("{:.0}", report.seconds * 1000.0));
    line("OVERALL", "Throughput(ops/sec)", &report.ops_per_s.to_string());
    for operation in Operation::ALL {
        let (name, errors) = (operation.name(), recorder.errors(operation));
        if let Some(of) = recorder.latencies(operation) {
            let us = |ns: u64| (ns / 1000).to_string();
            line(name, "Operations", &of.len().to_string());
            line(name, "AverageLatency(us)", &(of.mean() / 1000.0).to_string());
            line(name, "MinLatency(us)", &us(of.min()));
            line(name, "MaxLatency(us)", &us(of.max()));
            for percentile in &workload.percentiles {
                let at = us(of.value_at_percentile(*percentile));
                line(name, &format!("{percentile}thPercentileLatency(us)"), &at);
            }
            line(name, "Return=OK", &of.len().to_string());
        }
        if errors > 0 {
            line(name, "Return=ERROR", &errors.to_string());
        }
    }
    if report.verified > 0 {
        line("VERIFY", "Operations", &report.verified.to_string());
        line("VERIFY", "Return=OK", &(report.verified - report.mismatches).to_string());
        line("VERIFY", "Return=UNEXPECTED_STATE", &report.mismatches.to_string());
    }
    text
}

fn drive(device: &str, counts: DriveCounts) -> Drive {
    let DriveCounts { reads, read_bytes, writes, write_bytes } = counts;
    Drive { device: device.into(), reads, read_bytes, writes, write_bytes }
}

fn second(second: u32, recorder: &Recorder) -> Second {
    let of = |operation: Operation| {
        let l = Latency::of(Some(recorder.latencies(operation)?), 0);
        let Latency { count, p50_us, p99_us, p999_us, .. } = l;
        Some((operation.name().to_owned(), SecondLatency { count, p50_us, p99_us, p999_us }))
    };
    Second { second, operations: Operation::ALL.into_iter().filter_map(of).collect() }
}

fn by_name(recorder: &Recorder) -> BTreeMap<String, Latency> {
    Operation::ALL
        .into_iter()
        .filter(|op| recorder.latencies(*op).is_some() || recorder.errors(*op) > 0)
        .map(|op| (op.name().into(), Latency::of(recorder.latencies(op), recorder.errors(op))))
        .collect()
}

/// Three digits that matter.
pub(crate) fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    let mut x = float(n);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            return format!("{} {unit}", short(x));
        }
        x /= 1024.0;
    }
    format!("{} TiB", short(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Observation;
    use crate::property::Properties;
    use crate::resources::Usage;
    use std::time::Duration;

    fn outcome() -> Outcome {
        let mut recorder = Recorder::default();
        (1..=1000).for_each(|us| recorder.add(Operation::Read, Duration::from_micros(us)));
        recorder.fail(Operation::Update, "no");
        recorder.verified = 900;
        let usage = Usage {
            client: Process { cpu_user_s: Some(1.0), cpu_sys_s: Some(1.0), ..Process::default() },
            server: None,
        };
        Outcome {
            recorder,
            operations: 1001,
            elapsed: Duration::from_secs(2),
            observed: Observation {
                usage,
                drive: Some(("vda".into(), DriveCounts::default())),
                ..Observation::default()
            },
            ..Outcome::default()
        }
    }

    /// All names of a JSON value, in order, with the types of the leaves.
    fn outline(value: &serde_json::Value, path: &str, out: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                map.iter().for_each(|(name, value)| outline(value, &format!("{path}.{name}"), out));
            }
            _ => out.push(path.trim_start_matches('.').into()),
        }
    }

    #[test]
    fn the_schema_is_frozen() {
        let mut report = Report::new(Setting::default(), &outcome());
        report.memory = Some(MemoryUse::default());
        let mut names = Vec::new();
        outline(&serde_json::to_value(&report).unwrap(), "", &mut names);
        let golden = include_str!("../tests/golden/report_schema.txt");
        assert_eq!(names.join("\n"), golden.trim_end(), "see the module's rule for changes");
    }

    #[test]
    fn a_report_survives_json() {
        let report = Report::new(Setting::default(), &outcome());
        let text = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn numbers_are_right() {
        let report = Report::new(Setting::default(), &outcome());
        let read = report.operations["READ"];
        for (name, got, expect) in [
            ("throughput", report.ops_per_s, 500.5),
            ("cpu", report.cpu_us_per_op.unwrap(), 2e6 / 1001.0),
            ("mean", read.mean_us, 500.5),
            ("p50", read.p50_us, 500.0),
            ("p99", read.p99_us, 990.0),
            ("max", read.max_us, 1000.0),
        ] {
            assert!((got / expect - 1.0).abs() < 0.002, "{name}: {got}, expected {expect}");
        }
        assert_eq!((read.count, report.operations["UPDATE"].errors), (1000, 1));
        assert!(!report.is_clean());
    }

    #[test]
    fn the_original_format_is_the_originals() {
        let outcome = outcome();
        let report = Report::new(Setting::default(), &outcome);
        let workload = Workload::new(&Properties::default()).unwrap();
        let text = original_lines(&report, &outcome.recorder, &workload);
        for line in [
            "[OVERALL], RunTime(ms), 2000",
            "[OVERALL], Throughput(ops/sec), 500.5",
            "[READ], Operations, 1000",
            "[READ], MinLatency(us), 1",
            "[READ], 50thPercentileLatency(us), 500",
            "[READ], 99thPercentileLatency(us), 990",
            "[READ], Return=OK, 1000",
            "[UPDATE], Return=ERROR, 1",
            "[VERIFY], Return=OK, 900",
        ] {
            assert!(text.lines().any(|got| got == line), "{line:?} is not in:\n{text}");
        }
    }

    #[test]
    fn the_table_names_what_matters() {
        let text = Report::new(Setting::default(), &outcome()).table();
        for part in ["1001 ops in 2.0 s", "READ", "UPDATE", "p99.99", "1 errors", "UPDATE: no"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn byte_counts_are_readable() {
        assert_eq!([bytes(0), bytes(1536), bytes(2 << 30)], ["0.00 B", "1.50 KiB", "2.00 GiB"]);
    }
}
