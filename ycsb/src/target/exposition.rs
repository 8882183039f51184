//! PURE. Prometheus' text format, as far as a report wants it: single numbers by name.
//!
//! Buckets of histograms are left out; their sums and counts are there.

use super::Counted;
use std::collections::BTreeMap;

/// The samples of one scrape. Lines that are no samples are passed over.
pub(super) fn samples(text: &str) -> Vec<Counted> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            kinds.extend(kind.split_once(' '));
        } else if !line.starts_with('#') {
            samples.extend(sample(line, &kinds));
        }
    }
    samples
}

fn sample(line: &str, kinds: &BTreeMap<&str, &str>) -> Option<Counted> {
    // Values of labels may hold spaces; what follows the labels does not.
    let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
    let (full, rest) = line.split_at(end);
    let name = full.split('{').next()?;
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    if name.ends_with("_bucket") || !value.is_finite() {
        return None;
    }
    let family = name.strip_suffix("_sum").or(name.strip_suffix("_count")).unwrap_or(name);
    let kind = kinds.get(name).or_else(|| kinds.get(family)).copied();
    let grows = matches!(kind, Some("counter" | "histogram" | "summary"));
    Some(Counted { name: full.into(), grows, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_the_rest_is_passed_over() {
        let text = "\
# HELP process_cpu_seconds_total CPU time.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE kvs_index_bytes gauge
kvs_index_bytes{kvs=\"a } b\"} 7 1700000000
# TYPE wait_seconds histogram
wait_seconds_bucket{le=\"+Inf\"} 3
wait_seconds_sum 0.25
wait_seconds_count 3
odd NaN
<html>
";
        let got: Vec<(String, bool, f64)> =
            samples(text).into_iter().map(|c| (c.name, c.grows, c.value)).collect();
        let expect = [
            ("process_cpu_seconds_total", true, 12.5),
            ("kvs_index_bytes{kvs=\"a } b\"}", false, 7.0),
            ("wait_seconds_sum", true, 0.25),
            ("wait_seconds_count", true, 3.0),
        ];
        assert_eq!(got, expect.map(|(name, grows, value)| (name.to_owned(), grows, value)));
    }
}
