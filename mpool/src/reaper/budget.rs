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
//! kernel counts for us, other processes' pages too. Outside of one it cannot tell whose pages are
//! whose, so we count ours.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use super::cgroup::{binding_limit, groups, parse_meminfo, parse_stalled_us, parse_statm_pages};
use crate::mcache::pages::PAGE_BYTES;

/// Of the memory that is available when the pool opens, this much is ours.
const AVAILABLE_PCT: u64 = 60;
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
    /// A cgroup's usage file: a number of bytes.
    Group(File),
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
            return Self { bytes, source, usage: Usage::Group(usage), pressure };
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

    /// Bytes in use; `mapped_bytes` is what we know to be resident of our maps.
    pub(crate) fn used_bytes(&self, mapped_bytes: u64) -> u64 {
        match &self.usage {
            Usage::Group(file) => read_small(file).and_then(|t| t.trim().parse().ok()).unwrap_or(0),
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
            assert!(budget.used_bytes(0) > 0, "{budget:?}");
        }
    }

    #[test]
    fn a_small_wish_counts_what_is_ours() {
        let budget = Budget::find(Some(1 << 20));
        assert_eq!((budget.bytes, budget.source), (1 << 20, "options"));
        let before = budget.used_bytes(0);
        assert!(budget.used_bytes(1 << 40) >= 1 << 40);
        assert!(before > 0 && before < 1 << 40);
    }
}
