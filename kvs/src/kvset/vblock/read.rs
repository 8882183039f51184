//! Values read past the cache, ahead of a cursor.
//!
//! A cursor meets values in key order, and so, in each vblock, mostly in the order they lie in: a
//! flush writes them so, and compaction keeps the order. The reader follows one stream a vblock. A
//! record that continues its stream is read with the chunk it begins (or, going backward, ends);
//! any other alone.
//!
//! What a reader holds is bounded, so the more vblocks a kvset refers to, the shorter are the
//! chunks ([`Budget`]). A stream that is given up for another costs a chunk each time it comes
//! back, which is why even many streams are kept, with short chunks, rather than few with long
//! ones.
//!
//! A compaction reads everything, so its chunks are long from the start. A user's cursor may stop
//! soon, so its chunks start short and double; once they are as long as they get, the next one is
//! ordered before the present one is used up, so that the drive works while the scan does
//! ([`ahead`](super::ahead)). Chunks overlap by a few pages, for the record that lies across their
//! edge.

use super::ahead::{Coming, Lease, ScanAhead};
use super::format::{record_range, record_value};
use crate::entry::version::ValuePtr;
use crate::error::{Error, Result};
use crate::kvset::corrupt;
use crate::metrics::Counter;
use bytes::Bytes;
use mpool::{IO_ALIGN, IoBuf, IoQueue, Mblock, Priority};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Most and fewest bytes in a chunk of a stream that has been followed for a while.
const CHUNK_BYTES_MAX: u64 = 256 << 10;
const CHUNK_BYTES_MIN: u64 = 16 << 10;
/// Most bytes in the chunks of one reader.
pub(super) const HELD_BYTES_USER: u64 = 4 << 20;
const HELD_BYTES_COMPACTION: u64 = 8 << 20;
/// Unreferenced bytes that a stream may skip and still be one: reading them is cheaper than another
/// request.
const GAP_BYTES: u64 = 64 << 10;
const ALIGN: u64 = IO_ALIGN as u64;

/// Bytes of a vblock.
struct Chunk {
    start: u64,
    buf: IoBuf,
    /// Of a user's scan.
    _lease: Option<Lease>,
}

impl Chunk {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.buf.len() as u64
    }
}

struct Stream {
    /// The record read last.
    last: Range<u64>,
    /// `None` until a read succeeds.
    chunk: Option<Chunk>,
    /// The chunk after it.
    coming: Option<Coming>,
    chunk_bytes: u64,
    used_at: u64,
    /// Read from the drive and not counted yet.
    read_bytes: u64,
}

/// What a stream needs to read.
#[derive(Clone, Copy)]
struct Source<'a> {
    object: &'a Mblock,
    priority: Priority,
    budget: Budget,
    ahead: Option<(&'a Arc<ScanAhead>, &'a Arc<IoQueue>)>,
}

/// What the streams of a reader may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    /// Of a young stream, and of one that has been followed for a while.
    chunk_bytes_first: u64,
    chunk_bytes_max: u64,
    streams_max: usize,
}

impl Budget {
    /// For values that lie in so many vblocks.
    fn new(priority: Priority, vblocks: usize) -> Self {
        let is_compaction = matches!(priority, Priority::Compaction);
        let held = if is_compaction { HELD_BYTES_COMPACTION } else { HELD_BYTES_USER };
        let share = held / (vblocks.max(1) as u64) / ALIGN * ALIGN;
        let chunk_bytes_max = share.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let chunk_bytes_first = if is_compaction { chunk_bytes_max } else { CHUNK_BYTES_MIN };
        let streams_max = usize::try_from(held / chunk_bytes_max).unwrap_or(usize::MAX);
        Self { chunk_bytes_first, chunk_bytes_max, streams_max }
    }
}

/// Reads values of one kvset.
pub(crate) struct ValueReader {
    /// By vblock.
    streams: HashMap<u32, Stream>,
    uses: u64,
    priority: Priority,
    budget: Budget,
    ahead: Option<(Arc<ScanAhead>, Arc<IoQueue>)>,
    /// Counts what is read.
    read_bytes: Option<Arc<Counter>>,
}

