//! `Expect: 100-continue` on every route: what the head alone decides is answered in place of 100,
//! however small the body is, and only a request that would be carried out is told to go on.
//!
//! A client that is told to go on sends its body for nothing if the refusal was known before: small
//! bodies, batches with `?kvs=`, and most administrative routes were told so.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use kvs::{Ailment, Health, Part};
use millpond::connection::ConnectionLimits;
use millpond::state::{Limits, Phase};
use std::net::SocketAddr;
use support::{Client, Server, in_process};
use tempfile::TempDir;

/// How the body is announced: what hyper, and the routes, tell apart.
const BODIES: [&str; 3] =
    ["content-length: 50", "content-length: 1000000", "transfer-encoding: chunked"];

/// A body too large for the administrative routes.
const SMALL: [&str; 2] = ["content-length: 50", "transfer-encoding: chunked"];

const JSON: &str = "content-type: application/json\r\n";

/// Method, target, header fields, and the status that the head decides.
type Case = (&'static str, &'static str, &'static str, u16);

fn ask(address: SocketAddr, (method, target, fields): (&str, &str, &str), body: &str) -> Client {
    let mut client = Client::connect(address).unwrap();
    let host = if fields.contains("host: ") { "" } else { "host: localhost\r\n" };
    let head = format!(
        "{method} {target} HTTP/1.1\r\n{host}expect: 100-continue\r\n{body}\r\n{fields}\r\n"
    );
    client.write(head.as_bytes()).unwrap();
    client
}

/// Each request gets its status at once, and the end of its connection.
fn are_final(address: SocketAddr, cases: &[Case]) {
    for (method, target, fields, status) in cases {
        for body in BODIES {
            let shown = format!("{method} {target} {fields:?} {body}");
            let mut client = ask(address, (method, target, fields), body);
            let reply = client.reply(method).unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(reply.status, *status, "{shown}: {reply:?}");
            assert_eq!(reply.header("connection"), Some("close"), "{shown}");
            assert_eq!(client.until_closed(), b"", "{shown}");
        }
    }
}

/// Each request is told to go on, because nothing that is known speaks against it.
fn go_on(address: SocketAddr, cases: &[(&str, &str)]) {
    for (method, target) in cases {
        for body in SMALL {
            let mut client = ask(address, (method, target, JSON), body);
            assert_eq!(client.line().unwrap(), "HTTP/1.1 100 Continue", "{method} {target} {body}");
        }
    }
}

/// Every route that takes a body.
const WRITES: [(&str, &str); 7] = [
    ("PUT", "/v1/kv/default/k"),
    ("POST", "/v1/kv/default/k"),
    ("POST", "/v1/batch"),
    ("PUT", "/v1/admin/pool/name"),
    ("POST", "/v1/admin/pool/volumes"),
    ("POST", "/v1/admin/pool/volumes/vol-0/grow"),
    ("POST", "/v1/admin/pool/scrub"),
];

/// Refusals that no state of the store brings about.
const ALWAYS: [Case; 36] = [
    ("PUT", "/v1/kv/nope/k", "", 404),
    ("POST", "/v1/kv/nope/k", "", 404),
    ("PUT", "/v1/kv/a%20b/k", "", 400),
    ("PUT", "/v1/kv/default/k?durability=never", "", 400),
    ("PUT", "/v1/kv/default/k?nonsense=1", "", 400),
    ("PUT", "/v1/kv/default/%zz", "", 400),
    ("PUT", "/v1/kv/default/", "", 400),
    ("PUT", "/v1/kv/default/k", "if-match: \"1\"\r\n", 501),
    ("PUT", "/v1/kv/default/k", "content-encoding: gzip\r\n", 415),
    ("PUT", "/v1/kv/default/k", "content-range: bytes 1-2/3\r\n", 400),
    ("PUT", "/v1/kv/default/k", "host: evil.example\r\n", 403),
    ("PUT", "/v1/kv/default/k", "origin: http://evil.example\r\n", 403),
    ("PATCH", "/v1/kv/default/k", "", 405),
    ("PUT", "/v1/kv/default", "", 405),
    ("POST", "/v1/batch?kvs=nope", JSON, 404),
    ("POST", "/v1/batch?kvs=a%20b", JSON, 400),
    ("POST", "/v1/batch?durability=never", JSON, 400),
    ("POST", "/v1/batch", "content-type: text/plain\r\n", 415),
    ("POST", "/v1/batch", "", 415),
    ("PUT", "/v1/batch", JSON, 405),
    ("POST", "/v1/kvs", JSON, 405),
    ("POST", "/v1/kvs/birds", JSON, 405),
    ("PUT", "/v1/kvs/birds?nonsense=1", "", 400),
    ("POST", "/v1/admin/pool", JSON, 405),
    ("PUT", "/v1/admin/pool/name", "", 415),
    ("PUT", "/v1/admin/pool/name?x=1", JSON, 400),
    ("POST", "/v1/admin/pool/volumes", "content-type: text/plain\r\n", 415),
    ("POST", "/v1/admin/pool/volumes/9/grow", JSON, 404),
    ("POST", "/v1/admin/pool/volumes/vol-x/grow", JSON, 404),
    ("POST", "/v1/admin/pool/volumes/9/evacuate", JSON, 404),
    ("POST", "/v1/admin/pool/volumes/0/evacuate", JSON, 409),
    ("POST", "/v1/admin/pool/volumes/0/cancel", JSON, 409),
    ("POST", "/v1/admin/pool/volumes/9/shrink", JSON, 404),
    ("PUT", "/v1/admin/pool/scrub", JSON, 405),
    ("POST", "/livez", JSON, 405),
    ("POST", "/nowhere", JSON, 404),
];

#[test]
fn the_head_decides_on_every_route() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let server = Server::start(data, &[]);
    are_final(server.address, &ALWAYS);
    // These take no body, and are done with the head.
    assert_eq!(server.connect().send("PUT", "/v1/kvs/birds", b"").unwrap().status, 201);
    are_final(
        server.address,
        &[
            ("PUT", "/v1/kvs/birds", "", 200),
            ("GET", "/v1/kvs", "", 200),
            ("DELETE", "/v1/kv/default/k", "", 200),
        ],
    );
    go_on(server.address, &WRITES);
    // What is larger than any body may be is known, too.
    for (target, len, status) in [
        ("/v1/kv/default/k", 17 << 20, 413),
        ("/v1/batch", 33 << 20, 413),
        ("/v1/admin/pool/volumes", 17 << 10, 413),
    ] {
        let length = format!("content-length: {len}");
        let reply = ask(server.address, ("POST", target, JSON), &length).reply("POST").unwrap();
        assert_eq!(reply.status, status, "{target}");
    }
    server.terminate();
    assert!(server.wait().success());

    let reads_only = Server::start(data, &["--read-only"]);
    are_final(reads_only.address, &ALWAYS.map(read_only));
    let (scrub, writes) = WRITES.split_last().unwrap();
    for (method, target) in writes {
        are_final(reads_only.address, &[(method, target, JSON, 403)]);
    }
    go_on(reads_only.address, &[*scrub]);
    reads_only.terminate();
    assert!(reads_only.wait().success());

    let no_admin = Server::start(data, &["--admin", "false"]);
    let (data_routes, administrative) = WRITES.split_at(3);
    for (method, target) in administrative {
        are_final(no_admin.address, &[(method, target, JSON, 403)]);
    }
    go_on(no_admin.address, data_routes);
}

/// The same case on a server that only reads, which says so where the request itself is right.
fn read_only((method, target, fields, status): Case) -> Case {
    let of_state = ["?kvs=", "/9/grow", "/evacuate", "/cancel", "/nope/k", "/a%20b/k"];
    let refused = of_state.iter().any(|part| target.contains(part));
    let refused = refused || target.ends_with("/default/");
    (method, target, fields, if refused { 403 } else { status })
}

#[test]
fn a_failed_store_and_a_closing_server_say_so_at_once() {
    let refuse = |address, writes: &[(&'static str, &'static str)]| {
        for (method, target) in writes {
            are_final(address, &[(method, target, JSON, 503)]);
        }
    };
    let server = in_process::Server::with(Limits::default(), ConnectionLimits::default());
    go_on(server.address, &WRITES[..3]);
    for part in [Part::Log, Part::Shape, Part::Volumes] {
        let ailments = vec![Ailment { part, cause: "the drive is gone".into() }];
        server.engine.set_health(Health { ailments });
        refuse(server.address, &WRITES[..6]);
    }
    server.engine.set_health(Health::default());
    go_on(server.address, &WRITES[..3]);
    server.app.shared().set_phase(Phase::Draining);
    refuse(server.address, &WRITES);
}
