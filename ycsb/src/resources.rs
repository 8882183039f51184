//! What a run cost the machine: CPU seconds and storage bytes, from `/proc`.
//!
//! | fact | file | field |
//! |---|---|---|
//! | CPU | `/proc/PID/stat` | 14 and 15, ticks of 10 ms |
//! | storage | `/proc/PID/io` | `read_bytes`, `write_bytes`: what reached the block layer |
//! | memory | `/proc/PID/status` | `VmHWM`, the peak of resident memory |
//!
//! The client's process is always counted, the server's too where this program started it.
//! Elsewhere than on Linux all are unknown.

use crate::number::float;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Linux' `USER_HZ`: the unit of CPU times in `/proc`, 100 on every architecture in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the counters of the processes that matter.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    server: Option<u32>,
}

/// Counters of one process. Absent where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) cpu_user_s: Option<f64>,
    pub(crate) cpu_sys_s: Option<f64>,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    /// Since the process began, not since the run did.
    pub(crate) rss_peak_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) client: Process,
    pub(crate) server: Option<Process>,
}

impl Meter {
    pub(crate) fn new(server: Option<u32>) -> Self {
        Self { server }
    }

    pub(crate) fn read(&self) -> Usage {
        Usage {
            client: Process::read("self"),
            server: self.server.map(|pid| Process::read(&pid.to_string())),
        }
    }
}

impl Usage {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let server = self.server.map(|now| now.since(&before.server.unwrap_or_default()));
        Self { client: self.client.since(&before.client), server }
    }

    /// Client and server together.
    pub(crate) fn total(&self) -> Process {
        let (a, Some(b)) = (self.client, self.server) else { return self.client };
        Process {
            cpu_user_s: both(a.cpu_user_s, b.cpu_user_s, |a, b| a + b),
            cpu_sys_s: both(a.cpu_sys_s, b.cpu_sys_s, |a, b| a + b),
            read_bytes: both(a.read_bytes, b.read_bytes, |a, b| a + b),
            write_bytes: both(a.write_bytes, b.write_bytes, |a, b| a + b),
            rss_peak_bytes: both(a.rss_peak_bytes, b.rss_peak_bytes, |a, b| a + b),
        }
    }
}

impl Process {
    fn read(pid: &str) -> Self {
        let file = |name| std::fs::read_to_string(Path::new("/proc").join(pid).join(name)).ok();
        let cpu = file("stat").and_then(|text| cpu_ticks(&text));
        let io = file("io").unwrap_or_default();
        let status = file("status").unwrap_or_default();
        Self {
            cpu_user_s: cpu.map(|(user, _)| float(user) / TICKS_PER_SECOND),
            cpu_sys_s: cpu.map(|(_, sys)| float(sys) / TICKS_PER_SECOND),
            read_bytes: number_of(&io, "read_bytes"),
            write_bytes: number_of(&io, "write_bytes"),
            rss_peak_bytes: number_of(&status, "VmHWM").map(|kib| kib * 1024),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            cpu_user_s: both(self.cpu_user_s, before.cpu_user_s, |a, b| (a - b).max(0.0)),
            cpu_sys_s: both(self.cpu_sys_s, before.cpu_sys_s, |a, b| (a - b).max(0.0)),
            read_bytes: both(self.read_bytes, before.read_bytes, u64::saturating_sub),
            write_bytes: both(self.write_bytes, before.write_bytes, u64::saturating_sub),
            rss_peak_bytes: self.rss_peak_bytes,
        }
    }
}

fn both<T>(a: Option<T>, b: Option<T>, f: impl FnOnce(T, T) -> T) -> Option<T> {
    Some(f(a?, b?))
}

/// User and system ticks. The process name, in parentheses, may itself hold spaces and
/// parentheses, so fields count from the last one that closes.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The number on the line of `name`, whatever follows it.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_process_names_do_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 120 0 0 0 321 45 0 0 20 0 1 0";
        assert_eq!(cpu_ticks(stat), Some((321, 45)));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn numbers_are_found_by_name() {
        let text = "rchar: 5\nread_bytes: 4096\nVmHWM:\t  12 kB\nName:\tx\n";
        assert_eq!(number_of(text, "read_bytes"), Some(4096));
        assert_eq!(number_of(text, "VmHWM"), Some(12));
        assert_eq!(number_of(text, "Name"), None);
        assert_eq!(number_of(text, "read"), None);
    }

    #[test]
    fn a_difference_needs_both_ends() {
        let known = Process { read_bytes: Some(10), ..Process::default() };
        let later = Process { read_bytes: Some(25), ..Process::default() };
        assert_eq!(later.since(&known).read_bytes, Some(15));
        assert_eq!(later.since(&Process::default()).read_bytes, None);
    }

    #[test]
    fn totals_add_client_and_server() {
        let one = Process { cpu_user_s: Some(1.5), write_bytes: Some(3), ..Process::default() };
        let usage = Usage { client: one, server: Some(one) };
        assert_eq!(usage.total().write_bytes, Some(6));
        assert_eq!(usage.total().cpu_user_s, Some(3.0));
        assert_eq!(Usage { client: one, server: None }.total(), one);
    }
}
