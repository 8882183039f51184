//! A zoned block device: a real drive.
//!
//! Opened exclusively and read past the page cache. Appends are `NVMe` Zone Append where the drive
//! and the kernel let us send it; else writes at the write pointer, one at a time in each zone.
//!
//! ```text
//! read_at, report, open, close, finish, reset     the block device
//! append, "zone append"                           the character device beside it
//! append, "write pointer"                         the block device, under the zone's lock
//! flush                                           fsync of the block device, which flushes the
//!                                                 drive though no page is dirty
//! ```
//!
//! After a failed write Linux refuses further ones to the zone until it is reported; so a failure
//! forgets the write pointer that is kept here, and the next append asks for it.

use super::{
    Passthrough, Zone, ZoneCondition, ZoneLimits, Zoned, passthrough::check_writable,
    rules::Refusal, sysfs::Queue, transfer,
};
use crate::{
    device::{Access, Device, Geometry, check_access},
    error::{Error, Result},
    sys::zones::{self, RawZone, ZoneVerb},
};
use mpool_device::IO_ALIGN;
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, ReadWriteFlags},
};
use std::{
    any::Any,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The unit of everything the kernel says of zones.
const SECTOR_BYTES: u64 = 512;
/// The longest write at a write pointer. Longer ones gain nothing, and hold the zone's lock.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// How often, and how long apart, a device in use is tried: two seconds in all. A killed process
/// keeps its own for a moment after its end.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// A zoned drive, open for this process alone.
#[derive(Debug)]
pub struct ZonedDevice {
    file: File,
    path: PathBuf,
    len_bytes: u64,
    limits: ZoneLimits,
    passthrough: Option<Passthrough>,
    /// By zone, for writes at the write pointer.
    pointers: Box<[Mutex<Option<Pointer>>]>,
    poisoned: Arc<AtomicBool>,
}

/// Where the next write of a zone goes, in bytes from its start, and how far it may.
#[derive(Clone, Copy, Debug)]
struct Pointer {
    written: u64,
    capacity: u64,
}

/// How appends are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AppendBy {
    /// Zone Append where it can be had, else writes at the write pointer.
    #[default]
    Auto,
    /// Zone Append, or an error that says why not.
    ZoneAppend,
    /// Writes at the write pointer.
    WritePointer,
}

impl ZonedDevice {
    /// Opens a zoned block device. The error says what it is instead, or who has it.
    pub fn open(path: &Path, append_by: AppendBy) -> Result<Self> {
        Self::open_for(path, append_by, Access::Write)
    }

    pub(crate) fn open_for(path: &Path, append_by: AppendBy, access: Access) -> Result<Self> {
        let unusable = |reason: String| Error::Unusable { path: path.to_owned(), reason };
        let queue = Queue::of(path).map_err(|e| unusable(format!("cannot be opened: {e}")))?;
        match queue.text("zoned").as_deref() {
            Some("host-managed") => {}
            other => {
                let model = other.unwrap_or("unknown");
                let reason = format!("its zone model is {model}, must be host-managed");
                return Err(unusable(reason));
            }
        }
        let file = open_exclusively(path, access)?;
        let cannot = |e: io::Error| unusable(format!("its zones cannot be read: {e}"));
        let len_bytes = zones::device_bytes(&file).map_err(cannot)?;
        let limits = limits_of(&file, &queue, len_bytes).map_err(cannot)?;
        let pointers = (0..limits.zones).map(|_| Mutex::new(None)).collect();
        let mut device = Self {
            file,
            path: path.to_owned(),
            len_bytes,
            limits,
            passthrough: None,
            pointers,
            poisoned: Arc::default(),
        };
        if access.is_read() {
            return Ok(device);
        }
        let found = match append_by {
            AppendBy::WritePointer => Err(io::Error::other("writes at write pointers are wanted")),
            AppendBy::Auto | AppendBy::ZoneAppend => device.find_passthrough(&queue.name),
        };
        match found {
            Ok(()) => return Ok(device),
            Err(error) if append_by == AppendBy::ZoneAppend => {
                return Err(unusable(format!("Zone Append cannot be sent to it: {error}")));
            }
            // Linux keeps the write pointers of each path, and a report renews those of the shared
            // device only: after one failed write a zone would refuse all until it is reset.
            Err(error) if queue.is_shared() => {
                let reason = format!(
                    "it has several paths, so that only Zone Append is safe, which cannot be sent \
                     to it ({error}); run as root, or boot with nvme_core.multipath=N"
                );
                return Err(unusable(reason));
            }
            Err(reason) => {
                tracing::info!(%reason, path = %path.display(), "appending at write pointers");
            }
        }
        device.limits.append_bytes_max = device.limits.append_bytes_max.min(WRITE_BYTES_MAX);
        Ok(device)
    }

