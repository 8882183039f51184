//! Engine and process samples as one collector of the `prometheus` crate.
//!
//! The engine names its metrics itself, so there is nothing to describe before the first visit:
//! the collector has no descriptors, and groups what it sees by name at each scrape. A sample
//! whose name or labels contradict an earlier one of the same scrape is dropped and counted
//! rather than served, because scrapers refuse the whole page for one bad line.

use super::PREFIX;
use super::process;
use crate::engine::Engine;
use crate::telemetry;
use kvs::metrics::{HistogramCounts, Sample, Value};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Reads the engine and `/proc` whenever it is collected.
pub struct Collected {
    engine: Arc<OnceLock<Arc<dyn Engine>>>,
}

impl Collected {
    /// A collector over an engine that may not be open yet.
    pub fn new(engine: Arc<OnceLock<Arc<dyn Engine>>>) -> Self {
        Self { engine }
    }
}

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        let lost = Sample {
            name: "log_lines_lost_total",
            help: "Log lines that standard error did not take, or not as fast as they came.",
            labels: &[],
            value: Value::Counter(as_float(telemetry::lines_lost())),
        };
        families.add(PREFIX, &lost);
        if let Some(engine) = self.engine.get() {
            engine.visit_metrics(&mut |sample| families.add(PREFIX, &sample));
        }
        process::visit(&mut |sample| families.add("process", &sample));
        families.finish()
    }
}

/// Samples grouped by name.
#[derive(Default)]
struct Families {
    by_name: BTreeMap<String, MetricFamily>,
    refused: u32,
}

impl Families {
    fn add(&mut self, prefix: &str, sample: &Sample<'_>) {
        let name = format!("{prefix}_{}", sample.name);
        let metric = metric_of(sample);
        let kind = type_of(&sample.value);
        let family = self.by_name.entry(name).or_insert_with_key(|name| {
            let mut family = MetricFamily::default();
            family.set_name(name.clone());
            family.set_help(sample.help.into());
            family.set_field_type(kind);
            family
        });
        let clash = family.get_metric().iter().any(|other| other.get_label() == metric.get_label());
        if family.get_field_type() != kind || clash || !is_valid_name(sample.name) {
            self.refused += 1;
        } else {
            family.mut_metric().push(metric);
        }
    }

    fn finish(mut self) -> Vec<MetricFamily> {
        let refused = Sample {
            name: "metrics_refused",
            help: "Samples of this scrape that contradicted others and were left out.",
            labels: &[],
            value: Value::Gauge(f64::from(self.refused)),
        };
        self.add(PREFIX, &refused);
        // A family whose every sample was refused has nothing to show.
        self.by_name.into_values().filter(|family| !family.get_metric().is_empty()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn as_float(count: u64) -> f64 {
    count as f64
}

fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn type_of(value: &Value) -> MetricType {
    match value {
        Value::Counter(_) => MetricType::COUNTER,
        Value::Gauge(_) => MetricType::GAUGE,
        Value::Histogram(_) => MetricType::HISTOGRAM,
    }
}

fn metric_of(sample: &Sample<'_>) -> Metric {
    let labels = sample.labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    });
    let mut metric = Metric::from_label(labels.collect());
    match &sample.value {
        Value::Counter(value) => {
            let mut counter = Counter::default();
            counter.set_value(*value);
            metric.set_counter(counter);
        }
        Value::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(*value);
            metric.set_gauge(gauge);
        }
        Value::Histogram(counts) => metric.set_histogram(histogram_of(counts)),
    }
    metric
}

fn histogram_of(counts: &HistogramCounts) -> Histogram {
    let buckets = counts.within.iter().map(|(bound, within)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*within);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.count);
    histogram.set_sample_sum(counts.sum);
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn sample<'a>(name: &'static str, labels: &'a [(&'static str, &'a str)]) -> Sample<'a> {
        Sample { name, help: "Help.", labels, value: Value::Counter(2.0) }
    }

    #[test]
    fn samples_of_a_name_share_one_help_line() {
        let mut families = Families::default();
        families.add(PREFIX, &sample("reads_total", &[("from", "cache")]));
        families.add(PREFIX, &sample("reads_total", &[("from", "drive\"\n")]));
        let text = TextEncoder::new().encode_to_string(&families.finish()).unwrap();
        assert_eq!(text.matches("# HELP millpond_reads_total Help.").count(), 1, "{text}");
        assert!(text.contains("millpond_reads_total{from=\"cache\"} 2"), "{text}");
        assert!(text.contains(r#"millpond_reads_total{from="drive\"\n"} 2"#), "{text}");
        assert!(text.contains("millpond_metrics_refused 0"), "{text}");
    }

    #[test]
    fn a_contradicting_sample_is_left_out_and_counted() {
        let mut families = Families::default();
        families.add(PREFIX, &sample("a_total", &[]));
        families.add(PREFIX, &sample("a_total", &[]));
        families.add(PREFIX, &sample("bad-name", &[]));
        families
            .add(PREFIX, &Sample { value: Value::Gauge(2.0), ..sample("a_total", &[("x", "y")]) });
        let text = TextEncoder::new().encode_to_string(&families.finish()).unwrap();
        assert_eq!(text.matches("\nmillpond_a_total").count(), 1, "{text}");
        assert!(text.contains("millpond_metrics_refused 3"), "{text}");
    }
    #[test]
    fn a_histogram_has_buckets_a_sum_and_a_count() {
        let counts = HistogramCounts { within: vec![(0.5, 1), (2.0, 3)], count: 4, sum: 9.5 };
        let value = Value::Histogram(counts);
        let mut families = Families::default();
        families.add(PREFIX, &Sample { value, ..sample("wait_seconds", &[("by", "b")]) });
        let text = TextEncoder::new().encode_to_string(&families.finish()).unwrap();
        for line in [
            "# TYPE millpond_wait_seconds histogram",
            "millpond_wait_seconds_bucket{by=\"b\",le=\"0.5\"} 1",
            "millpond_wait_seconds_bucket{by=\"b\",le=\"2\"} 3",
            "millpond_wait_seconds_bucket{by=\"b\",le=\"+Inf\"} 4",
            "millpond_wait_seconds_sum{by=\"b\"} 9.5",
            "millpond_wait_seconds_count{by=\"b\"} 4",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
