//! A zoned volume in a regular file.
//!
//! For machines without a zoned drive, and for tests: the rules of `rules` over a sparse file,
//! whose zones are remembered in a second file (`sidecar`). It behaves as badly as a drive may:
//! what was appended and not flushed is lost with the process, and what lies beyond a write pointer
//! reads as noise. Bytes are written outside of the lock, so that appends to one zone run side by
//! side.
//!
//! ```text
//! append        table: where    -> bytes           (lost with the process until a flush)
//! flush         bytes durable   -> records durable: filled up to what had been completed
//! finish        table           -> record durable
//! reset         table           -> record durable  -> hole in the file
//! ```
//!
//! The map shows the file as it is: zeros where [`read_at`](Device::read_at) answers noise. Tests
//! add faults, and a watch over pages cached before they are written, by [`Hooks`].

use super::{
    Zone, ZoneCondition, ZoneLimits, Zoned,
    passthrough::check_writable,
    rules::{Refusal, ZoneTable, noise},
    sidecar::{Head, Record, Sidecar, record_of},
    transfer,
};
use crate::{
    device::{Access, Device, FileDevice, FileOptions, Geometry, check_access},
    error::{Error, Result},
};
use mpool_device::IO_ALIGN;
use parking_lot::Mutex;
use rustix::{fs::FallocateFlags, io::ReadWriteFlags};
use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A new emulated volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedOptions {
    /// What it looks like and allows.
    pub limits: ZoneLimits,
    /// What each sequential zone can hold, in bytes; at most what it spans.
    pub capacity: u64,
    /// What its file system may be like.
    pub allow: Allow,
}

/// What a file system may be like without being refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Fall back to page-cache IO where `O_DIRECT` is refused.
    pub buffered: bool,
    /// Accept one that forgets: tmpfs, ramfs, overlayfs.
    pub volatile: bool,
}

/// What may come between a verb and its effect: nothing, unless a test puts something there.
pub(super) trait Hooks: fmt::Debug + Send + Sync {
    /// Takes the place of one append, of several at once in any order.
    fn in_turn(&self, place: &mut dyn FnMut()) {
        place();
    }

    fn before_append(&self, _: &mut ZoneTable, _zone: u32, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn before_verb(&self, _: &mut ZoneTable, _zone: u32) -> io::Result<()> {
        Ok(())
    }

    fn before_flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes are about to be written to the file.
    fn before_write(&self, _: &File, _offset: u64, _len: u64) {}
}

#[derive(Debug)]
struct NoHooks;

impl Hooks for NoHooks {}

/// A zoned volume in a regular file, locked against other openers.
#[derive(Debug)]
pub struct EmulatedZoned {
    /// Opens, locks and reads the file; knows nothing of zones.
    pub(super) volume: FileDevice,
    limits: ZoneLimits,
    salt: u64,
    pub(super) state: Mutex<State>,
    /// Taken before `state`, and held while records are written.
    pub(super) sidecar: Mutex<Sidecar>,
    pub(super) hooks: Arc<dyn Hooks>,
    poisoned: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: ZoneTable,
    /// By zone: the end of the last append that has returned.
    pub(super) completed: Vec<u64>,
    /// By zone: what of that has been flushed.
    pub(super) flushed: Vec<u64>,
    /// Zones whose records are out of date.
    dirty: BTreeSet<u32>,
}

impl EmulatedZoned {
    /// Makes a new volume at `path`, and `path.zones` beside it; neither may exist.
    pub fn create(path: &Path, options: &EmulatedOptions) -> Result<Self> {
        options.validate()?;
        let limits = options.limits;
        if path.symlink_metadata().is_ok() {
            let reason = "exists already; give another path, or open it".to_owned();
            return Err(Error::Unusable { path: path.to_owned(), reason });
        }
        let volume = open_volume(path, options.allow, Access::Create)?;
        let table = ZoneTable::new(limits, options.capacity);
        let head = Head { limits, salt: std::process::id().into() };
        let made = file_of(&volume)
            .set_len(len_bytes(&limits))
            .and_then(|()| file_of(&volume).sync_all())
            .and_then(|()| Sidecar::create(path, &head, &table));
        let sidecar = made.map_err(|source| Error::io("grow", 0, 0, source))?;
        drop(volume);
        // Opened again, so that it sees its length, and both directory entries are durable.
        let volume = open_volume(path, options.allow, Access::Create)?;
        Ok(Self::new(volume, head, table, sidecar))
    }

    /// Opens an existing volume, as after a power cut: what was not flushed is gone.
    pub fn open(path: &Path, allow: Allow) -> Result<Self> {
        Self::open_for(path, allow, Access::Write)
    }

