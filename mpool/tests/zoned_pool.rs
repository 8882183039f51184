//! A pool on a real zoned drive: `cargo xtask zns pool` runs this in a virtual machine.
//!
//! On an `NVMe` drive with zones alone the root volume is a conventional namespace beside it; on a
//! drive with conventional zones it is the drive itself. Several threads fill the drive, so that
//! every zone is used but the one that is kept for moving; all of it is deleted, and housekeeping
//! resets the zones; objects then come and go, and the drive is filled again, so that every zone is
//! used more than once. Objects are read directly and through maps, and found again when the pool
//! is opened anew. On `NVMe` the machine then crashes while threads write (exit code 75), and after
//! the reboot everything acknowledged must be there: the count of it is on the last block of the
//! conventional drive.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Class, Error, IO_ALIGN, IoBuf, Lifetime, MblockId, MediaClass, NewRoot, NewVolume, Options,
    Placement, Pool, Priority, VolumeInfo, VolumeKind,
};
use mpool_sim::Seeded;
use std::{
    env,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const THREADS: u64 = 4;
/// Zones that may be partly filled: one for each expected lifetime, and one for what is moved.
const STREAMS: u32 = 4;
const OBJECT_BYTES_MAX: u64 = 24 << 20;
/// Steps before the crash.
const STEPS: u64 = 25;

/// What the virtual machine offers.
struct Machine {
    drive: PathBuf,
    conventional: PathBuf,
    phase: u32,
}

impl Machine {
    fn find() -> Option<Self> {
        let path = |name| env::var_os(name).map(PathBuf::from);
        Some(Self {
            drive: path("MILLPOND_ZNS_DEV")?,
            conventional: path("MILLPOND_ZNS_CONV")?,
            phase: env::var("MILLPOND_ZNS_PHASE").ok()?.parse().ok()?,
        })
    }

    /// A drive in the machine's memory loses everything with it.
    fn survives_a_crash(&self) -> bool {
        !self.drive.to_string_lossy().contains("nullb")
    }
}

#[expect(clippy::print_stderr, reason = "whoever reads the machine's output sees how far it came")]
fn say(what: &str) {
    eprintln!("{what}");
}

fn options() -> Options {
    Options { reserve_bytes: Some(0), spare_pct: 0, ..Options::default() }
}

/// A pool whose objects go to the drive's zones.
fn create(machine: &Machine, dir: &Path) -> Arc<Pool> {
    let root = |device: &Path| NewRoot { device: device.to_owned(), force: true };
    if !machine.survives_a_crash() {
        return Pool::create_on_block(dir, &root(&machine.drive), &options()).unwrap();
    }
    let pool = Pool::create_on_block(dir, &root(&machine.conventional), &options()).unwrap();
    let zones = NewVolume {
        path: machine.drive.clone(),
        kind: VolumeKind::Zoned,
        class: MediaClass::Staging,
        capacity_bytes_max: 0,
        force: true,
    };
    pool.add_volume(&zones).unwrap();
    pool
}

fn open(machine: &Machine, dir: &Path) -> Arc<Pool> {
    let root = if machine.survives_a_crash() { &machine.conventional } else { &machine.drive };
    let link = dir.join("capacity.vol");
    if !link.exists() {
        std::os::unix::fs::symlink(root, link).unwrap();
    }
    Pool::open_dir(dir, &options()).unwrap()
}

fn content(id: MblockId, len: u64) -> Vec<u8> {
    let word = (id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
    word.iter().copied().cycle().take(usize::try_from(len).unwrap()).collect()
}

fn put(pool: &Arc<Pool>, len: u64, lifetime: Lifetime) -> mpool::Result<MblockId> {
    let place =
        Placement { class: MediaClass::Staging, lifetime, ..Placement::from(Priority::Flush) };
    let mut writer = pool.allocate(len, place)?;
    let bytes = content(writer.id(), len);
    writer.append(&bytes)?;
    Ok(pool.commit(vec![writer], &[])?[0].id())
}

/// Reads an object directly and through a map.
fn check(pool: &Arc<Pool>, id: MblockId) {
    let mblock = pool.mblock(id).unwrap();
    let len = mblock.len_bytes();
    let expected = content(id, len);
    let mut buf = IoBuf::zeroed(usize::try_from(len).unwrap().next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[..expected.len()] == expected[..], "{id} holds another's bytes");
    let map = pool.map(&[mblock], Class::Warm).unwrap();
    map.preload().unwrap();
    let mut scratch = IoBuf::zeroed(IO_ALIGN);
    for at in (0..len.saturating_sub(5000)).step_by(150_001) {
        let seen = map.read(0, at..at + 5000, &mut scratch).unwrap();
        let at = usize::try_from(at).unwrap();
        assert!(seen == &expected[at..at + 5000], "{id} at {at} through its map");
    }
}

fn check_all(pool: &Arc<Pool>, ids: &[MblockId]) {
    for id in ids {
        check(pool, *id);
    }
}

fn put_in_zones(pool: &Arc<Pool>, len: u64, lifetime: Lifetime) -> Option<MblockId> {
    let id = match put(pool, len, lifetime) {
        Ok(id) => id,
        Err(Error::Full { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    // Where the zones are full, the root takes it; that is not what is to be seen here.
    if pool.mblock(id).unwrap().volume() != zoned(pool).id {
        pool.commit(vec![], &[id]).unwrap();
        return None;
    }
    Some(id)
}

/// Writes until the zones take no more; returns what was written.
fn fill(pool: &Arc<Pool>) -> Vec<MblockId> {
    let large = |seed| {
        let (mut random, mut own) = (Seeded::new(seed), Vec::new());
        let lifetimes = [Lifetime::Short, Lifetime::Medium, Lifetime::Long];
        while let Some(id) =
            put_in_zones(pool, 1 + random.below(OBJECT_BYTES_MAX), lifetimes[own.len() % 3])
        {
            own.push(id);
        }
        own
    };
    let mut all: Vec<MblockId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(move || large(t))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("no thread failed")).collect()
    });
    while let Some(id) = put_in_zones(pool, 1 << 20, Lifetime::Medium) {
        all.push(id);
    }
    let (zones, whole) = zoned(pool).zones.unwrap();
    say(&format!("{} objects fill the drive: {whole} of {zones} zones are whole", all.len()));
    assert!(whole <= 1, "only the zone that is kept for moving is not in use");
    all
}

/// Writes, reads and deletes until a part of what the drive holds has been written.
fn churn(pool: &Arc<Pool>, seed: u64) -> Vec<MblockId> {
    let mut random = Seeded::new(seed);
    let (mut own, mut written) = (Vec::new(), 0);
    while written < zoned(pool).capacity_bytes / THREADS {
        let len = 1 + random.below(OBJECT_BYTES_MAX);
        let lifetime = if random.coin() { Lifetime::Short } else { Lifetime::Long };
        match put(pool, len, lifetime) {
            Ok(id) => {
                own.push(id);
                written += len;
                check(pool, id);
            }
            Err(Error::Full { .. }) if !own.is_empty() => {
                pool.commit(vec![], &[own.remove(0)]).unwrap();
            }
            Err(Error::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("seed {seed}: {error}"),
        }
        while own.len() > 8 {
            let at = usize::try_from(random.below(own.len() as u64)).unwrap();
            pool.commit(vec![], &[own.swap_remove(at)]).unwrap();
        }
    }
    own
}

/// The volume with the zones.
fn zoned(pool: &Pool) -> VolumeInfo {
    pool.volumes().pop().unwrap()
}

fn resets(pool: &Arc<Pool>) -> u64 {
    let mut found = 0;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == "mpool_zones_reset_total" {
            found = value;
        }
    });
    found
}

fn churn_and_reopen(machine: &Machine, dir: &Path) {
    let pool = create(machine, dir);
    let volume = zoned(&pool);
    say(&format!("pool on {}: {volume:?}", machine.drive.display()));
    let (_, whole) = volume.zones.unwrap();
    let all = fill(&pool);
    check_all(&pool, &all);
    pool.commit(vec![], &all).unwrap();
    // Housekeeping does it beside us. Zones that are partly filled are reset when they are needed.
    while resets(&pool) < u64::from(whole - 1 - STREAMS) {
        std::thread::yield_now();
    }
    let mut kept: Vec<MblockId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn({
                    let pool = &pool;
                    move || churn(pool, t)
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("no thread failed")).collect()
    });
    kept.extend(fill(&pool));
    say(&format!("zones were reset {} times", resets(&pool)));
    assert!(resets(&pool) >= u64::from(whole), "a drive is not written twice without resets");
    check_all(&pool, &kept);
    drop(pool);
    let pool = open(machine, dir);
    check_all(&pool, &kept);
    pool.commit(vec![], &kept).unwrap();
}

