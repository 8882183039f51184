//! `/v1/admin/tree`, `/v1/admin/compact` and the commands that ask for them, on the real server.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use serde_json::{Value, json};
use std::process::{Command, Output, Stdio};
use support::{Client, Reply, Server};
use tempfile::TempDir;

fn run(server: &Server, arguments: &[&str]) -> Output {
    let url = format!("http://{}", server.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).args(["--url", &url]).env_remove("MILLPOND_URL");
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a command that must succeed; what it prints.
fn done(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn get(client: &mut Client, target: &str) -> Value {
    let reply = client.send("GET", target, b"").unwrap();
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    reply.json()
}

fn post(client: &mut Client, body: &Value) -> Reply {
    client.send("POST", "/v1/admin/compact", body.to_string().as_bytes()).unwrap()
}

/// Asks until the compaction is over.
fn over(client: &mut Client) -> Value {
    loop {
        let seen = get(client, "/v1/admin/compact");
        if seen["running"] == false {
            return seen;
        }
        std::thread::yield_now();
    }
}

fn fill(client: &mut Client, keys: u32) {
    for n in 0..keys {
        let target = format!("/v1/kv/default/key{n:04}?durability=off");
        assert_eq!(client.send("PUT", &target, &[b'v'; 2000]).unwrap().status, 200);
    }
}

#[test]
fn a_tree_is_compacted_and_shown_over_http() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    let absent = client.send("GET", "/v1/admin/compact", b"").unwrap();
    assert_eq!(
        (absent.status, absent.json()["type"].as_str()),
        (404, Some("urn:millpond:problem:no-compaction"))
    );
    fill(&mut client, 100);
    client.send("PUT", "/v1/kv/default/%FF%00?durability=off", b"odd").unwrap();
    for n in 0..50 {
        client.send("DELETE", &format!("/v1/kv/default/key{n:04}"), b"").unwrap();
    }
    let begun = post(&mut client, &json!({}));
    assert_eq!(begun.status, 202, "{}", begun.text());
    let seen = over(&mut client);
    assert_eq!(
        (&seen["state"], &seen["number"], &seen["problems_total"]),
        (&json!("done"), &json!(1), &json!(0))
    );

    let tree = get(&mut client, "/v1/admin/tree/default");
    assert_eq!(
        (&tree["root_kvsets"], &tree["keys"], &tree["tombstones"]),
        (&json!(0), &json!(51), &json!(0))
    );
    assert_eq!(tree["debt"]["due"], json!([]));
    let nodes = tree["nodes"].as_array().unwrap();
    let kvset = &nodes[1]["kvsets"][0];
    assert_eq!((&kvset["keys"], &kvset["min_key"]), (&json!(51), &json!("key0050")));
    assert_eq!((&kvset["max_key64"], &kvset["max_key"]), (&json!("_wA"), &Value::Null));
    let jobs = tree["jobs"].as_array().unwrap();
    let requested = jobs.iter().find(|job| job["reason"] == "requested").unwrap();
    assert_eq!(requested["outcome"], "done");
    assert!(jobs.iter().any(|job| job["action"] == "flush"), "{jobs:?}");
    let paged = get(&mut client, "/v1/admin/tree/default?from=_wA&key_encoding=base64url&limit=1");
    assert_eq!(
        (paged["nodes"].as_array().unwrap().len(), &paged["nodes"][0]["id"]),
        (1, &nodes[1]["id"])
    );

    for (target, status, says) in [
        ("/v1/admin/tree/none", 404, "none"),
        ("/v1/admin/tree/default?limit=0", 400, "limit"),
        ("/v1/admin/tree/default?form=a", 400, "form"),
        ("/v1/admin/tree/", 404, "/v1/admin/tree"),
    ] {
        let reply = client.send("GET", target, b"").unwrap();
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        assert!(reply.text().contains(says), "{target}: {}", reply.text());
    }
    for (body, status, says) in [
        (json!({"kvs": "none"}), 404, "none"),
        (json!({"from": "a"}), 400, "name it"),
        (json!({"kvs": "default", "from": "b", "to": "a"}), 400, "from must be less"),
        (json!({"kvs": "default", "from": "b", "from64": "Yg"}), 400, "from64"),
        (json!({"kvs": "default", "to64": "a!"}), 400, "to64"),
        (json!({"rate": 1}), 400, "rate"),
    ] {
        let reply = post(&mut client, &body);
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        assert!(reply.text().contains(says), "{body}: {}", reply.text());
    }
    let wrong = client.send("PUT", "/v1/admin/compact", b"").unwrap();
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD, POST, DELETE")));
    // One that is over is not cancelled any more.
    let late = client.send("DELETE", "/v1/admin/compact", b"").unwrap();
    assert_eq!((late.status, &late.json()["state"]), (200, &json!("done")));

    // It is of this process.
    drop(server);
    let server = Server::start(directory.path(), &[]);
    assert_eq!(server.connect().send("GET", "/v1/admin/compact", b"").unwrap().status, 404);
}

#[test]
fn the_commands_show_trees_and_wait_for_compactions() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    fill(&mut client, 20);
    let absent = run(&server, &["compact", "--status"]);
    assert_eq!(absent.status.code(), Some(1), "{}", text(&absent.stderr));
    let waited = done(&server, &["compact", "--kvs", "default", "--from", "key", "--wait"]);
    assert!(waited.contains("KVS default from \"key\"") && waited.contains("done"), "{waited}");
    assert!(done(&server, &["compact", "--status"]).contains("done"));
    let cancelled: Value =
        serde_json::from_str(&done(&server, &["compact", "--cancel", "--json"])).unwrap();
    assert_eq!(cancelled["state"], "done", "it was over");

    let all = done(&server, &["tree"]);
    assert!(all.contains("default") && all.contains("LEFT ALONE"), "{all}");
    let one = done(&server, &["tree", "default"]);
    for part in ["spilled from", "leaf ", "requested", "\"key0000\" to \"key0019\""] {
        assert!(one.contains(part), "{part}: {one}");
    }
    let shown: Value =
        serde_json::from_str(&done(&server, &["tree", "default", "--json"])).unwrap();
    assert_eq!(shown["keys"], 20);

    let snapshots = done(&server, &["snapshots"]);
    assert!(snapshots.contains("snapshots 0"), "{snapshots}");

    for (arguments, code, says) in [
        (&["tree", "none"][..], 3, "millpond kvs list"),
        (&["compact", "--kvs", "none"], 3, "none"),
        (&["compact", "--from", "a"], 2, "--kvs"),
        (&["compact", "--cancel", "--wait"], 2, "--wait"),
        (&["tree", "--from", "a"], 2, "KVS"),
    ] {
        let output = run(&server, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {}", text(&output.stderr));
    }
}

/// It was "done", with exit code 0 of `--status`, though parts were not.
#[test]
fn what_could_not_be_compacted_is_told_by_state_and_exit_code() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    fill(&mut client, 100);
    assert!(done(&server, &["compact", "--wait"]).contains("state      done\n"));
    let nothing = done(&server, &["compact", "--wait"]);
    assert!(nothing.contains("state      done: there was nothing to do"), "{nothing}");
    fill(&mut client, 50);
    post(&mut client, &json!({}));
    over(&mut client);
    fill(&mut client, 20);
    server.terminate();
    assert!(server.wait().success());

    // Every value that is stored rots.
    let file = directory.path().join("capacity.vol");
    let mut bytes = std::fs::read(&file).unwrap();
    for page in bytes.chunks_mut(4096) {
        if page[1000..2000].iter().all(|byte| *byte == b'v') {
            page[1500] ^= 4;
        }
    }
    std::fs::write(&file, bytes).unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut client = server.connect();
    let waited = run(&server, &["compact", "--wait"]);
    assert_eq!(waited.status.code(), Some(1), "{}", text(&waited.stdout));
    let status = run(&server, &["compact", "--status"]);
    assert_eq!(status.status.code(), Some(1), "{}", text(&status.stdout));
    let shown = text(&status.stdout);
    assert!(shown.contains("incomplete") && shown.contains("problem    unreadable: "), "{shown}");
    assert!(text(&status.stderr).contains("could not be"), "{}", text(&status.stderr));
    let seen = get(&mut client, "/v1/admin/compact");
    assert_eq!((&seen["state"], &seen["nothing_to_do"]), (&json!("incomplete"), &json!(false)));
    let problem = &seen["problems"][0];
    assert_eq!(problem["reason"], "unreadable", "{seen}");
    assert!(problem["detail"].as_str().unwrap().contains("millpond pool scrub"), "{seen}");
}

