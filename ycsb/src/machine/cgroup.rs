//! A memory cgroup around a process: `--memory 2GiB`.
//!
//! The group is a child of the one that this process is in, so all that bounds us bounds it, too.
//! The process enters before it allocates, with the limit already set; a server is started from
//! inside and so born there. Both versions of cgroups are known:
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | limit | `memory.limit_in_bytes` | `memory.max`, `memory.swap.max` = 0 |
//! | peak | `memory.max_usage_in_bytes` | `memory.peak` |
//! | limit met | `memory.failcnt` | `memory.events`: `max` |
//! | in use | `memory.stat`, `memory.kmem.usage_in_bytes` | `memory.stat` |
//! | killed | `memory.oom_control`: `oom_kill` | `memory.events`: `oom_kill` |
//!
//! Version 2 lets a group that has processes have no children with controllers. There the new
//! group is tried as a child, then as a sibling.

use crate::number::bytes;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const PREFIX: &str = "millpond-ycsb-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where this process is among the memory cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    /// The directory of our own group.
    own: PathBuf,
    /// The mount, above which there is nothing.
    mount: PathBuf,
}

/// A group that exists until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    dir: PathBuf,
    home: PathBuf,
    version: Version,
    limit_bytes: u64,
}

/// What happened in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryUse {
    pub(crate) limit_bytes: u64,
    pub(crate) peak_bytes: Option<u64>,
    /// Times that an allocation met the limit and memory was reclaimed.
    pub(crate) limit_hits: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    /// The group while the run was measured.
    pub(crate) measured: MemoryMeasured,
}

/// A group between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryMeasured {
    /// Times that the limit was met between the two.
    pub(crate) limit_hits: Option<u64>,
    /// What the group held at the second look: the process's own memory, ...
    pub(crate) anonymous_bytes: Option<u64>,
    /// ... page cache, ...
    pub(crate) file_bytes: Option<u64>,
    /// ... and the kernel's on its behalf.
    pub(crate) kernel_bytes: Option<u64>,
}

impl MemoryMeasured {
    /// What happened since `before`; levels are those of now.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let hits = self.limit_hits.zip(before.limit_hits);
        Self { limit_hits: hits.map(|(now, then)| now.saturating_sub(then)), ..*self }
    }
}

impl MemoryUse {
    pub(crate) fn sentence(&self) -> String {
        let number = |n: Option<u64>| n.map_or("unknown".into(), |n| n.to_string());
        format!(
            "memory peak {} of {}, limit met {} times, {} OOM kills",
            self.peak_bytes.map_or("unknown".into(), bytes),
            bytes(self.limit_bytes),
            number(self.limit_hits),
            number(self.oom_kills),
        )
    }
}

impl MemoryGroup {
    /// Makes a group with the limit. Nobody is in it yet.
    pub(crate) fn create(limit_bytes: u64) -> Result<Self> {
        let place = Place::find().context(
            "--memory needs memory cgroups, which this system does not show; bound the process \
             from outside and leave --memory away",
        )?;
        let mut failures = Vec::new();
        for parent in place.parents() {
            sweep(&parent);
            match make(&parent, place.version, limit_bytes) {
                Ok(dir) => {
                    let Place { own, version, .. } = place;
                    return Ok(Self { dir, home: own, version, limit_bytes });
                }
                Err(error) => failures.push(format!("{}: {error:#}", parent.display())),
            }
        }
        bail!(
            "cannot make a memory cgroup here ({}). Run as a user who may write there, or bound \
             the process from outside: systemd-run --user --scope -p MemoryMax={limit_bytes} -p \
             MemorySwapMax=0 ycsb ... without --memory",
            failures.join("; ")
        )
    }

    /// Moves this process, with all its threads, into the group.
    pub(crate) fn enter(&self) -> Result<()> {
        join(&self.dir).with_context(|| format!("cannot enter {}", self.dir.display()))
    }

