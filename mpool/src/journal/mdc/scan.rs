//! Reading one log: where it ends, and whether it ends there rightly.
//!
//! Frames are followed from the start of the log, dense in seqno, all of one owner and generation.
//! A frame counts if one of the log's copies (`log`) has it, the first of them that does. At the
//! first frame that no copy has as the next one the log ends. What lies behind decides what that
//! means:
//!
//! ```text
//! [1][2][3]~~~~ nothing of this generation behind     torn tail: the append was never acknowledged
//! [1][2][x][4]  an intact later frame behind          rot: [x] was durable before [4] was written
//! ```
//!
//! That holds because appends are one at a time and each is durable, in every copy, before the next
//! begins. Rot in the very last frame cannot be told from a torn append where it is in all copies.
//!
//! The first frame of a log is the only one that is written over while its log counts, or may come
//! to count: by marks whose generations rise. So of two different ones the greater generation is
//! the later word, and counts.
//!
//! Where no copy has a frame whole, the places in which they differ are the damaged ones, as copies
//! are alike else: what can be put together of both, and has the right checksums, is the frame
//! (`mend`).
//!
//! A copy that the medium refuses to read is no copy here, as long as the other can be read. But
//! what cannot be read today may be read tomorrow. So a log that ends where a copy is *hidden* like
//! that is not taken for a checkpoint that never ended; and before the journal goes on, `heal`
//! overwrites what is hidden behind the tail.

use super::{
    elect::{Elected, LogState},
    frame::{BadFrame, FRAME_HEAD_LEN, FRAME_LEN_MAX, FrameHead, FrameKind, records},
    mend::mend,
};
use crate::{
    address::Extent,
    error::{Error, Result},
    heads::log::Log,
    io::volumes::Volumes,
    media::Priority,
};
use mpool_device::{IO_ALIGN, IoBuf};

/// Read at once: a window holds the longest frame and is refilled rarely.
const WINDOW_LEN: usize = 2 << 20;
const _: () = assert!(WINDOW_LEN >= FRAME_LEN_MAX);

/// One copy of a log, read through a window.
struct Copy<'a> {
    volumes: &'a Volumes,
    extent: Extent,
    owner: u64,
    window: IoBuf,
    /// Where in the copy the window starts, and how much of it is filled.
    start: u64,
    filled: usize,
    /// A window that could not be read ended here: up to there no more is read than is asked for.
    careful_to: u64,
}

impl<'a> Copy<'a> {
    fn new(volumes: &'a Volumes, extent: Extent, owner: u64) -> Self {
        let window_len = usize::try_from(extent.len).unwrap_or(WINDOW_LEN).min(WINDOW_LEN);
        let window = IoBuf::zeroed(window_len);
        Self { volumes, extent, owner, window, start: 0, filled: 0, careful_to: 0 }
    }

    /// At least `want` bytes from `at`, or fewer at the end.
    fn bytes(&mut self, at: u64, want: usize) -> Result<&[u8]> {
        let left = usize::try_from(self.extent.len - at).unwrap_or(usize::MAX);
        let want = want.min(left);
        let covered = at >= self.start && at + want as u64 <= self.start + self.filled as u64;
        if !covered {
            let whole = left.min(self.window.len());
            let least = want.next_multiple_of(IO_ALIGN);
            if at < self.careful_to || self.fill(at, whole).is_err() {
                self.careful_to = self.careful_to.max(at + whole as u64);
                self.fill(at, least)?;
            }
        }
        let from = usize::try_from(at - self.start).expect("within the window");
        Ok(&self.window[from..self.filled])
    }

    fn fill(&mut self, at: u64, len: usize) -> Result<()> {
        self.filled = 0;
        self.volumes.read(self.extent.offset + at, &mut self.window[..len], Priority::Read)?;
        (self.start, self.filled) = (at, len);
        Ok(())
    }

    fn head(&mut self, at: u64) -> Result<std::result::Result<FrameHead, BadFrame>> {
        let bytes = self.bytes(at, FRAME_HEAD_LEN)?;
        let bytes = bytes.first_chunk().expect("a log is a multiple of a page");
        Ok(FrameHead::decode(bytes))
    }

