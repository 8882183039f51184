//! `ycsb reaper` from outside, on a data set of a second: every key of its JSON, the policy of
//! each run as the pool saw it, the chart, and what it says about a data set that is not the one.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn ycsb(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ycsb"))
        .arg("reaper")
        .args(args.split_whitespace())
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a report was written");
    serde_json::from_str(&text).expect("it is JSON")
}

/// What a run compares: 4,000 records of 1 KB, a second each.
struct Asked {
    policies: &'static str,
    /// What is said of them, with a value cache beside `off` where there is one.
    sides: &'static [&'static str],
    workloads: &'static [&'static str],
    rounds: usize,
    more: &'static str,
}

/// Both workloads, and a value cache where there would be none.
const CACHED: Asked = Asked {
    policies: "frequency,off",
    sides: &["off", "off+cache", "frequency"],
    workloads: &["b", "c"],
    rounds: 1,
    more: "--value-cache-in-off 16MiB",
};

/// All policies, and the spread over rounds.
const ROUNDS: Asked = Asked {
    policies: "mpool,off",
    sides: &["off", "mpool"],
    workloads: &["c"],
    rounds: 2,
    more: "",
};

impl Asked {
    fn runs(&self) -> usize {
        self.sides.len() * self.workloads.len() * self.rounds
    }

    fn measured(&self, dir: &Path) -> (Output, Value) {
        let json_path = dir.join("reaper.json");
        let output = ycsb(&format!(
            "-p recordcount=4000 --policies {} --workloads {} --threads 2 --rounds {} --seconds 1 \
             --warmup 0.1 {} --durability off --allow-buffered --dir {} --json {} --svg {}",
            self.policies,
            self.workloads.join(","),
            self.rounds,
            self.more,
            dir.join("data").display(),
            json_path.display(),
            dir.join("reaper.svg").display()
        ));
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stderr(&output);
        let last = format!("run {0} of {0}", self.runs());
        for part in ["fewer than 3 rounds", "without --memory", &last] {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
        (output, json(&json_path))
    }

    fn check_numbers(&self, report: &Value) {
        for workload in self.workloads {
            for policy in self.sides {
                check_side(report, workload, policy);
            }
        }
        assert_eq!(report["options"]["rounds"], self.rounds);
    }
}

fn check_side(report: &Value, workload: &str, policy: &str) {
    let operations = if workload == "b" { &["READ", "UPDATE"][..] } else { &["READ"] };
    let medians = &report["medians"][workload][policy];
    let ratios = &report["ratios"][workload][policy];
    assert!(medians["ops_per_s"].as_f64() > Some(100.0), "{workload} {policy}: {medians}");
    for name in ["cpu_us_per_op", "limit_hits_per_s", "reaper_passes_per_s"] {
        // Without --memory there is no limit to be met.
        let known = name != "limit_hits_per_s";
        assert_eq!(medians[name].is_number(), known, "{workload} {policy} {name}");
    }
    assert!(medians["drive_reads_per_lookup"].is_number(), "{workload} {policy}");
    if policy == "off" {
        assert!(ratios.is_null(), "off is what the others are measured against");
        return;
    }
    check_spread(&ratios["ops_per_s"], workload, policy);
    for operation in operations {
        for percentile in ["p50", "p99", "p999", "p9999"] {
            assert!(medians[operation][percentile].as_f64() > Some(0.0), "{medians}");
            check_spread(&ratios[operation][percentile], workload, policy);
        }
    }
    assert_eq!(ratios["UPDATE"].is_object(), workload == "b", "{ratios}");
}

fn check_spread(spread: &Value, workload: &str, policy: &str) {
    let [min, median, max] = ["min", "median", "max"].map(|name| spread[name].as_f64());
    assert!(min > Some(0.0) && min <= median && median <= max, "{workload} {policy}: {spread}");
}

/// The pool's own word, and what must follow from it: a value cache under `frequency` only, or
/// where it was asked for.
fn check_policies(report: &Value, asked: &Asked) {
    let runs = report["runs"].as_array().expect("every run");
    assert_eq!(runs.len(), asked.runs());
    for run in runs {
        let side = run["policy"].as_str().expect("a name");
        let (policy, number) = match side {
            "frequency" => ("frequency", 0.0),
            "mpool" => ("mpool", 1.0),
            "off" | "off+cache" => ("off", 2.0),
            other => panic!("nobody asked for {other}"),
        };
        let facts = &run["report"]["setting"]["target_facts"];
        assert_eq!(facts["reaper_policy"], policy, "{side}");
        let counters = &run["report"]["counters"];
        assert_eq!(counters["mpool_reaper_policy"], number, "{side}");
        let cached = counters["value_cache_hits_total"].as_f64();
        assert_eq!(cached > Some(0.0), side == "frequency" || side == "off+cache", "{side}");
        // Without one, what is not in a memtable is read through the maps each time.
        let mapped = counters["gets_total{source=\"kvset\"}"].as_f64();
        assert!(mapped > Some(0.0) || cached > Some(0.0), "{side}: {counters}");
        let seconds = run["report"]["by_second"].as_array().expect("seconds");
        assert_eq!(seconds.len(), 1, "{side}");
    }
}

#[test]
fn rounds_are_compared_under_every_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (_, report) = ROUNDS.measured(dir.path());
    ROUNDS.check_numbers(&report);
    check_policies(&report, &ROUNDS);
    reuse_is_refused_and_granted(&dir.path().join("data"));
}

