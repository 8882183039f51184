//! The pool on a real file: objects, journals, segments and properties across a reopen; limits;
//! errors that name what to do. Where the temporary directory refuses direct IO, the page cache is
//! used.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, Error, IO_ALIGN, IoBackend, IoBuf, Mblock, MblockId, MdcRoom, Options, Pool,
    Priority, Scope,
};
use std::{path::Path, sync::Arc};

fn options() -> Options {
    Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        ..Options::default()
    }
}

fn open(dir: &Path) -> Arc<Pool> {
    Pool::open_or_create(dir, &options()).unwrap()
}

fn written(pool: &Arc<Pool>, byte: u8, len: usize) -> mpool::MblockWriter {
    let mut writer = pool.allocate(len as u64, Priority::Flush).unwrap();
    writer.append(&vec![byte; len]).unwrap();
    writer
}

fn bytes_of(mblock: &Mblock) -> Vec<u8> {
    let len = usize::try_from(mblock.len_bytes()).unwrap();
    let mut buf = IoBuf::zeroed(len.next_multiple_of(IO_ALIGN));
    mblock.read_at(0, &mut buf).unwrap();
    assert!(buf[len..].iter().all(|b| *b == 0), "the tail reads as zeros");
    buf[..len].to_vec()
}

#[test]
fn everything_survives_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, mdc_id, segment_id, uuid) = {
        let pool = open(dir.path());
        let made =
            pool.commit(vec![written(&pool, 1, 3_000_000), written(&pool, 2, 17)], &[]).unwrap();
        let gone = pool.commit(vec![written(&pool, 3, 100)], &[]).unwrap();
        pool.commit(vec![], &[gone[0].id()]).unwrap();
        drop(written(&pool, 4, 5000));
        let mdc_id = pool.create_mdc(256 << 10).unwrap();
        let mdc = pool.open_mdc(mdc_id, &mut |_| panic!("a fresh journal is empty")).unwrap();
        mdc.append(b"first", MdcRoom::Usual, || ()).unwrap();
        mdc.append(b"second", MdcRoom::Usual, || ()).unwrap();
        let segment = pool.create_segment(1 << 20).unwrap();
        segment.write_durable_at(8192, &[9; 4096]).unwrap();
        pool.set_property("a/name", b"value").unwrap();
        let ids: Vec<_> = made.iter().map(Mblock::id).collect();
        (ids, mdc_id, segment.id(), pool.info().uuid)
    };
    let pool = open(dir.path());
    assert_eq!(pool.info().uuid, uuid);
    assert_eq!(pool.mblock_ids(), ids);
    assert_eq!(bytes_of(&pool.mblock(ids[0]).unwrap()), vec![1; 3_000_000]);
    assert_eq!(bytes_of(&pool.mblock(ids[1]).unwrap()), vec![2; 17]);
    let mut records = Vec::new();
    let mdc = pool.open_mdc(mdc_id, &mut |r| {
        records.push(r.to_vec());
        Ok(())
    });
    assert_eq!(records, [&b"first"[..], b"second"]);
    assert_eq!(mdc.unwrap().id(), mdc_id);
    let segment = pool.open_segment(segment_id).unwrap();
    let mut page = [0; 8192];
    segment.read_at(4096, &mut page).unwrap();
    assert_eq!((page[0], page[4096]), (0, 9));
    assert_eq!(pool.property("a/name").unwrap(), b"value");
    assert_eq!(pool.property("other"), None);
}

#[test]
fn ids_are_never_given_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen: Vec<MblockId> = Vec::new();
    for _ in 0..3 {
        let pool = open(dir.path());
        for _ in 0..3 {
            // Never committed: only the persisted limit remembers them.
            let id = pool.allocate(1, Priority::Flush).unwrap().id();
            assert!(!seen.contains(&id));
            seen.push(id);
        }
    }
}

