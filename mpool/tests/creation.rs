//! A pool is made where nothing is, and whatever a creation leaves that was cut short is taken up
//! by the next; volumes that hold something are not taken.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    Create, Device, Error, IO_ALIGN, IoBuf, MediaClass, NewVolume, Options, Pool, VolumeKind,
};
use mpool_sim::SimDevice;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const MIB: u64 = 1 << 20;
const ROOT: &str = "capacity.vol";
const ROOT_NEW: &str = "capacity.vol.new";
const MARK: &str = "pool.id";

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

fn creating(create: Create) -> Options {
    Options { create, ..options() }
}

fn refusal<T>(outcome: mpool::Result<T>) -> String {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

/// A directory with a pool of this name, closed.
fn pool_in(dir: &Path, name: &str) {
    let pool = Pool::open_or_create(dir, &options()).unwrap();
    pool.rename(name).unwrap();
}

fn name_in(dir: &Path) -> Option<String> {
    Pool::open_dir(dir, &options()).unwrap().name()
}

/// What it is, and the files in it.
type State<'a> = (&'a str, &'a [(&'a str, &'a [u8])]);

/// Every state of the directory that a crash during creation can leave.
#[test]
fn a_creation_that_was_cut_short_is_taken_up_by_the_next() {
    let whole = tempfile::tempdir().unwrap();
    pool_in(whole.path(), "whole");
    let bytes = fs::read(whole.path().join(ROOT)).unwrap();
    let grown = vec![0; 300_000];
    let states: [State<'_>; 7] = [
        ("nothing", &[]),
        ("an empty new file", &[(ROOT_NEW, b"")]),
        ("a grown one", &[(ROOT_NEW, &grown)]),
        ("half of one", &[(ROOT_NEW, &bytes[65_536..200_000])]),
        ("a whole one without its name", &[(ROOT_NEW, &bytes)]),
        ("half a mark", &[("pool.id.new", b"millpond pool mark 1\npool ")]),
        ("both", &[(ROOT_NEW, &bytes), ("pool.id.new", b"millpond")]),
    ];
    for (state, files) in states {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        pool_in(dir.path(), "new");
        assert_eq!(name_in(dir.path()).as_deref(), Some("new"), "{state}");
        assert!(dir.path().join(MARK).exists(), "{state}");
        assert!(!dir.path().join(ROOT_NEW).exists(), "{state}");
    }
    // Named, and the mark is still missing: it is a pool, and keeps what is in it.
    fs::remove_file(whole.path().join(MARK)).unwrap();
    assert_eq!(name_in(whole.path()).as_deref(), Some("whole"));
    assert!(whole.path().join(MARK).exists());
    fs::write(whole.path().join(MARK), "scribble").unwrap();
    assert_eq!(name_in(whole.path()).as_deref(), Some("whole"), "a damaged mark is written again");
    assert!(fs::read_to_string(whole.path().join(MARK)).unwrap().starts_with("millpond pool mark"));
}

/// "space map is corrupt", without path, length or way out; and of a head alone nothing to the
/// point.
#[test]
fn a_volume_whose_end_is_cut_off_is_told_with_path_and_length() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    pool.add_volume(&NewVolume {
        path: "more.vol".into(),
        kind: VolumeKind::File,
        class: MediaClass::Staging,
        capacity_bytes_max: 32 * MIB,
        force: false,
    })
    .unwrap();
    for class in [MediaClass::Capacity, MediaClass::Staging] {
        let place = mpool::Placement { class, ..mpool::Placement::from(mpool::Priority::Flush) };
        let mut writer = pool.allocate(6 * MIB, place).unwrap();
        writer.append(&vec![7; 6 << 20]).unwrap();
        pool.commit(vec![writer], &[]).unwrap();
    }
    drop(pool);
    for name in [ROOT, "more.vol"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        for len in [5_000, 70_000, 400_000, 4 << 20] {
            fs::write(&path, &whole[..len]).unwrap();
            let text = refusal(Pool::open_dir(dir.path(), &options()));
            let wanted = format!("{}: is {len} bytes long", path.display());
            assert!(text.contains(&wanted) && text.contains("backup"), "{name}, {len}: {text}");
            let check = mpool::CheckOptions::default();
            let report = Pool::check_dir(dir.path(), &options(), check, &mut |_, _| ()).unwrap();
            assert_eq!(report.worst(), Some(mpool::Severity::Error), "{name}, {len}");
            assert!(fs::read(&path).unwrap() == whole[..len], "nothing was changed");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(Pool::open_dir(dir.path(), &options()).is_ok());
}

/// A copy of the root volume under another name was "another file" of the directory.
#[test]
fn a_renamed_root_volume_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    pool_in(dir.path(), "renamed");
    fs::rename(dir.path().join(ROOT), dir.path().join("capacity.vol.bak")).unwrap();
    for mark in [true, false] {
        if !mark {
            fs::remove_file(dir.path().join(MARK)).unwrap();
        }
        for create in [Create::Auto, Create::Always, Create::Never] {
            let text = refusal(Pool::open_or_create(dir.path(), &creating(create)));
            assert!(text.contains("rename capacity.vol.bak"), "{create:?}: {text}");
        }
    }
    fs::rename(dir.path().join("capacity.vol.bak"), dir.path().join(ROOT)).unwrap();
    assert_eq!(name_in(dir.path()).as_deref(), Some("renamed"));
}

/// Empty files stayed: `capacity.vol.new`, or a volume that the pool does not have.
#[test]
fn a_refused_creation_leaves_no_file_behind() {
    let forgetful = Path::new("/dev/shm");
    if forgetful.is_dir() {
        let dir = tempfile::tempdir_in(forgetful).unwrap();
        let options = Options { allow_volatile: false, ..options() };
        if Pool::open_or_create(dir.path(), &options).is_err() {
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(dir.path(), &options()).unwrap();
    for kind in [VolumeKind::File, VolumeKind::EmulatedZoned] {
        let new = NewVolume {
            path: "more.vol".into(),
            kind,
            class: MediaClass::Staging,
            capacity_bytes_max: 4096,
            force: false,
        };
        refusal(pool.add_volume(&new));
        assert!(!dir.path().join("more.vol").exists(), "{kind:?}");
        // What was there stays, refused or not.
        fs::write(dir.path().join("more.vol"), b"somebody's").unwrap();
        refusal(pool.add_volume(&new));
        assert_eq!(fs::read(dir.path().join("more.vol")).unwrap(), b"somebody's", "{kind:?}");
        fs::remove_file(dir.path().join("more.vol")).unwrap();
    }
}

#[test]
fn a_pool_on_a_device_is_whole_or_made_again_after_a_crash_at_every_call() {
    let device = SimDevice::new(8 * MIB);
    Pool::create(std::sync::Arc::new(device.clone()), &options()).unwrap();
    let calls = device.calls();
    assert!(calls > 5);
    for cut in 0..calls {
        for seed in 0..4 {
            let device = SimDevice::new(8 * MIB);
            device.cut_at(cut);
            Pool::create(std::sync::Arc::new(device.clone()), &options()).map(drop).unwrap_err();
            let after = std::sync::Arc::new(device.after_crash(seed));
            match Pool::open(after.clone(), &options()) {
                Ok(_) => {}
                Err(Error::Unusable { .. }) => drop(
                    Pool::create(after, &options())
                        .unwrap_or_else(|error| panic!("cut {cut} seed {seed}: {error}")),
                ),
                Err(error) => panic!("cut {cut} seed {seed}: {error}"),
            }
        }
    }
}

#[test]
fn a_device_with_anything_at_its_ends_is_not_taken_for_a_new_pool() {
    for at in [8192, 100_000 / 4096 * 4096, 8 * MIB - 4096] {
        let device = SimDevice::new(8 * MIB);
        device.grow(8 * MIB).unwrap();
        let mut page = IoBuf::zeroed(IO_ALIGN);
        page[17] = 1;
        device.write_durable_at(at, &page).unwrap();
        let calls = device.calls();
        let text = refusal(Pool::create(std::sync::Arc::new(device.clone()), &options()));
        assert!(text.contains("not empty") && text.contains("zeros up to byte"), "{text}");
        assert_eq!(device.calls(), calls, "nothing was written");
    }
}

#[test]
fn a_mark_of_another_pool_stops_the_opening() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pool_in(one.path(), "one");
    pool_in(other.path(), "other");
    fs::copy(other.path().join(ROOT), one.path().join(ROOT)).unwrap();
    for create in [Create::Auto, Create::Always, Create::Never, Create::Force] {
        let text = refusal(Pool::open_or_create(one.path(), &creating(create)));
        assert!(text.contains("the mark pool.id beside it names pool"), "{text}");
    }
    fs::remove_file(one.path().join(MARK)).unwrap();
    assert_eq!(name_in(one.path()).as_deref(), Some("other"));
}

#[test]
fn what_stands_in_the_roots_place_is_made_over_by_force_only() {
    let dir = tempfile::tempdir().unwrap();
    pool_in(dir.path(), "lost");
    for content in [b"short".to_vec(), vec![0; 4096], vec![0; 300_000]] {
        fs::write(dir.path().join(ROOT), &content).unwrap();
        for create in [Create::Auto, Create::Always, Create::Never] {
            refusal(Pool::open_or_create(dir.path(), &creating(create)));
            refusal(Pool::create_dir(dir.path(), &creating(create)));
            assert!(fs::read(dir.path().join(ROOT)).unwrap() == content);
        }
    }
    Pool::create_dir(dir.path(), &creating(Create::Force)).unwrap();
    assert_eq!(name_in(dir.path()), None);
    let text = refusal(Pool::create_dir(dir.path(), &creating(Create::Force)));
    assert!(text.contains("holds a pool already"), "{text}");
}

#[test]
fn links_are_followed_to_what_is_there_and_not_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let (pool, elsewhere) = (dir.path().join("pool"), dir.path().join("elsewhere"));
    fs::create_dir(&pool).unwrap();
    symlink(&elsewhere, pool.join(ROOT)).unwrap();
    let text = refusal(Pool::open_or_create(&pool, &creating(Create::Always)));
    assert!(text.contains("link to") && text.contains("elsewhere"), "{text}");
    assert!(!elsewhere.exists());
    fs::write(&elsewhere, "somebody's").unwrap();
    refusal(Pool::open_or_create(&pool, &creating(Create::Always)));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"somebody's");
    fs::write(&elsewhere, "").unwrap();
    refusal(Pool::open_or_create(&pool, &options()));
    drop(Pool::open_or_create(&pool, &creating(Create::Always)).unwrap());
    assert!(fs::metadata(&elsewhere).unwrap().len() > 0, "the pool is where the link leads");
    assert!(fs::symlink_metadata(pool.join(ROOT)).unwrap().is_symlink());
    drop(Pool::open_dir(&pool, &options()).unwrap());
}

