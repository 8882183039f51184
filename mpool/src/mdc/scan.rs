//! Reading one log: where it ends, and whether it ends there rightly.
//!
//! Frames are followed from the start of the log, dense in seqno, all of one owner and generation.
//! At the first frame that is not the next one the log ends. What lies behind decides what that
//! means:
//!
//! ```text
//! [1][2][3]~~~~ nothing of this generation behind     torn tail: the append was never acknowledged
//! [1][2][x][4]  an intact later frame behind          rot: [x] was durable before [4] was written
//! ```
//!
//! That holds because appends are one at a time and each is durable before the next begins. Rot in
//! the very last frame cannot be told from a torn append.

use super::{
    elect::LogState,
    frame::{BadFrame, FRAME_HEAD_LEN, FRAME_LEN_MAX, FrameHead, FrameKind},
};
use crate::{
    error::{Error, Result},
    io::{
        buf::{IO_ALIGN, IoBuf},
        queue::Priority,
    },
    space::extent::Extent,
    volume::Volumes,
};

/// Read at once: a window holds the longest frame and is refilled rarely.
const WINDOW_LEN: usize = 2 << 20;
const _: () = assert!(WINDOW_LEN >= FRAME_LEN_MAX);

/// Reads a log through a window.
pub(crate) struct LogReader<'a> {
    volume: &'a Volumes,
    log: Extent,
    owner: u64,
    window: IoBuf,
    /// Where in the log the window starts, and how much of it is filled.
    start: u64,
    filled: usize,
}

impl<'a> LogReader<'a> {
    pub(crate) fn new(volume: &'a Volumes, log: Extent, owner: u64) -> Self {
        let window_len = usize::try_from(log.len).unwrap_or(WINDOW_LEN).min(WINDOW_LEN);
        let window = IoBuf::zeroed(window_len);
        Self { volume, log, owner, window, start: 0, filled: 0 }
    }

    /// At least `want` bytes of the log from `at`, or fewer at its end.
    fn bytes(&mut self, at: u64, want: usize) -> Result<&[u8]> {
        let left = usize::try_from(self.log.len - at).unwrap_or(usize::MAX);
        let want = want.min(left);
        let covered = at >= self.start && at + want as u64 <= self.start + self.filled as u64;
        if !covered {
            let fill = left.min(self.window.len());
            let target = &mut self.window[..fill];
            self.volume.read(self.log.offset + at, target, Priority::Read)?;
            self.start = at;
            self.filled = fill;
        }
        let from = usize::try_from(at - self.start).expect("within the window");
        Ok(&self.window[from..self.filled])
    }

    fn head(&mut self, at: u64) -> Result<Result<FrameHead, BadFrame>> {
        let bytes = self.bytes(at, FRAME_HEAD_LEN)?;
        let bytes = bytes.first_chunk().expect("a log is a multiple of a page");
        Ok(FrameHead::decode(bytes))
    }

    /// The frame at `at`, checked in full, if it belongs to this journal.
    fn frame(&mut self, at: u64) -> Result<Option<(FrameHead, &[u8])>> {
        if at >= self.log.len {
            return Ok(None);
        }
        let head = match self.head(at)? {
            Ok(head) if head.owner == self.owner => head,
            Err(BadFrame::Version(_)) => {
                let reason = "a journal frame is of a newer version than this binary knows";
                return Err(Error::corrupt("journal", self.log.offset + at, reason));
            }
            _ => return Ok(None),
        };
        let bytes = self.bytes(at, head.padded_len())?;
        Ok(head.body(bytes).ok().map(|body| (head, body)))
    }

    /// What this log is, without its records.
    pub(crate) fn scan(&mut self) -> Result<LogState> {
        let first = match self.frame(0)? {
            Some((head, _)) if head.kind == FrameKind::Retired => {
                return Ok(LogState::Retired { successor: head.generation });
            }
            Some((head, _)) if head.kind == FrameKind::Begin && head.seqno == 1 => head,
            _ => return Ok(LogState::Unusable { generation_max: self.generation_max(0)? }),
        };
        let mut at = first.padded_len() as u64;
        let mut seqno = first.seqno;
        let mut complete = false;
        while let Some((head, _)) = self.frame(at)? {
            if head.generation != first.generation || head.seqno != seqno + 1 {
                break;
            }
            complete |= head.kind == FrameKind::End;
            at += head.padded_len() as u64;
            seqno = head.seqno;
        }
        let generation = first.generation;
        if !complete {
            return Ok(LogState::Incomplete { generation });
        }
        let rot = self.later_frame(at, generation, seqno)?.then_some(at);
        Ok(LogState::Complete { generation, seqno, tail: at, rot })
    }

    /// Calls `see` with every record of a complete log, in order.
    pub(crate) fn replay(
        &mut self,
        tail: u64,
        see: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let (mut at, mut count) = (0, 0);
        while at < tail {
            let position = self.log.offset + at;
            let changed =
                || Error::corrupt("journal", position, "a frame changed while it was read");
            let (head, body) = self.frame(at)?.ok_or_else(changed)?;
            let records = super::frame::records(body).ok_or_else(|| {
                Error::corrupt("journal", position, "the record lengths of a frame do not add up")
            })?;
            for record in records {
                see(record)?;
                count += 1;
            }
            at += head.padded_len() as u64;
        }
        Ok(count)
    }

    /// Is there an intact head of this generation behind `at` that was written after `seqno`?
    fn later_frame(&mut self, at: u64, generation: u64, seqno: u64) -> Result<bool> {
        let mut found = false;
        self.each_head(at, &mut |head| {
            found |= head.generation == generation && head.seqno > seqno + 1;
        })?;
        Ok(found)
    }

    /// The newest generation any frame from `at` on speaks of; 0 if there is none.
    fn generation_max(&mut self, at: u64) -> Result<u64> {
        let mut newest = 0;
        self.each_head(at, &mut |head| newest = newest.max(head.generation))?;
        Ok(newest)
    }

    fn each_head(&mut self, from: u64, see: &mut dyn FnMut(&FrameHead)) -> Result<()> {
        let mut at = from;
        while at < self.log.len {
            match self.head(at)? {
                Ok(head) if head.owner == self.owner => see(&head),
                _ => {}
            }
            at += IO_ALIGN as u64;
        }
        Ok(())
    }
}
