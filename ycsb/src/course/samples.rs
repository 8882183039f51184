//! What a stage does and costs, second by second.
//!
//! A [`Sampler`] looks once a second at what grows: operations, bytes put, bytes that the store's
//! process read and wrote, time that writers were held back; and at levels: live bytes, used bytes,
//! lengths of files. A sample is what happened between two looks, and how long that was: on a busy
//! machine a look comes late, and is not taken for a second. Looks cost the store one visit of its
//! metrics each.

use super::space::Space;
use crate::driver::observe::{Observation, Observer};
use crate::machine::cgroup::MemoryGroup;
use crate::number::{float, ratio};
use crate::report::stage::{COUNTERS, PROCESS, Sample, SpaceReport, Throughput};
use crate::target::{Counted, Target};
use crate::workload::course::ledger::Ledger;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// A shorter rest at the end of a stage is no second.
const REST_MIN_SECONDS: f64 = 0.5;
const STALLS: &str = "write_stall_seconds_total{reason=\"";

/// The name of a counter as the engine has it: a server puts a prefix before it.
pub(super) fn own_name(name: &str) -> &str {
    name.strip_prefix("millpond_").unwrap_or(name)
}

/// Looks at one stage.
pub(crate) struct Sampler<'a> {
    target: &'a dyn Target,
    observer: Observer<'a>,
    ledger: &'a Ledger,
    start: Moment,
    last: Moment,
    samples: Vec<Sample>,
}

/// One look.
struct Moment {
    at: Instant,
    operations: u64,
    put_bytes: u64,
    observation: Observation,
}

/// What a store has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Bytes read and written, together, and by what that is known.
    pub(crate) moved: Option<(u64, &'static str)>,
    /// It says itself that something waits.
    pub(crate) waits: bool,
}

/// What a stage came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) samples: Vec<Sample>,
    pub(crate) put_bytes: u64,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    pub(crate) stalls: BTreeMap<String, f64>,
    pub(crate) space: SpaceReport,
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(
        target: &'a dyn Target,
        group: Option<&'a MemoryGroup>,
        ledger: &'a Ledger,
    ) -> Self {
        let observer = Observer::new(target, group);
        let look = || Moment {
            at: Instant::now(),
            operations: 0,
            put_bytes: ledger.put_bytes(),
            observation: observer.look(),
        };
        let (start, last) = (look(), look());
        Self { target, observer, ledger, start, last, samples: Vec::new() }
    }

    /// Takes a sample if a second has gone by since the last one.
    pub(crate) fn tick(&mut self, operations: u64) {
        if self.last.at.elapsed() >= SECOND {
            self.take(operations);
        }
    }

    /// Ends the stage with a last sample.
    pub(crate) fn end(mut self, operations: u64) -> Measured {
        self.take(operations);
        let observed = self.last.observation.clone().since(&self.start.observation);
        let used = observed.usage.total();
        Measured {
            put_bytes: self.last.put_bytes - self.start.put_bytes,
            read_bytes: used.read_bytes,
            written_bytes: used.write_bytes,
            stalls: stalls(&observed.counters),
            space: space(&self.samples),
            samples: self.samples,
        }
    }

    /// What the store has done so far.
    pub(crate) fn activity(&self) -> Activity {
        let look = self.observer.look();
        let used = look.usage.total();
        let moved = match (used.read_bytes, used.write_bytes) {
            (Some(read), Some(written)) => Some((read + written, PROCESS)),
            _ => said_bytes(&look.counters).map(|bytes| (bytes, COUNTERS)),
        };
        let waits = level(&look.counters, "memtables_sealed").is_some_and(|sealed| sealed > 0);
        Activity { moved, waits }
    }

    fn take(&mut self, operations: u64) {
        let now = Moment {
            at: Instant::now(),
            operations,
            put_bytes: self.ledger.put_bytes(),
            observation: self.observer.look(),
        };
        let space = Space::look(self.target.data_dir(), &now.observation.counters);
        let seen = now.observation.clone().since(&self.last.observation);
        let used = seen.usage.total();
        let stalls = stalls(&seen.counters);
        self.samples.push(Sample {
            at_seconds: (now.at - self.start.at).as_secs_f64(),
            seconds: (now.at - self.last.at).as_secs_f64(),
            // A thread that begins anew after a warm-up counts from 0.
            ops: operations.saturating_sub(self.last.operations),
            put_bytes: now.put_bytes - self.last.put_bytes,
            read_bytes: used.read_bytes,
            written_bytes: used.write_bytes,
            stall_seconds: (!stalls.is_empty()).then(|| stalls.values().sum()),
            live_bytes: self.ledger.alive().bytes,
            used_bytes: space.used,
            data_bytes: space.data,
            file_bytes: space.file,
            allocated_bytes: space.allocated,
        });
        self.last = now;
    }
}

/// What a store elsewhere has read and written by its own word, if it tells.
fn said_bytes(counters: &[Counted]) -> Option<u64> {
    let [read, written] =
        ["mpool_read_bytes_total", "mpool_write_bytes_total"].map(|name| level(counters, name));
    Some(read? + written?)
}

/// Seconds that writers were held back, by reason; empty where the store does not say.
fn stalls(counters: &[Counted]) -> BTreeMap<String, f64> {
    let reason = |counted: &Counted| {
        let reason = own_name(&counted.name).strip_prefix(STALLS)?.strip_suffix("\"}")?;
        Some((reason.to_owned(), counted.value))
    };
    counters.iter().filter_map(reason).collect()
}

