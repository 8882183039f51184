//! A pool in a memory cgroup: the reaper keeps the whole process under the limit, so that the
//! kernel never has to reclaim.
//!
//! The test starts itself again as a child inside a new cgroup below the mount of the memory
//! controller (v1 or v2). Where that is not permitted, it says so and passes.

#![expect(clippy::unwrap_used, reason = "a test: unwrapping is its way to fail")]

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mpool::{Class, IO_ALIGN, IoBuf, Mblock, Options, Pool, Priority};

const LIMIT_BYTES: u64 = 40 << 20;
const OBJECT_BYTES: u64 = 4 << 20;
const OBJECTS: u64 = 24;
const READS: u64 = 60_000;
const CHILD: &str = "MILLPOND_TEST_IN_CGROUP";

/// A cgroup of our own, removed when dropped.
struct Group {
    dir: PathBuf,
    pressure: &'static str,
}

impl Group {
    fn create() -> Result<Self, String> {
        let name = format!("millpond-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, pressure) = if v1.join("memory.limit_in_bytes").exists() {
            (v1, "memory.limit_in_bytes", "memory.failcnt")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max", "memory.events")
        };
        let dir = root.join(name);
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let group = Self { dir, pressure };
        let path = group.dir.join(limit);
        fs::write(&path, LIMIT_BYTES.to_string())
            .map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(group)
    }

    /// Times that an allocation met the limit.
    fn limit_hits(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join(self.pressure)).unwrap();
        let max = text.lines().find_map(|line| line.strip_prefix("max "));
        max.unwrap_or(text.trim()).trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails while the kernel still takes the child apart; then an empty group stays.
        let _ = fs::remove_dir(&self.dir);
    }
}

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[test]
fn a_pool_in_a_memory_cgroup_stays_under_its_limit() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return workload(Path::new(&dir));
    }
    let group = match Group::create() {
        Ok(group) => group,
        Err(why) => return say(&format!("skipped: no memory cgroup can be made here ({why})")),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_pool_in_a_memory_cgroup_stays_under_its_limit", "--nocapture"])
        .env(CHILD, dir.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let joined = fs::write(group.dir.join("cgroup.procs"), child.id().to_string());
    // The child waits for its input to end.
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    if let Err(why) = joined {
        return say(&format!("skipped: the child cannot be moved into the cgroup ({why})"));
    }
    assert!(status.success());
    let hits = group.limit_hits();
    say(&format!("the limit was met {hits} times"));
    assert!(hits < 100, "the kernel reclaimed {hits} times; the reaper should have been first");
}

/// Runs in the child: 96 MiB of objects read at random, a third of them hot, in 40 MiB.
fn workload(dir: &Path) {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let options = Options { allow_volatile: true, reserve_bytes: Some(0), ..Options::default() };
    let pool = match Pool::open_or_create(dir, &options) {
        Ok(pool) => pool,
        // On tmpfs the page cache is the medium; there is nothing to reap.
        Err(why) => return say(&format!("skipped: {why}")),
    };
    let before = pool.reaper().stats();
    if !before.source.starts_with("cgroup") {
        return say(&format!("skipped: the budget is from {}", before.source));
    }
    assert_eq!(before.budget_bytes, LIMIT_BYTES);
    let objects: Vec<Mblock> = (0..OBJECTS)
        .map(|n| {
            let mut writer = pool.allocate(OBJECT_BYTES, Priority::Flush).unwrap();
            writer.append(&vec![u8::try_from(n).unwrap(); 4 << 20]).unwrap();
            pool.commit(vec![writer], &[]).unwrap().remove(0)
        })
        .collect();
    let map = pool.map(&objects, Class::Cold).unwrap();
    std::thread::scope(|scope| {
        for seed in 1..=2 {
            let map = &map;
            scope.spawn(move || reader(map, seed));
        }
    });
    let (reaper, stats) = (pool.reaper().stats(), map.stats());
    say(&format!("{reaper:?}\n{stats:?}"));
    assert!(reaper.evicted_bytes > 0, "more was admitted than fits");
    assert!(reaper.used_bytes <= LIMIT_BYTES);
    assert!(stats.hits * 2 > stats.direct_reads, "the hot third is in memory");
}

fn reader(map: &mpool::Map, seed: u64) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    let mut scratch = IoBuf::zeroed(IO_ALIGN);
    let pages = OBJECTS * OBJECT_BYTES / 4096;
    for _ in 0..READS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Nine of ten reads go to every third page.
        let page = (random >> 20) % pages;
        let page = if random % 10 < 9 { page / 3 * 3 } else { page };
        let (object, at) = (page / 1024, page % 1024 * 4096);
        let bytes = map.read(usize::try_from(object).unwrap(), at..at + 8, &mut scratch).unwrap();
        assert_eq!(u64::from(bytes[7]), object, "seed {seed}");
    }
}
