//! `GET /v1/kv/{kvs}`: keys in order, a page at a time or as one stream.
//!
//! - A page is a JSON document `{"items":[...],"cursor":"...","revision":n}`. It is cut at `limit`
//!   items or at 4 MiB. `cursor` is there if there is more; it holds nothing but the place to go on
//!   from, so that the server keeps no state: each page shows the KVS at its own `revision`.
//! - With `Accept: application/x-ndjson` the answer is one item a line, all from one snapshot, as
//!   fast as the client reads. The last line is `{"end":true,"count":n,...}`, or `{"error":...}`;
//!   a stream without either was cut off.
//!
//! Cursors block on the drive, so they are walked in steps on the blocking pool. Between steps a
//! stream waits for its client without holding a thread.

use super::item::{self, Encoding};
use crate::app::Shared;
use crate::blocking::Patience;
use crate::engine::Walk;
use crate::metrics::http::Rejected;
use crate::problem::{Answer, Problem};
use crate::target::{BASE64URL, Query, percent_decode_text, split_key_path};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use kvs::{Range, Revision};
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

const PARAMETERS: &[&str] = &[
    "prefix",
    "start",
    "end",
    "limit",
    "cursor",
    "reverse",
    "keys_only",
    "encoding",
    "key_encoding",
];

/// Items of a page unless `limit` says otherwise.
const PAGE_ITEMS: u64 = 100;

/// Most items of a page.
const PAGE_ITEMS_MAX: u64 = 10_000;

/// A page ends after the item that reaches this size.
const PAGE_BYTES: usize = 4 << 20;

/// A stream is sent in pieces of about this size.
const CHUNK_BYTES: usize = 256 << 10;

/// A scan as asked for.
#[derive(Debug)]
struct Plan {
    kvs: String,
    range: Range,
    limit: Option<u64>,
    keys_only: bool,
    encoding: Encoding,
}

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Answer {
    let query = Query::parse(request.uri().query(), PARAMETERS)?;
    let plan = plan(request.uri().path(), &query)?;
    if wants_stream(request.headers()) {
        stream_response(shared, plan).await
    } else {
        page_response(&shared, plan).await
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|kind| {
        let name = kind.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("application/x-ndjson")
    })
}

fn plan(path: &str, query: &Query<'_>) -> Result<Plan, Problem> {
    let Some((kvs, None)) = split_key_path(path) else {
        return Err(Problem::no_such_route(path));
    };
    let encoding = query.key_encoding()?;
    let bytes = |name| -> Result<Option<Bytes>, Problem> {
        Ok(query.key(name, encoding)?.map(|key| Bytes::from(key.into_owned())))
    };
    let mut range = Range {
        prefix: bytes("prefix")?.unwrap_or_default(),
        start: bytes("start")?,
        end: bytes("end")?,
        reverse: query.flag("reverse")?,
    };
    if let Some(cursor) = query.bytes("cursor") {
        continue_at(&mut range, cursor)?;
    }
    let limit = query.number("limit", 1..=u64::MAX, "a number from 1")?;
    Ok(Plan {
        kvs: percent_decode_text(kvs)?.into_owned(),
        range,
        limit,
        keys_only: query.flag("keys_only")?,
        encoding: Encoding::of(query)?,
    })
}

/// First byte of a cursor: the direction, so that a cursor used the other way is noticed.
const FORWARD: u8 = b'f';
const REVERSE: u8 = b'r';

/// Forward, a page goes on from the first key not shown; in reverse, below the last key shown.
fn cursor_text(reverse: bool, last: &[u8], next: &[u8]) -> String {
    let (direction, key) = if reverse { (REVERSE, last) } else { (FORWARD, next) };
    BASE64URL.encode([&[direction], key].concat())
}

fn continue_at(range: &mut Range, cursor: &[u8]) -> Result<(), Problem> {
    let wrong = |why: &str| {
        let shown = String::from_utf8_lossy(cursor).into_owned();
        Problem::bad_request(format!("cursor {shown:?} {why}; use the one of the last page"))
    };
    let bytes = BASE64URL.decode(cursor).map_err(|_| wrong("is not one of ours"))?;
    match (bytes.split_first(), range.reverse) {
        (Some((&FORWARD, key)), false) => range.start = Some(Bytes::copy_from_slice(key)),
        (Some((&REVERSE, key)), true) => range.end = Some(Bytes::copy_from_slice(key)),
        (Some((&(FORWARD | REVERSE), _)), _) => {
            return Err(wrong("is of a scan in the other direction"));
        }
        _ => return Err(wrong("is not one of ours")),
    }
    Ok(())
}

/// What a walk has shown so far.
#[derive(Debug, Default)]
struct Progress {
    count: u64,
    last: Bytes,
}

/// Appends the next item to `out`. False at the end.
fn show_next(
    walk: &mut dyn Walk,
    plan: &Plan,
    (out, before): (&mut Vec<u8>, &[u8]),
    progress: &mut Progress,
) -> kvs::Result<bool> {
    let (key, value, revision) = if plan.keys_only {
        let Some((key, revision)) = walk.next_key()? else { return Ok(false) };
        (key, None, revision)
    } else {
        let Some(item) = walk.next()? else { return Ok(false) };
        (item.key, Some(item.value), item.revision)
    };
    out.extend_from_slice(before);
    item::append(out, plan.encoding, (&key, value.as_ref(), revision));
    progress.count += 1;
    progress.last = key;
    Ok(true)
}

