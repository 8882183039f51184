//! Writing an mblock.
//!
//! Appends fill a buffer of up to 1 MiB (less for background writes: `pacer`); a full one goes to
//! the queue while the next is filled, with a bounded number of bytes in flight. On a conventional
//! volume its place is known beforehand; in zones the drive says where each append went. A failed
//! write is remembered and returned by the next append, or by the commit at the latest. Dropping
//! the writer frees its room, but not before the last write to it has ended: every request in
//! flight holds it.
//!
//! Cost: one copy and one checksum of each byte, one write per MiB, no system call on the appending
//! thread (except where a zone must be reset first).

use super::Mblock;
use crate::{
    address::Extent,
    error::{Error, Result},
    id::MblockId,
    io::{
        queue::{BufWrite, IoQueue},
        volumes::Volumes,
    },
    media::Priority,
    object::{mblock::MblockPlace, mcache::Mcache, sums},
    space::{Lease, Room, grant::ZoneGrant, layout::Layout},
};
use mpool_device::{IO_ALIGN, IoBuf};
use parking_lot::{Condvar, Mutex};
use std::{io, sync::Arc};

/// One write at most: larger ones gain nothing, smaller ones cost more calls.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes a writer may have in flight: enough to keep a drive busy while the next chunk is filled.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// Where the bytes go.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) volumes: Arc<Volumes>,
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
    target: Target,
    capacity_bytes: u64,
    chunk_bytes: usize,
    /// Accepted by `append`.
    len_bytes: u64,
    /// Given to the queue.
    submitted_bytes: u64,
    chunk: Option<IoBuf>,
    /// Of the pages given to the queue.
    sums: Vec<u32>,
    /// CRC of the table of checksums, once it is written: nothing can be appended any more.
    sealed: Option<u32>,
}

/// How the place of a chunk is found.
enum Target {
    /// All places are known.
    Places(Layout),
    Zones(ZoneGrant),
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a write ends.
    ended: Condvar,
}

struct State {
    /// What the object has so far, each with its place within the object. Dropped with the last
    /// request unless the commit takes it.
    pieces: Vec<(u64, Lease)>,
    in_flight_bytes: usize,
    failed: Option<Failure>,
}

/// The first write that failed; enough of it to report it more than once.
#[derive(Clone, Debug)]
struct Failure {
    address: u64,
    len: u64,
    kind: io::ErrorKind,
    text: String,
}

/// A written mblock on its way to being committed.
pub(crate) struct Finished {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    /// Covers the data, padded, and the table of checksums.
    pub(crate) lease: Lease,
    /// CRC of the table.
    pub(crate) sums_crc: u32,
}

impl Finished {
    /// The mblock, which a record names from here on.
    pub(crate) fn into_mblock(self, volumes: &Arc<Volumes>, mcache: &Arc<Mcache>) -> Mblock {
        let Self { id, len_bytes, lease, sums_crc } = self;
        Mblock::new((id, len_bytes, Some(sums_crc)), lease, volumes, mcache)
    }

    /// Where it lies.
    pub(crate) fn placed(&self) -> (MblockId, MblockPlace) {
        let (extents, len_bytes) = (self.lease.extents().to_vec(), self.len_bytes);
        let place = MblockPlace { extents, len_bytes, sums_crc: Some(self.sums_crc) };
        (self.id, place)
    }
}

impl MblockWriter {
    pub(crate) fn new(id: MblockId, mut capacity_bytes: u64, room: Room, sink: Sink) -> Self {
        let chunk_max = sink.volumes.pacer().chunk_bytes(sink.priority).min(CHUNK_BYTES);
        let (target, pieces, chunk_bytes) = match room {
            Room::Places(lease) => {
                let fits = sums::data_len_max(lease.len());
                assert!(capacity_bytes <= fits, "the lease covers it");
                capacity_bytes = fits;
                (Target::Places(Layout::new(lease.extents())), vec![(0, lease)], chunk_max)
            }
            Room::Zones(grant) => {
                assert!(sums::total_len(capacity_bytes) <= grant.left(), "the promise covers it");
                let chunk_bytes = grant.append_bytes_max().min(chunk_max) / IO_ALIGN * IO_ALIGN;
                (Target::Zones(grant), Vec::new(), chunk_bytes)
            }
        };
        let state = State { pieces, in_flight_bytes: 0, failed: None };
        Self {
            id,
            sink,
            shared: Arc::new(Shared { state: Mutex::new(state), ended: Condvar::new() }),
            target,
            capacity_bytes,
            chunk_bytes,
            len_bytes: 0,
            submitted_bytes: 0,
            chunk: None,
            sums: Vec::new(),
            sealed: None,
        }
    }

    /// The id it will have once it is committed; no other object ever gets it.
    pub fn id(&self) -> MblockId {
        self.id
    }

