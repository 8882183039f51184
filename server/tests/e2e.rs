//! The real binary from outside: the tour of the README, the client commands, restarts, and what
//! it says when it cannot start.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use support::Server;
use tempfile::TempDir;

fn millpond(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(arguments)
        .env_remove("MILLPOND_URL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input closes it.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a command that must fail; what it says.
fn complaint(arguments: &[&str]) -> (Option<i32>, String) {
    let output = millpond(arguments, b"");
    (output.status.code(), text(&output.stderr).to_owned())
}

fn start(directory: &TempDir) -> Server {
    Server::start(directory.path(), &[])
}

#[test]
fn the_first_lines_are_the_address_and_two_commands_that_work() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let base = format!("http://{}", server.address);
    assert_eq!(server.announced[0], format!("listening on {base}"));
    let target = format!("{base}/v1/kv/default/greeting");
    assert_eq!(server.announced[1], format!("curl -X PUT --data-binary 'hello, pond' {target}"));
    assert_eq!(server.announced[2], format!("curl {target}"));
    let mut client = server.connect();
    let written = client.send("PUT", "/v1/kv/default/greeting", b"hello, pond").unwrap();
    assert_eq!((written.status, written.header("content-length")), (200, Some("0")));
    let read = client.send("GET", "/v1/kv/default/greeting", b"").unwrap();
    assert_eq!((read.status, read.text()), (200, "hello, pond"));
    assert_eq!(read.header("etag"), written.header("etag"));
}

/// With 256 other KVSs, a start that created `default` again was refused for ever.
#[test]
fn a_dropped_default_stays_dropped_and_a_full_set_of_kvss_starts() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let mut client = server.connect();
    let mut create =
        |name: &str| client.send("PUT", &format!("/v1/kvs/{name}"), b"").unwrap().status;
    for n in 1..256 {
        assert_eq!(create(&format!("kvs{n}")), 201);
    }
    assert_eq!(create("kvs256"), 409, "the limit");
    let mut client = server.connect();
    assert_eq!(client.send("DELETE", "/v1/kvs/default", b"").unwrap().status, 200);
    assert_eq!(client.send("PUT", "/v1/kvs/kvs256", b"").unwrap().status, 201);
    server.terminate();
    assert!(server.wait().success());
    let server = start(&directory);
    let base = format!("http://{}/v1", server.address);
    assert_eq!(server.announced[1], format!("curl {base}/kvs"), "there is no default to try");
    let mut client = server.connect();
    let all = client.send("GET", "/v1/kvs", b"").unwrap().json();
    assert_eq!(all["kvs"].as_array().unwrap().len(), 256);
    let refused = client.send("PUT", "/v1/kv/default/a", b"1").unwrap();
    assert_eq!(refused.status, 404);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("PUT /v1/kvs/default"), "{detail}");
    let url = format!("http://{}", server.address);
    let (code, said) = complaint(&["get", "--url", &url, "a"]);
    assert_eq!(code, Some(3));
    assert!(said.contains("\"default\"") && said.contains("create it"), "{said}");
}

#[test]
fn the_tour_of_all_routes() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let mut client = server.connect();
    for probe in ["/livez", "/readyz", "/version", "/metrics", "/v1/kvs/default"] {
        assert_eq!(client.send("GET", probe, b"").unwrap().status, 200, "{probe}");
    }
    assert_eq!(client.send("PUT", "/v1/kvs/users", b"").unwrap().status, 201);
    assert_eq!(client.send("PUT", "/v1/kvs/users", b"").unwrap().status, 200);
    let batch = br#"[{"op":"put","kvs":"users","k":"ada","v":"1815"},
                     {"op":"put","kvs":"users","k":"alan","v":"1912"},
                     {"op":"put","k":"count","v":"2"}]"#;
    let written = client.send("POST", "/v1/batch", batch).unwrap();
    assert_eq!((written.status, &written.json()["count"]), (200, &3.into()));
    let revision = written.json()["revision"].clone();
    let page = client.send("GET", "/v1/kv/users?prefix=a", b"").unwrap().json();
    assert_eq!(page["items"][0]["k"], "ada");
    assert_eq!(page["items"][1]["v"], "1912");
    assert_eq!(page["items"][1]["rev"], revision);
    let reverse = client.send("GET", "/v1/kv/users?reverse=true&limit=1", b"").unwrap().json();
    assert_eq!(reverse["items"][0]["k"], "alan");
    let cursor = reverse["cursor"].as_str().expect("there is more");
    let next = format!("/v1/kv/users?reverse=true&limit=1&cursor={cursor}");
    assert_eq!(client.send("GET", &next, b"").unwrap().json()["items"][0]["k"], "ada");
    let ndjson = "accept: application/x-ndjson\r\n";
    let stream = client.send_with("GET", "/v1/kv/users", ndjson, b"").unwrap();
    let last: serde_json::Value =
        serde_json::from_str(stream.text().lines().last().unwrap()).unwrap();
    assert_eq!((&last["end"], &last["count"]), (&true.into(), &2.into()));
    assert_eq!(client.send("DELETE", "/v1/kv/users/ada", b"").unwrap().status, 200);
    assert_eq!(client.send("GET", "/v1/kv/users/ada", b"").unwrap().status, 404);
    assert_eq!(client.send("DELETE", "/v1/kvs/users", b"").unwrap().status, 200);
    let gone = client.send("GET", "/v1/kv/users/alan", b"").unwrap();
    assert_eq!(gone.header("content-type"), Some("application/problem+json"));
    assert_eq!(client.send("GET", "/v1/kv/default/count", b"").unwrap().text(), "2");
}

