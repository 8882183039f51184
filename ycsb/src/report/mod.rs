//! The report of one run: as JSON and as a table.
//!
//! [`Report`] is the schema `millpond-ycsb/1` (README.md describes each field). Adding a field
//! keeps the version; changing or removing one raises it.

pub(crate) mod original;
pub(crate) mod spread;
pub(crate) mod stage;
mod text;
pub(crate) mod warm;

use crate::driver::Outcome;
use crate::driver::measure::{Latencies, Recorder};
use crate::machine::Place;
use crate::machine::block::DriveCounts;
use crate::machine::cgroup::MemoryUse;
use crate::machine::resources::Process;
use crate::number::{float, ratio};
use crate::workload::Operation;
use serde::{Deserialize, Serialize};
use stage::{LeftOut, StageReport, Totals};
use std::collections::BTreeMap;

/// What `store` says of one that this program neither is nor sees.
const ELSEWHERE: &str = "elsewhere";
pub(crate) const SCHEMA: &str = "millpond-ycsb/1";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    /// What was measured where; see [`Setting`].
    pub(crate) setting: Setting,
    /// Of a course: the stage whose these are: `ops` to `operations`, CPU, bytes, counters.
    #[serde(default)]
    pub(crate) main_stage: Option<String>,
    /// Operations of the measured part, failed ones included.
    pub(crate) ops: u64,
    pub(crate) seconds: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) operations: BTreeMap<String, Latency>,
    pub(crate) errors: u64,
    pub(crate) error_examples: Vec<String>,
    /// Times an overloaded store was asked again; their waits are part of the latencies.
    pub(crate) retries: u64,
    /// Records.
    pub(crate) verified: u64,
    #[serde(default)]
    pub(crate) head_scans_checked: u64,
    /// Among both.
    pub(crate) mismatches: u64,
    pub(crate) mismatch_examples: Vec<String>,
    /// Client and store together, as are the next five; unknown of a store that is out of sight.
    pub(crate) cpu_user_s: Option<f64>,
    pub(crate) cpu_sys_s: Option<f64>,
    pub(crate) cpu_us_per_op: Option<f64>,
    pub(crate) storage_read_bytes: Option<u64>,
    pub(crate) storage_write_bytes: Option<u64>,
    pub(crate) storage_read_bytes_per_op: Option<f64>,
    pub(crate) storage_write_bytes_per_op: Option<f64>,
    pub(crate) client: Process,
    /// The server's process. Of one elsewhere, what it says itself.
    pub(crate) server: Option<Process>,
    /// `own process`, `server process`, or `elsewhere`, of which `client` says nothing.
    #[serde(default)]
    pub(crate) store: String,
    /// Processor time of others during the measured part, per cent of all there is.
    #[serde(default)]
    pub(crate) others_cpu_pct: Option<f64>,
    /// Reads of the drive, at most: how warm the store was.
    #[serde(default)]
    pub(crate) drive_reads_per_op: Option<f64>,
    /// Passes over all records before the run, with `--fill`.
    #[serde(default)]
    pub(crate) fill: Option<Fill>,
    /// The block device under the data, where it can be known.
    pub(crate) drive: Option<Drive>,
    /// The memory cgroup, where `--memory` was given.
    pub(crate) memory: Option<MemoryUse>,
    /// The target's own counters: what they grew by, and levels at the end.
    pub(crate) counters: BTreeMap<String, f64>,
    /// The measured seconds, with `--by-second`.
    pub(crate) by_second: Vec<Second>,
    /// Of a course: what each stage did and cost, the load first.
    #[serde(default)]
    pub(crate) stages: Vec<StageReport>,
    /// Stages that the store could not be asked for, and why.
    #[serde(default)]
    pub(crate) left_out: Vec<LeftOut>,
    /// Of all of them.
    #[serde(default)]
    pub(crate) totals: Totals,
    /// Seconds that closing the store took; not part of `seconds`.
    pub(crate) close_seconds: f64,
    /// A thread gave up after too many failures in a row.
    pub(crate) aborted: bool,
    /// Where it was when a signal broke it off: loading, warm-up, measuring or verifying.
    #[serde(default)]
    pub(crate) interrupted: Option<String>,
}

