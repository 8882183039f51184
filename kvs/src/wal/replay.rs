//! Reading the log at open: which segments are needed, and where the log ends.
//!
//! `find` reads the heads of all segments and orders them by sequence. A segment's frames end
//! before the next segment's first revision, and are durable up to there. Segments whose frames all
//! lie at or before the floor are spares; the rest must be a run without a hole.
//!
//! `walk` reads one segment by chunks and gives each frame after the floor to `apply`. In a segment
//! that is not the last, a missing frame is corruption. In the last it is the end of the log -
//! unless a later frame, or the mark of a clean close, says that it was durable. That search looks
//! at the first frame of each page, which finds the first frame of every write that follows a sync.
//! Frames up to the floor are in kvsets: damage among them is passed over.
//!
//! Frames after the end are never read again: the next segment's head says where this one ended.
//!
//! Memory: one chunk, and one batch.

use super::frame::{
    BadHead, FRAME_HEAD_LEN, FRAME_VERSION, FrameHead, PAGE_BYTES, SEGMENT_HEAD_LEN,
    SEGMENT_VERSION, SegmentHead,
};
use crate::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use crate::mark::LogEnd;
use mpool::{IO_ALIGN, IoBuf, Pool, Segment};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Large enough for sequential speed, small beside a memtable.
const CHUNK_BYTES: usize = 256 << 10;

/// The segments of a pool, sorted out.
pub(super) struct Found {
    /// With frames after the floor, in order.
    pub(super) runs: Vec<Run>,
    pub(super) spares: Vec<Segment>,
    /// The greatest sequence number, 0 when there is none.
    pub(super) sequence: u64,
}

/// A segment to be walked.
pub(super) struct Run {
    pub(super) segment: Segment,
    head: SegmentHead,
    /// Its last revision, known from the next segment; None for the last segment.
    last: Option<Revision>,
    /// Up to there everything was durable when the log was last closed.
    closed_at: Revision,
}

/// What a walk saw.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// The last revision of the segment.
    pub(super) last: Revision,
    /// Where its frames end.
    pub(super) end: u64,
}

pub(super) fn find(pool: &Arc<Pool>, floor: Revision, closed: Option<LogEnd>) -> Result<Found> {
    let closed_at = closed.map_or(Revision::ZERO, |closed| closed.end);
    let mut spares = Vec::new();
    let mut used = Vec::new();
    for id in pool.segment_ids() {
        let segment = pool.open_segment(id)?;
        match segment_head(&segment)? {
            Some(head) => used.push((segment, head)),
            None => spares.push(segment),
        }
    }
    used.sort_by_key(|(_, head)| head.sequence);
    let sequence = used.last().map_or(0, |(_, head)| head.sequence);
    let mut runs: Vec<Run> = Vec::new();
    // From the newest to the oldest, each knows where it ends from the one before.
    let mut next: Option<SegmentHead> = None;
    for (segment, head) in used.into_iter().rev() {
        let last = next.map(SegmentHead::after);
        if last.is_some_and(|last| last <= floor) {
            spares.push(segment);
            continue;
        }
        if let Some(next) = next {
            check_neighbours(head, next)?;
        }
        runs.push(Run { segment, head, last, closed_at });
        next = Some(head);
    }
    runs.reverse();
    if let Some(run) = runs.first().filter(|run| run.head.after() > floor) {
        return Err(Error::Corrupt {
            what: "write-ahead log".to_owned(),
            reason: format!(
                "its first segment begins at revision {}, but kvsets hold revisions up to {floor} \
                 only",
                run.head.first
            ),
        });
    }
    Ok(Found { runs, spares, sequence })
}

fn check_neighbours(head: SegmentHead, next: SegmentHead) -> Result<()> {
    if head.sequence + 1 == next.sequence && head.first <= next.after().next() {
        return Ok(());
    }
    Err(Error::Corrupt {
        what: "write-ahead log".to_owned(),
        reason: format!(
            "segment {} (from revision {}) is followed by segment {} (from revision {})",
            head.sequence, head.first, next.sequence, next.first
        ),
    })
}

