//! The stream of one connection on its way to the HTTP library: followed, and ended when a head
//! that has begun finds no room.
//!
//! An unfinished head lies in the library's buffers, where nobody can see or free it. So its bytes
//! are counted here, and a connection whose head finds no room in the budget is told so, if its
//! client can be told, and ended. A head that began behind a request that is still being answered
//! waits for that: the answer may be that of a write.

use super::Follower;
use crate::connection::Activity;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
pub struct Gate<S> {
    stream: S,
    follower: Follower,
    activity: Arc<Activity>,
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Lets the bytes of `stream` pass.
    pub fn new(stream: S, follower: Follower, activity: Arc<Activity>) -> Self {
        Self { stream, follower, activity }
    }

    /// `Err` where the head that has begun finds no room.
    fn check_room(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let speaks_http1 = !self.follower.speaks_http2();
        let is_busy = self.activity.is_busy();
        if speaks_http1 && is_busy && !self.follower.is_in_trailer() {
            return Ok(());
        }
        let Err(refusal) = self.follower.make_room() else { return Ok(()) };
        let answer = refusal.as_http1();
        // A request that a trailer belongs to may have begun its answer.
        let can_be_told = speaks_http1 && !is_busy;
        if can_be_told && Pin::new(&mut self.stream).poll_write(cx, &answer).is_pending() {
            tracing::debug!("a connection without room for its head could not be told why");
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "no room for the head of a request"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        if gate.follower.is_short() {
            gate.check_room(cx)?;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut gate.stream).poll_read(cx, buf);
        if let Some(read) = buf.filled().get(before..).filter(|read| !read.is_empty()) {
            gate.follower.see(read);
            gate.activity.note_block(gate.follower.is_block_open());
            if gate.follower.is_short() {
                gate.check_room(cx)?;
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
