//! Many threads allocate, commit, read and delete at once: nobody's bytes become another's, nothing
//! leaks, and what was committed is there after a reopen.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, IO_ALIGN, IoBackend, IoBuf, Mblock, MdcRoom, Options, Pool, Priority, ReturnOptions,
};
use mpool_sim::{Seeded, SimDevice};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const THREADS: u64 = 4;
const ROUNDS: u64 = 120;

fn options(io: IoBackend) -> Options {
    Options {
        io,
        queue_depth: 8,
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        ..Options::default()
    }
}

/// The content of an object follows from its id.
fn content(id: mpool::MblockId, len: usize) -> Vec<u8> {
    id.get().to_le_bytes().repeat(len / 8)
}

fn check(mblock: &Mblock) {
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[..len] == content(mblock.id(), len)[..], "{mblock:?} holds another's bytes");
}

/// One thread: makes groups of objects, replaces its own older ones, reads them while they are
/// being deleted, and abandons a writer now and then.
fn work(pool: &Arc<Pool>, seed: u64) -> BTreeMap<mpool::MblockId, Mblock> {
    let mut random = Seeded::new(seed);
    let mut own: BTreeMap<mpool::MblockId, Mblock> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut group = Vec::new();
        for _ in 0..random.below(3) {
            let len = usize::try_from(8 * (1 + random.below(40_000))).unwrap();
            let mut writer = pool.allocate(len as u64, Priority::Compaction).unwrap();
            for piece in content(writer.id(), len).chunks(100_000) {
                writer.append(piece).unwrap();
            }
            if random.below(8) > 0 {
                group.push(writer);
            }
        }
        let doomed: Vec<_> = own.keys().copied().filter(|_| random.below(3) == 0).collect();
        let made = pool.commit(group, &doomed).unwrap();
        for id in doomed {
            let last_look = own.remove(&id).unwrap();
            check(&last_look);
        }
        own.extend(made.into_iter().map(|mblock| (mblock.id(), mblock)));
        own.values().for_each(check);
    }
    own
}

/// What an object takes: whole pages, 4 bytes of checksum for each, in whole units.
fn taken(len_bytes: u64) -> u64 {
    let page = IO_ALIGN as u64;
    let pages = len_bytes.div_ceil(page);
    (pages * page + (4 * pages).next_multiple_of(page)).next_multiple_of(ALLOC_UNIT)
}

fn run(pool: &Arc<Pool>, seed: u64) -> BTreeMap<mpool::MblockId, Mblock> {
    let empty = pool.info().used_bytes;
    let all: BTreeMap<_, _> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|t| scope.spawn(move || work(pool, seed * THREADS + t))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("no thread failed")).collect()
    });
    assert_eq!(pool.mblock_ids(), all.keys().copied().collect::<Vec<_>>());
    let owned: u64 = all.values().map(|m| taken(m.len_bytes())).sum();
    // A callback that has signalled its end may hold an abandoned extent for an instant longer.
    while pool.info().used_bytes != empty + owned {
        assert!(pool.info().used_bytes > empty + owned, "space is never lost");
        std::thread::yield_now();
    }
    all
}

#[test]
fn nobody_gets_anothers_bytes_on_the_simulated_device() {
    for seed in 0..3 {
        let device = SimDevice::new(64 << 20);
        let pool = Pool::create(Arc::new(device.clone()), &options(IoBackend::Threads)).unwrap();
        let all = run(&pool, seed);
        let again = Pool::open(Arc::new(device.after_crash(seed)), &options(IoBackend::Threads));
        let again = again.unwrap();
        for id in all.keys() {
            check(&again.mblock(*id).unwrap());
        }
    }
}

#[test]
fn nobody_gets_anothers_bytes_on_a_file() {
    for io in [IoBackend::Auto, IoBackend::Threads] {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open_or_create(dir.path(), &options(io)).unwrap();
        let all = run(&pool, 7);
        let ids: Vec<_> = all.keys().copied().collect();
        drop((all, pool));
        let pool = Pool::open_dir(dir.path(), &options(io)).unwrap();
        assert_eq!(pool.mblock_ids(), ids);
        for id in ids {
            check(&pool.mblock(id).unwrap());
        }
    }
}

/// Says that the work is done, when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Housekeeping gives back what is free between two allocations of it, as fast as it can. The
/// simulated device refuses writes into holes and beyond its end.
#[test]
fn nobody_gets_anothers_bytes_while_what_is_free_goes_back() {
    let eager = |io| {
        let returning = Some(ReturnOptions { after_s: 0, ..ReturnOptions::default() });
        Options { background: false, returning, ..options(io) }
    };
    let beside_housekeeping = |pool: &Arc<Pool>, seed| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    pool.tidy();
                }
            });
            // Also where it fails.
            let _ends = Ends(&done);
            run(pool, seed)
        })
    };
    let device = SimDevice::new(64 << 20);
    let pool = Pool::create(Arc::new(device.clone()), &eager(IoBackend::Threads)).unwrap();
    let all = beside_housekeeping(&pool, 5);
    let again = Pool::open(Arc::new(device.after_crash(5)), &eager(IoBackend::Threads)).unwrap();
    for id in all.keys() {
        check(&again.mblock(*id).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &eager(IoBackend::Auto)).unwrap();
    beside_housekeeping(&pool, 6).values().for_each(check);
}

#[test]
fn journals_keep_every_acknowledged_record_of_every_thread() {
    let device = SimDevice::new(16 << 20);
    let pool = Pool::create(Arc::new(device.clone()), &options(IoBackend::Threads)).unwrap();
    let id = pool.create_mdc(1 << 20).unwrap();
    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (mdc, pool) = (&mdc, &pool);
            scope.spawn(move || {
                for n in 0..40_u8 {
                    mdc.append(&[thread, n], MdcRoom::Usual, || ()).unwrap();
                    pool.set_property(&format!("t{thread}"), &[n]).unwrap();
                }
            });
        }
    });
    drop((mdc, pool));
    let pool = Pool::open(Arc::new(device.after_crash(3)), &options(IoBackend::Threads)).unwrap();
    let mut next = [0_u8; 4];
    pool.open_mdc(id, &mut |record| {
        let slot = &mut next[usize::from(record[0])];
        assert_eq!(record[1], *slot, "each thread's records are in its order");
        *slot += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(next, [40; 4]);
    for thread in 0..4 {
        assert_eq!(pool.property(&format!("t{thread}")).unwrap(), [39]);
    }
}
