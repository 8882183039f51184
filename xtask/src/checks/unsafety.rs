//! Checks of where `unsafe` stands.
//!
//! That each block has its `SAFETY` comment and does one thing is clippy's to check.

use crate::finding::Finding;
use crate::repo::Repo;
use crate::source::has_word;
use crate::tables::{SAFE_ROOTS, UNSAFE_PLACES};

/// `unsafe` stands in the listed places only, tests included.
pub(crate) fn place(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust().filter(|file| !is_listed(&file.path)) {
        for (line, code) in file.code_lines() {
            if has_word(code, "unsafe") {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    "unsafe outside its places",
                    format!(
                        "move it behind a safe function in one of {}",
                        UNSAFE_PLACES.join(", ")
                    ),
                ));
            }
        }
    }
    findings
}

fn is_listed(path: &str) -> bool {
    UNSAFE_PLACES
        .iter()
        .any(|listed| path == *listed || (listed.ends_with('/') && path.starts_with(listed)))
}

/// The crates that need no `unsafe` forbid it in their roots.
pub(crate) fn forbidden(repo: &Repo) -> Vec<Finding> {
    repo.rust()
        .filter(|file| SAFE_ROOTS.contains(&file.path.as_str()))
        .filter(|file| !file.split.code.contains("#![forbid(unsafe_code)]"))
        .map(|file| {
            Finding::error(
                &file.path,
                1,
                "the crate does not forbid unsafe code",
                "add #![forbid(unsafe_code)] below the header",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_outside_its_places_is_found() {
        let code = "// unsafe in a comment\nfn f() { unsafe { g() } }\n";
        let repo = Repo::of(&[
            ("kvs/src/db.rs", code),
            ("kvs/src/memtable/arena.rs", code),
            ("mpool/src/sys/mmap.rs", code),
            ("mpool/src/system.rs", code),
        ]);
        let findings = place(&repo);
        let places: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(places, [("kvs/src/db.rs", 2), ("mpool/src/system.rs", 2)]);
    }

    #[test]
    fn a_root_that_does_not_forbid_unsafe_is_found() {
        let repo = Repo::of(&[
            ("server/src/main.rs", "//! A.\nfn main() {}\n"),
            ("ycsb/src/main.rs", "//! B.\n#![forbid(unsafe_code)]\nfn main() {}\n"),
            ("mpool/src/lib.rs", "//! C.\n"),
        ]);
        let findings = forbidden(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "server/src/main.rs");
    }
}
