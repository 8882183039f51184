//! Free space goes back to the disk with the power cut at every call: of punches, cuts, refills and
//! growth. What comes back after a crash, zeros or what was there, is nobody's.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{Error, IO_ALIGN, IoBackend, IoBuf, Mblock, Options, Pool, Priority, ReturnOptions};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn options() -> Options {
    let returning = ReturnOptions { after_s: 0, ..ReturnOptions::default() };
    Options {
        io: IoBackend::Threads,
        queue_depth: 2,
        background: false,
        returning: Some(returning),
        ..Options::default()
    }
}

fn open(device: &SimDevice) -> Result<Arc<Pool>, Error> {
    match Pool::open(Arc::new(device.clone()), &options()) {
        Err(Error::Unusable { .. }) => Pool::create(Arc::new(device.clone()), &options()),
        outcome => outcome,
    }
}

fn metric(pool: &Pool, wanted: &str) -> u64 {
    let mut found = None;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap_or_else(|| panic!("no metric {wanted}"))
}

/// Each step commits an object and deletes those of two steps before; then housekeeping gives back
/// what it can. So ranges are freed in the middle and at the end, go, and are needed again.
struct Returns;

/// Lengths come round, so that holes are refilled in part and the end grows again.
fn len_of(n: u32) -> usize {
    [MIB + 70_000, 5_000, 2 * MIB, 90_000, MIB, 1_300_000][n as usize % 6]
}

fn number_of(mblock: &Mblock) -> u32 {
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    let (words, rest) = buf[..len].as_chunks::<4>();
    assert!(rest.is_empty());
    assert!(words.iter().all(|word| *word == words[0]), "{mblock:?} is mangled");
    u32::from_le_bytes(words[0])
}

impl Workload for Returns {
    type System = Arc<Pool>;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        open(device)
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let old = pool.mblock_ids();
        let old = &old[..old.len().saturating_sub(1)];
        let mut writer = pool.allocate(len_of(n) as u64, Priority::Flush)?;
        writer.append(&(n + 1).to_le_bytes().repeat(len_of(n) / 4))?;
        pool.commit(vec![writer], old)?;
        while pool.tidy() {}
        Ok(())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        let ids = pool.mblock_ids();
        let numbers: Vec<u32> =
            ids.iter().map(|id| number_of(&pool.mblock(*id).unwrap())).collect();
        assert!(numbers.len() <= 2, "{numbers:?}");
        for (id, n) in ids.iter().zip(&numbers) {
            let len = pool.mblock(*id).unwrap().len_bytes();
            assert_eq!(len, len_of(n - 1) as u64);
        }
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
        numbers.last().copied().unwrap_or(0)
    }
}

/// Each step reserves room, commits an object behind it in place of the one before, and gives the
/// room back unused. Then the object moves down, and the end is cut off.
struct MovesDown;

fn moved_len(n: u32) -> usize {
    [70_000, 300_000, 5_000][n as usize % 3]
}

impl Workload for MovesDown {
    type System = Arc<Pool>;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        open(device)
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let old = pool.mblock_ids();
        let room = pool.allocate(6 * MIB as u64, Priority::Flush)?;
        let mut writer = pool.allocate(moved_len(n) as u64, Priority::Flush)?;
        writer.append(&(n + 1).to_le_bytes().repeat(moved_len(n) / 4))?;
        drop(pool.commit(vec![writer], &old)?);
        drop(room);
        while pool.tidy() {}
        Ok(())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        let ids = pool.mblock_ids();
        assert!(ids.len() <= 1, "{ids:?}");
        let numbers = ids.iter().map(|id| {
            let mblock = pool.mblock(*id).unwrap();
            let n = number_of(&mblock);
            assert_eq!(mblock.len_bytes(), moved_len(n - 1) as u64);
            n
        });
        numbers.max().unwrap_or(0)
    }
}

#[test]
fn what_moves_down_survives_every_crash() {
    let plan = CrashPlan { steps: 3, seeds: 1, recovery_seeds: 0, device_bytes: 16 << 20 };
    let device = SimDevice::new(plan.device_bytes);
    let mut pool = open(&device).unwrap();
    for n in 0..plan.steps {
        MovesDown.step(&mut pool, n).unwrap();
        assert_eq!(metric(&pool, "mpool_mblocks_moved_total"), u64::from(n + 1));
    }
    let cut = metric(&pool, "mpool_truncated_bytes_total");
    assert!(cut >= 6 * MIB as u64, "{cut}");
    drop(pool);
    check_every_crash(&MovesDown, plan);
}

#[test]
fn what_goes_back_to_the_disk_survives_every_crash() {
    let plan = CrashPlan { steps: 8, seeds: 2, recovery_seeds: 0, device_bytes: 16 << 20 };
    let device = SimDevice::new(plan.device_bytes);
    let mut pool = open(&device).unwrap();
    for n in 0..plan.steps {
        Returns.step(&mut pool, n).unwrap();
    }
    let sums =
        ["mpool_punched_bytes_total", "mpool_truncated_bytes_total", "mpool_refilled_bytes_total"];
    let sums = sums.map(|name| metric(&pool, name));
    assert!(sums.iter().all(|bytes| *bytes >= MIB as u64), "each of them is tried: {sums:?}");
    drop(pool);
    check_every_crash(&Returns, plan);
}
