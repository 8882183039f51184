//! Pools as programs of other days left them, checked in as images (`golden/README.md` says which
//! and how): each opens, holds what was put into it, is sound by check and scrub, and goes on.
//!
//! ```sh
//! cargo test -p millpond-mpool --test golden -- --ignored regenerate_the_image_of_today
//! ```

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    CheckOptions, IO_ALIGN, IoBackend, IoBuf, Lifetime, MblockId, MdcId, MdcRoom, MediaClass,
    NewVolume, Options, Placement, Pool, Priority, ScrubOptions, ScrubOwners, SegmentId, Severity,
    VolumeKind,
};
use mpool_sim::image;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// An image and what is in it.
struct Golden {
    name: &'static str,
    image: &'static [u8],
    /// Ids and lengths.
    mblocks: &'static [(u64, u64)],
    volumes: usize,
    pool_name: Option<&'static str>,
    /// The features that its superblock names, and those that it names once it has been opened.
    features: [&'static str; 2],
    /// Mblocks without checksums.
    unverifiable: u64,
}

const FEATURES_ONCE: &str = "placed-mblocks, volumes, mdc-deletion";
const ALL_FEATURES: &str = "placed-mblocks, volumes, mdc-deletion, twin-logs";
/// What [`build`] makes.
const BUILT: &[(u64, u64)] = &[
    (1, 1),
    (3, 10_000),
    (4, 70_000),
    (5, 5000),
    (6, 20_000),
    (7, 3000),
    (8, 30_000),
    (10, 50_000),
    (11, 4096),
];

const IMAGES: [Golden; 5] = [
    Golden {
        name: "version 1",
        image: include_bytes!("golden/version-1.img"),
        mblocks: &[(1, 1), (3, 10_000), (4, 70_000)],
        volumes: 1,
        pool_name: None,
        features: ["none", "none"],
        unverifiable: 3,
    },
    Golden {
        name: "before features",
        image: include_bytes!("golden/before-features.img"),
        mblocks: BUILT,
        volumes: 3,
        pool_name: Some("golden"),
        features: ["none", FEATURES_ONCE],
        unverifiable: 0,
    },
    Golden {
        name: "before sessions",
        image: include_bytes!("golden/before-sessions.img"),
        mblocks: BUILT,
        volumes: 3,
        pool_name: Some("golden"),
        features: [FEATURES_ONCE, FEATURES_ONCE],
        unverifiable: 0,
    },
    Golden {
        name: "before twin logs",
        image: include_bytes!("golden/before-twin-logs.img"),
        mblocks: BUILT,
        volumes: 3,
        pool_name: Some("golden"),
        features: [FEATURES_ONCE, FEATURES_ONCE],
        unverifiable: 0,
    },
    Golden {
        name: "today",
        image: include_bytes!("golden/today.img"),
        mblocks: BUILT,
        volumes: 3,
        pool_name: Some("golden"),
        features: [ALL_FEATURES, ALL_FEATURES],
        unverifiable: 0,
    },
];

fn options() -> Options {
    Options {
        io: IoBackend::Threads,
        queue_depth: 2,
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 << 20,
        grow_step_bytes: 1 << 20,
        reserve_bytes: Some(0),
        spare_pct: 0,
        background: false,
        ..Options::default()
    }
}

/// Blocks of 512 bytes that name their object and place, and are otherwise one byte each.
fn content(id: MblockId, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).unwrap();
    let mut bytes = Vec::new();
    for block in 0_u64.. {
        if bytes.len() >= len {
            break;
        }
        bytes.extend_from_slice(&(id.get() << 32 | block).to_le_bytes());
        let fill = u8::try_from((id.get() + block) % 251).unwrap() + 1;
        bytes.resize(bytes.len() + 504, fill);
    }
    bytes.truncate(len);
    bytes
}

fn put(pool: &Arc<Pool>, lens: &[u64], class: MediaClass, delete: &[MblockId]) -> Vec<MblockId> {
    let place = |lifetime| Placement { class, lifetime, ..Placement::from(Priority::Flush) };
    let lifetimes = [Lifetime::Short, Lifetime::Medium, Lifetime::Long].into_iter().cycle();
    let writers = lens.iter().zip(lifetimes).map(|(len, lifetime)| {
        let mut writer = pool.allocate(*len, place(lifetime)).unwrap();
        let bytes = content(writer.id(), *len);
        writer.append(&bytes).unwrap();
        writer
    });
    let created = pool.commit(writers.collect(), delete).unwrap();
    created.iter().map(mpool::Mblock::id).collect()
}

