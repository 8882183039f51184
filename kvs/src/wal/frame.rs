//! Formats of the write-ahead log: the head of a segment, version 2, and the frame of a batch,
//! version 1.
//!
//! A segment is a fixed extent of the pool, a multiple of 4 KiB. Its first page is the head; frames
//! follow from the second page on. Where there is no frame yet the second page holds the head
//! again, in a segment that was noted when it was taken into use (`note`): so its first frame is
//! there, or the head is, and anything else is rot.
//!
//! ```text
//! segment head                                   frame
//! offset  size  field                            offset  size  field
//!      0     4  magic     "MWSG"                      0     4  magic     "MWFR"
//!      4     2  version   1, or 2 with a gap         4     2  version   1
//!      6     2  reserved  zero                        6     2  reserved  zero
//!      8     8  sequence  1, 2, 3, ...                8     8  sequence  that of the segment
//!     16     8  first     revision of the first      16     8  revision  of the batch
//!                         frame                      24     8  durable   see below
//!     24     4  gap       revisions skipped          32     4  body_len  of the batch
//!     28     4  head_crc  CRC-32C of 0..28           36     4  body_crc  CRC-32C of the body
//!     32     -  zeros to the end of the page         40     4  reserved  zero
//!                                                    44     4  head_crc  CRC-32C of 0..44
//!                                                    48     -  body, then zeros to a multiple of 8
//! ```
//!
//! Integers are little-endian. `magic`, `version` and `head_crc` (the last field of a head) keep
//! their places in every version, so that a newer format is told from rot.
//!
//! Frames written together follow each other without gaps; each write starts on a page and is
//! padded with zeros to the end of its last. So a reader that finds zeros where a magic should be
//! goes on at the next page, and a page that holds acknowledged frames is never written again: no
//! torn write can damage them. The price is up to a page of space for each write; it is no more
//! bytes on the drive than rewriting the last page would cost.
//!
//! Invariants: a segment's head is durable before its first frame is written, and everything before
//! `first` is durable before the head is written. `durable` is a revision up to which everything
//! was on stable storage when the frame was made: when a frame at or before it cannot be read, an
//! acknowledged write was lost, and the log is corrupt; a frame missing after it is a torn tail.
//! The sequence in each frame tells a segment's present life from an earlier one.
//!
//! Within a segment revisions are consecutive. `gap` revisions before `first` are in no frame: a
//! crash may have lost frames that had them, so they are not given again. Everything up to
//! `first - 1 - gap` is in the log before this segment, or in kvsets. A head without a gap is of
//! version 1, which has zero there.
//!
//! What a missing frame means is decided by `replay`.

use crate::key::Revision;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const SEGMENT_HEAD_LEN: usize = 32;
pub(super) const FRAME_HEAD_LEN: usize = 48;
/// Frames begin at multiples of this, so that a magic never straddles a page.
pub(super) const FRAME_ALIGN: usize = 8;

pub(super) const SEGMENT_VERSION: u16 = 2;
const SEGMENT_VERSION_WITHOUT_GAP: u16 = 1;
pub(super) const FRAME_VERSION: u16 = 1;
/// As [`Revision::LAST`].
const SEQUENCE_LAST: u64 = Revision::LAST.get();
const SEGMENT_MAGIC: [u8; 4] = *b"MWSG";
const FRAME_MAGIC: [u8; 4] = *b"MWFR";

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

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFrameHead {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    sequence: U64,
    revision: U64,
    durable: U64,
    body_len: U32,
    body_crc: U32,
    reserved_too: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawSegmentHead>() == SEGMENT_HEAD_LEN);
const _: () = assert!(size_of::<RawFrameHead>() == FRAME_HEAD_LEN);
const _: () = assert!(FRAME_HEAD_LEN.is_multiple_of(FRAME_ALIGN));
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
}

