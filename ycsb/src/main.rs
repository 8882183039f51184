//! YCSB for Millpond: loads, runs, verifies, compares. README.md is its manual.
//!
//! ```text
//!   cli --> session --> driver --> client (a thread each) --> target: embedded | http | rocksdb
//!             |            |          |
//!          report      resources   workload, dist, key, row
//!             |
//!           course: workloads of several stages
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "RocksDB is a name, and --help is no place for backticks")]
#![allow(missing_docs, reason = "a program: its documentation is --help and README.md")]

mod block;
mod bound;
mod cgroup;
mod child;
mod cli;
mod client;
mod compare;
mod course;
mod demo;
mod dist;
mod driver;
mod gate;
mod ideal;
mod interrupt;
mod key;
mod machine;
mod measure;
mod number;
mod observe;
mod open;
mod original;
mod output;
mod pace;
mod page_cache;
mod progress;
mod property;
mod random;
mod reaper;
mod report;
mod resources;
mod row;
mod server_process;
mod session;
mod spread;
mod target;
mod unsupported;
mod verify;
mod warm;
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
        progress::say(&format!("ycsb: {error:#}"));
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
        return bound::become_program(args).map(|never| match never {});
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
