//! Counters of the pool.
//!
//! One field per fact, incremented where the fact happens. Names, help and kinds are declared once,
//! in [`PoolMetrics::visit`]; whoever renders them knows no metric by name. Ratios are computed by
//! the reader, never stored. All accesses are relaxed: counters order nothing.

mod counter;
pub(crate) mod histogram;

use crate::{
    media::Priority,
    metrics::histogram::{Histogram, HistogramCounts, Start},
};
pub use counter::Counter;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A level that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the level.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Raises the level.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Lowers the level by what it was raised by before.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
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

/// One metric as seen by a visitor.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// Name without the `millpond_` prefix, Prometheus rules (base units, `_total`).
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label pairs; the same keys for every sample of a name.
    pub labels: &'a [(&'static str, &'a str)],
    /// The value.
    pub value: Value,
}

/// What a metric shows, and how it is to be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Only grows.
    Counter(f64),
    /// Goes up and down.
    Gauge(f64),
    /// How values are distributed.
    Histogram(HistogramCounts),
}

impl Value {
    /// The number of a counter or gauge.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Counter(number) | Self::Gauge(number) => Some(*number),
            Self::Histogram(_) => None,
        }
    }
}

/// Operations of one direction and priority.
#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    pub(crate) bytes: Counter,
    pub(crate) ops: Counter,
    pub(crate) errors: Counter,
    pub(crate) times: Histogram,
}

