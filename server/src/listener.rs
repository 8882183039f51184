//! The accept loop: HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! Written out rather than taken from `axum::serve`, for what that leaves open: a limit on
//! connections, time limits on heads, idleness and unread responses ([`crate::connection`]),
//! `TCP_NODELAY`, a limit on heads, and a shutdown that tells each connection to finish.

use crate::app::App;
use crate::connection::{Activity, Busy, Timeouts, Wire, watch};
use crate::framing::{FollowLimits, Follower, Heads};
use crate::metrics::http::Rejected;
use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch as signal};
use tokio_util::io::InspectReader;

/// HTTP/2 streams of one connection.
const HTTP2_STREAMS_MAX: u32 = 64;

/// Header fields of a request.
const HEADERS_MAX: usize = 100;

/// Pause after an error of `accept` that is not of one connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections open at a time.
    pub connections_max: usize,
    /// Most bytes of a request's head.
    pub header_bytes_max: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections_max: 10_000, header_bytes_max: 64 << 10, timeouts: Timeouts::default() }
    }
}

/// Accepts connections until `stop` turns true, then tells all of them to finish what is under
/// way and returns a [`Draining`] that ends when they have.
pub async fn accept(
    listener: TcpListener,
    app: App,
    limits: ConnectionLimits,
    mut stop: signal::Receiver<bool>,
) -> Draining {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let builder = builder(&limits);
    let (open, all_closed) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            app.shared().metrics.http.reject(Rejected::Connections);
            turn_away(&stream, limits.connections_max);
            continue;
        };
        let connection = Connection {
            app: app.clone(),
            builder: builder.clone(),
            follow: FollowLimits { bytes_max: limits.header_bytes_max, fields_max: HEADERS_MAX },
            timeouts: limits.timeouts,
            stop: stop.clone(),
        };
        let open = open.clone();
        tokio::spawn(async move {
            connection.serve(stream).await;
            drop((permit, open));
        });
    }
    Draining { all_closed }
}

/// Connections that finish what is under way.
#[derive(Debug)]
pub struct Draining {
    /// Closed when the last connection drops its sender.
    all_closed: mpsc::Receiver<Infallible>,
}

impl Draining {
    /// Returns when all connections are closed.
    pub async fn finished(mut self) {
        if let Some(never) = self.all_closed.recv().await {
            match never {}
        }
    }
}

async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if !of_one_connection {
        tracing::warn!(%error, "cannot accept connections");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Says why in one non-blocking write; the client may or may not get to read it.
fn turn_away(stream: &TcpStream, connections_max: usize) {
    let detail = format!(
        "{{\"type\":\"urn:millpond:problem:overloaded\",\"title\":\"Too much to do\",\"status\":503,\
         \"detail\":\"{connections_max} connections are open, the limit (option connections)\"}}\n"
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nretry-after: 1\r\nx-millpond-stall: connections\r\n\
         connection: close\r\n\r\n{detail}",
        detail.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "a connection over the limit could not be told why");
    }
}

fn builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Time limits are ours, see `connection`; this one would need a timer each request.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes_max)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        // No pings of ours: their answers would make an idle connection look busy for ever.
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

struct Connection {
    app: App,
    builder: auto::Builder<TokioExecutor>,
    follow: FollowLimits,
    timeouts: Timeouts,
    stop: signal::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let http = &self.app.shared().metrics.http;
        http.accepted.inc();
        http.connections.inc();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is refused");
        }
        let activity = Arc::new(Activity::new());
        let heads = Arc::new(Heads::default());
        let mut follower = Follower::new(Arc::clone(&heads), self.follow);
        let stream = InspectReader::new(stream, move |bytes: &[u8]| follower.see(bytes));
        let io = TokioIo::new(Wire::new(stream, Arc::clone(&activity)));
        let (app, noted) = (self.app.clone(), Arc::clone(&activity));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let shown = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
            if let Some(hidden) = heads.next(shown) {
                request.extensions_mut().insert(hidden);
            }
            answer(app.clone(), Arc::clone(&noted), request)
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut overstay = pin!(watch(activity, self.timeouts));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection ended early");
                    }
                    break;
                }
                why = overstay.as_mut() => {
                    http.close(why.as_str());
                    tracing::debug!(reason = why.as_str(), "a connection is closed");
                    break;
                }
                _ = self.stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
        http.connections.dec();
    }
}

async fn answer(
    app: App,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Sent>, Infallible> {
    let busy = activity.begin_request();
    // A read has no body worth a box.
    let bare =
        matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_end_stream();
    let request = if bare { request.map(|_| Body::empty()) } else { request.map(Body::new) };
    let response = app.answer(request).await;
    // What has a known length is sent as fast as the peer reads, under the write limit. A stream
    // keeps its connection busy while it waits for the engine.
    let streaming = response.body().size_hint().exact().is_none();
    Ok(response.map(|body| Sent { body, _busy: streaming.then_some(busy) }))
}

/// A response's body; a stream keeps its connection busy until it ends.
struct Sent {
    body: Body,
    _busy: Option<Busy>,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