impl ValueReader {
    /// A reader for values in so many vblocks, whose requests have this priority; above
    /// `Compaction`, its chunks start short.
    pub(crate) fn new(priority: Priority, vblocks: usize) -> Self {
        let budget = Budget::new(priority, vblocks);
        Self { streams: HashMap::new(), uses: 0, priority, budget, ahead: None, read_bytes: None }
    }

    /// A reader for a user's scan, which orders chunks ahead from `queue`.
    pub(crate) fn with_ahead(self, ahead: &Arc<ScanAhead>, queue: &Arc<IoQueue>) -> Self {
        Self { ahead: Some((Arc::clone(ahead), Arc::clone(queue))), ..self }
    }

    /// Counts from here on the bytes that it reads from the drive.
    pub(crate) fn count(&mut self, read_bytes: Arc<Counter>) {
        self.read_bytes = Some(read_bytes);
    }

    /// What it counts with.
    pub(crate) fn counter(&self) -> Option<&Counter> {
        self.read_bytes.as_deref()
    }

    /// Whether the record at `ptr` was read ahead or continues a stream.
    pub(crate) fn follows(&self, object: &Mblock, ptr: ValuePtr) -> bool {
        let Ok(record) = record_range(ptr, object.len_bytes()) else { return false };
        self.streams.get(&ptr.vblock).is_some_and(|stream| {
            stream.holds(&record) || continues(&stream.last, &record).is_some()
        })
    }

    /// What to read into the map for the record at `ptr`, and what after that, if values are read
    /// there and the record continues a stream: one that has been followed for a while, or any once
    /// the scan has shown to be long.
    pub(crate) fn to_admit(
        &self,
        object: &Mblock,
        ptr: ValuePtr,
    ) -> Option<(Range<u64>, Range<u64>)> {
        let len_bytes = object.len_bytes();
        let record = record_range(ptr, len_bytes).ok()?;
        let stream = self.streams.get(&ptr.vblock)?;
        let ahead = &self.ahead.as_ref()?.0;
        let is_steady = stream.chunk_bytes == self.budget.chunk_bytes_max;
        let way = continues(&stream.last, &record)?;
        if stream.holds(&record) || !(ahead.is_admitting() || (is_steady && ahead.admits())) {
            return None;
        }
        let part = what_to_read(Some(way), &record, len_bytes, CHUNK_BYTES_MAX);
        let part = part.start..part.end.min(len_bytes);
        let next = next_chunk(way, &part, (len_bytes, CHUNK_BYTES_MAX), 0);
        Some((part, next.start.min(len_bytes)..next.end.min(len_bytes)))
    }

    /// The record at `ptr` was found in the map, with the rest of `part`: the stream goes on behind
    /// that.
    pub(crate) fn admitted(&mut self, object: &Mblock, ptr: ValuePtr, part: &Range<u64>) {
        let Ok(record) = record_range(ptr, object.len_bytes()) else { return };
        let overlap = overlap_of(&record).min(part.end - part.start);
        let stream = self.stream(ptr.vblock);
        stream.last = match continues(&stream.last, &record) {
            Some(Way::Backward) => part.start + overlap..part.end,
            _ => part.start..part.end - overlap,
        };
    }

    /// The map has no room, or there is none.
    pub(crate) fn admit_no_more(&self) {
        if let Some((ahead, _)) = &self.ahead {
            ahead.admit_no_more();
        }
    }

    /// The record at `ptr` was read by other means.
    pub(crate) fn passed(&mut self, object: &Mblock, ptr: ValuePtr) {
        if let Ok(record) = record_range(ptr, object.len_bytes()) {
            self.stream(ptr.vblock).last = record;
        }
    }

