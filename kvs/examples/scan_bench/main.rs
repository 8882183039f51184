//! What scans cost: whole ones on trees of any shape, and short ones from the head of a queue.
//!
//! ```text
//! cargo run --release -p millpond-kvs --example scan_bench -- COMMAND dir=DIR [NAME=NUMBER ...]
//!
//! load      fills a new database           keys=1000000 value=1000 random=1 flushes=16 compact=0
//!           and scans it at once           rounds=0
//! scan      whole scans, both ways         rounds=3 warm=1
//! beside    scans beside writers           keys=1000000 seconds=10 value=1000 writers=1 warm=1
//! queue     head scans of a queue          operations=1000000 live=1000 value=100 every=1000
//! window    head scans of a window         inserts=6000000 live=200000 value=116 every=5000
//! deleted   limit=1 after 90 % are gone    keys=500000 value=1000
//! versions  a snapshot under many versions versions=400000
//! ```
//!
//! All commands take `memtable_mib` (64), `memory_mib` (0: what the system has), and `threads` (2),
//! those of the background. `load`, `queue`, `window`, `deleted` and `versions` want a directory
//! that holds no database; `scan` and `beside` one that `load` has filled.
//!
//! `warm=1` closes and opens the database, which then reads its values into memory, and waits for
//! that; it says how much is resident. `warm=0` opens it and scans at once: values come from the
//! drive (pages of the index are read at the open either way). Scans print keys and MB a second,
//! and the bytes that they read from the drive.
//!
//! Head scans are `limit=1` from the start of the KVS (and now and then from its end), on a
//! snapshot of their own, taken between two operations of the writer; what is printed is their time
//! in microseconds: the median, the 99th percentile, and the longest. `alone` is what is left of it
//! without the time for which the thread was ready and had no processor.
//!
//! "Pages waited for" are those that were read page by page, by anybody, while a scan was under
//! way.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "prints its results")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts and times on a 64-bit machine"
)]
#![allow(clippy::disallowed_methods, reason = "it waits for what it has no bell of")]

mod clock;
mod heads;
mod whole;

use kvs::{Database, Options};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The arguments of a run.
pub(crate) struct Arguments {
    dir: PathBuf,
    numbers: BTreeMap<String, u64>,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut dir, mut numbers) = (None, BTreeMap::new());
        for argument in arguments {
            let Some((name, value)) = argument.split_once('=') else {
                return Err(format!("{argument:?} is not NAME=VALUE"));
            };
            if name == "dir" {
                dir = Some(PathBuf::from(value));
            } else {
                let number = value.parse().map_err(|_| format!("{argument:?} is no number"))?;
                numbers.insert(name.to_owned(), number);
            }
        }
        Ok(Self { dir: dir.ok_or("dir=DIR is missing")?, numbers })
    }

    /// A number, or its default.
    pub(crate) fn number(&self, name: &str, default: u64) -> u64 {
        self.numbers.get(name).copied().unwrap_or(default)
    }

    /// Opens or creates the database.
    pub(crate) fn open(&self) -> kvs::Result<Database> {
        std::fs::create_dir_all(&self.dir).expect("the directory can be made");
        let mut options = Options {
            memtable_bytes: self.number("memtable_mib", 64) << 20,
            background_threads: self.number("threads", 2),
            ..Options::default()
        };
        let memory = self.number("memory_mib", 0) << 20;
        options.pool.reaper.budget_bytes = (memory > 0).then_some(memory);
        options.pool.allow_buffered = true;
        options.pool.allow_volatile = true;
        Database::open(&self.dir, options)
    }

    /// Opens it and, if asked to, waits until its values are in memory.
    pub(crate) fn open_filled(&self) -> kvs::Result<Database> {
        let db = self.open()?;
        if self.number("warm", 1) == 1 {
            let mut before = u64::MAX;
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let loaded = metric(&db, "mpool_mcache_preloaded_bytes_total");
                if loaded == before {
                    break;
                }
                before = loaded;
            }
            println!("resident: {} MB", before / 1_000_000);
        }
        Ok(db)
    }
}

/// The sum of a counter or gauge.
pub(crate) fn metric(db: &Database, name: &str) -> u64 {
    let mut sum = 0.0;
    db.visit_metrics(&mut |sample| {
        if sample.name == name
            && let kvs::metrics::Value::Counter(value) | kvs::metrics::Value::Gauge(value) =
                sample.value
        {
            sum += value;
        }
    });
    sum.max(0.0).round() as u64
}

/// splitmix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn run() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or("a command is missing")?;
    let arguments = Arguments::parse(words)?;
    let done = match command.as_str() {
        "load" => whole::load(&arguments),
        "scan" => whole::scan(&arguments),
        "beside" => whole::beside(&arguments),
        "queue" => heads::queue(&arguments),
        "window" => heads::window(&arguments),
        "deleted" => heads::deleted(&arguments),
        "versions" => heads::versions(&arguments),
        _ => return Err(format!("there is no command {command:?}")),
    };
    done.map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}; how it is used stands at the head of kvs/examples/scan_bench");
            ExitCode::FAILURE
        }
    }
}
