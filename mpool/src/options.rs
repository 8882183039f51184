//! What a user may choose when opening a pool.
//!
//! Plain data with defaults; [`Options::validate`] checks every field against its range and names
//! the field, the value and the range when one is out. Nothing here touches the medium.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest volume that holds a superblock, the pool's journal and a few objects.
pub(crate) const CAPACITY_BYTES_MIN: u64 = 2 * MIB;
/// Refuses a limit of a volume that its addresses cannot name.
pub(crate) fn check_capacity_max(what: &str, capacity_bytes_max: u64) -> Result<()> {
    if capacity_bytes_max <= CAPACITY_BYTES_MAX {
        return Ok(());
    }
    let (asked, most) = (size_text(capacity_bytes_max), size_text(CAPACITY_BYTES_MAX));
    Err(Error::Options(format!("capacity of {what} is {asked}, must be at most {most}")))
}

/// Largest volume: 4 PiB, what an address of the pool can name.
pub(crate) const CAPACITY_BYTES_MAX: u64 = crate::address::VOLUME_BYTES_MAX;

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

/// Where a pool may be made by opening a directory that has none. A pool that is there is opened in
/// any case; what was a pool, or may be one that is out of sight, is made over by `Force` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Create {
    /// Where there is no directory, or an empty one; `lost+found` does not count.
    #[default]
    Auto,
    /// Nowhere.
    Never,
    /// Also beside other files, and in a root volume's file of length 0.
    Always,
    /// Also where there are signs of a pool, or something else in the root volume's place, which is
    /// then lost.
    Force,
}

/// What a user may choose when opening a pool. Nothing of it is stored on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "options that are on or off")]
pub struct Options {
    /// The asynchronous IO back-end. Default: the best that works here.
    pub io: IoBackend,
    /// Requests in flight at the drive at most. 1..=1024, default 64. More helps drives with deep
    /// queues; each costs a buffer, and with threads a thread.
    pub queue_depth: u32,
    /// Allow page-cache writes where the file system refuses `O_DIRECT` (tmpfs, overlayfs).
    /// Default false: they double the memory traffic and defeat the reaper.
    pub allow_buffered: bool,
    /// Allow files on file systems that forget: tmpfs and ramfs, which are memory, and overlayfs,
    /// on which the files of a container end with it. Default false; for tests, and for what may
    /// be lost.
    pub allow_volatile: bool,
    /// Whether opening a directory without a pool makes one. Default `Auto`.
    pub create: Create,
    /// Upper bound of the root volume. 2 MiB..=4 PiB, default 1 TiB; the map's address range
    /// follows it.
    pub capacity_bytes_max: u64,
    /// Longest growth step of a volume file. 64 KiB..=1 TiB, default 256 MiB. A step is an eighth
    /// of the file's length, at least 16 MiB, at most this. Larger steps fragment the file less;
    /// smaller ones take less disk in advance.
    pub grow_step_bytes: u64,
    /// Disk space left to others: growth of a volume file stops before it. 0..=4 PiB; default none:
    /// 512 MiB, or 5 % of the disk where that is less. Less risks that logs and other programs on
    /// the disk find none; more is never used.
    pub reserve_bytes: Option<u64>,
    /// True opens the pool without writing to its volumes: what an opening repairs, and whatever is
    /// written later, stays in memory and is gone with the pool. Nothing is mapped, files do not
    /// grow, and housekeeping is off. Default false.
    pub read_only: bool,
    /// Part of each volume that only allocations with [`crate::Placement::spare`] may use, so that
    /// what frees space in the end always finds some: of its limit, or of what the disk has room
    /// for if that is less. 0..=50 percent, default 5.
    pub spare_pct: u8,
    /// True gives housekeeping (rewriting journals before they are full) a thread of its own; false
    /// leaves it to whoever calls [`crate::Pool::tidy`], for programs that want no thread and for
    /// tests that count every write; without such calls appends wait for rewritings. Default true.
    pub background: bool,
    /// Whether, when and how fast free space goes back to the disks below. None: never. Default:
    /// some.
    pub returning: Option<ReturnOptions>,
    /// What background work (compaction, scrub, moving objects) may take of the drive.
    pub pacing: PacingOptions,
    /// The memory governor.
    pub reaper: ReaperOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io: IoBackend::Auto,
            queue_depth: 64,
            allow_buffered: false,
            allow_volatile: false,
            create: Create::Auto,
            capacity_bytes_max: 1024 * GIB,
            grow_step_bytes: 256 * MIB,
            reserve_bytes: None,
            read_only: false,
            spare_pct: 5,
            background: true,
            returning: Some(ReturnOptions::default()),
            pacing: PacingOptions::default(),
            reaper: ReaperOptions::default(),
        }
    }
}

/// Who decides what leaves memory, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReaperPolicy {
    /// Pages by how often they are asked for, records in caches beside them, and admission at the
    /// second touch.
    #[default]
    Frequency,
    /// The algorithm of mpool, 2020: whole objects by the time since their last fault. Reads go
    /// through the maps alone, everything enters at its first touch, and consumers with a weight
    /// (a value cache) are granted nothing, as there were none.
    Mpool,
    /// Nobody: the kernel reclaims when it must. Otherwise as `Mpool`.
    Off,
}

