//! Volumes of different moments are told apart from volumes that a crash has left, and volumes that
//! are missing are named with what lies on them.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    CheckOptions, Device, Error, MediaClass, NewVolume, Options, Placement, Pool, Priority,
    Severity, VolumeId, VolumeKind,
};
use mpool_sim::SimDevice;
use std::{fs, path::Path, sync::Arc};

const MIB: u64 = 1 << 20;
const ROOT: &str = "capacity.vol";
const FAST: &str = "fast.vol";

fn options() -> Options {
    Options {
        allow_buffered: true,
        allow_volatile: true,
        capacity_bytes_max: 64 * MIB,
        grow_step_bytes: MIB,
        reserve_bytes: Some(0),
        background: false,
        ..Options::default()
    }
}

fn open(dir: &Path) -> mpool::Result<Arc<Pool>> {
    Pool::open_dir(dir, &options())
}

fn refusal<T>(outcome: mpool::Result<T>) -> String {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn put(pool: &Arc<Pool>) {
    let class = MediaClass::Staging;
    let mut writer =
        pool.allocate(50_000, Placement { class, ..Placement::from(Priority::Flush) }).unwrap();
    writer.append(&vec![7; 50_000]).unwrap();
    pool.commit(vec![writer], &[]).unwrap();
}

fn volume(path: &str, class: MediaClass) -> NewVolume {
    let capacity_bytes_max = 32 * MIB;
    NewVolume { path: path.into(), kind: VolumeKind::File, class, capacity_bytes_max, force: false }
}

/// A closed pool of a root and a second volume with something on it.
fn two_volumes(dir: &Path) {
    let pool = Pool::open_or_create(dir, &options()).unwrap();
    pool.add_volume(&volume(FAST, MediaClass::Staging)).unwrap();
    put(&pool);
}

/// What opening and checking say of it: both must tell.
fn told(dir: &Path) -> String {
    let text = refusal(open(dir));
    let report = Pool::check_dir(dir, &options(), CheckOptions::default(), &mut |_, _| ()).unwrap();
    let issue = report.issues.iter().find(|issue| issue.what == "vol-1");
    let issue = issue.unwrap_or_else(|| panic!("{:?}", report.issues));
    assert_eq!(issue.severity, Severity::Error);
    assert!(text.contains(&issue.text), "{text} and {}", issue.text);
    let found = Pool::inspect(dir, &options()).unwrap();
    assert!(found.stale[0].contains(&issue.text), "{found:?}");
    text
}

/// An old copy of one volume opened, its keys were damaged, and check said "sound".
#[test]
fn an_old_copy_of_a_volume_is_told_at_open_and_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let (root, fast) = (dir.path().join(ROOT), dir.path().join(FAST));
    two_volumes(dir.path());
    let old = (fs::read(&root).unwrap(), fs::read(&fast).unwrap());
    put(&open(dir.path()).unwrap());
    let new = (fs::read(&root).unwrap(), fs::read(&fast).unwrap());
    fs::write(&fast, &old.1).unwrap();
    let text = told(dir.path());
    assert!(text.contains("is an older copy of vol-1") && text.contains("backup"), "{text}");
    fs::write(&root, &old.0).unwrap();
    open(dir.path()).map(drop).expect("both are of one moment");
    fs::write(&root, &old.0).unwrap();
    fs::write(&fast, &new.1).unwrap();
    let text = told(dir.path());
    assert!(text.contains("the root volume is an older copy"), "{text}");
    assert!(text.contains("go on with the root of that copy"), "{text}");
    // Both went on from the same moment, each for itself.
    fs::write(&fast, &old.1).unwrap();
    put(&open(dir.path()).unwrap());
    fs::write(&fast, &new.1).unwrap();
    let text = told(dir.path());
    assert!(text.contains("apart from each other"), "{text}");
    fs::write(&root, &new.0).unwrap();
    let pool = open(dir.path()).unwrap();
    assert_eq!(pool.mblock_ids().len(), 2);
}

#[test]
fn a_copy_that_was_made_while_the_pool_was_open_is_told_after_its_close() {
    let dir = tempfile::tempdir().unwrap();
    let fast = dir.path().join(FAST);
    two_volumes(dir.path());
    let pool = open(dir.path()).unwrap();
    put(&pool);
    let hot = fs::read(&fast).unwrap();
    put(&pool);
    drop(pool);
    let closed = fs::read(&fast).unwrap();
    fs::write(&fast, hot).unwrap();
    told(dir.path());
    fs::write(&fast, closed).unwrap();
    open(dir.path()).unwrap();
}

