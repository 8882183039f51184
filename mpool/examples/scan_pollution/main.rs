//! What a compaction-like scan does to readers beside it, by the way in which the scan reads.
//!
//! ```text
//! cargo run --release -p millpond-mpool --example scan_pollution -- --dir DIR [--memory 1GiB]
//!     [--data 8GiB] [--threads 4] [--rate 250MiB] [--rounds 3] [--seconds 5] [--json FILE]
//!     [--scans none,paced,direct,uring,dontneed,dontcache,map]      or, to tune the engine's way:
//!     [--scans none,paced,unpaced --chunks 32KiB,64KiB,128KiB,256KiB,1MiB --depths 1,2,4]
//!     [--nices 0,10]
//! ```
//!
//! Readers draw 1 KiB records by a scrambled zipfian from objects of 8 MiB through a map, with the
//! reaper on, in a memory cgroup (`--memory 0`: in the reaper's own budget of 1 GiB). Each
//! measurement opens the pool, warms up, measures the readers alone, then beside the scan. Rounds
//! go through all configurations in turn. The scan reads the pool's own objects at `--rate`:
//!
//! | scan | how |
//! |---|---|
//! | `paced` | as the engine: `Mblock::read_at_priority`, pacing on, the rate its limit |
//! | `unpaced` | the same with pacing off |
//! | `direct` | unpaced, 1 MiB at a time: what the tail was first measured with |
//! | `uring` | `IoQueue::submit_read`, `--depths` in flight, pacing off |
//! | `dontneed` | buffered reads, each followed by `POSIX_FADV_DONTNEED` |
//! | `dontcache` | buffered reads with `RWF_DONTCACHE` |
//! | `map` | through a map of its own |
//!
//! `--nices` sets the scheduling priority of the scan's threads, because where cores are few a
//! reader may wait for one of them as well as for the drive.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

mod scan;
#[path = "../support/mod.rs"]
mod support;

use mpool::{Class, IoBuf, Map, Mblock, Options, PacingOptions, Pool, Priority};
use scan::{Plan, Scan};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};
use support::{Args, MemoryGroup, Numbers, Outcome, Report, Zipfian, latencies, short, us};

const OBJECT_BYTES: u64 = 8 << 20;
const RECORD_BYTES: u64 = 1 << 10;
const ARGS: &[(&str, &str)] = &[
    ("dir", ""),
    ("memory", "1GiB"),
    ("data", "8GiB"),
    ("threads", "4"),
    ("rate", "250MiB"),
    ("rounds", "3"),
    ("warmup", "10"),
    ("seconds", "5"),
    ("scans", "none,paced,direct,uring,dontneed,dontcache,map"),
    ("chunks", "64KiB"),
    ("depths", "2"),
    ("nices", "0"),
    ("json", ""),
];

/// The fixed part of all measurements.
struct Bench {
    dir: PathBuf,
    threads: u64,
    records: u64,
    warmup: Duration,
    seconds: Duration,
    rate: u64,
    budget_bytes: Option<u64>,
}

fn main() -> Outcome<()> {
    let args = Args::parse(ARGS)?;
    if args.text("dir").is_empty() {
        return Err("--dir is needed: a directory on the drive to be measured".into());
    }
    let memory = args.size("memory")?;
    let group = if memory > 0 { Some(MemoryGroup::enter(memory)?) } else { None };
    let seconds = |name| args.size(name).map(Duration::from_secs);
    let bench = Bench {
        dir: args.text("dir").into(),
        threads: args.size("threads")?,
        records: args.size("data")? / RECORD_BYTES,
        warmup: seconds("warmup")?,
        seconds: seconds("seconds")?,
        rate: args.size("rate")?,
        budget_bytes: group.is_none().then_some(1 << 30),
    };
    bench.fill()?;
    let plans = plans(&args)?;
    let mut report = Report::default();
    for round in 1..=args.size("rounds")? {
        for plan in &plans {
            let numbers = bench.measure(plan, round)?;
            let shown: Vec<String> =
                numbers.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
            println!("round {round}: {plan}: {}", shown.join(", "));
            report.add(&plan.to_string(), numbers);
        }
    }
    if let Some(group) = &group {
        println!("the memory limit was met {} times", group.limit_hits());
    }
    report.finish(args.text("json"))
}

fn plans(args: &Args) -> Outcome<Vec<Plan>> {
    let mut plans = Vec::new();
    for scan in args.list("scans") {
        let scan: Scan = scan.parse()?;
        for chunk in args.list("chunks") {
            for depth in args.list("depths") {
                for nice in args.list("nices") {
                    let chunk_bytes = Args::of(&[("chunk", chunk)]).size("chunk")?;
                    let (depth, nice) = (depth.parse()?, nice.parse()?);
                    let plan = Plan { scan, chunk_bytes, depth, nice }.normal();
                    if !plans.contains(&plan) {
                        plans.push(plan);
                    }
                }
            }
        }
    }
    Ok(plans)
}

impl Bench {
    fn options(&self, plan: &Plan) -> Options {
        let mut options =
            Options { grow_step_bytes: 64 << 20, reserve_bytes: Some(0), ..Options::default() };
        options.reaper.budget_bytes = self.budget_bytes;
        options.pacing = PacingOptions {
            enabled: plan.scan == Scan::Paced,
            bytes_per_second_max: Some(self.rate),
            chunk_bytes: plan.chunk_bytes.min(1 << 20),
            depth: plan.depth,
        };
        options
    }

