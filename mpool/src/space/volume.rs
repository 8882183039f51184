//! The space of one volume: its extents and its zones.
//!
//! ```text
//!   conventional part                 sequential zones (zoned devices only)
//!   |label|  extents, free set ...  | label zone* | zone | zone | ...
//!                                     * where there is no conventional part
//! ```

use super::{
    Lease, Room,
    choose::{Candidate, What},
    disks::Growth,
    extent::{FreeExtents, FreeSet, Shape},
    give_back::GivesBack,
    grant::{ZoneGrant, ZoneSpace},
    holes::find_holes,
    zones::STREAMS_MAX,
};
use crate::{
    Device, Zoned,
    address::{ALLOC_UNIT, Extent, VolumeId, offset_of},
    chores::Bell,
    error::{Error, Result},
    heads::label,
    io::volumes::{Volume, Volumes},
    media::{MediaClass, Placement, VolumeRecord},
    options::{CAPACITY_BYTES_MAX, check_capacity_max, size_text},
};
use parking_lot::{Condvar, Mutex};
use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// Who owns what on one volume.
pub(crate) struct VolumeSpace {
    id: VolumeId,
    class: MediaClass,
    pub(super) volumes: Arc<Volumes>,
    pub(super) volume: Arc<Volume>,
    /// Takes nothing new.
    evacuating: AtomicBool,
    /// The limit of the conventional part, in whole units.
    len_max: AtomicU64,
    pub(super) free: Mutex<FreeSet>,
    /// What was on loan to the disk is back.
    pub(super) returned: Condvar,
    pub(super) gives_back: GivesBack,
    /// Bytes at places that objects have moved from, and somebody still reads.
    pub(super) left_bytes: AtomicU64,
    zones: Option<Arc<ZoneSpace>>,
    bell: OnceLock<Bell>,
    /// Percentage of the volume kept for allocations that say they may use it.
    spare_pct: u8,
}

/// A volume whose end is not there.
pub(crate) fn short(path: &Path, device: &dyn Device, end: u64) -> Error {
    // Of a file what it has, and not its whole pages.
    let file_bytes = device.file().and_then(|file| file.metadata().ok()).map_or(0, |m| m.len());
    let len_bytes = device.geometry().len_bytes.max(file_bytes);
    let reason = format!(
        "is {len_bytes} bytes long, and what the pool has on it reaches to byte {end}: its end is cut \
         off. Bring the whole volume back, or restore the pool from a backup; `millpond pool check` \
         names what is beyond the end"
    );
    Error::Unusable { path: path.to_owned(), reason }
}

