//! A report for people: a table, and what must be said about it below.

use super::{ELSEWHERE, Fill, Report};
use crate::number::{bytes, float, ratio, short};
use crate::workload::Operation;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write as _;

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        if !self.stages.is_empty() {
            return self.headline() + &self.stage_tables() + &self.footer();
        }
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "operation",
            "count",
            "errors",
            "mean us",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
        ]);
        for operation in Operation::ALL {
            let Some(l) = self.operations.get(operation.name()) else { continue };
            let mut row =
                vec![operation.name().to_owned(), l.count.to_string(), l.errors.to_string()];
            let times = [l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.p9999_us, l.max_us];
            row.extend(times.map(short));
            table.add_row(row);
        }
        table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        let mut text = self.headline();
        let _infallible = writeln!(text, "{table}");
        text.push_str(&self.footer());
        text
    }

    fn headline(&self) -> String {
        let s = &self.setting;
        let open = s.rate.map_or(String::new(), |rate| format!(", {} ops/s offered", short(rate)));
        format!(
            "{} on {}{}: {} ops in {:.1} s = {} ops/s ({} threads{open}, {} records, durability \
             {})\n",
            s.phase,
            s.target,
            self.main_stage.as_ref().map_or(String::new(), |stage| format!(", stage {stage}")),
            self.ops,
            self.seconds,
            short(self.ops_per_s),
            s.threads,
            s.records,
            s.durability,
        )
    }

    fn footer(&self) -> String {
        let mut lines = Vec::new();
        lines.extend(self.interrupted.as_deref().map(broken_off));
        let of = self.main_stage.as_ref().map_or(String::new(), |stage| format!("{stage}: "));
        lines.extend(self.cpu_lines().into_iter().map(|line| of.clone() + &line));
        if let (Some(read), Some(write)) = (self.storage_read_bytes, self.storage_write_bytes) {
            lines.push(format!("{of}storage {} read, {} written", bytes(read), bytes(write)));
        }
        if let Some(reads) = self.drive_reads_per_op {
            lines.push(format!("{of}{reads:.4} reads of the drive per operation, at most"));
        }
        lines.extend(self.fill.as_ref().map(Fill::sentence));
        if let Some(memory) = &self.memory {
            lines.push(memory.sentence());
        }
        let checked = [(self.verified, "records"), (self.head_scans_checked, "head scans")];
        let checked = checked.iter().filter(|(n, _)| *n > 0);
        let checked: Vec<String> = checked.map(|(n, what)| format!("{n} {what}")).collect();
        if !checked.is_empty() {
            lines.push(format!("{} verified, {} wrong", checked.join(" and "), self.mismatches));
        }
        if self.retries > 0 {
            lines.push(format!("{} retries of an overloaded store", self.retries));
        }
        if let Some(rate) = self.setting.rate.filter(|rate| self.ops_per_s < rate * 0.99) {
            lines.push(format!("the store did not keep up with {} ops/s", short(rate)));
        }
        if self.errors > 0 {
            lines.push(format!("{} errors", self.errors));
        }
        if self.aborted {
            lines.push("gave up: too many failures in a row".into());
        }
        let examples = self.error_examples.iter().chain(&self.mismatch_examples);
        lines.extend(examples.map(|example| format!("  for example {example}")));
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Report {
    /// Whose CPU it was is said where it is not that of the store and the driver together.
    fn cpu_lines(&self) -> Vec<String> {
        if let (Some(user), Some(sys), Some(each)) =
            (self.cpu_user_s, self.cpu_sys_s, self.cpu_us_per_op)
        {
            return vec![format!("CPU {user:.1} s user, {sys:.1} s system ({each:.1} us/op)")];
        }
        if self.store != ELSEWHERE {
            return Vec::new();
        }
        let each = |s: f64| format!("{s:.1} s ({:.1} us/op)", ratio(s * 1e6, float(self.ops)));
        let driver = self.client.cpu_s.map(|s| format!("CPU of this driver {}", each(s)));
        let server = self.server.and_then(|server| server.cpu_s);
        let server = server.map(|s| format!("CPU of the server {}, by its /metrics", each(s)));
        let unknown = if server.is_some() { "" } else { "CPU, " };
        let unknown = format!(
            "not known of the server (- in tables, null in --json): {unknown}bytes read and \
             written, memory. If it runs on this machine, --server-pid PID shows them"
        );
        driver.into_iter().chain(server).chain([unknown]).collect()
    }
}

impl Fill {
    fn sentence(&self) -> String {
        let reads = |reads: &Option<f64>| reads.map_or("unknown".into(), |x| format!("{x:.3}"));
        let passes: Vec<String> = self.drive_reads_per_record.iter().map(reads).collect();
        format!(
            "all records read before, {} times in {:.1} s: {} (reads of the drive per record: {})",
            passes.len(),
            self.seconds,
            self.outcome,
            passes.join(", ")
        )
    }
}

/// How far an interrupted run came.
fn broken_off(part: &str) -> String {
    match part {
        "warm-up" => "INTERRUPTED during the warm-up: nothing was measured".into(),
        part => format!("INTERRUPTED while {part}: these are the figures up to then"),
    }
}
