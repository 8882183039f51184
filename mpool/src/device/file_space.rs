//! What a volume file takes of its disk: growth, and what it gives back.
//!
//! It grows by `fallocate`, in steps that follow its length, stops before the disk's reserve and
//! before the longest file that this process may make (`file_size`). Its end is cut off by
//! `ftruncate`, what is within becomes a hole by `fallocate` again. Writes to a hole would take the
//! inode lock, and find the disk full when it is too late to say so; so a hole is refilled with
//! blocks before anybody writes there.
//!
//! Neither cut nor hole is made durable: a crash may undo them, and costs nothing but space.

use super::{Device, FileDevice, FileOptions, file_size};
use mpool_device::IO_ALIGN;
use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::Errno,
};
use std::{
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// For how long an answer to how much the disk has left is good enough. Others write there, too.
const DISK_LOOK: Duration = Duration::from_secs(1);
/// The least step of growth, unless the options say less: each costs a flush of the file.
const STEP_BYTES_MIN: u64 = 16 << 20;
/// Part of its length that a file grows by.
const STEP_SHARE: u64 = 8;

/// What growth leaves to others where nothing is said, at most.
const RESERVE_BYTES: u64 = 512 << 20;
/// The same in percent of the disk, which is less on a small one.
const RESERVE_PCT: u64 = 5;

/// What growth leaves to others on a disk of this size.
fn reserve_bytes(options: &FileOptions, disk_bytes: u64) -> u64 {
    options.reserve_bytes.unwrap_or_else(|| RESERVE_BYTES.min(disk_bytes / 100 * RESERVE_PCT))
}

/// A disk in numbers.
#[derive(Clone, Copy)]
struct DiskSpace {
    /// Bytes that anybody may take.
    free: u64,
    /// Bytes left to others.
    reserve: u64,
}

impl DiskSpace {
    /// What growth may take.
    fn left(self) -> u64 {
        self.free.saturating_sub(self.reserve)
    }
}

/// The step of a file of this length: a power of two, so that lengths are in few sizes.
fn step_bytes(have: u64, most: u64) -> u64 {
    let share = (have / STEP_SHARE).max(STEP_BYTES_MIN);
    most.min(1 << share.ilog2())
}

impl FileDevice {
    /// What the disk has.
    fn disk_space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::fstatvfs(self.io.file())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let reserve = reserve_bytes(&self.options, bytes(stat.f_blocks));
        Ok(DiskSpace { free: bytes(stat.f_bavail), reserve })
    }

    /// By how much it may grow until it is the longest file that this process may make.
    fn left_to_process(&self) -> u64 {
        let max = file_size::file_bytes_max().unwrap_or(u64::MAX) / IO_ALIGN as u64;
        (max * IO_ALIGN as u64).saturating_sub(self.geometry().len_bytes)
    }

    /// Changes the length by one caller at a time.
    pub(super) fn one_at_a_time<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.io.check_writable()?;
        let _one_at_a_time = self.growing.lock();
        self.looked_at_again(change())
    }

    /// What was known of the disk holds no more, whatever came of it.
    pub(super) fn looked_at_again<T>(&self, changed: io::Result<T>) -> io::Result<T> {
        *self.disk.lock() = None;
        changed
    }

    /// What growth, and holes that are filled, may take of the disk.
    pub(super) fn disk_left(&self) -> u64 {
        let mut known = self.disk.lock();
        match *known {
            Some((at, left)) if at.elapsed() < DISK_LOOK => left,
            _ => {
                // A file system that does not say is found full when it is.
                let left = self.disk_space().map_or(u64::MAX, DiskSpace::left);
                let left = left.min(self.left_to_process());
                *known = Some((Instant::now(), left));
                left
            }
        }
    }

    /// As `grow`, by one caller at a time.
    pub(super) fn grow_to(&self, len_bytes: u64) -> io::Result<()> {
        let have = self.geometry().len_bytes;
        if len_bytes <= have {
            return Ok(());
        }
        let max = self.len_bytes_max.load(Ordering::Relaxed);
        if len_bytes > max {
            let text = format!("{len_bytes} bytes wanted, limit is {max}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        if let Some(text) = file_size::refusal(&self.path, len_bytes) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let max = max.min(have.saturating_add(self.left_to_process()));
        let stepped = len_bytes.next_multiple_of(step_bytes(have, self.options.grow_step_bytes));
        let target = stepped.min(max / IO_ALIGN as u64 * IO_ALIGN as u64);
        let target = self.affordable(have, len_bytes, target.max(len_bytes))?;
        let allocate =
            || rustix::fs::fallocate(self.io.file(), FallocateFlags::empty(), have, target - have);
        match rustix::io::retry_on_intr(allocate) {
            Ok(()) => {}
            // Blocks come at first write then; the length is what matters here.
            Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(self.io.file(), target)?,
            // The file system has files of no such length.
            Err(Errno::FBIG) => {
                let text = format!("{}: no file may have {target} bytes", self.path.display());
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            Err(errno) => return Err(errno.into()),
        }
        // The new length must survive a crash before anything is recorded beyond the old one.
        self.io.flush_all()?;
        self.len_bytes.store(target, Ordering::Release);
        Ok(())
    }

    /// As `shrink`, by one caller at a time.
    pub(super) fn cut_to(&self, from: u64, to: u64) -> io::Result<bool> {
        assert!(to < from, "a cut takes something away");
        if self.geometry().len_bytes != from {
            return Ok(false);
        }
        // First, so that whoever is wrong about the end is told so and reads nothing.
        self.len_bytes.store(to, Ordering::Release);
        let cut = rustix::io::retry_on_intr(|| rustix::fs::ftruncate(self.io.file(), to));
        cut.inspect_err(|_| self.len_bytes.store(from, Ordering::Release))?;
        Ok(true)
    }

    /// As `punch`.
    pub(super) fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.io.check_writable()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = || rustix::fs::fallocate(self.io.file(), flags, offset, len);
        rustix::io::retry_on_intr(punch).map_err(io::Error::from)
    }

    /// As `refill`.
    pub(super) fn fill_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.io.check_writable()?;
        self.affordable(0, len, len)?;
        let fill = || rustix::fs::fallocate(self.io.file(), FallocateFlags::KEEP_SIZE, offset, len);
        match rustix::io::retry_on_intr(fill) {
            // Blocks come at first write then.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// As `holes`. Blocks that were never written to are told as a hole, too.
    pub(super) fn find_holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        let (file, end) = (self.io.file(), offset + len);
        let mut holes = Vec::new();
        let mut at = offset;
        while at < end {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?.min(end);
            if hole == end {
                break;
            }
            let data = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
                Ok(data) => data.min(end),
                // There is none behind it.
                Err(Errno::NXIO) => end,
                Err(errno) => return Err(errno.into()),
            };
            holes.push(hole..data);
            at = data;
        }
        Ok(holes)
    }

    /// What the file system has given it, in units of 512 bytes there.
    pub(super) fn allocated_bytes(&self) -> Option<u64> {
        self.io.file().metadata().ok().map(|metadata| metadata.blocks().saturating_mul(512))
    }

    /// The longest growth towards `target` that leaves the reserve, but at least `need`.
    fn affordable(&self, have: u64, need: u64, target: u64) -> io::Result<u64> {
        let disk = self.disk_space()?;
        if target - have <= disk.left() {
            return Ok(target);
        }
        if need - have <= disk.left() {
            return Ok(need);
        }
        let text = format!(
            "{}: {} more bytes are needed; the disk has {} free, of which {} are left to others \
             (option disk_reserve)",
            self.path.display(),
            need - have,
            disk.free,
            disk.reserve,
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn options(max: u64) -> FileOptions {
        FileOptions {
            allow_buffered: true,
            allow_volatile: true,
            len_bytes_max: max,
            grow_step_bytes: 1 << 16,
            reserve_bytes: Some(0),
        }
    }

    #[test]
    fn what_the_disk_leaves_to_others_is_not_there_to_grow_into() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let device = FileDevice::open_or_create(&path, &options(1 << 20)).unwrap();
        let left = device.growth_left();
        assert!(left > 0 && left < 1 << 60, "what a disk has, less than an exabyte: {left}");
        drop(device);
        let reserve_bytes = Some(1 << 60);
        let all = FileOptions { reserve_bytes, ..options(1 << 20) };
        let device = FileDevice::open(&path, &all).unwrap();
        assert_eq!(device.growth_left(), 0);
        assert_eq!(device.grow(1 << 16).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(device.growth_left(), 0);
    }

    /// 512 MiB were kept on every disk, so that one of 800 MB could hold no pool.
    #[test]
    fn a_small_disk_leaves_a_twentieth_of_itself_to_others() {
        let unsaid = FileOptions { reserve_bytes: None, ..options(1 << 20) };
        assert_eq!(reserve_bytes(&unsaid, 800_000_000), 40_000_000);
        assert_eq!(reserve_bytes(&unsaid, 10_737_418_200), 536_870_910);
        assert_eq!(reserve_bytes(&unsaid, 1 << 40), RESERVE_BYTES);
        assert_eq!(reserve_bytes(&options(1 << 20), 1 << 40), 0);
    }

    #[test]
    fn what_does_not_fit_the_disk_is_told_in_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let all = FileOptions { reserve_bytes: Some(1 << 60), ..options(1 << 20) };
        let device = FileDevice::open_or_create(&dir.path().join("v"), &all).unwrap();
        let text = device.grow(1 << 16).unwrap_err().to_string();
        for part in ["65536 more bytes are needed", "the disk has", "1152921504606846976 are left"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    /// A store of 20 MB had a file of 256 MiB.
    #[test]
    fn steps_of_growth_follow_the_length() {
        const MIB: u64 = 1 << 20;
        for (have, most, step) in [
            (0, 256, 16),
            (100, 256, 16),
            (256, 256, 32),
            (1000, 256, 64),
            (1024, 256, 128),
            (100_000, 256, 256),
            (100_000, 1, 1),
            (100_000, 40_000, 8192),
        ] {
            assert_eq!(step_bytes(have * MIB, most * MIB), step * MIB, "{have}");
        }
        let dir = tempfile::tempdir().unwrap();
        let options = FileOptions { grow_step_bytes: 256 * MIB, ..options(1 << 40) };
        let device = FileDevice::open_or_create(&dir.path().join("v"), &options).unwrap();
        device.grow(20 * MIB).unwrap();
        assert_eq!(device.geometry().len_bytes, 32 * MIB);
    }

    fn file(path: &Path) -> FileDevice {
        let device = FileDevice::open_or_create(path, &options(16 << 20)).unwrap();
        device.grow(8 << 20).unwrap();
        device
    }

    #[test]
    fn an_end_that_is_cut_off_can_grow_again() {
        let dir = tempfile::tempdir().unwrap();
        let device = file(&dir.path().join("v"));
        assert!(!device.shrink(4 << 20, 2 << 20).unwrap(), "it has another length");
        assert!(device.shrink(8 << 20, 2 << 20).unwrap());
        let path = device.path().to_owned();
        assert_eq!(
            (device.geometry().len_bytes, path.metadata().unwrap().len()),
            (2 << 20, 2 << 20)
        );
        let mut page = crate::IoBuf::zeroed(IO_ALIGN);
        assert!(device.read_at(2 << 20, &mut page).is_err());
        device.grow(4 << 20).unwrap();
        device.read_at(2 << 20, &mut page).unwrap();
        assert!(page.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_hole_takes_nothing_of_the_disk_until_it_is_refilled() {
        let dir = tempfile::tempdir().unwrap();
        let device = file(&dir.path().join("v"));
        let mut bytes = crate::IoBuf::zeroed(4 << 20);
        bytes.fill(7);
        device.write_at(2 << 20, &bytes).unwrap();
        device.flush().unwrap();
        let before = device.disk_bytes().unwrap();
        match device.punch(3 << 20, 1 << 20) {
            // Not every file system can.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            outcome => outcome.unwrap(),
        }
        let gone = before - device.disk_bytes().unwrap();
        // What the file system writes down about its pieces counts, too.
        assert!(gone.abs_diff(1 << 20) <= 64 << 10, "{gone}");
        assert_eq!(device.geometry().len_bytes, 8 << 20);
        let holes = device.holes(2 << 20, 4 << 20).unwrap();
        // One that does not tell shows all as data.
        assert!(holes.iter().all(|hole| *hole == (3 << 20..4 << 20)), "{holes:?}");
        device.read_at(2 << 20, &mut bytes).unwrap();
        let firsts: Vec<u8> = bytes.chunks(1 << 20).map(|part| part[0]).collect();
        assert_eq!(firsts, [7, 0, 7, 7]);
        device.refill(3 << 20, 1 << 20).unwrap();
        let lacking = before.saturating_sub(device.disk_bytes().unwrap());
        assert!(lacking <= 64 << 10, "{lacking}");
        drop(device);
        let all = FileOptions { reserve_bytes: Some(1 << 60), ..options(16 << 20) };
        let device = FileDevice::open(&dir.path().join("v"), &all).unwrap();
        let full = device.refill(3 << 20, 1 << 20).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "what is left to others stays theirs");
    }
}