impl VolumeSpace {
    /// A space in which everything is free but `used` and the volume's own label. `used` are
    /// addresses, on whatever volume; overlap means that the journal which named them is wrong.
    pub(crate) fn rebuild(
        volumes: &Arc<Volumes>,
        record: &VolumeRecord,
        used: &[Extent],
        spare_pct: u8,
    ) -> Result<Arc<Self>> {
        let id = record.id;
        let volume = volumes.get(id).expect("the device was added before its space");
        let geometry = volume.device().geometry();
        let zoned = volume.device().zones().map(Zoned::limits);
        let conventional = |len: u64| match &zoned {
            Some(limits) => u64::from(limits.conventional_zones) * limits.zone_bytes,
            None => len,
        };
        let len = conventional(geometry.len_bytes) / ALLOC_UNIT * ALLOC_UNIT;
        // A record may have a limit from before there was one on limits.
        let len_max = record.capacity_bytes_max.min(CAPACITY_BYTES_MAX);
        let len_max = conventional(len_max.min(geometry.len_bytes_max));
        let len_max = len_max.max(len) / ALLOC_UNIT * ALLOC_UNIT;
        let end = used.iter().filter(|extent| VolumeId::of(extent.offset) == id);
        let end = end.map(|extent| offset_of(extent.end())).max().unwrap_or(0);
        if zoned.is_none() && end > geometry.len_bytes {
            return Err(short(&record.path, &**volume.device(), end));
        }
        let mut free = FreeSet::new(len);
        let here = |extent: &&Extent| VolumeId::of(extent.offset) == id;
        let (mut in_zones, mut overwritable) = (Vec::new(), Vec::new());
        for extent in used.iter().filter(here) {
            let local = Extent { offset: offset_of(extent.offset), len: extent.len };
            let is_zoned = zoned.is_some() && local.offset >= len_max;
            if is_zoned { in_zones.push(local) } else { overwritable.push(local) }
        }
        overwritable.extend(label::reserved(id, len));
        for extent in overwritable {
            let corrupt = |reason| Error::corrupt("space map", id.address(extent.offset), reason);
            free.take(extent).map_err(corrupt)?;
        }
        find_holes(&**volume.device(), &mut free);
        let zones = match zoned {
            Some(_) => Some(Arc::new(ZoneSpace::recover(volumes, &volume, &in_zones)?)),
            None => None,
        };
        Ok(Arc::new(Self {
            id,
            class: record.class,
            volumes: Arc::clone(volumes),
            volume,
            evacuating: AtomicBool::new(record.evacuating),
            len_max: AtomicU64::new(len_max),
            free: Mutex::new(free),
            returned: Condvar::new(),
            gives_back: GivesBack::default(),
            left_bytes: AtomicU64::new(0),
            zones,
            bell: OnceLock::new(),
            spare_pct,
        }))
    }

    /// Rings `bell` from here on when something in its zones has died.
    pub(super) fn tell_of_deaths(&self, bell: &Bell) {
        assert!(self.bell.set(bell.clone()).is_ok(), "a space is counted in once");
    }

    /// What was leased has been released.
    pub(super) fn ring(&self) {
        if let (Some(_), Some(bell)) = (&self.zones, self.bell.get()) {
            bell.ring();
        }
    }

    pub(crate) fn id(&self) -> VolumeId {
        self.id
    }

    pub(crate) fn class(&self) -> MediaClass {
        self.class
    }

    pub(crate) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub(crate) fn zones(&self) -> Option<&Arc<ZoneSpace>> {
        self.zones.as_ref()
    }

    pub(crate) fn is_evacuating(&self) -> bool {
        self.evacuating.load(Relaxed)
    }

    pub(crate) fn set_evacuating(&self, evacuating: bool) {
        self.evacuating.store(evacuating, Relaxed);
    }

    /// What `choose` needs to know.
    pub(super) fn candidate(&self, what: What) -> Candidate {
        let extents = self.free_extent_bytes();
        let free_bytes = match (&self.zones, what) {
            (Some(zones), What::Object) => zones.free_bytes(),
            _ => extents,
        };
        Candidate {
            id: self.id,
            class: self.class,
            evacuating: self.is_evacuating(),
            conventional: self.len_max() > 0,
            zoned: self.zones.is_some(),
            free_bytes,
        }
    }

    /// An extent of at least `bytes`, rounded up to whole units; `None` if it is full.
    pub(super) fn lease(self: &Arc<Self>, bytes: u64, spare: bool) -> Result<Option<Lease>> {
        self.lease_in(bytes, spare, Shape::Lowest)
    }

    fn lease_in(self: &Arc<Self>, bytes: u64, spare: bool, shape: Shape) -> Result<Option<Lease>> {
        let Some(len) = bytes.max(1).checked_next_multiple_of(ALLOC_UNIT) else { return Ok(None) };
        let kept = if spare { 0 } else { self.spare_bytes() };
        if self.free_extent_bytes() < kept.saturating_add(len) {
            return Ok(None);
        }
        loop {
            let mut free = self.free.lock();
            if let Some(extents) = free.allocate_in(len, shape) {
                return Ok(Some(self.leased(extents)));
            }
            if let Some(claim) = free.claim(len, shape) {
                drop(free);
                return self.refill(claim);
            }
            let want = (free.volume_len() - free.free_tail()).checked_add(len);
            let lending = free.is_lending();
            drop(free);
            // Beyond what the disk below has left, asking it to grow would fail.
            match want.filter(|want| *want <= self.extents_reachable()) {
                Some(want) if self.grow(want)? => {}
                _ if lending => self.wait_for_loans(),
                _ => return Ok(None),
            }
        }
    }

