//! PURE. What must be said beside the figures of a comparison: where the sides differ in more than
//! the store, and where the machine was not theirs alone.

use super::RunRecord;
use super::ratios::Warmth;
use crate::cli::{CompareArgs, DurabilityArg, TargetKind};
use crate::number::short;
use std::collections::BTreeMap;

/// Processor time of others, per cent of all there is, from which the machine was not quiet. The
/// kernel's threads that work for the store are among them.
const QUIET_MAX_PCT: f64 = 15.0;

/// Sentences, the most important first.
pub(super) fn caveats(
    args: &CompareArgs,
    warmth: &BTreeMap<String, Warmth>,
    runs: &[&RunRecord],
) -> Vec<String> {
    let kinds = [args.a, args.b];
    let has = |kind: TargetKind| kinds.contains(&kind);
    let stores = kinds.iter().any(|kind| *kind != TargetKind::Memory);
    let mut all = Vec::new();
    for (workload, Warmth { a, b, words, .. }) in warmth {
        let reads =
            |side: Option<f64>| side.map_or("an unknown number of".into(), |x| format!("{x:.3}"));
        let (a_reads, b_reads) = (reads(a.drive_reads_per_op), reads(b.drive_reads_per_op));
        if let Some(words) = words {
            all.push(format!(
                "{workload}: {words} ({a_reads} and {b_reads} reads per operation): the ratios say \
                 how warm the sides were, not how fast they are"
            ));
        }
        for (side, filled) in [("A", &a.filled), ("B", &b.filled)] {
            if filled.iter().any(|outcome| outcome == "not resident") {
                all.push(format!(
                    "{workload}: {side} could not be filled until its records were in memory"
                ));
            }
        }
    }
    let filled = runs.iter().any(|run| run.report.fill.is_some());
    if stores && !warmth.is_empty() && !filled {
        all.push(format!(
            "records were not read before the runs: caches are as warm as {} s of --warmup made them",
            short(args.workload.warmup.as_secs_f64())
        ));
    }
    let busy = runs.iter().filter_map(|run| run.report.others_cpu_pct).fold(0.0, f64::max);
    if busy > QUIET_MAX_PCT {
        all.push(format!(
            "the machine was not quiet: others used up to {} % of its processors",
            short(busy)
        ));
    }
    if has(TargetKind::Http) && kinds[0] != kinds[1] {
        all.push("one side is asked over HTTP, the other by calls in its own process".into());
    }
    if has(TargetKind::Http) {
        all.push("a server is not waited for until its compactions are done".into());
    }
    if stores && args.workload.memory.is_none() {
        let mut sentence = String::from(
            "without --memory the sides have no common budget: each takes what the machine has",
        );
        if has(TargetKind::Rocksdb) {
            sentence += ", RocksDB's block cache 4/5 of what was free when it was opened";
        }
        all.push(sentence);
    }
    if stores {
        all.push(durability(args.workload.durability).into());
    }
    all
}

fn durability(arg: DurabilityArg) -> &'static str {
    match arg {
        DurabilityArg::Sync => "durability sync: a write is on stable storage when it is done",
        DurabilityArg::Interval => {
            "durability interval: a write is on stable storage within 100 ms; until then an end of \
             the process loses it, on either side"
        }
        DurabilityArg::Off => {
            "durability off: a write is in memory, on either side, until something else takes it \
             to stable storage"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ratios::SideWarmth;
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::driver::Outcome;
    use crate::report::{Report, Setting};
    use clap::Parser as _;

    fn said(words: &str, warmth: Warmth, others_cpu_pct: f64) -> String {
        let words = ["ycsb", "compare"].into_iter().chain(words.split(' '));
        let Command::Compare(args) = Cli::parse_from(words).command else { panic!("compare") };
        let mut report = Report::new(Setting::default(), &Outcome::default());
        report.others_cpu_pct = Some(others_cpu_pct);
        let run = RunRecord { workload: "c".into(), round: 1, report };
        caveats(&args, &BTreeMap::from([("c".to_owned(), warmth)]), &[&run]).join("\n")
    }

    #[test]
    fn what_differs_is_said() {
        let cold = || Warmth {
            a: SideWarmth { drive_reads_per_op: Some(0.0), filled: vec!["resident".into()] },
            b: SideWarmth { drive_reads_per_op: Some(0.81), filled: vec!["not resident".into()] },
            mark: Some("b_read_the_drive"),
            words: Some("only B read the drive"),
        };
        for (words, warmth, busy, say, not) in [
            (
                "--a embedded --b rocksdb --durability interval --warmup 5",
                cold(),
                60.0,
                &[
                    "c: only B read the drive (0.000 and 0.810 reads per operation)",
                    "c: B could not be filled",
                    "as warm as 5.00 s of --warmup",
                    "not quiet: others used up to 60.0 %",
                    "without --memory",
                    "durability interval",
                ][..],
                &["HTTP", "A could not"][..],
            ),
            (
                "--a embedded --b http --memory 2GiB",
                Warmth::default(),
                3.0,
                &["over HTTP", "durability sync"],
                &["without --memory", "not quiet", "drive"],
            ),
            ("--a memory --b memory", Warmth::default(), 0.0, &[], &["durability", "--memory"]),
        ] {
            let text = said(words, warmth, busy);
            for part in say {
                assert!(text.contains(part), "{words}: {part:?} is not in {text}");
            }
            for part in not {
                assert!(!text.contains(part), "{words}: {part:?} is in {text}");
            }
        }
    }
}
