//! Counters of the engine: plain atomics, named once, rendered by whoever serves them.
//!
//! Counters live where the fact happens; their names, help and units are declared once, in
//! `DbMetrics::visit`. Ratios are computed by the reader of the metrics, never stored.

use crate::compact::pick::{Action, Why};
use crate::write::stall::StallReason;
use mpool::Pool;
pub use mpool::{Counter, MetricKind};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// One metric as seen by a visitor.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// Name without the `millpond_` prefix, Prometheus rules (base units, `_total`).
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// Label pairs; the same keys for every sample of a name.
    pub labels: &'a [(&'static str, &'a str)],
    /// The value.
    pub value: f64,
}

/// Calls a visitor with samples of one kind.
pub(crate) fn emit(
    see: &mut dyn FnMut(Sample<'_>),
    kind: MetricKind,
    (name, help): (&'static str, &'static str),
    labels: &[(&'static str, &str)],
    value: u64,
) {
    // Counts beyond 2^53 lose their last digits, which no dashboard shows.
    #[expect(clippy::cast_precision_loss, reason = "metrics are read as floats")]
    see(Sample { name, help, kind, labels, value: value as f64 });
}

/// Shows every metric of the pool, and which pool it is.
pub(crate) fn visit_pool(pool: &Pool, see: &mut dyn FnMut(Sample<'_>)) {
    let (name, uuid) = (pool.name().unwrap_or_default(), mpool::uuid_text(pool.info().uuid));
    let labels = [("name", &*name), ("uuid", &*uuid)];
    let info = ("mpool_info", "The pool: always 1; its name and UUID are labels.");
    emit(see, MetricKind::Gauge, info, &labels, 1);
    let mut plain = |name, help, kind, value| emit(see, kind, (name, help), &[], value);
    pool.metrics().visit(&mut plain);
    pool.visit_memory(&mut plain);
}

/// Where lookups found their answer.
#[derive(Debug, Default)]
pub(crate) struct ReadMetrics {
    pub(crate) from_memtable: Counter,
    pub(crate) from_cache: Counter,
    pub(crate) from_kvset: Counter,
    pub(crate) absent: Counter,
    pub(crate) cold_index: Counter,
    pub(crate) cold_value: Counter,
    pub(crate) kvsets_probed: Counter,
    pub(crate) filter_false_positives: Counter,
}

/// What a compaction did, and why.
type ActionWhy = (&'static str, &'static str);

/// Compactions by what and why: how many, and the bytes of kblocks they wrote.
#[derive(Debug, Default)]
pub(crate) struct CompactionMetrics(Mutex<BTreeMap<ActionWhy, (u64, u64)>>);

impl CompactionMetrics {
    pub(crate) fn add(&self, action: Action, why: Why, index_bytes: u64) {
        let mut counts = self.0.lock();
        let count = counts.entry((action.as_str(), why.as_str())).or_default();
        count.0 += 1;
        count.1 += index_bytes;
    }
}

/// Time writers were held back, by reason.
#[derive(Debug, Default)]
pub(crate) struct StallMetrics(Mutex<BTreeMap<&'static str, Duration>>);

impl StallMetrics {
    pub(crate) fn add(&self, reason: StallReason, held: Duration) {
        *self.0.lock().entry(reason.as_str()).or_default() += held;
    }
}

/// Everything the database counts itself; cache, commits and pool count on their own.
#[derive(Debug, Default)]
pub(crate) struct DbMetrics {
    pub(crate) reads: ReadMetrics,
    pub(crate) writes: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) seals: Counter,
    pub(crate) flushes: Counter,
    pub(crate) flush_bytes: Counter,
    pub(crate) job_failures: Counter,
    pub(crate) kvsets_renewed: Counter,
    pub(crate) compactions: CompactionMetrics,
    pub(crate) stalls: StallMetrics,
}

impl DbMetrics {
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        // Exhaustive on purpose: a new field does not compile until it is named here.
        let Self {
            reads,
            writes,
            put_bytes,
            seals,
            flushes,
            flush_bytes,
            job_failures,
            kvsets_renewed,
            compactions,
            stalls,
        } = self;
        reads.visit(see);
        let mut count = |name, help, counter: &Counter| {
            emit(see, MetricKind::Counter, (name, help), &[], counter.get());
        };
        count("writes_total", "Entries written: puts and deletes.", writes);
        count("put_bytes_total", "Bytes of keys and values put by users.", put_bytes);
        count("memtable_seals_total", "Memtables sealed.", seals);
        count("flushes_total", "Memtables flushed to kvsets.", flushes);
        count("flush_bytes_total", "Bytes of kvsets written by flushes.", flush_bytes);
        count(
            "job_failures_total",
            "Flushes and compactions that failed and are tried again.",
            job_failures,
        );
        count(
            "kvsets_renewed_total",
            "Kvsets opened again because the pool has moved their objects.",
            kvsets_renewed,
        );
        let compacted = ("compactions_total", "Compactions done, by action and reason.");
        let written = ("compaction_index_bytes_total", "Bytes of kblocks written by compactions.");
        for ((action, why), (count, bytes)) in &*compactions.0.lock() {
            let labels = [("action", *action), ("reason", *why)];
            emit(see, MetricKind::Counter, compacted, &labels, *count);
            emit(see, MetricKind::Counter, written, &labels, *bytes);
        }
        for (reason, held) in &*stalls.0.lock() {
            see(Sample {
                name: "write_stall_seconds_total",
                help: "Time writers were held back, by reason.",
                kind: MetricKind::Counter,
                labels: &[("reason", reason)],
                value: held.as_secs_f64(),
            });
        }
    }
}

impl ReadMetrics {
    fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let Self {
            from_memtable,
            from_cache,
            from_kvset,
            absent,
            cold_index,
            cold_value,
            kvsets_probed,
            filter_false_positives,
        } = self;
        let answered = ("gets_total", "Lookups of one key, by where the answer was found.");
        for (source, counter) in [
            ("memtable", from_memtable),
            ("value_cache", from_cache),
            ("kvset", from_kvset),
            ("absent", absent),
        ] {
            emit(see, MetricKind::Counter, answered, &[("source", source)], counter.get());
        }
        let cold = (
            "cold_gets_total",
            "Lookups that had to wait for the drive asynchronously, by what was missing.",
        );
        emit(see, MetricKind::Counter, cold, &[("missing", "index")], cold_index.get());
        emit(see, MetricKind::Counter, cold, &[("missing", "value")], cold_value.get());
        let probed =
            ("kvsets_probed_total", "Kvset indexes searched by lookups after their filter passed.");
        emit(see, MetricKind::Counter, probed, &[], kvsets_probed.get());
        let lied =
            ("filter_false_positives_total", "Index searches that a filter let pass in vain.");
        emit(see, MetricKind::Counter, lied, &[], filter_false_positives.get());
    }
}
