//! Check names what is wrong with a pool and writes nothing; destroy leaves nothing of it.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    CheckOptions, CheckReport, Device, Error, MdcRoom, MediaClass, NewVolume, Options, Pool,
    Priority, ScrubTarget, Severity, VolumeId, VolumeKind,
};
use mpool_sim::SimDevice;
use std::{collections::BTreeMap, os::unix::fs::FileExt, path::Path, sync::Arc};

const ROOT: &str = "capacity.vol";

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

fn put(pool: &Arc<Pool>, len: usize, class: MediaClass) -> mpool::MblockId {
    let placement = mpool::Placement { class, ..Priority::Flush.into() };
    let mut writer = pool.allocate(len as u64, placement).unwrap();
    writer.append(&vec![7; len]).unwrap();
    pool.commit(vec![writer], &[]).unwrap()[0].id()
}

/// A closed pool of two volumes in files, and its mblocks.
fn make(dir: &Path) -> Vec<mpool::MblockId> {
    let pool = Pool::open_or_create(dir, &options()).unwrap();
    pool.rename("pond").unwrap();
    let fast = NewVolume {
        path: "fast.vol".into(),
        kind: VolumeKind::File,
        class: MediaClass::Staging,
        capacity_bytes_max: 32 << 20,
        force: false,
    };
    pool.add_volume(&fast).unwrap();
    let mdc = pool.create_mdc(128 << 10).unwrap();
    let mdc = pool.open_mdc(mdc, &mut |_| Ok(())).unwrap();
    (0..5).for_each(|_| mdc.append(b"record", MdcRoom::Usual, || ()).unwrap());
    let classes = [MediaClass::Capacity, MediaClass::Staging];
    (0..6).map(|n| put(&pool, 10_000 * (n + 1), classes[n % 2])).collect()
}

fn check(dir: &Path, data: bool) -> CheckReport {
    let mut goal = (0, 0);
    let mut progress = |done, of| goal = (done, of);
    let report = Pool::check_dir(dir, &options(), CheckOptions { data }, &mut progress).unwrap();
    assert!(!data || goal.0 == goal.1 && goal.1 > 0, "all data is verified: {goal:?}");
    report
}

/// The one issue, which must be of this severity and about this.
fn one(report: &CheckReport, severity: Severity, what: &str) -> String {
    assert_eq!(report.issues.len(), 1, "{:#?}", report.issues);
    assert_eq!((report.worst(), report.issues[0].what.as_str()), (Some(severity), what));
    report.issues[0].to_string()
}

fn contents(dir: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
}

#[test]
fn a_sound_pool_has_no_issues_and_is_told_in_numbers() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let before = contents(dir.path());
    let report = check(dir.path(), true);
    assert_eq!(report.issues, []);
    assert_eq!(report.name.as_deref(), Some("pond"));
    assert_eq!((report.volumes, report.mblocks, report.journals), (2, 6, 1));
    assert!(contents(dir.path()) == before, "nothing was written");
    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    let busy = Pool::check_dir(dir.path(), &options(), CheckOptions::default(), &mut |_, _| ());
    assert!(matches!(busy, Err(Error::InUse { .. })), "{busy:?}");
    drop(pool);
    assert_eq!(check(dir.path(), false).issues, []);
}

#[test]
fn what_opening_repairs_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    flip(&dir.path().join(ROOT), 64 << 10);
    let before = contents(dir.path());
    for _ in 0..2 {
        let text = one(&check(dir.path(), false), Severity::Warning, "superblock copy 2");
        assert!(text.contains("writes this copy again"), "{text}");
    }
    assert!(contents(dir.path()) == before, "nothing was repaired");
    drop(Pool::open_dir(dir.path(), &options()).unwrap());
    assert_eq!(check(dir.path(), false).issues, []);
}

#[test]
fn rot_in_data_is_found_when_asked_for_and_named_by_place() {
    let dir = tempfile::tempdir().unwrap();
    let ids = make(dir.path());
    let file = dir.path().join("fast.vol");
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(64).position(|window| window == [7; 64]).unwrap();
    flip(&file, at as u64 + 5000);
    assert_eq!(check(dir.path(), false).issues, [], "structures are sound");
    let report = check(dir.path(), true);
    let text = one(&report, Severity::Error, &ids[1].to_string());
    assert!(text.contains("4096 bytes at 4096") && text.contains("vol-1"), "{text}");
    assert_eq!(report.findings[0].target, ScrubTarget::Mblock(ids[1]));
}

#[test]
fn a_missing_volume_and_a_wrong_one_and_a_stranger_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let (fast, aside) = (dir.path().join("fast.vol"), dir.path().join("aside.vol"));
    std::fs::copy(&fast, &aside).unwrap();
    let text = one(&check(dir.path(), false), Severity::Note, "vol-1");
    assert!(text.contains("aside.vol"), "{text}");
    std::fs::remove_file(&aside).unwrap();
    for copy in [0, 64 << 10] {
        flip(&fast, copy + 20);
    }
    let report = check(dir.path(), false);
    assert_eq!((report.worst(), report.issues.len()), (Some(Severity::Error), 2));
    assert_eq!(report.issues[0].what, "label of vol-1");
    assert!(report.issues[0].to_string().contains("right device"), "{:?}", report.issues);
    std::fs::remove_file(&fast).unwrap();
    let report = check(dir.path(), true);
    let whats: Vec<_> = report.issues.iter().map(|issue| issue.what.as_str()).collect();
    assert_eq!(whats[0], "vol-1");
    assert!(report.issues[0].text.contains("fast.vol"));
    assert_eq!(whats.len(), 4, "three objects lay on it: {:#?}", report.issues);
    assert!(report.issues[1..].iter().all(|issue| issue.text.contains("is not here")));
}

