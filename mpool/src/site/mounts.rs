//! PURE: whether a directory lies on a mount that is not there, by the texts of `/etc/fstab` and
//! `/proc/self/mountinfo`.
//!
//! ```text
//! fstab                /dev/nvme1n1 /srv ext4 ..        what should be mounted at /srv
//! mountinfo            24 1 259:0 / / rw ..             what is mounted, and that is nothing there
//! data directory       /srv/pond                        so a pool made here lies on the wrong disk
//! ```
//!
//! A mount that is there and lies deeper than the missing one covers it: then nothing is wrong.

use std::path::{Path, PathBuf};

/// Which words of a line, parted by spaces, name the mount point.
const FSTAB_WORD: usize = 1;
const MOUNTINFO_WORD: usize = 4;

/// The mount point at or above `dir` that `fstab` names and at which nothing is mounted. `dir` is
/// absolute.
pub(super) fn not_mounted(dir: &Path, fstab: &str, mountinfo: &str) -> Option<PathBuf> {
    let mounted = deepest(dir, mountinfo, MOUNTINFO_WORD)?;
    let wanted = deepest(dir, fstab, FSTAB_WORD)?;
    (wanted.components().count() > mounted.components().count()).then_some(wanted)
}

/// The longest path of the texts' that is `dir` or above it.
fn deepest(dir: &Path, text: &str, word: usize) -> Option<PathBuf> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let points = lines.filter_map(|line| line.split_whitespace().nth(word)).map(unescaped);
    let above = points.map(PathBuf::from).filter(|point| point.is_absolute());
    above.filter(|point| dir.starts_with(point)).max_by_key(|point| point.components().count())
}

/// Both texts write white space and the backslash as three octal digits behind a backslash.
fn unescaped(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FSTAB: &str = "\
# <file system> <mount point> <type> <options>
UUID=1 / ext4 errors=remount-ro 0 1
/dev/sdb1 /srv xfs noatime 0 0
/dev/sdc1\t/mnt/a\\040b\text4\tnoauto 0 0
/dev/sdd1 none swap sw 0 0
";
    const ROOT: &str = "24 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n";

    fn look(dir: &str, mounts: &str) -> Option<String> {
        let found = not_mounted(Path::new(dir), FSTAB, &format!("{ROOT}{mounts}"));
        found.map(|path| path.to_string_lossy().into_owned())
    }

    #[test]
    fn a_forgotten_mount_is_found_at_and_above_the_directory() {
        let srv = "30 24 8:17 / /srv rw - xfs /dev/sdb1 rw\n";
        let below = "31 24 8:99 / /srv/pond rw - xfs /dev/sdz1 rw\n";
        for (dir, mounts, found) in [
            ("/srv", "", Some("/srv")),
            ("/srv/pond/data", "", Some("/srv")),
            ("/srv/pond", srv, None),
            // Something else is mounted between.
            ("/srv/pond/data", below, None),
            ("/srv/other", below, Some("/srv")),
            ("/srvx", "", None),
            ("/var/lib/millpond", "", None),
            ("/mnt/a b/pond", "", Some("/mnt/a b")),
            ("/mnt/a b/pond", "32 24 8:33 / /mnt/a\\040b rw - ext4 /dev/sdc1 rw\n", None),
            ("/", "", None),
        ] {
            assert_eq!(look(dir, mounts).as_deref(), found, "{dir} with {mounts:?}");
        }
    }

    #[test]
    fn texts_that_say_nothing_accuse_nobody() {
        assert_eq!(not_mounted(Path::new("/srv"), FSTAB, ""), None, "no mountinfo");
        assert_eq!(not_mounted(Path::new("/srv"), "", ROOT), None);
        assert_eq!(not_mounted(Path::new("/srv"), "x\n\\\n /srv", ROOT), None);
        for (word, plain) in [("a\\040b", "a b"), ("\\", "\\"), ("\\999", "\\999"), ("\\134", "\\")]
        {
            assert_eq!(unescaped(word), plain);
        }
    }
}
