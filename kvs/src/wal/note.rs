//! FORMAT: the note of the segment that was taken into use last, version 2.
//!
//! A head that rot has blanked looks like that of a segment that was never used, and a segment that
//! is not known to be the last says nothing of what was in it. So each segment that is taken into
//! use is noted as a property of the pool, after its head is durable and before its first frame: a
//! noted head must be there. One append to the pool's journal a segment, which is tens of MiB of
//! log.
//!
//! ```text
//! offset  size  field
//!      0     1  version   2; 1 where its frames are wide (`wide`), as earlier programs noted it
//!      1     8  segment   its id in the pool
//!      9     8  sequence  the fields of its head
//!     17     8  first
//!     25     4  gap
//! ```
//!
//! Integers are little-endian.

use super::frame::Frames;
use super::segment_head::SegmentHead;
use crate::error::{Error, Result};
use crate::key::Revision;
use mpool::Pool;

/// Property of the pool that is the note.
const PROPERTY: &str = "kvs.log";
const VERSION: u8 = 2;
const WIDE: u8 = 1;
const LEN: usize = 29;

/// What was written down of the segment that was taken into use last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) segment: u64,
    pub(super) head: SegmentHead,
}

impl Note {
    /// None where no segment was noted yet.
    pub(super) fn read(pool: &Pool) -> Result<Option<Self>> {
        pool.property(PROPERTY).map(|raw| Self::decode(&raw)).transpose()
    }

    /// Leaves it, durably.
    pub(super) fn leave(self, pool: &Pool) -> Result<()> {
        Ok(pool.set_property(PROPERTY, &self.encode())?)
    }

    fn encode(self) -> [u8; LEN] {
        let SegmentHead { sequence, first, gap, frames } = self.head;
        let mut raw = [if frames == Frames::Wide { WIDE } else { VERSION }; LEN];
        for (to, word) in raw[1..25].chunks_exact_mut(8).zip([self.segment, sequence, first.get()])
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        raw[25..].copy_from_slice(&gap.to_le_bytes());
        raw
    }

    fn decode(raw: &[u8]) -> Result<Self> {
        if let Some(&found) = raw.first().filter(|found| **found > VERSION) {
            return Err(Error::Format { found: found.into(), supported: VERSION.into() });
        }
        let bad = |reason: &str| Error::Corrupt {
            what: format!("note of the write-ahead log's last segment (property {PROPERTY})"),
            reason: reason.to_owned(),
        };
        let raw: &[u8; LEN] = raw.try_into().map_err(|_| bad("it has a wrong length"))?;
        let word = |at: usize| u64::from_le_bytes(*raw[at..].first_chunk().expect("29 bytes"));
        let gap = u32::from_le_bytes(*raw[25..].first_chunk().expect("29 bytes"));
        let frames = if raw[0] == WIDE { Frames::Wide } else { Frames::Compact };
        let head = SegmentHead { sequence: word(9), first: Revision::new(word(17)), gap, frames };
        if raw[0] == 0 || !head.is_in_range() {
            return Err(bad("its fields do not fit each other"));
        }
        Ok(Self { segment: word(1), head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOTE: Note = Note {
        segment: 0x0102,
        head: SegmentHead {
            sequence: 3,
            first: Revision::new(0x0405),
            gap: 6,
            frames: Frames::Compact,
        },
    };

    #[test]
    fn layout_is_frozen() {
        let mut raw = [0; LEN];
        for (at, byte) in [(0, 2), (1, 2), (2, 1), (9, 3), (17, 5), (18, 4), (25, 6)] {
            raw[at] = byte;
        }
        assert_eq!(NOTE.encode(), raw);
        assert_eq!(Note::decode(&raw).unwrap(), NOTE);
        raw[0] = 1;
        let old = Note { head: SegmentHead { frames: Frames::Wide, ..NOTE.head }, ..NOTE };
        assert_eq!(Note::decode(&raw).unwrap(), old);
        raw[0] = 3;
        assert!(matches!(Note::decode(&raw), Err(Error::Format { found: 3, supported: 2 })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            mut raw in prop::collection::vec(any::<u8>(), 0..40), fits: bool,
            version in WIDE..=VERSION,
        ) {
            if fits {
                raw.resize(LEN, 0);
                raw[0] = version;
            }
            if let Ok(note) = Note::decode(&raw) {
                prop_assert_eq!(&note.encode()[..], &raw[..]);
            }
        }
    }
}
