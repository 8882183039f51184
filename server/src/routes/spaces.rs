//! `/v1/kvs` and `/v1/kvs/{kvs}`: list, create, show and drop KVSs.
//!
//! Creating is idempotent: 201 if the KVS is new, 200 if it was there. Dropping takes everything
//! in it along.

use super::json;
use crate::api::problem::{Answer, Problem};
use crate::api::target::{Query, percent_decode_text};
use crate::state::Shared;
use crate::state::blocking::Patience;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri};
use kvs::{Error, KvsInfo};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn list(State(shared): State<Arc<Shared>>, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let all =
        shared
            .blocking(&shared.lanes.administration, Patience::Refusable, |engine| {
                Ok(engine.list_kvs()?)
            })
            .await?;
    let all: Vec<Value> = all.iter().map(describe).collect();
    json(StatusCode::OK, &json!({ "kvs": all }))
}

pub(crate) async fn show(State(shared): State<Arc<Shared>>, uri: Uri) -> Answer {
    let name = name(&uri)?;
    let info = shared.blocking(&shared.lanes.administration, Patience::Refusable, move |engine| {
        find(engine.list_kvs()?, name)
    });
    json(StatusCode::OK, &describe(&info.await.map_err(Problem::of_what_is_there)?))
}

pub(crate) async fn create(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Answer {
    let name = name(request.uri())?;
    let created =
        shared.blocking(&shared.lanes.administration, Patience::Refusable, move |engine| {
            let status = match engine.create_kvs(&name) {
                Ok(()) => StatusCode::CREATED,
                Err(Error::KvsExists { .. }) => StatusCode::OK,
                Err(error) => return Err(error.into()),
            };
            Ok((status, find(engine.list_kvs()?, name)?))
        });
    let (status, info) = created.await?;
    json(status, &describe(&info))
}

pub(crate) async fn remove(State(shared): State<Arc<Shared>>, uri: Uri) -> Answer {
    let name = name(&uri)?;
    shared
        .blocking(&shared.lanes.administration, Patience::Refusable, move |engine| {
            Ok(engine.drop_kvs(&name)?)
        })
        .await
        .map_err(Problem::of_what_is_there)?;
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}

/// The name in the path; these routes have no parameters.
fn name(uri: &Uri) -> Result<String, Problem> {
    Query::parse(uri.query(), &[])?;
    let part = uri.path().strip_prefix("/v1/kvs/").unwrap_or_default();
    Ok(percent_decode_text(part)?.into_owned())
}

fn find(all: Vec<KvsInfo>, name: String) -> Result<KvsInfo, Problem> {
    let found = all.into_iter().find(|info| info.name == name);
    found.ok_or_else(|| Error::NoSuchKvs { name }.into())
}

fn describe(info: &KvsInfo) -> Value {
    json!({
        "name": info.name,
        "keys_estimate": info.keys_estimate,
        "value_bytes": info.value_bytes,
        "index_bytes": info.index_bytes,
        "kvsets": info.kvsets,
        "leaves": info.leaves,
    })
}