    /// Refuses the writer where `here` is another pool.
    pub(crate) fn check_owner(&self, here: &Arc<Volumes>) -> Result<()> {
        self.sink.volumes.check_owner(here, || format!("a writer of {}", self.id))
    }

    /// Bytes appended so far.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Bytes it can hold: at least what was asked for.
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
            let bufs = self.sink.volumes.bufs();
            let chunk = self.chunk.get_or_insert_with(|| bufs.take(self.chunk_bytes));
            let (now, later) = rest.split_at(rest.len().min(self.chunk_bytes - filled));
            chunk[filled..filled + now.len()].copy_from_slice(now);
            self.len_bytes += now.len() as u64;
            rest = later;
            if filled + now.len() == self.chunk_bytes {
                self.submit_chunk()?;
            }
        }
        Ok(())
    }

    /// Takes no more appends: sends off what is buffered and the checksums, and gives back the room
    /// that was not used, so that a finished writer that waits for its commit holds neither memory
    /// nor space it does not need.
    pub fn seal(&mut self) -> Result<()> {
        self.sealed().map(|_| ())
    }

    /// As `seal`; returns the CRC of the table of checksums.
    fn sealed(&mut self) -> Result<u32> {
        if let Some(crc) = self.sealed {
            return Ok(crc);
        }
        self.submit_chunk()?;
        self.capacity_bytes = self.len_bytes;
        let crc = self.submit_table()?;
        match &mut self.target {
            Target::Places(_) => {
                let mut state = self.shared.state.lock();
                state.pieces[0].1.trim(sums::total_len(self.len_bytes));
            }
            Target::Zones(grant) => grant.trim(0),
        }
        self.sealed = Some(crc);
        Ok(crc)
    }

    /// Writes what is left, waits for all writes, and gives up the lease. Not durable before the
    /// next flush.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        // A failure is looked at below, when nothing is in flight any more.
        let sealed = self.sealed();
        let mut state = self.shared.state.lock();
        while state.in_flight_bytes > 0 {
            self.shared.ended.wait(&mut state);
        }
        // Taken in either case: nothing is in flight, so a failed writer's room is free at once.
        let mut pieces = std::mem::take(&mut state.pieces);
        if let Some(failure) = &state.failed {
            return Err(failure.to_error());
        }
        drop(state);
        let sums_crc = sealed?;
        pieces.sort_by_key(|(at, _)| *at);
        let lease = Lease::join(pieces.into_iter().map(|(_, lease)| lease));
        Ok(Finished { id: self.id, len_bytes: self.len_bytes, lease, sums_crc })
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
        sums::push(&chunk[..len], &mut self.sums);
        let at = self.submitted_bytes;
        self.submitted_bytes = self.len_bytes;
        self.submit(at, chunk, len)
    }

    /// Writes the table behind the data and returns its CRC.
    fn submit_table(&mut self) -> Result<u32> {
        // An empty object takes a page, because every object has a place.
        let len = sums::total_len(self.len_bytes) - sums::padded_len(self.len_bytes);
        let mut table = vec![0; usize::try_from(len).expect("a thousandth of an object")];
        sums::encode(&self.sums, &mut table);
        let mut at = sums::padded_len(self.len_bytes);
        for piece in table.chunks(self.chunk_bytes) {
            let mut buf = self.sink.volumes.bufs().take(self.chunk_bytes);
            buf[..piece.len()].copy_from_slice(piece);
            self.submit(at, buf, piece.len())?;
            at += piece.len() as u64;
        }
        Ok(crc32c::crc32c(&table))
    }

    /// Sends `len` bytes, whole pages, to byte `at` of the object.
    fn submit(&mut self, at: u64, buf: IoBuf, len: usize) -> Result<()> {
        match &mut self.target {
            Target::Places(layout) => {
                let range = at..at + len as u64;
                if let Some(offset) = layout.address_of(&range) {
                    self.write(BufWrite { offset, len, buf });
                } else {
                    let parts: Vec<Extent> = layout.parts(range).collect();
                    self.write_parts(&parts, buf);
                }
            }
            Target::Zones(_) => self.append_to_zones(at, buf, len)?,
        }
        self.check_failed()
    }

    /// What lies across the end of a piece: each part goes from a buffer of its own.
    fn write_parts(&self, parts: &[Extent], buf: IoBuf) {
        let bufs = self.sink.volumes.bufs();
        let mut at = 0;
        for part in parts {
            let len = usize::try_from(part.len).expect("at most a chunk");
            let mut own = bufs.take(self.chunk_bytes);
            own[..len].copy_from_slice(&buf[at..at + len]);
            self.write(BufWrite { offset: part.offset, len, buf: own });
            at += len;
        }
        bufs.put(buf);
    }

    fn write(&self, write: BufWrite) {
        let (address, len) = (write.offset, write.len);
        let in_flight = InFlight::begin(&self.shared, address, len);
        let volumes = Arc::clone(&self.sink.volumes);
        let done = Box::new(move |outcome: Result<IoBuf>| {
            let outcome = outcome.map(|buf| volumes.bufs().put(buf));
            in_flight.ended(outcome.map_err(|error| Failure::new(address, len, &error)));
        });
        self.sink.queue.submit_write(write, self.sink.priority, done);
    }

    fn append_to_zones(&mut self, at: u64, mut buf: IoBuf, len: usize) -> Result<()> {
        let Target::Zones(grant) = &mut self.target else { unreachable!("asked by submit") };
        let mut done = 0;
        while done < len {
            let append = match grant.take((len - done) as u64) {
                Ok(append) => append,
                Err(error) => {
                    // A part of the chunk may be on its way: the object has a hole.
                    let failure = Failure::new(grant.space().id().address(0), len, &error);
                    self.shared.state.lock().failed.get_or_insert(failure);
                    return Err(error);
                }
            };
            let now = usize::try_from(append.len).expect("at most a chunk");
            // The end of a zone splits a chunk; each append owns its bytes.
            let rest = (done + now < len).then(|| {
                let mut rest = self.sink.volumes.bufs().take(self.chunk_bytes);
                rest[..len - done - now].copy_from_slice(&buf[now..len - done]);
                rest
            });
            let (place, volume) = (at + done as u64, grant.space().volume());
            let (zone, address) = (append.zone, volume.id().address(0));
            let in_flight = InFlight::begin(&self.shared, address, now);
            let volumes = Arc::clone(&self.sink.volumes);
            let ended = Box::new(move |outcome: Result<(u64, IoBuf)>| {
                let outcome = match outcome {
                    Ok((offset, buf)) => {
                        volumes.bufs().put(buf);
                        let lease = append.ended(Some(offset)).expect("it has a place");
                        in_flight.shared.state.lock().pieces.push((place, lease));
                        Ok(())
                    }
                    Err(error) => {
                        append.ended(None);
                        Err(Failure::new(address, now, &error))
                    }
                };
                in_flight.ended(outcome);
            });
            let priority = self.sink.priority;
            self.sink.queue.submit_append((volume, zone), (buf, now), priority, ended);
            let Some(rest) = rest else { break };
            buf = rest;
            done += now;
        }
        Ok(())
    }
}

