//! What needs a zoned drive, run in a virtual machine that has one: `cargo xtask zns`.
//!
//! `scripts/zns-vm` installs and boots the machine; this builds the test binaries, runs each on
//! each drive that it is for, shows what they print, and ends with a table. [`SUITES`] names them:
//! a new suite is a new line there. Everything is built for release: the machine is emulated, and
//! what the compiler leaves undone costs many times as much there.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// One test binary and where it runs.
struct Suite {
    name: &'static str,
    package: &'static str,
    /// The integration test, as in `tests/NAME.rs`. It finds the drive in `MILLPOND_ZNS_DEV`, and
    /// skips what it needs it for where that is not set.
    test: &'static str,
    /// Programs that it starts: package and binary; carried to `/program/BINARY`.
    programs: &'static [(&'static str, &'static str)],
    /// As `scripts/zns-vm run -d` knows them.
    drives: &'static [&'static str],
    /// What `scripts/zns-vm` finds in its environment: the drives' geometry.
    geometry: &'static [(&'static str, &'static str)],
    /// After this many seconds the machine is ended.
    limit_s: u32,
}

/// An `NVMe` drive with the Zoned Namespace command set; no conventional zones.
const NVME: &str = "nvme";
/// As Linux shows a drive that several controllers may share: its budgets are hidden.
const MULTIPATH: &str = "multipath";
/// With conventional zones, no Zone Append from user space, and no volatile cache.
const NULL_BLK: &str = "null_blk";

/// Everything that `cargo xtask zns` runs, in this order.
const SUITES: &[Suite] = &[
    Suite {
        name: "conformance",
        package: "millpond-mpool",
        test: "zoned_device",
        programs: &[],
        drives: &[NVME, MULTIPATH, NULL_BLK],
        geometry: &[],
        limit_s: 300,
    },
    // A pool that churns through the drive's zones; on NVMe, the machine crashes in the middle.
    Suite {
        name: "pool",
        package: "millpond-mpool",
        test: "zoned_pool",
        programs: &[],
        drives: &[NVME, NULL_BLK],
        geometry: &[("ZNS_SIZE", "1G")],
        limit_s: 900,
    },
    // The whole server: load, B, kill, crash, verify.
    Suite {
        name: "server",
        package: "millpond",
        test: "zns",
        programs: &[("millpond", "millpond"), ("millpond-ycsb", "ycsb")],
        drives: &[NVME, NULL_BLK],
        geometry: &[
            ("ZNS_SIZE", "512M"),
            ("ZNS_ZONE", "4M"),
            ("ZNS_CAPACITY", "3M"),
            ("ZNS_NULL_BLK", "size=768 zone_size=4 zone_capacity=3 zone_nr_conv=64"),
        ],
        limit_s: 1200,
    },
];

/// What came of one suite on one drive.
struct Row {
    suite: &'static str,
    drive: &'static str,
    code: Option<i32>,
    tally: Tally,
    seconds: f64,
}

/// What a test binary said of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if line.contains("skipped: ") {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let count = words.next().and_then(|word| word.parse::<u32>().ok());
            match (count, words.next()) {
                (Some(count), Some("passed")) => self.passed += count,
                (Some(count), Some("failed")) => self.failed += count,
                _ => {}
            }
        }
    }
}

impl Row {
    fn verdict(&self) -> &'static str {
        match self.code {
            Some(0) if self.tally.passed > self.tally.skipped => "passed",
            // A binary that skips everything has not seen the drive.
            Some(0) => "FAILED: nothing was tested",
            Some(125) => "FAILED: no result",
            _ => "FAILED",
        }
    }
}

