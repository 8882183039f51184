//! `/v1/kv/{kvs}/{key...}`: read, write and delete one key.
//!
//! Values are raw bytes in both directions. The entity tag is the revision of the write that made
//! the value. Writes answer 200 with an empty entity, because widely used clients wait for an
//! entity and never finish on a 204. A missing key is a 404 without a body; an unknown KVS is one
//! with a problem document.
//!
//! This is the hot path, so it is written against the raw request: the path and the query are
//! parsed in place, lookups answer on the async worker, and a value goes from the cache to the
//! socket by reference.

use super::{REVISION, durability, entity_tag, lookup};
use crate::api::problem::{Answer, Problem};
use crate::api::route::Route;
use crate::api::target::{Query, key_bytes, percent_decode, percent_decode_text, split_key_path};
use crate::budget::UNCOUNTED_BYTES;
use crate::engine::Write;
use crate::routes::etag::{self, Comparison, EntityTag};
use crate::state::Shared;
use crate::state::body::{self, BodyLimit};
use axum::body::Body;
use axum::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPECT, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH,
};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode};
use kvs::{Durability, Entry, Revision};
use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use tokio::sync::oneshot;

const READ_PARAMETERS: &[&str] = &["key_encoding"];
const WRITE_PARAMETERS: &[&str] = &["key_encoding", "durability"];

/// Whether a read wants the value or only what is known of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entity {
    Whole,
    HeadOnly,
}

/// Answers a request for one key.
pub(crate) async fn handle(shared: &Shared, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    match head.method {
        Method::GET => read(shared, &head, Entity::Whole).await,
        Method::HEAD => read(shared, &head, Entity::HeadOnly).await,
        Method::PUT | Method::POST => write(shared, &head, body).await,
        Method::DELETE => remove(shared, &head).await,
        ref other => Err(Problem::method_not_allowed(other.as_str(), Route::Key)),
    }
}

/// The KVS and the key of a path.
struct Place<'a> {
    kvs: Cow<'a, str>,
    key: Cow<'a, [u8]>,
}

fn place<'a>(path: &'a str, query: &Query<'_>) -> Result<Place<'a>, Problem> {
    let Some((kvs, Some(key))) = split_key_path(path) else {
        return Err(Problem::no_such_route(path));
    };
    let key = key_bytes(percent_decode(key)?, query.key_encoding()?)?;
    Ok(Place { kvs: percent_decode_text(kvs)?, key })
}

async fn read(shared: &Shared, head: &Parts, entity: Entity) -> Answer {
    let query = Query::parse(head.uri.query(), READ_PARAMETERS)?;
    let place = place(head.uri.path(), &query)?;
    let found = lookup::entry(shared, (&place.kvs, &place.key)).await?;
    match found {
        Some(entry) => found_response(&entry, &head.headers, entity),
        None => Ok(missing_response()),
    }
}

fn found_response(entry: &Entry, headers: &HeaderMap, entity: Entity) -> Answer {
    let tag = entity_tag(entry.revision);
    let refused = precondition(headers, &tag)?;
    let body = match (refused, entity) {
        (None, Entity::Whole) => Body::from(entry.value.clone()),
        _ => Body::empty(),
    };
    let mut response = Response::new(body);
    let out = response.headers_mut();
    out.insert(ETAG, tag);
    out.insert(REVISION, HeaderValue::from(entry.revision.get()));
    if let Some(status) = refused {
        *response.status_mut() = status;
    } else {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        out.insert(CONTENT_LENGTH, HeaderValue::from(entry.value.len()));
    }
    Ok(response)
}

fn missing_response() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// The status of a read whose condition does not hold (RFC 9110, 13.2.2). A value has no date, so
/// that conditions about one are not looked at.
fn precondition(headers: &HeaderMap, tag: &HeaderValue) -> Result<Option<StatusCode>, Problem> {
    if let Some(false) = names(headers, &IF_MATCH, (tag, Comparison::Strong))? {
        return Ok(Some(StatusCode::PRECONDITION_FAILED));
    }
    let known = names(headers, &IF_NONE_MATCH, (tag, Comparison::Weak))? == Some(true);
    Ok(known.then_some(StatusCode::NOT_MODIFIED))
}

