//! `/livez`, `/readyz`, `/metrics` and `/version`: for those who watch the server.
//!
//! `/livez` says that the process answers and touches nothing else. `/readyz` says whether
//! requests are served: not while the store is being recovered, not while shutting down, and not
//! after the store failed, whoever met the failure. The first line of its answer is one word; a
//! second one says why where that is not `ready`, or how far the recovery is.

use super::json;
use crate::api::problem::{Answer, Problem};
use crate::api::target::Query;
use crate::state::blocking::Patience;
use crate::state::{Phase, Shared};
use axum::extract::{self, RawQuery};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use kvs::State;
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

pub(crate) async fn readyz(extract::State(shared): extract::State<Arc<Shared>>) -> Response {
    let phase = shared.phase();
    if phase != Phase::Ready {
        let far = (phase == Phase::Starting).then(|| shared.progress.text()).flatten();
        let far = far.map(|far| format!("{far}\n")).unwrap_or_default();
        let text = format!("{}\n{far}", phase.as_str());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    let health = match shared.engine() {
        Ok(engine) => engine.health(),
        Err(problem) => return problem.into_response(),
    };
    let (status, word) = match health.state() {
        State::Sound => (StatusCode::OK, phase.as_str()),
        State::Degraded => (StatusCode::OK, "degraded"),
        State::Failed => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let cause = health.cause().map(|cause| format!("{cause}\n")).unwrap_or_default();
    let reads_only = shared.engine().is_ok_and(|engine| engine.about().read_only);
    let note = if reads_only { "read-only\n" } else { "" };
    (status, format!("{word}\n{cause}{note}")).into_response()
}

pub(crate) async fn metrics(
    extract::State(shared): extract::State<Arc<Shared>>,
    RawQuery(raw): RawQuery,
) -> Answer {
    Query::parse(raw.as_deref(), &[])?;
    let scraped = Arc::clone(&shared);
    // The engine may ask the kernel for what it counts. Nothing else uses this lane.
    let outcome = shared.lanes.scrapes.run(Patience::Refusable, move || scraped.metrics.render());
    match outcome.await {
        Ok(Ok(text)) => Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()),
        Ok(Err(error)) => {
            tracing::error!(%error, "metrics could not be written");
            Err(Problem::internal())
        }
        Err(full) => Err(full.into()),
    }
}

pub(crate) async fn version(extract::State(shared): extract::State<Arc<Shared>>) -> Answer {
    let about = shared.engine().ok().map(|engine| engine.about());
    json(
        StatusCode::OK,
        &json!({
            "name": "millpond",
            "version": env!("CARGO_PKG_VERSION"),
            "commit": crate::COMMIT,
            "api": "v1",
            "format": about.map(|about| about.format),
            "device": about.map(|about| about.device),
            "io": about.map(|about| about.io_backend),
            "read_only": about.map(|about| about.read_only),
            "left_out": about.map(|about| about.left_out),
        }),
    )
}
