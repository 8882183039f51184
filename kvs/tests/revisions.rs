//! A revision names one batch for ever: whatever was acknowledged, or shown to a reader, keeps its
//! revision, also when a crash loses the write; and none is skipped where nothing can be lost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod support;

use kvs::{Database, Durability, Range};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use support::Rng;

/// Key and value of the one entry that a revision's batch had.
type Named = BTreeMap<u64, (Vec<u8>, Vec<u8>)>;

fn open(device: &SimDevice) -> kvs::Result<Database> {
    match support::open(device, &support::options()) {
        Err(kvs::Error::Pool(mpool::Error::Unusable { .. })) => {
            support::create(device, &support::options())
        }
        opened => opened,
    }
}

/// What the database shows is named by its revision as it was the first time.
fn look(db: &Database, named: &mut Named) {
    let Ok(kvs) = db.open_kvs("a") else { return };
    let cursor = kvs.cursor(Range::default()).unwrap();
    for item in cursor {
        let item = item.unwrap();
        let entry = (item.key.to_vec(), item.value.to_vec());
        let revision = item.revision.get();
        assert_eq!(*named.entry(revision).or_insert_with(|| entry.clone()), entry, "{revision}");
        assert!(item.revision <= db.revision());
    }
}

/// One life of the database, which ends with the power, with a kill, or well.
fn life(device: &SimDevice, named: &mut Named, rng: &mut Rng) -> kvs::Result<()> {
    let db = open(device)?;
    let kvs = db.kvs("a")?;
    look(&db, named);
    let greatest = named.last_key_value().map_or(0, |(revision, _)| *revision);
    assert!(db.revision().get() >= greatest, "revision {greatest} would be given again");
    for _ in 0..rng.below(30) {
        let entry = (format!("k{}", rng.below(12)).into_bytes(), rng.next().to_le_bytes().to_vec());
        let durability = match rng.below(3) {
            0 => Durability::Off,
            1 => Durability::Interval,
            _ => Durability::Sync,
        };
        let revision = kvs.put(&entry.0, &entry.1, durability)?.get();
        let before = named.insert(revision, entry);
        assert_eq!(before, None, "revision {revision} named something");
        match rng.below(40) {
            0 => db.flush()?,
            1 => db.compact()?,
            _ => {}
        }
    }
    if rng.below(3) == 0 {
        return db.close();
    }
    // A kill: nothing after this call reaches the device.
    device.cut_at(device.calls());
    Ok(())
}

#[test]
fn a_revision_never_names_two_values_whatever_ends_a_life() {
    for seed in support::seeds(0..60) {
        println!("MILLPOND_SEED={seed}");
        let (mut device, mut named, mut rng) = (SimDevice::new(1 << 30), Named::new(), Rng(seed));
        for _ in 0..6 {
            if rng.below(2) == 0 {
                device.cut_at(device.calls() + rng.below(120));
            }
            // An error is the power cut.
            drop(life(&device, &mut named, &mut rng));
            device = device.after_crash(rng.next());
        }
        let db = open(&device).unwrap();
        look(&db, &mut named);
    }
}

#[test]
fn nothing_is_skipped_in_a_fresh_store_and_after_a_clean_close() {
    let device = SimDevice::new(1 << 30);
    for n in 1..=4 {
        let db = open(&device).unwrap();
        let kvs = db.kvs("a").unwrap();
        assert_eq!(kvs.put(b"k", b"v", Durability::Off).unwrap().get(), n);
        if n % 2 == 0 {
            db.flush().unwrap();
        }
        db.close().unwrap();
    }
}
