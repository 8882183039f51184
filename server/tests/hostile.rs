//! Requests that nobody sends by mistake, and what they must not cost others.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use millpond::connection::ConnectionLimits;
use millpond::connection::Timeouts;
use millpond::state::Limits;
use std::time::Duration;
use support::in_process::Server;

const FAR: Duration = Duration::from_mins(10);

/// Nothing is ended here by a clock.
fn server(limits: Limits) -> Server {
    let timeouts = Timeouts { header: FAR, idle: FAR, write: FAR, rate_min: 0 };
    let limits = Limits { rate_min: 0, request_timeout: FAR, ..limits };
    Server::with(limits, ConnectionLimits { timeouts, ..ConnectionLimits::default() })
}

/// The library passes over any number of blank lines, and kept them beside the budget: 9,500
/// connections took 670 MiB.
#[test]
fn blank_lines_are_in_the_budget_for_heads() {
    let server = server(Limits { head_memory_bytes: 1 << 20, ..Limits::default() });
    let mut clients = Vec::new();
    while server.metric("millpond_http_rejected_total{reason=\"head_memory\"}") == 0 {
        let mut client = server.connect();
        drop(client.write(&b"\r\n".repeat(30_000)));
        clients.push(client);
        assert!(clients.len() < 100, "none of them counts");
    }
    let mut late = server.connect();
    late.write(&b"\r\n".repeat(8)).unwrap();
    assert_eq!(late.send("GET", "/livez", b"").unwrap().status, 200);
    late.write(&b"\r\n".repeat(9)).unwrap();
    assert_eq!(late.send("GET", "/livez", b"").unwrap().status, 400);
}

/// They were refused as well.
#[test]
fn whole_requests_before_rubbish_in_one_packet_are_carried_out() {
    let server = server(Limits::default());
    let mut client = server.connect();
    let put = |key| {
        let head = format!("PUT /v1/kv/default/{key} HTTP/1.1\r\nhost: pond\r\n");
        head + "content-length: 1\r\n\r\n#"
    };
    client.write((put("a") + &put("b") + &put("c") + "rubbish\r\n\r\n").as_bytes()).unwrap();
    for key in ["a", "b", "c"] {
        assert_eq!(client.reply("PUT").unwrap().status, 200, "{key}");
    }
    assert_eq!(client.reply("GET").unwrap().status, 400);
    let path = "/v1/kv/default/c";
    assert_eq!(server.connect().send("GET", path, b"").unwrap().body, b"#");
}

/// With a length of 4097 they were answered at once, and with a smaller one when time was up.
#[test]
fn what_the_head_decides_waits_for_no_body_however_short() {
    let server = server(Limits::default());
    let long = "k".repeat(2000);
    for len in [1, 4096, 4097] {
        for (path, want) in [("cats/a", 404), (&format!("default/{long}"), 400)] {
            let mut client = server.connect();
            let head = format!("PUT /v1/kv/{path} HTTP/1.1\r\nhost: pond\r\ncontent-length: {len}");
            client.write((head + "\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(client.reply("PUT").unwrap().status, want, "{len} bytes");
        }
    }
}

#[test]
fn a_batch_takes_no_value_that_a_put_may_not_have() {
    let server = server(Limits { value_bytes_max: 1 << 10, ..Limits::default() });
    let value = "v".repeat(1025);
    let put = server.connect().send("PUT", "/v1/kv/default/a", value.as_bytes()).unwrap();
    assert_eq!(put.status, 413);
    let json = "content-type: application/json\r\n";
    let batch = format!("[{{\"k\":\"b\",\"v\":\"1\"}},{{\"k\":\"a\",\"v\":\"{value}\"}}]");
    let refused = server.connect().send_with("POST", "/v1/batch", json, batch.as_bytes()).unwrap();
    assert_eq!(refused.status, 413);
    assert!(refused.text().contains("operation 2: the value has 1025 bytes"), "{refused:?}");
    assert_eq!(server.connect().send("GET", "/v1/kv/default/b", b"").unwrap().status, 404);
}