#[test]
fn large_values_and_odd_keys_survive_a_restart() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let mut client = server.connect();
    let large: Vec<u8> = (0..16_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
    let values: [(&str, &[u8]); 4] =
        [("large", &large), ("%00%ff", b"bytes"), ("a//b", b"slashes"), ("empty", b"")];
    for (key, value) in values {
        let written = client.send("PUT", &format!("/v1/kv/default/{key}"), value).unwrap();
        assert_eq!(written.status, 200, "{key}: {}", written.text());
    }
    server.terminate();
    assert!(server.wait().success());
    let server = start(&directory);
    let mut client = server.connect();
    for (key, value) in values {
        let read = client.send("GET", &format!("/v1/kv/default/{key}"), b"").unwrap();
        assert_eq!(read.status, 200, "{key}");
        assert!(read.body == value, "{key} has another value");
    }
}

#[test]
fn the_client_commands_do_what_they_say() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str], input: &[u8]| {
        let mut all = arguments.to_vec();
        all.extend(["--url", &url]);
        millpond(&all, input)
    };
    assert!(run(&["healthcheck"], b"").status.success());
    assert!(run(&["put", "greeting", "hello"], b"").status.success());
    assert!(run(&["put", "from/stdin"], b"\x00\xff").status.success());
    let file = directory.path().join("value");
    std::fs::write(&file, "from a file").unwrap();
    assert!(run(&["put", "from file", "--file", file.to_str().unwrap()], b"").status.success());
    assert_eq!(run(&["get", "greeting"], b"").stdout, b"hello");
    assert_eq!(run(&["get", "from/stdin"], b"").stdout, b"\x00\xff");
    assert_eq!(run(&["get", "from file"], b"").stdout, b"from a file");
    let scanned = run(&["scan", "from", "--keys-only"], b"");
    let keys: Vec<serde_json::Value> =
        text(&scanned.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!((&keys[0]["k"], &keys[1]["k"]), (&"from file".into(), &"from/stdin".into()));
    assert!(run(&["del", "greeting"], b"").status.success());
    let missing = run(&["get", "greeting"], b"");
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
    assert!(run(&["kvs", "create", "users"], b"").status.success());
    assert!(text(&run(&["kvs", "list"], b"").stdout).contains("users"));
    assert!(run(&["kvs", "drop", "users", "--yes"], b"").status.success());
    let refused = run(&["get", "a", "--kvs", "users"], b"");
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        text(&refused.stderr).contains("millpond kvs create users"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn without_a_server_the_client_says_how_to_start_one() {
    // Bound and never accepting; dropped before use, so that nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let (code, said) = complaint(&["get", "a", "--url", &url]);
    assert_eq!(code, Some(4));
    assert!(said.contains("millpond serve"), "{said}");
    assert_eq!(complaint(&["healthcheck", "--url", &url]).0, Some(1));
    assert_eq!(complaint(&["get", "a", "--url", "pond"]).0, Some(2));
}

#[test]
fn what_keeps_it_from_starting_is_named() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = complaint(&["serve", "--data", data, "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use") && said.contains("--listen"), "{said}");
    let config = directory.path().join("millpond.toml");
    std::fs::write(&config, "lisen = \"127.0.0.1:0\"\n").unwrap();
    let (code, said) = complaint(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("lisen") && said.contains("millpond.toml"), "{said}");
    let (code, said) = complaint(&["serve", "--config", "/nowhere/millpond.toml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere/millpond.toml"), "{said}");
}

#[test]
fn a_directory_in_use_or_not_writable_is_named() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let data = directory.path().to_str().unwrap();
    let buffered = ["--allow-buffered", "--allow-volatile", "--listen", "127.0.0.1:0"];
    let serve = |data| complaint(&[&["serve", "--data", data], &buffered[..]].concat());
    let (code, said) = serve(data);
    assert_eq!(code, Some(1));
    assert!(said.contains("in use") && said.contains(data), "{said}");
    drop(server);
    let (code, said) = serve("/proc/millpond");
    assert_eq!(code, Some(1));
    assert!(said.contains("/proc/millpond"), "{said}");
}

