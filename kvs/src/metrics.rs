//! Counters of the engine: plain atomics, named once, rendered by whoever serves them.
//!
//! Counters live where the fact happens, and are there from the start: whoever computes a rate
//! must see the zero before the first event. Their names, help and units are declared once, in
//! `DbMetrics::visit`. Ratios are computed by the reader of the metrics, never stored.

use crate::compact::pick::{Action, Why};
use crate::damage::DamageMetrics;
use crate::write::stall::StallReason;
use mpool::Pool;
pub use mpool::{Counter, Histogram, HistogramCounts, MetricKind, Sample, Value};
use std::time::Duration;

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
    let number = value as f64;
    let value = match kind {
        MetricKind::Counter => Value::Counter(number),
        MetricKind::Gauge => Value::Gauge(number),
    };
    see(Sample { name, help, labels, value });
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
    pool.visit_times(see);
    visit_volumes(pool, see);
}

/// Shows how full each volume is, and what it takes of its disk for that.
fn visit_volumes(pool: &Pool, see: &mut dyn FnMut(Sample<'_>)) {
    for volume in pool.volumes() {
        let id = volume.id.to_string();
        let labels = [("volume", &*id), ("class", volume.class.name())];
        let used = (
            "mpool_volume_used_bytes",
            "Bytes of a volume that belong to an object, a log or itself.",
        );
        let free = (
            "mpool_volume_free_bytes",
            "Bytes of a volume that are free, now or after growth, as far as its disk has room.",
        );
        emit(see, MetricKind::Gauge, used, &labels, volume.used_bytes);
        emit(see, MetricKind::Gauge, free, &labels, volume.free_bytes);
        let extents = volume.free_extents;
        for (name, help, value) in [
            ("mpool_volume_len_bytes", "Present size of a volume.", Some(volume.len_bytes)),
            (
                "mpool_volume_disk_bytes",
                "What a volume in a file takes on its disk: its size without its holes.",
                volume.disk_bytes,
            ),
            (
                "mpool_volume_free_extent_bytes",
                "Bytes of a volume that are free within its present size.",
                Some(extents.bytes),
            ),
            (
                "mpool_volume_free_extent_longest_bytes",
                "Longest free extent of a volume: longer objects need growth.",
                Some(extents.longest_bytes),
            ),
            ("mpool_volume_free_extents", "Free extents of a volume.", Some(extents.count)),
        ] {
            if let Some(value) = value {
                emit(see, MetricKind::Gauge, (name, help), &labels, value);
            }
        }
    }
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

/// How long jobs of one kind took, and how much they wrote.
#[derive(Debug)]
pub(crate) struct JobMetrics {
    pub(crate) times: Histogram,
    pub(crate) sizes: Histogram,
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self { times: Histogram::jobs(), sizes: Histogram::sizes() }
    }
}

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

    fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
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

/// Time writers were held back, by reason; microseconds.
#[derive(Debug, Default)]
pub(crate) struct StallMetrics([Counter; StallReason::ALL.len()]);

impl StallMetrics {
    pub(crate) fn add(&self, reason: StallReason, held: Duration) {
        self.0[reason.index()].add(u64::try_from(held.as_micros()).unwrap_or(u64::MAX));
    }

    fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
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

/// Everything the database counts itself; cache, commits and pool count on their own.
#[derive(Debug, Default)]
pub(crate) struct DbMetrics {
    pub(crate) reads: ReadMetrics,
    pub(crate) writes: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) seals: Counter,
    pub(crate) flushes: Counter,
    pub(crate) flush_bytes: Counter,
    pub(crate) flush_jobs: JobMetrics,
    pub(crate) job_failures: Counter,
    pub(crate) kvsets_renewed: Counter,
    pub(crate) damage: DamageMetrics,
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
            flush_jobs,
            job_failures,
            kvsets_renewed,
            damage,
            compactions,
            stalls,
        } = self;
        reads.visit(see);
        damage.visit(see);
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
        let JobMetrics { times, sizes } = flush_jobs;
        see(Sample {
            name: "flush_duration_seconds",
            help: "How long flushes of memtables took.",
            labels: &[],
            value: Value::Histogram(times.counts()),
        });
        see(Sample {
            name: "flush_size_bytes",
            help: "Bytes of kblocks and vblocks that flushes wrote.",
            labels: &[],
            value: Value::Histogram(sizes.counts()),
        });
        compactions.visit(see);
        stalls.visit(see);
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
            "Lookups that did not block and had to wait for the drive, by what was read first.",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters appeared at their first event, whose rate was then never seen.
    #[test]
    fn every_label_is_there_from_the_start() {
        let metrics = DbMetrics::default();
        let seen = |metrics: &DbMetrics| {
            let mut all = std::collections::BTreeSet::new();
            metrics.visit(&mut |sample| {
                assert!(all.insert(format!("{}{:?}", sample.name, sample.labels)));
            });
            all
        };
        let before = seen(&metrics);
        for why in Why::ALL {
            assert_eq!(Why::ALL[why.index()], why);
            for action in [Action::Spill, Action::KCompact, Action::KvCompact, SPLIT] {
                metrics.compactions.of(action, why).done.add(1);
            }
        }
        for reason in StallReason::ALL {
            assert_eq!(StallReason::ALL[reason.index()], reason);
            metrics.stalls.add(reason, Duration::from_millis(1));
        }
        assert_eq!(seen(&metrics), before);
        assert!(before.iter().any(|name| name.contains("log_space")), "{before:?}");
    }

    const SPLIT: Action = Action::Split { parts: 2 };
}
