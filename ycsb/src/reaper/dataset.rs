//! The data set of a comparison: loaded once, used by every run, kept where `--dir` asks for it.
//!
//! ```text
//!   DIR/reaper-data/        the database
//!   DIR/reaper-data.json    what was loaded; written when all of it was
//! ```
//!
//! A database without its description is an unfinished load. Runs update records, so a data set
//! that was used is not the one that was loaded; its size and keys are. The value cache remembers
//! what it was asked for, so the description counts uses, and each use has seeds of its own.

use crate::child::{self, Voice};
use crate::cli::ReaperArgs;
use crate::interrupt;
use crate::number::{bytes, short};
use crate::output::say;
use crate::workload::Workload;
use crate::workload::property::Properties;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DATA: &str = "reaper-data";
const DESCRIPTION: &str = "reaper-data.json";
const SCHEMA: &str = "millpond-ycsb-dataset/1";
/// Seeds that one use may need: a turn each.
const SEEDS_PER_USE: u64 = 1 << 20;
/// The properties that decide what a loaded record is.
const SHAPE: &[&str] = &[
    "fieldcount",
    "fieldlength",
    "fieldlengthdistribution",
    "fieldlengthhistogram",
    "fieldnameprefix",
    "insertcount",
    "insertorder",
    "insertstart",
    "minfieldlength",
    "recordcount",
    "table",
    "zeropadding",
];

/// A data set that is there.
#[derive(Debug)]
pub(crate) struct Dataset {
    /// The directory to open.
    pub(crate) data: PathBuf,
    pub(crate) description: Description,
    /// It was there before.
    pub(crate) reused: bool,
    /// Removed with this, unless the user named a directory.
    _scratch: Option<TempDir>,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    schema: String,
    /// Of the properties in [`SHAPE`] those that are not at their defaults; always recordcount.
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) records: u64,
    /// Key and row of a record, at most.
    pub(crate) record_bytes: u64,
    /// Keys and rows of all records as loaded.
    pub(crate) bytes: u64,
    /// Source that the loading program was built from.
    pub(crate) commit: Option<String>,
    /// Seconds that the load took, compaction included.
    pub(crate) load_seconds: f64,
    /// Comparisons that were begun on it, this one included.
    #[serde(default)]
    pub(crate) uses: u64,
}

impl Description {
    fn of(workload: &Workload, properties: &Properties) -> Self {
        let shape = properties.entries().iter().filter(|(name, _)| SHAPE.contains(&name.as_str()));
        let mut shape: BTreeMap<_, _> = shape.map(|(n, v)| (n.clone(), v.clone())).collect();
        shape.insert("recordcount".into(), workload.records.to_string());
        let record_bytes = workload.record_bytes_max();
        Self {
            schema: SCHEMA.into(),
            properties: shape,
            records: workload.records,
            record_bytes,
            bytes: workload.dataset_bytes(),
            commit: None,
            load_seconds: 0.0,
            uses: 0,
        }
    }

    /// How `self`, which is loaded, differs from what is asked for.
    fn difference(&self, asked: &Self) -> Option<String> {
        let named = |of: &Self, name: &str| of.properties.get(name).cloned();
        SHAPE.iter().find_map(|name| {
            let (there, here) = (named(self, name), named(asked, name));
            let show = |value: Option<String>| value.unwrap_or_else(|| "its default".into());
            (there != here)
                .then(|| format!("it has {name}={}, asked for is {}", show(there), show(here)))
        })
    }
}

impl Dataset {
    /// Finds it, or loads it.
    pub(crate) fn prepare(args: &ReaperArgs) -> Result<Self> {
        let properties = Properties::gather(&args.files, &args.properties)?;
        let asked = Description::of(&Workload::new(&properties)?, &properties);
        let scratch = match &args.dir {
            Some(_) => None,
            None => Some(
                tempfile::tempdir()
                    .context("cannot make a temporary directory; name one with --dir DIR")?,
            ),
        };
        let parent = match (&args.dir, &scratch) {
            (Some(dir), _) => dir.clone(),
            (None, Some(scratch)) => scratch.path().to_owned(),
            (None, None) => unreachable!("one of the two is made above"),
        };
        let data = parent.join(DATA);
        let mut description =
            if args.reuse { find(&parent, &asked)? } else { load(args, &parent, asked)? };
        description.uses += 1;
        describe(&parent.join(DESCRIPTION), &description)?;
        Ok(Self { data, description, reused: args.reuse, _scratch: scratch })
    }
}

impl Dataset {
    /// The seed of a turn, by its number. No use before had it, unless `--seed` was another one.
    pub(crate) fn seed(&self, args: &ReaperArgs, turn: u64) -> u64 {
        let uses_before = self.description.uses.saturating_sub(1);
        args.seed.wrapping_add(uses_before.wrapping_mul(SEEDS_PER_USE)).wrapping_add(turn)
    }
}

impl Dataset {
    /// One that is not there yet, to see what runs would make of it.
    pub(crate) fn planned(args: &ReaperArgs) -> Result<Self> {
        let properties = Properties::gather(&args.files, &args.properties)?;
        let description = Description::of(&Workload::new(&properties)?, &properties);
        Ok(Self { data: DATA.into(), description, reused: false, _scratch: None })
    }
}

