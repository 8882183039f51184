//! Which top-level module of a crate names which other, read from the sources.
//!
//! A file belongs to the module whose name is the first part of its path below `src`. It names
//! another one by a path that begins at the crate (`crate::`, as many `super::` as lead there, or
//! in the root file the module's own name), alone or in braces. A name that the root file
//! re-exports is the module it comes from. What is compiled for tests only is left out.

use crate::repo::{Repo, SourceFile, is_for_tests};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A crate's modules and the arrows among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrows {
    pub(crate) modules: BTreeSet<String>,
    /// From, to; and the first place where each is, with its line, and how many files have it.
    pub(crate) arrows: BTreeMap<(String, String), Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) files: usize,
}

impl Arrows {
    /// Of the crate whose sources lie in `folder`/src.
    pub(crate) fn of(repo: &Repo, folder: &str) -> Self {
        let src = format!("{folder}/src/");
        let tests = test_files(repo, &src);
        let files: Vec<(Vec<&str>, &SourceFile)> = repo
            .rust()
            .filter(|file| !tests.iter().any(|test| is_below(&file.path, test)))
            .filter_map(|file| Some((module_path(file.path.strip_prefix(&src)?), file)))
            .collect();
        let modules: BTreeSet<String> =
            files.iter().filter_map(|(path, _)| Some((*path.first()?).to_owned())).collect();
        let roots = files.iter().filter(|(path, _)| path.is_empty());
        let exports: BTreeMap<String, String> =
            roots.flat_map(|(_, file)| exports(file, &modules)).collect();
        let mut arrows: BTreeMap<(String, String), Seen> = BTreeMap::new();
        for (path, file) in &files {
            let Some(from) = path.first() else { continue };
            let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
            for (name, line) in crate_names(file, path.len()) {
                let to = exports.get(&name).unwrap_or(&name);
                if modules.contains(to) && to != from {
                    of_file.entry(to.clone()).or_insert(line);
                }
            }
            for (to, line) in of_file {
                let first = || Seen { path: file.path.clone(), line, files: 0 };
                arrows.entry(((*from).to_owned(), to)).or_insert_with(first).files += 1;
            }
        }
        Self { modules, arrows }
    }

    /// Those that it names.
    pub(crate) fn below<'a>(&'a self, module: &'a str) -> impl Iterator<Item = &'a str> {
        self.arrows.keys().filter(move |(from, _)| from == module).map(|(_, to)| to.as_str())
    }

    /// All that `module` leads to.
    fn reach<'a>(&'a self, module: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![module];
        while let Some(module) = open.pop() {
            open.extend(self.below(module).filter(|&to| reached.insert(to)));
        }
        reached
    }

    /// The sets of modules that lead to each other; each is sorted, the longest is first.
    pub(crate) fn circles(&self) -> Vec<Vec<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.modules.iter().map(|module| (module.as_str(), self.reach(module))).collect();
        let mut circles: Vec<Vec<&str>> = Vec::new();
        for (module, leads) in &reach {
            let circle: Vec<&str> =
                leads.iter().copied().filter(|to| reach[to].contains(module)).collect();
            if circle.first() == Some(module) {
                circles.push(circle);
            }
        }
        circles.sort_by_key(|circle| Reverse(circle.len()));
        circles
    }

    /// How many arrows lie below each module on its longest way down; those of a circle, which has
    /// no lowest, count as one.
    pub(crate) fn height(&self, module: &str) -> usize {
        let above = self.reach(module);
        let same = |to: &str| to == module || self.reach(to).contains(module);
        let next = above.iter().filter(|to| !same(to)).map(|to| self.height(to) + 1);
        next.max().unwrap_or(0)
    }
}

/// `a/b.rs` is `[a, b]`, `a/mod.rs` is `[a]`, and a root is empty.
fn module_path(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Vec<&str> = path.split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
        parts.pop();
    }
    parts
}

fn is_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The modules below `src` that are declared for tests only, as paths without `.rs`.
fn test_files(repo: &Repo, src: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in repo.rust().filter(|file| file.path.starts_with(src)) {
        let path = module_path(&file.path[src.len()..]).join("/");
        let folder = if path.is_empty() { src.to_owned() } else { format!("{src}{path}/") };
        let mut is_test = false;
        for (_, code) in file.code_lines() {
            let code = code.trim();
            if is_for_tests(code) {
                is_test = true;
            } else if !code.starts_with("#[") && !code.is_empty() {
                let name = code.strip_suffix(';').and_then(|code| code.split_once("mod "));
                if let (true, Some((_, name))) = (is_test, name) {
                    found.push(format!("{folder}{}", name.trim()));
                }
                is_test = false;
            }
        }
    }
    found
}

