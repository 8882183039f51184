//! Writing an mblock.
//!
//! Appends fill a buffer of 1 MiB; a full one goes to the queue while the next is filled, with a
//! bounded number of bytes in flight. A failed write is remembered and returned by the next append,
//! or by the commit at the latest. Dropping the writer frees the extent, but not before the last
//! write to it has ended: every request in flight holds the lease.
//!
//! Cost: one copy of each byte, one write per MiB, no system call on the appending thread.

use crate::{
    error::{Error, Result},
    id::MblockId,
    io::{
        buf::{IO_ALIGN, IoBuf},
        queue::{BufWrite, IoQueue, Priority},
    },
    space::Lease,
    volume::Volume,
};
use parking_lot::{Condvar, Mutex};
use std::{io, sync::Arc};

/// One write: larger ones gain nothing, smaller ones cost more calls.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes a writer may have in flight: enough to keep a drive busy while the next chunk is filled.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// Where the bytes go.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) volume: Arc<Volume>,
    pub(crate) queue: Arc<IoQueue>,
    pub(crate) priority: Priority,
}

/// An mblock being written. Commit it with [`crate::Pool::commit`]; dropped before that, it leaves
/// nothing behind.
#[must_use = "dropping a writer discards what was written"]
pub struct MblockWriter {
    id: MblockId,
    sink: Sink,
    shared: Arc<Shared>,
    extent_offset: u64,
    capacity_bytes: u64,
    /// Accepted by `append`.
    len_bytes: u64,
    /// Given to the queue.
    submitted_bytes: u64,
    chunk: Option<IoBuf>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a write ends.
    ended: Condvar,
}

struct State {
    /// Taken by the commit; dropped with the last request otherwise.
    lease: Option<Lease>,
    in_flight_bytes: usize,
    failed: Option<Failure>,
}

/// The first write that failed; enough of it to report it more than once.
#[derive(Clone, Debug)]
struct Failure {
    offset: u64,
    len: u64,
    kind: io::ErrorKind,
    text: String,
}

/// A written mblock on its way to being committed.
pub(crate) struct Finished {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    pub(crate) lease: Lease,
}

impl MblockWriter {
    pub(crate) fn new(id: MblockId, capacity_bytes: u64, lease: Lease, sink: Sink) -> Self {
        let extent = lease.extent();
        assert!(capacity_bytes <= extent.len, "the lease covers the capacity");
        let state = State { lease: Some(lease), in_flight_bytes: 0, failed: None };
        Self {
            id,
            sink,
            shared: Arc::new(Shared { state: Mutex::new(state), ended: Condvar::new() }),
            extent_offset: extent.offset,
            capacity_bytes: extent.len,
            len_bytes: 0,
            submitted_bytes: 0,
            chunk: None,
        }
    }

    /// The id it will have once it is committed; no other object ever gets it.
    pub fn id(&self) -> MblockId {
        self.id
    }

    /// Bytes appended so far.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Bytes it can hold: what was asked for, rounded up to the allocation unit.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Appends; buffered into large aligned direct writes that go through the queue (bounded in
    /// flight, so this may wait for the drive). Also reports an earlier write that failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_failed()?;
        let len = bytes.len() as u64;
        if len > self.capacity_bytes - self.len_bytes {
            let Self { id, len_bytes, capacity_bytes, .. } = self;
            let text = format!(
                "append of {len} bytes to {id}: it holds {len_bytes} of at most {capacity_bytes}"
            );
            return Err(Error::Options(text));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let filled = usize::try_from(self.len_bytes - self.submitted_bytes).expect("a chunk");
            let chunk = self.chunk.get_or_insert_with(|| self.sink.volume.bufs().take(CHUNK_BYTES));
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - filled));
            chunk[filled..filled + now.len()].copy_from_slice(now);
            self.len_bytes += now.len() as u64;
            rest = later;
            if filled + now.len() == CHUNK_BYTES {
                self.submit_chunk()?;
            }
        }
        Ok(())
    }

    /// Takes no more appends: sends off what is buffered and gives the unused end of the extent
    /// back, so that a finished writer that waits for its commit holds neither memory nor space it
    /// does not need.
    pub fn seal(&mut self) -> Result<()> {
        self.submit_chunk()?;
        let mut state = self.shared.state.lock();
        let lease = state.lease.as_mut().expect("only the commit takes it");
        lease.trim(self.len_bytes);
        self.capacity_bytes = self.len_bytes;
        Ok(())
    }

    /// Writes what is left, waits for all writes, and gives up the lease. Not durable before the
    /// next flush.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        self.submit_chunk()?;
        let mut state = self.shared.state.lock();
        while state.in_flight_bytes > 0 {
            self.shared.ended.wait(&mut state);
        }
        // Taken in either case: nothing is in flight, so a failed writer's extent is free at once.
        let lease = state.lease.take().expect("a writer is finished once");
        if let Some(failure) = &state.failed {
            return Err(failure.to_error());
        }
        Ok(Finished { id: self.id, len_bytes: self.len_bytes, lease })
    }

    fn check_failed(&self) -> Result<()> {
        match &self.shared.state.lock().failed {
            Some(failure) => Err(failure.to_error()),
            None => Ok(()),
        }
    }

    fn submit_chunk(&mut self) -> Result<()> {
        let Some(mut chunk) = self.chunk.take() else { return Ok(()) };
        let filled = usize::try_from(self.len_bytes - self.submitted_bytes).expect("a chunk");
        let len = filled.next_multiple_of(IO_ALIGN);
        chunk[filled..len].fill(0);
        {
            let mut state = self.shared.state.lock();
            while state.in_flight_bytes + len > IN_FLIGHT_BYTES_MAX {
                self.shared.ended.wait(&mut state);
            }
            state.in_flight_bytes += len;
        }
        let offset = self.extent_offset + self.submitted_bytes;
        self.submitted_bytes = self.len_bytes;
        let (shared, volume) = (Arc::clone(&self.shared), Arc::clone(&self.sink.volume));
        let done = Box::new(move |outcome: Result<IoBuf>| {
            let failed = match outcome {
                Ok(buf) => {
                    volume.bufs().put(buf);
                    None
                }
                Err(error) => Some(Failure::new(offset, len, &error)),
            };
            let mut state = shared.state.lock();
            state.in_flight_bytes -= len;
            if state.failed.is_none() {
                state.failed = failed;
            }
            drop(state);
            shared.ended.notify_all();
        });
        let write = BufWrite { offset, len, buf: chunk };
        self.sink.queue.submit_write(write, self.sink.priority, done);
        self.check_failed()
    }
}

impl Drop for MblockWriter {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.sink.volume.bufs().put(chunk);
        }
        let mut state = self.shared.state.lock();
        // With requests in flight the last of them frees the extent.
        let unused = if state.in_flight_bytes == 0 { state.lease.take() } else { None };
        drop(state);
        drop(unused);
    }
}

impl Failure {
    fn new(offset: u64, len: usize, error: &Error) -> Self {
        let (kind, text) = match error {
            Error::Io { source, .. } => (source.kind(), source.to_string()),
            other => (io::ErrorKind::Other, other.to_string()),
        };
        Self { offset, len: len as u64, kind, text }
    }

    fn to_error(&self) -> Error {
        let source = io::Error::new(self.kind, self.text.clone());
        Error::Io { op: "write", offset: self.offset, len: self.len, source }
    }
}
