//! One response on its way to its peer, and whether the peer takes it.
//!
//! The HTTP library asks a [`Sent`] for pieces and drops each when it has been written to the
//! socket. Both are noted: while a piece is out it is the peer's turn, and a
//! [`Ledger`] keeps the account of its time. Waiting for the engine is not the
//! peer's time.
//!
//! ```text
//!   body --poll--> piece out --written, dropped--> next piece ... --> last one dropped: delivered
//!                  `--------- the peer's turn --------'
//! ```
//!
//! A peer that is too slow loses the response: on HTTP/1 with its connection; on HTTP/2 the rest of
//! the body is dropped at once, because the library does not ask for more while the peer grants no
//! window, and the stream is reset as soon as it does. So that this frees the memory, a piece of an
//! HTTP/2 response is a copy and keeps nothing else alive.

use crate::api::route::Route;
use crate::connection::arrival::Unread;
use crate::connection::pace::{Ledger, Pace};
use crate::connection::{Activity, Busy};
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A piece of an HTTP/1 response: enough for one call of the kernel to be worth it.
const PIECE_BYTES: usize = 64 << 10;

/// A piece of an HTTP/2 response: the frame size that peers take unless they say otherwise.
const PIECE_BYTES_HTTP2: usize = 16 << 10;

/// How responses travel on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One after the other; pieces are slices.
    Http1,
    /// Side by side; pieces are copies.
    Http2,
}

/// See the module.
pub struct Delivery {
    state: Mutex<State>,
    activity: Arc<Activity>,
    pace: Pace,
    protocol: Protocol,
    route: Route,
}

/// What a peer has taken of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// What it had asked for.
    pub route: Route,
    /// Bytes written to the socket.
    pub bytes: u64,
    /// For how long it was the peer's turn.
    pub turn: Duration,
}

