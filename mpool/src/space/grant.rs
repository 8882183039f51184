//! Room in the zones of a volume.
//!
//! [`ZoneSpace`] keeps the books (`zones`) of one volume and does to the drive what they say:
//! resets, finishes, reports. A [`ZoneGrant`] is a promise of room for one object, used up append
//! by append; what it has placed is collected by the writer, what it has not is given back on drop.
//!
//! Zones are reset by whoever needs an empty one, or earlier by the pool's tidying; never under a
//! lock, and never while anything in them is live.

use super::{
    Lease, VolumeSpace,
    extent::Extent,
    layout::Layout,
    zones::{Next, Usage, Zones},
};
use crate::{
    address::offset_of,
    device::{Device, Zone, ZoneCondition, ZoneLimits, Zoned},
    error::{Error, Result},
    label,
    volume::Volume,
};
use parking_lot::{Condvar, Mutex};
use std::{collections::BTreeMap, sync::Arc};

/// The most pieces an object can have, so that its record fits.
const PIECES_MAX: u64 = 2048;

/// The zones of one volume.
pub(crate) struct ZoneSpace {
    volume: Arc<Volume>,
    limits: ZoneLimits,
    zones: Mutex<Zones>,
    /// An append has landed or a reset has ended.
    changed: Condvar,
}

impl ZoneSpace {
    /// Reads the state of all zones and finishes those that nobody goes on with. `used` are places
    /// on this volume.
    pub(crate) fn recover(volume: &Arc<Volume>, used: &[Extent]) -> Result<Self> {
        let at = volume.id().address(0);
        let failed = |source| Error::io("zone report", at, 0, source);
        let device = zoned(volume);
        let limits = device.limits();
        let first = label::first_object_zone(&limits);
        let report = device.report(first, limits.zones - first).map_err(failed)?;
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        for extent in used {
            for (zone, len) in by_zone(&limits, *extent) {
                *live.entry(zone).or_default() += len;
            }
            warn_if_lost(volume, &limits, &report, *extent);
        }
        let zones = Zones::recover(&limits, &report, |zone| live.get(&zone).copied().unwrap_or(0));
        // A drive whose budgets are used up may refuse to finish a closed zone while others are
        // open; after a crash of this process alone they may well be.
        for zone in report.iter().filter(|zone| zone.condition.is_open()) {
            device.close(zone.index).map_err(|source| Error::io("zone close", at, 0, source))?;
        }
        for zone in zones.to_finish(&report) {
            device.finish(zone).map_err(|source| Error::io("zone finish", at, 0, source))?;
        }
        let (volume, zones) = (Arc::clone(volume), Mutex::new(zones));
        Ok(Self { volume, limits, zones, changed: Condvar::new() })
    }

    fn device(&self) -> &dyn Zoned {
        zoned(&self.volume)
    }

    pub(crate) fn limits(&self) -> &ZoneLimits {
        &self.limits
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.zones.lock().free_bytes()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.zones.lock().live_bytes()
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.zones.lock().capacity_bytes()
    }

    /// Objects are bounded by what their record can name, and by the volume.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        let appends = PIECES_MAX * self.limits.append_bytes_max as u64;
        self.capacity_bytes().min(appends)
    }

    /// Zones that can take a whole zone's worth, and the others in which something lives.
    pub(crate) fn usage(&self) -> (usize, Vec<Usage>) {
        let zones = self.zones.lock();
        (zones.whole_zones(), zones.sealed())
    }

    /// The zones that an object lies in, and how much of it in each.
    pub(crate) fn parts_of<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (u32, u64)> {
        layout.parts(0..layout.len()).flat_map(|part| {
            let local = Extent { offset: offset_of(part.offset), len: part.len };
            by_zone(&self.limits, local)
        })
    }

    pub(super) fn release(&self, extent: Extent) {
        let mut zones = self.zones.lock();
        // A piece may have grown over a border when touching appends were joined.
        for (zone, len) in by_zone(&self.limits, extent) {
            zones.release(zone, len);
        }
        drop(zones);
        self.changed.notify_all();
    }

    /// Resets a zone in which everything is dead; false if there is none.
    pub(crate) fn reset_dead_one(&self) -> bool {
        let next = self.zones.lock().next_dead();
        next.map(|zone| self.reset(zone)).is_some()
    }

    fn reset(&self, zone: u32) {
        let found = self.device().reset(zone).and_then(|()| self.device().report(zone, 1));
        let found: Option<Zone> = match found {
            Ok(report) => report.first().copied(),
            Err(error) => {
                let volume = self.volume.id();
                tracing::error!(%volume, zone, %error, "a zone cannot be reset; it is not used again");
                None
            }
        };
        self.zones.lock().was_reset(zone, found);
        self.changed.notify_all();
    }

    fn next(&self, stream: usize, want: u64) -> Result<(u32, u64)> {
        loop {
            let mut zones = self.zones.lock();
            match zones.next(stream, want) {
                Next::Append { zone, len } => return Ok((zone, len)),
                Next::Reset(zone) => {
                    drop(zones);
                    self.reset(zone);
                }
                Next::Wait => self.changed.wait(&mut zones),
                Next::Full => {
                    // Promised room can only be missing after zones have worn out.
                    let free_bytes = zones.writable_bytes();
                    return Err(Error::Full { need_bytes: want, free_bytes });
                }
            }
        }
    }

    /// An append to `zone` has ended.
    fn ended(&self, zone: u32, landed: Option<u64>) {
        let finish = {
            let mut zones = self.zones.lock();
            match landed {
                Some(len) => zones.landed(zone, len),
                None => zones.failed(zone),
            }
        };
        if finish {
            // Where the write pointer stands is unknown; finishing frees the zone's place among the
            // active ones whatever it is.
            if let Err(error) = self.device().finish(zone) {
                let volume = self.volume.id();
                tracing::warn!(%volume, zone, %error, "a zone that failed cannot be finished");
            }
            self.zones.lock().finished(zone);
        }
        self.changed.notify_all();
    }
}