#[test]
fn workloads_are_compared_on_one_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let (output, report) = CACHED.measured(dir.path());
    assert_eq!(report["schema"], "millpond-ycsb-reaper/1");
    CACHED.check_numbers(&report);
    check_policies(&report, &CACHED);
    for path in ["cpus", "kernel", "memory_bytes"] {
        assert!(!report["machine"][path].is_null(), "{path}");
    }
    assert_eq!(report["dataset"]["records"], 4000);
    assert!(report["dataset"]["used_bytes"].as_u64() > Some(4_000_000), "{}", report["dataset"]);
    assert!(report["device"]["drive_reads_are"].is_string());
    assert_eq!(report["blocks"][0]["ratios"], report["ratios"]);

    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["b, 2 threads", "c, 2 threads", "READ p99.99 us", "x off", "drive reads: "] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    let picture = std::fs::read_to_string(dir.path().join("reaper.svg")).unwrap();
    let picture = roxmltree::Document::parse(&picture).expect("well-formed XML");
    let texts: Vec<&str> =
        picture.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for text in ["b, 2 threads: UPDATE p99.9", "c, 2 threads: READ p50", "frequency", "off+cache"] {
        assert!(texts.contains(&text), "{text:?} is not in {texts:?}");
    }
}

/// The data set is there now: it is used for what it is, and for nothing else.
fn reuse_is_refused_and_granted(data: &Path) {
    let common = format!(
        "--policies off --threads 1 --rounds 1 --workloads c --seconds 1 --warmup 0 \
         --allow-buffered --dir {}",
        data.display()
    );
    for (args, say) in [
        ("-p recordcount=5000 --reuse", "it has recordcount=4000, asked for is 5000"),
        ("-p recordcount=4000 -p fieldcount=3 --reuse", "fieldcount=its default, asked for is 3"),
        ("-p recordcount=4000", "use it with --reuse, or remove it"),
    ] {
        let output = ycsb(&format!("{args} {common}"));
        assert_eq!(output.status.code(), Some(1), "{args}: {}", stderr(&output));
        assert!(stderr(&output).contains(say), "{args}: {}", stderr(&output));
    }
    let output = ycsb(&format!("-p recordcount=4000 --reuse {common}"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("using 4000 records"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_names_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display();
    std::fs::create_dir(dir.path().join("reaper-data")).unwrap();
    for (args, code, say) in [
        ("--policies lru".to_owned(), 2, "frequency, mpool, off"),
        ("--policies frequency".to_owned(), 1, "off must be among them"),
        ("--reuse".to_owned(), 2, "--dir"),
        (format!("--reuse --dir {here}"), 1, "leave --reuse away to load"),
        (format!("--dir {here}"), 1, "the rest of an unfinished load; remove it"),
        ("--workloads nowhere".to_owned(), 1, "ready-made"),
        ("--seconds 0".to_owned(), 1, "1 or more"),
        (format!("--svg {here}/no/x.svg"), 1, "is not a directory"),
        ("--memory 2XB".to_owned(), 2, "is not a size"),
    ] {
        let output = ycsb(&format!("{args} -p recordcount=100"));
        assert_eq!(output.status.code(), Some(code), "{args}: {}", stderr(&output));
        assert!(stderr(&output).contains(say), "{args}: {}", stderr(&output));
    }
}

/// A bounded run knows its limit. Skips, saying so, where memory groups may not be made.
#[test]
fn a_memory_group_bounds_each_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reaper.json");
    let output = ycsb(&format!(
        "-p recordcount=4000 --policies off,frequency --workloads c --threads 1 --rounds 1 \
         --seconds 1 --warmup 0 --memory 64MiB --allow-buffered --dir {} --json {}",
        dir.path().display(),
        path.display()
    ));
    if stderr(&output).contains("memory cgroup") {
        writeln_stderr("skipped: no memory groups can be made here");
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&path);
    for policy in ["off", "frequency"] {
        let medians = &report["medians"]["c"][policy];
        for name in ["limit_hits_per_s", "value_memory_bytes", "ideal_reads_per_lookup"] {
            assert!(medians[name].is_number(), "{policy} {name}: {medians}");
        }
        let values = medians["value_memory_bytes"].as_f64();
        assert!(values > Some(0.0) && values < Some(67_108_864.0), "{policy}: {medians}");
    }
    for run in report["runs"].as_array().expect("every run") {
        assert_eq!(run["report"]["memory"]["limit_bytes"], 64 << 20);
    }
}

fn writeln_stderr(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{line}").expect("somebody listens");
}
