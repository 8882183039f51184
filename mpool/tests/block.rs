//! Pools on raw block devices: loop devices over scratch files.
//!
//! Making one needs root; where it is not permitted, each test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test: unwrapping is its way to fail")]

use mpool::{
    Device, Error, IO_ALIGN, IoBuf, Lifetime, MediaClass, NewRoot, NewVolume, Options, Placement,
    Pool, Priority, ReturnOptions, VolumeId, VolumeKind, device::BlockDevice,
};
use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

const MIB: u64 = 1 << 20;

/// A loop device, detached when dropped.
struct Loop {
    device: PathBuf,
    file: PathBuf,
    dir: tempfile::TempDir,
}

impl Loop {
    fn new(len_bytes: u64) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let file = dir.path().join("disk");
        File::create(&file).and_then(|f| f.set_len(len_bytes)).map_err(|e| e.to_string())?;
        let shown = run("losetup", &["--find", "--show", path_str(&file)])?;
        Ok(Self { device: PathBuf::from(shown.trim()), file, dir })
    }

    fn enlarge(&self, len_bytes: u64) {
        File::options().write(true).open(&self.file).unwrap().set_len(len_bytes).unwrap();
        run("losetup", &["--set-capacity", path_str(&self.device)]).unwrap();
    }

    fn pool_dir(&self) -> PathBuf {
        self.dir.path().join("pool")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A device that is still open goes away with its last opener.
        let _ = run("losetup", &["--detach", path_str(&self.device)]);
    }
}

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the program prints, or why it could not.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let ended = Command::new(program).args(args).output();
    let ended = ended.map_err(|error| format!("{program}: {error}"))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&ended.stderr).trim()))
}

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Runs a test with a loop device, where there is one.
fn with_loop(len_bytes: u64, test: impl FnOnce(&Loop)) {
    match Loop::new(len_bytes) {
        Ok(device) => test(&device),
        Err(why) => say(&format!("skipped: no loop device can be made here ({why})")),
    }
}

fn options() -> Options {
    let small = Options { grow_step_bytes: MIB, ..Options::default() };
    Options { reserve_bytes: Some(0), allow_volatile: true, ..small }
}

fn root(device: &Loop, force: bool) -> NewRoot {
    NewRoot { device: device.device.clone(), force }
}

fn new_volume(device: &Loop, force: bool) -> NewVolume {
    NewVolume {
        path: device.device.clone(),
        kind: VolumeKind::Block,
        class: MediaClass::Staging,
        capacity_bytes_max: MIB,
        force,
    }
}