    /// The value at `ptr`, whose vblock is `object`.
    pub(crate) fn read(&mut self, object: &Mblock, ptr: ValuePtr) -> Result<Bytes> {
        let bad = |reason| record_corrupt(object, ptr, reason);
        let record = record_range(ptr, object.len_bytes()).map_err(bad)?;
        let (priority, budget, ahead) = (self.priority, self.budget, self.ahead.take());
        let source =
            Source { object, priority, budget, ahead: ahead.as_ref().map(|(a, q)| (a, q)) };
        let stream = self.stream(ptr.vblock);
        let filled = stream.fill(source, &record);
        self.ahead = ahead;
        filled?;
        let stream = self.stream(ptr.vblock);
        let bytes = stream.bytes(&record);
        let value = record_value(object.id(), ptr.offset, bytes).map_err(bad)?;
        let value = Bytes::copy_from_slice(value);
        stream.last = record;
        stream.let_go(budget);
        let read = std::mem::take(&mut stream.read_bytes);
        if let Some(read_bytes) = &self.read_bytes {
            read_bytes.add(read);
        }
        Ok(value)
    }

    /// The stream of a vblock; a new one replaces the one used longest ago.
    fn stream(&mut self, vblock: u32) -> &mut Stream {
        self.uses += 1;
        let is_new = !self.streams.contains_key(&vblock);
        if is_new && self.streams.len() >= self.budget.streams_max {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.used_at);
            let oldest = *oldest.expect("there are streams").0;
            self.streams.remove(&oldest);
        }
        let chunk_bytes = self.budget.chunk_bytes_first;
        let stream = self.streams.entry(vblock).or_insert(Stream {
            last: 0..0,
            chunk: None,
            coming: None,
            chunk_bytes,
            used_at: 0,
            read_bytes: 0,
        });
        stream.used_at = self.uses;
        stream
    }
}

impl Stream {
    fn holds(&self, record: &Range<u64>) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| covers(&chunk.range(), record))
    }

    /// The bytes of a record that the chunk holds.
    fn bytes(&self, record: &Range<u64>) -> &[u8] {
        let chunk = self.chunk.as_ref().expect("it was filled");
        let at = usize::try_from(record.start - chunk.start).expect("inside a chunk");
        let len = usize::try_from(record.end - record.start).expect("inside a chunk");
        &chunk.buf[at..at + len]
    }

    /// Makes the chunk hold a record: by what is on its way, or by a read of it with what is around
    /// it.
    fn fill(&mut self, source: Source<'_>, record: &Range<u64>) -> Result<()> {
        if self.holds(record) {
            return Ok(());
        }
        let (way, len_bytes) = (continues(&self.last, record), source.object.len_bytes());
        let range = self.plan(record, len_bytes, source.budget);
        let old = self.chunk.take();
        let coming = self.coming.take().filter(|coming| covers(&coming.range, record));
        let came = coming.and_then(|coming| Some((coming.range.start, coming.wait()?)));
        let chunk = if let Some((start, (buf, lease))) = came {
            Chunk { start, buf, _lease: Some(lease) }
        } else {
            read(source, range, old)?
        };
        self.read_bytes += chunk.buf.len() as u64;
        self.order_next(source, (way, record), &chunk.range());
        self.chunk = Some(chunk);
        Ok(())
    }

    /// Orders the chunk after `held`, if the stream goes on and there is memory for it.
    fn order_next(
        &mut self,
        source: Source<'_>,
        (way, record): (Option<Way>, &Range<u64>),
        held: &Range<u64>,
    ) {
        let (Some(way), Some((ahead, queue))) = (way, source.ahead) else { return };
        let (chunk_bytes, overlap) = (source.budget.chunk_bytes_max, overlap_of(record));
        if self.chunk_bytes < chunk_bytes || overlap > chunk_bytes / 2 {
            return;
        }
        let next = next_chunk(way, held, (source.object.len_bytes(), chunk_bytes), overlap);
        let len = usize::try_from(next.end - next.start).expect("a chunk");
        // At the vblock's end there is nothing but the overlap.
        if next.end - next.start <= overlap {
            return;
        }
        let lease = ahead.try_lease(len);
        self.coming = lease.map(|lease| Coming::order((queue, source.object), next, lease));
    }

    /// What to read for a record that is not held; the next chunk is twice as long, or the first of
    /// a new stream.
    fn plan(&mut self, record: &Range<u64>, len_bytes: u64, budget: Budget) -> Range<u64> {
        let way = continues(&self.last, record);
        let range = what_to_read(way, record, len_bytes, self.chunk_bytes);
        let next = if way.is_some() { 2 * self.chunk_bytes } else { budget.chunk_bytes_first };
        self.chunk_bytes = next.min(budget.chunk_bytes_max);
        range
    }

    /// A record longer than a chunk is not kept: nothing else is in what was read for it.
    fn let_go(&mut self, budget: Budget) {
        let len = self.chunk.as_ref().map_or(0, |chunk| chunk.buf.len() as u64);
        if len > budget.chunk_bytes_max + ALIGN {
            self.chunk = None;
        }
    }
}

