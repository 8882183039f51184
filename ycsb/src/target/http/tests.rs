//! The target against a server of a hundred lines.

use super::*;
use crate::driver::{Phase, Plan, drive};
use crate::target::memory::Memory;
use crate::workload::Workload;
use crate::workload::property::Properties;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;

#[test]
fn authorities_have_a_port() {
    assert_eq!(authority("http://a:7300").unwrap(), "a:7300");
    assert_eq!(authority("http://a/").unwrap(), "a:80");
    assert_eq!(authority("http://[::1]:7300/x").unwrap(), "[::1]:7300");
    for bad in ["https://a:1", "a:1", "7300", ""] {
        assert!(authority(bad).unwrap_err().to_string().contains("--url"), "{bad}");
    }
}

#[test]
fn keys_are_escaped() {
    let mut out = String::new();
    escape(b"user1/ %\xff~", &mut out);
    assert_eq!(out, "user1%2F%20%25%FF~");
}

#[test]
fn refusals_keep_what_the_server_said() {
    let busy = refused(StatusCode::SERVICE_UNAVAILABLE, b"{\"detail\":\"wal\"}");
    assert!(matches!(&busy, Failure::Busy(why) if why.contains("wal")), "{busy}");
    let bad = refused(StatusCode::PAYLOAD_TOO_LARGE, b"");
    assert!(matches!(&bad, Failure::Failed(why) if why.contains("413")), "{bad}");
}

#[test]
fn pages_become_rows() {
    let mut rows = Rows::default();
    let body = br#"{"items":[{"k":"a","v":"x\u0000","rev":3},{"k64":"Yg","v64":"__8"}],
                    "cursor":"c","revision":9}"#;
    assert_eq!(read_page(body, &mut rows).unwrap().as_deref(), Some("c"));
    let got: Vec<(&[u8], &[u8])> = rows.iter().collect();
    assert_eq!(got, [(&b"a"[..], &b"x\0"[..]), (b"b", &[255, 255])]);
    for (bad, say) in [
        ("{}", "a page of a scan"),
        (r#"{"items":[{"k":"a"}]}"#, "neither or both of v and v64"),
        (r#"{"items":[{"k64":"!","v":""}]}"#, "k64 in a page"),
        (r#"{"items":[{"k":"a","error":{"detail":"key a is rot"}}]}"#, "damage: key a is rot"),
    ] {
        let error = read_page(bad.as_bytes(), &mut rows).unwrap_err();
        assert!(error.contains(say), "{bad}: {error}");
    }
}

/// Answers as a server does, from a map, one thread a connection.
fn serve(store: Memory) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, mut store) = (stream.unwrap(), store.clone());
            std::thread::spawn(move || while answer(&stream, &mut store).is_some() {});
        }
    });
    url
}

