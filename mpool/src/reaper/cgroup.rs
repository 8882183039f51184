//! The memory limit of the control group this process runs in.
//!
//! A process's group is named by `/proc/self/cgroup`, the place where groups are mounted by
//! `/proc/self/mountinfo`. The limit that binds is the smallest one from the group up to the root
//! of the mount; its usage file is the one to watch. Both generations work: v1
//! (`memory.limit_in_bytes`), v2 (`memory.max` and `memory.high`), and the hybrid, where v1 has the
//! memory controller and a v2 tree exists beside it without one.
//!
//! Parsing is pure and takes text; [`binding_limit`] reads files through the function it is given.

use std::path::{Path, PathBuf};

/// Limits from here up mean "none": v1 prints the largest page-aligned `i64`.
const UNLIMITED: u64 = 1 << 62;

/// Which generation's files a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A group's directory, and the mount's, above which nothing is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) version: Version,
    pub(crate) dir: PathBuf,
    pub(crate) root: PathBuf,
}

/// The limit that binds, and where to see how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    pub(crate) version: Version,
    /// The group that has it.
    pub(crate) dir: PathBuf,
}

impl Limit {
    pub(crate) fn usage_file(&self) -> PathBuf {
        self.dir.join(match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        })
    }

    /// What the usage is made of.
    pub(crate) fn stat_file(&self) -> PathBuf {
        self.dir.join("memory.stat")
    }

    /// Pressure of this group; v1 has none.
    pub(crate) fn pressure_file(&self) -> Option<PathBuf> {
        (self.version == Version::V2).then(|| self.dir.join("memory.pressure"))
    }

    pub(crate) fn source(&self) -> &'static str {
        match self.version {
            Version::V1 => "cgroup v1",
            Version::V2 => "cgroup v2",
        }
    }
}

/// The groups that may limit this process, from the texts of `/proc/self/cgroup` and
/// `/proc/self/mountinfo`: v1's memory group, and v2's group.
pub(crate) fn groups(cgroup: &str, mountinfo: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !path.starts_with('/') {
            continue;
        }
        let version = match controllers {
            "" => Version::V2,
            list if list.split(',').any(|c| c == "memory") => Version::V1,
            _ => continue,
        };
        if let Some((root, mount)) = mount_of(version, mountinfo) {
            groups.push(Group { version, dir: below(&mount, &root, Path::new(path)), root: mount });
        }
    }
    groups
}

/// Root within the hierarchy, and mount point, of the memory controller of `version`.
fn mount_of(version: Version, mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        // 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let (kind, _, options) = (source.next()?, source.next()?, source.next()?);
        let fits = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|o| o == "memory"),
            Version::V2 => kind == "cgroup2",
        };
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        // A relative place would lead out of the mount.
        let sound = fits && root.starts_with('/') && point.starts_with('/');
        sound.then(|| (PathBuf::from(root), PathBuf::from(point)))
    })
}

/// Where the group `path` is seen. In a container the mount's root is the container's own group,
/// and a path outside of it is not visible: the mount point is then the best that can be had.
fn below(mount: &Path, root: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(relative) if !relative.starts_with("..") => mount.join(relative),
        _ => mount.to_path_buf(),
    }
}

/// The smallest limit from any of `groups` up to its mount; `read` gives a file's text.
pub(crate) fn binding_limit(
    groups: &[Group],
    read: &dyn Fn(&Path) -> Option<String>,
) -> Option<Limit> {
    let limits = groups.iter().flat_map(|group| {
        let visible = |dir: &&Path| dir.starts_with(&group.root);
        group
            .dir
            .ancestors()
            .take_while(visible)
            .filter_map(|dir| limit_of(group.version, dir, read))
    });
    // The first of equals is the innermost, whose usage is nearest to ours.
    limits.min_by_key(|limit| limit.bytes)
}

fn limit_of(version: Version, dir: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<Limit> {
    let files: &[&str] = match version {
        Version::V1 => &["memory.limit_in_bytes"],
        // Over `high` the kernel throttles every allocation, so it binds like a limit.
        Version::V2 => &["memory.max", "memory.high"],
    };
    let limits = files.iter().filter_map(|file| parse_limit(&read(&dir.join(file))?));
    let bytes = limits.min()?;
    Some(Limit { bytes, version, dir: dir.to_path_buf() })
}

/// "max", and what v1 prints for it, are no limit.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| (1..UNLIMITED).contains(bytes))
}

/// The microseconds in which some task waited for memory, from a pressure file.
pub(crate) fn parse_stalled_us(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.trim().parse().ok()
}

/// Page cache that the kernel can drop at once, from a group's `memory.stat`: files' pages that are
/// neither dirty nor being written. Of the group and all below it, in both generations.
pub(crate) fn parse_file_cache(text: &str, version: Version) -> Option<u64> {
    let names = match version {
        Version::V1 => {
            ["total_inactive_file", "total_active_file", "total_dirty", "total_writeback"]
        }
        Version::V2 => ["inactive_file", "active_file", "file_dirty", "file_writeback"],
    };
    let value = |wanted: &str| -> Option<u64> {
        let mut fields = text.lines().filter_map(|line| line.split_once(' '));
        fields.find(|(name, _)| *name == wanted)?.1.trim().parse().ok()
    };
    let [inactive, active, dirty, writeback] = names.map(value);
    let busy = dirty.unwrap_or(0).saturating_add(writeback.unwrap_or(0));
    Some(inactive?.saturating_add(active?).saturating_sub(busy))
}

