//! A panic is a line of the log, and ends nothing but what panicked, wherever standard error leads.
#![allow(clippy::unwrap_used, reason = "a test")]
use millpond::telemetry::{self, LogFormat};
use std::fs::OpenOptions;
use std::process::{Command, Stdio};

const NAME: &str = "a_panic_is_one_line_of_the_log";
const CHILD: &str = "PANICS_OF_A_TEST";

/// The same test in a process of its own, whose panics go to its log.
fn child(stderr: Stdio) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").env_remove("RUST_BACKTRACE");
    command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn a_panic_is_one_line_of_the_log() {
    if std::env::var_os(CHILD).is_some() {
        telemetry::start(LogFormat::Text, "info").unwrap();
        let caught = std::panic::catch_unwind(|| panic!("as\nplanned"));
        assert!(caught.is_err());
        return;
    }
    let output = child(Stdio::piped());
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("panic: as\\nplanned")).expect(&log);
    assert!(line.contains("ERROR") && line.contains("panics.rs:"), "{line}");
    // Where it cannot be written, nothing else happens either.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(child(full.into()).status.success());
}