impl ReaperPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Frequency, Self::Mpool, Self::Off];

    /// The name, as options and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frequency => "frequency",
            Self::Mpool => "mpool",
            Self::Off => "off",
        }
    }

    pub(crate) fn index(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_index(index: u8) -> Self {
        Self::ALL[usize::from(index)]
    }
}

impl fmt::Display for ReaperPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ReaperPolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Options(format!("the reaper's policy is {name:?}, must be one of {names}"))
        })
    }
}

/// What background work may take of the drive while others wait for it. How the defaults were found
/// is in `docs/io.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacingOptions {
    /// False lets background requests start like any other, by priority alone. Default true.
    pub enabled: bool,
    /// Background reads and writes together, bytes per second; it holds also when nobody waits.
    /// 1 MiB..=1 TiB, default none: then only the latency of the foreground bounds them. Lower
    /// spares a drive that is shared; too low, and compaction falls behind until writers are held.
    pub bytes_per_second_max: Option<u64>,
    /// The longest background request while the foreground is at work, and the length of background
    /// writes. 4 KiB..=1 MiB in units of 4 KiB, default 64 KiB. A reader may wait for a whole one;
    /// shorter ones cost more calls a byte.
    pub chunk_bytes: u64,
    /// Background requests at the drive at once while the foreground is at work. 1..=64, default 2.
    /// More use a drive with deep queues better; each is one more that a reader may wait for.
    pub depth: u32,
}

impl Default for PacingOptions {
    fn default() -> Self {
        Self { enabled: true, bytes_per_second_max: None, chunk_bytes: 64 * KIB, depth: 2 }
    }
}

/// How free space goes back to the disks below: the end of a volume's file is cut off, and long
/// free ranges become holes of the file, or are discarded on a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnOptions {
    /// How long space is free before it goes, seconds, up to twice as long. 0..=86,400, default 60.
    /// Less gives it back sooner, and costs more where it is needed again: a hole is refilled
    /// first, and blocks that were never written to are slower to write.
    pub after_s: u32,
    /// Bytes per second at most. 1 MiB..=1 TiB, default 128 MiB. More makes readers of the same
    /// drive wait longer meanwhile; less takes longer after much was deleted.
    pub bytes_per_second: u64,
}

impl Default for ReturnOptions {
    fn default() -> Self {
        Self { after_s: 60, bytes_per_second: 128 * MIB }
    }
}

/// How mapped memory is kept within a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperOptions {
    /// Who decides what leaves memory. Default `frequency`; the others are there to be compared
    /// with. Can be changed while the pool is open.
    pub policy: ReaperPolicy,
    /// The budget, 1 MiB..=4 PiB. None = the cgroup's limit (v1 or v2) if there is one, else a
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
    /// What only the policy `mpool` knows.
    pub mpool: MpoolOptions,
}

/// The policy `mpool`, with the parameters that its kernel module had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpoolOptions {
    /// Part of the memory that is free or mapped which maps may hold, per cent. 5..=100; 100 turns
    /// eviction off. More holds more pages and leaves less for a burst. Default 87, which the
    /// module chose for machines of more than 128 GiB; it left more free on smaller ones, because
    /// the rest of the machine lived there, too, which here has its place outside of the budget.
    pub mempct: u8,
    /// How long an object without index pages may stay after a fault while memory lasts,
    /// milliseconds; the module's `reap_ttl`. 1..=3,600,000, default 10,000. It shrinks with
    /// urgency, so a longer one only delays the start.
    pub ttl_ms: u32,
    /// Whether faults sleep, 25 us to 6 ms, while less than two thirds of the memory that should be
    /// free is. It slows readers down until eviction catches up. Default false.
    pub throttle: bool,
}

impl Default for MpoolOptions {
    fn default() -> Self {
        Self { mempct: 87, ttl_ms: 10_000, throttle: false }
    }
}

impl Default for ReaperOptions {
    fn default() -> Self {
        Self {
            policy: ReaperPolicy::Frequency,
            budget_bytes: None,
            low_pct: 3,
            high_pct: 5,
            tick_ms: 10,
            mpool: MpoolOptions::default(),
        }
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
            allow_volatile: _,
            create: _,
            read_only: _,
            capacity_bytes_max,
            grow_step_bytes,
            reserve_bytes,
            spare_pct,
            background: _,
            returning,
            pacing,
            reaper,
        } = self;
        in_range("queue_depth", u64::from(*queue_depth), 1, 1024)?;
        let capacity = (CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX);
        size_in_range("capacity_bytes_max", *capacity_bytes_max, capacity.0, capacity.1)?;
        in_range("grow_step_bytes", *grow_step_bytes, 64 * KIB, 1024 * GIB)?;
        in_range("spare_pct", u64::from(*spare_pct), 0, 50)?;
        size_in_range("reserve_bytes", reserve_bytes.unwrap_or(0), 0, CAPACITY_BYTES_MAX)?;
        returning.as_ref().map_or(Ok(()), ReturnOptions::validate)?;
        pacing.validate()?;
        reaper.validate()
    }
}

