//! Bodies and responses that nobody sends or reads: what they may hold, and for how long. Answers
//! that come before the request is there. Scans that find nothing.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use millpond::connection::ConnectionLimits;
use millpond::connection::Timeouts;
use millpond::engine::memory::Cold;
use millpond::state::{Limits, Phase};
use std::time::{Duration, Instant};
use support::in_process::Server;
use support::{Client, Reply};

const MIB: usize = 1 << 20;
const FAR: Duration = Duration::from_mins(10);
const HELD: &str = "millpond_http_response_memory_bytes";

/// Limits on connections of which a test reaches one.
fn far() -> Timeouts {
    Timeouts { header: FAR, idle: FAR, write: FAR, rate_min: 0 }
}

fn connections(timeouts: Timeouts) -> ConnectionLimits {
    ConnectionLimits { timeouts, ..ConnectionLimits::default() }
}

/// Three values of 16 MiB may be on their way, and who finds no room is told soon.
fn limits() -> Limits {
    Limits {
        response_memory_bytes: 48 * MIB,
        request_timeout: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn put(server: &Server, key: &str, len: usize) {
    let target = format!("/v1/kv/default/{key}");
    assert_eq!(server.connect().send("PUT", &target, &vec![7; len]).unwrap().status, 200);
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: pond\r\n\r\n").into_bytes()
}

/// A client that asks and does not read.
fn stalled(server: &Server, target: &str) -> Client {
    let mut client = server.connect();
    client.write(&get(target)).unwrap();
    client
}

/// Twelve readers of 16 MiB that stalled used to hold twelve times what a value takes, and more
/// where it had become JSON.
#[test]
fn readers_that_stall_hold_no_more_than_the_budget_and_not_for_ever() {
    for target in ["/v1/kv/default/a", "/v1/kv/default?limit=1"] {
        let timeouts = Timeouts { write: Duration::from_secs(3), ..far() };
        let server = Server::with(limits(), connections(timeouts));
        put(&server, "a", 16 * MIB);
        let mut clients: Vec<Client> = (0..12).map(|_| stalled(&server, target)).collect();
        // They come in any order; the rest is told why.
        while server.metric("millpond_http_slow_readers_total") == 0 {
            std::thread::yield_now();
        }
        server.wait_for(HELD, 0);
        let peak = server.metric("millpond_http_response_memory_peak_bytes");
        let limit = server.metric("millpond_http_response_memory_limit_bytes");
        assert!(peak <= limit && peak >= 16 << 20, "{peak} of {limit}");
        let answers: Vec<Vec<u8>> = clients.iter_mut().map(Client::some_bytes).collect();
        let refused = answers.iter().filter(|answer| answer.starts_with(b"HTTP/1.1 503")).count();
        let served = answers.iter().filter(|answer| answer.starts_with(b"HTTP/1.1 200")).count();
        assert_eq!((refused + served, refused > 0), (12, true), "{target}");
        assert_eq!(server.metric("millpond_http_slow_readers_total"), served as u64, "{target}");
        // There is room again.
        assert_eq!(server.connect().send("GET", target, b"").unwrap().status, 200);
    }
}

#[test]
fn honest_readers_are_served_one_after_the_other() {
    let server = Server::with(
        Limits { request_timeout: FAR, ..limits() },
        connections(Timeouts { write: FAR, ..far() }),
    );
    for cold in [Cold::Never, Cold::Always, Cold::Index] {
        server.engine.set_cold(cold);
        put(&server, "a", 16 * MIB);
        let address = server.address;
        let readers: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || -> Reply {
                    let mut client = Client::connect(address).unwrap();
                    client.send("GET", "/v1/kv/default/a", b"").unwrap()
                })
            })
            .collect();
        for reader in readers {
            let reply = reader.join().unwrap();
            // Waiting for room is bounded; who waited too long is told.
            match reply.status {
                200 => assert_eq!(reply.body.len(), 16 * MIB),
                _ => assert_eq!(reply.header("x-millpond-stall"), Some("response_memory")),
            }
        }
        server.wait_for(HELD, 0);
    }
    let peak = server.metric("millpond_http_response_memory_peak_bytes");
    assert!(peak <= server.metric("millpond_http_response_memory_limit_bytes"));
}