#[test]
fn the_effective_configuration_is_printed() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("millpond.toml");
    std::fs::write(&config, "memory = \"2GiB\"\nlog = \"debug\"\n").unwrap();
    let print = |environment: &[(&str, &str)], flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.args(["config", "print", "--config"]).arg(&config).args(flags);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).parse::<toml::Table>().unwrap()
    };
    let file = print(&[], &[]);
    assert_eq!(file["memory"].as_str(), Some("2GiB"));
    assert_eq!(file["listen"].as_str(), Some("127.0.0.1:7300"));
    let environment = print(&[("MILLPOND_MEMORY", "3GiB")], &[]);
    assert_eq!(environment["memory"].as_str(), Some("3GiB"));
    let flags = print(&[("MILLPOND_MEMORY", "3GiB")], &["--memory", "4GiB"]);
    assert_eq!(flags["memory"].as_str(), Some("4GiB"));
    assert_eq!(flags["log"].as_str(), Some("debug"));
    let data = directory.path().join("pond");
    let place = ["--data", data.to_str().unwrap()];
    let effective = millpond(&[&["config", "print", "--effective"], &place[..]].concat(), b"");
    let effective = text(&effective.stdout);
    assert!(effective.contains("# In effect: 1.0 TiB.\ncapacity = \"0B\""), "{effective}");
    assert!(!data.exists(), "none is made");
}

#[test]
fn a_first_signal_drains_and_a_second_one_loses_nothing() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let mut client = server.connect();
    assert_eq!(client.send("PUT", "/v1/kv/default/a", b"acknowledged").unwrap().status, 200);
    // A request that never ends keeps the drain waiting.
    let mut stuck = server.connect();
    stuck
        .write(b"PUT /v1/kv/default/b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nha")
        .unwrap();
    while !client.send("GET", "/metrics", b"").unwrap().text().contains("inflight_requests 2") {
        std::thread::yield_now();
    }
    server.terminate();
    // The drain has begun when the idle connection is closed.
    assert_eq!(client.until_closed(), b"");
    server.interrupt();
    assert_eq!(server.wait().code(), Some(128 + 2));
    let server = start(&directory);
    let mut client = server.connect();
    assert_eq!(client.send("GET", "/v1/kv/default/a", b"").unwrap().text(), "acknowledged");
    assert_eq!(client.send("GET", "/v1/kv/default/b", b"").unwrap().status, 404);
}

#[test]
fn help_is_enough_to_get_going() {
    let help = millpond(&["--help"], b"");
    for word in ["serve", "get", "put", "scan", "healthcheck", "curl", "Exit codes"] {
        assert!(text(&help.stdout).contains(word), "{word} is missing");
    }
    let serve = millpond(&["serve", "--help"], b"");
    for word in ["--data", "--listen", "--memory", "MILLPOND_MEMORY", "--allow-buffered"] {
        assert!(text(&serve.stdout).contains(word), "{word} is missing");
    }
}

/// While requests were finished nobody new was let in, so that a probe saw a refused connection and
/// not `draining`; and a second signal was read too late, or never.
#[test]
fn draining_can_be_seen_and_a_second_signal_ends_the_process_at_once() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory);
    let mut uploading = server.connect();
    let head = b"PUT /v1/kv/default/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhe";
    uploading.write(head).unwrap();
    let mut probe = server.connect();
    let under_way = "millpond_http_inflight_requests 2";
    while !probe.send("GET", "/metrics", b"").unwrap().text().contains(under_way) {
        std::thread::yield_now();
    }
    server.terminate();
    // A connection of the moment at which it begins may be closed before its request is read.
    let draining = |reply: std::io::Result<support::Reply>| {
        reply.is_ok_and(|reply| reply.text() == "draining\n")
    };
    while !draining(server.connect().send("GET", "/readyz", b"")) {
        std::thread::yield_now();
    }
    let refused = server.connect().send("GET", "/v1/kv/default/a", b"").unwrap();
    assert_eq!(refused.json()["type"], "urn:millpond:problem:closing");
    // Another one: the same within a moment is the first one still.
    server.interrupt();
    assert_eq!(server.wait().code(), Some(128 + 2));
    // Nothing that was acknowledged needs a close in order.
    let server = start(&directory);
    assert_eq!(server.connect().send("GET", "/readyz", b"").unwrap().status, 200);
}
