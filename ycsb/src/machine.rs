//! What a report says about the machine and the source.

use std::path::Path;
use std::process::{Command, Stdio};

/// The commit, if it can be known: `MILLPOND_COMMIT` as it was when this program was built, else
/// what git says of the source now, marked where that has changes. The latter is the commit that
/// the program was built from only if nothing was committed in between.
pub(crate) fn commit() -> Option<String> {
    if let Some(commit) = option_env!("MILLPOND_COMMIT") {
        return Some(commit.into());
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args);
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit}-modified") } else { commit })
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
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
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
