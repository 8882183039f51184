//! Verifying a journal: every frame of the log that counts, and the mark at the start of the other,
//! in every copy of theirs.
//!
//! ```text
//!   active log   [begin][state][end][record][record] tail | dead bytes, not looked at
//!   passive log  [mark, or zeros] dead bytes, not looked at
//! ```
//!
//! The tail is known for a journal that is open: everything before it was acknowledged, so damage
//! in the last frame is told from an append that was cut short, which reading the log alone cannot
//! do. Appends go on meanwhile: frames before the tail do not change until the log is rewritten,
//! and whoever finds damage asks again where the journal is before it counts.

use super::{
    finding::{Damage, Finding, ScrubPart, ScrubTarget, push},
    reader::{Halted, Pages, Reader},
};
use crate::{
    address::Extent,
    heads::log::Log,
    journal::mdc::{
        frame::{self, FRAME_HEAD_LEN, FrameHead, FrameKind},
        pair::Position,
    },
};
use mpool_device::IO_ALIGN;

const PAGE: u64 = IO_ALIGN as u64;

/// Verifies the frames of the active log up to its tail, and the mark of the other; each copy for
/// itself.
pub(crate) fn verify(
    (target, owner): (ScrubTarget, u64),
    position: &Position,
    reader: &mut Reader<'_>,
    findings: &mut Vec<Finding>,
) -> Halted<()> {
    for log in [position.active, 1 - position.active] {
        for (copy, extent) in position.logs[log].copies().enumerate() {
            let walk = Walk { target, owner, position, extent, part: ScrubPart::of_log(log, copy) };
            if log == position.active {
                walk.active(reader, findings)?;
            } else {
                walk.passive(reader, findings)?;
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    target: ScrubTarget,
    owner: u64,
    position: &'a Position,
    /// One copy of one log.
    extent: Extent,
    part: ScrubPart,
}

/// What stands where the next frame should begin.
enum Frame {
    /// Intact; the next one begins so much later.
    Good { seqno: u64, len: u64 },
    /// Its head is intact, and says how long it is.
    BadBody { seqno: u64, len: u64, damage: Damage },
    /// Nothing is known of its length.
    BadHead(Damage),
}

impl Walk<'_> {
    fn note(&self, at: u64, len: u64, damage: Damage, findings: &mut Vec<Finding>) {
        let address = self.extent.offset + at;
        push(findings, Finding::at((self.target, self.part), at, (address, len), damage));
    }

    fn active(&self, reader: &mut Reader<'_>, findings: &mut Vec<Finding>) -> Halted<()> {
        let (mut at, mut seqno) = (0, 0);
        let tail = self.position.tail;
        while at < tail {
            match self.frame(at, seqno, reader)? {
                Frame::Good { seqno: found, len } => (seqno, at) = (found, at + len),
                Frame::BadBody { seqno: found, len, damage } => {
                    self.note(at, len, damage, findings);
                    (seqno, at) = (found, at + len);
                }
                Frame::BadHead(damage) => {
                    self.note(at, PAGE, damage, findings);
                    at = self.resume(at + PAGE, &mut seqno, reader)?;
                }
            }
        }
        Ok(())
    }

    /// The frame at `at`, which follows number `seqno`.
    fn frame(&self, at: u64, seqno: u64, reader: &mut Reader<'_>) -> Halted<Frame> {
        let address = self.extent.offset + at;
        let Some(page) = reader.page(address)? else {
            return Ok(Frame::BadHead(Damage::Unreadable));
        };
        let head = FrameHead::decode(page.first_chunk().expect("a page holds a head"));
        let Ok(head) = head else { return Ok(Frame::BadHead(Damage::Checksum)) };
        let len = head.padded_len() as u64;
        if !self.is_ours(&head) || head.seqno != seqno + 1 || at + len > self.position.tail {
            return Ok(Frame::BadHead(Damage::Misplaced));
        }
        let seqno = head.seqno;
        let rest = if len > PAGE {
            reader.pages(address + PAGE, usize::try_from(len - PAGE).expect("a frame"))?
        } else {
            Pages { bytes: Vec::new(), unreadable: Vec::new() }
        };
        if !rest.unreadable.is_empty() {
            return Ok(Frame::BadBody { seqno, len, damage: Damage::Unreadable });
        }
        let whole = [page, rest.bytes].concat();
        let padding = FRAME_HEAD_LEN + head.body_len..whole.len();
        let sound = head.body(&whole).is_ok() && whole[padding].iter().all(|byte| *byte == 0);
        Ok(if sound {
            Frame::Good { seqno, len }
        } else {
            Frame::BadBody { seqno, len, damage: Damage::Checksum }
        })
    }

    fn is_ours(&self, head: &FrameHead) -> bool {
        head.owner == self.owner && head.generation == self.position.generation
    }

    /// Where the next frame of this log begins, from `at` on; the tail if there is none.
    fn resume(&self, from: u64, seqno: &mut u64, reader: &mut Reader<'_>) -> Halted<u64> {
        let mut at = from;
        while at < self.position.tail {
            if let Some(page) = reader.page(self.extent.offset + at)?
                && let Ok(head) = FrameHead::decode(page.first_chunk().expect("a page"))
                && self.is_ours(&head)
                && head.seqno > *seqno
            {
                *seqno = head.seqno - 1;
                return Ok(at);
            }
            at += PAGE;
        }
        Ok(self.position.tail)
    }

    /// The log that does not count: its first page is a mark without a body, or was never written.
    fn passive(&self, reader: &mut Reader<'_>, findings: &mut Vec<Finding>) -> Halted<()> {
        let damage = match reader.page(self.extent.offset)? {
            None => Some(Damage::Unreadable),
            Some(page) if page.iter().all(|byte| *byte == 0) => None,
            Some(page) => {
                let head = FrameHead::decode(page.first_chunk().expect("a page holds a head"));
                match head {
                    Err(_) => Some(Damage::Checksum),
                    Ok(head) if head.owner != self.owner => Some(Damage::Misplaced),
                    Ok(head) => {
                        let mark = matches!(head.kind, FrameKind::Begin | FrameKind::Retired);
                        let blank = page[FRAME_HEAD_LEN..].iter().all(|byte| *byte == 0);
                        (!mark || !blank || head.body_len > 0).then_some(Damage::Checksum)
                    }
                }
            }
        };
        if let Some(damage) = damage {
            self.note(0, PAGE, damage, findings);
        }
        Ok(())
    }
}

/// A journal that cannot be opened: the place that its election complains of.
pub(crate) fn lost(target: ScrubTarget, logs: &[Log; 2], address: u64) -> Finding {
    let copies = logs.iter().enumerate().flat_map(|(log, place)| {
        let copies = place.copies().enumerate();
        copies.map(move |(copy, extent)| (ScrubPart::of_log(log, copy), extent))
    });
    let here = |(_, extent): &(_, Extent)| (extent.offset..extent.end()).contains(&address);
    let (part, copy) =
        copies.clone().find(here).or_else(|| copies.clone().next()).expect("two logs");
    let at = address.saturating_sub(copy.offset).min(copy.len - IO_ALIGN as u64);
    let place = (copy.offset + at, IO_ALIGN as u64);
    Finding::at((target, part), at, place, Damage::Checksum)
}

/// What stands at the tail of a journal that nobody has open, if it was once the next frame.
pub(crate) fn torn(
    (target, owner): (ScrubTarget, u64),
    position: &Position,
    reader: &mut Reader<'_>,
) -> Option<Finding> {
    let log = position.logs[position.active];
    if position.tail >= log.len {
        return None;
    }
    let words = [owner, position.generation, position.seqno + 1];
    log.copies().enumerate().find_map(|(copy, extent)| {
        let address = extent.offset + position.tail;
        let page = reader.page(address).ok()??;
        let part = ScrubPart::of_log(position.active, copy);
        let place = (address, IO_ALIGN as u64);
        let next = frame::was_head(page.first_chunk()?, words);
        next.then(|| Finding::at((target, part), position.tail, place, Damage::TornOrDamaged))
    })
}