/// A reader of a few bytes a second used to be served for ever.
#[test]
fn a_reader_below_the_least_rate_is_cut_off() {
    let timeouts = Timeouts { write: Duration::from_millis(500), rate_min: 100 << 20, ..far() };
    let server = Server::with(limits(), connections(timeouts));
    put(&server, "a", 16 * MIB);
    let mut client = stalled(&server, "/v1/kv/default/a");
    let mut seen = 0;
    while let Ok(read @ 1..) = client.read_some(&mut [0; 100]) {
        seen += read;
        if server.metric("millpond_http_slow_readers_total") == 1 {
            break;
        }
    }
    assert!(seen < 16 * MIB, "{seen}");
    server.wait_for(HELD, 0);
    server.wait_for("millpond_http_connections_closed_total{reason=\"write_timeout\"}", 1);
}

/// Who took megabytes at once and rested was cut off after `write_timeout`, however long what it
/// had taken would have lasted at the least rate.
#[test]
fn a_reader_that_rests_on_what_it_took_is_served_to_the_end() {
    let write = Duration::from_millis(500);
    let server = Server::with(limits(), connections(Timeouts { write, rate_min: 1024, ..far() }));
    for key in ["a", "b", "c"] {
        put(&server, key, 8 * MIB);
    }
    let mut stream = server.connect();
    let kind = "accept: application/x-ndjson";
    let scan = format!("GET /v1/kv/default HTTP/1.1\r\nhost: pond\r\n{kind}\r\n\r\n");
    stream.write(scan.as_bytes()).unwrap();
    let mut value = stalled(&server, "/v1/kv/default/a");
    let taken = [&mut stream, &mut value].map(|client| read_up_to(client, 0, MIB));
    let rest = Instant::now();
    while rest.elapsed() < 4 * write {
        std::thread::yield_now();
    }
    assert_eq!(server.metric("millpond_http_slow_readers_total"), 0);
    for ((mut client, bytes), taken) in
        [(stream, 24 * MIB), (value, 8 * MIB)].into_iter().zip(taken)
    {
        assert!(read_up_to(&mut client, taken, bytes) >= bytes);
    }
}

/// Reads on until so many bytes have come; how many it was then.
fn read_up_to(client: &mut Client, mut taken: usize, bytes: usize) -> usize {
    let mut buffer = vec![0; MIB];
    while taken < bytes {
        let read = client.read_some(&mut buffer).unwrap();
        assert!(read > 0, "cut off after {taken}");
        taken += read;
    }
    taken
}

async fn http2(server: &Server, window: u32) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .keep_alive_interval(Duration::from_millis(20))
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn uri(path: &str) -> String {
    format!("http://pond{path}")
}

/// Streams without a window used to keep their values for as long as pings came.
#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_without_window_lose_their_memory_and_pings_keep_nothing_open() {
    let timeouts =
        Timeouts { write: Duration::from_millis(500), idle: Duration::from_secs(2), ..far() };
    let server = Server::with(limits(), connections(timeouts));
    put(&server, "a", 16 * MIB);
    let mut sender = http2(&server, 0).await;
    let mut responses = Vec::new();
    for _ in 0..3 {
        let get = Request::get(uri("/v1/kv/default/a")).body(Body::empty()).unwrap();
        let response = sender.send_request(get).await.unwrap();
        assert_eq!(response.status(), 200);
        responses.push(response);
    }
    assert!(server.metric("millpond_http_response_memory_peak_bytes") >= 48 << 20);
    server.wait_for(HELD, 0);
    server.wait_for("millpond_http_slow_readers_total", 3);
    // Its pings are answered all the while, and are no reason to keep it.
    server.wait_for("millpond_http_connections_closed_total{reason=\"idle\"}", 1);
    assert!(responses.pop().unwrap().into_body().collect().await.is_err());
}

