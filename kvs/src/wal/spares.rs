//! Segments that wait for a life in the log: how much of them, how long, and when they are made.
//!
//! Where little is made durable at a time, making a segment fills it with zeros, which takes as
//! long as the drive needs for its length: then no sync waits for the file system to note that a
//! block is written for the first time. Else only its start is, so that it has no head. Frames that
//! lay there before are of another life of the log, or of another pool's: see `frame`.
//!
//! A background thread makes the next segment before it is needed. When puts have ended and kvsets
//! have everything, the log *rests* on one short segment, and the others go; on that one writers
//! begin again, while the next is made. On such a one a new log begins, too.

use super::append::Tail;
use super::frame::PAGE_BYTES;
use super::{Closed, Wal};
use crate::debt::space::SEGMENTS_MIN;
use crate::error::{Error, Result};
use crate::key::Revision;
use mpool::{Pool, Segment};
use std::cmp::Reverse;
use std::sync::Arc;

/// Released segments are kept for reuse: as much as the flush of a memtable releases, so that
/// hardly any is made or deleted while writes go on. So many times that where one costs zeros.
const ZEROED_SPARES: u64 = 2;
/// So many at least: with the one that is written to they are what the log goes on with on a full
/// volume.
const SPARES_MIN: u64 = SEGMENTS_MIN - 1;
/// The segment of a log that rests. At full speed it lasts for a tenth of a second, in which
/// another one is made.
pub(super) const SHORT_BYTES: u64 = 16 << 20;
/// What is always zeros in a new segment: its head's place.
const START_BYTES: u64 = PAGE_BYTES;
/// A tail that is filled to this part wants a successor; a short one to half of it.
const FILLED_PART: u64 = 2;

/// A segment that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) len_bytes: u64,
    pub(super) zeros_bytes: u64,
}

impl Wanted {
    pub(crate) fn create(self, pool: &Arc<Pool>) -> mpool::Result<Segment> {
        pool.create_segment_with_start(self.len_bytes, self.zeros_bytes)
    }

    /// What follows `tail`: it will be written to in the same way.
    fn after(tail: &Tail, len_bytes: u64) -> Self {
        let zeros_bytes = if tail.syncs_often() { len_bytes } else { START_BYTES };
        Self { len_bytes, zeros_bytes }
    }
}

impl Wal {
    /// A segment with room for `len` bytes of frames after `tail`: a spare, or a new one.
    pub(super) fn spare(&mut self, len: u64, tail: Option<&Tail>) -> Result<Segment> {
        let is_fit = |segment: &Segment| {
            segment.len_bytes() >= len + PAGE_BYTES && !self.is_leaving(segment)
        };
        if let Some(at) = self.spares.iter().rposition(is_fit) {
            self.metrics.segments_recycled.add(1);
            return Ok(self.spares.remove(at));
        }
        let short = self.short_bytes;
        let first = if len + PAGE_BYTES <= short { short } else { self.segment_bytes };
        let first = Wanted { len_bytes: first, zeros_bytes: first };
        self.create(tail.map_or(first, |tail| Wanted::after(tail, self.segment_bytes)))
    }

    /// A new segment; [`Error::LogFull`] if there is no room for one.
    fn create(&self, wanted: Wanted) -> Result<Segment> {
        let segment = wanted.create(&self.pool).map_err(|error| match error {
            mpool::Error::Full { need_bytes, free_bytes } => {
                Error::LogFull { need_bytes, free_bytes }
            }
            other => Error::Pool(other),
        })?;
        self.metrics.segments_created.add(1);
        Ok(segment)
    }

    /// Has `count` segments in all, before they are needed.
    pub(crate) fn ready(&mut self, count: u64) -> Result<()> {
        let has =
            |wal: &Self| wal.closed.len() + wal.spares.len() + usize::from(wal.tail.is_some());
        while (has(self) as u64) < count {
            let len_bytes = self.segment_bytes;
            let segment = self.create(Wanted { len_bytes, zeros_bytes: len_bytes })?;
            self.spares.push(segment);
        }
        Ok(())
    }

    /// Bytes of released segments that are kept for reuse, if those are more than the fewest.
    fn spare_bytes_max(&self) -> u64 {
        let times = if self.syncs_often { ZEROED_SPARES } else { 1 };
        (self.memtable_bytes * times).next_multiple_of(self.segment_bytes)
    }

    /// The segment that is to be made now, because the tail fills and none waits.
    pub(crate) fn wants(&self) -> Option<Wanted> {
        let tail = self.tail.as_ref().filter(|_| self.spares.is_empty())?;
        self.is_filled(tail).then(|| Wanted::after(tail, self.segment_bytes))
    }

