//! Maps through the public API: over any mix of volumes, ages and classes; what they cost the
//! kernel (one mapping a volume, no system call); what advice does to it; and how long a volume
//! stays mapped that grows or leaves.
//!
//! That no system call is made is proven by the kernel: a thread in strict secure computing mode
//! dies of any but `read` and `write`.

#![expect(clippy::unwrap_used, reason = "a test: unwrapping is its way to fail")]

use mpool::{
    Advice, Class, IO_ALIGN, IoBuf, Map, Mblock, MediaClass, NewVolume, Options, Placement, Pool,
    Priority, ReaperOptions, ReaperPolicy, VolumeId, VolumeKind,
};
use mpool_sim::SimDevice;
use rustix::thread::{SecureComputingMode, gettid, set_secure_computing_mode};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

const OBJECT_BYTES: usize = 128 << 10;

fn options() -> Options {
    Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 256 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        reaper: ReaperOptions { policy: ReaperPolicy::Off, ..ReaperOptions::default() },
        ..Options::default()
    }
}

fn open(dir: &Path) -> Arc<Pool> {
    Pool::open_or_create(dir, &options()).unwrap()
}

fn add_file(pool: &Arc<Pool>, name: &str, class: MediaClass) -> VolumeId {
    let new = NewVolume {
        path: PathBuf::from(name),
        kind: VolumeKind::File,
        class,
        capacity_bytes_max: 64 << 20,
        force: false,
    };
    pool.add_volume(&new).unwrap()
}

/// Objects on a volume of `class`, whose every byte is `byte`, `byte + 1`, ...
fn objects(pool: &Arc<Pool>, class: MediaClass, count: u8, byte: u8) -> Vec<Mblock> {
    let placement = Placement { class, ..Placement::from(Priority::Flush) };
    let writers = (0..count).map(|n| {
        let mut writer = pool.allocate(OBJECT_BYTES as u64, placement).unwrap();
        writer.append(&vec![byte + n; OBJECT_BYTES]).unwrap();
        writer
    });
    pool.commit(writers.collect(), &[]).unwrap()
}

fn assert_shows(map: &Map, bytes: impl Iterator<Item = u8>) {
    let mut scratch = IoBuf::zeroed(IO_ALIGN);
    for (object, byte) in bytes.enumerate() {
        for at in [0, 4090, OBJECT_BYTES as u64 - 10] {
            let seen = map.read(object, at..at + 10, &mut scratch).unwrap();
            assert_eq!(seen, [byte; 10], "object {object} at {at}");
        }
        let page = map.page(object, 3, |page| page[0] == page[4095]).unwrap();
        assert_eq!(page[..], [byte; 4096], "page of object {object}");
    }
}

/// Mappings of files below `dir` that this process has.
fn mappings(dir: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(dir.to_str().unwrap())).count()
}

fn open_files(dir: &Path) -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| fs::read_link(file).is_ok_and(|target| target.starts_with(dir))).count()
}

#[test]
fn one_map_shows_objects_of_all_volumes_classes_and_ages() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let mut all = objects(&pool, MediaClass::Capacity, 3, 10);
    // The second file is preferred for its class, the simulated device for its emptiness.
    let staging = add_file(&pool, "staging.vol", MediaClass::Staging);
    all.extend(objects(&pool, MediaClass::Staging, 3, 20));
    let sim = Arc::new(SimDevice::new(1 << 30));
    let simulated = pool.add_volume_on(sim, MediaClass::Capacity).unwrap();
    all.extend(objects(&pool, MediaClass::Capacity, 3, 30));
    let volumes: Vec<_> = all.iter().map(Mblock::volume).collect();
    assert_eq!(volumes, [[VolumeId::ROOT; 3], [staging; 3], [simulated; 3]].concat());

    let bytes = || (10..13).chain(20..23).chain(30..33);
    let maps: Vec<Map> = [Class::Cold, Class::Warm, Class::Hot, Class::Pinned]
        .map(|class| pool.map_named(&all, class, "mixed").unwrap())
        .into();
    assert_eq!(mappings(dir.path()), 2, "one of each file");
    for map in &maps {
        assert_shows(map, bytes());
        let stats = map.stats();
        assert_eq!((stats.objects, stats.mapped_bytes), (9, 9 * OBJECT_BYTES as u64));
        let mapped = stats.hits + stats.faults;
        assert!(mapped > 0 && stats.direct_reads > 0, "mapped and unmapped: {stats:?}");
    }
    maps[0].preload().unwrap();
    assert_eq!(maps[1].stats().resident_bytes, 6 * OBJECT_BYTES as u64, "all but the simulated");
    assert_eq!(mappings(dir.path()), 2);
    assert_eq!(pool.maps().iter().filter(|map| map.owner == "mixed").count(), 4);
    drop(maps);
    assert!(pool.maps().is_empty());
}

