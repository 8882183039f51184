//! A volume on its way to being full, as an operator sees it: the metrics tell before the first put
//! is refused, the alert can fire, the refusal says what is kept and what must be deleted, and the
//! log says when it began and when it ended.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use std::fs::File;
use std::process::Command;
use support::{Client, Server};
use tempfile::TempDir;

const FLAGS: [&str; 10] = [
    "--log",
    "info",
    "--capacity",
    "256MiB",
    "--memtable",
    "4MiB",
    "--memory",
    "128MiB",
    "--disk-reserve",
    "0B",
];

/// The value of a metric without labels.
fn metric(scrape: &str, name: &str) -> f64 {
    let line = scrape
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no metric {name}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The expression of an alert, which must be of the form `a / b < number`: its left side, computed,
/// and its right one.
fn alert(name: &str, scrape: &str) -> (f64, f64) {
    let rules = include_str!("../../deploy/prometheus/alerts.yml");
    let (_, rule) = rules.split_once(&format!("alert: {name}\n")).unwrap();
    let expression = rule.trim_start().strip_prefix("expr: ").unwrap().lines().next().unwrap();
    let (ratio, limit) = expression.split_once(" < ").unwrap();
    let (part, whole) = ratio.split_once(" / ").unwrap();
    (metric(scrape, part) / metric(scrape, whole), limit.parse().unwrap())
}

fn scrape(client: &mut Client) -> String {
    client.send("GET", "/metrics", b"").unwrap().text().to_owned()
}

fn put(client: &mut Client, n: u32, value: &[u8]) -> support::Reply {
    client.send("PUT", &format!("/v1/kv/default/{n}?durability=interval"), value).unwrap()
}

/// 507 came at 66 % free by the metrics, and the alert looked at those.
#[test]
fn full_is_seen_coming_told_and_over() {
    let (directory, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = log.path().join("log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.stderr(File::create(&log).unwrap());
    let server = Server::start_command(command, directory.path(), &FLAGS);
    let mut client = server.connect();
    let value = vec![b'v'; 256 << 10];
    let (mut n, mut warned) = (0, false);
    let refused = loop {
        let reply = put(&mut client, n, &value);
        if reply.status == 507 {
            break reply;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        n += 1;
        let now = scrape(&mut client);
        let (ratio, limit) = alert("MillpondVolumeNearlyFull", &now);
        assert!((0.0..1.0).contains(&ratio), "{ratio}");
        warned |= ratio < limit;
        assert!(metric(&now, "millpond_space_refused_total") < 1.0);
    };
    assert!(warned, "the alert fires before puts are refused");
    assert!(n > 200, "{n} puts of 256 KiB in 256 MiB");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    let now = scrape(&mut client);
    let reserve = metric(&now, "millpond_space_reserve_bytes");
    let wanted: u64 = detail.split_once(" bytes wanted").unwrap().0.parse().unwrap();
    assert!(wanted > value.len() as u64, "the value counts: {detail}");
    for part in [
        "0 writable",
        &format!("{reserve} are kept"),
        "delete about",
        "`millpond pool grow vol-0 SIZE`",
        "`millpond pool add PATH`",
    ] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert!(metric(&now, "millpond_space_refused_total") >= 1.0);
    assert!(now.contains("millpond_mpool_volume_free_bytes{"), "by volume");
    assert_eq!(client.send("GET", "/readyz", b"").unwrap().status, 200);
    let info = client.send("GET", "/v1/admin/pool", b"").unwrap().json();
    assert!(info["writable_bytes"].as_u64().unwrap() < 16 << 20, "{info}");
    assert!(info["reserve_bytes"].as_u64().unwrap() > 1 << 20, "{info}");
    for key in 0..n {
        assert_eq!(
            client.send("DELETE", &format!("/v1/kv/default/{key}"), b"").unwrap().status,
            200
        );
    }
    // Each turn waits for the server, which works meanwhile.
    while put(&mut client, 0, &value).status == 507 {}
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("there is room for puts again"), "puts are accepted: {told}");
    while metric(&scrape(&mut client), "millpond_space_writable_bytes") < f64::from(32 << 20) {}
    server.terminate();
    assert!(server.wait().success());
    let log = std::fs::read_to_string(&log).unwrap();
    for line in ["the volumes are full", "there is room for puts again"] {
        assert_eq!(log.matches(line).count(), 1, "{line}:\n{log}");
    }
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    (output.status.code(), text.into_owned())
}

/// What `pool create` made with less was refused by `serve`.
#[test]
fn a_capacity_that_is_too_small_is_refused_by_whoever_is_told_it() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("pond");
    let data = data.to_str().unwrap();
    let told = "option capacity is 100MiB, must be 0 or in 256MiB..=4PiB";
    for (command, refused) in [(&["serve"][..], 1), (&["pool", "create"], 2)] {
        let (code, text) = run(&[command, &["--data", data, "--capacity", "100MiB"]].concat());
        assert_eq!(code, Some(refused), "{command:?}: {text}");
        assert!(text.contains(told), "{command:?}: {text}");
        assert!(!directory.path().join("pond").exists(), "{command:?} made something");
    }
    let (code, text) = run(&["pool", "create", "--data", data, "--capacity", "0"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1.0 TiB") || text.contains("1 TiB"), "{text}");
}

/// `a/b` gave an error of routing, and `.` a KVS that no URL reaches.
#[test]
fn a_bad_name_of_a_kvs_is_told_by_its_rule() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let url = format!("http://{}", server.address);
    for name in ["a/b", ".", "..", "../kvs", "a b", "%2F"] {
        let (code, text) = run(&["kvs", "create", name, "--url", &url]);
        assert_eq!(code, Some(3), "{name}: {text}");
        assert!(text.contains("A-Z a-z 0-9 . _ - and are not . or .."), "{name}: {text}");
    }
    for command in [&["get", "k"][..], &["put", "k", "v"], &["del", "k"], &["scan"]] {
        let (code, text) = run(&[command, &["--kvs", "a/b", "--url", &url]].concat());
        assert_eq!(code, Some(3), "{command:?}: {text}");
        // No way to create it is named where there is none.
        assert!(text.contains("A-Z a-z 0-9 . _ -"), "{command:?}: {text}");
        let (_, text) = run(&[command, &["--kvs", "cats", "--url", &url]].concat());
        let way_out = match command[0] {
            // Nobody creates a KVS to delete from it.
            "del" => "`millpond kvs list` lists those that are there",
            _ => "create it with `millpond kvs create cats`",
        };
        assert!(text.contains(way_out), "{command:?}: {text}");
    }
    for command in [&["tree", "cats"][..], &["compact", "--kvs", "cats"]] {
        let (_, text) = run(&[command, &["--url", &url]].concat());
        let way_out = "`millpond kvs list` lists those that are there";
        assert!(text.contains(way_out), "{command:?}: {text}");
    }
    let mut client = server.connect();
    for target in ["/v1/kvs/cats", "/v1/kv/cats/k"] {
        let reply = client.send("DELETE", target, b"").unwrap();
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        let want = "no KVS is named \"cats\"; GET /v1/kvs lists those that are there";
        assert_eq!((reply.status, &*told), (404, want), "{target}");
    }
    let delete = b"{\"op\":\"delete\",\"kvs\":\"cats\",\"k\":\"a\"}";
    let told = client.send("POST", "/v1/batch", delete).unwrap().text().to_owned();
    assert!(told.contains("GET /v1/kvs lists"), "{told}");
    let reply = server.connect().send("PUT", "/v1/kvs/a/b", b"").unwrap();
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("without a slash"), "{}", reply.text());
    assert_eq!(server.connect().send("PUT", "/v1/kvs/.hidden", b"").unwrap().status, 201);
}
