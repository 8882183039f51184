//! The program from outside: every workload end to end on the memory target, exit codes, and the
//! JSON that it leaves.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn ycsb(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ycsb"))
        .args(args.split_whitespace())
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a report was written");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn every_workload_runs_verified() {
    let dir = tempfile::tempdir().unwrap();
    for (workload, operations) in [
        ("a", &["READ", "UPDATE"][..]),
        ("b", &["READ", "UPDATE"]),
        ("c", &["READ"]),
        ("d", &["READ", "INSERT"]),
        ("e", &["SCAN", "INSERT"]),
        ("f", &["READ", "UPDATE", "READ-MODIFY-WRITE"]),
    ] {
        let path = dir.path().join(workload);
        let output = ycsb(&format!(
            "run --target memory -P {workload} -p recordcount=3000 -p operationcount=9000 \
             --threads 3 --verify --json {}",
            path.display()
        ));
        assert!(output.status.success(), "{workload}: {}", stderr(&output));
        let report = json(&path);
        assert_eq!(report["schema"], "millpond-ycsb/1");
        assert_eq!(report["ops"], 9000);
        assert_eq!((&report["errors"], &report["mismatches"]), (&0.into(), &0.into()));
        assert!(report["verified"].as_u64() > Some(4000), "{workload}: {report}");
        assert_eq!(report["setting"]["records"], 3000);
        for operation in operations {
            let latency = &report["operations"][operation];
            assert!(latency["count"].as_u64() > Some(100), "{workload} {operation}: {latency}");
            assert!(latency["p99_us"].as_f64() >= latency["p50_us"].as_f64(), "{latency}");
            assert!(stdout(&output).contains(operation), "{workload}: {}", stdout(&output));
        }
    }
}

#[test]
fn odd_rows_run_verified() {
    for properties in [
        "-p fieldcount=1 -p fieldlength=1000",
        "-p fieldlengthdistribution=uniform -p minfieldlength=5 -p fieldlength=200",
        "-p fieldlengthdistribution=zipfian -p writeallfields=true",
        "-p insertorder=ordered -p zeropadding=12 -p requestdistribution=sequential",
        "-p requestdistribution=hotspot",
        "-p requestdistribution=exponential -p insertproportion=0.1",
    ] {
        let output = ycsb(&format!(
            "run --target memory -P a -p recordcount=500 -p operationcount=3000 --threads 2 \
             --verify {properties}"
        ));
        assert!(output.status.success(), "{properties}: {}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn verify_passes_on_what_was_loaded() {
    let output = ycsb("verify --target memory -p recordcount=2500 --threads 2 --json -");
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    // Each record once by its key and once by the scan.
    assert_eq!(report["verified"], 5000);
    assert_eq!(report["operations"]["SCAN"]["count"], 3);
}

#[test]
fn the_originals_lines_are_printed() {
    let output = ycsb(
        "run --target memory -P c -p recordcount=100 -p operationcount=1000 --format ycsb \
         -p hdrhistogram.percentiles=50,99.9",
    );
    let text = stdout(&output);
    for line in ["[OVERALL], RunTime(ms), ", "[READ], Operations, 1000", "[READ], Return=OK, 1000"]
    {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.contains("[READ], 99.9thPercentileLatency(us), "), "{text}");
}

#[test]
fn the_same_seed_asks_for_the_same_operations() {
    let counts = |seed: u32| {
        let output = ycsb(&format!(
            "run --target memory -P a -p recordcount=100 -p operationcount=5000 --threads 2 \
             --seed {seed} --json -"
        ));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["operations"]["UPDATE"]["count"].as_u64()
    };
    assert_eq!(counts(3), counts(3));
    assert_ne!(counts(3), counts(4));
}

#[test]
fn wrong_usage_names_the_way_out() {
    for (args, code, say) in [
        ("run --target memory -P c -p recordcnt=1", 1, "did you mean recordcount"),
        ("run --target memory -P nowhere", 1, "ready-made"),
        ("run --target memory -P c -p operationcount=0", 1, "--seconds"),
        ("run --target embedded -P c", 1, "needs --data DIR"),
        ("run --target embedded -P c --data /nonexistent", 1, "run `ycsb load`"),
        ("run --target http -P c", 1, "--url"),
        ("run --target http -P c --url http://127.0.0.1:1", 1, "cannot reach 127.0.0.1:1"),
        ("run --target memory --memory 1KiB", 2, "at least 16777216"),
        ("run --target memory --memory 2XB", 2, "is not a size"),
        ("run --target memory -P c --rate 0", 1, "above 0"),
        ("run --target memory -P c --rate NaN", 1, "above 0"),
        ("run --target memory -P c --rate 1e300", 1, "from 0 to 1000000000"),
        ("run --target memory -P c --seconds 0", 2, "nothing can be measured"),
        ("run --target memory -P c --seconds inf", 2, "from 0 to 1000000000"),
        ("load --target memory -p recordcount=18446744073709551615", 1, "to 1000000000000"),
        ("run --target memory -P c -p target=NaN", 1, "target=NaN"),
        ("run --target memory -P c -p measurementtype=nonsense", 1, "must be hdrhistogram"),
        ("run --target memory -P c --threads 0", 1, "from 1 to 10000"),
        ("run --target memory -P c -p db=x", 1, "the store is chosen by --target"),
        ("run --target embedded -P c --data /tmp --engine queue_depth=0", 1, "queue_depth"),
        ("run --target memory -P c --json /nonexistent/x", 1, "/nonexistent is not a directory"),
        ("verify --target memory --json /", 1, "is a directory"),
        ("compare --a memory --b memory --seconds 1 --json /nonexistent/x", 1, "not a directory"),
        ("demo --records 0", 2, "not in 1..="),
        ("demo --threads 0", 2, "not in 1..="),
        ("compare --a memory --b memory --rounds 0", 1, "something to run"),
    ] {
        let output = ycsb(args);
        assert_eq!(output.status.code(), Some(code), "{args}: {}", stderr(&output));
        assert!(stderr(&output).contains(say), "{args}: {}", stderr(&output));
    }
}

#[cfg(not(feature = "rocksdb"))]
#[test]
fn without_rocksdb_it_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display();
    for args in [
        format!("load --target rocksdb --data {here}/data"),
        format!("compare --a embedded --b rocksdb --seconds 1 --data {here}/data"),
    ] {
        let output = ycsb(&args);
        assert_eq!(output.status.code(), Some(1), "{args}");
        assert!(stderr(&output).contains("--features rocksdb"), "{}", stderr(&output));
        assert!(!dir.path().join("data").exists(), "{args}: something was made before");
    }
}

/// The template sets them; a plot script's file may.
#[test]
fn what_changes_nothing_is_passed_over_and_said() {
    let output = ycsb("load --target memory -p histogram.buckets=1000 --json -");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("histogram.buckets=1000 changes nothing: "));
}

