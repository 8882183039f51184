//! Pages, streams and batches, in process, against the in-memory engine.
#![allow(clippy::unwrap_used, clippy::format_collect, reason = "a test")]
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt;
use kvs::Error;
use millpond::app::App;
use millpond::engine::memory::MemoryEngine;
use millpond::state::Limits;
use millpond::state::blocking::Patience;
use serde_json::{Value, json};
use std::sync::Arc;

struct Pond {
    app: App,
    engine: Arc<MemoryEngine>,
}

impl Pond {
    fn new(limits: Limits) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        Self { app: App::with_engine(Arc::<MemoryEngine>::clone(&engine), limits), engine }
    }

    /// A pond with the keys `a`, `b`, ... `count` of them, each holding its own name.
    async fn with_keys(count: u8) -> Self {
        let pond = Self::new(Limits::default());
        for key in (b'a'..).take(count.into()).map(char::from) {
            assert_eq!(pond.send("PUT", &format!("/v1/kv/default/{key}"), key).await.0, 200);
        }
        pond
    }

    async fn send(&self, method: &str, target: &str, body: impl ToString) -> (u16, String) {
        let request = Request::builder().method(method).uri(target).header("host", "pond");
        let request = request.header("content-type", "application/x-ndjson");
        let response = self.app.answer(request.body(Body::from(body.to_string())).unwrap()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn page(&self, query: &str) -> Value {
        let (status, body) = self.send("GET", &format!("/v1/kv/default?{query}"), "").await;
        assert_eq!(status, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn keys(&self, query: &str) -> String {
        let page = self.page(query).await;
        page["items"].as_array().unwrap().iter().map(|item| item["k"].as_str().unwrap()).collect()
    }

    fn stream(&self, query: &str) -> impl Future<Output = axum::http::Response<Body>> {
        let request = Request::get(format!("/v1/kv/default?{query}"))
            .header("host", "pond")
            .header("accept", "text/html, application/x-ndjson;q=0.9")
            .body(Body::empty())
            .unwrap();
        let app = self.app.clone();
        async move { app.answer(request).await }
    }

    async fn lines(&self, query: &str) -> Vec<Value> {
        let body = self.stream(query).await.into_body().collect().await.unwrap().to_bytes();
        std::str::from_utf8(&body)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn bounds_and_direction_choose_the_keys() {
    let pond = Pond::with_keys(6).await;
    for (query, want) in [
        ("", "abcdef"),
        ("reverse=true", "fedcba"),
        ("reverse", "fedcba"),
        ("reverse=false", "abcdef"),
        ("limit=2", "ab"),
        ("limit=2&reverse=true", "fe"),
        ("start=b&end=d", "bc"),
        ("start=b&end=d&reverse=true", "cb"),
        ("prefix=c", "c"),
        ("prefix=zz", ""),
        ("start=Yg&end=ZA&key_encoding=base64url", "bc"),
    ] {
        assert_eq!(pond.keys(query).await, want, "{query}");
    }
}

#[tokio::test]
async fn pages_continue_where_the_last_one_ended() {
    let pond = Pond::with_keys(7).await;
    for (direction, want) in [("false", "abcdefg"), ("true", "gfedcba")] {
        for limit in 1..=8 {
            let (mut seen, mut cursor) = (String::new(), String::new());
            loop {
                let query = format!("reverse={direction}&limit={limit}{cursor}");
                let page = pond.page(&query).await;
                assert_eq!(page["revision"], 7);
                let items = page["items"].as_array().unwrap();
                assert!((1..=limit).contains(&items.len()), "{query}");
                seen.extend(items.iter().map(|item| item["k"].as_str().unwrap()));
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(seen, want, "{direction} {limit}");
        }
    }
    let forward = pond.page("limit=1").await["cursor"].as_str().unwrap().to_owned();
    let (status, body) =
        pond.send("GET", &format!("/v1/kv/default?reverse=true&cursor={forward}"), "").await;
    assert_eq!(status, 400);
    assert!(body.contains("other direction"), "{body}");
}

/// It was an empty page.
#[tokio::test]
async fn bounds_the_wrong_way_round_are_refused_and_an_empty_range_is_none() {
    let pond = Pond::with_keys(6).await;
    for more in ["", "&reverse=true", "&limit=1"] {
        let target = format!("/v1/kv/default?start=b%00&end=a{more}");
        let (status, body) = pond.send("GET", &target, "").await;
        assert_eq!(status, 400, "{body}");
        assert!(body.contains("b\\\\x00") && body.contains("\\\"a\\\""), "{body}");
    }
    let page = pond.page("start=b&end=b").await;
    assert_eq!(page["items"], serde_json::json!([]));
}

#[tokio::test]
async fn a_page_of_large_values_is_cut_and_continues() {
    let pond = Pond::new(Limits::default());
    for key in ["a", "b", "c"] {
        let value = key.repeat(3 << 20);
        assert_eq!(pond.send("PUT", &format!("/v1/kv/default/{key}"), value).await.0, 200);
    }
    let page = pond.page("").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let rest = pond.keys(&format!("cursor={}", page["cursor"].as_str().unwrap())).await;
    assert_eq!(rest, "c");
    assert_eq!(pond.keys("keys_only=true").await, "abc");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_base64url() {
    let pond = Pond::new(Limits::default());
    pond.send("PUT", "/v1/kv/default/%ff", "text").await;
    pond.send("PUT", "/v1/kv/default/a", "text").await;
    let page = pond.page("").await;
    assert_eq!(page["items"][0], json!({"k": "a", "v": "text", "rev": 2}));
    assert_eq!(page["items"][1], json!({"k64": "_w", "v": "text", "rev": 1}));
    let page = pond.page("encoding=base64&keys_only=true").await;
    assert_eq!(page["items"][0], json!({"k64": "YQ", "rev": 2}));
    assert_eq!(pond.send("GET", "/v1/kv/default?encoding=latin1", "").await.0, 400);
}

#[tokio::test]
async fn a_stream_ends_with_a_line_that_says_so() {
    let pond = Pond::with_keys(3).await;
    let lines = pond.lines("").await;
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], json!({"k": "a", "v": "a", "rev": 1}));
    assert_eq!(lines[3], json!({"end": true, "count": 3, "revision": 3}));
    let cut = pond.lines("limit=2&reverse=true").await;
    assert_eq!((&cut[2]["end"], &cut[2]["count"]), (&json!(true), &json!(2)));
    let cursor = cut[2]["cursor"].as_str().unwrap();
    assert_eq!(pond.lines(&format!("reverse=true&cursor={cursor}")).await[0]["k"], "a");
    assert_eq!(pond.lines("prefix=zz").await, [json!({"end": true, "count": 0, "revision": 3})]);
}

#[tokio::test]
async fn a_stream_shows_one_snapshot_and_its_failure() {
    let pond = Pond::with_keys(3).await;
    let open = pond.stream("").await;
    pond.send("DELETE", "/v1/kv/default/b", "").await;
    pond.send("PUT", "/v1/kv/default/z", "new").await;
    let body = open.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"{\"end\":true,\"count\":3,\"revision\":3}\n"));
    let failing = pond.stream("").await;
    pond.engine.fail_next_step(Error::Corrupt { what: "vb-7".into(), reason: "rot".into() });
    let body = failing.into_body().collect().await.unwrap().to_bytes();
    let last = std::str::from_utf8(&body).unwrap().lines().last().unwrap().to_owned();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["error"]["type"], "urn:millpond:problem:damaged");
    assert!(last["error"]["detail"].as_str().unwrap().contains("vb-7"), "{last}");
}

#[tokio::test]
async fn streams_are_bounded_and_their_places_come_back() {
    let pond = Pond::new(Limits { streams_max: 1, ..Limits::default() });
    let first = pond.stream("").await;
    let second = pond.stream("").await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
    assert_eq!(second.headers()["x-millpond-stall"], "streams");
    drop(first);
    assert_eq!(pond.stream("").await.status(), 200);
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let pond = Pond::with_keys(2).await;
    let bad = json!([
        {"op": "put", "k": "c", "v": "1"},
        {"op": "delete", "k": "a"},
        {"op": "put", "k": "", "v": "1"},
    ]);
    let (status, body) = pond.send("POST", "/v1/batch", bad).await;
    assert_eq!(status, 400);
    assert!(body.contains("operation 3: key of 0 bytes"), "{body}");
    assert_eq!(pond.keys("").await, "ab");
    let good = "{\"op\":\"put\",\"k\":\"c\",\"v\":\"1\"}\n{\"op\":\"delete\",\"k\":\"a\"}\n";
    let (status, body) = pond.send("POST", "/v1/batch?durability=interval", good).await;
    assert_eq!((status, &*body), (200, "{\"count\":2,\"revision\":3}\n"));
    assert_eq!(pond.keys("").await, "bc");
}

#[tokio::test]
async fn a_large_batch_is_decoded_beside_the_workers() {
    let pond = Pond::new(Limits::default());
    let lines: String = (0..5000)
        .map(|n| format!("{{\"op\":\"put\",\"k\":\"key-{n}\",\"v\":\"{n}\"}}\n"))
        .collect();
    let (status, body) = pond.send("POST", "/v1/batch", lines).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(pond.lines("").await.last().unwrap()["count"], 5000);
    let limited = Pond::new(Limits { batch_bytes_max: 1000, ..Limits::default() });
    let (status, body) = limited.send("POST", "/v1/batch", "x".repeat(1001)).await;
    assert_eq!(status, 413);
    assert!(body.contains("at most 1000"), "{body}");
}

#[tokio::test]
async fn what_a_scan_wrote_can_be_sent_back() {
    let pond = Pond::new(Limits::default());
    let all: Vec<Value> = (0..=255_u8)
        .map(|byte| {
            let encode = |bytes: [u8; 2]| URL_SAFE_NO_PAD.encode(bytes);
            json!({"k64": encode([byte, 0]), "v64": encode([7, byte])})
        })
        .chain([json!({"k": "text \u{1f986}", "v": ""})])
        .collect();
    assert_eq!(pond.send("POST", "/v1/batch", Value::from(all)).await.0, 200);
    let stream = pond.stream("").await.into_body().collect().await.unwrap().to_bytes();
    let stream = String::from_utf8(stream.to_vec()).unwrap();
    let scan = async |kvs: &str, query: &str| {
        pond.send("GET", &format!("/v1/kv/{kvs}?limit=1000{query}"), "").await.1
    };
    let (page, coded) = (scan("default", "").await, scan("default", "&encoding=base64").await);
    let items = |page: &str| {
        let page: Value = serde_json::from_str(page).unwrap();
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| [&item["k64"], &item["v64"]].map(Value::to_string)).collect::<Vec<_>>()
    };
    for (at, sent) in [stream, page, coded.clone()].into_iter().enumerate() {
        let kvs = format!("copy-{at}");
        assert_eq!(pond.send("PUT", &format!("/v1/kvs/{kvs}"), "").await.0, 201);
        let (status, body) = pond.send("POST", &format!("/v1/batch?kvs={kvs}"), &sent).await;
        assert_eq!(status, 200, "{body}");
        let copy = scan(&kvs, "&encoding=base64").await;
        assert_eq!(items(&copy), items(&coded), "{kvs}");
        assert_eq!(items(&copy).len(), 257);
    }
    let (status, body) = pond.send("POST", "/v1/batch?kvs=nowhere", r#"{"k":"a","v":""}"#).await;
    assert!(status == 404 && body.contains("nowhere"), "{body}");
}

#[tokio::test]
async fn a_scan_that_failed_is_not_sent_back_as_if_it_were_whole() {
    let pond = Pond::with_keys(3).await;
    let stream = pond.stream("").await;
    pond.engine.fail_next_step(Error::Corrupt { what: "vb-7".into(), reason: "checksum".into() });
    let body = stream.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap() + "{\"k\":\"d\",\"v\":\"\"}\n";
    let (status, answer) = pond.send("POST", "/v1/batch", &body).await;
    assert_eq!(status, 400, "{body}: {answer}");
    assert!(answer.contains("not whole"), "{answer}");
    assert_eq!(pond.keys("").await, "abc");
}

#[tokio::test]
async fn fields_are_told_by_their_names() {
    let pond = Pond::with_keys(1).await;
    for body in [r#"["put","default","b",null,"1"]"#, r#"[["delete",null,"a"]]"#] {
        let (status, answer) = pond.send("POST", "/v1/batch", body).await;
        assert_eq!(status, 400, "{answer}");
    }
    assert_eq!(pond.keys("").await, "a");
}

/// The next frame of a stream.
async fn frame(body: &mut Body) -> Option<String> {
    let bytes = body.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

impl Pond {
    /// A scan is open, and has got as far as it can without a turn or memory.
    async fn scan_waits(&self, running: usize) {
        while self.engine.open_snapshots() == 0 || self.app.shared().lanes.scans.running() > running
        {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

/// A page that waited for memory held its snapshot, ended or not, until it had some.
#[tokio::test]
async fn a_page_that_waits_for_memory_ends_with_its_snapshot() {
    let pond = Arc::new(Pond::with_keys(1).await);
    let value = "v".repeat(100_000);
    assert_eq!(pond.send("PUT", "/v1/kv/default/large", &value).await.0, 200);
    let responses = &pond.app.shared().responses;
    let all = Limits::default().response_memory_bytes;
    let _all = responses.try_share(all).unwrap();
    let waiting = Arc::clone(&pond);
    let page = tokio::spawn(async move { waiting.send("GET", "/v1/kv/default?start=l", "").await });
    pond.scan_waits(0).await;
    assert_eq!(pond.engine.let_go_on(), []);
    pond.engine.end_snapshots();
    assert_eq!(pond.engine.let_go_on().len(), 1, "at once");
    let (status, answer) = page.await.unwrap();
    assert_eq!(status, 410, "{answer}");
    assert!(answer.contains("snapshot-ended"), "{answer}");
}

/// A stream that waited for its turn, or for memory, held its snapshot as long.
#[tokio::test]
async fn a_stream_that_waits_ends_with_its_snapshot() {
    let limits = Limits { blocking_threads: 1, ..Limits::default() };
    let pond = Pond::new(limits);
    assert_eq!(pond.send("PUT", "/v1/kv/default/large", "v".repeat(100_000)).await.0, 200);
    let shared = pond.app.shared();
    for (n, waits_for_memory) in [(1, true), (2, false)] {
        let mut body = pond.stream("").await.into_body();
        let _all =
            waits_for_memory.then(|| shared.responses.try_share(limits.response_memory_bytes));
        let turn = shared.lanes.scans.turn(Patience::Begun).await.unwrap();
        let _turn = if waits_for_memory { turn.run(|| None).await } else { Some(turn) };
        let mut next = std::pin::pin!(frame(&mut body));
        tokio::select! {
            biased;
            _ = &mut next => panic!("it has what it needs"),
            () = pond.scan_waits(usize::from(!waits_for_memory)) => {}
        }
        assert_eq!(pond.engine.let_go_on().len(), n - 1);
        pond.engine.end_snapshots();
        assert_eq!(pond.engine.let_go_on().len(), n, "at once");
        let end = next.await.unwrap();
        assert!(end.contains("snapshot-ended"), "{end}");
    }
}

/// The turn that was on its way took the walk for one that stands on a key: the server panicked
/// after each stream whose snapshot was ended while its client read.
#[tokio::test]
async fn nothing_is_read_of_a_walk_whose_snapshot_was_ended() {
    let pond = Pond::new(Limits { blocking_threads: 1, ..Limits::default() });
    for key in 0..40 {
        let target = format!("/v1/kv/default/{key}");
        assert_eq!(pond.send("PUT", &target, "v".repeat(100_000)).await.0, 200);
    }
    let mut body = pond.stream("").await.into_body();
    assert!(frame(&mut body).await.unwrap().starts_with("{\"k\":\"0\""));
    pond.engine.end_snapshots();
    // What was on its way still comes.
    while !frame(&mut body).await.unwrap().contains("snapshot-ended") {}
    // After the turn that was asked for and not waited for, as there is one thread.
    let scans = &pond.app.shared().lanes.scans;
    scans.turn(Patience::Begun).await.unwrap().run(|| ()).await;
    assert!(!pond.engine.was_used_after_end());
}

/// To let go of a snapshot may unmap much, and was done on the threads that serve all requests.
#[tokio::test]
async fn no_async_worker_lets_go_of_a_snapshot() {
    let pond = Pond::with_keys(9).await;
    let limits = Limits::default();
    let lets_go = async |count| {
        while pond.engine.let_go_on().len() < count {
            tokio::task::yield_now().await;
        }
        let here = std::thread::current().id();
        assert!(!pond.engine.let_go_on().contains(&here), "{count}");
    };
    pond.page("").await;
    lets_go(1).await;
    pond.page("limit=2").await;
    lets_go(2).await;
    pond.lines("").await;
    lets_go(3).await;
    pond.lines("limit=2").await;
    lets_go(4).await;
    drop(pond.stream("").await);
    lets_go(5).await;
    let mut read_on = pond.stream("").await.into_body();
    frame(&mut read_on).await.unwrap();
    drop(read_on);
    lets_go(6).await;
    pond.engine.fail_next_step(Error::Closed);
    pond.send("GET", "/v1/kv/default", "").await;
    lets_go(7).await;
    let stream = pond.stream("").await;
    pond.engine.fail_next_step(Error::Closed);
    assert!(stream.into_body().collect().await.unwrap().to_bytes().ends_with(b"}\n"));
    lets_go(8).await;
    // Pages that wait, whose clients leave.
    assert_eq!(pond.send("PUT", "/v1/kv/default/large", "v".repeat(100_000)).await.0, 200);
    let _all = pond.app.shared().responses.try_share(limits.response_memory_bytes).unwrap();
    tokio::select! {
        biased;
        _ = pond.send("GET", "/v1/kv/default?start=l", "") => panic!("there is no memory"),
        () = pond.scan_waits(0) => {}
    }
    lets_go(9).await;
}