#[test]
fn a_server_that_reads_only_or_is_no_friend_refuses() {
    let directory = TempDir::new().unwrap();
    drop(Server::start(directory.path(), &[]));
    let server = Server::start(directory.path(), &["--read-only"]);
    let mut client = server.connect();
    assert_eq!(get(&mut client, "/v1/admin/tree/default")["kvsets"], 0);
    let refused = post(&mut client, &json!({}));
    assert_eq!((refused.status, refused.text().contains("read-only")), (403, true));
    drop(server);
    let server = Server::start(directory.path(), &["--admin", "false"]);
    let mut client = server.connect();
    for target in ["/v1/admin/tree/default", "/v1/admin/compact", "/v1/admin/snapshots"] {
        let refused = client.send("GET", target, b"").unwrap();
        assert_eq!((refused.status, refused.text().contains("admin-off")), (403, true), "{target}");
    }
    assert_eq!(post(&mut client, &json!({})).status, 403);
    assert_eq!(client.send("DELETE", "/v1/admin/snapshots/1", b"").unwrap().status, 403);
}

/// A stream whose client does not read on holds a snapshot; it is seen, and ended in time.
#[test]
fn a_snapshot_that_is_held_is_seen_and_ended() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &["--snapshot-age-max", "1s"]);
    let mut client = server.connect();
    // More than the sockets and the pieces of a stream hold.
    for n in 0..60 {
        let target = format!("/v1/kv/default/key{n:04}?durability=off");
        assert_eq!(client.send("PUT", &target, &vec![b'v'; 1 << 19]).unwrap().status, 200);
    }
    let mut reader = stalled_stream(&server, "slow-1");
    let held = get(&mut client, "/v1/admin/snapshots");
    assert_eq!((&held["count"], &held["age_max_seconds"]), (&json!(1), &json!(1.0)), "{held}");
    assert!(
        held["oldest"][0]["revision"].as_u64().is_some_and(|revision| revision >= 60),
        "{held}"
    );
    while get(&mut client, "/v1/admin/snapshots")["ended_total"] == 0 {
        std::thread::yield_now();
    }
    let end = last_line(&mut reader);
    assert!(end.contains("snapshot-ended") && end.contains("snapshot_age_max"), "{end}");
    let scrape = client.send("GET", "/metrics", b"").unwrap();
    let ended = "millpond_snapshots_ended_total{reason=\"age\"} 1";
    assert!(scrape.text().contains(ended), "{}", scrape.text());
}

