//! Heads of requests over real sockets, against the real server: what changes the meaning of
//! a request without the HTTP library saying so, and who is not answered.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;

use loona_hpack::{Decoder, Encoder};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use support::{Client, Reply, Server};
use tempfile::TempDir;

fn start(directory: &TempDir, flags: &[&str]) -> Server {
    Server::start(directory.path(), flags)
}

/// The answer to a head and what follows it, on a connection of its own. `HOST` stands for the
/// server.
fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut client = Client::connect(address).unwrap();
    let request = request.replace("HOST", &format!("host: {address}"));
    client.write(request.as_bytes()).unwrap();
    client.reply(request.split(' ').next().unwrap()).unwrap()
}

fn kind(reply: &Reply) -> String {
    let kind = reply.json()["type"].as_str().unwrap().to_owned();
    kind.strip_prefix("urn:millpond:problem:").unwrap().to_owned()
}

fn get(server: &Server, target: &str) -> Reply {
    server.connect().send("GET", target, b"").unwrap()
}

#[test]
fn a_fragment_in_the_target_is_refused_on_every_route() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    for (method, target) in [
        ("PUT", "/v1/kv/default/a#1"),
        ("POST", "/v1/kv/default/a#"),
        ("PUT", "/v1/kv/default/a?durability=off#2"),
        ("GET", "/v1/kv/default/a#1"),
        ("DELETE", "/v1/kv/default/a#1"),
        ("GET", "/v1/kv/default#1"),
        ("GET", "/v1/kv/default?limit=1#"),
        ("POST", "/v1/batch#1"),
        ("GET", "/v1/kvs#"),
        ("PUT", "/v1/kvs/users#1"),
        ("DELETE", "/v1/kvs/default#1"),
        ("GET", "/livez#"),
        ("GET", "/metrics#a"),
        ("GET", "/v1/admin/pool#"),
        ("POST", "/v1/admin/pool/scrub#1"),
        ("GET", "/#/"),
    ] {
        let reply = server.connect().send(method, target, b"").unwrap();
        assert_eq!(reply.status, 400, "{method} {target}");
        assert!(reply.json()["detail"].as_str().unwrap().contains("%23"), "{reply:?}");
    }
    let absolute = format!("PUT http://{}/v1/kv/default/a#1", server.address);
    let head = format!("{absolute} HTTP/1.1\r\nHOST\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(ask(server.address, &head).status, 400);
    assert_eq!(get(&server, "/v1/kv/default/a").status, 404);
    assert_eq!(get(&server, "/v1/kvs/users").status, 404);
    assert_eq!(get(&server, "/v1/kvs/default").status, 200);
    // Written as it should be, it belongs to the key.
    let mut client = server.connect();
    assert_eq!(client.send("PUT", "/v1/kv/default/a%231", b"1").unwrap().status, 200);
    assert_eq!(get(&server, "/v1/kv/default/a%231").text(), "1");
}

/// A probe or a scraper of a pod names the address, and got 403 once a name was listed; a frame
/// passed for a link that is followed.
#[test]
fn probes_go_by_the_address_and_frames_do_not_pass() {
    let directory = TempDir::new().unwrap();
    let server = start(
        &directory,
        &[
            "--listen",
            "0.0.0.0:0",
            "--allowed-hosts",
            "pond.example",
            "--allowed-origins",
            "null,moz-extension://0a1b",
        ],
    );
    let port = server.address.port();
    // Loopback has 2^24 addresses, of which any is ours; as a name it is checked apart.
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let site = "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest";
    for (fields, status) in [
        ("host: 127.0.0.1:7300".to_owned(), 200),
        ("host: pond.example".to_owned(), 200),
        ("host: evil.example".to_owned(), 403),
        ("host: 10.11.12.13".to_owned(), 403),
        ("host: pond.example\r\norigin: null".to_owned(), 200),
        ("host: pond.example\r\norigin: moz-extension://0a1b".to_owned(), 200),
        ("host: pond.example\r\norigin: moz-extension://other".to_owned(), 403),
        (format!("host: pond.example\r\n{site}: document"), 200),
        (format!("host: pond.example\r\n{site}: iframe"), 403),
    ] {
        for target in ["/livez", "/readyz", "/metrics"] {
            let head = format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(ask(at, &head).status, status, "{target} {fields}");
        }
    }
    // Any other address of this machine.
    let Some(own) = own_address() else { return };
    let own = SocketAddr::new(own, port);
    assert_eq!(ask(own, "GET /readyz HTTP/1.1\r\nHOST\r\n\r\n").status, 200, "{own}");
}

