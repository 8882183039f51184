//! Verifying the log in a segment while appends go on.
//!
//! Frames up to a revision that is durable must all be there: unlike replay, which cannot know
//! where the log ended, this tells damage in the last frame from an append that was cut short.
//! Padding and what lies behind the last frame is nobody's.

use super::frame::PAGE_BYTES;
use super::reader::Reader;
use super::replay::segment_head;
use crate::key::Revision;
use mpool::Segment;

/// Frames are read in about such pieces between two calls of `pause`.
const PAUSE_BYTES: u64 = 128 << 10;

/// What was found in a segment.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Of the segment's present life; 0 if its head cannot be read.
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: Vec<Damaged>,
}

/// A damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    /// Offset and length, in whole pages.
    pub(crate) place: (u64, u64),
    /// The first and the last revision whose frames are there; none for a head.
    pub(crate) revisions: Option<(Revision, Revision)>,
}

/// The sequence number that the segment's head gives; 0 if there is none.
pub(crate) fn sequence_of(segment: &Segment) -> u64 {
    segment_head(segment).ok().flatten().map_or(0, |head| head.sequence)
}

/// Verifies every frame up to `last`. `pause` is called before so many bytes are read, and ends the
/// work when it answers false.
pub(crate) fn verify(
    segment: &Segment,
    last: Revision,
    pause: &mut dyn FnMut(u64) -> bool,
) -> Verified {
    let mut verified = Verified::default();
    let Ok(Some(head)) = segment_head(segment) else {
        verified.damaged.push(Damaged { place: (0, PAGE_BYTES), revisions: None });
        return verified;
    };
    verified.sequence = head.sequence;
    let mut reader = Reader::new(segment);
    let (mut at, mut wanted, mut paid) = (PAGE_BYTES, head.first, 0);
    while wanted <= last {
        if paid <= at {
            if !pause(PAUSE_BYTES) {
                break;
            }
            paid = at + PAUSE_BYTES;
        }
        if let Ok(Some((start, frame))) = reader.frame_at(at, head.life(), wanted) {
            let end = start + frame.frame_len();
            if !matches!(reader.body(start, frame), Ok(Some(_))) {
                let revisions = Some((wanted, wanted));
                verified.damaged.push(Damaged { place: pages(start, end), revisions });
            }
            (at, wanted) = (end, wanted.next());
            continue;
        }
        // Behind padding the frame began on the page after it.
        let next = reader.resume(head.life(), at, wanted.next()..=last).ok().flatten();
        at = reader.behind_padding(at, head.life()).unwrap_or(at);
        let end = next.map_or(at + 1, |(start, _)| start);
        let lost = next.map_or(last, |(_, frame)| Revision::new(frame.revision.get() - 1));
        let revisions = Some((wanted, lost));
        verified.damaged.push(Damaged { place: pages(at, end), revisions });
        let Some((start, frame)) = next else { break };
        (at, wanted) = (start, frame.revision);
    }
    verified.bytes = at;
    verified
}

/// The pages that `start..end` lies in, as offset and length.
fn pages(start: u64, end: u64) -> (u64, u64) {
    let first = start / PAGE_BYTES * PAGE_BYTES;
    (first, end.max(start + 1).next_multiple_of(PAGE_BYTES) - first)
}
