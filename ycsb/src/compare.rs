//! `ycsb compare`: two targets in turns, and the ratios of what they did.
//!
//! Each run is a child process of this program, so that CPU, I/O and memory cgroup are its own.
//! Sides alternate run by run; which of them begins alternates round by round:
//!
//! ```text
//!   round 1:  A load  B load   A b  B b   A c  B c
//!   round 2:  B load  A load   B b  A b   B c  A c
//! ```
//!
//! Every round begins with empty directories. Ratios are taken within a round, of runs that were
//! neighbours in time, and above 1 always means that A is better. The report is the schema
//! `millpond-ycsb-compare/1`, described in README.md.

use crate::child::{self, Voice};
use crate::cli::{CompareArgs, TargetKind};
use crate::machine;
use crate::number::{float, ratio};
use crate::progress::say;
use crate::report::{Report, short};
use crate::session::write_json;
use crate::spread::{Spread, median, quotient};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

const SCHEMA: &str = "millpond-ycsb-compare/1";
const LOAD: &str = "load";

/// The result of all rounds.
#[derive(Debug, Serialize)]
struct Comparison {
    schema: &'static str,
    commit: Option<String>,
    a: SideReport,
    b: SideReport,
    rounds: usize,
    /// Workloads in the order of running.
    order: Vec<String>,
    workloads: BTreeMap<String, Operations>,
}

/// By operation (`OVERALL` for all of them), then by the name of the number.
type Operations = BTreeMap<String, BTreeMap<String, Compared>>;

#[derive(Debug, Serialize)]
struct SideReport {
    target: &'static str,
    args: String,
    /// Every run, in order: nothing is left out.
    runs: Vec<RunRecord>,
}

#[derive(Debug, Serialize)]
struct RunRecord {
    workload: String,
    round: usize,
    report: Report,
}

/// One number on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Compared {
    /// Median over the rounds.
    a: f64,
    b: f64,
    /// Of the rounds' ratios; above 1, A is better.
    ratio: Spread,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}

/// Runs everything; false if a run had errors or mismatches.
pub(crate) fn compare(args: &CompareArgs) -> Result<bool> {
    if args.rounds == 0 || args.workloads.is_empty() {
        bail!("--rounds and --workloads: there must be something to run");
    }
    if args.workloads.iter().skip(1).any(|w| w == LOAD) {
        bail!("--workloads: load can only be the first, data is loaded once a round");
    }
    let scratch = match &args.data {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make --data {}", dir.display()))?;
            tempfile::tempdir_in(dir)
        }
        None => tempfile::tempdir(),
    }
    .context("cannot make a temporary directory; name one with --data DIR")?;
    let mut sides = [Vec::new(), Vec::new()];
    for round in 1..=args.rounds {
        run_round(args, round, scratch.path(), &mut sides)?;
    }
    let [a, b] = sides;
    let clean = a.iter().chain(&b).all(|run| run.report.is_clean());
    let comparison = Comparison {
        schema: SCHEMA,
        commit: machine::commit(),
        order: args.workloads.clone(),
        workloads: ratios(&args.workloads, &a, &b)?,
        a: SideReport { target: args.a.name(), args: args.a_args.clone(), runs: a },
        b: SideReport { target: args.b.name(), args: args.b_args.clone(), runs: b },
        rounds: args.rounds,
    };
    let text = comparison.table();
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the result")?;
    if let Some(path) = &args.workload.json {
        write_json(path, &comparison)?;
    }
    Ok(clean)
}

fn run_round(
    args: &CompareArgs,
    round: usize,
    scratch: &Path,
    sides: &mut [Vec<RunRecord>; 2],
) -> Result<()> {
    let order = if round % 2 == 1 { [Side::A, Side::B] } else { [Side::B, Side::A] };
    // Loaded in any case; reported where asked for.
    let reported = args.workloads[0] == LOAD;
    let runs = args.workloads.iter().filter(|w| *w != LOAD);
    for workload in std::iter::once(LOAD).chain(runs.map(String::as_str)) {
        for side in order {
            let name = if side == Side::A { "a" } else { "b" };
            let data = scratch.join(name);
            let json = scratch.join("report.json");
            let report = child::run(&child_args(args, side, workload, &data), &json, Voice::Kept)
                .with_context(|| format!("side {name}, {workload}, round {round}"))?;
            let speed = short(report.ops_per_s);
            say(&format!("round {round} of {}: {name} {workload}: {speed} ops/s", args.rounds));
            if workload != LOAD || reported {
                let index = usize::from(side == Side::B);
                sides[index].push(RunRecord { workload: workload.into(), round, report });
            }
        }
    }
    for name in ["a", "b"] {
        let dir = scratch.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)
                .with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    Ok(())
}

