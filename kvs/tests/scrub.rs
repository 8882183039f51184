//! A scrub of a database: the log is verified up to what is durable, findings name their owners,
//! and volumes can be left with everything on them.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Options};
use mpool::{Device, Finding, MediaClass, Pool, ScrubOptions, ScrubTarget, VolumeId};
use mpool_sim::SimDevice;
use std::sync::{Arc, Barrier};
use support::{Rng, options, pool_options};

/// Scrubs under load, and puts of each thread beside one.
const SCRUBS: usize = 15;
const PUTS: usize = 100;

fn fast() -> ScrubOptions {
    ScrubOptions { bytes_per_s: 0, from_start: true, ..ScrubOptions::default() }
}

fn database(device: &SimDevice, options: Options) -> Database {
    let pool = Pool::create(Arc::new(device.clone()), &pool_options()).unwrap();
    Database::open_pool(pool, options).unwrap()
}

fn put(db: &Database, key: &str, value: &[u8]) {
    db.open_kvs("birds").unwrap().put(key.as_bytes(), value, Durability::Sync).unwrap();
}

fn findings(db: &Database) -> Vec<Finding> {
    db.scrub(&fast()).unwrap().findings
}

/// All that the device holds.
fn image(device: &SimDevice) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(device.geometry().len_bytes).unwrap()];
    device.read_at(0, &mut image).unwrap();
    image
}

/// Where `pattern` stands in the image, from `first` on: every byte offset at which it begins.
fn places<'a>(
    image: &'a [u8],
    first: u64,
    pattern: &'a [u8],
) -> impl Iterator<Item = u64> + use<'a> {
    let rest = image.windows(pattern.len()).enumerate().skip(usize::try_from(first).unwrap());
    rest.filter(move |(_, bytes)| *bytes == pattern).map(|(at, _)| at as u64)
}

#[test]
fn rot_in_the_log_is_found_in_any_frame_the_last_included() {
    let device = SimDevice::new(1 << 30);
    let db = database(&device, options());
    db.create_kvs("birds").unwrap();
    let mut rng = Rng(5);
    let values: Vec<Vec<u8>> =
        (0..40).map(|n| rng.bytes(if n == 7 { 20_000 } else { 900 })).collect();
    for (n, value) in values.iter().enumerate() {
        put(&db, &format!("heron{n}"), value);
    }
    assert_eq!(findings(&db), []);
    let segment = db.pool().segment_ids()[0];
    let image = image(&device);
    let mut at = 0;
    for (n, value) in values.iter().enumerate() {
        // The log has them in the order in which they were put.
        at = places(&image, at, &value[..64]).next().unwrap();
        // In the body, in the head of its frame, and at the end of the body.
        let head = at / 4096 * 4096 + 9;
        let at_once = [at + 10, head, at + value.len() as u64 - 1];
        for place in at_once {
            device.flip_bit(place, 3);
            let found = findings(&db);
            device.flip_bit(place, 3);
            assert_eq!(found.len(), 1, "value {n}, byte {place}: {found:?}");
            let Finding { target, volume_offset, len_bytes, owner, .. } = &found[0];
            assert_eq!(*target, ScrubTarget::Segment(segment));
            let covers = *volume_offset..volume_offset + len_bytes;
            assert!(covers.contains(&place), "value {n}: {place} is not in {covers:?}");
            let revision = n + 1;
            let wanted = format!("write-ahead log segment 1, revision {revision}");
            assert_eq!(owner.as_deref(), Some(wanted.as_str()));
        }
    }
    // The head of the segment.
    let first = places(&image, 0, b"MWSG").next().unwrap();
    device.flip_bit(first + 9, 0);
    assert_eq!(findings(&db).len(), 1);
    device.flip_bit(first + 9, 0);
    assert_eq!(findings(&db), []);
}

#[test]
fn rot_in_a_kvset_names_it_and_its_kvs() {
    let device = SimDevice::new(1 << 30);
    let db = database(&device, options());
    db.create_kvs("birds").unwrap();
    let mut rng = Rng(6);
    let value = rng.bytes(5000);
    for n in 0..100 {
        put(&db, &format!("heron{n:03}"), if n == 50 { &value } else { b"grey" });
    }
    db.flush().unwrap();
    let mut named = Vec::new();
    for place in places(&image(&device), 0, &value[..64]) {
        device.flip_bit(place, 0);
        let found = findings(&db);
        device.flip_bit(place, 0);
        named.extend(found.into_iter().filter_map(|finding| finding.owner));
    }
    let wanted = "kvset 1 of KVS birds, vblock, key \"heron050\" of revision 51";
    assert!(named.contains(&wanted.to_owned()), "{named:?}");
    let ids = db.pool().mblock_ids();
    let owners = ids.into_iter().filter_map(|id| db.owner_of(ScrubTarget::Mblock(id)));
    let parts: Vec<_> = owners.map(|owner| owner.rsplit(' ').next().unwrap().to_owned()).collect();
    for part in ["hblock", "kblock", "vblock"] {
        assert!(parts.contains(&part.to_owned()), "{part}: {parts:?}");
    }
    let manifest = db.owner_of(ScrubTarget::Journal(mpool::MdcId::new(1).unwrap()));
    assert!(manifest.is_some_and(|owner| owner.contains("manifest")));
}

