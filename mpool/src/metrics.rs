//! Counters of the pool.
//!
//! One field per fact, incremented where the fact happens. Names, help and kinds are declared once,
//! in [`PoolMetrics::visit`]; whoever renders them knows no metric by name. Ratios are computed by
//! the reader, never stored. All accesses are relaxed: counters order nothing.

use crate::io::queue::Priority;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A monotone count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the level.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The present level.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How a metric is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Operations of one direction and priority.
#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    pub(crate) bytes: Counter,
    pub(crate) ops: Counter,
    pub(crate) errors: Counter,
}

impl IoCounters {
    pub(crate) fn record<T, E>(&self, len: usize, outcome: &Result<T, E>) {
        self.ops.add(1);
        match outcome {
            Ok(_) => self.bytes.add(len as u64),
            Err(_) => self.errors.add(1),
        }
    }
}

/// All counters of one pool.
#[derive(Debug, Default)]
pub struct PoolMetrics {
    reads: [IoCounters; Priority::COUNT],
    writes: [IoCounters; Priority::COUNT],
    pub(crate) flushes: Counter,
    pub(crate) flush_errors: Counter,
    pub(crate) grows: Counter,
    pub(crate) space_used_bytes: Gauge,
    pub(crate) space_free_bytes: Gauge,
    pub(crate) space_refused: Counter,
    pub(crate) mblocks_committed: Counter,
    pub(crate) mblocks_deleted: Counter,
    pub(crate) mdc_appends: Counter,
    pub(crate) mdc_append_bytes: Counter,
    pub(crate) mdc_checkpoints: Counter,
    pub(crate) mdc_replayed: Counter,
}

/// Receives one metric: name without the `millpond_` prefix, help, kind, value.
type See<'a> = &'a mut dyn FnMut(&'static str, &'static str, MetricKind, u64);

impl PoolMetrics {
    pub(crate) fn reads(&self, priority: Priority) -> &IoCounters {
        &self.reads[priority.index()]
    }

    pub(crate) fn writes(&self, priority: Priority) -> &IoCounters {
        &self.writes[priority.index()]
    }

    /// Bytes read from the drive outside the map.
    pub fn read_bytes(&self) -> u64 {
        self.reads.iter().map(|c| c.bytes.get()).sum()
    }

    /// Bytes written to the drive.
    pub fn write_bytes(&self) -> u64 {
        self.writes.iter().map(|c| c.bytes.get()).sum()
    }

    /// Shows every metric to `see`: name without the `millpond_` prefix, help, kind, value.
    #[rustfmt::skip]
    pub fn visit(&self, see: See<'_>) {
        use MetricKind::{Counter as C, Gauge as G};
        // Exhaustive on purpose: a new field does not compile until it is named here.
        let Self {
            reads, writes, flushes, flush_errors, grows, space_used_bytes, space_free_bytes,
            space_refused, mblocks_committed, mblocks_deleted, mdc_appends, mdc_append_bytes,
            mdc_checkpoints, mdc_replayed,
        } = self;
        see("mpool_read_bytes_total",  "bytes read from the drive outside the map", C, self.read_bytes());
        see("mpool_write_bytes_total", "bytes written to the drive", C, self.write_bytes());
        for (counters, names) in reads.iter().zip(&READ_NAMES) {
            visit_io(counters, names, see);
        }
        for (counters, names) in writes.iter().zip(&WRITE_NAMES) {
            visit_io(counters, names, see);
        }
        see("mpool_flushes_total",           "flushes of the drive", C, flushes.get());
        see("mpool_flush_errors_total",      "flushes that failed; each poisons the pool", C, flush_errors.get());
        see("mpool_grows_total",             "times the volume grew", C, grows.get());
        see("mpool_space_used_bytes",        "bytes of the volume that belong to an object", G, space_used_bytes.get());
        see("mpool_space_free_bytes",        "bytes of the volume that belong to none", G, space_free_bytes.get());
        see("mpool_space_refused_total",     "allocations refused because the pool was full", C, space_refused.get());
        see("mpool_mblocks_committed_total", "mblocks made durable", C, mblocks_committed.get());
        see("mpool_mblocks_deleted_total",   "mblocks deleted", C, mblocks_deleted.get());
        see("mpool_mdc_appends_total",       "records appended to journals", C, mdc_appends.get());
        see("mpool_mdc_append_bytes_total",  "bytes appended to journals, frames included", C, mdc_append_bytes.get());
        see("mpool_mdc_checkpoints_total",   "journals rewritten into their other half", C, mdc_checkpoints.get());
        see("mpool_mdc_replayed_total",      "journal records replayed at open", C, mdc_replayed.get());
    }
}

/// Name and help of the bytes, operations and errors of one direction and priority.
type IoNames = [(&'static str, &'static str); 3];

fn visit_io(counters: &IoCounters, names: &IoNames, see: See<'_>) {
    let IoCounters { bytes, ops, errors } = counters;
    for ((name, help), counter) in names.iter().zip([bytes, ops, errors]) {
        see(name, help, MetricKind::Counter, counter.get());
    }
}

macro_rules! io_names {
    ($verb:literal, $who:literal) => {
        [
            (
                concat!("mpool_", $who, "_", $verb, "_bytes_total"),
                concat!("bytes of ", $who, " ", $verb, "s"),
            ),
            (
                concat!("mpool_", $who, "_", $verb, "s_total"),
                concat!($who, " ", $verb, "s completed"),
            ),
            (
                concat!("mpool_", $who, "_", $verb, "_errors_total"),
                concat!($who, " ", $verb, "s that failed"),
            ),
        ]
    };
}

/// In the order of [`Priority`].
const READ_NAMES: [IoNames; Priority::COUNT] = [
    io_names!("read", "wal"),
    io_names!("read", "foreground"),
    io_names!("read", "flush"),
    io_names!("read", "compaction"),
];
const WRITE_NAMES: [IoNames; Priority::COUNT] = [
    io_names!("write", "wal"),
    io_names!("write", "foreground"),
    io_names!("write", "flush"),
    io_names!("write", "compaction"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_totals_are_sums() {
        let metrics = PoolMetrics::default();
        metrics.reads(Priority::Read).record(4096, &Ok::<_, ()>(()));
        metrics.reads(Priority::Compaction).record(8192, &Ok::<_, ()>(()));
        metrics.reads(Priority::Compaction).record(8192, &Err::<(), _>(()));
        assert_eq!(metrics.read_bytes(), 12_288);
        let mut names = BTreeSet::new();
        metrics.visit(&mut |name, help, kind, _| {
            assert!(names.insert(name), "{name} twice");
            assert!(!help.is_empty());
            assert_eq!(kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        });
        assert!(names.contains("mpool_compaction_read_errors_total"));
    }
}
