//! What a comparison leaves: tables on standard output, a JSON and a picture.
//!
//! The JSON is the schema `millpond-ycsb-reaper/1`, described in README.md. `medians` and `ratios`
//! at its top are those of the block with the most threads; every block has its own in `blocks`.

use super::chart::{Curve, Panel, draw};
use super::dataset::{Dataset, Description};
use super::numbers::{Sample, Sheet, drive_reads_source, medians, ratios};
use super::table::{headline, tables};
use super::{RunRecord, Side, memtable_bytes};
use crate::cli::ReaperArgs;
use crate::interrupt;
use crate::machine;
use crate::output::{self, Output};
use crate::report::SecondLatency;
use crate::report::spread::Spread;
use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const SCHEMA: &str = "millpond-ycsb-reaper/1";
const RATIO_OF: &str = "the policy's number / that of off in the same round; of these the median, \
                        the lowest and the highest. ops_per_s: above 1 is better; all others: \
                        below 1 is better";
#[derive(Debug, Serialize)]
struct Published<'a> {
    schema: &'static str,
    version: &'static str,
    commit: Option<String>,
    machine: Machine,
    device: Device,
    options: Options<'a>,
    dataset: DatasetFacts<'a>,
    ratio_of: &'static str,
    /// Threads of the block whose medians and ratios follow.
    threads: usize,
    medians: Value,
    ratios: Value,
    blocks: &'a [Block],
    /// A signal ended it before all runs were made.
    interrupted: bool,
    /// Every run, in order: nothing is left out.
    runs: &'a [RunRecord],
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: Option<String>,
    cpus: usize,
    memory_bytes: Option<u64>,
    kernel: Option<String>,
}

#[derive(Debug, Serialize)]
struct Device {
    name: Option<String>,
    file_system: Option<String>,
    drive_reads_are: String,
}

#[derive(Debug, Serialize)]
struct Options<'a> {
    policies: Vec<&'a str>,
    workloads: &'a [String],
    threads: &'a [usize],
    rounds: usize,
    seconds: f64,
    warmup_seconds: f64,
    learn_seconds: f64,
    /// Offered; `None`: as fast as it goes.
    rate_ops_per_s: Option<f64>,
    memory_limit_bytes: Option<u64>,
    value_cache_in_off_bytes: Option<u64>,
    /// Where it is not the engine's default, and not in `engine`.
    memtable_bytes: Option<u64>,
    durability: &'static str,
    seed: u64,
    io: &'static str,
    engine: &'a [String],
    properties: &'a [String],
    files: &'a [String],
}

#[derive(Debug, Serialize)]
struct DatasetFacts<'a> {
    dir: String,
    reused: bool,
    /// Bytes of the volume that belong to an object, at the end of the last run.
    used_bytes: Option<u64>,
    #[serde(flatten)]
    description: &'a Description,
}

/// What came of the runs with one number of threads.
#[derive(Debug, Serialize)]
pub(super) struct Block {
    pub(super) threads: usize,
    #[serde(serialize_with = "nested")]
    pub(super) medians: Sheet<f64>,
    #[serde(serialize_with = "nested")]
    pub(super) ratios: Sheet<Spread>,
}

/// The files that were asked for.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    json: Option<Output>,
    svg: Option<Output>,
}

impl Outputs {
    pub(super) fn reserve(args: &ReaperArgs) -> Result<Self> {
        Ok(Self {
            json: Output::reserve_given("--json", args.json.as_deref())?,
            svg: Output::reserve_given("--svg", args.svg.as_deref())?,
        })
    }
}

/// Prints the tables and writes the files that were asked for.
pub(super) fn publish(
    args: &ReaperArgs,
    dataset: &Dataset,
    sides: &[Side],
    (runs, outputs): (&[RunRecord], Outputs),
) -> Result<()> {
    let blocks = blocks(runs);
    let instead = [&outputs.json, &outputs.svg].into_iter().flatten().any(Output::is_stdout);
    // Files come first: nobody may be reading standard output.
    if let Some(json) = outputs.json {
        json.write_json(&published(args, dataset, sides, (runs, &blocks)))?;
    }
    if let Some(svg) = outputs.svg {
        let title = format!("latency by second, {}", headline(args, dataset));
        let names: Vec<String> = sides.iter().map(|side| side.name.clone()).collect();
        let picture = draw(&title, &names, &rows_of_panels(&names, runs))?;
        svg.write(&picture)?;
    }
    if !instead {
        let mut text = tables(args, dataset, sides, (runs, &blocks));
        if interrupt::pending().is_some() {
            text.push_str("INTERRUPTED: these are the figures up to then\n");
        }
        output::print(&text)?;
    }
    Ok(())
}

