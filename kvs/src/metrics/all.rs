//! All that a database counts itself; cache, commits and pool count on their own.

use super::compactions::CompactionMetrics;
use super::damage::DamageMetrics;
use super::reads::ReadMetrics;
use super::stalls::StallMetrics;
use super::{Counter, JobMetrics, MetricKind, Sample, Value, emit};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debt::stall::StallReason;
    use crate::pick::{Action, Why};
    use std::time::Duration;

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
