//! How long things take: count, sum, maximum and a few buckets, all of them counters.
//!
//! Cheap enough for every commit: two looks at the clock and four relaxed additions. Percentiles
//! are not kept; the buckets say how many were slower than what one notices, and the maximum says
//! how bad it has been since the pool was opened.

use crate::metrics::Counter;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Upper bounds of the buckets, microseconds; what is slower than the last is in none.
const BOUNDS_US: [u64; Latency::BUCKETS] = [100, 1_000, 10_000, 100_000, 1_000_000];

/// Durations of one kind of call.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    count: Counter,
    total_us: Counter,
    max_us: AtomicU64,
    /// Those within each bound and not within the one before it.
    buckets: [Counter; Latency::BUCKETS],
}

/// How long calls of one kind have taken since the pool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// Calls.
    pub count: u64,
    /// The mean, microseconds; 0 if there were none.
    pub mean_us: u64,
    /// The slowest, microseconds.
    pub max_us: u64,
}

/// A moment from which something is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(Instant);

impl Start {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

impl Latency {
    pub(crate) const BUCKETS: usize = 5;

    /// Counts what began at `start` and ends now.
    pub(crate) fn end(&self, start: Start) {
        self.record(start.elapsed());
    }

    /// Counts one duration.
    pub(crate) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.add(1);
        self.total_us.add(us);
        self.max_us.fetch_max(us, Relaxed);
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(crate) fn total_us(&self) -> u64 {
        self.total_us.get()
    }

    pub(crate) fn max_us(&self) -> u64 {
        self.max_us.load(Relaxed)
    }

    /// How many were within each bound, the smaller ones included.
    pub(crate) fn within(&self) -> [u64; Self::BUCKETS] {
        let mut sum = 0;
        self.buckets.each_ref().map(|bucket| {
            sum += bucket.get();
            sum
        })
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        let count = self.count();
        let mean_us = self.total_us().checked_div(count).unwrap_or(0);
        LatencySummary { count, mean_us, max_us: self.max_us() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_within_their_bound() {
        let latency = Latency::default();
        assert_eq!(latency.summary(), LatencySummary::default());
        for us in [0, 100, 101, 1_000, 999_999, 1_000_001] {
            latency.record(Duration::from_micros(us));
        }
        assert_eq!(latency.within(), [2, 4, 4, 4, 5], "the slowest is in no bucket");
        let LatencySummary { count, mean_us, max_us } = latency.summary();
        assert_eq!((count, max_us), (6, 1_000_001));
        assert_eq!(mean_us, (100 + 101 + 1_000 + 999_999 + 1_000_001) / 6);
    }
}
