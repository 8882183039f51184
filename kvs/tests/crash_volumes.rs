//! Power cuts at every point while volumes come and go, and on a zoned drive.
//!
//! As in `crash.rs`: what was acknowledged with `Durability::Sync` survives every cut, whole
//! batches only, and life goes on afterwards. Here the pool gets a second volume, empties it and
//! gives it up again, or lies on a drive with zones.
//!
//! `CRASH=<cut>:<seed> cargo test -p millpond-kvs --test crash_volumes <test>` replays one case.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Options};
use mpool::{Device, MediaClass, Pool, VolumeId, ZoneCondition};
use mpool_sim::SimDevice;
use std::sync::{Arc, OnceLock};
use support::batches::{batches_in, contents, write};
use support::place::zones;

const MIB: u64 = 1 << 20;
/// Where the second volume begins, and where it ends.
const SECOND: u64 = 256 * MIB;
const END: u64 = 512 * MIB;

fn options() -> Options {
    Options { value_cache_bytes: Some(64 << 10), ..support::options() }
}

/// A scenario: how a pool is made and opened on a medium, and what is done to it.
struct Scenario {
    medium: fn() -> SimDevice,
    create: fn(&SimDevice) -> kvs::Result<Database>,
    open: fn(&SimDevice) -> kvs::Result<Database>,
    batches: u64,
    /// Comes after each batch.
    then: fn(&SimDevice, &Database, u64) -> kvs::Result<()>,
}

fn second(device: &SimDevice) -> Arc<dyn Device> {
    Arc::new(device.part(SECOND..END))
}

fn create_on_part(device: &SimDevice) -> kvs::Result<Database> {
    let pool = Pool::create(Arc::new(device.part(0..SECOND)), &options().pool)?;
    Database::open_pool(pool, options())
}

fn open_on_parts(device: &SimDevice) -> kvs::Result<Database> {
    // Both attempts to add the volume may have given it an id.
    let others: Vec<_> = (1..3).map(|id| (VolumeId::new(id).unwrap(), second(device))).collect();
    let pool = Pool::open_with(Arc::new(device.part(0..SECOND)), &others, &options().pool)?;
    Database::open_pool(pool, options())
}

/// A volume joins, takes log and kvsets, is emptied and leaves.
const COMES_AND_GOES: Scenario = Scenario {
    medium: || SimDevice::new(END),
    create: create_on_part,
    open: open_on_parts,
    batches: 24,
    then: |device, db, n| match n {
        3 => db
            .pool()
            .add_volume_on(second(device), MediaClass::Staging)
            .map(drop)
            .map_err(Into::into),
        5 | 8 | 11 | 20 => db.flush(),
        14 => db.compact(),
        16 => {
            let id = db.volumes()[1].id;
            let done = db.evacuate_volume(id, &mut |_| ())?;
            assert!(done.moved > 0 && done.left.is_empty(), "{done:?}");
            Ok(())
        }
        18 => db.remove_volume(db.volumes()[1].id),
        _ => Ok(()),
    },
};

/// Where three volumes are, the first too small for the manifest.
const SMALL: u64 = 4 * MIB;

fn parts(device: &SimDevice) -> [Arc<dyn Device>; 3] {
    let ranges = [0..SMALL, SMALL..SECOND, SECOND..END];
    ranges.map(|range| Arc::new(device.part(range)) as Arc<dyn Device>)
}

/// The manifest leaves a volume, with all the rest.
const MANIFEST_MOVES: Scenario = Scenario {
    medium: || SimDevice::new(END),
    create: |device| {
        let [root, first, _] = parts(device);
        let pool = Pool::create(root, &options().pool)?;
        pool.add_volume_on(first, MediaClass::Capacity)?;
        Database::open_pool(pool, options())
    },
    open: |device| {
        let [root, first, second] = parts(device);
        let others = [(VolumeId::new(1).unwrap(), first), (VolumeId::new(2).unwrap(), second)];
        Database::open_pool(Pool::open_with(root, &others, &options().pool)?, options())
    },
    batches: 9,
    then: |device, db, n| match n {
        2 | 6 => db.flush(),
        4 => {
            let [_, _, second] = parts(device);
            db.pool().add_volume_on(second, MediaClass::Capacity)?;
            let id = VolumeId::new(1).unwrap();
            let done = db.evacuate_volume(id, &mut |_| ())?;
            assert!(done.left.is_empty(), "{done:?}");
            db.remove_volume(id)
        }
        _ => Ok(()),
    },
};

/// Everything on one drive: log and journals where it can be overwritten, kvsets in zones. Cut from
/// the first call on.
const ZONED: Scenario = Scenario {
    medium: || SimDevice::zoned(zones(64, 60)),
    create: |device| support::create(device, &options()),
    open: |device| support::open(device, &options()),
    batches: 40,
    then: |_, db, n| match n % 20 {
        4 | 9 | 14 => db.flush(),
        19 => {
            db.flush()?;
            db.compact()
        }
        _ => Ok(()),
    },
};

/// The same drive later in its life: zones die as values are overwritten, and housekeeping resets
/// them.
const ZONED_AND_USED: Scenario = Scenario {
    medium: || USED.get_or_init(used_drive).after_kill(0),
    create: |device| support::open(device, &options()),
    open: |device| support::open(device, &options()),
    batches: 9,
    then: |_, db, n| match n {
        1 => fill(db).and_then(|()| db.flush()),
        3 => db.compact(),
        4 | 7 => {
            while db.pool().tidy() {}
            db.refresh_moved()
        }
        6 => fill(db).and_then(|()| db.flush()),
        _ => Ok(()),
    },
};

