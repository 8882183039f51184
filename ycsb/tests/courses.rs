//! Courses from outside: every one on the engine, small, with its stages, its figures and its end
//! verified; and what is refused.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn ycsb(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ycsb"))
        .args(args.split_whitespace())
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a course on the engine in `dir`; what it printed, and its report.
fn embedded(dir: &Path, args: &str) -> (String, Value) {
    let json = dir.join("report.json");
    let output = ycsb(&format!(
        "run --target embedded --allow-buffered --data {} --json {} -p silenceseconds=1 {args}",
        dir.join("data").display(),
        json.display()
    ));
    assert!(output.status.success(), "{args}: {}", stderr(&output));
    let text = std::fs::read_to_string(json).expect("a report was written");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (printed, serde_json::from_str(&text).expect("it is JSON"))
}

fn stage<'a>(report: &'a Value, name: &str) -> &'a Value {
    let stages = report["stages"].as_array().expect("a course has stages");
    stages.iter().find(|stage| stage["name"] == name).expect(name)
}

fn names(report: &Value) -> Vec<&str> {
    let stages = report["stages"].as_array().expect("a course has stages");
    stages.iter().map(|stage| stage["name"].as_str().expect("a name")).collect()
}

/// What every stage on the engine has to show.
fn check_figures(report: &Value, live_bytes: std::ops::RangeInclusive<u64>) {
    for stage in report["stages"].as_array().expect("stages") {
        let space = &stage["space"];
        assert!(space["used_bytes"].as_u64() > space["data_bytes"].as_u64(), "{stage}");
        assert!(space["data_bytes"].is_u64(), "{stage}");
        assert!(space["file_bytes"].as_u64() >= space["used_bytes"].as_u64(), "{stage}");
        assert!(space["file_per_used"].as_f64() >= Some(1.0), "{stage}");
        assert!(stage["samples"].as_array().is_some_and(|all| !all.is_empty()), "{stage}");
        assert!(stage["stall_seconds"]["root_length"].is_number(), "{stage}");
    }
    let quiet = stage(report, "quiet");
    assert!(quiet["quiet"]["after_seconds"].is_number(), "{quiet}");
    let live = quiet["space"]["live_bytes"].as_u64().expect("a number");
    assert!(live_bytes.contains(&live), "{live}");
    assert!(quiet["space"]["used_per_live"].is_number(), "{quiet}");
    assert_eq!((&report["errors"], &report["mismatches"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn overwrite_holds_a_snapshot_and_lets_it_go() {
    let dir = tempfile::tempdir().unwrap();
    let (printed, report) = embedded(
        dir.path(),
        "-P overwrite -p recordcount=2000 -p overwrites=3 --threads 2 --durability off \
         -p requestdistribution=zipfian --hold-snapshot --engine memtable_bytes=1MiB",
    );
    assert_eq!(names(&report), ["load", "overwrite", "quiet, held", "quiet"]);
    check_figures(&report, 2000 * 1160..=2000 * 1163);
    assert_eq!(report["operations"]["OVERWRITE"]["count"], 6000);
    assert_eq!(stage(&report, "load")["operations"]["INSERT"]["count"], 2000);
    assert_eq!(report["verified"], 2000);
    assert_eq!(report["setting"]["hold_snapshot"], true);
    let put = |of: &Value| of["put_bytes"].as_u64().expect("a number");
    let all = put(stage(&report, "load")) + put(stage(&report, "overwrite"));
    assert_eq!(put(&report["totals"]), all);
    for say in ["slowest s", "used/live", "written/put", "a second is short", "durability off"] {
        assert!(printed.contains(say), "{say} is not in {printed}");
    }
    assert!(printed.contains("quiet, held: after"), "{printed}");
}

#[test]
fn a_course_goes_on_from_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let load = format!(
        "load --target embedded --allow-buffered --data {} -P overwrite -p recordcount=500",
        data.display()
    );
    assert!(ycsb(&load).status.success());
    let (_, report) =
        embedded(dir.path(), "-P overwrite -p recordcount=500 -p overwrites=1 -p loaded=true");
    assert_eq!(names(&report), ["overwrite", "quiet"]);
    check_figures(&report, 500 * 1160..=500 * 1163);
    let again = ycsb(&format!(
        "run --target embedded --allow-buffered --data {} -P overwrite -p recordcount=500",
        data.display()
    ));
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("a course begins with none"), "{}", stderr(&again));
}

#[test]
fn overwrite_ends_by_time_too() {
    let dir = tempfile::tempdir().unwrap();
    let (_, report) = embedded(
        dir.path(),
        "-P overwrite -p recordcount=500 --seconds 1.5 --durability off --by-second",
    );
    let overwrite = stage(&report, "overwrite");
    assert!(overwrite["seconds"].as_f64() >= Some(1.5), "{overwrite}");
    assert!(overwrite["throughput"]["seconds"].as_u64() >= Some(1), "{overwrite}");
    assert!(report["by_second"].as_array().is_some_and(|seconds| !seconds.is_empty()));
}

#[test]
fn queue_and_window_scan_their_heads() {
    for (name, live) in [("queue", 200), ("window", 3000)] {
        let dir = tempfile::tempdir().unwrap();
        let (printed, report) = embedded(
            dir.path(),
            &format!(
                "-P {name} -p recordcount={live} -p operationcount=20000 -p headscanms=1 \
                 --threads 2 --durability off"
            ),
        );
        assert_eq!(names(&report), ["queue", "quiet"]);
        let count =
            |operation: &str| report["operations"][operation]["count"].as_u64().expect("a number");
        assert_eq!(count("INSERT") + count("DELETE"), 20_000);
        let left = count("INSERT") - count("DELETE");
        assert!(left.abs_diff(live) <= 2, "{left}");
        assert!(count("HEAD-SCAN") > 0, "{report}");
        // All that is left, once; head scans are no records.
        assert_eq!(report["verified"].as_u64(), Some(left));
        assert_eq!(report["head_scans_checked"].as_u64(), Some(count("HEAD-SCAN")));
        assert!(printed.contains("run on embedded, stage queue: 20000 ops"), "{printed}");
        check_figures(&report, left * 116..=left * 130);
        assert!(printed.contains("HEAD-SCAN"), "{printed}");
    }
}

#[test]
fn most_is_deleted_and_compacted() {
    for (order, then) in [("contiguous", "compact"), ("striped", "settle"), ("random", "quiet")] {
        let dir = tempfile::tempdir().unwrap();
        let (printed, report) = embedded(
            dir.path(),
            &format!(
                "-P delete-most -p recordcount=3000 -p headscans=50 -p deleteorder={order} \
                 -p deletethen={then} --threads 2 --durability off"
            ),
        );
        for chore in ["compact", "settle"] {
            assert_eq!(names(&report).contains(&chore), then == chore, "{chore}");
        }
        assert_eq!(report["operations"]["DELETE"]["count"], 2700);
        assert_eq!(stage(&report, "head scans, quiet")["operations"]["HEAD-SCAN"]["count"], 50);
        assert_eq!(
            (&report["verified"], &report["head_scans_checked"]),
            (&300.into(), &100.into())
        );
        assert_eq!(report["main_stage"], "delete");
        assert_eq!(report["left_out"], serde_json::json!([]));
        check_figures(&report, 300 * 1160..=300 * 1163);
        assert!(printed.contains("head scans, quiet"), "{printed}");
    }
}

#[test]
fn everything_is_scanned_both_ways_beside_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (printed, report) = embedded(
        dir.path(),
        "-P scans -p recordcount=3000 -p passes=2 -p writerseconds=1 --threads 1 --verify \
         --durability off --cold",
    );
    check_figures(&report, 3000 * 1160..=3000 * 1163);
    assert_eq!(stage(&report, "reverse")["ops"], 6000);
    let beside = stage(&report, "reverse, beside it");
    assert_eq!((&beside["ops"], &beside["operations"]["WALK"]["count"]), (&6000.into(), &2.into()));
    assert!(stage(&report, "writer alone")["ops_per_s"].as_f64() > Some(1.0));
    assert!(printed.contains("beside/s"), "{printed}");
    assert_eq!(report["setting"]["cold"], true);
}

#[test]
fn records_are_spread_over_many_kvss() {
    let dir = tempfile::tempdir().unwrap();
    let (_, report) = embedded(
        dir.path(),
        "-P many-kvs -p recordcount=2000 -p tables=16 -p overwrites=2 --threads 2 --durability off",
    );
    assert_eq!(names(&report), ["load", "overwrite", "quiet"]);
    check_figures(&report, 2000 * 1160..=2000 * 1163);
    assert_eq!(report["verified"], 2000);
    let kvss = report["counters"].as_object().expect("by name").keys();
    assert_eq!(kvss.filter(|name| name.starts_with("kvs_kvsets{")).count(), 16);
}

#[test]
fn opens_are_timed_after_a_close_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("open.json");
    let output = ycsb(&format!(
        "open --opens 2 --target embedded --allow-buffered --data {} -p recordcount=2000 \
         -p overwrites=1 --threads 2 --durability off --json {}",
        dir.path().join("data").display(),
        json.display()
    ));
    assert!(output.status.success(), "{}", stderr(&output));
    let text = std::fs::read_to_string(json).expect("a report was written");
    let report: Value = serde_json::from_str(&text).expect("it is JSON");
    let opens = report["opens"].as_array().expect("opens");
    let after: Vec<&str> =
        opens.iter().map(|open| open["after"].as_str().expect("a word")).collect();
    assert_eq!(after, ["a clean close", "a clean close", "kill -9", "a clean close"]);
    for open in opens {
        let seconds = |name: &str| open[name].as_f64().expect("a number");
        assert!(seconds("first_answer_seconds") >= seconds("open_seconds"), "{open}");
    }
    // What was written since the last clean close is in the log only.
    assert!(opens[2]["replayed_bytes"].as_u64() > Some(1 << 20), "{report}");
    assert_eq!((&report["verified"], &report["mismatches"]), (&2000.into(), &0.into()));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("kill -9") && printed.contains("first answer s"), "{printed}");
}

