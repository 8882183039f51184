//! What compactions came to, by action and reason.

use super::{Counter, JobMetrics, MetricKind, Sample, Value, emit};
use crate::pick::{Action, Why};

/// What compactions of one action and reason came to.
#[derive(Debug, Default)]
pub(crate) struct CompactionCounters {
    pub(crate) done: Counter,
    /// Of kblocks that they wrote.
    pub(crate) index_bytes: Counter,
    /// From and to the drive, of those that came to nothing, too.
    pub(crate) read_bytes: Counter,
    pub(crate) written_bytes: Counter,
}

/// Compactions: what they came to by action and reason, and each action's jobs.
#[derive(Debug, Default)]
pub(crate) struct CompactionMetrics {
    by_why: [[CompactionCounters; Why::ALL.len()]; Action::NAMES.len()],
    pub(crate) jobs: [JobMetrics; Action::NAMES.len()],
}

impl CompactionMetrics {
    pub(crate) fn of(&self, action: Action, why: Why) -> &CompactionCounters {
        &self.by_why[action.index()][why.index()]
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let compacted = ("compactions_total", "Compactions done, by action and reason.");
        let index = ("compaction_index_bytes_total", "Bytes of kblocks written by compactions.");
        let read = ("compaction_read_bytes_total", "Bytes that compactions read from the drive.");
        let written = (
            "compaction_written_bytes_total",
            "Bytes of kblocks, vblocks and hblocks written by compactions.",
        );
        for (action, by_why) in Action::NAMES.iter().zip(&self.by_why) {
            for (why, counters) in Why::ALL.iter().zip(by_why) {
                let labels = [("action", *action), ("reason", why.as_str())];
                for (what, counter) in [
                    (compacted, &counters.done),
                    (index, &counters.index_bytes),
                    (read, &counters.read_bytes),
                    (written, &counters.written_bytes),
                ] {
                    emit(see, MetricKind::Counter, what, &labels, counter.get());
                }
            }
        }
        for (action, JobMetrics { times, sizes }) in Action::NAMES.iter().zip(&self.jobs) {
            let labels = &[("action", *action)];
            see(Sample {
                name: "compaction_duration_seconds",
                help: "How long compactions took, by action.",
                labels,
                value: Value::Histogram(times.counts()),
            });
            see(Sample {
                name: "compaction_size_bytes",
                help: "Bytes of kblocks and vblocks that compactions wrote, by action.",
                labels,
                value: Value::Histogram(sizes.counts()),
            });
        }
    }
}