    pub(crate) fn open_for(path: &Path, allow: Allow, access: Access) -> Result<Self> {
        let volume = open_volume(path, allow, access)?;
        let (sidecar, head, records) = Sidecar::open(path, access)?;
        if volume.geometry().len_bytes != len_bytes(&head.limits) {
            let reason = "its length is not that of its zones";
            let what = format!("the zoned volume {}", path.display());
            return Err(Error::Corrupt { what, offset: volume.geometry().len_bytes, reason });
        }
        let mut table = ZoneTable::new(head.limits, head.limits.zone_bytes);
        for (index, record) in (0..).zip(&records) {
            let Record { filled, capacity, epoch, condition, finished } = *record;
            let zone = table.zone_mut(index);
            (zone.filled, zone.capacity, zone.epoch) = (filled, capacity, epoch);
            (zone.condition, zone.finished) = (condition, finished);
        }
        Ok(Self::new(volume, head, table, sidecar))
    }

    fn new(volume: FileDevice, head: Head, table: ZoneTable, sidecar: Sidecar) -> Self {
        let filled: Vec<u64> = table.iter().map(|(_, zone)| zone.filled).collect();
        let (completed, flushed) = (filled.clone(), filled);
        Self {
            volume,
            limits: head.limits,
            salt: head.salt,
            state: Mutex::new(State { table, completed, flushed, dirty: BTreeSet::new() }),
            sidecar: Mutex::new(sidecar),
            hooks: Arc::new(NoHooks),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Where the volume is.
    pub fn path(&self) -> &Path {
        self.volume.path()
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn data(&self) -> &File {
        file_of(&self.volume)
    }

    pub(super) fn start(&self, zone: u32) -> u64 {
        u64::from(zone) * self.limits.zone_bytes
    }

    /// Overwrites what no append has written with noise.
    fn overlay(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        for (i, page) in buf.chunks_mut(IO_ALIGN).enumerate() {
            let at = offset + (i * IO_ALIGN) as u64;
            let index = u32::try_from(at / self.limits.zone_bytes).expect("within the device");
            let zone = state.table.zone(index);
            match zone.condition {
                ZoneCondition::Offline => return Err(Refusal::Offline.into()),
                ZoneCondition::Conventional => {}
                _ if at % self.limits.zone_bytes < zone.filled => {}
                _ => noise(self.salt ^ (u64::from(zone.epoch) << 32), at, page),
            }
        }
        Ok(())
    }

    /// A verb whose effect is not remembered.
    /// Where an append goes within its zone, and in which of its lives.
    fn place(&self, zone: u32, len: u64) -> io::Result<(u64, u32)> {
        let mut state = self.state.lock();
        self.hooks.before_append(&mut state.table, zone, len)?;
        let within = state.table.append(zone, len)?;
        Ok((within, state.table.zone(zone).epoch))
    }

    fn light_verb(
        &self,
        zone: u32,
        verb: impl FnOnce(&mut ZoneTable, u32) -> Result<(), Refusal>,
    ) -> io::Result<()> {
        self.limits.check_zone(zone)?;
        check_writable(&self.poisoned)?;
        let mut state = self.state.lock();
        self.hooks.before_verb(&mut state.table, zone)?;
        Ok(verb(&mut state.table, zone)?)
    }

    /// A verb whose effect is durable on return.
    fn durable_verb(
        &self,
        zone: u32,
        verb: impl FnOnce(&mut ZoneTable, u32) -> Result<(), Refusal>,
    ) -> io::Result<()> {
        let sidecar = self.sidecar.lock();
        self.light_verb(zone, verb)?;
        let record = {
            let mut state = self.state.lock();
            let at = index(zone);
            if state.table.zone(zone).condition == ZoneCondition::Empty {
                (state.completed[at], state.flushed[at]) = (0, 0);
            }
            state.dirty.remove(&zone);
            record_of(&state.table, zone, state.flushed[at])
        };
        sidecar.write(&[(zone, record)]).inspect_err(|_| self.poison())
    }
}

impl EmulatedOptions {
    fn validate(&self) -> Result<()> {
        check_limits(&self.limits).map_err(Error::Options)?;
        let (capacity, span) = (self.capacity, self.limits.zone_bytes);
        if capacity == 0 || capacity > span || !capacity.is_multiple_of(IO_ALIGN as u64) {
            let text =
                format!("capacity is {capacity}, must be a multiple of {IO_ALIGN} in 1..={span}");
            return Err(Error::Options(text));
        }
        Ok(())
    }
}

/// Checks what an emulated volume needs of its limits; the error names the first that is off.
pub(super) fn check_limits(limits: &ZoneLimits) -> std::result::Result<(), String> {
    let ZoneLimits { zones, zone_bytes, conventional_zones, append_bytes_max, block_bytes, .. } =
        *limits;
    let page = IO_ALIGN as u64;
    let append = append_bytes_max as u64;
    let off = if zones == 0 || zones > 1 << 20 {
        format!("zones is {zones}, must be in 1..={}", 1 << 20)
    } else if zone_bytes == 0 || zone_bytes > 1 << 40 || !zone_bytes.is_multiple_of(page) {
        format!("zone_bytes is {zone_bytes}, must be a multiple of {page} up to {}", 1_u64 << 40)
    } else if conventional_zones > zones {
        format!("conventional_zones is {conventional_zones}, must be in 0..={zones}")
    } else if append == 0 || append > 1 << 30 || !append.is_multiple_of(page) {
        format!("append_bytes_max is {append}, must be a multiple of {page} up to {}", 1 << 30)
    } else if !matches!(block_bytes, 512 | 4096) {
        format!("block_bytes is {block_bytes}, must be 512 or 4096")
    } else {
        return Ok(());
    };
    Err(off)
}

fn len_bytes(limits: &ZoneLimits) -> u64 {
    u64::from(limits.zones) * limits.zone_bytes
}

fn index(zone: u32) -> usize {
    usize::try_from(zone).expect("usize has at least 32 bits")
}

fn open_volume(path: &Path, allow: Allow, access: Access) -> Result<FileDevice> {
    // It never grows: the zones fix its length.
    let options = FileOptions {
        allow_buffered: allow.buffered,
        allow_volatile: allow.volatile,
        len_bytes_max: 0,
        grow_step_bytes: IO_ALIGN as u64,
        reserve_bytes: Some(0),
    };
    FileDevice::open_for(path, &options, access)
}

fn file_of(volume: &FileDevice) -> &File {
    volume.file().expect("a file device has a file")
}

impl Device for EmulatedZoned {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.volume.read_at(offset, buf)?;
        self.overlay(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        self.limits.check_write(offset, buf.len())?;
        self.volume.write_at(offset, buf)
    }

    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        self.limits.check_write(offset, buf.len())?;
        self.volume.write_durable_at(offset, buf).inspect_err(|_| self.poison())
    }

    fn flush(&self) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        // Held throughout, so that no reset comes between the bytes and their record.
        let sidecar = self.sidecar.lock();
        let completed: Vec<(u32, u64)> = {
            let mut state = self.state.lock();
            let dirty = std::mem::take(&mut state.dirty);
            dirty.into_iter().map(|zone| (zone, state.completed[index(zone)])).collect()
        };
        self.hooks.before_flush().inspect_err(|_| self.poison())?;
        self.volume.flush().inspect_err(|_| self.poison())?;
        if completed.is_empty() {
            return Ok(());
        }
        let records: Vec<(u32, Record)> = {
            let mut state = self.state.lock();
            let flushed = |(zone, filled)| {
                state.flushed[index(zone)] = filled;
                (zone, record_of(&state.table, zone, filled))
            };
            completed.into_iter().map(flushed).collect()
        };
        sidecar.write(&records).inspect_err(|_| self.poison())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        check_writable(&self.poisoned)?;
        let have = self.geometry().len_bytes;
        if len_bytes <= have {
            return Ok(());
        }
        let text = format!("{len_bytes} bytes wanted; the zones have {have}");
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    fn file(&self) -> Option<&File> {
        Some(self.data())
    }

    fn kind(&self) -> &'static str {
        "emulated zones"
    }

    fn zones(&self) -> Option<&dyn Zoned> {
        Some(self)
    }
}

impl Zoned for EmulatedZoned {
    fn limits(&self) -> ZoneLimits {
        self.limits
    }

