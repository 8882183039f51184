//! How long things take and how large they are: buckets with fixed bounds, a sum and the largest.
//!
//! Cheap enough for every request to the drive: two looks at the clock and two or three relaxed
//! additions. The bounds are constants, three a decade for times and a factor of four apart for
//! sizes, so that histograms of different servers and versions add up. Values are kept as whole
//! microseconds or bytes and shown in base units.

use super::counter::Counter;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Upper bounds for calls, microseconds: 10 us to 10 s.
const CALL_BOUNDS_US: [u64; 19] = [
    10, 22, 46, 100, 220, 460, 1_000, 2_200, 4_600, 10_000, 22_000, 46_000, 100_000, 220_000,
    460_000, 1_000_000, 2_200_000, 4_600_000, 10_000_000,
];

/// Upper bounds for background jobs, microseconds: 1 ms to 1,000 s.
const JOB_BOUNDS_US: [u64; 19] = [
    1_000,
    2_200,
    4_600,
    10_000,
    22_000,
    46_000,
    100_000,
    220_000,
    460_000,
    1_000_000,
    2_200_000,
    4_600_000,
    10_000_000,
    22_000_000,
    46_000_000,
    100_000_000,
    220_000_000,
    460_000_000,
    1_000_000_000,
];

/// Upper bounds for sizes, bytes: 4 KiB to 16 GiB.
const SIZE_BOUNDS: [u64; 12] = [
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
    1 << 30,
    4 << 30,
    16 << 30,
];

/// Times or sizes of one kind of event.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// What is recorded in one base unit: microseconds in a second, or 1 byte in a byte.
    per_unit: f64,
    sum: Counter,
    max: AtomicU64,
    /// Those within each bound and not within the one before it; the last holds the rest.
    buckets: Box<[Counter]>,
}

/// A histogram at one moment, in base units: seconds or bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramCounts {
    /// Upper bounds, and how many were within each, those within smaller ones included.
    pub within: Vec<(f64, u64)>,
    /// All of them.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
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

impl Default for Histogram {
    fn default() -> Self {
        Self::calls()
    }
}

impl Histogram {
    /// Of calls that take 10 us to 10 s.
    pub fn calls() -> Self {
        Self::new(&CALL_BOUNDS_US, 1e6)
    }

    /// Of jobs that take 1 ms to 1,000 s.
    pub fn jobs() -> Self {
        Self::new(&JOB_BOUNDS_US, 1e6)
    }

    /// Of sizes of 4 KiB to 16 GiB.
    pub fn sizes() -> Self {
        Self::new(&SIZE_BOUNDS, 1.0)
    }

    fn new(bounds: &'static [u64], per_unit: f64) -> Self {
        let buckets = std::iter::repeat_with(Counter::default).take(bounds.len() + 1).collect();
        Self { bounds, per_unit, sum: Counter::default(), max: AtomicU64::new(0), buckets }
    }

    /// Counts what began at `start` and ends now.
    pub(crate) fn end(&self, start: Start) {
        self.record_time(start.elapsed());
    }

    /// Counts one duration.
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts one size.
    pub fn record_bytes(&self, bytes: u64) {
        self.record(bytes);
    }

    /// Runs `call` and counts how long it took, if it came to something.
    pub fn time<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Start::now();
        call().inspect(|_| self.end(start))
    }

    fn record(&self, value: u64) {
        self.buckets[self.bounds.partition_point(|bound| *bound < value)].add(1);
        self.sum.add(value);
        if value > self.max.load(Relaxed) {
            self.max.fetch_max(value, Relaxed);
        }
    }

    /// What has been counted. The count is the buckets' own sum, so that they never disagree.
    pub fn counts(&self) -> HistogramCounts {
        let mut count = 0;
        let mut within = Vec::with_capacity(self.bounds.len());
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.get();
            if let Some(bound) = self.bounds.get(at) {
                within.push((as_float(*bound) / self.per_unit, count));
            }
        }
        HistogramCounts { within, count, sum: as_float(self.sum.get()) / self.per_unit }
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        let count = self.buckets.iter().map(Counter::get).sum();
        let mean_us = self.sum.get().checked_div(count).unwrap_or(0);
        LatencySummary { count, mean_us, max_us: self.max.load(Relaxed) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are read as floats")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_within_their_bound() {
        let calls = Histogram::calls();
        assert_eq!(calls.summary(), LatencySummary::default());
        for us in [0, 10, 11, 22, 9_999_999, 10_000_001] {
            calls.record_time(Duration::from_micros(us));
        }
        let HistogramCounts { within, count, sum } = calls.counts();
        assert_eq!(count, 6, "the slowest is in no bucket with a bound");
        assert_eq!(within[..3], [(10e-6, 2), (22e-6, 4), (46e-6, 4)]);
        assert_eq!(within.last(), Some(&(10.0, 5)));
        assert!((sum - 20.000_043).abs() < 1e-9, "{sum}");
        let LatencySummary { count, mean_us, max_us } = calls.summary();
        assert_eq!((count, mean_us, max_us), (6, 20_000_043 / 6, 10_000_001));
    }

    #[test]
    fn what_fails_is_not_timed() {
        let calls = Histogram::calls();
        assert_eq!(calls.time(|| Ok::<_, ()>(7)), Ok(7));
        assert_eq!(calls.time(|| Err::<(), _>(())), Err(()));
        assert_eq!(calls.counts().count, 1);
    }

    #[test]
    fn bounds_rise_and_sizes_are_bytes() {
        for bounds in [&CALL_BOUNDS_US[..], &JOB_BOUNDS_US, &SIZE_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
        let sizes = Histogram::sizes();
        sizes.record_bytes(4097);
        assert_eq!(sizes.counts().within[..2], [(4096.0, 0), (16384.0, 1)]);
    }
}