fn covers(held: &Range<u64>, record: &Range<u64>) -> bool {
    held.start <= record.start && record.end <= held.end
}

/// Reads a range, on the calling thread; into the buffer of `old` if that is as long.
fn read(source: Source<'_>, range: Range<u64>, old: Option<Chunk>) -> Result<Chunk> {
    let len = usize::try_from(range.end - range.start).expect("a chunk or a record");
    let old = old.map(|chunk| chunk.buf).filter(|buf| buf.len() == len);
    let lease = source.ahead.map(|(ahead, _)| ahead.lease(len));
    let mut buf = old.unwrap_or_else(|| IoBuf::zeroed(len));
    source.object.read_at_priority(range.start, &mut buf, source.priority)?;
    Ok(Chunk { start: range.start, buf, _lease: lease })
}

/// Pages that two chunks have in common: a record not much longer than this one fits in them.
fn overlap_of(record: &Range<u64>) -> u64 {
    (2 * (record.end - record.start)).next_multiple_of(ALIGN)
}

/// The chunk after `held`, with which it overlaps; within the object's pages.
fn next_chunk(
    way: Way,
    held: &Range<u64>,
    (len_bytes, chunk_bytes): (u64, u64),
    overlap: u64,
) -> Range<u64> {
    let end_max = len_bytes.next_multiple_of(ALIGN);
    match way {
        Way::Forward => {
            let start = held.end.next_multiple_of(ALIGN).min(end_max);
            let start = start.saturating_sub(overlap).max(held.start);
            start..(start + chunk_bytes).min(end_max)
        }
        Way::Backward => {
            let end = (held.start + overlap).min(held.end.next_multiple_of(ALIGN));
            end.saturating_sub(chunk_bytes)..end
        }
    }
}

/// How a record continues a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
}

/// Whether `record` continues a stream whose last record is `last` (empty before the first), and
/// which way.
fn continues(last: &Range<u64>, record: &Range<u64>) -> Option<Way> {
    if last.end == 0 {
        None
    } else if (last.end..=last.end + GAP_BYTES).contains(&record.start) {
        Some(Way::Forward)
    } else if record.end <= last.start && last.start - record.end <= GAP_BYTES {
        Some(Way::Backward)
    } else {
        None
    }
}

/// Aligned range to read for `record`.
fn what_to_read(
    way: Option<Way>,
    record: &Range<u64>,
    len_bytes: u64,
    chunk_bytes: u64,
) -> Range<u64> {
    let page_up = |offset: u64| offset.div_ceil(ALIGN) * ALIGN;
    let needed = record.start / ALIGN * ALIGN..page_up(record.end);
    match way {
        None => needed,
        Some(Way::Forward) => {
            let end = (needed.start + chunk_bytes).min(page_up(len_bytes));
            needed.start..end.max(needed.end)
        }
        Some(Way::Backward) => needed.end.saturating_sub(chunk_bytes).min(needed.start)..needed.end,
    }
}