impl ReturnOptions {
    fn validate(&self) -> Result<()> {
        let Self { after_s, bytes_per_second } = self;
        in_range("returning.after_s", u64::from(*after_s), 0, 86_400)?;
        size_in_range("returning.bytes_per_second", *bytes_per_second, MIB, 1024 * GIB)
    }
}

impl PacingOptions {
    fn validate(&self) -> Result<()> {
        let Self { enabled: _, bytes_per_second_max, chunk_bytes, depth } = self;
        if let Some(bytes) = bytes_per_second_max {
            in_range("pacing.bytes_per_second_max", *bytes, MIB, 1024 * GIB)?;
        }
        in_range("pacing.chunk_bytes", *chunk_bytes, 4 * KIB, MIB)?;
        if !chunk_bytes.is_multiple_of(4 * KIB) {
            let text = format!("pacing.chunk_bytes is {chunk_bytes}, must be in units of 4096");
            return Err(Error::Options(text));
        }
        in_range("pacing.depth", u64::from(*depth), 1, 64)
    }
}

impl ReaperOptions {
    fn validate(&self) -> Result<()> {
        let Self { policy: _, budget_bytes, low_pct, high_pct, tick_ms, mpool } = self;
        let MpoolOptions { mempct, ttl_ms, throttle: _ } = mpool;
        in_range("reaper.mpool.mempct", u64::from(*mempct), 5, 100)?;
        in_range("reaper.mpool.ttl_ms", u64::from(*ttl_ms), 1, 3_600_000)?;
        if let Some(budget) = budget_bytes {
            in_range("reaper.budget_bytes", *budget, MIB, CAPACITY_BYTES_MAX)?;
        }
        in_range("reaper.low_pct", u64::from(*low_pct), 0, 98)?;
        in_range("reaper.high_pct", u64::from(*high_pct), u64::from(*low_pct) + 1, 99)?;
        in_range("reaper.tick_ms", u64::from(*tick_ms), 1, 10_000)
    }
}

/// Bytes in the largest unit that they are a whole number of: "50GiB".
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fits = units.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    let (unit, scale) = fits.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// As [`in_range`], for what people give as a size.
pub(crate) fn size_in_range(name: &str, got: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&got) {
        return Ok(());
    }
    let [got, min, max] = [got, min, max].map(size_text);
    Err(Error::Options(format!("{name} is {got}, must be in {min}..={max}")))
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
    fn sizes_are_exact() {
        let sizes = [0, 1000, 1 << 10, 3 << 30, 50 << 30, 2 << 40, (1 << 40) + 1];
        let texts = ["0B", "1000B", "1KiB", "3GiB", "50GiB", "2TiB", "1099511627777B"];
        assert_eq!(sizes.map(size_text), texts);
    }

    #[test]
    fn the_defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn policies_are_read_and_written_by_name() {
        for policy in ReaperPolicy::ALL {
            assert_eq!(policy.to_string().parse::<ReaperPolicy>().unwrap(), policy);
            assert_eq!(ReaperPolicy::from_index(policy.index()), policy);
        }
        let error = "lru".parse::<ReaperPolicy>().unwrap_err().to_string();
        for text in ["\"lru\"", "frequency, mpool, off"] {
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn every_bad_field_is_named_with_its_range() {
        type Spoil = fn(&mut Options);
        let table: [(&str, Spoil); 14] = [
            ("queue_depth is 0, must be in 1..=1024", |o| o.queue_depth = 0),
            ("queue_depth is 1025", |o| o.queue_depth = 1025),
            ("capacity_bytes_max is 1B, must be in", |o| o.capacity_bytes_max = 1),
            ("grow_step_bytes is 4096", |o| o.grow_step_bytes = 4096),
            ("reserve_bytes is", |o| o.reserve_bytes = Some(u64::MAX)),
            ("pacing.bytes_per_second_max is 1,", |o| o.pacing.bytes_per_second_max = Some(1)),
            ("pacing.chunk_bytes is 0", |o| o.pacing.chunk_bytes = 0),
            ("pacing.chunk_bytes is 5000, must be in units", |o| o.pacing.chunk_bytes = 5000),
            ("pacing.depth is 0", |o| o.pacing.depth = 0),
            ("reaper.high_pct is 3, must be in 4..=99", |o| o.reaper.high_pct = 3),
            ("reaper.tick_ms is 0", |o| o.reaper.tick_ms = 0),
            ("reaper.budget_bytes is 5", |o| o.reaper.budget_bytes = Some(5)),
            ("reaper.mpool.mempct is 4, must be in 5..=100", |o| o.reaper.mpool.mempct = 4),
            ("reaper.mpool.ttl_ms is 0", |o| o.reaper.mpool.ttl_ms = 0),
        ];
        for (text, spoil) in table {
            let mut options = Options::default();
            spoil(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.starts_with(text), "{error} should start with {text}");
        }
    }
}
