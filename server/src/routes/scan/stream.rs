//! A scan as one stream: an item a line, and a last line that says how it ended.
//!
//! Each step walks in the lane for scans and gives the lane back; what it found is sent before the
//! next one begins, as fast as the client reads. How a client asks for a stream is decided here,
//! too.

use super::{Plan, cursor_text};
use crate::api::problem::{Answer, Problem};
use crate::api::rejected::Rejected;
use crate::routes::REVISION;
use crate::routes::outflow::Outflow;
use crate::routes::parked::Parked;
use crate::routes::walking::{Bounds, Departure, Stop, Walking};
use crate::state::Shared;
use crate::state::blocking::Patience;
use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A stream is sent in pieces of about this size.
const CHUNK_BYTES: usize = 256 << 10;

const NDJSON: &str = "application/x-ndjson";

/// Whether a request asks for a stream.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
        is_named && !parts.any(is_weight_of_nothing)
    })
}

/// Whether a parameter of a kind says that it is not wanted (RFC 9110, 12.4.2): `q=0.000`.
fn is_weight_of_nothing(parameter: &str) -> bool {
    let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
    weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
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

pub(super) async fn stream_response(shared: Arc<Shared>, plan: Plan) -> Answer {
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
    headers.insert(REVISION, HeaderValue::from(revision.get()));
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
}
