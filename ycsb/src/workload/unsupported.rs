//! PURE. Properties of the original that mean nothing here, and why.
//!
//! What cannot change a result is passed over, and said; what asks for something that would not be
//! done is refused, for a benchmark that quietly does something else is worse than none. A value
//! that asks for what is done anyway is welcome.

/// What becomes of a property that is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It changes nothing about the result.
    Passed(&'static str),
    Refused(&'static str),
}

use Verdict::{Passed, Refused};

/// By name: the values that ask for what is done anyway, and what becomes of others.
const PROPERTIES: &[(&str, &[&str], Verdict)] = &[
    ("columnfamily", &[], Passed("records are in `table`, there are no column families")),
    ("db", &[], Refused("the store is chosen by --target")),
    ("dotransactions", &[], Refused("`ycsb load` and `ycsb run` are the two phases")),
    ("exporter", &[], Refused("results have the forms of --format and --json")),
    ("exportfile", &[], Refused("redirect standard output, or give --json FILE")),
    ("hdrhistogram.fileoutput", &["false"], Refused(NO_LOG)),
    ("hdrhistogram.output.path", &[], Refused(NO_LOG)),
    ("histogram.buckets", &[], Passed("latencies are kept to three digits up to an hour")),
    ("label", &[], Passed("progress has no label")),
    ("latencytrackederrors", &[], Refused(NO_ERROR_LATENCY)),
    (
        "measurement.interval",
        &["intended"],
        Refused(
            "latency runs from when an operation was due if there is a target, and else from \
             when it began; that is `intended`",
        ),
    ),
    ("measurement.raw.output_file", &[], Refused(NO_RAW)),
    ("measurement.trackjvm", &["false"], Refused("there is no JVM")),
    ("reportlatencyforeacherror", &["false"], Refused(NO_ERROR_LATENCY)),
    ("status", &[], Passed("progress is always shown, on standard error")),
    ("status.interval", &[], Passed("progress is shown every 10 seconds, on a terminal at once")),
    ("timeseries.granularity", &[], Passed("--by-second keeps the latencies of each second")),
];

const NO_LOG: &str = "no log of histograms is written; --json has percentiles, of each second \
                      with --by-second";
const NO_RAW: &str = "single latencies are not kept; --json has percentiles, of each second with \
                      --by-second";
const NO_ERROR_LATENCY: &str = "operations that failed are counted, and have no latencies";

/// Property names that belong to the original's tracing.
const TRACING: &str = "htrace.";

/// Of a property that the original knows and this program does not use; `None` of all others.
pub(crate) fn verdict(name: &str, value: &str) -> Option<Verdict> {
    if name.starts_with(TRACING) {
        return Some(Refused("requests are not traced"));
    }
    let (_, welcome, verdict) = PROPERTIES.iter().find(|(known, ..)| *known == name)?;
    if welcome.contains(&value) {
        return Some(Passed("it is what is done"));
    }
    Some(*verdict)
}

/// Why a `measurementtype` cannot be had; `None` of those that can.
pub(crate) fn measurement_type(value: &str) -> Option<&'static str> {
    match value {
        "hdrhistogram" | "histogram" => None,
        "hdrhistogram+histogram" => Some("there is one histogram; leave `+histogram` away"),
        "timeseries" => Some("give --by-second and --json for latencies over time"),
        "raw" | "hdrhistogram+raw" => Some(NO_RAW),
        _ => Some("must be hdrhistogram (or histogram, which is kept as one, too)"),
    }
}

/// Why a `workload` class cannot be had; `None` of the core workload, under both its names.
pub(crate) fn workload_class(value: &str) -> Option<&'static str> {
    let core = ["site.ycsb.workloads.CoreWorkload", "com.yahoo.ycsb.workloads.CoreWorkload"];
    (!core.contains(&value)).then_some(
        "only site.ycsb.workloads.CoreWorkload is there; its properties make the workload",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_something_else_is_refused() {
        for (name, value, passed) in [
            ("histogram.buckets", "1000", true),
            ("columnfamily", "x", true),
            ("measurement.trackjvm", "false", true),
            ("measurement.trackjvm", "true", false),
            ("measurement.interval", "intended", true),
            ("measurement.interval", "both", false),
            ("hdrhistogram.fileoutput", "true", false),
            ("db", "site.ycsb.db.rocksdb.RocksDBClient", false),
            ("htrace.sampler.classes", "ProbabilitySampler", false),
        ] {
            let verdict = verdict(name, value).expect(name);
            assert_eq!(matches!(verdict, Passed(_)), passed, "{name}={value}: {verdict:?}");
        }
        assert_eq!(verdict("recordcount", "1"), None);
    }

    #[test]
    fn measurements_and_classes() {
        for (value, allowed) in
            [("hdrhistogram", true), ("histogram", true), ("raw", false), ("nonsense", false)]
        {
            assert_eq!(measurement_type(value).is_none(), allowed, "{value}");
        }
        for (class, allowed) in [
            ("site.ycsb.workloads.CoreWorkload", true),
            ("com.yahoo.ycsb.workloads.CoreWorkload", true),
            ("site.ycsb.workloads.TimeSeriesWorkload", false),
        ] {
            assert_eq!(workload_class(class).is_none(), allowed, "{class}");
        }
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(PROPERTIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
