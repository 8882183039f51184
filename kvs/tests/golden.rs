//! Stores as programs of other days left them when they were killed, checked in as images: each
//! opens, and holds every acknowledged write. How images are kept: `mpool/tests/golden/README.md`.
//!
//! ```sh
//! cargo test -p millpond-kvs --test golden -- --ignored regenerate_the_image_of_today
//! ```

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use kvs::{Database, Durability, Kvs, Options, Range};
use mpool::{CheckOptions, Pool, ScrubOptions, Severity};
use mpool_sim::image;
use std::{fs, path::Path};

const IMAGES: [(&str, &[u8]); 6] = [
    ("version 1, commit 9b63ec4", include_bytes!("golden/version-1.img")),
    ("before gaps in the log, commit dfbff44", include_bytes!("golden/before-gaps.img")),
    ("before twin logs, commit 376c060", include_bytes!("golden/before-twin-logs.img")),
    ("before sketches, commit 4bea7c7", include_bytes!("golden/before-sketches.img")),
    ("before compact frames, commit e63594d", include_bytes!("golden/before-compact-frames.img")),
    ("today", include_bytes!("golden/today.img")),
];
const KVSS: [&str; 2] = ["birds", "fish"];
const KEYS: u64 = 60;

fn options() -> Options {
    let mut options = support::options();
    options.pool.allow_buffered = true;
    options.pool.allow_volatile = true;
    options.pool.capacity_bytes_max = 256 << 20;
    options.pool.grow_step_bytes = 1 << 20;
    options.pool.reserve_bytes = Some(0);
    options
}

fn key(n: u64) -> Vec<u8> {
    format!("user{n:05}").into_bytes()
}

/// Inline, in a vblock, longer than a page; each of one byte, so that images are small.
fn value(n: u64, round: u64) -> Vec<u8> {
    let len = [3, 300, 0, 5000][usize::try_from(n % 4).unwrap()];
    vec![u8::try_from((n + 100 * round) % 251).unwrap(); len]
}

/// The round that wrote key `n` of KVS `at` last; `None`: deleted.
fn last_round(at: u64, n: u64) -> Option<u64> {
    match (n + at) % 5 {
        0 => None,
        1 => Some(1),
        2 => Some(2),
        _ => Some(0),
    }
}

fn put(kvs: &Kvs, n: u64, round: u64) {
    kvs.put(&key(n), &value(n, round), Durability::Sync).unwrap();
}

/// Kvsets of two generations, one of them compacted, and a log that is not flushed yet. Its second
/// part comes `between` two lives, so that the log has a mark of a clean close, or a gap.
fn build(mut db: Database, between: &dyn Fn(Database) -> Database) -> Database {
    let kvss = KVSS.map(|name| db.create_kvs(name).unwrap());
    db.create_kvs("gone").unwrap();
    for (at, kvs) in (0..).zip(&kvss) {
        (0..KEYS).for_each(|n| put(kvs, n, 0));
        db.flush().unwrap();
        (0..KEYS).filter(|n| last_round(at, *n) == Some(1)).for_each(|n| put(kvs, n, 1));
        db.flush().unwrap();
        db.compact().unwrap();
    }
    drop(kvss);
    db = between(db);
    db.drop_kvs("gone").unwrap();
    let kvss = KVSS.map(|name| db.kvs(name).unwrap());
    for (at, kvs) in (0..).zip(&kvss) {
        (0..KEYS).filter(|n| last_round(at, *n) == Some(2)).for_each(|n| put(kvs, n, 2));
        db.flush().unwrap();
        for n in (0..KEYS).filter(|n| last_round(at, *n).is_none()) {
            kvs.delete(&key(n), Durability::Sync).unwrap();
        }
    }
    drop(kvss);
    db
}

fn verify(db: &Database, image: &str) {
    let names: Vec<String> = db.list_kvs().iter().map(|kvs| kvs.name.clone()).collect();
    assert_eq!(names, KVSS, "{image}");
    for (at, name) in (0..).zip(KVSS) {
        let kvs = db.open_kvs(name).unwrap();
        let expected = |n: u64| last_round(at, n).map(|round| value(n, round));
        for n in 0..KEYS {
            let found = kvs.get(&key(n)).unwrap().map(|entry| entry.value.to_vec());
            assert!(found == expected(n), "{image}: {name}, key {n}");
        }
        let mut cursor = kvs.cursor(Range::default()).unwrap();
        for n in (0..KEYS).filter(|n| expected(*n).is_some()) {
            let item = cursor.next().unwrap().unwrap();
            assert!(item.key == key(n) && Some(item.value.to_vec()) == expected(n), "{image}: {n}");
        }
        assert!(cursor.next().is_none(), "{image}");
    }
}

/// Nothing may be wrong that killing a process does not explain.
fn check(dir: &Path, image: &str) {
    let how = CheckOptions { data: true };
    let report = Pool::check_dir(dir, &options().pool, how, &mut |_, _| ()).unwrap();
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{image}: {report:?}");
}

#[test]
fn every_image_opens_and_holds_every_acknowledged_write() {
    for (name, bytes) in IMAGES {
        let dir = tempfile::tempdir().unwrap();
        image::unpack(bytes, dir.path()).unwrap();
        check(dir.path(), name);
        let db = Database::open(dir.path(), options()).unwrap();
        verify(&db, name);
        let fast = ScrubOptions { bytes_per_s: 0, ..ScrubOptions::default() };
        assert_eq!(db.scrub(&fast).unwrap().findings, [], "{name}");
        // What is there is merged with what is written now.
        let kvs = db.open_kvs(KVSS[0]).unwrap();
        put(&kvs, KEYS, 3);
        db.flush().unwrap();
        db.compact().unwrap();
        kvs.delete(&key(KEYS), Durability::Sync).unwrap();
        verify(&db, name);
        db.close().unwrap();
        drop((kvs, db));
        check(dir.path(), name);
        verify(&Database::open(dir.path(), options()).unwrap(), name);
    }
}

#[test]
fn images_are_small() {
    for (name, bytes) in IMAGES {
        assert!(bytes.len() < 40 << 10, "{name}: {}", bytes.len());
    }
}

#[test]
#[ignore = "writes tests/golden/today.img: for a change of format, after the old image got a name"]
fn regenerate_the_image_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Database::open(dir, options()).unwrap();
    let db = build(open(dir.path()), &|db| {
        db.close().unwrap();
        drop(db);
        let db = open(dir.path());
        put(&db.kvs(KVSS[0]).unwrap(), 2, 0);
        // Open as it is: what a kill would leave.
        let image = image::pack(dir.path()).unwrap();
        image::unpack(&image, second.path()).unwrap();
        open(second.path())
    });
    verify(&db, "built");
    // Open as it is: what a kill would leave.
    let image = image::pack(second.path()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/today.img");
    fs::write(path, image).unwrap();
}
