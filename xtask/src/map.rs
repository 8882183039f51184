//! `cargo xtask map`: the modules of each crate, the highest first, and what each stands on.
//!
//! The first part of it, without the arrows, is in the document too, where `tidy` compares it.

use crate::arrows::Arrows;
use crate::finding::Finding;
use crate::repo::Repo;
use crate::tables::CRATES;
use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::Path;

/// The document that has the drawings.
const DOCUMENT: &str = "ARCHITECTURE.md";

/// Draws one crate, or all.
pub(crate) fn draw(repo: &Repo, only: Option<&str>, out: &mut impl Write) -> io::Result<bool> {
    let crates: Vec<&str> =
        CRATES.iter().copied().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if crates.is_empty() {
        writeln!(out, "no such crate; there are {}", CRATES.join(", "))?;
    }
    for name in &crates {
        let arrows = Arrows::of(repo, name);
        write!(out, "{}{}", drawing(repo, &arrows, name), list(&arrows))?;
    }
    Ok(!crates.is_empty())
}

/// Brings the drawings in the document up to date.
pub(crate) fn write(repo: &Repo, root: &Path, out: &mut impl Write) -> io::Result<bool> {
    let Some(document) = repo.file(DOCUMENT) else {
        writeln!(out, "there is no {DOCUMENT}")?;
        return Ok(false);
    };
    let mut text = document.text.clone();
    for (name, old) in drawings_in(&document.text) {
        text = text.replace(old, &drawing(repo, &Arrows::of(repo, name), name));
    }
    if text != document.text {
        std::fs::write(root.join(DOCUMENT), text)?;
        writeln!(out, "{DOCUMENT}: drawings are new")?;
    }
    Ok(true)
}

/// Arrows of no crate lead in a circle.
pub(crate) fn circles(repo: &Repo) -> Vec<Finding> {
    let of_crate = |name: &&str| {
        let arrows = Arrows::of(repo, name);
        let circle = |circle: &Vec<&str>| {
            let lines = circle_lines(&arrows, circle);
            let what = format!("modules import each other: {}", lines.join("; "));
            let help = "move what both need below them, or take an import out";
            Finding::error(&format!("{name}/src/"), 0, what, help)
        };
        arrows.circles().iter().map(circle).collect::<Vec<_>>()
    };
    CRATES.iter().flat_map(of_crate).collect()
}

/// The drawings in the document are those of the sources.
pub(crate) fn drawn(repo: &Repo) -> Vec<Finding> {
    let Some(document) = repo.file(DOCUMENT) else { return Vec::new() };
    let is_old = |(name, old): &(&str, &str)| drawing(repo, &Arrows::of(repo, name), name) != *old;
    let finding = |(name, old): (&str, &str)| {
        let line = document.text.split(old).next().map_or(0, |before| before.lines().count() + 1);
        let what = format!("the drawing of {name} is not that of the sources");
        Finding::error(DOCUMENT, line, what, "cargo xtask map --write")
    };
    drawings_in(&document.text).into_iter().filter(is_old).map(finding).collect()
}

/// The drawings that a document has: blocks of text that begin as a drawing does.
pub(crate) fn drawings_in(document: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for block in document.split("```text\n").skip(1) {
        let Some((drawing, _)) = block.split_once("```") else { continue };
        let name = drawing.split_once(": ").map(|(name, _)| name);
        let is_drawing = drawing.lines().next().is_some_and(|line| line.ends_with(" arrows"));
        if let Some(name) = CRATES.iter().find(|known| Some(**known) == name && is_drawing) {
            found.push((*name, drawing));
        }
    }
    found
}

/// One line a module, the highest first: how many stand on each other from there down, its name,
/// and what it is by the first sentence of its file.
fn drawing(repo: &Repo, arrows: &Arrows, name: &str) -> String {
    let (modules, count) = (arrows.modules.len(), arrows.arrows.len());
    let mut lines = vec![format!("{name}: {modules} modules, {count} arrows")];
    let width = arrows.modules.iter().map(String::len).max().unwrap_or(0);
    let line = |(height, module): (usize, &str)| {
        let line = format!("{height:>4}  {module:width$}  {}", about(repo, name, module));
        line.trim_end().to_owned()
    };
    lines.extend(rows(arrows).into_iter().map(line));
    lines.push(String::new());
    lines.join("\n")
}

/// A longer sentence is cut where a part of it ends.
const ABOUT_MAX: usize = 80;

