//! YCSB for Millpond: loads, runs, verifies, compares. README.md is its manual.
//!
//! ```text
//!   cli --> session --> driver --> client (a thread each) --> target: embedded | http | rocksdb
//!             |            |          |
//!          report      resources   workload, dist, key, row
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "RocksDB is a name, and --help is no place for backticks")]
#![allow(missing_docs, reason = "a program: its documentation is --help and README.md")]

mod block;
mod cgroup;
mod child;
mod cli;
mod client;
mod compare;
mod demo;
mod dist;
mod driver;
mod ideal;
mod key;
mod machine;
mod measure;
mod number;
mod observe;
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
mod verify;
mod workload;

use clap::Parser as _;
use cli::{Cli, Command};
use driver::Phase;
use std::process::ExitCode;

/// 0: all done and right. 1: it could not be done. 2: wrong usage. 3: done, but with errors or
/// mismatches, which the report has.
fn main() -> ExitCode {
    let clean = match Cli::parse().command {
        Command::Load(args) => session::execute(Phase::Load, &args).map(|r| r.is_clean()),
        Command::Run(args) => session::execute(Phase::Run, &args).map(|r| r.is_clean()),
        Command::Verify(args) => session::execute(Phase::Verify, &args).map(|r| r.is_clean()),
        Command::Compare(args) => compare::compare(&args),
        Command::Reaper(args) => reaper::reaper(&args),
        Command::Demo(args) => demo::demo(&args),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            progress::say(&format!("ycsb: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
