//! Log lines on their way to standard error, best effort.
//!
//! A line enters a bounded queue, and a thread of its own writes it: whoever logs waits neither
//! for a pipe that nobody reads nor for a full disk. A line that finds no place, or that cannot be
//! written, is lost and counted.
//!
//! `tracing-appender` has such a queue, too; but its guard writes to standard error itself when its
//! thread hangs, and then the end of the process hangs there as well.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const LINES_MAX: usize = 8192;

/// Bytes of lines that may wait.
const BYTES_MAX: usize = 8 << 20;

/// What the thread does after a while, when it has been asked to look. True: and again.
pub(super) type Look = Box<dyn FnMut() -> bool + Send>;

/// See the module. Clone = another handle.
#[derive(Clone)]
pub(super) struct Queue {
    lines: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it has been written or lost.
    Flush(SyncSender<()>),
    LookLater,
}

impl Queue {
    /// Starts the thread that writes to `sink`. It calls `look` when `look_after` has passed since
    /// [`Queue::look_later`], or since the last look if that said so.
    ///
    /// Nobody joins the thread: where the sink blocks it never ends, and the process must.
    pub(super) fn start(
        sink: impl Write + Send + 'static,
        look_after: Duration,
        look: Look,
    ) -> io::Result<Self> {
        let (lines, received) = mpsc::sync_channel(LINES_MAX);
        let counts = Arc::<Counts>::default();
        let writer = Writer { sink, look, look_after, look_at: None };
        let of_thread = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("millpond-log".to_owned());
        thread.spawn(move || writer.run(&received, &of_thread))?;
        Ok(Self { lines, counts })
    }

    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Queues a line, or loses it.
    pub(super) fn push(&self, line: &[u8]) {
        let waiting = self.counts.waiting_bytes.fetch_add(line.len(), Relaxed) + line.len();
        if waiting > BYTES_MAX || self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.counts.waiting_bytes.fetch_sub(line.len(), Relaxed);
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was queued has been written, at most for `time_max`.
    pub(super) fn flush(&self, time_max: Duration) {
        let (done, answer) = mpsc::sync_channel(1);
        // A full queue is one that nobody empties: there is nothing to wait for.
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            // Late is as good as never: the caller goes on.
            let _ = answer.recv_timeout(time_max);
        }
    }

    /// Asks the thread to look after a while; does nothing if the queue is full.
    pub(super) fn look_later(&self) {
        drop(self.lines.try_send(Message::LookLater));
    }
}

struct Writer<W> {
    sink: W,
    look: Look,
    look_after: Duration,
    look_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, lines: &Receiver<Message>, counts: &Counts) {
        loop {
            let received = match self.look_at {
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(Message::Line(line)) => {
                    if self.write(&line).is_err() {
                        counts.lost.fetch_add(1, Relaxed);
                    }
                    counts.waiting_bytes.fetch_sub(line.len(), Relaxed);
                }
                // Whoever asked may have given up.
                Ok(Message::Flush(done)) => drop(done.try_send(())),
                Ok(Message::LookLater) => {
                    self.look_at.get_or_insert(Instant::now() + self.look_after);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.look_at.is_some_and(|at| at <= Instant::now()) {
                let again = (self.look)();
                self.look_at = again.then(|| Instant::now() + self.look_after);
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.sink.write_all(line)?;
        self.sink.flush()
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes one line, in one write, as the formatter gives it.
pub(super) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    const LONG: Duration = Duration::from_mins(1);

    /// Writes to memory, once the gate is open; fails on what contains `bad`.
    struct Sink {
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Open for ever when the other end is dropped.
            let _ = self.gate.recv();
            if bytes.starts_with(b"bad") {
                return Err(io::Error::other("as planned"));
            }
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(look: Look) -> (Queue, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (open, gate) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Sink { gate, written: Arc::clone(&written) };
        (Queue::start(sink, Duration::ZERO, look).unwrap(), open, written)
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_others_written() {
        let (queue, open, written) = start(Box::new(|| false));
        drop(open);
        for line in [&b"one\n"[..], b"bad\n", b"two\n"] {
            queue.push(line);
        }
        queue.flush(LONG);
        assert_eq!((&**written.lock(), queue.lost()), (&b"one\ntwo\n"[..], 1));
    }

    #[test]
    fn a_sink_that_hangs_holds_up_nobody() {
        let (queue, open, written) = start(Box::new(|| false));
        let lines = LINES_MAX + 100;
        (0..lines).for_each(|_| queue.push(b"line\n"));
        // One line may be with the thread beside those in the queue.
        let lost = queue.lost();
        assert!((99..=100).contains(&lost), "{lost}");
        queue.flush(LONG);
        drop(open);
        while written.lock().len() < (lines - 100) * 5 {
            std::thread::yield_now();
        }
        assert_eq!(queue.lost(), lost);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (queue, _open, _) = start(Box::new(|| false));
        let long = vec![b'x'; BYTES_MAX / 4];
        (0..6).for_each(|_| queue.push(&long));
        assert_eq!(queue.lost(), 2);
    }

    #[test]
    fn it_looks_after_it_was_asked_to() {
        let (looked, seen) = mpsc::channel();
        let (queue, _open, _) = start(Box::new(move || {
            looked.send(()).unwrap();
            false
        }));
        queue.look_later();
        seen.recv().unwrap();
    }
}
