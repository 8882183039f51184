//! What one source of the configuration says: every option, declared and explained once.
//!
//! clap reads [`Settings`] from flags and environment, serde from the file. The comments are what
//! `--help` and `config print` show.

use crate::telemetry::LogFormat;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use units::{Size, Span};

/// How the store talks to the drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// `io_uring` where the kernel and the sandbox allow it, else threads.
    #[default]
    Auto,
    /// `io_uring`, or refuse to start.
    Uring,
    /// A pool of threads.
    Threads,
}

/// Where a store is made by serving a directory that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Create {
    /// Where there is no directory, or an empty one.
    #[default]
    Auto,
    /// Also beside other files.
    Always,
    /// Nowhere.
    Never,
}

/// Who decides what leaves memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Reaper {
    /// Pages and records by how often they are asked for.
    #[default]
    Frequency,
    /// Whole objects by the time since their last fault, as mpool did in 2020; no value cache.
    Mpool,
    /// The kernel; no value cache.
    Off,
}

/// What goes on the pool's staging volume, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum MediaPolicy {
    /// All but the values of leaves.
    #[default]
    Auto,
    /// Nothing but the log.
    CapacityOnly,
    /// Everything.
    StagingOnly,
    /// All but the values of leaves.
    StagingMaxCapacity,
    /// What was written last: keys and values of the root.
    StagingMinCapacity,
}

/// What to do about damage in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum WalDamage {
    /// Refuse to start.
    #[default]
    Refuse,
    /// The log ends where the damage begins.
    StopAtDamage,
    /// Everything counts that can be read.
    SkipDamaged,
    /// The log is left out, sound or not: only what has been flushed counts.
    LeaveOut,
}

impl From<WalDamage> for kvs::LogDamage {
    fn from(damage: WalDamage) -> Self {
        match damage {
            WalDamage::Refuse => Self::Refuse,
            WalDamage::StopAtDamage => Self::StopAtDamage,
            WalDamage::SkipDamaged => Self::SkipDamaged,
            WalDamage::LeaveOut => Self::LeaveOut,
        }
    }
}