/// The last block of the conventional drive: how many steps have been acknowledged.
fn acknowledged(machine: &Machine) -> (File, u64) {
    let file = OpenOptions::new().read(true).write(true).open(&machine.conventional).unwrap();
    (file, (1 << 30) - 4096)
}

/// Steps until the machine goes down, with threads that write beside them.
fn crash(machine: &Machine, dir: &Path) {
    let pool = open(machine, dir);
    let (file, at) = acknowledged(machine);
    std::thread::scope(|scope| {
        for t in 0..2 {
            let pool = &pool;
            scope.spawn(move || churn(pool, 100 + t));
        }
        for step in 0..STEPS {
            let id = put(&pool, 1 + step * 300_000, Lifetime::Medium).unwrap();
            pool.set_property(&format!("step-{step}"), &id.get().to_le_bytes()).unwrap();
            file.write_all_at(&(step + 1).to_le_bytes(), at).unwrap();
            file.sync_all().unwrap();
        }
        #[expect(clippy::exit, reason = "the virtual machine takes 75 for: crash now")]
        std::process::exit(75);
    });
}

fn after_the_crash(machine: &Machine, dir: &Path) {
    let (file, at) = acknowledged(machine);
    let mut count = [0; 8];
    file.read_exact_at(&mut count, at).unwrap();
    assert_eq!(u64::from_le_bytes(count), STEPS, "the machine came to its crash");
    let pool = open(machine, dir);
    for step in 0..STEPS {
        let value = pool.property(&format!("step-{step}")).expect("acknowledged");
        let id = MblockId::new(u64::from_le_bytes(value.try_into().unwrap())).unwrap();
        check(&pool, id);
    }
    let ids = pool.mblock_ids();
    say(&format!("{} objects after the crash", ids.len()));
    check_all(&pool, &ids);
    churn(&pool, 7);
}

#[test]
fn a_pool_on_a_zoned_drive_keeps_what_it_acknowledged() {
    let Some(machine) = Machine::find() else {
        say("skipped: needs a zoned drive (cargo xtask zns pool)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    if machine.phase == 1 {
        churn_and_reopen(&machine, dir.path());
        if machine.survives_a_crash() {
            crash(&machine, dir.path());
        }
    } else {
        after_the_crash(&machine, dir.path());
    }
}
