//! PURE. What the runs of two sides come to: medians, ratios within each round, and how warm each
//! side was.
//!
//! Only runs of one round are divided by each other, and only where both ran to their end.

use super::{LOAD, RunRecord};
use crate::number::{float, ratio};
use crate::report::Report;
use crate::report::spread::{Spread, median, quotient};
use crate::report::warm::{self, Mark};
use serde::Serialize;
use std::collections::BTreeMap;

/// By operation (`OVERALL` for all of them), then by the name of the number.
pub(super) type Operations = BTreeMap<String, BTreeMap<String, Compared>>;

/// One number on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Compared {
    /// Median over the rounds.
    pub(super) a: f64,
    pub(super) b: f64,
    /// Of the rounds' ratios; above 1, A is better.
    pub(super) ratio: Spread,
    /// Why the ratio is not one of two stores: only one side read the drive.
    pub(super) mark: Option<&'static str>,
}

/// How warm the sides were while a workload was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Warmth {
    pub(super) a: SideWarmth,
    pub(super) b: SideWarmth,
    pub(super) mark: Option<&'static str>,
    #[serde(skip)]
    pub(super) words: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct SideWarmth {
    /// At most; median over the rounds. Null where nobody counts.
    pub(super) drive_reads_per_op: Option<f64>,
    /// Of each round's passes over all records: `resident`, `not resident`, `unknown`.
    pub(super) filled: Vec<String>,
}