/// The cursor of what comes after the last item shown, if anything does.
fn cursor_after(
    walk: &mut dyn Walk,
    plan: &Plan,
    progress: &Progress,
) -> kvs::Result<Option<String>> {
    let next = walk.next_key()?;
    Ok(next.map(|(next, _)| cursor_text(plan.range.reverse, &progress.last, &next)))
}

async fn page_response(shared: &Shared, plan: Plan) -> Answer {
    if let Some(limit) = plan.limit.filter(|limit| *limit > PAGE_ITEMS_MAX) {
        return Err(Problem::bad_request(format!(
            "limit={limit}: a page has at most {PAGE_ITEMS_MAX} items; use the cursor, or \
             Accept: application/x-ndjson for a stream without limit"
        )));
    }
    let work = move |engine: &dyn crate::engine::Engine| {
        let mut walk = engine.walk(&plan.kvs, plan.range.clone())?;
        Ok(page(&mut *walk, &plan)?)
    };
    let body = shared.blocking(Patience::Refusable, work).await?;
    let kind = HeaderValue::from_static("application/json");
    Ok((StatusCode::OK, [(CONTENT_TYPE, kind)], body).into_response())
}

fn page(walk: &mut dyn Walk, plan: &Plan) -> kvs::Result<Vec<u8>> {
    let limit = plan.limit.unwrap_or(PAGE_ITEMS);
    let mut out = b"{\"items\":[".to_vec();
    let mut progress = Progress::default();
    let mut ended = false;
    while progress.count < limit && out.len() < PAGE_BYTES && !ended {
        let before: &[u8] = if progress.count == 0 { b"\n" } else { b",\n" };
        ended = !show_next(walk, plan, (&mut out, before), &mut progress)?;
    }
    let cursor = if ended { None } else { cursor_after(walk, plan, &progress)? };
    out.extend_from_slice(b"]");
    if let Some(cursor) = cursor {
        // A cursor is base64url: nothing in it needs escaping.
        out.extend_from_slice(format!(",\"cursor\":\"{cursor}\"").as_bytes());
    }
    out.extend_from_slice(format!(",\"revision\":{}}}\n", walk.revision()).as_bytes());
    Ok(out)
}

/// A stream between two steps.
struct Streaming {
    shared: Arc<Shared>,
    walk: Box<dyn Walk>,
    plan: Plan,
    progress: Progress,
    ended: bool,
    /// Held until the stream is dropped.
    _permit: OwnedSemaphorePermit,
}

async fn stream_response(shared: Arc<Shared>, plan: Plan) -> Answer {
    let permit = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_full| {
        Problem::overloaded(
            Rejected::Streams.as_str(),
            format!("{} streams are open, the limit; try again", shared.limits.streams_max),
        )
    })?;
    let opened = shared.blocking(Patience::Refusable, move |engine| {
        let walk = engine.walk(&plan.kvs, plan.range.clone())?;
        Ok((walk, plan))
    });
    let (walk, plan) = opened.await?;
    let revision = walk.revision();
    let progress = Progress::default();
    let state = Streaming { shared, walk, plan, progress, ended: false, _permit: permit };
    let chunks = stream::unfold(state, |state| async move {
        if state.ended { None } else { Some(next_chunk(state).await) }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(super::REVISION, HeaderValue::from(revision.get()));
    Ok(response)
}

async fn next_chunk(state: Streaming) -> (Result<Vec<u8>, Infallible>, Streaming) {
    let blocking = state.shared.blocking.clone();
    let step = blocking.run(Patience::Begun, move || {
        let mut state = state;
        let chunk = chunk(&mut state);
        (Ok(chunk), state)
    });
    step.await.expect("a stream that began waits its turn")
}

/// The next piece of a stream. The last one ends with the line that says how it ended.
fn chunk(state: &mut Streaming) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
    let (walk, plan, progress) = (&mut *state.walk, &state.plan, &mut state.progress);
    while out.len() < CHUNK_BYTES {
        let full = plan.limit.is_some_and(|limit| progress.count >= limit);
        let shown = if full { Ok(false) } else { show_next(walk, plan, (&mut out, b""), progress) };
        match shown {
            Ok(true) => out.push(b'\n'),
            Ok(false) => {
                let cursor = if full { cursor_after(walk, plan, progress) } else { Ok(None) };
                let line = cursor.map(|cursor| end_line(walk.revision(), progress.count, cursor));
                out.extend_from_slice(&line.unwrap_or_else(error_line));
                state.ended = true;
                break;
            }
            Err(error) => {
                out.extend_from_slice(&error_line(error));
                state.ended = true;
                break;
            }
        }
    }
    out
}

/// The last line of a stream that is whole.
#[derive(Serialize)]
struct Whole {
    end: bool,
    count: u64,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

fn end_line(revision: Revision, count: u64, cursor: Option<String>) -> Vec<u8> {
    line(&Whole { end: true, count, revision: revision.get(), cursor })
}

fn line(document: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).expect("strings and numbers are valid JSON");
    line.push(b'\n');
    line
}

fn error_line(error: kvs::Error) -> Vec<u8> {
    line(&json!({ "error": Problem::from(error).document(None) }))
}