/// An address of this machine that is no loopback one, where it has a route anywhere. Connecting
/// a datagram socket sends nothing.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

#[test]
fn a_fragment_is_seen_between_other_requests_and_in_pieces() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let host = format!("host: {}\r\n", server.address);
    let body = "GET /v1/kv/default/body#1 HTTP/1.1\r\n\r\n";
    let put = |key: &str, body: &str| {
        let length = body.len();
        format!("PUT /v1/kv/default/{key} HTTP/1.1\r\n{host}content-length: {length}\r\n\r\n{body}")
    };
    let chunked = format!(
        "PUT /v1/kv/default/b HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n\
         {:x};x=y\r\n{body}\r\n0\r\nx-trailer: #\r\n\r\n",
        body.len()
    );
    let requests = [
        (put("a", body), 200),
        (chunked, 200),
        (format!("GET /v1/kv/default/a#1 HTTP/1.1\r\n{host}\r\n"), 400),
        (put("c", ""), 200),
        (format!("DELETE /v1/kv/default/a#2 HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /v1/kv/default/a HTTP/1.1\r\n{host}\r\n"), 200),
    ];
    let all: String = requests.iter().map(|(request, _)| request.as_str()).collect();
    for step in [all.len(), 11, 1] {
        let mut client = server.connect();
        for piece in all.as_bytes().chunks(step) {
            client.write(piece).unwrap();
        }
        for (request, status) in &requests {
            let reply = client.reply(request.split(' ').next().unwrap()).unwrap();
            assert_eq!(reply.status, *status, "steps of {step}: {request}");
        }
    }
    for key in ["a", "b"] {
        assert_eq!(get(&server, &format!("/v1/kv/default/{key}")).text(), body);
    }
}

/// One HTTP/2 connection, written by hand: client libraries cannot send what is tested.
struct Http2 {
    stream: TcpStream,
    encoder: Encoder<'static>,
    decoder: Decoder<'static>,
    next_stream: u32,
}

impl Http2 {
    fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut http2 =
            Self { stream, encoder: Encoder::new(), decoder: Decoder::new(), next_stream: 1 };
        http2.frame(4, 0, 0, &[]);
        http2
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let mut frame = vec![len[2], len[1], len[0], kind, flags];
        frame.extend((0..4).rev().map(|byte| stream.to_le_bytes()[byte]));
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).unwrap();
    }

    /// The status of a request without a body.
    fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let head = [(":method", method), (":scheme", "http"), (":path", path)];
        let all = head.iter().chain(fields);
        let block =
            self.encoder.encode(all.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        // END_STREAM and END_HEADERS.
        self.frame(1, 5, stream, &block);
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).unwrap();
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).unwrap();
            let of = head[5..].iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
            if head[3] == 1 {
                let fields = self.decoder.decode(&payload).unwrap();
                if of == stream {
                    let status = fields.iter().find(|(name, _)| name == b":status").unwrap();
                    return std::str::from_utf8(&status.1).unwrap().parse().unwrap();
                }
            }
            assert!(head[3] != 3 || of != stream, "the stream was reset");
        }
    }
}