#[test]
fn wrong_usage_names_the_way_out() {
    for (args, code, say) in [
        ("run --target memory -P overwrite -p overwrites=x", 1, "from 0 to 1000000"),
        ("run --target memory -P overwrite --warmup 1", 1, "leave --warmup and --fill away"),
        ("run --target memory -P overwrite --hold-snapshot", 1, "embedded and rocksdb"),
        ("run --target memory -P c --hold-snapshot", 1, "--hold-snapshot is for courses"),
        ("run --target memory -P queue -p operationcount=0", 1, "--seconds S"),
        ("load --target memory -P queue", 1, "give it to `ycsb run`"),
        ("verify --target memory -P window", 1, "give it to `ycsb run`"),
        (
            "run --target memory -P que",
            1,
            "ready-made ones: overwrite, queue, window, delete-most, scans, many-kvs, workloada",
        ),
        ("run --target memory -P c -p headscanms=1", 1, "only with course=queue"),
        ("run --target memory -P many-kvs", 1, "embedded (else -p tables=1)"),
        ("run --target embedded --data /x -P many-kvs -p tables=257", 1, "from 1 to 256"),
        ("open --target memory", 1, "for --target embedded and rocksdb"),
        ("open --target embedded --data /x -P a", 1, "a workload of its own"),
        ("open --target embedded --data /proc", 1, "/proc is not empty"),
        ("open --target embedded", 1, "needs --data DIR"),
        ("open --target embedded --data /x --opens 0", 2, "not in 1..=1000"),
        ("open --target embedded --data /x --memory 1GiB", 1, "leave them away"),
        ("compare --a memory --b memory --workloads load,overwrite", 1, "run it on each side"),
        ("reaper --workloads queue --warmup 0", 1, "courses have no policies to compare"),
        ("run --target memory -P delete-most --seconds 5", 1, "leave --seconds away"),
        ("run --target http -P delete-most -p deletethen=settle", 1, "deletethen=compact or quiet"),
        ("run --target embedded --data /x -P scans --hold-snapshot", 1, "not for course=scans"),
    ] {
        let output = ycsb(args);
        assert_eq!(output.status.code(), Some(code), "{args}: {}", stderr(&output));
        assert!(stderr(&output).contains(say), "{args}: {}", stderr(&output));
    }
}
