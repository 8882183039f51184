//! The accept loop over real sockets: limits of time and size, keep-alive, both HTTP versions.
#![allow(clippy::unwrap_used, clippy::format_collect, reason = "a test")]
mod support;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond::connection::ConnectionLimits;
use millpond::connection::Timeouts;
use millpond::state::{Limits, Phase};
use std::time::Duration;
use support::in_process::Server;

/// Limits that a test can reach without waiting long; all others stay far away.
fn timeouts(header_ms: u64, idle_ms: u64, write_ms: u64) -> ConnectionLimits {
    let timeouts = Timeouts {
        header: Duration::from_millis(header_ms),
        idle: Duration::from_millis(idle_ms),
        write: Duration::from_millis(write_ms),
        rate_min: 0,
    };
    ConnectionLimits { timeouts, ..ConnectionLimits::default() }
}

const FAR: u64 = 600_000;

#[test]
fn a_connection_serves_many_requests() {
    let server = Server::start(ConnectionLimits::default());
    let mut client = server.connect();
    let written = client.send("PUT", "/v1/kv/default/a", b"hello").unwrap();
    assert_eq!((written.status, written.header("content-length")), (200, Some("0")));
    for _ in 0..100 {
        let read = client.send("GET", "/v1/kv/default/a", b"").unwrap();
        assert_eq!((read.status, read.text()), (200, "hello"));
        assert!(read.header("date").is_some());
    }
    let head = client.send("HEAD", "/v1/kv/default/a", b"").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(client.send("GET", "/v1/kv/default/b", b"").unwrap().status, 404);
}

#[test]
fn a_chunked_body_is_taken() {
    let server = Server::start(ConnectionLimits::default());
    let mut client = server.connect();
    client
        .write(
            b"POST /v1/kv/default/a HTTP/1.1\r\nhost: pond\r\ntransfer-encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
    assert_eq!(client.reply("POST").unwrap().status, 200);
    assert_eq!(client.send("GET", "/v1/kv/default/a", b"").unwrap().text(), "abcde");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(ConnectionLimits::default());
    let mut client = server.connect();
    let put = "PUT /v1/kv/default/a HTTP/1.1\r\nhost: pond\r\ncontent-length: 1\r\n\r\nx";
    let get = "GET /v1/kv/default/a HTTP/1.1\r\nhost: pond\r\n\r\n";
    client.write(format!("{put}{get}{get}").as_bytes()).unwrap();
    assert_eq!(client.reply("PUT").unwrap().status, 200);
    assert_eq!(client.reply("GET").unwrap().text(), "x");
    assert_eq!(client.reply("GET").unwrap().text(), "x");
}

#[test]
fn a_client_that_is_slow_with_its_head_is_closed() {
    let server = Server::start(timeouts(50, FAR, FAR));
    let mut silent = server.connect();
    assert_eq!(silent.until_closed(), b"");
    let mut slow = server.connect();
    slow.write(b"GET /v1/kv/default/a HTTP/1.1\r\nhost: po").unwrap();
    assert_eq!(slow.until_closed(), b"");
    // Also on a connection that has done well before.
    let mut later = server.connect();
    assert_eq!(later.send("GET", "/livez", b"").unwrap().status, 200);
    later.write(b"GET /livez HT").unwrap();
    assert_eq!(later.until_closed(), b"");
}

#[test]
fn an_idle_connection_is_closed() {
    let server = Server::start(timeouts(FAR, 50, FAR));
    let mut client = server.connect();
    assert_eq!(client.send("GET", "/livez", b"").unwrap().status, 200);
    assert_eq!(client.until_closed(), b"");
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    let server = Server::start(timeouts(FAR, FAR, 50));
    let mut client = server.connect();
    let value = vec![7; 16 << 20];
    assert_eq!(client.send("PUT", "/v1/kv/default/a", &value).unwrap().status, 200);
    // More than socket buffers hold, and nobody reads.
    client.write(b"GET /v1/kv/default/a HTTP/1.1\r\nhost: pond\r\n\r\n").unwrap();
    let mut scrape = server.connect();
    loop {
        let text = scrape.send("GET", "/metrics", b"").unwrap();
        if text.text().contains(r#"connections_closed_total{reason="write_timeout"} 1"#) {
            break;
        }
        std::thread::yield_now();
    }
    assert!(client.until_closed().len() < value.len());
}

#[test]
fn a_value_beyond_the_limit_is_refused_with_the_limit() {
    let server = Server::start(ConnectionLimits::default());
    let mut client = server.connect();
    let exact = vec![1; 16 << 20];
    assert_eq!(client.send("PUT", "/v1/kv/default/a", &exact).unwrap().status, 200);
    let read = client.send("GET", "/v1/kv/default/a", b"").unwrap();
    assert_eq!(read.body.len(), exact.len());
    let refused = client.send("PUT", "/v1/kv/default/a", &vec![1; (16 << 20) + 1]).unwrap();
    assert_eq!(refused.status, 413);
    assert!(refused.text().contains("16777216"), "{}", refused.text());
}

#[test]
fn a_head_beyond_the_limit_is_refused() {
    let limits = ConnectionLimits { header_bytes_max: 8 << 10, ..ConnectionLimits::default() };
    let server = Server::start(limits);
    // The rest of a long head is not read, so that the answer may be lost to a reset.
    let mut client = server.connect();
    let long = "a".repeat(9 << 10);
    client.write(format!("GET /livez HTTP/1.1\r\nx-long: {long}").as_bytes()).unwrap();
    let answer = client.until_closed();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{answer:?}");
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(server.connect().send_with("GET", "/livez", &many, b"").unwrap().status, 431);
}

#[test]
fn a_connection_beyond_the_limit_is_told_so() {
    let limits = ConnectionLimits { connections_max: 1, ..ConnectionLimits::default() };
    let server = Server::start(limits);
    let mut first = server.connect();
    assert_eq!(first.send("GET", "/livez", b"").unwrap().status, 200);
    let told = server.connect().reply("GET").unwrap();
    assert_eq!((told.status, told.header("x-millpond-stall")), (503, Some("connections")));
    assert!(told.text().contains("1 connections are open"), "{}", told.text());
    assert_eq!(first.send("GET", "/livez", b"").unwrap().status, 200);
}

#[test]
fn stopping_finishes_what_is_under_way() {
    let server = Server::start(ConnectionLimits::default());
    let mut idle = server.connect();
    assert_eq!(idle.send("GET", "/livez", b"").unwrap().status, 200);
    let mut busy = server.connect();
    busy.write(b"PUT /v1/kv/default/a HTTP/1.1\r\nhost: pond\r\ncontent-length: 5\r\n\r\nhe")
        .unwrap();
    // The head has arrived when the request is counted.
    let mut scrape = server.connect();
    while !scrape.send("GET", "/metrics", b"").unwrap().text().contains("inflight_requests 2") {
        std::thread::yield_now();
    }
    server.app.shared().set_phase(Phase::Draining);
    server.stop.send_replace(true);
    assert_eq!(idle.until_closed(), b"");
    assert_eq!(scrape.until_closed(), b"");
    // Those who ask are told, on new connections, too.
    let told = server.connect().send("GET", "/readyz", b"").unwrap();
    assert_eq!((told.status, told.text()), (503, "draining\n"));
    assert_eq!(told.header("connection"), Some("close"));
    let refused = server.connect().send("GET", "/v1/kv/default/a", b"").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("problem:closing"), "{}", refused.text());
    assert_eq!(server.connect().send("GET", "/metrics", b"").unwrap().status, 200);
    busy.write(b"llo").unwrap();
    let last = busy.reply("PUT").unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    server.drained.recv_timeout(Duration::from_mins(1)).expect("all connections end");
    assert!(!server.engine.is_closed());
}

