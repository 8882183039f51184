//! A volume on a raw block device, used whole.
//!
//! Opened exclusively (`O_EXCL`): the kernel refuses it while the device is mounted, is swap, is
//! part of something larger or is open here or elsewhere, and refuses those to others as long as we
//! have it. Read and written past the page cache. It has the length that the device has;
//! [`Device::set_len_max`] looks at it again, for a device that has been enlarged.
//!
//! What has been free for a while is discarded (`punch`), where the device takes discards: then the
//! drive need not keep it. What it answers afterwards, zeros or what was there, is its own choice.
//!
//! It knows nothing of what is on the device. Whether that may be overwritten is decided where a
//! volume is taken into a pool (`pool::volumes`), by `signature`.

use super::{
    Access, Device, Geometry, check_access,
    direct::DirectFile,
    lock::{self, LOCK_TRIES},
};
use crate::{
    error::{Error, Result},
    missing::DENIED,
    sys::discard::discard,
};
use mpool_device::IO_ALIGN;
use rustix::{
    fs::{Mode, OFlags, major, minor},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A volume on a raw block device, which nobody else can open exclusively meanwhile.
#[derive(Debug)]
pub struct BlockDevice {
    io: DirectFile,
    path: PathBuf,
    sector_bytes: u32,
    len_bytes: AtomicU64,
}

impl BlockDevice {
    /// Opens the device at `path`; nothing is written to it. [`Error::Unusable`] says who has it,
    /// if somebody does.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_for(path, Access::Write)
    }

    pub(crate) fn open_for(path: &Path, access: Access) -> Result<Self> {
        let unusable = |reason: String| Error::Unusable { path: path.to_owned(), reason };
        let metadata =
            std::fs::metadata(path).map_err(|e| unusable(format!("cannot be looked at: {e}")))?;
        if !metadata.file_type().is_block_device() {
            return Err(unusable("is not a block device; a file is a volume of kind file".into()));
        }
        let number = DeviceNumber::new(metadata.rdev());
        if number.is_zoned() {
            let text = "is a drive of zones that are written in sequence; add it as kind zoned";
            return Err(unusable(text.into()));
        }
        let file = open_exclusively(path, number, access)?;
        let sector_bytes = rustix::fs::ioctl_blksszget(&file)
            .map_err(|errno| unusable(format!("does not tell its block size: {errno}")))?;
        if sector_bytes as usize > IO_ALIGN {
            let text =
                format!("has blocks of {sector_bytes} bytes; at most {IO_ALIGN} are supported");
            return Err(unusable(text));
        }
        let len_bytes = len_of(&file).map_err(|e| unusable(format!("has no length: {e}")))?;
        Ok(Self {
            io: DirectFile::new(file, sector_bytes, false),
            path: path.to_owned(),
            sector_bytes,
            len_bytes: AtomicU64::new(len_bytes),
        })
    }

    /// Where the device is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Device for BlockDevice {
    fn geometry(&self) -> Geometry {
        // Acquire pairs with the Release in `set_len_max`.
        let len_bytes = self.len_bytes.load(Ordering::Acquire);
        Geometry { sector_bytes: self.sector_bytes, len_bytes, len_bytes_max: len_bytes }
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
        self.io.check_writable()?;
        let have = self.geometry().len_bytes;
        if len_bytes <= have {
            return Ok(());
        }
        let text = format!(
            "{}: {len_bytes} bytes wanted, the device has {have}; enlarge it, then grow the volume",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// The limit is the device's own length, whatever is asked for.
    fn set_len_max(&self, _len_bytes_max: u64) -> io::Result<()> {
        let (had, has) = (self.geometry().len_bytes, len_of(self.io.file())?);
        if has < had {
            let text = format!(
                "{}: the device had {had} bytes and has {has}; what lay behind is lost",
                self.path.display()
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.len_bytes.store(has, Ordering::Release);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.io.check_writable()?;
        discard(self.io.file(), offset, len)
    }

    fn file(&self) -> Option<&File> {
        Some(self.io.file())
    }

    fn kind(&self) -> &'static str {
        "block"
    }
}

/// Whole pages of the device. Its end is its length, as `BLKGETSIZE64` tells it, too; the position
/// that is moved for that is used by nobody.
fn len_of(mut file: &File) -> io::Result<u64> {
    let len_bytes = file.seek(SeekFrom::End(0))?;
    if len_bytes < IO_ALIGN as u64 {
        return Err(io::Error::other(format!("{len_bytes} bytes are not a page; is it attached?")));
    }
    Ok(len_bytes / IO_ALIGN as u64 * IO_ALIGN as u64)
}

/// A killed process keeps the device for a moment after its end, until the kernel has cancelled
/// what its `io_uring` had in flight, so a busy device is tried again unless it is known why.
fn open_exclusively(path: &Path, number: DeviceNumber, access: Access) -> Result<File> {
    let unusable = |reason: String| Error::Unusable { path: path.to_owned(), reason };
    // Not CREATE, which with EXCL would ask for something new.
    let flags = if access.is_read() { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = flags | OFlags::CLOEXEC | OFlags::EXCL | OFlags::DIRECT;
    for tried in 0..LOCK_TRIES {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => return Ok(File::from(fd)),
            Err(Errno::BUSY) => match number.holder() {
                Some(holder) => return Err(unusable(holder)),
                None => lock::wait(path, tried),
            },
            Err(Errno::ACCESS | Errno::PERM) => {
                let text = format!(
                    "{DENIED}; give the device to this user (a udev rule, or the group disk), and \
                     see that it is not write-protected"
                );
                return Err(unusable(text));
            }
            Err(errno) => return Err(unusable(format!("cannot be opened: {errno}"))),
        }
    }
    Err(Error::InUse { path: path.to_owned() })
}

/// A block device, as sysfs and procfs name it.
#[derive(Clone, Copy, Debug)]
struct DeviceNumber {
    major: u32,
    minor: u32,
}

impl DeviceNumber {
    fn new(raw: u64) -> Self {
        Self { major: major(raw), minor: minor(raw) }
    }

    fn sysfs(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{}:{}", self.major, self.minor))
    }

    /// Whether it can only be written in zones. Where sysfs does not say, the first write will.
    fn is_zoned(self) -> bool {
        let sysfs = self.sysfs();
        // A partition has its queue one level up.
        let model = std::fs::read_to_string(sysfs.join("queue/zoned"))
            .or_else(|_| std::fs::read_to_string(sysfs.join("../queue/zoned")));
        model.is_ok_and(|model| model.trim() == "host-managed")
    }

    /// Who has it, where that is known, and what to do.
    fn holder(self) -> Option<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(mount) = mounted_at(&mounts, self) {
            return Some(format!("is mounted at {mount}; unmount it first"));
        }
        let mut holders = std::fs::read_dir(self.sysfs().join("holders")).ok()?.flatten();
        let holder = holders.next()?.file_name();
        Some(format!("is part of {}; take it out of that first", holder.to_string_lossy()))
    }
}

/// Where a device is mounted, by the text of `/proc/self/mountinfo`.
fn mounted_at(mounts: &str, number: DeviceNumber) -> Option<&str> {
    let wanted = format!("{}:{}", number.major, number.minor);
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        (words.next()? == wanted).then(|| words.nth(1))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_the_devices_number() {
        let mounts = "24 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      31 24 7:3 / /mnt/a\\040b rw - ext4 /dev/loop3 rw\n";
        let at = |major, minor| mounted_at(mounts, DeviceNumber { major, minor });
        assert_eq!(at(254, 0), Some("/"));
        assert_eq!(at(7, 3), Some("/mnt/a\\040b"));
        assert_eq!(at(7, 33), None);
        assert_eq!(mounted_at("nonsense\n\n", DeviceNumber { major: 7, minor: 3 }), None);
    }

    #[test]
    fn what_is_no_block_device_is_refused_with_the_way_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = BlockDevice::open(file.path()).unwrap_err().to_string();
        assert!(text.contains("not a block device") && text.contains("kind file"), "{text}");
        let text = BlockDevice::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(text.contains("not a block device"), "{text}");
        assert!(BlockDevice::open(Path::new("/dev/no-such")).is_err());
    }
}