fn refusal<T>(outcome: mpool::Result<T>) -> String {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn store(pool: &Arc<Pool>, class: MediaClass, bytes: &[u8]) -> mpool::MblockId {
    let placement =
        Placement { class, lifetime: Lifetime::Long, priority: Priority::Flush, spare: false };
    let mut writer = pool.allocate(bytes.len() as u64, placement).unwrap();
    writer.append(bytes).unwrap();
    pool.commit(vec![writer], &[]).unwrap()[0].id()
}

fn load(pool: &Arc<Pool>, id: mpool::MblockId) -> (VolumeId, u8) {
    let mblock = pool.mblock(id).unwrap();
    let map = pool.map(std::slice::from_ref(&mblock), mpool::Class::Warm).unwrap();
    let mut page = IoBuf::zeroed(IO_ALIGN);
    mblock.read_at(0, &mut page).unwrap();
    map.preload().unwrap();
    let mapped = map.try_read(0, 0..1).map_or(page[0], |bytes| bytes[0]);
    assert_eq!(mapped, page[0], "the map shows what is on the device");
    (mblock.volume(), page[0])
}

#[test]
fn a_block_device_keeps_the_contract_of_devices() {
    with_loop(4 * MIB, |disk| {
        let device = BlockDevice::open(&disk.device).unwrap();
        mpool_sim::suite::check_device(&device);
        assert_eq!(device.geometry().len_bytes, 4 * MIB);
        drop(device);
        let again = BlockDevice::open(&disk.device).unwrap();
        let mut page = IoBuf::zeroed(IO_ALIGN);
        again.read_at(11 * IO_ALIGN as u64, &mut page).unwrap();
        assert_eq!(page[0], 8, "contents survive a reopen");
    });
}

#[test]
fn what_is_free_on_a_block_device_is_discarded() {
    with_loop(64 * MIB, |disk| {
        let returning = ReturnOptions { after_s: 0, ..ReturnOptions::default() };
        let options = Options { background: false, returning: Some(returning), ..options() };
        let pool = Pool::create_on_block(&disk.pool_dir(), &root(disk, false), &options).unwrap();
        let kept = store(&pool, MediaClass::Capacity, &vec![1; 2 << 20]);
        let gone = store(&pool, MediaClass::Capacity, &vec![2; 16 << 20]);
        let backed = || disk.file.metadata().unwrap().blocks() * 512;
        let before = backed();
        pool.commit(vec![], &[gone]).unwrap();
        while pool.tidy() {}
        // What a loop device discards becomes a hole of its file, where that can have holes.
        let mut discarded = 0;
        pool.metrics().visit(&mut |name, _, _, value| {
            if name == "mpool_punched_bytes_total" {
                discarded = value;
            }
        });
        if discarded == 0 {
            return say("skipped: this loop device takes no discards");
        }
        assert!(before - backed() >= 16 * MIB - MIB / 4, "{before} and {}", backed());
        assert_eq!(load(&pool, kept).1, 1);
        let again = store(&pool, MediaClass::Capacity, &vec![3; 16 << 20]);
        assert_eq!(load(&pool, again).1, 3);
    });
}

#[test]
fn a_pool_lives_on_a_block_device_and_is_found_again() {
    with_loop(64 * MIB, |disk| {
        let dir = disk.pool_dir();
        let pool = Pool::create_on_block(&dir, &root(disk, false), &options()).unwrap();
        let info = &pool.volumes()[0];
        assert_eq!(
            (info.kind, info.device, info.len_bytes),
            (VolumeKind::Block, "block", 64 * MIB)
        );
        let id = store(&pool, MediaClass::Capacity, &vec![7; 5_000_000]);
        drop(pool);
        for open in [Pool::open_dir, Pool::open_or_create] {
            let pool = open(&dir, &options()).unwrap();
            assert_eq!(load(&pool, id), (VolumeId::ROOT, 7));
        }
        let text = refusal(Pool::create_on_block(&dir, &root(disk, false), &options()));
        assert!(text.contains("holds a pool already") && text.contains("--force"), "{text}");
    });
}

#[test]
fn an_open_device_is_refused_to_everybody_else() {
    with_loop(16 * MIB, |disk| {
        let device = BlockDevice::open(&disk.device).unwrap();
        let second = BlockDevice::open(&disk.device).unwrap_err();
        assert!(matches!(second, Error::InUse { .. }), "{second}");
        drop(device);
        BlockDevice::open(&disk.device).unwrap();
    });
}

#[test]
fn a_mounted_device_is_refused_with_its_mount_point() {
    with_loop(16 * MIB, |disk| {
        if let Err(why) = run("mkfs.ext4", &["-q", path_str(&disk.device)]) {
            return say(&format!("skipped: {why}"));
        }
        let at = disk.dir.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        if let Err(why) = run("mount", &[path_str(&disk.device), path_str(&at)]) {
            return say(&format!("skipped: {why}"));
        }
        let text = refusal(Pool::create_on_block(&disk.pool_dir(), &root(disk, true), &options()));
        run("umount", &[path_str(&at)]).unwrap();
        assert!(text.contains("mounted at") && text.contains(path_str(&at)), "{text}");
        let text = refusal(Pool::create_on_block(&disk.pool_dir(), &root(disk, false), &options()));
        assert!(text.contains("ext4"), "force did not touch what was mounted: {text}");
    });
}

#[test]
fn what_carries_a_signature_is_taken_by_force_only() {
    let makers: [(&str, &[&str], &str); 2] =
        [("mkfs.ext4", &["-q"], "an ext4 file system"), ("mkswap", &[], "a swap area")];
    for (program, args, what) in makers {
        with_loop(32 * MIB, |disk| {
            let args = [args, &[path_str(&disk.device)]].concat();
            if let Err(why) = run(program, &args) {
                return say(&format!("skipped: {why}"));
            }
            let dir = disk.pool_dir();
            let expect = |text: String| {
                assert!(text.contains(what) && text.contains("--force"), "{text}");
                assert!(text.contains(path_str(&disk.device)), "{text}");
            };
            // As root volume, and as another one of a pool that is there.
            expect(refusal(Pool::create_on_block(&dir, &root(disk, false), &options())));
            assert!(!dir.exists(), "nothing was begun");
            let pool = Pool::open_or_create(&disk.dir.path().join("other"), &options()).unwrap();
            expect(refusal(pool.add_volume(&new_volume(disk, false))));
            let id = pool.add_volume(&new_volume(disk, true)).unwrap();
            pool.evacuate_volume(id, &mut |_| ()).unwrap();
            pool.remove_volume(id).unwrap();
            drop(pool);
            run(program, &args).unwrap();
            Pool::create_on_block(&dir, &root(disk, true), &options()).unwrap();
            let found = run("blkid", &["--probe", path_str(&disk.device)]).unwrap_or_default();
            assert!(!found.contains("TYPE"), "nothing known is left: {found}");
        });
    }
}

#[test]
fn a_file_that_carries_a_signature_is_not_taken_for_a_volume_either() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    let mut bytes = vec![0; 1 << 20];
    bytes[(64 << 10) + 64..][..8].copy_from_slice(b"_BHRfS_M");
    std::fs::write(&image, bytes).unwrap();
    let options = Options { allow_buffered: true, ..options() };
    let pool = Pool::open_or_create(&dir.path().join("pool"), &options).unwrap();
    let new = NewVolume {
        path: image,
        kind: VolumeKind::File,
        class: MediaClass::Capacity,
        capacity_bytes_max: 64 * MIB,
        force: false,
    };
    let text = refusal(pool.add_volume(&new));
    assert!(text.contains("btrfs") && text.contains("--force"), "{text}");
    pool.add_volume(&NewVolume { force: true, ..new }).unwrap();
}

