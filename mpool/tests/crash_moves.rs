//! Objects move down from the end of a volume with the power cut at every call: beside readers that
//! hold the places they have left, while another volume is emptied and others are deleted, and in a
//! volume that is full again and again. Whatever a handle is of, it reads what was written.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Device, Error, IO_ALIGN, IoBackend, IoBuf, Mblock, MblockId, MediaClass, Options, Placement,
    Pool, Priority, ReturnOptions, VolumeId,
};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::{collections::VecDeque, sync::Arc};

const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 2,
        background: false,
        grow_step_bytes: MIB,
        reserve_bytes: Some(0),
        returning: Some(ReturnOptions { after_s: 0, ..ReturnOptions::default() }),
        ..Options::default()
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

/// Every word of an object tells whose it is.
fn content(id: MblockId, len: u64) -> Vec<u8> {
    let word = id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    word.iter().copied().cycle().take(usize::try_from(len).unwrap()).collect()
}

fn write(pool: &Arc<Pool>, class: MediaClass, len: u64) -> mpool::Result<mpool::MblockWriter> {
    let mut writer = pool.allocate(len, Placement { class, ..Priority::Flush.into() })?;
    writer.append(&content(writer.id(), len))?;
    Ok(writer)
}

/// Reads an object where this handle finds it. The power may be off.
fn check(mblock: &Mblock) -> mpool::Result<()> {
    let len = mblock.len_bytes();
    let wanted = content(mblock.id(), len);
    let mut buf = IoBuf::zeroed(wanted.len().next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf)?;
    assert!(buf[..wanted.len()] == wanted[..], "{mblock:?} holds another's bytes");
    Ok(())
}

/// What a step leaves is named in a property, in the order of age.
fn keep(pool: &Pool, step: u32, ids: &[MblockId]) -> mpool::Result<()> {
    let mut value = step.to_le_bytes().to_vec();
    value.extend(ids.iter().flat_map(|id| id.get().to_le_bytes()));
    pool.set_property("kept", &value)
}

/// The last step that ended, and what it left.
fn kept(pool: &Pool) -> (u32, Vec<u64>) {
    let Some(value) = pool.property("kept") else { return (0, Vec::new()) };
    let (step, ids) = value.split_first_chunk().unwrap();
    let ids = ids.as_chunks().0.iter().map(|id| u64::from_le_bytes(*id));
    (u32::from_le_bytes(*step), ids.collect())
}

/// What it did not leave, or what has come since.
fn not_kept(pool: &Pool) -> Vec<MblockId> {
    let (_, kept) = kept(pool);
    let mut ids = pool.mblock_ids();
    ids.retain(|id| !kept.contains(&id.get()));
    ids
}

/// All that is there is whole, and what the last step left is there.
fn found(pool: &Arc<Pool>) -> u32 {
    let (step, kept) = kept(pool);
    let ids = pool.mblock_ids();
    for id in &ids {
        check(&pool.mblock(*id).unwrap()).unwrap();
    }
    for id in kept {
        assert!(ids.iter().any(|there| there.get() == id), "mb-{id:x} of step {step} is gone");
    }
    step
}

/// Each step fills a second volume and the end of the root, behind room that is given back; then
/// the volume is emptied, and between its moves others go down and something is deleted. Readers
/// hold what they once opened for three steps.
struct Beside;

/// Where the root volume begins on the medium; the other one is before that.
const ROOT_AT: u64 = 2 * MIB;
const LENS: [u64; 4] = [70_000, 300_000, 5_000, 140_000];

struct System {
    pool: Arc<Pool>,
    held: VecDeque<Mblock>,
}

impl System {
    fn check_held(&self) -> mpool::Result<()> {
        self.held.iter().try_for_each(check)
    }

    /// Housekeeping; all handles read on.
    fn tidy(&self) -> mpool::Result<()> {
        while self.pool.tidy() {}
        self.check_held()
    }
}

fn staging() -> VolumeId {
    VolumeId::new(1).unwrap()
}

impl Beside {
    fn make(medium: &SimDevice) -> mpool::Result<Arc<Pool>> {
        let root = Arc::new(medium.rest(ROOT_AT));
        let other: Arc<dyn Device> = Arc::new(medium.part(0..ROOT_AT));
        match Pool::open_with(root.clone(), &[(staging(), other)], &options()) {
            Err(Error::Unusable { .. }) => Pool::create(root, &options()),
            outcome => outcome,
        }
    }
}

impl Workload for Beside {
    type System = System;
    type Error = Error;

    fn open(&self, medium: &SimDevice) -> Result<System, Error> {
        let pool = Self::make(medium)?;
        if pool.volumes().len() == 1 {
            let other = Arc::new(medium.part(0..ROOT_AT));
            assert_eq!(pool.add_volume_on(other, MediaClass::Staging)?, staging());
        }
        Ok(System { pool, held: VecDeque::new() })
    }

