//! Where lookups found their answer, and what it took.

use super::{Counter, MetricKind, Sample, emit};

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

impl ReadMetrics {
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
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
