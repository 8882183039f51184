//! Drives of zones: what the pool asks of them.
//!
//! A zoned drive is divided into zones of one size that are written from their start to their
//! capacity and emptied whole. [`Zoned`] is the part of a [`Device`](crate::Device) that knows it.

use crate::IO_ALIGN;
use std::{any::Any, io};

/// What a zoned drive looks like and allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneLimits {
    /// How many zones there are, the conventional ones included.
    pub zones: u32,
    /// Distance from one zone's start to the next one's. A zone's capacity may be less.
    pub zone_bytes: u64,
    /// How many zones at the start are conventional: written anywhere, never reset.
    pub conventional_zones: u32,
    /// Zones that may be open (implicitly or explicitly) at once. 0 = no limit.
    pub open_max: u32,
    /// Zones that may be open or closed (partly written) at once. 0 = no limit.
    pub active_max: u32,
    /// The longest single append.
    pub append_bytes_max: usize,
    /// The drive's logical block: what appends and writes are made of, and what a crash keeps or
    /// loses whole.
    pub block_bytes: u32,
}

/// The state of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneCondition {
    /// Written anywhere, with none of the states below.
    Conventional,
    /// Nothing is written; costs nothing.
    Empty,
    /// Opened by a write; the drive may close it to open another.
    ImplicitOpen,
    /// Opened by [`Zoned::open`]; stays so until it is closed, full or reset.
    ExplicitOpen,
    /// Partly written, not open: counts as active.
    Closed,
    /// Written to its capacity, or finished.
    Full,
    /// Worn out: can be read, and nothing else.
    ReadOnly,
    /// Lost, with all that was in it.
    Offline,
}

impl ZoneCondition {
    /// Counts against [`ZoneLimits::open_max`].
    pub fn is_open(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen)
    }

    /// Whether something may be in it. A zone that has been given up holds nothing to be kept.
    pub fn is_written(self) -> bool {
        !matches!(self, Self::Conventional | Self::Empty | Self::ReadOnly | Self::Offline)
    }

    /// Counts against [`ZoneLimits::active_max`].
    pub fn is_active(self) -> bool {
        self.is_open() || self == Self::Closed
    }
}

/// One zone, as the drive reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its number, from 0.
    pub index: u32,
    /// Where it starts on the device, in bytes.
    pub start: u64,
    /// How much can be written, in bytes from its start. May differ from zone to zone, and change
    /// at a reset.
    pub capacity: u64,
    /// The write pointer, in bytes from the start of the zone; `capacity` where it is full. Means
    /// nothing, and is 0, for conventional, read-only and offline zones.
    pub written: u64,
    /// Its state.
    pub condition: ZoneCondition,
}

/// The zones of a device. All calls may be made by many threads at once.
///
/// Beyond the contract of [`Device`](crate::Device):
///
/// 1. `append` writes whole blocks at the write pointer and returns where. Of concurrent appends
///    to one zone, any may come first. One append never spans zones and is never split.
/// 2. A completed append is durable after the next [`flush`](crate::Device::flush) that starts
///    after it returned, and perhaps before. A power cut may lose blocks that were not flushed: the
///    write pointer is then anywhere between what was flushed and what was completed, and blocks
///    before it that were not flushed are the bytes written, or arbitrary.
/// 3. An append that failed may have moved the write pointer, leaving arbitrary bytes behind: ask
///    `report` before the zone is used again.
/// 4. `finish` and `reset` are durable on return. A reset zone may have another capacity, or be
///    read-only or offline.
/// 5. Reads beyond the write pointer, or of a reset zone, return arbitrary bytes, never an error.
///    Reads of an offline zone fail.
/// 6. What is refused changes nothing of the zone: an append that does not fit under the capacity,
///    to a full, read-only or offline zone (`EIO`), or over the drive's budgets: more active zones
///    is `EOVERFLOW`, more open ones `ETOOMANYREFS`. An implicitly open zone may be closed by the
///    drive at any time to make room, but not every drive does so when both budgets are used up:
///    then it may refuse to write to, or to finish, a closed zone (`ETOOMANYREFS`) until the
///    caller has closed another.
/// 7. Conventional zones refuse every verb but `report`. Arguments that could never be right (no
///    such zone, a length that is not in blocks or too long) are `InvalidInput`.
/// 8. A page is never mapped nor read through the page cache before the append that writes it has
///    returned: a page cached earlier (read-ahead included) may keep its old contents for ever.
///    `reset` drops the cached pages of the zone.
pub trait Zoned: Send + Sync {
    /// What the drive looks like and allows. Does not change.
    fn limits(&self) -> ZoneLimits;

    /// The zones `first..first + count`, fewer at the end of the device.
    fn report(&self, first: u32, count: u32) -> io::Result<Vec<Zone>>;

    /// Opens a zone explicitly: it keeps its place among the open ones.
    fn open(&self, zone: u32) -> io::Result<()>;

    /// Closes an open zone: frees its place among the open ones, not among the active.
    fn close(&self, zone: u32) -> io::Result<()>;

    /// Makes the zone full; the rest of its capacity is wasted until the next reset.
    fn finish(&self, zone: u32) -> io::Result<()>;

    /// Empties the zone. Durable on return. Nobody may have it mapped.
    fn reset(&self, zone: u32) -> io::Result<()>;

    /// Appends whole blocks to the zone; returns the byte offset on the device where the drive put
    /// them. `buf` is a multiple of [`IO_ALIGN`](crate::IO_ALIGN), at most
    /// [`ZoneLimits::append_bytes_max`] long. Many callers at once. Durable after the next flush.
    fn append(&self, zone: u32, buf: &[u8]) -> io::Result<u64>;

    /// "zone append" or "write pointer": for people.
    fn append_kind(&self) -> &'static str;

    /// The way past the block layer of one of the pool's own devices; `None` where appends are made
    /// by [`append`](Self::append).
    fn passthrough(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

impl ZoneLimits {
    /// Checks that there is such a zone; every verb starts with it.
    pub fn check_zone(&self, zone: u32) -> io::Result<()> {
        if zone < self.zones {
            return Ok(());
        }
        let text = format!("zone {zone} does not exist; the drive has {}", self.zones);
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Checks zone and length of an append; every append starts with it.
    pub fn check_append(&self, zone: u32, len: usize) -> io::Result<()> {
        self.check_zone(zone)?;
        let text = if zone < self.conventional_zones {
            format!("zone {zone} is conventional; write to it instead of appending")
        } else if len == 0 || !len.is_multiple_of(IO_ALIGN) {
            format!("append of {len} bytes is not in units of {IO_ALIGN}")
        } else if len > self.append_bytes_max {
            format!("append of {len} bytes; this drive takes {} at once", self.append_bytes_max)
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Checks that a plain write stays within the conventional zones.
    pub fn check_write(&self, offset: u64, len: usize) -> io::Result<()> {
        let conventional = u64::from(self.conventional_zones) * self.zone_bytes;
        match offset.checked_add(len as u64) {
            Some(end) if end <= conventional => Ok(()),
            _ => {
                let text = format!(
                    "write of {len} bytes at {offset} is not within the conventional zones, which \
                     end at {conventional}; append to the others"
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }
}