#[test]
fn an_extent_is_free_when_the_last_handle_of_a_deleted_object_drops() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let before = pool.info().used_bytes;
    let mblock = pool.commit(vec![written(&pool, 1, 100_000)], &[]).unwrap().remove(0);
    assert_eq!(pool.info().used_bytes, before + 2 * ALLOC_UNIT);
    pool.commit(vec![], &[mblock.id()]).unwrap();
    assert!(matches!(pool.mblock(mblock.id()), Err(Error::NoSuchObject { .. })));
    assert_eq!(pool.info().used_bytes, before + 2 * ALLOC_UNIT, "a reader still holds it");
    assert_eq!(bytes_of(&mblock), vec![1; 100_000]);
    drop(mblock);
    assert_eq!(pool.info().used_bytes, before);
}

#[test]
fn the_unused_end_of_an_object_is_free_after_commit() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let before = pool.info().used_bytes;
    let mut writer = pool.allocate(10 << 20, Priority::Flush).unwrap();
    writer.append(&vec![5; 70_000]).unwrap();
    let mblock = pool.commit(vec![writer], &[]).unwrap().remove(0);
    assert_eq!(pool.info().used_bytes, before + 2 * ALLOC_UNIT);
    assert_eq!(bytes_of(&mblock), vec![5; 70_000]);
}

#[test]
fn a_pool_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let refused = Pool::open_dir(dir.path(), &options());
    assert!(matches!(refused, Err(Error::InUse { .. })));
    drop(pool);
    Pool::open_dir(dir.path(), &options()).unwrap();
}

#[test]
fn a_full_pool_says_so_and_goes_on_reading_and_deleting() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let mut ids = Vec::new();
    let full = loop {
        match pool.allocate(8 << 20, Priority::Flush) {
            Ok(mut writer) => {
                writer.append(&vec![1; 8 << 20]).unwrap();
                ids.push(pool.commit(vec![writer], &[]).unwrap()[0].id());
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { need_bytes, .. } if need_bytes > 8 << 20), "{full}");
    assert_eq!(full.scope(), Scope::Call);
    assert!(ids.len() >= 6, "{} objects of 8 MiB in 64 MiB", ids.len());
    assert_eq!(bytes_of(&pool.mblock(ids[0]).unwrap()).len(), 8 << 20);
    pool.commit(vec![], &ids[..1]).unwrap();
    drop(pool.allocate(8 << 20, Priority::Flush).unwrap());
}

#[test]
fn the_disk_reserve_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let greedy = Options { reserve_bytes: Some(1 << 52), ..options() };
    let refused = Pool::open_or_create(dir.path(), &greedy).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Unusable { .. }), "{refused:?}");
    // It said that the whole limit of the pool, 1 TiB, was free.
    let text = refused.to_string();
    for part in
        ["capacity.vol", "more bytes are needed", "the disk has", "4503599627370496 are left"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_is_read_through_the_queue_is_what_is_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let mut writer = pool.allocate(30_000, Priority::Flush).unwrap();
    let bytes: Vec<u8> = (0..30_000u32).map(|n| n.to_le_bytes()[1]).collect();
    writer.append(&bytes).unwrap();
    let mblock = pool.commit(vec![writer], &[]).unwrap().remove(0);
    let map = pool.map(std::slice::from_ref(&mblock), mpool::Class::Cold).unwrap();
    let read = |range: std::ops::Range<u64>| {
        let (tell, told) = std::sync::mpsc::channel();
        let done = Box::new(move |outcome| tell.send(outcome).unwrap());
        mblock.read_async(range, (map.queue(), Priority::Read), done);
        told.recv().unwrap()
    };
    let page = 4096;
    for range in [0..page, 0..8 * page, page..3 * page, 6 * page..8 * page] {
        let got = read(range.clone()).unwrap();
        let mut expect = IoBuf::zeroed(got.len());
        mblock.read_at(range.start, &mut expect).unwrap();
        assert_eq!(got[..], expect[..], "{range:?}");
    }
    let last = read(7 * page..8 * page).unwrap();
    assert!(last[30_000 - 7 * 4096..].iter().all(|byte| *byte == 0), "behind the end");
    for range in [1..page, 0..100, page..page, 7 * page..9 * page] {
        let error = read(range).unwrap_err();
        assert!(error.to_string().contains("must be pages below 32768"), "{error}");
    }
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let text = |error: Error| {
        assert_eq!(error.scope(), Scope::Call, "{error}");
        error.to_string()
    };
    let unknown = MblockId::new(999_999).unwrap();
    let error = text(pool.commit(vec![], &[unknown]).unwrap_err());
    assert_eq!(error, "mb-f423f does not exist");
    let mblock = pool.commit(vec![written(&pool, 1, 10)], &[]).unwrap().remove(0);
    let twice = pool.commit(vec![], &[mblock.id(), mblock.id()]).map(|_| ());
    assert!(text(twice.unwrap_err()).contains("does not exist"));
    assert!(text(mblock.read_at(1, &mut IoBuf::zeroed(4096)).unwrap_err()).contains("4096"));
    let mut writer = pool.allocate(1, Priority::Flush).unwrap();
    assert_eq!(writer.capacity_bytes(), 15 * 4096, "a unit, less a page of checksums");
    let long = writer.append(&vec![0; 70_000]).unwrap_err();
    assert!(text(long).contains("61440"));
    let mdc_id = pool.create_mdc(1 << 20).unwrap();
    let mdc = pool.open_mdc(mdc_id, &mut |_| Ok(())).unwrap();
    let second = pool.open_mdc(mdc_id, &mut |_| Ok(())).map(|_| ());
    assert!(text(second.unwrap_err()).contains("open already"));
    assert!(text(mdc.append(b"", MdcRoom::Usual, || ()).unwrap_err()).contains("1..=1048576"));
    let segment = pool.create_segment(1).unwrap();
    assert!(text(segment.write_at(100, &[0; 4096]).unwrap_err()).contains("units of 4096"));
    assert!(text(segment.write_at(65536, &[0; 4096]).unwrap_err()).contains("65536"));
    assert!(text(pool.set_property("", b"").unwrap_err()).contains("1..=64"));
    assert!(text(pool.set_property("x", &[0; 1025]).unwrap_err()).contains("0..=1024"));
}

