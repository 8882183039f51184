//! Drive reads per lookup under each policy of the reaper, and under textbook ones, by replaying
//! traces.
//!
//! ```text
//! cargo run --release -p millpond-mpool --example reaper_sim -- --help
//! ```
//!
//! Pages and records are numbers, so a run takes a minute and needs no drive. What decides is the
//! engine's own code, included as it is: page states, victims, the rules of the policy `mpool`, the
//! split, and the value cache's counts, sketch and ghosts. What surrounds it here (ticks, hands of
//! clocks) follows the engine in numbers of requests. The index is taken to be in memory, and all
//! memory given is for values.
//!
//! It says nothing about time, threads or the kernel. What a policy costs is measured elsewhere.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints tables")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "ranks and ratios are estimates"
)]
#![allow(unreachable_pub, dead_code, reason = "the engine's files are included as they are")]

mod engine;
#[path = "../../src/object/mcache/fault_age.rs"]
mod fault_age;
#[path = "../../../kvs/src/cache/ghost.rs"]
mod ghost;
mod objects;
#[path = "../../src/object/mcache/pages.rs"]
mod pages;
#[path = "../../../kvs/src/cache/policy.rs"]
mod policy;
#[path = "../../../kvs/src/cache/sketch.rs"]
mod sketch;
#[path = "../../src/reaper/split.rs"]
mod split;
mod textbook;
mod trace;
#[path = "../../src/reaper/victim.rs"]
mod victim;
mod world;

/// Where the engine's files look for these.
mod object {
    pub(crate) mod mcache {
        pub(crate) use mpool::Class;

        pub(crate) use crate::pages;
    }
}

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use self::{
    engine::{Admission, Engine, PageClock, RecordCache},
    objects::{FaultAge, ObjectCounts},
    textbook::{Ideal, List, Unit},
    trace::{Op, Plan, Requests, Shape},
    world::World,
};

const PAGE_BYTES: u64 = pages::PAGE_BYTES;
/// Key, value and what is stored with them: YCSB's records of 1 KB.
const RECORD_BYTES: u64 = 1164;
/// Part of the requests, from the start, that warm memory up and are not counted.
const WARM_UP: (u32, u32) = (2, 3);

const HELP: &str = "\
Drive reads per lookup under each policy of the reaper, by replaying traces.

Usage: reaper_sim [OPTIONS]

  --records N     records of 1,164 bytes, 10000 to 8000000 [200000]
  --memory SIZE   memory for values: a number of bytes, or KiB, MiB, GiB [51MiB]
  --accesses N    requests in each trace; the last third counts [1600000]
  --seed N        of the traces [1]
  -h, --help      this text";

/// What holds values in memory.
trait Memory {
    /// A record is asked for that lies in `page`; false if the drive must be asked.
    fn read(&mut self, record: u32, page: u32) -> bool;
    /// Pages of deleted objects.
    fn dead(&mut self, pages: Range<u32>);
    /// What came of it, beside hits.
    fn note(&self) -> String {
        String::new()
    }
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    records: u32,
    memory_bytes: u64,
    accesses: u32,
    seed: u64,
}

/// Everything a row of a table can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    IdealRecords,
    LruRecords,
    FifoRecords,
    IdealPages,
    LruPages,
    FifoPages,
    Off,
    Mpool,
    ObjectCounts,
    PageCounts(Admission),
    RecordCounts(Admission),
    Fixed(u64),
    Frequency,
}

