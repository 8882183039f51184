//! The accept loop: HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! Written out rather than taken from `axum::serve`, for what that leaves open: a limit on
//! connections, time limits on heads, idleness and unread responses ([`crate::connection`]),
//! `TCP_NODELAY`, a limit on heads, and a shutdown that tells each connection to finish while it
//! still accepts new ones, so that those who ask hear that the server is going.

use crate::api::problem::Problem;
use crate::api::rejected::Rejected;
use crate::api::route::Route;
use crate::app::App;
use crate::budget::UNCOUNTED_BYTES;
use crate::connection::arrival;
use crate::connection::delivery::{Delivered, Protocol, Sent};
use crate::connection::{Activity, ConnectionLimits, Timeouts, Wire, watch};
use crate::framing::gate::Gate;
use crate::framing::{FollowLimits, Follower, Heads};
use crate::state::ClientAddress;
use axum::body::Body;
use axum::http::header::{CONNECTION, EXPECT, HeaderValue};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch as signal};
use tokio::task::AbortHandle;

/// HTTP/2 streams of one connection.
const HTTP2_STREAMS_MAX: u32 = 64;

/// Header fields of a request.
const HEADERS_MAX: usize = 100;

/// Connections that the kernel keeps until they are accepted; it takes `net.core.somaxconn` if that
/// is less.
const BACKLOG: u32 = 4096;

/// What the kernel may hold of what a peer has not read: it doubles the figure, for its own use.
/// Left alone it goes to 4 MiB a connection.
const SEND_BUFFER_BYTES: u32 = 512 << 10;

/// What of it may be unsent, because the peer's side takes no more: bytes that wait here are not on
/// their way to anybody, and say nothing about how fast the peer reads.
const UNSENT_BYTES: u32 = 128 << 10;

/// Pause after an error of `accept` that is not of one connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes a port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart does not wait for the last server's connections to be forgotten.
    socket.set_reuseaddr(true)?;
    // Accepted connections have it from the socket that listens.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    if let Err(error) = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT is refused: a slow reader is known later");
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until `stop` turns true, then tells all of them to finish what is under
/// way and returns a [`Draining`] that ends when they have. Until that is dropped connections are
/// accepted still, for one request each.
pub async fn accept(
    listener: TcpListener,
    app: App,
    limits: ConnectionLimits,
    stop: signal::Receiver<bool>,
) -> Draining {
    let (open, all_closed) = mpsc::channel::<Infallible>(1);
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let builder = builder(&limits);
    let door = Door { listener, app, limits, builder, permits, stop: stop.clone() };
    let mut stopped = stop;
    tokio::select! {
        () = door.admit(Some(open)) => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    let late = tokio::spawn(async move { door.admit(None).await }).abort_handle();
    Draining { all_closed, late }
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    app: App,
    limits: ConnectionLimits,
    builder: auto::Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
    stop: signal::Receiver<bool>,
}

impl Door {
    /// Accepts connections without end. Each keeps a sender; without one they are late.
    async fn admit(&self, open: Option<mpsc::Sender<Infallible>>) {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.app.shared().metrics.http.reject(Rejected::Connections);
                turn_away(&stream, self.limits.connections_max);
                continue;
            };
            // The stop may be known here before whoever polls this has seen it.
            let late = open.is_none() || *self.stop.borrow();
            let connection = Connection {
                app: self.app.clone(),
                builder: self.builder.clone(),
                follow: FollowLimits {
                    bytes_max: self.limits.header_bytes_max,
                    fields_max: HEADERS_MAX,
                },
                timeouts: self.limits.timeouts,
                stop: self.stop.clone(),
                late,
                address: ClientAddress(address),
            };
            let open = open.clone().filter(|_| !late);
            tokio::spawn(async move {
                connection.serve(stream).await;
                drop((permit, open));
            });
        }
    }
}

/// Connections that finish what is under way.
#[derive(Debug)]
#[must_use = "dropping this ends the accepting of connections"]
pub struct Draining {
    /// Closed when the last connection drops its sender.
    all_closed: mpsc::Receiver<Infallible>,
    late: AbortHandle,
}

