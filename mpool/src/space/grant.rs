//! Room in the zones of a volume.
//!
//! [`ZoneSpace`] keeps the books (`zones`) of one volume and does to the drive what they say:
//! resets, finishes, reports. A [`ZoneGrant`] is a promise of room for one object, used up append
//! by append; what it has placed is collected by the writer, what it has not is given back on drop.
//!
//! Zones are reset by whoever needs an empty one, or earlier by the pool's tidying; never under a
//! lock, and never while anything in them is live.
//!
//! Writers wait for each other here, so nobody may leave without a word: an append that is dropped
//! has failed, a reset that does not come back has failed too, and if the books themselves turn out
//! wrong (an assertion over them fails, on whatever thread) then the pool is read-only, and whoever
//! waits for room gets an error that says so.

use super::{
    Lease, VolumeSpace,
    layout::Layout,
    zones::{Next, Usage, Zones},
};
use crate::{
    address::{Extent, offset_of},
    device::{Device, Zone, ZoneCondition, ZoneLimits, Zoned},
    error::{Error, Result},
    heads::label,
    io::volumes::{Volume, Volumes},
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// The most pieces an object can have, so that its record fits.
const PIECES_MAX: u64 = 2048;

/// The zones of one volume.
pub(crate) struct ZoneSpace {
    volumes: Arc<Volumes>,
    volume: Arc<Volume>,
    limits: ZoneLimits,
    /// `None` once they turned out wrong.
    zones: Mutex<Option<Zones>>,
    /// An append has landed, a reset has ended, or the books are gone.
    changed: Condvar,
}

/// The books, locked. A panic over them is the end of them: what they say is not to be trusted with
/// somebody's data.
struct Books<'a> {
    space: &'a ZoneSpace,
    zones: MutexGuard<'a, Option<Zones>>,
    /// Another panic is on its way already, and not over these.
    unwinding: bool,
}

impl Deref for Books<'_> {
    type Target = Zones;

    fn deref(&self) -> &Zones {
        self.zones.as_ref().expect("looked at when they were locked")
    }
}

impl DerefMut for Books<'_> {
    fn deref_mut(&mut self) -> &mut Zones {
        self.zones.as_mut().expect("looked at when they were locked")
    }
}

impl Drop for Books<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.unwinding {
            *self.zones = None;
            self.space.volumes.poison_for("the books of a volume's zones are wrong");
            self.space.changed.notify_all();
        }
    }
}

impl ZoneSpace {
    /// Reads the state of all zones and, unless the device is only looked at, finishes those that
    /// nobody goes on with. `used` are places
    /// on this volume.
    pub(crate) fn recover(
        volumes: &Arc<Volumes>,
        volume: &Arc<Volume>,
        used: &[Extent],
    ) -> Result<Self> {
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
        let read_only = volume.device().is_read_only();
        for zone in report.iter().filter(|zone| zone.condition.is_open() && !read_only) {
            device.close(zone.index).map_err(|source| Error::io("zone close", at, 0, source))?;
        }
        let unfinished = if read_only { Vec::new() } else { zones.to_finish(&report) };
        for zone in unfinished {
            device.finish(zone).map_err(|source| Error::io("zone finish", at, 0, source))?;
        }
        let (volumes, volume) = (Arc::clone(volumes), Arc::clone(volume));
        Ok(Self {
            volumes,
            volume,
            limits,
            zones: Mutex::new(Some(zones)),
            changed: Condvar::new(),
        })
    }