    pub(super) fn leased(self: &Arc<Self>, mut extents: Vec<Extent>) -> Lease {
        for extent in &mut extents {
            extent.offset = self.id.address(extent.offset);
        }
        Lease::new(self, extents)
    }

    /// Room for an object: in zones where there are some, else an extent.
    pub(super) fn room(self: &Arc<Self>, bytes: u64, placement: Placement) -> Result<Option<Room>> {
        let stream = placement.lifetime as usize;
        self.room_in(bytes, stream, placement.spare)
    }

    pub(super) fn room_to_move(self: &Arc<Self>, bytes: u64) -> Result<Option<Room>> {
        self.room_in(bytes, STREAMS_MAX - 1, true)
    }

    fn room_in(self: &Arc<Self>, bytes: u64, stream: usize, spare: bool) -> Result<Option<Room>> {
        let Some(zones) = &self.zones else {
            return Ok(self.lease_in(bytes, spare, Shape::Pieces)?.map(Room::Places));
        };
        let moving = stream == STREAMS_MAX - 1;
        let kept = if spare { 0 } else { self.spare_bytes() };
        if !moving && zones.free_bytes() < kept.saturating_add(bytes) {
            return Ok(None);
        }
        Ok(ZoneGrant::new(self, bytes, stream, moving).map(Room::Zones))
    }

    /// Makes the volume `want` long. No lock is held while the device grows; two growers race
    /// harmlessly, as the free set takes the device as it finds it.
    fn grow(&self, want: u64) -> Result<bool> {
        let grown = self.volumes.grow(self.id, want)?;
        if grown {
            self.extend();
        }
        Ok(grown)
    }

    /// Takes in what the device has gained. Its length is asked for under the lock: whoever
    /// shortens the device takes the end out of the set first, under the same.
    fn extend(&self) {
        let mut free = self.free.lock();
        let len = self.volume.device().geometry().len_bytes.min(self.len_max());
        free.extend_to(len / ALLOC_UNIT * ALLOC_UNIT);
    }

    /// Raises the limit of a file, or takes in what a device has gained.
    pub(crate) fn raise(&self, capacity_bytes_max: u64) {
        let len = self.volume.device().geometry().len_bytes;
        let max = capacity_bytes_max.max(len) / ALLOC_UNIT * ALLOC_UNIT;
        if self.zones.is_none() {
            self.len_max.fetch_max(max, Relaxed);
            self.extend();
        }
    }

    pub(super) fn release(&self, extent: Extent) {
        assert!(VolumeId::of(extent.offset) == self.id, "an extent returns to its volume");
        let local = Extent { offset: offset_of(extent.offset), len: extent.len };
        match &self.zones {
            Some(zones) if local.offset >= self.len_max() => zones.release(local),
            _ => self.free.lock().release(local),
        }
    }

    /// Bytes that belong to an object, a log or the volume itself.
    pub(crate) fn used_bytes(&self) -> u64 {
        let free = self.free.lock();
        let extents = free.volume_len() - free.free_bytes();
        extents + self.zones.as_ref().map_or(0, |zones| zones.live_bytes())
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_extent_bytes() + self.zones.as_ref().map_or(0, |zones| zones.free_bytes())
    }

    /// What is free within its present length.
    pub(crate) fn free_extents(&self) -> FreeExtents {
        self.free.lock().extents()
    }