impl SideWarmth {
    /// For tables.
    pub(super) fn sentence(&self) -> String {
        let reads = self.drive_reads_per_op.map_or("unknown".into(), |x| format!("{x:.3}"));
        let worst = ["not finished", "not resident", "unknown", "resident"]
            .into_iter()
            .find(|outcome| self.filled.iter().any(|filled| filled == outcome));
        format!("{reads} ({})", worst.unwrap_or("not read before"))
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// The runs of a workload that were neighbours in time, both to their end.
fn pairs<'a>(
    workload: &str,
    a: &'a [RunRecord],
    b: &'a [RunRecord],
) -> Vec<(&'a Report, &'a Report)> {
    let whole = |run: &&RunRecord| run.workload == workload && run.report.interrupted.is_none();
    a.iter()
        .filter(whole)
        .filter_map(|mine| {
            let theirs = b.iter().filter(whole).find(|theirs| theirs.round == mine.round)?;
            Some((&mine.report, &theirs.report))
        })
        .collect()
}

/// The numbers of a report that are compared, by operation and name.
fn numbers(report: &Report) -> Vec<(String, &'static str, f64, Better)> {
    let mut all = vec![("OVERALL".to_owned(), "ops_per_s", report.ops_per_s, Better::More)];
    for (name, value) in [
        ("cpu_us_per_op", report.cpu_us_per_op),
        ("storage_read_bytes_per_op", report.storage_read_bytes_per_op),
        ("storage_write_bytes_per_op", report.storage_write_bytes_per_op),
    ] {
        all.extend(value.map(|value| ("OVERALL".to_owned(), name, value, Better::Less)));
    }
    for (operation, latency) in &report.operations {
        let speed = ratio(float(latency.count), report.seconds);
        all.push((operation.clone(), "ops_per_s", speed, Better::More));
        let named = latency.named().into_iter();
        all.extend(named.map(|(name, us)| (operation.clone(), name, us, Better::Less)));
    }
    all
}

/// Both sides' numbers of a workload.
pub(super) fn compared(workload: &str, a: &[RunRecord], b: &[RunRecord]) -> Operations {
    type Column = (Better, Vec<(f64, f64)>);
    let mark = warmth(workload, a, b).mark;
    let mut columns: BTreeMap<(String, &'static str), Column> = BTreeMap::new();
    for (mine, theirs) in pairs(workload, a, b) {
        let theirs = numbers(theirs);
        for (operation, name, x, better) in numbers(mine) {
            // What only one side can tell (a process elsewhere) is not compared.
            let same = theirs.iter().find(|(op, n, ..)| *op == operation && *n == name);
            if let Some((_, _, y, _)) = same {
                let column = columns.entry((operation, name)).or_insert((better, Vec::new()));
                column.1.push((x, *y));
            }
        }
    }
    let mut operations = Operations::new();
    for ((operation, name), (better, pairs)) in columns {
        let compared = Compared { mark, ..of_pairs(&pairs, better) };
        operations.entry(operation).or_default().insert(name.into(), compared);
    }
    operations
}

fn of_pairs(pairs: &[(f64, f64)], better: Better) -> Compared {
    let side = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|(a, b)| match better {
            Better::More => quotient(*a, *b),
            Better::Less => quotient(*b, *a),
        })
        .collect();
    let ratio = Spread::of(&ratios);
    Compared { a: side(|pair| pair.0), b: side(|pair| pair.1), ratio, mark: None }
}

/// A load asks for nothing, so nothing about it is warm or cold: what it reads is compaction's.
pub(super) fn warmth(workload: &str, a: &[RunRecord], b: &[RunRecord]) -> Warmth {
    let pairs = pairs(workload, a, b);
    let side = |pick: fn(&(&Report, &Report)) -> Report| {
        let reports: Vec<Report> = pairs.iter().map(pick).collect();
        let reads: Vec<f64> = reports.iter().filter_map(|r| r.drive_reads_per_op).collect();
        let fills = reports.iter().filter_map(|report| report.fill.as_ref());
        SideWarmth {
            drive_reads_per_op: (!reads.is_empty()).then(|| median(&reads)),
            filled: fills.map(|fill| fill.outcome.clone()).collect(),
        }
    };
    let mut marked = pairs.iter().filter(|_| workload != LOAD);
    let mark: Option<Mark> =
        marked.find_map(|(a, b)| warm::mark(a.drive_reads_per_op, b.drive_reads_per_op));
    Warmth {
        a: side(|pair| pair.0.clone()),
        b: side(|pair| pair.1.clone()),
        mark: mark.map(Mark::name),
        words: mark.map(Mark::words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Outcome;
    use crate::driver::measure::Recorder;
    use crate::report::{Fill, Setting};
    use crate::workload::Operation;
    use std::time::Duration;

    fn close(got: f64, expect: f64) -> bool {
        (got / expect - 1.0).abs() < 0.01
    }

    pub(super) fn run(round: usize, ops: u64, us: u64) -> RunRecord {
        let mut recorder = Recorder::default();
        recorder.add(Operation::Read, Duration::from_micros(us));
        let outcome = Outcome {
            recorder,
            operations: ops,
            elapsed: Duration::from_secs(1),
            ..Outcome::default()
        };
        let report = Report::new(Setting::default(), &outcome);
        RunRecord { workload: "c".into(), round, report }
    }

    #[test]
    fn above_one_means_that_a_is_better() {
        let a = [run(1, 200, 10), run(2, 300, 20), run(3, 400, 10)];
        let b = [run(3, 100, 10), run(1, 100, 40), run(2, 100, 40)];
        let all = compared("c", &a, &b);
        let speed = all["OVERALL"]["ops_per_s"];
        assert!(close(speed.a, 300.0) && close(speed.b, 100.0), "{speed:?}");
        let Spread { median, min, max } = speed.ratio;
        assert!(close(median, 3.0) && close(min, 2.0) && close(max, 4.0), "{speed:?}");
        // Rounds are paired by their number, not by their place: 4, 2 and 1 times.
        let latency = all["READ"]["p50_us"];
        let Spread { median, min, max } = latency.ratio;
        assert!(close(median, 2.0) && close(min, 1.0) && close(max, 4.0), "{latency:?}");
        // Nobody knew the CPU time.
        assert!(!all["OVERALL"].contains_key("cpu_us_per_op"));
        assert_eq!(speed.mark, None);
    }

    #[test]
    fn a_round_that_was_cut_short_has_no_ratio() {
        let mut broken = run(2, 1, 1);
        broken.report.interrupted = Some("measuring".into());
        let a = [run(1, 200, 10), run(2, 300, 20), run(3, 400, 10)];
        let all = compared("c", &a, &[run(1, 100, 10), broken]);
        let Spread { median, min, max } = all["OVERALL"]["ops_per_s"].ratio;
        assert!(close(median, 2.0) && close(min, 2.0) && close(max, 2.0));
        assert!(compared("c", &a, &[]).is_empty());
    }

    /// One side answered from memory, the other waited for the drive: 53 times as fast, which was
    /// taken for the ratio of two stores.
    #[test]
    fn a_ratio_against_a_side_that_was_cold_is_marked() {
        let with = |reads: f64, ops: u64| {
            let mut run = run(1, ops, 10);
            run.report.drive_reads_per_op = Some(reads);
            let filled = if reads > 0.1 { "not resident" } else { "resident" };
            run.report.fill = Some(Fill { outcome: filled.into(), ..Fill::default() });
            run
        };
        let (warm, cold) = ([with(0.0, 5300)], [with(0.8, 100)]);
        let speed = compared("c", &warm, &cold)["OVERALL"]["ops_per_s"];
        assert_eq!(speed.mark, Some("b_read_the_drive"), "{speed:?}");
        let warmth_of = warmth("c", &warm, &cold);
        assert_eq!(warmth_of.words, Some("only B read the drive"));
        assert_eq!(warmth_of.b.drive_reads_per_op, Some(0.8));
        assert_eq!(warmth_of.b.filled, ["not resident"]);
        let said = [&warmth_of.a, &warmth_of.b].map(SideWarmth::sentence);
        assert_eq!(said, ["0.000 (resident)", "0.800 (not resident)"]);
        assert_eq!(SideWarmth::default().sentence(), "unknown (not read before)");
        let turned = compared("c", &cold, &warm)["READ"]["p99_us"];
        assert_eq!(turned.mark, Some("a_read_the_drive"));
        assert_eq!(compared("c", &warm, &warm)["READ"]["p99_us"].mark, None);
        // What a load reads is compaction's.
        let load =
            [warm, cold].map(|side| side.map(|run| RunRecord { workload: LOAD.into(), ..run }));
        assert_eq!(warmth(LOAD, &load[0], &load[1]).mark, None);
    }
}