/// A stream whose client has read its head and reads no further.
fn stalled_stream(server: &Server, request_id: &str) -> Client {
    let mut reader = server.connect();
    let request = format!(
        "GET /v1/kv/default HTTP/1.1\r\nhost: {}\r\naccept: application/x-ndjson\r\n\
         x-request-id: {request_id}\r\n\r\n",
        server.address
    );
    reader.write(request.as_bytes()).unwrap();
    assert!(reader.line().unwrap().contains("200"));
    reader
}

/// Reads a stream on, and returns how it ends.
fn last_line(reader: &mut Client) -> String {
    let mut rest = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = reader.read_some(&mut buffer).unwrap();
        rest.extend_from_slice(&buffer[..read]);
        if rest.len() > 4096 {
            rest.drain(..rest.len() - 4096);
        }
        let seen = String::from_utf8_lossy(&rest);
        if read == 0 || seen.contains("{\"error\"") || seen.contains("{\"end\"") {
            return seen.into_owned();
        }
    }
}

/// Nothing said whose scan held space, and only its client could end it.
#[test]
fn a_scan_that_holds_space_is_named_and_ended_by_its_operator() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &["--snapshot-age-max", "0s"]);
    let mut client = server.connect();
    let fill = |client: &mut Client, byte| {
        for n in 0..60 {
            let target = format!("/v1/kv/default/key{n:04}?durability=off");
            assert_eq!(client.send("PUT", &target, &vec![byte; 1 << 19]).unwrap().status, 200);
        }
        post(client, &json!({}));
        assert_eq!(over(client)["state"], "done");
    };
    fill(&mut client, b'v');
    let mut reader = stalled_stream(&server, "slow-1");
    fill(&mut client, b'w');
    let held = get(&mut client, "/v1/admin/snapshots");
    let one = &held["oldest"][0];
    let (kind, kvs, holder) = (&one["kind"], &one["kvs"], one["holder"].as_str().unwrap());
    assert_eq!((kind, kvs), (&json!("cursor"), &json!("default")), "{held}");
    assert!(holder.starts_with("request slow-1 from 127.0.0.1:"), "{held}");
    assert!(held["held_bytes"].as_u64().is_some_and(|bytes| bytes > 60 << 19), "{held}");
    let shown = done(&server, &["snapshots"]);
    for part in ["snapshots 1", "slow-1", "cursor", "default"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let id = one["id"].to_string();
    let ended = done(&server, &["snapshots", "--end", &id]);
    assert!(ended.contains("is ended") && ended.contains("slow-1"), "{ended}");
    // Its client has read nothing since, and what it held is free.
    let after = get(&mut client, "/v1/admin/snapshots");
    assert_eq!(after["count"], 0, "{after}");
    // Reads of the background may have some for a moment.
    while get(&mut client, "/v1/admin/snapshots")["held_bytes"] != 0 {
        std::thread::yield_now();
    }
    assert_eq!((&after["ended_total"], &after["ended_requested_total"]), (&json!(0), &json!(1)));
    let end = last_line(&mut reader);
    for part in ["snapshot-ended", "ended on request", "\"request_id\":\"slow-1\""] {
        assert!(end.contains(part), "{part}: {end}");
    }
    let again = run(&server, &["snapshots", "--end", &id]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("millpond snapshots lists"), "{}", text(&again.stderr));
    for (target, status, says) in [
        (format!("/v1/admin/snapshots/{id}"), 404, "no-such-snapshot"),
        ("/v1/admin/snapshots/first".to_owned(), 400, "an id is a number"),
        (format!("/v1/admin/snapshots/{id}?force=1"), 400, "force"),
    ] {
        let reply = client.send("DELETE", &target, b"").unwrap();
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        assert!(reply.text().contains(says), "{target}: {}", reply.text());
    }
    let wrong = client.send("GET", &format!("/v1/admin/snapshots/{id}"), b"").unwrap();
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("DELETE")));
}