fn level(counters: &[Counted], name: &str) -> Option<u64> {
    let found = counters.iter().find(|counted| own_name(&counted.name) == name)?;
    Some(crate::number::floor(found.value))
}

/// Operations a second: the middle of all seconds, and the slowest.
pub(crate) fn throughput(samples: &[Sample]) -> Option<Throughput> {
    let mut rates: Vec<f64> = samples
        .iter()
        .filter(|sample| sample.seconds >= REST_MIN_SECONDS)
        .map(|sample| ratio(float(sample.ops), sample.seconds))
        .collect();
    rates.sort_by(f64::total_cmp);
    let (slowest, fastest) = (*rates.first()?, *rates.last()?);
    let (low, high) = (rates[(rates.len() - 1) / 2], rates[rates.len() / 2]);
    let seconds = u64::try_from(rates.len()).expect("seconds of a run");
    Some(Throughput { median: f64::midpoint(low, high), slowest, fastest, seconds })
}

/// Space against what lives: the highest of all seconds, and at the end.
fn space(samples: &[Sample]) -> SpaceReport {
    let over = |part: Option<u64>, whole: Option<u64>| {
        let (part, whole) = (part?, whole.filter(|whole| *whole > 0)?);
        Some(ratio(float(part), float(whole)))
    };
    let amplification = |sample: &Sample| over(sample.used_bytes, Some(sample.live_bytes));
    let of_data = |sample: &Sample| over(sample.data_bytes, Some(sample.live_bytes));
    let Some(end) = samples.last() else { return SpaceReport::default() };
    SpaceReport {
        live_bytes: end.live_bytes,
        used_bytes: end.used_bytes,
        data_bytes: end.data_bytes,
        file_bytes: end.file_bytes,
        allocated_bytes: end.allocated_bytes,
        used_per_live: amplification(end),
        used_per_live_highest: samples.iter().filter_map(amplification).max_by(f64::total_cmp),
        data_per_live: of_data(end),
        data_per_live_highest: samples.iter().filter_map(of_data).max_by(f64::total_cmp),
        file_per_used: over(end.file_bytes, end.used_bytes),
        allocated_per_used: over(end.allocated_bytes, end.used_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::memory::Memory;

    fn sample(seconds: f64, ops: u64, used: u64, live: u64) -> Sample {
        Sample {
            seconds,
            ops,
            used_bytes: Some(used),
            data_bytes: Some(used / 2),
            file_bytes: Some(2 * used),
            live_bytes: live,
            ..Sample::default()
        }
    }

    #[test]
    fn seconds_are_as_long_as_they_were() {
        let samples = [
            sample(1.0, 100, 1, 1),
            sample(2.0, 600, 1, 1),
            sample(1.0, 20, 1, 1),
            // What is left at the end, and would be the slowest second of all.
            sample(0.1, 0, 1, 1),
        ];
        let got = throughput(&samples).unwrap();
        let expect = Throughput { median: 100.0, slowest: 20.0, fastest: 300.0, seconds: 3 };
        assert_eq!(got, expect);
        let middle = throughput(&samples[..2]).unwrap().median;
        assert!((middle - 200.0).abs() < 1e-9, "of two, {middle}");
        assert_eq!(throughput(&samples[3..]), None);
    }

    #[test]
    fn space_is_measured_against_what_lives() {
        let got = space(&[sample(1.0, 0, 50, 10), sample(1.0, 0, 30, 20)]);
        assert_eq!((got.used_per_live, got.used_per_live_highest), (Some(1.5), Some(5.0)));
        assert_eq!((got.data_per_live, got.data_per_live_highest), (Some(0.75), Some(2.5)));
        assert_eq!((got.file_per_used, got.allocated_per_used), (Some(2.0), None));
        let nothing = space(&[sample(1.0, 0, 50, 0)]);
        assert_eq!(nothing.used_per_live, None, "nothing lives: there is no ratio");
    }

    #[test]
    fn stalls_are_found_under_both_names() {
        let counted = |name: &str| Counted { name: name.into(), grows: true, value: 2.0 };
        let counters = [
            counted("write_stall_seconds_total{reason=\"root_length\"}"),
            counted("millpond_write_stall_seconds_total{reason=\"memtables\"}"),
            counted("writes_total"),
        ];
        let reasons: Vec<String> = stalls(&counters).into_keys().collect();
        assert_eq!(reasons, ["memtables", "root_length"]);
    }

    /// A server whose metrics were not there passed for one that does nothing.
    #[test]
    fn a_store_that_tells_nothing_is_not_at_rest() {
        let counted = |name: &str| Counted { name: name.into(), grows: true, value: 7.0 };
        let [read, written] =
            ["read", "write"].map(|way| format!("millpond_mpool_{way}_bytes_total"));
        assert_eq!(said_bytes(&[counted(&read), counted(&written)]), Some(14));
        assert_eq!(said_bytes(&[counted(&read)]), None);
        assert_eq!(said_bytes(&[]), None);
    }

    #[test]
    fn a_stage_counts_what_was_put_in_it() {
        let (memory, ledger) = (Memory::new(), Ledger::new());
        ledger.inserted(b"before", 10);
        let sampler = Sampler::new(&memory, None, &ledger);
        ledger.inserted(b"key", 10);
        let measured = sampler.end(1);
        assert_eq!((measured.put_bytes, measured.samples.len()), (13, 1));
        assert_eq!((measured.samples[0].ops, measured.space.live_bytes), (1, 29));
        assert!(measured.stalls.is_empty() && measured.space.used_bytes.is_none());
    }
}
