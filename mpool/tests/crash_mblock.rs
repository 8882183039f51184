//! Every crash point of mblocks: allocate, write, commit in groups, delete, reuse of the space.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, Error, IO_ALIGN, IoBackend, IoBuf, Mblock, MblockId, MblockWriter, Options, Pool,
    Priority,
};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::{collections::BTreeSet, sync::Arc};

const DEVICE_BYTES: u64 = 2 << 20;

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 2, background: false, ..Options::default() }
}

fn open(device: &SimDevice) -> Result<Arc<Pool>, Error> {
    match Pool::open(Arc::new(device.clone()), &options()) {
        Err(Error::Unusable { .. }) => Pool::create(Arc::new(device.clone()), &options()),
        outcome => outcome,
    }
}

/// An object of step `n`: the number in every word, `len` bytes.
fn write(pool: &Arc<Pool>, n: u32, len: usize) -> Result<MblockWriter, Error> {
    let mut writer = pool.allocate(2 * ALLOC_UNIT, Priority::Flush)?;
    writer.append(&n.to_le_bytes().repeat(len / 4))?;
    Ok(writer)
}

fn number_of(mblock: &Mblock) -> u32 {
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    let (words, rest) = buf[..len].as_chunks::<4>();
    assert!(rest.is_empty());
    assert!(words.iter().all(|w| *w == words[0]), "{mblock:?} is mangled");
    u32::from_le_bytes(words[0])
}

/// Each step commits two objects and deletes the two of the step before, in one group; so exactly
/// two objects exist after any crash, of one step. Space comes around, and ids must not.
struct Groups;

struct System {
    pool: Arc<Pool>,
    seen: BTreeSet<MblockId>,
}

impl Workload for Groups {
    type System = System;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<System, Error> {
        let pool = open(device)?;
        let seen = pool.mblock_ids().into_iter().collect();
        Ok(System { pool, seen })
    }

    fn step(&self, system: &mut System, n: u32) -> Result<(), Error> {
        let System { pool, seen } = system;
        let old = pool.mblock_ids();
        // Abandoned: must leave nothing, and give its space back.
        drop(write(pool, u32::MAX, 4096)?);
        let group = vec![write(pool, n, 70_000)?, write(pool, n, 5_000)?];
        let made = pool.commit(group, &old)?;
        for mblock in &made {
            assert!(seen.insert(mblock.id()), "{} was given out before", mblock.id());
        }
        Ok(())
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        let pool = &system.pool;
        let own = pool.info().used_bytes;
        let ids = pool.mblock_ids();
        if ids.is_empty() {
            return 0;
        }
        assert_eq!(ids.len(), 2, "a group is there whole or not at all");
        let mblocks: Vec<Mblock> = ids.iter().map(|id| pool.mblock(*id).unwrap()).collect();
        let numbers: Vec<u32> = mblocks.iter().map(number_of).collect();
        assert_eq!(numbers[0], numbers[1], "a group is of one step");
        let lens: Vec<u64> = mblocks.iter().map(Mblock::len_bytes).collect();
        assert_eq!(lens, [70_000, 5_000]);
        // Superblock copies and two journal logs of two copies of 128 KiB are the pool's; nothing
        // has leaked.
        assert_eq!(own, (2 + 8 + 2 + 1) * ALLOC_UNIT, "space is owned by what exists");
        numbers[0] + 1
    }
}

#[test]
fn commit_groups_survive_every_crash_whole_or_not_at_all() {
    let plan = CrashPlan { steps: 8, seeds: 8, recovery_seeds: 2, device_bytes: DEVICE_BYTES };
    check_every_crash(&Groups, plan);
}

/// The same with the data not flushed before the record: the harness must notice.
struct Unflushed;

impl Workload for Unflushed {
    type System = System;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<System, Error> {
        Groups.open(device)
    }

    fn step(&self, system: &mut System, n: u32) -> Result<(), Error> {
        // A segment written without durability, named by a durable property.
        let pool = &system.pool;
        let segment = match pool.segment_ids().first() {
            Some(id) => pool.open_segment(*id)?,
            None => pool.create_segment(ALLOC_UNIT)?,
        };
        segment.write_at(0, &n.to_le_bytes().repeat(1024))?;
        pool.set_property("steps", &(n + 1).to_le_bytes())
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        let Some(steps) = system.pool.property("steps") else { return 0 };
        let steps = u32::from_le_bytes(steps.try_into().unwrap());
        let id = system.pool.segment_ids()[0];
        let mut page = [0; 4096];
        system.pool.open_segment(id).unwrap().read_at(0, &mut page).unwrap();
        let (words, _) = page.as_chunks::<4>();
        assert!(words.iter().all(|w| u32::from_le_bytes(*w) + 1 == steps), "segment is behind");
        steps
    }
}

#[test]
#[should_panic(expected = "segment is behind")]
fn the_harness_catches_a_write_that_was_not_made_durable() {
    let plan = CrashPlan { steps: 8, seeds: 8, recovery_seeds: 0, device_bytes: DEVICE_BYTES };
    check_every_crash(&Unflushed, plan);
}

/// Ids given out before a crash, committed or not, are not given out after it.
#[test]
fn ids_given_out_before_any_crash_are_not_given_out_after_it() {
    const OBJECTS: u32 = 6;
    let run = |device: &SimDevice| -> Vec<MblockId> {
        let mut given = Vec::new();
        let Ok(pool) = open(device) else { return given };
        for n in 0..OBJECTS {
            let Ok(writer) = write(&pool, n, 4096) else { return given };
            given.push(writer.id());
            if n % 2 == 0 && pool.commit(vec![writer], &[]).is_err() {
                return given;
            }
        }
        given
    };
    let probe = SimDevice::new(DEVICE_BYTES);
    run(&probe);
    for call in 0..probe.calls() {
        for seed in 0..4 {
            let device = SimDevice::new(DEVICE_BYTES);
            device.cut_at(call);
            let given = run(&device);
            let pool = open(&device.after_crash(seed)).unwrap();
            let fresh = pool.allocate(1, Priority::Flush).unwrap().id();
            assert!(!given.contains(&fresh), "CRASH={call}:{seed}: {fresh} is given out again");
        }
    }
}
