//! Maps through the pool: real mblocks on a file and on the simulated device.

use std::sync::{Arc, mpsc};

use super::{Class, Map, PageRef};
use crate::{
    IoBuf, Mblock, Options, Pool, Priority, ReaperOptions, Result, SimDevice, error::Error,
    mcache::pages::PAGE_LEN,
};

const OBJECT_BYTES: usize = 256 << 10;

fn options() -> Options {
    Options {
        allow_buffered: true,
        capacity_bytes_max: 1 << 30,
        grow_step_bytes: 1 << 20,
        reserve_bytes: 0,
        reaper: ReaperOptions { budget_bytes: Some(1 << 40), tick_ms: 1, ..Default::default() },
        ..Options::default()
    }
}

fn file_pool() -> (tempfile::TempDir, Arc<Pool>) {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    (dir, pool)
}

fn sim_pool() -> (SimDevice, Arc<Pool>) {
    let device = SimDevice::new(1 << 30);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    (device, pool)
}

/// An object whose every byte is `byte`.
fn object(pool: &Arc<Pool>, byte: u8) -> Mblock {
    let mut writer = pool.allocate(OBJECT_BYTES as u64, Priority::Flush).unwrap();
    writer.append(&vec![byte; OBJECT_BYTES - 100]).unwrap();
    pool.commit(vec![writer], &[]).unwrap().remove(0)
}

fn read_async(map: &Arc<Map>, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    let done = move |outcome: Result<&[u8]>| send.send(outcome.map(<[u8]>::to_vec)).unwrap();
    map.read_async(0, range, Box::new(done));
    receive.recv().unwrap()
}

#[test]
fn a_map_over_a_file_reads_what_was_written() {
    let (_dir, pool) = file_pool();
    let (a, b) = (object(&pool, 3), object(&pool, 4));
    let map = pool.map(&[a, b], Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    for _ in 0..3 {
        assert_eq!(map.read(1, 5000..5010, &mut scratch).unwrap(), [4; 10]);
    }
    assert!(map.try_read(1, 5000..5010).is_some());
    assert!(map.page(0, 9, |page| page[0] == 3).is_ok());
    let stats = pool.maps();
    assert_eq!((stats.len(), stats[0].objects, stats[0].class), (1, 2, Class::Cold));
    assert!(stats[0].resident_bytes >= 2 * 4096);
    assert_eq!(map.mblock(1).len_bytes(), OBJECT_BYTES as u64 - 100);
    drop(map);
    assert!(pool.maps().is_empty());
    assert_eq!(pool.map_faults(), 0);
}

#[test]
fn an_extent_that_is_used_again_shows_the_new_object() {
    let (_dir, pool) = file_pool();
    for round in 0..20_u8 {
        let mblock = object(&pool, round);
        let id = mblock.id();
        let map = pool.map(&[mblock], Class::Warm);
        map.preload().unwrap();
        assert_eq!(map.try_read(0, 0..1).unwrap(), [round]);
        pool.commit(vec![], &[id]).unwrap();
        // Deleted, but still held: readable.
        assert_eq!(map.try_read(0, 100_000..100_001).unwrap_or(&[round]), [round]);
        drop(map);
    }
    let info = pool.info();
    assert!(info.len_bytes <= 32 << 20, "the extents were used again: {info:?}");
}

#[test]
fn asynchronous_reads_answer_on_both_devices() {
    let (_dir, file) = file_pool();
    let (_device, sim) = sim_pool();
    for pool in [&file, &sim] {
        let map = Arc::new(pool.map(&[object(pool, 7)], Class::Cold));
        for _ in 0..4 {
            assert_eq!(read_async(&map, 4090..4100).unwrap(), [7; 10]);
        }
        assert!(read_async(&map, 9..9).unwrap().is_empty());
        let past = OBJECT_BYTES as u64 - 100;
        assert!(matches!(read_async(&map, past..past + 1), Err(Error::Corrupt { .. })));
        let stats = map.stats();
        assert!(stats.hits + stats.faults + stats.direct_reads >= 4, "{stats:?}");
    }
}

#[test]
fn without_a_file_everything_is_read_into_buffers() {
    let (device, pool) = sim_pool();
    let mblock = object(&pool, 5);
    let map = pool.map(&[mblock], Class::Pinned);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    for _ in 0..3 {
        assert!(map.try_page(0, 1).is_none());
        assert!(map.try_read(0, 0..1).is_none());
        assert!(matches!(map.page(0, 1, |p| p[0] == 5).unwrap(), PageRef::Read(_)));
        assert_eq!(map.read(0, 10..20, &mut scratch).unwrap(), [5; 10]);
    }
    assert_eq!(map.preload().unwrap(), 0);
    map.purge();
    let stats = map.stats();
    assert_eq!((stats.resident_bytes, stats.hits, stats.direct_reads), (0, 0, 6));

    // The last page is padded with zeros.
    let last = u32::try_from(OBJECT_BYTES / PAGE_LEN - 1).unwrap();
    let page = map.page(0, last, |_| true).unwrap();
    assert_eq!(page[PAGE_LEN - 101..PAGE_LEN - 99], [5, 0]);

    // A bit flips on the medium: the check says no, every time.
    let offset = map.mblock(0).extent_offset();
    device.flip_bit(offset + 4096, 0);
    for _ in 0..2 {
        let outcome = map.page(0, 1, |p| p[0] == 5);
        assert!(matches!(outcome, Err(Error::Corrupt { offset: 4096, .. })));
    }
}

#[test]
fn the_memory_metrics_of_a_pool_are_named_once() {
    let (_dir, pool) = file_pool();
    let mut names = std::collections::BTreeSet::new();
    pool.metrics().visit(&mut |name, _, _, _| assert!(names.insert(name), "{name} twice"));
    pool.visit_memory(&mut |name, help, _, _| {
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("mpool_") && !help.is_empty(), "{name}");
    });
    assert_eq!(pool.reaper().stats().source, "options");
}
