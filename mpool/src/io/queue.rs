//! Asynchronous IO with a bounded depth.
//!
//! Two back-ends with the same semantics, chosen when the pool opens: `io_uring`, where one reactor
//! thread owns the ring, and threads that call `pread` and `pwrite`. Requests start in the order of
//! their [`Priority`] (the rule is in `lanes`), at most `depth` at a time; a submitter waits while
//! too many are queued. `done` runs on a queue thread and must be short: it holds up the next
//! completion. Dropping the queue runs what was accepted, then joins its threads.
//!
//! Cost per transfer: two allocations (the boxed callbacks) and no copy.

use super::{
    buf::{IO_ALIGN, IoBuf},
    threads::Workers,
    uring::Reactor,
};
use crate::{
    device::check_access,
    error::{Error, Result},
    options::IoBackend,
    sys::uring::{Direction, Transfer},
    volume::Volume,
};
use std::{cell::Cell, io, sync::Arc};

/// How urgent a request is. Earlier ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for durability.
    Wal,
    /// Somebody waits for an answer.
    Read,
    /// Memory waits to be freed.
    Flush,
    /// Nobody waits yet.
    Compaction,
}

impl Priority {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Wal, Self::Read, Self::Flush, Self::Compaction];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Wal => 0,
            Self::Read => 1,
            Self::Flush => 2,
            Self::Compaction => 3,
        }
    }
}

/// Runs on a queue thread when a transfer has ended; gets the buffer back unless it failed.
pub type Done = Box<dyn FnOnce(Result<IoBuf>) + Send>;

/// A job for [`IoQueue::run_blocking`].
pub type Job = Box<dyn FnOnce() + Send>;

/// Requests that may wait per unit of depth before submitters are held.
pub(crate) const WAITING_PER_DEPTH: u32 = 16;
/// Threads for blocking jobs beside a ring; reads and writes do not need them.
const JOB_THREADS_MAX: u32 = 16;

thread_local! {
    static ON_QUEUE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Queue threads never wait for room: they are the ones who make it.
pub(crate) fn on_queue_thread() -> bool {
    ON_QUEUE_THREAD.get()
}

pub(crate) fn enter_queue_thread() {
    ON_QUEUE_THREAD.set(true);
}

/// A transfer that has been accepted, with all that its end needs.
pub(crate) struct Request {
    pub(crate) transfer: Transfer,
    pub(crate) completion: Completion,
}

/// What remains to be told of a request once its bytes are with the kernel.
pub(crate) struct Completion {
    pub(crate) priority: Priority,
    direction: Direction,
    offset: u64,
    len: usize,
    volume: Arc<Volume>,
    done: Done,
}

impl Completion {
    pub(crate) fn finish(self, outcome: io::Result<IoBuf>) {
        let Self { priority, direction, offset, len, volume, done } = self;
        let (verb, counters) = match direction {
            Direction::Read => ("read", volume.metrics().reads(priority)),
            Direction::Write => ("write", volume.metrics().writes(priority)),
        };
        counters.record(len, &outcome);
        let outcome = outcome.map_err(|source| Error::io(verb, offset, len, source));
        run_guarded(Box::new(move || done(outcome)));
    }
}

/// Runs foreign code; a panic in it ends that code, not the queue.
pub(crate) fn run_guarded(job: Job) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
        tracing::error!("a job on the IO queue panicked; the queue goes on");
    }
}

impl Request {
    /// Serves the request on the calling thread.
    pub(crate) fn run(self) {
        let Self { transfer: Transfer { direction, offset, len, mut buf }, completion } = self;
        let device = Arc::clone(completion.volume.device());
        let outcome = match direction {
            Direction::Read => device.read_at(offset, &mut buf[..len]),
            Direction::Write => device.write_at(offset, &buf[..len]),
        };
        completion.finish(outcome.map(|()| buf));
    }
}

/// A write for the queue: the first `len` bytes of `buf`, at `offset`; both in units of
/// [`IO_ALIGN`].
#[derive(Debug)]
pub struct BufWrite {
    /// Where on the volume.
    pub offset: u64,
    /// How much of the buffer.
    pub len: usize,
    /// The bytes, owned by the queue until the write has ended.
    pub buf: IoBuf,
}

/// Asynchronous IO with a bounded depth. Back-ends: `io_uring`, thread pool; the same semantics.
pub struct IoQueue {
    volume: Arc<Volume>,
    /// Drops (and drains) before `workers`, which its callbacks may use.
    reactor: Option<Reactor>,
    workers: Workers,
}

impl IoQueue {
    pub(crate) fn new(volume: Arc<Volume>, backend: IoBackend, depth: u32) -> Result<Self> {
        assert!(depth > 0, "checked by Options::validate");
        let reactor = match backend {
            IoBackend::Threads => None,
            IoBackend::Auto => match Reactor::new(&volume, depth) {
                Ok(reactor) => Some(reactor),
                Err(error) => {
                    tracing::debug!(%error, "io_uring is not available; using threads");
                    None
                }
            },
            IoBackend::Uring => Some(Reactor::new(&volume, depth).map_err(|error| {
                Error::Options(format!(
                    "io is uring, but io_uring is not available here ({error}); use auto or threads"
                ))
            })?),
        };
        let threads = if reactor.is_some() { depth.min(JOB_THREADS_MAX) } else { depth };
        Ok(Self { volume, reactor, workers: Workers::new(threads) })
    }

    /// Reads `len` bytes at `offset` into a buffer of its own; `done` gets it on a queue thread.
    /// Both are multiples of [`IO_ALIGN`]. The buffer is exactly `len` long.
    pub fn submit_read(&self, offset: u64, len: usize, priority: Priority, done: Done) {
        if len == 0 || !len.is_multiple_of(IO_ALIGN) {
            let text = format!("read of {len} bytes is not in units of {IO_ALIGN}");
            return done(Err(Error::Options(text)));
        }
        let buf = self.volume.bufs().take(len);
        let transfer = Transfer { direction: Direction::Read, offset, len, buf };
        self.submit(transfer, priority, done);
    }

    /// Writes; `done` gets the buffer back on a queue thread. Not durable before a flush that
    /// starts after `done`.
    pub fn submit_write(&self, write: BufWrite, priority: Priority, done: Done) {
        let BufWrite { offset, len, buf } = write;
        if let Err(error) = self.volume.check_writable() {
            return done(Err(error));
        }
        if len > buf.len() {
            let text = format!("write of {len} bytes from a buffer of {}", buf.len());
            return done(Err(Error::Options(text)));
        }
        let transfer = Transfer { direction: Direction::Write, offset, len, buf };
        self.submit(transfer, priority, done);
    }

    fn submit(&self, transfer: Transfer, priority: Priority, done: Done) {
        let Transfer { direction, offset, len, .. } = transfer;
        let volume = Arc::clone(&self.volume);
        let completion = Completion { priority, direction, offset, len, volume, done };
        let device_len = self.volume.device().geometry().len_bytes;
        if let Err(refused) = check_access(offset, len, device_len) {
            return completion.finish(Err(refused));
        }
        let request = Request { transfer, completion };
        match &self.reactor {
            Some(reactor) => reactor.submit(request),
            None => self.workers.push(priority, Box::new(move || request.run())),
        }
    }

    /// Runs `job` (which may block: page populate, several reads) on the queue's workers.
    pub fn run_blocking(&self, priority: Priority, job: Job) {
        self.workers.push(priority, job);
    }

    /// "uring" or "threads".
    pub fn backend(&self) -> &'static str {
        if self.reactor.is_some() { "uring" } else { "threads" }
    }
}