#[test]
fn a_second_device_takes_objects_grows_and_is_found_again() {
    with_loop(16 * MIB, |disk| {
        let dir = disk.pool_dir();
        let pool = Pool::open_or_create(&dir, &options()).unwrap();
        let id = pool.add_volume(&new_volume(disk, false)).unwrap();
        let info = pool.volumes()[1].clone();
        assert_eq!((info.kind, info.capacity_bytes), (VolumeKind::Block, 16 * MIB), "used whole");
        let first = store(&pool, MediaClass::Staging, &vec![1; 10_000_000]);
        let elsewhere = store(&pool, MediaClass::Staging, &vec![2; 10_000_000]);
        assert_eq!(load(&pool, first), (id, 1));
        assert_eq!(load(&pool, elsewhere), (VolumeId::ROOT, 2), "it did not fit");
        disk.enlarge(48 * MIB);
        pool.grow_volume(id, 48 * MIB).unwrap();
        assert_eq!(pool.volumes()[1].capacity_bytes, 48 * MIB);
        let second = store(&pool, MediaClass::Staging, &vec![3; 10_000_000]);
        assert_eq!(load(&pool, second), (id, 3), "the gained room is used");
        drop(pool);
        let pool = Pool::open_dir(&dir, &options()).unwrap();
        assert_eq!(load(&pool, first), (id, 1));
        assert_eq!(load(&pool, second), (id, 3));
    });
}
