//! The registry of live maps, and what they and their objects add up to.
//!
//! Counters belong to maps, metrics to classes. A map's class can change, and maps go; so that the
//! sums of a class never go back, what a map has counted is *settled*, that is added to the past of
//! its class, whenever its class changes and when it goes.
//!
//! Cost: statistics of all maps are one relaxed load an object and no system call, with the
//! registry locked; 75,000 objects in 750 maps take about a millisecond.

use super::{Class, Mcache, Residency, counters::Accesses, map::MapShared, object::Object};
use crate::metrics::MetricKind;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Names a map among all of a pool, for as long as the pool is open. Printed as `map-7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapId(u64);

impl MapId {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map-{}", self.0)
    }
}

// Logs and panics print the short form too.
impl fmt::Debug for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One map in numbers.
#[derive(Clone, Debug)]
pub struct MapStats {
    /// Names it.
    pub id: MapId,
    /// Whose it is: what [`crate::Pool::map_named`] was told; else nothing.
    pub owner: String,
    /// How dear its pages are, where its owner has not advised otherwise for a part.
    pub class: Class,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of address space they take (`vss`): whole pages.
    pub mapped_bytes: u64,
    /// Bytes of them in memory (`rss`). Of [`Map::stats`](crate::Map::stats) as the kernel counts
    /// where it can; of [`Pool::maps`](crate::Pool::maps) as the pool does, which lags where the
    /// kernel evicts by itself. Objects that are in several maps count in each.
    pub resident_bytes: u64,
    /// Reads answered from resident pages. A few may be missing.
    pub hits: u64,
    /// Pages that reads through it brought into the page cache.
    pub faults: u64,
    /// Reads that went to the drive past the page cache.
    pub direct_reads: u64,
    /// Bytes that were dropped on request: purged, or advised not to be needed.
    pub purged_bytes: u64,
    /// Bytes that the map itself takes on the heap; its objects, which it shares with other maps,
    /// are not in it.
    pub heap_bytes: u64,
}

/// All live maps, and what those that are gone have counted.
#[derive(Default)]
pub(super) struct MapRegistry {
    next: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    live: BTreeMap<MapId, Arc<MapShared>>,
    /// By class.
    past: [Accesses; Class::COUNT],
    /// What of a live map's counts is in the past: of those whose class has changed.
    settled: BTreeMap<MapId, Accesses>,
}

/// The maps of one class together.
#[derive(Clone, Copy, Debug, Default)]
struct ClassSum {
    maps: u64,
    mapped_bytes: u64,
    accesses: Accesses,
}

impl MapRegistry {
    pub(super) fn new_id(&self) -> MapId {
        MapId(self.next.fetch_add(1, Relaxed) + 1)
    }

    pub(super) fn insert(&self, map: &Arc<MapShared>) {
        self.books.lock().live.insert(map.id, Arc::clone(map));
    }

    pub(super) fn remove(&self, map: &MapShared) {
        let mut books = self.books.lock();
        books.settle(map);
        books.settled.remove(&map.id);
        books.live.remove(&map.id);
    }

    /// The live map that follows `map`; the first for `None`.
    pub(super) fn after(&self, map: Option<MapId>) -> Option<Arc<MapShared>> {
        let from = map.map_or(Bound::Unbounded, Bound::Excluded);
        let books = self.books.lock();
        books.live.range((from, Bound::Unbounded)).next().map(|(_, map)| Arc::clone(map))
    }

    /// Whether the map `id` has not been dropped yet.
    pub(super) fn is_live(&self, id: MapId) -> bool {
        self.books.lock().live.contains_key(&id)
    }

    /// Changes the class of `map`; returns what it was.
    pub(super) fn set_class(&self, map: &MapShared, class: Class) -> Class {
        let mut books = self.books.lock();
        books.settle(map);
        map.swap_class(class)
    }

    /// What each class has counted, ever.
    fn sums(&self) -> [ClassSum; Class::COUNT] {
        let books = self.books.lock();
        let mut sums = books.past.map(|accesses| ClassSum { accesses, ..ClassSum::default() });
        for map in books.live.values() {
            let sum = &mut sums[map.class().index()];
            sum.maps += 1;
            sum.mapped_bytes += map.mapped_bytes;
            sum.accesses = sum.accesses.plus(books.unsettled(map));
        }
        sums
    }
}

impl Books {
    fn unsettled(&self, map: &MapShared) -> Accesses {
        let settled = self.settled.get(&map.id).copied().unwrap_or_default();
        map.counters.accesses().since(settled)
    }

    fn settle(&mut self, map: &MapShared) {
        let new = self.unsettled(map);
        let settled = self.settled.entry(map.id).or_default();
        *settled = settled.plus(new);
        let past = &mut self.past[map.class().index()];
        *past = past.plus(new);
    }
}

impl Mcache {
    /// Accesses to pages through all maps, ever.
    pub(crate) fn accesses(&self) -> u64 {
        self.maps.sums().iter().map(|sum| sum.accesses.all()).sum()
    }

    /// Statistics of every live map, in order of their ids.
    pub(crate) fn map_stats(&self) -> Vec<MapStats> {
        let books = self.maps.books.lock();
        books.live.values().map(|map| map.stats(Object::resident_bytes)).collect()
    }

    /// Shows every metric of the mcache.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        use MetricKind::{Counter, Gauge};
        let sums = self.maps.sums();
        let hits = sums.iter().map(|sum| sum.accesses.hits).sum();
        let maps = sums.iter().map(|sum| sum.maps).sum();
        let residency = self.residency();
        let Residency { bytes, dead_bytes: _, objects, pages: _, heap_bytes } = residency;
        see("mpool_mcache_hits_total", "reads answered from mapped pages", Counter, hits);
        see("mpool_mcache_maps", "live maps", Gauge, maps);
        see("mpool_mcache_objects", "objects known to the mcache", Gauge, objects);
        let resident = residency.total_bytes();
        see("mpool_mcache_resident_bytes", "bytes of mapped pages in memory", Gauge, resident);
        let text = "memory that objects and their page states take, beside the pages themselves";
        see("mpool_mcache_heap_bytes", text, Gauge, heap_bytes);
        for (class, names) in Class::ALL.into_iter().zip(&CLASS_NAMES) {
            let ClassSum { maps, mapped_bytes, accesses } = sums[class.index()];
            let Accesses { hits, faults, direct_reads } = accesses;
            let resident = bytes[class.index()];
            let gauges = [maps, mapped_bytes, resident].map(|value| (Gauge, value));
            let counters = [hits, faults, direct_reads].map(|value| (Counter, value));
            for ((name, help), (kind, value)) in names.iter().zip(gauges.iter().chain(&counters)) {
                see(name, help, *kind, *value);
            }
        }
        self.metrics.visit(see);
    }
}

/// Names and help of one class: maps, address space, memory, hits, faults, direct reads.
type ClassNames = [(&'static str, &'static str); 6];

macro_rules! class_names {
    ($class:literal) => {
        [
            (concat!("mpool_mcache_map_", $class, "_maps"), concat!("live maps of class ", $class)),
            (
                concat!("mpool_mcache_map_", $class, "_mapped_bytes"),
                concat!("address space of objects in maps of class ", $class),
            ),
            (
                concat!("mpool_mcache_map_", $class, "_resident_bytes"),
                concat!("bytes of pages of class ", $class, " in memory"),
            ),
            (
                concat!("mpool_mcache_map_", $class, "_hits_total"),
                concat!("reads through maps of class ", $class, " answered from memory"),
            ),
            (
                concat!("mpool_mcache_map_", $class, "_faults_total"),
                concat!("pages brought into memory by reads through maps of class ", $class),
            ),
            (
                concat!("mpool_mcache_map_", $class, "_direct_reads_total"),
                concat!("reads through maps of class ", $class, " that went to the drive"),
            ),
        ]
    };
}

/// In the order of [`Class::ALL`].
const CLASS_NAMES: [ClassNames; Class::COUNT] =
    [class_names!("cold"), class_names!("warm"), class_names!("hot"), class_names!("pinned")];

#[cfg(test)]
mod tests {
    use super::{super::tests::World, *};
    use std::collections::BTreeMap;

    fn metrics(world: &World) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        world.mcache.visit(&mut |name, _, _, value| assert!(all.insert(name, value).is_none()));
        all
    }

    #[test]
    fn counts_of_a_class_never_go_back() {
        let world = World::new(1);
        let map = world.map(&[0], Class::Cold);
        map.preload().unwrap();
        (0..5).for_each(|_| assert!(map.try_read(0, 0..1).is_some()));
        assert_eq!(metrics(&world)["mpool_mcache_map_cold_hits_total"], 5);
        map.set_class(Class::Hot);
        (0..3).for_each(|_| assert!(map.try_read(0, 0..1).is_some()));
        let seen = metrics(&world);
        assert_eq!(seen["mpool_mcache_map_cold_hits_total"], 5);
        assert_eq!(seen["mpool_mcache_map_hot_hits_total"], 3);
        assert_eq!((seen["mpool_mcache_map_hot_maps"], seen["mpool_mcache_map_cold_maps"]), (1, 0));
        assert_eq!(seen["mpool_mcache_map_hot_resident_bytes"], 64 * 4096);
        drop(map);
        let after = metrics(&world);
        assert_eq!(after["mpool_mcache_map_hot_hits_total"], 3);
        assert_eq!(after["mpool_mcache_hits_total"], 8);
        assert_eq!((after["mpool_mcache_maps"], world.mcache.accesses()), (0, 8));
    }

    #[test]
    fn maps_are_listed_by_id_with_their_owners() {
        let world = World::new(3);
        let maps: Vec<_> =
            (0..3).map(|n| world.map(&[n], Class::ALL[usize::try_from(n).unwrap()])).collect();
        let listed = world.mcache.map_stats();
        let seen: Vec<_> = listed.iter().map(|m| (m.id, m.class, m.owner.as_str())).collect();
        let expect: Vec<_> = maps.iter().map(|m| (m.id(), m.class(), "test")).collect();
        assert_eq!(seen, expect);
        assert!(listed[0].heap_bytes > 0 && listed[0].heap_bytes < 2048, "{listed:?}");
        drop(maps);
        assert!(world.mcache.map_stats().is_empty());
    }
}
