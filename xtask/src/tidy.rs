//! The list of checks, and the report.

use crate::checks::{docs, files, layers, modules, unsafety, words};
use crate::finding::{Finding, Severity};
use crate::map;
use crate::repo::Repo;
use std::io::{self, Write};

/// A check looks at the tree and says what is wrong with it.
type Check = fn(&Repo) -> Vec<Finding>;

const CHECKS: &[(&str, Check)] = &[
    ("line width", files::width),
    ("file size", files::size),
    ("ASCII only", files::ascii),
    ("file header", files::header),
    ("document length", docs::length),
    ("document links", docs::links),
    ("documents linked", docs::linked),
    ("paths in documents", docs::paths),
    ("formats in the index", docs::formats),
    ("metrics in documents and alerts", docs::metrics),
    ("dependencies by layer", layers::dependencies),
    ("names by layer", layers::names),
    ("pure files", layers::pure),
    ("place of unsafe", unsafety::place),
    ("crates without unsafe", unsafety::forbidden),
    ("module tree", modules::reached),
    ("circles of modules", map::circles),
    ("drawings of modules", map::drawn),
    ("words", words::forbidden),
    ("clock", words::clock),
    ("names of loom tests", words::loom),
];

/// Runs all checks; errors first, then by place.
pub(crate) fn run(repo: &Repo) -> Vec<Finding> {
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|(_, check)| check(repo)).collect();
    findings.sort();
    findings
}

/// Prints the findings and a closing line; true when there is no error.
pub(crate) fn report(repo: &Repo, findings: &[Finding], out: &mut impl Write) -> io::Result<bool> {
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let (files, checks, warnings) = (repo.files().len(), CHECKS.len(), findings.len() - errors);
    writeln!(out, "tidy: {files} files, {checks} checks, {errors} errors, {warnings} warnings")?;
    Ok(errors == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fails_the_run_and_a_warning_does_not() {
        let repo = Repo::of(&[]);
        let error = Finding::error("a.rs", 1, "wrong", "right it");
        let warning = Finding::warning("b.rs", 0, "odd", "even it");
        let mut out = Vec::new();
        assert!(report(&repo, std::slice::from_ref(&warning), &mut out).unwrap());
        assert!(!report(&repo, &[error, warning], &mut out).unwrap());
        let printed = String::from_utf8(out).unwrap();
        assert!(printed.contains("error: a.rs:1: wrong"), "{printed}");
        assert!(printed.ends_with("1 errors, 1 warnings\n"), "{printed}");
    }
}
