//! Configuration: defaults, then a TOML file, then the environment, then flags.
//!
//! [`Config`] is the effective one, [`Settings`] what one source says. `millpond config print`
//! writes the effective configuration as a file that could be used in its place.

mod bounds;
mod effective;
pub mod environment;
mod print;
mod settings;

pub use self::settings::{Create, Io, MediaPolicy, Reaper, Settings, WalDamage};
use crate::admission::access::Access;
use crate::connection::ConnectionLimits;
use crate::connection::Timeouts;
use crate::state::Limits;
use crate::telemetry::{self, LogFormat};
use anyhow::{Context, bail};
pub(crate) use bounds::check_capacity;
use bounds::returning;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use units::{Size, Span};

/// What the memory governor needs at least.
const MEMORY_MIN: Size = Size(1 << 20);

/// Most threads that serve connections: far more than help on any machine.
const WORKERS_MAX: usize = 1024;

/// The effective configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "options that are on or off")]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub io: Io,
    pub memory: Size,
    pub reaper: Reaper,
    pub capacity: Size,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_reserve: Option<Size>,
    pub disk_return_after: Span,
    pub disk_return_rate: Size,
    pub media_policy: MediaPolicy,
    pub allow_buffered: bool,
    pub allow_volatile: bool,
    pub create: Create,
    pub read_only: bool,
    pub read_only_wal: WalDamage,
    pub read_only_skip_kvsets: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<bool>,
    pub allowed_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub interval: Span,
    pub recovery_time: Span,
    pub memtable: Size,
    pub log_format: LogFormat,
    pub log: String,
    pub slow_request: Span,
    pub workers: usize,
    pub connections: usize,
    pub value_max: Size,
    pub batch_max: Size,
    pub body_memory: Size,
    pub head_memory: Size,
    pub response_memory: Size,
    pub rate_min: Size,
    pub header_max: Size,
    pub blocking_threads: usize,
    pub streams: usize,
    pub header_timeout: Span,
    pub idle_timeout: Span,
    pub write_timeout: Span,
    pub request_timeout: Span,
    pub scan_time_max: Span,
    pub snapshot_age_max: Span,
    pub drain_timeout: Span,
    pub close_timeout: Span,
}

/// Of the memory for data, this much may be held by request bodies, and as much by responses,
/// unless the configuration says otherwise.
const TRAFFIC_PART: u64 = 8;

/// The least and the most of that: a few of the largest values, and enough for a fast network.
const TRAFFIC_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=256 << 20;

/// Of the memory for data, this much may be held by heads of requests.
const HEADS_PART: u64 = 32;

/// The least and the most of that: heads are a few hundred bytes unless somebody wants harm.
const HEADS_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=64 << 20;

fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