    /// Moves this process back to where it came from.
    pub(crate) fn leave(&self) -> Result<()> {
        join(&self.home).with_context(|| format!("cannot return to {}", self.home.display()))
    }

    /// What has happened in it so far.
    pub(crate) fn usage(&self) -> MemoryUse {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse().ok();
        let word = |name: &str, word: &str| named(&read(name)?, word);
        let limit_bytes = self.limit_bytes;
        match self.version {
            Version::One => MemoryUse {
                limit_bytes,
                peak_bytes: number("memory.max_usage_in_bytes"),
                limit_hits: number("memory.failcnt"),
                oom_kills: word("memory.oom_control", "oom_kill"),
                measured: MemoryMeasured::default(),
            },
            Version::Two => MemoryUse {
                limit_bytes,
                peak_bytes: number("memory.peak"),
                limit_hits: word("memory.events", "max"),
                oom_kills: word("memory.events", "oom_kill"),
                measured: MemoryMeasured::default(),
            },
        }
    }

    /// What it holds now, and how often the limit has been met so far.
    pub(crate) fn look(&self) -> MemoryMeasured {
        let stat = std::fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        let (anonymous, file) = match self.version {
            Version::One => ("total_rss", "total_cache"),
            Version::Two => ("anon", "file"),
        };
        let kernel_bytes = match self.version {
            Version::One => {
                let text = std::fs::read_to_string(self.dir.join("memory.kmem.usage_in_bytes"));
                text.ok().and_then(|text| text.trim().parse().ok())
            }
            Version::Two => named(&stat, "kernel"),
        };
        MemoryMeasured {
            limit_hits: self.usage().limit_hits,
            anonymous_bytes: named(&stat, anonymous),
            file_bytes: named(&stat, file),
            kernel_bytes,
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that never entered is moved to where it is. One that cannot leave keeps the
        // group alive; the next run sweeps it up.
        let _stays = self.leave();
        let _swept_later = std::fs::remove_dir(&self.dir);
    }
}

impl Place {
    fn find() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::parse(&own, &mounts)
    }

    /// From `/proc/self/cgroup` and `/proc/self/mountinfo`. A memory controller of version 1 is
    /// preferred where both are mounted: then version 2 does not have it.
    fn parse(own: &str, mounts: &str) -> Option<Self> {
        let group = |wanted: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let controllers = parts.nth(1)?;
                controllers.split(',').any(|c| c == wanted).then(|| parts.next())?
            })
        };
        let one = || Self::at(Version::One, group("memory")?, mounts);
        let two = || Self::at(Version::Two, group("")?, mounts);
        one().or_else(two)
    }

    fn at(version: Version, group: &str, mounts: &str) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let file_system = kind.next()?;
            let options = kind.nth(1)?;
            let fits = match version {
                Version::One => {
                    file_system == "cgroup" && options.split(',').any(|o| o == "memory")
                }
                Version::Two => file_system == "cgroup2",
            };
            let mut place = place.split(' ');
            let (root, mount) = (place.nth(3)?, place.next()?);
            // In a container the mount may show only the part below `root`.
            let below = if root == "/" { group } else { group.strip_prefix(root).unwrap_or("") };
            let below = below.trim_matches('/');
            let mut own = PathBuf::from(mount);
            // Joining nothing would add a slash to a path that people read.
            if !below.is_empty() {
                own.push(below);
            }
            fits.then(|| Self { version, own, mount: mount.into() })
        })
    }

    fn parents(&self) -> Vec<PathBuf> {
        let mut parents = vec![self.own.clone()];
        if self.version == Version::Two && self.own != self.mount {
            parents.extend(self.own.parent().map(Path::to_owned));
        }
        parents
    }
}

