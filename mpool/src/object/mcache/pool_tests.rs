//! Maps through the pool: real mblocks on a file and on the simulated device.

use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{Arc, mpsc},
};

use super::{Class, Map, PageRef};
use crate::{
    IoBuf, Mblock, MblockId, Options, Pool, Priority, ReaperOptions, Result, error::Error,
    object::mcache::pages::PAGE_LEN,
};
use mpool_sim::{Seeded, SimDevice};

const OBJECT_BYTES: usize = 256 << 10;

thread_local! {
    /// The planted bug: maps made on this thread hold no handles of their mblocks.
    pub(super) static HOLDS_NOTHING: Cell<bool> = const { Cell::new(false) };
}

fn options() -> Options {
    Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 1 << 30,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
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
    let map = pool.map(&[a, b], Class::Cold).unwrap();
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
        let map = pool.map(&[mblock], Class::Warm).unwrap();
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

/// Objects come, are mapped, deleted and replaced by others in the same places, in seeded order.
/// Every map must show its own object for as long as it lives. Returns how often an extent was used
/// again.
fn churn(pool: &Arc<Pool>, seed: u64) -> Result<u64, String> {
    const MAPS: u64 = 8;
    let mut random = Seeded::new(seed);
    let mut live: Vec<(Map, MblockId, u8, bool)> = Vec::new();
    let (mut places, mut reused) = (BTreeSet::new(), 0);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    for step in 0..600_u32 {
        let byte = u8::try_from(step % 251).unwrap();
        if (live.len() as u64) < MAPS {
            let mblock = object(pool, byte);
            reused += u64::from(!places.insert(mblock.layout().first()));
            let (id, map) = (mblock.id(), pool.map(&[mblock], Class::Warm).unwrap());
            if random.below(2) == 0 {
                map.preload().unwrap();
            }
            live.push((map, id, byte, false));
        }
        let one = usize::try_from(random.below(live.len() as u64)).unwrap();
        let (map, id, byte, deleted) = &mut live[one];
        let page = random.below(OBJECT_BYTES as u64 / 4096 - 1);
        let seen = match random.below(2) {
            0 => map.page(0, u32::try_from(page).unwrap(), |_| true).unwrap()[9],
            _ => map.read(0, page * 4096..page * 4096 + 10, &mut scratch).unwrap()[9],
        };
        if seen != *byte {
            return Err(format!("seed {seed} step {step}: {id} shows {seen}, not {byte}"));
        }
        match random.below(4) {
            0 if !*deleted => {
                pool.commit(vec![], &[*id]).unwrap();
                *deleted = true;
            }
            1 if *deleted => drop(live.swap_remove(one)),
            _ => {}
        }
    }
    Ok(reused)
}

#[test]
fn no_extent_is_used_again_under_a_live_map() {
    let (_dir, file) = file_pool();
    let (_device, sim) = sim_pool();
    for (seed, pool) in [(1, &file), (2, &sim), (3, &file)] {
        let reused = churn(pool, seed).unwrap();
        assert!(reused > 20, "seed {seed}: {reused} extents were used again, so little was tried");
    }
}

/// The harness is shown to fail: with the reference count planted wrong, a map does not keep its
/// object's extent, and shows another object.
#[test]
fn a_map_that_holds_no_handle_is_caught() {
    let (_dir, file) = file_pool();
    let (_device, sim) = sim_pool();
    HOLDS_NOTHING.set(true);
    let outcomes = [churn(&file, 1), churn(&sim, 2)];
    HOLDS_NOTHING.set(false);
    for outcome in outcomes {
        assert!(outcome.is_err(), "the planted bug went unseen: {outcome:?}");
    }
}

#[test]
fn asynchronous_reads_answer_on_both_devices() {
    let (_dir, file) = file_pool();
    let (_device, sim) = sim_pool();
    for pool in [&file, &sim] {
        let map = Arc::new(pool.map(&[object(pool, 7)], Class::Cold).unwrap());
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
    let map = pool.map(&[mblock], Class::Pinned).unwrap();
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
    let offset = map.mblock(0).layout().first();
    device.flip_bit(offset + 4096, 0);
    for _ in 0..2 {
        let outcome = map.page(0, 1, |p| p[0] == 5);
        assert!(matches!(outcome, Err(Error::Corrupt { offset: 4096, .. })));
    }
}

#[test]
fn the_memory_metrics_of_a_pool_are_named_once() {
    let (_dir, pool) = file_pool();
    let mut names = BTreeSet::new();
    pool.metrics().visit(&mut |name, _, _, _| assert!(names.insert(name), "{name} twice"));
    pool.visit_memory(&mut |name, help, _, _| {
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("mpool_") && !help.is_empty(), "{name}");
    });
    assert_eq!(pool.reaper().stats().source, "options");
}
