//! What all requests share, and the life of one request.
//!
//! [`App::answer`] is the outermost layer: it names the route, counts and times the request,
//! turns a panic into a 500, writes the body of a problem, and logs. Requests for one key go
//! straight to their handler; all others pass axum's router. (A router's boxed futures cost a
//! small request more than the lookup does.)

use crate::access::Access;
use crate::blocking::{Blocking, Lanes, Patience};
use crate::body::Bodies;
use crate::budget::Budget;
use crate::connection::Timeouts;
use crate::engine::Engine;
use crate::head;
use crate::metrics::Metrics;
use crate::metrics::http::{HttpMetrics, Observation, Rejected};
use crate::pool::jobs::Jobs;
use crate::problem::Problem;
use crate::route::Route;
use crate::routes;
use crate::telemetry;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use kvs::OpenProgress;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// Limits on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a value.
    pub value_bytes_max: usize,
    /// Most bytes of the body of a batch.
    pub batch_bytes_max: usize,
    /// Bytes that all request bodies being read may hold.
    pub body_memory_bytes: usize,
    /// Bytes that the heads of all requests may hold, from their first byte to the answer.
    pub head_memory_bytes: usize,
    /// Bytes that all responses may hold, from before they are read until they are sent.
    pub response_memory_bytes: usize,
    /// Least rate at which a body comes, bytes per second; 0: none.
    pub rate_min: u64,
    /// Longest time for a body to arrive, and for the engine to answer.
    pub request_timeout: Duration,
    /// Longest time that a page of a scan takes, and that a stream takes a thread at once.
    pub scan_time_max: Duration,
    /// Requests that take longer are logged as slow.
    pub slow_request: Duration,
    /// Scans that are walked at a time.
    pub blocking_threads: usize,
    /// Blocking calls of one kind that may wait.
    pub blocking_queue_max: usize,
    /// Streams open at a time.
    pub streams_max: usize,
    /// Whether `/v1/admin` is served.
    pub admin: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: kvs::VALUE_BYTES_MAX,
            batch_bytes_max: 32 << 20,
            body_memory_bytes: 256 << 20,
            head_memory_bytes: 64 << 20,
            response_memory_bytes: 256 << 20,
            rate_min: Timeouts::default().rate_min,
            request_timeout: Duration::from_secs(30),
            scan_time_max: Duration::from_millis(500),
            slow_request: Duration::from_secs(1),
            blocking_threads: 8,
            blocking_queue_max: 256,
            streams_max: 256,
            admin: true,
        }
    }
}

/// Longest time that a response waits for memory.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

impl Limits {
    /// Longest time that a response waits for memory.
    pub(crate) fn room_wait_max(&self) -> Duration {
        self.request_timeout.min(ROOM_WAIT_MAX)
    }
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The store is being opened and recovered.
    Starting,
    /// The store is open; its health says how well it serves.
    Ready,
    /// Shutting down: what is under way is finished.
    Draining,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Starting, Self::Ready, Self::Draining];

    /// As shown by `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What all requests share. Clone = another handle.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
    access: Arc<Access>,
    router: Router,
}

/// Lookups that wait for the drive at a time. Below what the pool's queue takes without making its
/// caller wait (16 requests for each of its threads), because the caller is an async worker.
const COLD_READS_MAX: usize = 192;

/// See [`App`].
pub struct Shared {
    engine: Arc<OnceLock<Arc<dyn Engine>>>,
    phase: AtomicU8,
    /// How far the store is while it is being opened.
    pub progress: OpenProgress,
    /// Limits on requests.
    pub limits: Limits,
    /// Where blocking calls run.
    pub lanes: Lanes,
    /// Request bodies being read.
    pub bodies: Bodies,
    /// Memory of heads of requests.
    pub heads: Budget,
    /// Memory of responses.
    pub responses: Budget,
    /// Permits for open streams.
    pub streams: Arc<Semaphore>,
    /// Permits for lookups that wait for the drive.
    pub cold_reads: Arc<Semaphore>,
    /// Long work on the pool.
    pub jobs: Jobs,
    /// Counters.
    pub metrics: Metrics,
    request_ids: RequestIds,
}

