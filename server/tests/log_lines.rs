//! The log line of a request that fails: what was asked for, how it ended, and why.
#![allow(clippy::unwrap_used, reason = "a test")]
use axum::body::Body;
use axum::http::Request;
use kvs::Error;
use millpond::app::App;
use millpond::engine::memory::MemoryEngine;
use millpond::state::Limits;
use std::io;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_that_fails_has_one_line_that_says_all() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let engine = Arc::new(MemoryEngine::new());
    let app = App::with_engine(Arc::<MemoryEngine>::clone(&engine), Limits::default());
    let long = "k".repeat(500);
    for (error, target, want) in [
        (
            Error::Corrupt { what: "vblock 7".into(), reason: "checksum".into() },
            "/v1/kv/default/a%0Ab?key_encoding=percent".to_owned(),
            "ERROR kind=\"damaged\" method=GET path=/v1/kv/default/a%0Ab status=500 request_id=\"r-1\"",
        ),
        (
            Error::Stalled { reason: "memtables" },
            format!("/v1/kv/default/{long}"),
            "WARN kind=\"overloaded\" method=GET path=/v1/kv/default/kkk",
        ),
    ] {
        engine.fail_next(error);
        let request = Request::builder().uri(target).header("host", "127.0.0.1");
        let request = request.header("x-request-id", "r-1");
        app.answer(request.body(Body::empty()).unwrap()).await;
        let text = String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let words = want.split(' ').all(|word| text.contains(word));
        assert!(words, "{want} is not in {text}");
        assert!(text.len() < 600, "{text}");
    }
}
