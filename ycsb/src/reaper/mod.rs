//! `ycsb reaper`: one data set under each reaper policy in turns, and what each is worth.
//!
//! The data set is loaded once ([`dataset`]). Each run is a child process that opens it with a
//! policy, in a memory group of its own, lets compaction finish, warms up and measures. Policies
//! alternate run by run, and which of them begins moves on with every turn:
//!
//! ```text
//!   block, 4 clients:  round 1:  B off  mpool  frequency   C mpool  frequency  off
//!                      round 2:  B mpool  frequency  off   C frequency  off  mpool
//!   block, 8 clients:  ..
//! ```
//!
//! A run under `frequency` begins with what the value cache had learned when the one before it
//! ended (`kvs::frequencies`), and the first with what `--learn` was given time for. So that it is
//! asked for keys by their popularity, and not for those that it was asked for before, each turn
//! has a seed of its own ([`Dataset::seed`]); the policies of a turn share it.
//!
//! Ratios are taken within a round against `off`, of runs that were neighbours in time
//! ([`numbers`](mod@numbers)). The result is tables ([`table`](mod@table)), a JSON
//! ([`publish`](mod@publish)) and a picture ([`chart`]). A run that fails ends everything; what was
//! measured until then is still written.

mod chart;
mod dataset;
mod ideal;
mod numbers;
mod publish;
mod table;

use crate::child::{self, Voice};
use crate::cli::{Cli, Command, ReaperArgs};
use crate::driver::Phase;
use crate::interrupt;
use crate::number::float;
use crate::number::short;
use crate::output::say;
use crate::reaper::ideal::Ideal;
use crate::report::Report;
use crate::session;
use crate::workload::Workload;
use crate::workload::property::Properties;
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser as _;
use dataset::Dataset;
use mpool::ReaperPolicy;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rounds from which a spread says something.
const ROUNDS_MIN: usize = 3;

const ROUNDS_MAX: usize = 1000;

/// The number of the turn that learns; those that are measured follow.
const LEARN_NUMBER: u64 = 1;

/// Memtables beside a small `--memory` must not crowd it out: up to four of them exist at a time.
const MEMTABLE_PART: u64 = 16;
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;

/// One of the sides that are compared.
#[derive(Clone, Debug, PartialEq)]
struct Side {
    /// In tables and JSON.
    name: String,
    policy: ReaperPolicy,
    /// Further options of the engine.
    engine: Vec<String>,
}

/// One run that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    threads: usize,
    /// Turns of one number have one seed; `learn` has 1.
    number: u64,
    round: usize,
    /// Places in the lists of the arguments.
    workload: usize,
    side: usize,
}

/// One run that was made.
#[derive(Debug, Serialize)]
struct RunRecord {
    threads: usize,
    round: usize,
    workload: String,
    policy: String,
    numbers: numbers::Numbers,
    report: Report,
}

/// Runs everything; false if a run had errors or mismatches.
pub(crate) fn reaper(args: &ReaperArgs) -> Result<bool> {
    check(args)?;
    let outputs = publish::Outputs::reserve(args)?;
    let (sides, turns) = (sides(args), turns(args));
    check_runs(args, &sides, &turns)?;
    warn(args, turns.len());
    let ideals = ideals(args)?;
    let dataset = Dataset::prepare(args)?;
    learn(args, &dataset, &sides)?;
    let mut runs = Vec::new();
    let all = run_all(args, (&dataset, &ideals, &sides), &turns, &mut runs);
    if !runs.is_empty() {
        publish::publish(args, &dataset, &sides, (&runs, outputs))?;
    }
    all?;
    Ok(runs.iter().all(|run| run.report.is_clean()))
}

fn check(args: &ReaperArgs) -> Result<()> {
    if args.rounds == 0 || args.workloads.is_empty() || args.threads.is_empty() {
        bail!("--rounds, --workloads and --threads: there must be something to run");
    }
    if args.rounds > ROUNDS_MAX {
        bail!("--rounds {}: must be {ROUNDS_MAX} or less", args.rounds);
    }
    if args.threads.contains(&0) {
        bail!("--threads 0: must be 1 or more");
    }
    if args.seconds.as_secs() == 0 {
        bail!("--seconds: must be 1 or more, latencies are shown second by second");
    }
    if !args.policies.contains(&ReaperPolicy::Off) {
        bail!("--policies: off must be among them, the others are measured against it");
    }
    if !args.learn.is_zero() && !args.policies.contains(&ReaperPolicy::Frequency) {
        bail!("--learn: only the policy frequency learns, and it is not among --policies");
    }
    if let Some(rate) = args.rate.filter(|rate| !(*rate > 0.0 && rate.is_finite())) {
        bail!("--rate {rate}: must be a number of operations a second above 0");
    }
    let twice = args.policies.iter().enumerate().find(|(at, p)| args.policies[..*at].contains(p));
    if let Some((_, policy)) = twice {
        bail!("--policies: {policy} is there twice");
    }
    Ok(())
}

