//! `millpond pool` and `/v1/admin/pool` from outside: on a data directory, and on a running server.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use serde_json::Value;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::Server;
use tempfile::TempDir;

/// Runs `millpond pool ...`.
fn pool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("pool").args(arguments).env("MILLPOND_ALLOW_BUFFERED", "true");
    command.env("MILLPOND_ALLOW_VOLATILE", "true");
    command.env_remove("MILLPOND_DATA").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a command that must succeed; what it prints.
fn done(arguments: &[&str]) -> String {
    let output = pool(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(&[arguments, &["--json"]].concat())).unwrap()
}

/// Runs a command that must fail: its exit code and what it says.
fn complaint(arguments: &[&str]) -> (Option<i32>, String) {
    let output = pool(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output.stdout));
    (output.status.code(), text(&output.stderr).to_owned() + text(&output.stdout))
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn the_life_of_a_pool_on_a_data_directory() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let at = |command: &[&'static str]| {
        let mut all: Vec<&str> = command.to_vec();
        all.extend(["--data", data]);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |command: &[&'static str]| {
        let all = at(command);
        done(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let fail = |command: &[&'static str]| {
        let all = at(command);
        complaint(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let fast = "fast.vol,class=staging,capacity=64MiB";
    let created = run(&[
        "create",
        "--capacity",
        "300MiB",
        "--name",
        "north",
        "--volume",
        fast,
        "--mode",
        "0640",
    ]);
    assert!(created.contains("north") && created.contains("fast.vol"), "{created}");
    for file in ["capacity.vol", "fast.vol"] {
        let mode = std::fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{file}");
    }
    let (code, text) = fail(&["create"]);
    assert!(code == Some(3) && text.contains("holds a pool already"), "{text}");
    let info = json(&["info", "--data", data]);
    assert_eq!(
        (&info["name"], &info["volumes"][0]["capacity_bytes"]),
        (&"north".into(), &(300_u64 << 20).into())
    );
    assert_eq!(info["volumes"][1]["class"], "staging");
    let named = serde_json::json!({"name": "volumes", "kind": "incompatible", "bit": 1});
    assert!(info["features"].as_array().unwrap().contains(&named), "{info}");
    let table = run(&["info"]);
    assert!(table.contains("format    1 with placed-mblocks, volumes"), "{table}");
    let checked = json(&["check", "--data", data]);
    assert_eq!(checked["features"], info["features"]);
    assert!(run(&["rename", "south"]).contains("south"));
    assert!(run(&["add", "more.vol", "--capacity", "64MiB"]).contains("added vol-2"));
    assert!(run(&["grow", "vol-2", "128MiB"]).contains("128 MiB"));
    let (code, text) = fail(&["remove", "2"]);
    assert!(code == Some(3) && text.contains("evacuate it before"), "{text}");
    assert!(run(&["evacuate", "vol-2"]).contains("0 mblocks"));
    assert!(run(&["evacuate", "vol-2", "--cancel"]).contains("in use"));
    run(&["evacuate", "vol-2"]);
    assert!(run(&["remove", "vol-2"]).starts_with("removed vol-2; its file "));
    assert!(run(&["check", "--full"]).starts_with("sound: 2 volumes"));
    std::fs::remove_file(directory.path().join("more.vol")).unwrap();
    assert!(run(&["scrub"]).contains("complete"));
    flip(&directory.path().join("capacity.vol"), 65_536 + 100);
    // Opening the pool writes a damaged copy of the superblock again, so a scrub finds none.
    assert!(run(&["scrub"]).contains("findings  0"));
    let (code, text) = fail(&["destroy"]);
    assert!(code == Some(2) && text.contains("south"), "{text}");
    let (code, _) = fail(&["destroy", "north"]);
    assert_eq!(code, Some(2), "not its name any more");
    assert!(run(&["destroy", "south"]).contains("wiped"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let (code, text) = fail(&["info"]);
    assert!(code == Some(3) && text.contains("does not exist"), "{text}");
}

/// A server whose data has gone to kvsets.
fn serving(directory: &TempDir, flags: &[&str]) -> Server {
    let all = [&["--memtable", "1MiB"], flags].concat();
    let server = Server::start(directory.path(), &all);
    let mut client = server.connect();
    for n in 0..60 {
        let value =
            [format!("the value of heron {n:04}: ").as_bytes(), &vec![b'x'; 60_000]].concat();
        let put = client.send("PUT", &format!("/v1/kv/default/heron{n:04}"), &value).unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
    }
    while client.send("GET", "/v1/admin/pool", b"").unwrap().json()["mblocks"].as_u64() < Some(3) {
        std::thread::yield_now();
    }
    server
}

#[test]
fn a_running_server_is_asked_and_its_directory_is_locked() {
    let directory = TempDir::new().unwrap();
    let server = serving(&directory, &[]);
    let (data, url) = (directory.path().to_str().unwrap(), format!("http://{}", server.address));
    for (command, asks_a_server) in
        [("info", true), ("check", false), ("scrub", true), ("destroy", false)]
    {
        let (code, told) = complaint(&[command, "--data", data]);
        assert!(code == Some(3) && told.contains("in use by another process"), "{told}");
        assert_eq!(told.contains("--url"), asks_a_server, "{told}");
    }
    let mut second = Command::new(env!("CARGO_BIN_EXE_millpond"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--data", data]).stdout(Stdio::piped());
    let second = second.args(["--allow-buffered", "--allow-volatile"]).output().unwrap();
    let log = text(&second.stderr);
    assert_eq!((second.status.code(), log.matches("waiting for its end").count()), (Some(1), 1));
    assert!(log.contains("wait_max=2s"), "{log}");
    assert!(log.contains("fuser -v") && log.contains("another directory with --data"), "{log}");
    done(&["rename", "pond", "--url", &url]);
    assert!(done(&["info", "--url", &url]).contains("pond"));
    assert!(done(&["maps", "--url", &url]).contains("RESIDENT"));
    let (code, text) = complaint(&["maps", "--data", data]);
    assert!(code == Some(2) && text.contains("--url"), "{text}");
    let (code, text) = complaint(&["grow", "vol-9", "1GiB", "--url", &url]);
    assert!(code == Some(3) && text.contains("vol-9"), "{text}");
    let mut client = server.connect();
    let metrics = client.send("GET", "/metrics", b"").unwrap();
    assert!(metrics.text().contains("millpond_mpool_scrub_findings_total 0"));
    assert!(metrics.text().contains("name=\"pond\""), "the pool's name is in the metrics");
    for (method, path, status) in [
        ("POST", "/v1/admin/pool", 405),
        ("GET", "/v1/admin/pool/volumes", 405),
        ("GET", "/v1/admin/other", 404),
        ("DELETE", "/v1/admin/pool/volumes/vol-0", 409),
        ("POST", "/v1/admin/pool/volumes/vol-7/evacuate", 404),
        ("POST", "/v1/admin/pool/volumes", 400),
    ] {
        let answer = client.send(method, path, b"").unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    let bad = client.send("POST", "/v1/admin/pool/scrub", b"{\"speed\": 1}").unwrap();
    assert!(bad.status == 400 && bad.text().contains("speed"), "{}", bad.text());
}

#[test]
fn a_volume_comes_and_goes_under_a_running_server() {
    let directory = TempDir::new().unwrap();
    let server = serving(&directory, &[]);
    let url = format!("http://{}", server.address);
    let fast = ["add", "fast.vol", "--class", "staging", "--capacity", "1GiB", "--url", &url];
    assert!(done(&fast).contains("added vol-1"));
    let mut client = server.connect();
    let volume = |client: &mut support::Client, n: usize| {
        client.send("GET", "/v1/admin/pool", b"").unwrap().json()["volumes"][n].clone()
    };
    // The log prefers the staging class as soon as it needs a segment.
    let mut n = 0;
    while volume(&mut client, 1)["logs"] == 0 {
        n += 1;
        client.send("PUT", &format!("/v1/kv/default/more{n}"), &vec![b'y'; 1 << 20]).unwrap();
        assert!(n < 500, "the new volume is used");
    }
    let emptied = done(&["evacuate", "vol-1", "--url", &url]);
    assert!(emptied.contains("moved") && !emptied.contains("still there"), "{emptied}");
    assert_eq!(volume(&mut client, 1)["logs"], 0);
    let removed = done(&["remove", "vol-1", "--url", &url]);
    let file = directory.path().join("fast.vol");
    let want = format!("removed vol-1; its file {} is left", file.display());
    assert!(removed.starts_with(&want), "{removed}");
    for key in ["heron0000", "heron0059", "more1"] {
        let read = client.send("GET", &format!("/v1/kv/default/{key}"), b"").unwrap();
        assert_eq!(read.status, 200, "{key}");
    }
    server.terminate();
    assert!(server.wait().success());
    std::fs::remove_file(directory.path().join("fast.vol")).unwrap();
    let data = directory.path().to_str().unwrap();
    assert!(done(&["check", "--full", "--data", data]).starts_with("sound"));
}

#[test]
fn a_scrub_of_a_running_server_names_the_owner_of_what_has_rotted() {
    let directory = TempDir::new().unwrap();
    let server = serving(&directory, &[]);
    let url = format!("http://{}", server.address);
    assert!(done(&["scrub", "--url", &url, "--rate", "0"]).contains("findings  0"));
    let file = directory.path().join("capacity.vol");
    let bytes = std::fs::read(&file).unwrap();
    // A page in the middle of a value, which is in the log too; damage all of its copies.
    let pattern = b"the value of heron 0003: ";
    let places = bytes.windows(pattern.len()).enumerate().filter(|(_, found)| found == pattern);
    let places: Vec<u64> = places.map(|(at, _)| at as u64 + 20_000).collect();
    assert!(places.len() > 1, "in the log and in a vblock");
    for at in &places {
        flip(&file, *at);
    }
    let (code, text) = complaint(&["scrub", "--url", &url, "--rate", "0"]);
    assert!(text.contains("that a get refuses again, or delete them"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("of KVS default, vblock"), "{text}");
    let found = json_of_failure(&["scrub", "--url", &url, "--status", "--json"]);
    let vblock = found["findings"].as_array().unwrap().iter();
    let vblock: Vec<&Value> =
        vblock.filter(|one| one["owner"].as_str().unwrap_or("").contains("vblock")).collect();
    assert_eq!(vblock.len(), 1, "{found:#}");
    let at = vblock[0]["volume_offset"].as_u64().unwrap();
    assert!(places.iter().any(|place| (at..at + 4096).contains(place)), "{found:#}");
    // Slow enough to be stopped for certain, and it goes on from there.
    done(&["scrub", "--url", &url, "--rate", "100KiB", "--detach", "--from-start"]);
    let mut client = server.connect();
    while client.send("GET", "/v1/admin/pool/scrub", b"").unwrap().json()["running"] != true {
        std::thread::yield_now();
    }
    let again = client.send("POST", "/v1/admin/pool/scrub", b"").unwrap();
    assert_eq!(again.status, 409, "{}", again.text());
    // That one runs was said first.
    let wrong = client.send("POST", "/v1/admin/pool/scrub", b"{\"rat\":1}").unwrap();
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let stopped = client.send("DELETE", "/v1/admin/pool/scrub", b"").unwrap().json();
    assert_eq!((&stopped["running"], &stopped["under_way"]), (&false.into(), &true.into()));
    server.terminate();
    assert!(server.wait().success());
    let data = directory.path().to_str().unwrap();
    let stored = pool(&["scrub", "--status", "--data", data, "--json"]);
    let stored: Value = serde_json::from_slice(&stored.stdout).unwrap();
    assert_eq!(stored["under_way"], true);
}

fn json_of_failure(arguments: &[&str]) -> Value {
    serde_json::from_slice(&pool(arguments).stdout).unwrap()
}

#[test]
fn administration_can_be_off_and_says_so() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &["--admin", "false"]);
    let mut client = server.connect();
    for (method, path) in [
        ("GET", "/v1/admin/pool"),
        ("POST", "/v1/admin/pool/volumes"),
        ("DELETE", "/v1/admin/pool/volumes/vol-1"),
        ("POST", "/v1/admin/pool/scrub"),
    ] {
        let answer = client.send(method, path, b"").unwrap();
        assert_eq!(answer.status, 403, "{method} {path}");
        assert!(answer.text().contains("--admin"), "{}", answer.text());
    }
}

#[test]
fn every_command_explains_itself() {
    let help = done(&["--help"]);
    for command in [
        "create", "info", "add", "grow", "evacuate", "remove", "check", "scrub", "maps", "rename",
        "destroy",
    ] {
        assert!(help.contains(command), "{command} is missing");
        let own = done(&[command, "--help"]);
        assert!(own.contains("--data") && own.len() > 300, "{command}: {own}");
    }
}

#[test]
fn a_body_is_an_object_whose_fields_have_names() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    for (method, path, body) in [
        ("PUT", "name", r#"["south"]"#),
        ("POST", "volumes", r#"["/tmp/never"]"#),
        ("POST", "volumes/vol-0/grow", "[1]"),
        ("POST", "scrub", "[null,true]"),
    ] {
        let target = format!("/v1/admin/pool/{path}");
        let json = "content-type: application/json\r\n";
        let reply = client.send_with(method, &target, json, body.as_bytes()).unwrap();
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(reply.text().contains("named fields"), "{path}: {reply:?}");
    }
}

/// A pool was left behind, whole, by a command that had refused its name.
#[test]
fn a_name_that_does_not_fit_makes_no_pool() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("pond");
    let create = ["create", "--name", "no name", "--data", data.to_str().unwrap()];
    let (code, said) = complaint(&create);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no name") && said.contains("1 to 64"), "{said}");
    assert!(!data.exists());
}

/// The server's user could not open what root had made in its directory.
#[test]
fn what_root_makes_is_the_directory_s_owner_s() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    if std::fs::metadata(data).unwrap().uid() != 0 {
        // Only root gives files away.
        return;
    }
    std::os::unix::fs::chown(data, Some(4321), Some(4321)).unwrap();
    let path = data.to_str().unwrap();
    done(&["create", "--capacity", "300MiB", "--data", path]);
    done(&["add", "more.vol", "--capacity", "64MiB", "--data", path]);
    for name in ["capacity.vol", "pool.id", "more.vol"] {
        assert_eq!(std::fs::metadata(data.join(name)).unwrap().uid(), 4321, "{name}");
    }
}
