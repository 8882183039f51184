//! Properties: the `name=value` pairs that describe a workload, as every YCSB has them.
//!
//! They come from the ready-made workloads, from files (`-P`) and from the command line (`-p`),
//! the later replacing the earlier. A name nobody knows is an error that lists its neighbours: a
//! misspelt property silently left at its default has cost many a benchmark its meaning. The
//! original passes over such names. Those that only the original uses are in
//! [`unsupported`](mod@unsupported).

use crate::workload::unsupported::{self, Verdict};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

/// Every name that means something here, sorted.
const KNOWN: &[&str] = &[
    "core_workload_insertion_retry_interval",
    "core_workload_insertion_retry_limit",
    "course",
    "dataintegrity",
    "deleteorder",
    "deleteproportion",
    "deletethen",
    "exponential.frac",
    "exponential.percentile",
    "fieldcount",
    "fieldlength",
    "fieldlengthdistribution",
    "fieldlengthhistogram",
    "fieldnameprefix",
    "hdrhistogram.percentiles",
    "headscanms",
    "headscans",
    "hotspotdatafraction",
    "hotspotopnfraction",
    "insertcount",
    "insertorder",
    "insertproportion",
    "insertstart",
    "loaded",
    "maxexecutiontime",
    "maxscanlength",
    "measurementtype",
    "minfieldlength",
    "minscanlength",
    "operationcount",
    "overwrites",
    "passes",
    "quietseconds",
    "readallfields",
    "readallfieldsbyname",
    "readmodifywriteproportion",
    "readproportion",
    "recordcount",
    "requestdistribution",
    "scanlengthdistribution",
    "scanproportion",
    "silenceseconds",
    "table",
    "tables",
    "target",
    "threadcount",
    "updateproportion",
    "workload",
    "writeallfields",
    "writerseconds",
    "zeropadding",
];

/// The ready-made workloads.
const READY: &[(&str, &str)] = &[
    ("overwrite", include_str!("../../workloads/overwrite")),
    ("queue", include_str!("../../workloads/queue")),
    ("window", include_str!("../../workloads/window")),
    ("delete-most", include_str!("../../workloads/delete-most")),
    ("scans", include_str!("../../workloads/scans")),
    ("many-kvs", include_str!("../../workloads/many-kvs")),
    ("workloada", include_str!("../../workloads/workloada")),
    ("workloadb", include_str!("../../workloads/workloadb")),
    ("workloadc", include_str!("../../workloads/workloadc")),
    ("workloadd", include_str!("../../workloads/workloadd")),
    ("workloade", include_str!("../../workloads/workloade")),
    ("workloadf", include_str!("../../workloads/workloadf")),
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    values: BTreeMap<String, String>,
    /// What was passed over, and why.
    notes: Vec<String>,
}

impl Properties {
    /// From `-P` in order, then from `-p` in order.
    pub(crate) fn gather(files: &[String], pairs: &[String]) -> Result<Self> {
        let mut properties = Self::default();
        for file in files {
            properties.read(file)?;
        }
        for pair in pairs {
            let Some((name, value)) = pair.split_once('=') else {
                bail!("-p {pair}: a property is given as name=value");
            };
            properties.set(name.trim(), value.trim())?;
        }
        Ok(properties)
    }

    /// A file, or the name of a ready-made workload (`workloadb`, or just `b`) where there is no
    /// such file.
    pub(crate) fn read(&mut self, file: &str) -> Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => match ready_made(file) {
                Some(text) => text.to_owned(),
                None => {
                    return Err(error).with_context(|| {
                        format!(
                            "cannot read the workload {file:?}, and it is not one of the \
                             ready-made ones: {}",
                            READY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                        )
                    });
                }
            },
        };
        self.parse(&text).with_context(|| format!("in {file}"))
    }

    /// Lines of `name=value`; `#` and `!` begin a comment, blank lines mean nothing.
    pub(crate) fn parse(&mut self, text: &str) -> Result<()> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let Some((name, value)) = line.split_once(['=', ':']) else {
                bail!("line {number}: {line:?} is not name=value");
            };
            self.set(name.trim(), value.trim()).with_context(|| format!("line {number}"))?;
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match unsupported::verdict(name, value) {
            Some(Verdict::Passed(why)) => {
                self.notes.push(format!("{name}={value} changes nothing: {why}"));
                return Ok(());
            }
            Some(Verdict::Refused(why)) => bail!("{name}={value} is not offered: {why}"),
            None => {}
        }
        if !KNOWN.contains(&name) {
            bail!("no property is named {name:?}; {}", advice(name));
        }
        self.values.insert(name.into(), value.into());
        Ok(())
    }

    pub(crate) fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.given(name).unwrap_or(default)
    }

    /// A whole number in `range`, if it is set.
    pub(crate) fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match text.parse().ok().filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => bail!(
                "{name}={text}: must be a whole number from {} to {}",
                range.start(),
                range.end()
            ),
        }
    }

    /// A number in `range`, if it is set.
    pub(crate) fn real(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(text) = self.given(name) else { return Ok(None) };
        // NaN is in no range.
        match text.parse().ok().filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                bail!("{name}={text}: must be a number from {} to {}", range.start(), range.end())
            }
        }
    }

    /// What was set.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        debug_assert!(KNOWN.contains(&name), "{name} is read but not known");
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.text(name, if default { "true" } else { "false" }) {
            "true" => Ok(true),
            "false" => Ok(false),
            other => bail!("{name}={other}: must be true or false"),
        }
    }

    /// A share between 0 and 1.
    pub(crate) fn share(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.real(name, 0.0..=1.0)?.unwrap_or(default))
    }

    /// What was passed over, and why.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All that was set, by name.
    pub(crate) fn entries(&self) -> &BTreeMap<String, String> {
        &self.values
    }
}