#[cfg(test)]
impl Dataset {
    /// One that nobody loaded.
    pub(crate) fn for_tests(data: &Path) -> Self {
        let properties = Properties::default();
        let workload = Workload::new(&properties).expect("the defaults are a workload");
        let description = Description::of(&workload, &properties);
        Self { data: data.into(), description, reused: false, _scratch: None }
    }
}

fn find(parent: &Path, asked: &Description) -> Result<Description> {
    let path = parent.join(DESCRIPTION);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "--reuse: {} holds no data set that was loaded to its end; leave --reuse away to \
             load one",
            parent.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let there: Description =
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    if let Some(difference) = there.difference(asked) {
        bail!(
            "--reuse: the data set in {} is another one: {difference}; ask for what is there, or \
             load another one into another --dir",
            parent.display()
        );
    }
    say(&format!("using {} records in {}", there.records, parent.display()));
    Ok(there)
}

fn describe(path: &Path, description: &Description) -> Result<()> {
    let text = serde_json::to_string_pretty(description)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn load(args: &ReaperArgs, parent: &Path, mut asked: Description) -> Result<Description> {
    let (data, path) = (parent.join(DATA), parent.join(DESCRIPTION));
    if path.exists() {
        bail!("{} holds a data set; use it with --reuse, or remove it", parent.display());
    }
    if data.exists() {
        bail!("{} is the rest of an unfinished load; remove it", data.display());
    }
    std::fs::create_dir_all(parent)
        .with_context(|| format!("cannot make --dir {}", parent.display()))?;
    let amount = bytes(asked.bytes);
    say(&format!("loading {} records, {amount}, into {}", asked.records, parent.display()));
    let json = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let began = std::time::Instant::now();
    let report = child::run(&load_words(args, &data), json.path(), Voice::Heard)
        .context("loading the data set")?;
    interrupt::check()?;
    asked.load_seconds = began.elapsed().as_secs_f64();
    asked.commit.clone_from(&report.setting.commit);
    if !report.is_clean() {
        bail!("the load had {} errors; the data set is not complete", report.errors);
    }
    describe(&path, &asked)?;
    let speed = short(report.ops_per_s);
    say(&format!("loaded at {speed} records a second, settled after {:.0} s", asked.load_seconds));
    Ok(asked)
}

/// The command line of the load. It is not bounded in memory, and durable at its end only.
fn load_words(args: &ReaperArgs, data: &Path) -> Vec<String> {
    let threads = args.threads.iter().max().copied().unwrap_or(1).to_string();
    let mut words: Vec<String> =
        ["load", "--target", "embedded", "--settle", "--durability", "off", "--threads"]
            .map(str::to_owned)
            .into();
    words.extend([threads, "--data".into(), data.display().to_string()]);
    words.extend(["--seed".into(), args.seed.to_string()]);
    words.extend(common_words(args));
    words
}

/// What load and runs have in common.
pub(crate) fn common_words(args: &ReaperArgs) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("--io", args.io.name().into());
    args.files.iter().for_each(|file| add("-P", file.clone()));
    args.properties.iter().for_each(|pair| add("-p", pair.clone()));
    args.engine.iter().for_each(|pair| add("--engine", pair.clone()));
    if args.allow_buffered {
        words.push("--allow-buffered".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use std::collections::BTreeSet;

    fn description(pairs: &[&str]) -> Description {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        let properties = Properties::gather(&[], &pairs).unwrap();
        Description::of(&Workload::new(&properties).unwrap(), &properties)
    }

    #[test]
    fn another_shape_is_another_data_set() {
        let there = description(&["recordcount=2000"]);
        for (pairs, say) in [
            (&["recordcount=3000"][..], "recordcount=2000, asked for is 3000"),
            (&["recordcount=2000", "fieldcount=3"], "fieldcount=its default, asked for is 3"),
            (&[], "recordcount=2000, asked for is 1000"),
        ] {
            let difference = there.difference(&description(pairs)).unwrap();
            assert!(difference.contains(say), "{difference}");
        }
        let same = description(&["recordcount=2000", "requestdistribution=uniform"]);
        assert_eq!(there.difference(&same), None);
    }

    #[test]
    fn each_use_has_seeds_of_its_own() {
        let mut dataset = Dataset::for_tests(Path::new("/d"));
        let cli = Cli::parse_from(["ycsb", "reaper", "--seed", "7"]);
        let Command::Reaper(args) = cli.command else { panic!("reaper") };
        let mut seen = BTreeSet::new();
        for uses in 1..4 {
            dataset.description.uses = uses;
            assert!((1..100).all(|turn| seen.insert(dataset.seed(&args, turn))));
        }
        assert_eq!(seen.first(), Some(&8), "the load has the seed itself");
    }

    #[test]
    fn sizes_are_those_of_keys_and_rows() {
        let there = description(&["recordcount=2000"]);
        // user and 19 digits; ten fields with two lengths, a name and 100 bytes each.
        assert_eq!(there.record_bytes, 23 + 10 * (4 + 6 + 4 + 100));
        assert_eq!(there.bytes, 2000 * there.record_bytes);
    }
}
