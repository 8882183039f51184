//! `/v1/admin/tree/{kvs}`, `/v1/admin/compact` and `/v1/admin/snapshots`: what the engine does in
//! the background, and what holds space, for its operator.
//!
//! They are served where `/v1/admin/pool` is.

use super::json;
use super::pool::{check_allowed, read};
use crate::api::problem::{Answer, Problem};
use crate::api::target::{BASE64URL, Query, percent_decode_text};
use crate::documents::admin as document;
use crate::state::Shared;
use crate::state::blocking::Patience;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use base64::Engine as _;
use bytes::Bytes;
use kvs::{CompactionRequest, Database, SnapshotId, TreePage};
use serde::Deserialize;
use std::sync::Arc;

/// Most kvsets that an answer about a tree shows.
const KVSETS_MAX: u64 = 10_000;

type Server = State<Arc<Shared>>;

pub(crate) async fn tree(State(shared): Server, uri: Uri) -> Answer {
    let query = Query::parse(uri.query(), &["from", "limit", "key_encoding"])?;
    let part = uri.path().strip_prefix("/v1/admin/tree/").unwrap_or_default();
    let name = percent_decode_text(part)?.into_owned();
    let from = query.key("from", query.key_encoding()?)?;
    let limit = query.number("limit", 1..=KVSETS_MAX, "a number from 1 to 10000")?;
    let page = TreePage {
        from: from.map(|key| Bytes::from(key.into_owned())),
        kvsets_max: limit.map_or(TreePage::default().kvsets_max, |limit| {
            usize::try_from(limit).expect("ten thousand at most")
        }),
    };
    let found = with_database(&shared, move |database| {
        let tree = database.tree(&name, &page)?;
        let mut jobs = database.jobs();
        jobs.retain(|job| job.kvs.as_deref().is_none_or(|kvs| *kvs == *name));
        Ok(document::tree(&tree, &jobs))
    });
    json(StatusCode::OK, &found.await?)
}

/// What is to be compacted: `{"kvs":"birds","from":"a","to":"m"}`; all of it may be missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compact {
    kvs: Option<String>,
    from: Option<String>,
    from64: Option<String>,
    to: Option<String>,
    to64: Option<String>,
}

impl Compact {
    fn request(self) -> Result<CompactionRequest, Problem> {
        let Self { kvs, from, from64, to, to64 } = self;
        let (from, to) = (key("from", from, from64)?, key("to", to, to64)?);
        Ok(CompactionRequest { kvs, from, to })
    }
}

/// A key that is given as text or as base64url, if at all.
fn key(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => {
            Err(Problem::bad_request(format!("{name} and {name}64 are both given; one is enough")))
        }
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => {
            let wrong =
                |why| Problem::bad_request(format!("{name}64 {base64:?} is not base64url: {why}"));
            Ok(Some(BASE64URL.decode(&base64).map_err(wrong)?.into()))
        }
        (None, None) => Ok(None),
    }
}

pub(crate) async fn start_compact(State(shared): Server, request: Request<Body>) -> Answer {
    // Whether one runs is looked at last: a request that is wrong stays wrong when it is over.
    let ready = async { shared.engine()?.check_writable(None).map_err(Problem::from) };
    let asked: Compact = read(&shared, request, ready).await?;
    let asked = asked.request()?;
    let begun = with_database(&shared, move |database| {
        let begun = database.start_compaction(asked).map_err(Problem::of_compaction)?;
        Ok(document::compaction(&begun))
    });
    json(StatusCode::ACCEPTED, &begun.await?)
}

pub(crate) async fn compact(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_database(&shared, |database| {
        let last = database.compaction().ok_or_else(none_was_asked_for)?;
        Ok(document::compaction(&last))
    });
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn cancel_compact(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_database(&shared, |database| {
        let last = database.compaction().ok_or_else(none_was_asked_for)?;
        last.cancel();
        Ok(document::compaction(&last))
    });
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn snapshots(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_database(&shared, |database| Ok(document::snapshots(&database.snapshots())));
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn end_snapshot(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let id = uri.path().strip_prefix("/v1/admin/snapshots/").unwrap_or_default();
    let number = id.parse().map_err(|_| {
        Problem::bad_request(format!(
            "snapshot {id:?}: an id is a number; GET /v1/admin/snapshots lists those that live"
        ))
    })?;
    let ended = with_database(&shared, move |database| {
        let ended = database.end_snapshot(SnapshotId::new(number))?;
        let held_bytes = database.snapshots().held_bytes;
        Ok(document::ended_snapshot(&ended, held_bytes))
    });
    json(StatusCode::OK, &ended.await?)
}

fn none_was_asked_for() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        ("no-compaction", "No compaction"),
        "no compaction was asked for since the server was started; POST begins one",
    )
}

/// Runs work on the database in the lane of administrative calls.
async fn with_database<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Database) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    check_allowed(shared)?;
    shared
        .blocking(&shared.lanes.administration, Patience::Refusable, |engine| {
            match engine.database() {
                Some(database) => work(database),
                None => Err(Problem::conflict("this store has no trees")),
            }
        })
        .await
        .map_err(Problem::of_what_is_there)
}
