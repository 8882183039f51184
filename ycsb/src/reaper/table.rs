//! The tables of a comparison, for people.

use super::dataset::{Dataset, Description};
use super::numbers::{BASE, drive_reads_source};
use super::publish::Block;
use super::{RunRecord, Side};
use crate::cli::ReaperArgs;
use crate::number::{bytes, short};
use crate::report::spread::Spread;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;

/// Share of a drive's reads that may be others' without a word.
const OTHERS_PCT_MAX: f64 = 5.0;
const MIB: f64 = 1_048_576.0;
/// Rows of the tables: number, what it is called, and what it is divided by.
const ROWS: &[(&str, &str, f64)] = &[
    ("ops_per_s", "ops/s", 1.0),
    ("READ.p50", "READ p50 us", 1.0),
    ("READ.p99", "READ p99 us", 1.0),
    ("READ.p999", "READ p99.9 us", 1.0),
    ("READ.p9999", "READ p99.99 us", 1.0),
    ("UPDATE.p50", "UPDATE p50 us", 1.0),
    ("UPDATE.p99", "UPDATE p99 us", 1.0),
    ("UPDATE.p999", "UPDATE p99.9 us", 1.0),
    ("UPDATE.p9999", "UPDATE p99.99 us", 1.0),
    ("cpu_us_per_op", "CPU us/op", 1.0),
    ("process_read_bytes_per_op", "process read, KiB/op", 1024.0),
    ("drive_reads_per_op", "drive reads/op", 1.0),
    ("drive_reads_per_lookup", "drive reads/lookup", 1.0),
    ("ideal_reads_per_lookup", "  ideal record cache", 1.0),
    ("above_ideal_pct", "  above the ideal, %", 1.0),
    ("value_memory_bytes", "  memory for values, MiB", MIB),
    ("limit_hits_per_s", "limit hits/s", 1.0),
    ("reaper_passes_per_s", "reaper passes/s", 1.0),
    ("reaper_evicted_bytes_per_s", "reaper evicted, MiB/s", MIB),
    ("reaper_alarms_per_s", "reaper alarms/s", 1.0),
    ("reaper_pressure", "pressure at the end (0-4)", 1.0),
];

/// How much is measured in how much memory.
pub(super) fn headline(args: &ReaperArgs, dataset: &Dataset) -> String {
    let memory = args.memory.map_or("all memory".into(), bytes);
    let Description { records, bytes: amount, .. } = &dataset.description;
    format!("{records} records ({}) in {memory}", bytes(*amount))
}

/// For people: one table a block and workload.
pub(super) fn tables(
    args: &ReaperArgs,
    dataset: &Dataset,
    sides: &[Side],
    (runs, blocks): (&[RunRecord], &[Block]),
) -> String {
    let last = &runs.last().expect("there is a run").report;
    let unknown = || "unknown".to_owned();
    let mut text = format!(
        "{}, {} on {}, kernel {}, {} CPUs, commit {}\n",
        headline(args, dataset),
        last.setting.file_system.clone().unwrap_or_else(unknown),
        last.setting.device.clone().unwrap_or_else(unknown),
        last.setting.kernel.clone().unwrap_or_else(unknown),
        last.setting.cpus,
        last.setting.commit.clone().unwrap_or_else(unknown),
    );
    let _infallible = writeln!(
        text,
        "medians of {} rounds of {} s after {} s of warm-up; ratios to off within a round, \
         their median (lowest-highest)\ndrive reads: {}",
        args.rounds,
        short(args.seconds.as_secs_f64()),
        short(args.warmup.as_secs_f64()),
        drive_reads_source(last)
    );
    if let Some(rate) = args.rate {
        let rate = short(rate);
        let _infallible =
            writeln!(text, "{rate} operations a second offered, latency from when each was due");
    }
    let others = runs.iter().filter_map(|run| run.numbers.get("others_read_pct").copied());
    let others = others.fold(0.0, f64::max);
    if others > OTHERS_PCT_MAX {
        let _infallible = writeln!(
            text,
            "others used the drive, too: up to {} % of the bytes read in a run were not asked for \
             by it, and drive reads are too high by that; see others_read_pct of each run",
            short(others)
        );
    }
    for block in blocks {
        for workload in args.workloads.iter().filter(|w| block.medians.contains_key(*w)) {
            let _infallible = writeln!(text, "\n{workload}, {} threads", block.threads);
            let _infallible = writeln!(text, "{}", table(block, workload, sides));
        }
    }
    text
}

fn table(block: &Block, workload: &str, sides: &[Side]) -> Table {
    let mut table = Table::new();
    let mut header = vec!["number".to_owned()];
    for side in sides {
        header.push(side.name.clone());
        header.extend((side.name != BASE).then(|| "x off".to_owned()));
    }
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for (name, label, unit) in ROWS {
        let median = |side: &Side| block.medians[workload].get(&side.name)?.get(*name).copied();
        if sides.iter().all(|side| median(side).is_none()) {
            continue;
        }
        let mut row = vec![(*label).to_owned()];
        for side in sides {
            row.push(median(side).map_or(String::new(), |x| fine(x / unit)));
            let ratios = block.ratios.get(workload).and_then(|of| of.get(&side.name));
            let ratio = ratios.and_then(|numbers| numbers.get(*name));
            row.extend((side.name != BASE).then(|| ratio.map_or(String::new(), spread)));
        }
        table.add_row(row);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table
}

fn spread(of: &Spread) -> String {
    format!("{:.2} ({:.2}-{:.2})", of.median, of.min, of.max)
}

/// Reads a lookup lie below 1, where two digits are too few.
fn fine(x: f64) -> String {
    if x != 0.0 && x.abs() < 1.0 { format!("{x:.3}") } else { short(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_explained() {
        let docs = include_str!("../../../docs/benchmarks.md");
        let (_, rest) = docs.split_once("### What is printed").expect("its section");
        for (_, label, _) in ROWS.iter().filter(|(number, ..)| !number.contains('.')) {
            let name = label.trim().split([',', '(']).next().unwrap_or_default();
            let name = name.trim().trim_start_matches("reaper ").trim_end_matches("/s");
            assert!(rest.contains(name), "{label}");
        }
    }
    use crate::reaper::publish::blocks;
    use crate::reaper::publish::tests::{args, runs};
    use std::path::Path;

    #[test]
    fn the_tables_show_medians_and_ratios() {
        let (args, mut runs) = (args(), runs());
        let dataset = Dataset::for_tests(Path::new("/d"));
        let text = tables(&args, &dataset, &crate::reaper::sides(&args), (&runs, &blocks(&runs)));
        for part in ["b, 2 threads", "b, 1 threads", "READ p99.99 us", "2.00 (2.00-2.00)", "x off"]
        {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains("others used the drive"), "{text}");
        runs[1].numbers.insert("others_read_pct".into(), 30.0);
        let busy = tables(&args, &dataset, &crate::reaper::sides(&args), (&runs, &blocks(&runs)));
        assert!(busy.contains("up to 30.0 %"), "{busy}");
        // Nothing was known about the memory group.
        assert!(!text.contains("limit hits"), "{text}");
    }

    #[test]
    fn small_numbers_keep_three_digits() {
        assert_eq!([fine(0.3187), fine(0.0), fine(12.34)], ["0.319", "0.00", "12.3"]);
    }

    #[test]
    fn sizes_are_named() {
        let dataset = Dataset::for_tests(Path::new("/d"));
        let text = headline(&args(), &dataset);
        assert!(text.starts_with("1000 records (") && text.ends_with("in all memory"), "{text}");
    }
}