    /// The frame at `at`, checked in full, if it belongs to this journal.
    fn frame(&mut self, at: u64) -> Result<Option<FrameHead>> {
        let head = match self.head(at)? {
            Ok(head) if head.owner == self.owner => head,
            Err(BadFrame::Version(_)) => {
                let reason = "a journal frame is of a newer version than this binary knows";
                return Err(Error::corrupt("journal", self.extent.offset + at, reason));
            }
            _ => return Ok(None),
        };
        Ok(self.body(at, &head)?.map(|_| head))
    }

    fn body(&mut self, at: u64, head: &FrameHead) -> Result<Option<&[u8]>> {
        let bytes = self.bytes(at, head.padded_len())?;
        Ok(head.body(bytes).ok())
    }
}

/// Where a frame was found.
#[derive(Clone, Copy)]
enum Source {
    /// In this copy.
    Copy(usize),
    /// Put together of both: `LogReader::mended`.
    Both,
}

/// What the copies of a log have in one place.
enum Found {
    /// What was looked for.
    Frame(FrameHead, Source),
    Nothing,
    /// Nothing, as far as it can be read: one copy cannot.
    Hidden(Error),
}

/// Takes a frame: its place, its head and its body.
pub(crate) type SeeFrame<'a> = &'a mut dyn FnMut(u64, &FrameHead, &[u8]) -> Result<()>;

/// Reads a log.
pub(crate) struct LogReader<'a> {
    log: Log,
    copies: Vec<Copy<'a>>,
    /// The frame that was put together last.
    mended: Vec<u8>,
}

impl<'a> LogReader<'a> {
    pub(crate) fn new(volumes: &'a Volumes, log: Log, owner: u64) -> Self {
        let copies = log.copies().map(|extent| Copy::new(volumes, extent, owner)).collect();
        Self { log, copies, mended: Vec::new() }
    }

