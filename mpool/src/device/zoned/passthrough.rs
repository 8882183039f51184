//! The way past the block layer to an `NVMe` namespace: Zone Append.
//!
//! Linux offers a character device (`/dev/ng0n1`) beside each `NVMe` block device
//! (`/dev/nvme0n1`). This finds it, makes sure that both are the same namespace and that commands
//! pass, and appends. Many appends at once are the business of `io::appends`.

use crate::sys::nvme::{self, Target};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// An `NVMe` namespace that takes Zone Append from user space.
#[derive(Debug)]
pub struct Passthrough {
    file: File,
    namespace: u32,
    zone_bytes: u64,
    block_bytes: u32,
    /// Shared with the block device.
    poisoned: Arc<AtomicBool>,
}

impl Passthrough {
    /// The character device of the namespace behind the block device `name` (as in `/dev/NAME`),
    /// which is open as `block`. The error says why there is none.
    pub(crate) fn find(
        block: &File,
        name: &str,
        sizes: (u64, u32),
        poisoned: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (zone_bytes, block_bytes) = sizes;
        let namespace = nvme::namespace_id(block)?;
        let path = character_device(name)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if nvme::namespace_id(&file)? != namespace {
            let text = format!("{} is another namespace than {name}", path.display());
            return Err(io::Error::other(text));
        }
        let probe = IoBuf::zeroed(IO_ALIGN);
        let one_block = usize::try_from(block_bytes).expect("at most a page");
        nvme::can_append(&file, namespace, &probe[..one_block])?;
        Ok(Self { file, namespace, zone_bytes, block_bytes, poisoned })
    }

    /// The most active and the most open zones, as the drive says.
    pub(crate) fn budgets(&self) -> io::Result<[u32; 2]> {
        nvme::zone_budgets(&self.file, self.namespace)
    }

    /// Appends and waits; returns the byte on the device where the drive put `buf`, whose memory is
    /// aligned.
    pub(crate) fn append(&self, zone: u32, buf: &[u8]) -> io::Result<u64> {
        let block = nvme::append(&self.file, self.target(zone), buf)?;
        Ok(self.bytes_of(block))
    }

    /// A handle of its own, for a ring.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn target(&self, zone: u32) -> Target {
        let start = u64::from(zone) * self.zone_bytes;
        Target {
            namespace: self.namespace,
            zone_block: start / u64::from(self.block_bytes),
            block_bytes: self.block_bytes,
        }
    }

    pub(crate) fn bytes_of(&self, block: u64) -> u64 {
        block * u64::from(self.block_bytes)
    }

    pub(crate) fn check_writable(&self) -> io::Result<()> {
        check_writable(&self.poisoned)
    }
}

/// Refuses after a failed flush.
pub(crate) fn check_writable(poisoned: &AtomicBool) -> io::Result<()> {
    // Acquire pairs with the Release in `poison`.
    if poisoned.load(Ordering::Acquire) {
        return Err(io::Error::other("device is poisoned by a failed flush"));
    }
    Ok(())
}

/// `/dev/ngXnY` of `nvmeXnY`, of the same parent in sysfs.
fn character_device(name: &str) -> io::Result<PathBuf> {
    let Some(numbers) = name.strip_prefix("nvme") else {
        return Err(io::Error::other(format!("{name} is not an NVMe namespace")));
    };
    let generic = format!("ng{numbers}");
    let parent = |path: &Path| fs::canonicalize(path).map(|p| p.parent().map(Path::to_owned));
    let block = parent(&Path::new("/sys/class/block").join(name))?;
    if parent(&Path::new("/sys/class/nvme-generic").join(&generic))? != block {
        return Err(io::Error::other(format!("{generic} belongs to another drive than {name}")));
    }
    Ok(Path::new("/dev").join(generic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nvme_namespaces_have_a_character_device() {
        let error = character_device("nullb0").unwrap_err();
        assert!(error.to_string().contains("not an NVMe namespace"), "{error}");
        assert!(character_device("nvme99n99").is_err());
    }
}
