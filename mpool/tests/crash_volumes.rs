//! Volumes come, are emptied and leave, with the power cut at every call to any of them: what was
//! committed is always there, on a volume that the pool has.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Device, Error, IO_ALIGN, IoBackend, IoBuf, MblockId, MediaClass, NewVolume, Options, Placement,
    Pool, Priority, VolumeId, VolumeKind,
};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const OBJECT_BYTES: u64 = 150_000;
/// The root and two volumes beside it, on one medium.
const PARTS: [std::ops::Range<u64>; 3] = [0..4 * MIB, 4 * MIB..6 * MIB, 6 * MIB..8 * MIB];

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 4,
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 * MIB,
        grow_step_bytes: MIB,
        reserve_bytes: Some(0),
        spare_pct: 0,
        background: false,
        ..Options::default()
    }
}

fn content(id: MblockId) -> Vec<u8> {
    let word = (id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
    word.iter().copied().cycle().take(usize::try_from(OBJECT_BYTES).unwrap()).collect()
}

fn put(pool: &Arc<Pool>, class: MediaClass) -> mpool::Result<MblockId> {
    let place = Placement { class, ..Placement::from(Priority::Flush) };
    let mut writer = pool.allocate(OBJECT_BYTES, place)?;
    writer.append(&content(writer.id()))?;
    Ok(pool.commit(vec![writer], &[])?[0].id())
}

fn check(pool: &Arc<Pool>, id: MblockId) {
    let mblock = pool.mblock(id).unwrap();
    let mut buf = IoBuf::zeroed(content(id).len().next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[..content(id).len()] == content(id)[..], "{id} holds another's bytes");
}

fn volume(raw: u16) -> VolumeId {
    VolumeId::new(raw).unwrap()
}

fn device(medium: &SimDevice, part: usize) -> Arc<dyn Device> {
    Arc::new(medium.part(PARTS[part].clone()))
}

struct Coming;

struct System {
    pool: Arc<Pool>,
    medium: SimDevice,
}

impl System {
    /// Whether the pool has a volume of this id, and whether it once had.
    fn has(&self, raw: u16) -> bool {
        self.pool.volumes().iter().any(|v| v.id == volume(raw))
    }
}

/// What each step does. All of them may be taken again after a crash in their middle.
impl Coming {
    fn act(system: &System, n: u32) -> Result<(), Error> {
        let System { pool, medium } = system;
        match n {
            0 => put(pool, MediaClass::Capacity).map(|_| ()),
            // Taken already, before a crash.
            1 if system.has(1) => Ok(()),
            1 => pool.add_volume_on(device(medium, 1), MediaClass::Staging).map(|_| ()),
            2 | 3 => put(pool, MediaClass::Staging).map(|_| ()),
            4 if system.has(2) => Ok(()),
            4 => pool.add_volume_on(device(medium, 2), MediaClass::Capacity).map(|_| ()),
            5 | 6 if !system.has(1) => Ok(()),
            5 => pool.evacuate_volume(volume(1), &mut |_| ()).map(|_| ()),
            6 => pool.remove_volume(volume(1)),
            // The same device comes back, under another id.
            7 if system.has(3) => Ok(()),
            7 => pool.add_volume_on(device(medium, 1), MediaClass::Staging).map(|_| ()),
            // The harness goes on after a recovery.
            _ => put(pool, MediaClass::Staging).map(|_| ()),
        }
    }
}

impl Workload for Coming {
    type System = System;
    type Error = Error;

    fn open(&self, medium: &SimDevice) -> Result<System, Error> {
        // Devices are found by whoever opens the pool; which of them it names is its own business.
        let others = [
            (volume(1), device(medium, 1)),
            (volume(2), device(medium, 2)),
            (volume(3), device(medium, 1)),
        ];
        let medium = medium.clone();
        match Pool::open_with(device(&medium, 0), &others, &options()) {
            Err(Error::Unusable { .. }) => {
                Ok(System { pool: Pool::create(device(&medium, 0), &options())?, medium })
            }
            outcome => Ok(System { pool: outcome?, medium }),
        }
    }

    fn step(&self, system: &mut System, n: u32) -> Result<(), Error> {
        Self::act(system, n)?;
        system.pool.set_property("steps", &(n + 1).to_le_bytes())
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        let pool = &system.pool;
        let ids = pool.mblock_ids();
        for id in &ids {
            check(pool, *id);
        }
        let steps = pool.property("steps").map_or(0, |v| u32::from_le_bytes(v.try_into().unwrap()));
        let at = usize::try_from(steps).unwrap();
        let objects = [0, 1, 1, 2, 3, 3, 3, 3, 3].get(at).copied().unwrap_or_else(|| at - 5);
        assert!(ids.len() >= objects, "{} objects after {steps} steps", ids.len());
        let volumes: Vec<u16> = pool.volumes().iter().map(|v| v.id.get()).collect();
        // What the steps say, or the one in flight has done already.
        let expected: &[&[u16]] = match steps {
            0 => &[&[0]],
            1 => &[&[0], &[0, 1]],
            2 | 3 => &[&[0, 1]],
            4 => &[&[0, 1], &[0, 1, 2]],
            5 => &[&[0, 1, 2]],
            6 => &[&[0, 1, 2], &[0, 2]],
            7 => &[&[0, 2], &[0, 2, 3]],
            _ => &[&[0, 2, 3]],
        };
        assert!(expected.contains(&&volumes[..]), "{volumes:?} after {steps} steps");
        steps
    }
}

#[test]
fn every_crash_point_of_volumes_that_come_and_go() {
    let plan = CrashPlan { steps: 9, seeds: 3, recovery_seeds: 1, device_bytes: 8 * MIB };
    let tried = check_every_crash(&Coming, plan);
    assert!(tried > 150, "{tried} crashes tried");
}

fn file(path: &str, class: MediaClass) -> NewVolume {
    NewVolume {
        path: path.into(),
        kind: VolumeKind::File,
        class,
        capacity_bytes_max: 8 * MIB,
        force: false,
    }
}

#[test]
fn a_second_file_takes_what_prefers_its_class_and_can_be_emptied_again() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    let old = put(&pool, MediaClass::Staging).unwrap();
    assert_eq!(pool.mblock(old).unwrap().volume(), VolumeId::ROOT, "there is no other");
    let id = pool.add_volume(&file("fast.vol", MediaClass::Staging)).unwrap();
    let twice = pool.add_volume(&file("fast.vol", MediaClass::Staging)).unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    let new: Vec<MblockId> = (0..10).map(|_| put(&pool, MediaClass::Staging).unwrap()).collect();
    assert!(new.iter().all(|n| pool.mblock(*n).unwrap().volume() == id));
    let info = pool.volumes();
    assert_eq!((info.len(), info[1].mblocks, info[1].class), (2, 10, MediaClass::Staging));
    drop(pool);

    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    for id in &new {
        check(&pool, *id);
    }
    let early = pool.remove_volume(id).unwrap_err();
    assert!(early.to_string().contains("evacuate it"), "{early}");
    let held = pool.mblock(new[0]).unwrap();
    let done = pool.evacuate_volume(id, &mut |_| ()).unwrap();
    assert_eq!((done.moved, done.left.len(), done.failed.len()), (10, 0, 0));
    assert!(held.has_moved());
    let busy = pool.remove_volume(id).unwrap_err();
    assert!(busy.to_string().contains("in use"), "{busy}");
    drop(held);
    pool.remove_volume(id).unwrap();
    for id in &new {
        check(&pool, *id);
    }
    drop(pool);
    std::fs::remove_file(dir.path().join("fast.vol")).unwrap();
    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    for id in &new {
        check(&pool, *id);
    }
    assert!(pool.remove_volume(VolumeId::ROOT).unwrap_err().to_string().contains("superblock"));
}