/// A result that nobody reads is still in the file.
#[test]
fn the_file_is_written_before_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ycsb"))
        .args(["load", "--target", "memory", "--json", path.to_str().unwrap()])
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(json(&path)["ops"], 1000);
}

#[test]
fn records_are_read_until_they_are_in_memory() {
    let output = ycsb("run --target memory -P c -p operationcount=100 --fill --json -");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["fill"]["outcome"], "resident", "{report}");
    assert_eq!(report["fill"]["drive_reads_per_record"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["operations"]["READ"]["count"], 100, "what was read before is not counted");
    assert_eq!(report["store"], "own process");
}

#[test]
fn compare_runs_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("compare.json");
    let output = ycsb(&format!(
        "compare --a memory --b memory --workloads load,b,c --rounds 2 --threads 2 --verify \
         -p recordcount=1000 -p operationcount=2000 --data {} --json {}",
        dir.path().display(),
        path.display()
    ));
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&path);
    assert_eq!(report["schema"], "millpond-ycsb-compare/1");
    assert_eq!(report["a"]["runs"].as_array().map(Vec::len), Some(6));
    let workloads: Vec<&str> =
        report["workloads"].as_object().expect("by name").keys().map(String::as_str).collect();
    assert_eq!(workloads, ["b", "c", "load"]);
    let speed = &report["workloads"]["c"]["OVERALL"]["ops_per_s"];
    let ratio = |name: &str| speed["ratio"][name].as_f64().expect("a number");
    assert!(ratio("min") <= ratio("median") && ratio("median") <= ratio("max"), "{speed}");
    assert!(report["workloads"]["load"]["INSERT"]["p99_us"]["ratio"]["median"].is_number());
    assert!(stdout(&output).contains("READ"), "{}", stdout(&output));
    for side in ["a", "b"] {
        let warmth = &report["warmth"]["c"][side];
        assert_eq!(warmth["filled"], serde_json::json!(["resident", "resident"]), "{report}");
    }
    assert!(report["warmth"]["load"].is_null(), "a load is neither warm nor cold");
    assert!(speed["mark"].is_null() && report["interrupted"] == false, "{report}");
    let seed = |run: usize| &report["a"]["runs"][run]["report"]["setting"]["seed"];
    assert_eq!(seed(0), seed(3), "loads are the same");
    assert_ne!(seed(1), seed(4), "runs of two rounds ask for different keys");
    // Nothing is left behind but the report.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// One side is a map in memory, the other a store that was just opened. Skips, saying so, where
/// reads do not reach a drive.
#[test]
fn a_ratio_against_a_cold_side_is_marked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("compare.json");
    let output = ycsb(&format!(
        "compare --a memory --b embedded --b-args=--allow-buffered --fill never --rounds 1 \
         --workloads load,c --durability off -p recordcount=20000 -p operationcount=1000 \
         -p requestdistribution=uniform --data {} --json {}",
        dir.path().display(),
        path.display()
    ));
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&path);
    let reads = report["b"]["runs"][1]["report"]["drive_reads_per_op"].as_f64();
    if reads < Some(0.02) {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "skipped: {reads:?} reads of a drive").unwrap();
        return;
    }
    assert_eq!(report["warmth"]["c"]["mark"], "b_read_the_drive", "{report}");
    assert_eq!(report["workloads"]["c"]["READ"]["p99_us"]["mark"], "b_read_the_drive");
    assert!(report["workloads"]["load"]["INSERT"]["p99_us"]["mark"].is_null());
    let text = stdout(&output);
    assert!(text.contains("| only B read the drive |"), "{text}");
    assert!(text.contains("how warm the sides were, not how fast they are"), "{text}");
}