#[test]
fn objects_of_an_earlier_life_of_the_pool_are_mapped_beside_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    {
        let pool = open(dir.path());
        add_file(&pool, "staging.vol", MediaClass::Staging);
        objects(&pool, MediaClass::Capacity, 2, 1);
        objects(&pool, MediaClass::Staging, 2, 3);
    }
    let pool = open(dir.path());
    let mut all: Vec<_> = pool.mblock_ids().iter().map(|id| pool.mblock(*id).unwrap()).collect();
    all.extend(objects(&pool, MediaClass::Staging, 2, 5));
    let map = pool.map(&all, Class::Cold).unwrap();
    (0..2).for_each(|_| assert_shows(&map, 1..7));
    assert_eq!(mappings(dir.path()), 2);
}

#[test]
fn neither_maps_nor_advice_make_mappings_or_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let all = objects(&pool, MediaClass::Capacity, 40, 1);
    let before = (mappings(dir.path()), open_files(dir.path()));
    assert_eq!(before.0, 1);
    let maps: Vec<Map> = (0..500).map(|_| pool.map(&all, Class::Cold).unwrap()).collect();
    assert_eq!((mappings(dir.path()), open_files(dir.path())), before, "500 maps");
    let classes = [Class::Cold, Class::Warm, Class::Hot, Class::Pinned].map(Advice::Class);
    let advice = [classes.as_slice(), &[Advice::WillNeed, Advice::WillNotNeed, Advice::Normal]];
    for (n, advice) in advice.concat().into_iter().cycle().take(400).enumerate() {
        let page = (n as u64 * 7 % 30) * 4096;
        maps[n].advise(n % 40, page..page + 8192, advice).unwrap();
    }
    maps[0].advise_all(Advice::WillNeed);
    assert_shows(&maps[0], 1..41);
    maps[1].advise_all(Advice::WillNotNeed);
    assert_shows(&maps[1], 1..41);
    assert_eq!((mappings(dir.path()), open_files(dir.path())), before, "400 pieces of advice");
    drop(maps);
    assert_eq!((mappings(dir.path()), open_files(dir.path())), before);
}

#[test]
fn advised_pages_come_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let all = objects(&pool, MediaClass::Capacity, 10, 1);
    let map = pool.map(&all, Class::Cold).unwrap();
    map.advise_all(Advice::WillNeed);
    while map.try_read(9, 0..OBJECT_BYTES as u64).is_none() {
        thread::yield_now();
    }
    assert_eq!(map.stats().resident_bytes, 10 * OBJECT_BYTES as u64);
}

#[test]
fn an_emptied_volume_stays_readable_and_mapped_until_the_last_map_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let staging = add_file(&pool, "staging.vol", MediaClass::Staging);
    let old = objects(&pool, MediaClass::Staging, 4, 50);
    let ids: Vec<_> = old.iter().map(Mblock::id).collect();
    let map = pool.map(&old, Class::Cold).unwrap();
    map.preload().unwrap();
    drop(old);
    pool.evacuate_volume(staging, &mut |_| ()).unwrap();
    assert!(map.mblock(0).has_moved());
    assert_eq!(map.mblock(0).volume(), staging, "the map sees the old place");
    assert_shows(&map, 50..54);
    let refused = pool.remove_volume(staging).unwrap_err().to_string();
    assert!(refused.contains("readers"), "{refused}");
    assert_shows(&map, 50..54);
    assert_eq!(mappings(dir.path()), 2);

    let moved: Vec<_> = ids.iter().map(|id| pool.mblock(*id).unwrap()).collect();
    let new = pool.map(&moved, Class::Cold).unwrap();
    assert_shows(&new, 50..54);
    drop(map);
    pool.remove_volume(staging).unwrap();
    assert_eq!(mappings(dir.path()), 1, "the volume's mapping has gone with it");
    assert_shows(&new, 50..54);
}

