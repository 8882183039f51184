//! One invocation of load, run or verify: from its arguments to its report.

mod verify;

use crate::cli::{DurabilityArg, EndArg, Format, IoArg, RunArgs, TargetKind};
use crate::course;
use crate::course::{Ground, Ran};
use crate::driver::progress::watched;
use crate::driver::{Outcome, Phase, Plan};
use crate::interrupt;
use crate::machine;
use crate::machine::cgroup::{MemoryGroup, MemoryUse};
use crate::machine::page_cache;
use crate::output::say;
use crate::output::{self, Output};
use crate::report::original::original_lines;
use crate::report::stage::{LeftOut, StageReport, Totals};
use crate::report::warm::{self, Filling};
use crate::report::{Fill, Report, Setting};
use crate::session::verify::verify_scan;
use crate::target::Target;
use crate::target::embedded::{Config, Embedded};
use crate::target::http::Http;
use crate::target::memory::Memory;
use crate::target::server_process::{ServerOptions, ServerProcess};
use crate::workload::Workload;
use crate::workload::course::steps::Wishes;
use crate::workload::course::{Course, Kind, Then};
use crate::workload::property::Properties;
use anyhow::{Context, Result, bail};
use kvs::Durability;
use mpool::IoBackend;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What can be known of a run before there is a store.
pub(crate) struct Checked {
    properties: Properties,
    pub(crate) workload: Workload,
    plan: Plan,
}

/// Refuses what could not be run to its end, before anything is opened, made or loaded.
pub(crate) fn check(phase: Phase, args: &RunArgs) -> Result<Checked> {
    let properties = properties(args)?;
    let workload = Workload::new(&properties)?;
    let plan = plan(phase, args, &workload);
    match &workload.course {
        Some(course) => check_course(course, phase, args)?,
        None if args.hold_snapshot => {
            bail!("--hold-snapshot is for courses: -P overwrite, queue, window or delete-most")
        }
        None => {}
    }
    plan.check()?;
    if workload.tables > 1 && args.target != TargetKind::Embedded {
        bail!("tables={} is for --target embedded (else -p tables=1)", workload.tables);
    }
    match args.target {
        TargetKind::Embedded => Embedded::check(&args.store.engine)?,
        TargetKind::Rocksdb => check_rocksdb(args)?,
        TargetKind::Http if !args.store.engine.is_empty() => {
            bail!("--engine is for embedded and rocksdb; give a server its options by --server-arg")
        }
        TargetKind::Http | TargetKind::Memory => {}
    }
    Ok(Checked { properties, workload, plan })
}

/// Refuses what a course would pass over.
fn check_course(course: &Course, phase: Phase, args: &RunArgs) -> Result<()> {
    let name = course.name();
    let kind = course.kind;
    let is_loaded = matches!(kind, Kind::Overwrite { .. } | Kind::Scans { .. });
    if phase == Phase::Verify && !is_loaded
        || phase == Phase::Load && matches!(kind, Kind::Queue { .. })
    {
        bail!("course={name} begins with nothing and verifies itself: give it to `ycsb run`");
    }
    let is_timed = matches!(kind, Kind::Overwrite { .. } | Kind::Queue { .. });
    if phase == Phase::Run && args.workload.seconds.is_some() && !is_timed {
        bail!("course={name} ends when its work is done: leave --seconds away");
    }
    if args.target == TargetKind::Http
        && matches!(kind, Kind::DeleteMost { then: Then::Settle, .. })
    {
        bail!("a server is not asked what is due: give -p deletethen=compact or quiet");
    }
    if args.hold_snapshot && matches!(kind, Kind::Scans { .. }) {
        bail!("--hold-snapshot is for what overwrites and deletes, not for course=scans");
    }
    if !args.workload.warmup.is_zero() || args.store.fill {
        bail!("course={name} has neither warm-up nor filling: leave --warmup and --fill away");
    }
    let holds = matches!(args.target, TargetKind::Embedded | TargetKind::Rocksdb);
    if args.hold_snapshot && !holds {
        bail!(
            "--hold-snapshot is for --target embedded and rocksdb; {} holds none",
            args.target.name()
        );
    }
    Ok(())
}

