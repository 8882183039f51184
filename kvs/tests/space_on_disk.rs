//! What a store takes of its disk, against what it uses: many small KVSs, and one that is
//! overwritten again and again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its figures"
)]

mod support;

use kvs::{Database, Durability, Options};
use std::{os::unix::fs::MetadataExt, path::Path, time::Instant};
use support::Rng;

const MIB: u64 = 1 << 20;

/// Steps of growth as they are by default, and space that goes back as soon as it is asked for.
fn options() -> Options {
    let mut options = support::options();
    options.pool.capacity_bytes_max = 1 << 30;
    options.pool.grow_step_bytes = mpool::Options::default().grow_step_bytes;
    options.pool.returning = Some(mpool::ReturnOptions { after_s: 0, ..Default::default() });
    options.pool.allow_buffered = true;
    options.pool.allow_volatile = true;
    options
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units stand last in names")]
struct Sizes {
    /// As `ls` and `du` tell it.
    file_bytes: u64,
    disk_bytes: u64,
    used_bytes: u64,
}

impl Sizes {
    fn of(dir: &Path, db: &Database) -> Self {
        let metadata = dir.join("capacity.vol").metadata().unwrap();
        Self {
            file_bytes: metadata.len(),
            disk_bytes: metadata.blocks() * 512,
            used_bytes: db.pool().info().used_bytes,
        }
    }

    /// The file and what it takes, per cent of what is used.
    fn pct(self) -> [u64; 2] {
        [self.file_bytes, self.disk_bytes].map(|bytes| bytes * 100 / self.used_bytes)
    }

    fn print(self, when: &str) {
        let [file, disk] = self.pct();
        let Self { file_bytes, disk_bytes, used_bytes } = self;
        println!(
            "{when}: file {} MiB ({file} %), on the disk {} MiB ({disk} %), used {} MiB",
            file_bytes / MIB,
            disk_bytes / MIB,
            used_bytes / MIB,
        );
    }
}

/// Lets the pool's housekeeping do all it has to. What it moves leaves its old place when the
/// database has taken note, and while many such places are held, the rest waits.
fn tidy(db: &Database) {
    let mut is_busy = true;
    while std::mem::take(&mut is_busy) {
        while db.pool().tidy() {
            is_busy = true;
        }
        db.refresh_moved().unwrap();
    }
}

/// A file of 3 GiB for 219 MiB: each flush reserved 32 MiB for each KVS, and files grew by 256 MiB.
#[test]
fn many_kvs_with_a_little_in_each_take_little_more_than_they_use() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let kvs: Vec<_> = (0..256).map(|n| db.kvs(&format!("kvs-{n}")).unwrap()).collect();
    let value = vec![7; 1000];
    let mut used_most = 0;
    let start = Instant::now();
    for round in 0..3 {
        for kvs in &kvs {
            for n in 0..4_u32 {
                let key = format!("{:08x}-{round}", n.wrapping_mul(0x9E37_79B1));
                kvs.put(key.as_bytes(), &value, Durability::Interval).unwrap();
            }
        }
        used_most = used_most.max(db.pool().info().used_bytes);
        db.flush().unwrap();
        used_most = used_most.max(db.pool().info().used_bytes);
        db.compact().unwrap();
    }
    println!("3,072 records in 256 KVSs took {} ms", start.elapsed().as_millis());
    let busy = Sizes::of(dir.path(), &db);
    busy.print("busy");
    tidy(&db);
    let quiet = Sizes::of(dir.path(), &db);
    quiet.print("quiet");
    assert!(busy.file_bytes * 100 <= used_most * 130, "{busy:?}, {used_most} at most");
    assert!(quiet.pct().iter().all(|pct| *pct <= 130), "{quiet:?}");
    assert!(kvs[255].get(b"00000000-2").unwrap().is_some());
}

/// The file stayed at 6.7 times of what was used, for good.
#[test]
fn a_store_that_was_overwritten_gives_back_what_it_took() {
    const KEYS: u64 = 8000;
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let kvs = db.kvs("one").unwrap();
    let mut random = Rng(11);
    let mut value = vec![7; 1000];
    for round in 0..10_u64 {
        let start = Instant::now();
        for _ in 0..KEYS {
            value[..8].copy_from_slice(&round.to_le_bytes());
            let key = random.below(KEYS).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
            kvs.put(&key, &value, Durability::Interval).unwrap();
        }
        let rate = u128::from(KEYS) * 1000 / start.elapsed().as_millis().max(1);
        let sizes = Sizes::of(dir.path(), &db);
        sizes.print(&format!("round {round}, {rate} puts/s"));
    }
    db.flush().unwrap();
    db.compact().unwrap();
    Sizes::of(dir.path(), &db).print("before housekeeping");
    tidy(&db);
    let quiet = Sizes::of(dir.path(), &db);
    quiet.print("quiet");
    assert!(quiet.pct().iter().all(|pct| *pct <= 120), "{quiet:?}");

    // Refilled, it takes the same again and holds the same.
    for key in 0..KEYS {
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        kvs.put(&key, &value, Durability::Interval).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    tidy(&db);
    drop(kvs);
    db.close().unwrap();
    drop(db);
    let db = Database::open(dir.path(), options()).unwrap();
    tidy(&db);
    let again = Sizes::of(dir.path(), &db);
    again.print("opened again");
    // A fourth too long is as long as it gets.
    assert!(again.pct()[0] <= 130 && again.pct()[1] <= 120, "{again:?}");
    let kvs = db.kvs("one").unwrap();
    for key in 0..KEYS {
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        let found = kvs.get(&key).unwrap().unwrap();
        assert!(*found.value == value[..], "{key:?}");
    }
}