    fn find_passthrough(&mut self, name: &str) -> io::Result<()> {
        let sizes = (self.limits.zone_bytes, self.limits.block_bytes);
        let found = Passthrough::find(&self.file, name, sizes, Arc::clone(&self.poisoned))?;
        match found.budgets() {
            Ok([active, open]) => {
                self.limits.active_max = stricter(self.limits.active_max, active);
                self.limits.open_max = stricter(self.limits.open_max, open);
            }
            Err(error) => tracing::debug!(%error, "the drive does not tell its zone budgets"),
        }
        self.passthrough = Some(found);
        Ok(())
    }

    /// Where the drive is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    fn start(&self, zone: u32) -> u64 {
        u64::from(zone) * self.limits.zone_bytes
    }

    fn verb(&self, verb: ZoneVerb, zone: u32) -> io::Result<()> {
        self.limits.check_zone(zone)?;
        check_writable(&self.poisoned)?;
        let start = self.start(zone);
        let len = self.limits.zone_bytes.min(self.len_bytes - start);
        // Whatever becomes of it, the write pointer may be elsewhere afterwards.
        let mut pointer = self.pointer(zone).lock();
        *pointer = None;
        zones::apply(&self.file, verb, start / SECTOR_BYTES, len / SECTOR_BYTES)
    }

    fn pointer(&self, zone: u32) -> &Mutex<Option<Pointer>> {
        &self.pointers[usize::try_from(zone).expect("checked against the limits")]
    }

    fn write_at_pointer(&self, zone: u32, buf: &[u8]) -> io::Result<u64> {
        let mut known = self.pointer(zone).lock();
        let pointer = match *known {
            Some(pointer) => pointer,
            None => self.ask_for_pointer(zone)?,
        };
        let len = buf.len() as u64;
        if pointer.capacity - pointer.written < len {
            *known = Some(pointer);
            return Err(Refusal::NoRoom.into());
        }
        *known = None;
        let offset = self.start(zone) + pointer.written;
        transfer::write_all(&self.file, offset, buf, ReadWriteFlags::empty())?;
        *known = Some(Pointer { written: pointer.written + len, ..pointer });
        Ok(offset)
    }

    /// Reports the zone, which also lets the kernel write to it again after a failure.
    fn ask_for_pointer(&self, zone: u32) -> io::Result<Pointer> {
        let report = self.report(zone, 1)?;
        let Some(Zone { written, capacity, condition, .. }) = report.first().copied() else {
            return Err(Refusal::BadTransition.into());
        };
        match condition {
            ZoneCondition::ReadOnly => Err(Refusal::ReadOnly.into()),
            ZoneCondition::Offline => Err(Refusal::Offline.into()),
            ZoneCondition::Conventional => Err(Refusal::BadTransition.into()),
            _ => Ok(Pointer { written, capacity }),
        }
    }
}

/// Of two budgets, of which 0 is no limit.
fn stricter(one: u32, other: u32) -> u32 {
    if one == 0 || other == 0 { one.max(other) } else { one.min(other) }
}