/// A client that reads after it has sent all used to find its connection reset, 30 times of 30.
#[test]
fn a_refusal_reaches_a_client_that_sends_first_and_reads_then() {
    let server = Server::with(
        Limits { body_memory_bytes: 16 * MIB, ..Limits::default() },
        ConnectionLimits::default(),
    );
    let body = vec![7; 16 * MIB];
    let condition = "if-none-match: *\r\n";
    let mut kept = server.connect();
    for _ in 0..30 {
        let reply = kept.send_with("PUT", "/v1/kv/default/a", condition, &body).unwrap();
        assert_eq!(reply.status, 501);
    }
    for (method, target, status) in [
        ("PUT", "/v1/kv/missing/a", 404),
        ("PATCH", "/v1/kv/default/a", 405),
        ("POST", "/nowhere", 404),
        ("PUT", "/v1/kv/default/a?durability=never", 400),
        ("DELETE", "/v1/batch", 405),
    ] {
        let reply = kept.send_with(method, target, "", &body).unwrap();
        assert_eq!(reply.status, status, "{method} {target}");
    }
    let large = vec![7; 17 * MIB];
    assert_eq!(kept.send("PUT", "/v1/kv/default/a", &large).unwrap().status, 413);
    let held = server.app.shared().responses.held_bytes();
    assert_eq!(held, 0);
    server.app.shared().set_phase(Phase::Draining);
    assert_eq!(kept.send("PUT", "/v1/kv/default/a", &body).unwrap().status, 503);
}

#[test]
fn what_the_head_decides_is_the_answer_to_expect_100_continue() {
    let server = Server::start(ConnectionLimits::default());
    let head = |target: &str, len: usize, more: &str| {
        format!(
            "PUT {target} HTTP/1.1\r\nhost: pond\r\nexpect: 100-continue\r\n\
             content-length: {len}\r\n{more}\r\n"
        )
    };
    for (target, len, more, status) in [
        ("/v1/kv/default/a", 16 * MIB, "if-match: \"1\"\r\n", 501),
        ("/v1/kv/default/a", 17 * MIB, "", 413),
        ("/v1/kv/missing/a", 16 * MIB, "", 404),
        ("/v1/kv/default/a?x=1", 16 * MIB, "", 400),
        ("/livez", 16 * MIB, "", 405),
    ] {
        let mut client = server.connect();
        client.write(head(target, len, more).as_bytes()).unwrap();
        let reply = client.reply("PUT").unwrap();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{target}");
        assert_eq!(client.until_closed(), b"");
    }
    let mut client = server.connect();
    client.write(head("/v1/kv/default/a", 5, "").as_bytes()).unwrap();
    assert!(client.line().unwrap().starts_with("HTTP/1.1 100 "));
    assert_eq!(client.line().unwrap(), "");
    client.write(b"hello").unwrap();
    assert_eq!(client.reply("PUT").unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_an_http2_client_that_is_still_sending() {
    let server = Server::start(ConnectionLimits::default());
    let mut sender = http2(&server, 1 << 20).await;
    for n in 0..10 {
        let mut put = Request::put(uri("/v1/kv/default/a"))
            .header("if-none-match", "*")
            .body(Body::from(vec![7; 16 * MIB]))
            .unwrap();
        // Such a stream was reset with its answer.
        if n % 2 == 0 {
            put.headers_mut().insert("expect", "100-continue".parse().unwrap());
        }
        let response = sender.send_request(put).await.unwrap();
        assert_eq!(response.status(), 501);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"type\":\"urn:millpond:problem:conditional-write\""));
    }
}

/// Sixteen heads that announced 16 MiB used to stop every write over 4 KiB for half a minute; and
/// where their bodies began, seventy took all the room that is kept for small ones.
#[test]
fn clients_that_announce_and_stop_do_not_stop_writers() {
    let server = Server::with(
        Limits { body_memory_bytes: 32 * MIB, ..Limits::default() },
        ConnectionLimits::default(),
    );
    let begun = vec![b'v'; 60_000];
    let silent: Vec<Client> = (0..86)
        .map(|n| {
            let mut client = server.connect();
            let head =
                "PUT /v1/kv/default/b HTTP/1.1\r\nhost: pond\r\ncontent-length: 16777216\r\n\r\n";
            client.write(head.as_bytes()).unwrap();
            if n >= 16 {
                client.write(&begun).unwrap();
            }
            client
        })
        .collect();
    while server.metric("millpond_http_inflight_requests") < 87
        || server.metric("millpond_http_body_memory_bytes") < 70 * 60_000
    {
        std::thread::yield_now();
    }
    put(&server, "small", 5000);
    put(&server, "a", 16 * MIB);
    let rows = "{\"op\":\"delete\",\"k\":\"a\"}\n".repeat(1000);
    let written = server.connect().send("POST", "/v1/batch", rows.as_bytes()).unwrap();
    assert_eq!(written.status, 200);
    drop(silent);
}