/// The first sentence of a module's file, without its end.
fn about(repo: &Repo, name: &str, module: &str) -> String {
    let files = [format!("{name}/src/{module}/mod.rs"), format!("{name}/src/{module}.rs")];
    let Some(file) = files.iter().find_map(|path| repo.file(path)) else { return String::new() };
    let header = file.text.lines().map_while(|line| line.strip_prefix("//!"));
    let paragraph: Vec<&str> = header.map(str::trim).take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let first = paragraph.split(". ").next().unwrap_or("");
    let whole = first.trim_end_matches(['.', ':']).replace(['[', ']', '`'], "");
    let parts = [": ", ", "].iter().filter_map(|end| whole.split_once(end)).map(|(part, _)| part);
    let short = std::iter::once(&*whole).chain(parts).find(|part| part.len() <= ABOUT_MAX);
    short.unwrap_or(&whole).to_owned()
}

/// What each module imports, the highest first; then the circles, and the arrows in them, those
/// that fewest files have first.
fn list(arrows: &Arrows) -> String {
    let mut lines = vec![String::new()];
    let line = |(_, module): (usize, &str)| {
        let below: Vec<&str> = arrows.below(module).collect();
        format!("  {module} -> {}", below.join(" ")).trim_end().to_owned()
    };
    lines.extend(rows(arrows).into_iter().map(line));
    lines.extend(arrows.circles().iter().flat_map(|circle| circle_lines(arrows, circle)));
    lines.push(String::new());
    lines.join("\n")
}

fn rows(arrows: &Arrows) -> Vec<(usize, &str)> {
    let mut rows: Vec<(usize, &str)> =
        arrows.modules.iter().map(|module| (arrows.height(module), module.as_str())).collect();
    rows.sort_by_key(|&(height, module)| (Reverse(height), module));
    rows
}

fn circle_lines(arrows: &Arrows, circle: &[&str]) -> Vec<String> {
    let is_in = |module: &String| circle.contains(&module.as_str());
    let mut inside: Vec<_> =
        arrows.arrows.iter().filter(|((from, to), _)| is_in(from) && is_in(to)).collect();
    inside.sort_by_key(|(_, seen)| seen.files);
    let head = format!("circle of {}: {}", circle.len(), circle.join(" "));
    let arrows = inside.into_iter().map(|((from, to), seen)| {
        format!("  {from} -> {to}: files {}, {}:{}", seen.files, seen.path, seen.line)
    });
    std::iter::once(head).chain(arrows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str = "//! The top: it\n//! ends here. Not here.\n\nuse crate::{one, low};";

    #[test]
    fn a_drawing_has_the_highest_first_and_a_list_names_the_arrows_of_circles() {
        let repo = Repo::of(&[
            ("a/src/top/mod.rs", TOP),
            ("a/src/one.rs", "\nuse crate::two;"),
            ("a/src/two.rs", "use crate::{low, one};"),
            ("a/src/low.rs", "//! Is [`low`].\n"),
        ]);
        let expected = "\
a: 4 modules, 5 arrows
   2  top  The top: it ends here
   1  one
   1  two
   0  low  Is low
";
        let arrows = Arrows::of(&repo, "a");
        assert_eq!(drawing(&repo, &arrows, "a"), expected);
        let expected = "
  top -> low one
  one -> two
  two -> low one
  low ->
circle of 2: one two
  one -> two: files 1, a/src/one.rs:2
  two -> one: files 1, a/src/two.rs:1
";
        assert_eq!(list(&arrows), expected);
    }

    #[test]
    fn a_circle_and_an_old_drawing_are_findings() {
        let old = "# Map\n\n```text\nkvs: 2 modules, 1 arrows\n   1  b\n   0  a\n```\n";
        let files = [("kvs/src/a.rs", "use crate::b;"), ("kvs/src/b.rs", "")];
        let new = old.replace("1  b", "1  a").replace("0  a", "0  b");
        let right = Repo::of(&[files[0], files[1], (DOCUMENT, &new)]);
        assert_eq!((drawn(&right).len(), circles(&right).len()), (0, 0));
        let wrong = Repo::of(&[files[0], ("kvs/src/b.rs", "use crate::a;"), (DOCUMENT, old)]);
        let (drawn, circles) = (drawn(&wrong), circles(&wrong));
        assert_eq!((drawn.len(), drawn[0].line), (1, 4), "{drawn:?}");
        assert!(circles.len() == 1 && circles[0].message.contains("a -> b"), "{circles:?}");
    }
}
