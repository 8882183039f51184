//! The mcache: immutable objects seen as memory.
//!
//! Each volume is mapped once ([`region`], [`mapping`]). An [`object`] is its place on one of them
//! plus, once it is touched, one byte a page ([`pages`]); a [`Map`] is a list of objects, a class
//! and counters ([`stats`]), made without a system call. Reading decides page by page between the
//! map and an uncached read ([`map`], [`fill`]); leaving the page cache again is [`evict`]. How
//! much may enter is granted by the reaper through [`room`]. What its user knows better is
//! [`advice`], kept by object in [`ranges`].
//!
//! Two rules hold throughout:
//!
//! - Mapped memory is read only where the page state says *resident*; whoever makes it so uses a
//!   call that reports drive errors as values. What slips through (the kernel evicted the page and
//!   the drive fails when it faults in again) is caught by the SIGBUS handler and counted; what
//!   came back without its checksum is seen to by [`recheck`].
//! - An extent goes back to the allocator only after [`Mcache::retire`] has dropped its pages.

mod advice;
pub(crate) mod counters;
pub(crate) mod evict;
pub(crate) mod fault_age;
mod fill;
#[cfg(all(test, loom))]
mod interleavings;
pub(crate) mod map;
pub(crate) mod mapping;
pub(crate) mod object;
pub(crate) mod pages;
#[cfg(test)]
mod pool_tests;
mod ranges;
mod recheck;
pub(crate) mod region;
pub(crate) mod room;
mod stats;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use parking_lot::Mutex;

pub use self::{
    advice::Advice,
    map::{Class, Map, PageRef, ReadDone},
    stats::{MapId, MapStats},
};
use self::{
    counters::McacheMetrics,
    map::MapShared,
    mapping::Mappings,
    object::{Object, Place},
    recheck::Recheck,
    room::Room,
    stats::MapRegistry,
};
use crate::{
    address::{VolumeId, offset_of},
    id::MblockId,
    io::volumes::{Volume, Volumes},
    object::mblock::Mblock,
};

/// Objects counted under one lock: a few tens of microseconds.
const OBJECTS_PER_LOCK: usize = 1024;

/// All maps of one pool and what they share.
pub(crate) struct Mcache {
    volumes: Arc<Volumes>,
    mappings: Mappings,
    /// By the address of their first byte.
    objects: Mutex<BTreeMap<u64, Arc<Object>>>,
    maps: MapRegistry,
    /// Deleted objects whose pages are still there, for the reaper.
    dead: Mutex<Vec<Arc<Object>>>,
    /// Lost pages up to this count are marked in their states.
    faults_marked: AtomicU64,
    marking: Mutex<()>,
    recheck: Mutex<Recheck>,
    pub(crate) room: Room,
    pub(crate) metrics: McacheMetrics,
}

/// Resident bytes by class, and pages of all objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residency {
    pub(crate) bytes: [u64; Class::COUNT],
    pub(crate) dead_bytes: u64,
    pub(crate) objects: u64,
    /// Pages of all objects, resident or not.
    pub(crate) pages: u64,
    /// What the objects and their states take on the heap.
    pub(crate) heap_bytes: u64,
}

impl Residency {
    fn add(&mut self, object: &Object) {
        self.objects += 1;
        self.pages += u64::from(object.states.len());
        self.heap_bytes += object.heap_bytes();
        if object.is_dead() {
            self.dead_bytes += object.resident_bytes();
        } else {
            object.add_residency(&mut self.bytes);
        }
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes.iter().sum::<u64>() + self.dead_bytes
    }
}

impl Mcache {
    /// The mcache over `volumes`; maps the files of those that have one.
    pub(crate) fn new(volumes: Arc<Volumes>) -> Arc<Self> {
        let mappings = Mappings::default();
        volumes.all().iter().for_each(|volume| mappings.add(volume));
        Arc::new(Self {
            volumes,
            mappings,
            objects: Mutex::default(),
            maps: MapRegistry::default(),
            dead: Mutex::default(),
            faults_marked: AtomicU64::new(0),
            marking: Mutex::default(),
            recheck: Mutex::default(),
            room: Room::unbounded(),
            metrics: McacheMetrics::default(),
        })
    }

    /// Maps a volume that has come to the pool.
    pub(crate) fn add_volume(&self, volume: &Arc<Volume>) {
        self.mappings.add(volume);
    }

    /// Forgets a volume that has left the pool, on which nothing lives any more.
    pub(crate) fn remove_volume(&self, id: VolumeId) {
        self.mappings.remove(id);
    }

    /// The object that is `mblock`; the same one for every map until it is retired.
    fn object_of(&self, mblock: &Mblock) -> Arc<Object> {
        self.object_at(mblock.layout().first(), mblock.id(), || Place::of(mblock))
    }

