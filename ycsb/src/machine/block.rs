//! What a drive did: the counters of the block device under a directory.
//!
//! | fact | word of `/sys/dev/block/MAJOR:MINOR/stat` |
//! |---|---|
//! | reads completed | 1 |
//! | sectors read, of 512 bytes | 3 |
//! | writes completed | 5 |
//! | sectors written | 7 |
//!
//! They count what the device completed, whoever asked: faults that the kernel served behind a
//! mapping, too, which the process itself cannot count; and other processes on the same device.
//! File systems without a device of their own (overlayfs, tmpfs, btrfs) have no counters.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const SECTOR_BYTES: u64 = 512;

/// The block device under a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    dir: PathBuf,
    /// `vda`, `loop0`.
    name: String,
}

/// What it has completed so far, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriveCounts {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) write_bytes: u64,
}

impl BlockDevice {
    /// The device that the file system of `path` is on, where it has counters.
    pub(crate) fn under(path: &Path) -> Option<Self> {
        let device = std::fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let dir = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let name = dir.file_name()?.to_str()?.to_owned();
        let device = Self { dir, name };
        device.counts().map(|_| device)
    }

    pub(crate) fn counts(&self) -> Option<DriveCounts> {
        DriveCounts::parse(&std::fs::read_to_string(self.dir.join("stat")).ok()?)
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl DriveCounts {
    fn parse(stat: &str) -> Option<Self> {
        let words: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
        Some(Self {
            reads: *words.first()?,
            read_bytes: words.get(2)?.checked_mul(SECTOR_BYTES)?,
            writes: *words.get(4)?,
            write_bytes: words.get(6)?.checked_mul(SECTOR_BYTES)?,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(before.reads),
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            writes: self.writes.saturating_sub(before.writes),
            write_bytes: self.write_bytes.saturating_sub(before.write_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_the_words_that_the_kernel_documents() {
        let stat = "  18 1 470 61 13 19 35 86 0 85 70 12 7 36 45 48 3\n";
        let expect =
            DriveCounts { reads: 18, read_bytes: 470 * 512, writes: 13, write_bytes: 35 * 512 };
        assert_eq!(DriveCounts::parse(stat), Some(expect));
        assert_eq!(DriveCounts::parse("18 1 470"), None);
        assert_eq!(DriveCounts::parse(""), None);
    }

    #[test]
    fn a_difference_never_goes_below_nothing() {
        let then = DriveCounts { reads: 5, read_bytes: 4096, ..DriveCounts::default() };
        let now = DriveCounts { reads: 7, read_bytes: 8192, ..DriveCounts::default() };
        assert_eq!((now.since(&then).reads, now.since(&then).read_bytes), (2, 4096));
        assert_eq!(then.since(&now), DriveCounts::default());
    }

    /// Says that it skips where the directory is on no block device.
    #[test]
    fn reading_from_the_device_is_counted() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Some(device) = BlockDevice::under(here) else {
            crate::output::say("skipped: the source is not on a block device");
            return;
        };
        assert!(!device.to_string().is_empty());
        assert!(device.counts().unwrap().reads > 0, "{device} has never read");
        assert_eq!(BlockDevice::under(Path::new("/proc")), None);
    }
}
