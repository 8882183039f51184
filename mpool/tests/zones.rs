//! A pool on a drive of zones: logs in its conventional zones, objects in the others, which are
//! filled by appends in any order, die whole or are cleared, are reset and used again; at every
//! crash point.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Device, Error, IO_ALIGN, IoBackend, IoBuf, Lifetime, MblockId, Options, Placement, Pool,
    Priority, ZoneCondition, ZoneLimits, Zoned,
};
use mpool_sim::{
    Seeded, SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::{collections::BTreeMap, sync::Arc};

const ZONE: u64 = 256 << 10;
/// Fewer bytes than a zone spans, and no round number of appends.
const CAPACITY: u64 = 192 << 10;
const CONVENTIONAL: u32 = 8;

fn limits(zones: u32) -> ZoneLimits {
    ZoneLimits {
        zones,
        zone_bytes: ZONE,
        conventional_zones: CONVENTIONAL,
        open_max: 4,
        active_max: 5,
        append_bytes_max: 20 << 10,
        block_bytes: 4096,
    }
}

fn drive(zones: u32) -> SimDevice {
    SimDevice::zoned_with_capacity(limits(zones), CAPACITY)
}

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 4,
        capacity_bytes_max: 64 << 20,
        reserve_bytes: Some(0),
        spare_pct: 0,
        background: false,
        ..Options::default()
    }
}

fn content(id: MblockId, len: u64) -> Vec<u8> {
    let word = (id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
    word.iter().copied().cycle().take(usize::try_from(len).unwrap()).collect()
}

fn placement(lifetime: Lifetime) -> Placement {
    Placement { lifetime, ..Placement::from(Priority::Flush) }
}

fn put(pool: &Arc<Pool>, len: u64, lifetime: Lifetime) -> mpool::Result<MblockId> {
    let mut writer = pool.allocate(len, placement(lifetime))?;
    let bytes = content(writer.id(), len);
    for piece in bytes.chunks(30_000) {
        writer.append(piece)?;
    }
    Ok(pool.commit(vec![writer], &[])?[0].id())
}

fn check(pool: &Arc<Pool>, id: MblockId) {
    let mblock = pool.mblock(id).unwrap();
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[..len] == content(id, mblock.len_bytes())[..], "{id} holds another's bytes");
}

fn tidy_all(pool: &Arc<Pool>) {
    while pool.tidy() {}
}

#[test]
fn objects_survive_permuted_appends_resets_and_a_reopen() {
    for seed in 0..6 {
        let device = drive(24);
        let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
        let mut random = Seeded::new(seed);
        let mut live: Vec<MblockId> = Vec::new();
        for round in 0..120 {
            let lifetimes = [Lifetime::Short, Lifetime::Medium, Lifetime::Long];
            let lifetime = lifetimes[usize::try_from(random.below(3)).unwrap()];
            match put(&pool, 1 + random.below(300_000), lifetime) {
                Ok(id) => live.push(id),
                Err(Error::Full { .. }) => {
                    let id = live.remove(0);
                    pool.commit(vec![], &[id]).unwrap();
                }
                Err(error) => panic!("seed {seed} round {round}: {error}"),
            }
            if random.below(2) == 0 && !live.is_empty() {
                let at = usize::try_from(random.below(live.len() as u64)).unwrap();
                pool.commit(vec![], &[live.swap_remove(at)]).unwrap();
            }
            if random.below(4) == 0 {
                tidy_all(&pool);
            }
        }
        for id in &live {
            check(&pool, *id);
        }
        drop(pool);
        let again = Pool::open(Arc::new(device.after_crash(seed)), &options()).unwrap();
        let mut ids = live.clone();
        ids.sort_unstable();
        assert_eq!(again.mblock_ids(), ids, "seed {seed}");
        for id in &live {
            check(&again, *id);
        }
        // Everything dies: everything can be written again.
        again.commit(vec![], &live).unwrap();
        tidy_all(&again);
        let volume = again.volumes().remove(0);
        let (zones, whole) = volume.zones.unwrap();
        assert!(whole + 4 >= zones - CONVENTIONAL, "seed {seed}: {whole} of {zones} are whole");
    }
}

#[test]
fn many_threads_append_to_the_same_zones() {
    let device = drive(64);
    let options = Options { background: true, ..options() };
    let pool = Pool::create(Arc::new(device.clone()), &options).unwrap();
    let all: Vec<MblockId> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let pool = &pool;
            move || {
                let mut random = Seeded::new(thread);
                let mut own: Vec<MblockId> = Vec::new();
                for _ in 0..60 {
                    match put(pool, 1 + random.below(200_000), Lifetime::Medium) {
                        Ok(id) => own.push(id),
                        Err(Error::Full { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                    for id in &own {
                        check(pool, *id);
                    }
                    while own.len() > 6 {
                        pool.commit(vec![], &[own.remove(0)]).unwrap();
                    }
                }
                own
            }
        };
        let threads: Vec<_> = (0..4).map(|t| scope.spawn(work(t))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("no thread failed")).collect()
    });
    for id in &all {
        check(&pool, *id);
    }
    drop(pool);
    let again = Pool::open(Arc::new(device.after_crash(1)), &options).unwrap();
    for id in &all {
        check(&again, *id);
    }
}