    fn report(&self, first: u32, count: u32) -> io::Result<Vec<Zone>> {
        Ok(self.state.lock().table.report(first, count))
    }

    fn open(&self, zone: u32) -> io::Result<()> {
        self.light_verb(zone, ZoneTable::open)
    }

    fn close(&self, zone: u32) -> io::Result<()> {
        self.light_verb(zone, ZoneTable::close)
    }

    fn finish(&self, zone: u32) -> io::Result<()> {
        self.durable_verb(zone, ZoneTable::finish)
    }

    fn reset(&self, zone: u32) -> io::Result<()> {
        self.durable_verb(zone, ZoneTable::reset)?;
        if self.state.lock().table.zone(zone).filled > 0 {
            // Read-only instead of empty, or already written again.
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (start, len) = (self.start(zone), self.limits.zone_bytes);
        let punched = rustix::fs::fallocate(self.data(), hole, start, len);
        if let Err(error) = punched {
            // The bytes are out of reach already; only the space is not given back.
            tracing::debug!(%error, zone, "no hole where a zone was");
        }
        Ok(())
    }

    fn append(&self, zone: u32, buf: &[u8]) -> io::Result<u64> {
        check_writable(&self.poisoned)?;
        self.limits.check_append(zone, buf.len())?;
        let len = buf.len() as u64;
        let mut placed = Err(io::ErrorKind::Other.into());
        self.hooks.in_turn(&mut || placed = self.place(zone, len));
        let (within, epoch) = placed?;
        let offset = self.start(zone) + within;
        self.hooks.before_write(self.data(), offset, len);
        let wrote = transfer::write_all(self.data(), offset, buf, ReadWriteFlags::empty());
        let mut state = self.state.lock();
        if let Err(error) = wrote {
            state.table.append_failed(zone);
            return Err(error);
        }
        // A reset that did not wait for this append has made it void.
        if state.table.zone(zone).epoch == epoch {
            let completed = &mut state.completed[index(zone)];
            *completed = (*completed).max(within + len);
            state.dirty.insert(zone);
        }
        Ok(offset)
    }

    fn append_kind(&self) -> &'static str {
        "zone append"
    }
}
