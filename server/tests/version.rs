//! Which commit the program says it was built from.
#![allow(clippy::unwrap_used, reason = "a test")]
#[path = "../build.rs"]
#[allow(dead_code, clippy::print_stdout, reason = "its tests are what is wanted of it")]
mod build;
mod support;

use std::process::Command;
use support::Server;
use tempfile::TempDir;

/// It was "unknown" unless a variable of the environment said it.
#[test]
fn the_version_names_the_commit_of_the_sources() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let version = server.connect().send("GET", "/version", b"").unwrap().json();
    let commit = version["commit"].as_str().unwrap();
    if let Some(given) = option_env!("MILLPOND_COMMIT").filter(|given| !given.is_empty()) {
        assert_eq!(commit, given);
        return;
    }
    let git = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    // Sources without a repository do not know theirs.
    let want = match git {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        _ => "unknown".to_owned(),
    };
    assert_eq!(commit.trim_end_matches("-modified"), want.trim());
}
