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
//! Every round begins with empty directories. A load ends, and a run begins, when flushes and
//! compactions are done. A run opens its store anew, so data that fits in memory is read until it
//! is there ([`warm`](mod@crate::report::warm)), before the warm-up. Each turn has a seed of its
//! own, which the sides share: a store that keeps what it has learned is not asked for the same
//! keys again.
//!
//! Ratios are taken within a round, of runs that were neighbours in time, and above 1 always means
//! that A is better ([`ratios`](mod@ratios)). The report is the schema `millpond-ycsb-compare/1`,
//! described in README.md. A run that fails, or a signal, ends everything; what was measured until
//! then is still reported.

mod caveats;
mod ratios;

use crate::child::{self, Voice};
use crate::cli::{Cli, Command, CompareArgs, FillArg, TargetKind};
use crate::driver::Phase;
use crate::interrupt;
use crate::machine;
use crate::number::short;
use crate::output::say;
use crate::output::{self, Output};
use crate::report::Report;
use crate::report::warm;
use crate::session;
use anyhow::{Context, Result, anyhow, bail};
use caveats::caveats;
use clap::Parser as _;
use comfy_table::{CellAlignment, Table, presets};
use ratios::{Compared, Operations, Warmth, compared, warmth};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const SCHEMA: &str = "millpond-ycsb-compare/1";
const LOAD: &str = "load";
const ROUNDS_MAX: usize = 1000;

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
    /// By workload, but for the load.
    warmth: BTreeMap<String, Warmth>,
    /// What must be said beside the figures.
    caveats: Vec<String>,
    /// A signal ended it before all rounds were done.
    interrupted: bool,
}

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}

impl Side {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// One run that is to be made.
#[derive(Clone, Copy, Debug)]
struct Turn<'a> {
    side: Side,
    workload: &'a str,
    seed: u64,
    fill: bool,
}

/// Runs everything; false if a run had errors or mismatches.
pub(crate) fn compare(args: &CompareArgs) -> Result<bool> {
    check(args)?;
    let fill = check_runs(args)?;
    let json = Output::reserve_given("--json", args.workload.json.as_deref())?;
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
    let all = (1..=args.rounds)
        .try_for_each(|round| run_round(args, (round, fill), scratch.path(), &mut sides));
    if sides.iter().any(|side| !side.is_empty()) {
        let comparison = Comparison::new(args, sides);
        let clean = comparison.is_clean();
        comparison.publish(json)?;
        return all.map(|()| clean);
    }
    all.map(|()| true)
}

fn check(args: &CompareArgs) -> Result<()> {
    if args.rounds == 0 || args.workloads.is_empty() {
        bail!("--rounds and --workloads: there must be something to run");
    }
    if args.rounds > ROUNDS_MAX {
        bail!("--rounds {}: must be {ROUNDS_MAX} or less", args.rounds);
    }
    if args.workloads.iter().skip(1).any(|w| w == LOAD) {
        bail!("--workloads: load can only be the first, data is loaded once a round");
    }
    Ok(())
}

/// Refuses what any of the runs would refuse, before there is a load that it would come after.
/// Says whether runs are filled.
fn check_runs(args: &CompareArgs) -> Result<bool> {
    let mut dataset_bytes = 0;
    for side in Side::BOTH {
        let runs = args.workloads.iter().map(String::as_str).filter(|workload| *workload != LOAD);
        for workload in std::iter::once(LOAD).chain(runs) {
            let turn = Turn { side, workload, seed: args.workload.seed, fill: false };
            let checked = check_run(args, turn)
                .with_context(|| format!("side {}, {workload}", side.name()))?;
            dataset_bytes = dataset_bytes.max(checked);
        }
    }
    let memory_bytes = args.workload.memory.or_else(machine::available_memory_bytes);
    let fill = match args.fill {
        FillArg::Always => true,
        FillArg::Never => false,
        FillArg::Auto => memory_bytes.is_some_and(|memory| warm::fits(dataset_bytes, memory)),
    };
    say(if fill {
        "before each run all records are read until they are in memory"
    } else {
        "records are not read before the runs: they do not fit in memory, or --fill says so"
    });
    Ok(fill)
}

