//! Bits rot in the file of a store: a scan says in the place what it cannot read, and goes on.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use kvs::Error;
use millpond::app::App;
use millpond::engine::memory::MemoryEngine;
use millpond::state::Limits;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::{Client, Server};
use tempfile::TempDir;

const KEYS: usize = 900;
const BAD: [&str; 3] = ["key-0000", "key-0017", "key-0018"];
/// What is older than this has been flushed: the rest fits into the memtables that may wait.
const FLAGS: [&str; 2] = ["--memtable", "1MiB"];

fn key(n: usize) -> String {
    format!("key-{n:04}")
}

/// Ten thousand bytes that are nobody else's.
fn value(key: &str) -> String {
    format!("<{key}>").repeat(10_000 / (key.len() + 2))
}

/// Flips a bit of each value wherever it stands in the file.
fn strike(file: &Path, keys: &[&str]) {
    let mut bytes = fs::read(file).unwrap();
    for key in keys {
        let pattern = format!("<{key}><{key}>").into_bytes();
        let places: Vec<usize> = bytes
            .windows(pattern.len())
            .enumerate()
            .filter(|(_, found)| *found == &pattern[..])
            .map(|(at, _)| at)
            .collect();
        assert!(places.len() > 500, "{key} is stored");
        // The log may hold it, too; there it is not read, as it is older than what is flushed.
        for at in places {
            bytes[at] ^= 4;
        }
    }
    fs::write(file, bytes).unwrap();
}

fn damaged_store() -> (TempDir, Server) {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &FLAGS);
    let mut client = server.connect();
    for n in 0..KEYS {
        let target = format!("/v1/kv/default/{}?durability=off", key(n));
        assert_eq!(client.send("PUT", &target, value(&key(n)).as_bytes()).unwrap().status, 200);
    }
    server.terminate();
    assert!(server.wait().success());
    strike(&directory.path().join("capacity.vol"), &BAD);
    let server = Server::start(directory.path(), &FLAGS);
    (directory, server)
}

/// Every line is an item that is right, or the error of a key that is struck.
fn check_lines<'a>(lines: impl Iterator<Item = &'a Value>) -> usize {
    let mut seen = 0;
    for line in lines {
        let key = line["k"].as_str().unwrap_or_else(|| panic!("{line}"));
        if BAD.contains(&key) {
            assert_eq!(line["error"]["type"], "urn:millpond:problem:damaged", "{line}");
            let detail = line["error"]["detail"].as_str().unwrap();
            assert!(detail.contains("\"default\"") && detail.contains(key), "{detail}");
            assert!(line["v"].is_null() && line["rev"].is_null(), "{line}");
        } else {
            assert_eq!(line["v"], value(key), "{key}");
        }
        seen += 1;
    }
    seen
}

fn pages(client: &mut Client, query: &str) -> usize {
    let (mut seen, mut damaged, mut cursor) = (0, 0, String::new());
    loop {
        let target = format!("/v1/kv/default?{query}{cursor}");
        let reply = client.send("GET", &target, b"").unwrap();
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        let page = reply.json();
        seen += check_lines(page["items"].as_array().unwrap().iter());
        damaged += page["damaged"].as_u64().unwrap_or(0);
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(damaged, BAD.len() as u64, "{query}");
    seen
}

fn scan_command(server: &Server, flags: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["scan", "--url", &format!("http://{}", server.address)])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), lines, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_scan_tells_damage_in_its_place_and_goes_on() {
    let (_directory, server) = damaged_store();
    let mut client = server.connect();
    for query in ["limit=400", "limit=400&reverse=true", "limit=1&end=key-0030"] {
        let seen = pages(&mut client, query);
        assert_eq!(seen, if query.contains("end") { 30 } else { KEYS }, "{query}");
    }
    let accept = "accept: application/x-ndjson\r\n";
    let stream = client.send_with("GET", "/v1/kv/default", accept, b"").unwrap();
    let lines: Vec<Value> =
        stream.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, items) = lines.split_last().unwrap();
    assert_eq!(check_lines(items.iter()), KEYS);
    assert_eq!(
        (&last["end"], &last["count"], &last["damaged"]),
        (&json!(true), &json!(KEYS - BAD.len()), &json!(BAD.len()))
    );
    // Keys need no values.
    let keys = client.send("GET", "/v1/kv/default?keys_only=true&limit=900", b"").unwrap().json();
    assert_eq!((keys["items"].as_array().unwrap().len(), &keys["damaged"]), (KEYS, &Value::Null));
    // What was scanned is not taken for whole.
    let back = client.send("POST", "/v1/batch", stream.text().as_bytes()).unwrap();
    assert_eq!(back.status, 400, "{}", back.text());

    let (code, lines, said) = scan_command(&server, &["--end", "key-0030"]);
    assert_eq!((code, check_lines(lines.iter())), (Some(1), 30));
    assert!(said.contains("3 keys"), "{said}");
    assert_eq!(scan_command(&server, &["--start", "key-0030", "--limit", "5"]).0, Some(0));
}

