//! Features: a pool says what it uses before it uses it, at every crash point; a program that does
//! not know a feature refuses by name what it must, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, CheckOptions, Device, Error, Features, IO_ALIGN, IoBackend, IoBuf, MblockId,
    MediaClass, Options, Placement, Pool, Priority, Severity, VolumeId,
};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
    image,
};
use std::{ops::Range, sync::Arc};

const MIB: u64 = 1 << 20;
/// The root and a volume beside it, on one medium.
const ROOT: Range<u64> = 0..6 * MIB;
const SECOND: Range<u64> = 6 * MIB..8 * MIB;
const SUPERBLOCK_BYTES: usize = 512;
/// Where the superblock has its words of features, and who added the last of them.
const COMPAT: usize = 16;
const RO_COMPAT: usize = 24;
const INCOMPAT: usize = 32;
const PROGRAM: Range<usize> = 96..112;
const ALL: u64 = 15;
/// What a check says of a pool that uses what it does not name.
const UNNAMED: &str = "which the superblock does not name";

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 2,
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

fn second() -> VolumeId {
    VolumeId::new(1).unwrap()
}

fn part(medium: &SimDevice, range: Range<u64>) -> Arc<dyn Device> {
    Arc::new(medium.part(range))
}

fn others(medium: &SimDevice) -> [(VolumeId, Arc<dyn Device>); 1] {
    [(second(), part(medium, SECOND))]
}

fn open(medium: &SimDevice) -> Result<Arc<Pool>, Error> {
    Pool::open_with(part(medium, ROOT), &others(medium), &options())
}

/// What a check says of it, if it can be read.
fn issues(medium: &SimDevice) -> Result<Vec<(Severity, String)>, Error> {
    let how = CheckOptions { data: true };
    let report = Pool::check_on(part(medium, ROOT), &others(medium), how)?;
    Ok(report.issues.iter().map(|issue| (issue.severity, issue.to_string())).collect())
}

fn put(pool: &Arc<Pool>, class: MediaClass) -> Result<MblockId, Error> {
    let place = Placement { class, ..Placement::from(Priority::Flush) };
    let mut writer = pool.allocate(5000, place)?;
    writer.append(&[u8::try_from(writer.id().get() % 251).unwrap(); 5000])?;
    Ok(pool.commit(vec![writer], &[])?[0].id())
}

/// A pool of version 1, which names no features and needs none: see `golden`.
fn version_1() -> SimDevice {
    let dir = tempfile::tempdir().unwrap();
    image::unpack(include_bytes!("golden/version-1.img"), dir.path()).unwrap();
    let bytes = std::fs::read(dir.path().join("capacity.vol")).unwrap();
    let medium = SimDevice::new(SECOND.end);
    let mut buf = IoBuf::zeroed(bytes.len());
    buf.copy_from_slice(&bytes);
    let root = part(&medium, ROOT);
    root.grow(bytes.len() as u64).unwrap();
    root.write_at(0, &buf).unwrap();
    root.flush().unwrap();
    medium.after_crash(0)
}

