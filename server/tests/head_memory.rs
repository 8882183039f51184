//! Heads of requests that never end, or whose requests never do: what they may hold together.
//!
//! They were in no budget: 3,000 connections with unfinished heads of 60 KB took 427 MiB, and the
//! heap kept it when they had gone.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use loona_hpack::Encoder;
use millpond::connection::ConnectionLimits;
use millpond::connection::Timeouts;
use millpond::state::Limits;
use std::time::Duration;
use support::Client;
use support::in_process::Server;

const FAR: Duration = Duration::from_mins(10);
const HELD: &str = "millpond_http_head_memory_bytes";
const PEAK: &str = "millpond_http_head_memory_peak_bytes";
const LIMIT: &str = "millpond_http_head_memory_limit_bytes";
const TURNED_AWAY: &str = "millpond_http_rejected_total{reason=\"head_memory\"}";

/// Room for about eight heads of 60 KB.
fn server(header: Duration) -> Server {
    let timeouts = Timeouts { header, idle: FAR, write: FAR, rate_min: 0 };
    Server::with(
        Limits { head_memory_bytes: 1 << 20, ..Limits::default() },
        ConnectionLimits { timeouts, ..ConnectionLimits::default() },
    )
}

/// A head of `len` bytes without its end.
fn begun(method: &str, target: &str, len: usize) -> Vec<u8> {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: pond\r\nx-filler: ");
    let filler = "a".repeat(len - head.len());
    (head + &filler).into_bytes()
}

/// Waits until everything that was sent has been read, as far as it shows: what heads hold.
fn wait_until(server: &Server, mut seen: impl FnMut(&Server) -> bool) {
    while !seen(server) {
        std::thread::yield_now();
    }
}

#[test]
fn unfinished_heads_hold_no_more_than_their_budget() {
    let server = server(FAR);
    let mut clients: Vec<Client> = Vec::new();
    for n in 0..40 {
        let mut client = server.connect();
        // A client that is turned away while it sends may meet a reset.
        drop(client.write(&begun("GET", "/livez", 60_000)));
        clients.push(client);
        // One after the other, so that the first ones are those that find room.
        let settled = |server: &Server| {
            let whole = server.metric(HELD) / (128 << 10);
            whole + server.metric(TURNED_AWAY) > n
        };
        wait_until(&server, settled);
    }
    let (peak, limit) = (server.metric(PEAK), server.metric(LIMIT));
    assert!(peak <= limit && limit < 2 << 20, "{peak} of {limit}");
    let turned_away = server.metric(TURNED_AWAY);
    assert!((30..40).contains(&turned_away), "{turned_away}");
    // Others are served, with heads as large as usual ones get.
    let cookie = format!("cookie: {}\r\n", "c".repeat(3000));
    let reply = server.connect().send_with("GET", "/livez", &cookie, b"").unwrap();
    assert_eq!(reply.status, 200);
    // Who found room is served; who did not was told, or saw the end.
    let mut served = 0;
    let mut told = 0;
    for client in &mut clients {
        let ended = client.write(b"\r\n\r\n").and_then(|()| client.reply("GET"));
        match ended {
            Ok(reply) if reply.status == 200 => served += 1,
            Ok(reply) => {
                assert_eq!(reply.status, 503, "{reply:?}");
                assert_eq!(reply.header("x-millpond-stall"), Some("head_memory"));
                assert!(reply.text().contains("option head_memory"), "{reply:?}");
                told += 1;
            }
            Err(_) => {}
        }
    }
    assert_eq!(served, 40 - turned_away, "{told} were told");
    server.wait_for(HELD, 0);
    drop(clients);
    let mut late = server.connect();
    late.write(&begun("GET", "/livez", 60_000)).unwrap();
    late.write(b"\r\n\r\n").unwrap();
    assert_eq!(late.reply("GET").unwrap().status, 200, "there is room again");
}

#[test]
fn heads_of_requests_that_do_not_end_are_in_the_budget_too() {
    let server = server(FAR);
    let asked = |body: &str| {
        let mut client = server.connect();
        let mut head = begun("PUT", "/v1/kv/default/a", 60_000);
        head.extend_from_slice(format!("\r\ncontent-length: 5\r\n\r\n{body}").as_bytes());
        client.write(&head).unwrap();
        client
    };
    let mut clients: Vec<Client> = Vec::new();
    while server.metric(TURNED_AWAY) == 0 {
        clients.push(asked(""));
        let count = clients.len() as u64;
        wait_until(&server, |server| {
            server.metric("millpond_http_inflight_requests") + server.metric(TURNED_AWAY) > count
        });
    }
    assert!(server.metric(PEAK) <= server.metric(LIMIT));
    let refused = clients.pop().unwrap().reply("PUT").unwrap();
    assert_eq!((refused.status, refused.header("x-millpond-stall")), (503, Some("head_memory")));
    assert_eq!(server.connect().send("PUT", "/v1/kv/default/b", b"small").unwrap().status, 200);
    for client in &mut clients {
        client.write(b"hello").unwrap();
        assert_eq!(client.reply("PUT").unwrap().status, 200);
    }
    server.wait_for(HELD, 0);
    assert_eq!(asked("hello").reply("PUT").unwrap().status, 200);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&[len[2], len[1], len[0], kind, flags, 0, 0, 0, stream], payload].concat()
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// A connection of HTTP/2 that has asked once, and has begun a header block that does not end.
fn block_begun(server: &Server) -> Client {
    let mut client = server.connect();
    let mut encoder = Encoder::new();
    let fields = [(":method", "GET"), (":path", "/livez"), (":scheme", "http")];
    let fields = fields.into_iter().chain([(":authority", "localhost")]);
    let block = encoder.encode(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    bytes.extend(frame(HEADERS, END_STREAM, 3, &block));
    client.write(&bytes).unwrap();
    client
}

/// They were under no limit of time, for HTTP/2 has no heads of its own.
#[test]
fn header_blocks_that_do_not_end_are_bounded_in_memory_and_time() {
    let server = server(FAR);
    let mut clients = Vec::new();
    while server.metric(TURNED_AWAY) == 0 {
        clients.push(block_begun(&server));
        let count = clients.len() as u64;
        wait_until(&server, |server| {
            server.metric(HELD) / (128 << 10) + server.metric(TURNED_AWAY) >= count
        });
    }
    assert!(clients.len() <= 11 && server.metric(PEAK) <= server.metric(LIMIT));
    drop(clients);
    server.wait_for(HELD, 0);

    let server = self::server(Duration::from_millis(300));
    let _client = block_begun(&server);
    server.wait_for("millpond_http_connections_closed_total{reason=\"header_timeout\"}", 1);
    server.wait_for(HELD, 0);
}