/// Bytes of the records that it would load.
fn check_run(args: &CompareArgs, turn: Turn<'_>) -> Result<u64> {
    let words = child_args(args, turn, Path::new("data"));
    let cli = Cli::try_parse_from(std::iter::once("ycsb".to_owned()).chain(words))
        .map_err(|error| anyhow!("{}", error.to_string().trim()))?;
    let checked = match &cli.command {
        Command::Load(run) => session::check(Phase::Load, run)?,
        Command::Run(run) => session::check(Phase::Run, run)?,
        _ => unreachable!("a turn is a load or a run"),
    };
    if let Some(course) = &checked.workload.course {
        bail!(
            "course={} begins with an empty table of its own: run it on each side by itself, with \
             `ycsb run`",
            course.name()
        );
    }
    Ok(checked.workload.dataset_bytes())
}

fn run_round(
    args: &CompareArgs,
    (round, fill): (usize, bool),
    scratch: &Path,
    sides: &mut [Vec<RunRecord>; 2],
) -> Result<()> {
    let order = if round % 2 == 1 { [Side::A, Side::B] } else { [Side::B, Side::A] };
    // Loaded in any case; reported where asked for.
    let reported = args.workloads[0] == LOAD;
    let runs = args.workloads.iter().map(String::as_str).filter(|workload| *workload != LOAD);
    for (number, workload) in (0..).zip(std::iter::once(LOAD).chain(runs)) {
        for side in order {
            let name = side.name();
            let seed = seed(args, round, number);
            let words = child_args(args, Turn { side, workload, seed, fill }, &scratch.join(name));
            let report = child::run(&words, &scratch.join("report.json"), Voice::Kept)
                .with_context(|| format!("side {name}, {workload}, round {round}"))?;
            say(&format!("round {round} of {}: {}", args.rounds, line(side, workload, &report)));
            let cut_short = report.interrupted.is_some();
            if workload != LOAD || reported {
                let index = usize::from(side == Side::B);
                sides[index].push(RunRecord { workload: workload.into(), round, report });
            }
            interrupt::check()?;
            if cut_short {
                bail!("side {name}, {workload}, round {round}: a signal ended the run");
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

/// What a run came to, on a line. Sides and workloads share names.
fn line(side: Side, workload: &str, report: &Report) -> String {
    let (name, speed) = (side.name().to_ascii_uppercase(), short(report.ops_per_s));
    let reads = report.drive_reads_per_op.map_or("?".into(), |x| format!("{x:.3}"));
    format!("side {name}, workload {workload}: {speed} ops/s, {reads} drive reads/op")
}

/// The seed of a turn. Loads of all rounds load the same.
fn seed(args: &CompareArgs, round: usize, workload: u64) -> u64 {
    let workloads = u64::try_from(args.workloads.len()).expect("a count of workloads") + 1;
    let before = u64::try_from(round - 1).expect("a count of rounds") * workloads;
    let turn = if workload == 0 { 0 } else { before + workload };
    args.workload.seed.wrapping_add(turn)
}

/// The command line of one run.
fn child_args(args: &CompareArgs, turn: Turn<'_>, data: &Path) -> Vec<String> {
    let w = &args.workload;
    let (target, extra) = match turn.side {
        Side::A => (args.a, &args.a_args),
        Side::B => (args.b, &args.b_args),
    };
    let mut words: Vec<String> = Vec::new();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add(if turn.workload == LOAD { "load" } else { "run" }, "--target".into());
    add(target.name(), "--settle".into());
    add("--seed", turn.seed.to_string());
    add("--durability", w.durability.name().into());
    add("--warmup", w.warmup.as_secs_f64().to_string());
    if target != TargetKind::Memory {
        add("--data", data.display().to_string());
    }
    w.files.iter().for_each(|file| add("-P", file.clone()));
    if turn.workload != LOAD {
        add("-P", turn.workload.to_owned());
    }
    w.properties.iter().for_each(|property| add("-p", property.clone()));
    for (name, value) in [
        ("--threads", w.threads.map(|n| n.to_string())),
        ("--seconds", w.seconds.map(|time| time.as_secs_f64().to_string())),
        ("--rate", w.rate.map(|rate| rate.to_string())),
        ("--memory", w.memory.map(|bytes| bytes.to_string())),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    let flags = [("--fill", turn.fill && turn.workload != LOAD), ("--verify", w.verify)];
    words.extend(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned()));
    words.extend(extra.split_whitespace().map(str::to_owned));
    words
}

impl Comparison {
    fn new(args: &CompareArgs, [a, b]: [Vec<RunRecord>; 2]) -> Self {
        let runs = args.workloads.iter().filter(|workload| *workload != LOAD);
        let warmth = runs.map(|name| (name.clone(), warmth(name, &a, &b))).collect();
        let workloads = args.workloads.iter().map(|name| (name.clone(), compared(name, &a, &b)));
        Self {
            schema: SCHEMA,
            commit: machine::commit(),
            order: args.workloads.clone(),
            workloads: workloads.collect(),
            caveats: caveats(args, &warmth, &a.iter().chain(&b).collect::<Vec<_>>()),
            warmth,
            a: SideReport { target: args.a.name(), args: args.a_args.clone(), runs: a },
            b: SideReport { target: args.b.name(), args: args.b_args.clone(), runs: b },
            rounds: args.rounds,
            interrupted: interrupt::pending().is_some(),
        }
    }

    fn is_clean(&self) -> bool {
        self.a.runs.iter().chain(&self.b.runs).all(|run| run.report.is_clean())
    }

    /// The file comes first: nobody may be reading standard output.
    fn publish(&self, json: Option<Output>) -> Result<()> {
        let instead = json.as_ref().is_some_and(Output::is_stdout);
        if let Some(json) = json {
            json.write_json(self)?;
        }
        if instead { Ok(()) } else { output::print(&self.table()) }
    }

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
            "but",
        ]);
        for workload in &self.order {
            let words = self.warmth.get(workload).and_then(|warmth| warmth.words).unwrap_or("");
            for (operation, numbers) in &self.workloads[workload] {
                for (name, Compared { a, b, ratio, .. }) in numbers {
                    let values = [*a, *b].map(short);
                    let times = [ratio.median, ratio.min, ratio.max].map(|x| format!("{x:.2}x"));
                    let mut row = vec![workload.clone(), operation.clone(), name.clone()];
                    row.extend(values.into_iter().chain(times));
                    row.push(words.into());
                    table.add_row(row);
                }
            }
        }
        let numbers = table.column_iter_mut().skip(3).take(5);
        numbers.for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let mut text = format!("A: {} {}\n", self.a.target, self.a.args);
        let _infallible = writeln!(text, "B: {} {}", self.b.target, self.b.args);
        if self.interrupted {
            text.push_str("INTERRUPTED: these are the figures up to then\n");
        }
        let _infallible =
            writeln!(text, "medians of {} rounds; ratios within a round\n", self.rounds);
        let _infallible = writeln!(text, "{table}\n\nreads of the drive per operation, at most:");
        for (workload, warmth) in &self.warmth {
            let (a, b) = (warmth.a.sentence(), warmth.b.sentence());
            let _infallible = writeln!(text, "  {workload}: A {a}, B {b}");
        }
        text.push('\n');
        for caveat in &self.caveats {
            let _infallible = writeln!(text, "- {caveat}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Outcome;
    use crate::driver::measure::Recorder;
    use crate::report::Setting;
    use crate::workload::Operation;
    use std::time::Duration;

    fn args(words: &str) -> CompareArgs {
        let words = ["ycsb", "compare"].into_iter().chain(words.split_whitespace());
        let Command::Compare(args) = Cli::parse_from(words).command else { panic!("compare") };
        args
    }

    #[test]
    fn a_run_is_a_command_line_that_parses() {
        let args = args(
            "--a embedded --b memory --b-args=--verify --threads 4 --seconds 2 --warmup 1 \
             --memory 64MiB -p recordcount=10 --durability off --rate 100",
        );
        for (side, workload) in [(Side::A, LOAD), (Side::A, "b"), (Side::B, "c")] {
            let turn = Turn { side, workload, seed: 9, fill: true };
            let words = child_args(&args, turn, Path::new("/d"));
            let parsed = Cli::parse_from(std::iter::once("ycsb".to_owned()).chain(words.clone()));
            let (Command::Load(run) | Command::Run(run)) = parsed.command else {
                panic!("{words:?}")
            };
            assert_eq!((run.workload.threads, run.workload.seed), (Some(4), 9), "{words:?}");
            assert_eq!(run.workload.memory, Some(64 << 20), "{words:?}");
            assert_eq!(run.workload.verify, side == Side::B, "{words:?}");
            assert_eq!(run.data.is_some(), side == Side::A, "{words:?}");
            // Both sides are quiet before they are measured, and as warm as they can be.
            assert!(run.store.settle && run.store.fill == (workload != LOAD), "{words:?}");
        }
    }

    /// `round 1 of 3: b b: ..` named side and workload by one letter each.
    #[test]
    fn a_line_tells_the_side_from_the_workload() {
        let report = Report::new(Setting::default(), &Outcome::default());
        let line = line(Side::B, "b", &report);
        assert_eq!(line, "side B, workload b: 0.00 ops/s, ? drive reads/op");
    }

    #[test]
    fn sides_share_a_seed_that_no_other_turn_has() {
        let args = args("--a memory --b memory --workloads load,b,c --seed 100");
        let mut seen = Vec::new();
        for round in 1..=3 {
            assert_eq!(seed(&args, round, 0), 100, "all rounds load the same");
            seen.extend([1, 2].map(|workload| seed(&args, round, workload)));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), seen.contains(&100)), (6, false));
    }

    #[test]
    fn what_a_later_run_would_refuse_is_refused_at_once() {
        for (words, say) in [
            ("--workloads c,load --seconds 1", "load can only be the first"),
            ("--rounds 1001 --seconds 1", "1000 or less"),
            ("--workloads load,nowhere --seconds 1", "side a, nowhere: cannot read"),
            ("--workloads load,c -p operationcount=0", "side a, c: neither operationcount"),
            ("--b-args=--nonsense --seconds 1", "side b, load: error: unexpected argument"),
            ("--b-args=-preadproportion=2 --seconds 1", "side b, load: readproportion=2"),
        ] {
            let error = format!(
                "{:#}",
                compare(&args(&format!("--a memory --b memory {words}"))).unwrap_err()
            );
            assert!(error.contains(say), "{words}: {error}");
        }
        let error = check_runs(&args("--a memory --b embedded --b-args=--engine=x=1 --seconds 1"));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("side b, load: --engine x=1: no option is named"), "{error}");
    }

    #[cfg(not(feature = "rocksdb"))]
    #[test]
    fn without_rocksdb_nothing_is_loaded() {
        let error = compare(&args("--a memory --b rocksdb --seconds 1")).unwrap_err();
        assert!(format!("{error:#}").contains("--features rocksdb"), "{error:#}");
    }

    #[test]
    fn data_that_fits_is_filled() {
        for (words, fill) in [
            ("-p recordcount=1000000 --memory 2GiB", true),
            ("-p recordcount=8000000 --memory 2GiB", false),
            ("-p recordcount=8000000 --memory 2GiB --fill always", true),
            ("-p recordcount=1000 --fill never", false),
        ] {
            let args = args(&format!("--a memory --b memory --seconds 1 {words}"));
            assert_eq!(check_runs(&args).unwrap(), fill, "{words}");
        }
    }

    #[test]
    fn a_mark_is_in_the_table_beside_each_ratio_and_below_it() {
        let run = |reads: f64| {
            let mut recorder = Recorder::default();
            recorder.add(Operation::Read, Duration::from_micros(5));
            let outcome = Outcome {
                recorder,
                operations: 100,
                elapsed: Duration::from_secs(1),
                ..Outcome::default()
            };
            let mut report = Report::new(Setting::default(), &outcome);
            report.drive_reads_per_op = Some(reads);
            vec![RunRecord { workload: "c".into(), round: 1, report }]
        };
        let args = args("--a embedded --b rocksdb --workloads c --seconds 1");
        let text = Comparison::new(&args, [run(0.0), run(0.8)]).table();
        let speed = text.lines().find(|line| line.contains("ops_per_s")).unwrap();
        assert!(speed.contains("only B read the drive"), "{text}");
        assert!(text.contains("- c: only B read the drive (0.000 and 0.800 reads"), "{text}");
        let warmth = "  c: A 0.000 (not read before), B 0.800 (not read before)\n";
        assert!(text.contains(warmth), "{text}");
        assert!(!Comparison::new(&args, [run(0.0), run(0.0)]).table().contains("read the drive ("));
    }
}