fn zoned(volume: &Volume) -> &dyn Zoned {
    let device: &dyn Device = &**volume.device();
    device.zones().expect("a volume with zones")
}

/// The parts of `extent` in each zone.
fn by_zone(limits: &ZoneLimits, extent: Extent) -> impl Iterator<Item = (u32, u64)> {
    let (zone_bytes, end, mut at) = (limits.zone_bytes, extent.end(), extent.offset);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let zone = at / zone_bytes;
        let stop = ((zone + 1) * zone_bytes).min(end);
        let len = stop - at;
        at = stop;
        Some((u32::try_from(zone).expect("zones are numbered by 32 bits"), len))
    })
}

/// Committed bytes beyond a write pointer mean that the drive lost what it had said was durable.
/// The object is read, and fails its checksums, like any other that rotted.
fn warn_if_lost(volume: &Volume, limits: &ZoneLimits, report: &[Zone], extent: Extent) {
    for (index, _) in by_zone(limits, extent) {
        let Some(zone) = report.iter().find(|zone| zone.index == index) else { continue };
        // A worn-out zone does not say how far it was written.
        if matches!(zone.condition, ZoneCondition::ReadOnly | ZoneCondition::Offline) {
            continue;
        }
        let end = extent.end().min(zone.start + limits.zone_bytes) - zone.start;
        if end > zone.written {
            let volume = volume.id();
            tracing::error!(%volume, zone = index, written = zone.written, end, "the drive has lost committed data");
        }
    }
}

/// A promise of room for one object.
pub(crate) struct ZoneGrant {
    space: Arc<VolumeSpace>,
    stream: usize,
    /// Promised and not yet placed.
    left: u64,
}

/// One append to be made, and told of by [`ZoneAppend::ended`].
#[must_use = "an append that is not told of keeps its zone busy for ever"]
pub(crate) struct ZoneAppend {
    space: Arc<VolumeSpace>,
    pub(crate) zone: u32,
    pub(crate) len: u64,
}

impl ZoneGrant {
    /// A promise of `bytes`, rounded up to blocks; `None` if there is no room.
    pub(super) fn new(
        space: &Arc<VolumeSpace>,
        bytes: u64,
        stream: usize,
        moving: bool,
    ) -> Option<Self> {
        let zones = space.zones()?;
        let left = bytes.max(1).checked_next_multiple_of(crate::io::buf::IO_ALIGN as u64)?;
        let promised = zones.zones.lock().reserve(left, moving);
        promised.then(|| Self { space: Arc::clone(space), stream, left })
    }

    pub(crate) fn space(&self) -> &Arc<VolumeSpace> {
        &self.space
    }

    /// Bytes that can still be placed.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The longest single append.
    pub(crate) fn append_bytes_max(&self) -> usize {
        self.zone_space().limits.append_bytes_max
    }

    fn zone_space(&self) -> &ZoneSpace {
        self.space.zones().expect("a grant is of zones")
    }

    /// Where the next up to `want` bytes go. May reset a zone, and wait for another's append.
    pub(crate) fn take(&mut self, want: u64) -> Result<ZoneAppend> {
        assert!(want <= self.left, "a writer keeps to what it was promised");
        let (zone, len) = self.zone_space().next(self.stream, want)?;
        self.left -= len;
        Ok(ZoneAppend { space: Arc::clone(&self.space), zone, len })
    }

    /// Gives back all but `bytes` of what is left.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let more = self.left.saturating_sub(bytes);
        self.zone_space().zones.lock().unreserve(more);
        self.left -= more;
    }
}

impl Drop for ZoneGrant {
    fn drop(&mut self) {
        self.trim(0);
    }
}

impl ZoneAppend {
    /// The append has ended: `Some(offset)` where the drive put it. Returns the lease of the piece.
    pub(crate) fn ended(self, offset: Option<u64>) -> Option<Lease> {
        let zones = self.space.zones().expect("an append is to zones");
        zones.ended(self.zone, offset.map(|_| self.len));
        let offset = self.space.id().address(offset?);
        Some(Lease::new(&self.space, vec![Extent { offset, len: self.len }]))
    }
}
