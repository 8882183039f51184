//! Checks of each file by itself: width, size, ASCII, header.

use crate::finding::Finding;
use crate::repo::Repo;
use crate::tables::{FILE_LINES_MAX, FILE_LINES_SOFT, LITERAL_WIDTH_MAX, LONG_FILES, WIDTH_MAX};

/// No line of Rust is wider than [`WIDTH_MAX`]. Links do not count, and neither do literals up to
/// [`LITERAL_WIDTH_MAX`]: a message that can be searched for is better whole.
pub(crate) fn width(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust() {
        let comments = file.split.comments.lines();
        for (((line, code), comment), text) in
            file.code_lines().zip(comments).zip(file.text.lines())
        {
            let columns = text.chars().count();
            let max = if without_literals(text, code, comment) > WIDTH_MAX {
                WIDTH_MAX
            } else {
                LITERAL_WIDTH_MAX
            };
            if columns > max && !text.contains("://") {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    format!("line of {columns} columns, at most {max}"),
                    "break the comment or the string; rustfmt leaves both alone",
                ));
            }
        }
    }
    findings
}

/// Columns of a line that are not the contents of a literal: those are blank in both of its faces.
fn without_literals(text: &str, code: &str, comment: &str) -> usize {
    let faces = text.bytes().zip(code.bytes()).zip(comment.bytes());
    faces
        .filter(|((text, code), comment)| *text == b' ' || *code != b' ' || *comment != b' ')
        .count()
}

/// Files stay under [`FILE_LINES_SOFT`] lines or have a reason, and under [`FILE_LINES_MAX`]
/// always.
pub(crate) fn size(repo: &Repo) -> Vec<Finding> {
    sizes(repo, LONG_FILES)
}

fn sizes(repo: &Repo, long_files: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let excused = |path: &str| long_files.iter().any(|(long, _)| *long == path);
    for file in repo.rust() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.push(Finding::error(
                &file.path,
                0,
                format!("{lines} lines, at most {FILE_LINES_MAX}"),
                "split it by idea: one noun a file, its tests with it",
            ));
        } else if lines > FILE_LINES_SOFT && !excused(&file.path) {
            findings.push(Finding::warning(
                &file.path,
                0,
                format!("{lines} lines, over {FILE_LINES_SOFT} needs a reason"),
                "split it, or give the reason in LONG_FILES of xtask/src/tables.rs",
            ));
        }
    }
    for (path, _) in long_files {
        let short = repo.file(path).is_none_or(|file| file.text.lines().count() <= FILE_LINES_SOFT);
        if short {
            findings.push(Finding::error(
                path,
                0,
                format!("is listed as long and has no more than {FILE_LINES_SOFT} lines"),
                "take it off LONG_FILES in xtask/src/tables.rs",
            ));
        }
    }
    findings
}

/// Rust source is plain ASCII.
pub(crate) fn ascii(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust() {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(odd) = line.chars().find(|c| !c.is_ascii()) {
                findings.push(Finding::error(
                    &file.path,
                    at + 1,
                    format!("U+{:04X} is not ASCII", u32::from(odd)),
                    "write it in ASCII, or as \\u{..} in a string",
                ));
            }
        }
    }
    findings
}

/// Every Rust file opens with `//!`: what it is, how it works, what it does not do.
pub(crate) fn header(repo: &Repo) -> Vec<Finding> {
    repo.rust()
        .filter(|file| !file.text.trim_start().starts_with("//! "))
        .map(|file| {
            Finding::error(
                &file.path,
                1,
                "no //! header",
                "open the file with what it is in one sentence, how it works, what it does not do",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    #[test]
    fn a_wide_line_is_found_and_a_wide_link_is_not() {
        let wide = "x".repeat(WIDTH_MAX + 1);
        let link = format!("//! see https://example.org/{wide}");
        let repo =
            Repo::of(&[("a.rs", &format!("ok\n{wide}\n")), ("b.rs", &link), ("c.md", &wide)]);
        let findings = width(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("a.rs", 2));
    }

    #[test]
    fn a_line_may_be_wide_by_its_message() {
        let message = format!("#[error(\"{}\")]\n", "x".repeat(WIDTH_MAX));
        let wider = format!("#[error(\"{}\")]\n", "x".repeat(LITERAL_WIDTH_MAX));
        let comment = format!("f(\"a\"); // {}\n", "x".repeat(WIDTH_MAX));
        let repo = Repo::of(&[("a.rs", &message), ("b.rs", &wider), ("c.rs", &comment)]);
        let paths: Vec<_> = width(&repo).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["b.rs", "c.rs"]);
    }

    #[test]
    fn long_files_warn_and_longer_ones_fail() {
        let long = "\n".repeat(FILE_LINES_SOFT + 1);
        let longer = "\n".repeat(FILE_LINES_MAX + 1);
        let repo = Repo::of(&[("a.rs", &long), ("b.rs", &longer), ("c.rs", &long), ("d.rs", "\n")]);
        let findings = sizes(&repo, &[("c.rs", "a table"), ("d.rs", "was long")]);
        let seen: Vec<_> =
            findings.iter().map(|finding| (finding.path.as_str(), finding.severity)).collect();
        let expected =
            [("a.rs", Severity::Warning), ("b.rs", Severity::Error), ("d.rs", Severity::Error)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_character_outside_ascii_is_found() {
        let findings = ascii(&Repo::of(&[("a.rs", "//! ok\n// an em dash \u{2014}\n")]));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
        assert!(findings[0].message.contains("U+2014"));
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let repo = Repo::of(&[("a.rs", "//! What it is.\n"), ("b.rs", "use std::io;\n")]);
        let findings = header(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "b.rs");
    }
}