#[test]
fn a_volume_that_grows_beyond_its_mapping_is_mapped_again() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let staging = add_file(&pool, "staging.vol", MediaClass::Staging);
    let old = pool.map(&objects(&pool, MediaClass::Staging, 2, 1), Class::Cold).unwrap();
    assert_eq!(mappings(dir.path()), 2);
    for capacity in [64 << 20, 4 << 30, 4 << 30] {
        pool.grow_volume(staging, capacity).unwrap();
    }
    let new = objects(&pool, MediaClass::Staging, 2, 3);
    assert!(new.iter().all(|mblock| mblock.volume() == staging));
    let new = pool.map(&new, Class::Cold).unwrap();
    for map in [&old, &new] {
        map.preload().unwrap();
        assert!(map.try_read(1, 0..OBJECT_BYTES as u64).is_some(), "seen through a mapping");
    }
    assert_eq!(mappings(dir.path()), 3, "old objects keep the old one");
    let faults = pool.map_faults();
    let ids: Vec<_> = (0..2).map(|n| old.mblock(n).id()).collect();
    pool.commit(vec![], &ids).unwrap();
    assert_shows(&old, 1..3);
    drop(old);
    assert_eq!(mappings(dir.path()), 2, "until they are deleted");
    assert_eq!(pool.map_faults(), faults);
    assert_shows(&new, 3..5);
}

const CHILD: &str = "MILLPOND_TEST_WITHOUT_SYSTEM_CALLS";

/// What a thread does that may make no system call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Maps,
    /// Planted: something that asks the kernel.
    AsksTheKernel,
}

/// The test starts itself again, so that no other thread contends for the allocator's locks.
#[test]
fn maps_are_made_and_dropped_without_a_system_call() {
    const NAME: &str = "maps_are_made_and_dropped_without_a_system_call";
    match std::env::var(CHILD) {
        Err(_) => {}
        Ok(deed) => {
            let deed = if deed == "maps" { Deed::Maps } else { Deed::AsksTheKernel };
            assert_eq!(survives_strictly(deed), deed == Deed::Maps);
            return;
        }
    }
    for deed in ["maps", "asks"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, deed)
            .output()
            .unwrap();
        let said = [child.stdout, child.stderr].concat();
        assert!(child.status.success(), "{deed}: {}", String::from_utf8_lossy(&said));
    }
}

/// Whether a thread that may call nothing but `read`, `write` and its own end gets through `deed`.
fn survives_strictly(deed: Deed) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let mapped = objects(&pool, MediaClass::Capacity, 100, 1);
    let fresh = objects(&pool, MediaClass::Capacity, 100, 101);
    let survived = Arc::new(AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let done = Arc::clone(&survived);
    let strict = move || {
        let make = |mblocks: &[Mblock]| {
            let maps: Vec<Map> =
                (0..100).map(|_| pool.map(mblocks, Class::Cold).unwrap()).collect();
            for map in &maps {
                map.set_class(Class::Hot);
                map.advise(3, 0..9000, Advice::Class(Class::Warm)).unwrap();
            }
            drop(maps);
        };
        make(&mapped);
        // The allocator asks the kernel when it runs out: it gets its memory in advance. The last
        // block keeps it from giving the others back.
        let blocks: Vec<Box<[u8; 200]>> = (0..20_000).map(|_| Box::new([0; 200])).collect();
        let _last = Box::new([0_u8; 200]);
        drop(blocks);
        make(&mapped);
        send.send(gettid()).unwrap();
        set_secure_computing_mode(SecureComputingMode::Strict).unwrap();
        match deed {
            // Over objects that are known, and over some that no map was over before.
            Deed::Maps => [&mapped, &fresh].into_iter().for_each(|mblocks| make(mblocks)),
            Deed::AsksTheKernel => drop(pool.map(&mapped, Class::Cold).unwrap().stats()),
        }
        done.store(true, Ordering::Release);
        // Its end makes a system call that is not allowed: the thread is killed, and joined by
        // nobody.
    };
    let thread = thread::spawn(strict);
    let task = format!("/proc/self/task/{}", receive.recv().unwrap().as_raw_nonzero());
    while Path::new(&task).exists() {
        thread::yield_now();
    }
    drop(thread);
    survived.load(Ordering::Acquire)
}
