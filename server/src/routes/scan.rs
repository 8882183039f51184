//! `GET /v1/kv/{kvs}`: keys in order, a page at a time or as one stream.
//!
//! - A page is a JSON document `{"items":[...],"cursor":"...","revision":n}`. It is cut at `limit`
//!   items or at 4 MiB. `cursor` is there if there is more; it holds nothing but the place to go on
//!   from, so that the server keeps no state: each page shows the KVS at its own `revision`.
//! - With `Accept: application/x-ndjson` the answer is one item a line, all from one snapshot, as
//!   fast as the client reads. The last line is `{"end":true,"count":n,...}`, or `{"error":...}`;
//!   a stream without either was cut off.
//! - Damage is told in its place, and the scan goes on ([`super::unreadable`]); `on_damage=stop`
//!   ends it there.
//!
//! Cursors block on the drive, so they are walked in the lane for scans ([`super::walking`]), for a
//! bounded time at once: a page that has taken as long as it may ends early, and may then hold
//! fewer items, or none, and a cursor. Between steps a stream waits for its client without holding
//! a thread.

use super::item::Encoding;
use super::outflow::Outflow;
use super::parked::Parked;
use super::unreadable::OnDamage;
use super::walking::{Bounds, Departure, Stop, Walking};
use crate::app::{ClientAddress, RequestId, Shared};
use crate::blocking::Patience;
use crate::engine::{Engine, Walk};
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
use futures_util::{StreamExt, stream};
use kvs::Range;
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::fmt;
use std::ops::ControlFlow;
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
    "on_damage",
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
pub(crate) struct Plan {
    kvs: String,
    range: Range,
    limit: Option<u64>,
    pub(crate) keys_only: bool,
    pub(crate) encoding: Encoding,
    pub(crate) on_damage: OnDamage,
    asker: Asker,
}

/// Who asks.
#[derive(Debug)]
struct Asker {
    request_id: Option<RequestId>,
    address: Option<ClientAddress>,
}

impl Asker {
    fn of(request: &Request<Body>) -> Self {
        let of = request.extensions();
        Self { request_id: of.get().cloned(), address: of.get().copied() }
    }

    fn id(&self) -> Option<&str> {
        self.request_id.as_ref().map(|RequestId(id)| &**id)
    }
}

/// What a snapshot is listed under.
impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.id().unwrap_or("without an id"))?;
        match self.address {
            Some(ClientAddress(address)) => write!(f, " from {address}"),
            None => Ok(()),
        }
    }
}

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Answer {
    let query = Query::parse(request.uri().query(), PARAMETERS)?;
    let plan = plan(&request, &query)?;
    if wants_stream(request.headers()) {
        stream_response(shared, plan).await
    } else {
        page_response(&shared, plan).await
    }
}

impl Plan {
    fn open(&self, engine: &dyn Engine) -> kvs::Result<Box<dyn Walk>> {
        engine.walk(&self.kvs, self.range.clone(), &self.asker.to_string())
    }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
        is_named && !parts.any(is_weight_of_nothing)
    })
}

const NDJSON: &str = "application/x-ndjson";

/// Whether a parameter of a kind says that it is not wanted (RFC 9110, 12.4.2): `q=0.000`.
fn is_weight_of_nothing(parameter: &str) -> bool {
    let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
    weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
}

fn plan(request: &Request<Body>, query: &Query<'_>) -> Result<Plan, Problem> {
    let path = request.uri().path();
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
        on_damage: OnDamage::of(query)?,
        asker: Asker::of(request),
    })
}

/// First byte of a cursor: the direction, so that a cursor used the other way is noticed.
const FORWARD: u8 = b'f';
const REVERSE: u8 = b'r';

/// What goes on at `next`, the first key not shown. In reverse it holds the bound above it.
fn cursor_text(reverse: bool, next: &[u8]) -> String {
    let bytes: [&[u8]; 3] =
        if reverse { [&[REVERSE], next, &[0]] } else { [&[FORWARD], next, &[]] };
    BASE64URL.encode(bytes.concat())
}

fn continue_at(range: &mut Range, cursor: &[u8]) -> Result<(), Problem> {
    let wrong = |why: &str| {
        let shown = String::from_utf8_lossy(cursor).into_owned();
        Problem::bad_request(format!("cursor {shown:?} {why}; use the one of the last page"))
    };
    let bytes = BASE64URL.decode(cursor).map_err(|_| wrong("is not one of ours"))?;
    match (bytes.split_first(), range.reverse) {
        // A cursor of another scan must not lead out of the bounds of this one.
        (Some((&FORWARD, key)), false) => {
            let begin = range.start.take().filter(|start| **start > *key);
            range.start = begin.or_else(|| Some(Bytes::copy_from_slice(key)));
        }
        (Some((&REVERSE, key)), true) => {
            let end = range.end.take().filter(|end| **end < *key);
            range.end = end.or_else(|| Some(Bytes::copy_from_slice(key)));
        }
        (Some((&(FORWARD | REVERSE), _)), _) => {
            return Err(wrong("is of a scan in the other direction"));
        }
        _ => return Err(wrong("is not one of ours")),
    }
    Ok(())
}