#[test]
fn a_stream_shows_all_items_and_its_end() {
    let server = Server::start(ConnectionLimits::default());
    let mut client = server.connect();
    for chunk in 0..10 {
        let lines: String = (0..1000)
            .map(|n| {
                format!(
                    "{{\"op\":\"put\",\"k\":\"key-{:05}\",\"v\":\"{}\"}}\n",
                    chunk * 1000 + n,
                    "v".repeat(100)
                )
            })
            .collect();
        assert_eq!(client.send("POST", "/v1/batch", lines.as_bytes()).unwrap().status, 200);
    }
    let accept = "accept: application/x-ndjson\r\n";
    let stream = client.send_with("GET", "/v1/kv/default", accept, b"").unwrap();
    assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<&str> = stream.text().lines().collect();
    assert_eq!(lines.len(), 10_001);
    assert!(lines[9_999].contains("key-09999"), "{}", lines[9_999]);
    assert_eq!(lines[10_000], r#"{"end":true,"count":10000,"revision":10}"#);
    assert_eq!(server.app.shared().streams.available_permits(), Limits::default().streams_max);
}

#[tokio::test]
async fn http2_without_tls_is_served_on_the_same_port() {
    let server = Server::start(ConnectionLimits::default());
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = |path: &str| format!("http://pond{path}");
    let put = Request::put(uri("/v1/kv/default/a")).body(Body::from("hello")).unwrap();
    assert_eq!(sender.send_request(put).await.unwrap().status(), 200);
    let get = Request::get(uri("/v1/kv/default/a")).body(Body::empty()).unwrap();
    let response = sender.send_request(get).await.unwrap();
    assert_eq!(response.version(), axum::http::Version::HTTP_2);
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(&*response.into_body().collect().await.unwrap().to_bytes(), b"hello");
}
