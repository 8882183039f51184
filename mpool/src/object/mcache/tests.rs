//! Maps over real files: admission, verification, eviction, drive errors.
//!
//! Every test works on a volume file of its own in a temporary directory and builds maps straight
//! over extents, without a pool. Where that directory is on tmpfs, pages cannot leave memory; the
//! tests that need it say so and pass.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use super::{
    Class, Map, Mcache, PageRef,
    evict::{Batch, cached_bytes, drop_object},
    object::{Object, Place},
    pages::{PAGE_BYTES, PAGE_LEN},
};
use crate::{
    address::Extent,
    device::{Device, FileDevice, FileOptions},
    error::Error,
    id::MblockId,
    io::{queue::IoQueue, volumes::Volumes},
    options::IoBackend,
    space::layout::Layout,
};
use mpool_device::IoBuf;

const OBJECT_PAGES: u64 = 64;
const OBJECT_BYTES: u64 = OBJECT_PAGES * PAGE_BYTES;

pub(crate) struct World {
    pub(crate) mcache: Arc<Mcache>,
    queue: Arc<IoQueue>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    /// A volume of `objects` objects; byte 0 of each page is its number in the volume.
    pub(crate) fn new(objects: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capacity.vol");
        let options = FileOptions {
            allow_buffered: true,
            allow_volatile: true,
            len_bytes_max: 1 << 40,
            grow_step_bytes: 1 << 20,
            reserve_bytes: Some(0),
        };
        let device = FileDevice::open_or_create(&path, &options).unwrap();
        device.grow(objects * OBJECT_BYTES).unwrap();
        let mut buf = IoBuf::zeroed(PAGE_LEN);
        for page in 0..objects * OBJECT_PAGES {
            buf.fill(u8::try_from(page % 251).unwrap());
            device.write_at(page * PAGE_BYTES, &buf).unwrap();
        }
        device.flush().unwrap();
        let volume = Arc::new(Volumes::new(Arc::new(device), Arc::default()));
        let mcache = Mcache::new(Arc::clone(&volume));
        let queue = Arc::new(IoQueue::new(volume, IoBackend::Auto, 4).unwrap());
        Self { mcache, queue, path, _dir: dir }
    }

    pub(crate) fn place(n: u64) -> Place {
        let extent = Extent { offset: n * OBJECT_BYTES, len: OBJECT_BYTES };
        let layout = Layout::new(&[extent]);
        Place { id: MblockId::new(n + 1).unwrap(), len_bytes: OBJECT_BYTES, layout }
    }

    pub(crate) fn object(n: u64) -> Object {
        Object::new(Self::place(n), None)
    }

    pub(crate) fn map(&self, objects: &[u64], class: Class) -> Map {
        let places = objects.iter().map(|n| Self::place(*n)).collect();
        self.map_places(places, class)
    }

    fn map_places(&self, places: Vec<Place>, class: Class) -> Map {
        let object = |place: Place| self.mcache.object_at(place.key(), place.id, || place);
        let objects = places.into_iter().map(object).collect();
        Map::new(&self.mcache, &self.queue, (objects, Arc::new([])), class, "test")
    }

    /// Waits until everything on the queue's lowest lane is done, what that has put there itself as
    /// well: at this depth the lane runs one job at a time, in order.
    pub(crate) fn drain_queue(&self) {
        for _ in 0..16 {
            let (send, receive) = std::sync::mpsc::channel();
            let job = Box::new(move || send.send(()).unwrap());
            self.queue.run_blocking(crate::Priority::Compaction, job);
            receive.recv().unwrap();
        }
    }

    pub(crate) fn can_evict(&self) -> bool {
        let map = self.map(&[0], Class::Cold);
        map.preload().unwrap();
        map.purge();
        let can = map.stats().resident_bytes == 0;
        if !can {
            skipped(&format!("pages of {} cannot leave memory (tmpfs?)", self.path.display()));
        }
        can
    }