fn ready_made(name: &str) -> Option<&'static str> {
    let last = Path::new(name).file_name()?.to_str()?;
    READY
        .iter()
        .find(|(known, _)| *known == last || known.strip_prefix("workload") == Some(last))
        .map(|(_, text)| *text)
}

/// The known names that a misspelt one may have meant.
fn advice(name: &str) -> String {
    let wrong = name.to_ascii_lowercase();
    let mut near: Vec<(usize, &str)> =
        KNOWN.iter().map(|known| (distance(&wrong, known), *known)).collect();
    near.sort_unstable();
    let close = near.iter().filter(|(d, known)| *d <= 3 || known.contains(&wrong)).take(4);
    let close: Vec<&str> = close.map(|(_, known)| *known).collect();
    if close.is_empty() {
        format!("known are {}", KNOWN.join(", "))
    } else {
        format!("did you mean {}?", close.join(" or "))
    }
}

/// Levenshtein's distance: the least number of letters to insert, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Properties> {
        let mut properties = Properties::default();
        properties.parse(text)?;
        Ok(properties)
    }

    #[test]
    fn files_are_read_as_java_properties() {
        let p =
            parsed("# a comment\n! another\n\n recordcount = 10 \nreadproportion:0.5\n").unwrap();
        assert_eq!(p.whole("recordcount", 1..=10).unwrap(), Some(10));
        assert!((p.share("readproportion", 1.0).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(p.whole("operationcount", 1..=10).unwrap(), None);
    }

    #[test]
    fn later_replaces_earlier() {
        let p = Properties::gather(
            &["workloadb".into(), "c".into()],
            &["recordcount=5".into(), "recordcount=6".into()],
        )
        .unwrap();
        assert_eq!(p.text("recordcount", ""), "6");
        assert_eq!(p.text("readproportion", ""), "1.0");
    }

    #[test]
    fn errors_name_the_line_and_the_way_out() {
        for (text, say) in [
            (
                "recordcount=1\nrecordcnt=2",
                "line 2: no property is named \"recordcnt\"; did you mean recordcount?",
            ),
            ("readPropotion=1", "did you mean readproportion?"),
            ("wibble.wobble=1", "known are core_workload"),
            ("recordcount", "line 1: \"recordcount\" is not name=value"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(say), "{text:?}: {error}");
        }
        let p =
            parsed("recordcount=ten\nreadproportion=1.5\ntarget=NaN\ndataintegrity=yes").unwrap();
        for (error, say) in [
            (p.whole("recordcount", 1..=9).unwrap_err(), "recordcount=ten: must be a whole number"),
            (p.share("readproportion", 0.0).unwrap_err(), "must be a number from 0 to 1"),
            (p.real("target", 0.0..=9.0).unwrap_err(), "target=NaN: must be a number from 0 to 9"),
            (p.flag("dataintegrity", false).unwrap_err(), "true or false"),
        ] {
            assert!(error.to_string().contains(say), "{error}");
        }
    }

    /// The template that the original ships, with all that is set or commented out in it.
    #[test]
    fn every_property_of_the_originals_template_is_taken_or_refused_by_name() {
        let template = include_str!("../../tests/golden/template_properties.txt");
        for line in template.lines().filter(|line| !line.is_empty()) {
            let (set, line) = match line.strip_prefix('#') {
                Some(line) => (false, line),
                None => (true, line),
            };
            match parsed(line) {
                Ok(_) => {}
                Err(error) if set => panic!("{line}: {error:#}"),
                Err(error) => {
                    let error = format!("{error:#}");
                    assert!(error.contains("is not offered: "), "{line}: {error}");
                }
            }
        }
        let p = parsed("histogram.buckets=1000\nrecordcount=5").unwrap();
        assert_eq!(p.entries().len(), 1);
        assert!(p.notes()[0].contains("histogram.buckets=1000 changes nothing"), "{:?}", p.notes());
    }

    #[test]
    fn an_unknown_file_says_what_is_ready_made() {
        let error = Properties::gather(&["workloadx".into()], &[]).unwrap_err().to_string();
        assert!(error.contains("ready-made ones: overwrite, queue"), "{error}");
    }

    #[test]
    fn every_ready_made_workload_parses() {
        for (name, text) in READY {
            parsed(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }

    #[test]
    fn known_names_are_sorted_and_unique() {
        assert!(KNOWN.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn distances() {
        for (a, b, expect) in
            [("", "", 0), ("a", "", 1), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }
}