/// The names that the root file takes from modules: of `pub use a::{B, c::D as E};` B and E.
fn exports(root: &SourceFile, modules: &BTreeSet<String>) -> Vec<(String, String)> {
    let code = &root.split.code;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let tree = code[at + 4..].split(';').next().unwrap_or("");
        let tree = tree.trim().trim_start_matches("crate::");
        let Some((module, rest)) = tree.split_once("::") else { continue };
        if modules.contains(module) {
            let names = rest.split(|c: char| "{},".contains(c)).filter_map(|name| {
                let name = name.rsplit("::").next().unwrap_or(name);
                let name = name.rsplit(" as ").next().unwrap_or(name).trim();
                (!name.is_empty()).then(|| name.to_owned())
            });
            found.extend(names.map(|name| (name, module.to_owned())));
        }
    }
    found
}

/// The first parts of paths that begin at the crate, with their lines. The file lies `depth`
/// modules deep.
fn crate_names(file: &SourceFile, depth: usize) -> Vec<(String, usize)> {
    let mut shipped = String::new();
    for (_, line) in file.shipped_lines() {
        shipped.push_str(line);
        shipped.push('\n');
    }
    let up = "super::".repeat(depth);
    let mut names = Vec::new();
    for start in ["crate::", up.as_str()] {
        for (at, _) in shipped.match_indices(start) {
            let before = shipped[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let line = shipped[..at].matches('\n').count() + 1;
            let rest = &shipped[at + start.len()..];
            names.extend(first_parts(rest).into_iter().map(|name| (name, line)));
        }
    }
    names
}

/// Of `a::B` a, and of `{a::B, c::{D, e}}` a and c.
fn first_parts(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(inside) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut parts) = (0, vec![word(inside)]);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(word(&inside[at + 1..])),
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let found = Arrows::of(&Repo::of(files), "a");
        let named = found.arrows.iter();
        named.map(|((from, to), seen)| format!("{from} -> {to} {}", seen.line)).collect()
    }

    #[test]
    fn arrows_are_found_in_every_spelling_of_a_path() {
        let files = [
            ("a/src/lib.rs", "mod b;\nmod c;\nmod d;\npub use c::{Sea, inner::Deep as Down};\n"),
            ("a/src/b.rs", "use crate::{Sea, d::{e, f}};\nuse super::c;\nmod inner;\n"),
            ("a/src/b/inner.rs", "fn f() {\n    crate::Down::new()\n}\nuse super::c;\n"),
            ("a/src/c/mod.rs", "// crate::b\nuse crate::d::x;\nuse std::crate::b;\n"),
            ("a/src/c/inner.rs", "use super::super::d;\nuse super::b;\n"),
            ("a/src/d.rs", "#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n"),
        ];
        assert_eq!(arrows(&files), ["b -> c 1", "b -> d 1", "c -> d 2"]);
    }

    #[test]
    fn what_is_for_tests_only_has_no_arrows() {
        let files = [
            ("a/src/lib.rs", "mod b;\nmod c;\n"),
            ("a/src/b.rs", "#[cfg(test)]\n#[allow(dead_code)]\nmod tests;\nmod real;\n"),
            ("a/src/b/tests.rs", "use crate::c;\n"),
            ("a/src/b/tests/deep.rs", "use crate::c;\n"),
            ("a/src/b/real.rs", ""),
            ("a/src/c.rs", ""),
        ];
        assert_eq!(arrows(&files), [""; 0]);
    }

    #[test]
    fn modules_that_lead_to_each_other_are_a_circle() {
        let found = Arrows::of(
            &Repo::of(&[
                ("a/src/lib.rs", ""),
                ("a/src/top.rs", "use crate::one;"),
                ("a/src/one.rs", "use crate::two;"),
                ("a/src/two.rs", "use crate::three;"),
                ("a/src/three.rs", "use crate::{low, one};"),
                ("a/src/low.rs", ""),
            ]),
            "a",
        );
        assert_eq!(found.circles(), [["one", "three", "two"]]);
        let heights = ["low", "one", "two", "three", "top"].map(|module| found.height(module));
        assert_eq!(heights, [0, 1, 1, 1, 2]);
    }
}