/// A field of `/proc/meminfo`, in bytes.
pub(crate) fn parse_meminfo(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Pages of anonymous memory, from `/proc/self/statm`: resident less shared.
pub(crate) fn parse_statm_pages(text: &str) -> Option<u64> {
    let mut fields = text.split_ascii_whitespace().skip(1);
    let resident: u64 = fields.next()?.parse().ok()?;
    let shared: u64 = fields.next()?.parse().ok()?;
    Some(resident.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const DOCKER: &str = "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";

    fn group(version: Version, dir: &str, root: &str) -> Group {
        Group { version, dir: dir.into(), root: root.into() }
    }

    #[test]
    fn the_group_of_the_process_is_found() {
        let v2 = |dir, root| vec![group(Version::V2, dir, root)];
        let table = [
            (
                "hybrid",
                "4:memory:/app/one\n1:cpu:/\n0::/app\n",
                MOUNTS,
                vec![
                    group(Version::V1, "/sys/fs/cgroup/memory/app/one", "/sys/fs/cgroup/memory"),
                    group(Version::V2, "/sys/fs/cgroup/unified/app", "/sys/fs/cgroup/unified"),
                ],
            ),
            ("v2", "0::/user/x\n", V2, v2("/sys/fs/cgroup/user/x", "/sys/fs/cgroup")),
            ("container", "0::/docker/abc/y\n", DOCKER, v2("/sys/fs/cgroup/y", "/sys/fs/cgroup")),
            ("own namespace", "0::/\n", DOCKER, v2("/sys/fs/cgroup", "/sys/fs/cgroup")),
            ("combined", "3:cpu,memory:/\n", "", vec![]),
            ("garbage", "x\n::\n", V2, vec![]),
            ("no root", "0::/user/x\n", "30 24 0:26  /sys/fs/cgroup rw - cgroup2 x rw\n", vec![]),
        ];
        for (name, cgroup, mounts, expect) in table {
            assert_eq!(groups(cgroup, mounts), expect, "{name}");
        }
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_binds() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            ("/sys/fs/cgroup/a/b/memory.high", "3000"),
            ("/sys/fs/cgroup/a/memory.max", "2000\n"),
            ("/sys/fs/cgroup/memory.max", "5000"),
            ("/sys/fs/memory.max", "1"),
            ("/v1/x/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, t)| (*t).to_string())
        };
        let v2 = group(Version::V2, "/sys/fs/cgroup/a/b", "/sys/fs/cgroup");
        let limit = binding_limit(&[v2], &read).unwrap();
        assert_eq!((limit.bytes, limit.dir.as_path()), (2000, Path::new("/sys/fs/cgroup/a")));
        assert_eq!(limit.usage_file(), Path::new("/sys/fs/cgroup/a/memory.current"));
        assert_eq!(binding_limit(&[group(Version::V1, "/v1/x", "/v1")], &read), None);
    }

    #[test]
    fn the_v2_files_of_a_limit_lie_in_its_folder() {
        let files = [("/g/memory.max", "max\n"), ("/g/memory.high", "4096\n")];
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, t)| (*t).to_string())
        };
        let limit = binding_limit(&[group(Version::V2, "/g", "/g")], &read).unwrap();
        assert_eq!((limit.bytes, limit.source()), (4096, "cgroup v2"));
        assert_eq!(limit.usage_file(), Path::new("/g/memory.current"));
        assert_eq!(limit.stat_file(), Path::new("/g/memory.stat"));
        assert_eq!(limit.pressure_file(), Some(PathBuf::from("/g/memory.pressure")));
    }

    #[test]
    fn droppable_page_cache_is_read_from_both_generations() {
        // Cut from 5.10 (v1) and 6.8 (v2), in the kernel's order.
        let v1 = "cache 9302016\nrss 9687040\ndirty 53248\ninactive_file 7\nactive_file 233472\n\
            hierarchical_memory_limit 2147483648\ntotal_dirty 1000\ntotal_writeback 24\n\
            total_inactive_anon 338788352\ntotal_inactive_file 652148736\n\
            total_active_file 504164352\ntotal_unevictable 17223680\n";
        let v2 = "anon 8192\nfile 98304\nkernel 1\nshmem 4096\nfile_mapped 0\nfile_dirty 8192\n\
            file_writeback 4096\ninactive_anon 0\nactive_anon 8192\ninactive_file 65536\n\
            active_file 32768\nunevictable 0\nworkingset_refault_file 9\n";
        assert_eq!(parse_file_cache(v1, Version::V1), Some(652_148_736 + 504_164_352 - 1024));
        assert_eq!(parse_file_cache(v2, Version::V2), Some(65_536 + 32_768 - 12_288));
        let dirty = "inactive_file 10\nactive_file 0\nfile_dirty 20\n";
        assert_eq!(parse_file_cache(dirty, Version::V2), Some(0), "the fields are read one by one");
        for bad in ["", "inactive_file", "inactive_file x\nactive_file 1", "inactive_file 1\n"] {
            assert_eq!(parse_file_cache(bad, Version::V2), None, "{bad}");
        }
    }

    #[test]
    fn the_kernel_s_texts_are_understood() {
        let psi = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0 total=7\n";
        assert_eq!(parse_stalled_us(psi), Some(1234));
        let meminfo = "MemTotal:       24684092 kB\nMemAvailable:   100 kB\n";
        assert_eq!(parse_meminfo(meminfo, "MemAvailable"), Some(102_400));
        assert_eq!(parse_meminfo(meminfo, "Mem"), None);
        assert_eq!(parse_statm_pages("1000 300 100 5 0 50 0\n"), Some(200));
        for bad in ["", "some", "1", "x y z"] {
            assert_eq!(parse_stalled_us(bad), None);
            assert_eq!(parse_statm_pages(bad), None);
        }
    }
}
