//! Memory that requests and responses hold, as their budgets count it, and who held it too long.

use crate::api::rejected::Rejected;
use crate::budget::{Budget, Gauges, Purpose};
use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// See the module.
pub struct MemoryMetrics {
    bodies: Gauges,
    heads: Gauges,
    responses: Gauges,
    /// Responses given up because their peer read too slowly.
    pub slow_readers: IntCounter,
}

impl MemoryMetrics {
    /// All metrics, registered.
    pub fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let opts = Opts::new(format!("millpond_http_{name}"), help);
            let gauge = IntGauge::with_opts(opts).expect("valid name");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        let slow_readers = IntCounter::new(
            "millpond_http_slow_readers_total",
            "Responses given up because their client read too slowly.",
        )
        .expect("valid name");
        registry.register(Box::new(slow_readers.clone())).expect("registered once");
        Self {
            slow_readers,
            bodies: Gauges {
                held: gauge("body_memory_bytes", "Held by request bodies being read."),
                peak: gauge("body_memory_peak_bytes", "Most that request bodies held at a time."),
                limit: gauge("body_memory_limit_bytes", "Most that request bodies may hold."),
            },
            heads: Gauges {
                held: gauge("head_memory_bytes", "Held by heads of requests beyond 4 KiB."),
                peak: gauge("head_memory_peak_bytes", "Most that such heads held at a time."),
                limit: gauge("head_memory_limit_bytes", "Most that heads of requests may hold."),
            },
            responses: Gauges {
                held: gauge("response_memory_bytes", "Held by responses and reads for them."),
                peak: gauge("response_memory_peak_bytes", "Most that responses held at a time."),
                limit: gauge("response_memory_limit_bytes", "Most that responses may hold."),
            },
        }
    }

    /// The budget of request bodies.
    pub fn bodies(&self, bytes_max: usize) -> Budget {
        let purpose = Purpose { what: "request bodies", reason: Rejected::BodyMemory };
        Budget::new(bytes_max, purpose, self.bodies.clone())
    }

    /// The budget of heads of requests.
    pub fn heads(&self, bytes_max: usize) -> Budget {
        let purpose = Purpose { what: "heads of requests", reason: Rejected::HeadMemory };
        Budget::new(bytes_max, purpose, self.heads.clone())
    }

    /// The budget of responses.
    pub fn responses(&self, bytes_max: usize) -> Budget {
        let purpose = Purpose { what: "responses", reason: Rejected::ResponseMemory };
        Budget::new(bytes_max, purpose, self.responses.clone())
    }
}