fn staging(path: &str, kind: VolumeKind, capacity_bytes_max: u64) -> NewVolume {
    let path = PathBuf::from(path);
    NewVolume { path, kind, class: MediaClass::Staging, capacity_bytes_max, force: false }
}

/// A pool of everything: three volumes, one of them of zones, and one that was emptied and removed;
/// objects on all of them, journals, a segment, properties; and of each something deleted.
fn build(dir: &Path) {
    use MediaClass::{Capacity, Staging};
    let pool = Pool::open_or_create(dir, &options()).unwrap();
    pool.rename("golden").unwrap();
    let first = put(&pool, &[1, 4096, 10_000], Capacity, &[]);
    put(&pool, &[70_000], Capacity, &first[1..2]);
    let gone = pool.add_volume(&staging("gone.vol", VolumeKind::File, 2 << 20)).unwrap();
    put(&pool, &[5000], Staging, &[]);
    pool.add_volume(&staging("fast.vol", VolumeKind::File, 4 << 20)).unwrap();
    pool.evacuate_volume(gone, &mut |_| ()).unwrap();
    pool.remove_volume(gone).unwrap();
    fs::remove_file(dir.join("gone.vol")).unwrap();
    put(&pool, &[20_000], Staging, &[]);
    pool.add_volume(&staging("zones.vol", VolumeKind::EmulatedZoned, 16 << 20)).unwrap();
    let zoned = put(&pool, &[3000, 30_000, 100, 50_000], Staging, &[]);
    put(&pool, &[4096], Staging, &zoned[2..3]);
    let doomed = pool.create_mdc(64 << 10).unwrap();
    pool.delete_mdc(doomed).unwrap();
    let mdc = pool.create_named_mdc("journal", 64 << 10).unwrap();
    let journal = pool.open_mdc(mdc, &mut |_| Ok(())).unwrap();
    for n in 1..=3 {
        journal.append(&record(n), MdcRoom::Usual, || ()).unwrap();
    }
    let doomed = pool.create_segment(1).unwrap().id();
    let segment = pool.create_segment(100_000).unwrap();
    segment.write_durable_at(4096, &[0x5a; 4096]).unwrap();
    pool.set_property("segment", &segment.id().get().to_le_bytes()).unwrap();
    pool.delete_segment(doomed).unwrap();
}

fn record(n: u8) -> Vec<u8> {
    vec![n; 1000 * usize::from(n)]
}

fn unpacked(golden: &Golden) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    image::unpack(golden.image, dir.path()).unwrap();
    dir
}

fn number(pool: &Pool, property: &str) -> u64 {
    u64::from_le_bytes(pool.property(property).unwrap().try_into().unwrap())
}

fn verify(pool: &Arc<Pool>, golden: &Golden, at: &str) {
    let found: Vec<(u64, u64)> = pool
        .mblock_ids()
        .iter()
        .map(|id| (id.get(), pool.mblock(*id).unwrap().len_bytes()))
        .collect();
    assert_eq!(found, golden.mblocks, "{at}");
    for (id, len) in golden.mblocks {
        let mblock = pool.mblock(MblockId::new(*id).unwrap()).unwrap();
        let bytes = usize::try_from(*len).unwrap();
        let mut buf = IoBuf::zeroed(bytes.next_multiple_of(IO_ALIGN));
        mblock.read_at(0, &mut buf).unwrap();
        assert!(buf[..bytes] == content(mblock.id(), *len)[..], "{at}: {}", mblock.id());
    }
    assert_eq!(pool.volumes().len(), golden.volumes, "{at}");
    assert_eq!(pool.name().as_deref(), golden.pool_name, "{at}");
    assert_eq!(pool.mdc_ids().len(), 1, "{at}");
    assert_eq!(pool.segment_ids().len(), 1, "{at}");
    let mut records = Vec::new();
    let id = MdcId::new(number(pool, "journal")).unwrap();
    let mut replay = |record: &[u8]| {
        records.push(record.to_vec());
        Ok(())
    };
    drop(pool.open_mdc(id, &mut replay).unwrap());
    assert_eq!(records, [record(1), record(2), record(3)], "{at}");
    let segment = pool.open_segment(SegmentId::new(number(pool, "segment")).unwrap()).unwrap();
    let mut pages = IoBuf::zeroed(3 * IO_ALIGN);
    segment.read_at(0, &mut pages).unwrap();
    for (page, byte) in pages.chunks(IO_ALIGN).zip([0, 0x5a, 0]) {
        assert!(page.iter().all(|b| *b == byte), "{at}: a page of the segment");
    }
}