impl App {
    /// An application whose store is not open yet.
    pub fn new(limits: Limits) -> Self {
        let engine = Arc::new(OnceLock::new());
        let metrics = Metrics::new(Arc::clone(&engine));
        let (queue_max, wait_max) = (limits.blocking_queue_max, limits.request_timeout);
        let bodies = metrics.memory.bodies(limits.body_memory_bytes);
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(Phase::Starting as u8),
            progress: OpenProgress::default(),
            limits,
            lanes: Lanes::new(limits.blocking_threads, queue_max, wait_max),
            bodies: Bodies::new(bodies, limits.rate_min),
            heads: metrics.memory.heads(limits.head_memory_bytes),
            responses: metrics.memory.responses(limits.response_memory_bytes),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            cold_reads: Arc::new(Semaphore::new(COLD_READS_MAX)),
            jobs: Jobs::default(),
            metrics,
            request_ids: RequestIds::new(),
            engine,
        });
        let router = routes::router(Arc::clone(&shared));
        Self { shared, access: Arc::default(), router }
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
            let found: Arc<str> = shared.request_ids.id(given_id.as_ref()).into();
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
            let id = id.unwrap_or_else(|| shared.request_ids.id(given_id.as_ref()).into());
            response = Problem::render(response, &id);
            shared.note_problem(&response, (&verb, &uri), &id);
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

impl Shared {
    /// Begins to serve a store.
    pub fn open(&self, engine: Arc<dyn Engine>) {
        assert!(self.engine.set(engine).is_ok(), "a store is opened once");
        self.set_phase(Phase::Ready);
    }

    /// The engine, once it is open.
    pub fn engine(&self) -> Result<&Arc<dyn Engine>, Problem> {
        self.engine.get().ok_or_else(|| {
            self.metrics.http.reject(Rejected::NotReady);
            Problem::overloaded(
                Rejected::NotReady.as_str(),
                "the store is being opened and recovered; /readyz tells when it is ready",
            )
        })
    }

    /// Whether requests are served.
    pub fn phase(&self) -> Phase {
        // Acquire pairs with the release in `set_phase`, so that whoever sees `Ready` sees the
        // engine, too.
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire))]
    }

    /// Moves to another phase.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Runs a blocking call of the engine in a lane beside the async workers. Who waits for longer
    /// than `request_timeout` is told so; the call goes on.
    pub async fn blocking<T: Send + 'static>(
        &self,
        lane: &Blocking,
        patience: Patience,
        work: impl FnOnce(&dyn Engine) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let engine = Arc::clone(self.engine()?);
        let turn = lane.turn(patience).await?;
        let running = turn.run(move || work(&*engine));
        self.answered(running, "what was asked for may or may not be done").await?
    }

    /// Awaits an answer of the engine that comes through a callback.
    pub async fn engine_answer<T>(
        &self,
        answer: tokio::sync::oneshot::Receiver<kvs::Result<T>>,
        what: &'static str,
    ) -> Result<T, Problem> {
        // The engine drops the callback uncalled only when it goes down.
        let answered = self.answered(answer, what).await?;
        Ok(answered.map_err(|_dropped| kvs::Error::Closed)??)
    }

    /// Awaits an answer for as long as a request may take; `what` says what became of it.
    pub async fn answered<T>(
        &self,
        answer: impl Future<Output = T>,
        what: &'static str,
    ) -> Result<T, Problem> {
        tokio::time::timeout(self.limits.request_timeout, answer).await.map_err(|_elapsed| {
            let detail = format!(
                "no answer within {} s (option request_timeout); {what}",
                self.limits.request_timeout.as_secs()
            );
            let kind = ("timeout", "The engine did not answer in time");
            Problem {
                retry_after_s: Some(1),
                ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail)
            }
        })
    }

    fn note_problem(&self, response: &Response<Body>, (verb, uri): (&Method, &Uri), id: &str) {
        let Some(problem) = response.extensions().get::<Arc<Problem>>() else { return };
        self.metrics.http.fail(problem);
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
            self.metrics.http.reject(rejected);
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
}

/// Whose connection a request came on. The listener adds it to requests that are not for one key.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub SocketAddr);

/// The id of a scan, by which it is known in the log, in errors, and in the list of snapshots.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

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
