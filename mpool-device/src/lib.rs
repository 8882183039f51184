//! What the pool asks of a medium: the traits of devices and of their zones, the rules that zones
//! keep, and buffers for direct IO.
//!
//! The pool's own devices implement these traits, and so does the simulated one of its tests. No
//! device is in here.

mod buf;
pub mod rules;
mod zoned;

pub use buf::{IO_ALIGN, IoBuf};
pub use rules::{ResetFate, ZoneHabits};
pub use zoned::{Zone, ZoneCondition, ZoneLimits, Zoned};

use std::{fs::File, io, ops::Range};

/// What a device looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Smallest unit that is written atomically (512 or 4,096).
    pub sector_bytes: u32,
    /// Present size; grows by [`Device::grow`] up to `len_bytes_max`.
    pub len_bytes: u64,
    /// The size it may grow to.
    pub len_bytes_max: u64,
}

/// The medium. All offsets and lengths are multiples of [`IO_ALIGN`]; others are an error.
///
/// The contract:
///
/// 1. A write is atomic per sector and not otherwise: a crash may keep any subset of the sectors of
///    writes that were not flushed.
/// 2. `flush` returning `Ok` makes every write that returned *before the call* durable.
/// 3. After `flush` or `write_durable_at` returned an error, the device is poisoned: all later
///    writes and flushes fail. Reads go on.
/// 4. Ranges that were never written read as zeros; on a block device, as whatever was there.
/// 5. `write_durable_at` returning `Ok` makes *that* write durable, and promises nothing of others.
/// 6. `grow` returning `Ok` makes the device at least that long, durably. Beyond the limit, or
///    where the disk is full, it fails with `StorageFull` and nothing changes. Only `shrink` makes
///    it shorter, and a crash may undo that until the next growth.
/// 7. Reads and writes beyond the present length fail; they do not grow the device.
/// 8. What was punched, or cut off and grown again, reads as zeros or as what was there, also after
///    a crash, until it is written to. A punched range must be refilled before that.
///
/// A device with [zones](Device::zones) differs: its length is fixed and includes the unusable tail
/// of each zone; `read_at` works anywhere (but see rule 5 of [`Zoned`]), `write_at` and
/// `write_durable_at` only in conventional zones and are `InvalidInput` elsewhere, rules 1 and 4
/// hold there only, and every growth is `StorageFull`.
pub trait Device: Send + Sync + 'static {
    /// Present sizes.
    fn geometry(&self) -> Geometry;

    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`; durable after the next flush.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// `write_at`, durable on return; says nothing of other writes.
    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_at(offset, buf)?;
        self.flush()
    }

    /// Makes every write that returned before the call durable.
    fn flush(&self) -> io::Result<()>;

    /// Makes the device at least `len_bytes` long.
    fn grow(&self, len_bytes: u64) -> io::Result<()>;

    /// By how much it could grow now, where something beside its limit decides that: a file shares
    /// its disk with others. An estimate, cheap enough to ask before each write.
    fn growth_left(&self) -> u64 {
        u64::MAX
    }

    /// Whether it becomes shorter, so that it pays to clear its end.
    fn can_shrink(&self) -> bool {
        false
    }

    /// Makes a device of `from` bytes `to` bytes long. `Ok(false)`: it has another length by now,
    /// and nothing changes. `Unsupported` where it cannot become shorter.
    fn shrink(&self, _from: u64, _to: u64) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives back to the disk below what it has for this range. `Unsupported` where it cannot.
    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes from the disk below what writes to this range will need. `StorageFull` where the disk
    /// has it no more.
    fn refill(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// The parts of a range that the disk below has nothing for.
    fn holes(&self, _offset: u64, _len: u64) -> io::Result<Vec<Range<u64>>> {
        Ok(Vec::new())
    }

    /// Bytes that it takes on the disk below; `None` where that is its length, or not known.
    fn disk_bytes(&self) -> Option<u64> {
        None
    }

    /// Which file system its growth is taken from; `None` where nobody else grows on it.
    fn disk(&self) -> Option<u64> {
        None
    }

    /// Changes the limit of later growth; a device of fixed size finds out how large it is by now.
    /// Never shrinks what is there.
    fn set_len_max(&self, len_bytes_max: u64) -> io::Result<()> {
        let text = format!("this device cannot grow to {len_bytes_max} bytes");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// The file behind it, for `io_uring` and the map; `None` for a simulated device. Where there
    /// are zones, only the conventional ones may be written through it.
    fn file(&self) -> Option<&File>;

    /// "file", "sim", ...: for people.
    fn kind(&self) -> &'static str;

    /// Whether it is only looked at: every write is refused, of zones too, and none is tried.
    fn is_read_only(&self) -> bool {
        false
    }

    /// The zones, where the medium has such; `None` for one that is written anywhere.
    fn zones(&self) -> Option<&dyn Zoned> {
        None
    }
}

/// Checks alignment and bounds of one access; every implementation starts with it.
pub fn check_access(offset: u64, len: usize, device_len: u64) -> io::Result<()> {
    let align = IO_ALIGN as u64;
    let len = len as u64;
    if !offset.is_multiple_of(align) || !len.is_multiple_of(align) || len == 0 {
        let text = format!("access of {len} bytes at {offset} is not in units of {IO_ALIGN}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match offset.checked_add(len) {
        Some(end) if end <= device_len => Ok(()),
        _ => {
            let text = format!("access of {len} bytes at {offset} passes the end at {device_len}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}