#[test]
fn a_missing_or_foreign_volume_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    pool.add_volume(&file("more.vol", MediaClass::Capacity)).unwrap();
    drop(pool);
    let path = dir.path().join("more.vol");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let missing = Pool::open_dir(dir.path(), &options()).map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("more.vol"), "{missing}");
    std::fs::write(&path, vec![0; bytes.len()]).unwrap();
    let foreign = Pool::open_dir(dir.path(), &options()).map(|_| ()).unwrap_err().to_string();
    assert!(foreign.contains("vol-1"), "{foreign}");
    std::fs::write(&path, &bytes).unwrap();
    Pool::open_dir(dir.path(), &options()).unwrap();

    // Another pool does not take it without being told to.
    let other = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(other.path(), &options()).unwrap();
    let stolen = NewVolume { path: path.clone(), ..file("x", MediaClass::Capacity) };
    let refused = pool.add_volume(&stolen).unwrap_err().to_string();
    assert!(refused.contains("belongs to another pool"), "{refused}");
    pool.add_volume(&NewVolume { force: true, ..stolen }).unwrap();
}

#[test]
fn a_volume_grows_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    let small = NewVolume { capacity_bytes_max: MIB, ..file("small.vol", MediaClass::Staging) };
    let id = pool.add_volume(&small).unwrap();
    let on_it = |pool: &Arc<Pool>| {
        let ids = (0..20).map(|_| put(pool, MediaClass::Staging).unwrap()).collect::<Vec<_>>();
        ids.iter().filter(|n| pool.mblock(**n).unwrap().volume() == id).count()
    };
    assert!(on_it(&pool) < 8, "the rest went to the root");
    assert!(pool.grow_volume(id, 1).unwrap_err().to_string().contains("do not shrink"));
    pool.grow_volume(id, 16 * MIB).unwrap();
    assert_eq!(on_it(&pool), 20);
    drop(pool);
    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    assert_eq!(pool.volumes()[1].capacity_bytes, 16 * MIB, "the new limit is remembered");
    for id in pool.mblock_ids() {
        check(&pool, id);
    }
}

#[test]
fn an_evacuation_goes_on_after_a_failure_and_can_be_called_off() {
    let medium = SimDevice::new(8 * MIB);
    let pool = Pool::create(device(&medium, 0), &options()).unwrap();
    let id = pool.add_volume_on(device(&medium, 1), MediaClass::Staging).unwrap();
    let ids: Vec<MblockId> = (0..5).map(|_| put(&pool, MediaClass::Staging).unwrap()).collect();
    // One bit of the second object has rotted: its copy is not committed, the others move.
    let victim = pool.mblock(ids[1]).unwrap();
    let mut page = IoBuf::zeroed(IO_ALIGN);
    let wanted = content(ids[1])[..IO_ALIGN].to_vec();
    let at = (PARTS[1].start..PARTS[1].end).step_by(IO_ALIGN).find(|at| {
        medium.read_at(*at, &mut page).unwrap();
        page[..] == wanted[..]
    });
    medium.flip_bit(at.unwrap() + 77, 3);
    drop(victim);
    let done = pool.evacuate_volume(id, &mut |_| ()).unwrap();
    assert_eq!((done.moved, done.failed.len()), (4, 1));
    assert_eq!(done.failed[0].0, ids[1]);
    assert!(done.failed[0].1.contains("checksums"), "{:?}", done.failed);
    assert!(pool.remove_volume(id).is_err(), "the damaged object is still there");
    pool.cancel_evacuation(id).unwrap();
    assert_eq!(pool.mblock(put(&pool, MediaClass::Staging).unwrap()).unwrap().volume(), id);
}