/// Power is cut at every call of opening and closing a pool of two volumes.
#[test]
fn no_crash_is_taken_for_a_stale_copy() {
    let whole = SimDevice::new(16 * MIB);
    let part = |medium: &SimDevice, n: u64| -> Arc<dyn Device> {
        Arc::new(medium.part(n * 8 * MIB..(n + 1) * 8 * MIB))
    };
    let id = VolumeId::new(1).unwrap();
    let open =
        |medium: &SimDevice| Pool::open_with(part(medium, 0), &[(id, part(medium, 1))], &options());
    let pool = Pool::create(part(&whole, 0), &options()).unwrap();
    pool.add_volume_on(part(&whole, 1), MediaClass::Staging).unwrap();
    put(&pool);
    drop(pool);
    let before = whole.calls();
    drop(open(&whole).unwrap());
    let calls = whole.calls() - before;
    assert!(calls >= 8, "two sessions: {calls} calls");
    for cut in 0..calls {
        for seed in 0..3 {
            let medium = whole.after_crash(0);
            medium.cut_at(medium.calls() + cut);
            // A cut in the close shows afterwards only.
            drop(open(&medium));
            // And once more, in the recovery.
            for second in 0..calls {
                let after = medium.after_crash(seed);
                after.cut_at(after.calls() + second);
                drop(open(&after));
                if let Err(error) = open(&after.after_crash(seed + 7)) {
                    panic!("cut {cut}, then {second}, seed {seed}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_pool_of_one_volume_pays_nothing() {
    let device = SimDevice::new(16 * MIB);
    drop(Pool::create(Arc::new(device.clone()), &options()).unwrap());
    let before = device.calls();
    drop(Pool::open(Arc::new(device.clone()), &options()).unwrap());
    assert_eq!(device.calls() - before, 1, "the flush of the opening");
}

/// "Create the pool first" was all that was said.
#[test]
fn missing_volumes_are_named_with_what_lies_on_them() {
    let dir = tempfile::tempdir().unwrap();
    two_volumes(dir.path());
    let pool = open(dir.path()).unwrap();
    pool.create_segment(MIB).unwrap();
    pool.add_volume(&volume("more.vol", MediaClass::Capacity)).unwrap();
    drop(pool);
    let (fast, more) = (dir.path().join(FAST), dir.path().join("more.vol"));
    let (bytes, aside) = (fs::read(&fast).unwrap(), dir.path().join("aside"));
    fs::rename(&fast, &aside).unwrap();
    fs::remove_file(&more).unwrap();
    let refused = open(dir.path()).map(drop).unwrap_err();
    let Error::VolumesMissing { missing } = &refused else { panic!("{refused}") };
    assert_eq!((missing.len(), missing[0].holds.mblocks, missing[0].holds.segments), (2, 1, 1));
    let text = refused.to_string();
    for part in [
        "vol-1 (staging, kind file), last at fast.vol, does not exist",
        "on it: 1 mblock (",
        "1 segment of the write-ahead log",
        "vol-2 (capacity, kind file), last at more.vol",
        "nothing lies on it; `millpond pool remove vol-2 --lost` takes it out of the pool",
        "restore the pool from a backup",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let found = Pool::inspect(dir.path(), &options()).unwrap();
    assert_eq!((found.volumes.len(), found.missing.len()), (1, 2));
    let ids = [1, 2].map(|raw| VolumeId::new(raw).unwrap());
    let text = refusal(Pool::forget_volume(dir.path(), ids[0], &options()));
    assert!(text.contains("on it: 1 mblock"), "{text}");
    Pool::forget_volume(dir.path(), ids[1], &options()).unwrap();
    let text = refusal(open(dir.path()));
    assert!(text.contains("vol-1") && !text.contains("vol-2"), "{text}");
    // Another volume in its place.
    fs::write(&fast, vec![0; bytes.len()]).unwrap();
    let text = refusal(open(dir.path()));
    assert!(text.contains("vol-1") && text.contains("what is there is blank"), "{text}");
    fs::remove_file(&fast).unwrap();
    // A link to where it is will do.
    std::os::unix::fs::symlink(&aside, &fast).unwrap();
    let pool = open(dir.path()).unwrap();
    assert_eq!(pool.volumes().len(), 2);
    let text = refusal(Pool::forget_volume(dir.path(), ids[0], &options()));
    assert!(text.contains("in use"), "{text}");
}

/// `pool info` showed volumes whose files were swapped as "in use".
#[test]
fn swapped_volumes_are_told_by_a_look() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    for name in ["a.vol", "b.vol"] {
        pool.add_volume(&volume(name, MediaClass::Capacity)).unwrap();
    }
    drop(pool);
    assert!(Pool::inspect(dir.path(), &options()).unwrap().stale.is_empty());
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("a.vol"), at("c.vol")).unwrap();
    fs::rename(at("b.vol"), at("a.vol")).unwrap();
    fs::rename(at("c.vol"), at("b.vol")).unwrap();
    let stale = Pool::inspect(dir.path(), &options()).unwrap().stale;
    assert_eq!(stale.len(), 2, "{stale:?}");
    assert!(stale[0].contains("a.vol carries the label of vol-2"), "{stale:?}");
    assert!(stale[1].contains("b.vol carries the label of vol-1"), "{stale:?}");
}