impl Delivered {
    /// Bytes per second while it was the peer's turn.
    pub fn bytes_per_s(&self) -> u64 {
        let millis = self.turn.as_millis().max(1);
        u64::try_from(u128::from(self.bytes) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

struct State {
    /// What has not been asked for.
    body: Option<Body>,
    rest: Bytes,
    /// Pieces that are not written yet.
    out: usize,
    /// When the peer's turn began.
    since: Instant,
    ledger: Ledger,
    /// Bytes written, and the peer's time, in all.
    bytes: u64,
    turn: Duration,
    cut: bool,
    /// Keeps the connection busy until all is written.
    busy: Option<Busy>,
}

impl State {
    /// The peer's time up to now goes into its account.
    fn settle(&mut self) {
        let now = Instant::now();
        if self.out > 0 {
            let turn = now.duration_since(self.since);
            self.ledger.pass(turn);
            self.turn += turn;
        }
        self.since = now;
    }

    fn asked_for_all(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// What keeps the connection busy, if all is written.
    fn delivered(&mut self) -> Option<Busy> {
        if self.out == 0 && self.asked_for_all() { self.busy.take() } else { None }
    }
}

impl Delivery {
    /// Time until the peer is too slow; none while it is not its turn.
    pub(crate) fn left(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        state.settle();
        (state.out > 0 && !state.cut).then(|| state.ledger.left(self.pace))
    }

    /// How far the peer is.
    pub(crate) fn delivered_so_far(&self) -> Delivered {
        let mut state = self.state.lock();
        state.settle();
        Delivered { route: self.route, bytes: state.bytes, turn: state.turn }
    }

    /// Gives up on the peer: what it has not taken is dropped.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        state.cut = true;
        let dropped = (state.body.take(), std::mem::take(&mut state.rest), state.busy.take());
        drop(state);
        drop(dropped);
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The next piece of `rest`, which has one.
    fn piece(self: &Arc<Self>, state: &mut State) -> Bytes {
        let bytes = match self.protocol {
            Protocol::Http1 => state.rest.split_to(state.rest.len().min(PIECE_BYTES)),
            Protocol::Http2 => {
                let piece = state.rest.split_to(state.rest.len().min(PIECE_BYTES_HTTP2));
                Bytes::copy_from_slice(&piece)
            }
        };
        state.settle();
        state.out += 1;
        Bytes::from_owner(Piece { bytes, delivery: Arc::clone(self) })
    }
}

/// Bytes handed to the HTTP library; dropped when they are written.
struct Piece {
    bytes: Bytes,
    delivery: Arc<Delivery>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Delivery { state, activity, pace, .. } = &*self.delivery;
        activity.note_progress();
        let mut state = state.lock();
        state.settle();
        let bytes = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        state.ledger.moved(bytes, *pace);
        state.bytes = state.bytes.saturating_add(bytes);
        state.out -= 1;
        let busy = state.delivered();
        drop(state);
        drop(busy);
    }
}

/// A response's body as the HTTP library takes it.
pub struct Sent {
    kind: Kind,
    /// The part of the request that nobody asked for; the library takes its end for the end of the
    /// connection, so it stays until the response is written.
    _unread: Option<Unread>,
}

enum Kind {
    /// So small that nobody looks after it.
    Plain(Body),
    Watched(Arc<Delivery>),
}

impl Sent {
    /// A body that is handed on as it is. `unread` is what the request had that nobody asked for.
    pub fn plain(body: Body, unread: Option<Unread>) -> Self {
        Self { kind: Kind::Plain(body), _unread: unread }
    }

    /// A body that is looked after, the answer of a route; `busy` is dropped when the peer has it.
    pub fn watched(
        (body, unread): (Body, Option<Unread>),
        (busy, route): (Busy, Route),
        (protocol, pace): (Protocol, Pace),
    ) -> Self {
        let activity = Arc::clone(busy.activity());
        let state = State {
            body: Some(body),
            rest: Bytes::new(),
            out: 0,
            since: Instant::now(),
            ledger: Ledger::default(),
            bytes: 0,
            turn: Duration::ZERO,
            cut: false,
            busy: Some(busy),
        };
        let delivery = Arc::new(Delivery {
            state: Mutex::new(state),
            activity: Arc::clone(&activity),
            pace,
            protocol,
            route,
        });
        activity.look_after(&delivery);
        Self { kind: Kind::Watched(delivery), _unread: unread }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        // All of it was asked for, or the connection is gone.
        if let Kind::Watched(delivery) = &self.kind {
            let mut state = delivery.state.lock();
            let dropped = (state.body.take(), std::mem::take(&mut state.rest));
            let busy = state.delivered();
            drop(state);
            drop((dropped, busy));
        }
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let delivery = match &mut self.kind {
            Kind::Plain(body) => return Pin::new(body).poll_frame(cx),
            Kind::Watched(delivery) => delivery,
        };
        let mut state = delivery.state.lock();
        loop {
            if state.cut {
                let why = std::io::Error::other("the peer read too slowly");
                return Poll::Ready(Some(Err(axum::Error::new(why))));
            }
            if !state.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(delivery.piece(&mut state)))));
            }
            let Some(body) = &mut state.body else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => state.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => state.body = None,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain(body) => body.is_end_stream(),
            Kind::Watched(delivery) => {
                let state = delivery.state.lock();
                !state.cut && state.asked_for_all()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain(body) => body.size_hint(),
            Kind::Watched(delivery) => {
                let state = delivery.state.lock();
                let rest = u64::try_from(state.rest.len()).unwrap_or(u64::MAX);
                let Some(body) = &state.body else { return SizeHint::with_exact(rest) };
                match body.size_hint().exact() {
                    Some(bytes) => SizeHint::with_exact(bytes + rest),
                    None => SizeHint::new(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    const PACE: Pace = Pace { bytes_per_s: 0, behind_max: Duration::ZERO, ahead_bytes_max: 0 };

    fn sent(body: Body, protocol: Protocol) -> (Sent, Arc<Activity>) {
        let activity = Arc::new(Activity::new());
        let busy = activity.begin_request();
        (Sent::watched((body, None), (busy, Route::Key), (protocol, PACE)), activity)
    }

    #[tokio::test]
    async fn a_connection_is_busy_until_the_last_piece_is_written() {
        for (protocol, piece_bytes) in
            [(Protocol::Http1, PIECE_BYTES), (Protocol::Http2, PIECE_BYTES_HTTP2)]
        {
            let (mut body, activity) = sent(Body::from(vec![7; piece_bytes + 1]), protocol);
            assert!(activity.slowest().is_none(), "it is not the peer's turn");
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first.len(), piece_bytes);
            assert!(activity.slowest().is_some(), "a piece is out");
            let last = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((last.len(), body.is_end_stream()), (1, true));
            drop(body);
            drop(first);
            assert!(activity.is_busy());
            drop(last);
            assert!(!activity.is_busy());
            assert!(activity.slowest().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_cut_frees_its_memory_though_a_piece_is_stuck() {
        let value = Bytes::from(vec![7; 4 * PIECE_BYTES]);
        let (mut body, activity) = sent(Body::from(value.clone()), Protocol::Http2);
        let stuck = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(!value.is_unique());
        let slowest = activity.slowest().expect("a piece is out");
        assert_eq!(slowest.left(), Some(Duration::ZERO));
        assert_eq!(slowest.delivered_so_far().bytes, 0, "nothing was written");
        slowest.cut();
        assert!(value.is_unique(), "the value is kept by nobody else");
        assert!(!activity.is_busy());
        assert!(activity.slowest().is_none(), "it is given up once");
        assert!(body.frame().await.unwrap().is_err());
        drop((stuck, body));
    }

    #[tokio::test]
    async fn waiting_for_the_engine_is_not_the_peers_time() {
        let chunks = futures_util::stream::pending::<Result<Bytes, axum::Error>>();
        let (mut body, activity) = sent(Body::from_stream(chunks), Protocol::Http1);
        assert!(tokio::time::timeout(Duration::ZERO, body.frame()).await.is_err());
        assert!(activity.slowest().is_none());
        drop(body);
        assert!(!activity.is_busy());
    }
}