    /// The books, unless they turned out wrong.
    fn books(&self) -> Option<Books<'_>> {
        let zones = self.zones.lock();
        let unwinding = std::thread::panicking();
        zones.is_some().then(|| Books { space: self, zones, unwinding })
    }

    fn lost_books(&self) -> Error {
        Error::Fault { what: format!("the books of the zones of {}", self.volume.id()) }
    }

    fn device(&self) -> &dyn Zoned {
        zoned(&self.volume)
    }

    pub(crate) fn limits(&self) -> &ZoneLimits {
        &self.limits
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.books().map_or(0, |zones| zones.free_bytes())
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.books().map_or(0, |zones| zones.live_bytes())
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.books().map_or(0, |zones| zones.capacity_bytes())
    }

    /// Objects are bounded by what their record can name, and by the volume.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        let appends = PIECES_MAX * self.limits.append_bytes_max as u64;
        self.capacity_bytes().min(appends)
    }

    /// Zones that objects may use: neither conventional nor the label's.
    pub(crate) fn count(&self) -> u32 {
        self.limits.zones - label::first_object_zone(&self.limits)
    }

    /// Zones that can take a whole zone's worth, and the others in which something lives.
    pub(crate) fn usage(&self) -> (usize, Vec<Usage>) {
        self.books().map_or((0, Vec::new()), |zones| (zones.whole_zones(), zones.sealed()))
    }

    /// Zones that can take a whole zone's worth, and zones that can never be written again.
    pub(super) fn whole_and_worn(&self) -> (u64, u64) {
        self.books().map_or((0, 0), |zones| (zones.whole_zones() as u64, zones.worn_zones() as u64))
    }

    /// The zones that an object lies in, and how much of it in each.
    pub(crate) fn parts_of<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (u32, u64)> {
        layout.parts(0..layout.len()).flat_map(|part| {
            let local = Extent { offset: offset_of(part.offset), len: part.len };
            by_zone(&self.limits, local)
        })
    }

    pub(super) fn release(&self, extent: Extent) {
        let Some(mut zones) = self.books() else { return };
        // A piece may have grown over a border when touching appends were joined.
        for (zone, len) in by_zone(&self.limits, extent) {
            zones.release(zone, len);
        }
        drop(zones);
        self.changed.notify_all();
    }

    /// Resets a zone in which everything is dead; false if there is none.
    pub(crate) fn reset_dead_one(&self) -> bool {
        let next = self.books().and_then(|mut zones| zones.next_dead());
        next.map(|zone| self.reset(zone)).is_some()
    }

    fn reset(&self, zone: u32) {
        let mut reset = Reset { space: self, zone, found: None };
        let found = self.device().reset(zone).and_then(|()| self.device().report(zone, 1));
        reset.found = match found {
            Ok(report) => {
                self.volumes.metrics().zones_reset.add(1);
                report.first().copied()
            }
            Err(error) => {
                let volume = self.volume.id();
                tracing::error!(%volume, zone, %error, "a zone cannot be reset; it is not used again");
                None
            }
        };
    }

    fn next(&self, stream: usize, want: u64) -> Result<(u32, u64)> {
        loop {
            let mut zones = self.books().ok_or_else(|| self.lost_books())?;
            match zones.next(stream, want) {
                Next::Append { zone, len } => return Ok((zone, len)),
                Next::Reset(zone) => {
                    drop(zones);
                    self.reset(zone);
                }
                Next::Wait => self.changed.wait(&mut zones.zones),
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
        let finish = self.books().is_some_and(|mut zones| match landed {
            Some(len) => zones.landed(zone, len),
            None => zones.failed(zone),
        });
        if finish {
            // Where the write pointer stands is unknown; finishing frees the zone's place among the
            // active ones whatever it is.
            if let Err(error) = self.device().finish(zone) {
                let volume = self.volume.id();
                tracing::warn!(%volume, zone, %error, "a zone that failed cannot be finished");
            }
            if let Some(mut zones) = self.books() {
                zones.finished(zone);
            }
        }
        self.changed.notify_all();
    }
}

/// A reset under way. It has failed unless something was found.
struct Reset<'a> {
    space: &'a ZoneSpace,
    zone: u32,
    found: Option<Zone>,
}

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        if let Some(mut zones) = self.space.books() {
            zones.was_reset(self.zone, self.found);
        }
        self.space.changed.notify_all();
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

