//! Metrics of the HTTP layer.
//!
//! A request touches one counter, one latency histogram, two size histograms and a gauge. The
//! children of each vector are resolved once and kept in a table indexed by route and method, so
//! that a request costs atomics and no hashing of labels. Every series that a request of the API
//! can touch is there from the start, at zero: a rate needs the value before the first event.

use crate::api::problem::{FAULTS, Problem};
use crate::api::rejected::Rejected;
use crate::api::route::Route;
use crate::connection::Overstay;
use axum::http::{Method, StatusCode};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, seconds: 10 us to 10 s, a factor of about 2.15 apart
/// (three a decade), for every latency of the project.
pub const LATENCY_BUCKETS_S: [f64; 19] = [
    10e-6, 22e-6, 46e-6, 100e-6, 220e-6, 460e-6, 1e-3, 2.2e-3, 4.6e-3, 10e-3, 22e-3, 46e-3, 0.1,
    0.22, 0.46, 1.0, 2.2, 4.6, 10.0,
];

/// Upper bounds of the size buckets: 64 bytes to 16 MiB, a factor of 4 apart.
const SIZE_BUCKETS: [f64; 10] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Methods with a label of their own; others share `other`.
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "other"];

/// Statuses resolved ahead of the request; others take the slower way by label.
const CODES: [u16; 9] = [200, 201, 304, 400, 404, 413, 500, 503, 507];

const ROUTES: usize = Route::ALL.len();

/// See the module.
pub struct HttpMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    /// Most connections open at a time since somebody asked.
    connections_peak: AtomicI64,
    /// Connections that may be open.
    pub connections_max: IntGauge,
    /// Connections accepted.
    pub accepted: IntCounter,
    closed: IntCounterVec,
    rejected: IntCounterVec,
    failures: IntCounterVec,
    request_bytes: Histogram,
    response_bytes: Histogram,
    counters: Vec<OnceLock<IntCounter>>,
    histograms: Vec<OnceLock<Histogram>>,
}

/// What is known of a request when its response is ready.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The route.
    pub route: Route,
    /// Index of the method, from [`HttpMetrics::method_index`].
    pub method: usize,
    /// The answer.
    pub status: StatusCode,
    /// From head to head.
    pub elapsed: Duration,
    /// Bytes of the response's body, where known ahead.
    pub response_bytes: Option<u64>,
}

impl HttpMetrics {
    /// All metrics, registered.
    pub fn new(registry: &Registry) -> Self {
        let opts = |name: &str, help: &str| Opts::new(format!("millpond_http_{name}"), help);
        let counters = |name, help, labels: &[&str]| {
            let vector = IntCounterVec::new(opts(name, help), labels).expect("valid name");
            registry.register(Box::new(vector.clone())).expect("registered once");
            vector
        };
        let gauge = |name, help| {
            let gauge = IntGauge::with_opts(opts(name, help)).expect("valid name");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        let sizes = |name, help| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(SIZE_BUCKETS.to_vec());
            let histogram = Histogram::with_opts(opts).expect("valid name");
            registry.register(Box::new(histogram.clone())).expect("registered once");
            histogram
        };
        let latency = HistogramOpts::from(opts(
            "request_duration_seconds",
            "From the request's head to the response's head, by route and method.",
        ))
        .buckets(LATENCY_BUCKETS_S.to_vec());
        let durations = HistogramVec::new(latency, &["route", "method"]).expect("valid name");
        registry.register(Box::new(durations.clone())).expect("registered once");
        let requests = counters(
            "requests_total",
            "Requests answered, by route, method and status.",
            &["route", "method", "code"],
        );
        begin_at_zero(&requests, &durations);
        let accepted = IntCounter::with_opts(opts("connections_total", "Connections accepted."))
            .expect("valid name");
        registry.register(Box::new(accepted.clone())).expect("registered once");
        Self {
            requests,
            durations,
            in_flight: gauge("inflight_requests", "Requests being answered."),
            connections: gauge("connections", "Open connections."),
            connections_peak: AtomicI64::new(0),
            connections_max: gauge("connections_max", "Connections that may be open at a time."),
            accepted,
            closed: with_zeros(
                counters(
                    "connections_closed_total",
                    "Connections closed by the server, by reason.",
                    &["reason"],
                ),
                Overstay::ALL.map(Overstay::as_str),
            ),
            rejected: with_zeros(
                counters(
                    "rejected_total",
                    "Connections and requests turned away because of load, by reason.",
                    &["reason"],
                ),
                Rejected::ALL.map(Rejected::as_str),
            ),
            failures: with_zeros(
                counters(
                    "failures_total",
                    "Requests that failed by a fault of the server or its drives, by problem.",
                    &["problem"],
                ),
                FAULTS,
            ),
            request_bytes: sizes("request_size_bytes", "Bodies of writes received."),
            response_bytes: sizes("response_size_bytes", "Bodies sent, streams excepted."),
            counters: slots(ROUTES * METHODS.len() * CODES.len()),
            histograms: slots(ROUTES * METHODS.len()),
        }
    }