/// Medians and ratios for each number of threads, in the order of running.
pub(super) fn blocks(runs: &[RunRecord]) -> Vec<Block> {
    let mut threads: Vec<usize> = runs.iter().map(|run| run.threads).collect();
    threads.dedup();
    let block = |threads: usize| {
        let of_block = runs.iter().filter(|run| run.threads == threads);
        let samples: Vec<Sample> = of_block
            .map(|run| Sample {
                round: run.round,
                workload: run.workload.clone(),
                policy: run.policy.clone(),
                numbers: run.numbers.clone(),
            })
            .collect();
        Block { threads, medians: medians(&samples), ratios: ratios(&samples) }
    };
    threads.into_iter().map(block).collect()
}

fn published<'a>(
    args: &'a ReaperArgs,
    dataset: &'a Dataset,
    sides: &'a [Side],
    (runs, blocks): (&'a [RunRecord], &'a [Block]),
) -> Published<'a> {
    let top = blocks.iter().max_by_key(|block| block.threads).expect("there is a run");
    let last = &runs.last().expect("there is a run").report;
    Published {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        commit: machine::commit(),
        machine: Machine {
            cpu: machine::cpu_model(),
            cpus: machine::cpus(),
            memory_bytes: machine::memory_bytes(),
            kernel: machine::kernel(),
        },
        device: Device {
            name: last.setting.device.clone(),
            file_system: last.setting.file_system.clone(),
            drive_reads_are: drive_reads_source(last),
        },
        options: Options {
            policies: sides.iter().map(|side| side.name.as_str()).collect(),
            workloads: &args.workloads,
            threads: &args.threads,
            rounds: args.rounds,
            seconds: args.seconds.as_secs_f64(),
            warmup_seconds: args.warmup.as_secs_f64(),
            learn_seconds: args.learn.as_secs_f64(),
            rate_ops_per_s: args.rate,
            memory_limit_bytes: args.memory,
            value_cache_in_off_bytes: args.value_cache_in_off,
            memtable_bytes: memtable_bytes(args),
            durability: args.durability.name(),
            seed: args.seed,
            io: args.io.name(),
            engine: &args.engine,
            properties: &args.properties,
            files: &args.files,
        },
        dataset: DatasetFacts {
            dir: dataset.data.display().to_string(),
            reused: dataset.reused,
            used_bytes: last.setting.target_facts.get("used_bytes").and_then(|n| n.parse().ok()),
            description: &dataset.description,
        },
        ratio_of: RATIO_OF,
        threads: top.threads,
        medians: nest(&top.medians),
        ratios: nest(&top.ratios),
        blocks,
        interrupted: interrupt::pending().is_some(),
        runs,
    }
}

fn nested<T: Serialize, S: serde::Serializer>(sheet: &Sheet<T>, to: S) -> Result<S::Ok, S::Error> {
    nest(sheet).serialize(to)
}

/// By workload, by policy, and by the parts of the number's name.
fn nest<T: Serialize>(sheet: &Sheet<T>) -> Value {
    let mut top = Map::new();
    for (workload, policies) in sheet {
        let mut middle = Map::new();
        for (policy, numbers) in policies {
            middle.insert(policy.clone(), Value::Object(unfold(numbers)));
        }
        top.insert(workload.clone(), Value::Object(middle));
    }
    Value::Object(top)
}

fn unfold<T: Serialize>(numbers: &BTreeMap<String, T>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in numbers {
        let value = serde_json::to_value(value).expect("numbers have string keys only");
        let Some((operation, percentile)) = name.split_once('.') else {
            out.insert(name.clone(), value);
            continue;
        };
        let inner = out.entry(operation).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(inner) = inner {
            inner.insert(percentile.into(), value);
        }
    }
    out
}

/// Rows by block, workload and operation; columns by percentile.
fn rows_of_panels(names: &[String], runs: &[RunRecord]) -> Vec<Vec<Panel>> {
    type Pick = fn(&SecondLatency) -> f64;
    let percentiles: [(&str, Pick); 3] =
        [("p50", |l| l.p50_us), ("p99", |l| l.p99_us), ("p99.9", |l| l.p999_us)];
    let mut places: Vec<(usize, &str)> = Vec::new();
    for run in runs {
        if !places.contains(&(run.threads, &run.workload)) {
            places.push((run.threads, &run.workload));
        }
    }
    let mut rows = Vec::new();
    for (threads, workload) in places {
        let here: Vec<&RunRecord> = runs
            .iter()
            .filter(|run| (run.threads, run.workload.as_str()) == (threads, workload))
            .collect();
        for operation in ["READ", "UPDATE"] {
            if here.iter().any(|run| run.report.operations.contains_key(operation)) {
                let panel = |(percentile, pick): (&str, Pick)| Panel {
                    title: format!("{workload}, {threads} threads: {operation} {percentile}"),
                    curves: curves(names, &here, |run| series(run, operation, pick)),
                };
                rows.push(percentiles.map(panel).into());
            }
        }
    }
    rows
}

