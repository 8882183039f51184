//! The end of the log: frames are gathered in a buffer and written to the current segment.
//!
//! ```text
//! segment:  | head | written pages ......... | buffer (filled) | free                |
//!                                            ^ offset           ^ offset + filled
//! ```
//!
//! The buffer is written when it is full, or when durability is asked for; then its last page is
//! padded with zeros and the next frame starts on the page after it. A durable write is one
//! `write_durable_at` when nothing before it is unflushed, else a write and a flush of the pool.
//!
//! Which segment is current, and when it changes, is decided by the parent.

use super::frame::{FrameHead, Kind, PAGE_BYTES, Salt};
use super::metrics::WalMetrics;
use super::segment_head::{SEGMENT_HEAD_LEN, SegmentHead};
use crate::error::Result;
use crate::key::Revision;
use mpool::{IO_ALIGN, IoBuf, Pool, Segment};
use std::sync::Arc;

/// Bytes gathered before they are written without being asked: where one direct write saturates a
/// drive.
pub(super) const BUFFER_BYTES: usize = 1 << 20;

/// A file system commits its journal when a block that was never written is made durable: a third
/// of a durable write, or 0.3 ms. In that time a drive is filled with about so many zeros.
const SYNC_BYTES: u64 = 128 << 10;

const _: () = assert!(BUFFER_BYTES.is_multiple_of(IO_ALIGN));
const _: () = assert!(PAGE_BYTES.is_multiple_of(IO_ALIGN as u64));

/// A segment that takes frames.
pub(super) struct Tail {
    salt: Salt,
    segment: Segment,
    head: SegmentHead,
    /// Where the buffer's first byte goes; page-aligned.
    offset: u64,
    buffer: IoBuf,
    filled: usize,
    /// Whether bytes were written since the last flush that covers them.
    unflushed: bool,
    /// Durable writes and flushes in this segment.
    syncs: u64,
    metrics: Arc<WalMetrics>,
}

impl Tail {
    /// Gives `segment` a new life: its head, and the head again where its first frame will be, so
    /// that blank pages there are told from a segment without frames. Everything before
    /// `head.first` must be durable.
    pub(super) fn start(
        segment: Segment,
        head: SegmentHead,
        metrics: Arc<WalMetrics>,
    ) -> Result<Self> {
        let mut pages = IoBuf::zeroed(2 * IO_ALIGN);
        for page in pages.chunks_exact_mut(IO_ALIGN) {
            page[..SEGMENT_HEAD_LEN].copy_from_slice(&head.encode());
        }
        segment.write_durable_at(0, &pages)?;
        metrics.bytes.add(2 * PAGE_BYTES);
        metrics.syncs.add(1);
        let buffer = IoBuf::zeroed(BUFFER_BYTES);
        Ok(Self {
            salt: Salt::of(&segment),
            segment,
            head,
            offset: PAGE_BYTES,
            buffer,
            filled: 0,
            unflushed: false,
            syncs: 0,
            metrics,
        })
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(super) fn into_segment(self) -> Segment {
        self.segment
    }

    /// Where the next frame would begin.
    pub(super) fn position(&self) -> u64 {
        self.offset + to_u64(self.filled)
    }

    /// Whether so little is made durable at a time that each sync should find blocks that were
    /// written before: else filling a segment with zeros costs more than what it spares its syncs.
    pub(super) fn syncs_often(&self) -> bool {
        self.syncs * SYNC_BYTES > self.position() - PAGE_BYTES
    }

    /// Bytes of frames that fit.
    pub(super) fn room_bytes(&self) -> u64 {
        self.segment.len_bytes() - self.position()
    }

    /// Adds a frame. The caller has checked that there is room.
    pub(super) fn push(
        &mut self,
        revision: Revision,
        durable: Revision,
        body: &[u8],
    ) -> Result<()> {
        let begins_page = self.position().is_multiple_of(PAGE_BYTES);
        let head = FrameHead {
            kind: if begins_page { Kind::Long } else { Kind::Short },
            sequence: self.head.sequence,
            revision,
            durable,
            body_len: u32::try_from(body.len()).expect("a batch is smaller than a segment"),
            body_crc: crc32c::crc32c(body),
        };
        assert!(head.frame_len() <= self.room_bytes());
        if begins_page {
            self.put(&head.encode_long(self.salt))?;
        } else {
            self.put(&head.encode_short(self.salt))?;
        }
        self.put(body)
    }

    /// Copies bytes into the buffer, writing it out each time it is full.
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(self.buffer.len() - self.filled);
            let (now, later) = bytes.split_at(count);
            self.buffer[self.filled..self.filled + count].copy_from_slice(now);
            self.filled += count;
            bytes = later;
            if self.filled == self.buffer.len() {
                let (metrics, offset) = (Arc::clone(&self.metrics), self.offset);
                metrics.write_times.time(|| self.segment.write_at(offset, &self.buffer))?;
                self.unflushed = true;
                self.advance();
            }
        }
        Ok(())
    }

    /// Puts everything pushed so far on stable storage.
    pub(super) fn sync(&mut self, pool: &Pool) -> Result<()> {
        self.pad();
        if self.filled == 0 && !self.unflushed {
            return Ok(());
        }
        let metrics = Arc::clone(&self.metrics);
        metrics.sync_times.time(|| self.make_durable(pool))?;
        metrics.syncs.add(1);
        self.syncs += 1;
        Ok(())
    }

    fn make_durable(&mut self, pool: &Pool) -> Result<()> {
        if self.filled > 0 && !self.unflushed {
            self.segment.write_durable_at(self.offset, &self.buffer[..self.filled])?;
            self.advance();
            return Ok(());
        }
        if self.filled > 0 {
            self.segment.write_at(self.offset, &self.buffer[..self.filled])?;
            self.advance();
        }
        pool.flush()?;
        self.unflushed = false;
        Ok(())
    }

    fn pad(&mut self) {
        let end = self.filled.next_multiple_of(IO_ALIGN);
        self.buffer[self.filled..end].fill(0);
        self.filled = end;
    }

    fn advance(&mut self) {
        let len = to_u64(self.filled);
        self.offset += len;
        self.filled = 0;
        self.metrics.bytes.add(len);
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length in memory")
}
