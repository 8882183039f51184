//! The alert rules against what a fresh server exports: an expression over a series that appears
//! only with its first event sees no increase, and one over a series that never appears is silent
//! for ever.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use kvs::ProblemReason;
use std::collections::{BTreeMap, BTreeSet};
use support::Server;
use tempfile::TempDir;

/// One series: its name and its labels.
#[derive(Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
}

/// Every line of the text format: `name{label="value",..} number`. Fails on what is none.
fn parse(scrape: &str) -> Vec<Series> {
    let mut all = Vec::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(number.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        let labels = matchers(labels).map(|(label, _, value)| (label, value)).collect();
        all.push(Series { name: name.to_owned(), labels });
    }
    all
}

/// `label="value"` or `label=~"one|other"`, separated by commas: (label, operator, value).
fn matchers(text: &str) -> impl Iterator<Item = (String, String, String)> {
    let inner = text.strip_suffix('"').unwrap_or(text);
    inner.split("\",").filter(|text| !text.is_empty()).map(|text| {
        let (label, value) = text.split_once('"').unwrap();
        let at = label.find(['=', '!']).unwrap();
        (label[..at].trim().to_owned(), label[at..].to_owned(), value.to_owned())
    })
}

/// The selectors of a rule file: `millpond_...{...}`.
fn selectors(rules: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in rules.match_indices("millpond_") {
        let rest = &rules[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let labels = rest[end..]
            .strip_prefix('{')
            .map_or("", |labels| labels.split_once('}').expect("a selector is closed").0);
        found.push((rest[..end].to_owned(), labels.to_owned()));
    }
    found
}

fn is_selected(series: &Series, name: &str, label: &str, operator: &str, value: &str) -> bool {
    let has = series.labels.get(label).map(String::as_str);
    series.name == name
        && match operator {
            "=" | "=~" => has == Some(value),
            "!=" | "!~" => has.is_some_and(|has| has != value),
            other => panic!("the operator {other}"),
        }
}

/// The expressions of a dashboard, one a line.
fn expressions(dashboard: &str) -> String {
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let lines = targets.map(|target| target["expr"].as_str().unwrap().to_owned() + "\n");
    // What the dashboard puts in place of its variable is of the scraper.
    lines.collect::<String>().replace("{instance=~\"$instance\"}", "")
}

#[test]
fn every_series_of_alerts_and_dashboard_is_there_before_the_first_request() {
    let rules =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/alerts.yml"));
    let dashboard =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/millpond.json"));
    let rules = &(rules.to_owned() + &expressions(dashboard));
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let scrape = server.connect().send("GET", "/metrics", b"").unwrap();
    let all = parse(scrape.text());
    let selectors = selectors(rules);
    assert!(selectors.len() > 10, "{selectors:?}");
    for (name, labels) in selectors {
        assert!(all.iter().any(|series| series.name == name), "no series is named {name}");
        for (label, operator, values) in matchers(&labels) {
            for value in values.split('|') {
                assert!(
                    all.iter().any(|series| is_selected(series, &name, &label, &operator, value)),
                    "no series is {name}{{{label}{operator}{value:?}}}"
                );
            }
        }
    }
}

/// The words in the first column of the tables under a heading.
fn words<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').expect("a word is closed").0).collect()
}

/// Actions and reasons were told everywhere, and explained nowhere.
#[test]
fn every_action_and_reason_stands_in_the_page_for_operators() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compaction.md"));
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let scrape = server.connect().send("GET", "/metrics", b"").unwrap();
    let all = parse(scrape.text());
    // The labels of a metric, and what else there is.
    let told = |name: &str, label: &str, others: &[&'static str]| -> BTreeSet<String> {
        let series = all.iter().filter(|series| series.name == name);
        let labels = series.map(|series| series.labels[label].clone());
        labels.chain(others.iter().map(|other| (*other).to_owned())).collect()
    };
    let (jobs, stalls) = ("millpond_compactions_total", "millpond_write_stall_seconds_total");
    let problems: [ProblemReason; 4] = [
        ProblemReason::NoRoom,
        ProblemReason::Unreadable,
        ProblemReason::KvsDropped,
        ProblemReason::Failed,
    ];
    let states = ["done", "incomplete", "cancelled", "failed"];
    let ends: Vec<_> = problems.into_iter().map(ProblemReason::as_str).chain(states).collect();
    for (heading, told) in [
        ("Actions", told(jobs, "action", &["flush", "refresh"])),
        ("Reasons", told(jobs, "reason", &["memtable", "moved"])),
        ("When writers wait", told(stalls, "reason", &["commit queue"])),
        ("To ask for a compaction", told("none", "none", &ends)),
    ] {
        let told: BTreeSet<_> = told.iter().map(String::as_str).collect();
        assert!(told.len() > 4, "{heading}: {told:?}");
        assert_eq!(words(page, heading), told, "{heading}");
    }
}

#[test]
fn a_scrape_has_base_units_and_histograms() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    assert_eq!(client.send("PUT", "/v1/kv/default/a", b"value").unwrap().status, 200);
    let scrape = client.send("GET", "/metrics", b"").unwrap();
    let text = scrape.text();
    for series in parse(text) {
        for unit in ["_us", "_ms", "_micros", "_millis", "_kib", "_mib"] {
            let name = series.name.trim_end_matches("_total");
            assert!(!name.ends_with(unit), "{} is in no base unit", series.name);
        }
    }
    for name in [
        "wal_sync_duration_seconds",
        "flush_duration_seconds",
        "flush_size_bytes",
        "compaction_duration_seconds",
        "compaction_size_bytes",
        "mpool_read_duration_seconds",
        "mpool_write_duration_seconds",
        "mpool_mcache_fill_duration_seconds",
        "mpool_commit_duration_seconds",
        "mpool_pace_wait_duration_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE millpond_{name} histogram\n")), "{name}");
        assert!(text.contains(&format!("\nmillpond_{name}_count")), "{name}");
    }
    let synced = text.lines().find_map(|line| {
        line.strip_prefix("millpond_wal_sync_duration_seconds_count ")?.parse::<u64>().ok()
    });
    assert!(synced.unwrap() >= 1, "the acknowledged write was made durable");
}
