//! What a user may choose when opening a pool.
//!
//! Plain data with defaults; [`Options::validate`] checks every field against its range and names
//! the field, the value and the range when one is out. Nothing here touches the medium.

use crate::error::{Error, Result};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest volume that holds a superblock, the pool's journal and a few objects.
pub(crate) const CAPACITY_BYTES_MIN: u64 = 2 * MIB;
/// Largest volume: 1 EiB. Offsets stay far from the sign bit that `pread` gives them.
pub(crate) const CAPACITY_BYTES_MAX: u64 = 1 << 60;

/// Which asynchronous IO back-end serves the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IoBackend {
    /// `io_uring` where the kernel and its sandbox allow it, else threads.
    #[default]
    Auto,
    /// `io_uring`, or an error that says why not.
    Uring,
    /// A pool of threads that call `pread` and `pwrite`.
    Threads,
}

/// What a user may choose when opening a pool. Nothing of it is stored on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The asynchronous IO back-end. Default: the best that works here.
    pub io: IoBackend,
    /// Requests in flight at the drive at most. 1..=1024, default 64. More helps drives with deep
    /// queues; each costs a buffer, and with threads a thread.
    pub queue_depth: u32,
    /// Allow page-cache writes where the file system refuses `O_DIRECT` (tmpfs, overlayfs).
    /// Default false: they double the memory traffic and defeat the reaper.
    pub allow_buffered: bool,
    /// Upper bound of the volume. 2 MiB..=1 EiB, default 1 TiB; the map's address range follows it.
    pub capacity_bytes_max: u64,
    /// Growth step of the volume file. 64 KiB..=1 TiB, default 256 MiB. Larger steps fragment the
    /// file less; smaller ones take less disk in advance.
    pub grow_step_bytes: u64,
    /// Disk space left to others: growth stops before it. 0..=1 EiB, default 512 MiB.
    pub reserve_bytes: u64,
    /// The memory governor.
    pub reaper: ReaperOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io: IoBackend::Auto,
            queue_depth: 64,
            allow_buffered: false,
            capacity_bytes_max: 1024 * GIB,
            grow_step_bytes: 256 * MIB,
            reserve_bytes: 512 * MIB,
            reaper: ReaperOptions::default(),
        }
    }
}

/// How mapped memory is kept within a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperOptions {
    /// False leaves eviction to the kernel's reclaim. Default true.
    pub enabled: bool,
    /// The budget, 1 MiB..=1 EiB. None = the cgroup's limit (v1 or v2) if there is one, else a
    /// share of the memory available when the pool opens (60 %).
    pub budget_bytes: Option<u64>,
    /// Eviction starts when the free part of the budget falls under this percentage. 0..=98,
    /// default 3.
    pub low_pct: u8,
    /// Eviction ends when the free part is over this percentage; above `low_pct`, at most 99.
    /// Default 5.
    pub high_pct: u8,
    /// How often the reaper looks, milliseconds. 1..=10,000, default 10.
    pub tick_ms: u32,
}

impl Default for ReaperOptions {
    fn default() -> Self {
        Self { enabled: true, budget_bytes: None, low_pct: 3, high_pct: 5, tick_ms: 10 }
    }
}

impl Options {
    /// Checks every field; the error names the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        // Exhaustive on purpose: a new field does not compile until it is checked here.
        let Self {
            io: _,
            queue_depth,
            allow_buffered: _,
            capacity_bytes_max,
            grow_step_bytes,
            reserve_bytes,
            reaper,
        } = self;
        in_range("queue_depth", u64::from(*queue_depth), 1, 1024)?;
        let capacity = (CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX);
        in_range("capacity_bytes_max", *capacity_bytes_max, capacity.0, capacity.1)?;
        in_range("grow_step_bytes", *grow_step_bytes, 64 * KIB, 1024 * GIB)?;
        in_range("reserve_bytes", *reserve_bytes, 0, CAPACITY_BYTES_MAX)?;
        reaper.validate()
    }
}

impl ReaperOptions {
    fn validate(&self) -> Result<()> {
        let Self { enabled: _, budget_bytes, low_pct, high_pct, tick_ms } = self;
        if let Some(budget) = budget_bytes {
            in_range("reaper.budget_bytes", *budget, MIB, CAPACITY_BYTES_MAX)?;
        }
        in_range("reaper.low_pct", u64::from(*low_pct), 0, 98)?;
        in_range("reaper.high_pct", u64::from(*high_pct), u64::from(*low_pct) + 1, 99)?;
        in_range("reaper.tick_ms", u64::from(*tick_ms), 1, 10_000)
    }
}

pub(crate) fn in_range(name: &str, got: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&got) {
        return Ok(());
    }
    Err(Error::Options(format!("{name} is {got}, must be in {min}..={max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn every_bad_field_is_named_with_its_range() {
        type Spoil = fn(&mut Options);
        let table: [(&str, Spoil); 8] = [
            ("queue_depth is 0, must be in 1..=1024", |o| o.queue_depth = 0),
            ("queue_depth is 1025", |o| o.queue_depth = 1025),
            ("capacity_bytes_max is 1", |o| o.capacity_bytes_max = 1),
            ("grow_step_bytes is 4096", |o| o.grow_step_bytes = 4096),
            ("reserve_bytes is", |o| o.reserve_bytes = u64::MAX),
            ("reaper.high_pct is 3, must be in 4..=99", |o| o.reaper.high_pct = 3),
            ("reaper.tick_ms is 0", |o| o.reaper.tick_ms = 0),
            ("reaper.budget_bytes is 5", |o| o.reaper.budget_bytes = Some(5)),
        ];
        for (text, spoil) in table {
            let mut options = Options::default();
            spoil(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.starts_with(text), "{error} should start with {text}");
        }
    }
}
