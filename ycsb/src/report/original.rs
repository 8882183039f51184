//! A run as the original prints it, for the scripts that plot that: `--format ycsb`.

use crate::driver::measure::Recorder;
use crate::report::Report;
use crate::workload::{Operation, Workload};
use std::fmt::Write as _;

/// One line a number.
pub(crate) fn original_lines(report: &Report, recorder: &Recorder, workload: &Workload) -> String {
    let mut text = String::new();
    let mut line = |section: &str, name: &str, value: &str| {
        let _infallible = writeln!(text, "[{section}], {name}, {value}");
    };
    line("OVERALL", "RunTime(ms)", &format!("{:.0}", report.seconds * 1000.0));
    line("OVERALL", "Throughput(ops/sec)", &report.ops_per_s.to_string());
    if let Some(part) = &report.interrupted {
        line("OVERALL", "Interrupted", part);
    }
    for operation in Operation::ALL {
        let (name, errors) = (operation.name(), recorder.errors(operation));
        if let Some(of) = recorder.latencies(operation) {
            let us = |ns: u64| (ns / 1000).to_string();
            line(name, "Operations", &of.len().to_string());
            line(name, "AverageLatency(us)", &(of.mean() / 1000.0).to_string());
            line(name, "MinLatency(us)", &us(of.min()));
            line(name, "MaxLatency(us)", &us(of.max()));
            for percentile in &workload.percentiles {
                let at = us(of.value_at_percentile(*percentile));
                line(name, &format!("{percentile}thPercentileLatency(us)"), &at);
            }
            line(name, "Return=OK", &of.len().to_string());
        }
        if errors > 0 {
            line(name, "Return=ERROR", &errors.to_string());
        }
    }
    let checked = report.verified + report.head_scans_checked;
    if checked > 0 {
        line("VERIFY", "Operations", &checked.to_string());
        // That something is missing is a mismatch, and was not there to be checked.
        line("VERIFY", "Return=OK", &checked.saturating_sub(report.mismatches).to_string());
        line("VERIFY", "Return=UNEXPECTED_STATE", &report.mismatches.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Setting;
    use crate::report::tests::outcome;
    use crate::workload::property::Properties;

    #[test]
    fn the_original_format_is_the_originals() {
        let outcome = outcome();
        let mut report = Report::new(Setting::default(), &outcome);
        report.interrupted = Some("measuring".into());
        let workload = Workload::new(&Properties::default()).unwrap();
        let text = original_lines(&report, &outcome.recorder, &workload);
        for line in [
            "[OVERALL], RunTime(ms), 2000",
            "[OVERALL], Throughput(ops/sec), 500.5",
            "[OVERALL], Interrupted, measuring",
            "[READ], Operations, 1000",
            "[READ], MinLatency(us), 1",
            "[READ], 50thPercentileLatency(us), 500",
            "[READ], 99thPercentileLatency(us), 990",
            "[READ], Return=OK, 1000",
            "[UPDATE], Return=ERROR, 1",
            "[VERIFY], Return=OK, 900",
        ] {
            assert!(text.lines().any(|got| got == line), "{line:?} is not in:\n{text}");
        }
    }
}
