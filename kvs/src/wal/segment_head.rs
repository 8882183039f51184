//! FORMAT: the head of a segment of the write-ahead log, version 3.
//!
//! A segment is a fixed extent of the pool, a multiple of 4 KiB. Its first page is the head; frames
//! follow from the second page on. Where there is no frame yet the second page holds the head
//! again, in a segment that was noted when it was taken into use (`note`): so its first frame is
//! there, or the head is, and anything else is rot.
//!
//! ```text
//! offset  size  field
//!      0     4  magic     "MWSG"
//!      4     2  version   3; frames are wide in 1, and in 2, which has a gap
//!      6     2  reserved  zero
//!      8     8  sequence  1, 2, 3, ...
//!     16     8  first     revision of the first frame
//!     24     4  gap       revisions skipped
//!     28     4  head_crc  CRC-32C of 0..28
//!     32     -  zeros to the end of the page
//! ```
//!
//! Integers are little-endian. `magic`, `version` and `head_crc` keep their places in every
//! version, so that a newer format, of frames too, is told from rot. How frames are written is told
//! by the version: as `frame` says, or as `wide` does in segments of earlier programs, which are
//! read, and get the present version with their next life.
//!
//! Invariants: a segment's head is durable before its first frame is written, and everything before
//! `first` is durable before the head is written. Within a segment revisions are consecutive. `gap`
//! revisions before `first` are in no frame: a crash may have lost frames that had them, so they
//! are not given again. Everything up to `first - 1 - gap` is in the log before this segment, or in
//! kvsets.

use super::frame::Frames;
use crate::key::Revision;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const SEGMENT_HEAD_LEN: usize = 32;
pub(super) const SEGMENT_VERSION: u16 = 3;
const WIDE_WITH_GAP: u16 = 2;
const WIDE: u16 = 1;
/// As [`Revision::LAST`].
pub(super) const SEQUENCE_LAST: u64 = Revision::LAST.get();
const SEGMENT_MAGIC: [u8; 4] = *b"MWSG";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegmentHead {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    sequence: U64,
    first: U64,
    gap: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawSegmentHead>() == SEGMENT_HEAD_LEN);
/// A head lies in one sector, so that it is written whole or not at all.
const _: () = assert!(SEGMENT_HEAD_LEN <= 512);

/// Why bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// Nothing was ever written here.
    Blank,
    Magic,
    Checksum,
    Version(u16),
    /// A field is outside its range.
    Range,
}

/// A segment's head whose every field has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) sequence: u64,
    pub(super) first: Revision,
    /// Revisions right before `first` that are in no frame.
    pub(super) gap: u32,
    pub(super) frames: Frames,
}

/// A segment's present life, as its frames tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) sequence: u64,
    pub(super) frames: Frames,
}

impl SegmentHead {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEAD_LEN] {
        assert!(self.sequence > 0);
        assert!(self.first.get() > u64::from(self.gap));
        let version = match self.frames {
            Frames::Compact => SEGMENT_VERSION,
            Frames::Wide if self.gap > 0 => WIDE_WITH_GAP,
            Frames::Wide => WIDE,
        };
        let mut raw = RawSegmentHead {
            magic: SEGMENT_MAGIC,
            version: U16::new(version),
            reserved: U16::ZERO,
            sequence: U64::new(self.sequence),
            first: U64::new(self.first.get()),
            gap: U32::new(self.gap),
            head_crc: U32::ZERO,
        };
        raw.head_crc = U32::new(head_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// Checks in the order that gives the best diagnosis: identity, integrity, then meaning.
    pub(super) fn decode(bytes: &[u8; SEGMENT_HEAD_LEN]) -> Result<Self, BadHead> {
        let raw: RawSegmentHead = zerocopy::transmute!(*bytes);
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(BadHead::Blank);
        }
        if raw.magic != SEGMENT_MAGIC {
            return Err(BadHead::Magic);
        }
        if raw.head_crc.get() != head_crc(bytes) {
            return Err(BadHead::Checksum);
        }
        let (version, gap) = (raw.version.get(), raw.gap.get());
        let (frames, gap_fits) = match version {
            WIDE => (Frames::Wide, gap == 0),
            WIDE_WITH_GAP => (Frames::Wide, gap > 0),
            SEGMENT_VERSION => (Frames::Compact, true),
            newer => return Err(BadHead::Version(newer)),
        };
        let (sequence, first) = (raw.sequence.get(), Revision::new(raw.first.get()));
        let head = Self { sequence, first, gap, frames };
        if !gap_fits || !head.is_in_range() || raw.reserved.get() != 0 {
            return Err(BadHead::Range);
        }
        Ok(head)
    }

