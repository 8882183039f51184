//! What the kernel tells of a block device, in sysfs.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What the kernel tells of a drive, in sysfs. Of one that has several paths, the shared device
/// (`nvme0n1`) knows neither the budgets nor the longest append; its paths (`nvme0c0n1`) do.
pub(super) struct Queue {
    pub(super) name: String,
    /// The device's folder, and those of its paths.
    folders: Vec<PathBuf>,
}

impl Queue {
    /// Of the block device at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.file_type().is_block_device() {
            return Err(io::Error::other("not a block device"));
        }
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
        let folder = device.join("queue");
        if !folder.is_dir() {
            return Err(io::Error::other("a part of a drive; zones need the whole of it"));
        }
        let name = device.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let mut folders = vec![folder];
        for entry in fs::read_dir("/sys/class/block")? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|other| is_path_of(other, &name)) {
                folders.push(entry.path().join("queue"));
            }
        }
        Ok(Self { name, folders })
    }

    /// True of a device in front of several paths, or of one that could get more.
    pub(super) fn is_shared(&self) -> bool {
        self.folders.len() > 1
    }

    /// An attribute of the device itself.
    pub(super) fn text(&self, attribute: &str) -> Option<String> {
        let text = fs::read_to_string(self.folders[0].join(attribute)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The least that anybody tells; 0 and silence mean no limit.
    pub(super) fn least(&self, attribute: &str) -> Option<u64> {
        let told = self.folders.iter().filter_map(|folder| {
            fs::read_to_string(folder.join(attribute)).ok()?.trim().parse::<u64>().ok()
        });
        told.filter(|number| *number > 0).min()
    }

    /// The same, of what every drive tells.
    pub(super) fn needed(&self, attribute: &str) -> io::Result<u64> {
        let missing = || io::Error::other(format!("the kernel does not tell its {attribute}"));
        self.least(attribute).ok_or_else(missing)
    }
}

/// True of `nvme0c3n1` and `nvme0n1`.
fn is_path_of(name: &str, shared: &str) -> bool {
    let Some((controller, namespace)) = shared.rsplit_once('n') else { return false };
    let between = name.strip_prefix(controller).and_then(|rest| rest.strip_prefix('c'));
    let number = between.and_then(|rest| rest.strip_suffix(&format!("n{namespace}")));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_shared_drive_are_told_from_other_drives() {
        for (name, path) in [
            ("nvme0c0n1", true),
            ("nvme0c12n1", true),
            ("nvme0n1", false),
            ("nvme0c0n2", false),
            ("nvme0c0n11", false),
            ("nvme10c0n1", false),
            ("nvme0cn1", false),
        ] {
            assert_eq!(is_path_of(name, "nvme0n1"), path, "{name}");
        }
        assert!(!is_path_of("sda1", "sda"));
    }
}