/// Long-lived objects among short-lived ones pin zones that are mostly dead.
#[test]
fn mostly_dead_zones_are_cleared_while_readers_go_on() {
    let device = drive(CONVENTIONAL + 12);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let mut keep = Vec::new();
    let mut doomed = Vec::new();
    // One zone holds five of these; one of five stays.
    while let Ok(id) = put(&pool, 30_000, Lifetime::Medium) {
        if keep.len() * 5 <= doomed.len() { keep.push(id) } else { doomed.push(id) }
    }
    assert!(keep.len() >= 8, "{} zones", keep.len());
    let held: Vec<_> = keep.iter().map(|id| pool.mblock(*id).unwrap()).collect();
    pool.commit(vec![], &doomed).unwrap();
    tidy_all(&pool);
    let moved = held.iter().filter(|mblock| mblock.has_moved()).count();
    assert!(moved >= 2, "{moved} of {} have moved", held.len());
    for id in &keep {
        check(&pool, *id);
    }
    // The old handles read on, and keep their zones from being reset.
    for mblock in &held {
        let mut buf = IoBuf::zeroed(32_768);
        mblock.read_at(0, &mut buf).unwrap();
        assert!(buf[..30_000] == content(mblock.id(), 30_000)[..]);
    }
    let whole = |pool: &Arc<Pool>| pool.volumes()[0].zones.unwrap().1;
    let before = whole(&pool);
    drop(held);
    tidy_all(&pool);
    assert!(whole(&pool) > before, "{before} zones were whole, now {}", whole(&pool));
    drop(pool);
    let again = Pool::open(Arc::new(device.after_crash(3)), &options()).unwrap();
    assert_eq!(again.mblock_ids().len(), keep.len());
    for id in &keep {
        check(&again, *id);
    }
}

#[test]
fn a_zone_that_wears_out_is_read_and_not_written() {
    let device = drive(CONVENTIONAL + 10);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let id = put(&pool, 100_000, Lifetime::Short).unwrap();
    let capacity = pool.info().capacity_bytes_max;
    drop(pool);
    let used = (CONVENTIONAL..CONVENTIONAL + 10)
        .find(|zone| device.report(*zone, 1).unwrap()[0].written > 0)
        .unwrap();
    device.wear_zone(used, ZoneCondition::ReadOnly);
    device.wear_zone(CONVENTIONAL + 9, ZoneCondition::Offline);
    let pool = Pool::open(Arc::new(device.clone()), &options()).unwrap();
    check(&pool, id);
    assert_eq!(pool.info().capacity_bytes_max, capacity - 2 * CAPACITY);
    assert_eq!(metric(&pool, "mpool_zones_worn"), 2);
    assert_eq!(metric(&pool, "mpool_zones_whole"), 8);
    for _ in 0..3 {
        let other = put(&pool, 150_000, Lifetime::Short).unwrap();
        check(&pool, other);
    }
    pool.commit(vec![], &[id]).unwrap();
    tidy_all(&pool);
    assert!(device.report(used, 1).unwrap()[0].condition == ZoneCondition::ReadOnly);
}

fn metric(pool: &Pool, wanted: &str) -> u64 {
    let mut found = None;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap()
}

/// Logs can go nowhere else than to the root, so objects do not take its room.
#[test]
fn objects_go_to_zones_though_the_root_has_more_room() {
    let zones = ZoneLimits { conventional_zones: 0, ..limits(16) };
    let pool = Pool::create(Arc::new(SimDevice::new(64 << 20)), &options()).unwrap();
    let class = mpool::MediaClass::Capacity;
    let id = pool.add_volume_on(Arc::new(SimDevice::zoned(zones)), class).unwrap();
    assert_eq!(pool.volumes()[1].zones, Some((15, 15)), "one holds the label");
    let mut volumes = Vec::new();
    while let Ok(mblock) = put(&pool, 200_000, Lifetime::Medium).and_then(|id| pool.mblock(id)) {
        volumes.push(mblock.volume());
    }
    let in_zones = volumes.iter().take_while(|volume| **volume == id).count();
    assert!(in_zones > 10, "the zones are filled first: {volumes:?}");
    assert!(volumes.len() > in_zones, "then the root serves: {volumes:?}");
    assert!(!volumes[in_zones..].contains(&id), "{volumes:?}");
}

