//! How long writers were held back.

use super::{Counter, Sample, Value};
use crate::debt::stall::StallReason;
use std::time::Duration;

/// Time writers were held back, by reason; microseconds.
#[derive(Debug, Default)]
pub(crate) struct StallMetrics([Counter; StallReason::ALL.len()]);

impl StallMetrics {
    pub(crate) fn add(&self, reason: StallReason, held: Duration) {
        self.0[reason.index()].add(u64::try_from(held.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        for (reason, held_us) in StallReason::ALL.iter().zip(&self.0) {
            see(Sample {
                name: "write_stall_seconds_total",
                help: "Time writers were held back, all or those of some KVSs, by reason.",
                labels: &[("reason", reason.as_str())],
                value: Value::Counter(Duration::from_micros(held_us.get()).as_secs_f64()),
            });
        }
    }
}
