//! What is deleted on a full volume comes back: in pieces that fit what is free, for a bounded
//! number of bytes written, without a restart.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Error, Kvs, Options};
use mpool_sim::SimDevice;
use std::collections::BTreeSet;
use support::place::{Place, zones};
use support::{Rng, seeds};

const MIB: u64 = 1 << 20;

/// One way to fill a volume and to delete from it.
#[derive(Clone, Copy, Debug)]
struct Case {
    volume_mib: u64,
    memtable_mib: u64,
    segment_mib: u64,
    value_bytes: usize,
    /// Of the keys, per cent.
    deleted_pct: u64,
    /// Keys put one after the other are deleted together, so many at a time.
    run: u64,
    threads: u64,
}

/// As found: 16 KiB values, memtables of 8 MiB, a random half deleted.
const FOUND: Case = Case {
    volume_mib: 160,
    memtable_mib: 8,
    segment_mib: 4,
    value_bytes: 16 << 10,
    deleted_pct: 50,
    run: 1,
    threads: 0,
};

impl Case {
    fn options(self) -> Options {
        Options {
            memtable_bytes: self.memtable_mib * MIB,
            background_threads: self.threads,
            wal_segment_bytes: self.segment_mib * MIB,
            wal_bytes_max: 512 * MIB,
            ..support::options()
        }
    }

    fn place(self) -> Place {
        Place::on(SimDevice::new(self.volume_mib * MIB))
    }
}

fn key(n: u64) -> Vec<u8> {
    // Not in the order of their insertion, as users' keys are not.
    format!("{:08x}-{n:08}", n.wrapping_mul(0x9E37_79B1) & 0xffff_ffff).into_bytes()
}

fn value(n: u64, len: usize) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(len.max(8), b'r');
    value
}

/// Puts keys from `first` on until the volume refuses one; returns which.
fn fill(kvs: &Kvs, first: u64, len: usize) -> u64 {
    for n in first.. {
        match kvs.put(&key(n), &value(n, len), Durability::Interval) {
            Ok(_) => {}
            Err(Error::Full { .. } | Error::LogFull { .. }) => return n,
            Err(other) => panic!("put {n}: {other}"),
        }
    }
    unreachable!("the volume fills before the numbers end")
}

fn settle(db: &Database) {
    db.flush().unwrap();
    db.compact().unwrap();
}

/// How many keys were put first, deleted, and put again.
#[derive(Clone, Copy, Debug)]
struct Counts {
    keys: u64,
    deleted: u64,
    again: u64,
}