#[test]
fn a_segment_begins_with_as_many_zeros_as_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    let whole = |segment: &mpool::Segment| {
        let mut bytes = IoBuf::zeroed(1 << 20);
        segment.read_at(0, &mut bytes).unwrap();
        bytes
    };
    // All of the volume has been written to.
    let mut sevens = IoBuf::zeroed(1 << 20);
    sevens.fill(7);
    let mut old = Vec::new();
    while let Ok(segment) = pool.create_segment(1 << 20) {
        segment.write_at(0, &sevens).unwrap();
        old.push(segment.id());
    }
    for id in old {
        pool.delete_segment(id).unwrap();
    }
    for (zeros, len) in [(0, 0), (1, 64 << 10), (200_000, 256 << 10), (u64::MAX, 1 << 20)] {
        let segment = pool.create_segment_with_start(1 << 20, zeros).unwrap();
        let bytes = whole(&segment);
        assert!(bytes[..len].iter().all(|byte| *byte == 0), "{zeros}");
        assert!(bytes[len..].iter().all(|byte| *byte == 7), "{zeros}");
    }
}

#[test]
fn a_place_that_is_no_pool_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("capacity.vol"), vec![b'x'; 200_000]).unwrap();
    let refused = Pool::open_or_create(dir.path(), &options()).map(|_| ());
    let Err(Error::Unusable { path, reason }) = refused else { panic!("{refused:?}") };
    assert!(path.ends_with("capacity.vol"));
    assert!(reason.contains("holds no pool") && reason.contains("text"), "{reason}");
    let empty = tempfile::tempdir().unwrap();
    let missing = Pool::open_dir(empty.path(), &options()).map(|_| ());
    assert!(matches!(missing, Err(Error::Unusable { .. })), "{missing:?}");
}

#[test]
fn both_back_ends_write_the_same_pool() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for (round, io) in [IoBackend::Threads, IoBackend::Auto, IoBackend::Threads].iter().enumerate()
    {
        let pool = Pool::open_or_create(dir.path(), &Options { io: *io, ..options() }).unwrap();
        let byte = u8::try_from(round).unwrap();
        let made = pool.commit(vec![written(&pool, byte, 2_500_000)], &[]).unwrap();
        ids.push((made[0].id(), byte));
        for (id, byte) in &ids {
            assert_eq!(bytes_of(&pool.mblock(*id).unwrap()), vec![*byte; 2_500_000]);
        }
    }
}
