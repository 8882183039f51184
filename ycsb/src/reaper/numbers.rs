//! PURE. The numbers of a run, their medians over the rounds, and the ratios to `off`.
//!
//! A number has a dotted name (`READ.p99`), which becomes nesting in the JSON. What a name means
//! and its unit:
//!
//! | name | meaning |
//! |---|---|
//! | `ops_per_s` | operations of all kinds a second |
//! | `READ.p50`, `.p99`, `.p999`, `.p9999`; `UPDATE..` | latency, microseconds |
//! | `cpu_us_per_op` | CPU of the process, user and system |
//! | `drive_reads_per_op` | reads that the drive completed, all of them, per operation |
//! | `drive_reads_per_lookup` | those without compaction's, per lookup of a key |
//! | `process_read_bytes_per_op` | bytes that the process read from storage, faults included |
//! | `others_read_pct` | of the bytes that the drive read, those that the process did not ask for |
//! | `value_memory_bytes` | memory that was left for values ([`ideal`](crate::reaper::ideal)) |
//! | `ideal_reads_per_lookup` | the miss ratio of the ideal record cache in it |
//! | `above_ideal_pct` | how many more reads than that, per cent |
//! | `limit_hits_per_s` | times an allocation met the memory limit |
//! | `reaper_passes_per_s` | looks of the reaper that evicted something |
//! | `reaper_evicted_bytes_per_s` | pages of live objects that it evicted |
//! | `reaper_alarms_per_s` | looks that found tasks waiting for memory |
//! | `reaper_pressure` | at the end: 0 none, 1 near, 2 reaping, 3 alarm, 4 emergency |
//! | `kernel_evicted_pages_per_s` | mapped pages that the kernel took, as far as noticed |

use crate::number::{float, ratio};
use crate::reaper::ideal::{Ideal, Memory};
use crate::report::Report;
use crate::report::spread::{Spread, median, quotient};
use std::collections::BTreeMap;

pub(crate) type Numbers = BTreeMap<String, f64>;

/// What the others are measured against.
pub(crate) const BASE: &str = "off";
/// Misses per lookup of the ideal below which a distance from it has no meaning: nearly all fits.
const IDEAL_MIN: f64 = 0.005;
/// A mapped page, and the least that a direct read asks for.
const PAGE_BYTES: f64 = 4096.0;

/// One run, as far as numbers go.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) workload: String,
    pub(crate) policy: String,
    pub(crate) numbers: Numbers,
}

/// A table of something by workload and policy.
pub(crate) type Sheet<T> = BTreeMap<String, BTreeMap<String, BTreeMap<String, T>>>;

/// Everything that a report says. `ideal` is missing where there is none to compare with.
pub(crate) fn numbers(report: &Report, ideal: Option<&Ideal>) -> Numbers {
    let mut all = Numbers::new();
    let mut put = |name: &str, value: Option<f64>| all.extend(value.map(|x| (name.to_owned(), x)));
    put("ops_per_s", Some(report.ops_per_s));
    put("cpu_us_per_op", report.cpu_us_per_op);
    for name in ["READ", "UPDATE"] {
        let Some(l) = report.operations.get(name).filter(|l| l.count > 0) else { continue };
        for (percentile, us) in
            [("p50", l.p50_us), ("p99", l.p99_us), ("p999", l.p999_us), ("p9999", l.p9999_us)]
        {
            put(&format!("{name}.{percentile}"), Some(us));
        }
    }
    let reads = drive_reads(report);
    let per_lookup =
        reads.map(|reads| ratio((reads - background_reads(report)).max(0.0), lookups(report)));
    put("drive_reads_per_op", reads.map(|reads| ratio(reads, float(report.ops))));
    put("drive_reads_per_lookup", per_lookup);
    put("process_read_bytes_per_op", report.storage_read_bytes_per_op);
    put("others_read_pct", others_read_pct(report));
    let values = memory(report).map(|memory| memory.value_bytes());
    let best = values.zip(ideal).map(|(bytes, ideal)| ideal.miss_ratio(bytes));
    put("value_memory_bytes", values);
    put("ideal_reads_per_lookup", best);
    let distance = per_lookup.zip(best.filter(|best| *best >= IDEAL_MIN));
    put("above_ideal_pct", distance.map(|(got, best)| (got / best - 1.0) * 100.0));
    let measured = report.memory.and_then(|memory| memory.measured.limit_hits);
    let each_second = |x: f64| ratio(x, report.seconds);
    put("limit_hits_per_s", measured.map(|hits| each_second(float(hits))));
    for (name, counter) in [
        ("reaper_passes_per_s", "mpool_reaper_passes_total"),
        ("reaper_evicted_bytes_per_s", "mpool_mcache_evicted_bytes_total"),
        ("reaper_alarms_per_s", "mpool_reaper_alarms_total"),
        ("kernel_evicted_pages_per_s", "mpool_mcache_kernel_evicted_pages_total"),
    ] {
        put(name, report.counters.get(counter).map(|x| each_second(*x)));
    }
    put("reaper_pressure", report.counters.get("mpool_reaper_pressure").copied());
    all
}

