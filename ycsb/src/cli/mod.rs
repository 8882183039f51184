//! The command line.

mod reaper;

pub(crate) use reaper::ReaperArgs;

use crate::machine::bound::BoundArgs;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use std::path::PathBuf;
use std::time::Duration;
use units::Size;

/// Of `ycsb demo`: what a disk has room for.
const RECORDS_MAX: u64 = 1_000_000_000;

const EXAMPLES: &str = "\
Examples:
  ycsb demo
      starts a server on a temporary directory, loads it and runs B and C
  ycsb load --target embedded --data /data/mp -p recordcount=1000000 --threads 4
  ycsb run  --target embedded --data /data/mp -P b -p recordcount=1000000 --threads 8 \\
            --seconds 60 --warmup 10 --memory 2GiB --verify --json b.json
  ycsb run  --target http --url http://127.0.0.1:7300 -P workloads/workloadc \\
            -p recordcount=1000000 --threads 8 --seconds 60 --rate 20000
  ycsb run  --target embedded --data /data/new -P overwrite --threads 2 --json overwrite.json
      a course: loads, overwrites ten times, waits until the store is quiet; space, bytes and
      stalls second by second (docs/benchmarks.md)
  ycsb open --target embedded --data /data/open -p recordcount=1000000 --threads 2
      open and first answer, after clean closes and after kill -9
  ycsb verify --target embedded --data /data/mp -p recordcount=1000000 --threads 4
  ycsb compare --a embedded --b rocksdb --workloads load,b,c -p recordcount=1000000 \\
            --threads 4 --seconds 30 --rounds 3 --json compare.json
  ycsb reaper -p recordcount=8000000 --memory 2GiB --threads 4,8 --dir /data/bench \\
            --json reaper.json --svg reaper.svg";

/// The Yahoo! Cloud Serving Benchmark for Millpond: the original's workloads and distributions,
/// against the engine in process, a server over HTTP, or RocksDB.
#[derive(Debug, Parser)]
#[command(name = "ycsb", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Insert the records of a workload
    Load(RunArgs),
    /// Run a workload's mix of operations on records that were loaded
    Run(RunArgs),
    /// Read every loaded record, one by one and by a scan, and check every byte
    Verify(RunArgs),
    /// Run two targets in turns and print the ratios of their results
    Compare(CompareArgs),
    /// Measure how long a store takes to open, after a clean close and after kill -9
    #[command(mut_args(without_what_opens_refuse))]
    Open(OpenArgs),
    /// Run B and C under each reaper policy in turns and print the ratios to `off`
    Reaper(ReaperArgs),
    /// See it work: a server on a temporary directory, 200,000 records, B and C
    Demo(DemoArgs),
    /// Become another program, which is told to stop when the process that asked dies
    #[command(hide = true)]
    Bound(BoundArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetKind {
    /// The engine in this process
    Embedded,
    /// A Millpond server: --url, or one that is started on --data
    Http,
    /// RocksDB in this process (needs a build with --features rocksdb)
    Rocksdb,
    /// A map in this process: what the driver itself costs. Loaded anew by each run
    Memory,
}

impl TargetKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Http => "http",
            Self::Rocksdb => "rocksdb",
            Self::Memory => "memory",
        }
    }
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// When it is on stable storage
    Sync,
    /// At once; on stable storage within 100 ms
    Interval,
    /// At once; on stable storage some time
    Off,
}

impl DurabilityArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Interval => "interval",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoArg {
    Auto,
    Uring,
    Threads,
}

impl IoArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Threads => "threads",
        }
    }
}

/// Whether a comparison reads all records before each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FillArg {
    /// Where they take no more than 3/5 of --memory (or of the machine's free memory)
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The original's lines, for the scripts that plot them
    Ycsb,
}

/// What a workload is, wherever it runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// Workload file, or a ready-made one: a to f (workloada to workloadf), overwrite, queue,
    /// window, delete-most, scans, many-kvs. May be repeated
    #[arg(short = 'P', value_name = "FILE")]
    pub(crate) files: Vec<String>,

    /// Property; replaces what files say. May be repeated
    #[arg(short = 'p', value_name = "NAME=VALUE")]
    pub(crate) properties: Vec<String>,

    /// Clients at a time [default: property threadcount, else 1]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Run so long, however many operations that is
    #[arg(long, value_name = "S", value_parser = parse_measured)]
    pub(crate) seconds: Option<Duration>,

    /// Run so long before measuring begins
    #[arg(long, value_name = "S", default_value = "0", value_parser = parse_seconds)]
    pub(crate) warmup: Duration,

    /// Open loop: so many operations a second over all threads, latency from when each was due
    #[arg(long, value_name = "OPS")]
    pub(crate) rate: Option<f64>,

    /// Check every value read against what its key must hold (as dataintegrity=true)
    #[arg(long)]
    pub(crate) verify: bool,

    /// Bound the store's process by a memory cgroup (for http: the server that is started)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,

    /// When a write counts as done
    #[arg(long, value_enum, default_value = "sync")]
    pub(crate) durability: DurabilityArg,

    /// Seed of all random choices; the same seed and threads repeat the same operations
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Report to this file as JSON; - for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// What to run against
    #[arg(long, value_enum)]
    pub(crate) target: TargetKind,

    /// Directory of the data (embedded, rocksdb, and the server that http starts)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Form of the result on standard output
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,

    /// Keep the latencies of each second apart, too (field by_second of --json)
    #[arg(long)]
    pub(crate) by_second: bool,

    /// embedded and rocksdb, overwrite to delete-most: hold a snapshot from before the
    /// overwriting or deleting until the store is quiet after it
    #[arg(long)]
    pub(crate) hold_snapshot: bool,

    /// Drop the data's files from the page cache before the store is opened. What the drive itself
    /// keeps stays
    #[arg(long, requires = "data")]
    pub(crate) cold: bool,

    /// How the process ends; for the children of `ycsb open`
    #[arg(long, value_enum, default_value = "close", hide = true)]
    pub(crate) end: EndArg,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct OpenArgs {
    /// Opens after a clean close, before the one after the kill
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = value_parser!(u64).range(1..=1000)
    )]
    pub(crate) opens: u64,

    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Hides the options of a run that an open has no use for.