/// The error for a record that is not what it must be.
pub(crate) fn record_corrupt(object: &Mblock, ptr: ValuePtr, reason: &'static str) -> Error {
    corrupt(format!("value of {} bytes at {} of {}", ptr.len, ptr.offset, object.id()), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = CHUNK_BYTES_MAX;

    #[test]
    fn what_continues_a_stream_is_read_with_its_chunk() {
        let len = 10 << 20;
        // (last, record) -> what is read
        let cases = [
            // First: alone.
            (0..0, 5000..6000, 4096..8192),
            // Next: the chunk that it begins.
            (5000..6000, 6000..9000, 4096..4096 + CHUNK),
            // A small gap is skipped.
            (5000..6000, 70_000..71_000, 69_632..69_632 + CHUNK),
            // A large one starts anew.
            (5000..6000, 80_000..81_000, 77_824..81_920),
            // Backward: the chunk that it ends.
            (600_000..601_000, 599_000..600_000, 602_112 - CHUNK..602_112),
            (8000..9000, 7000..8000, 0..8192),
            // Longer than a chunk: whole.
            (0..32, 32..1_000_000, 0..1_003_520),
        ];
        for (last, record, expect) in cases {
            let way = continues(&last, &record);
            assert_eq!(what_to_read(way, &record, len, CHUNK), expect, "{last:?} {record:?}");
        }
        let clipped = what_to_read(Some(Way::Forward), &(32..100), 200, CHUNK);
        assert_eq!(clipped, 0..4096, "clipped to the object");
    }

    #[test]
    fn chunks_of_a_user_double_and_those_of_compaction_are_long() {
        let lens = |priority, vblocks| {
            let mut reader = ValueReader::new(priority, vblocks);
            let budget = reader.budget;
            let stream = reader.stream(0);
            let mut lens = Vec::new();
            for number in 0..7u64 {
                // Each record is the page after what was read before.
                let start = stream.last.end.max(4096);
                let record = if number == 5 { 9 << 20..(9 << 20) + 10 } else { start..start + 10 };
                let range = stream.plan(&record, 10 << 20, budget);
                lens.push((range.end - range.start) >> 10);
                stream.last = record.start..range.end;
            }
            lens
        };
        assert_eq!(lens(Priority::Read, 1), [4, 16, 32, 64, 128, 4, 16]);
        assert_eq!(lens(Priority::Compaction, 1), [4, 256, 256, 256, 256, 4, 256]);
        assert_eq!(lens(Priority::Read, 128), [4, 16, 32, 32, 32, 4, 16]);
        assert_eq!(lens(Priority::Compaction, 128), [4, 64, 64, 64, 64, 4, 64]);
    }

    #[test]
    fn the_more_vblocks_the_shorter_the_chunks_and_all_are_followed() {
        let budget = |priority, vblocks| {
            let Budget { chunk_bytes_max, streams_max, .. } = Budget::new(priority, vblocks);
            (chunk_bytes_max >> 10, streams_max)
        };
        assert_eq!(budget(Priority::Read, 0), (256, 16));
        assert_eq!(budget(Priority::Read, 16), (256, 16));
        assert_eq!(budget(Priority::Read, 17), (240, 17));
        assert_eq!(budget(Priority::Read, 5000), (16, 256));
        assert_eq!(budget(Priority::Compaction, 32), (256, 32));
        assert_eq!(budget(Priority::Compaction, 500), (16, 512));
        for vblocks in 1..=256 {
            assert!(budget(Priority::Read, vblocks).1 >= vblocks, "{vblocks}");
        }
    }

    /// Values in turn from more vblocks than there were streams once: each is one stream still.
    #[test]
    fn vblocks_that_take_turns_do_not_push_each_other_out() {
        let mut reader = ValueReader::new(Priority::Compaction, 100);
        for _ in 0..3 {
            for vblock in 0..100 {
                reader.stream(vblock).last = 4096..8192;
            }
        }
        assert!((0..100).all(|vblock| reader.streams[&vblock].last == (4096..8192)));
    }
}
