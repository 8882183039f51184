//! Counters of the engine: plain atomics, named once.
//!
//! Counters live where the fact happens, and are there from the start: a rate needs the zero
//! before the first event. Names, help and units are declared once, where the
//! counters are shown (`visit`). Ratios are computed by the reader of the metrics, never stored.

mod all;
mod compactions;
pub(crate) mod damage;
mod reads;
mod stalls;

pub(crate) use all::DbMetrics;
use mpool::Pool;
pub use mpool::{Counter, Histogram, HistogramCounts, MetricKind, Sample, Value};
pub(crate) use reads::ReadMetrics;

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