fn open_exclusively(path: &Path, access: Access) -> Result<File> {
    let flags = if access.is_read() { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = flags | OFlags::DIRECT | OFlags::EXCL | OFlags::CLOEXEC;
    for _ in 0..OPEN_TRIES {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => return Ok(File::from(fd)),
            Err(Errno::BUSY) => std::thread::park_timeout(OPEN_PAUSE),
            Err(errno) => {
                let reason = format!("cannot be opened for direct IO: {errno}");
                return Err(Error::Unusable { path: path.to_owned(), reason });
            }
        }
    }
    Err(Error::InUse { path: path.to_owned() })
}

fn limits_of(file: &File, queue: &Queue, len_bytes: u64) -> io::Result<ZoneLimits> {
    let zone_bytes = queue.needed("chunk_sectors")? * SECTOR_BYTES;
    if !zone_bytes.is_multiple_of(IO_ALIGN as u64) {
        return Err(io::Error::other(format!("zones of {zone_bytes} bytes")));
    }
    let zones = u32::try_from(len_bytes.div_ceil(zone_bytes)).map_err(io::Error::other)?;
    let block = queue.needed("logical_block_size")?;
    let block_bytes = u32::try_from(block).map_err(io::Error::other)?;
    if !(IO_ALIGN as u64).is_multiple_of(block) {
        let text = format!("blocks of {block} bytes; at most {IO_ALIGN} can be used");
        return Err(io::Error::other(text));
    }
    let budget = |name| queue.least(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let everything = zones::report(file, 0, zones as usize)?;
    let leading = everything.iter().take_while(|zone| zone.kind == 1).count();
    Ok(ZoneLimits {
        zones,
        zone_bytes,
        conventional_zones: u32::try_from(leading).map_err(io::Error::other)?,
        open_max: budget("max_open_zones"),
        active_max: budget("max_active_zones"),
        append_bytes_max: append_bytes_max(queue),
        block_bytes,
    })
}

/// The longest command that the kernel passes on in one piece, whatever pages its buffer has.
fn append_bytes_max(queue: &Queue) -> usize {
    let page = IO_ALIGN as u64;
    let bounds = [
        queue.least("zone_append_max_bytes"),
        queue.least("max_hw_sectors_kb").map(|kib| kib << 10),
        queue.least("max_sectors_kb").map(|kib| kib << 10),
        // One segment a page, and one for a buffer that starts within a page.
        queue.least("max_segments").map(|segments| segments.saturating_sub(1) * page),
    ];
    let least = bounds.into_iter().flatten().min().unwrap_or(page).max(page);
    usize::try_from(least / page * page).expect("a command is short")
}

fn zone_of(raw: &RawZone, limits: &ZoneLimits) -> Zone {
    let start = raw.start * SECTOR_BYTES;
    let capacity = raw.capacity * SECTOR_BYTES;
    let condition = match raw.condition {
        1 => ZoneCondition::Empty,
        2 => ZoneCondition::ImplicitOpen,
        3 => ZoneCondition::ExplicitOpen,
        4 => ZoneCondition::Closed,
        13 => ZoneCondition::ReadOnly,
        14 => ZoneCondition::Full,
        15 => ZoneCondition::Offline,
        _ => ZoneCondition::Conventional,
    };
    let written = match condition {
        ZoneCondition::Full => capacity,
        condition if condition.is_active() => {
            raw.write_pointer.saturating_sub(raw.start) * SECTOR_BYTES
        }
        _ => 0,
    };
    let index = u32::try_from(start / limits.zone_bytes).expect("within the device");
    Zone { index, start, capacity, written, condition }
}

impl Device for ZonedDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            sector_bytes: self.limits.block_bytes,
            len_bytes: self.len_bytes,
            len_bytes_max: self.len_bytes,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_access(offset, buf.len(), self.len_bytes)?;
        transfer::read_all(&self.file, offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        check_access(offset, buf.len(), self.len_bytes)?;
        self.limits.check_write(offset, buf.len())?;
        transfer::write_all(&self.file, offset, buf, ReadWriteFlags::empty())
    }

    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        check_access(offset, buf.len(), self.len_bytes)?;
        self.limits.check_write(offset, buf.len())?;
        transfer::write_all(&self.file, offset, buf, ReadWriteFlags::DSYNC)
            .inspect_err(|_| self.poison())
    }

    fn flush(&self) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        // Never retried, as with files. Flushes the drive's cache whether pages are dirty or not.
        rustix::fs::fsync(&self.file).map_err(io::Error::from).inspect_err(|_| self.poison())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        if len_bytes <= self.len_bytes {
            return Ok(());
        }
        let text = format!("{len_bytes} bytes wanted; the drive has {}", self.len_bytes);
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn kind(&self) -> &'static str {
        if self.passthrough.is_some() { "zoned NVMe drive" } else { "zoned block device" }
    }

    fn zones(&self) -> Option<&dyn Zoned> {
        Some(self)
    }
}

