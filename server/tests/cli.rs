//! The client commands of the real binary where they meet shells, scripts and servers that hang.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use millpond::connection::ConnectionLimits;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use support::Server;
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).env_remove("MILLPOND_URL").env_remove("MILLPOND_DATA");
    command.stdin(Stdio::null());
    command
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    let url = format!("http://{}", server.address);
    command(arguments).args(["--url", &url]).output().unwrap()
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Nothing was printed, with exit code 0.
#[test]
fn a_scan_with_its_bounds_the_wrong_way_round_is_wrong_usage() {
    for arguments in [
        &["scan", "--start", "b", "--end", "a"][..],
        &["scan", "--start", "_w", "--end", "YQ", "--k64", "--reverse"],
    ] {
        let output = command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let (start, end) = (arguments[2], arguments[4]);
        let says = format!("--start {start} is above --end {end}");
        assert!(said(&output).contains(&says), "{}", said(&output));
    }
}

/// `scan | head` ended with exit code 4 and a complaint about standard output.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    // More than a pipe holds, so that the command is still writing when its reader goes.
    let value = vec![b'v'; 1 << 20];
    for key in ["a", "b", "c"] {
        client.send("PUT", &format!("/v1/kv/default/{key}"), &value).unwrap();
    }
    let url = format!("http://{}", server.address);
    for arguments in [&["scan"][..], &["get", "a"]] {
        let mut child = command(arguments)
            .args(["--url", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        assert_eq!(said(&output), "", "{arguments:?}");
    }
    let mut help = command(&["config", "print"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(help.stdout.take());
    assert_eq!(help.wait().unwrap().code(), Some(0));
}

/// `get` waited for ever for a server that accepts and says nothing.
#[test]
fn a_silent_server_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for arguments in [&["get", "a"][..], &["put", "a", "b"], &["scan"], &["kvs", "list"]] {
        let output = command(arguments).args(["--url", &url, "--timeout", "50ms"]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}");
        assert!(said(&output).contains("--timeout"), "{arguments:?}: {}", said(&output));
    }
    let output = command(&["pool", "info", "--url", &url, "--timeout", "50ms"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

/// Keys that a scan prints as `k64` could not be given to any command.
#[test]
fn every_key_that_a_scan_prints_can_be_named() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let raw = OsStr::from_bytes(b"\xff\xfe/x");
    let url = format!("http://{}", server.address);
    let put = command(&["put", "--url", &url]).arg(raw).arg("odd").output().unwrap();
    assert!(put.status.success(), "{}", said(&put));
    let scanned = run(&server, &["scan"]);
    let item: serde_json::Value = serde_json::from_slice(&scanned.stdout).unwrap();
    let key = item["k64"].as_str().expect("it is no text");
    assert_eq!(run(&server, &["get", "--k64", key]).stdout, b"odd");
    let ranged = run(&server, &["scan", "--k64", "--start", key]);
    assert_eq!(ranged.stdout, scanned.stdout);
    assert!(run(&server, &["del", "--k64", key]).status.success());
    assert_eq!(run(&server, &["get", "--k64", key]).status.code(), Some(1));
    let wrong = run(&server, &["get", "--k64", "a!"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("a!"), "{}", said(&wrong));
}

#[test]
fn what_a_scan_printed_is_loaded_and_goes_on_where_it_stopped() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    for n in 0..30 {
        let value = vec![n; 300_000];
        client.send("PUT", &format!("/v1/kv/default/k{n:02}"), &value).unwrap();
    }
    client.send("PUT", "/v1/kv/default/%FF?durability=off", b"odd").unwrap();
    let scanned = run(&server, &["scan"]).stdout;
    let file = directory.path().join("default.ndjson");
    std::fs::write(&file, &scanned).unwrap();
    let path = file.to_str().unwrap();
    let load = |more: &[&str]| run(&server, &[&["load", path, "--kvs", "copy"], more].concat());

    let absent = load(&[]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(said(&absent).contains("kvs create copy"), "{}", said(&absent));
    assert!(said(&absent).contains("nothing was written"), "{}", said(&absent));
    client.send("PUT", "/v1/kvs/copy", b"").unwrap();
    for _ in 0..2 {
        let done = load(&[]);
        assert_eq!((done.status.code(), said(&done)), (Some(0), ""));
        assert_eq!(done.stdout, b"31 keys written to KVS copy\n");
    }
    let without_revisions = |scan: &[u8]| -> Vec<serde_json::Value> {
        let lines = scan.split_inclusive(|byte| *byte == b'\n');
        let parsed = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
        parsed
            .map(|item| serde_json::json!([item["k"], item["k64"], item["v"], item["v64"]]))
            .collect()
    };
    let copied = run(&server, &["scan", "--kvs", "copy"]).stdout;
    assert_eq!(without_revisions(&copied), without_revisions(&scanned));

    // Line 20 is cut off; what was sent before it is written, and said to be.
    let lines: Vec<&[u8]> = scanned.split_inclusive(|byte| *byte == b'\n').collect();
    let broken = [&lines[..19].concat(), &b"{\"k\":\"x\n"[..], &lines[20..].concat()].concat();
    std::fs::write(&file, broken).unwrap();
    let stopped = load(&[]);
    assert_eq!(stopped.status.code(), Some(3));
    let skip =
        said(&stopped).split_once("--skip ").map(|(_, rest)| rest.split(' ').next().unwrap());
    let skip = skip.unwrap_or_else(|| panic!("{}", said(&stopped)));
    assert!(said(&stopped).contains("line 20 is no JSON"), "{}", said(&stopped));
    assert!((1..20).contains(&skip.parse::<usize>().unwrap()), "{skip}");
    assert_eq!(load(&["--skip", "20"]).stdout, b"11 keys written to KVS copy\n");

    let damage = b"{\"k\":\"a\",\"v\":\"1\"}\n{\"k\":\"b\",\"error\":{\"detail\":\"rot\"}}\n{\"end\":true}\n";
    std::fs::write(&file, damage).unwrap();
    let damaged = load(&[]);
    assert_eq!(
        (damaged.status.code(), &*damaged.stdout),
        (Some(1), &b"1 key written to KVS copy\n"[..])
    );
    assert!(said(&damaged).contains("1 line stands for a key"), "{}", said(&damaged));
    let nowhere = command(&["load", path, "--url", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(4));
    std::fs::write(&file, run(&server, &["scan", "--keys-only"]).stdout).unwrap();
    let keys_only = load(&[]);
    assert_eq!(keys_only.status.code(), Some(3));
    assert!(said(&keys_only).contains("line 1 has no value"), "{}", said(&keys_only));
    assert_eq!(run(&server, &["load", "/nowhere"]).status.code(), Some(2));
}

/// `kvs drop` took a typing mistake at its word.
#[test]
fn a_drop_wants_a_yes() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    assert!(run(&server, &["kvs", "create", "users"]).status.success());
    // Nobody is asked about what is not there.
    let absent = run(&server, &["kvs", "drop", "user"]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(said(&absent).contains("no KVS is named \"user\""), "{}", said(&absent));
    let unsure = run(&server, &["kvs", "drop", "users"]);
    assert_eq!(unsure.status.code(), Some(2));
    assert!(said(&unsure).contains("--yes") && said(&unsure).contains("users"));
    assert!(run(&server, &["put", "--kvs", "users", "a", "1"]).status.success());
    assert!(run(&server, &["kvs", "drop", "users", "--yes"]).status.success());
    assert_eq!(run(&server, &["get", "--kvs", "users", "a"]).status.code(), Some(3));
}

/// `pool` asked the directory although `MILLPOND_URL` named a server.
#[test]
fn the_environment_names_the_server_for_pool_too() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let url = format!("http://{}", server.address);
    let pool = |arguments: &[&str]| {
        command(arguments)
            .env("MILLPOND_URL", &url)
            .env("MILLPOND_DATA", "/nowhere")
            .output()
            .unwrap()
    };
    let shown = pool(&["pool", "info"]);
    assert!(shown.status.success(), "{}", said(&shown));
    // A flag counts more.
    let data = directory.path().to_str().unwrap();
    let locked = pool(&["pool", "info", "--data", data, "--allow-buffered"]);
    assert_eq!(locked.status.code(), Some(3));
    assert!(said(&locked).contains("in use"), "{}", said(&locked));
    let both = pool(&["pool", "info", "--data", data, "--url", &url]);
    assert_eq!(both.status.code(), Some(2));
    let mode = pool(&["pool", "add", "x.vol", "--mode", "0640"]);
    assert_eq!(mode.status.code(), Some(2), "{}", said(&mode));
}

#[test]
fn a_host_name_is_an_address_to_listen_on() {
    let directory = TempDir::new().unwrap();
    let mut child = command(&["serve", "--listen", "localhost:0", "--allow-buffered", "--data"])
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line}");
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef millpond"), ("fish", "complete -c millpond")]
    {
        let script = command(&["completions", shell]).output().unwrap();
        assert!(script.status.success(), "{shell}");
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains(word) && script.contains("healthcheck"), "{shell}");
    }
    let directory = TempDir::new().unwrap();
    let pages = directory.path().join("man1");
    let made = command(&["man", "--dir", pages.to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let serve = std::fs::read_to_string(pages.join("millpond-serve.1")).unwrap();
    assert!(serve.contains("memtable") && serve.contains("[default: 64MiB]"), "{serve}");
    assert!(serve.contains("MILLPOND_MEMTABLE"), "environment variables are named: {serve}");
    let load = std::fs::read_to_string(pages.join("millpond-load.1")).unwrap();
    assert!(
        load.contains(".nf\nExamples:\n  millpond scan \\-\\-kvs birds > birds.ndjson\n"),
        "{load}"
    );
    for page in ["millpond.1", "millpond-get.1", "millpond-pool-check.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    assert!(!pages.join("millpond-pool-help.1").exists(), "help needs no page");
}

/// `--url` was shown as if it had to be given, where `MILLPOND_URL` gave it.
#[test]
fn a_usage_does_not_depend_on_the_environment() {
    let usages = ["", "http://127.0.0.1:1"].map(|url| {
        let output = command(&["get"]).env("MILLPOND_URL", url).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        said(&output).lines().find(|line| line.starts_with("Usage:")).unwrap().to_owned()
    });
    assert_eq!(usages, ["Usage: millpond get [OPTIONS] <KEY>"; 2]);
}

/// Each of these ended as if nothing were wrong, or with another's message.
#[test]
fn what_cannot_be_done_is_told() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let file = directory.path().join("lines");
    let path = file.to_str().unwrap();
    let load = |lines: &str, more: &[&str]| {
        std::fs::write(&file, lines).unwrap();
        let output = run(&server, &[&["load", path], more].concat());
        (output.status.code(), [&*output.stdout, &*output.stderr].concat())
    };
    for (lines, more, code, want) in [
        ("{\"end\":true,\"k\":\"x\",\"v\":\"1\"}\n", &[][..], 3, "several kinds"),
        ("", &["--kvs", "cats"], 3, "cats"),
        ("{\"k\":\"x\",\"v\":\"1\"}\n", &["--skip", "2"], 2, "there are 1 lines"),
        ("{\"k\":\"x\",\"v\":\"1\"}\n", &["--skip", "1"], 0, "0 keys written"),
        (
            "{\"k\":\"x\",\"v\":\"1\"}\n{\"op\":\"delete\",\"k\":\"y\"}\n",
            &[],
            0,
            "1 key written to KVS default, 1 deleted",
        ),
    ] {
        let (seen, said) = load(lines, more);
        let said = String::from_utf8(said).unwrap();
        assert!(seen == Some(code) && said.contains(want), "{lines:?}: {seen:?}, {said}");
    }
    let directory = run(&server, &["load", directory.path().to_str().unwrap()]);
    assert_eq!(directory.status.code(), Some(2));
    assert!(said(&directory).contains("is a directory"), "{}", said(&directory));
    for arguments in [&["get", "x"][..], &["scan"], &["kvs", "list"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let url = format!("http://{}", server.address);
        let mut command = command(&[arguments, &["--url", &url]].concat());
        let output = command.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        let said = said(&output);
        assert!(said.contains("standard output cannot be written"), "{said}");
    }
    for (at, want) in [("me:secret@127.0.0.1", "password"), ("127.0.0.1:1/?a=b", "query")] {
        let url = format!("http://{at}");
        let refused = command(&["get", "x", "--url", &url]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{url}");
        assert!(said(&refused).contains(want) && !said(&refused).contains("secret"));
    }
}

/// 6 MiB of zeros are 37 MB as escaped text, more than a batch takes.
#[test]
fn the_longest_values_are_loaded_as_they_were_scanned() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let value = vec![0; 6 << 20];
    let mut client = server.connect();
    client.send("PUT", "/v1/kv/default/zeros", &value).unwrap();
    client.send("PUT", "/v1/kvs/copy", b"").unwrap();
    let file = directory.path().join("lines");
    std::fs::write(&file, run(&server, &["scan"]).stdout).unwrap();
    let loaded = run(&server, &["load", file.to_str().unwrap(), "--kvs", "copy"]);
    assert_eq!((loaded.status.code(), said(&loaded)), (Some(0), ""));
    assert_eq!(client.send("GET", "/v1/kv/copy/zeros", b"").unwrap().body, value);
}

/// A server that says of every request that a compaction runs.
fn busy_server() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let body =
            r#"{"number":7,"running":true,"state":"running","bytes_done":1,"bytes_total":9}"#;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // The head; the few bytes of a body come with it.
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            // A client that was interrupted has gone.
            drop(stream.write_all((head + body).as_bytes()));
            if asked.send(()).is_err() {
                return;
            }
        }
    });
    (url, seen)
}

/// An interrupt says what goes on, how to look at it and how to end it.
#[test]
fn an_interrupt_ends_the_waiting_and_says_what_goes_on() {
    let (url, asked) = busy_server();
    let mut waiting = command(&["compact", "--wait", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The second time it asks, it waits.
    for _ in 0..2 {
        asked.recv().unwrap();
    }
    let pid = rustix::process::Pid::from_child(&waiting);
    let mut output = Vec::new();
    // Between two looks it heeds a signal; one that came while it asked is heeded then.
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    waiting.stderr.take().unwrap().read_to_end(&mut output).unwrap();
    let said = String::from_utf8(output).unwrap();
    let code = waiting.wait().unwrap().code();
    assert_eq!(code, Some(130), "{said}");
    for part in ["goes on", "compact --status", "compact --cancel"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// A server that was busy for a second ended a load of hours.
#[test]
fn a_load_that_is_refused_for_a_moment_goes_on() {
    let server = support::in_process::Server::start(ConnectionLimits::default());
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("lines");
    std::fs::write(&file, "{\"k\":\"a\",\"v\":\"1\"}\n").unwrap();
    let url = format!("http://{}", server.address);
    let load = || command(&["load", file.to_str().unwrap(), "--url", &url]).output().unwrap();
    server.engine.fail_next(kvs::Error::Stalled { reason: "memtables" });
    let done = load();
    assert_eq!((done.status.code(), said(&done)), (Some(0), ""));
    assert_eq!(done.stdout, b"1 key written to KVS default\n");
    // What will not be better in a moment is not tried again.
    server.engine.fail_next(kvs::Error::Poisoned { cause: "a test".to_owned() });
    let refused = load();
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("nothing was written"), "{}", said(&refused));
}