/// A store that damage kept from being opened could not be scrubbed either.
#[test]
fn what_does_not_open_is_scrubbed_and_its_owners_are_named() {
    let device = SimDevice::new(1 << 30);
    let db = database(&device, options());
    db.create_kvs("birds").unwrap();
    let mut rng = Rng(7);
    let (logged, stored) = (rng.bytes(900), rng.bytes(5000));
    put(&db, "stork", &stored);
    db.flush().unwrap();
    put(&db, "crane", &rng.bytes(900));
    put(&db, "heron", &logged);
    put(&db, "ibis", &rng.bytes(900));
    let device = device.after_crash(0);
    drop(db);
    let whole = image(&device);
    device.flip_bit(places(&whole, 0, &logged[..64]).next().unwrap(), 0);
    for at in places(&whole, 0, &stored[..64]) {
        device.flip_bit(at, 0);
    }
    let open = || {
        let pool = Pool::open(Arc::new(device.clone()), &pool_options()).unwrap();
        Database::open_pool(Arc::clone(&pool), options()).map(drop).map_err(|error| (pool, error))
    };
    let (pool, error) = open().unwrap_err();
    assert_eq!(error.way_out(), Some(kvs::WayOut::Log), "{error}");
    let found = Database::scrub_unopened(&pool, &fast()).unwrap().findings;
    let owners: Vec<String> = found.iter().filter_map(|finding| finding.owner.clone()).collect();
    assert!(owners.contains(&"write-ahead log segment 1, revision 3".to_owned()), "{owners:#?}");
    let wanted = "kvset 1 of KVS birds, vblock, key \"stork\" of revision 1";
    assert!(owners.contains(&wanted.to_owned()), "{owners:#?}");
    // Nor can a manifest be in the way, or an hblock.
    for at in places(&whole, 0, b"MPHB") {
        device.flip_bit(at + 20, 0);
    }
    let (pool, _) = open().unwrap_err();
    let found = Database::scrub_unopened(&pool, &fast()).unwrap().findings;
    let hblock = "kvset 1 of KVS birds, hblock; it may hold any key of KVS birds";
    let named = |finding: &Finding| finding.owner.as_ref().is_some_and(|o| o.contains(hblock));
    assert!(found.iter().any(named), "{found:#?}");
}

#[test]
fn a_database_under_load_has_no_findings() {
    let device = SimDevice::new(1 << 30);
    let db = database(&device, Options { background_threads: 2, ..options() });
    db.create_kvs("birds").unwrap();
    // Each scrub has company, and the data is bounded.
    let round = Barrier::new(3);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (db, round) = (&db, &round);
            scope.spawn(move || {
                let mut rng = Rng(thread);
                let birds = db.open_kvs("birds").unwrap();
                for _ in 0..SCRUBS {
                    round.wait();
                    for _ in 0..PUTS {
                        let len = usize::try_from(rng.below(20_000)).unwrap();
                        let (key, value) = (rng.below(500).to_le_bytes(), rng.bytes(len));
                        let durabilities =
                            [Durability::Sync, Durability::Off, Durability::Interval];
                        birds.put(&key, &value, durabilities[len % 3]).unwrap();
                    }
                }
            });
        }
        for _ in 0..SCRUBS {
            round.wait();
            assert_eq!(findings(&db), []);
        }
    });
    let recycled = db.pool().segment_ids().len();
    assert!(recycled > 0, "there is a log");
}

#[test]
fn a_volume_is_left_with_log_and_kvsets_and_nothing_is_lost() {
    let (root, other) = (SimDevice::new(1 << 30), SimDevice::new(1 << 30));
    let db = database(&root, options());
    let staging = db.pool().add_volume_on(Arc::new(other.clone()), MediaClass::Staging).unwrap();
    db.create_kvs("birds").unwrap();
    let mut rng = Rng(8);
    let mut values = Vec::new();
    let write = |values: &mut Vec<(String, Vec<u8>)>, rng: &mut Rng| {
        for _ in 0..60 {
            let (key, value) = (format!("heron{}", values.len()), rng.bytes(10_000));
            put(&db, &key, &value);
            values.push((key, value));
        }
    };
    write(&mut values, &mut rng);
    db.flush().unwrap();
    write(&mut values, &mut rng);
    let staged = |db: &Database, id: VolumeId| {
        db.pool().volumes().into_iter().find(|volume| volume.id == id)
    };
    let before = staged(&db, staging).unwrap();
    assert!(before.logs > 0, "the log is on the staging volume: {before:?}");
    // Kvsets go to the capacity class, where the root cannot be emptied: a third volume takes some.
    let third = SimDevice::new(1 << 30);
    let capacity = db.pool().add_volume_on(Arc::new(third), MediaClass::Capacity).unwrap();
    let mut rounds = 0;
    while staged(&db, capacity).unwrap().mblocks == 0 {
        write(&mut values, &mut rng);
        db.flush().unwrap();
        rounds += 1;
        assert!(rounds < 50, "the new capacity volume is used");
    }
    for id in [staging, capacity] {
        let done = db.evacuate_volume(id, &mut |_| ()).unwrap();
        assert!(done.left.is_empty() && done.failed.is_empty(), "{done:?}");
        db.remove_volume(id).unwrap();
        assert!(staged(&db, id).is_none());
    }
    write(&mut values, &mut rng);
    let birds = db.open_kvs("birds").unwrap();
    let same = |db: &Database| {
        let birds = db.open_kvs("birds").unwrap();
        for (key, value) in &values {
            assert_eq!(birds.get(key.as_bytes()).unwrap().unwrap().value, value, "{key}");
        }
    };
    same(&db);
    assert_eq!(findings(&db), []);
    drop(birds);
    db.close().unwrap();
    drop(db);
    // The other volumes are not needed any more.
    let pool = Pool::open(Arc::new(root), &pool_options()).unwrap();
    same(&Database::open_pool(pool, options()).unwrap());
}