/// What one source says. The comments are shown by `--help` and `config print`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory of the data; created if there is none, as far as `create` allows that
    #[arg(long, env = "MILLPOND_DATA", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Address or host name, and port, to listen on; port 0 picks a free one. Of a name's addresses
    /// the first counts, those of IPv4 before those of IPv6
    #[arg(long, env = "MILLPOND_LISTEN", value_name = "HOST:PORT", value_parser = resolve)]
    #[serde(default, deserialize_with = "listen", skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// How to talk to the drive: `auto` takes `io_uring` where it is permitted
    #[arg(long, env = "MILLPOND_IO", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// Memory for data, 1MiB to 4PiB: value cache, mapped pages and unflushed writes. 0 takes the
    /// cgroup's limit, else 60 % of what is available; of a limit and a size the smaller counts
    #[arg(long, env = "MILLPOND_MEMORY", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Who decides what leaves memory: `frequency`, or, to compare with, `mpool` (objects by age,
    /// as in 2020) or `off` (the kernel)
    #[arg(long, env = "MILLPOND_REAPER", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reaper: Option<Reaper>,
    /// Most bytes that the root volume may take; raises what the pool has been told before, for
    /// good, as pool grow does, and never lowers it; 256MiB to 4PiB. 0 takes the pool's own limit,
    /// 1TiB for a new one
    #[arg(long, env = "MILLPOND_CAPACITY", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
    /// Bytes of their disk that volume files leave to others, at most 4PiB; if not given, 512MiB,
    /// or 5 % of a disk under 10GiB
    #[arg(long, env = "MILLPOND_DISK_RESERVE", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_reserve: Option<Size>,
    /// How long space of the volumes is free before it goes back to their disks, at most twice as
    /// long; up to 24h. 0s keeps it for good
    #[arg(long, env = "MILLPOND_DISK_RETURN_AFTER", value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_return_after: Option<Span>,
    /// Most bytes per second that go back to the disks; 1MiB to 1TiB
    #[arg(long, env = "MILLPOND_DISK_RETURN_RATE", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_return_rate: Option<Size>,
    /// What goes on the staging volume of a pool that has one
    #[arg(long, env = "MILLPOND_MEDIA_POLICY", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_policy: Option<MediaPolicy>,
    /// Use the page cache for writes where the file system refuses direct I/O (tmpfs, overlayfs);
    /// for tests
    #[arg(long, env = "MILLPOND_ALLOW_BUFFERED", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_buffered: Option<bool>,
    /// Accept a data directory that forgets: on tmpfs or ramfs, which are memory, or on overlayfs,
    /// which is a container's own layer; for tests, and for data that may go
    #[arg(long, env = "MILLPOND_ALLOW_VOLATILE", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_volatile: Option<bool>,
    /// Whether a store is made where there is none: `auto` only where the data directory is absent
    /// or empty, `always` also beside other files (and without a value), `never`
    #[arg(long, env = "MILLPOND_CREATE", value_enum, num_args = 0..=1,
          default_missing_value = "always")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<Create>,
    /// Serve what is there without writing to it: writes and changes are refused with 403, and
    /// nothing is repaired
    #[arg(long, env = "MILLPOND_READ_ONLY", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// With --read-only: what to do about damage in the write-ahead log
    #[arg(long, env = "MILLPOND_READ_ONLY_WAL", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only_wal: Option<WalDamage>,
    /// With --read-only: leave kvsets out that cannot be opened, and lost last edits of the
    /// manifest; older values of their keys may show
    #[arg(long, env = "MILLPOND_READ_ONLY_SKIP_KVSETS", num_args = 0..=1,
          default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only_skip_kvsets: Option<bool>,
    /// Serve /v1/admin, by which whoever reaches the server manages its volumes; if not given, only
    /// when listening on a loopback address
    #[arg(long, env = "MILLPOND_ADMIN", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<bool>,
    /// Names by which clients may call the server, with a port or for any, * for all names. On a
    /// loopback address: besides localhost and the like. On others: any name, unless some are given
    #[arg(long, env = "MILLPOND_ALLOWED_HOSTS", value_name = "HOST,..", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Web pages that may use the server, by their origins (`https://pond.example`), besides those
    /// that come from the host and port that they ask
    #[arg(long, env = "MILLPOND_ALLOWED_ORIGINS", value_name = "ORIGIN,..", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<String>>,
    /// Longest time a write with durability=interval is only in memory, 1ms to 1min
    #[arg(long, env = "MILLPOND_INTERVAL", value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Longest time that a start should take to replay the log after a crash, 1s to 1h; the log is
    /// kept as short as that takes, by what the last replay has measured
    #[arg(long, env = "MILLPOND_RECOVERY_TIME", value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_time: Option<Span>,
    /// Unflushed writes held in memory before they go to the tree, 1MiB to 4GiB; larger means a
    /// longer recovery
    #[arg(long, env = "MILLPOND_MEMTABLE", value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memtable: Option<Size>,
    /// Format of log lines, which go to standard error
    #[arg(long, env = "MILLPOND_LOG_FORMAT", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// What is logged: off, error, warn, info, debug or trace, or a list such as info,kvs=debug
    #[arg(long, env = "MILLPOND_LOG", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Requests that take longer are logged
    #[arg(long, env = "MILLPOND_SLOW_REQUEST", value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_request: Option<Span>,
    /// Threads that serve connections, at most 1024; 0 is one for each CPU
    #[arg(long, env = "MILLPOND_WORKERS", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Most connections open at a time, 1 to 1000000
    #[arg(long, env = "MILLPOND_CONNECTIONS", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Most bytes of a value, at most 16MiB
    #[arg(long, env = "MILLPOND_VALUE_MAX", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_max: Option<Size>,
    /// Most bytes of the body of a batch
    #[arg(long, env = "MILLPOND_BATCH_MAX", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_max: Option<Size>,
    /// Memory that the bodies of all requests may take together; 0 takes an eighth of the memory
    /// for data, 64MiB to 256MiB. An eighth more is for bodies of up to 64KiB
    #[arg(long, env = "MILLPOND_BODY_MEMORY", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_memory: Option<Size>,
    /// Memory that the heads of all requests may take together, from first byte to answer; 0 takes
    /// a 32nd of the memory for data, 16MiB to 64MiB. Heads of up to 4KiB are not counted
    #[arg(long, env = "MILLPOND_HEAD_MEMORY", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_memory: Option<Size>,
    /// Memory that all responses, and reads for them, may take together; 0 takes an eighth of the
    /// memory for data, 64MiB to 256MiB. An eighth more is for responses of up to 64KiB
    #[arg(long, env = "MILLPOND_RESPONSE_MEMORY", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_memory: Option<Size>,
    /// Least bytes per second at which clients send bodies and read responses; who is 10s behind
    /// with a body, or `write_timeout` with a response, is cut off; of a response up to 8MiB count
    /// that were read ahead of the rate. 0: whatever moves is enough
    #[arg(long, env = "MILLPOND_RATE_MIN", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_min: Option<Size>,
    /// Most bytes of a request's head
    #[arg(long, env = "MILLPOND_HEADER_MAX", value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_max: Option<Size>,
    /// Scans that are walked at a time; each takes a thread
    #[arg(long, env = "MILLPOND_BLOCKING_THREADS", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocking_threads: Option<usize>,
    /// Scans streamed at a time
    #[arg(long, env = "MILLPOND_STREAMS", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<usize>,
    /// Longest time for the head of a request to arrive
    #[arg(long, env = "MILLPOND_HEADER_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_timeout: Option<Span>,
    /// Longest time a connection may be idle; clients that pool connections expect 75s or more
    #[arg(long, env = "MILLPOND_IDLE_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// Longest time a client may be behind `rate_min` with a response, or leave small ones unread
    #[arg(long, env = "MILLPOND_WRITE_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<Span>,
    /// Longest time for a body to arrive, and for the store to answer
    #[arg(long, env = "MILLPOND_REQUEST_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Span>,
    /// Longest time for a page of a scan; then it ends early, with a cursor and fewer items, or
    /// none
    #[arg(long, env = "MILLPOND_SCAN_TIME_MAX", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan_time_max: Option<Span>,
    /// Longest time for which a scan may hold its snapshot, 1s to 30 days: what was overwritten or
    /// deleted since is not freed meanwhile. Then it ends with an error. 0s is for ever
    #[arg(long, env = "MILLPOND_SNAPSHOT_AGE_MAX", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_age_max: Option<Span>,
    /// Longest time requests under way may take to finish at shutdown
    #[arg(long, env = "MILLPOND_DRAIN_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Span>,
    /// Longest time the store may take to close at shutdown; after it the process ends with 1
    #[arg(long, env = "MILLPOND_CLOSE_TIMEOUT", value_name = "TIME", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_timeout: Option<Span>,
}

/// The address that a text names: an address, or a host's name, with a port.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!("{text:?} is no HOST:PORT such as 127.0.0.1:7300 or localhost:7300: {why}")
    };
    let found = text.to_socket_addrs().map_err(|error| wrong(&error))?;
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| wrong(&"the name has no address"))
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    resolve(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        assert_eq!(resolve("0.0.0.0:80").unwrap().to_string(), "0.0.0.0:80");
        assert_eq!(resolve("[::1]:80").unwrap().to_string(), "[::1]:80");
        let local = resolve("localhost:7300").unwrap();
        assert!(local.ip().is_loopback() && local.port() == 7300, "{local}");
        for text in ["here", "7300", "127.0.0.1", "127.0.0.1:99999", ""] {
            let error = resolve(text).unwrap_err();
            assert!(error.contains("localhost:7300"), "{text}: {error}");
        }
    }
}