    fn step(&self, system: &mut System, n: u32) -> Result<(), Error> {
        let pool = Arc::clone(&system.pool);
        pool.cancel_evacuation(staging())?;
        // Of what is there, all but what the last step left goes, one by one while others move.
        let mut gone = not_kept(&pool);
        let room = pool.allocate(6 * MIB, Priority::Flush)?;
        let len = |at: u32| LENS[(n + at) as usize % LENS.len()];
        let mut writers = Vec::new();
        for at in 0..2 {
            writers.push(write(&pool, MediaClass::Capacity, len(at))?);
            writers.push(write(&pool, MediaClass::Staging, len(at + 1))?);
        }
        let new = pool.commit(writers, &[])?;
        let ids: Vec<MblockId> = new.iter().map(Mblock::id).collect();
        drop(room);
        system.held.extend(new);
        pool.tidy();
        let mut outcome = Ok(());
        pool.evacuate_volume(staging(), &mut |_| {
            pool.tidy();
            let dead: Vec<MblockId> = gone.pop().into_iter().collect();
            let deleted = pool.commit(Vec::new(), &dead).map(drop);
            let now = deleted.and_then(|()| system.check_held());
            outcome = std::mem::replace(&mut outcome, Ok(())).and(now);
        })?;
        outcome?;
        pool.commit(Vec::new(), &gone)?;
        system.tidy()?;
        while system.held.len() > 10 {
            drop(system.held.pop_front());
            system.tidy()?;
        }
        keep(&pool, n + 1, &ids)
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        system.check_held().unwrap();
        found(&system.pool)
    }
}

#[test]
fn what_moves_down_beside_readers_evacuation_and_deletes_survives_every_crash() {
    let plan = CrashPlan { steps: 2, seeds: 1, recovery_seeds: 0, device_bytes: 32 << 20 };
    let device = SimDevice::new(plan.device_bytes);
    let mut system = Beside.open(&device).unwrap();
    for n in 0..plan.steps {
        Beside.step(&mut system, n).unwrap();
    }
    let left = system.held.iter().filter(|mblock| mblock.has_moved()).count();
    let moved = metric(&system.pool, "mpool_mblocks_moved_total");
    let cut = metric(&system.pool, "mpool_truncated_bytes_total");
    // Two of each step leave the other volume; the rest go down.
    assert!(left >= 2 && moved > 4 && cut >= 6 * MIB, "{left} {moved} {cut}");
    drop(system);
    check_every_crash(&Beside, plan);
}

/// Each step has an object move down from behind room that is given back, and fills the volume
/// while a reader holds the place that it has left.
struct Full;

impl Workload for Full {
    type System = System;
    type Error = Error;

    fn open(&self, medium: &SimDevice) -> Result<System, Error> {
        let pool = match Pool::open(Arc::new(medium.clone()), &options()) {
            Err(Error::Unusable { .. }) => Pool::create(Arc::new(medium.clone()), &options()),
            outcome => outcome,
        }?;
        Ok(System { pool, held: VecDeque::new() })
    }

    fn step(&self, system: &mut System, n: u32) -> Result<(), Error> {
        let pool = Arc::clone(&system.pool);
        pool.commit(Vec::new(), &not_kept(&pool))?;
        let room = pool.allocate(6 * MIB, Priority::Flush)?;
        let last = write(&pool, MediaClass::Capacity, LENS[n as usize % LENS.len()])?;
        let last = pool.commit(vec![last], &[])?;
        let id = last[0].id();
        system.held.extend(last);
        drop(room);
        system.tidy()?;
        let mut fill = Vec::new();
        let full = loop {
            match write(&pool, MediaClass::Capacity, 2 * MIB) {
                Ok(writer) => fill.push(writer),
                Err(error) => break error,
            }
        };
        if !matches!(full, Error::Full { .. }) {
            return Err(full);
        }
        assert!(fill.len() >= 2, "{} objects find room in step {n}", fill.len());
        let fill = pool.commit(fill, &[])?;
        // Nothing moves where there is no room.
        system.tidy()?;
        fill.iter().try_for_each(check)?;
        system.held.clear();
        drop(fill);
        let mut gone = not_kept(&pool);
        gone.retain(|there| *there != id);
        pool.commit(Vec::new(), &gone)?;
        system.tidy()?;
        keep(&pool, n + 1, &[id])
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        system.check_held().unwrap();
        found(&system.pool)
    }
}

#[test]
fn what_moves_down_in_a_volume_that_is_filled_survives_every_crash() {
    let plan = CrashPlan { steps: 1, seeds: 1, recovery_seeds: 0, device_bytes: 10 << 20 };
    let device = SimDevice::new(plan.device_bytes);
    let mut system = Full.open(&device).unwrap();
    for n in 0..plan.steps {
        Full.step(&mut system, n).unwrap();
        assert_eq!(metric(&system.pool, "mpool_mblocks_moved_total"), u64::from(n + 1));
    }
    drop(system);
    check_every_crash(&Full, plan);
}
