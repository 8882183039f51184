//! A volume in a regular file.
//!
//! Read and written past the page cache (`O_DIRECT`), so that the pool's own traffic does not
//! displace what is mapped. The file is locked for as long as it is open. What it takes of its
//! disk, and gives back: `file_space`.
//!
//! Where the file system refuses `O_DIRECT` (tmpfs, some overlays) and the caller allows it, writes
//! go through the page cache and durable ones are followed by `fdatasync`.

use super::{
    Access, Device, Geometry, check_access, direct::DirectFile, file_size, lock, volatile,
};
use crate::{
    error::{Error, Result},
    missing::DENIED,
};
use mpool_device::{IO_ALIGN, IoBuf};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use parking_lot::Mutex;

/// Regular files promise no more than the drive below them: one logical block.
const SECTOR_BYTES: u32 = 512;

/// How a volume file is opened and how it grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Fall back to page-cache IO where `O_DIRECT` is refused.
    pub allow_buffered: bool,
    /// Accept a file system that forgets (`volatile`).
    pub allow_volatile: bool,
    /// The file never grows beyond this.
    pub len_bytes_max: u64,
    /// It grows in steps of at most this: an eighth of its length, or 16 MiB if that is more.
    pub grow_step_bytes: u64,
    /// Growth leaves this much of the disk to others; `None`: 512 MiB, or 5 percent
    /// of the disk where that is less.
    pub reserve_bytes: Option<u64>,
}

/// Before it is opened: the open of a fifo waits for somebody at its other end.
fn check_kind(path: &Path) -> Result<()> {
    let is_other = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    if is_other { Err(no_file(path)) } else { Ok(()) }
}

fn no_file(path: &Path) -> Error {
    let reason = "not a regular file; give the path of a volume file, or say that it is a device \
                  (kind block or zoned)"
        .to_owned();
    Error::Unusable { path: path.to_owned(), reason }
}

/// A volume in a regular file, locked against other openers.
#[derive(Debug)]
pub struct FileDevice {
    pub(super) io: DirectFile,
    pub(super) path: PathBuf,
    pub(super) options: FileOptions,
    disk_id: u64,
    /// From the options, and changed since.
    pub(super) len_bytes_max: AtomicU64,
    pub(super) len_bytes: AtomicU64,
    /// One change of what it takes of its disk at a time.
    pub(super) growing: Mutex<()>,
    /// What the disk had left for growth, and when.
    pub(super) disk: Mutex<Option<(Instant, u64)>>,
}

impl FileDevice {
    /// Opens an existing volume file.
    pub fn open(path: &Path, options: &FileOptions) -> Result<Self> {
        Self::open_for(path, options, Access::Write)
    }

    /// Opens the volume file, creating an empty one where there is none. A link to nothing is
    /// refused: what it leads to is out of sight, and not to be made anew.
    pub fn open_or_create(path: &Path, options: &FileOptions) -> Result<Self> {
        Self::open_for(path, options, Access::Create)
    }