    /// Index of a method's label.
    pub fn method_index(method: &Method) -> usize {
        let known = &METHODS[..METHODS.len() - 1];
        known.iter().position(|name| *name == method.as_str()).unwrap_or(known.len())
    }

    /// Counts a request as in flight until the guard drops.
    pub fn enter(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { gauge: &self.in_flight }
    }

    /// Requests being answered.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Records an answered request.
    pub fn observe(&self, seen: Observation) {
        let place = seen.route.index() * METHODS.len() + seen.method;
        let (route, method) = (seen.route.as_str(), METHODS[seen.method]);
        match CODES.iter().position(|code| *code == seen.status.as_u16()) {
            Some(code) => self.counters[place * CODES.len() + code]
                .get_or_init(|| {
                    self.requests.with_label_values(&[route, method, seen.status.as_str()])
                })
                .inc(),
            None => self.requests.with_label_values(&[route, method, seen.status.as_str()]).inc(),
        }
        self.histograms[place]
            .get_or_init(|| self.durations.with_label_values(&[route, method]))
            .observe(seen.elapsed.as_secs_f64());
        if let Some(bytes) = seen.response_bytes {
            self.response_bytes.observe(as_float(bytes));
        }
    }

    /// Records the size of a body that was read.
    pub fn observe_request_body(&self, bytes: usize) {
        self.request_bytes.observe(as_float(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }

    /// Counts something turned away.
    pub fn reject(&self, reason: Rejected) {
        self.rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a request that failed by no fault of its own, if `problem` is of that kind.
    pub fn fail(&self, problem: &Problem) {
        if problem.is_fault() {
            self.failures.with_label_values(&[problem.slug]).inc();
        }
    }

    /// Counts a connection that was accepted; it is open until the gauge goes down.
    pub fn open(&self) {
        self.accepted.inc();
        self.connections.inc();
        // Relaxed: a hint for a coarse timer.
        self.connections_peak.fetch_max(self.connections.get(), Ordering::Relaxed);
    }

    /// Most connections open at a time since the last call.
    pub fn take_connections_peak(&self) -> i64 {
        self.connections_peak.swap(self.connections.get(), Ordering::Relaxed)
    }

    /// Counts a connection that the server closed.
    pub fn close(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

/// Every method that a route serves, with every status that is resolved ahead.
fn begin_at_zero(requests: &IntCounterVec, durations: &HistogramVec) {
    for route in Route::ALL {
        for method in route.allow().split(", ").filter(|method| !method.is_empty()) {
            for code in CODES {
                requests.with_label_values(&[route.as_str(), method, &code.to_string()]);
            }
            durations.with_label_values(&[route.as_str(), method]);
        }
    }
}

fn with_zeros<const N: usize>(vector: IntCounterVec, labels: [&'static str; N]) -> IntCounterVec {
    for label in labels {
        vector.with_label_values(&[label]);
    }
    vector
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

fn slots<T>(count: usize) -> Vec<OnceLock<T>> {
    std::iter::repeat_with(OnceLock::new).take(count).collect()
}

/// Counts its request as in flight while it lives.
#[must_use = "dropping this ends the request"]
pub struct InFlight<'a> {
    gauge: &'a IntGauge,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    #[test]
    fn listed_and_unlisted_statuses_are_counted() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry);
        let entered = metrics.enter();
        for status in [StatusCode::OK, StatusCode::OK, StatusCode::IM_A_TEAPOT] {
            metrics.observe(Observation {
                route: Route::Key,
                method: HttpMetrics::method_index(&Method::GET),
                status,
                elapsed: Duration::from_micros(15),
                response_bytes: Some(1000),
            });
        }
        metrics.reject(Rejected::Streams);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"millpond_http_requests_total{code="200",method="GET",route="key"} 2"#,
            r#"millpond_http_requests_total{code="418",method="GET",route="key"} 1"#,
            r#"millpond_http_request_duration_seconds_bucket{method="GET",route="key",le="0.000022"} 3"#,
            r#"millpond_http_response_size_bytes_bucket{le="1024"} 3"#,
            r#"millpond_http_rejected_total{reason="streams"} 1"#,
            "millpond_http_inflight_requests 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        drop(entered);
    }
    /// The alert on errors of the server was raised by writes that are not supported.
    #[test]
    fn faults_of_the_server_are_counted_apart_and_from_zero() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry);
        metrics.fail(&Problem::internal());
        metrics.fail(&Problem::overloaded("streams", "busy"));
        metrics.fail(&Problem::from(kvs::Error::Poisoned { cause: "c".into() }));
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"millpond_http_failures_total{problem="internal"} 1"#,
            r#"millpond_http_failures_total{problem="store-failed"} 1"#,
            r#"millpond_http_failures_total{problem="damaged"} 0"#,
            r#"millpond_http_rejected_total{reason="stalled"} 0"#,
            r#"millpond_http_connections_closed_total{reason="idle"} 0"#,
            r#"millpond_http_requests_total{code="500",method="GET",route="key"} 0"#,
            r#"millpond_http_request_duration_seconds_count{method="GET",route="scan"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert_eq!(text.matches("millpond_http_failures_total{").count(), FAULTS.len(), "{text}");
    }
}
