//! Tells the program which commit it is built from, for its reports. `MILLPOND_COMMIT` says it
//! where there is no git.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo:rerun-if-env-changed=MILLPOND_COMMIT");
    let commit = std::env::var("MILLPOND_COMMIT").ok().or_else(|| {
        // Written by every commit and checkout. Sources that change without one are built into the
        // program too, so whether there are such is asked again whenever one of them has changed.
        for path in [&git(&["rev-parse", "--git-path", "logs/HEAD"])?, "src", "../kvs", "../mpool"]
        {
            println!("cargo:rerun-if-changed={path}");
        }
        let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
        Some(if changed.is_empty() { commit } else { format!("{commit}-modified") })
    });
    if let Some(commit) = commit {
        println!("cargo:rustc-env=MILLPOND_BUILT_FROM={commit}");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
