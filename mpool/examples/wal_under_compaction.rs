//! What an append to a log waits for while compaction saturates the drive.
//!
//! ```text
//! cargo run --release -p millpond-mpool --example wal_under_compaction -- --dir DIR
//!     [--appends 500] [--compactions 4] [--rounds 3] [--seconds 5] [--data 2GiB] [--json FILE]
//!     [--kinds quiet,unpaced,paced,hurried]
//! ```
//!
//! One thread appends 4 KiB durably to a segment that was written before, `--appends` a second on
//! schedule: a late one counts from when it should have begun (open loop). Beside it, as many
//! threads as `--compactions` read objects of 8 MiB at 256 KiB a time and write what they read to
//! new ones, as fast as they may:
//!
//! | kind | compaction |
//! |---|---|
//! | `quiet` | none |
//! | `unpaced` | pacing off: requests of 1 MiB, started by priority alone |
//! | `paced` | pacing on |
//! | `hurried` | pacing on, and lifted by `IoQueue::hurry`: what a store with debt does |
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "support/mod.rs"]
mod support;

use mpool::{IoBuf, Mblock, Options, PacingOptions, Pool, Priority};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use support::{Args, Numbers, Outcome, Report, latencies, us, wait_until};

const OBJECT_BYTES: u64 = 8 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;
const APPEND_BYTES: u64 = 4096;
const READ_BYTES: u64 = 256 << 10;
const ARGS: &[(&str, &str)] = &[
    ("dir", ""),
    ("data", "2GiB"),
    ("appends", "500"),
    ("compactions", "4"),
    ("rounds", "3"),
    ("seconds", "5"),
    ("kinds", "quiet,unpaced,paced,hurried"),
    ("json", ""),
];

struct Bench {
    dir: PathBuf,
    seconds: Duration,
    appends: u32,
    compactions: usize,
}

fn main() -> Outcome<()> {
    let args = Args::parse(ARGS)?;
    if args.text("dir").is_empty() {
        return Err("--dir is needed: a directory on the drive to be measured".into());
    }
    let bench = Bench {
        dir: args.text("dir").into(),
        seconds: Duration::from_secs(args.size("seconds")?),
        appends: u32::try_from(args.size("appends")?)?,
        compactions: usize::try_from(args.size("compactions")?)?,
    };
    bench.fill(args.size("data")? / OBJECT_BYTES)?;
    let mut report = Report::default();
    for round in 1..=args.size("rounds")? {
        for kind in args.list("kinds") {
            let numbers = bench.measure(kind)?;
            let shown: Vec<String> =
                numbers.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
            println!("round {round}: {kind}: {}", shown.join(", "));
            report.add(kind, numbers);
        }
    }
    report.finish(args.text("json"))
}

impl Bench {
    fn open(&self, kind: &str) -> mpool::Result<Arc<Pool>> {
        let pacing = PacingOptions { enabled: kind != "unpaced", ..PacingOptions::default() };
        let options = Options {
            grow_step_bytes: 64 << 20,
            reserve_bytes: Some(0),
            pacing,
            ..Options::default()
        };
        Pool::open_or_create(&self.dir, &options)
    }

    fn fill(&self, objects: u64) -> Outcome<()> {
        let pool = self.open("hurried")?;
        if pool.segment_ids().is_empty() {
            pool.create_segment(SEGMENT_BYTES)?;
        }
        let bytes = vec![7; usize::try_from(OBJECT_BYTES)?];
        for _ in pool.mblock_ids().len() as u64..objects {
            let mut writer = pool.allocate(OBJECT_BYTES, Priority::Flush)?;
            writer.append(&bytes)?;
            pool.commit(vec![writer], &[])?;
        }
        Ok(())
    }

    fn measure(&self, kind: &str) -> Outcome<Numbers> {
        let pool = self.open(kind)?;
        pool.queue().hurry(kind == "hurried");
        let ids = pool.mblock_ids();
        let mblocks: Vec<Mblock> =
            ids.into_iter().map(|id| pool.mblock(id)).collect::<Result<_, _>>()?;
        let threads = if kind == "quiet" { 0 } else { self.compactions };
        let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
        let share = mblocks.len().div_ceil(self.compactions);
        let measured = std::thread::scope(|scope| {
            let handles: Vec<_> = mblocks
                .chunks(share)
                .take(threads)
                .map(|mblocks| {
                    let (pool, stop, moved) = (&pool, &stop, &moved);
                    scope.spawn(move || {
                        compact(pool, mblocks, stop, moved).map_err(|error| error.to_string())
                    })
                })
                .collect();
            let measured = self.append(&pool);
            stop.store(true, Relaxed);
            for handle in handles {
                handle.join().map_err(|_| "a compaction panicked".to_owned())??;
            }
            measured
        })?;
        let at = |quantile| us(&measured, quantile);
        let mut numbers = vec![
            ("p50_us", at(0.5)),
            ("p99_us", at(0.99)),
            ("p999_us", at(0.999)),
            ("max_us", at(1.0)),
        ];
        numbers.push(("compaction_mib_s", per_second(moved.load(Relaxed) >> 20, self.seconds)));
        Ok(numbers)
    }

    /// Appends on schedule, and returns how late each was done.
    fn append(&self, pool: &Arc<Pool>) -> Outcome<hdrhistogram::Histogram<u64>> {
        let segment = pool.open_segment(pool.segment_ids()[0])?;
        let mut page = IoBuf::zeroed(usize::try_from(APPEND_BYTES)?);
        let mut latencies = latencies();
        let began = Instant::now();
        let every = Duration::from_secs(1) / self.appends;
        for n in 0_u32.. {
            let due = began + every * n;
            if due - began >= self.seconds {
                break;
            }
            wait_until(due);
            page.fill(n.to_le_bytes()[0]);
            let at = u64::from(n) * APPEND_BYTES % SEGMENT_BYTES;
            segment.write_durable_at(at, &page)?;
            latencies.record(u64::try_from(due.elapsed().as_nanos())?)?;
        }
        Ok(latencies)
    }
}

/// Copies objects until it is told to stop; a copy that is not committed leaves nothing behind.
fn compact(
    pool: &Arc<Pool>,
    mblocks: &[Mblock],
    stop: &AtomicBool,
    moved: &AtomicU64,
) -> Outcome<()> {
    let mut buf = IoBuf::zeroed(usize::try_from(READ_BYTES)?);
    for mblock in mblocks.iter().cycle() {
        let mut writer = pool.allocate(OBJECT_BYTES, Priority::Compaction)?;
        for at in (0..mblock.len_bytes()).step_by(buf.len()) {
            if stop.load(Relaxed) {
                return Ok(());
            }
            mblock.read_at_priority(at, &mut buf, Priority::Compaction)?;
            writer.append(&buf)?;
            moved.fetch_add(2 * READ_BYTES, Relaxed);
        }
        let copy = pool.commit(vec![writer], &[])?.remove(0).id();
        pool.commit(vec![], &[copy])?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn per_second(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64()
}
