//! `/metrics`: everything the process counts, as Prometheus text.
//!
//! Three sources behind one registry of the `prometheus` crate: the HTTP layer's own metrics
//! ([`http`]), the engine's counters ([`samples`], read at scrape time from plain atomics), and
//! the process as the kernel sees it ([`process`]). Names carry the prefix `millpond_`, except
//! `process_*`, which are named as every other exporter names them.

pub mod http;
pub mod memory;
pub mod process;
pub mod samples;

use crate::engine::Engine;
use http::HttpMetrics;
use memory::MemoryMetrics;
use prometheus::{Gauge, Opts, Registry, TextEncoder};
use samples::Collected;
use std::sync::{Arc, OnceLock};

/// Prefix of all metrics of ours.
pub const PREFIX: &str = "millpond";

/// The registry and its sources.
pub struct Metrics {
    /// The HTTP layer's metrics.
    pub http: HttpMetrics,
    /// Metrics of the memory that bodies and responses hold.
    pub memory: MemoryMetrics,
    registry: Registry,
}

impl Metrics {
    /// All sources registered; the engine's samples begin once `engine` is set.
    pub fn new(engine: Arc<OnceLock<Arc<dyn Engine>>>) -> Self {
        let registry = Registry::new();
        let http = HttpMetrics::new(&registry);
        let memory = MemoryMetrics::new(&registry);
        let opts = Opts::new("millpond_build_info", "Always 1; the labels name the build.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("commit", crate::COMMIT);
        let build = Gauge::with_opts(opts).expect("a constant name is valid");
        build.set(1.0);
        registry.register(Box::new(build)).expect("registered once");
        registry.register(Box::new(Collected::new(engine))).expect("registered once");
        Self { http, memory, registry }
    }

    /// The text of one scrape. May block as long as the engine's visit of its metrics does.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