type Row = (&'static str, Kind);

const POLICIES: [Row; 9] = [
    ("off: FIFO, pages", Kind::Off),
    ("mpool", Kind::Mpool),
    ("frequency", Kind::Frequency),
    ("ideal LFU, pages", Kind::IdealPages),
    ("LRU, pages", Kind::LruPages),
    ("FIFO, pages", Kind::FifoPages),
    ("ideal LFU, records", Kind::IdealRecords),
    ("LRU, records", Kind::LruRecords),
    ("FIFO, records", Kind::FifoRecords),
];

const METRICS: [Row; 8] = [
    ("none: first in, first out", Kind::FifoPages),
    ("fault age, by object", Kind::Mpool),
    ("access counts, by object", Kind::ObjectCounts),
    ("page frequency, all admitted", Kind::PageCounts(Admission::Always)),
    ("page frequency, admission", Kind::PageCounts(Admission::ByCount)),
    ("record frequency, all admitted", Kind::RecordCounts(Admission::Always)),
    ("record frequency, admission", Kind::RecordCounts(Admission::ByCount)),
    ("both, admission (the engine)", Kind::Frequency),
];

const SPLITS: [Row; 6] = [
    ("2 % to pages", Kind::Fixed(20)),
    ("10 % to pages", Kind::Fixed(100)),
    ("30 % to pages", Kind::Fixed(300)),
    ("70 % to pages", Kind::Fixed(700)),
    ("90 % to pages", Kind::Fixed(900)),
    ("by ghost hits (the engine)", Kind::Frequency),
];

fn shapes() -> Vec<(&'static str, Plan)> {
    vec![
        ("scrambled", Plan::reads(Shape::Scrambled)),
        ("zipfian", Plan::reads(Shape::Zipfian)),
        ("latest", Plan::reads(Shape::Latest)),
        ("scan-mixed", Plan::reads(Shape::ScanMixed)),
        ("moving", Plan::reads(Shape::Moving)),
    ]
}

fn scenarios() -> Vec<(&'static str, Plan)> {
    let plan = |shape, write_pct| Plan { write_pct, ..Plan::reads(shape) };
    vec![
        ("100 %", plan(Shape::Scrambled, 0)),
        ("95/5", plan(Shape::Scrambled, 5)),
        ("moving 100 %", plan(Shape::Moving, 0)),
        ("moving 95/5", plan(Shape::Moving, 5)),
        ("compaction", Plan { compacts: true, ..plan(Shape::Scrambled, 0) }),
    ]
}

fn main() {
    let settings = match parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => return println!("{HELP}"),
        Err(what) => {
            eprintln!("{what}");
            std::process::exit(2);
        }
    };
    println!(
        "{} records of {RECORD_BYTES} bytes ({} MiB), {} MiB of memory, {} requests, seed {}.",
        settings.records,
        (u64::from(settings.records) * RECORD_BYTES) >> 20,
        settings.memory_bytes >> 20,
        settings.accesses,
        settings.seed,
    );
    print_table("Drive reads per lookup, by policy and trace", &POLICIES, &shapes(), settings);
    print_table(
        "Which metric is useful? Drive reads per lookup (entries written per lookup)",
        &METRICS,
        &scenarios(),
        settings,
    );
    print_table("The split (in brackets: thousandths to pages)", &SPLITS, &shapes(), settings);
}