/// Does what the arguments say, prints the result and returns the report.
pub(crate) fn execute(phase: Phase, args: &RunArgs) -> Result<Report> {
    let checked = check(phase, args)?;
    let Checked { properties, workload, .. } = &checked;
    properties.notes().iter().for_each(|note| say(note));
    let json = Output::reserve_given("--json", args.workload.json.as_deref())?;
    let group = args.workload.memory.map(MemoryGroup::create).transpose()?;
    if let Some(dir) = args.data.as_deref().filter(|_| group.is_some() || args.cold) {
        page_cache::drop_files(dir);
    }
    let server_is_bounded = args.target == TargetKind::Http;
    if let Some(group) = group.as_ref().filter(|_| !server_is_bounded) {
        group.enter()?;
    }
    let target = open(phase, args, workload, group.as_ref())?;
    let Worked { outcome, fill, stages, left_out } =
        work(args, &checked, &*target, group.as_ref())?;
    let mut report = Report::new(setting(phase, args, &checked, &*target), &outcome);
    report.fill = fill;
    report.totals = Totals::of(&stages);
    (report.stages, report.left_out) = (stages, left_out);
    let course = workload.course.as_ref().filter(|_| !report.stages.is_empty());
    report.main_stage = course.map(|course| course.main_stage().into());
    let closing = Instant::now();
    target.close()?;
    report.close_seconds = closing.elapsed().as_secs_f64();
    report.memory = group.as_ref().map(|group| MemoryUse {
        measured: outcome.observed.memory.unwrap_or_default(),
        ..group.usage()
    });
    publish(args, json, &report, (&outcome, workload))?;
    Ok(report)
}

/// What came of a run.
#[derive(Default)]
struct Worked {
    outcome: Outcome,
    fill: Option<Fill>,
    stages: Vec<StageReport>,
    left_out: Vec<LeftOut>,
}

/// Everything between opening the store and closing it. A part that is broken off is the last.
fn work(
    args: &RunArgs,
    Checked { workload, plan, .. }: &Checked,
    target: &dyn Target,
    group: Option<&MemoryGroup>,
) -> Result<Worked> {
    let phase = plan.phase;
    if let Some(course) = workload.course.as_ref().filter(|_| phase == Phase::Run) {
        let wishes = Wishes {
            settle: args.store.settle,
            hold_snapshot: args.hold_snapshot,
            kill: args.end == EndArg::Kill,
        };
        let ran = course::run(course, &Ground { target, workload, plan, group, wishes })?;
        let Ran { outcome, stages, left_out } = ran;
        return Ok(Worked { outcome, fill: None, stages, left_out });
    }
    if args.target == TargetKind::Memory && phase != Phase::Load {
        let load = Plan { phase: Phase::Load, time: None, by_second: false, ..plan.clone() };
        let loaded = measure(target, workload, &load, None)?;
        if loaded.interrupted.is_some() {
            return Ok(Worked { outcome: loaded, ..Worked::default() });
        }
    }
    if args.store.settle && phase != Phase::Load {
        settle(target)?;
    }
    let mut fill = None;
    if args.store.fill && phase == Phase::Run {
        let (filled, outcome) = filled(target, workload, plan)?;
        fill = Some(filled);
        if outcome.interrupted.is_some() {
            return Ok(Worked { outcome, fill, ..Worked::default() });
        }
    }
    let mut outcome = measure(target, workload, plan, group)?;
    if outcome.interrupted.is_none() {
        if args.store.settle && phase == Phase::Load {
            settle(target)?;
        }
        if phase == Phase::Verify {
            verify_scan(target, workload, &mut outcome)?;
        }
    }
    Ok(Worked { outcome, fill, ..Worked::default() })
}

fn settle(target: &dyn Target) -> Result<()> {
    if let Some(why) = target.deaf() {
        say(&format!("--settle: {why}"));
    }
    target.settle()
}

/// Reads all records until they are in memory, or until that does not help any more
/// ([`warm`](mod@crate::report::warm)). The outcome is that of the last pass.
fn filled(target: &dyn Target, workload: &Workload, plan: &Plan) -> Result<(Fill, Outcome)> {
    let plan = Plan {
        phase: Phase::Fill,
        warmup: Duration::ZERO,
        time: None,
        by_second: false,
        ..plan.clone()
    };
    let began = Instant::now();
    let mut reads = Vec::new();
    loop {
        let outcome = measure(target, workload, &plan, None)?;
        let device = outcome.observed.drive.as_ref().map(|(_, counts)| counts.reads);
        let process = outcome.observed.usage.total().read_bytes;
        reads.push(warm::reads_per_op(device, process, outcome.operations));
        let errors = outcome.recorder.errors_total();
        if errors > 0 {
            let example = outcome.recorder.error_examples.first().map_or("", String::as_str);
            bail!("--fill: {errors} of {} reads failed; {example}", outcome.operations);
        }
        let filling = warm::filling(&reads);
        if outcome.interrupted.is_some() || filling != Filling::Again {
            let seconds = began.elapsed().as_secs_f64();
            let fill =
                Fill { outcome: filling.name().into(), seconds, drive_reads_per_record: reads };
            return Ok((fill, outcome));
        }
    }
}

