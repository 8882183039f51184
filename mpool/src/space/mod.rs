//! Who owns which part of which volume.
//!
//! [`Space`] chooses a volume (`choose`) and has its [`VolumeSpace`] hand out a part of it: an
//! extent where bytes can be overwritten (`extent`), a promise of room in zones where they cannot
//! (`zones`, `grant`). A [`Lease`] is what is owned; it returns when dropped. None of it is stored:
//! opening the pool rebuilds it from the places that its journal names. When nothing fits, a volume
//! grows.

pub(crate) mod choose;
pub(crate) mod clear;
mod disks;
pub(crate) mod extent;
pub(crate) mod give_back;
pub(crate) mod grant;
mod holes;
pub(crate) mod layout;
pub(crate) mod lower;
mod ranges;
pub(crate) mod shorten;
pub(crate) mod volume;
pub(crate) mod zones;

use crate::{
    address::{ALLOC_UNIT, Extent, VolumeId},
    chores::Bell,
    error::{Error, Result},
    io::volumes::Volumes,
    media::{MediaClass, Placement},
};
use choose::What;
use grant::ZoneGrant;
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};
use volume::VolumeSpace;

/// What is free, by who can use it, now or after growth as far as the disk below has room for it.
/// Volumes that are being emptied do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that mblocks can take: on a zoned volume, those in its sequential zones.
    pub object_bytes: u64,
    /// Bytes that segments and journals can take: those that can be overwritten.
    pub log_bytes: u64,
    /// Bytes of both that only allocations with [`Placement::spare`] get.
    pub spare_bytes: u64,
    /// What is in use and what is free, together.
    pub total_bytes: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
}

/// The space of all volumes.
pub(crate) struct Space {
    volumes: Arc<Volumes>,
    by_id: RwLock<BTreeMap<VolumeId, Arc<VolumeSpace>>>,
    /// Rung when something in zones has died, which may be long after its deletion.
    bell: Option<Bell>,
}

/// Room for a new object.
pub(crate) enum Room {
    /// One extent or a few, known at once.
    Places(Lease),
    /// A promise; the drive decides where, append by append.
    Zones(ZoneGrant),
}

impl Space {
    pub(crate) fn new(volumes: &Arc<Volumes>) -> Self {
        Self { volumes: Arc::clone(volumes), by_id: RwLock::default(), bell: None }
    }

    /// The same, with housekeeping that is woken when there may be zones to tidy.
    pub(crate) fn tidied(mut self, bell: &Bell) -> Self {
        self.bell = Some(bell.clone());
        self
    }

    /// Counts a volume in.
    pub(crate) fn add(&self, space: Arc<VolumeSpace>) {
        if let Some(bell) = &self.bell {
            space.tell_of_deaths(bell);
        }
        let before = self.by_id.write().insert(space.id(), space);
        assert!(before.is_none(), "a volume has one space");
        self.publish();
    }

    /// Counts a volume out; nothing of it is owned any more.
    pub(crate) fn remove(&self, id: VolumeId) {
        self.by_id.write().remove(&id);
        self.publish();
    }

    pub(crate) fn of(&self, id: VolumeId) -> Option<Arc<VolumeSpace>> {
        self.by_id.read().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<VolumeSpace>> {
        self.by_id.read().values().cloned().collect()
    }

    /// An extent of at least `bytes`, rounded up to whole units, that can be overwritten: for logs.
    pub(crate) fn lease(&self, bytes: u64, class: MediaClass) -> Result<Lease> {
        self.first_fit(bytes, class, What::Log, |space| space.lease(bytes, true))
    }

    /// An extent of the root volume, where the superblock can name it.
    pub(crate) fn lease_on_root(&self, bytes: u64) -> Result<Lease> {
        let root = self.of(VolumeId::ROOT).expect("a pool has a root volume");
        let lease = root.lease(bytes, true)?.ok_or_else(|| self.full(bytes))?;
        self.publish();
        Ok(lease)
    }

    /// An extent for a log that outlives volumes: of the root if it has room, else of another.
    pub(crate) fn lease_near_root(&self, bytes: u64) -> Result<Lease> {
        match self.lease_on_root(bytes) {
            Err(Error::Full { .. }) => self.lease(bytes, MediaClass::Capacity),
            outcome => outcome,
        }
    }

    /// Takes ownership of a part of a volume that its space was told of when it was rebuilt.
    pub(crate) fn adopt(&self, extents: Vec<Extent>) -> Lease {
        let id = VolumeId::of(extents[0].offset);
        Lease::new(&self.of(id).expect("places of volumes that are here"), extents)
    }

    /// Room for an object of up to `bytes`.
    pub(crate) fn room(&self, bytes: u64, placement: Placement) -> Result<Room> {
        self.first_fit(bytes, placement.class, What::Object, |space| space.room(bytes, placement))
    }

    /// Room for an object of volume `from` that is moved: off that volume if it is being emptied,
    /// else together with others on it.
    pub(crate) fn room_to_move(&self, bytes: u64, from: &Arc<VolumeSpace>) -> Result<Room> {
        if !from.is_evacuating() {
            return from.room_to_move(bytes)?.ok_or_else(|| self.full(bytes));
        }
        self.first_fit(bytes, from.class(), What::Object, |space| space.room_to_move(bytes))
    }

    fn first_fit<T>(
        &self,
        bytes: u64,
        class: MediaClass,
        what: What,
        take: impl Fn(&Arc<VolumeSpace>) -> Result<Option<T>>,
    ) -> Result<T> {
        let spaces = self.all();
        let candidates: Vec<_> = spaces.iter().map(|space| space.candidate(what)).collect();
        for (tried, id) in choose::order(&candidates, class, what).into_iter().enumerate() {
            let space = spaces.iter().find(|space| space.id() == id).expect("one of them");
            if let Some(found) = take(space)? {
                if tried > 0 {
                    self.volumes.metrics().space_fallbacks.add(1);
                }
                self.publish();
                return Ok(found);
            }
        }
        Err(self.full(bytes))
    }

    fn full(&self, need_bytes: u64) -> Error {
        self.volumes.metrics().space_refused.add(1);
        Error::Full { need_bytes, free_bytes: self.free_bytes() }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.all().iter().map(|space| space.used_bytes()).sum()
    }

    /// Volumes that take new objects.
    fn open(&self) -> Vec<Arc<VolumeSpace>> {
        let mut spaces = self.all();
        spaces.retain(|space| !space.is_evacuating());
        spaces
    }

    /// Free now, or after growth up to the limits or to what the disks below have left, on volumes
    /// that take new objects.
    pub(crate) fn free_bytes(&self) -> u64 {
        free_together(&self.open(), VolumeSpace::free_bytes)
    }

    /// What is free, by who can use it, beside segments of so many bytes.
    pub(crate) fn free(&self, segment_bytes: u64) -> FreeSpace {
        let open = self.open();
        let free_for = |what| free_together(&open, |space| space.candidate(what).free_bytes);
        FreeSpace {
            object_bytes: free_for(What::Object),
            log_bytes: free_for(What::Log),
            spare_bytes: open.iter().map(|space| space.spare_bytes()).sum(),
            total_bytes: free_together(&open, |space| space.used_bytes() + space.free_bytes()),
            segment_bytes,
        }
    }

    /// What of that only allocations get that say so.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.open().iter().map(|space| space.spare_bytes()).sum()
    }