#[test]
fn a_fragment_is_refused_over_http2() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let authority = server.address.to_string();
    let named = [(":authority", &*authority)];
    let mut http2 = Http2::connect(server.address);
    assert_eq!(http2.ask("PUT", "/v1/kv/default/a%231", &named), 200);
    assert_eq!(http2.ask("PUT", "/v1/kv/default/a#1", &named), 400);
    assert_eq!(http2.ask("GET", "/v1/kv/default/a%231", &named), 200);
    assert_eq!(http2.ask("DELETE", "/v1/kvs/default#1", &named), 400);
    assert_eq!(http2.ask("GET", "/v1/kv/default?limit=1#2", &named), 400);
    assert_eq!(get(&server, "/v1/kv/default/a").status, 404);
    assert_eq!(get(&server, "/v1/kvs/default").status, 200);
    // One server is meant here, too.
    let mut http2 = Http2::connect(server.address);
    for (fields, status) in [
        (&[(":authority", &*authority), ("host", &*authority)][..], 200),
        (&[("host", &*authority)], 200),
        (&[], 400),
        (&[(":authority", &*authority), ("host", "localhost")], 400),
        (&[("host", &*authority), ("host", &*authority)], 400),
        (&[(":authority", "evil.example")], 403),
        (&[("host", "evil.example:7300")], 403),
    ] {
        assert_eq!(http2.ask("GET", "/livez", fields), status, "{fields:?}");
    }
}

#[test]
fn a_body_that_is_not_the_value_is_not_written() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let mut client = server.connect();
    assert_eq!(client.send("PUT", "/v1/kv/default/a", b"0123456789").unwrap().status, 200);
    for (method, target, field, status) in [
        ("PUT", "/v1/kv/default/a", "content-range: bytes 5-9/10", 400),
        ("POST", "/v1/kv/default/a", "content-range: bytes */10", 400),
        ("DELETE", "/v1/kv/default/a", "content-range: bytes 0-1/10", 400),
        ("PUT", "/v1/kv/default/a", "content-encoding: gzip", 415),
        ("POST", "/v1/batch", "content-encoding: br", 415),
        ("POST", "/v1/batch", "content-range: bytes 5-9/10", 400),
        ("PUT", "/v1/kvs/users", "content-encoding: gzip", 415),
        ("PUT", "/v1/admin/pool/name", "content-encoding: gzip", 415),
        ("POST", "/v1/admin/pool/scrub", "content-range: bytes 5-9/10", 400),
        ("PUT", "/v1/kv/default/a", "expect: nothing", 417),
        ("POST", "/v1/kv/default/a", "x-http-method-override: DELETE", 400),
    ] {
        let field = format!("{field}\r\n");
        let reply = server.connect().send_with(method, target, &field, b"{}").unwrap();
        assert_eq!(reply.status, status, "{method} {target} {field}");
        let named = field.split(':').next().unwrap();
        assert!(reply.json()["detail"].as_str().unwrap().contains(named), "{reply:?}");
        let accepts = reply.header("accept-encoding");
        assert_eq!(accepts, (status == 415).then_some("identity"));
    }
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    for (target, coding, status) in [
        ("/v1/kv/default/a", "gzip, chunked", 501),
        ("/v1/batch", "gzip, chunked", 501),
        ("/v1/admin/pool/scrub", "chunked, chunked", 501),
        ("/v1/kv/default/a", "chunked\r\ncontent-length: 12", 400),
        ("/v1/kv/default/a", "chunked\r\ntransfer-encoding: chunked", 501),
        ("/v1/kv/default/a", "gzip", 400),
        ("/v1/kv/default/b", "Chunked", 200),
    ] {
        let json = "content-type: application/json";
        let head =
            format!("POST {target} HTTP/1.1\r\nHOST\r\n{json}\r\ntransfer-encoding: {coding}");
        let reply = ask(server.address, &format!("{head}\r\n\r\n{chunks}"));
        assert_eq!(reply.status, status, "{target} {coding}");
    }
    assert_eq!(get(&server, "/v1/kv/default/a").text(), "0123456789");
    assert_eq!(get(&server, "/v1/kv/default/b").text(), "{}");
}

#[test]
fn one_host_is_meant() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let address = server.address;
    for (request, status) in [
        ("GET /livez HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.1\r\nHOST\r\nHOST\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.1\r\nhost:\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.1\r\nhost: me@localhost\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET /livez HTTP/1.1\r\nHOST\r\n\r\n".to_owned(), 200),
        (format!("GET http://{address}/livez HTTP/1.1\r\nHOST\r\n\r\n"), 200),
        (format!("GET http://{address}/livez HTTP/1.1\r\nhost: localhost\r\n\r\n"), 400),
        (format!("GET http://me@{address}/livez HTTP/1.1\r\nHOST\r\n\r\n"), 400),
        (format!("CONNECT {address} HTTP/1.1\r\nHOST\r\n\r\n"), 400),
    ] {
        assert_eq!(ask(address, &request).status, status, "{request}");
    }
}