async fn page_response(shared: &Shared, plan: Plan) -> Answer {
    if let Some(limit) = plan.limit.filter(|limit| *limit > PAGE_ITEMS_MAX) {
        return Err(Problem::bad_request(format!(
            "limit={limit}: a page has at most {PAGE_ITEMS_MAX} items; use the cursor, or \
             Accept: application/x-ndjson for a stream without limit"
        )));
    }
    let departure = Departure::default();
    let plan = Arc::new(plan);
    let mut out = Outflow::default();
    out.text(b"{\"items\":[");
    let walking = Walking::new(Arc::clone(&plan), out, shared.responses.clone());
    let (parked, mut room) = (Parked::new(walking), None);
    loop {
        let bounds = Bounds {
            items_max: plan.limit.unwrap_or(PAGE_ITEMS),
            bytes_max: PAGE_BYTES,
            time_max: shared.limits.scan_time_max,
            gone: departure.flag(),
            between: (b"\n", b",\n"),
        };
        let (here, of, room_now) = (parked.clone(), Arc::clone(&plan), room.take());
        let turn = shared.blocking(&shared.lanes.scans, Patience::Refusable, move |engine| {
            here.turn(|walking| {
                here.open(walking, || of.open(engine))?;
                walking.give_room(room_now);
                Ok(page_turn(walking, &of, &bounds)?)
            })
        });
        match parked.or_ended(turn).await?? {
            ControlFlow::Break(page) => {
                let kind = HeaderValue::from_static("application/json");
                return Ok(
                    (StatusCode::OK, [(CONTENT_TYPE, kind)], page.into_body()).into_response()
                );
            }
            // The page goes on from where it is, and holds its snapshot while it waits.
            ControlFlow::Continue(bytes) => {
                let share = shared.responses.share(bytes, shared.limits.room_wait_max());
                room = Some(parked.or_ended(share).await??);
            }
        }
    }
}

/// A turn of a page: the page, or the memory that its first item needs. With the page the walk is
/// over, and its snapshot goes on this thread.
fn page_turn(
    walking: &mut Walking,
    plan: &Plan,
    bounds: &Bounds,
) -> kvs::Result<ControlFlow<Outflow, usize>> {
    let next = match walking.go_on(bounds)? {
        Stop::End => None,
        Stop::Memory(bytes) if walking.taken() == 0 => return Ok(ControlFlow::Continue(bytes)),
        Stop::More | Stop::Time | Stop::Memory(_) => {
            Some(cursor_text(plan.range.reverse, walking.key()))
        }
    };
    walking.close();
    let (revision, damaged, mut out) = (walking.revision(), walking.damaged(), walking.take_out());
    out.text(b"]");
    if let Some(cursor) = next {
        // A cursor is base64url: nothing in it needs escaping.
        out.text(format!(",\"cursor\":\"{cursor}\"").as_bytes());
    }
    if damaged > 0 {
        out.text(format!(",\"damaged\":{damaged}").as_bytes());
    }
    out.text(format!(",\"revision\":{revision}}}\n").as_bytes());
    Ok(ControlFlow::Break(out))
}