/// The workload's properties, with what the command line has options for.
fn properties(args: &RunArgs) -> Result<Properties> {
    let w = &args.workload;
    let mut properties = Properties::gather(&w.files, &w.properties)?;
    if let Some(threads) = w.threads {
        properties.set("threadcount", &threads.to_string())?;
    }
    if let Some(rate) = w.rate {
        if !(rate > 0.0 && rate.is_finite()) {
            bail!("--rate {rate}: must be a number of operations a second above 0");
        }
        properties.set("target", &rate.to_string()).context("--rate")?;
    }
    if w.verify {
        properties.set("dataintegrity", "true")?;
    }
    Ok(properties)
}

fn plan(phase: Phase, args: &RunArgs, workload: &Workload) -> Plan {
    let w = &args.workload;
    let operations = match &workload.course {
        _ if w.seconds.is_some() => 0,
        Some(course) => course.operations(workload),
        None => workload.operations,
    };
    Plan {
        phase,
        warmup: if phase == Phase::Run { w.warmup } else { Duration::ZERO },
        time: match phase {
            Phase::Run => w.seconds.or(workload.time_max),
            // A part of the records would be no load, no filling and no verification.
            Phase::Load | Phase::Fill | Phase::Verify | Phase::Course => None,
        },
        operations,
        seed: w.seed,
        by_second: phase == Phase::Run && args.by_second,
        ledger: None,
        duty: None,
    }
}

fn measure(
    target: &dyn Target,
    workload: &Workload,
    plan: &Plan,
    group: Option<&MemoryGroup>,
) -> Result<Outcome> {
    watched(target, workload, (plan, group), &mut |_| {})
}

/// Inserts all records.
pub(crate) fn load(target: &dyn Target, checked: &Checked) -> Result<()> {
    let plan = Plan { phase: Phase::Load, operations: 0, ..checked.plan.clone() };
    let outcome = measure(target, &checked.workload, &plan, None)?;
    interrupt::check()?;
    match outcome.recorder.errors_total() {
        0 => Ok(()),
        errors => bail!("{errors} inserts failed; {}", outcome.recorder.error_examples.join("; ")),
    }
}

/// Opens the target.
pub(crate) fn open(
    phase: Phase,
    args: &RunArgs,
    workload: &Workload,
    group: Option<&MemoryGroup>,
) -> Result<Box<dyn Target>> {
    Ok(match args.target {
        TargetKind::Memory => Box::new(Memory::new()),
        TargetKind::Embedded => Box::new(Embedded::open(&Config {
            dir: data_dir(args, phase, workload)?,
            tables: &workload.table_names(),
            durability: durability(args.workload.durability),
            io: backend(args.store.io),
            allow_buffered: args.store.allow_buffered,
            engine: &args.store.engine,
        })?),
        TargetKind::Http => Box::new(open_http(phase, args, workload, group)?),
        TargetKind::Rocksdb => open_rocksdb(phase, args, workload)?,
    })
}

fn open_http(
    phase: Phase,
    args: &RunArgs,
    workload: &Workload,
    group: Option<&MemoryGroup>,
) -> Result<Http> {
    let durability = args.workload.durability.name();
    if let Some(url) = &args.store.url {
        let http = Http::remote(url, &workload.table, durability)?;
        return Ok(http.with_pid(args.store.server_pid));
    }
    if args.data.is_none() && !begins_anew(phase, workload) {
        bail!("nothing is loaded: give the server that was loaded by --url, or its --data DIR");
    }
    let mut server_args = Vec::new();
    if args.store.io != IoArg::Auto {
        server_args.extend(["--io".to_owned(), args.store.io.name().to_owned()]);
    }
    if args.store.allow_buffered {
        server_args.push("--allow-buffered=true".to_owned());
    }
    server_args.extend(args.store.server_arg.iter().cloned());
    let options = ServerOptions {
        program: args.store.server.clone(),
        args: server_args,
        data: args.data.clone(),
        bound_by: Some(std::env::current_exe().context("cannot tell where this program is")?),
    };
    Http::own(ServerProcess::start(&options, group)?, &workload.table, durability)
}