/// Files shorter than a page, and files that begin with a page of zeros, were overwritten.
#[test]
fn a_file_is_added_only_if_its_length_is_zero() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open_or_create(&dir.path().join("pool"), &options()).unwrap();
    let path = dir.path().join("v");
    let new = |path: &PathBuf, force| NewVolume {
        path: path.clone(),
        kind: VolumeKind::File,
        class: MediaClass::Capacity,
        capacity_bytes_max: 8 * MIB,
        force,
    };
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let text = refusal(pool.add_volume(&new(&link, false)));
    assert!(text.contains("link to") && !path.exists(), "{text}");
    let zeros_first = [vec![0; 4096], vec![7; 4096]].concat();
    for (content, part) in [
        (b"a letter".to_vec(), "8 bytes of text that begins with \"a letter\""),
        (vec![0], "1 bytes, zeros"),
        (vec![7; 4095], "4095 bytes"),
        (zeros_first, "zeros up to byte 4096"),
        (vec![0; 200_000], "200000 bytes, zeros"),
    ] {
        fs::write(&path, &content).unwrap();
        for path in [&path, &link] {
            let text = refusal(pool.add_volume(&new(path, false)));
            assert!(text.contains(part) && text.contains("--force"), "{text}");
        }
        assert!(fs::read(&path).unwrap() == content, "nothing was changed");
    }
    let id = pool.add_volume(&new(&link, true)).unwrap();
    pool.evacuate_volume(id, &mut |_| ()).unwrap();
    pool.remove_volume(id).unwrap();
    fs::write(&path, "").unwrap();
    pool.add_volume(&new(&path, false)).unwrap();
    drop(pool);
    Pool::open_dir(&dir.path().join("pool"), &options()).unwrap();
}

/// A file of that name was emptied, whatever was in it.
#[test]
fn a_file_with_the_name_of_a_volume_in_the_making_is_not_overwritten() {
    for create in [Create::Auto, Create::Always, Create::Force] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ROOT_NEW);
        fs::write(&path, "my precious").unwrap();
        let said = refusal(Pool::open_or_create(dir.path(), &creating(create)));
        assert!(said.contains(ROOT_NEW) && said.contains("move it away"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), b"my precious");
    }
}

/// The open of a fifo waits for somebody at its other end: every command hung.
#[test]
fn a_fifo_is_no_volume_and_nobody_waits_for_it() {
    let fifo = |path: &Path| {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    fifo(&dir.path().join(ROOT));
    fifo(&dir.path().join(MARK));
    for said in [
        refusal(Pool::open_or_create(dir.path(), &options())),
        refusal(Pool::open_dir(dir.path(), &options())),
        refusal(Pool::identify(dir.path(), &options())),
    ] {
        assert!(said.contains("not a regular file"), "{said}");
    }
}