    /// The first copy that has, at `at`, a frame that is looked for; else both together. Fails if
    /// no copy can be read.
    fn find(&mut self, at: u64, is_it: &dyn Fn(&FrameHead) -> bool) -> Result<Found> {
        if at >= self.log.len {
            return Ok(Found::Nothing);
        }
        let (mut unreadable, count) = (Vec::new(), self.copies.len());
        for (n, copy) in self.copies.iter_mut().enumerate() {
            match copy.frame(at) {
                Ok(Some(head)) if is_it(&head) => {
                    return Ok(Found::Frame(head, Source::Copy(n)));
                }
                Ok(_) => {}
                Err(error @ Error::Io { .. }) => unreadable.push(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(frame) = self.mend(at, is_it) {
            let head = frame.first_chunk().expect("a frame has a head");
            let head = FrameHead::decode(head).expect("it was decoded there");
            self.mended = frame;
            return Ok(Found::Frame(head, Source::Both));
        }
        let all = unreadable.len() == count;
        match unreadable.pop() {
            None => Ok(Found::Nothing),
            Some(error) if all => Err(error),
            Some(error) => Ok(Found::Hidden(error)),
        }
    }

    /// The frame at `at` of what is sound in either copy.
    fn mend(&self, at: u64, is_it: &dyn Fn(&FrameHead) -> bool) -> Option<Vec<u8>> {
        let [first, second] = self.copies.as_slice() else { return None };
        // By the page, so that one that cannot be read does not hide the others.
        let read = |copy: &Copy<'_>, len: usize| -> Vec<Option<IoBuf>> {
            let pages = (0..len / IO_ALIGN).map(|n| at + (n * IO_ALIGN) as u64);
            let mut page = |at| {
                let mut page = IoBuf::zeroed(IO_ALIGN);
                let read = copy.volumes.read(copy.extent.offset + at, &mut page, Priority::Read);
                read.ok().map(|()| page)
            };
            pages.map(&mut page).collect()
        };
        for copy in [first, second] {
            let begin = read(copy, IO_ALIGN).pop().flatten();
            let head = begin.and_then(|page| FrameHead::decode(page.first_chunk()?).ok());
            let Some(head) = head.filter(|head| head.owner == copy.owner && is_it(head)) else {
                continue;
            };
            let len = head.padded_len();
            if at + len as u64 > self.log.len {
                continue;
            }
            if let Some(frame) = mend(&head, [read(first, len), read(second, len)]) {
                return Some(frame);
            }
        }
        None
    }

    /// The mark at the start: the latest that a copy has; `None` if none has one.
    pub(crate) fn mark(&mut self) -> Result<Option<FrameHead>> {
        let is_mark = |head: &FrameHead| match head.kind {
            FrameKind::Retired => true,
            FrameKind::Begin => head.seqno == 1,
            _ => false,
        };
        let mut latest: Option<FrameHead> = None;
        loop {
            let before = latest.map_or(0, |mark| mark.generation);
            match self.find(0, &|head| is_mark(head) && head.generation > before)? {
                Found::Frame(mark, _) => latest = Some(mark),
                Found::Hidden(error) if latest.is_none() => return Err(error),
                Found::Nothing | Found::Hidden(_) => return Ok(latest),
            }
        }
    }

    /// What this log is, without its records.
    pub(crate) fn scan(&mut self) -> Result<LogState> {
        let first = match self.mark()? {
            Some(head) if head.kind == FrameKind::Retired => {
                return Ok(LogState::Retired { successor: head.generation });
            }
            Some(head) => head,
            None => return Ok(LogState::Unusable { generation_max: self.generation_max(0)? }),
        };
        let generation = first.generation;
        let mut at = first.padded_len() as u64;
        let mut seqno = first.seqno;
        let mut complete = false;
        loop {
            match self.next(at, (generation, seqno))? {
                Found::Frame(head, _) => {
                    complete |= head.kind == FrameKind::End;
                    at += head.padded_len() as u64;
                    seqno = head.seqno;
                }
                // Its end may be what is hidden.
                Found::Hidden(error) if !complete => return Err(error),
                Found::Nothing | Found::Hidden(_) => break,
            }
        }
        if !complete {
            return Ok(LogState::Incomplete { generation });
        }
        let rot = self.later_frame(at, generation, seqno)?.then_some(at);
        Ok(LogState::Complete { generation, seqno, tail: at, rot })
    }

    /// The frame at `at` that follows number `seqno` of a generation.
    fn next(&mut self, at: u64, (generation, seqno): (u64, u64)) -> Result<Found> {
        self.find(at, &|head| head.generation == generation && head.seqno == seqno + 1)
    }

    /// Calls `see` with every frame of a complete log, in order.
    pub(crate) fn each_frame(&mut self, elected: &Elected, see: SeeFrame<'_>) -> Result<()> {
        let (mut at, mut seqno) = (0, 0);
        while at < elected.tail {
            let position = self.log.offset + at;
            let changed =
                || Error::corrupt("journal", position, "a frame changed while it was read");
            let Found::Frame(head, source) = self.next(at, (elected.generation, seqno))? else {
                return Err(changed());
            };
            let body = match source {
                Source::Copy(copy) => self.copies[copy].body(at, &head)?,
                Source::Both => head.body(&self.mended).ok(),
            };
            let body = body.ok_or_else(changed)?;
            see(at, &head, body)?;
            (at, seqno) = (at + head.padded_len() as u64, head.seqno);
        }
        Ok(())
    }

    /// Calls `see` with every record of a complete log, in order.
    pub(crate) fn replay(
        &mut self,
        elected: &Elected,
        see: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let (mut count, offset) = (0, self.log.offset);
        self.each_frame(elected, &mut |at, _, body| {
            let found = records(body).ok_or_else(|| {
                let reason = "the record lengths of a frame do not add up";
                Error::corrupt("journal", offset + at, reason)
            })?;
            for record in found {
                see(record)?;
                count += 1;
            }
            Ok(())
        })?;
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

    /// Every intact head of this journal from `from` on, in whatever copy. Fails at a place that no
    /// copy can be read at.
    fn each_head(&mut self, from: u64, see: &mut dyn FnMut(&FrameHead)) -> Result<()> {
        let places = usize::try_from(self.log.len - from).unwrap_or(usize::MAX) / IO_ALIGN;
        // How many copies could not be read at a place; few can be, so few are kept.
        let mut failed = std::collections::BTreeMap::new();
        let count = self.copies.len();
        for copy in &mut self.copies {
            for page in 0..places {
                let at = from + (page * IO_ALIGN) as u64;
                match copy.head(at) {
                    Ok(Ok(head)) if head.owner == copy.owner => see(&head),
                    Ok(_) => {}
                    Err(error) => {
                        let times = failed.entry(page).or_insert(0);
                        *times += 1;
                        if *times == count {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
