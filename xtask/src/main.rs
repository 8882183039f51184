//! Project checks that the compiler cannot make: `cargo xtask tidy`, `map` and `zns`.
//!
//! The first reads the working tree, runs every check in [`tidy`](mod@tidy) over it and prints
//! what it finds with file, line and the way out. Errors make it fail; warnings do not. Formatting,
//! lints and function length (`too-many-lines-threshold` in `clippy.toml`) are rustfmt's and
//! clippy's. The second draws the modules of each crate ([`mod@map`]). The third runs what needs a
//! zoned drive, in a virtual machine that has one ([`zns`]). The program depends on nothing but
//! std, so that it builds in a second.

#![forbid(unsafe_code)]

mod arrows;
mod checks {
    pub(crate) mod docs;
    pub(crate) mod files;
    pub(crate) mod layers;
    pub(crate) mod modules;
    pub(crate) mod unsafety;
    pub(crate) mod words;
}
mod finding;
mod map;
mod repo;
mod source;
mod tables;
mod tidy;
mod zns;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy [DIR] | map [CRATE | --write] | zns [SUITE]...\n\n  tidy   check what the compiler \
                     cannot: file sizes, layering, unsafe, module tree, words, documents;\n         \
                     DIR is another working tree than this one\n  map    draw \
                     which module of a crate stands on which, and where they lead in a circle;\n         \
                     --write brings the drawings in ARCHITECTURE.md up to date\n  zns    run the suites that need \
                     a zoned drive, all or those named, in a virtual machine;\n         installs \
                     qemu and fetches a kernel (50 MB) the first time; needs root or sudo for that";

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(home(), &mut out),
        ["tidy", dir] if !dir.starts_with('-') => tidy(Path::new(dir), &mut out),
        ["map"] => map(None, &mut out),
        ["map", "--write"] => {
            repo::Repo::load(home()).and_then(|repo| map::write(&repo, home(), &mut out))
        }
        ["map", name] if !name.starts_with('-') => map(Some(name), &mut out),
        ["zns", ref suites @ ..] if suites.iter().all(|name| !name.starts_with('-')) => {
            zns::run(home(), suites, &mut out)
        }
        ["help" | "--help" | "-h"] => writeln!(out, "{USAGE}").map(|()| true),
        _ => writeln!(out, "{USAGE}").map(|()| false),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard output may be what is broken; its error goes nowhere else.
            let _ = writeln!(io::stderr(), "xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The working tree that this binary was built from.
fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the root")
}

/// Draws the crates of the working tree; false if there is none of that name.
fn map(only: Option<&str>, out: &mut impl Write) -> io::Result<bool> {
    map::draw(&repo::Repo::load(home())?, only, out)
}

/// Runs the checks over a working tree; true when nothing failed.
fn tidy(root: &Path, out: &mut impl Write) -> io::Result<bool> {
    let repo = repo::Repo::load(root)?;
    tidy::report(&repo, &tidy::run(&repo), out)
}
