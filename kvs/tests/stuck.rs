//! A leaf that is longer than what is free cannot be merged, so deleting frees nothing: that is
//! told, with how much room is lacking, and with that much added the space comes back.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options};
use mpool::Device;
use mpool_sim::{Faults, SimDevice};

const MIB: u64 = 1 << 20;
/// Keys of the leaf, whose values are inline: about 31 MiB, under half of what a leaf may have in
/// the pool that it is made in: from there on it is split as it is merged.
const KEYS: u64 = 31_000;
/// A value that is not inline.
static VALUE: [u8; 20_000] = [b'f'; 20_000];
/// Deleted at a time.
const BATCH: u64 = 1_000;

fn key(n: u64) -> Vec<u8> {
    format!("{n:08}").into_bytes()
}

fn options() -> Options {
    Options { inline_bytes_max: 1024, ..support::options() }
}

/// The disk below the device ends there.
fn end_at(device: &SimDevice, len_bytes: u64) {
    let (enospc_after_bytes, enospc_is_told) = (Some(len_bytes), true);
    device.set_faults(Faults { enospc_after_bytes, enospc_is_told, ..Faults::default() });
}

/// Puts values until one is refused; returns the refusal.
fn fill(kvs: &Kvs) -> Error {
    for n in 0_u64.. {
        if let Err(error) = kvs.put(&key(n), &VALUE, Durability::Interval) {
            return error;
        }
    }
    unreachable!("the volume fills before the numbers end")
}

fn stuck_bytes(error: &Error) -> u64 {
    let Error::Full { stuck_bytes, .. } = error else { panic!("{error}") };
    *stuck_bytes
}

fn settle(db: &Database) {
    db.flush().unwrap();
    db.compact().unwrap();
}

#[test]
fn what_no_compaction_can_free_is_told_with_what_it_lacks() {
    let device = SimDevice::new(2048 * MIB);
    let mut roomy = options();
    roomy.pool.spare_pct = 40;
    let db = support::create(&device, &roomy).unwrap();
    let long = db.create_kvs("long").unwrap();
    // Keys that come later between those of a leaf go into it.
    for third in 0..3 {
        for n in (0..KEYS).filter(|n| n % 3 == third) {
            long.put(&key(n), &[b'l'; 980], Durability::Off).unwrap();
        }
        settle(&db);
    }
    let other = db.create_kvs("other").unwrap();
    let mut n = 0_u64;
    while device.geometry().len_bytes - db.pool().info().used_bytes > 12 * MIB {
        other.put(&key(n), &VALUE, Durability::Off).unwrap();
        n += 1;
    }
    db.close().unwrap();
    drop((long, other, db));

    // On a smaller pool leaves would be shorter; with room for it they would be split.
    end_at(&device, device.geometry().len_bytes);
    let db = support::open(&device, &options()).unwrap();
    let (long, other) = (db.kvs("long").unwrap(), db.kvs("other").unwrap());
    assert_eq!(stuck_bytes(&fill(&other)), 0, "nothing is deleted yet");
    for first in (0..KEYS).step_by(usize::try_from(BATCH).unwrap()) {
        let mut batch = db.batch();
        for n in first..first + BATCH {
            batch.delete(&long, &key(n)).unwrap();
        }
        db.write(batch, Durability::Sync).unwrap();
    }
    settle(&db);
    let refusal = fill(&other);
    let lacks = stuck_bytes(&refusal);
    assert!((MIB..64 * MIB).contains(&lacks), "{refusal}");
    assert_eq!(db.space().stuck_bytes, lacks);
    for part in
        [&format!("compaction lacks {lacks} bytes"), "drop a KVS", "grow a volume by as much"]
    {
        assert!(refusal.to_string().contains(part), "{part}: {refusal}");
    }

    // As told.
    end_at(&device, device.geometry().len_bytes + lacks.next_multiple_of(16 * MIB));
    settle(&db);
    let space = db.space();
    assert_eq!(space.stuck_bytes, 0, "{space:?}");
    assert!(space.writable_bytes > 16 * MIB, "{space:?}");
    assert!(long.get(&key(7)).unwrap().is_none());
    assert_eq!(other.get(&key(7)).unwrap().unwrap().value, &VALUE[..]);
}