impl SegmentHead {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEAD_LEN] {
        assert!(self.sequence > 0);
        assert!(self.first.get() > u64::from(self.gap));
        let version = if self.gap == 0 { SEGMENT_VERSION_WITHOUT_GAP } else { SEGMENT_VERSION };
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
        let gap_fits = match version {
            SEGMENT_VERSION_WITHOUT_GAP => gap == 0,
            SEGMENT_VERSION => gap > 0,
            newer => return Err(BadHead::Version(newer)),
        };
        let head =
            Self { sequence: raw.sequence.get(), first: Revision::new(raw.first.get()), gap };
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

    /// Up to there everything is in the log before this segment, or in kvsets.
    pub(super) fn after(self) -> Revision {
        Revision::new(self.first.get() - 1 - u64::from(self.gap))
    }
}

/// A frame's head whose every field has been checked; its body has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) sequence: u64,
    pub(super) revision: Revision,
    pub(super) durable: Revision,
    pub(super) body_len: u32,
    pub(super) body_crc: u32,
}

impl FrameHead {
    pub(super) fn encode(self) -> [u8; FRAME_HEAD_LEN] {
        assert!(self.sequence > 0);
        assert!(self.durable < self.revision);
        let mut raw = RawFrameHead {
            magic: FRAME_MAGIC,
            version: U16::new(FRAME_VERSION),
            reserved: U16::ZERO,
            sequence: U64::new(self.sequence),
            revision: U64::new(self.revision.get()),
            durable: U64::new(self.durable.get()),
            body_len: U32::new(self.body_len),
            body_crc: U32::new(self.body_crc),
            reserved_too: U32::ZERO,
            head_crc: U32::ZERO,
        };
        raw.head_crc = U32::new(head_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// As [`SegmentHead::decode`].
    pub(super) fn decode(bytes: &[u8; FRAME_HEAD_LEN]) -> Result<Self, BadHead> {
        let raw: RawFrameHead = zerocopy::transmute!(*bytes);
        if raw.magic == [0; 4] {
            return Err(BadHead::Blank);
        }
        if raw.magic != FRAME_MAGIC {
            return Err(BadHead::Magic);
        }
        if raw.head_crc.get() != head_crc(bytes) {
            return Err(BadHead::Checksum);
        }
        if raw.version.get() != FRAME_VERSION {
            return Err(BadHead::Version(raw.version.get()));
        }
        let reserved = u32::from(raw.reserved.get()) | raw.reserved_too.get();
        let in_range = (1..=SEQUENCE_LAST).contains(&raw.sequence.get())
            && raw.durable.get() < raw.revision.get()
            && raw.revision.get() <= Revision::LAST.get();
        if !in_range || reserved != 0 {
            return Err(BadHead::Range);
        }
        Ok(Self {
            sequence: raw.sequence.get(),
            revision: Revision::new(raw.revision.get()),
            durable: Revision::new(raw.durable.get()),
            body_len: raw.body_len.get(),
            body_crc: raw.body_crc.get(),
        })
    }

    /// Bytes from this frame's start to the next one's.
    pub(super) fn frame_len(self) -> u64 {
        frame_len(u64::from(self.body_len))
    }
}

/// Bytes that a body takes with its head and padding.
pub(super) fn frame_len(body_len: u64) -> u64 {
    let head_len = u64::try_from(FRAME_HEAD_LEN).expect("48");
    let align = u64::try_from(FRAME_ALIGN).expect("8");
    (head_len + body_len).next_multiple_of(align)
}

/// CRC-32C of a head without its last field, the CRC.
fn head_crc(head: &[u8]) -> u32 {
    crc32c::crc32c(&head[..head.len() - 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentHead =
        SegmentHead { sequence: 0x0102, first: Revision::new(0x0304), gap: 0 };
    const AFTER_A_GAP: SegmentHead = SegmentHead { gap: 0x0203, ..SEGMENT };
    const FRAME: FrameHead = FrameHead {
        sequence: 0x0102,
        revision: Revision::new(0x0304),
        durable: Revision::new(0x0303),
        body_len: 0x0506,
        body_crc: 0x0708_090a,
    };

    #[test]
    fn layout_is_frozen() {
        let segment = *b"MWSG\x01\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\0\0\0\0";
        let encoded = SEGMENT.encode();
        assert_eq!(encoded[..28], segment);
        assert_eq!(encoded[28..], crc32c::crc32c(&segment).to_le_bytes());
        let segment = *b"MWSG\x02\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\x02\0\0";
        assert_eq!(AFTER_A_GAP.encode()[..28], segment);

        let frame = *b"MWFR\x01\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\
            \x06\x05\0\0\x0a\x09\x08\x07\0\0\0\0";
        let encoded = FRAME.encode();
        assert_eq!(encoded[..44], frame);
        assert_eq!(encoded[44..], crc32c::crc32c(&frame).to_le_bytes());
    }

    #[test]
    fn heads_survive_a_round_trip() {
        assert_eq!(SegmentHead::decode(&SEGMENT.encode()), Ok(SEGMENT));
        assert_eq!(SegmentHead::decode(&AFTER_A_GAP.encode()), Ok(AFTER_A_GAP));
        assert_eq!(SEGMENT.after(), Revision::new(0x0303));
        assert_eq!(AFTER_A_GAP.after(), Revision::new(0x0100));
        assert_eq!(FrameHead::decode(&FRAME.encode()), Ok(FRAME));
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        for bit in 0..SEGMENT_HEAD_LEN * 8 {
            let mut bytes = SEGMENT.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHead::decode(&bytes).is_err(), "segment head, bit {bit}");
        }
        for bit in 0..FRAME_HEAD_LEN * 8 {
            let mut bytes = FRAME.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHead::decode(&bytes).is_err(), "frame head, bit {bit}");
        }
    }

    /// A head with a field changed and its checksum made right again.
    fn forged<const LEN: usize>(mut bytes: [u8; LEN], at: usize, byte: u8) -> [u8; LEN] {
        bytes[at] = byte;
        let crc = head_crc(&bytes).to_le_bytes();
        bytes[LEN - 4..].copy_from_slice(&crc);
        bytes
    }

    #[test]
    fn fields_out_of_range_are_rejected_though_the_checksum_is_right() {
        assert_eq!(SegmentHead::decode(&forged(SEGMENT.encode(), 4, 3)), Err(BadHead::Version(3)));
        assert_eq!(FrameHead::decode(&forged(FRAME.encode(), 4, 9)), Err(BadHead::Version(9)));
        for at in [6, 7, 24, 27] {
            let bytes = forged(SEGMENT.encode(), at, 1);
            assert_eq!(SegmentHead::decode(&bytes), Err(BadHead::Range), "byte {at}");
        }
        for (at, byte) in [(4, 1), (27, 1)] {
            let bytes = forged(AFTER_A_GAP.encode(), at, byte);
            assert_eq!(SegmentHead::decode(&bytes), Err(BadHead::Range), "byte {at}");
        }
        assert_eq!(SegmentHead::decode(&forged(SEGMENT.encode(), 4, 2)), Err(BadHead::Range));
        for at in [6, 7, 40, 43] {
            let bytes = forged(FRAME.encode(), at, 1);
            assert_eq!(FrameHead::decode(&bytes), Err(BadHead::Range), "byte {at}");
        }
        // `durable` at `revision`.
        let bytes = forged(FRAME.encode(), 24, 4);
        assert_eq!(FrameHead::decode(&bytes), Err(BadHead::Range));
    }

    #[test]
    fn blank_space_is_told_from_rot() {
        assert_eq!(SegmentHead::decode(&[0; SEGMENT_HEAD_LEN]), Err(BadHead::Blank));
        assert_eq!(FrameHead::decode(&[0; FRAME_HEAD_LEN]), Err(BadHead::Blank));
        assert_eq!(FrameHead::decode(&[7; FRAME_HEAD_LEN]), Err(BadHead::Magic));
    }

    #[test]
    fn frames_are_padded_to_their_alignment() {
        assert_eq!([0, 1, 8, 9].map(frame_len), [48, 56, 56, 64]);
    }
}
