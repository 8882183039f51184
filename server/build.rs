//! Tells the program which commit it is built from: `/version` and the reports of benchmarks say
//! so.
//!
//! Asked in this order: `MILLPOND_COMMIT`, for builds that see no repository, such as those of
//! container images; the note that `cargo package` leaves in a package; git, where this folder is
//! the one it knows (sources that lie in another repository are not of its commit). Else the
//! program says that it is unknown. Sources with changes that are not committed are marked.

use std::path::Path;
use std::process::{Command, Stdio};

/// What the program is built from; changes elsewhere do not make it another one.
const SOURCES: [&str; 7] =
    ["src", "build.rs", "Cargo.toml", "../kvs", "../mpool", "../units", "../Cargo.lock"];

fn main() {
    println!("cargo:rerun-if-env-changed=MILLPOND_COMMIT");
    let given = std::env::var("MILLPOND_COMMIT").ok().filter(|commit| !commit.is_empty());
    let packaged = || from_note(&std::fs::read_to_string(".cargo_vcs_info.json").ok()?);
    if let Some(commit) = given.or_else(packaged).or_else(from_git) {
        println!("cargo:rustc-env=MILLPOND_BUILT_FROM={commit}");
    }
}

/// The commit in the note of `cargo package`: `{"git":{"sha1":"..","dirty":true},..}`.
fn from_note(note: &str) -> Option<String> {
    let (_, rest) = note.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?.get(..12)?;
    let dirty = rest
        .split_once("\"dirty\"")
        .is_some_and(|(_, value)| value.trim_start_matches([':', ' ', '\n']).starts_with("true"));
    Some(marked(commit, dirty))
}

fn from_git() -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let folder = here.file_name()?.to_str()?;
    if git(&["rev-parse", "--show-prefix"])? != format!("{folder}/") {
        return None;
    }
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    // A commit changes the branch that HEAD names, or HEAD itself; a checkout changes HEAD.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for file in ["HEAD", &branch, "packed-refs"].iter().filter(|file| !file.is_empty()) {
        rerun_if_changed(&git(&["rev-parse", "--git-path", file])?);
    }
    // Sources that change without a commit are built in, too.
    for path in SOURCES {
        rerun_if_changed(path);
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    status.extend(SOURCES);
    Some(marked(&commit, !git(&status)?.is_empty()))
}

fn marked(commit: &str, changed: bool) -> String {
    if changed { format!("{commit}-modified") } else { commit.to_owned() }
}

/// Of what is not there cargo would ask again and again.
fn rerun_if_changed(path: &str) {
    if Path::new(path).exists() {
        println!("cargo:rerun-if-changed={path}");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let output = git.arg("--no-optional-locks").args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_of_a_package_names_its_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let note = |dirty| {
            format!(
                "{{\n  \"git\": {{\n    \"sha1\": \"{commit}\"{dirty}\n  }},\n  \"path_in_vcs\": \"server\"\n}}"
            )
        };
        assert_eq!(from_note(&note("")).as_deref(), Some("0123456789ab"));
        let dirty = note(",\n    \"dirty\": true");
        assert_eq!(from_note(&dirty).as_deref(), Some("0123456789ab-modified"));
        assert_eq!(from_note(&note(",\n    \"dirty\": false")).as_deref(), Some("0123456789ab"));
        assert_eq!(from_note("{}"), None);
    }
}
