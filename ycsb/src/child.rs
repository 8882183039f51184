//! A run as a child process of this program, so that CPU, I/O and memory group are its own.

use crate::progress::say;
use crate::report::Report;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// What becomes of what the child says on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Kept for the error, if there is one.
    Kept,
    /// Passed on: its progress bar is ours.
    Heard,
}

/// Runs this program with `args` and reads the report that it leaves in `json`.
pub(crate) fn run(args: &[String], json: &Path, voice: Voice) -> Result<Report> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    if json.exists() {
        std::fs::remove_file(json)?;
    }
    let stderr = match voice {
        Voice::Kept => Stdio::piped(),
        Voice::Heard => Stdio::inherit(),
    };
    let output = Command::new(program)
        .args(args)
        .arg("--json")
        .arg(json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .output()
        .context("cannot start a run")?;
    let Ok(text) = std::fs::read_to_string(json) else {
        let said = match voice {
            Voice::Kept => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Voice::Heard => "it has said why".into(),
        };
        // With --memory, the one thing that kills is the kernel.
        let hint = if output.status.code().is_none() { " (out of memory?)" } else { "" };
        bail!("`ycsb {}` ended with {}{hint}: {said}", args.join(" "), output.status);
    };
    let report: Report = serde_json::from_str(&text).context("the report of a run")?;
    for example in report.error_examples.iter().chain(&report.mismatch_examples) {
        say(&format!("  {example}"));
    }
    Ok(report)
}
