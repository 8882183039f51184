//! A request's body on its way in, and what becomes of the part that nobody wants.
//!
//! A request may be answered before its body has arrived: what the head alone decides, and what
//! goes wrong on the way. A client that is still sending would then meet a reset and lose the
//! answer. So a body that is dropped before its end is left with [`Rest`], and the listener reads
//! it and throws it away beside the answer: up to a bound of bytes, and no slower than bodies may
//! come.
//!
//! A client that asked by `Expect: 100-continue` and was told to go on by nobody sends nothing; its
//! connection ends with the answer.

use crate::connection::pace::{Ledger, Pace};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Bytes of an unwanted body that are read and thrown away so that the client sees the answer.
pub const DISCARD_BYTES_MAX: u64 = 64 << 20;

/// Where the unread part of a body is left.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    left: Arc<Mutex<Option<Unread>>>,
}

/// The part of a body that was not read.
#[derive(Debug)]
pub struct Unread {
    body: Incoming,
    /// Whether any of it was asked for, which tells a client that waits to send it.
    pub begun: bool,
}

/// A body, and where its rest is left.
pub fn upload(body: Incoming) -> (Body, Rest) {
    let rest = Rest::default();
    let upload = Upload { body: Some(body), begun: false, rest: rest.clone() };
    (Body::new(upload), rest)
}

impl Rest {
    /// What was not read, after the body was dropped.
    pub fn take(&self) -> Option<Unread> {
        self.left.lock().take()
    }
}

impl Unread {
    /// Whether more is announced than is ever read.
    pub fn is_beyond_bounds(&self) -> bool {
        self.body.size_hint().lower() > DISCARD_BYTES_MAX
    }

    /// Reads and throws away. The connection is good for another request if it comes to the end.
    pub async fn discard(mut self, pace: Pace) {
        let (mut len, mut ledger) = (0_u64, Ledger::default());
        while len <= DISCARD_BYTES_MAX {
            let asked = Instant::now();
            let frame = tokio::time::timeout(ledger.left(pace), self.body.frame()).await;
            ledger.pass(asked.elapsed());
            let Ok(Some(Ok(frame))) = frame else { return };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            ledger.moved(bytes, pace);
            len = len.saturating_add(bytes);
        }
    }
}

/// A body that leaves its rest when it is dropped.
struct Upload {
    /// `None` past the end.
    body: Option<Incoming>,
    begun: bool,
    rest: Rest,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.rest.left.lock() = Some(Unread { body, begun: self.begun });
        }
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}