/// What reading all records before a run came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fill {
    /// `resident`, `not resident`, or `unknown`.
    pub(crate) outcome: String,
    pub(crate) seconds: f64,
    /// Of each pass; null where nobody counts.
    pub(crate) drive_reads_per_record: Vec<Option<f64>>,
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
    /// A snapshot was held while a course overwrote or deleted.
    #[serde(default)]
    pub(crate) hold_snapshot: bool,
    /// The data's files were dropped from the page cache before the store was opened.
    #[serde(default)]
    pub(crate) cold: bool,
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
        let Outcome { recorder, seconds: by_second, operations, elapsed, observed, .. } = outcome;
        let usage = &observed.usage;
        let (ops, seconds, total) = (*operations, elapsed.as_secs_f64(), usage.total());
        let per_op = |x: f64| ratio(x, float(ops));
        let all_s = seconds * float(u64::try_from(setting.cpus).expect("a count of processors"));
        let device_reads = observed.drive.as_ref().map(|(_, counts)| counts.reads);
        Self {
            schema: SCHEMA.into(),
            setting,
            main_stage: None,
            ops,
            seconds,
            ops_per_s: ratio(float(ops), seconds),
            operations: by_name(recorder),
            errors: recorder.errors_total(),
            error_examples: recorder.error_examples.clone(),
            retries: recorder.retries,
            verified: recorder.verified,
            head_scans_checked: recorder.heads_checked,
            mismatches: recorder.mismatches,
            mismatch_examples: recorder.mismatch_examples.clone(),
            cpu_user_s: total.cpu_user_s,
            cpu_sys_s: total.cpu_sys_s,
            cpu_us_per_op: total.cpu_s.map(|s| per_op(s * 1e6)),
            storage_read_bytes: total.read_bytes,
            storage_write_bytes: total.write_bytes,
            storage_read_bytes_per_op: total.read_bytes.map(|n| per_op(float(n))),
            storage_write_bytes_per_op: total.write_bytes.map(|n| per_op(float(n))),
            client: usage.client,
            server: usage.server,
            store: match usage.place {
                Place::Here => "own process".into(),
                Place::Process(_) => "server process".into(),
                Place::Elsewhere => ELSEWHERE.into(),
            },
            others_cpu_pct: usage
                .others_cpu_s()
                // Ticks are coarse, and the two ends of a run are not one moment.
                .map(|others| (ratio(others, all_s) * 100.0).min(100.0)),
            drive_reads_per_op: warm::reads_per_op(device_reads, total.read_bytes, ops),
            fill: None,
            drive: observed.drive.as_ref().map(|(device, counts)| drive(device, *counts)),
            memory: None,
            counters: observed.counters.iter().map(|c| (c.name.clone(), c.value)).collect(),
            by_second: (0..).zip(by_second).map(|(at, recorder)| second(at, recorder)).collect(),
            stages: Vec::new(),
            left_out: Vec::new(),
            totals: Totals::default(),
            close_seconds: 0.0,
            aborted: outcome.aborted,
            interrupted: outcome.interrupted.map(|part| part.name().into()),
        }
    }

    /// Whether everything that was asked for happened, and was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0
            && self.mismatches == 0
            && !self.aborted
            && self.memory.is_none_or(|memory| memory.oom_kills.unwrap_or(0) == 0)
    }
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

