//! What all requests share: limits, phase, the engine once it is open, lanes for blocking calls,
//! budgets, counters.
//!
//! Routes read it, and the application above them answers with it. It knows neither.

pub mod blocking;
pub mod body;
pub mod jobs;

use crate::api::problem::Problem;
use crate::api::rejected::Rejected;
use crate::budget::Budget;
use crate::connection::Timeouts;
use crate::engine::Engine;
use crate::metrics::Metrics;
use axum::http::StatusCode;
use blocking::{Blocking, Lanes, Patience};
use body::Bodies;
use jobs::Jobs;
use kvs::OpenProgress;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;

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

/// Lookups that wait for the drive at a time. Below what the pool's queue takes without making its
/// caller wait (16 requests for each of its threads), because the caller is an async worker.
const COLD_READS_MAX: usize = 192;

/// See the module.
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
}

impl Shared {
    /// Of a store that is not open yet.
    pub fn new(limits: Limits) -> Self {
        let engine = Arc::new(OnceLock::new());
        let metrics = Metrics::new(Arc::clone(&engine));
        let (queue_max, wait_max) = (limits.blocking_queue_max, limits.request_timeout);
        let bodies = metrics.memory.bodies(limits.body_memory_bytes);
        Self {
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
            engine,
        }
    }

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
}

/// Whose connection a request came on. The listener adds it to requests that are not for one key.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub SocketAddr);

/// The id of a scan, by which it is known in the log, in errors, and in the list of snapshots.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);