impl Zoned for ZonedDevice {
    fn limits(&self) -> ZoneLimits {
        self.limits
    }

    fn report(&self, first: u32, count: u32) -> io::Result<Vec<Zone>> {
        let count = count.min(self.limits.zones.saturating_sub(first));
        if count == 0 {
            return Ok(Vec::new());
        }
        let sector = self.start(first) / SECTOR_BYTES;
        let raw = zones::report(&self.file, sector, count as usize)?;
        Ok(raw.iter().map(|raw| zone_of(raw, &self.limits)).collect())
    }

    fn open(&self, zone: u32) -> io::Result<()> {
        self.verb(ZoneVerb::Open, zone)
    }

    fn close(&self, zone: u32) -> io::Result<()> {
        self.verb(ZoneVerb::Close, zone)
    }

    fn finish(&self, zone: u32) -> io::Result<()> {
        self.verb(ZoneVerb::Finish, zone)
    }

    fn reset(&self, zone: u32) -> io::Result<()> {
        // By the block device, which drops the cached pages of the zone too.
        self.verb(ZoneVerb::Reset, zone)
    }

    fn append(&self, zone: u32, buf: &[u8]) -> io::Result<u64> {
        check_writable(&self.poisoned)?;
        self.limits.check_append(zone, buf.len())?;
        transfer::with_aligned(buf, |buf| match &self.passthrough {
            Some(passthrough) => passthrough.append(zone, buf),
            None => self.write_at_pointer(zone, buf),
        })
    }

    fn append_kind(&self) -> &'static str {
        if self.passthrough.is_some() { "zone append" } else { "write pointer" }
    }

    fn passthrough(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(self.passthrough.as_ref()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_zoned_drive_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ZonedDevice::open(file.path(), AppendBy::Auto).unwrap_err();
        assert!(error.to_string().contains("not a block device"), "{error}");
        let error = ZonedDevice::open(Path::new("/dev/nowhere"), AppendBy::Auto).unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }), "{error}");
    }

    #[test]
    fn no_limit_is_the_weakest_limit() {
        let stricter = [(0, 0), (0, 5), (5, 0), (5, 7), (7, 5)].map(|(a, b)| stricter(a, b));
        assert_eq!(stricter, [0, 5, 5, 5, 5]);
    }

    #[test]
    fn write_pointers_are_told_where_they_mean_something() {
        let limits = ZoneLimits {
            zones: 4,
            zone_bytes: 1 << 20,
            conventional_zones: 0,
            open_max: 0,
            active_max: 0,
            append_bytes_max: 1 << 17,
            block_bytes: 4096,
        };
        let raw = |condition, write_pointer| RawZone {
            start: 2048,
            len: 2048,
            capacity: 1024,
            kind: 2,
            condition,
            write_pointer,
            ..RawZone::default()
        };
        let told = |condition, pointer| zone_of(&raw(condition, pointer), &limits);
        assert_eq!((told(2, 2056).written, told(2, 2056).index), (4096, 1));
        assert_eq!(told(4, 2056).condition, ZoneCondition::Closed);
        assert_eq!(told(14, 4096).written, 512 << 10, "of a full zone, its capacity");
        assert_eq!(told(13, u64::MAX).written, 0, "of a worn one, nothing");
        assert_eq!(told(1, 2048).written, 0);
    }
}