    fn object_at(&self, key: u64, id: MblockId, place: impl FnOnce() -> Place) -> Arc<Object> {
        let new = || {
            let place = place();
            let parts = place.layout.parts(0..place.layout.len());
            let end = parts.map(|part| offset_of(part.offset) + part.len).max();
            let mapping = self.mappings.of(VolumeId::of(key), end.unwrap_or(0));
            Arc::new(Object::new(place, mapping))
        };
        let object = Arc::clone(self.objects.lock().entry(key).or_insert_with(new));
        assert_eq!(object.id, id, "a place has one object until it is retired");
        object
    }

    /// The mblock at `key` is deleted, but readers may still hold it: its pages are the first to
    /// go.
    pub(crate) fn mark_dead(&self, key: u64) {
        let object = self.objects.lock().get(&key).map(Arc::clone);
        if let Some(object) = object.filter(|o| o.mark_dead()) {
            self.dead.lock().push(object);
        }
    }

    /// The last user of a deleted mblock is gone: drops its pages, so that its extent can be used
    /// again. Nobody may read it any more.
    pub(crate) fn retire(&self, key: u64) {
        // Losses not yet marked would otherwise be blamed on the next object here.
        self.map_faults();
        // In this order: an object that is gone from the registry can get no new pages.
        let object = self.objects.lock().remove(&key);
        if let Some(object) = object {
            self.dead.lock().retain(|dead| dead.key() != key);
            self.bury(&object);
        }
    }

    /// Drops the pages of one object.
    pub(crate) fn drop_pages(&self, mblock: &Mblock) {
        let dropped = evict::drop_object(&self.object_of(mblock));
        self.metrics.purged_bytes.add(dropped);
    }

    /// Takes up to `count` objects in order of their keys, after `after`; fewer at the end of the
    /// round.
    pub(crate) fn objects_after(&self, after: Option<u64>, count: usize) -> Vec<Arc<Object>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.objects.lock();
        objects.range((from, Bound::Unbounded)).take(count).map(|(_, o)| Arc::clone(o)).collect()
    }

    /// The live map after `hand`, which moves on to it; at the end of the round none, and the hand
    /// is back at the start.
    pub(crate) fn map_after(&self, hand: &mut Option<MapId>) -> Option<Arc<MapShared>> {
        let next = self.maps.after(*hand);
        *hand = next.as_ref().map(|map| map.id);
        next
    }

    pub(crate) fn dead_objects(&self) -> Vec<Arc<Object>> {
        self.dead.lock().clone()
    }

    /// Adds up what the states of all objects say; a bounded number of them under each lock.
    pub(crate) fn residency(&self) -> Residency {
        let mut sum = Residency::default();
        let mut from = Bound::Unbounded;
        loop {
            let objects = self.objects.lock();
            let mut last = None;
            for (id, object) in objects.range((from, Bound::Unbounded)).take(OBJECTS_PER_LOCK) {
                last = Some(*id);
                sum.add(object);
            }
            drop(objects);
            let Some(last) = last else { return sum };
            from = Bound::Excluded(last);
        }
    }

    /// Mapped pages that the drive failed under, so far. A reader of mapped bytes compares the
    /// count before and after; a change voids what it read. Marks the pages before it returns, so
    /// that whoever starts reading after this call avoids them.
    pub(crate) fn map_faults(&self) -> u64 {
        let faults = self.mappings.faults();
        // Acquire pairs with the Release below: who sees the count sees the marks.
        if faults != self.faults_marked.load(Acquire) {
            self.mark_lost(faults);
        }
        faults
    }

    #[cold]
    fn mark_lost(&self, faults: u64) {
        let _one_at_a_time = self.marking.lock();
        for mapping in self.mappings.all() {
            let lost = mapping.region.drain_lost();
            if lost.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            let objects = self.objects.lock();
            let seen = |object: &&Arc<Object>| {
                object.mapping.as_ref().is_some_and(|other| Arc::ptr_eq(other, &mapping))
            };
            // Who was never touched has nothing to lose.
            let touched = |object: &&Arc<Object>| object.states.is_touched();
            for object in objects.values().filter(touched).filter(seen) {
                self.mark_lost_pages(object, lost.as_deref());
            }
        }
        tracing::error!(
            faults,
            "the drive failed under mapped pages; they are read directly from here on"
        );
        self.faults_marked.store(faults, Release);
    }

    /// Marks the pages of `object` at these places of its volume; all of them for `None`.
    fn mark_lost_pages(&self, object: &Object, lost: Option<&[u64]>) {
        for page in 0..object.states.len() {
            let offset = object.page(page).offset;
            if lost.is_none_or(|lost| lost.contains(&offset)) {
                self.metrics.lost_pages.add(u64::from(object.states.lose(page)));
            }
        }
    }
}
