//! Where runs are: drives, memory groups, page cache, resources; what a report says of it and of
//! the source.

pub(crate) mod block;
pub(crate) mod bound;
pub(crate) mod cgroup;
pub(crate) mod page_cache;
pub(crate) mod resources;

use std::path::Path;

/// Where a store runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this process.
    #[default]
    Here,
    /// In another one on this machine.
    Process(u32),
    /// Out of sight. What it says about itself is all that is known.
    Elsewhere,
}

/// The commit that this program was built from, marked where the sources had changes; `None` where
/// the build did not know (`build.rs`).
pub(crate) fn commit() -> Option<String> {
    option_env!("MILLPOND_BUILT_FROM").map(str::to_owned)
}

pub(crate) fn kernel() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim().into())
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the processor calls itself.
pub(crate) fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().into())
}

pub(crate) fn memory_bytes() -> Option<u64> {
    memory("MemTotal:")
}

/// What could be taken without swapping.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    memory("MemAvailable:")
}

fn memory(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Block device and type of the file system that `dir` is on.
pub(crate) fn device_of(dir: &Path) -> Option<(String, String)> {
    let dir = dir.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    device_in(&mounts, &dir)
}

/// The mount whose path is the longest that `dir` begins with; of equals, the last one made.
fn device_in(mounts: &str, dir: &Path) -> Option<(String, String)> {
    let parsed = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mount = place.split(' ').nth(4)?;
        let mut kind = kind.split(' ');
        let file_system = kind.next()?;
        let device = kind.next()?;
        dir.starts_with(mount).then(|| (mount.len(), device.to_owned(), file_system.to_owned()))
    });
    let (_, device, file_system) = parsed.max_by_key(|(len, ..)| *len)?;
    Some((device, file_system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_is_the_one() {
        let mounts = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /data rw - xfs /dev/sdb rw
3 1 0:5 / /database rw - tmpfs tmpfs rw
";
        let found = |dir: &str| device_in(mounts, Path::new(dir)).unwrap().0;
        assert_eq!(found("/data/mp"), "/dev/sdb");
        assert_eq!(found("/databases"), "/dev/sda1");
        assert_eq!(found("/database/x"), "tmpfs");
        assert_eq!(found("/"), "/dev/sda1");
    }
}
