//! `/v1/admin/pool`: the pool under the store, for its operator.
//!
//! These routes change what the store lies on, so they are served only where the server says so: on
//! a loopback address by default (option `admin`).

use super::json;
use crate::admission::head::check_json;
use crate::api::object::Object;
use crate::api::problem::{Answer, LIST_VOLUMES, Problem};
use crate::api::target::Query;
use crate::documents::pool::{self as document, parse_volume};
use crate::engine::Engine;
use crate::state::Shared;
use crate::state::blocking::Patience;
use crate::state::body::{self, BodyLimit};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, Uri};
use mpool::{MediaClass, NewVolume, Pool, ScrubOptions, VolumeId, VolumeKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use units::Size;

/// Longest body of an administrative request: a path and a few words.
const BODY_BYTES_MAX: usize = 16 << 10;

type Server = State<Arc<Shared>>;

pub(crate) async fn info(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let jobs = shared.jobs.clone();
    let found = with_pool(&shared, move |engine, pool| {
        let mut found = document::info(pool, engine.space());
        let volumes = pool.volumes();
        // A volume that was removed since is history.
        let is_here = |job: &serde_json::Value| {
            volumes.iter().any(|volume| job["volume"] == volume.id.to_string())
        };
        found["evacuations"] = jobs.evacuation().filter(is_here).into_iter().collect();
        Ok(found)
    });
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn maps(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_pool(&shared, |_, pool| Ok(document::maps(&pool.maps()))).await?;
    json(StatusCode::OK, &found)
}

/// `{"name": "north"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    name: String,
}

pub(crate) async fn rename(State(shared): Server, request: Request<Body>) -> Answer {
    let ready = change_pool(&shared, |_, _| Ok(()));
    let Rename { name } = read(&shared, request, ready).await?;
    let found = change_pool(&shared, move |engine, pool| {
        pool.rename(&name).map_err(Problem::pool)?;
        Ok(document::info(pool, engine.space()))
    });
    json(StatusCode::OK, &found.await?)
}

/// A size as text (`"2GiB"`) or as a number of bytes.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Number(u64),
    Text(Size),
}

impl Bytes {
    fn get(self) -> u64 {
        match self {
            Self::Number(bytes) | Self::Text(Size(bytes)) => bytes,
        }
    }
}

/// A volume to be added.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    path: PathBuf,
    kind: Option<String>,
    class: Option<String>,
    capacity: Option<Bytes>,
    #[serde(default)]
    force: bool,
}

pub(crate) async fn add(State(shared): Server, request: Request<Body>) -> Answer {
    let add: Add = read(&shared, request, change_pool(&shared, |_, _| Ok(()))).await?;
    let kind = add.kind.map_or(Ok(VolumeKind::File), |kind| kind.parse());
    let class = add.class.map_or(Ok(MediaClass::Capacity), |class| class.parse());
    let new = NewVolume {
        path: add.path,
        kind: kind.map_err(Problem::bad_request)?,
        class: class.map_err(Problem::bad_request)?,
        capacity_bytes_max: add.capacity.map_or(1 << 40, Bytes::get),
        force: add.force,
    };
    let added = change_pool(&shared, move |_, pool| pool.add_volume(&new).map_err(Problem::pool));
    json(StatusCode::CREATED, &json!({ "id": added.await?.to_string() }))
}

/// `{"capacity": "2TiB"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grow {
    capacity: Bytes,
}