/// Whether the lines of a field name `tag`, or any; `None` where there are none.
fn names(
    headers: &HeaderMap,
    field: &HeaderName,
    (tag, comparison): (&HeaderValue, Comparison),
) -> Result<Option<bool>, Problem> {
    let ours = EntityTag::parse(tag.as_bytes()).expect("the tag of a revision is one");
    let lines = headers.get_all(field).iter().map(HeaderValue::as_bytes);
    etag::names(lines, ours, comparison)
        .map_err(|error| Problem::bad_request(format!("the header {field}: {error}")))
}

async fn write(shared: &Shared, head: &Parts, body: Body) -> Answer {
    shared.engine()?;
    let query = Query::parse(head.uri.query(), WRITE_PARAMETERS)?;
    let durability = durability(&query)?;
    let place = place(head.uri.path(), &query)?;
    let value_bytes = hyper::body::Body::size_hint(&body).lower();
    // What would be refused anyway is refused before the body is sent.
    let check =
        || Ok::<_, Problem>(shared.engine()?.check_write(&place.kvs, &place.key, value_bytes)?);
    let may_be_here = is_small(&body) && !head.headers.contains_key(EXPECT);
    if !may_be_here {
        check()?;
    }
    let limit = BodyLimit {
        bytes_max: shared.limits.value_bytes_max,
        time_max: shared.limits.request_timeout,
        what: "value",
    };
    let mut reading = pin!(body::read(body, limit, &shared.bodies));
    let value = if may_be_here {
        // Nothing is gained by asking about a body that came with its head.
        match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                check()?;
                reading.await?
            }
        }
    } else {
        reading.await?
    };
    shared.metrics.http.observe_request_body(value.bytes.len());
    apply(shared, &place, (Some(&value.bytes), durability)).await
}

/// Whether a body may have come with its head.
fn is_small(body: &Body) -> bool {
    let most = hyper::body::Body::size_hint(body).upper();
    most.is_some_and(|bytes| bytes <= UNCOUNTED_BYTES as u64)
}

async fn remove(shared: &Shared, head: &Parts) -> Answer {
    let query = Query::parse(head.uri.query(), WRITE_PARAMETERS)?;
    let durability = durability(&query)?;
    let place = place(head.uri.path(), &query)?;
    apply(shared, &place, (None, durability)).await.map_err(Problem::of_what_is_there)
}

async fn apply(
    shared: &Shared,
    place: &Place<'_>,
    (value, durability): (Option<&[u8]>, Durability),
) -> Answer {
    let write = Write { kvs: &place.kvs, key: &place.key, value };
    let (done, answer) = oneshot::channel();
    // A client that went away learns nothing; the write goes on.
    let acknowledge = Box::new(move |outcome| drop(done.send(outcome)));
    let engine = shared.engine()?;
    engine.write(&[write], durability, acknowledge).map_err(|refused| refused.error)?;
    let revision = shared.engine_answer(answer, "the write may or may not take effect").await?;
    Ok(written_response(revision))
}

/// 200 with an empty entity.
pub(crate) fn written_response(revision: Revision) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(ETAG, entity_tag(revision));
    headers.insert(REVISION, HeaderValue::from(revision.get()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_decide_in_the_order_of_the_standard() {
        let decide = |lines: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_static(value));
            }
            let decided = precondition(&headers, &HeaderValue::from_static("\"1f\""));
            decided.map_or(400, |status| status.map_or(200, |status| status.as_u16()))
        };
        for (lines, want) in [
            (&[][..], 200),
            (&[(IF_MATCH, "\"1f\"")], 200),
            (&[(IF_MATCH, "*")], 200),
            (&[(IF_MATCH, "W/\"1f\"")], 412),
            (&[(IF_MATCH, "\"2\""), (IF_MATCH, "\"1f\"")], 200),
            (&[(IF_NONE_MATCH, "W/\"1f\"")], 304),
            (&[(IF_NONE_MATCH, "*")], 304),
            (&[(IF_NONE_MATCH, "\"2\""), (IF_NONE_MATCH, "\"1f\"")], 304),
            (&[(IF_NONE_MATCH, "\"a,\", \"1f\"")], 304),
            (&[(IF_NONE_MATCH, "\"1f,\"")], 200),
            (&[(IF_MATCH, "\"2\""), (IF_NONE_MATCH, "\"1f\"")], 412),
            (&[(IF_MATCH, "\"1f\""), (IF_NONE_MATCH, "\"1f\"")], 304),
            (&[(IF_NONE_MATCH, "\"1f\", *")], 400),
            (&[(IF_NONE_MATCH, "1f")], 400),
            (&[(IF_MATCH, "")], 400),
        ] {
            assert_eq!(decide(lines), want, "{lines:?}");
        }
    }
}