/// Reads that the drive completed: the device's own count, which knows of faults that the kernel
/// serves; else the bytes of the process in pages.
fn drive_reads(report: &Report) -> Option<f64> {
    let device = report.drive.as_ref().map(|drive| float(drive.reads));
    device.or_else(|| report.storage_read_bytes.map(|bytes| float(bytes) / PAGE_BYTES))
}

/// Which of the two it was, in words.
pub(crate) fn drive_reads_source(report: &Report) -> String {
    match &report.drive {
        Some(drive) => format!(
            "reads completed by the block device {} (/sys/dev/block/*/stat), whoever asked",
            drive.device
        ),
        None => "bytes read by the process (/proc/self/io: read_bytes) over 4096: the data is on \
                 no block device that counts"
            .into(),
    }
}

/// What other processes read from the same drive makes its count of reads too high.
fn others_read_pct(report: &Report) -> Option<f64> {
    let drive = float(report.drive.as_ref()?.read_bytes);
    let ours = float(report.storage_read_bytes?);
    Some(ratio((drive - ours).max(0.0), drive) * 100.0)
}

/// Reads that no lookup waited for.
fn background_reads(report: &Report) -> f64 {
    ["wal", "flush", "compaction"]
        .iter()
        .filter_map(|who| report.counters.get(&format!("mpool_{who}_reads_total")))
        .sum()
}

/// Keys looked up, by the store's count: an update looks its row up, too.
fn lookups(report: &Report) -> f64 {
    sum_of(report, "gets_total{")
}

fn sum_of(report: &Report, prefix: &str) -> f64 {
    report.counters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, x)| x).sum()
}

/// Where the memory of a bounded run was at its end.
fn memory(report: &Report) -> Option<Memory> {
    let group = report.memory?;
    Some(Memory {
        limit_bytes: float(group.limit_bytes),
        kernel_bytes: float(group.measured.kernel_bytes.unwrap_or(0)),
        anonymous_bytes: float(group.measured.anonymous_bytes?),
        value_cache_bytes: report.counters.get("value_cache_bytes").copied().unwrap_or(0.0),
        index_bytes: sum_of(report, "kvs_index_bytes{"),
    })
}

/// Whether a ratio of this number says anything.
fn is_compared(name: &str) -> bool {
    name.contains('.')
        || ["ops_per_s", "cpu_us_per_op", "drive_reads_per_op", "drive_reads_per_lookup"]
            .contains(&name)
}

/// Every number's median over the rounds.
pub(crate) fn medians(samples: &[Sample]) -> Sheet<f64> {
    let mut columns: Sheet<Vec<f64>> = Sheet::new();
    for sample in samples {
        for (name, value) in &sample.numbers {
            column(&mut columns, sample, name).push(*value);
        }
    }
    map(&columns, |values| median(values))
}

