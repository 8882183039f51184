//! Checks of the documents: their length, their links, and that what they name exists.
//!
//! A document that names a file, a page or a metric makes a claim about the tree; these checks keep
//! it true.

use crate::finding::Finding;
use crate::map::drawings_in;
use crate::repo::{Repo, SourceFile};
use crate::source::has_word;
use crate::tables::{DOCUMENT_LINES_MAX, FORMAT_INDEX, METRIC_PREFIXES};

/// Documents that promise brevity keep the promise.
pub(crate) fn length(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &(path, max) in DOCUMENT_LINES_MAX {
        let lines = repo.file(path).map_or(0, |file| {
            let drawn =
                drawings_in(&file.text).into_iter().map(|(_, drawing)| drawing.lines().count());
            file.text.lines().count() - drawn.sum::<usize>()
        });
        if lines > max {
            findings.push(Finding::error(
                path,
                max + 1,
                format!("{lines} lines, at most {max}"),
                "cut it, or move detail to docs/",
            ));
        }
    }
    findings
}

/// Relative links of all documents lead to files that exist.
pub(crate) fn links(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.markdown() {
        for (line, target) in link_targets(file) {
            if !repo.exists(&target) {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    format!("links to {target}, which does not exist"),
                    "correct the link, or write the page",
                ));
            }
        }
    }
    findings
}

/// Every page of docs/ is linked from another document.
pub(crate) fn linked(repo: &Repo) -> Vec<Finding> {
    let is_linked = |page: &str| {
        repo.markdown()
            .filter(|file| file.path != page)
            .any(|file| link_targets(file).iter().any(|(_, target)| target == page))
    };
    repo.files()
        .iter()
        .filter(|file| file.path.starts_with("docs/") && !is_linked(&file.path))
        .map(|file| {
            Finding::error(
                &file.path,
                0,
                "no document links to this page",
                "link it from README.md",
            )
        })
        .collect()
}

/// Paths in backticks that begin with a folder of the project exist.
pub(crate) fn paths(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.markdown().filter(|file| file.path != "CHANGELOG.md") {
        for (at, text) in file.text.lines().enumerate() {
            for path in text.split('`').skip(1).step_by(2).filter(|quoted| is_project_path(quoted))
            {
                if !repo.exists(path) {
                    findings.push(Finding::error(
                        &file.path,
                        at + 1,
                        format!("names {path}, which does not exist"),
                        "name the file as it is called",
                    ));
                }
            }
        }
    }
    findings
}

/// Files that own bytes on the medium, by the table or the version in their header, are listed in
/// the index of formats.
pub(crate) fn formats(repo: &Repo) -> Vec<Finding> {
    let index = repo.file(FORMAT_INDEX).map_or("", |file| file.text.as_str());
    repo.rust()
        .filter(|file| owns_format(&file.text))
        .filter(|file| !index.contains(&format!("`{}`", file.path)))
        .map(|file| {
            Finding::error(
                &file.path,
                1,
                format!("owns a format and is not listed in {FORMAT_INDEX}"),
                "add its row: what it is, its version, where it lies",
            )
        })
        .collect()
}

fn owns_format(text: &str) -> bool {
    let mut header = text.lines().take_while(|line| line.starts_with("//!"));
    header.any(|line| {
        ["offset", "size", "field"].iter().all(|word| has_word(line, word))
            || line.contains("ormat version ")
            || line.contains("ormat, version ")
    })
}

/// Metrics in documents, alert rules and dashboards are metrics of the code.
///
/// The engine names its metrics without the prefix, so a name counts when a string of the source
/// holds it so.
pub(crate) fn metrics(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    let documents = repo.files().iter().filter(|file| {
        file.path.strip_suffix(".md").is_some()
            || (file.path.starts_with("deploy/")
                && [".yml", ".json"].iter().any(|end| file.path.ends_with(end)))
    });
    for file in documents {
        for (at, text) in file.text.lines().enumerate() {
            for name in metric_names(text) {
                if !is_metric(repo, name) {
                    findings.push(Finding::error(
                        &file.path,
                        at + 1,
                        format!("{name} is no metric of the code"),
                        "name a metric that /metrics shows",
                    ));
                }
            }
        }
    }
    findings
}

fn is_project_path(quoted: &str) -> bool {
    const FOLDERS: [&str; 12] = [
        "mpool-device/",
        "mpool-sim/",
        "mpool/",
        "kvs/",
        "units/",
        "server/",
        "ycsb/",
        "xtask/",
        "deploy/",
        "docs/",
        "fuzz/",
        ".ci/",
    ];
    FOLDERS.iter().any(|folder| quoted.starts_with(folder))
        && quoted.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    let separator = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    // `millpond_` alone is the prefix, and `millpond_kvs` a crate: a metric has a unit after a
    // subject.
    text.split(separator)
        .filter(|word| word.starts_with("millpond_") && word.matches('_').count() > 1)
        .filter(|word| !word.ends_with('_'))
}