fn print_table(title: &str, rows: &[Row], columns: &[(&str, Plan)], settings: Settings) {
    let cells = measure_all(rows, columns, settings);
    println!("\n{title}\n");
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    println!("| {:30} | {} |", "", names.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for ((name, _), row) in rows.iter().zip(cells.chunks(columns.len())) {
        println!("| {name:30} | {} |", row.join(" | "));
    }
}

/// Every cell, on all cores; the outcome does not depend on which computes what.
fn measure_all(rows: &[Row], columns: &[(&str, Plan)], settings: Settings) -> Vec<String> {
    let cells = rows.len() * columns.len();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); cells]));
    let work = || {
        loop {
            let cell = next.fetch_add(1, Relaxed);
            if cell >= cells {
                return;
            }
            let (row, column) = (rows[cell / columns.len()], columns[cell % columns.len()]);
            let outcome = measure(row.1, column.1, settings);
            done.lock().expect("no cell panics")[cell] = outcome;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    done.into_inner().expect("no cell panics")
}

fn measure(kind: Kind, plan: Plan, settings: Settings) -> String {
    let ideal = matches!(kind, Kind::IdealPages | Kind::IdealRecords);
    if ideal && !plan.is_stationary() {
        return "-".into();
    }
    let mut world = World::new(settings.records);
    let mut memory = memory(kind, plan, &world, settings);
    let warm_up = settings.accesses / WARM_UP.1 * WARM_UP.0;
    let (mut lookups, mut drive_reads, mut served) = (0_u32, 0_u32, 0);
    for op in Requests::new(plan, settings.records, settings.seed) {
        let (record, counts) = match op {
            Op::Write(record) => {
                world.write(record);
                served += 1;
                continue;
            }
            Op::Read(record) => (record, served >= warm_up),
            Op::Scan(record) => {
                if scans_enter(kind) {
                    memory.read(record, world.page_of(record));
                }
                continue;
            }
        };
        if plan.compacts && served == warm_up && op == Op::Read(record) {
            world.compact().into_iter().for_each(|pages| memory.dead(pages));
        }
        let hit = world.is_unflushed(record) || memory.read(record, world.page_of(record));
        lookups += u32::from(counts);
        drive_reads += u32::from(counts && !hit);
        served += u32::from(matches!(op, Op::Read(_)));
        if served >= settings.accesses {
            break;
        }
    }
    let note = memory.note();
    let note = if note.is_empty() { note } else { format!(" ({note})") };
    format!("{:.3}{note}", f64::from(drive_reads) / f64::from(lookups))
}

fn memory(kind: Kind, plan: Plan, world: &World, settings: Settings) -> Box<dyn Memory> {
    let Settings { records, memory_bytes, accesses, .. } = settings;
    let writes = if plan.write_pct > 0 || plan.shape == Shape::Latest { accesses / 10 } else { 0 };
    let pages = world.pages_max(writes);
    let object_pages = world.object_pages();
    let page_entries = memory_bytes / PAGE_BYTES;
    let fits = |unit| {
        let size = if unit == Unit::Page { PAGE_BYTES } else { RECORD_BYTES };
        usize::try_from(memory_bytes / size).expect("fits memory")
    };
    let list = |unit, promotes| {
        let ids = if unit == Unit::Page { pages } else { records };
        Box::new(List::new(unit, promotes, ids, fits(unit)))
    };
    let ideal =
        |unit| Box::new(Ideal::new(unit, &popularity(unit, plan, world, settings), fits(unit)));
    match kind {
        Kind::IdealPages => ideal(Unit::Page),
        Kind::IdealRecords => ideal(Unit::Record),
        Kind::LruPages => list(Unit::Page, true),
        Kind::FifoPages | Kind::Off => list(Unit::Page, false),
        Kind::LruRecords => list(Unit::Record, true),
        Kind::FifoRecords => list(Unit::Record, false),
        Kind::Mpool => Box::new(FaultAge::new(pages, object_pages, page_entries, records)),
        Kind::ObjectCounts => Box::new(ObjectCounts::new(pages, object_pages, page_entries)),
        Kind::PageCounts(admission) => Box::new(PageClock::new(pages, page_entries, admission)),
        Kind::RecordCounts(admission) => {
            Box::new(RecordCache::new(records, memory_bytes, admission))
        }
        Kind::Fixed(permille) => {
            Box::new(Engine::new(pages, records, memory_bytes, (permille, false)))
        }
        Kind::Frequency => {
            Box::new(Engine::new(pages, records, memory_bytes, (split::START_PERMILLE, true)))
        }
    }
}

/// The engine reads scans ahead past its memory, whatever the policy; textbooks do not.
fn scans_enter(kind: Kind) -> bool {
    !matches!(kind, Kind::Off | Kind::Mpool | Kind::Fixed(_) | Kind::Frequency)
}

/// How often each page or record is asked for, from a longer trace of another seed.
fn popularity(unit: Unit, plan: Plan, world: &World, settings: Settings) -> Vec<u32> {
    let ids = if unit == Unit::Page { world.pages_max(0) } else { settings.records };
    let mut counts = vec![0; at(ids)];
    let seed = settings.seed ^ 0x5eed;
    let draws = usize::try_from(settings.records).expect("fits memory") * 40;
    let read = |op| if let Op::Read(record) = op { Some(record) } else { None };
    for record in Requests::new(plan, settings.records, seed).filter_map(read).take(draws) {
        let id = if unit == Unit::Page { world.page_of(record) } else { record };
        counts[at(id)] += 1;
    }
    counts
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Settings>, String> {
    let mut settings =
        Settings { records: 200_000, memory_bytes: 51 << 20, accesses: 1_600_000, seed: 1 };
    while let Some(name) = args.next() {
        if name == "-h" || name == "--help" {
            return Ok(None);
        }
        let mut value = |min: u64, max: u64| {
            let text = args.next().ok_or_else(|| format!("{name} needs a value; see --help"))?;
            let value = parse_size(&text).filter(|n| (min..=max).contains(n));
            value.ok_or_else(|| format!("{name} is {text:?}, must be in {min}..={max}; see --help"))
        };
        let small = |n: u64| u32::try_from(n).expect("checked against its range");
        match name.as_str() {
            "--records" => settings.records = small(value(10_000, 8_000_000)?),
            "--memory" => settings.memory_bytes = value(1 << 20, 1 << 40)?,
            "--accesses" => settings.accesses = small(value(1000, 1_000_000_000)?),
            "--seed" => settings.seed = value(0, u64::MAX)?,
            _ => return Err(format!("there is no option {name:?}; see --help")),
        }
    }
    Ok(Some(settings))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A number of a page, record or object as a place.
fn at(n: u32) -> usize {
    usize::try_from(n).expect("32 bits fit an address")
}
