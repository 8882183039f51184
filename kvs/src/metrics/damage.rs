//! Damage that reads meet: counted by who met it, and logged with the KVS and the key, so that an
//! operator knows what to restore.
//!
//! A scrub finds damage before a reader does; what it finds is counted and told by the pool.

use super::{Counter, MetricKind, Sample, emit};
use crate::error::{Error, Scope};

/// Who met the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Get,
    /// A lookup that went on without the filter: slower, and right.
    Filter,
    Scan,
    Compaction,
}

impl Met {
    /// All of them, in the order of [`Met::index`].
    const ALL: [Self; 4] = [Self::Get, Self::Filter, Self::Scan, Self::Compaction];

    fn index(self) -> usize {
        match self {
            Self::Get => 0,
            Self::Filter => 1,
            Self::Scan => 2,
            Self::Compaction => 3,
        }
    }

    /// Its name in metrics and logs.
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Filter => "filter",
            Self::Scan => "scan",
            Self::Compaction => "compaction",
        }
    }
}

/// How often damage was met.
#[derive(Debug, Default)]
pub(crate) struct DamageMetrics([Counter; Met::ALL.len()]);

impl DamageMetrics {
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let met = ("damage_met_total", "Reads that met damaged or unreadable bytes, by what read.");
        for (by, count) in Met::ALL.iter().zip(&self.0) {
            emit(see, MetricKind::Counter, met, &[("by", by.as_str())], count.get());
        }
    }
}

impl DamageMetrics {
    /// Counts and tells an error of a read, if it is damage.
    pub(crate) fn note(&self, by: Met, error: &Error) {
        if error.scope() == Scope::Object {
            self.0[by.index()].add(1);
            let (kind, cause) = (by.as_str(), error.with_sources());
            tracing::error!(kind, cause, "what was stored is damaged");
        }
    }
}