/// Refuses what any of the runs would refuse, before there is a load that it would come after.
fn check_runs(args: &ReaperArgs, sides: &[Side], turns: &[Turn]) -> Result<()> {
    let dataset = Dataset::planned(args)?;
    for turn in turns.iter().filter(|turn| turn.round == 1) {
        let words = run_words(args, &dataset, &sides[turn.side], turn);
        let cli = Cli::try_parse_from(std::iter::once("ycsb".to_owned()).chain(words))
            .map_err(|error| anyhow!("{}", error.to_string().trim()))?;
        let Command::Run(run) = &cli.command else { unreachable!("a turn is a run") };
        let checked = session::check(Phase::Run, run)
            .with_context(|| format!("{} with {}", args.workloads[turn.workload], turn.threads))?;
        if let Some(course) = &checked.workload.course {
            bail!(
                "course={} changes its data set, which all policies share: courses have no \
                 policies to compare",
                course.name()
            );
        }
    }
    Ok(())
}

fn warn(args: &ReaperArgs, turns: usize) {
    let each = args.seconds + args.warmup;
    let all = float(u64::try_from(turns).unwrap_or(u64::MAX)) * each.as_secs_f64();
    let minutes = (all + args.learn.as_secs_f64()) / 60.0;
    let (seconds, warmup) = (args.seconds.as_secs_f64(), args.warmup.as_secs_f64());
    say(&format!(
        "{turns} runs of {} s after {} s of warm-up: {} minutes, besides the load",
        short(seconds),
        short(warmup),
        short(minutes)
    ));
    if args.memory.is_none() {
        say("without --memory nothing is short of memory, and the policies may not differ");
    }
    if args.rounds < ROUNDS_MIN {
        say(&format!("fewer than {ROUNDS_MIN} rounds: the spread says little"));
    }
}

/// Off comes first, so that tables and colours are the same whatever the order of the arguments.
fn sides(args: &ReaperArgs) -> Vec<Side> {
    let side = |policy: ReaperPolicy| Side {
        name: policy.name().into(),
        policy,
        engine: vec![format!("reaper={policy}")],
    };
    let mut sides = vec![side(ReaperPolicy::Off)];
    if let Some(size) = args.value_cache_in_off {
        let mut cached = side(ReaperPolicy::Off);
        cached.name = "off+cache".into();
        cached.engine.push(format!("value_cache_bytes={size}"));
        sides.push(cached);
    }
    let others = args.policies.iter().filter(|policy| **policy != ReaperPolicy::Off);
    sides.extend(others.map(|policy| side(*policy)));
    sides
}

/// All runs in their order: policies innermost, and another one first each time.
fn turns(args: &ReaperArgs) -> Vec<Turn> {
    let sides = sides(args).len();
    let mut turns = Vec::new();
    let mut number = LEARN_NUMBER;
    for threads in args.threads.iter().copied() {
        for round in 1..=args.rounds {
            for workload in 0..args.workloads.len() {
                number += 1;
                for step in 0..sides {
                    let side = (round - 1 + workload + step) % sides;
                    turns.push(Turn { threads, number, round, workload, side });
                }
            }
        }
    }
    turns
}

/// The ideal cache of each workload, in their order, where there is one.
fn ideals(args: &ReaperArgs) -> Result<Vec<Option<Ideal>>> {
    let mut known: BTreeMap<String, Option<Ideal>> = BTreeMap::new();
    args.workloads
        .iter()
        .map(|file| {
            let files: Vec<String> = args.files.iter().chain([file]).cloned().collect();
            let properties = Properties::gather(&files, &args.properties)?;
            let workload = Workload::new(&properties)?;
            let distribution = properties.text("requestdistribution", "uniform").to_owned();
            // Seconds of computing, which workloads of one distribution share.
            let ideal = known.entry(distribution).or_insert_with(|| {
                let shares = workload.shares()?;
                Some(Ideal::new(shares, workload.record_bytes_max()))
            });
            Ok(ideal.clone())
        })
        .collect()
}

/// Lets the value cache learn before the first round, as `--learn` asks.
fn learn(args: &ReaperArgs, dataset: &Dataset, sides: &[Side]) -> Result<()> {
    let Some(side) = sides.iter().find(|side| side.policy == ReaperPolicy::Frequency) else {
        return Ok(());
    };
    if args.learn.is_zero() {
        return Ok(());
    }
    let (workload, threads) = (args.workloads.len() - 1, args.threads[0]);
    let name = &args.workloads[workload];
    let seconds = short(args.learn.as_secs_f64());
    say(&format!("learning: {name} with {threads} threads for {seconds} s"));
    let turn = Turn { threads, number: LEARN_NUMBER, round: 0, workload, side: 0 };
    // As fast as it can, whatever the rate of the rounds.
    let (warmup, seconds) = (Duration::ZERO, args.learn);
    let args = ReaperArgs { warmup, seconds, rate: None, ..args.clone() };
    let json = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let words = run_words(&args, dataset, side, &turn);
    let report = child::run(&words, json.path(), Voice::Heard).context("learning")?;
    interrupt::check()?;
    if !report.is_clean() {
        bail!("learning: the run had {} errors", report.errors);
    }
    Ok(())
}