/// The command line of one run.
fn child_args(args: &CompareArgs, side: Side, workload: &str, data: &Path) -> Vec<String> {
    let w = &args.workload;
    let (target, extra) = match side {
        Side::A => (args.a, &args.a_args),
        Side::B => (args.b, &args.b_args),
    };
    let mut words: Vec<String> = Vec::new();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add(if workload == LOAD { "load" } else { "run" }, "--target".into());
    add(target.name(), "--seed".into());
    add(&w.seed.to_string(), "--durability".into());
    add(w.durability.name(), "--warmup".into());
    let warmup = w.warmup.as_secs_f64().to_string();
    if target == TargetKind::Memory {
        words.push(warmup);
    } else {
        words.extend([warmup, "--data".into(), data.display().to_string()]);
    }
    let mut add = |name: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    };
    for file in &w.files {
        add("-P", Some(file.clone()));
    }
    add("-P", (workload != LOAD).then(|| workload.to_owned()));
    for property in &w.properties {
        add("-p", Some(property.clone()));
    }
    add("--threads", w.threads.map(|n| n.to_string()));
    add("--seconds", w.seconds.map(|time| time.as_secs_f64().to_string()));
    add("--rate", w.rate.map(|rate| rate.to_string()));
    add("--memory", w.memory.map(|bytes| bytes.to_string()));
    if w.verify {
        words.push("--verify".into());
    }
    words.extend(extra.split_whitespace().map(str::to_owned));
    words
}

/// The numbers of a report that are compared, by operation and name.
fn numbers(report: &Report) -> Vec<(String, &'static str, f64, Better)> {
    let mut all = vec![("OVERALL".to_owned(), "ops_per_s", report.ops_per_s, Better::More)];
    for (name, value) in [
        ("cpu_us_per_op", report.cpu_us_per_op),
        ("storage_read_bytes_per_op", report.storage_read_bytes_per_op),
        ("storage_write_bytes_per_op", report.storage_write_bytes_per_op),
    ] {
        all.extend(value.map(|value| ("OVERALL".to_owned(), name, value, Better::Less)));
    }
    for (operation, latency) in &report.operations {
        let speed = ratio(float(latency.count), report.seconds);
        all.push((operation.clone(), "ops_per_s", speed, Better::More));
        let named = latency.named().into_iter();
        all.extend(named.map(|(name, us)| (operation.clone(), name, us, Better::Less)));
    }
    all
}

/// Both sides' runs, workload by workload.
fn ratios(
    order: &[String],
    a: &[RunRecord],
    b: &[RunRecord],
) -> Result<BTreeMap<String, Operations>> {
    order.iter().map(|workload| Ok((workload.clone(), ratios_of(workload, a, b)?))).collect()
}

fn ratios_of(workload: &str, a: &[RunRecord], b: &[RunRecord]) -> Result<Operations> {
    type Pairs = Vec<(f64, f64)>;
    let mut pairs: BTreeMap<(String, &'static str), (Better, Pairs)> = BTreeMap::new();
    for mine in a.iter().filter(|run| run.workload == workload) {
        let theirs = b
            .iter()
            .find(|run| run.workload == workload && run.round == mine.round)
            .context("each round runs both sides")?;
        let theirs = numbers(&theirs.report);
        for (operation, name, x, better) in numbers(&mine.report) {
            // What only one side can tell (a process elsewhere) is not compared.
            let same = theirs.iter().find(|(op, n, ..)| *op == operation && *n == name);
            if let Some((_, _, y, _)) = same {
                let entry = pairs.entry((operation, name)).or_insert((better, Vec::new()));
                entry.1.push((x, *y));
            }
        }
    }
    let mut operations = Operations::new();
    for ((operation, name), (better, pairs)) in pairs {
        operations.entry(operation).or_default().insert(name.into(), compared(&pairs, better));
    }
    Ok(operations)
}

fn compared(pairs: &[(f64, f64)], better: Better) -> Compared {
    let side = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|(a, b)| match better {
            Better::More => quotient(*a, *b),
            Better::Less => quotient(*b, *a),
        })
        .collect();
    Compared { a: side(|pair| pair.0), b: side(|pair| pair.1), ratio: Spread::of(&ratios) }
}

