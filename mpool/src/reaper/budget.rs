//! How much memory there is for us, and how much of it is in use.
//!
//! ```text
//!   budget                                    usage
//!   the cgroup's limit, if there is one       what the cgroup counts: everything in it
//!   the user's figure, if lower               \
//!   else 60 % of MemAvailable at open         /  our anonymous memory + mapped resident pages
//! ```
//!
//! The figure is settled once, when the pool opens; usage costs one `pread` a tick. In a cgroup the
//! kernel counts for us, and everything: a backup that reads files in our group fills it with page
//! cache that is not ours. If we took that for usage we would give up our memory for it, page by
//! page, and it would take that, too, because nothing under the limit ever shrinks it. So foreign
//! page cache counts only up to [`FOREIGN_PCT`] of the budget; what is beyond is left for the
//! kernel to reclaim when we need the room, which it does from the pages that came and were never
//! asked for again. The price is that then some readers, the foreign ones above all, wait for
//! reclaim. Foreign is what `memory.stat` has of clean file pages over what we know to be ours;
//! dirty pages, tmpfs and everybody's anonymous memory count in full. It is read every 100 ms.
//!
//! Outside of a cgroup the kernel cannot tell whose pages are whose, so we count ours.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use super::cgroup::{
    Version, binding_limit, groups, parse_file_cache, parse_meminfo, parse_stalled_us,
    parse_statm_pages,
};
use crate::object::mcache::pages::PAGE_BYTES;

/// Of the memory that is available when the pool opens, this much is ours.
const AVAILABLE_PCT: u64 = 60;
/// Of the budget, this much may be other people's page cache before it is disregarded.
const FOREIGN_PCT: u64 = 2;
/// Where even `/proc/meminfo` is missing.
const FALLBACK_BYTES: u64 = 1 << 30;

/// The budget and the files to watch.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) bytes: u64,
    /// Where the figure comes from.
    pub(crate) source: &'static str,
    usage: Usage,
    pressure: Option<File>,
}

#[derive(Debug)]
enum Usage {
    /// A cgroup's usage file, a number of bytes, and what that is made of.
    Group { usage: File, stat: Option<(File, Version)> },
    /// `/proc/self/statm`; `None` where there is none, and only mapped pages count.
    Process(Option<File>),
}

impl Budget {
    /// Settles the budget; `wanted_bytes` is the user's figure.
    pub(crate) fn find(wanted_bytes: Option<u64>) -> Self {
        let read = |path: &Path| fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        let groups = groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let limit = binding_limit(&groups, &read);
        let limit = limit.filter(|limit| wanted_bytes.is_none_or(|wanted| limit.bytes <= wanted));
        if let Some(limit) = limit
            && let Ok(usage) = File::open(limit.usage_file())
        {
            let pressure = limit.pressure_file().and_then(|path| File::open(path).ok());
            let (bytes, source) = (limit.bytes, limit.source());
            let stat = File::open(limit.stat_file()).ok().map(|file| (file, limit.version));
            return Self { bytes, source, usage: Usage::Group { usage, stat }, pressure };
        }
        let (bytes, source) = match wanted_bytes {
            Some(bytes) => (bytes, "options"),
            None => match parse_meminfo(&text("/proc/meminfo"), "MemAvailable") {
                Some(available) => (available / 100 * AVAILABLE_PCT, "memory available at open"),
                None => (FALLBACK_BYTES, "fallback"),
            },
        };
        // The whole system's pressure says something about us only if its memory is our budget.
        let pressure = match wanted_bytes {
            Some(_) => None,
            None => File::open("/proc/pressure/memory").ok(),
        };
        let usage = Usage::Process(File::open("/proc/self/statm").ok());
        Self { bytes: bytes.max(1), source, usage, pressure }
    }

    /// A budget that counts mapped pages only.
    #[cfg(test)]
    pub(crate) fn of_mapped_pages(bytes: u64) -> Self {
        Self { bytes, source: "test", usage: Usage::Process(None), pressure: None }
    }

