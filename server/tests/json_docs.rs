//! The tables of docs/json.md have the fields that the commands print, and no others.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use support::{Client, Server};
use tempfile::TempDir;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md"));

/// The fields of a command's table.
fn documented(command: &str) -> BTreeSet<String> {
    let head = format!("\n## `{command}`\n");
    let (_, section) = PAGE.split_once(&head).unwrap_or_else(|| panic!("no section of {command}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_start_matches("| ").split(" |").next().unwrap());
    let named = cells.flat_map(|cell| cell.split(", "));
    named.map(|name| name.trim_matches('`').to_owned()).collect()
}

/// The fields that hold something, and those that are null or empty, by their paths.
fn walk(value: &Value, path: &str, found: &mut [BTreeSet<String>; 2]) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                walk(value, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(all) if !all.is_empty() => {
            for one in all {
                walk(one, &format!("{path}[]"), found);
            }
        }
        Value::Null | Value::Array(_) => drop(found[1].insert(path.to_owned())),
        _ => drop(found[0].insert(path.to_owned())),
    }
}

/// Compares a table with what was printed, more than once where it differs.
fn compare(command: &str, printed: &[Value]) {
    let documented = documented(command);
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for value in printed {
        walk(value, "", &mut found);
    }
    let [full, empty] = found;
    let within = |field: &String, outer: &String| {
        field == outer
            || field.strip_prefix(&**outer).is_some_and(|rest| rest.starts_with(['.', '[']))
    };
    for field in &full {
        assert!(documented.contains(field), "{command} prints {field}, which is not documented");
    }
    for field in &empty {
        let is_known = documented.iter().any(|name| within(name, field));
        assert!(is_known, "{command} prints {field}, which is not documented");
    }
    for field in documented.difference(&full) {
        let is_printed = empty.iter().any(|outer| within(field, outer));
        assert!(is_printed, "{field} is documented of {command}, which does not print it");
    }
}

fn json(data: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).arg("--data").arg(data);
    command.env("MILLPOND_ALLOW_BUFFERED", "true").env("MILLPOND_ALLOW_VOLATILE", "true");
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Trees, compactions and snapshots, of keys that are text and of such that are not.
fn background(client: &mut Client) {
    let mut compactions = Vec::new();
    for (kvs, range) in
        [("default", r#""from":"a","to":"c""#), ("bin", r#""from64":"gA","to64":"_w""#)]
    {
        client.send("PUT", &format!("/v1/kvs/{kvs}"), b"").unwrap();
        for key in if kvs == "bin" { ["%F0", "%FE"] } else { ["a", "b"] } {
            let target = format!("/v1/kv/{kvs}/{key}");
            assert_eq!(client.send("PUT", &target, b"1").unwrap().status, 200);
        }
        let body = format!(r#"{{"kvs":"{kvs}",{range}}}"#);
        let begun = client.send("POST", "/v1/admin/compact", body.as_bytes()).unwrap();
        assert_eq!(begun.status, 202, "{}", begun.text());
        let over = loop {
            let state = client.send("GET", "/v1/admin/compact", b"").unwrap().json();
            if state["running"] == false {
                break state;
            }
            std::thread::yield_now();
        };
        compactions.push(over);
    }
    let mut ask = |target: &str| client.send("GET", target, b"").unwrap().json();
    let trees = ["default?limit=1", "bin"].map(|kvs| ask(&format!("/v1/admin/tree/{kvs}")));
    let whole = ask("/v1/admin/tree/default");
    let [first, second] = trees;
    compare("millpond tree --json", &[first, second, whole]);
    compare("millpond compact --json", &compactions);
    compare("millpond snapshots --json", &[ask("/v1/admin/snapshots")]);
}

#[test]
fn what_the_commands_print_is_documented_and_what_is_documented_is_printed() {
    let data = TempDir::new().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut client = server.connect();
    assert_eq!(client.send("PUT", "/v1/kv/default/a", b"1").unwrap().status, 200);
    background(&mut client);
    let volume = br#"{"path":"one.vol","capacity":"64MiB"}"#;
    assert_eq!(client.send("POST", "/v1/admin/pool/volumes", volume).unwrap().status, 201);
    let begun = client.send("POST", "/v1/admin/pool/volumes/1/evacuate", b"{}").unwrap();
    assert_eq!(begun.status, 202, "{}", begun.text());
    let mut ask = |target| client.send("GET", target, b"").unwrap().json();
    compare("millpond kvs list", &[ask("/v1/kvs")]);
    compare("millpond pool maps --json", &[ask("/v1/admin/pool/maps")]);
    let (served, scrub) = (ask("/v1/admin/pool"), ask("/v1/admin/pool/scrub"));
    server.terminate();
    assert!(server.wait().success());

    compare("millpond pool info --json", &[served, json(data.path(), &["pool", "info", "--json"])]);
    // Something to be found.
    let volume = File::options().write(true).open(data.path().join("one.vol")).unwrap();
    volume.write_all_at(&[7; 4096], 64 << 10).unwrap();
    let check = json(data.path(), &["pool", "check", "--json"]);
    assert_eq!(check["findings"].as_array().map(Vec::len), Some(1), "{check}");
    compare("millpond pool check --json", &[check]);
    let scrubbed = json(data.path(), &["pool", "scrub", "--json", "--rate", "0"]);
    compare("millpond pool scrub --json", &[scrub, scrubbed]);
    compare("millpond recover --json", &[json(data.path(), &["recover", "--json"])]);
}
