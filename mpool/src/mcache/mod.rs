//! The mcache: immutable objects seen as memory.
//!
//! A volume is mapped once ([`region`]). An [`object`] is an extent of it plus one byte a page
//! ([`pages`]); a [`Map`] is a list of objects, a class and counters, made without a system call.
//! Reading decides page by page between the map and an uncached read ([`map`], [`fill`]); leaving
//! the page cache again is [`evict`]. How much may enter is granted by the reaper through [`room`].
//!
//! Two rules hold throughout:
//!
//! - Mapped memory is read only where the page state says *resident*; whoever makes it so uses a
//!   call that reports drive errors as values. What slips through (the kernel evicted the page and
//!   the drive fails when it faults in again) is caught by the SIGBUS handler and counted.
//! - An extent goes back to the allocator only after [`Mcache::retire`] has dropped its pages.

pub(crate) mod counters;
pub(crate) mod evict;
mod fill;
pub(crate) mod map;
pub(crate) mod object;
pub(crate) mod pages;
#[cfg(test)]
mod pool_tests;
pub(crate) mod region;
pub(crate) mod room;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Bound,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use parking_lot::Mutex;

pub use self::map::{Class, Map, MapStats, PageRef, ReadDone};
use self::{
    counters::McacheMetrics,
    map::MapShared,
    object::{Extent, Object},
    pages::PAGE_BYTES,
    region::Region,
    room::Room,
};
use crate::{device::Device, id::MblockId, mblock::Mblock, metrics::MetricKind, volume::Volume};

/// The smallest reach worth mapping where the whole volume does not fit the address space.
const REACH_MIN: u64 = 1 << 30;

/// All maps of one pool and what they share.
pub(crate) struct Mcache {
    volume: Arc<Volume>,
    /// `None` where there is no file (sim) or it cannot be mapped: then all reads are direct.
    region: Option<Region>,
    objects: Mutex<BTreeMap<MblockId, Arc<Object>>>,
    maps: Mutex<Vec<Weak<MapShared>>>,
    /// Deleted objects whose pages are still there, for the reaper.
    dead: Mutex<Vec<Arc<Object>>>,
    /// Lost pages up to this count are marked in their states.
    faults_marked: AtomicU64,
    marking: Mutex<()>,
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
}

impl Residency {
    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes.iter().sum::<u64>() + self.dead_bytes
    }
}

impl Mcache {
    /// The mcache over `volume`; maps its file if it has one.
    pub(crate) fn new(volume: Arc<Volume>) -> Arc<Self> {
        let region = map_device(&**volume.device());
        Arc::new(Self {
            volume,
            region,
            objects: Mutex::default(),
            maps: Mutex::default(),
            dead: Mutex::default(),
            faults_marked: AtomicU64::new(0),
            marking: Mutex::default(),
            room: Room::unbounded(),
            metrics: McacheMetrics::default(),
        })
    }

    /// The object over `extent`; the same one for every map until it is retired.
    fn object(&self, extent: Extent) -> Arc<Object> {
        let reach = self.region.as_ref().map_or(0, Region::len);
        let span = extent.span();
        let new = || Arc::new(Object::new(extent, span.offset + span.len <= reach));
        let object = Arc::clone(self.objects.lock().entry(extent.id).or_insert_with(new));
        assert_eq!(object.span, span, "an id names one extent for ever");
        object
    }

    /// The mblock is deleted, but readers may still hold it: its pages are the first to go.
    pub(crate) fn mark_dead(&self, id: MblockId) {
        let object = self.objects.lock().get(&id).map(Arc::clone);
        if let Some(object) = object.filter(|o| o.mark_dead()) {
            self.dead.lock().push(object);
        }
    }

    /// The last user of a deleted mblock is gone: drops its pages, so that its extent can be used
    /// again. Nobody may read it any more.
    pub(crate) fn retire(&self, id: MblockId) {
        // Losses not yet marked would otherwise be blamed on the next object here.
        self.map_faults();
        // In this order: an object that is gone from the registry can get no new pages.
        let object = self.objects.lock().remove(&id);
        if let Some(object) = object {
            self.dead.lock().retain(|dead| dead.id != id);
            self.bury(&object);
        }
    }

    /// Drops the pages of one object.
    pub(crate) fn drop_pages(&self, mblock: &Mblock) {
        let dropped = self.drop_object(&self.object(Extent::of(mblock)));
        self.metrics.purged_bytes.add(dropped);
    }

