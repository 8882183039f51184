//! How a server starts after each kind of end, and what it says meanwhile.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use kvs::{Database, Durability, Options};
use millpond::app::App;
use millpond::state::Limits;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use support::Server;
use tempfile::TempDir;

const KEY: &str = "/v1/kv/default/a";

fn replayed(server: &Server) -> u64 {
    let scrape = server.connect().send("GET", "/metrics", b"").unwrap();
    let name = "millpond_wal_replay_bytes_total ";
    let line = scrape.text().lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().parse().unwrap()
}

fn put(server: &Server, value: &str) {
    let put = server.connect().send("PUT", KEY, value.as_bytes()).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
}

fn value(server: &Server) -> String {
    server.connect().send("GET", KEY, b"").unwrap().text().to_owned()
}

/// Waits until the kernel has ended what a killed server had in flight: on a busy machine that may
/// be longer than a start waits for its volume.
fn await_end(data: &Path) {
    let volume = File::open(data.join("capacity.vol")).unwrap();
    rustix::fs::flock(&volume, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

/// Three starts in a row replayed the same 57 MiB.
#[test]
fn a_stop_in_order_leaves_nothing_to_replay() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path(), &[]);
    put(&server, "stopped");
    server.terminate();
    assert!(server.wait().success());
    let server = Server::start(directory.path(), &[]);
    assert_eq!((replayed(&server), value(&server)), (0, "stopped".to_owned()));
    put(&server, "killed");
    server.kill();
    await_end(directory.path());
    let server = Server::start(directory.path(), &[]);
    assert!(replayed(&server) > 0);
    assert_eq!(value(&server), "killed");
    server.kill();
    await_end(directory.path());
    // A supervisor whose patience ends while the server is closing.
    for round in 0..3 {
        let server = Server::start(directory.path(), &[]);
        let now = format!("{round}: {}", "cut off ".repeat(50_000));
        put(&server, &now);
        server.terminate();
        server.kill();
        await_end(directory.path());
        let server = Server::start(directory.path(), &[]);
        assert!(value(&server) == now, "round {round}");
        server.kill();
        await_end(directory.path());
    }
}

#[tokio::test]
async fn readyz_says_how_far_a_start_is() {
    let directory = TempDir::new().unwrap();
    let mut options = Options { initial_kvs: vec!["default".to_owned()], ..Options::default() };
    options.pool.allow_buffered = true;
    options.pool.allow_volatile = true;
    options.pool.reserve_bytes = Some(0);
    options.pool.capacity_bytes_max = 1 << 30;
    let database = Database::open(directory.path(), options.clone()).unwrap();
    database.kvs("default").unwrap().put(b"a", b"value", Durability::Sync).unwrap();
    // As after a kill: what is there now is copied.
    let killed = TempDir::new().unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
    }
    let app = App::new(Limits::default());
    let ready = async || {
        let request = Request::get("/readyz").header("host", "localhost").body(Body::empty());
        let answer = app.answer(request.unwrap()).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(ready().await, (503, "starting\n".to_owned()));
    let progress = &app.shared().progress;
    let copy = Database::open_watched(killed.path(), options, progress).unwrap();
    let (status, text) = ready().await;
    assert_eq!(status, 503);
    assert!(text.starts_with("starting\nreplaying the log: 100 % of "), "{text}");
    app.shared().open(Arc::new(copy));
    assert_eq!(ready().await, (200, "ready\n".to_owned()));
}
