//! Asynchronous IO with a bounded depth.
//!
//! Two back-ends with the same semantics, chosen when the pool opens: `io_uring`, where one reactor
//! thread owns the ring, and threads that call `pread` and `pwrite`. Requests start in the order of
//! their [`Priority`] (the rule is in `lanes`), at most `depth` at a time; a submitter waits while
//! too many are queued. Background requests are paced (`pacer`) before they are accepted, so what
//! is in the lanes may start. `done` runs on a queue thread and must be short: it holds up the next
//! completion. Dropping the queue runs what was accepted, then joins its threads.
//!
//! Cost per transfer: two allocations (the boxed callbacks) and no copy.

use super::{threads::Workers, uring::Reactor};
use crate::{
    device::check_access,
    error::{Error, Result},
    io::{
        request::{Completion, Done, Request},
        thread::Job,
        volumes::{Volume, Volumes},
    },
    media::Priority,
    metrics::histogram::Start,
    options::IoBackend,
    sys::uring::{Direction, Transfer},
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{io, sync::Arc};

/// Runs on a queue thread when an append has ended: where it went, and the buffer.
pub(crate) type AppendDone = Box<dyn FnOnce(Result<(u64, IoBuf)>) + Send>;

/// Threads for blocking jobs beside a ring; reads and writes do not need them.
const JOB_THREADS_MAX: u32 = 16;

/// What `Auto` means. Tests of files run twice, with `MILLPOND_TEST_IO` set to each back-end; a
/// ring that is asked for and not to be had is then an error instead of a second run on threads.
/// Release builds do not read the variable.
fn preferred(has_file: bool) -> Result<IoBackend> {
    if !cfg!(debug_assertions) {
        return Ok(IoBackend::Auto);
    }
    match std::env::var("MILLPOND_TEST_IO").as_deref() {
        Ok("threads") => Ok(IoBackend::Threads),
        Ok("uring") if has_file => Ok(IoBackend::Uring),
        Err(_) | Ok("" | "uring") => Ok(IoBackend::Auto),
        Ok(other) => {
            let text = format!("MILLPOND_TEST_IO is {other}, must be uring or threads");
            Err(Error::Options(text))
        }
    }
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "no volume has a file")
}

/// A write for the queue: the first `len` bytes of `buf`, at pool address `offset`; both in units
/// of [`IO_ALIGN`].
#[derive(Debug)]
pub struct BufWrite {
    /// Where: a pool address, which on the root volume is the plain offset.
    pub offset: u64,
    /// How much of the buffer.
    pub len: usize,
    /// The bytes, owned by the queue until the write has ended.
    pub buf: IoBuf,
}

/// Asynchronous IO with a bounded depth. Back-ends: `io_uring`, thread pool; the same semantics.
pub struct IoQueue {
    volumes: Arc<Volumes>,
    /// Drops (and drains) before `workers`, which its callbacks may use.
    reactor: Option<Reactor>,
    workers: Workers,
}

impl IoQueue {
    pub(crate) fn new(volumes: Arc<Volumes>, backend: IoBackend, depth: u32) -> Result<Self> {
        assert!(depth > 0, "checked by Options::validate");
        let has_file = volumes.all().iter().any(|volume| volume.device().file().is_some());
        let start = || if has_file { Reactor::new(depth) } else { Err(no_file()) };
        let backend = if backend == IoBackend::Auto { preferred(has_file)? } else { backend };
        let reactor = match backend {
            IoBackend::Threads => None,
            IoBackend::Auto => match start() {
                Ok(reactor) => Some(reactor),
                Err(error) => {
                    tracing::debug!(%error, "io_uring is not available; using threads");
                    None
                }
            },
            IoBackend::Uring => Some(start().map_err(|error| {
                Error::Options(format!(
                    "io is uring, but io_uring is not available here ({error}); use auto or threads"
                ))
            })?),
        };
        let threads = if reactor.is_some() { depth.min(JOB_THREADS_MAX) } else { depth };
        Ok(Self { volumes, reactor, workers: Workers::new(threads) })
    }

    /// Reads `len` bytes at pool address `offset` into a buffer of its own; `done` gets it on a
    /// queue thread.
    /// Both are multiples of [`IO_ALIGN`]. The buffer is exactly `len` long.
    pub fn submit_read(&self, offset: u64, len: usize, priority: Priority, done: Done) {
        if len == 0 || !len.is_multiple_of(IO_ALIGN) {
            let text = format!("read of {len} bytes is not in units of {IO_ALIGN}");
            return done(Err(Error::Options(text)));
        }
        let buf = self.volumes.bufs().take(len);
        self.submit(Direction::Read, BufWrite { offset, len, buf }, priority, done);
    }