pub(crate) fn by_name(recorder: &Recorder) -> BTreeMap<String, Latency> {
    Operation::ALL
        .into_iter()
        .filter(|op| recorder.latencies(*op).is_some() || recorder.errors(*op) > 0)
        .map(|op| (op.name().into(), Latency::of(recorder.latencies(op), recorder.errors(op))))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::driver::Part;
    use crate::driver::observe::Observation;
    use crate::machine::resources::Usage;
    use crate::report::stage::{QuietReport, Sample, Throughput};
    use std::time::Duration;

    pub(crate) fn outcome() -> Outcome {
        let mut recorder = Recorder::default();
        (1..=1000).for_each(|us| recorder.add(Operation::Read, Duration::from_micros(us)));
        recorder.fail(Operation::Update, "no");
        recorder.verified = 900;
        let usage = Usage {
            client: Process {
                cpu_s: Some(2.0),
                cpu_user_s: Some(1.0),
                cpu_sys_s: Some(1.0),
                read_bytes: Some(1001 * 4096),
                ..Process::default()
            },
            machine_cpu_s: Some(3.0),
            ..Usage::default()
        };
        Outcome {
            recorder,
            operations: 1001,
            elapsed: Duration::from_secs(2),
            observed: Observation {
                usage,
                drive: Some(("vda".into(), DriveCounts { reads: 2002, ..DriveCounts::default() })),
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
        report.fill = Some(Fill::default());
        let mut stage =
            StageReport { quiet: Some(QuietReport::default()), ..StageReport::default() };
        stage.throughput = Some(Throughput::default());
        let mut names = Vec::new();
        outline(&serde_json::to_value(&report).unwrap(), "", &mut names);
        outline(&serde_json::to_value(&stage).unwrap(), "stages[]", &mut names);
        outline(
            &serde_json::to_value(Sample::default()).unwrap(),
            "stages[].samples[]",
            &mut names,
        );
        let golden = include_str!("../../tests/golden/report_schema.txt");
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
    fn a_driver_is_not_taken_for_a_server_that_is_elsewhere() {
        let mut outcome = outcome();
        outcome.observed.usage.place = Place::Elsewhere;
        let report = Report::new(Setting::default(), &outcome);
        assert_eq!((report.cpu_us_per_op, report.storage_read_bytes), (None, None));
        assert_eq!((report.store.as_str(), report.client.cpu_s), ("elsewhere", Some(2.0)));
        let text = report.table();
        assert!(text.contains("CPU of this driver 2.0 s") && !text.contains(" read, "), "{text}");
        let unknown =
            "CPU, bytes read and written, memory. If it runs on this machine, --server-pid PID";
        assert!(text.contains(unknown), "{text}");
        outcome.observed.usage.server = Some(Process { cpu_s: Some(4.0), ..Process::default() });
        let report = Report::new(Setting::default(), &outcome);
        assert!((report.cpu_us_per_op.unwrap() / (6e6 / 1001.0) - 1.0).abs() < 1e-9);
        let text = report.table();
        assert!(text.contains("CPU of the server 4.0 s (3996.0 us/op), by its /metrics"), "{text}");
        // Nothing was said of the rest.
        assert!(text.contains("null in --json): bytes read and written, memory. If it"), "{text}");
        let mut course = report;
        course.setting.target = "http".into();
        course.stages = vec![StageReport::default()];
        let text = course.table();
        for part in ["--server-pid PID shows them", "with --data DIR in place of --url"] {
            assert_eq!(text.matches(part).count(), 1, "{text}");
        }
        course.stages[0].space.file_bytes = Some(1);
        assert!(!course.table().contains("--data DIR"));
    }

    #[test]
    fn an_interrupted_run_says_so() {
        for (part, say) in [
            (Part::Measuring, "INTERRUPTED while measuring: these are the figures up to then"),
            (Part::WarmUp, "INTERRUPTED during the warm-up: nothing was measured"),
        ] {
            let outcome = Outcome { interrupted: Some(part), ..outcome() };
            let text = Report::new(Setting::default(), &outcome).table();
            assert!(text.contains(say), "{text}");
        }
    }

    #[test]
    fn the_table_names_what_matters() {
        let setting = Setting { cpus: 2, ..Setting::default() };
        let mut report = Report::new(setting, &outcome());
        // A second of four was somebody else's.
        assert!((report.others_cpu_pct.unwrap() - 25.0).abs() < 1e-9, "{report:?}");
        report.fill = Some(Fill {
            outcome: "resident".into(),
            seconds: 3.0,
            drive_reads_per_record: vec![Some(1.0), Some(0.0)],
        });
        let text = report.table();
        for part in ["1.0000 reads of the drive per operation", "record: 1.000, 0.000)"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        for part in ["1001 ops in 2.0 s", "READ", "UPDATE", "p99.99", "1 errors", "UPDATE: no"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    /// The first line had the figure of one stage, and did not say of which; head scans passed for
    /// records.
    #[test]
    fn a_course_names_the_stage_and_what_was_checked() {
        let mut outcome = outcome();
        outcome.recorder.heads_checked = 30;
        let mut report = Report::new(Setting::default(), &outcome);
        report.stages = vec![StageReport { name: "queue".into(), ..StageReport::default() }];
        report.main_stage = Some("queue".into());
        let why = "a server is not asked to flush".to_owned();
        report.left_out = vec![LeftOut { name: "flush".into(), why }];
        let text = report.table();
        let first = text.lines().next().unwrap();
        assert!(first.contains(", stage queue: 1001 ops in 2.0 s"), "{first}");
        for part in [
            "900 records and 30 head scans verified, 0 wrong",
            "\nqueue: CPU 1.0 s user",
            "\nqueue: 1.0000 reads of the drive per operation",
            "\nflush: left out: a server is not asked to flush\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