/// Runs the suites of these names, or all; true when all passed.
pub(crate) fn run(root: &Path, names: &[&str], out: &mut impl Write) -> io::Result<bool> {
    if let Some(unknown) = names.iter().find(|name| SUITES.iter().all(|s| s.name != **name)) {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        writeln!(out, "no suite is named {unknown}; there are: {}", known.join(", "))?;
        return Ok(false);
    }
    let machine = root.join("scripts/zns-vm");
    if !Command::new(&machine).arg("setup").status()?.success() {
        writeln!(out, "the virtual machine could not be set up; see above")?;
        return Ok(false);
    }
    let mut rows = Vec::new();
    for suite in SUITES.iter().filter(|s| names.is_empty() || names.contains(&s.name)) {
        let binary = build(root, &["test", "--no-run", "--test", suite.test], suite.package)?;
        let mut programs = Vec::new();
        for (package, program) in suite.programs {
            programs.push((*program, build(root, &["build", "--bin", program], package)?));
        }
        for drive in suite.drives {
            writeln!(out, "\n==> {} on {drive}", suite.name)?;
            rows.push(boot(&machine, suite, drive, (&binary, &programs), out)?);
        }
    }
    table(&rows, out)?;
    Ok(rows.iter().all(|row| row.verdict() == "passed"))
}

/// Builds one binary with cargo; returns where it is.
fn build(root: &Path, what: &[&str], package: &str) -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(what).args(["--release", "--package", package]);
    command.arg("--message-format=json-render-diagnostics");
    let built = command.stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        return Err(io::Error::other(format!("cargo {} failed; see above", what.join(" "))));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let path = messages.lines().filter_map(executable).next_back();
    path.ok_or_else(|| io::Error::other(format!("cargo {} made no binary", what.join(" "))))
}

/// The executable that a message of cargo names.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(PathBuf::from(path))
}

fn boot(
    machine: &Path,
    suite: &Suite,
    drive: &'static str,
    (binary, programs): (&Path, &[(&str, PathBuf)]),
    out: &mut impl Write,
) -> io::Result<Row> {
    let mut command = Command::new(machine);
    command.envs(suite.geometry.iter().copied());
    command.args(["run", "-d", drive, "-t", &suite.limit_s.to_string()]);
    for (name, path) in programs {
        command.arg("-f").arg(format!("{}:/program/{name}", path.display()));
    }
    command.arg("--").arg(binary).args(["--test-threads=1", "--nocapture"]);
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut tally = Tally::default();
    let output = child.stdout.take().expect("it is piped");
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        tally.read(&line);
        writeln!(out, "    {line}")?;
    }
    let code = child.wait()?.code();
    let seconds = began.elapsed().as_secs_f64();
    Ok(Row { suite: suite.name, drive, code, tally, seconds })
}

fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<16}{:<12}{:>8}{:>8}{:>9}{:>9}  verdict",
        "suite", "drive", "passed", "failed", "skipped", "seconds"
    )?;
    for row in rows {
        let Tally { passed, failed, skipped } = row.tally;
        let passed = passed.saturating_sub(skipped);
        writeln!(
            out,
            "{:<16}{:<12}{passed:>8}{failed:>8}{skipped:>9}{:>9.0}  {}",
            row.suite,
            row.drive,
            row.seconds,
            row.verdict()
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_found_in_what_cargo_says() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/deps/a-1","fresh":true}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/t/deps/a-1")));
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }

    #[test]
    fn results_are_tallied() {
        let mut tally = Tally::default();
        for line in [
            "test a ... skipped: no drive",
            "ok",
            "test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; finished in 6.88s",
        ] {
            tally.read(line);
        }
        assert_eq!(tally, Tally { passed: 10, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_run_that_skips_everything_has_failed() {
        let row = |code, passed, skipped| Row {
            suite: "a",
            drive: NVME,
            code,
            tally: Tally { passed, failed: 0, skipped },
            seconds: 1.0,
        };
        assert_eq!(row(Some(0), 11, 2).verdict(), "passed");
        assert_eq!(row(Some(0), 11, 11).verdict(), "FAILED: nothing was tested");
        assert_eq!(row(Some(0), 0, 0).verdict(), "FAILED: nothing was tested");
        assert_eq!(row(Some(101), 11, 2).verdict(), "FAILED");
        assert_eq!(row(None, 11, 2).verdict(), "FAILED");
    }

    #[test]
    fn an_unknown_suite_is_named_with_those_there_are() {
        let mut out = Vec::new();
        assert!(!run(Path::new("/"), &["conformity"], &mut out).unwrap());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "no suite is named conformity; there are: conformance, pool, server\n");
    }
}
