//! What a run cost the machine: CPU seconds and storage bytes, from `/proc`.
//!
//! | fact | file | field |
//! |---|---|---|
//! | CPU | `/proc/PID/stat` | 14 and 15, ticks of 10 ms |
//! | storage | `/proc/PID/io` | `read_bytes`, `write_bytes`: what reached the block layer |
//! | memory | `/proc/PID/status` | `VmHWM`, the peak of resident memory |
//! | CPU of all | `/proc/stat` | the first line without idle, iowait and guests, ticks |
//!
//! The client's process is always counted, the server's too where this program started it or its
//! process is named. Of a server elsewhere the CPU is what it says itself
//! (`process_cpu_seconds_total`); what is not known of the store is not known of both together.

use crate::machine::Place;
use crate::number::float;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Linux' `USER_HZ`: the unit of CPU times in `/proc`, 100 on every architecture in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of one process. Absent where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// User and system together.
    #[serde(default)]
    pub(crate) cpu_s: Option<f64>,
    pub(crate) cpu_user_s: Option<f64>,
    pub(crate) cpu_sys_s: Option<f64>,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    /// Since the process began, not since the run did.
    pub(crate) rss_peak_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) place: Place,
    pub(crate) client: Process,
    pub(crate) server: Option<Process>,
    /// CPU of everybody on this machine.
    pub(crate) machine_cpu_s: Option<f64>,
}

impl Usage {
    /// `cpu_s` is what a store says about its own CPU time.
    pub(crate) fn read(place: Place, cpu_s: Option<f64>) -> Self {
        let machine = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            place,
            client: Process::read("self"),
            server: match place {
                Place::Here => None,
                Place::Process(pid) => Some(Process::read(&pid.to_string())),
                Place::Elsewhere => cpu_s.map(|_| Process { cpu_s, ..Process::default() }),
            },
            machine_cpu_s: busy_ticks(&machine).map(|ticks| float(ticks) / TICKS_PER_SECOND),
        }
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let server = self.server.map(|now| now.since(&before.server.unwrap_or_default()));
        Self {
            place: self.place,
            client: self.client.since(&before.client),
            server,
            machine_cpu_s: both(self.machine_cpu_s, before.machine_cpu_s, |a, b| (a - b).max(0.0)),
        }
    }

    /// Client and store together.
    pub(crate) fn total(&self) -> Process {
        let b = match (self.place, self.server) {
            (Place::Here, _) => return self.client,
            (_, Some(server)) => server,
            (_, None) => return Process::default(),
        };
        let a = self.client;
        Process {
            cpu_s: both(a.cpu_s, b.cpu_s, |a, b| a + b),
            cpu_user_s: both(a.cpu_user_s, b.cpu_user_s, |a, b| a + b),
            cpu_sys_s: both(a.cpu_sys_s, b.cpu_sys_s, |a, b| a + b),
            read_bytes: both(a.read_bytes, b.read_bytes, |a, b| a + b),
            write_bytes: both(a.write_bytes, b.write_bytes, |a, b| a + b),
            rss_peak_bytes: both(a.rss_peak_bytes, b.rss_peak_bytes, |a, b| a + b),
        }
    }

    /// CPU of those who are neither client nor store; the kernel's own threads are among them.
    /// Unknown where the store may be one of them.
    pub(crate) fn others_cpu_s(&self) -> Option<f64> {
        let known = self.place != Place::Elsewhere;
        both(self.machine_cpu_s, self.total().cpu_s.filter(|_| known), |all, ours| {
            (all - ours).max(0.0)
        })
    }
}

impl Process {
    fn read(pid: &str) -> Self {
        let file = |name| std::fs::read_to_string(Path::new("/proc").join(pid).join(name)).ok();
        let cpu = file("stat").and_then(|text| cpu_ticks(&text));
        let io = file("io").unwrap_or_default();
        let status = file("status").unwrap_or_default();
        let seconds = |ticks: u64| float(ticks) / TICKS_PER_SECOND;
        Self {
            cpu_s: cpu.map(|(user, sys)| seconds(user + sys)),
            cpu_user_s: cpu.map(|(user, _)| seconds(user)),
            cpu_sys_s: cpu.map(|(_, sys)| seconds(sys)),
            read_bytes: number_of(&io, "read_bytes"),
            write_bytes: number_of(&io, "write_bytes"),
            rss_peak_bytes: number_of(&status, "VmHWM").map(|kib| kib * 1024),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            cpu_s: both(self.cpu_s, before.cpu_s, |a, b| (a - b).max(0.0)),
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

/// Ticks that all processors were not idle: user, nice, system, irq, softirq, steal.
fn busy_ticks(stat: &str) -> Option<u64> {
    let words = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = words.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(ticks.get(..3)?.iter().sum::<u64>() + ticks.get(5..8)?.iter().sum::<u64>())
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
        let one = Process { cpu_s: Some(1.5), write_bytes: Some(3), ..Process::default() };
        let of = |place, server| Usage { place, client: one, server, machine_cpu_s: Some(9.0) };
        let both = of(Place::Process(7), Some(one));
        assert_eq!((both.total().write_bytes, both.total().cpu_s), (Some(6), Some(3.0)));
        assert_eq!(both.others_cpu_s(), Some(6.0));
        let here = of(Place::Here, None);
        assert_eq!((here.total(), here.others_cpu_s()), (one, Some(7.5)));
    }

    /// The driver's own bytes are not the store's.
    #[test]
    fn of_a_store_elsewhere_nothing_is_made_up() {
        let own = Process { cpu_s: Some(1.5), read_bytes: Some(3), ..Process::default() };
        let of =
            |server| Usage { place: Place::Elsewhere, client: own, server, machine_cpu_s: None };
        assert_eq!(of(None).total(), Process::default());
        let told = of(Some(Process { cpu_s: Some(2.0), ..Process::default() }));
        assert_eq!((told.total().cpu_s, told.total().read_bytes), (Some(3.5), None));
        assert_eq!(told.others_cpu_s(), None);
        assert_eq!(Usage::read(Place::Elsewhere, None).server, None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  10 20 30 1000 2000 1 2 3 500 600\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(66));
        assert_eq!((busy_ticks(""), busy_ticks("cpu  1 2 3")), (None, None));
    }
}