    pub(crate) fn open_for(path: &Path, options: &FileOptions, access: Access) -> Result<Self> {
        if access != Access::Create {
            return Self::open_with(path, options, (access, OFlags::empty()));
        }
        if let Some(target) = dangling(path) {
            let reason = format!(
                "is a link to {}, which does not exist; is its disk mounted? If it is to be made, \
                 give its own path",
                target.display()
            );
            return Err(Error::Unusable { path: path.to_owned(), reason });
        }
        let device = Self::open_with(path, options, (access, OFlags::empty()))?;
        // The directory entry must survive a crash as well as the file does.
        if let Some(dir) = path.parent() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|source| Error::io("flush", 0, 0, source))?;
        }
        Ok(device)
    }

    /// Makes the file `new` and empties it, for a volume that is known by `path`, which will be its
    /// name. Whatever an attempt before has left in `new` is lost.
    pub(crate) fn open_anew(new: &Path, path: &Path, options: &FileOptions) -> Result<Self> {
        let mut device = Self::open_with(new, options, (Access::Create, OFlags::NOFOLLOW))?;
        let failed = |source| Error::Io { op: "open", offset: 0, len: 0, source };
        // Whoever had the lock before may have given the file its name: then it is theirs.
        let held = device.io.file().metadata().map_err(failed)?;
        let is_ours = std::fs::symlink_metadata(new)
            .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
        if !is_ours {
            return Err(Error::InUse { path: path.to_owned() });
        }
        device.io.file().set_len(0).map_err(failed)?;
        device.len_bytes = AtomicU64::new(0);
        path.clone_into(&mut device.path);
        Ok(device)
    }

    fn open_with(
        path: &Path,
        options: &FileOptions,
        (access, extra): (Access, OFlags),
    ) -> Result<Self> {
        check_kind(path)?;
        let flags = access.flags() | OFlags::CLOEXEC | extra;
        let mode = Mode::RUSR | Mode::WUSR;
        let (fd, buffered) = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Ok(fd) => (fd, false),
            // The file system does not know O_DIRECT.
            Err(Errno::INVAL) if options.allow_buffered => {
                let opened = rustix::fs::open(path, flags, mode);
                (opened.map_err(|errno| open_error(path, errno))?, true)
            }
            Err(errno) => return Err(open_error(path, errno)),
        };
        let file = File::from(fd);
        if !(access.is_read() || options.allow_volatile) {
            volatile::check(&file, path)?;
        }
        lock::take(&file, path, access)?;
        let source = |source| Error::Io { op: "open", offset: 0, len: 0, source };
        let metadata = file.metadata().map_err(source)?;
        if !metadata.is_file() {
            return Err(no_file(path));
        }
        if !access.is_read() {
            file_size::check(path, metadata.len())?;
        }
        let len_bytes = metadata.len() / IO_ALIGN as u64 * IO_ALIGN as u64;
        let mut device = Self {
            io: DirectFile::new(file, SECTOR_BYTES, buffered),
            path: path.to_owned(),
            options: options.clone(),
            disk_id: metadata.dev(),
            len_bytes_max: AtomicU64::new(options.len_bytes_max),
            len_bytes: AtomicU64::new(len_bytes),
            growing: Mutex::new(()),
            disk: Mutex::new(None),
        };
        device.probe_direct()?;
        Ok(device)
    }

    /// Some file systems accept the flag at open and refuse the first read.
    fn probe_direct(&mut self) -> Result<()> {
        if self.io.is_buffered() {
            return Ok(());
        }
        let mut page = IoBuf::zeroed(IO_ALIGN);
        match rustix::io::pread(self.io.file(), &mut page[..], 0) {
            Ok(_) => Ok(()),
            Err(Errno::INVAL) if self.options.allow_buffered => {
                self.io.use_page_cache().map_err(|errno| open_error(&self.path, errno))
            }
            Err(errno) => Err(open_error(&self.path, errno)),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True where writes go through the page cache.
    pub fn is_buffered(&self) -> bool {
        self.io.is_buffered()
    }
}

impl Device for FileDevice {
    fn geometry(&self) -> Geometry {
        // Acquire pairs with the Release in `grow`: whoever sees the length may use it.
        let len_bytes = self.len_bytes.load(Ordering::Acquire);
        // A limit lowered below what is there stops growth; it takes nothing away.
        let len_bytes_max = self.len_bytes_max.load(Ordering::Relaxed).max(len_bytes);
        Geometry { sector_bytes: SECTOR_BYTES, len_bytes, len_bytes_max }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        self.io.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        self.io.write_at(offset, buf)
    }

    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        self.io.write_durable_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.io.flush()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.one_at_a_time(|| self.grow_to(len_bytes))
    }

    fn can_shrink(&self) -> bool {
        true
    }

    fn shrink(&self, from: u64, to: u64) -> io::Result<bool> {
        self.one_at_a_time(|| self.cut_to(from, to))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.looked_at_again(self.punch_hole(offset, len))
    }

    fn refill(&self, offset: u64, len: u64) -> io::Result<()> {
        self.looked_at_again(self.fill_hole(offset, len))
    }

    fn holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        self.find_holes(offset, len)
    }

    fn disk_bytes(&self) -> Option<u64> {
        self.allocated_bytes()
    }

    fn growth_left(&self) -> u64 {
        self.disk_left()
    }

    fn disk(&self) -> Option<u64> {
        Some(self.disk_id)
    }

    fn set_len_max(&self, len_bytes_max: u64) -> io::Result<()> {
        self.len_bytes_max.store(len_bytes_max, Ordering::Relaxed);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        Some(self.io.file())
    }

    fn kind(&self) -> &'static str {
        if self.is_buffered() { "file (buffered)" } else { "file" }
    }
}

