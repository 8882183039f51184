//! The seam between the pool and the medium.
//!
//! A handful of verbs and a geometry. [`FileDevice`] and the simulated device implement it; nothing
//! above this file knows which one it has. The contract below is checked for every implementation
//! by one suite (`sim::suite`).

mod file;

pub use file::{FileDevice, FileOptions};

use crate::io::buf::IO_ALIGN;
use std::{fs::File, io};

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
/// 4. Ranges that were never written read as zeros.
/// 5. `write_durable_at` returning `Ok` makes *that* write durable, and promises nothing of others.
/// 6. `grow` returning `Ok` makes the device at least that long, durably; it never shrinks. Beyond
///    the limit, or where the disk is full, it fails with `StorageFull` and nothing changes.
/// 7. Reads and writes beyond the present length fail; they do not grow the device.
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

    /// The file behind it, for `io_uring` and the map; `None` for a simulated device.
    fn file(&self) -> Option<&File>;

    /// "file", "sim", ...: for people.
    fn kind(&self) -> &'static str;
}

/// Checks alignment and bounds of one access; every implementation starts with it.
pub(crate) fn check_access(offset: u64, len: usize, device_len: u64) -> io::Result<()> {
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