#[cfg(feature = "rocksdb")]
fn check_rocksdb(args: &RunArgs) -> Result<()> {
    crate::target::rocksdb::check(&args.store.engine, args.workload.memory)
}

#[cfg(feature = "rocksdb")]
fn open_rocksdb(phase: Phase, args: &RunArgs, workload: &Workload) -> Result<Box<dyn Target>> {
    use crate::target::rocksdb::{Config, Rocks};
    Ok(Box::new(Rocks::open(&Config {
        dir: data_dir(args, phase, workload)?,
        table: &workload.table,
        durability: args.workload.durability,
        memory_bytes: args.workload.memory,
        allow_buffered: args.store.allow_buffered,
        engine: &args.store.engine,
    })?))
}

#[cfg(not(feature = "rocksdb"))]
fn check_rocksdb(_: &RunArgs) -> Result<()> {
    bail!(
        "this program was built without RocksDB; build it with \
         `cargo build --release -p millpond-ycsb --features rocksdb` (ycsb/README.md says what \
         that needs)"
    )
}

#[cfg(not(feature = "rocksdb"))]
fn open_rocksdb(_: Phase, args: &RunArgs, _: &Workload) -> Result<Box<dyn Target>> {
    check_rocksdb(args)?;
    unreachable!("without RocksDB the check fails")
}

/// Whether it makes its own data.
fn begins_anew(phase: Phase, workload: &Workload) -> bool {
    let course = workload.course.as_ref().filter(|_| phase == Phase::Run);
    phase == Phase::Load || course.is_some_and(|course| !course.loaded)
}

fn data_dir<'a>(args: &'a RunArgs, phase: Phase, workload: &Workload) -> Result<&'a Path> {
    let dir = args.data.as_deref().with_context(|| {
        format!("--target {} needs --data DIR, where its data is", args.target.name())
    })?;
    if !begins_anew(phase, workload) && !dir.exists() {
        bail!("{} does not exist; run `ycsb load` with the same --data first", dir.display());
    }
    Ok(dir)
}

fn durability(arg: DurabilityArg) -> Durability {
    match arg {
        DurabilityArg::Sync => Durability::Sync,
        DurabilityArg::Interval => Durability::Interval,
        DurabilityArg::Off => Durability::Off,
    }
}

fn backend(arg: IoArg) -> IoBackend {
    match arg {
        IoArg::Auto => IoBackend::Auto,
        IoArg::Uring => IoBackend::Uring,
        IoArg::Threads => IoBackend::Threads,
    }
}

fn setting(phase: Phase, args: &RunArgs, checked: &Checked, target: &dyn Target) -> Setting {
    let (device, file_system) = target.data_dir().and_then(machine::device_of).unzip();
    Setting {
        target_facts: target.facts().into_iter().collect(),
        device,
        file_system,
        ..setting_of(phase, args, checked)
    }
}

/// What can be said before there is a store.
pub(crate) fn setting_of(
    phase: Phase,
    args: &RunArgs,
    Checked { properties, workload, .. }: &Checked,
) -> Setting {
    let device = args.data.as_deref().and_then(machine::device_of);
    let (device, file_system) = device.unzip();
    Setting {
        phase: match phase {
            Phase::Load => "load".into(),
            Phase::Verify => "verify".into(),
            Phase::Run | Phase::Fill | Phase::Course => "run".into(),
        },
        target: args.target.name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: machine::commit(),
        target_facts: BTreeMap::new(),
        properties: properties.entries().clone(),
        records: workload.records,
        dataset_bytes: workload.dataset_bytes(),
        threads: workload.threads,
        rate: workload.rate,
        warmup_seconds: args.workload.warmup.as_secs_f64(),
        durability: args.workload.durability.name().into(),
        verify: workload.verify,
        hold_snapshot: args.hold_snapshot,
        cold: args.cold,
        seed: args.workload.seed,
        memory_limit_bytes: args.workload.memory,
        device,
        file_system,
        kernel: machine::kernel(),
        cpus: machine::cpus(),
    }
}

/// The file comes first: nobody may be reading standard output.
fn publish(
    args: &RunArgs,
    json: Option<Output>,
    report: &Report,
    (outcome, workload): (&Outcome, &Workload),
) -> Result<()> {
    let instead = json.as_ref().is_some_and(Output::is_stdout);
    if let Some(json) = json {
        json.write_json(report)?;
    }
    match args.format {
        _ if instead => Ok(()),
        Format::Table => output::print(&report.table()),
        Format::Ycsb => output::print(&original_lines(report, &outcome.recorder, workload)),
    }
}