#[test]
fn a_drive_of_sequential_zones_alone_cannot_be_the_root_and_says_so() {
    let device = SimDevice::zoned(ZoneLimits { conventional_zones: 0, ..limits(16) });
    let refused = Pool::create(Arc::new(device.clone()), &options()).map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("is added to it"));
    // But it can be added to a pool elsewhere.
    let root = SimDevice::new(16 << 20);
    let pool = Pool::create(Arc::new(root.clone()), &options()).unwrap();
    let class = mpool::MediaClass::Staging;
    let id = pool.add_volume_on(Arc::new(device.clone()), class).unwrap();
    let place = Placement { class, ..placement(Lifetime::Short) };
    let mut writer = pool.allocate(100_000, place).unwrap();
    writer.append(&content(writer.id(), 100_000)).unwrap();
    let mblock = pool.commit(vec![writer], &[]).unwrap().remove(0);
    assert_eq!(mblock.volume(), id);
    drop(pool);
    let others: [(_, Arc<dyn Device>); 1] = [(id, Arc::new(device))];
    let pool = Pool::open_with(Arc::new(root), &others, &options()).unwrap();
    check(&pool, mblock.id());
}

/// The same in a file: what a user without such a drive tries it with, and maps over its objects.
#[test]
fn a_file_that_behaves_as_a_zoned_drive_holds_objects_and_maps() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { allow_buffered: true, allow_volatile: true, ..options() };
    let options = Options { grow_step_bytes: 1 << 20, ..options };
    let pool = Pool::open_or_create(dir.path(), &options).unwrap();
    let new = mpool::NewVolume {
        path: "zones.vol".into(),
        kind: mpool::VolumeKind::EmulatedZoned,
        class: mpool::MediaClass::Staging,
        capacity_bytes_max: 32 << 20,
        force: false,
    };
    let volume = pool.add_volume(&new).unwrap();
    let place = Placement { class: new.class, ..placement(Lifetime::Long) };
    let mut ids = Vec::new();
    for _ in 0..40 {
        let mut writer = pool.allocate(3_000_000, place).unwrap();
        let bytes = content(writer.id(), 3_000_000);
        writer.append(&bytes).unwrap();
        let mblock = pool.commit(vec![writer], &[]).unwrap().remove(0);
        assert_eq!(mblock.volume(), volume);
        let map = pool.map(&[mblock], mpool::Class::Warm).unwrap();
        map.preload().unwrap();
        let mut scratch = IoBuf::zeroed(IO_ALIGN);
        for at in (0..2_990_000).step_by(70_001) {
            let seen = map.read(0, at..at + 5000, &mut scratch).unwrap();
            let at = usize::try_from(at).unwrap();
            assert!(seen == &bytes[at..at + 5000], "mapped bytes at {at}");
        }
        ids.push(map.mblock(0).id());
        drop(map);
        if ids.len() > 5 {
            pool.commit(vec![], &[ids.remove(0)]).unwrap();
        }
    }
    drop(pool);
    let pool = Pool::open_dir(dir.path(), &options).unwrap();
    for id in &ids {
        check(&pool, *id);
    }
}

/// Step `n` writes object `n`, deletes object `n - 4`, and tidies: zones are reset and cleared.
struct Churn;

impl Workload for Churn {
    type System = Arc<Pool>;
    type Error = Error;

    fn medium(&self, _plan: CrashPlan) -> SimDevice {
        drive(CONVENTIONAL + 8)
    }

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        match Pool::open(Arc::new(device.clone()), &options()) {
            Err(Error::Unusable { .. }) => Pool::create(Arc::new(device.clone()), &options()),
            outcome => outcome,
        }
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let named = |n: u32| {
            let value = pool.property(&format!("object-{n}"))?;
            MblockId::new(u64::from_le_bytes(value.try_into().unwrap()))
        };
        let id = put(pool, 90_000, Lifetime::Medium)?;
        pool.set_property(&format!("object-{n}"), &id.get().to_le_bytes())?;
        // Every third one stays, so that zones have to be cleared.
        let old = n.checked_sub(4).filter(|n| n % 3 != 0).and_then(named);
        if let Some(id) = old.filter(|id| pool.mblock(*id).is_ok()) {
            pool.commit(vec![], &[id])?;
        }
        tidy_all(pool);
        pool.set_property("steps", &(n + 1).to_le_bytes())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        for id in pool.mblock_ids() {
            check(pool, id);
        }
        let steps = pool.property("steps").map_or(0, |v| u32::from_le_bytes(v.try_into().unwrap()));
        let mut named = BTreeMap::new();
        for n in 0..steps {
            let value = pool.property(&format!("object-{n}")).expect("named before the step ended");
            named.insert(n, MblockId::new(u64::from_le_bytes(value.try_into().unwrap())).unwrap());
        }
        for (n, id) in named {
            // The step in flight may have deleted its object already.
            let deleted = n % 3 != 0 && n + 4 <= steps;
            assert!(deleted || pool.mblock(id).is_ok(), "object {n} of {steps} steps is lost");
        }
        steps
    }
}

#[test]
fn every_crash_point_of_a_churning_zoned_pool() {
    let plan = CrashPlan { steps: 12, seeds: 2, recovery_seeds: 0, device_bytes: 0 };
    let tried = check_every_crash(&Churn, plan);
    assert!(tried > 300, "{tried} crashes tried");
}