fn scans(scan_time_max: Duration) -> Limits {
    Limits { scan_time_max, blocking_threads: 2, ..Limits::default() }
}

#[test]
fn a_page_that_finds_nothing_ends_in_time_with_a_cursor() {
    let server = Server::with(scans(Duration::from_millis(5)), ConnectionLimits::default());
    put(&server, "heron", 3);
    server.engine.endless_walks(true);
    let page = server.connect().send("GET", "/v1/kv/default?limit=1", b"").unwrap().json();
    assert_eq!(page["items"], serde_json::json!([]));
    let cursor = page["cursor"].as_str().expect("there may be more").to_owned();
    server.engine.endless_walks(false);
    // It goes on where it stopped: the engine says at `deleted`.
    let target = format!("/v1/kv/default?cursor={cursor}");
    let page = server.connect().send("GET", &target, b"").unwrap().json();
    assert_eq!(page["items"][0]["k"], "heron");
    assert_eq!(page["cursor"], serde_json::Value::Null);
}

/// A page that had waited for its thread as long as a page may take used to end after its first
/// step, with one item and a cursor.
#[test]
fn a_page_that_waited_for_its_thread_has_its_whole_time() {
    let time = Duration::from_secs(2);
    let limits = Limits { scan_time_max: time, blocking_threads: 1, ..Limits::default() };
    let server = Server::with(limits, ConnectionLimits::default());
    for key in ["a", "b", "c"] {
        put(&server, key, 1);
    }
    server.engine.hold_walks(true);
    let mut first = stalled(&server, "/v1/kv/default");
    while server.app.shared().lanes.scans.running() < 1 {
        std::thread::yield_now();
    }
    let mut second = stalled(&server, "/v1/kv/default");
    while server.app.shared().metrics.http.in_flight() < 2 {
        std::thread::yield_now();
    }
    let asked = Instant::now();
    while asked.elapsed() < time {
        std::thread::yield_now();
    }
    server.engine.hold_walks(false);
    assert_eq!(first.reply("GET").unwrap().status, 200);
    let page = second.reply("GET").unwrap().json();
    let keys = page["items"].as_array().unwrap().len();
    assert_eq!((keys, &page["cursor"]), (3, &serde_json::Value::Null), "{page}");
}

/// 64 slow scans used to keep `/metrics` for 40 s, and batches without an end.
#[test]
fn nothing_else_waits_for_scans_and_a_scan_ends_when_its_client_leaves() {
    let server = Server::with(scans(FAR), ConnectionLimits::default());
    server.engine.endless_walks(true);
    let stream =
        "GET /v1/kv/default HTTP/1.1\r\nhost: pond\r\naccept: application/x-ndjson\r\n\r\n";
    let mut scans: Vec<Client> =
        (0..63).map(|_| stalled(&server, "/v1/kv/default?limit=1")).collect();
    let mut streaming = server.connect();
    streaming.write(stream.as_bytes()).unwrap();
    scans.push(streaming);
    while server.engine.walk_pauses() == 0 {
        std::thread::yield_now();
    }
    let mut client = server.connect();
    let operations = "{\"op\":\"put\",\"k\":\"a\",\"v\":\"1\"}\n".repeat(1000);
    assert_eq!(client.send("POST", "/v1/batch", operations.as_bytes()).unwrap().status, 200);
    for target in ["/metrics", "/readyz", "/version", "/v1/kvs", "/v1/kv/default/a"] {
        assert_eq!(client.send("GET", target, b"").unwrap().status, 200, "{target}");
    }
    drop(scans);
    while server.app.shared().lanes.scans.running() > 0 {
        std::thread::yield_now();
    }
    let pauses = server.engine.walk_pauses();
    assert_eq!(client.send("GET", "/livez", b"").unwrap().status, 200);
    assert_eq!(server.engine.walk_pauses(), pauses);
}
