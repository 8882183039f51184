//! Checks that every Rust file is compiled: reached by `mod` declarations from a crate root.
//!
//! The compiler never opens a file that nothing declares, so such a file passes every other gate
//! and rots. Roots are what cargo finds by itself: `src/lib.rs`, `src/main.rs`, and the files of
//! `src/bin`, `tests`, `benches`, `examples` and `fuzz_targets`.

use crate::finding::Finding;
use crate::repo::{Repo, SourceFile};
use std::collections::BTreeSet;

/// Finds the files that no root reaches.
pub(crate) fn reached(repo: &Repo) -> Vec<Finding> {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> =
        repo.rust().filter(|file| is_root(&file.path)).map(|file| file.path.clone()).collect();
    while let Some(path) = open.pop() {
        let Some(file) = repo.file(&path) else { continue };
        if reached.insert(path) {
            open.extend(declared_files(file));
        }
    }
    repo.rust()
        .filter(|file| !reached.contains(&file.path))
        .map(|file| {
            Finding::error(
                &file.path,
                0,
                "no mod declaration reaches this file",
                "declare it in its parent module, or delete it",
            )
        })
        .collect()
}

fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [.., "src", "lib.rs" | "main.rs"] | [.., "build.rs"] | [.., "src", "bin", _] => true,
        [.., "tests" | "benches" | "examples" | "fuzz_targets", file] => file != "mod.rs",
        [.., "tests" | "benches" | "examples" | "bin", _, "main.rs"] => true,
        _ => false,
    }
}

/// The paths that the file's `mod name;` declarations may mean; those that do not exist are
/// harmless.
fn declared_files(file: &SourceFile) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let stem = file.path.rsplit('/').next().unwrap_or("").trim_end_matches(".rs");
    let children = if is_root(&file.path) || stem == "mod" {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    let mut files = Vec::new();
    let mut nesting: Vec<&str> = Vec::new();
    let mut named_path = None;
    for ((_, code), raw) in file.code_lines().zip(file.text.lines()) {
        let code = code.trim();
        if code.starts_with("#[path") {
            named_path = raw.split('"').nth(1);
        } else if let Some(name) = module_name(code, ';') {
            let base: Vec<&str> =
                std::iter::once(children.as_str()).chain(nesting.clone()).collect();
            let base = base.join("/");
            match named_path.take() {
                Some(path) => files.push(format!("{folder}/{path}")),
                None => {
                    files.extend([format!("{base}/{name}.rs"), format!("{base}/{name}/mod.rs")]);
                }
            }
        } else if let Some(name) = module_name(code, '{') {
            nesting.push(name);
        } else if code == "}" && raw.starts_with('}') {
            nesting.clear();
        }
    }
    files
}

/// The name in `mod name;` or `pub(crate) mod name {`, whichever `end` asks for.
fn module_name(code: &str, end: char) -> Option<&str> {
    let (head, rest) = code.split_once("mod ")?;
    let public = head.is_empty() || head.starts_with("pub") && head.ends_with(' ');
    let name = rest.trim_end().strip_suffix(end)?.trim();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (public && plain).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreached(files: &[(&str, &str)]) -> Vec<String> {
        reached(&Repo::of(files)).into_iter().map(|finding| finding.path).collect()
    }

    #[test]
    fn a_file_that_nothing_declares_is_found() {
        let files = [
            ("a/src/lib.rs", "mod b;\npub(crate) mod c;\n// mod parked;\n"),
            ("a/src/b.rs", "mod d;\n"),
            ("a/src/b/d.rs", ""),
            ("a/src/c/mod.rs", "pub mod e;\n"),
            ("a/src/c/e.rs", ""),
            ("a/src/parked.rs", ""),
            ("a/src/b/mod2.rs", ""),
        ];
        assert_eq!(unreached(&files), ["a/src/parked.rs", "a/src/b/mod2.rs"]);
    }

    #[test]
    fn tests_benches_and_binaries_are_roots_and_their_helpers_are_not() {
        let files = [
            ("a/tests/model.rs", "mod support;\n#[path = \"regress/story.rs\"]\nmod story;\n"),
            ("a/tests/support/mod.rs", ""),
            ("a/tests/regress/story.rs", ""),
            ("a/tests/regress/parked.rs", ""),
            ("a/benches/merge.rs", ""),
            ("a/src/bin/tool.rs", ""),
        ];
        assert_eq!(unreached(&files), ["a/tests/regress/parked.rs"]);
    }

    #[test]
    fn inline_modules_count_as_folders() {
        let files = [
            ("a/src/main.rs", "mod checks {\n    pub(crate) mod words;\n}\nmod repo;\n"),
            ("a/src/checks/words.rs", ""),
            ("a/src/repo.rs", ""),
            ("a/src/words.rs", ""),
        ];
        assert_eq!(unreached(&files), ["a/src/words.rs"]);
    }
}
