//! The bytes of a connection on their way to and from the HTTP library: which of them are noted.

use super::Activity;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of bytes whose activity is noted.
pub struct Wire<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes of [`PREFACE`] that have come; `None` once it is clear which protocol this is.
    preface_seen: Option<usize>,
}

/// What a connection of HTTP/2 begins with, and no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";

impl<S> Wire<S> {
    /// Wraps `stream`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, preface_seen: Some(0) }
    }

    /// Looks for the preface, in whatever pieces it comes.
    fn see(&mut self, read: &[u8]) {
        let Some(seen) = self.preface_seen else { return };
        let same = PREFACE[seen..].iter().zip(read).take_while(|(want, got)| want == got).count();
        let is_whole = seen + same == PREFACE.len();
        if is_whole {
            self.activity.http2.store(true, Ordering::Relaxed);
        }
        self.preface_seen = (!is_whole && same == read.len()).then_some(seen + same);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(read) = buf.filled().get(before..).filter(|read| !read.is_empty()) {
            self.see(read);
            self.activity.note_read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn note(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Pending => self.activity.note_write_blocked(),
            Poll::Ready(_) => self.activity.note_written(),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(&polled);
        polled
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn notes_follow_the_bytes() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(8);
        let activity = Arc::new(Activity::new());
        let mut wire = Wire::new(near, Arc::clone(&activity));
        assert!(activity.snapshot().head.is_some(), "a new connection owes a head");
        let busy = activity.begin_request();
        assert_eq!((activity.snapshot().head, activity.snapshot().requests), (None, 1));
        drop(busy);
        far.write_all(b"GET").await.unwrap();
        wire.read_exact(&mut [0; 3]).await.unwrap();
        assert!(activity.snapshot().head.is_some(), "a head has begun");
        assert!(!activity.http2.load(Ordering::Relaxed));
        wire.write_all(b"12345678").await.unwrap();
        assert_eq!(activity.snapshot().write_blocked, None);
        let stuck = tokio::time::timeout(Duration::ZERO, wire.write_all(b"9"));
        assert!(stuck.await.is_err());
        assert!(activity.snapshot().write_blocked.is_some(), "the peer reads nothing");
    }

    #[tokio::test]
    async fn http2_is_known_by_its_preface() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(64);
        let activity = Arc::new(Activity::new());
        let mut wire = Wire::new(near, Arc::clone(&activity));
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // Taken for HTTP/1 where it came split.
        wire.read_exact(&mut [0; 1]).await.unwrap();
        wire.read_exact(&mut [0; 23]).await.unwrap();
        assert_eq!(activity.snapshot().head, None);
        activity.note_block(true);
        let _busy = activity.begin_request();
        assert!(activity.snapshot().head.is_some(), "a header block has begun");
        activity.note_block(false);
        assert_eq!(activity.snapshot().head, None);
    }

    #[tokio::test]
    async fn bytes_are_no_progress() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(64);
        let activity = Arc::new(Activity::new());
        let mut wire = Wire::new(near, Arc::clone(&activity));
        activity.progress_ms.store(0, Ordering::Relaxed);
        // A ping of HTTP/2 and its answer.
        far.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.unwrap();
        wire.read_exact(&mut [0; 17]).await.unwrap();
        wire.write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.unwrap();
        assert_eq!(activity.progress_ms.load(Ordering::Relaxed), 0);
        drop(activity.begin_request());
        assert_ne!(activity.progress_ms.load(Ordering::Relaxed), 0);
    }
}