/// None: the segment was never used.
pub(super) fn segment_head(segment: &Segment) -> Result<Option<SegmentHead>> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    segment.read_at(0, &mut page)?;
    let bytes = page.first_chunk::<SEGMENT_HEAD_LEN>().expect("a page is longer than a head");
    match SegmentHead::decode(bytes) {
        Ok(head) => Ok(Some(head)),
        Err(BadHead::Blank) => Ok(None),
        Err(BadHead::Version(found)) => Err(newer(found, SEGMENT_VERSION)),
        Err(bad) => Err(Error::Corrupt {
            what: format!("head of write-ahead log segment {}", segment.id().get()),
            reason: format!("{bad:?}"),
        }),
    }
}

fn newer(found: u16, supported: u16) -> Error {
    Error::Format { found: found.into(), supported: supported.into() }
}

pub(super) fn walk(
    run: &Run,
    floor: Revision,
    apply: &mut dyn FnMut(Revision, &WriteBatch) -> Result<()>,
) -> Result<Walked> {
    let mut reader = Reader::new(&run.segment);
    let mut walked = Walked {
        last: Revision::new(run.head.first.get() - 1),
        end: PAGE_BYTES,
        ..Walked::default()
    };
    while run.last.is_none_or(|last| walked.last < last) {
        let wanted = walked.last.next();
        let Some((at, head)) = reader.frame_at(walked.end, run.head.sequence, wanted)? else {
            let needed = wanted.next()..=floor.next();
            let resumed = reader.resume(run.head.sequence, walked.end, needed)?;
            if let Some((at, head)) = resumed {
                tracing::warn!(
                    segment = run.head.sequence,
                    offset = walked.end,
                    "damaged log is passed over: kvsets hold all of it"
                );
                (walked.end, walked.last) = (at, Revision::new(head.revision.get() - 1));
                continue;
            }
            end_of_log(&mut reader, run, wanted.max(floor.next()), walked.end)?;
            break;
        };
        if wanted > floor {
            let Some(body) = reader.body(at, head)? else {
                end_of_log(&mut reader, run, wanted, walked.end)?;
                break;
            };
            apply(wanted, &WriteBatch::from_body(body)?)?;
            walked.frames += 1;
            walked.bytes += u64::from(head.body_len);
        }
        walked.last = wanted;
        walked.end = at + head.frame_len();
    }
    Ok(walked)
}

/// Err if `wanted`, which cannot be read, was once durable.
fn end_of_log(reader: &mut Reader<'_>, run: &Run, wanted: Revision, from: u64) -> Result<()> {
    let proof = if run.last.is_some() {
        "a later segment follows it".to_owned()
    } else if let Some(witness) = reader.witness(run.head.sequence, wanted, from)? {
        format!("revision {witness} follows it")
    } else if wanted <= run.closed_at {
        format!("the log was closed at revision {}", run.closed_at)
    } else {
        return Ok(());
    };
    let at = reader.behind_padding(from)?;
    Err(Error::Corrupt {
        what: format!(
            "write-ahead log segment {} ({}) at offset {at}",
            run.head.sequence,
            run.segment.id()
        ),
        reason: format!("revision {wanted} was durable and cannot be read: {proof}"),
    })
}

/// Reads a segment front to back through one chunk.
pub(super) struct Reader<'a> {
    segment: &'a Segment,
    chunk: IoBuf,
    /// Where the chunk's bytes come from; none when equal.
    start: u64,
    end: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self { segment, chunk: IoBuf::zeroed(CHUNK_BYTES), start: 0, end: 0 }
    }

    /// The frame of `wanted` at `position`, or on the next page if zeros pad this one.
    pub(super) fn frame_at(
        &mut self,
        position: u64,
        sequence: u64,
        wanted: Revision,
    ) -> Result<Option<(u64, FrameHead)>> {
        let at = self.behind_padding(position)?;
        match self.head(at)? {
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

    /// The body of a frame whose length was checked; None if it is torn.
    pub(super) fn body(&mut self, at: u64, head: FrameHead) -> Result<Option<Vec<u8>>> {
        let mut body = vec![0; usize::try_from(head.body_len).expect("shorter than the segment")];
        self.read(at + u64::try_from(FRAME_HEAD_LEN).expect("48"), &mut body)?;
        Ok((crc32c::crc32c(&body) == head.body_crc).then_some(body))
    }

    /// A revision whose frame says that `wanted` was durable.
    fn witness(&mut self, sequence: u64, wanted: Revision, from: u64) -> Result<Option<Revision>> {
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
        self.segment.read_at(start, &mut self.chunk[..bytes])?;
        (self.start, self.end) = (start, start + len);
        Ok(())
    }
}