#[test]
fn who_wants_to_stop_at_damage_says_so_and_a_key_is_named() {
    let (_directory, server) = damaged_store();
    let mut client = server.connect();
    let page = client.send("GET", "/v1/kv/default?on_damage=stop", b"").unwrap();
    assert_eq!(page.status, 500);
    assert!(page.text().contains("key-0000"), "{}", page.text());
    let accept = "accept: application/x-ndjson\r\n";
    let target = "/v1/kv/default?on_damage=stop&start=key-0010";
    let stream = client.send_with("GET", target, accept, b"").unwrap();
    let lines: Vec<Value> =
        stream.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8, "seven items and an error");
    assert!(lines[7]["k"].is_null(), "{}", lines[7]);
    assert!(lines[7]["error"]["detail"].as_str().unwrap().contains("key-0017"));
    assert_eq!(client.send("GET", "/v1/kv/default?on_damage=maybe", b"").unwrap().status, 400);
    let get = client.send("GET", "/v1/kv/default/key-0018", b"").unwrap();
    assert_eq!(get.status, 500);
    let detail = get.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("\"default\"") && detail.contains("\"key-0018\""), "{detail}");
    assert_eq!(client.send("PUT", "/v1/kv/default/key-0018", b"new").unwrap().status, 200);
    assert_eq!(client.send("GET", "/v1/kv/default/key-0018", b"").unwrap().text(), "new");
}

/// A page of an index that cannot be read is a range among the items, and no item of its own.
#[tokio::test]
async fn a_range_that_cannot_be_read_is_told_among_the_items() {
    let engine = Arc::new(MemoryEngine::new());
    let app = App::with_engine(Arc::<MemoryEngine>::clone(&engine), Limits::default());
    let get = async |target: &str| {
        let request = Request::get(target).header("host", "pond").body(Body::empty()).unwrap();
        let body = app.answer(request).await.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    for key in ["a", "b", "c"] {
        let request = Request::put(format!("/v1/kv/default/{key}")).header("host", "pond");
        let request = request.body(Body::from(key)).unwrap();
        assert_eq!(app.answer(request).await.status().as_u16(), 200);
    }
    let range = || Error::DamagedRange {
        kvs: "default".into(),
        from: b"a"[..].into(),
        to: b"\xff"[..].into(),
        source: Box::new(Error::Corrupt { what: "page 3".into(), reason: "rot".into() }),
    };
    engine.fail_next_step(range());
    let page = get("/v1/kv/default?limit=2").await;
    let items = page["items"].as_array().unwrap();
    assert_eq!((&items[0]["from"], &items[0]["to64"]), (&json!("a"), &json!("_w")));
    assert!(items[0]["error"]["detail"].as_str().unwrap().contains("page 3"), "{page}");
    assert_eq!((&items[1]["k"], &items[2]["k"]), (&json!("a"), &json!("b")));
    assert_eq!((items.len(), &page["damaged"]), (3, &json!(1)), "a range takes no item's place");
    assert!(page["cursor"].is_string(), "{page}");
    engine.fail_next_step(range());
    let stopped = get("/v1/kv/default?on_damage=stop").await;
    assert_eq!(stopped["type"], "urn:millpond:problem:damaged");
}