    /// Page cache in the group that is not ours and not worth our memory. Costs 20 to 100 us.
    pub(crate) fn foreign_bytes(&self, mapped_bytes: u64) -> u64 {
        let Usage::Group { stat: Some((file, version)), .. } = &self.usage else { return 0 };
        let mut buf = [0; STAT_BYTES_MAX];
        let Ok(len) = file.read_at(&mut buf, 0) else { return 0 };
        let cached = parse_file_cache(&String::from_utf8_lossy(&buf[..len]), *version);
        cached.map_or(0, |cached| disregarded(cached, mapped_bytes, self.bytes))
    }

    /// Bytes in use; `mapped_bytes` is what we know to be resident of our maps, `foreign_bytes`
    /// what is disregarded.
    pub(crate) fn used_bytes(&self, mapped_bytes: u64, foreign_bytes: u64) -> u64 {
        match &self.usage {
            Usage::Group { usage, .. } => {
                let used: u64 = read_small(usage).and_then(|t| t.trim().parse().ok()).unwrap_or(0);
                used.saturating_sub(foreign_bytes)
            }
            Usage::Process(file) => {
                let pages = file.as_ref().and_then(read_small).and_then(|t| parse_statm_pages(&t));
                // The kernel's page size only matters where maps exist, and there it is ours.
                pages.unwrap_or(0) * PAGE_BYTES + mapped_bytes
            }
        }
    }

    /// Microseconds in which somebody waited for memory, ever; `None` where nobody counts.
    pub(crate) fn stalled_us(&self) -> Option<u64> {
        parse_stalled_us(&read_small(self.pressure.as_ref()?)?)
    }
}

/// Of `cached` bytes of clean page cache, what is neither ours nor within what others may have.
fn disregarded(cached: u64, mapped_bytes: u64, budget_bytes: u64) -> u64 {
    cached.saturating_sub(mapped_bytes).saturating_sub(budget_bytes / 100 * FOREIGN_PCT)
}

/// The longest `memory.stat` of any kernel is a third of it.
const STAT_BYTES_MAX: usize = 8 << 10;

/// The kernel's small files, read from the start by one call.
fn read_small(file: &File) -> Option<String> {
    let mut buf = [0; 256];
    let len = file.read_at(&mut buf, 0).ok()?;
    Some(String::from_utf8_lossy(&buf[..len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_always_found_and_usage_is_alive() {
        for wanted in [None, Some(1 << 30)] {
            let budget = Budget::find(wanted);
            assert!(budget.bytes > 0);
            assert!(wanted.is_none_or(|wanted| budget.bytes <= wanted));
            assert!(budget.used_bytes(0, 0) > 0, "{budget:?}");
        }
    }

    #[test]
    fn foreign_page_cache_beyond_a_small_part_is_disregarded() {
        #[rustfmt::skip]
        let table = [
            // name                      cached  mapped  disregarded, of a budget of 1,000
            ("all of it is ours",            500,    500,    0),
            ("the kernel took some of ours", 300,    500,    0),
            ("a little",                     520,    500,    0),
            ("a backup",                     900,    500,  380),
            ("we have none",                 900,      0,  880),
        ];
        for (name, cached, mapped, expect) in table {
            assert_eq!(disregarded(cached, mapped, 1000), expect, "{name}");
        }
    }

    #[test]
    fn a_group_s_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            File::open(dir.path().join(name)).unwrap()
        };
        let stat = file("memory.stat", "anon 5\ninactive_file 700\nactive_file 100\n");
        let usage = Usage::Group {
            usage: file("memory.current", "950\n"),
            stat: Some((stat, Version::V2)),
        };
        let budget = Budget { bytes: 1000, source: "test", usage, pressure: None };
        assert_eq!(budget.foreign_bytes(300), 480);
        assert_eq!(budget.used_bytes(300, 480), 470);
        assert_eq!(budget.used_bytes(300, 2000), 0);
    }

    #[test]
    fn a_small_wish_counts_what_is_ours() {
        let budget = Budget::find(Some(1 << 20));
        assert_eq!((budget.bytes, budget.source), (1 << 20, "options"));
        let before = budget.used_bytes(0, 0);
        assert!(budget.used_bytes(1 << 40, 0) >= 1 << 40);
        assert!(before > 0 && before < 1 << 40);
    }
}
