//! `/livez`, `/readyz`, `/metrics` and `/version`: for those who watch the server.
//!
//! `/livez` says that the process answers and touches nothing else. `/readyz` says whether
//! requests are served: not while the store is being recovered, not while shutting down, and not
//! after the store failed.

use super::json;
use crate::app::{Phase, Shared};
use crate::blocking::Patience;
use crate::problem::{Answer, Problem};
use crate::target::Query;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let phase = shared.phase();
    let status = match phase {
        Phase::Ready => StatusCode::OK,
        Phase::Starting | Phase::Draining | Phase::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{}\n", phase.as_str())).into_response()
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>, RawQuery(raw): RawQuery) -> Answer {
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

pub(crate) async fn version(State(shared): State<Arc<Shared>>) -> Answer {
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
        }),
    )
}