fn without_what_opens_refuse(argument: clap::Arg) -> clap::Arg {
    let of_runs = ["files", "memory", "seconds", "warmup", "fill", "hold_snapshot"];
    let of_servers = ["url", "server_pid", "server", "server_arg"];
    let id = argument.get_id().as_str();
    if of_runs.contains(&id) || of_servers.contains(&id) { argument.hide(true) } else { argument }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EndArg {
    Close,
    /// By SIGKILL, when all is written.
    Kill,
}

/// How a store is opened.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArgs {
    /// http: a server that is running
    #[arg(long, conflicts_with_all = ["data", "memory"])]
    pub(crate) url: Option<String>,

    /// http with --url: the server's process on this machine, to count its CPU and I/O, too
    #[arg(long, value_name = "PID", requires = "url")]
    pub(crate) server_pid: Option<u32>,

    /// http: the program to start [default: the millpond beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) server: Option<PathBuf>,

    /// http: a further argument for the server. May be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,

    /// embedded and http: how the drive is asked
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) io: IoArg,

    /// embedded and http: allow a file system without direct I/O (tmpfs, overlayfs)
    #[arg(long)]
    pub(crate) allow_buffered: bool,

    /// embedded and rocksdb: an option of the engine, for example reaper=off (or mpool, or
    /// frequency). May be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) engine: Vec<String>,

    /// embedded and rocksdb: let flushes and compactions finish, before a run and after a load
    #[arg(long)]
    pub(crate) settle: bool,

    /// Before a run, read all records until they are in memory, or until that does not help any
    /// more. For data that fits: what does not is shuffled through the caches
    #[arg(long)]
    pub(crate) fill: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Side A; ratios above 1 mean that it is better
    #[arg(long, value_enum)]
    pub(crate) a: TargetKind,

    /// Side B
    #[arg(long, value_enum)]
    pub(crate) b: TargetKind,

    /// Further arguments for side A, in one word: --a-args "--engine reaper=off"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) a_args: String,

    /// Further arguments for side B
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) b_args: String,

    /// What to run, in this order: load, and ready-made workloads or files
    #[arg(long, value_delimiter = ',', default_value = "load,b,c")]
    pub(crate) workloads: Vec<String>,

    /// Times that everything is done on each side
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,

    /// Whether all records are read before each run, until they are in memory
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) fill: FillArg,

    /// Both sides' data goes below this directory and is removed [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Records to load
    #[arg(
        long,
        default_value_t = 200_000,
        value_parser = value_parser!(u64).range(1..=RECORDS_MAX)
    )]
    pub(crate) records: u64,

    /// Seconds of each of B and C
    #[arg(long, default_value = "10", value_parser = parse_measured)]
    pub(crate) seconds: Duration,

    /// Clients at a time
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u16).range(1..=10_000))]
    pub(crate) threads: u16,

    /// The server program [default: the millpond beside this program, built if need be]
    #[arg(long, value_name = "PATH")]
    pub(crate) server: Option<PathBuf>,

    /// Put the data below this directory [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

fn parse_seconds(text: &str) -> Result<Duration> {
    /// Thirty years.
    const MAX: f64 = 1e9;
    let seconds: f64 = text.trim_end_matches('s').parse().context("must be a number of seconds")?;
    // NaN is in no range.
    if !(0.0..=MAX).contains(&seconds) {
        bail!("must be a number of seconds from 0 to {MAX}");
    }
    Duration::try_from_secs_f64(seconds).context("must be a number of seconds")
}

/// Seconds in which something is to be measured.
fn parse_measured(text: &str) -> Result<Duration> {
    let time = parse_seconds(text)?;
    if time.is_zero() {
        bail!("in 0 seconds nothing can be measured");
    }
    Ok(time)
}

fn parse_size(text: &str) -> Result<u64> {
    const MIN: u64 = 16 << 20;
    let size = parse_bytes(text)?;
    if size < MIN {
        bail!("{text} is {size} bytes; a process needs at least {MIN}, 16MiB");
    }
    Ok(size)
}

/// A number of bytes: 4096, 64KiB, 1.5GiB, 2G; a unit may be short.
pub(crate) fn parse_bytes(text: &str) -> Result<u64> {
    Ok(text.parse::<Size>()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read() {
        for (text, expect) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), expect, "{text}");
        }
        for text in ["", "GiB", "2XB", "-1", "99999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(parse_size("1MiB").unwrap_err().to_string().contains("16MiB"));
    }

    #[test]
    fn seconds_are_read() {
        assert_eq!(parse_seconds("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_seconds("10s").unwrap(), Duration::from_secs(10));
        for text in ["-1", "soon", "NaN", "inf", "1e18", ""] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert!(parse_measured("0").is_err() && parse_measured("0.1").is_ok());
    }

    #[test]
    fn a_side_can_have_arguments() {
        let words =
            ["ycsb", "compare", "--a", "embedded", "--b", "memory", "--a-args", "--io uring"];
        let Command::Compare(args) = Cli::parse_from(words).command else { panic!("compare") };
        assert_eq!((args.a_args.as_str(), args.workloads.len()), ("--io uring", 3));
    }
}