    fn truncate(&self, len: u64) {
        std::fs::OpenOptions::new().write(true).open(&self.path).unwrap().set_len(len).unwrap();
    }
}

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

fn value(page: u64) -> u8 {
    u8::try_from(page % 251).unwrap()
}

#[test]
fn the_second_touch_is_admitted() {
    let world = World::new(2);
    world.mcache.room.grant(1 << 20, 1);
    let map = world.map(&[0, 1], Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    let range = 5 * PAGE_BYTES + 100..5 * PAGE_BYTES + 300;
    assert!(map.try_read(1, range.clone()).is_none());
    for (expect_direct, expect_faults, expect_hits) in [(1, 0, 0), (1, 1, 0), (1, 1, 1)] {
        let bytes = map.read(1, range.clone(), &mut scratch).unwrap();
        assert_eq!(bytes, [value(OBJECT_PAGES + 5); 200]);
        let stats = map.stats();
        let seen = (stats.direct_reads, stats.faults, stats.hits);
        assert_eq!(seen, (expect_direct, expect_faults, expect_hits));
    }
    assert!(map.try_read(1, range).is_some());
    assert_eq!(world.mcache.room.left(), (1 << 20) - PAGE_BYTES);
}

#[test]
fn without_room_reads_stay_direct() {
    let world = World::new(1);
    world.mcache.room.grant(PAGE_BYTES, 1);
    let map = world.map(&[0], Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    for _ in 0..4 {
        let bytes = map.read(0, 4000..4200, &mut scratch).unwrap();
        assert_eq!((bytes[0], bytes[199]), (value(0), value(1)));
    }
    assert_eq!(map.stats().direct_reads, 4, "two pages want more than one page of room");
    assert_eq!(scratch.len(), 2 * PAGE_LEN, "the buffer grew");
    assert_eq!(world.mcache.metrics.fills_refused.get(), 3);
}

#[test]
fn a_page_is_verified_once_per_residency() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    fn verify(page: &[u8]) -> bool {
        CALLS.fetch_add(1, SeqCst);
        page.len() == PAGE_LEN && page[0] == 7
    }
    let world = World::new(1);
    if !world.can_evict() {
        return;
    }
    world.mcache.room.grant(0, 15);
    let map = world.map(&[0], Class::Hot);
    assert!(map.try_page(0, 7).is_none());
    assert!(matches!(map.page(0, 7, verify).unwrap(), PageRef::Filled([7, ..])));
    for _ in 0..2 {
        assert!(matches!(map.page(0, 7, verify).unwrap(), PageRef::Mapped([7, ..])));
    }
    assert!(map.try_page(0, 7).is_some());
    assert_eq!(CALLS.load(SeqCst), 1);
    map.purge();
    assert!(map.try_page(0, 7).is_none());
    map.preload().unwrap();
    assert!(map.try_page(0, 7).is_none(), "preloaded, but not verified");
    assert!(matches!(map.page(0, 7, verify).unwrap(), PageRef::Mapped([7, ..])));
    assert_eq!(CALLS.load(SeqCst), 2);
    // Through another map over the same object, it is the same page.
    assert!(world.map(&[0], Class::Cold).try_page(0, 7).is_some());
}

#[test]
fn a_page_that_fails_its_check_is_corrupt_and_does_not_stay() {
    let world = World::new(1);
    let map = world.map(&[0], Class::Hot);
    for _ in 0..2 {
        let error = map.page(0, 3, |page| page[0] == 99).unwrap_err();
        assert!(matches!(error, Error::Corrupt { offset: 12_288, .. }), "{error}");
        assert!(map.try_page(0, 3).is_none());
        assert_eq!(world.mcache.residency().total_bytes(), 0);
    }
    assert_eq!(world.mcache.metrics.verify_failures.get(), 2);
    assert!(map.page(0, 3, |page| page[0] == 3).is_ok());
}

#[test]
fn references_past_the_end_are_errors() {
    let world = World::new(1);
    let map = world.map(&[0], Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    let last = u32::try_from(OBJECT_PAGES).unwrap();
    assert!(map.page(0, last, |_| true).is_err());
    assert!(map.try_page(0, last).is_none());
    #[expect(clippy::reversed_empty_ranges, reason = "what a corrupt index page may ask for")]
    let bad = [0..OBJECT_BYTES + 1, 10..9, u64::MAX - 1..u64::MAX];
    for range in bad {
        assert!(map.try_read(0, range.clone()).is_none());
        assert!(matches!(map.read(0, range, &mut scratch), Err(Error::Corrupt { .. })));
    }
    assert!(map.read(0, OBJECT_BYTES..OBJECT_BYTES, &mut scratch).unwrap().is_empty());
}

#[test]
fn preload_and_purge_move_whole_objects() {
    let world = World::new(3);
    if !world.can_evict() {
        return;
    }
    let map = world.map(&[0, 2], Class::Warm);
    assert_eq!(map.stats().resident_bytes, 0);
    assert_eq!(map.preload().unwrap(), 2 * OBJECT_BYTES);
    assert_eq!(map.stats().resident_bytes, 2 * OBJECT_BYTES);
    assert_eq!(map.try_read(1, 0..OBJECT_BYTES).unwrap()[0], value(2 * OBJECT_PAGES));
    assert_eq!(map.preload().unwrap(), 0, "all there");
    map.purge();
    assert_eq!(map.stats().resident_bytes, 0);
    assert!(map.try_read(1, 0..1).is_none());
    assert_eq!(world.mcache.residency().total_bytes(), 0);
}

#[test]
fn preload_stops_where_room_ends_unless_it_is_an_index() {
    let world = World::new(3);
    world.mcache.room.grant(OBJECT_BYTES, 1);
    let map = world.map(&[0, 1, 2], Class::Cold);
    assert_eq!(map.preload().unwrap(), OBJECT_BYTES);
    map.set_class(Class::Pinned);
    assert_eq!(map.preload().unwrap(), 2 * OBJECT_BYTES);
    let resident = world.mcache.residency();
    assert_eq!(resident.bytes[Class::Pinned.index()], 3 * OBJECT_BYTES);
    drop(map);
    assert_eq!(world.mcache.residency().bytes[Class::Cold.index()], 3 * OBJECT_BYTES);
}

#[test]
fn scattered_pages_are_evicted_in_batches() {
    let world = World::new(2);
    if !world.can_evict() {
        return;
    }
    let map = world.map(&[0, 1], Class::Cold);
    map.preload().unwrap();
    let objects = world.mcache.objects_after(None, 9);
    let mut batch = Batch::with_capacity(64);
    for page in (0..64).filter(|page| page % 3 != 0) {
        for object in &objects {
            batch.add(object, page);
        }
    }
    let evicted = world.mcache.evict(batch);
    assert_eq!(evicted, 2 * 42 * PAGE_BYTES);
    // The kernel may pass over a few pages that still stand on another core's list of new pages.
    let kept = 2 * 22 * PAGE_BYTES;
    let resident = map.stats().resident_bytes;
    assert!((kept..=kept + 8 * PAGE_BYTES).contains(&resident), "{resident} of {kept}");
    assert!(map.try_read(0, 0..PAGE_BYTES).is_some());
    assert!(map.try_read(0, 0..PAGE_BYTES + 1).is_none());
}

#[test]
fn a_retired_object_leaves_nothing_behind() {
    let world = World::new(2);
    if !world.can_evict() {
        return;
    }
    let map = world.map(&[0, 1], Class::Cold);
    map.preload().unwrap();
    let dead = World::place(1);
    world.mcache.mark_dead(dead.key());
    assert_eq!(world.mcache.residency().dead_bytes, OBJECT_BYTES);
    assert_eq!(world.mcache.dead_objects().len(), 1);
    // Its readers are not disturbed.
    assert!(map.try_read(1, 0..1).is_some());
    let object = Arc::clone(&map.shared.objects[1]);
    drop(map);
    world.mcache.retire(dead.key());
    assert_eq!(cached_bytes(&object), 0);
    assert_eq!(world.mcache.residency().total_bytes(), OBJECT_BYTES, "the other one stays");
    assert!(world.mcache.dead_objects().is_empty());
}

#[test]
fn a_drive_error_under_a_mapped_page_is_a_count_and_then_an_error() {
    let world = World::new(2);
    let map = world.map(&[0, 1], Class::Cold);
    map.preload().unwrap();
    let faults = world.mcache.map_faults();
    // The drive "loses" the second object while its pages are believed resident.
    world.truncate(OBJECT_BYTES);
    let bytes = map.try_read(1, 0..100).unwrap();
    assert_eq!(bytes, [0; 100], "void bytes");
    assert_eq!(world.mcache.map_faults(), faults + 1, "and the reader can tell");
    assert!(map.try_read(1, 0..100).is_none(), "the page is marked");
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    assert!(matches!(map.read(1, 0..100, &mut scratch), Err(Error::Io { op: "read", .. })));
    assert!(matches!(map.page(1, 0, |_| true), Err(Error::Io { .. })));
    // So is a page that fails while it is verified.
    assert!(matches!(map.page(1, 1, |page| page[0] == 0), Err(Error::Io { .. })));
    assert_eq!(map.try_read(0, 0..1).unwrap(), [value(0)], "the rest of the volume lives");
    assert_eq!(world.mcache.metrics.lost_pages.get(), 2);

    // The extent is used again: the mapping shows the new object, not the zeros.
    drop(map);
    world.mcache.retire(World::place(1).key());
    world.truncate(2 * OBJECT_BYTES);
    let mut page = IoBuf::zeroed(PAGE_LEN);
    page.fill(0xaa);
    world.mcache.volumes.root().device().write_at(OBJECT_BYTES, &page).unwrap();
    let place = Place { id: MblockId::new(99).unwrap(), ..World::place(1) };
    let map = world.map_places(vec![place], Class::Cold);
    assert_eq!(map.page(0, 0, |_| true).unwrap()[..2], [0xaa, 0xaa]);
}

#[test]
fn the_books_follow_the_kernel() {
    let world = World::new(1);
    if !world.can_evict() {
        return;
    }
    let map = world.map(&[0], Class::Cold);
    map.preload().unwrap();
    let object = Arc::clone(&map.shared.objects[0]);
    assert!(!world.mcache.resync(&object), "in line");
    // The kernel takes 30 pages behind our back.
    let mapping = object.mapping.as_ref().unwrap();
    object.pages(10..40).for_each(|span| mapping.drop_span(span));
    if cached_bytes(&object) == OBJECT_BYTES {
        skipped("no cachestat here, so nothing to compare with");
        return;
    }
    assert!(world.mcache.resync(&object));
    assert_eq!(object.resident_bytes(), 34 * PAGE_BYTES);
    assert_eq!(world.mcache.metrics.kernel_evicted_pages.get(), 30);

    // Somebody reads them into the page cache without us: adopted as far as there is room.
    world.mcache.room.grant(10 * PAGE_BYTES, 1);
    object.pages(10..40).for_each(|span| mapping.region.populate(span).unwrap());
    assert!(world.mcache.resync(&object));
    assert_eq!(object.resident_bytes(), 44 * PAGE_BYTES);
    assert_eq!(cached_bytes(&object), 44 * PAGE_BYTES);
    assert_eq!(world.mcache.metrics.stray_pages.get(), 30);
}

#[test]
fn index_pages_are_doubted_where_the_kernel_has_been() {
    let world = World::new(3);
    if !world.can_evict() {
        return;
    }
    let map = world.map(&[0, 1, 2], Class::Hot);
    let pages = u32::try_from(OBJECT_PAGES).unwrap();
    for object in 0..2 {
        (0..pages).for_each(|page| assert!(map.page(object, page, |_| true).is_ok()));
    }
    let verified = |object: usize| {
        let states = &map.shared.objects[object].states;
        (0..pages).filter(|page| states.state(*page).is_verified()).count()
    };
    let doubted = || world.mcache.metrics.doubted_pages.get();
    world.mcache.recheck_at(0);
    assert_eq!((verified(0), verified(1), doubted()), (64, 64, 0), "nothing came back by a fault");

    // The kernel takes a page of the first object, and a reader brings another one back.
    let object = Arc::clone(&map.shared.objects[0]);
    let mapping = object.mapping.as_ref().unwrap();
    object.pages(7..8).for_each(|span| mapping.drop_span(span));
    if cached_bytes(&object) == OBJECT_BYTES {
        skipped("no cachestat here, so nothing to compare with");
        return;
    }
    world.mcache.recheck_at(0);
    assert_eq!((verified(0), verified(1)), (64, 64), "no fault, no look");
    world.mcache.recheck_at(1);
    assert_eq!((verified(0), verified(1)), (0, 64), "all of an object where one page is missing");
    assert_eq!(object.resident_bytes(), 63 * PAGE_BYTES);
    (0..pages).for_each(|page| assert!(map.page(0, page, |_| true).is_ok()));
    assert_eq!(verified(0), 64, "and they are verified again");

    // What has come back unseen is met by doubts that go round.
    let before = doubted();
    (2..6).for_each(|faults| world.mcache.recheck_at(faults));
    assert!(doubted() - before >= 128, "{} pages", doubted() - before);
    let before = doubted();
    (0..9).for_each(|_| world.mcache.recheck_at(5));
    assert_eq!(doubted(), before, "only while faults go on");
}

#[test]
fn a_stale_look_at_a_buried_object_does_nothing() {
    let world = World::new(1);
    let map = world.map(&[0], Class::Cold);
    map.preload().unwrap();
    // The reaper has taken the object from the registry, and comes to it late.
    let stale = Arc::clone(&map.shared.objects[0]);
    drop(map);
    let key = World::place(0).key();
    world.mcache.retire(key);
    let next = Place { id: MblockId::new(9).unwrap(), ..World::place(0) };
    let next = world.map_places(vec![next], Class::Cold);
    next.preload().unwrap();
    let mut batch = Batch::with_capacity(64);
    (0..64).for_each(|page| batch.add(&stale, page));
    assert_eq!((batch.pages(), world.mcache.evict(batch)), (0, 0));
    assert_eq!(drop_object(&stale), 0);
    world.mcache.resync_pages(&stale);
    assert_eq!(stale.resident_bytes(), 0);
    assert_eq!(next.stats().resident_bytes, OBJECT_BYTES, "the next object is not disturbed");
}

#[test]
fn readers_and_evictors_together_never_see_wrong_bytes() {
    const ROUNDS: u32 = 300;
    let world = World::new(2);
    let map = world.map(&[0, 1], Class::Cold);
    std::thread::scope(|scope| {
        let evictor = scope.spawn(|| (0..ROUNDS / 4).for_each(|_| map.purge()));
        for seed in 1..4_u64 {
            let map = &map;
            scope.spawn(move || {
                let mut scratch = IoBuf::zeroed(PAGE_LEN);
                for round in 0..u64::from(ROUNDS) {
                    let page = (round * seed * 31) % OBJECT_PAGES;
                    let object = round % 2;
                    let at = page * PAGE_BYTES + 17;
                    let index = usize::try_from(object).unwrap();
                    let bytes = map.read(index, at..at + 64, &mut scratch).unwrap();
                    let expect = value(object * OBJECT_PAGES + page);
                    assert_eq!(bytes, [expect; 64], "seed {seed} round {round}");
                    let number = u32::try_from(page).unwrap();
                    assert_eq!(map.page(index, number, |_| true).unwrap()[4095], expect);
                }
            });
        }
        evictor.join().unwrap();
    });
    map.purge();
    assert_eq!(world.mcache.residency().total_bytes(), 0, "every page was given back");
}