    /// Writes; `done` gets the buffer back on a queue thread. Not durable before a flush that
    /// starts after `done`.
    pub fn submit_write(&self, write: BufWrite, priority: Priority, done: Done) {
        if let Err(error) = self.volumes.check_writable() {
            return done(Err(error));
        }
        if write.len > write.buf.len() {
            let text = format!("write of {} bytes from a buffer of {}", write.len, write.buf.len());
            return done(Err(Error::Options(text)));
        }
        self.submit(Direction::Write, write, priority, done);
    }

    /// Appends the first `len` bytes of a buffer to a zone of `volume`; `done` gets the byte offset
    /// on the volume where the drive put them, and the buffer, on a queue thread. Not durable
    /// before a flush that starts after `done`.
    pub(crate) fn submit_append(
        &self,
        (volume, zone): (&Arc<Volume>, u32),
        (buf, len): (IoBuf, usize),
        priority: Priority,
        done: AppendDone,
    ) {
        if let Err(error) = self.volumes.check_writable() {
            return done(Err(error));
        }
        let (target, volumes) = (Arc::clone(volume), Arc::clone(&self.volumes));
        let ticket = volumes.pacer().enter(priority, len);
        let start = Start::now();
        let ended = move |outcome: io::Result<(u64, IoBuf)>| {
            drop(ticket);
            volumes.metrics().writes(priority).record(start, len, &outcome);
            target.wrote();
            let address = target.id().address(0);
            done(outcome.map_err(|source| Error::io("append", address, len, source)));
        };
        if let Some(ring) = volume.appends() {
            return ring.submit(zone, buf, len, Box::new(ended));
        }
        let volume = Arc::clone(volume);
        let job = move || {
            let zones = volume.device().zones().expect("appends go to zoned volumes");
            let outcome = zones.append(zone, &buf[..len]);
            ended(outcome.map(|offset| (offset, buf)));
        };
        self.workers.push(priority, Box::new(job));
    }

    fn submit(&self, direction: Direction, bytes: BufWrite, priority: Priority, done: Done) {
        let BufWrite { offset: address, len, buf } = bytes;
        let volumes = Arc::clone(&self.volumes);
        let routed = self.volumes.route(address).and_then(|(volume, offset)| {
            check_access(offset, len, volume.device().geometry().len_bytes)?;
            Ok((volume, offset))
        });
        let (volume, offset) = match routed {
            Ok(place) => place,
            Err(refused) => {
                let (volume, ticket, start) = (None, None, Start::now());
                let completion = Completion {
                    priority,
                    start,
                    direction,
                    address,
                    len,
                    volumes,
                    volume,
                    ticket,
                    done,
                };
                return completion.finish(Err(refused));
            }
        };
        let device = Arc::clone(volume.device());
        let by_ring = device.file().is_some();
        let transfer = Transfer { device, direction, offset, len, buf };
        let volume = Some(volume);
        let ticket = Some(volumes.pacer().enter(priority, len));
        let start = Start::now();
        let completion =
            Completion { priority, start, direction, address, len, volumes, volume, ticket, done };
        let request = Request { transfer, completion };
        match &self.reactor {
            Some(reactor) if by_ring => reactor.submit(request),
            _ => self.workers.push(priority, Box::new(move || request.run())),
        }
    }

    /// Runs `job` (which may block: page populate, several reads) on the queue's workers.
    pub fn run_blocking(&self, priority: Priority, job: Job) {
        self.workers.push(priority, job);
    }

    /// Lifts the bounds that [`crate::PacingOptions`] sets to background requests, or sets them
    /// again: for an owner whose debt (of compaction, say) has grown so that it must hold up its
    /// writers otherwise.
    pub fn hurry(&self, hurry: bool) {
        self.volumes.pacer().hurry(hurry);
    }

    /// Takes the ring away from under the reactor.
    #[cfg(test)]
    pub(crate) fn break_ring(&self) {
        self.reactor.as_ref().expect("the back-end is a ring").break_ring();
    }

    /// "uring" or "threads".
    pub fn backend(&self) -> &'static str {
        if self.reactor.is_some() { "uring" } else { "threads" }
    }
}