    fn is_filled(&self, tail: &Tail) -> bool {
        let len = tail.segment().len_bytes();
        let part = if len < self.segment_bytes { 2 * FILLED_PART } else { FILLED_PART };
        len - tail.room_bytes() >= len / part
    }

    /// Takes a segment that was made for it.
    pub(crate) fn add_spare(&mut self, segment: Segment) {
        self.metrics.segments_created.add(1);
        self.spares.push(segment);
    }

    /// Revisions up to `floor` are in kvsets: segments that hold nothing later are recycled (a few
    /// kept, the rest deleted). The floor must be durable in the manifest.
    pub(crate) fn release(&mut self, floor: Revision) -> Result<()> {
        self.recycle(floor)?;
        self.delete_surplus()
    }

    fn recycle(&mut self, floor: Revision) -> Result<()> {
        self.live.release(floor);
        while self.closed.front().is_some_and(|closed| closed.last <= floor) {
            let Closed { segment, is_whole, .. } = self.closed.pop_front().expect("just looked at");
            if is_whole {
                self.spares.push(segment);
            } else {
                self.pool.delete_segment(segment.id())?;
            }
        }
        Ok(())
    }

    /// Deletes spares that are too many or of no use. One that is too short for some group, as that
    /// of a log that rested, or of an earlier setting, is better than none.
    pub(super) fn delete_surplus(&mut self) -> Result<()> {
        let is_fit = |segment: &Segment| {
            segment.len_bytes() >= self.short_bytes && !self.is_leaving(segment)
        };
        let spares = self.spares.clone();
        let (mut spares, mut surplus): (Vec<_>, Vec<_>) = spares.into_iter().partition(is_fit);
        // Those of an earlier setting that are longer than needed go before others that will do.
        let is_short = |len: u64| len < self.least_bytes;
        spares.sort_by_key(|segment| {
            let len = segment.len_bytes();
            (is_short(len), len > self.segment_bytes, Reverse(len))
        });
        let (mut bytes, most) = (0, self.spare_bytes_max());
        let is_kept = |(at, segment): &(usize, &Segment)| {
            bytes += segment.len_bytes();
            !is_short(segment.len_bytes()) && ((*at as u64) < SPARES_MIN || bytes <= most)
        };
        let long = spares.iter().enumerate().take_while(is_kept).count();
        let kept = if long > 0 { long } else { spares.len().min(1) };
        surplus.extend(spares.drain(kept..));
        self.spares = spares;
        surplus
            .iter()
            .try_for_each(|segment| self.pool.delete_segment(segment.id()).map_err(Error::Pool))
    }

    /// Whether it takes more than a log that rests.
    pub(crate) fn is_long(&self) -> bool {
        let is_short = |segment: &Segment| segment.len_bytes() <= self.short_bytes;
        let spares = match &self.tail {
            Some(tail) if !is_short(tail.segment()) || self.is_filled(tail) => return true,
            Some(_) => self.spares.len(),
            None if self.spares.iter().all(is_short) => self.spares.len().saturating_sub(1),
            None => return true,
        };
        spares + self.closed.len() > 0
    }

    /// The length of the segment that a log rests on.
    pub(crate) const fn short_bytes(&self) -> u64 {
        self.short_bytes
    }

    /// What a log with a tail keeps for later, and what `floor` releases: it is about to rest. The
    /// floor must be durable in the manifest.
    pub(crate) fn give_up_spares(&mut self, floor: Revision) -> Result<Vec<Segment>> {
        if self.tail.is_none() || self.last > floor {
            return Ok(Vec::new());
        }
        self.recycle(floor)?;
        Ok(std::mem::take(&mut self.spares))
    }

    /// Rests on `short`, if everything up to `floor` is in kvsets and nothing is later. Returns the
    /// segments that are to be deleted. The floor must be durable in the manifest.
    pub(crate) fn rest(&mut self, floor: Revision, short: Segment) -> Result<Vec<Segment>> {
        if self.last > floor {
            return Ok(vec![short]);
        }
        self.metrics.segments_created.add(1);
        let mut gone = Vec::new();
        match self.tail.take() {
            None => {
                gone.append(&mut self.spares);
                self.spares.push(short);
            }
            Some(tail)
                if tail.segment().len_bytes() > short.len_bytes() || self.is_filled(&tail) =>
            {
                gone.append(&mut self.spares);
                self.spares.push(short);
                self.tail = Some(self.rotate_now(Some(tail), 0)?);
            }
            Some(tail) => {
                self.tail = Some(tail);
                gone.push(short);
            }
        }
        let kept = std::mem::take(&mut self.spares);
        self.recycle(floor)?;
        gone.append(&mut self.spares);
        match self.tail {
            None => self.spares = kept,
            Some(_) => gone.extend(kept),
        }
        Ok(gone)
    }
}
