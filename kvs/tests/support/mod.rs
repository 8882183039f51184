//! What the tests of the whole engine share: a seeded generator, small options, and pools on the
//! simulated device.

#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod batches;
pub mod place;

use kvs::{Database, Options};
use mpool::{Device, Pool, Priority};
use mpool_sim::{Faults, SimDevice};
use std::sync::Arc;

/// Seeds of a run: `MILLPOND_SEED` alone if it is set, else the fixed ones.
pub fn seeds(fixed: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("MILLPOND_SEED") {
        Ok(seed) => vec![seed.parse().expect("MILLPOND_SEED is a number")],
        Err(_) => fixed.collect(),
    }
}

/// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Everything as small as it may be, and nothing in the background, so that a seed replays.
pub fn options() -> Options {
    Options {
        memtable_bytes: 1 << 20,
        wal_segment_bytes: 4 << 20,
        wal_bytes_max: 16 << 20,
        background_threads: 0,
        value_cache_bytes: Some(1 << 20),
        pool: pool_options(),
        ..Options::default()
    }
}

pub fn pool_options() -> mpool::Options {
    let mut options = mpool::Options { grow_step_bytes: 16 << 20, ..mpool::Options::default() };
    options.reaper.budget_bytes = Some(256 << 20);
    options.background = false;
    options
}

/// A new pool on a new device, with a database on it.
pub fn create(device: &SimDevice, options: &Options) -> kvs::Result<Database> {
    let pool = Pool::create(Arc::new(device.clone()), &options.pool)?;
    Database::open_pool(pool, options.clone())
}

/// The database that the device holds.
pub fn open(device: &SimDevice, options: &Options) -> kvs::Result<Database> {
    let pool = Pool::open(Arc::new(device.clone()), &options.pool)?;
    Database::open_pool(pool, options.clone())
}

/// The number that a metric without labels shows.
pub fn metric(db: &Database, name: &str) -> u64 {
    let mut found = None;
    db.visit_metrics(&mut |sample| {
        if sample.name == name {
            found = sample.value.number();
        }
    });
    let number = found.unwrap_or_else(|| panic!("there is no metric {name}"));
    assert!((0.0..9e15).contains(&number), "{name}: {number}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let whole = number as u64;
    whole
}

/// Closes in order where the flush that belongs to it finds no room: what is in memory stays in the
/// log.
pub fn close_unflushed(device: &SimDevice, db: &Database) {
    let flushes = metric(db, "flushes_total");
    let enospc_after_bytes = Some(device.geometry().len_bytes);
    device.set_faults(Faults { enospc_after_bytes, enospc_is_told: true, ..Faults::default() });
    let mut taken = Vec::new();
    for bytes in [1 << 20, 64 << 10, 4096] {
        while let Ok(writer) = db.pool().allocate(bytes, Priority::Flush) {
            taken.push(writer);
        }
    }
    db.close().unwrap();
    drop(taken);
    device.set_faults(Faults::default());
    assert_eq!(metric(db, "flushes_total"), flushes, "there was no room for a flush");
}