pub(crate) async fn grow(
    State(shared): Server,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Answer {
    let id = volume_id(&id)?;
    let ready = change_pool(&shared, move |_, pool| check_known(pool, id));
    let Grow { capacity } = read(&shared, request, ready).await?;
    let found = change_pool(&shared, move |engine, pool| {
        pool.grow_volume(id, capacity.get()).map_err(Problem::pool)?;
        Ok(document::info(pool, engine.space()))
    });
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn evacuate(State(shared): Server, Path(id): Path<String>, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let id = volume_id(&id)?;
    // What can be known is asked first, so that it is answered now and not by the job.
    change_pool(&shared, move |_, pool| {
        check_known(pool, id)?;
        check_not_root(id)
    })
    .await?;
    let engine = Arc::clone(shared.engine()?);
    shared.jobs.evacuate(engine, id).map_err(|busy| {
        Problem::conflict(format!("{busy} is being emptied; wait for its end, or cancel that"))
    })?;
    json(StatusCode::ACCEPTED, &shared.jobs.evacuation())
}

pub(crate) async fn cancel(State(shared): Server, Path(id): Path<String>, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let id = volume_id(&id)?;
    let found = change_pool(&shared, move |engine, pool| {
        pool.cancel_evacuation(id).map_err(Problem::pool)?;
        Ok(document::info(pool, engine.space()))
    });
    json(StatusCode::OK, &found.await?)
}

pub(crate) async fn remove(State(shared): Server, Path(id): Path<String>, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let id = volume_id(&id)?;
    let found = change_pool(&shared, move |engine, pool| {
        let volume = pool.volumes().into_iter().find(|volume| volume.id == id);
        engine.remove_volume(id).map_err(|error| match error {
            kvs::Error::Pool(error) => Problem::pool(error),
            other => other.into(),
        })?;
        let mut info = document::info(pool, engine.space());
        info["removed"] = volume.map(|volume| document::removed(pool, &volume)).into();
        Ok(info)
    });
    json(StatusCode::OK, &found.await?)
}

/// How to scrub: `{"rate": "100MiB", "from_start": true}`; both may be missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scrub {
    rate: Option<Bytes>,
    #[serde(default)]
    from_start: bool,
}

pub(crate) async fn start_scrub(State(shared): Server, request: Request<Body>) -> Answer {
    let ready = with_pool(&shared, |_, _| Ok(()));
    let scrub: Scrub = read(&shared, request, ready).await?;
    let mut options = ScrubOptions { from_start: scrub.from_start, ..ScrubOptions::default() };
    if let Some(rate) = scrub.rate {
        options.bytes_per_s = rate.get();
    }
    let engine = Arc::clone(shared.engine()?);
    let found = with_pool(&shared, move |_, pool| {
        check_no_scrub(pool)?;
        let work = move || {
            if let Err(error) = engine.scrub(&options) {
                tracing::error!(%error, "the scrub ended");
            }
        };
        // It ends with its work; the engine stops it when it closes.
        let thread = std::thread::Builder::new().name("pool-scrub".to_owned()).spawn(work);
        thread.map_err(|error| {
            tracing::error!(%error, "no thread can be started for the scrub");
            Problem::internal()
        })?;
        Ok(document::scrub(&pool.scrub_progress()))
    });
    json(StatusCode::ACCEPTED, &found.await?)
}

pub(crate) async fn scrub(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_pool(&shared, |_, pool| Ok(document::scrub(&pool.scrub_progress()))).await?;
    json(StatusCode::OK, &found)
}

pub(crate) async fn stop_scrub(State(shared): Server, uri: Uri) -> Answer {
    Query::parse(uri.query(), &[])?;
    let found = with_pool(&shared, |_, pool| {
        pool.stop_scrub();
        Ok(document::scrub(&pool.scrub_progress()))
    });
    json(StatusCode::OK, &found.await?)
}

/// Runs blocking work on the pool that changes it, where it may be reached and changed at all.
async fn change_pool<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Engine, &Arc<Pool>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    check_allowed(shared)?;
    shared.engine()?.check_writable(None)?;
    with_pool(shared, work).await
}

/// Runs blocking work that reads.
async fn with_pool<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn Engine, &Arc<Pool>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    check_allowed(shared)?;
    let work = move |engine: &dyn Engine| match engine.pool() {
        Some(pool) => work(engine, pool),
        None => Err(Problem::conflict("this store has no pool")),
    };
    shared.blocking(&shared.lanes.administration, Patience::Refusable, work).await
}

pub(super) fn check_allowed(shared: &Shared) -> Result<(), Problem> {
    if shared.limits.admin {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        ("admin-off", "Administration is off"),
        "this server does not serve /v1/admin, because it listens where others may reach it, or \
         was started with --admin false; start it with --admin true if only friends can reach it; \
         what millpond pool does can also be done on its host while it is stopped",
    ))
}

/// The body as a JSON object; an empty one is an empty object. It is asked for where the head is
/// right, and `ready` says that nothing else speaks against the request.
pub(super) async fn read<T: DeserializeOwned>(
    shared: &Shared,
    request: Request<Body>,
    ready: impl Future<Output = Result<(), Problem>>,
) -> Result<T, Problem> {
    check_allowed(shared)?;
    let (head, body) = request.into_parts();
    Query::parse(head.uri.query(), &[])?;
    if hyper::body::Body::size_hint(&body).exact() != Some(0) {
        check_json(&head.headers)?;
    }
    ready.await?;
    let limit = BodyLimit {
        bytes_max: BODY_BYTES_MAX,
        time_max: shared.limits.request_timeout,
        what: "request",
    };
    let read = body::read(body, limit, &shared.bodies).await?;
    let text: &[u8] = if read.bytes.is_empty() { b"{}" } else { &read.bytes };
    serde_json::from_slice(text)
        .map(|Object(parsed)| parsed)
        .map_err(|error| Problem::bad_request(format!("the body is not what it must be: {error}")))
}

fn volume_id(text: &str) -> Result<VolumeId, Problem> {
    parse_volume(text).ok_or_else(|| no_such_volume(text))
}

fn check_known(pool: &Pool, id: VolumeId) -> Result<(), Problem> {
    let known = pool.volumes().iter().any(|volume| volume.id == id);
    if known { Ok(()) } else { Err(no_such_volume(&id.to_string())) }
}

fn check_not_root(id: VolumeId) -> Result<(), Problem> {
    if id == VolumeId::ROOT {
        return Err(Problem::conflict(format!(
            "{id} is the root volume, which holds the pool's superblock and journal and cannot be \
             emptied; to leave its disk stop the server and copy the pool (docs/pool.md)"
        )));
    }
    Ok(())
}

fn check_no_scrub(pool: &Pool) -> Result<(), Problem> {
    if pool.scrub_progress().running {
        return Err(Problem::conflict("a scrub is running; stop it first, or wait for its end"));
    }
    Ok(())
}

fn no_such_volume(text: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        ("no-such-volume", "No such volume"),
        format!("the pool has no volume {text:?}; {LIST_VOLUMES}"),
    )
}