/// Changes both copies of the superblock.
fn patch(medium: &SimDevice, change: impl Fn(&mut [u8])) {
    for at in [0, ALLOC_UNIT] {
        let mut page = IoBuf::zeroed(IO_ALIGN);
        medium.read_at(at, &mut page).unwrap();
        change(&mut page[..SUPERBLOCK_BYTES]);
        let crc = crc32c::crc32c(&page[..SUPERBLOCK_BYTES - 4]);
        page[SUPERBLOCK_BYTES - 4..SUPERBLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
        medium.write_durable_at(at, &page).unwrap();
    }
}

fn incompat(medium: &SimDevice, copy: u64) -> u64 {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    medium.read_at(copy * ALLOC_UNIT, &mut page).unwrap();
    u64::from_le_bytes(page[INCOMPAT..INCOMPAT + 8].try_into().unwrap())
}

/// A pool that uses everything, as a program wrote it that knew all that and named nothing.
fn unnamed() -> SimDevice {
    let medium = SimDevice::new(SECOND.end);
    let pool = Pool::create(part(&medium, ROOT), &options()).unwrap();
    pool.add_volume_on(part(&medium, SECOND), MediaClass::Staging).unwrap();
    put(&pool, MediaClass::Staging).unwrap();
    let mdc = pool.create_mdc(ALLOC_UNIT).unwrap();
    pool.delete_mdc(mdc).unwrap();
    drop(pool);
    patch(&medium, |bytes| {
        bytes[INCOMPAT..INCOMPAT + 8].fill(0);
        bytes[PROGRAM].fill(0);
    });
    medium.after_crash(0)
}

fn steps_of(pool: &Pool) -> u32 {
    pool.property("steps").map_or(0, |v| u32::from_le_bytes(v.try_into().unwrap()))
}

/// A pool of version 1 comes to use one feature after the other.
struct Upgrade;

impl Workload for Upgrade {
    type System = (Arc<Pool>, SimDevice);
    type Error = Error;

    fn medium(&self, _plan: CrashPlan) -> SimDevice {
        version_1()
    }

    fn open(&self, medium: &SimDevice) -> Result<Self::System, Error> {
        // Once the power is cut there is nothing to be read.
        if let Ok(issues) = issues(medium) {
            let unnamed = issues.iter().find(|(_, text)| text.contains(UNNAMED));
            assert!(unnamed.is_none(), "an old program would take it for damage: {unnamed:?}");
        }
        Ok((open(medium)?, medium.clone()))
    }

    fn step(&self, (pool, medium): &mut Self::System, n: u32) -> Result<(), Error> {
        match n {
            0 => {
                let mdc = pool.create_mdc(ALLOC_UNIT)?;
                pool.delete_mdc(mdc)?;
            }
            1 => drop(put(pool, MediaClass::Capacity)?),
            // Taken already, before a crash.
            2 if pool.volumes().len() == 2 => {}
            2 => drop(pool.add_volume_on(part(medium, SECOND), MediaClass::Staging)?),
            _ => drop(put(pool, MediaClass::Staging)?),
        }
        pool.set_property("steps", &(n + 1).to_le_bytes())
    }

    fn steps_found(&self, (pool, medium): &mut Self::System) -> u32 {
        let steps = steps_of(pool);
        let needed = [0, 12, 13].get(usize::try_from(steps).unwrap()).copied().unwrap_or(ALL);
        let named = pool.info().features.incompat;
        assert_eq!(named & needed, needed, "{steps} steps");
        assert_eq!((incompat(medium, 0), incompat(medium, 1)), (named, named), "{steps} steps");
        // What the old program left.
        let lens: Vec<u64> =
            pool.mblock_ids()[..3].iter().map(|id| pool.mblock(*id).unwrap().len_bytes()).collect();
        assert_eq!(lens, [1, 10_000, 70_000]);
        steps
    }
}

/// The bit is durable before the record, or an old program would take the record for damage.
#[test]
fn a_pool_names_what_it_uses_at_every_crash_point() {
    let plan = CrashPlan { steps: 4, seeds: 6, recovery_seeds: 2, device_bytes: 0 };
    let tried = check_every_crash(&Upgrade, plan);
    assert!(tried > 150, "{tried} crashes tried");
}

/// A pool that used features before there were bits: opening it names them.
struct Naming;

impl Workload for Naming {
    type System = (Arc<Pool>, SimDevice);
    type Error = Error;

    fn medium(&self, _plan: CrashPlan) -> SimDevice {
        unnamed()
    }

    fn open(&self, medium: &SimDevice) -> Result<Self::System, Error> {
        let pool = open(medium)?;
        assert_eq!(pool.info().features.incompat, ALL);
        Ok((pool, medium.clone()))
    }

    fn step(&self, (pool, _): &mut Self::System, n: u32) -> Result<(), Error> {
        put(pool, MediaClass::Staging)?;
        pool.set_property("steps", &(n + 1).to_le_bytes())
    }

    fn steps_found(&self, (pool, medium): &mut Self::System) -> u32 {
        assert_eq!((incompat(medium, 0), incompat(medium, 1)), (ALL, ALL));
        let steps = steps_of(pool);
        assert!(pool.mblock_ids().len() > usize::try_from(steps).unwrap());
        steps
    }
}

#[test]
fn opening_names_what_was_used_before_there_were_bits_at_every_crash_point() {
    let before = issues(&unnamed()).unwrap();
    let [(Severity::Note, text)] = &before[..] else { panic!("{before:?}") };
    assert!(text.contains(UNNAMED) && text.contains("volumes"), "{text}");
    let plan = CrashPlan { steps: 2, seeds: 6, recovery_seeds: 2, device_bytes: 0 };
    check_every_crash(&Naming, plan);
}

#[test]
fn an_old_pool_that_is_only_read_stays_as_it_is() {
    let medium = version_1();
    let pool = open(&medium).unwrap();
    let id = pool.mblock_ids()[1];
    let mut page = IoBuf::zeroed(IO_ALIGN);
    pool.mblock(id).unwrap().read_at(0, &mut page).unwrap();
    pool.set_property("a", b"b").unwrap();
    assert!(pool.info().features.is_empty(), "old programs open it");
    drop(pool);
    assert_eq!(incompat(&medium, 0), 0);
}

#[test]
fn an_unknown_incompatible_feature_is_refused_by_name_and_nothing_is_written() {
    let medium = unnamed();
    patch(&medium, |bytes| {
        bytes[INCOMPAT + 2] = 0x20;
        bytes[PROGRAM.start..PROGRAM.start + 5].copy_from_slice(b"9.8.7");
    });
    let calls = medium.calls();
    for refused in [open(&medium).map(|_| ()), issues(&medium).map(|_| ())] {
        let error = refused.unwrap_err();
        let Error::Features { unknown, added_by } = &error else { panic!("{error}") };
        assert_eq!(*unknown, Features { incompat: 1 << 21, ..Features::default() });
        assert_eq!(added_by.as_deref(), Some("9.8.7"));
        let text = error.to_string();
        let this = env!("CARGO_PKG_VERSION");
        for part in ["incompatible bit 21", "9.8.7 or later", this, "format 1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let flushes = 1;
    assert_eq!(medium.calls(), calls + flushes, "opening flushes, so that what it reads is there");
}

#[test]
fn an_unknown_feature_that_writers_must_know_is_checked_around_and_not_opened() {
    let medium = unnamed();
    patch(&medium, |bytes| bytes[RO_COMPAT] = 8);
    let text = open(&medium).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("read-only-compatible bit 3"), "{text}");
    assert!(text.contains("check it") && text.contains("a later version"), "{text}");
    let found = issues(&medium).unwrap();
    let noted = found.iter().any(|(severity, text)| {
        *severity == Severity::Note && text.contains("bit 3") && text.contains("not checked")
    });
    assert!(noted, "{found:?}");
}

#[test]
fn an_unknown_compatible_feature_is_harmless_and_kept() {
    let medium = unnamed();
    patch(&medium, |bytes| bytes[COMPAT + 7] = 0x80);
    // Opening writes the superblock, to name what is used.
    let pool = open(&medium).unwrap();
    let features = pool.info().features;
    assert_eq!((features.compat, features.incompat), (1 << 63, ALL));
    assert_eq!(features.list().last().map(|f| (f.bit, f.name)), Some((63, None)));
    put(&pool, MediaClass::Capacity).unwrap();
    drop(pool);
    let found = issues(&medium).unwrap();
    let [(Severity::Note, text)] = &found[..] else { panic!("{found:?}") };
    assert!(text.contains("compatible bit 63") && text.contains("harmless"), "{text}");
    assert_eq!(open(&medium).unwrap().info().features, features);
}
