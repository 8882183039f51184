//! YCSB for Millpond: loads, runs, verifies, compares. README.md is its manual.
//!
//! ```text
//!   compare  reaper  open  demo      several runs beside each other, and what comes of them
//!      session                       one invocation of load, run or verify
//!      course                        workloads of several stages
//!      report                        what was measured, for people and scripts
//!      driver                        threads, clients, what they measure and who watches
//!      target                        the store: embedded, over HTTP, RocksDB
//!      workload  machine  cli        what is asked for; where it runs; arguments
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "RocksDB is a name, and --help is no place for backticks")]
#![allow(missing_docs, reason = "a program: its documentation is --help and README.md")]

mod child;
mod cli;
mod compare;
mod course;
mod demo;
mod driver;
mod interrupt;
mod machine;
mod number;
mod open;
mod output;
mod reaper;
mod report;
mod session;
mod target;
mod workload;

use anyhow::Result;
use clap::Parser as _;
use cli::{Cli, Command};
use driver::Phase;
use std::process::ExitCode;

/// 0: all done and right. 1: it could not be done. 2: wrong usage. 3: done, but with errors or
/// mismatches, which the report has. 130, 143: a signal ended it; what was measured was reported.
fn main() -> ExitCode {
    let outcome = run(&Cli::parse().command);
    if let Err(error) = &outcome {
        output::say(&format!("ycsb: {error:#}"));
    }
    match (interrupt::pending(), outcome) {
        (Some(interruption), _) => ExitCode::from(interruption.exit_code()),
        (None, Ok(true)) => ExitCode::SUCCESS,
        (None, Ok(false)) => ExitCode::from(3),
        (None, Err(_)) => ExitCode::FAILURE,
    }
}

/// Whether everything was right.
fn run(command: &Command) -> Result<bool> {
    if let Command::Bound(args) = command {
        // Signals stay as they are for the program that comes.
        return machine::bound::become_program(args).map(|never| match never {});
    }
    interrupt::listen()?;
    let session = |phase, args| Ok(session::execute(phase, args)?.is_clean());
    match command {
        Command::Load(args) => session(Phase::Load, args),
        Command::Run(args) => session(Phase::Run, args),
        Command::Verify(args) => session(Phase::Verify, args),
        Command::Compare(args) => compare::compare(args),
        Command::Open(args) => open::open(args),
        Command::Reaper(args) => reaper::reaper(args),
        Command::Demo(args) => demo::demo(args),
        Command::Bound(_) => unreachable!("done above"),
    }
}