/// Nothing is wrong, but perhaps something is worth a note; returns the notes.
fn check(dir: &Path, golden: &Golden, at: &str) -> String {
    let how = CheckOptions { data: true };
    let report = Pool::check_dir(dir, &options(), how, &mut |_, _| ()).unwrap();
    let notes: Vec<String> = report.issues.iter().map(ToString::to_string).collect();
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{at}: {notes:?}");
    assert_eq!(report.findings, [], "{at}");
    assert_eq!(report.mblocks, golden.mblocks.len() as u64, "{at}");
    assert_eq!(report.unverifiable, golden.unverifiable, "{at}");
    notes.concat()
}

#[test]
fn every_image_opens_and_holds_what_was_put_into_it() {
    for golden in &IMAGES {
        let at = golden.name;
        let dir = unpacked(golden);
        let notes = check(dir.path(), golden, at);
        let [before, after] = golden.features;
        assert_eq!(notes.contains(after), before != after, "{at}: {notes}");
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        assert_eq!(pool.info().features.to_string(), after, "{at}");
        verify(&pool, golden, at);
        let fast = ScrubOptions { bytes_per_s: 0, ..ScrubOptions::default() };
        let scrub = pool.scrub(&fast, &ScrubOwners::default()).unwrap();
        assert_eq!((scrub.findings_total, scrub.passes), (0, 1), "{at}: {:?}", scrub.findings);
        drop(pool);
        assert_eq!(check(dir.path(), golden, at), "", "{at}");
        verify(&Pool::open_dir(dir.path(), &options()).unwrap(), golden, at);
    }
}

/// What is written into an old pool is written as today, and named; what was there stays.
#[test]
fn every_image_goes_on() {
    for golden in &IMAGES {
        let at = golden.name;
        let dir = unpacked(golden);
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        let lens = [9000, 123_456];
        let classes = [MediaClass::Capacity, MediaClass::Staging];
        let new = classes.map(|class| put(&pool, &lens, class, &[])).concat();
        assert!(pool.info().features.to_string().starts_with("placed-mblocks"), "{at}");
        drop(pool);
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        pool.commit(vec![], &new).unwrap();
        verify(&pool, golden, at);
        drop(pool);
        check(dir.path(), golden, at);
    }
}

/// A pool from before its logs were kept twice has them so once they are made anew.
#[test]
fn an_old_pool_comes_to_keep_its_logs_twice() {
    for golden in &IMAGES[..4] {
        let at = golden.name;
        let dir = unpacked(golden);
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        let log_bytes = pool.info().journal_log_bytes;
        let twice = || pool.info().features.to_string().contains("twin-logs");
        for n in 0.. {
            if pool.info().journal_log_bytes > log_bytes {
                break;
            }
            assert!(!twice(), "{at}: the old logs are kept once");
            pool.set_property(&format!("p{n}"), &[7; 1000]).unwrap();
            while pool.tidy() {}
        }
        assert!(twice(), "{at}");
        let id = pool.create_mdc(64 << 10).unwrap();
        drop(pool);
        check(dir.path(), golden, at);
        let pool = Pool::open_dir(dir.path(), &options()).unwrap();
        assert_eq!(pool.property("p0"), Some(vec![7; 1000]), "{at}");
        pool.delete_mdc(id).unwrap();
        verify(&pool, golden, at);
    }
}

/// The images are part of the repository: small they stay.
#[test]
fn images_are_small() {
    for golden in &IMAGES {
        assert!(golden.image.len() < 20 << 10, "{}: {}", golden.name, golden.image.len());
    }
}

#[test]
fn what_is_built_today_is_what_the_image_of_today_holds() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let today = &IMAGES[4];
    assert_eq!(check(dir.path(), today, "built"), "");
    verify(&Pool::open_dir(dir.path(), &options()).unwrap(), today, "built");
}

#[test]
#[ignore = "writes tests/golden/today.img: for a change of format, after the old image got a name"]
fn regenerate_the_image_of_today() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/today.img");
    fs::write(path, image::pack(dir.path()).unwrap()).unwrap();
}
