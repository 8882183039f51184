//! `cargo xtask map`: the modules of each crate, the highest first, with what each stands on.

use crate::arrows::Arrows;
use crate::repo::Repo;
use crate::tables::CRATES;
use std::cmp::Reverse;
use std::io::{self, Write};

/// Draws one crate, or all.
pub(crate) fn draw(repo: &Repo, only: Option<&str>, out: &mut impl Write) -> io::Result<bool> {
    let crates: Vec<&str> =
        CRATES.iter().copied().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if crates.is_empty() {
        writeln!(out, "no such crate; there are {}", CRATES.join(", "))?;
    }
    for name in &crates {
        write!(out, "{}", drawing(&Arrows::of(repo, name), name))?;
    }
    Ok(!crates.is_empty())
}

/// One line a module: its height, its name, and the modules right below it. Then the circles, and
/// the arrows in them, those that fewest files have first.
fn drawing(arrows: &Arrows, name: &str) -> String {
    let (modules, count) = (arrows.modules.len(), arrows.arrows.len());
    let mut lines = vec![format!("{name}: {modules} modules, {count} arrows")];
    lines.extend(rows(arrows));
    lines.extend(arrows.circles().iter().flat_map(|circle| circle_lines(arrows, circle)));
    lines.push(String::new());
    lines.join("\n")
}

fn rows(arrows: &Arrows) -> impl Iterator<Item = String> {
    let mut rows: Vec<(usize, &str)> =
        arrows.modules.iter().map(|module| (arrows.height(module), module.as_str())).collect();
    rows.sort_by_key(|&(height, module)| (Reverse(height), module));
    let width = rows.iter().map(|(_, module)| module.len()).max().unwrap_or(0);
    rows.into_iter().map(move |(height, module)| {
        let below: Vec<&str> = arrows.below(module).collect();
        let line = format!("{height:>4}  {module:width$}  {}", below.join(" "));
        line.trim_end().to_owned()
    })
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

    #[test]
    fn a_drawing_has_the_highest_first_and_names_the_arrows_of_circles() {
        let repo = Repo::of(&[
            ("a/src/top.rs", "use crate::{one, low};"),
            ("a/src/one.rs", "\nuse crate::two;"),
            ("a/src/two.rs", "use crate::{low, one};"),
            ("a/src/low.rs", ""),
        ]);
        let expected = "\
a: 4 modules, 5 arrows
   2  top  low one
   1  one  two
   1  two  low one
   0  low
circle of 2: one two
  one -> two: files 1, a/src/one.rs:2
  two -> one: files 1, a/src/two.rs:1
";
        assert_eq!(drawing(&Arrows::of(&repo, "a"), "a"), expected);
    }
}