#[test]
fn a_damaged_journal_is_an_error_and_a_torn_tail_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let file = dir.path().join(ROOT);
    let bytes = std::fs::read(&file).unwrap();
    let frame_at = |nth: usize| {
        let pages = bytes.chunks(4096).enumerate().skip(32);
        let mut frames = pages.filter(|(_, page)| page.starts_with(b"MDCF"));
        frames.nth(nth).unwrap().0 as u64 * 4096
    };
    let frames = bytes.chunks(4096).filter(|page| page.starts_with(b"MDCF")).count();
    let flip_both = |at: u64, byte: u64| {
        let page = |at: u64| &bytes[usize::try_from(at).unwrap()..][..4096];
        let pages = (0..bytes.len() as u64).step_by(4096).filter(|other| page(*other) == page(at));
        let copies: Vec<u64> = pages.collect();
        assert_eq!(copies.len(), 2, "a log is kept twice");
        for copy in copies {
            flip(&file, copy + byte);
        }
    };
    // The last one is the user's; nobody has its journal open.
    let last = frame_at(frames - 1);
    flip_both(last, 50);
    let text = one(&check(dir.path(), false), Severity::Note, "mdc-1");
    assert!(text.contains("after a crash this is usual"), "{text}");
    flip_both(last, 50);
    // Padding is covered too, and no append leaves it half written.
    flip(&file, last + 60);
    one(&check(dir.path(), false), Severity::Warning, "mdc-1");
    flip(&file, last + 60);
    flip_both(frame_at(3), 50);
    let text = one(&check(dir.path(), false), Severity::Error, "the pool");
    assert!(text.contains("restore"), "{text}");
}

#[test]
fn no_pool_is_told_from_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let none = Pool::check_dir(dir.path(), &options(), CheckOptions::default(), &mut |_, _| ());
    assert!(none.unwrap_err().to_string().contains("does not exist"));
    std::fs::write(dir.path().join(ROOT), vec![0; 1 << 20]).unwrap();
    assert!(one(&check(dir.path(), false), Severity::Error, "the pool").contains("holds no pool"));
    std::fs::write(dir.path().join(ROOT), vec![b'x'; 1 << 20]).unwrap();
    let text = one(&check(dir.path(), false), Severity::Error, "the pool");
    assert!(text.contains("not a Millpond pool"), "{text}");
}

/// On the simulated device every write, flush and growth is counted.
#[test]
fn a_check_makes_no_call_that_changes_anything() {
    let (root, other) = (SimDevice::new(64 << 20), SimDevice::new(64 << 20));
    let pool = Pool::create(Arc::new(root.clone()), &options()).unwrap();
    let id = pool.add_volume_on(Arc::new(other.clone()), MediaClass::Staging).unwrap();
    put(&pool, 100_000, MediaClass::Staging);
    drop(pool);
    root.flip_bit(3, 3);
    let calls = (root.calls(), other.calls());
    let others: [(VolumeId, Arc<dyn Device>); 1] = [(id, Arc::new(other.clone()))];
    let report =
        Pool::check_on(Arc::new(root.clone()), &others, CheckOptions { data: true }).unwrap();
    one(&report, Severity::Warning, "superblock copy 1");
    assert_eq!((root.calls(), other.calls()), calls);
    assert_eq!(report.volumes, 2);
    let alone = Pool::check_on(Arc::new(root), &[], CheckOptions::default()).unwrap();
    assert_eq!(alone.worst(), Some(Severity::Error), "{:?}", alone.issues);
}

#[test]
fn a_destroyed_pool_is_gone_and_can_be_destroyed_only_when_nobody_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let identity = Pool::identify(dir.path(), &options()).unwrap();
    assert_eq!(identity.name.as_deref(), Some("pond"));
    assert_eq!(identity.volumes, [Path::new(ROOT), Path::new("fast.vol")]);
    let pool = Pool::open_dir(dir.path(), &options()).unwrap();
    assert!(matches!(Pool::destroy(dir.path(), &options()), Err(Error::InUse { .. })));
    drop(pool);
    // What is wiped can be seen through a second name of the file.
    let kept = dir.path().join("kept");
    std::fs::hard_link(dir.path().join(ROOT), &kept).unwrap();
    let done = Pool::destroy(dir.path(), &options()).unwrap();
    assert_eq!((done.wiped.len(), done.left.len()), (2, 0), "{done:?}");
    assert_eq!(contents(dir.path()).keys().collect::<Vec<_>>(), ["kept"]);
    let bytes = std::fs::read(&kept).unwrap();
    assert!(bytes[..512].iter().chain(&bytes[65_536..66_048]).all(|byte| *byte == 0));
    assert!(Pool::identify(dir.path(), &options()).is_err());
}

#[test]
fn names_are_kept_and_odd_ones_refused() {
    let pool = Pool::create(Arc::new(SimDevice::new(64 << 20)), &options()).unwrap();
    assert_eq!(pool.name(), None);
    pool.rename("north-1.b").unwrap();
    for bad in ["", "a b", "a/b", "\u{e4}", &"x".repeat(65)] {
        assert!(pool.rename(bad).unwrap_err().to_string().contains("1 to 64"), "{bad}");
    }
    assert_eq!(pool.name().as_deref(), Some("north-1.b"));
}
