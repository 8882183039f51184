//! A run as a child process of this program, so that CPU, I/O and memory group are its own.
//!
//! A signal that ends this program is passed on: the run reports what it has measured by then.

use crate::interrupt;
use crate::machine::bound;
use crate::output::say;
use crate::report::Report;
use anyhow::{Context, Result, bail};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

/// Between two looks at whether the run has ended, or a signal has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
    let mut child = bound::command(&program, &program)
        .args(args)
        .arg("--json")
        .arg(json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .context("cannot start a run")?;
    let (status, said) = wait(&mut child)?;
    let text = std::fs::read_to_string(json).unwrap_or_default();
    if text.is_empty() {
        interrupt::check()?;
        let said = match voice {
            Voice::Kept => said.trim().to_owned(),
            Voice::Heard => "it has said why".into(),
        };
        // With --memory, the one thing that kills is the kernel.
        let hint = if status.code().is_none() { " (out of memory?)" } else { "" };
        bail!("`ycsb {}` ended with {status}{hint}: {said}", args.join(" "));
    }
    let report: Report = serde_json::from_str(&text).context("the report of a run")?;
    for example in report.error_examples.iter().chain(&report.mismatch_examples) {
        say(&format!("  {example}"));
    }
    Ok(report)
}

/// How it ended, and what it said where that is kept.
fn wait(child: &mut Child) -> Result<(ExitStatus, String)> {
    let said = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read was not said.
            let _cut = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    });
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if !told && interrupt::pending().is_some() {
            bound::terminate(child)?;
            told = true;
        }
        std::thread::park_timeout(LOOK_EVERY);
    };
    let said = said.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Ok((status, said))
}
