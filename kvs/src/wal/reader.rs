//! A segment's frames, read front to back.
//!
//! Memory: a chunk, and where it reads ahead a second one, which is on its way while frames of the
//! first are looked at. What a missing frame means is decided by `replay`.

use super::ahead::Ahead;
use super::frame::{
    BadHead, FRAME_HEAD_LEN, FRAME_VERSION, FrameHead, PAGE_BYTES, SEGMENT_HEAD_LEN, SegmentHead,
};
use crate::error::{Error, Result};
use crate::key::Revision;
use mpool::{IO_ALIGN, IoBuf, Pool, Segment};
use std::ops::RangeInclusive;

/// Large enough for sequential speed, small beside a memtable.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn newer(found: u16, supported: u16) -> Error {
    Error::Format { found: found.into(), supported: supported.into() }
}

/// Reads a segment front to back through one chunk.
pub(super) struct Reader<'a> {
    segment: &'a Segment,
    chunk: IoBuf,
    /// Where the chunk's bytes come from; none when equal.
    start: u64,
    end: u64,
    is_tolerant: bool,
    ahead: Option<Ahead<'a>>,
}

/// Stands for bytes that the drive cannot read; nothing that is written begins with it.
const UNREADABLE: u8 = 0xff;

impl<'a> Reader<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        let chunk = IoBuf::zeroed(CHUNK_BYTES);
        Self { segment, chunk, start: 0, end: 0, is_tolerant: false, ahead: None }
    }

    /// Pages that the drive cannot read are damage from here on, and no error.
    pub(super) fn tolerant(self) -> Self {
        Self { is_tolerant: true, ..self }
    }

    /// The next chunk is read on the pool's threads while this one is looked at.
    pub(super) fn reading_ahead(self, pool: &'a Pool) -> Self {
        Self { ahead: Some(Ahead::new(pool, self.segment)), ..self }
    }

    /// The frame of `wanted` at `position`, or on the next page if zeros pad this one.
    pub(super) fn frame_at(
        &mut self,
        position: u64,
        sequence: u64,
        wanted: Revision,
    ) -> Result<Option<(u64, FrameHead)>> {
        let (mut at, mut found) = (position, self.head(position)?);
        if found == Err(BadHead::Blank) {
            at = position.next_multiple_of(PAGE_BYTES);
            found = self.head(at)?;
        }
        match found {
            Err(BadHead::Version(found)) => Err(newer(found, FRAME_VERSION)),
            Ok(head)
                if head.sequence == sequence
                    && head.revision == wanted
                    && head.frame_len() <= self.segment.len_bytes() - at =>
            {
                Ok(Some((at, head)))
            }
            _ => Ok(None),
        }
    }

    /// Where a frame begins that was written after what ends at `at`: there, or on the next page if
    /// zeros pad this one.
    pub(super) fn behind_padding(&mut self, at: u64) -> Result<u64> {
        let padded = self.head(at)? == Err(BadHead::Blank);
        Ok(if padded { at.next_multiple_of(PAGE_BYTES) } else { at })
    }

    /// What stands at `at`; blank past the end of the segment.
    pub(super) fn head(&mut self, at: u64) -> Result<Result<FrameHead, BadHead>> {
        let mut bytes = [0; FRAME_HEAD_LEN];
        let room = self.segment.len_bytes() - at;
        if room < u64::try_from(FRAME_HEAD_LEN).expect("48") {
            return Ok(Err(BadHead::Blank));
        }
        self.read(at, &mut bytes)?;
        Ok(FrameHead::decode(&bytes))
    }

    /// Whether the place of the first frame has one of this life, torn or not, or still the head.
    pub(super) fn has_start(&mut self, head: SegmentHead) -> Result<bool> {
        let mut bytes = [0; SEGMENT_HEAD_LEN];
        self.read(PAGE_BYTES, &mut bytes)?;
        let frame = self.head(PAGE_BYTES)?;
        let is_frame = frame.is_ok_and(|frame| frame.sequence == head.sequence);
        Ok(is_frame || SegmentHead::decode(&bytes) == Ok(head))
    }

    /// The body of a frame whose length was checked; None if it is torn.
    pub(super) fn body(&mut self, at: u64, head: FrameHead) -> Result<Option<Vec<u8>>> {
        let body = self.raw_body(at, head)?;
        Ok((crc32c::crc32c(&body) == head.body_crc).then_some(body))
    }

    /// The same, whatever stands there.
    pub(super) fn raw_body(&mut self, at: u64, head: FrameHead) -> Result<Vec<u8>> {
        let mut body = vec![0; usize::try_from(head.body_len).expect("shorter than the segment")];
        self.read(at + u64::try_from(FRAME_HEAD_LEN).expect("48"), &mut body)?;
        Ok(body)
    }

    /// A revision whose frame says that `wanted` was durable.
    pub(super) fn witness(
        &mut self,
        sequence: u64,
        wanted: Revision,
        from: u64,
    ) -> Result<Option<Revision>> {
        let mut at = (from + 1).next_multiple_of(PAGE_BYTES);
        while at < self.segment.len_bytes() {
            if let Ok(head) = self.head(at)?
                && head.sequence == sequence
                && head.durable >= wanted
            {
                return Ok(Some(head.revision));
            }
            at += PAGE_BYTES;
        }
        Ok(None)
    }

    /// The first frame of a page behind `at` that belongs to this log and has one of `revisions`.
    pub(super) fn resume(
        &mut self,
        sequence: u64,
        at: u64,
        revisions: RangeInclusive<Revision>,
    ) -> Result<Option<(u64, FrameHead)>> {
        if revisions.is_empty() {
            return Ok(None);
        }
        let mut start = (at + 1).next_multiple_of(PAGE_BYTES);
        while start < self.segment.len_bytes() {
            if let Ok(head) = self.head(start)?
                && head.sequence == sequence
                && revisions.contains(&head.revision)
            {
                return Ok(Some((start, head)));
            }
            start += PAGE_BYTES;
        }
        Ok(None)
    }

    fn read(&mut self, mut at: u64, mut to: &mut [u8]) -> Result<()> {
        while !to.is_empty() {
            if at < self.start || at >= self.end {
                self.fill(at)?;
            }
            let from = usize::try_from(at - self.start).expect("within the chunk");
            let have = usize::try_from(self.end - at).expect("within the chunk");
            let count = have.min(to.len());
            let (now, later) = to.split_at_mut(count);
            now.copy_from_slice(&self.chunk[from..from + count]);
            at += u64::try_from(count).expect("within the chunk");
            to = later;
        }
        Ok(())
    }

    fn fill(&mut self, at: u64) -> Result<()> {
        let start = at / PAGE_BYTES * PAGE_BYTES;
        let len =
            (self.segment.len_bytes() - start).min(u64::try_from(CHUNK_BYTES).expect("a constant"));
        let bytes = usize::try_from(len).expect("at most a chunk");
        if let Some(ahead) = &mut self.ahead {
            let found = ahead.take(start);
            ahead.order(start + len);
            if let Some(chunk) = found {
                self.chunk = chunk;
                (self.start, self.end) = (start, start + len);
                return Ok(());
            }
        }
        let read = self.segment.read_at(start, &mut self.chunk[..bytes]);
        if read.is_err() && self.is_tolerant {
            let pages = self.chunk[..bytes].chunks_mut(IO_ALIGN);
            for (at, page) in (start..).step_by(IO_ALIGN).zip(pages) {
                if self.segment.read_at(at, page).is_err() {
                    page.fill(UNREADABLE);
                }
            }
        } else {
            read?;
        }
        (self.start, self.end) = (start, start + len);
        Ok(())
    }
}
