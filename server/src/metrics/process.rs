//! The process as the kernel sees it, from `/proc/self`: CPU, memory, descriptors, threads.
//!
//! Read at scrape time. What cannot be read or parsed is left out of the scrape.

use kvs::metrics::{Sample, Value};
use std::fs;

/// Shows the `process_*` metrics, named without that prefix.
pub fn visit(see: &mut dyn FnMut(Sample<'_>)) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "ticks a second are a small number")]
    let hz = rustix::param::clock_ticks_per_second() as f64;
    let times = parse_stat(&stat);
    let gauges: [(&str, &str, Option<f64>); 6] = [
        (
            "resident_memory_bytes",
            "Resident memory, mapped files included.",
            kibibytes(&status, "VmRSS:"),
        ),
        ("virtual_memory_bytes", "Address space in use.", kibibytes(&status, "VmSize:")),
        ("threads", "Threads of the process.", field(&status, "Threads:")),
        ("open_fds", "Open file descriptors.", open_fds()),
        ("max_fds", "File descriptors that may be open.", field(&limits, "Max open files")),
        (
            "start_time_seconds",
            "When the process started, seconds since 1970.",
            times.zip(field(&system, "btime")).map(|(times, boot)| boot + times.start / hz),
        ),
    ];
    let cpu = times.map(|times| (times.user + times.system) / hz);
    let mut show = |name, help, value: Option<Value>| {
        if let Some(value) = value {
            see(Sample { name, help, labels: &[], value });
        }
    };
    show("cpu_seconds_total", "CPU time, user and system.", cpu.map(Value::Counter));
    for (name, help, value) in gauges {
        show(name, help, value.map(Value::Gauge));
    }
}

/// Clock ticks of `/proc/self/stat`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    user: f64,
    system: f64,
    start: f64,
}

/// The command's name may hold spaces and parentheses, so fields are counted from its last `)`.
fn parse_stat(stat: &str) -> Option<Times> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5) counts from 1 with the pid; `rest` begins at field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some(Times { user: number(14)?, system: number(15)?, start: number(22)? })
}

/// The first number after `name` on the line that begins with it.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn kibibytes(text: &str, name: &str) -> Option<f64> {
    Some(field(text, name)? * 1024.0)
}

fn open_fds() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory being read is one of them.
    u32::try_from(count.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 140 15 16 17 18 19 20 21 2200 23";
        let want = Times { user: 140.0, system: 15.0, start: 2200.0 };
        assert_eq!(parse_stat(stat), Some(want));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut seen = Vec::new();
        visit(&mut |sample| seen.push((sample.name, sample.value)));
        assert_eq!(seen.len(), 7, "{seen:?}");
        let value = |name| match seen.iter().find(|(other, _)| *other == name).unwrap().1 {
            Value::Gauge(value) => value,
            _ => panic!("{name} is a gauge"),
        };
        assert!(value("resident_memory_bytes") > 1e6);
        assert!(value("threads") >= 1.0);
        assert!(value("start_time_seconds") > 1.6e9);
    }
}