/// A stream between two steps.
struct Streaming {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    walking: Parked,
    ended: bool,
    departure: Departure,
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
    let plan = Arc::new(plan);
    let walking = Walking::new(Arc::clone(&plan), Outflow::default(), shared.responses.clone());
    let walking = Parked::new(walking);
    let (of, parked) = (Arc::clone(&plan), walking.clone());
    let opened = shared.blocking(&shared.lanes.scans, Patience::Refusable, move |engine| {
        parked.turn(|walking| {
            parked.open(walking, || of.open(engine))?;
            Ok(walking.revision())
        })
    });
    let revision = opened.await?;
    let departure = Departure::default();
    let state = Streaming { shared, plan, walking, ended: false, departure, _permit: permit };
    let steps = stream::unfold(state, |state| async move {
        if state.ended { None } else { Some(next_step(state).await) }
    });
    let pieces = steps.flat_map(|mut out: Outflow| {
        stream::iter(std::iter::from_fn(move || out.next().map(Ok::<_, Infallible>)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(super::REVISION, HeaderValue::from(revision.get()));
    Ok(response)
}

/// What a turn of a stream has come to.
enum Leg {
    /// What is sent before the next turn.
    Piece(Outflow),
    /// The last of it: the walk is over.
    Last(Outflow),
    /// Nothing was found in its time.
    Time,
    /// It needs so much memory for the next item.
    Memory(usize),
    /// The walk is over by this, after what was shown.
    Failed(Outflow, kvs::Error),
}

/// The next part of a stream. The last one ends with the line that says how it ended. Others use
/// the lane between two steps, also where nothing was found.
async fn next_step(mut state: Streaming) -> (Outflow, Streaming) {
    let (shared, plan) = (Arc::clone(&state.shared), Arc::clone(&state.plan));
    let mut room = None;
    let problem = loop {
        let bounds = Bounds {
            items_max: plan.limit.unwrap_or(u64::MAX),
            bytes_max: CHUNK_BYTES,
            time_max: shared.limits.scan_time_max,
            gone: state.departure.flag(),
            between: (b"", b""),
        };
        let (parked, of, room_now) = (state.walking.clone(), Arc::clone(&plan), room.take());
        let turn = shared.lanes.scans.run(Patience::Begun, move || {
            parked.turn(|walking| {
                walking.give_room(room_now);
                stream_turn(walking, &of, &bounds)
            })
        });
        let leg = match state.walking.or_ended(turn).await {
            Ok(leg) => leg.expect("a stream that began waits its turn"),
            Err(ended) => break ended.into(),
        };
        match leg {
            Leg::Piece(out) => return (out.finish(), state),
            Leg::Last(out) => {
                state.ended = true;
                return (out.finish(), state);
            }
            Leg::Time => {}
            Leg::Memory(bytes) => {
                let share = shared.responses.share(bytes, shared.limits.room_wait_max());
                match state.walking.or_ended(share).await {
                    Ok(Ok(share)) => room = Some(share),
                    Ok(Err(problem)) => break problem,
                    Err(ended) => break ended.into(),
                }
            }
            Leg::Failed(mut out, error) => {
                state.ended = true;
                out.text(&error_line(&shared, &plan, &error.into()));
                return (out.finish(), state);
            }
        }
    };
    state.ended = true;
    let mut out = Outflow::default();
    out.text(&error_line(&shared, &plan, &problem));
    (out.finish(), state)
}

/// A turn of a stream. Where the walk is over, its snapshot goes on this thread.
fn stream_turn(walking: &mut Walking, plan: &Plan, bounds: &Bounds) -> Leg {
    let stop = match walking.go_on(bounds) {
        Ok(stop) => stop,
        Err(error) => {
            walking.close();
            return Leg::Failed(walking.take_out(), error);
        }
    };
    let full = plan.limit.is_some_and(|limit| walking.taken() >= limit);
    let next = match stop {
        Stop::Memory(bytes) if walking.is_empty() => return Leg::Memory(bytes),
        Stop::Time if walking.is_empty() => return Leg::Time,
        Stop::More if full => Some(cursor_text(plan.range.reverse, walking.key())),
        Stop::More | Stop::Time | Stop::Memory(_) => return Leg::Piece(walking.take_out()),
        Stop::End => None,
    };
    walking.close();
    let mut out = walking.take_out();
    out.text(&end_line(walking, next));
    Leg::Last(out)
}

/// The last line of a stream that is whole.
#[derive(Serialize)]
struct Whole {
    end: bool,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<u64>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

fn end_line(walking: &Walking, cursor: Option<String>) -> Vec<u8> {
    let (count, revision) = (walking.count(), walking.revision().get());
    let damaged = Some(walking.damaged()).filter(|damaged| *damaged > 0);
    line(&Whole { end: true, count, damaged, revision, cursor })
}

fn line(document: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).expect("strings and numbers are valid JSON");
    line.push(b'\n');
    line
}

/// The last line of a stream that failed. Its status was sent long ago, so it is noted here.
fn error_line(shared: &Shared, plan: &Plan, problem: &Problem) -> Vec<u8> {
    shared.metrics.http.fail(problem);
    let why = problem.cause.as_deref().unwrap_or(&problem.detail);
    let (kind, kvs, request_id) = (problem.slug, &plan.kvs, plan.asker.id());
    if problem.is_fault() {
        tracing::error!(kind, kvs, request_id, why, "a stream broke off");
    } else {
        tracing::warn!(kind, kvs, request_id, why, "a stream broke off");
    }
    line(&json!({ "error": problem.document(request_id) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_sent_to_whom_it_is_welcome() {
        for (accept, want) in [
            ("application/x-ndjson", true),
            ("text/html, Application/X-NDJSON;q=0.001", true),
            ("application/x-ndjson;q=0", false),
            ("application/x-ndjson; charset=utf-8; Q=0.000, */*", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_stream(&headers), want, "{accept}");
        }
    }

    #[test]
    fn a_cursor_leads_out_of_no_bounds() {
        for (reverse, next, want) in [
            (false, &b"a"[..], (&b"c"[..], &b"m"[..])),
            (false, b"d", (b"d", b"m")),
            (true, b"z", (b"c", b"m")),
            (true, b"d", (b"c", b"d\0")),
        ] {
            let bound = |key: &'static [u8]| Some(Bytes::from_static(key));
            let (start, end) = (bound(b"c"), bound(b"m"));
            let mut range = Range { prefix: Bytes::new(), start, end, reverse };
            continue_at(&mut range, cursor_text(reverse, next).as_bytes()).unwrap();
            assert_eq!((&*range.start.unwrap(), &*range.end.unwrap()), want, "{next:?}");
        }
    }
}
