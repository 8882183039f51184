//! Long objects in scattered space: they are written, read by every path, verified, moved and
//! deleted like any other, and a volume that is full of short ranges still takes them.

#![expect(clippy::unwrap_used, reason = "a test: unwrapping is its way to fail")]

use mpool::{
    CheckOptions, Class, Error, IO_ALIGN, IoBuf, Mblock, MblockId, Options, Pool, Priority,
    ScrubOptions, ScrubOwners, ScrubTarget,
};
use std::{path::Path, sync::Arc};

const MIB: usize = 1 << 20;

fn options() -> Options {
    Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 40 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        spare_pct: 0,
        background: false,
        ..Options::default()
    }
}

/// Bytes of which no two pages are alike.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let word = |n: usize| (seed << 32 | n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..len / 8).flat_map(|n| word(n).to_le_bytes()).collect()
}

fn write(pool: &Arc<Pool>, seed: u64, len: usize) -> mpool::Result<Mblock> {
    let mut writer = pool.allocate(len as u64, Priority::Flush)?;
    // In odd parts, so that chunks end anywhere.
    for part in content(seed, len).chunks(300_008) {
        writer.append(part)?;
    }
    Ok(pool.commit(vec![writer], &[])?.remove(0))
}

/// Fills the volume with objects of 2 MiB and deletes every other one.
fn scattered(dir: &Path) -> Arc<Pool> {
    let pool = Pool::create_dir(dir, &options()).unwrap();
    let mut ids = Vec::new();
    let full = loop {
        match write(&pool, 1, 2 * MIB - 100_000) {
            Ok(mblock) => ids.push(mblock.id()),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    let every_other: Vec<MblockId> = ids.into_iter().step_by(2).collect();
    pool.commit(vec![], &every_other).unwrap();
    pool
}

fn pieces(pool: &Pool, id: MblockId) -> usize {
    pool.raw_pieces(ScrubTarget::Mblock(id)).len()
}

fn check(pool: &Arc<Pool>, id: MblockId, seed: u64) {
    let mblock = pool.mblock(id).unwrap();
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let wanted = content(seed, len);
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[..len] == wanted[..], "{id} reads another's bytes");
    let map = pool.map(&[mblock], Class::Warm).unwrap();
    let mut scratch = IoBuf::zeroed(64 << 10);
    // Across every boundary that there can be.
    for at in (60_000..len - 70_000).step_by(64 << 10) {
        let range = at as u64..at as u64 + 60_000;
        let seen = map.read(0, range, &mut scratch).unwrap();
        assert!(*seen == wanted[at..at + 60_000], "{id} shows another's bytes at {at}");
    }
}

#[test]
fn a_long_object_in_pieces_is_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let pool = scattered(dir.path());
    let len = pool.volumes()[0].len_bytes;
    let longest = pool.volumes()[0].free_extents.longest_bytes;
    assert!(longest < 3 << 20, "{longest}");
    let long = write(&pool, 2, 6 * MIB).unwrap().id();
    assert!((3..=8).contains(&pieces(&pool, long)), "{}", pieces(&pool, long));
    assert_eq!(pool.volumes()[0].len_bytes, len, "the volume did not grow");
    check(&pool, long, 2);
    // What ends early gives the rest of its pieces back.
    let free = pool.info().free_bytes;
    let mut writer = pool.allocate(7 << 20, Priority::Flush).unwrap();
    writer.append(&content(3, 300_000)).unwrap();
    let short = pool.commit(vec![writer], &[]).unwrap().remove(0).id();
    assert_eq!(pieces(&pool, short), 1);
    assert_eq!(free - pool.info().free_bytes, 320 << 10, "five units");
    drop(pool);

    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    check(&pool, long, 2);
    let owners = ScrubOwners::default();
    pool.scrub(&ScrubOptions::default(), &owners).unwrap();
    assert_eq!(pool.scrub_progress().findings_total, 0);
    let used = pool.info().used_bytes;
    pool.commit(vec![], &[long]).unwrap();
    assert_eq!(used - pool.info().used_bytes, (6 << 20) + (64 << 10), "and its checksums");
    drop(pool);
    let whole = CheckOptions { data: true };
    let report = Pool::check_dir(dir.path(), &options(), whole, &mut |_, _| ()).unwrap();
    assert_eq!(report.issues.len(), 0, "{:?}", report.issues);
}

/// Compaction found no extent on a volume half of which was free.
#[test]
fn what_is_free_in_short_ranges_can_be_used_to_the_last_long_object() {
    let dir = tempfile::tempdir().unwrap();
    let pool = scattered(dir.path());
    let free = pool.info().free_bytes;
    let mut taken = 0;
    while let Ok(mblock) = write(&pool, 4, 4 * MIB) {
        taken += mblock.len_bytes();
        check(&pool, mblock.id(), 4);
    }
    assert!(taken * 10 >= free * 8, "{taken} of {free}");
}