/// One append to be made, and told of by [`ZoneAppend::ended`]. One that is dropped has failed.
#[must_use = "an append that is dropped has failed, and its zone takes no more"]
pub(crate) struct ZoneAppend {
    space: Arc<VolumeSpace>,
    pub(crate) zone: u32,
    pub(crate) len: u64,
    told: bool,
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
        let left = bytes.max(1).checked_next_multiple_of(mpool_device::IO_ALIGN as u64)?;
        let promised = zones.books()?.reserve(left, moving);
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
        Ok(ZoneAppend { space: Arc::clone(&self.space), zone, len, told: false })
    }

    /// Gives back all but `bytes` of what is left.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let more = self.left.saturating_sub(bytes);
        if let Some(mut zones) = self.zone_space().books() {
            zones.unreserve(more);
        }
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
    pub(crate) fn ended(mut self, offset: Option<u64>) -> Option<Lease> {
        self.tell(offset.map(|_| self.len));
        let offset = self.space.id().address(offset?);
        Some(Lease::new(&self.space, vec![Extent { offset, len: self.len }]))
    }

    fn tell(&mut self, landed: Option<u64>) {
        // First, so that what panics in here is not told of again.
        self.told = true;
        self.space.zones().expect("an append is to zones").ended(self.zone, landed);
    }
}

impl Drop for ZoneAppend {
    fn drop(&mut self) {
        if !self.told {
            self.tell(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::VolumeId,
        media::{MediaClass, VolumeKind, VolumeRecord},
        metrics::PoolMetrics,
    };
    use mpool_sim::SimDevice;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const ZONE: u64 = 64 << 10;

    /// A volume that has one zone active at a time, and what it belongs to.
    fn space() -> (Arc<Volumes>, Arc<VolumeSpace>) {
        let limits = ZoneLimits {
            zones: 8,
            zone_bytes: ZONE,
            conventional_zones: 2,
            open_max: 1,
            active_max: 1,
            append_bytes_max: 1 << 20,
            block_bytes: 4096,
        };
        let metrics = Arc::new(PoolMetrics::default());
        let volumes = Arc::new(Volumes::new(Arc::new(SimDevice::zoned(limits)), metrics));
        let record = VolumeRecord {
            id: VolumeId::ROOT,
            class: MediaClass::Capacity,
            kind: VolumeKind::EmulatedZoned,
            evacuating: false,
            capacity_bytes_max: 8 * ZONE,
            uuid: [0; 16],
            path: "x".into(),
        };
        let space = VolumeSpace::rebuild(&volumes, &record, &[], 0).unwrap();
        (volumes, space)
    }

    fn grant(space: &Arc<VolumeSpace>) -> ZoneGrant {
        ZoneGrant::new(space, ZONE, 0, false).expect("it is empty")
    }

    /// An assertion over the books failed on a queue thread, which went on; who waited for that
    /// thread's append waited for ever.
    #[test]
    fn whoever_waits_for_room_is_told_that_the_books_are_wrong() {
        let (volumes, space) = space();
        let (mut first, mut second) = (grant(&space), grant(&space));
        let under_way = first.take(ZONE).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| second.take(ZONE).map(|_| ()));
            let wrong = catch_unwind(AssertUnwindSafe(|| {
                let mut books = space.zones().unwrap().books().unwrap();
                books.release(2, ZONE);
            }));
            assert!(wrong.is_err(), "nothing of zone 2 is live yet");
            let text = waiter.join().expect("it does not panic").unwrap_err().to_string();
            assert!(text.contains("zones of vol-0") && text.contains("read-only"), "{text}");
        });
        assert!(matches!(volumes.check_writable(), Err(Error::Poisoned)));
        assert_eq!(space.zones().unwrap().free_bytes(), 0, "nothing is promised any more");
        assert!(ZoneGrant::new(&space, ZONE, 0, false).is_none());
        assert!(under_way.ended(Some(2 * ZONE)).is_some(), "it can be told of without harm");
    }

    #[test]
    fn an_append_that_is_dropped_has_failed() {
        let (volumes, space) = space();
        let (mut first, mut second) = (grant(&space), grant(&space));
        let under_way = first.take(ZONE).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| second.take(ZONE).map(|append| append.zone));
            assert_eq!(under_way.zone, 2);
            drop(under_way);
            assert_eq!(waiter.join().expect("it does not panic").unwrap(), 3);
        });
        volumes.check_writable().unwrap();
    }
}