fn answer(mut stream: &TcpStream, store: &mut Memory) -> Option<()> {
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut first, mut line, mut len) = (String::new(), String::new(), 0);
    let mut is_json = false;
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().ok()?;
        }
        is_json |= line.trim_end().eq_ignore_ascii_case("content-type: application/json");
        line.clear();
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.strip_prefix("/v1/kv/t/").unwrap_or_default().as_bytes();
    let (mut out, mut rows) = (Vec::new(), Rows::default());
    let status = match (method, path) {
        ("GET", "/v1/kvs/t") => "404 Not Found",
        ("PUT", "/v1/kvs/t") => "201 Created",
        ("GET", "/metrics") => {
            out.extend(b"# TYPE process_cpu_seconds_total counter\n");
            out.extend(b"process_cpu_seconds_total 1.5\n");
            "200 OK"
        }
        ("GET", "/v1/kv/t") => {
            let value = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name));
            let start = value("start=").or(value("cursor="));
            // Three at a time at most, so that a scan needs several pages.
            let limit = value("limit=")?.parse::<usize>().ok()?.min(3);
            if value("reverse=") == Some("true") {
                let mut see = |key: &[u8], row: &[u8]| {
                    if start.is_none_or(|start| key <= start.as_bytes()) {
                        rows.push(key, row);
                    }
                    ControlFlow::Continue(())
                };
                store.walk(Way::Reverse, &mut see).ok()?;
            } else {
                let start = start.unwrap_or_default();
                store.scan(start.as_bytes(), limit + 1, &mut rows).ok()?;
            }
            let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let item = |(k, v)| format!(r#"{{"k64":"{}","v64":"{}"}}"#, coded(k), coded(v));
            let items: Vec<String> = rows.iter().take(limit).map(item).collect();
            let next = rows.iter().nth(limit).map(|(k, _)| String::from_utf8_lossy(k));
            let cursor = next.map_or(String::new(), |k| format!(r#","cursor":"{k}""#));
            out = format!(r#"{{"items":[{}]{cursor}}}"#, items.join(",")).into_bytes();
            "200 OK"
        }
        ("POST", "/v1/admin/compact") if is_json && body == b"{}" => "202 Accepted",
        ("GET", "/v1/admin/compact") => {
            // Running at first.
            let done = store.read(b"asked", &mut out).ok()?;
            store.write(b"asked", b"").ok()?;
            out = format!(r#"{{"state":"{}"}}"#, if done { "done" } else { "running" }).into();
            "200 OK"
        }
        ("PUT" | "DELETE", _) if query != "durability=sync" => "400 Bad Request",
        ("DELETE", _) => store.delete(key).map(|()| "200 OK").ok()?,
        ("PUT", _) => store.write(key, &body).map(|()| "200 OK").ok()?,
        _ => {
            if store.read(key, &mut out).ok()? {
                "200 OK"
            } else {
                "404 Not Found"
            }
        }
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", out.len());
    stream.write_all(&[head.as_bytes(), &out].concat()).ok()
}

#[test]
fn all_operations_work_over_http() {
    let url = serve(Memory::new());
    let pairs = ["recordcount=300", "threadcount=3", "dataintegrity=true", "maxscanlength=10"];
    let pairs: Vec<String> = pairs.iter().map(|s| (*s).to_owned()).collect();
    for file in ["a", "e"] {
        let w = Workload::new(&Properties::gather(&[file.into()], &pairs).unwrap()).unwrap();
        let http = Http::remote(&url, "t", "sync").unwrap();
        for phase in [Phase::Load, Phase::Run, Phase::Verify] {
            let (warmup, time) = (Duration::ZERO, None);
            let plan = Plan { phase, warmup, time, operations: 600, seed: 1, ..Plan::default() };
            let go = &mut |_| ControlFlow::Continue(());
            let outcome = drive(&http, &w, &plan, None, go).unwrap();
            let recorder = outcome.recorder;
            assert_eq!(recorder.error_examples, [""; 0], "{file} {phase:?}");
            assert_eq!(recorder.mismatch_examples, [""; 0], "{file} {phase:?}");
        }
        Box::new(http).close().unwrap();
    }
}

#[test]
fn walks_go_both_ways_over_pages_and_deletes_are_seen() {
    let http = Http::remote(&serve(Memory::new()), "t", "sync").unwrap();
    let mut session = http.session().unwrap();
    for number in 0..10 {
        session.write(format!("k{number}").as_bytes(), b"v").unwrap();
    }
    session.delete(b"k4").unwrap();
    session.delete(b"k4").unwrap();
    let mut walked = |way, enough: usize| {
        let mut keys = String::new();
        let mut see = |key: &[u8], row: &[u8]| {
            assert_eq!(row, b"v");
            keys.push(char::from(key[1]));
            if keys.len() == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        session.walk(way, &mut see).unwrap();
        keys
    };
    assert_eq!(walked(Way::Forward, 99), "012356789");
    assert_eq!(walked(Way::Reverse, 99), "987653210");
    assert_eq!((walked(Way::Forward, 5), walked(Way::Reverse, 1)), ("01235".into(), "9".into()));
}

#[test]
fn a_server_is_asked_to_compact_until_it_is_done() {
    let memory = Memory::new();
    let http = Http::remote(&serve(memory.clone()), "t", "sync").unwrap();
    http.compact().unwrap();
    let mut row = Vec::new();
    assert!(memory.session().unwrap().read(b"asked", &mut row).unwrap(), "it was running at first");
}

#[test]
fn a_server_elsewhere_tells_its_own_numbers() {
    let http = Http::remote(&serve(Memory::new()), "t", "sync").unwrap();
    let expect = Counted { name: "process_cpu_seconds_total".into(), grows: true, value: 1.5 };
    assert_eq!((http.place(), http.counters()), (Place::Elsewhere, vec![expect]));
    assert_eq!(http.with_pid(Some(7)).place(), Place::Process(7));
}

#[test]
fn a_broken_connection_is_made_anew() {
    let http = Http::remote(&serve(Memory::new()), "t", "sync").unwrap();
    let mut connection = Connection::new(&http).unwrap();
    connection.write(b"k", b"v").unwrap();
    connection.sender = None;
    let mut row = Vec::new();
    assert!(connection.read(b"k", &mut row).unwrap() && row == b"v");
    assert!(!connection.read(b"x", &mut row).unwrap());
}

#[test]
fn nobody_listening_is_a_clear_error() {
    // Port 1 is reserved and nobody's.
    let Err(error) = Http::remote("http://127.0.0.1:1", "t", "sync") else {
        panic!("something listens on port 1");
    };
    assert!(error.to_string().contains("cannot reach 127.0.0.1:1"), "{error}");
}