    /// Fills the pool with objects, unless it has them from an earlier run.
    fn fill(&self) -> Outcome<()> {
        let plan = Plan { scan: Scan::None, chunk_bytes: 1 << 20, depth: 1, nice: 0 };
        let pool = Pool::open_or_create(&self.dir, &self.options(&plan))?;
        let objects = self.records * RECORD_BYTES / OBJECT_BYTES;
        let bytes = vec![7; usize::try_from(OBJECT_BYTES)?];
        for n in pool.mblock_ids().len() as u64..objects {
            let mut writer = pool.allocate(OBJECT_BYTES, Priority::Flush)?;
            writer.append(&bytes)?;
            pool.commit(vec![writer], &[])?;
            if n % 128 == 0 {
                println!("filling: {n} of {objects} objects");
            }
        }
        Ok(())
    }

    fn measure(&self, plan: &Plan, seed: u64) -> Outcome<Numbers> {
        let pool = Pool::open_dir(&self.dir, &self.options(plan))?;
        let mblocks: Vec<Mblock> =
            pool.mblock_ids().into_iter().map(|id| pool.mblock(id)).collect::<Result<_, _>>()?;
        let map = Arc::new(pool.map(&mblocks, Class::Cold)?);
        self.readers(&map, seed, self.warmup)?;
        let quiet = self.readers(&map, seed + 1000, self.seconds)?;
        let (stop, scanned) = (AtomicBool::new(false), AtomicU64::new(0));
        let volume = Path::new(&self.dir).join("capacity.vol");
        let beside = std::thread::scope(|scope| {
            let scan = scope.spawn(|| {
                let scanner =
                    scan::Scanner { pool: &pool, mblocks: &mblocks, volume: &volume, stop: &stop };
                scanner.run(plan, self.rate, &scanned).map_err(|error| error.to_string())
            });
            let beside = self.readers(&map, seed + 2000, self.seconds);
            stop.store(true, Relaxed);
            scan.join().map_err(|_| "the scan panicked".to_owned())??;
            beside
        })?;
        let mut numbers = quiet.numbers(["quiet_ops_s", "quiet_p50", "quiet_p99", "quiet_p999"]);
        numbers.extend(beside.numbers(["ops_s", "p50", "p99", "p999"]));
        numbers
            .push(("p999_over_quiet", us(&beside.latencies, 0.999) / us(&quiet.latencies, 0.999)));
        numbers.push(("quiet_miss", quiet.miss));
        numbers.push(("miss", beside.miss));
        let mib = scanned.load(Relaxed) >> 20;
        numbers.push(("scan_mib_s", count(mib) / self.seconds.as_secs_f64()));
        Ok(numbers)
    }

    fn readers(&self, map: &Arc<Map>, seed: u64, time: Duration) -> Outcome<Readers> {
        let before = map.stats();
        let until = Instant::now() + time;
        let outcomes: Vec<Result<_, String>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..self.threads)
                .map(|thread| {
                    let zipfian = Zipfian::new(seed * 100 + thread, self.records);
                    scope.spawn(move || read_until(map, zipfian, until).map_err(|e| e.to_string()))
                })
                .collect();
            let joined = handles.into_iter().map(ScopedJoinHandle::join);
            joined.map(|end| end.unwrap_or_else(|_| Err("a reader panicked".into()))).collect()
        });
        let mut all = latencies();
        for outcome in outcomes {
            all.add(outcome?)?;
        }
        let after = map.stats();
        let misses = after.faults + after.direct_reads - before.faults - before.direct_reads;
        let reads = all.len();
        Ok(Readers {
            ops_s: count(reads) / time.as_secs_f64(),
            miss: count(misses) / count(reads.max(1)),
            latencies: all,
        })
    }
}

/// What the readers saw.
struct Readers {
    ops_s: f64,
    miss: f64,
    latencies: hdrhistogram::Histogram<u64>,
}

impl Readers {
    fn numbers(&self, names: [&'static str; 4]) -> Numbers {
        let at = |quantile| us(&self.latencies, quantile);
        names.into_iter().zip([self.ops_s, at(0.5), at(0.99), at(0.999)]).collect()
    }
}

fn read_until(
    map: &Map,
    mut zipfian: Zipfian,
    until: Instant,
) -> Outcome<hdrhistogram::Histogram<u64>> {
    let mut latencies = latencies();
    let mut scratch = IoBuf::zeroed(2 * mpool::IO_ALIGN);
    loop {
        let offset = zipfian.draw() * RECORD_BYTES;
        let (object, at) = (usize::try_from(offset / OBJECT_BYTES)?, offset % OBJECT_BYTES);
        let began = Instant::now();
        let bytes = map.read(object, at..at + RECORD_BYTES, &mut scratch)?;
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let ended = Instant::now();
        if sum != 7 * RECORD_BYTES {
            return Err(format!("a record of object {object} at {at} is not what it was").into());
        }
        latencies.record(u64::try_from((ended - began).as_nanos())?.max(1))?;
        if ended >= until {
            return Ok(latencies);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn count(n: u64) -> f64 {
    n as f64
}