static USED: OnceLock<SimDevice> = OnceLock::new();

fn used_drive() -> SimDevice {
    let device = SimDevice::zoned(zones(64, 60));
    let db = support::create(&device, &options()).unwrap();
    db.create_kvs("fill").unwrap();
    for _ in 0..6 {
        fill(&db).unwrap();
        db.flush().unwrap();
    }
    db.close().unwrap();
    device
}

/// Overwrites a megabyte of values.
fn fill(db: &Database) -> kvs::Result<()> {
    let kvs = db.open_kvs("fill")?;
    for n in 0..60_u64 {
        kvs.put(&n.to_le_bytes(), &[b'f'; 16_000], Durability::Off)?;
    }
    Ok(())
}

impl Scenario {
    fn run(&self, device: &SimDevice, durability: Durability, acked: &mut u64) -> kvs::Result<()> {
        let db = (self.create)(device)?;
        db.create_kvs("a")?;
        db.create_kvs("b")?;
        for n in 0..self.batches {
            write(&db, n, durability)?;
            *acked = n + 1;
            (self.then)(device, &db, n)?;
        }
        db.close()
    }

    /// `promised` is what the oracle holds the database to; it differs from `durability` only where
    /// the harness itself is tested.
    fn check(&self, cut: u64, seed: u64, durability: Durability, promised: Durability) {
        let case = format!("CRASH={cut}:{seed} {durability:?}");
        let device = (self.medium)();
        device.cut_at(cut);
        let mut acked = 0;
        let done = self.run(&device, durability, &mut acked);
        assert!(done.is_err() || acked == self.batches, "{case}: {done:?}");
        let device = device.after_crash(seed);
        let db = match (self.open)(&device) {
            Ok(db) => db,
            // Nothing was acknowledged before the pool itself was made.
            Err(error) if acked == 0 => {
                println!("{case}: nothing acknowledged, {error}");
                return;
            }
            Err(error) => panic!("{case}: {acked} acknowledged, recovery failed: {error:?}"),
        };
        let least = if promised == Durability::Sync { acked } else { 0 };
        let found = contents(&db).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        let survived = batches_in(&found, least, self.batches);
        let most = if done.is_ok() { acked } else { acked + 1 };
        assert!(
            survived.is_some_and(|n| n <= most),
            "{case}: {acked} acknowledged, found {survived:?}"
        );
        if db.open_kvs("a").is_err() || db.open_kvs("b").is_err() {
            return;
        }
        self.goes_on(&device, db, &case);
    }

    /// A write, a flush; a volume that was being emptied is emptied and leaves; a reopen.
    fn goes_on(&self, device: &SimDevice, db: Database, case: &str) {
        write(&db, 1000, Durability::Sync).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        db.flush().unwrap();
        let expect = contents(&db).unwrap();
        for volume in db.volumes().iter().filter(|volume| volume.evacuating) {
            support::place::drain(&db, volume.id);
        }
        assert_eq!(contents(&db).unwrap(), expect, "{case}: emptying a volume changed something");
        db.close().unwrap();
        drop(db);
        let db = (self.open)(device).unwrap_or_else(|error| panic!("{case}: second: {error:?}"));
        assert_eq!(contents(&db).unwrap(), expect, "{case}: second recovery differs");
    }

    fn calls(&self, durability: Durability) -> u64 {
        let device = (self.medium)();
        self.run(&device, durability, &mut 0).unwrap();
        device.calls()
    }

    fn check_all(&self) {
        let sync = Durability::Sync;
        if let Ok(case) = std::env::var("CRASH") {
            let (cut, seed) = case.split_once(':').expect("CRASH=<cut>:<seed>");
            return self.check(cut.parse().unwrap(), seed.parse().unwrap(), sync, sync);
        }
        let calls = self.calls(sync);
        assert!(calls > 100, "the scenario writes");
        (0..calls).for_each(|cut| self.check(cut, cut, sync, sync));
    }
}

#[test]
fn acknowledged_batches_survive_while_a_volume_comes_and_goes() {
    COMES_AND_GOES.check_all();
}

#[test]
fn acknowledged_batches_survive_while_the_manifest_moves() {
    MANIFEST_MOVES.check_all();
}

#[test]
fn acknowledged_batches_survive_on_a_zoned_drive() {
    ZONED.check_all();
}

#[test]
fn acknowledged_batches_survive_while_zones_are_reset() {
    let device = (ZONED_AND_USED.medium)();
    let before = empty_zones(&device);
    ZONED_AND_USED.run(&device, Durability::Sync, &mut 0).unwrap();
    let after = empty_zones(&device);
    assert!(after > before, "zones are reset: {before} were empty, {after} are");
    ZONED_AND_USED.check_all();
}

fn empty_zones(device: &SimDevice) -> usize {
    let zones = device.zones().expect("it has zones").report(64, 60).unwrap();
    zones.iter().filter(|zone| zone.condition == ZoneCondition::Empty).count()
}

/// The planted bug: writes that are acknowledged as durable without being synced.
#[test]
#[should_panic(expected = "acknowledged, found")]
fn the_harness_catches_writes_that_are_not_synced() {
    for scenario in [COMES_AND_GOES, ZONED] {
        for cut in (0..scenario.calls(Durability::Off)).step_by(5) {
            scenario.check(cut, cut, Durability::Off, Durability::Sync);
        }
    }
}