    /// What is free and backed, and what the disk below could give beside.
    pub(super) fn free_extent_bytes(&self) -> u64 {
        let (growth, left) = self.to_ask_for();
        let free = self.free.lock();
        free.free_bytes() - free.unpaid_bytes() + growth.min(left)
    }

    /// Bytes that the volume would ask the disk below for, to be full: its holes, and what it may
    /// grow by; and what the disk has left.
    fn to_ask_for(&self) -> (u64, u64) {
        let device = self.volume.device();
        let left = device.growth_left();
        let free = self.free.lock();
        let growth = self.len_max().saturating_sub(free.volume_len());
        (free.unpaid_bytes() + growth, left)
    }

    /// What the conventional part could come to now: its limit, or what the disk below has left.
    fn extents_reachable(&self) -> u64 {
        let device = self.volume.device();
        let len = device.geometry().len_bytes;
        self.len_max().min(len.saturating_add(device.growth_left()))
    }

    /// How it could grow now, where others may grow on the same disk.
    pub(super) fn growth(&self) -> Option<Growth> {
        let disk = self.volume.device().disk()?;
        let (growth, left) = self.to_ask_for();
        Some(Growth { disk, bytes: growth.min(left), left })
    }

    /// The limit of the conventional part.
    fn extents_max(&self) -> u64 {
        self.len_max.load(Relaxed)
    }

    /// What it may grow to.
    pub(crate) fn len_max(&self) -> u64 {
        self.extents_max()
    }