fn run_all(
    args: &ReaperArgs,
    (dataset, ideals, sides): (&Dataset, &[Option<Ideal>], &[Side]),
    turns: &[Turn],
    runs: &mut Vec<RunRecord>,
) -> Result<()> {
    let json = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    for (at, turn) in turns.iter().enumerate() {
        let (side, workload) = (&sides[turn.side], &args.workloads[turn.workload]);
        let what = format!(
            "run {} of {}: {workload} with {} threads, round {}, {}",
            at + 1,
            turns.len(),
            turn.threads,
            turn.round,
            side.name
        );
        say(&what);
        let words = run_words(args, dataset, side, turn);
        let report = child::run(&words, json.path(), Voice::Heard).with_context(|| what.clone())?;
        // A run that was cut short is no figure.
        interrupt::check()?;
        let in_force = report.setting.target_facts.get("reaper_policy").map(String::as_str);
        if in_force != Some(side.policy.name()) {
            bail!("{what}: the policy in force was {}", in_force.unwrap_or("unknown"));
        }
        let numbers = numbers::numbers(&report, ideals[turn.workload].as_ref());
        let number = |name: &str| numbers.get(name).copied().map_or("?".into(), short);
        say(&format!(
            "    {} ops/s, READ p99 {} us, {} drive reads a lookup",
            number("ops_per_s"),
            number("READ.p99"),
            number("drive_reads_per_lookup")
        ));
        runs.push(RunRecord {
            threads: turn.threads,
            round: turn.round,
            workload: workload.clone(),
            policy: side.name.clone(),
            numbers,
            report,
        });
    }
    Ok(())
}

/// Bytes of a memtable, where the engine's default is too much for the memory, and the user has
/// not chosen.
fn memtable_bytes(args: &ReaperArgs) -> Option<u64> {
    let chosen = args.engine.iter().any(|pair| pair.starts_with("memtable_bytes="));
    let part = (args.memory? / MEMTABLE_PART).max(MEMTABLE_BYTES_MIN);
    (!chosen && part < kvs::Options::default().memtable_bytes).then_some(part)
}