impl Comparison {
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "workload",
            "operation",
            "number",
            "A",
            "B",
            "A is better by",
            "lowest",
            "highest",
        ]);
        for workload in &self.order {
            for (operation, numbers) in &self.workloads[workload] {
                for (name, Compared { a, b, ratio }) in numbers {
                    let values = [*a, *b].map(short);
                    let times = [ratio.median, ratio.min, ratio.max].map(|x| format!("{x:.2}x"));
                    let mut row = vec![workload.clone(), operation.clone(), name.clone()];
                    row.extend(values.into_iter().chain(times));
                    table.add_row(row);
                }
            }
        }
        table.column_iter_mut().skip(3).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        let mut text = format!("A: {} {}\n", self.a.target, self.a.args);
        let _infallible = writeln!(text, "B: {} {}", self.b.target, self.b.args);
        let _infallible =
            writeln!(text, "medians of {} rounds; ratios within a round\n", self.rounds);
        text + &table.to_string() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as CliCommand};
    use crate::driver::Outcome;
    use crate::measure::Recorder;
    use crate::report::Setting;
    use crate::workload::Operation;
    use clap::Parser as _;
    use std::time::Duration;

    fn close(got: f64, expect: f64) -> bool {
        (got / expect - 1.0).abs() < 0.01
    }

    fn run(round: usize, ops: u64, us: u64) -> RunRecord {
        let mut recorder = Recorder::default();
        recorder.add(Operation::Read, Duration::from_micros(us));
        let outcome = Outcome {
            recorder,
            operations: ops,
            elapsed: Duration::from_secs(1),
            ..Outcome::default()
        };
        let report = Report::new(Setting::default(), &outcome);
        RunRecord { workload: "c".into(), round, report }
    }

    #[test]
    fn above_one_means_that_a_is_better() {
        let a = [run(1, 200, 10), run(2, 300, 20), run(3, 400, 10)];
        let b = [run(3, 100, 10), run(1, 100, 40), run(2, 100, 40)];
        let all = ratios(&["c".to_owned()], &a, &b).unwrap();
        let speed = all["c"]["OVERALL"]["ops_per_s"];
        assert!(close(speed.a, 300.0) && close(speed.b, 100.0), "{speed:?}");
        let Spread { median, min, max } = speed.ratio;
        assert!(close(median, 3.0) && close(min, 2.0) && close(max, 4.0), "{speed:?}");
        // Rounds are paired by their number, not by their place: 4, 2 and 1 times.
        let latency = all["c"]["READ"]["p50_us"];
        let Spread { median, min, max } = latency.ratio;
        assert!(close(median, 2.0) && close(min, 1.0) && close(max, 4.0), "{latency:?}");
        // Nobody knew the CPU time.
        assert!(!all["c"]["OVERALL"].contains_key("cpu_us_per_op"));
    }

    fn args(words: &str) -> CompareArgs {
        let words = ["ycsb", "compare"].into_iter().chain(words.split(' '));
        let CliCommand::Compare(args) = Cli::parse_from(words).command else { panic!("compare") };
        args
    }

    #[test]
    fn a_run_is_a_command_line_that_parses() {
        let args = args(
            "--a embedded --b memory --b-args=--verify --threads 4 --seconds 2 --warmup 1 \
             --memory 64MiB -p recordcount=10 --durability off --rate 100"
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .as_str(),
        );
        for (side, workload) in [(Side::A, LOAD), (Side::A, "b"), (Side::B, "c")] {
            let words = child_args(&args, side, workload, Path::new("/d"));
            let parsed = Cli::parse_from(std::iter::once("ycsb".to_owned()).chain(words.clone()));
            let (CliCommand::Load(run) | CliCommand::Run(run)) = parsed.command else {
                panic!("{words:?}")
            };
            assert_eq!(run.workload.threads, Some(4), "{words:?}");
            assert_eq!(run.workload.memory, Some(64 << 20), "{words:?}");
            assert_eq!(run.workload.verify, side == Side::B, "{words:?}");
            assert_eq!(run.data.is_some(), side == Side::A, "{words:?}");
        }
    }

    #[test]
    fn load_comes_first() {
        let error = compare(&args("--a memory --b memory --workloads c,load")).unwrap_err();
        assert!(error.to_string().contains("load can only be the first"), "{error}");
    }
}