fn is_metric(repo: &Repo, name: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let quoted: Vec<String> = METRIC_PREFIXES
        .iter()
        .filter_map(|prefix| base.strip_prefix(prefix))
        .map(|short| format!("\"{short}\""))
        .chain([format!("\"{base}\"")])
        .collect();
    repo.rust()
        .filter(|file| file.path.contains("/src/"))
        .any(|file| quoted.iter().any(|name| file.text.contains(name)))
}

/// Targets of relative links, from the root, without anchors.
fn link_targets(file: &SourceFile) -> Vec<(usize, String)> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut targets = Vec::new();
    let mut fenced = false;
    for (at, text) in file.text.lines().enumerate() {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let links = text.split("](").skip(1).filter(|_| !fenced);
        for link in links.filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            if !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:") {
                targets.push((at + 1, resolve(folder, link)));
            }
        }
    }
    targets
}

/// `link` seen from `folder`, with `..` and `.` taken away.
fn resolve(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_grows_too_long_is_found() {
        let long = "line\n".repeat(121);
        let findings = length(&Repo::of(&[("STYLE.md", &long), ("README.md", &long)]));
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("STYLE.md", 121));
    }

    #[test]
    fn a_broken_link_is_found_and_code_is_not_a_link() {
        let page = "[a](docs/http.md#put) [b](docs/gone.md) [c](https://example.org)\n\
                    ```\nx[0](y)\n```\n";
        let deep = "[up](../README.md) [beside](http.md)\n";
        let repo = Repo::of(&[("README.md", page), ("docs/tuning.md", deep), ("docs/http.md", "")]);
        let findings = links(&repo);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("docs/gone.md"));
    }

    #[test]
    fn a_page_without_a_link_to_it_is_found() {
        let repo = Repo::of(&[
            ("README.md", "[a](docs/http.md)"),
            ("docs/http.md", "[me](tuning.md)"),
            ("docs/tuning.md", ""),
            ("docs/lonely.md", "[myself](lonely.md)"),
        ]);
        let findings = linked(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "docs/lonely.md");
    }

    #[test]
    fn a_path_that_does_not_exist_is_found() {
        let page = "`kvs/src/db.rs`, `kvs/src/gone.rs`, `kvs/src/{a,b}.rs`, `cargo test`, `kvs/`\n";
        let findings = paths(&Repo::of(&[("ARCHITECTURE.md", page), ("kvs/src/db.rs", "")]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("kvs/src/gone.rs"));
    }

    #[test]
    fn a_format_that_the_index_does_not_list_is_found() {
        let owner = "//! A frame.\n//!\n//! offset  size  field\n";
        let repo = Repo::of(&[
            ("docs/format.md", "| frame | 1 | `kvs/src/frame.rs` |\n"),
            ("kvs/src/frame.rs", owner),
            ("kvs/src/page.rs", owner),
            ("kvs/src/filter.rs", "//! The filter, format version 1.\n"),
            ("kvs/src/db.rs", "//! The offset.\n//! The size of a field.\n"),
        ]);
        let paths: Vec<_> = formats(&repo).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["kvs/src/page.rs", "kvs/src/filter.rs"]);
    }

    #[test]
    fn a_metric_that_nothing_exports_is_found() {
        let rules = "expr: rate(millpond_wal_bytes_total[5m]) > millpond_made_up_total\n\
                     expr: millpond_http_request_duration_seconds_bucket\n";
        let board = "\"expr\": \"rate(millpond_wal_bytes_total[5m]) / millpond_unknown_total\"\n";
        let repo = Repo::of(&[
            ("deploy/grafana/board.json", board),
            ("deploy/prometheus/alerts.yml", rules),
            ("kvs/src/a.rs", "see(\"wal_bytes_total\")"),
            ("server/src/b.rs", "opts(\"request_duration_seconds\")"),
        ]);
        let findings = metrics(&repo);
        let found: Vec<_> = findings.iter().map(|finding| &*finding.path).collect();
        assert_eq!(found, ["deploy/grafana/board.json", "deploy/prometheus/alerts.yml"]);
        assert!(findings[0].message.contains("millpond_unknown_total"));
        assert!(findings[1].message.contains("millpond_made_up_total"));
    }
}