fn size(bytes: usize) -> Size {
    Size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

impl Default for Config {
    fn default() -> Self {
        let (limits, connections) = (Limits::default(), ConnectionLimits::default());
        Self {
            data: "./millpond-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7300)),
            io: Io::default(),
            memory: Size(0),
            reaper: Reaper::default(),
            capacity: Size(0),
            disk_reserve: None,
            disk_return_after: Span(Duration::from_mins(1)),
            disk_return_rate: Size(128 << 20),
            media_policy: MediaPolicy::default(),
            allow_buffered: false,
            allow_volatile: false,
            create: Create::default(),
            read_only: false,
            read_only_wal: WalDamage::default(),
            read_only_skip_kvsets: false,
            admin: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            interval: Span(Duration::from_millis(100)),
            recovery_time: seconds(10),
            memtable: Size(64 << 20),
            log_format: LogFormat::default(),
            log: "info".into(),
            slow_request: Span(limits.slow_request),
            workers: 0,
            connections: connections.connections_max,
            value_max: size(limits.value_bytes_max),
            batch_max: size(limits.batch_bytes_max),
            body_memory: Size(0),
            head_memory: Size(0),
            response_memory: Size(0),
            rate_min: Size(limits.rate_min),
            header_max: size(connections.header_bytes_max),
            blocking_threads: limits.blocking_threads,
            streams: limits.streams_max,
            header_timeout: Span(connections.timeouts.header),
            idle_timeout: Span(connections.timeouts.idle),
            write_timeout: Span(connections.timeouts.write),
            request_timeout: Span(limits.request_timeout),
            scan_time_max: Span(limits.scan_time_max),
            snapshot_age_max: seconds(3600),
            drain_timeout: seconds(25),
            close_timeout: seconds(60),
        }
    }
}

impl Config {
    /// Reads `file`, if one is given, and lays `flags` (which hold the environment, too) over it.
    pub fn load(file: Option<&Path>, flags: &Settings) -> anyhow::Result<Self> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("config file {} cannot be read", path.display()))?,
            None => String::new(),
        };
        Self::resolve(&text, flags).with_context(|| match file {
            Some(path) => format!("config file {}", path.display()),
            None => "configuration".into(),
        })
    }

    /// The effective configuration of a file's text and flags.
    pub fn resolve(file: &str, flags: &Settings) -> anyhow::Result<Self> {
        let file: Settings = toml::from_str(file)?;
        let mut effective = toml::Table::try_from(Self::default())?;
        effective.extend(toml::Table::try_from(&file)?);
        effective.extend(toml::Table::try_from(flags)?);
        let config: Self = effective.try_into()?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> anyhow::Result<()> {
        telemetry::check_filter(&self.log)?;
        if self.memory.0 > 0 && self.memory < MEMORY_MIN {
            bail!("option memory is {}, must be 0 or at least {MEMORY_MIN}", self.memory);
        }
        let value_bytes_max = size(kvs::VALUE_BYTES_MAX);
        bounds::check_writes(self.memtable, self.interval)?;
        bounds::snapshot_age_ms(self.snapshot_age_max)?;
        if self.value_max > value_bytes_max {
            bail!("option value_max is {}, must be at most {value_bytes_max}", self.value_max);
        }
        for (name, size, min) in
            [("header_max", self.header_max, 8 << 10), ("batch_max", self.batch_max, 1 << 10)]
        {
            if size.0 < min {
                bail!("option {name} is {size}, must be at least {}", Size(min));
            }
        }
        self.access()?;
        for (name, size, min) in [
            ("body_memory", self.body_memory, self.value_max.0.max(self.batch_max.0)),
            // A value is read through a buffer of its size.
            ("response_memory", self.response_memory, (3 * self.value_max.0).max(1 << 20)),
            ("head_memory", self.head_memory, self.head_memory_min().0),
        ] {
            if size.0 > 0 && size.0 < min {
                bail!("option {name} is {size}, must be 0 or at least {}", Size(min));
            }
        }
        if !self.read_only
            && (self.read_only_wal != WalDamage::Refuse || self.read_only_skip_kvsets)
        {
            bail!(
                "options read_only_wal and read_only_skip_kvsets need read_only; to change a damaged \
                 store use millpond recover"
            );
        }
        check_capacity(self.capacity)?;
        returning(self.disk_return_after, self.disk_return_rate)?;
        bounds::check_disk_reserve(self.disk_reserve)?;
        for (name, count) in [
            ("connections", self.connections),
            ("blocking_threads", self.blocking_threads),
            ("streams", self.streams),
        ] {
            if !(1..=1_000_000).contains(&count) {
                bail!("option {name} is {count}, must be in 1..=1000000");
            }
        }
        if self.workers > WORKERS_MAX {
            bail!("option workers is {}, must be in 0..={WORKERS_MAX}", self.workers);
        }
        for (name, span) in [
            ("header_timeout", self.header_timeout),
            ("idle_timeout", self.idle_timeout),
            ("write_timeout", self.write_timeout),
            ("request_timeout", self.request_timeout),
            ("scan_time_max", self.scan_time_max),
            ("close_timeout", self.close_timeout),
        ] {
            if span.0.is_zero() {
                bail!("option {name} is {span}, must be more than nothing");
            }
        }
        // What the store would refuse is told by whatever reads the configuration.
        self.engine_options().map(drop)
    }

    /// Limits on requests.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let bytes = |size: Size| usize::try_from(size.0).context("size beyond the address space");
        let memory = mpool::memory_budget_bytes((self.memory.0 > 0).then_some(self.memory.0));
        let share = (memory / TRAFFIC_PART).clamp(*TRAFFIC_BYTES.start(), *TRAFFIC_BYTES.end());
        let or_share = |size: Size| if size.0 > 0 { size } else { Size(share) };
        Ok(Limits {
            value_bytes_max: bytes(self.value_max)?,
            batch_bytes_max: bytes(self.batch_max)?,
            body_memory_bytes: bytes(or_share(self.body_memory))?,
            head_memory_bytes: bytes(self.head_memory_or_share(memory))?,
            response_memory_bytes: bytes(or_share(self.response_memory))?,
            rate_min: self.rate_min.0,
            request_timeout: self.request_timeout.0,
            scan_time_max: self.scan_time_max.0,
            slow_request: self.slow_request.0,
            blocking_threads: self.blocking_threads,
            streams_max: self.streams,
            admin: self.admin.unwrap_or_else(|| self.listen.ip().is_loopback()),
            ..Limits::default()
        })
    }

    /// Room for a few of the largest heads, each of which counts up to four times.
    fn head_memory_min(&self) -> Size {
        Size(self.header_max.0.saturating_mul(16).max(1 << 20))
    }

    fn head_memory_or_share(&self, memory: u64) -> Size {
        if self.head_memory.0 > 0 {
            return self.head_memory;
        }
        let share = (memory / HEADS_PART).clamp(*HEADS_BYTES.start(), *HEADS_BYTES.end());
        Size(share).max(self.head_memory_min())
    }

    /// Who is answered.
    pub fn access(&self) -> anyhow::Result<Access> {
        Access::new(self.listen.ip(), &self.allowed_hosts, &self.allowed_origins)
            .map_err(anyhow::Error::msg)
    }

    /// Limits on connections.
    pub fn connection_limits(&self) -> anyhow::Result<ConnectionLimits> {
        Ok(ConnectionLimits {
            connections_max: self.connections,
            header_bytes_max: usize::try_from(self.header_max.0)
                .context("option header_max is beyond the address space")?,
            timeouts: Timeouts {
                header: self.header_timeout.0,
                idle: self.idle_timeout.0,
                write: self.write_timeout.0,
                rate_min: self.rate_min.0,
            },
        })
    }

    /// Options of the store.
    pub fn engine_options(&self) -> anyhow::Result<kvs::Options> {
        let mut options = kvs::Options::default();
        options.pool.io = match self.io {
            Io::Auto => mpool::IoBackend::Auto,
            Io::Uring => mpool::IoBackend::Uring,
            Io::Threads => mpool::IoBackend::Threads,
        };
        options.pool.allow_buffered = self.allow_buffered;
        options.pool.allow_volatile = self.allow_volatile;
        options.pool.create = match self.create {
            Create::Auto => mpool::Create::Auto,
            Create::Always => mpool::Create::Always,
            Create::Never => mpool::Create::Never,
        };
        options.pool.read_only = self.read_only;
        options.salvage = kvs::Salvage {
            log: self.read_only_wal.into(),
            skip_kvsets: self.read_only_skip_kvsets,
            cut_manifest: self.read_only_skip_kvsets,
        };
        options.pool.reserve_bytes = self.disk_reserve.map(|size| size.0);
        options.pool.returning = returning(self.disk_return_after, self.disk_return_rate)?;
        if self.capacity.0 > 0 {
            options.pool.capacity_bytes_max = self.capacity.0;
        }
        options.pool.reaper.budget_bytes = (self.memory.0 > 0).then_some(self.memory.0);
        options.pool.reaper.policy = match self.reaper {
            Reaper::Frequency => mpool::ReaperPolicy::Frequency,
            Reaper::Mpool => mpool::ReaperPolicy::Mpool,
            Reaper::Off => mpool::ReaperPolicy::Off,
        };
        options.media_policy = match self.media_policy {
            MediaPolicy::Auto => kvs::MediaPolicy::Auto,
            MediaPolicy::CapacityOnly => kvs::MediaPolicy::CapacityOnly,
            MediaPolicy::StagingOnly => kvs::MediaPolicy::StagingOnly,
            MediaPolicy::StagingMaxCapacity => kvs::MediaPolicy::StagingMaxCapacity,
            MediaPolicy::StagingMinCapacity => kvs::MediaPolicy::StagingMinCapacity,
        };
        options.memtable_bytes = self.memtable.0;
        options.snapshot_age_max_ms = bounds::snapshot_age_ms(self.snapshot_age_max)?;
        options.recovery_ms = bounds::recovery_ms(self.recovery_time)?;
        options.interval_ms = u64::try_from(self.interval.0.as_millis())
            .context("option interval is beyond all ages")?;
        options.validate()?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::print::Explained;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "listen = \"0.0.0.0:80\"\nmemory = \"2GiB\"\nlog_format = \"json\"";
        let flags = Settings { memory: Some(Size(1 << 20)), ..Settings::default() };
        let config = Config::resolve(file, &flags).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:80");
        assert_eq!(config.memory, Size(1 << 20));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.data, Path::new("./millpond-data"));
    }

    #[test]
    fn mistakes_are_named() {
        for (file, want) in [
            ("lisen = \"0.0.0.0:80\"", "lisen"),
            ("memory = \"lots\"", "lots"),
            ("memory = 5", "in quotes a size such as 64KiB"),
            ("idle_timeout = 90", "in quotes a time such as 250ms"),
            ("value_max = \"17MiB\"", "value_max"),
            ("body_memory = \"1MiB\"", "body_memory"),
            ("response_memory = \"32MiB\"", "response_memory"),
            ("head_memory = \"512KiB\"", "head_memory"),
            ("header_max = \"1MiB\"\nhead_memory = \"8MiB\"", "head_memory"),
            ("scan_time_max = \"0s\"", "scan_time_max"),
            ("snapshot_age_max = \"100ms\"", "snapshot_age_max is 100ms, must be 0s or in 1s"),
            ("snapshot_age_max = \"1000h\"", "snapshot_age_max"),
            ("streams = 0", "streams"),
            ("log = \"inof\"", "inof"),
            ("log = \"info,kvs=loud\"", "loud"),
            ("memory = \"1KiB\"", "option memory"),
            ("memtable = \"1PiB\"", "memtable"),
            ("workers = 1025", "workers"),
            ("listen = \"nowhere\"", "nowhere"),
            ("header_timeout = \"0s\"", "header_timeout"),
            ("allowed_hosts = [\"http://pond\"]", "allowed_hosts"),
            ("allowed_origins = [\"pond\"]", "allowed_origins"),
            ("io = \"aio\"", "aio"),
            ("reaper = \"lru\"", "lru"),
            ("create = \"force\"", "force"),
            ("media_policy = \"pmem_only\"", "pmem_only"),
            ("disk_reserve = \"5000TiB\"", "disk_reserve"),
            ("disk_return_after = \"1500ms\"", "disk_return_after"),
            ("disk_return_rate = \"1KiB\"", "disk_return_rate"),
        ] {
            let error = Config::resolve(file, &Settings::default()).unwrap_err();
            assert!(format!("{error:#}").contains(want), "{file}: {error:#}");
        }
    }

    /// A new option without a line there is found here.
    #[test]
    fn the_file_to_begin_with_has_every_option_and_its_default() {
        let file = include_str!("../../../deploy/config/millpond.toml");
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        for argument in Explained::command().get_arguments() {
            let id = argument.get_id().as_str();
            let begin = format!("#{id} = ");
            let line = file.lines().find_map(|line| line.strip_prefix(&begin));
            let line = line.unwrap_or_else(|| panic!("{id} is not in deploy/config/millpond.toml"));
            if let Some(default) = defaults.get(id) {
                assert_eq!(line, default.to_string(), "{id}");
            }
        }
        let all: String = file
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| {
                line.split_once(" = ").is_some_and(|(name, _)| defaults.contains_key(name))
            })
            .fold(String::new(), |all, line| all + line + "\n");
        assert_eq!(Config::resolve(&all, &Settings::default()).unwrap(), Config::default());
    }

    #[test]
    fn bodies_and_responses_have_a_part_of_the_memory() {
        for (file, bodies, responses) in [
            ("memory = \"256MiB\"", 64 << 20, 64 << 20),
            ("memory = \"1GiB\"", 128 << 20, 128 << 20),
            ("memory = \"1TiB\"\nbody_memory = \"32MiB\"", 32 << 20, 256 << 20),
            ("memory = \"1GiB\"\nresponse_memory = \"1GiB\"", 128 << 20, 1 << 30),
        ] {
            let limits = Config::resolve(file, &Settings::default()).unwrap().limits().unwrap();
            // A cgroup with less bounds the memory.
            if mpool::memory_budget_bytes(Some(1 << 40)) == 1 << 40 {
                assert_eq!(limits.body_memory_bytes, bodies, "{file}");
                assert_eq!(limits.response_memory_bytes, responses, "{file}");
            }
        }
    }

    #[test]
    fn media_policies_have_the_names_of_the_engine() {
        for policy in kvs::MediaPolicy::ALL {
            let file = format!("media_policy = \"{policy}\"");
            let config = Config::resolve(&file, &Settings::default()).unwrap();
            assert_eq!(config.engine_options().unwrap().media_policy, policy);
            let flag = <MediaPolicy as clap::ValueEnum>::from_str(policy.name(), false);
            assert_eq!(flag, Ok(config.media_policy));
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let file = "memory = \"3GiB\"\nallow_buffered = true\nidle_timeout = \"75500ms\"\n\
                    allowed_hosts = [\"pond.example\", \"lake:80\"]";
        let config = Config::resolve(file, &Settings::default()).unwrap();
        let printed = config.to_toml().unwrap();
        for printed in [&printed, &config.to_effective_toml().unwrap()] {
            assert_eq!(
                Config::resolve(printed, &Settings::default()).unwrap(),
                config,
                "{printed}"
            );
        }
        for key in toml::Table::try_from(Config::default()).unwrap().keys() {
            assert!(printed.contains(&format!("\n{key} = ")), "{key} is missing in:\n{printed}");
        }
    }
}