    /// What the volumes may grow to, together.
    pub(crate) fn len_max(&self) -> u64 {
        self.all().iter().map(|space| space.len_max()).sum()
    }

    /// The largest object that any volume could hold if it were empty.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        self.all().iter().map(|space| space.object_bytes_max()).max().unwrap_or(0)
    }

    /// Whether any volume has zones to be tidied.
    pub(crate) fn has_zones(&self) -> bool {
        self.by_id.read().values().any(|space| space.zones().is_some())
    }

    pub(crate) fn publish(&self) {
        let metrics = self.volumes.metrics();
        metrics.space_used_bytes.set(self.used_bytes());
        metrics.space_free_bytes.set(self.free_bytes());
        metrics.space_spare_bytes.set(self.spare_bytes());
        let spaces = self.all();
        let zones = spaces.iter().filter_map(|space| space.zones());
        let counts = zones.map(|zones| zones.whole_and_worn());
        let (whole, worn) = counts.fold((0, 0), |(a, b), (whole, worn)| (a + whole, b + worn));
        metrics.zones_whole.set(whole);
        metrics.zones_worn.set(worn);
    }
}

/// The sum of what volumes have, growth included, where what one disk has left counts once.
fn free_together(spaces: &[Arc<VolumeSpace>], of: impl Fn(&VolumeSpace) -> u64) -> u64 {
    let sum: u64 = spaces.iter().map(|space| of(space)).sum();
    if spaces.len() < 2 {
        return sum;
    }
    let growths = spaces.iter().filter_map(|space| space.growth()).collect();
    sum.saturating_sub(disks::excess(growths))
}

/// A part of a volume with an owner: one extent, or the pieces of an object. Dropping it
/// frees them, so it outlives every request in flight to them and every handle that may read them.
#[must_use = "dropping a lease frees its extents"]
pub(crate) struct Lease {
    space: Arc<VolumeSpace>,
    extents: Vec<Extent>,
}

impl Lease {
    pub(crate) fn new(space: &Arc<VolumeSpace>, extents: Vec<Extent>) -> Self {
        assert!(!extents.is_empty(), "a lease is of something");
        Self { space: Arc::clone(space), extents }
    }

    /// One lease of what several leases of one volume are of, in this order.
    pub(crate) fn join(leases: impl Iterator<Item = Self>) -> Self {
        let mut leases = leases.peekable();
        let space = Arc::clone(&leases.peek().expect("at least one").space);
        let mut extents = Vec::new();
        for mut lease in leases {
            assert!(lease.space.id() == space.id(), "an object lies on one volume");
            // What is dropped owns nothing any more.
            extents.append(&mut lease.extents);
        }
        Self::new(&space, joined(extents))
    }

    /// Its one extent, as logs have it.
    pub(crate) fn extent(&self) -> Extent {
        assert!(self.extents.len() == 1, "a log is one extent");
        self.extents[0]
    }

    /// All of it, in the order of the object's bytes.
    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub(crate) fn volume(&self) -> VolumeId {
        self.space.id()
    }

    pub(crate) fn space(&self) -> &VolumeSpace {
        &self.space
    }

    /// Gives its end back, so that `bytes` (rounded up to units, at least one) stay.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let mut keep = Self::trimmed_len(bytes);
        assert!(keep <= self.len(), "a lease is trimmed, not extended");
        for extent in std::mem::take(&mut self.extents) {
            let Extent { offset, len } = extent;
            let kept = keep.min(len);
            keep -= kept;
            if kept > 0 {
                self.extents.push(Extent { offset, len: kept });
            }
            if kept < len {
                self.space.release(Extent { offset: offset + kept, len: len - kept });
            }
        }
    }

    /// Bytes of all of it.
    pub(crate) fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// The length a lease has after being trimmed to `bytes`.
    pub(crate) fn trimmed_len(bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(ALLOC_UNIT)
    }
}

/// Extents that touch, joined: appends that landed one after the other.
fn joined(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match joined.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => joined.push(extent),
        }
    }
    joined
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.extents.iter().for_each(|extent| self.space.release(*extent));
        self.space.ring();
    }
}