    fn file(&self) -> Option<&File> {
        self.volume.device().file()
    }

    /// Takes up to `count` objects in order of id, after `after`; fewer at the end of the round.
    pub(crate) fn objects_after(&self, after: Option<MblockId>, count: usize) -> Vec<Arc<Object>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.objects.lock();
        objects.range((from, Bound::Unbounded)).take(count).map(|(_, o)| Arc::clone(o)).collect()
    }

    pub(crate) fn dead_objects(&self) -> Vec<Arc<Object>> {
        self.dead.lock().clone()
    }

    /// Adds up what the states of all objects say.
    pub(crate) fn residency(&self) -> Residency {
        let mut sum = Residency::default();
        for object in self.objects.lock().values() {
            sum.objects += 1;
            sum.pages += u64::from(object.states.len());
            if object.is_dead() {
                sum.dead_bytes += object.resident_bytes();
            } else {
                sum.bytes[object.class().index()] += object.resident_bytes();
            }
        }
        sum
    }

    /// Accesses to pages through all maps, ever.
    pub(crate) fn accesses(&self) -> u64 {
        let live: u64 = self.live_maps().iter().map(|m| m.counters.accesses()).sum();
        live + self.metrics.past_accesses.get()
    }

    /// Statistics of every live map.
    pub(crate) fn map_stats(&self) -> Vec<MapStats> {
        self.live_maps().iter().map(|m| m.stats(self)).collect()
    }

    /// Shows every metric of the mcache.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        use MetricKind::{Counter, Gauge};
        let maps = self.live_maps();
        let live: u64 = maps.iter().map(|m| m.counters.hits()).sum();
        let hits = live + self.metrics.past_hits.get();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        see("mpool_mcache_hits_total", "reads answered from mapped pages", Counter, hits);
        see("mpool_mcache_maps", "live maps", Gauge, count(maps.len()));
        let objects = count(self.objects.lock().len());
        see("mpool_mcache_objects", "objects known to the mcache", Gauge, objects);
        let resident = self.residency().total_bytes();
        see("mpool_mcache_resident_bytes", "bytes of mapped pages in memory", Gauge, resident);
        self.metrics.visit(see);
    }

    /// Mapped pages that the drive failed under, so far. A reader of mapped bytes compares the
    /// count before and after; a change voids what it read. Marks the pages before it returns, so
    /// that whoever starts reading after this call avoids them.
    pub(crate) fn map_faults(&self) -> u64 {
        let Some(region) = &self.region else { return 0 };
        let faults = region.faults();
        // Acquire pairs with the Release below: who sees the count sees the marks.
        if faults != self.faults_marked.load(Acquire) {
            self.mark_lost(region, faults);
        }
        faults
    }

    #[cold]
    fn mark_lost(&self, region: &Region, faults: u64) {
        let _one_at_a_time = self.marking.lock();
        let lost = region.drain_lost();
        let objects = self.objects.lock();
        for object in objects.values() {
            let first = object.span.offset / PAGE_BYTES;
            let pages = first..first + u64::from(object.states.len());
            let lose = |page: u64| {
                let page = u32::try_from(page - first).expect("a page of the object");
                self.metrics.lost_pages.add(u64::from(object.states.lose(page)));
            };
            match &lost {
                Some(offsets) => {
                    let page = |offset: &u64| offset / PAGE_BYTES;
                    offsets.iter().map(page).filter(|p| pages.contains(p)).for_each(lose);
                }
                None => pages.for_each(lose),
            }
        }
        tracing::error!(
            faults,
            "the drive failed under mapped pages; they are read directly from here on"
        );
        self.faults_marked.store(faults, Release);
    }

    fn live_maps(&self) -> Vec<Arc<MapShared>> {
        let mut maps = self.maps.lock();
        maps.retain(|m| m.strong_count() > 0);
        maps.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Maps as much of the device's file as the address space allows.
fn map_device(device: &dyn Device) -> Option<Region> {
    let file = device.file()?;
    let mut reach = device.geometry().len_bytes_max;
    loop {
        match Region::map_volume(file, reach) {
            Ok(region) => return Some(region),
            Err(_) if reach / 2 >= REACH_MIN => reach = (reach / 2).next_multiple_of(PAGE_BYTES),
            Err(error) => {
                tracing::warn!(%error, "the volume cannot be mapped; all reads go to the drive");
                return None;
            }
        }
    }
}
