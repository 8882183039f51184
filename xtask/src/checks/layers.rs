//! Checks of the layers: who may depend on whom, and which names may stand where.
//!
//! `server` and `ycsb` stand on `kvs`, which stands on `mpool`. The compiler keeps private items
//! private; what it cannot see is a dependency that should not be there at all, and a policy file
//! that looks at the clock.

use crate::finding::Finding;
use crate::repo::{Repo, SourceFile};
use crate::source::has_word;
use crate::tables::{IMPURE_WORDS, LAYERS, Layer};

/// No crate's `Cargo.toml` names a package that its layer may not know.
pub(crate) fn dependencies(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for layer in LAYERS {
        let Some(manifest) = repo.file(&format!("{}Cargo.toml", layer.folder)) else {
            continue;
        };
        for (line, package) in declared_packages(&manifest.text) {
            if layer.packages.iter().any(|pattern| matches(pattern, package)) {
                findings.push(Finding::error(
                    &manifest.path,
                    line,
                    format!("depends on {package}"),
                    format!("take it out: {}", layer.reason),
                ));
            }
        }
    }
    findings
}

/// The keys of every dependency table, with their lines.
fn declared_packages(manifest: &str) -> Vec<(usize, &str)> {
    let mut packages = Vec::new();
    let mut inside = false;
    for (at, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies");
            if let Some((_, package)) = table.rsplit_once("dependencies.") {
                packages.push((at + 1, package));
            }
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let package = line.split(['.', '=', ' ']).next().unwrap_or(line);
            packages.push((at + 1, package));
        }
    }
    packages
}

fn matches(pattern: &str, package: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => package.starts_with(prefix),
        None => package == pattern,
    }
}

/// No code speaks of what its layer may not know.
pub(crate) fn names(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for layer in LAYERS {
        let inside = |file: &&SourceFile| file.path.starts_with(layer.folder);
        for file in repo.rust().filter(inside) {
            findings.extend(foreign_words(file, layer));
        }
    }
    findings
}

fn foreign_words(file: &SourceFile, layer: &Layer) -> Vec<Finding> {
    let in_source = file.path.starts_with(&format!("{}src/", layer.folder));
    let mut findings = Vec::new();
    for (line, code) in file.code_lines() {
        let shipped = in_source && line < file.tests_line;
        let test_words = if shipped { layer.test_words } else { &[] };
        for word in layer.words.iter().chain(test_words) {
            if has_word(code, word) {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    format!("{word} in {}", layer.folder),
                    format!("move it to the layer that owns it: {}", layer.reason),
                ));
            }
        }
    }
    findings
}

/// A file whose header says `PURE`, `Pure:` or `pure function` decides from its arguments alone.
pub(crate) fn pure(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repo.rust().filter(|file| is_pure(&file.text)) {
        for (line, code) in file.shipped_lines() {
            for word in IMPURE_WORDS.iter().filter(|word| has_word(code, word)) {
                findings.push(Finding::error(
                    &file.path,
                    line,
                    format!("{word} in a file whose header says that it is pure"),
                    "take what it gives as an argument, or act in another file",
                ));
            }
        }
    }
    findings
}

fn is_pure(text: &str) -> bool {
    let mut header = text.lines().take_while(|line| line.starts_with("//!"));
    header.any(|line| {
        has_word(line, "PURE") || has_word(line, "Pure:") || line.contains("pure function")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_up_the_layers_is_found() {
        let manifest = "[package]\nname = \"a\"\n\n[dependencies]\nlibc.workspace = true\n\
                        tokio-util = \"1\" # no\n\n[target.'cfg(loom)'.dependencies]\n\
                        kvs = { path = \"..\" }\n[dev-dependencies.prometheus]\n\
                        version = \"0.14\"\n[lints]\nkvs = 1\n";
        let findings = dependencies(&Repo::of(&[("mpool/Cargo.toml", manifest)]));
        let seen: Vec<_> = findings.iter().map(|f| (f.line, f.message.as_str())).collect();
        let expected =
            [(6, "depends on tokio-util"), (9, "depends on kvs"), (10, "depends on prometheus")];
        assert_eq!(seen, expected);
    }

    #[test]
    fn xtask_depends_on_nothing() {
        let manifest = "[dependencies]\nanyhow.workspace = true\n";
        assert_eq!(dependencies(&Repo::of(&[("xtask/Cargo.toml", manifest)])).len(), 1);
    }

    #[test]
    fn a_name_of_an_upper_layer_is_found() {
        let code = "//! Serves kvs, say.\nfn f(kvset: u64) {}\n";
        let findings = names(&Repo::of(&[("mpool/src/a.rs", code), ("kvs/src/b.rs", code)]));
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("mpool/src/a.rs", 2));
    }

    #[test]
    fn the_engine_reaches_the_medium_through_the_pool_in_shipped_code() {
        let shipped = "//! A.\nuse libc::pread;\n";
        let tested = "//! B.\n#[cfg(test)]\nmod tests {\n    use libc::getpid;\n}\n";
        let repo = Repo::of(&[
            ("kvs/src/a.rs", shipped),
            ("kvs/src/b.rs", tested),
            ("kvs/tests/c.rs", "use libc::getpid;\n"),
        ]);
        let findings = names(&repo);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "kvs/src/a.rs");
    }

    #[test]
    fn a_pure_file_that_looks_at_the_clock_is_found() {
        let code = "//! PURE: what next.\nuse std::time::Instant;\nfn f(in_flight: u64) {}\n";
        let other = "//! Acts.\nuse std::time::Instant;\n";
        let colon = "//! What next.\n//!\n//! Pure: sums in.\nfn f(lock: &Mutex<u64>) {}\n";
        let findings = pure(&Repo::of(&[("a.rs", code), ("b.rs", other), ("c.rs", colon)]));
        let places: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(places, [("a.rs", 2), ("c.rs", 4)]);
    }
}
