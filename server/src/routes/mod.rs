//! The routes, one file for each group.
//!
//! A handler turns the request into engine terms, calls the engine and turns the answer into a
//! response. It keeps no state and decides no policy.

pub(crate) mod admin;
mod aside;
pub(crate) mod batch;
mod etag;
pub(crate) mod health;
pub(crate) mod item;
pub(crate) mod kv;
pub(crate) mod lookup;
pub(crate) mod outflow;
pub(crate) mod parked;
pub(crate) mod pool;
pub(crate) mod scan;
pub(crate) mod spaces;
pub(crate) mod unreadable;
pub(crate) mod walking;

use crate::api::problem::{Answer, Problem};
use crate::api::route::Route;
use crate::api::target::{Query, value_error};
use crate::state::Shared;
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use kvs::{Durability, Revision};
use serde::Serialize;
use std::sync::Arc;

/// The revision of what was read or written, in decimal.
pub(crate) const REVISION: HeaderName = HeaderName::from_static("x-millpond-revision");

/// All routes but the one for a single key, which [`crate::app`] calls directly.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/kv/{kvs}", get(scan::handle).fallback(not_allowed))
        .route("/v1/batch", post(batch::handle).fallback(not_allowed))
        .route("/v1/kvs", get(spaces::list).fallback(not_allowed))
        .route(
            "/v1/kvs/{kvs}",
            get(spaces::show).put(spaces::create).delete(spaces::remove).fallback(not_allowed),
        )
        .merge(pool_routes())
        .merge(admin_routes())
        .route("/livez", get(health::livez).fallback(not_allowed))
        .route("/readyz", get(health::readyz).fallback(not_allowed))
        .route("/metrics", get(health::metrics).fallback(not_allowed))
        .route("/version", get(health::version).fallback(not_allowed))
        .fallback(no_such_route)
        .with_state(shared)
}

fn pool_routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/admin/pool", get(pool::info).fallback(not_allowed))
        .route("/v1/admin/pool/name", put(pool::rename).fallback(not_allowed))
        .route("/v1/admin/pool/maps", get(pool::maps).fallback(not_allowed))
        .route("/v1/admin/pool/volumes", post(pool::add).fallback(not_allowed))
        .route("/v1/admin/pool/volumes/{id}", delete(pool::remove).fallback(not_allowed))
        .route("/v1/admin/pool/volumes/{id}/grow", post(pool::grow).fallback(not_allowed))
        .route("/v1/admin/pool/volumes/{id}/evacuate", post(pool::evacuate).fallback(not_allowed))
        .route("/v1/admin/pool/volumes/{id}/cancel", post(pool::cancel).fallback(not_allowed))
        .route(
            "/v1/admin/pool/scrub",
            get(pool::scrub).post(pool::start_scrub).delete(pool::stop_scrub).fallback(not_allowed),
        )
}

fn admin_routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/admin/tree/{kvs}", get(admin::tree).fallback(not_allowed))
        .route("/v1/admin/snapshots", get(admin::snapshots).fallback(not_allowed))
        .route("/v1/admin/snapshots/{id}", delete(admin::end_snapshot).fallback(not_allowed))
        .route(
            "/v1/admin/compact",
            get(admin::compact)
                .post(admin::start_compact)
                .delete(admin::cancel_compact)
                .fallback(not_allowed),
        )
}

async fn no_such_route(request: Request<Body>) -> Problem {
    Problem::no_such_route(request.uri().path())
}

async fn not_allowed(request: Request<Body>) -> Problem {
    let route = Route::of(request.uri().path());
    Problem::method_not_allowed(request.method().as_str(), route)
}

/// The durability asked for; `sync` if nothing was said.
pub(crate) fn durability(query: &Query<'_>) -> Result<Durability, Problem> {
    let want = "sync, interval or off";
    match query.bytes("durability") {
        None | Some(b"sync") => Ok(Durability::Sync),
        Some(b"interval") => Ok(Durability::Interval),
        Some(b"off") => Ok(Durability::Off),
        Some(other) => Err(value_error("durability", other, want).into()),
    }
}

/// A JSON document with a line break at its end, for terminals.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(document).map_err(|error| {
        tracing::error!(%error, "a response could not be written as JSON");
        Problem::internal()
    })?;
    body.push(b'\n');
    let kind = HeaderValue::from_static("application/json");
    Ok((status, [(CONTENT_TYPE, kind)], body).into_response())
}

/// The entity tag of a revision: its number in hexadecimal, quoted.
pub(crate) fn entity_tag(revision: Revision) -> HeaderValue {
    let mut text = [b'"'; 18];
    let digits = hex_digits(revision.get(), &mut text[1..17]);
    text[digits + 1] = b'"';
    HeaderValue::from_bytes(&text[..digits + 2]).expect("hexadecimal digits are legal")
}

/// Writes a number without leading zeros; says how many digits it has.
fn hex_digits(number: u64, out: &mut [u8]) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = u64::BITS - number.leading_zeros();
    let digits = usize::try_from(bits.div_ceil(4).max(1)).expect("at most 16");
    for (place, digit) in out[..digits].iter_mut().enumerate() {
        let nibble = number >> (4 * (digits - 1 - place)) & 15;
        *digit = HEX[usize::try_from(nibble).expect("four bits")];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_quoted_hexadecimal() {
        for number in [0, 1, 15, 16, 0xdead_beef, u64::MAX] {
            let tag = entity_tag(Revision::new(number));
            assert_eq!(tag.to_str().unwrap(), format!("\"{number:x}\""));
        }
    }
}
