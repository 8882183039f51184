//! What the benchmarks of the pool share: arguments, a memory cgroup, latencies, medians.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "load on schedule waits for the clock")]

use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a benchmark returns: every error ends it, and is shown.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// `--name value` pairs.
pub(crate) struct Args(BTreeMap<String, String>);

impl Args {
    /// From the command line; `known` are the names and their defaults.
    pub(crate) fn parse(known: &[(&str, &str)]) -> Outcome<Self> {
        let mut values: BTreeMap<String, String> =
            known.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").filter(|name| values.contains_key(*name));
            let Some(name) = name else {
                let names: Vec<String> =
                    known.iter().map(|(name, value)| format!("--{name} {value}")).collect();
                return Err(format!("{word} is unknown; known: {}", names.join(" ")).into());
            };
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self(values))
    }

    /// From pairs.
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(pairs.iter().map(owned).collect())
    }

    /// The text of an argument.
    pub(crate) fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// A number, with KiB, MiB or GiB behind it perhaps.
    pub(crate) fn size(&self, name: &str) -> Outcome<u64> {
        let text = self.text(name);
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
        let parsed = units.iter().find_map(|(unit, shift)| {
            text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(1 << shift)
        });
        parsed.ok_or_else(|| format!("--{name} {text} is no number or size like 64KiB").into())
    }

    /// The words of a comma-separated list.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.text(name).split(',').filter(|word| !word.is_empty()).collect()
    }
}

/// A memory cgroup that this process is in until it is dropped.
pub(crate) struct MemoryGroup {
    dir: PathBuf,
    root: PathBuf,
}

impl MemoryGroup {
    /// Enters a new group with the limit, below the root of the memory controller (v1 or v2).
    pub(crate) fn enter(limit_bytes: u64) -> Outcome<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if v1.join("memory.limit_in_bytes").exists() {
            (v1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let dir = root.join(format!("millpond-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| {
            format!("{}: {error}; run as root, or with --memory 0", dir.display())
        })?;
        let group = Self { dir, root: root.to_owned() };
        fs::write(group.dir.join(limit), limit_bytes.to_string())?;
        fs::write(group.dir.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(group)
    }

    /// Times that an allocation met the limit.
    pub(crate) fn limit_hits(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).ok();
        let text = read("memory.failcnt").or_else(|| read("memory.events")).unwrap_or_default();
        let max = text.lines().find_map(|line| line.strip_prefix("max "));
        max.unwrap_or(text.trim()).trim().parse().unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group that cannot be left stays, empty after our end.
        let _ = fs::write(self.root.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.dir);
    }
}

/// YCSB's scrambled zipfian requests, seeded.
pub(crate) struct Zipfian {
    state: u64,
    records: u64,
}

impl Zipfian {
    const ITEMS: f64 = 1e10;
    const ZETA: f64 = 26.469_028_201_783_02;
    const THETA: f64 = 0.99;

    pub(crate) fn new(seed: u64, records: u64) -> Self {
        Self { state: seed, records }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The number of a record.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is a positive number under 10^10"
    )]
    pub(crate) fn draw(&mut self) -> u64 {
        let uniform = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let zeta2 = 1.0 + 0.5_f64.powf(Self::THETA);
        let eta = (1.0 - (2.0 / Self::ITEMS).powf(1.0 - Self::THETA)) / (1.0 - zeta2 / Self::ZETA);
        let uz = uniform * Self::ZETA;
        let rank = if uz < 1.0 {
            0
        } else if uz < zeta2 {
            1
        } else {
            let power = (eta * uniform - eta + 1.0).powf(1.0 / (1.0 - Self::THETA));
            (Self::ITEMS * power) as u64
        };
        let hash = rank.to_le_bytes().iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        });
        hash % self.records
    }
}

/// Waits for a moment, which may have passed.
pub(crate) fn wait_until(due: Instant) {
    let now = Instant::now();
    if due > now {
        std::thread::sleep(due - now);
    }
}

/// Keeps a loop at a rate without bursts: what was missed by more than a little is forgotten.
pub(crate) struct Schedule {
    bytes_per_second: u64,
    due: Instant,
}

impl Schedule {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, due: Instant::now() }
    }

    /// Waits until `bytes` more may be moved.
    pub(crate) fn wait(&mut self, bytes: u64) {
        let now = Instant::now();
        wait_until(self.due);
        let slack = Duration::from_millis(2);
        self.due = self.due.max(now.checked_sub(slack).unwrap_or(now))
            + Duration::from_nanos(bytes * 1_000_000_000 / self.bytes_per_second.max(1));
    }
}

/// Latencies in nanoseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("sensible bounds")
}

/// One measurement: named numbers.
pub(crate) type Numbers = Vec<(&'static str, f64)>;

/// Median and extent of one number over the rounds.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// All measurements of all configurations, in the order they were first made.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(String, Vec<Numbers>)>,
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, numbers: Numbers) {
        match self.rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, rounds)) => rounds.push(numbers),
            None => self.rows.push((name.to_owned(), vec![numbers])),
        }
    }

    fn spread(rounds: &[Numbers], column: usize) -> Spread {
        let mut values: Vec<f64> = rounds.iter().map(|numbers| numbers[column].1).collect();
        values.sort_by(f64::total_cmp);
        Spread { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }

    /// A table of medians, with the extent in brackets.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let Some((_, first)) = self.rows.first() else { return text };
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let _ = write!(text, "{:width$}", "");
        for (name, _) in &first[0] {
            let _ = write!(text, " | {name:>24}");
        }
        text.push('\n');
        for (name, rounds) in &self.rows {
            let _ = write!(text, "{name:width$}");
            for column in 0..first[0].len() {
                let Spread { median, min, max } = Self::spread(rounds, column);
                let cell = format!("{} ({}-{})", short(median), short(min), short(max));
                let _ = write!(text, " | {cell:>24}");
            }
            text.push('\n');
        }
        text
    }

    /// `{"name": {"number": {"median", "min", "max", "rounds"}}}`.
    pub(crate) fn json(&self) -> String {
        let mut rows = Vec::new();
        for (name, rounds) in &self.rows {
            let columns = rounds[0].iter().enumerate().map(|(column, (number, _))| {
                let Spread { median, min, max } = Self::spread(rounds, column);
                let n = rounds.len();
                format!(
                    "\"{number}\": {{\"median\": {median}, \"min\": {min}, \"max\": {max}, \"rounds\": {n}}}"
                )
            });
            rows.push(format!("  \"{name}\": {{{}}}", columns.collect::<Vec<_>>().join(", ")));
        }
        format!("{{\n{}\n}}\n", rows.join(",\n"))
    }

    /// Prints the table; writes the JSON if a file is named.
    #[expect(clippy::print_stdout, reason = "a program that prints a table")]
    pub(crate) fn finish(&self, json: &str) -> Outcome<()> {
        println!("\nmedians over the rounds (min-max)\n{}", self.table());
        if !json.is_empty() {
            fs::write(json, self.json())?;
        }
        Ok(())
    }
}

/// A number with as many digits as mean something.
pub(crate) fn short(number: f64) -> String {
    let digits = match number {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        _ => 3,
    };
    format!("{number:.digits$}")
}

/// Microseconds at a quantile.
#[expect(clippy::cast_precision_loss, reason = "a latency")]
pub(crate) fn us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}