const ROUTES: [(&str, &str); 12] = [
    ("GET", "/v1/kv/default/a"),
    ("PUT", "/v1/kv/default/a"),
    ("DELETE", "/v1/kv/default/a"),
    ("GET", "/v1/kv/default"),
    ("POST", "/v1/batch"),
    ("GET", "/v1/kvs"),
    ("DELETE", "/v1/kvs/default"),
    ("GET", "/v1/admin/pool"),
    ("POST", "/v1/admin/pool/volumes"),
    ("POST", "/v1/admin/pool/volumes/vol-0/evacuate"),
    ("GET", "/metrics"),
    ("GET", "/livez"),
];

#[test]
fn pages_of_others_are_not_answered_on_any_route() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let own = format!("origin: http://{}\r\n", server.address);
    for (method, target) in ROUTES {
        for (fields, want) in [
            ("host: evil.example\r\n", "foreign-host"),
            ("host: evil.example:7300\r\norigin: http://evil.example:7300\r\n", "foreign-host"),
            ("origin: http://evil.example\r\n", "foreign-origin"),
            ("origin: null\r\ncontent-type: text/plain\r\n", "foreign-origin"),
            ("origin: http://localhost:3000\r\n", "foreign-origin"),
            ("sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n", "foreign-origin"),
        ] {
            let reply = server.connect().send_with(method, target, fields, b"").unwrap();
            assert_eq!((reply.status, &*kind(&reply)), (403, want), "{method} {target} {fields}");
        }
        if method == "GET" {
            for fields in ["host: localhost\r\n", "host: [::1]:7300\r\n", &own] {
                let reply = server.connect().send_with(method, target, fields, b"").unwrap();
                assert_ne!(reply.status, 403, "{target} {fields}");
            }
        }
    }
    assert_eq!(get(&server, "/v1/kvs/default").status, 200);
}

#[test]
fn names_and_pages_can_be_listed() {
    let directory = TempDir::new().unwrap();
    let flags = [
        "--allowed-hosts",
        "pond.example,lake.example:80",
        "--allowed-origins",
        "https://app.example",
    ];
    let server = start(&directory, &flags);
    for (fields, status) in [
        ("host: pond.example:7300\r\n", 404),
        ("host: lake.example:80\r\n", 404),
        ("host: lake.example\r\n", 403),
        ("host: evil.example\r\n", 403),
        ("host: localhost\r\n", 404),
        ("host: pond.example\r\norigin: https://pond.example\r\n", 404),
        ("origin: https://app.example\r\nsec-fetch-site: cross-site\r\n", 404),
        ("origin: http://app.example\r\n", 403),
    ] {
        let reply = server.connect().send_with("GET", "/v1/kv/default/a", fields, b"").unwrap();
        assert_eq!(reply.status, status, "{fields}");
    }
}

#[test]
fn bodies_of_json_say_so() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, &[]);
    let operation = br#"{"op":"put","k":"a","v":"1"}"#;
    for (kind, status) in [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=utf-8", 200),
        ("application/x-ndjson", 200),
    ] {
        let field = format!("content-type: {kind}\r\n");
        let batch = server.connect().send_with("POST", "/v1/batch", &field, operation).unwrap();
        assert_eq!(batch.status, status, "{kind}");
        let name = br#"{"name":"north"}"#;
        let target = "/v1/admin/pool/name";
        let renamed = server.connect().send_with("PUT", target, &field, name).unwrap();
        assert_eq!(renamed.status, status, "{kind}");
        if status == 415 {
            assert!(batch.text().contains("content-type: application/json"), "{batch:?}");
            assert_eq!(batch.header("accept"), Some("application/json, application/x-ndjson"));
        }
    }
    // A value is of any type.
    let mut client = server.connect();
    let field = "content-type: text/plain\r\n";
    assert_eq!(client.send_with("POST", "/v1/kv/default/b", field, b"1").unwrap().status, 200);
}