impl IoCounters {
    /// Counts an operation that began at `start` and has ended.
    pub(crate) fn record<T, E>(&self, start: Start, len: usize, outcome: &Result<T, E>) {
        self.ops.add(1);
        self.times.end(start);
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
    pub(crate) punched_bytes: Counter,
    pub(crate) truncated_bytes: Counter,
    pub(crate) refilled_bytes: Counter,
    pub(crate) space_used_bytes: Gauge,
    pub(crate) space_free_bytes: Gauge,
    pub(crate) space_spare_bytes: Gauge,
    pub(crate) space_held_bytes: Gauge,
    pub(crate) space_refused: Counter,
    pub(crate) space_fallbacks: Counter,
    pub(crate) zones_reset: Counter,
    pub(crate) zones_whole: Gauge,
    pub(crate) zones_worn: Gauge,
    pub(crate) mblocks_moved: Counter,
    pub(crate) moved_bytes: Counter,
    pub(crate) mblocks_committed: Counter,
    pub(crate) mblocks_deleted: Counter,
    pub(crate) mdc_appends: Counter,
    pub(crate) mdc_append_bytes: Counter,
    pub(crate) mdc_checkpoints: Counter,
    pub(crate) mdc_checkpoints_forced: Counter,
    pub(crate) mdc_checkpoints_abandoned: Counter,
    pub(crate) mdc_replayed: Counter,
    pub(crate) mdc_healed: Counter,
    pub(crate) journal_moves: Counter,
    pub(crate) flush: Histogram,
    pub(crate) commit: Histogram,
    pub(crate) mdc_append: Histogram,
    pub(crate) mdc_wait: Histogram,
    pub(crate) mdc_hold: Histogram,
    pub(crate) pace_wait: Histogram,
    pub(crate) pace_hurries: Counter,
    pub(crate) pace_bytes_per_second: Gauge,
    pub(crate) scrub_bytes: Counter,
    pub(crate) scrub_objects: Counter,
    pub(crate) scrub_findings: Counter,
    pub(crate) scrub_passes: Counter,
    pub(crate) scrub_position_bytes: Gauge,
    pub(crate) scrub_goal_bytes: Gauge,
    pub(crate) scrub_completed_s: Gauge,
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

    /// Bytes of deleted or moved objects that somebody still reads: they are free when the last
    /// handle of each is gone.
    pub fn held_bytes(&self) -> u64 {
        self.space_held_bytes.get()
    }

    /// Bytes written to the drive.
    pub fn write_bytes(&self) -> u64 {
        self.writes.iter().map(|c| c.bytes.get()).sum()
    }

    /// Shows every metric that is a whole number to `see`: name without the `millpond_` prefix,
    /// help, kind, value. [`Self::visit_times`] shows the others.
    #[rustfmt::skip]
    pub fn visit(&self, see: See<'_>) {
        use MetricKind::{Counter as C, Gauge as G};
        // Exhaustive on purpose: a new field does not compile until it is named here.
        let Self {
            reads, writes, flushes, flush_errors, grows, punched_bytes, truncated_bytes,
            refilled_bytes, space_used_bytes, space_free_bytes,
            space_spare_bytes, space_held_bytes, space_refused, space_fallbacks, zones_reset,
            zones_whole,
            zones_worn, mblocks_moved, moved_bytes,
            mblocks_committed, mblocks_deleted, mdc_appends, mdc_append_bytes, mdc_checkpoints,
            mdc_checkpoints_forced, mdc_checkpoints_abandoned, mdc_replayed, mdc_healed,
            journal_moves,
            flush: _, commit: _, mdc_append: _, mdc_wait: _, mdc_hold: _, pace_wait: _,
            pace_hurries, pace_bytes_per_second,
            scrub_bytes, scrub_objects, scrub_findings, scrub_passes, scrub_position_bytes,
            scrub_goal_bytes, scrub_completed_s,
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
        see("mpool_grows_total",             "times a volume grew", C, grows.get());
        see("mpool_punched_bytes_total",     "bytes of free space within volumes given back to their disks", C, punched_bytes.get());
        see("mpool_truncated_bytes_total",   "bytes of free space at ends of volumes given back to their disks", C, truncated_bytes.get());
        see("mpool_refilled_bytes_total",    "bytes given back that were taken again, growth not included", C, refilled_bytes.get());
        see("mpool_space_used_bytes",        "bytes of the volumes that belong to an object", G, space_used_bytes.get());
        see("mpool_space_free_bytes",        "bytes of the volumes that belong to none", G, space_free_bytes.get());
        see("mpool_space_spare_bytes",       "bytes of the free ones for what frees space in the end", G, space_spare_bytes.get());
        see("mpool_space_held_bytes",        "bytes of deleted objects that somebody still reads", G, space_held_bytes.get());
        see("mpool_space_refused_total",     "allocations refused because the pool was full, of objects and logs", C, space_refused.get());
        see("mpool_space_fallbacks_total",   "allocations placed elsewhere: the preferred volume was full", C, space_fallbacks.get());
        see("mpool_zones_reset_total",       "zones reset after everything in them had died", C, zones_reset.get());
        see("mpool_zones_whole",             "zones that are empty, or will be reset when one is needed", G, zones_whole.get());
        see("mpool_zones_worn",              "zones that are read-only or offline", G, zones_worn.get());
        see("mpool_mblocks_moved_total",     "mblocks moved to another place", C, mblocks_moved.get());
        see("mpool_moved_bytes_total",       "bytes of them", C, moved_bytes.get());
        see("mpool_mblocks_committed_total", "mblocks made durable", C, mblocks_committed.get());
        see("mpool_mblocks_deleted_total",   "mblocks deleted", C, mblocks_deleted.get());
        see("mpool_mdc_appends_total",       "records appended to journals", C, mdc_appends.get());
        see("mpool_mdc_append_bytes_total",  "bytes appended to journals, frames included", C, mdc_append_bytes.get());
        see("mpool_mdc_checkpoints_total",   "journals rewritten into their other half", C, mdc_checkpoints.get());
        see("mpool_mdc_checkpoints_forced_total", "rewritings that an append had to wait for", C, mdc_checkpoints_forced.get());
        see("mpool_mdc_checkpoints_abandoned_total", "rewritings overtaken or failed", C, mdc_checkpoints_abandoned.get());
        see("mpool_mdc_replayed_total",      "journal records replayed at open", C, mdc_replayed.get());
        see("mpool_mdc_healed_total",        "frames of journals written again from their other copy at open", C, mdc_healed.get());
        see("mpool_journal_moves_total",     "times the pool's journal moved to longer logs", C, journal_moves.get());
        see("mpool_pace_hurries_total",      "times the bounds of background requests were lifted because of debt", C, pace_hurries.get());
        see("mpool_pace_bytes_per_second",   "rate that background requests may have", G, pace_bytes_per_second.get());
        see("mpool_scrub_bytes_total",       "bytes verified by scrubs", C, scrub_bytes.get());
        see("mpool_scrub_objects_total",     "objects verified by scrubs", C, scrub_objects.get());
        see("mpool_scrub_findings_total",    "damaged places that scrubs found", C, scrub_findings.get());
        see("mpool_scrub_passes_total",      "scrubs that came to their end", C, scrub_passes.get());
        see("mpool_scrub_position_bytes",    "bytes verified in the present pass", G, scrub_position_bytes.get());
        see("mpool_scrub_goal_bytes",        "bytes that the pass verifies, about", G, scrub_goal_bytes.get());
        see("mpool_scrub_completed_seconds", "when the last pass ended, seconds since 1970; 0 = not known", G, scrub_completed_s.get());
    }

    /// Shows how long requests and calls took.
    #[rustfmt::skip]
    pub fn visit_times(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let mut show = |name, help, labels: &[(&'static str, &str)], times: &Histogram| {
            see(Sample { name, help, labels, value: Value::Histogram(times.counts()) });
        };
        for priority in Priority::ALL {
            let (labels, at) = ([("priority", priority.as_str())], priority.index());
            show("mpool_read_duration_seconds",  "reads of the drive, their turn in the queue included", &labels, &self.reads[at].times);
            show("mpool_write_duration_seconds", "writes to the drive, their turn in the queue included", &labels, &self.writes[at].times);
        }
        show("mpool_flush_duration_seconds",      "flushes of the drive", &[], &self.flush);
        show("mpool_commit_duration_seconds",     "commits of mblocks, with the flush of their data", &[], &self.commit);
        show("mpool_mdc_append_duration_seconds", "appends to journals, waiting included", &[], &self.mdc_append);
        show("mpool_mdc_wait_duration_seconds",   "waits of appends for a journal's rewriting", &[], &self.mdc_wait);
        show("mpool_mdc_hold_duration_seconds",   "times the background kept a journal's appends out", &[], &self.mdc_hold);
        show("mpool_pace_wait_duration_seconds",  "waits of background requests for their turn", &[], &self.pace_wait);
    }
}

/// Name and help of the bytes, operations and errors of one direction and priority.
type IoNames = [(&'static str, &'static str); 3];

fn visit_io(counters: &IoCounters, names: &IoNames, see: See<'_>) {
    let IoCounters { bytes, ops, errors, times: _ } = counters;
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
        let now = Start::now();
        metrics.reads(Priority::Read).record(now, 4096, &Ok::<_, ()>(()));
        metrics.reads(Priority::Compaction).record(now, 8192, &Ok::<_, ()>(()));
        metrics.reads(Priority::Compaction).record(now, 8192, &Err::<(), _>(()));
        assert_eq!(metrics.read_bytes(), 12_288);
        let mut names = BTreeSet::new();
        metrics.visit(&mut |name, help, kind, _| {
            assert!(names.insert(name), "{name} twice");
            assert!(!help.is_empty());
            assert_eq!(kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        });
        assert!(names.contains("mpool_compaction_read_errors_total"));
        let mut reads = Vec::new();
        metrics.visit_times(&mut |sample| {
            assert!(sample.name.ends_with("_seconds"), "{}", sample.name);
            let Value::Histogram(counts) = sample.value else { panic!("{}", sample.name) };
            if sample.name == "mpool_read_duration_seconds" {
                reads.push((sample.labels[0].1.to_owned(), counts.count));
            }
        });
        let all = [("wal", 0), ("foreground", 1), ("flush", 0), ("compaction", 2)];
        assert_eq!(reads, all.map(|(priority, count)| (priority.to_owned(), count)));
    }
}