fn make(parent: &Path, version: Version, limit_bytes: u64) -> Result<PathBuf> {
    if version == Version::Two {
        let enabled = std::fs::read_to_string(parent.join("cgroup.subtree_control"))?;
        if !enabled.split_whitespace().any(|c| c == "memory") {
            std::fs::write(parent.join("cgroup.subtree_control"), "+memory")
                .context("cannot enable the memory controller for children")?;
        }
    }
    let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let limit = limit_bytes.to_string();
    let set = |name: &str, value: &str| {
        std::fs::write(dir.join(name), value).with_context(|| format!("cannot set {name}"))
    };
    let done = match version {
        Version::One => set("memory.limit_in_bytes", &limit),
        Version::Two => set("memory.max", &limit).and_then(|()| {
            // Absent where the kernel has no swap.
            let swap = dir.join("memory.swap.max");
            if swap.exists() { set("memory.swap.max", "0") } else { Ok(()) }
        }),
    };
    if done.is_err() {
        // The group is empty, so it can be removed; if not, the next run sweeps it up.
        let _swept_later = std::fs::remove_dir(&dir);
    }
    done.map(|()| dir)
}

fn join(dir: &Path) -> Result<()> {
    Ok(std::fs::write(dir.join("cgroup.procs"), std::process::id().to_string())?)
}

/// Removes groups that runs left behind which were killed.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // A group that is still in use refuses, and rightly so.
            let _refused = std::fs::remove_dir(entry.path());
        }
    }
}

/// The number after `word` in lines of `word number`.
fn named(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    fn place(own: &str, mounts: &str) -> Option<(Version, String)> {
        Place::parse(own, mounts).map(|p| (p.version, p.own.to_str().unwrap().to_owned()))
    }

    #[test]
    fn places_are_found() {
        let one = |path: &str| Some((Version::One, path.to_owned()));
        let two = |path: &str| Some((Version::Two, path.to_owned()));
        assert_eq!(place("4:memory:/a/b\n0::/\n", MOUNTS), one("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(place("4:cpu,memory:/\n", MOUNTS), one("/sys/fs/cgroup/memory"));
        let only_two = "33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(place("0::/user.slice/x", only_two), two("/sys/fs/cgroup/user.slice/x"));
        let inside = "32 30 0:28 /docker/7 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        assert_eq!(place("4:memory:/docker/7/sub", inside), one("/sys/fs/cgroup/memory/sub"));
        assert_eq!(place("1:cpu:/", MOUNTS), None);
        assert_eq!(place("0::/", ""), None);
    }

    #[test]
    fn only_version_two_has_siblings() {
        let parents = |own: &str, mounts: &str| Place::parse(own, mounts).unwrap().parents().len();
        assert_eq!(parents("4:memory:/a/b", MOUNTS), 1);
        let only_two = "33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!((parents("0::/a", only_two), parents("0::/", only_two)), (2, 1));
    }

    #[test]
    fn events_are_found_by_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n";
        assert_eq!((named(events, "max"), named(events, "oom_kill")), (Some(12), Some(2)));
        assert_eq!(named(events, "peak"), None);
    }

    /// Skips, saying so, where groups may not be made.
    #[test]
    fn a_group_limits_and_counts_and_goes_away() {
        let group = match MemoryGroup::create(64 << 20) {
            Ok(group) => group,
            Err(error) => {
                crate::output::say(&format!("skipped: {error:#}"));
                return;
            }
        };
        // The test's own process stays out: other tests share it.
        let usage = group.usage();
        assert_eq!(usage.limit_bytes, 64 << 20);
        assert_eq!(usage.oom_kills.unwrap_or(0), 0);
        let (first, second) = (group.look(), group.look());
        assert!(first.anonymous_bytes.is_some() && first.file_bytes.is_some(), "{first:?}");
        assert_eq!(second.since(&first).limit_hits, Some(0));
        let dir = group.dir.clone();
        assert!(dir.exists());
        drop(group);
        assert!(!dir.exists(), "{} is still there", dir.display());
    }
}