fn open_error(path: &Path, errno: Errno) -> Error {
    let reason = match errno {
        Errno::INVAL => "this file system refuses direct IO (O_DIRECT); use another one (ext4, \
                         xfs), or accept page-cache writes by the option allow_buffered (--allow-buffered)"
            .to_owned(),
        Errno::NOENT => "does not exist".to_owned(),
        Errno::ACCESS | Errno::PERM => {
            format!("{DENIED}; give the pool's files to this user")
        }
        other => format!("cannot be opened: {other}"),
    };
    Error::Unusable { path: path.to_owned(), reason }
}

/// What `path` leads to, if it is a link and that is not there.
pub(crate) fn dangling(path: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(path).ok()?;
    let gone = std::fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    gone.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_file_device_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let wanted = options(1 << 20);
        mpool_sim::suite::check_device(&FileDevice::open_or_create(&path, &wanted).unwrap());
        let again = FileDevice::open(&path, &wanted).unwrap();
        let mut page = IoBuf::zeroed(IO_ALIGN);
        again.read_at(11 * IO_ALIGN as u64, &mut page).unwrap();
        assert_eq!(page[0], 8, "contents survive a reopen");
        assert!(again.file().is_some());
    }

    #[test]
    fn a_file_grows_in_steps_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let device = FileDevice::open_or_create(&dir.path().join("v"), &options(10 << 16)).unwrap();
        for (asked, got) in [
            (IO_ALIGN as u64, 1 << 16),
            (9 << 16, 9 << 16),
            ((9 << 16) + IO_ALIGN as u64, 10 << 16),
        ] {
            device.grow(asked).unwrap();
            assert_eq!(device.geometry().len_bytes, got);
        }
    }

    #[test]
    fn a_second_opener_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let first = FileDevice::open_or_create(&path, &options(1 << 20)).unwrap();
        let second = FileDevice::open(&path, &options(1 << 20)).unwrap_err();
        assert!(matches!(second, Error::InUse { .. }), "{second}");
        drop(first);
        FileDevice::open(&path, &options(1 << 20)).unwrap();
    }

    #[test]
    fn the_page_cache_keeps_the_contract_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut device =
            FileDevice::open_or_create(&dir.path().join("v"), &options(1 << 20)).unwrap();
        device.io.use_page_cache().unwrap();
        assert_eq!(device.kind(), "file (buffered)");
        mpool_sim::suite::check_device(&device);
    }

    #[test]
    fn where_direct_io_is_refused_the_way_out_is_named() {
        let text = open_error(Path::new("/mnt/v"), Errno::INVAL).to_string();
        assert!(text.starts_with("/mnt/v: "), "{text}");
        assert!(text.contains("O_DIRECT") && text.contains("--allow-buffered"), "{text}");
        assert!(open_error(Path::new("v"), Errno::ACCESS).to_string().contains("permission"));
    }

    #[test]
    fn a_lowered_limit_stops_growth_and_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        FileDevice::open_or_create(&path, &options(1 << 20)).unwrap().grow(1 << 20).unwrap();
        let device = FileDevice::open(&path, &options(1 << 17)).unwrap();
        assert_eq!(device.geometry().len_bytes, 1 << 20);
        let mut page = IoBuf::zeroed(IO_ALIGN);
        device.read_at((1 << 20) - IO_ALIGN as u64, &mut page).unwrap();
        assert!(device.grow((1 << 20) + (1 << 16)).is_err());
    }

    #[test]
    fn a_directory_is_not_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let refused = FileDevice::open(dir.path(), &options(1 << 20)).unwrap_err();
        assert!(matches!(refused, Error::Unusable { .. }), "{refused}");
    }
}
