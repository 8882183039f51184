//! `ycsb demo`: everything once, on a temporary directory, in about a minute.

use crate::cli::{
    DemoArgs, DurabilityArg, EndArg, Format, IoArg, RunArgs, StoreArgs, TargetKind, WorkloadArgs,
};
use crate::driver::Phase;
use crate::interrupt;
use crate::output::say;
use crate::report::Report;
use crate::session;
use crate::target::server_process::{ServerOptions, ServerProcess};
use anyhow::{Context, Result};
use std::time::Duration;

/// Whether everything was right.
pub(crate) fn demo(args: &DemoArgs) -> Result<bool> {
    let scratch = match &args.data {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .context("cannot make a temporary directory; name one with --data DIR")?;
    let options = ServerOptions {
        program: args.server.clone(),
        args: vec!["--allow-buffered=true".into()],
        data: Some(scratch.path().join("data")),
        bound_by: Some(std::env::current_exe().context("cannot tell where this program is")?),
    };
    let server = ServerProcess::start(&options, None)?;
    say(&format!("started a server at {}, data in {}", server.url(), scratch.path().display()));
    let mut clean = true;
    for (title, phase, file) in [
        (format!("Load {} records of 1 KB", args.records), Phase::Load, "a"),
        ("Workload B: 95 % reads, 5 % updates".into(), Phase::Run, "b"),
        ("Workload C: reads only".into(), Phase::Run, "c"),
        ("Verify every record".into(), Phase::Verify, "c"),
    ] {
        say(&format!("\n{title}"));
        let report = session::execute(phase, &run_args(args, &server, file))?;
        clean &= report.is_clean();
        say(&verdict(&report));
        if interrupt::pending().is_some() {
            break;
        }
    }
    server.stop()?;
    say("\nthe server has stopped; its data is removed");
    Ok(clean)
}

fn verdict(report: &Report) -> String {
    if report.is_clean() {
        "no error, no mismatch".into()
    } else {
        format!("{} errors, {} mismatches", report.errors, report.mismatches)
    }
}

fn run_args(args: &DemoArgs, server: &ServerProcess, file: &str) -> RunArgs {
    RunArgs {
        target: TargetKind::Http,
        data: None,
        workload: WorkloadArgs {
            files: vec![file.into()],
            properties: vec![format!("recordcount={}", args.records)],
            threads: Some(args.threads.into()),
            seconds: Some(args.seconds),
            warmup: Duration::from_secs(1),
            rate: None,
            verify: true,
            memory: None,
            durability: DurabilityArg::Sync,
            seed: 1,
            json: None,
        },
        store: StoreArgs {
            url: Some(server.url().into()),
            server_pid: Some(server.pid()),
            server: None,
            server_arg: Vec::new(),
            io: IoArg::Auto,
            allow_buffered: false,
            engine: Vec::new(),
            settle: false,
            fill: false,
        },
        format: Format::Table,
        by_second: false,
        hold_snapshot: false,
        cold: false,
        end: EndArg::Close,
    }
}