    /// What it can hold in all.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.extents_max() + self.zones.as_ref().map_or(0, |zones| zones.capacity_bytes())
    }

    /// The part of it that is spare: of what it can hold as things are, not of a limit that the
    /// disk below does not have.
    pub(crate) fn spare_bytes(&self) -> u64 {
        let zones = self.zones.as_ref().map_or(0, |zones| zones.capacity_bytes());
        let free = self.free.lock();
        let used = free.volume_len() - free.free_bytes();
        drop(free);
        (used + self.free_extent_bytes() + zones) / 100 * u64::from(self.spare_pct)
    }

    /// The largest object that it could hold if it were empty.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        match &self.zones {
            Some(zones) => zones.object_bytes_max(),
            None => self.extents_max(),
        }
    }

    /// Raises `capacity` to what is there, or says why not.
    pub(crate) fn check_growth(&self, capacity_bytes_max: u64) -> Result<()> {
        let (asked, have) = (size_text(capacity_bytes_max), size_text(self.extents_max()));
        let id = self.id;
        check_capacity_max(&id.to_string(), capacity_bytes_max)?;
        if capacity_bytes_max >= self.extents_max() {
            return Ok(());
        }
        let way_out = if id == VolumeId::ROOT {
            "what it leaves of its disk to others is bounded by option disk_reserve"
        } else {
            "add a smaller one and evacuate this one"
        };
        Err(Error::Options(format!(
            "capacity of {id} is {have} and cannot become {asked}: volumes do not shrink; {way_out}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, media::VolumeKind, metrics::PoolMetrics, space::Space};
    use mpool_sim::{Faults, SimDevice};

    const U: u64 = ALLOC_UNIT;

    fn record(capacity_bytes_max: u64) -> VolumeRecord {
        VolumeRecord {
            id: VolumeId::ROOT,
            class: MediaClass::Capacity,
            kind: VolumeKind::File,
            evacuating: false,
            capacity_bytes_max,
            uuid: [0; 16],
            path: "x".into(),
        }
    }

    fn space(device: &SimDevice, used: &[Extent]) -> Result<Space> {
        let metrics = Arc::new(PoolMetrics::default());
        let volumes = Arc::new(Volumes::new(Arc::new(device.clone()), metrics));
        let space = Space::new(&volumes);
        space.add(VolumeSpace::rebuild(&volumes, &record(100 * U), used, 0)?);
        Ok(space)
    }

    fn lease(space: &Space, bytes: u64) -> Result<Lease> {
        space.lease(bytes, MediaClass::Capacity)
    }

    #[test]
    fn overlapping_extents_are_corruption() {
        let device = SimDevice::new(8 * U);
        device.grow(8 * U).unwrap();
        let extent = |offset: u64, len: u64| Extent { offset: offset * U, len: len * U };
        assert_eq!(space(&device, &[extent(2, 2), extent(5, 3)]).unwrap().used_bytes(), 7 * U);
        for bad in [[extent(2, 2), extent(3, 2)], [extent(3, 1), extent(3, 1)]] {
            let Err(Error::Corrupt { offset, .. }) = space(&device, &bad).map(|_| ()) else {
                panic!("{bad:?} was accepted");
            };
            assert_eq!(offset, bad[1].offset);
        }
        let beyond = space(&device, &[extent(7, 2)]).map(|_| ());
        assert!(matches!(beyond, Err(Error::Unusable { .. })));
    }

    #[test]
    fn the_volume_grows_by_what_is_needed_until_its_limit() {
        let device = SimDevice::new(10 * U);
        device.grow(2 * U).unwrap();
        let space = space(&device, &[]).unwrap();
        let first = lease(&space, 1).unwrap();
        let second = lease(&space, 3 * U).unwrap();
        assert_eq!(device.geometry().len_bytes, 6 * U);
        drop(second);
        let third = lease(&space, 5 * U).unwrap();
        assert_eq!(device.geometry().len_bytes, 8 * U, "the free tail is used");
        let full = lease(&space, 3 * U).map(|_| ()).unwrap_err();
        let Error::Full { need_bytes, free_bytes } = full else { panic!("{full}") };
        assert_eq!((need_bytes, free_bytes), (3 * U, 2 * U));
        drop((first, third));
        assert_eq!((space.used_bytes(), space.free_bytes()), (2 * U, 8 * U));
    }

    #[test]
    fn a_full_disk_is_a_full_pool_and_nothing_is_lost() {
        let device = SimDevice::new(10 * U);
        device.grow(2 * U).unwrap();
        let space = space(&device, &[]).unwrap();
        let faults = Faults { enospc_after_bytes: Some(4 * U), ..Faults::default() };
        device.set_faults(faults);
        let held = lease(&space, 2 * U).unwrap();
        assert!(matches!(lease(&space, U), Err(Error::Full { .. })));
        drop(held);
        assert!(lease(&space, 2 * U).is_ok());
    }

    #[test]
    fn free_is_what_the_disk_has_left_and_spare_a_part_of_what_can_be_had() {
        let device = SimDevice::new(1000 * U);
        device.grow(2 * U).unwrap();
        let metrics = Arc::new(PoolMetrics::default());
        let volumes = Arc::new(Volumes::new(Arc::new(device.clone()), metrics));
        let space = Space::new(&volumes);
        space.add(VolumeSpace::rebuild(&volumes, &record(1000 * U), &[], 10).unwrap());
        // The superblocks take two units.
        assert_eq!((space.free_bytes(), space.spare_bytes()), (998 * U, 100 * U));
        let faults = Faults { enospc_after_bytes: Some(100 * U), ..Faults::default() };
        device.set_faults(Faults { enospc_is_told: true, ..faults });
        assert_eq!((space.free_bytes(), space.spare_bytes()), (98 * U, 10 * U));
        let object = |bytes| space.room(bytes, crate::Priority::Flush.into());
        // With its checksums it takes 88.
        let held = object(88 * U - 8192).unwrap();
        let Err(Error::Full { free_bytes, .. }) = object(U) else { panic!("the spare part") };
        assert_eq!(free_bytes, 10 * U);
        assert!(lease(&space, 10 * U).is_ok(), "logs may have it");
        // Somebody else has cleared the disk.
        device.set_faults(Faults { enospc_after_bytes: Some(200 * U), ..faults });
        assert!(object(U).is_ok());
        drop(held);
    }
}