impl Draining {
    /// Returns when all connections are closed that were open when it began.
    pub async fn finished(&mut self) {
        if let Some(never) = self.all_closed.recv().await {
            match never {}
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.late.abort();
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
    let problem = Problem::overloaded(
        Rejected::Connections.as_str(),
        format!(
            "{connections_max} connections are open, the limit (option connections); close some, or \
             try again"
        ),
    );
    if let Err(error) = stream.try_write(&problem.as_http1()) {
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
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

struct Connection {
    app: App,
    builder: auto::Builder<TokioExecutor>,
    follow: FollowLimits,
    timeouts: Timeouts,
    stop: signal::Receiver<bool>,
    /// It came when the server was stopping: it is told to finish after its first request.
    late: bool,
    address: ClientAddress,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let http = &self.app.shared().metrics.http;
        http.open();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is refused");
        }
        let activity = Arc::new(Activity::new());
        let asked = Arc::new(Notify::new());
        let peer = Peer {
            app: self.app.clone(),
            activity: Arc::clone(&activity),
            timeouts: self.timeouts,
            local: stream.local_addr().ok().map(|local| local.ip()),
            late: self.late,
            asked: Arc::clone(&asked),
        };
        let heads = Arc::new(Heads::default());
        let budget = self.app.shared().heads.clone();
        let follower = Follower::new(Arc::clone(&heads), self.follow, budget);
        let stream = Gate::new(stream, follower, Arc::clone(&activity));
        let io = TokioIo::new(Wire::new(stream, Arc::clone(&activity)));
        let (address, seen) = (self.address, Arc::clone(&heads));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let shown = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
            if let Some(hidden) = heads.next(shown) {
                request.extensions_mut().insert(hidden);
            }
            // A request for one key saves itself the map of extensions.
            if Route::of(request.uri().path()) != Route::Key {
                request.extensions_mut().insert(address);
            }
            answer(peer.clone(), request)
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let (app, limits) = (self.app.clone(), self.timeouts);
        let cut = move |delivered| note_slow_reader(&app, (address, limits), delivered);
        let mut overstay = pin!(watch(activity, self.timeouts, cut));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if seen.turned_away() {
                        http.reject(Rejected::HeadMemory);
                        tracing::warn!(peer = %self.address.0, "no room for the head of a request");
                    } else if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection ended early");
                    }
                    break;
                }
                why = overstay.as_mut() => {
                    http.close(why.as_str());
                    tracing::debug!(reason = why.as_str(), "a connection is closed");
                    break;
                }
                _ = self.stop.wait_for(|stop| *stop), if !stopping && !self.late => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = asked.notified(), if !stopping && self.late => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
        http.connections.dec();
    }
}

/// A response was given up because its client read nothing, or too slowly.
fn note_slow_reader(
    app: &App,
    (ClientAddress(peer), limits): (ClientAddress, Timeouts),
    delivered: Option<Delivered>,
) {
    app.shared().metrics.memory.slow_readers.inc();
    let kind = "slow-reader";
    let write_timeout_s = limits.write.as_secs_f64();
    let Some(delivered) = delivered else {
        tracing::warn!(
            kind,
            %peer,
            write_timeout_s,
            "a client that reads no responses is cut off; one that rests for longer needs a \
             longer write_timeout"
        );
        return;
    };
    tracing::warn!(
        kind,
        %peer,
        route = delivered.route.as_str(),
        bytes = delivered.bytes,
        seconds = delivered.turn.as_secs_f64(),
        bytes_per_s = delivered.bytes_per_s(),
        rate_min = limits.rate_min,
        write_timeout_s,
        "a client that reads too slowly, or rests for too long, is cut off; one that should be \
         served needs a lower rate_min or a longer write_timeout"
    );
}

/// What the requests of one connection share.
#[derive(Clone)]
struct Peer {
    app: App,
    activity: Arc<Activity>,
    timeouts: Timeouts,
    /// The address that it came to.
    local: Option<IpAddr>,
    late: bool,
    /// Told of each request.
    asked: Arc<Notify>,
}

async fn answer(peer: Peer, request: Request<Incoming>) -> Result<Response<Sent>, Infallible> {
    let busy = peer.activity.begin_request();
    let route = Route::of(request.uri().path());
    peer.asked.notify_one();
    let protocol = match request.version() {
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    };
    // Over HTTP/2 asking for a body tells the client nothing, and not asking resets the stream
    // before the answer is read.
    let waits = protocol == Protocol::Http1 && request.headers().contains_key(EXPECT);
    // A read has no body worth a box.
    let bare =
        matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_end_stream();
    let (head, body) = request.into_parts();
    let (body, rest) = if bare {
        (Body::empty(), None)
    } else {
        let (body, rest) = arrival::upload(body);
        (body, Some(rest))
    };
    let mut response = peer.app.answer_at(peer.local, Request::from_parts(head, body)).await;
    let mut closes = peer.late;
    let mut kept = None;
    if let Some(unread) = rest.and_then(|rest| rest.take()) {
        closes |= unread.is_beyond_bounds() || (waits && !unread.begun);
        if waits && !unread.begun {
            // Asking for it would tell the client to send it.
            kept = Some(unread);
        } else {
            let (busy, pace) = (peer.activity.begin_request(), peer.app.shared().bodies.pace());
            tokio::spawn(async move {
                unread.discard(pace).await;
                drop(busy);
            });
        }
    }
    if closes && protocol == Protocol::Http1 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // What is small is sent as fast as the peer reads, under the write limit of the connection.
    let small = response.body().size_hint().upper();
    let small = small.is_some_and(|bytes| bytes <= UNCOUNTED_BYTES as u64);
    Ok(response.map(|body| {
        if small {
            Sent::plain(body, kept)
        } else {
            Sent::watched((body, kept), (busy, route), (protocol, peer.timeouts.pace()))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 MiB waited unsent for a client that read nothing, and passed for having been read.
    #[tokio::test]
    async fn accepted_connections_keep_little_unsent() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        // A kernel that does not know the option has refused it.
        if let Ok(unsent) = socket.tcp_notsent_lowat() {
            assert_eq!(unsent, UNSENT_BYTES);
        }
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER_BYTES as usize);
    }
}