/// Each policy against `off`: the ratio within each round, and of these the median, the lowest
/// and the highest. A round without `off` has no ratio.
pub(crate) fn ratios(samples: &[Sample]) -> Sheet<Spread> {
    let mut columns: Sheet<Vec<f64>> = Sheet::new();
    for sample in samples.iter().filter(|sample| sample.policy != BASE) {
        let base = samples.iter().find(|other| {
            (other.policy.as_str(), other.round) == (BASE, sample.round)
                && other.workload == sample.workload
        });
        let Some(base) = base else { continue };
        for (name, value) in sample.numbers.iter().filter(|(name, _)| is_compared(name)) {
            if let Some(off) = base.numbers.get(name) {
                column(&mut columns, sample, name).push(quotient(*value, *off));
            }
        }
    }
    map(&columns, |values| Spread::of(values))
}

fn column<'a>(columns: &'a mut Sheet<Vec<f64>>, of: &Sample, name: &str) -> &'a mut Vec<f64> {
    let policies = columns.entry(of.workload.clone()).or_default();
    policies.entry(of.policy.clone()).or_default().entry(name.to_owned()).or_default()
}

fn map<T, U>(sheet: &Sheet<T>, f: impl Fn(&T) -> U) -> Sheet<U> {
    let inner = |numbers: &BTreeMap<String, T>| {
        numbers.iter().map(|(name, x)| (name.clone(), f(x))).collect()
    };
    let middle = |policies: &BTreeMap<String, BTreeMap<String, T>>| {
        policies.iter().map(|(policy, numbers)| (policy.clone(), inner(numbers))).collect()
    };
    sheet.iter().map(|(workload, policies)| (workload.clone(), middle(policies))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Outcome;
    use crate::machine::cgroup::{MemoryMeasured, MemoryUse};
    use crate::report::{Drive, Setting};

    fn sample(round: usize, policy: &str, pairs: &[(&str, f64)]) -> Sample {
        let numbers = pairs.iter().map(|(name, x)| ((*name).to_owned(), *x)).collect();
        Sample { round, workload: "b".into(), policy: policy.into(), numbers }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_their_median_is_taken_last() {
        let samples = [
            sample(2, "frequency", &[("ops_per_s", 300.0), ("READ.p99", 50.0)]),
            sample(1, "off", &[("ops_per_s", 100.0), ("READ.p99", 100.0)]),
            sample(1, "frequency", &[("ops_per_s", 180.0), ("READ.p99", 60.0)]),
            sample(2, "off", &[("ops_per_s", 200.0), ("READ.p99", 200.0)]),
            sample(3, "off", &[("ops_per_s", 100.0), ("READ.p99", 100.0)]),
            sample(3, "frequency", &[("ops_per_s", 200.0), ("READ.p99", 40.0)]),
            // A round that was cut short has no base.
            sample(4, "frequency", &[("ops_per_s", 9000.0), ("READ.p99", 1.0)]),
        ];
        let ratios = ratios(&samples);
        let near = |got: &Spread, expect: [f64; 3]| {
            let got = [got.median, got.min, got.max];
            got.iter().zip(expect).all(|(x, y)| (x - y).abs() < 1e-9)
        };
        let of = |name: &str| &ratios["b"]["frequency"][name];
        // 1.8, 1.5, 2.0: the ratio of the medians would be 2.5.
        assert!(near(of("ops_per_s"), [1.8, 1.5, 2.0]), "{:?}", of("ops_per_s"));
        assert!(near(of("READ.p99"), [0.4, 0.25, 0.6]), "{:?}", of("READ.p99"));
        assert!(!ratios["b"].contains_key("off"));
        let medians = medians(&samples);
        assert!((medians["b"]["off"]["ops_per_s"] - 100.0).abs() < 1e-9);
        assert!((medians["b"]["frequency"]["ops_per_s"] - 250.0).abs() < 1e-9);
    }

    #[test]
    fn what_says_nothing_as_a_ratio_has_none() {
        let pairs = [("reaper_passes_per_s", 3.0), ("above_ideal_pct", 5.0), ("READ.p50", 2.0)];
        let samples = [sample(1, "off", &pairs), sample(1, "mpool", &pairs)];
        let names: Vec<String> = ratios(&samples)["b"]["mpool"].keys().cloned().collect();
        assert_eq!(names, ["READ.p50"]);
    }

    fn report() -> Report {
        let mut report = Report::new(Setting::default(), &Outcome::default());
        (report.ops, report.seconds, report.ops_per_s) = (1000, 10.0, 100.0);
        report.counters = [
            ("gets_total{source=\"kvset\"}", 700.0),
            ("gets_total{source=\"value_cache\"}", 300.0),
            ("mpool_compaction_reads_total", 30.0),
            ("mpool_flush_reads_total", 20.0),
            ("mpool_reaper_passes_total", 40.0),
            ("mpool_reaper_pressure", 2.0),
            ("kvs_index_bytes{kvs=\"usertable\"}", 200.0),
            ("value_cache_bytes", 100.0),
        ]
        .map(|(name, x)| (name.to_owned(), x))
        .into();
        report.drive = Some(Drive {
            device: "vda".into(),
            reads: 450,
            read_bytes: 2_000_000,
            ..Drive::default()
        });
        report.storage_read_bytes = Some(1_500_000);
        report.memory = Some(MemoryUse {
            limit_bytes: 1000,
            measured: MemoryMeasured {
                limit_hits: Some(5),
                anonymous_bytes: Some(400),
                file_bytes: Some(500),
                kernel_bytes: Some(50),
            },
            ..MemoryUse::default()
        });
        report
    }

    #[test]
    fn the_numbers_of_a_run() {
        // 1000 - 50 - (400 - 100) - 200 = 450 bytes hold 4 of 8 equal records.
        let ideal = Ideal::new(vec![0.125; 8], 100);
        let got = numbers(&report(), Some(&ideal));
        for (name, expect) in [
            ("ops_per_s", 100.0),
            ("drive_reads_per_op", 0.45),
            ("drive_reads_per_lookup", 0.4),
            ("others_read_pct", 25.0),
            ("value_memory_bytes", 450.0),
            ("ideal_reads_per_lookup", 0.5),
            ("above_ideal_pct", -20.0),
            ("limit_hits_per_s", 0.5),
            ("reaper_passes_per_s", 4.0),
            ("reaper_pressure", 2.0),
        ] {
            assert!((got[name] - expect).abs() < 1e-9, "{name}: {}, not {expect}", got[name]);
        }
        // Nearly everything fits: four reads instead of none are not worse by infinity.
        let fits = numbers(&report(), Some(&Ideal::new(vec![0.5, 0.498, 0.001, 0.001], 225)));
        assert!(fits.contains_key("ideal_reads_per_lookup"), "{fits:?}");
        assert!(!fits.contains_key("above_ideal_pct"), "{fits:?}");
        // C updates nothing.
        assert!(!got.contains_key("UPDATE.p99"), "{got:?}");
    }

    #[test]
    fn without_a_device_the_process_is_asked_and_without_a_limit_nothing_is_ideal() {
        let mut report = report();
        (report.drive, report.memory) = (None, None);
        report.storage_read_bytes = Some(100 * 4096);
        let got = numbers(&report, Some(&Ideal::new(vec![0.125; 8], 100)));
        assert!((got["drive_reads_per_op"] - 0.1).abs() < 1e-9, "{got:?}");
        assert!(!got.contains_key("ideal_reads_per_lookup"), "{got:?}");
        assert!(drive_reads_source(&report).contains("/proc/self/io"));
    }
}
