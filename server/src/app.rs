//! The life of one request.
//!
//! [`App::answer`] is the outermost layer: it names the route, counts and times the request,
//! turns a panic into a 500, writes the body of a problem, and logs. Requests for one key go
//! straight to their handler; all others pass axum's router. (A router's boxed futures cost a
//! small request more than the lookup does.)

use crate::admission::access::Access;
use crate::admission::head;
use crate::api::problem::Problem;
use crate::api::rejected::Rejected;
use crate::api::route::Route;
use crate::engine::Engine;
use crate::metrics::http::{HttpMetrics, Observation};
use crate::routes;
use crate::state::{ClientAddress, Limits, Phase, RequestId, Shared};
use crate::telemetry;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tower::ServiceExt;

/// What answers requests. Clone = another handle.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
    access: Arc<Access>,
    router: Router,
    ids: Arc<RequestIds>,
}

impl App {
    /// An application whose store is not open yet.
    pub fn new(limits: Limits) -> Self {
        let shared = Arc::new(Shared::new(limits));
        let router = routes::router(Arc::clone(&shared));
        Self { shared, access: Arc::default(), router, ids: Arc::new(RequestIds::new()) }
    }

    /// The same application, for those whom `access` lets in.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access: Arc::new(access), ..self }
    }

    /// An application on an open store, ready to serve.
    pub fn with_engine(engine: Arc<dyn Engine>, limits: Limits) -> Self {
        let app = Self::new(limits);
        app.shared.open(engine);
        app
    }

    /// What all requests share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Answers one request that came to no address. Never fails: whatever goes wrong is a response.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.answer_at(None, request).await
    }

    /// Answers one request, which came to an address of ours.
    pub async fn answer_at(
        &self,
        local: Option<IpAddr>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let shared = &*self.shared;
        let started = Instant::now();
        let route = Route::of(request.uri().path());
        let method = HttpMetrics::method_index(request.method());
        let (verb, uri) = (request.method().clone(), request.uri().clone());
        let peer = request.extensions().get::<ClientAddress>().copied();
        let given_id = request.headers().get("x-request-id").cloned();
        let mut id = None;
        if route == Route::Scan {
            // What it holds while it goes on is listed under its id.
            let found: Arc<str> = self.ids.id(given_id.as_ref()).into();
            request.extensions_mut().insert(RequestId(Arc::clone(&found)));
            id = Some(found);
        }
        let _entered = shared.metrics.http.enter();
        let mut response = if shared.phase() == Phase::Draining && !route.is_for_watchers() {
            Problem::from(kvs::Error::Closed).into_response()
        } else {
            let handler = AssertUnwindSafe(self.dispatch(route, local, request)).catch_unwind();
            handler.await.unwrap_or_else(|_panic| Problem::internal().into_response())
        };
        let status = response.status();
        let elapsed = started.elapsed();
        if response.extensions().get::<Arc<Problem>>().is_some() {
            let id = id.unwrap_or_else(|| self.ids.id(given_id.as_ref()).into());
            response = Problem::render(response, &id);
            note_problem(shared, &response, (&verb, &uri), &id);
        }
        if route.is_administrative() && !matches!(verb, Method::GET | Method::HEAD) {
            note_administration(peer, (&verb, &uri), status);
        }
        let response_bytes = hyper::body::Body::size_hint(response.body()).exact();
        shared.metrics.http.observe(Observation { route, method, status, elapsed, response_bytes });
        if elapsed >= shared.limits.slow_request {
            let path = short(&uri);
            let status = status.as_u16();
            tracing::warn!(method = %verb, %path, status, ?elapsed, "slow request");
        } else {
            let status = status.as_u16();
            tracing::debug!(method = %verb, uri = %uri, status, ?elapsed, "request");
        }
        response
    }

    async fn dispatch(
        &self,
        route: Route,
        local: Option<IpAddr>,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Err(problem) = head::check(&request, &self.access, local) {
            return problem.into_response();
        }
        let _head = match self.shared.heads.try_share(head::memory(&request)) {
            Ok(share) => share,
            Err(problem) => return problem.into_response(),
        };
        if route == Route::Key {
            return routes::kv::handle(&self.shared, request).await.into_response();
        }
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn note_problem(
    shared: &Shared,
    response: &Response<Body>,
    (verb, uri): (&Method, &Uri),
    id: &str,
) {
    let Some(problem) = response.extensions().get::<Arc<Problem>>() else { return };
    shared.metrics.http.fail(problem);
    if let Some(reason) = problem.stall {
        let rejected = match reason {
            "blocking_queue" => Rejected::BlockingQueue,
            "body_memory" => Rejected::BodyMemory,
            "head_memory" => Rejected::HeadMemory,
            "response_memory" => Rejected::ResponseMemory,
            "streams" => Rejected::Streams,
            // Counted where it was found.
            "not_ready" => return,
            _ => Rejected::Stalled,
        };
        shared.metrics.http.reject(rejected);
    }
    let (status, path, kind) = (problem.status.as_u16(), short(uri), problem.slug);
    let why = problem.cause.as_deref().unwrap_or(&problem.detail);
    let (method, request_id) = (verb, id);
    if problem.is_fault() {
        tracing::error!(kind, %method, %path, status, request_id, why, "request failed");
    } else if problem.status.is_server_error() {
        tracing::warn!(kind, %method, %path, status, request_id, why, "request turned away");
    } else {
        tracing::debug!(kind, %method, %path, status, request_id, why, "request refused");
    }
}

/// Who did what to the store, for those who look for it later.
fn note_administration(
    peer: Option<ClientAddress>,
    (verb, uri): (&Method, &Uri),
    status: StatusCode,
) {
    let peer = peer.map(|ClientAddress(address)| tracing::field::display(address));
    let (method, path, status) = (verb, short(uri), status.as_u16());
    if status < 300 {
        tracing::info!(target: telemetry::ADMIN, peer, %method, %path, status, "administration");
    } else {
        tracing::warn!(peer, %method, %path, status, "administration refused");
    }
}

/// Longest path in a log line.
const PATH_CHARS_MAX: usize = 160;

/// The path of a request for its log line. It is percent-encoded, so it holds no control
/// characters; a long one is cut.
fn short(uri: &Uri) -> Cow<'_, str> {
    let path = uri.path();
    match path.char_indices().nth(PATH_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &path[..at]).into(),
        None => path.into(),
    }
}

/// Ids of requests: the client's `X-Request-Id` if it is short and printable, else a number that
/// is unique among all processes that log to one place.
struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // The standard library's hasher is seeded by the operating system's randomness.
        let process = std::hash::RandomState::new().build_hasher().finish();
        Self { process, next: AtomicU64::new(1) }
    }

    fn id(&self, given: Option<&HeaderValue>) -> String {
        let given = given.and_then(|value| value.to_str().ok());
        let given = given.filter(|id| !id.is_empty() && id.len() <= 64);
        given.map_or_else(|| self.fresh(), str::to_owned)
    }

    fn fresh(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number:x}", self.process >> 32)
    }
}
