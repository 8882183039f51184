//! Both copies of the superblock are gone: the pool is opened by what its journal says, and by
//! nothing that is older or somebody else's.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, CheckOptions, Create, Error, FoundJournal, IoBackend, IoBuf, MblockId, Options,
    Pool, Priority, VolumeId,
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

const SUPERBLOCKS: u64 = 2 * ALLOC_UNIT;
/// What a pool of [`CAPACITY`] gives each copy of a log.
const LOG_BYTES: u64 = 4 * ALLOC_UNIT;
const CAPACITY: u64 = 64 << 20;

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 2,
        background: false,
        capacity_bytes_max: CAPACITY,
        create: Create::Auto,
        ..Options::default()
    }
}

fn read_only() -> Options {
    Options { read_only: true, ..options() }
}

fn root(dir: &Path) -> PathBuf {
    dir.join("capacity.vol")
}

fn metric(pool: &Pool, wanted: &str) -> u64 {
    let mut found = None;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap_or_else(|| panic!("no metric {wanted}"))
}

fn object(pool: &Arc<Pool>, n: u8) -> MblockId {
    let mut writer = pool.allocate(10_000, Priority::Flush).unwrap();
    writer.append(&[n; 10_000]).unwrap();
    pool.commit(vec![writer], &[]).unwrap()[0].id()
}

/// A pool with objects and properties whose journal has been rewritten so many times.
fn pool(rewrites: u64) -> (TempDir, Vec<MblockId>) {
    let dir = TempDir::new().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    let ids = (0..5).map(|n| object(&pool, n)).collect();
    while metric(&pool, "mpool_mdc_checkpoints_total") < rewrites {
        pool.set_property("filler", &[7; 1000]).unwrap();
    }
    for n in 0..5_u8 {
        pool.set_property(&format!("p{n}"), &[n; 1000]).unwrap();
    }
    (dir, ids)
}

fn check(pool: &Arc<Pool>, ids: &[MblockId], at: &str) {
    for n in 0..5_u8 {
        assert_eq!(pool.property(&format!("p{n}")), Some(vec![n; 1000]), "{at}: p{n}");
    }
    for (n, id) in ids.iter().enumerate() {
        let mut bytes = IoBuf::zeroed(12 << 10);
        pool.mblock(*id).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes[9_999], u8::try_from(n).unwrap(), "{at}: {id}");
    }
}

fn wipe(dir: &Path, from: u64, to: u64) {
    let zeros = vec![0; usize::try_from(to - from).unwrap()];
    File::options().write(true).open(root(dir)).unwrap().write_all_at(&zeros, from).unwrap();
}