/// The command line of one run.
fn run_words(args: &ReaperArgs, dataset: &Dataset, side: &Side, turn: &Turn) -> Vec<String> {
    let mut words: Vec<String> =
        ["run", "--target", "embedded", "--by-second", "--settle"].map(str::to_owned).into();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("--data", dataset.data.display().to_string());
    add("--threads", turn.threads.to_string());
    add("--seed", dataset.seed(args, turn.number).to_string());
    add("--seconds", args.seconds.as_secs_f64().to_string());
    add("--warmup", args.warmup.as_secs_f64().to_string());
    add("--durability", args.durability.name().into());
    if let Some(rate) = args.rate {
        add("--rate", rate.to_string());
    }
    if let Some(bytes) = args.memory {
        add("--memory", bytes.to_string());
    }
    if let Some(bytes) = memtable_bytes(args) {
        add("--engine", format!("memtable_bytes={bytes}"));
    }
    let mut words = [words, dataset::common_words(args)].concat();
    // After the files that all have in common, and before what the user set for all.
    words.extend(["-P".to_owned(), args.workloads[turn.workload].clone()]);
    words.extend(side.engine.iter().flat_map(|pair| ["--engine".to_owned(), pair.clone()]));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn args(words: &str) -> ReaperArgs {
        let words = ["ycsb", "reaper"].into_iter().chain(words.split_whitespace());
        let Command::Reaper(args) = Cli::parse_from(words).command else { panic!("reaper") };
        args
    }

    #[test]
    fn every_side_runs_everything_once_a_round_and_begins_in_turn() {
        let args = args("--rounds 3 --threads 4,8 --value-cache-in-off 64MiB");
        let turns = turns(&args);
        let sides = sides(&args);
        assert_eq!((turns.len(), sides.len()), (2 * 3 * 2 * 4, 4));
        let mut seen = turns.clone();
        seen.sort_by_key(|t| (t.threads, t.round, t.workload, t.side));
        seen.dedup();
        assert_eq!(seen.len(), turns.len(), "a run is there twice");
        // Blocks one after the other; within them rounds; within them a workload on all sides.
        assert!(turns.is_sorted_by_key(|t| (t.threads, t.round, t.workload)));
        let first: Vec<usize> = turns.iter().step_by(4).map(|turn| turn.side).collect();
        assert_eq!(first, [0, 1, 1, 2, 2, 3, 0, 1, 1, 2, 2, 3]);
        // Policies are asked for the same keys; nobody is asked for the same twice.
        let numbers: Vec<u64> = turns.iter().step_by(4).map(|turn| turn.number).collect();
        assert_eq!(numbers, (2..14).collect::<Vec<u64>>());
        assert!(turns.chunk_by(|a, b| a.number == b.number).all(|turn| turn.len() == 4));
    }

    #[test]
    fn off_is_the_first_side_whatever_the_order() {
        let names = |words: &str| -> Vec<String> {
            sides(&args(words)).into_iter().map(|side| side.name).collect()
        };
        assert_eq!(names("--policies frequency,off"), ["off", "frequency"]);
        let all = names("--value-cache-in-off 64MiB");
        assert_eq!(all, ["off", "off+cache", "mpool", "frequency"]);
    }

    #[test]
    fn a_run_is_a_command_line_that_parses() {
        let args = args(
            "--threads 4 --seconds 2 --memory 64MiB -p recordcount=10 --engine queue_depth=8 \
             --durability off --io threads --allow-buffered --rate 500",
        );
        let dataset = Dataset::for_tests(Path::new("/d"));
        let sides = sides(&args);
        for turn in turns(&args) {
            let words = run_words(&args, &dataset, &sides[turn.side], &turn);
            let parsed = Cli::parse_from(std::iter::once("ycsb".to_owned()).chain(words.clone()));
            let Command::Run(run) = parsed.command else { panic!("{words:?}") };
            assert_eq!(run.workload.threads, Some(4), "{words:?}");
            assert_eq!(run.workload.rate, Some(500.0), "{words:?}");
            assert_eq!(run.workload.seed, 1 + turn.number, "{words:?}");
            assert_eq!(run.workload.memory, Some(64 << 20), "{words:?}");
            assert_eq!(run.workload.files, [args.workloads[turn.workload].clone()], "{words:?}");
            let policy = format!("reaper={}", sides[turn.side].policy);
            let engine = ["memtable_bytes=4194304".into(), "queue_depth=8".into(), policy];
            assert_eq!(run.store.engine, engine, "{words:?}");
            assert!(run.by_second && run.store.settle && run.store.allow_buffered, "{words:?}");
        }
    }

    #[test]
    fn memtables_are_a_part_of_a_small_memory() {
        let of = |words: &str| memtable_bytes(&args(words));
        assert_eq!(of("--memory 64MiB"), Some(4 << 20));
        assert_eq!(of("--memory 16MiB"), Some(1 << 20));
        assert_eq!(of("--memory 2GiB"), None);
        assert_eq!(of("--memory 64MiB --engine memtable_bytes=8MiB"), None);
        assert_eq!(of("--rounds 3"), None);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for (words, say) in [
            ("--policies frequency", "off must be among them"),
            ("--policies off,mpool,off", "off is there twice"),
            ("--rounds 0", "something to run"),
            ("--threads 4,0", "--threads 0"),
            ("--seconds 0.5", "1 or more"),
            ("--policies off,mpool --learn 5", "only the policy frequency learns"),
            ("--rate 0", "--rate 0: must be"),
            ("--rate inf", "--rate inf: must be"),
            ("--rounds 1001", "1000 or less"),
        ] {
            let error = check(&args(words)).unwrap_err().to_string();
            assert!(error.contains(say), "{words}: {error}");
        }
        check(&args("--rounds 3")).unwrap();
    }

    #[test]
    fn what_a_run_would_refuse_is_refused_before_the_load() {
        for (words, say) in [
            ("--threads 4,10001", "b with 10001: threadcount=10001: must be"),
            ("--engine nonsense=1", "no option is named \"nonsense\""),
            ("--workloads b,nowhere", "cannot read the workload \"nowhere\""),
            ("-p recordcount=18446744073709551615", "from 1 to 1000000000000"),
            ("--memory 18446744073709551615 --durability off -p target=NaN", "target=NaN"),
        ] {
            let args = args(words);
            let error = check_runs(&args, &sides(&args), &turns(&args)).unwrap_err();
            assert!(format!("{error:#}").contains(say), "{words}: {error:#}");
        }
        let args = args("--threads 4,8");
        check_runs(&args, &sides(&args), &turns(&args)).unwrap();
    }

    #[test]
    fn only_steady_distributions_have_an_ideal() {
        let ideals = ideals(&args("--workloads b,c,d -p recordcount=1000")).unwrap();
        let known: Vec<bool> = ideals.iter().map(Option::is_some).collect();
        assert_eq!(known, [true, true, false]);
    }
}
