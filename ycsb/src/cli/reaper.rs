//! The arguments of `ycsb reaper`.

use super::{DurabilityArg, IoArg, parse_seconds, parse_size};
use clap::Args;
use mpool::ReaperPolicy;
use std::path::PathBuf;
use std::time::Duration;

/// `docs/benchmarks.md` says how a published figure is taken with this.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReaperArgs {
    /// Policies: frequency, mpool (as in 2020) and off (the kernel's reclaim). Ratios are to off
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "off,mpool,frequency")]
    pub(crate) policies: Vec<ReaperPolicy>,

    /// One more side: off, but with a value cache of this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) value_cache_in_off: Option<u64>,

    /// Workloads: ready-made ones or files
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "b,c")]
    pub(crate) workloads: Vec<String>,

    /// Clients at a time; each number is a block of runs of its own
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "4,8")]
    pub(crate) threads: Vec<usize>,

    /// Times that each policy runs each workload; a spread needs at least 3
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,

    /// Measured time of a run
    #[arg(long, value_name = "S", default_value = "30", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,

    /// Time before it in which caches fill; long enough for --memory at the drive's speed
    #[arg(long, value_name = "S", default_value = "30", value_parser = parse_seconds)]
    pub(crate) warmup: Duration,

    /// Before the first round, serve the last of the workloads with the policy frequency for so
    /// long. What the value cache learns is kept from run to run, as it is by any clean restart;
    /// each run asks for other keys in another order
    #[arg(long, value_name = "S", default_value = "0", value_parser = parse_seconds)]
    pub(crate) learn: Duration,

    /// Open loop: so many operations a second over all threads, latency from when each was due.
    /// The same for all policies: what one that keeps up is worth to who does not ask for more
    #[arg(long, value_name = "OPS")]
    pub(crate) rate: Option<f64>,

    /// Memory group of each run. Without it the whole machine's memory is the limit
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,

    /// The data set is loaded below this directory, and kept; it decides which drive is measured
    /// [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Use the data set that an earlier run loaded below --dir
    #[arg(long, requires = "dir")]
    pub(crate) reuse: bool,

    /// Workload file that all runs and the load have in common. May be repeated
    #[arg(short = 'P', value_name = "FILE")]
    pub(crate) files: Vec<String>,

    /// Property, for the load and all runs: recordcount=8000000. May be repeated
    #[arg(short = 'p', value_name = "NAME=VALUE")]
    pub(crate) properties: Vec<String>,

    /// When a write counts as done
    #[arg(long, value_enum, default_value = "sync")]
    pub(crate) durability: DurabilityArg,

    /// Seed of all random choices: of the load, and with the number of the turn and of the uses of
    /// the data set of each run
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// How the drive is asked
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) io: IoArg,

    /// Allow a file system without direct I/O (tmpfs, overlayfs); such figures mean nothing
    #[arg(long)]
    pub(crate) allow_buffered: bool,

    /// An option of the engine, for all policies. May be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) engine: Vec<String>,

    /// Everything that was measured to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Latency over time to this file as a picture
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}