fn curves(
    names: &[String],
    runs: &[&RunRecord],
    of: impl Fn(&RunRecord) -> Vec<(u32, f64)>,
) -> Vec<Curve> {
    let curve = |(policy, name): (usize, &String)| {
        let of_policy = runs.iter().filter(|run| run.policy == *name);
        Curve { policy, rounds: of_policy.map(|run| of(run)).collect() }
    };
    names.iter().enumerate().map(curve).collect()
}

fn series(run: &RunRecord, operation: &str, pick: fn(&SecondLatency) -> f64) -> Vec<(u32, f64)> {
    let of = |second: &crate::report::Second| {
        second.operations.get(operation).map(|latency| (second.second, pick(latency)))
    };
    run.report.by_second.iter().filter_map(of).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::driver::Outcome;
    use crate::driver::measure::Recorder;
    use crate::reaper::numbers::numbers;
    use crate::report::{Report, Setting};
    use crate::workload::Operation;
    use clap::Parser as _;
    use std::path::Path;
    use std::time::Duration;

    fn run(threads: usize, round: usize, policy: &str, us: u64) -> RunRecord {
        let mut recorder = Recorder::default();
        recorder.add(Operation::Read, Duration::from_micros(us));
        recorder.add(Operation::Update, Duration::from_micros(2 * us));
        let outcome = Outcome {
            seconds: vec![recorder.clone(), recorder.clone()],
            recorder,
            operations: 1000 / us,
            elapsed: Duration::from_secs(1),
            ..Outcome::default()
        };
        let report = Report::new(Setting::default(), &outcome);
        let (workload, policy) = ("b".into(), policy.into());
        RunRecord { threads, round, workload, policy, numbers: numbers(&report, None), report }
    }

    pub(crate) fn args() -> ReaperArgs {
        let words = "ycsb reaper --policies off,frequency --workloads b --threads 2,1 --rounds 1";
        let Command::Reaper(args) = Cli::parse_from(words.split(' ')).command else { panic!() };
        args
    }

    pub(crate) fn runs() -> Vec<RunRecord> {
        vec![
            run(2, 1, "off", 100),
            run(2, 1, "frequency", 50),
            run(1, 1, "off", 10),
            run(1, 1, "frequency", 1),
        ]
    }

    #[test]
    fn the_json_has_the_shape_that_scripts_rely_on() {
        let (args, runs) = (args(), runs());
        let dataset = Dataset::for_tests(Path::new("/d"));
        let (sides, blocks) = (crate::reaper::sides(&args), blocks(&runs));
        let value = published(&args, &dataset, &sides, (&runs, &blocks));
        let value = serde_json::to_value(value).unwrap();
        assert_eq!((&value["schema"], &value["threads"]), (&SCHEMA.into(), &2.into()));
        // The block with the most threads is at the top, whatever the order of running.
        let ratio = &value["ratios"]["b"]["frequency"]["ops_per_s"];
        for name in ["median", "min", "max"] {
            assert_eq!(ratio[name], 2.0, "{ratio}");
        }
        for operation in ["READ", "UPDATE"] {
            for percentile in ["p99", "p999", "p9999"] {
                let near = |value: &Value| (value.as_f64().unwrap() - 0.5).abs() < 0.01;
                let ratio = &value["ratios"]["b"]["frequency"][operation][percentile];
                assert!(near(&ratio["median"]), "{operation} {percentile}: {ratio}");
                let median = &value["medians"]["b"]["off"][operation][percentile];
                assert!(median.as_f64() > Some(90.0), "{operation} {percentile}: {median}");
            }
        }
        let other = &value["blocks"][1];
        assert_eq!(
            (&other["threads"], &other["medians"]["b"]["off"]["ops_per_s"]),
            (&1.into(), &100.0.into())
        );
        for path in ["machine", "device", "options", "dataset", "commit", "version", "ratio_of"] {
            assert!(value.get(path).is_some(), "{path} is missing");
        }
        assert_eq!(value["options"]["policies"], serde_json::json!(["off", "frequency"]));
        assert_eq!(value["dataset"]["records"], 1000);
        assert_eq!(value["runs"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn there_is_a_panel_for_each_percentile_of_each_operation() {
        let names = ["off".to_owned(), "frequency".to_owned()];
        let rows = rows_of_panels(&names, &runs());
        let titles: Vec<&str> = rows.iter().map(|row| row[2].title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "b, 2 threads: READ p99.9",
                "b, 2 threads: UPDATE p99.9",
                "b, 1 threads: READ p99.9",
                "b, 1 threads: UPDATE p99.9",
            ]
        );
        let curve = &rows[1][0].curves[1];
        assert_eq!((curve.policy, curve.rounds.len(), curve.rounds[0].len()), (1, 1, 2));
        let (second, us) = curve.rounds[0][1];
        assert!(second == 1 && (us - 100.0).abs() < 1.0, "{curve:?}");
    }
}