fn refusal(dir: &Path) -> String {
    match Pool::open_without_superblock(dir, &options()) {
        Ok(_) => panic!("it was opened"),
        Err(error @ (Error::Unusable { .. } | Error::Corrupt { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

fn found(dir: &Path, ids: &[MblockId], at: &str) -> FoundJournal {
    let before = std::fs::read(root(dir)).unwrap();
    assert!(Pool::open_dir(dir, &options()).is_err(), "{at}: it has its superblock");
    let (pool, looked) = Pool::open_without_superblock(dir, &read_only()).unwrap();
    check(&pool, ids, at);
    drop(pool);
    assert!(std::fs::read(root(dir)).unwrap() == before, "{at}: a look has written");
    let (pool, found) = Pool::open_without_superblock(dir, &options()).unwrap();
    assert_eq!(found, looked, "{at}");
    check(&pool, ids, at);
    // It goes on as any other: rewritten, closed and opened.
    let rewrites = metric(&pool, "mpool_mdc_checkpoints_total");
    while metric(&pool, "mpool_mdc_checkpoints_total") < rewrites + 3 {
        pool.set_property("filler", &[8; 1000]).unwrap();
    }
    let more = object(&pool, 77);
    drop(pool);
    let pool = Pool::open_dir(dir, &options()).unwrap();
    check(&pool, ids, at);
    assert!(pool.mblock(more).is_ok(), "{at}");
    found
}

#[test]
fn the_journal_says_what_the_superblock_did() {
    for rewrites in [0, 1, 2] {
        let (dir, ids) = pool(rewrites);
        wipe(dir.path(), 0, SUPERBLOCKS);
        let at = format!("{rewrites} rewritings");
        let found = found(dir.path(), &ids, &at);
        let log = if rewrites == 1 { SUPERBLOCKS + 2 * LOG_BYTES } else { SUPERBLOCKS };
        assert_eq!((found.offset, found.twice), (log, true), "{at}");
    }
}

/// Damaged rather than gone: still told by their first bytes.
#[test]
fn a_flipped_bit_in_each_copy_is_a_lost_superblock() {
    let (dir, ids) = pool(0);
    let file = File::options().read(true).write(true).open(root(dir.path())).unwrap();
    for copy in [0, ALLOC_UNIT] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, copy + 50).unwrap();
        file.write_all_at(&[byte[0] ^ 1], copy + 50).unwrap();
    }
    found(dir.path(), &ids, "flipped");
}

/// As by whoever writes a partition table, or the first megabyte of another file, over it.
#[test]
fn so_it_does_where_the_start_of_its_first_copy_is_gone_too() {
    for rewrites in [0, 1, 2] {
        let (dir, ids) = pool(rewrites);
        wipe(dir.path(), 0, SUPERBLOCKS + LOG_BYTES);
        found(dir.path(), &ids, &format!("{rewrites} rewritings"));
    }
}

#[test]
fn nothing_is_guessed() {
    // It has one.
    let (dir, _) = pool(0);
    assert!(refusal(dir.path()).contains("nothing to find"));
    // Nobody knows whose it was.
    wipe(dir.path(), 0, SUPERBLOCKS);
    std::fs::remove_file(dir.path().join("pool.id")).unwrap();
    assert!(refusal(dir.path()).contains("pool.id"));
    // Somebody else lives there.
    let (dir, _) = pool(0);
    wipe(dir.path(), 0, SUPERBLOCKS);
    let file = File::options().write(true).open(root(dir.path())).unwrap();
    file.write_all_at(&[0x53, 0xEF], 1080).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("ext"), "{text}");
    // The log that counts is gone; the other one says so.
    let (dir, _) = pool(1);
    wipe(dir.path(), 0, SUPERBLOCKS);
    wipe(dir.path(), SUPERBLOCKS + 2 * LOG_BYTES, SUPERBLOCKS + 4 * LOG_BYTES);
    let text = refusal(dir.path());
    assert!(text.contains("no journal of its pool that is whole"), "{text}");
    // All of it is gone.
    let (dir, _) = pool(0);
    wipe(dir.path(), 0, SUPERBLOCKS + 4 * LOG_BYTES);
    refusal(dir.path());
    // The pool of another directory.
    let (dir, _) = pool(0);
    let (other, _) = pool(0);
    wipe(dir.path(), 0, SUPERBLOCKS);
    std::fs::copy(other.path().join("pool.id"), dir.path().join("pool.id")).unwrap();
    refusal(dir.path());
}

/// The first page of another pool's root in the place of either copy: `pool.id` says which one
/// counts. It used to be refused for a backup, and the check blamed the wrong copy.
#[test]
fn a_superblock_of_another_pool_beside_ours_is_told_by_the_mark() {
    let (other, _) = pool(0);
    let alien = std::fs::read(root(other.path())).unwrap()[..4096].to_vec();
    for (copy, at) in [(1, 0), (2, ALLOC_UNIT)] {
        let (dir, ids) = pool(1);
        let put = |dir: &Path| {
            let file = File::options().write(true).open(root(dir)).unwrap();
            file.write_all_at(&alien, at).unwrap();
        };
        put(dir.path());
        let report =
            Pool::check_dir(dir.path(), &options(), CheckOptions::default(), &mut |_, _| ())
                .unwrap();
        let issues: Vec<String> = report.issues.iter().map(ToString::to_string).collect();
        let told = format!("warning: superblock copy {copy}, ").replace(", ", ":");
        assert!(issues.len() == 1 && issues[0].starts_with(&told), "{issues:?}");
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        check(&pool, &ids, "beside another's");
        drop(pool);
        let bytes = std::fs::read(root(dir.path())).unwrap();
        let unit = usize::try_from(ALLOC_UNIT).unwrap();
        assert!(bytes[..4096] == bytes[unit..unit + 4096], "it is put right");
        // Nobody says which one counts.
        put(dir.path());
        std::fs::remove_file(dir.path().join("pool.id")).unwrap();
        let refused = Pool::open_dir(dir.path(), &options()).map(drop).unwrap_err().to_string();
        assert!(refused.contains("different pools") && refused.contains("pool.id"), "{refused}");
    }
}

/// A pool whose journal has moved to longer logs.
fn moved() -> (TempDir, Vec<MblockId>) {
    let dir = TempDir::new().unwrap();
    let background = Options { background: true, ..options() };
    let pool = Pool::open_or_create(dir.path(), &background).unwrap();
    let ids: Vec<_> = (0..5).map(|n| object(&pool, n)).collect();
    for n in 0..5_u8 {
        pool.set_property(&format!("p{n}"), &[n; 1000]).unwrap();
    }
    let mut n = 0;
    while metric(&pool, "mpool_journal_moves_total") == 0 {
        // More state than fills half of a log; then the same again, until it has moved.
        pool.set_property(&format!("more-{}", n % 160), &[9; 1000]).unwrap();
        n += 1;
        assert!(n < 50_000, "the journal does not move");
    }
    pool.grow_volume(VolumeId::ROOT, CAPACITY).unwrap();
    drop(Arc::into_inner(pool));
    (dir, ids)
}

#[test]
fn a_journal_that_moved_is_found_where_it_is() {
    let (dir, ids) = moved();
    wipe(dir.path(), 0, SUPERBLOCKS);
    // The first logs are free ground now, and tell it.
    let text = std::fs::read(root(dir.path())).unwrap();
    let first = usize::try_from(SUPERBLOCKS).unwrap();
    assert_eq!((&text[first..first + 4], text[first + 6]), (&b"MDCF"[..], 5));
    let found = found(dir.path(), &ids, "moved");
    assert!(found.twice && found.offset > SUPERBLOCKS + 2 * LOG_BYTES, "{found:?}");
}

/// What is left of the journal is one copy that lies where no pool begins one, and something else
/// has taken the place of the first logs: nothing but its frames says how long the log is.
#[test]
fn one_copy_of_a_journal_that_moved_is_enough() {
    let (dir, ids) = moved();
    let bytes = std::fs::read(root(dir.path())).unwrap();
    let begins = |at: &usize| bytes[*at..*at + 4] == *b"MDCF" && bytes[*at + 6] == 2;
    let first = usize::try_from(SUPERBLOCKS + 4 * LOG_BYTES).unwrap();
    let unit = usize::try_from(ALLOC_UNIT).unwrap();
    let copies: Vec<u64> =
        (first..bytes.len()).step_by(unit).filter(begins).map(|at| at as u64).collect();
    let [one, two] = copies[..] else { panic!("{copies:?}") };
    wipe(dir.path(), 0, SUPERBLOCKS + 4 * LOG_BYTES);
    wipe(dir.path(), one, two);
    let found = found(dir.path(), &ids, "one copy");
    assert_eq!((found.offset, found.twice), (two, false));
}
