//! Counters of the write-ahead log.

use crate::metrics::{Counter, Histogram, MetricKind, Sample, Value, emit};

/// Shared between the log and those who report on it, so that a report takes no lock.
#[derive(Debug, Default)]
pub(crate) struct WalMetrics {
    /// Bytes written to segments, heads and padding included.
    pub(super) bytes: Counter,
    pub(super) appends: Counter,
    pub(super) frames: Counter,
    pub(super) syncs: Counter,
    /// Of each sync that had something to do.
    pub(super) sync_times: Histogram,
    /// Of each write of a full buffer, which the put that fills it waits for.
    pub(super) write_times: Histogram,
    /// Of each beginning of another segment, which the put that finds no room waits for.
    pub(super) rotation_times: Histogram,
    pub(super) replay_bytes: Counter,
    pub(super) segments_created: Counter,
    pub(super) segments_recycled: Counter,
}

impl WalMetrics {
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let counters: [(&'static str, &'static str, &Counter); 7] = [
            ("wal_bytes_total", "Bytes written to the write-ahead log.", &self.bytes),
            ("wal_appends_total", "Groups of batches appended to the log.", &self.appends),
            ("wal_frames_total", "Batches appended to the log.", &self.frames),
            ("wal_syncs_total", "Durable writes and flushes made for the log.", &self.syncs),
            ("wal_replay_bytes_total", "Bytes of batches replayed at open.", &self.replay_bytes),
            ("wal_segments_created_total", "Log segments created.", &self.segments_created),
            (
                "wal_segments_recycled_total",
                "Log segments that were given a new life.",
                &self.segments_recycled,
            ),
        ];
        for (name, help, counter) in counters {
            emit(see, MetricKind::Counter, (name, help), &[], counter.get());
        }
        for (name, help, times) in [
            (
                "wal_sync_duration_seconds",
                "How long durable writes and flushes of the log took.",
                &self.sync_times,
            ),
            (
                "wal_write_duration_seconds",
                "How long puts that filled the log's buffer took to write it.",
                &self.write_times,
            ),
            (
                "wal_rotation_duration_seconds",
                "How long puts that found a segment full took to begin the next one.",
                &self.rotation_times,
            ),
        ] {
            see(Sample { name, help, labels: &[], value: Value::Histogram(times.counts()) });
        }
    }
}
