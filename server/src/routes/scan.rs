//! `GET /v1/kv/{kvs}`: keys in order, a page at a time or as one stream.
//!
//! - A page is a JSON document `{"items":[...],"cursor":"...","revision":n}`. It is cut at `limit`
//!   items or at 4 MiB. `cursor` is there if there is more; it holds nothing but the place to go on
//!   from, so that the server keeps no state: each page shows the KVS at its own `revision`.
//! - With `Accept: application/x-ndjson` the answer is one item a line, all from one snapshot
//!   ([`stream`]). The last line is `{"end":true,"count":n,...}`, or `{"error":...}`; a stream
//!   without either was cut off.
//! - Damage is told in its place, and the scan goes on ([`super::unreadable`]); `on_damage=stop`
//!   ends it there.
//!
//! Cursors block on the drive, so they are walked in the lane for scans ([`super::walking`]), for a
//! bounded time at once: a page that has taken as long as it may ends early, and may then hold
//! fewer items, or none, and a cursor. Between steps a stream waits for its client without holding
//! a thread.

mod stream;

use super::item::Encoding;
use super::outflow::Outflow;
use super::parked::Parked;
use super::unreadable::OnDamage;
use super::walking::{Bounds, Departure, Stop, Walking};
use crate::api::problem::{Answer, Problem};
use crate::api::target::{BASE64URL, Query, percent_decode_text, split_key_path};
use crate::engine::{Engine, Walk};
use crate::state::blocking::Patience;
use crate::state::{ClientAddress, RequestId, Shared};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::IntoResponse;
use base64::Engine as _;
use bytes::Bytes;
use kvs::Range;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

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
    if stream::wants_stream(request.headers()) {
        stream::stream_response(shared, plan).await
    } else {
        page_response(&shared, plan).await
    }
}

impl Plan {
    fn open(&self, engine: &dyn Engine) -> kvs::Result<Box<dyn Walk>> {
        engine.walk(&self.kvs, self.range.clone(), &self.asker.to_string())
    }
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
    check_order(&range)?;
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

/// Bounds the wrong way round would find nothing, without a word. Those that are the same are an
/// empty range, which a program may come to that divides ranges.
fn check_order(range: &Range) -> Result<(), Problem> {
    match (&range.start, &range.end) {
        (Some(start), Some(end)) if start > end => {
            let [start, end] = [start, end].map(|key| format!("\"{}\"", key.escape_ascii()));
            Err(Problem::bad_request(format!(
                "start={start} is above end={end}: no key is from the one on and before the other; \
                 start is the lower bound with reverse=true, too"
            )))
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