    /// Whether the fields are such as a head may have.
    pub(super) fn is_in_range(self) -> bool {
        (1..=SEQUENCE_LAST).contains(&self.sequence)
            && self.first.get() > self.gap.into()
            && self.first <= Revision::LAST
    }

    pub(super) fn life(self) -> Life {
        Life { sequence: self.sequence, frames: self.frames }
    }

    /// Up to there everything is in the log before this segment, or in kvsets.
    pub(super) fn after(self) -> Revision {
        Revision::new(self.first.get() - 1 - u64::from(self.gap))
    }
}

/// CRC-32C of a head without its last field, the CRC.
pub(super) fn head_crc(head: &[u8]) -> u32 {
    crc32c::crc32c(&head[..head.len() - 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: SegmentHead = SegmentHead {
        sequence: 0x0102,
        first: Revision::new(0x0304),
        gap: 0,
        frames: Frames::Compact,
    };
    const WITH_GAP: SegmentHead = SegmentHead { gap: 0x0203, ..HEAD };
    const OLD: SegmentHead = SegmentHead { frames: Frames::Wide, ..HEAD };
    const OLD_WITH_GAP: SegmentHead = SegmentHead { frames: Frames::Wide, ..WITH_GAP };
    const ALL: [SegmentHead; 4] = [HEAD, WITH_GAP, OLD, OLD_WITH_GAP];

    #[test]
    fn layout_is_frozen() {
        for (head, version, gap) in
            [(HEAD, 3, [0; 2]), (WITH_GAP, 3, [3, 2]), (OLD, 1, [0; 2]), (OLD_WITH_GAP, 2, [3, 2])]
        {
            let mut bytes = *b"MWSG\0\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\0\0\0\0";
            bytes[4] = version;
            bytes[24..26].copy_from_slice(&gap);
            let encoded = head.encode();
            assert_eq!(encoded[..28], bytes);
            assert_eq!(encoded[28..], crc32c::crc32c(&bytes).to_le_bytes());
        }
    }

    #[test]
    fn heads_survive_a_round_trip() {
        for head in ALL {
            assert_eq!(SegmentHead::decode(&head.encode()), Ok(head));
        }
        assert_eq!(HEAD.after(), Revision::new(0x0303));
        assert_eq!(WITH_GAP.after(), Revision::new(0x0100));
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        for head in ALL {
            for bit in 0..SEGMENT_HEAD_LEN * 8 {
                let mut bytes = head.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(SegmentHead::decode(&bytes).is_err(), "{head:?}, bit {bit}");
            }
        }
    }

    /// A head with a field changed and its checksum made right again.
    fn forged(head: SegmentHead, at: usize, byte: u8) -> Result<SegmentHead, BadHead> {
        let mut bytes = head.encode();
        bytes[at] = byte;
        let crc = head_crc(&bytes).to_le_bytes();
        bytes[SEGMENT_HEAD_LEN - 4..].copy_from_slice(&crc);
        SegmentHead::decode(&bytes)
    }

    #[test]
    fn fields_out_of_range_are_rejected_though_the_checksum_is_right() {
        assert_eq!(forged(HEAD, 4, 4), Err(BadHead::Version(4)));
        for (head, at, byte) in [
            (HEAD, 6, 1),
            (HEAD, 7, 1),
            (HEAD, 27, 1),
            (OLD, 24, 1),
            (OLD, 4, 2),
            (OLD_WITH_GAP, 4, 1),
            (OLD_WITH_GAP, 27, 1),
        ] {
            assert_eq!(forged(head, at, byte), Err(BadHead::Range), "{head:?}, byte {at}");
        }
    }

    #[test]
    fn blank_space_is_told_from_rot() {
        assert_eq!(SegmentHead::decode(&[0; SEGMENT_HEAD_LEN]), Err(BadHead::Blank));
        assert_eq!(SegmentHead::decode(&[7; SEGMENT_HEAD_LEN]), Err(BadHead::Magic));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(
            mut bytes in prop::array::uniform32(any::<u8>()), version in 0_u8..5, small: bool,
        ) {
            bytes[..8].copy_from_slice(&[b'M', b'W', b'S', b'G', version, 0, 0, 0]);
            if small {
                bytes[20..28].fill(0);
            }
            let crc = head_crc(&bytes).to_le_bytes();
            bytes[28..].copy_from_slice(&crc);
            if let Ok(head) = SegmentHead::decode(&bytes) {
                prop_assert_eq!(head.encode(), bytes);
            }
        }
    }
}
