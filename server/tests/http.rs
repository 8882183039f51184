//! Every route and every status, in process, against the in-memory engine.
#![allow(clippy::unwrap_used, reason = "a test")]
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use kvs::{Ailment, Error, Health, Part};
use millpond::app::App;
use millpond::engine::memory::{Cold, MemoryEngine};
use millpond::state::{Limits, Phase};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

struct Fixture {
    app: App,
    engine: Arc<MemoryEngine>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let app = App::with_engine(Arc::<MemoryEngine>::clone(&engine), limits);
        Self { app, engine }
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> Seen {
        self.send_with(method, target, &[], body).await
    }

    async fn send_with(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Seen {
        let mut request = Request::builder().method(method).uri(target);
        let sent = [("host", "pond"), ("content-type", "application/json")];
        for (name, value) in sent.iter().filter(|sent| !headers.iter().any(|own| own.0 == sent.0)) {
            request = request.header(*name, *value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        Seen::of(self.app.answer(request).await).await
    }

    async fn put(&self, keys: &[&str]) {
        for key in keys {
            let target = format!("/v1/kv/default/{key}");
            assert_eq!(self.send("PUT", &target, &format!("value of {key}")).await.status, 200);
        }
    }
}

#[derive(Debug)]
struct Seen {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(|(k, v)| (k.to_string(), text(v))).collect(),
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The detail of a problem; panics if the body is none.
    fn problem(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        for field in ["type", "title", "detail", "request_id"] {
            assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {json}");
        }
        assert_eq!(json["status"], self.status);
        let kind = json["type"].as_str().unwrap().strip_prefix("urn:millpond:problem:").unwrap();
        (kind.to_owned(), json["detail"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn one_row_for_each_status_and_route() {
    let fixture = Fixture::with(Limits { value_bytes_max: 8, ..Limits::default() });
    let long_key = format!("/v1/kv/default/{}", "k".repeat(1345));
    for (method, target, body, status, problem) in [
        ("GET", "/v1/kv/default/a", "", 404, None),
        ("PUT", "/v1/kv/default/a", "1", 200, None),
        ("POST", "/v1/kv/default/a", "2", 200, None),
        ("GET", "/v1/kv/default/a", "", 200, None),
        ("HEAD", "/v1/kv/default/a", "", 200, None),
        ("DELETE", "/v1/kv/default/a", "", 200, None),
        ("DELETE", "/v1/kv/default/never-there", "", 200, None),
        ("HEAD", "/v1/kv/default/a", "", 404, None),
        ("PUT", "/v1/kv/default/empty-value", "", 200, None),
        ("PUT", "/v1/kv/default/a?durability=off", "1", 200, None),
        ("PUT", "/v1/kv/default/a?durability=never", "1", 400, Some("bad-request")),
        ("GET", "/v1/kv/default/a?durability=off", "", 400, Some("bad-request")),
        ("PUT", "/v1/kv/default/a?ttl=3", "1", 400, Some("bad-request")),
        ("PUT", "/v1/kv/default/a", "123456789", 413, Some("too-large")),
        ("PUT", "/v1/kv/default/", "1", 400, Some("key-length")),
        ("PUT", &long_key, "1", 400, Some("key-length")),
        ("GET", "/v1/kv/default/%zz", "", 400, Some("bad-request")),
        ("GET", "/v1/kv/nowhere/a", "", 404, Some("no-such-kvs")),
        ("PUT", "/v1/kv/nowhere/a", "1", 404, Some("no-such-kvs")),
        ("DELETE", "/v1/kv/nowhere/a", "", 404, Some("no-such-kvs")),
        ("PATCH", "/v1/kv/default/a", "1", 405, Some("method-not-allowed")),
        ("GET", "/v1/kv/default", "", 200, None),
        ("GET", "/v1/kv/nowhere", "", 404, Some("no-such-kvs")),
        ("GET", "/v1/kv/default?limit=0", "", 400, Some("bad-request")),
        ("GET", "/v1/kv/default?limit=10001", "", 400, Some("bad-request")),
        ("GET", "/v1/kv/default?cursor=%21", "", 400, Some("bad-request")),
        ("GET", "/v1/kv/default?prefx=a", "", 400, Some("bad-request")),
        ("PUT", "/v1/kv/default", "1", 405, Some("method-not-allowed")),
        ("POST", "/v1/batch", r#"[{"op":"put","k":"a","v":"1"}]"#, 200, None),
        ("POST", "/v1/batch", "[]", 400, Some("bad-request")),
        ("POST", "/v1/batch", r#"{"op":"delete","kvs":"x","k":"a"}"#, 404, Some("no-such-kvs")),
        ("GET", "/v1/batch", "", 405, Some("method-not-allowed")),
        ("GET", "/v1/kvs", "", 200, None),
        ("PUT", "/v1/kvs/users", "", 201, None),
        ("PUT", "/v1/kvs/users", "", 200, None),
        ("GET", "/v1/kvs/users", "", 200, None),
        ("HEAD", "/v1/kvs/users", "", 200, None),
        ("DELETE", "/v1/kvs/users", "", 200, None),
        ("DELETE", "/v1/kvs/users", "", 404, Some("no-such-kvs")),
        ("GET", "/v1/kvs/users", "", 404, Some("no-such-kvs")),
        ("PUT", "/v1/kvs/a%20b", "", 400, Some("kvs-name")),
        ("POST", "/v1/kvs/users", "", 405, Some("method-not-allowed")),
        ("GET", "/livez", "", 200, None),
        ("GET", "/readyz", "", 200, None),
        ("GET", "/metrics", "", 200, None),
        ("GET", "/version", "", 200, None),
        ("POST", "/version", "", 405, Some("method-not-allowed")),
        ("GET", "/", "", 404, Some("no-such-route")),
        ("GET", "/v1/kv//a", "", 404, Some("no-such-route")),
    ] {
        let seen = fixture.send(method, target, body).await;
        assert_eq!(seen.status, status, "{method} {target} {body}: {seen:?}");
        match problem {
            Some(kind) => assert_eq!(seen.problem().0, kind, "{method} {target}"),
            None => assert_ne!(seen.header("content-type"), Some("application/problem+json")),
        }
        assert_eq!(seen.header("allow").is_some(), status == 405, "{method} {target}");
    }
}

#[tokio::test]
async fn values_are_raw_bytes_with_their_revision() {
    let fixture = Fixture::new();
    let written = fixture.send("PUT", "/v1/kv/default/a", "hello").await;
    assert_eq!(written.body, b"");
    assert_eq!(written.header("content-length"), Some("0"));
    let read = fixture.send("GET", "/v1/kv/default/a", "").await;
    assert_eq!(read.text(), "hello");
    assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    assert_eq!(read.header("etag"), Some("\"1\""));
    assert_eq!(read.header("etag"), written.header("etag"));
    assert_eq!(read.header("x-millpond-revision"), Some("1"));
    let head = fixture.send("HEAD", "/v1/kv/default/a", "").await;
    assert_eq!((head.header("content-length"), &*head.body), (Some("5"), &b""[..]));
    let missing = fixture.send("GET", "/v1/kv/default/b", "").await;
    assert_eq!((missing.header("content-length"), &*missing.body), (Some("0"), &b""[..]));
}

#[tokio::test]
async fn keys_are_bytes_decoded_once() {
    let fixture = Fixture::new();
    for (at, (target, as_base64)) in [
        ("a/b", "YS9i"),
        ("a//b", "YS8vYg"),
        ("a%2Fc", "YS9j"),
        ("%00%ff", "AP8"),
        ("a+b", "YSti"),
        ("%252F", "JTJG"),
    ]
    .into_iter()
    .enumerate()
    {
        let value = at.to_string();
        assert_eq!(
            fixture.send("PUT", &format!("/v1/kv/default/{target}"), &value).await.status,
            200
        );
        let same = format!("/v1/kv/default/{as_base64}?key_encoding=base64url");
        assert_eq!(fixture.send("GET", &same, "").await.text(), value, "{target}");
    }
    let bad = fixture.send("GET", "/v1/kv/default/a!?key_encoding=base64url", "").await;
    assert!(bad.problem().1.contains("not base64url"), "{bad:?}");
}

#[tokio::test]
async fn conditions_on_reads_are_checked_and_on_writes_refused() {
    let fixture = Fixture::new();
    fixture.put(&["a"]).await;
    let target = "/v1/kv/default/a";
    for (name, value, status) in [
        ("if-none-match", "\"1\"", 304),
        ("if-none-match", "W/\"1\"", 304),
        ("if-none-match", "\"2\"", 200),
        ("if-none-match", "\"1,\", \"2\"", 200),
        ("if-none-match", "\"2\", \"1\"", 304),
        ("if-none-match", "*", 304),
        ("if-match", "\"1\"", 200),
        ("if-match", "W/\"1\"", 412),
        ("if-match", "\"2\"", 412),
    ] {
        let seen = fixture.send_with("GET", target, &[(name, value)], "").await;
        assert_eq!(seen.status, status, "{name}: {value}");
        assert_eq!(seen.body.is_empty(), status != 200);
        assert_eq!(seen.header("etag"), Some("\"1\""));
    }
    for (method, name, value) in [
        ("PUT", "if-match", "\"1\""),
        ("PUT", "if-none-match", "*"),
        ("POST", "if-match", "\"1\""),
        ("DELETE", "if-match", "\"1\""),
        ("DELETE", "if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
    ] {
        let seen = fixture.send_with(method, target, &[(name, value)], "new").await;
        assert_eq!(seen.status, 501, "{method} {name}");
        assert!(seen.problem().1.contains(name), "{seen:?}");
    }
    let batch = r#"{"op":"delete","k":"a"}"#;
    for (method, target, body) in
        [("POST", "/v1/batch", batch), ("PUT", "/v1/kvs/b", ""), ("DELETE", "/v1/kvs/default", "")]
    {
        let seen = fixture.send_with(method, target, &[("if-match", "\"1\"")], body).await;
        assert_eq!(seen.status, 501, "{method} {target}");
    }
    // One list in several lines, and what is none.
    for (lines, status) in [
        (&[("if-none-match", "\"2\""), ("if-none-match", "\"1\"")][..], 304),
        (&[("if-match", "\"2\""), ("if-match", "\"1\"")], 200),
        (&[("if-none-match", "\"1\", *")], 400),
        (&[("if-match", "1")], 400),
    ] {
        assert_eq!(fixture.send_with("GET", target, lines, "").await.status, status, "{lines:?}");
    }
    assert_eq!(fixture.send("GET", target, "").await.text(), "value of a");
}

#[tokio::test]
async fn cold_lookups_are_awaited() {
    let fixture = Fixture::new();
    fixture.put(&["a"]).await;
    fixture.engine.set_cold(Cold::Always);
    assert_eq!(fixture.send("GET", "/v1/kv/default/a", "").await.text(), "value of a");
    assert_eq!(fixture.send("GET", "/v1/kv/default/b", "").await.status, 404);
    assert_eq!(fixture.send("PUT", "/v1/kv/default/b", "2").await.status, 200);
}

#[tokio::test]
async fn engine_failures_have_a_status_and_a_reason() {
    let fixture = Fixture::new();
    let full = Error::Full {
        need_bytes: 18,
        free_bytes: 90,
        reserve_bytes: 100,
        missing_bytes: 28,
        stuck_bytes: 0,
        held_bytes: 0,
    };
    for (error, status, retry, stall) in [
        (Error::Stalled { reason: "memtables" }, 503, true, Some("memtables")),
        (full, 507, false, None),
        (Error::Corrupt { what: "vblock".into(), reason: "checksum".into() }, 500, false, None),
        (Error::Closed, 503, true, None),
    ] {
        fixture.engine.fail_next(error);
        let seen = fixture.send("PUT", "/v1/kv/default/a", "1").await;
        assert_eq!(seen.status, status);
        assert_eq!(seen.header("retry-after").is_some(), retry, "{seen:?}");
        assert_eq!(seen.header("x-millpond-stall"), stall);
        seen.problem();
    }
    assert_eq!(fixture.send("GET", "/readyz", "").await.status, 200);
    fixture.engine.fail_next(Error::Poisoned { cause: "flush".into() });
    assert_eq!(fixture.send("PUT", "/v1/kv/default/a", "1").await.status, 503);
}

/// `/readyz` said `ready` until a write met the failure.
#[tokio::test]
async fn a_failure_in_the_background_is_told_without_a_write() {
    let fixture = Fixture::new();
    for (parts, status, text) in [
        (&[][..], 200, "ready\n"),
        (&[Part::Compaction], 200, "degraded\ncompaction: read error\n"),
        (&[Part::Flush, Part::Compaction], 503, "failed\nflush: read error\n"),
        (&[Part::Log], 503, "failed\nlog: read error\n"),
        (&[], 200, "ready\n"),
    ] {
        let ailment = |part: &Part| Ailment { part: *part, cause: "read error".into() };
        fixture.engine.set_health(Health { ailments: parts.iter().map(ailment).collect() });
        let ready = fixture.send("GET", "/readyz", "").await;
        assert_eq!((ready.status, ready.text()), (status, text));
        assert_eq!(fixture.send("GET", "/livez", "").await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_times_out() {
    let limits = Limits { request_timeout: Duration::from_secs(7), ..Limits::default() };
    let fixture = Fixture::with(limits);
    fixture.engine.hold_writes();
    let seen = fixture.send("PUT", "/v1/kv/default/a", "1").await;
    assert_eq!(seen.status, 503);
    let (kind, detail) = seen.problem();
    assert_eq!(kind, "timeout");
    assert!(detail.contains("7 s") && detail.contains("may or may not"), "{detail}");
}

#[tokio::test]
async fn before_the_store_is_open_only_watchers_are_answered() {
    let app = App::new(Limits::default());
    let fixture = Fixture { app, engine: Arc::new(MemoryEngine::new()) };
    for (target, status) in [
        ("/livez", 200),
        ("/readyz", 503),
        ("/metrics", 200),
        ("/version", 200),
        ("/v1/kv/default/a", 503),
        ("/v1/kv/default", 503),
        ("/v1/kvs", 503),
    ] {
        assert_eq!(fixture.send("GET", target, "").await.status, status, "{target}");
    }
    fixture.app.shared().open(Arc::<MemoryEngine>::clone(&fixture.engine));
    assert_eq!(fixture.send("GET", "/readyz", "").await.text(), "ready\n");
    fixture.app.shared().set_phase(Phase::Draining);
    assert_eq!(fixture.send("GET", "/readyz", "").await.text(), "draining\n");
    for (target, status) in [("/livez", 200), ("/metrics", 200), ("/v1/kv/default/a", 503)] {
        assert_eq!(fixture.send("GET", target, "").await.status, status, "{target}");
    }
    let refused = fixture.send("PUT", "/v1/kv/default/a", "1").await;
    assert_eq!(refused.json()["type"], "urn:millpond:problem:closing");
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn request_ids_are_the_clients_or_ours() {
    let fixture = Fixture::new();
    let id = |seen: &Seen| seen.json()["request_id"].as_str().unwrap().to_owned();
    let given = fixture.send_with("GET", "/nothing", &[("x-request-id", "mine-1")], "").await;
    assert_eq!((id(&given), given.header("x-request-id")), ("mine-1".into(), Some("mine-1")));
    let one = fixture.send("GET", "/nothing", "").await;
    let two = fixture.send("GET", "/nothing", "").await;
    assert_ne!(id(&one), id(&two));
}

#[tokio::test]
async fn metrics_name_the_requests_and_the_process() {
    let fixture = Fixture::new();
    fixture.put(&["a"]).await;
    fixture.send("GET", "/v1/kv/default/a", "").await;
    fixture.engine.fail_next(Error::Stalled { reason: "memtables" });
    fixture.send("PUT", "/v1/kv/default/a", "1").await;
    let seen = fixture.send("GET", "/metrics", "").await;
    for line in [
        r#"millpond_http_requests_total{code="200",method="GET",route="key"} 1"#,
        r#"millpond_http_requests_total{code="503",method="PUT",route="key"} 1"#,
        r#"millpond_http_rejected_total{reason="stalled"} 1"#,
        r#"millpond_kvs_keys{kvs="default"} 1"#,
        "# TYPE millpond_http_request_duration_seconds histogram",
        "process_resident_memory_bytes",
        "millpond_build_info",
    ] {
        assert!(seen.text().contains(line), "{line} is missing in:\n{}", seen.text());
    }
}