/// A write on its way. It ends when this is dropped, and has failed unless somebody said otherwise:
/// whoever waits for it is told, also if its callback panics or never runs.
struct InFlight {
    shared: Arc<Shared>,
    len: usize,
    outcome: Result<(), Failure>,
}

impl InFlight {
    /// Waits until so much more may be on its way.
    fn begin(shared: &Arc<Shared>, address: u64, len: usize) -> Self {
        shared.wait_for_room(len);
        let text = "it ended in a fault of this program, which the log tells".to_owned();
        let kind = io::ErrorKind::Other;
        let untold = Failure { address, len: len as u64, kind, text };
        Self { shared: Arc::clone(shared), len, outcome: Err(untold) }
    }

    fn ended(mut self, outcome: Result<(), Failure>) {
        self.outcome = outcome;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        self.shared.ended(self.len, outcome);
    }
}

impl Shared {
    fn wait_for_room(&self, len: usize) {
        let mut state = self.state.lock();
        while state.in_flight_bytes > 0 && state.in_flight_bytes + len > IN_FLIGHT_BYTES_MAX {
            self.ended.wait(&mut state);
        }
        state.in_flight_bytes += len;
    }

    fn ended(&self, len: usize, outcome: Result<(), Failure>) {
        let mut state = self.state.lock();
        state.in_flight_bytes -= len;
        if let (Err(failure), None) = (outcome, &state.failed) {
            state.failed = Some(failure);
        }
        drop(state);
        self.ended.notify_all();
    }
}

impl Drop for MblockWriter {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.sink.volumes.bufs().put(chunk);
        }
        let mut state = self.shared.state.lock();
        // With requests in flight the last of them frees the room.
        let unused =
            if state.in_flight_bytes == 0 { std::mem::take(&mut state.pieces) } else { Vec::new() };
        drop(state);
        drop(unused);
    }
}

impl Failure {
    fn new(address: u64, len: usize, error: &Error) -> Self {
        let (kind, text) = match error {
            Error::Io { source, .. } => (source.kind(), source.to_string()),
            other => (io::ErrorKind::Other, other.to_string()),
        };
        Self { address, len: len as u64, kind, text }
    }

    fn to_error(&self) -> Error {
        let source = io::Error::new(self.kind, self.text.clone());
        Error::Io { op: "write", offset: self.address, len: self.len, source }
    }
}
