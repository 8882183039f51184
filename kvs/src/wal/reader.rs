//! A segment's frames, read front to back.
//!
//! Memory: a chunk, and where it reads ahead a second one, which is on its way while frames of the
//! first are looked at. What a missing frame means is decided by `replay`.

use super::ahead::Ahead;
use super::frame::{FrameHead, Frames, PAGE_BYTES, SHORT_HEAD_LEN, Salt};
use super::segment_head::{BadHead, Life, SEGMENT_HEAD_LEN, SegmentHead};
use super::wide;
use crate::error::{Error, Result};
use crate::key::Revision;
use mpool::{IO_ALIGN, IoBuf, Pool, Segment};
use std::ops::{Range, RangeInclusive};

/// Large enough for sequential speed, small beside a memtable.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const _: () = assert!(IO_ALIGN as u64 == PAGE_BYTES);

pub(super) fn newer(found: u16, supported: u16) -> Error {
    Error::Format { found: found.into(), supported: supported.into() }
}

/// Reads a segment front to back through one chunk.
pub(super) struct Reader<'a> {
    segment: &'a Segment,
    salt: Salt,
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
        let salt = Salt::of(segment);
        Self { segment, salt, chunk, start: 0, end: 0, is_tolerant: false, ahead: None }
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
        life: Life,
        wanted: Revision,
    ) -> Result<Option<(u64, FrameHead)>> {
        let (mut at, mut found) = (position, self.head(position, life, wanted)?);
        if found == Err(BadHead::Blank) {
            at = position.next_multiple_of(PAGE_BYTES);
            found = self.head(at, life, wanted)?;
        }
        match found {
            Err(BadHead::Version(found)) => Err(newer(found, wide::VERSION)),
            Ok(head) if head.revision == wanted && self.has_room(at, head) => Ok(Some((at, head))),
            _ => Ok(None),
        }
    }

    fn has_room(&self, at: u64, head: FrameHead) -> bool {
        head.frame_len() <= self.segment.len_bytes() - at
    }

    /// Where a frame begins that was written after what ends at `at`: there, or on the next page if
    /// zeros pad this one.
    pub(super) fn behind_padding(&mut self, at: u64, life: Life) -> Result<u64> {
        let padded = self.head(at, life, Revision::ZERO)? == Err(BadHead::Blank);
        Ok(if padded { at.next_multiple_of(PAGE_BYTES) } else { at })
    }

    /// The head of this life at `at`, with a revision from `from` on; blank past the end of the
    /// segment.
    fn head(&mut self, at: u64, life: Life, from: Revision) -> Result<Result<FrameHead, BadHead>> {
        let decoded = match life.frames {
            Frames::Wide => self.take(at)?.map(|bytes| wide::decode(&bytes)),
            Frames::Compact if at.is_multiple_of(PAGE_BYTES) => {
                self.take(at)?.map(|bytes| FrameHead::decode_long(&bytes, self.salt))
            }
            Frames::Compact => {
                let salt = self.salt;
                self.take(at)?.map(|bytes| FrameHead::decode_short(&bytes, salt, life, from))
            }
        };
        let is_ours = |head: &FrameHead| head.sequence == life.sequence;
        Ok(decoded
            .unwrap_or(Err(BadHead::Blank))
            .and_then(|head| if is_ours(&head) { Ok(head) } else { Err(BadHead::Range) }))
    }

    /// The first bytes at `at`, if the segment has so many.
    fn take<const LEN: usize>(&mut self, at: u64) -> Result<Option<[u8; LEN]>> {
        let mut bytes = [0; LEN];
        let room = self.segment.len_bytes() - at;
        if room < u64::try_from(LEN).expect("48 at most") {
            return Ok(None);
        }
        self.read(at, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// A head on the page at `at`, of any life.
    pub(super) fn any_head(&mut self, at: u64) -> Result<Option<(Life, FrameHead)>> {
        let found = |frames, head: FrameHead| (Life { sequence: head.sequence, frames }, head);
        let wide = self.take(at)?.and_then(|bytes| wide::decode(&bytes).ok());
        let long = self.take(at)?.and_then(|bytes| FrameHead::decode_long(&bytes, self.salt).ok());
        Ok(wide
            .map(|head| found(Frames::Wide, head))
            .or(long.map(|head| found(Frames::Compact, head))))
    }

    /// Whether the place of the first frame has one of this life, torn or not, or still the head.
    pub(super) fn has_start(&mut self, head: SegmentHead) -> Result<bool> {
        let mut bytes = [0; SEGMENT_HEAD_LEN];
        self.read(PAGE_BYTES, &mut bytes)?;
        let is_frame = self.head(PAGE_BYTES, head.life(), head.first)?.is_ok();
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
        self.read(at + head.len(), &mut body)?;
        Ok(body)
    }

    /// A revision whose frame says that `wanted` was durable.
    pub(super) fn witness(
        &mut self,
        life: Life,
        wanted: Revision,
        from: u64,
    ) -> Result<Option<Revision>> {
        let mut at = (from + 1).next_multiple_of(PAGE_BYTES);
        while at < self.segment.len_bytes() {
            if let Ok(head) = self.head(at, life, wanted)?
                && head.durable >= wanted
            {
                return Ok(Some(head.revision));
            }
            at += PAGE_BYTES;
        }
        Ok(None)
    }

    /// The first frame behind `at` that belongs to this log and has one of `revisions`: by its head
    /// where that begins a page, else by head and body.
    pub(super) fn resume(
        &mut self,
        life: Life,
        at: u64,
        revisions: RangeInclusive<Revision>,
    ) -> Result<Option<(u64, FrameHead)>> {
        if revisions.is_empty() {
            return Ok(None);
        }
        let mut start = at + 1;
        while start < self.segment.len_bytes() {
            let page = start.next_multiple_of(PAGE_BYTES);
            let found = if start < page {
                self.resume_within(life, start..page, &revisions)?
            } else {
                let head = self.head(start, life, *revisions.start())?.ok();
                head.filter(|head| revisions.contains(&head.revision)).map(|head| (start, head))
            };
            if found.is_some() {
                return Ok(found);
            }
            start = page.max(start + 1);
        }
        Ok(None)
    }

    /// The first whole frame that begins at one of `places`, which are of one page and do not begin
    /// it. Wide frames are looked for on pages only.
    fn resume_within(
        &mut self,
        life: Life,
        places: Range<u64>,
        revisions: &RangeInclusive<Revision>,
    ) -> Result<Option<(u64, FrameHead)>> {
        if life.frames == Frames::Wide {
            return Ok(None);
        }
        let mut bytes = [0; IO_ALIGN + SHORT_HEAD_LEN];
        let len = self.segment.len_bytes() - places.start;
        let len = len.min(places.end - places.start + u64::try_from(SHORT_HEAD_LEN).expect("16"));
        let bytes = &mut bytes[..usize::try_from(len).expect("about a page")];
        self.read(places.start, bytes)?;
        for (at, head) in places.zip(bytes.windows(SHORT_HEAD_LEN)) {
            let head = head.first_chunk().expect("a window is as long");
            if let Ok(head) = FrameHead::decode_short(head, self.salt, life, *revisions.start())
                && revisions.contains(&head.revision)
                && self.has_room(at, head)
                && self.body(at, head)?.is_some()
            {
                return Ok(Some((at, head)));
            }
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
