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
//! soon, so its chunks start short and double.

use super::format::{record_range, record_value};
use crate::error::{Error, Result};
use crate::iter::ValuePtr;
use crate::kvset::corrupt;
use crate::metrics::Counter;
use bytes::Bytes;
use mpool::{IO_ALIGN, IoBuf, Mblock, Priority};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Most and fewest bytes in a chunk of a stream that has been followed for a while.
const CHUNK_BYTES_MAX: u64 = 256 << 10;
const CHUNK_BYTES_MIN: u64 = 16 << 10;
/// Most bytes in the chunks of one reader.
const HELD_BYTES_USER: u64 = 4 << 20;
const HELD_BYTES_COMPACTION: u64 = 8 << 20;
/// Unreferenced bytes that a stream may skip and still be one: reading them is cheaper than another
/// request.
const GAP_BYTES: u64 = 64 << 10;
const ALIGN: u64 = IO_ALIGN as u64;

struct Stream {
    /// The record read last.
    last: Range<u64>,
    /// Offset of `buf` in the vblock.
    start: u64,
    /// `None` until a read succeeds.
    buf: Option<IoBuf>,
    chunk_bytes: u64,
    used_at: u64,
    /// Read from the drive and not counted yet.
    read_bytes: u64,
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
    /// Counts what is read.
    read_bytes: Option<Arc<Counter>>,
}

impl ValueReader {
    /// A reader for values in so many vblocks, whose requests have this priority; above
    /// `Compaction`, its chunks start short.
    pub(crate) fn new(priority: Priority, vblocks: usize) -> Self {
        let budget = Budget::new(priority, vblocks);
        Self { streams: HashMap::new(), uses: 0, priority, budget, read_bytes: None }
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
            let held = stream.held();
            let is_held = held.start <= record.start && record.end <= held.end;
            is_held || continues(&stream.last, &record).is_some()
        })
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
        let (priority, budget) = (self.priority, self.budget);
        let stream = self.stream(ptr.vblock);
        let bytes = stream.bytes(object, &record, priority, budget)?;
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
            start: 0,
            buf: None,
            chunk_bytes,
            used_at: 0,
            read_bytes: 0,
        });
        stream.used_at = self.uses;
        stream
    }
}

impl Stream {
    /// Range of the vblock that the chunk holds.
    fn held(&self) -> Range<u64> {
        self.start..self.start + self.buf.as_ref().map_or(0, |buf| buf.len() as u64)
    }

    /// The bytes of a record, from the chunk or, with what is around them, from the medium.
    fn bytes(
        &mut self,
        object: &Mblock,
        record: &Range<u64>,
        priority: Priority,
        budget: Budget,
    ) -> Result<&[u8]> {
        let held = self.held();
        let buf = match self.buf.take() {
            Some(buf) if held.start <= record.start && record.end <= held.end => buf,
            old => {
                let range = self.plan(record, object.len_bytes(), budget);
                let len = usize::try_from(range.end - range.start).expect("a chunk or a record");
                let old = old.filter(|old| old.len() == len);
                let mut buf = old.unwrap_or_else(|| IoBuf::zeroed(len));
                object.read_at_priority(range.start, &mut buf, priority)?;
                self.start = range.start;
                self.read_bytes += len as u64;
                buf
            }
        };
        let at = usize::try_from(record.start - self.start).expect("inside a chunk");
        let len = usize::try_from(record.end - record.start).expect("inside a chunk");
        Ok(&self.buf.insert(buf)[at..at + len])
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
        if self.held().end - self.held().start > budget.chunk_bytes_max + ALIGN {
            self.buf = None;
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
