//! Measurements: latencies by operation, errors, mismatches.
//!
//! Each thread fills its own [`Recorder`]; they are merged when all are done. Latencies are kept
//! in nanoseconds with three digits, up to an hour, in histograms that exist once an operation of
//! the kind has happened (132 KiB each).

use crate::workload::Operation;
use hdrhistogram::Histogram;
use std::time::Duration;

const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Examples of errors and of mismatches that are kept, each.
const EXAMPLES_MAX: usize = 5;

pub(crate) type Latencies = Histogram<u32>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    latencies: [Option<Box<Latencies>>; Operation::ALL.len()],
    errors: [u64; Operation::ALL.len()],
    /// Times that an overloaded store was asked again.
    pub(crate) retries: u64,
    /// Records whose contents were checked.
    pub(crate) verified: u64,
    /// Head scans whose answer was checked.
    pub(crate) heads_checked: u64,
    pub(crate) mismatches: u64,
    pub(crate) error_examples: Vec<String>,
    pub(crate) mismatch_examples: Vec<String>,
}

impl Recorder {
    pub(crate) fn add(&mut self, operation: Operation, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies[operation.index()]
            .get_or_insert_with(|| Box::new(empty()))
            .saturating_record(ns.max(1));
    }

    pub(crate) fn fail(&mut self, operation: Operation, why: &str) {
        self.errors[operation.index()] += 1;
        keep(&mut self.error_examples, || format!("{}: {why}", operation.name()));
    }

    pub(crate) fn mismatch(&mut self, key: &[u8], why: &dyn std::fmt::Display) {
        self.mismatches += 1;
        let key = String::from_utf8_lossy(key);
        keep(&mut self.mismatch_examples, || format!("{key}: {why}"));
    }

    /// Takes in what another thread measured.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self {
            latencies,
            errors,
            retries,
            verified,
            heads_checked,
            mismatches,
            error_examples,
            mismatch_examples,
        } = other;
        for (mine, theirs) in self.latencies.iter_mut().zip(latencies) {
            let Some(theirs) = theirs else { continue };
            match mine {
                Some(mine) => mine.add(*theirs).expect("all histograms have the same bounds"),
                None => *mine = Some(theirs),
            }
        }
        self.errors.iter_mut().zip(errors).for_each(|(mine, theirs)| *mine += theirs);
        self.retries += retries;
        self.verified += verified;
        self.heads_checked += heads_checked;
        self.mismatches += mismatches;
        for example in error_examples {
            keep(&mut self.error_examples, || example);
        }
        for example in mismatch_examples {
            keep(&mut self.mismatch_examples, || example);
        }
    }

    /// Without latencies and counts of what went well.
    pub(crate) fn without_latencies(self) -> Self {
        Self { latencies: Default::default(), ..self }
    }

    pub(crate) fn latencies(&self, operation: Operation) -> Option<&Latencies> {
        self.latencies[operation.index()].as_deref()
    }

    pub(crate) fn errors(&self, operation: Operation) -> u64 {
        self.errors[operation.index()]
    }

    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.iter().sum()
    }
}

fn keep(examples: &mut Vec<String>, example: impl FnOnce() -> String) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(example());
    }
}

fn empty() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_up() {
        let mut all = Recorder::default();
        for thread in 1..=3 {
            let mut one = Recorder::default();
            one.add(Operation::Read, Duration::from_micros(thread));
            one.fail(Operation::Scan, "no");
            one.mismatch(b"user1", &"odd");
            one.retries = thread;
            all.merge(one);
        }
        let reads = all.latencies(Operation::Read).unwrap();
        assert_eq!((reads.len(), all.errors_total(), all.mismatches, all.retries), (3, 3, 3, 6));
        assert!(reads.max().abs_diff(3000) <= 3, "{}", reads.max());
        assert_eq!(all.mismatch_examples, ["user1: odd"; 3]);
        assert_eq!(all.error_examples[0], "SCAN: no");
        assert!(all.latencies(Operation::Insert).is_none());
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept() {
        let mut recorder = Recorder::default();
        recorder.add(Operation::Read, Duration::ZERO);
        recorder.add(Operation::Read, Duration::from_secs(100_000));
        assert_eq!(recorder.latencies(Operation::Read).unwrap().len(), 2);
    }

    #[test]
    fn examples_are_bounded() {
        let mut recorder = Recorder::default();
        (0..100).for_each(|_| recorder.fail(Operation::Read, "no"));
        assert_eq!((recorder.error_examples.len(), recorder.errors(Operation::Read)), (5, 100));
    }
}