/// Fills, deletes, waits for the space, and fills again.
fn reclaim(case: Case, place: &Place, seed: u64) -> Counts {
    println!("replay: MILLPOND_SEED={seed} cargo test -p millpond-kvs --test reclaim  # {case:?}");
    let db = place.create(&case.options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let keys = fill(&kvs, 0, case.value_bytes);
    let gone = delete(&kvs, keys, case, &mut Rng(seed));
    let deleted = gone.len() as u64;
    let stored = keys * (case.value_bytes as u64 + 17);
    let written = || db.pool().metrics().write_bytes();
    let before = written();
    settle(&db);
    let spent = written() - before;
    assert!(spent <= 4 * stored, "{spent} bytes written to win back a part of {stored}");
    settle(&db);
    let idle = written() - before - spent;
    assert!(idle <= MIB, "{idle} bytes written when nothing was to be done");
    let again = fill(&kvs, keys, case.value_bytes) - keys;
    for n in (0..keys + again).step_by(13) {
        let found = kvs.get(&key(n)).unwrap().map(|entry| entry.value);
        let want = (!gone.contains(&n)).then(|| value(n, case.value_bytes));
        assert_eq!(found.as_deref(), want.as_deref(), "key {n}");
    }
    println!(
        "{keys} keys, {deleted} deleted, {again} put again; {spent} bytes written for {stored}"
    );
    Counts { keys, deleted, again }
}

/// Deletes a random part of the keys; returns which.
fn delete(kvs: &Kvs, keys: u64, case: Case, rng: &mut Rng) -> BTreeSet<u64> {
    let mut gone = BTreeSet::new();
    while (gone.len() as u64) < keys * case.deleted_pct / 100 {
        let first = rng.below(keys);
        for n in first..(first + case.run).min(keys) {
            if gone.insert(n) {
                kvs.delete(&key(n), Durability::Interval).unwrap();
            }
        }
    }
    gone
}

/// It took 12 GB of writes in 100 s and gave nothing back: a leaf was rewritten whole, which did
/// not fit, again and again.
#[test]
fn a_deleted_half_comes_back() {
    for seed in seeds(1..4) {
        let Counts { deleted, again, .. } = reclaim(FOUND, &FOUND.place(), seed);
        assert!(again >= deleted * 9 / 10, "{again} of {deleted}");
    }
}

#[test]
fn so_do_a_quarter_and_a_tenth() {
    for deleted_pct in [10, 25] {
        let case = Case { deleted_pct, memtable_mib: 2, ..FOUND };
        let Counts { deleted, again, .. } = reclaim(case, &case.place(), 1);
        assert!(again >= deleted / 2, "{again} of {deleted} at {deleted_pct} %");
    }
}

/// Free space in small pieces holds less than its bytes: a collection for which there was room by
/// the sum found none at its end, and was begun again as it was.
#[test]
fn what_comes_back_in_small_pieces_is_used_in_smaller_ones() {
    for volume_mib in [96, 112, 128, 144] {
        let case = Case { deleted_pct: 10, memtable_mib: 2, volume_mib, ..FOUND };
        let Counts { deleted, again, .. } = reclaim(case, &case.place(), 1);
        assert!(again >= deleted / 2, "{again} of {deleted} of {volume_mib} MiB");
    }
}

#[test]
fn so_does_what_was_deleted_in_runs() {
    let case = Case { run: 500, ..FOUND };
    let Counts { deleted, again, .. } = reclaim(case, &case.place(), 1);
    assert!(again >= deleted * 9 / 10, "{again} of {deleted}");
}

#[test]
fn values_of_all_lengths_come_back() {
    for (value_bytes, volume_mib) in [(100, 56), (400, 56), (1 << 20, 192), (3 << 20, 192)] {
        let case = Case { value_bytes, volume_mib, memtable_mib: 2, ..FOUND };
        let Counts { deleted, again, .. } = reclaim(case, &case.place(), 1);
        assert!(again >= deleted * 2 / 3, "{again} of {deleted} of {value_bytes} bytes");
    }
}

/// The log found no segment of 64 MiB in one piece, and 42 % could be put again.
#[test]
fn an_emptied_volume_takes_as_much_again() {
    for (volume_mib, segment_mib) in [(256, 64), (96, 4)] {
        let case = Case { deleted_pct: 100, volume_mib, segment_mib, ..FOUND };
        let Counts { keys, again, .. } = reclaim(case, &case.place(), 1);
        assert!(again >= keys * 9 / 10, "{again} of {keys}");
    }
}

#[test]
fn zones_come_back_too() {
    let case = Case { memtable_mib: 1, ..FOUND };
    let place = Place::on(SimDevice::zoned(zones(64, 160)));
    let Counts { deleted, again, .. } = reclaim(case, &place, 1);
    assert!(again >= deleted / 2, "{again} of {deleted}");
}

/// The threads do it by themselves.
#[test]
fn space_comes_back_without_being_asked_for() {
    // Writers wait the longer the less is left, so what is between slow and full is small here.
    let case = Case { threads: 2, memtable_mib: 1, volume_mib: 96, ..FOUND };
    let db = case.place().create(&case.options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let keys = fill(&kvs, 0, case.value_bytes);
    delete(&kvs, keys, case, &mut Rng(1));
    let full = db.space();
    assert!(full.writable_bytes < full.total_bytes / 20, "{full:?}");
    // Bounded by the test's own time limit: each turn waits for a put.
    let mut put = 0;
    while put < keys / 16 {
        match kvs.put(&key(keys + put), &value(put, case.value_bytes), Durability::Sync) {
            Ok(_) => put += 1,
            Err(Error::Full { missing_bytes, .. }) => {
                assert!(missing_bytes > 0);
                std::thread::yield_now();
            }
            Err(other) => panic!("put {put}: {other}"),
        }
    }
    db.close().unwrap();
}
