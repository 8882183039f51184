//! Checks for words that may not stand in the source: unfinished work, parked tests, hidden clocks.

use crate::finding::Finding;
use crate::repo::Repo;
use crate::source::has_word;
use crate::tables::{CLOCK_FILES, FORBIDDEN_CODE, FORBIDDEN_COMMENT_WORDS, LOOM_MODULES};

/// No unfinished code, no parked tests, no notes to oneself.
pub(crate) fn forbidden(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust() {
        for (line, code) in file.code_lines() {
            for (text, help) in FORBIDDEN_CODE {
                if code.contains(text) {
                    findings.push(Finding::error(
                        &file.path,
                        line,
                        format!("{text} in code"),
                        *help,
                    ));
                }
            }
        }
        for (at, comment) in file.split.comments.lines().enumerate() {
            for word in FORBIDDEN_COMMENT_WORDS {
                if has_word(comment, word) {
                    findings.push(Finding::error(
                        &file.path,
                        at + 1,
                        format!("{word} in a comment"),
                        "do it, open an issue, or say what holds today",
                    ));
                }
            }
        }
    }
    findings
}

/// Tests by loom lie in modules of the names in [`LOOM_MODULES`], by which `.ci/run` finds them.
pub(crate) fn loom(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust() {
        let named = LOOM_MODULES.iter().any(|name| {
            file.path.ends_with(&format!("/{name}.rs"))
                || file.code_lines().any(|(_, code)| code.trim() == format!("mod {name} {{"))
        });
        for (line, code) in file.code_lines() {
            if code.contains("loom::model") && !named {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    "a loom test outside the modules that loom tests are found by",
                    format!("move it to a module named {}", LOOM_MODULES.join(" or ")),
                ));
            }
        }
    }
    findings
}

/// The engine reads the clock in the files listed for it; all else takes time as an argument.
pub(crate) fn clock(repo: &Repo) -> Vec<Finding> {
    clocks(repo, CLOCK_FILES)
}

fn clocks(repo: &Repo, clock_files: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let engine = |path: &str| {
        let source = ["mpool-device/src/", "mpool-sim/src/", "mpool/src/", "kvs/src/"]
            .iter()
            .any(|folder| path.starts_with(folder));
        source && !path.ends_with("tests.rs") && !path.contains("/tests/")
    };
    for file in repo.rust().filter(|file| engine(&file.path)) {
        if clock_files.iter().any(|(path, _)| *path == file.path) {
            continue;
        }
        for (line, code) in file.shipped_lines() {
            if code.contains("Instant::now") || code.contains("SystemTime::now") {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    "reads the clock",
                    "take the time as an argument, or give the reason in CLOCK_FILES of \
                     xtask/src/tables.rs",
                ));
            }
        }
    }
    for (path, _) in clock_files {
        if repo.file(path).is_none() {
            findings.push(Finding::error(
                path,
                0,
                "is listed as a clock file and does not exist",
                "take it off CLOCK_FILES in xtask/src/tables.rs",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_code_is_found_in_code_only() {
        let planted = "//! A.\nfn f() { todo!() }\nfn g() { unimplemented!() }\n";
        let strings = "//! B.\nconst A: &str = \"todo!\"; // speaks of todo! only\n";
        let findings = forbidden(&Repo::of(&[("a.rs", planted), ("b.rs", strings)]));
        let places: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(places, [("a.rs", 2), ("a.rs", 3)]);
    }

    #[test]
    fn a_parked_test_needs_its_reason() {
        let planted = "#[ignore]\nfn a() {}\n#[ignore = \"needs a zoned drive\"]\nfn b() {}\n";
        let findings = forbidden(&Repo::of(&[("a.rs", planted)]));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 1);
    }

    #[test]
    fn notes_to_oneself_are_found_in_comments_only() {
        let planted = "// FIXME later\nlet s = \"FIXME\";\nlet TODO = 1; // fine\n/* XXX */\n";
        let findings = forbidden(&Repo::of(&[("a.rs", planted)]));
        let lines: Vec<_> = findings.iter().map(|f| f.line).collect();
        assert_eq!(lines, [1, 4]);
    }

    #[test]
    fn a_loom_test_that_ci_would_not_find_is_found() {
        let model = "loom::model(|| {});\n";
        let inline = format!("mod interleavings {{\n{model}}}\n");
        let repo = Repo::of(&[("a/src/list.rs", model), ("a/src/map.rs", &inline)]);
        let findings = loom(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("a/src/list.rs", 1));
        assert_eq!(loom(&Repo::of(&[("a/src/list/interleavings.rs", model)])), []);
    }

    #[test]
    fn the_engine_reads_the_clock_in_listed_files_only() {
        let reads =
            "fn f() { Instant::now(); }\n#[cfg(test)]\nmod tests {\n    Instant::now();\n}\n";
        let repo = Repo::of(&[
            ("kvs/src/a.rs", reads),
            ("kvs/src/clock.rs", reads),
            ("ycsb/src/b.rs", reads),
        ]);
        let findings =
            clocks(&repo, &[("kvs/src/clock.rs", "the clock"), ("kvs/src/gone.rs", "-")]);
        let places: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(places, [("kvs/src/a.rs", 1), ("kvs/src/gone.rs", 0)]);
    }
}
