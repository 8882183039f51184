//! FORMAT: the frame of a batch in the write-ahead log, version 2.
//!
//! A frame is a head and a body, the batch. It begins where the one before it ends. One that begins
//! a page has a long head; all others have a short one.
//!
//! ```text
//! short head                                     long head
//! offset  size  field                            offset  size  field
//!      0     4  kind      1, and above the 2          0     4  kind      2, and body_len
//!               lowest bits body_len                  4     4  revision  lower half
//!      4     4  revision  lower half                  8     4  body_crc
//!      8     4  body_crc  CRC-32C of the body        12     4  revision  upper half
//!     12     4  head_crc  of the pool's UUID,        16     8  sequence  that of the segment
//!               sequence (8 bytes), upper half       24     8  durable   see below
//!               of the revision (4), and 0..12       32     4  head_crc  of the UUID and 0..32
//!     16     -  body                                 36     -  body
//! ```
//!
//! Integers are little-endian, checksums CRC-32C. The first byte of a frame is not zero.
//!
//! Frames written together follow each other without gaps; each write starts on a page and is
//! padded with zeros to the end of its last. So a reader that finds a zero where a frame should be
//! goes on at the next page, and a page that holds acknowledged frames is never written again: no
//! torn write can damage them. The price is up to a page of space for each write; it is no more
//! bytes on the drive than rewriting the last page would cost.
//!
//! Invariant: `durable` is a revision up to which everything was on stable storage when the frame
//! was made: when a frame at or before it cannot be read, an acknowledged write was lost, and the
//! log is corrupt; a frame missing after it is a torn tail. Only long heads have it, as what
//! follows a flush of the drive begins a page.
//!
//! **What a short head leaves out is checked all the same.** A reader knows which revision it
//! wants, and of which life of the segment. The lower half of the revision is compared; its upper
//! half and the sequence are in the checksum. A frame of an earlier life is not taken for one of
//! this: it has the same bytes under a number that differs within 32 bits, as sequences below 2^32
//! do (2^54 bytes of log at least), and CRC-32C finds every such difference. One that another pool
//! has left is taken once in 2^32. Head and body have a checksum each, so a head tells where the
//! next frame begins and which batch is lost, also where the body is rot. A zero in the first byte
//! that is rot leads to the next page, where only the frame that is wanted would do.
//!
//! What a missing frame means is decided by `replay`.

use super::segment_head::{BadHead, Life, SEQUENCE_LAST};
use super::wide;
use crate::entry::batch::WriteBatch;
use crate::error::Result;
use crate::key::Revision;
use mpool::Segment;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const SHORT_HEAD_LEN: usize = 16;
pub(super) const LONG_HEAD_LEN: usize = 36;
const KIND_BITS: u32 = 2;
const SHORT: u32 = 1;
const LONG: u32 = 2;
const BODY_LEN_MAX: u32 = u32::MAX >> KIND_BITS;

/// What the checksums of heads begin with: the pool's UUID. A segment may hold what another pool's
/// log, with the same sequences and revisions, has left in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn of(segment: &Segment) -> Self {
        Self(crc32c::crc32c(&segment.pool_uuid()))
    }

    /// CRC-32C of the UUID and `parts`.
    fn crc(self, parts: &[&[u8]]) -> u32 {
        parts.iter().fold(self.0, |crc, part| crc32c::crc32c_append(crc, part))
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawShort {
    kind: U32,
    revision: U32,
    body_crc: U32,
    head_crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLong {
    kind: U32,
    revision: U32,
    body_crc: U32,
    revision_upper: U32,
    sequence: U64,
    durable: U64,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawShort>() == SHORT_HEAD_LEN);
const _: () = assert!(size_of::<RawLong>() == LONG_HEAD_LEN);
/// Segments are 1 GiB at most.
const _: () = assert!(BODY_LEN_MAX as u64 >= (1 << 30) - 1);

/// How a segment's frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// As earlier programs did.
    Wide,
    Compact,
}

/// Which head a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Wide,
    Short,
    Long,
}

/// A frame's head whose every field has been checked; its body has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) revision: Revision,
    /// Zero in a short head: it proves nothing.
    pub(super) durable: Revision,
    pub(super) body_len: u32,
    pub(super) body_crc: u32,
}

impl Frames {
    /// The batch that a frame's body is.
    pub(super) fn batch(self, body: Vec<u8>) -> Result<WriteBatch> {
        match self {
            Self::Wide => wide::batch(&body),
            Self::Compact => WriteBatch::from_body(body),
        }
    }
}

impl FrameHead {
    /// Bytes of the head.
    pub(super) fn len(self) -> u64 {
        let len = match self.kind {
            Kind::Wide => wide::HEAD_LEN,
            Kind::Short => SHORT_HEAD_LEN,
            Kind::Long => LONG_HEAD_LEN,
        };
        u64::try_from(len).expect("48 at most")
    }

    /// Bytes from this frame's start to the next one's.
    pub(super) fn frame_len(self) -> u64 {
        let len = self.len() + u64::from(self.body_len);
        if self.kind == Kind::Wide { wide::padded(len) } else { len }
    }

    pub(super) fn encode_short(self, salt: Salt) -> [u8; SHORT_HEAD_LEN] {
        assert!(self.kind == Kind::Short);
        let (revision, _) = halves(self.revision);
        let mut raw = RawShort {
            kind: self.word(SHORT),
            revision,
            body_crc: U32::new(self.body_crc),
            head_crc: U32::ZERO,
        };
        raw.head_crc = U32::new(short_crc(salt, self.sequence, self.revision, raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    pub(super) fn encode_long(self, salt: Salt) -> [u8; LONG_HEAD_LEN] {
        assert!(self.kind == Kind::Long);
        assert!(self.durable < self.revision);
        let (revision, revision_upper) = halves(self.revision);
        let mut raw = RawLong {
            kind: self.word(LONG),
            revision,
            body_crc: U32::new(self.body_crc),
            revision_upper,
            sequence: U64::new(self.sequence),
            durable: U64::new(self.durable.get()),
            head_crc: U32::ZERO,
        };
        raw.head_crc = U32::new(long_crc(salt, raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    fn word(self, kind: u32) -> U32 {
        assert!(self.sequence > 0);
        assert!(self.body_len <= BODY_LEN_MAX);
        U32::new(self.body_len << KIND_BITS | kind)
    }

    /// A short head in `life`. Its revision is the first one from `from` on with the lower half
    /// that it has.
    pub(super) fn decode_short(
        bytes: &[u8; SHORT_HEAD_LEN],
        salt: Salt,
        life: Life,
        from: Revision,
    ) -> Result<Self, BadHead> {
        let raw: RawShort = zerocopy::transmute!(*bytes);
        let body_len = body_len(raw.kind, SHORT)?;
        let (lower, _) = halves(from);
        let further = raw.revision.get().wrapping_sub(lower.get());
        let revision = Revision::new(from.get().saturating_add(further.into()));
        if raw.head_crc.get() != short_crc(salt, life.sequence, revision, bytes) {
            return Err(BadHead::Checksum);
        }
        if revision == Revision::ZERO || revision > Revision::LAST {
            return Err(BadHead::Range);
        }
        Ok(Self {
            kind: Kind::Short,
            sequence: life.sequence,
            revision,
            durable: Revision::ZERO,
            body_len,
            body_crc: raw.body_crc.get(),
        })
    }

    /// A long head, of any life.
    pub(super) fn decode_long(bytes: &[u8; LONG_HEAD_LEN], salt: Salt) -> Result<Self, BadHead> {
        let raw: RawLong = zerocopy::transmute!(*bytes);
        let body_len = body_len(raw.kind, LONG)?;
        if raw.head_crc.get() != long_crc(salt, bytes) {
            return Err(BadHead::Checksum);
        }
        let [lower, upper] = [raw.revision, raw.revision_upper].map(|half| u64::from(half.get()));
        let revision = Revision::new(upper << 32 | lower);
        let (sequence, durable) = (raw.sequence.get(), Revision::new(raw.durable.get()));
        let in_range = (1..=SEQUENCE_LAST).contains(&sequence)
            && durable < revision
            && revision <= Revision::LAST;
        let body_crc = raw.body_crc.get();
        let head = Self { kind: Kind::Long, sequence, revision, durable, body_len, body_crc };
        in_range.then_some(head).ok_or(BadHead::Range)
    }
}

/// At most so many bytes are taken by a body and its head.
pub(super) fn frame_len_max(body_len: u64) -> u64 {
    u64::try_from(LONG_HEAD_LEN).expect("36") + body_len
}

/// At least so many bytes are taken by any frame.
pub(super) fn frame_len_min() -> u64 {
    u64::try_from(SHORT_HEAD_LEN).expect("16")
}

fn body_len(word: U32, kind: u32) -> Result<u32, BadHead> {
    if word.as_bytes()[0] == 0 {
        return Err(BadHead::Blank);
    }
    let word = word.get();
    if word & ((1 << KIND_BITS) - 1) != kind {
        return Err(BadHead::Magic);
    }
    Ok(word >> KIND_BITS)
}

/// The lower and the upper half.
fn halves(revision: Revision) -> (U32, U32) {
    let half = |word: u64| U32::new(u32::try_from(word & u64::from(u32::MAX)).expect("32 bits"));
    (half(revision.get()), half(revision.get() >> 32))
}

fn short_crc(salt: Salt, sequence: u64, revision: Revision, head: &[u8]) -> u32 {
    let (_, upper) = halves(revision);
    salt.crc(&[&sequence.to_le_bytes(), upper.as_bytes(), &head[..head.len() - 4]])
}

fn long_crc(salt: Salt, head: &[u8]) -> u32 {
    salt.crc(&[&head[..head.len() - 4]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORT_FRAME: FrameHead = FrameHead {
        kind: Kind::Short,
        sequence: 0x0102,
        revision: Revision::new(0x0001_0000_0304),
        durable: Revision::ZERO,
        body_len: 0x0506,
        body_crc: 0x0708_090a,
    };
    const LONG_FRAME: FrameHead =
        FrameHead { kind: Kind::Long, durable: Revision::new(0x0001_0000_0303), ..SHORT_FRAME };
    const SALT: Salt = Salt(0x0b0c_0d0e);
    const LIFE: Life = Life { sequence: 0x0102, frames: Frames::Compact };

    fn short(bytes: &[u8; SHORT_HEAD_LEN]) -> Result<FrameHead, BadHead> {
        FrameHead::decode_short(bytes, SALT, LIFE, SHORT_FRAME.revision)
    }

    #[test]
    fn layout_is_frozen() {
        let start = *b"\x19\x14\0\0\x04\x03\0\0\x0a\x09\x08\x07";
        let encoded = SHORT_FRAME.encode_short(SALT);
        assert_eq!(encoded[..12], start);
        let covered = [&b"\x02\x01\0\0\0\0\0\0\x01\0\0\0"[..], &start].concat();
        assert_eq!(encoded[12..], crc32c::crc32c_append(SALT.0, &covered).to_le_bytes());

        let start = *b"\x1a\x14\0\0\x04\x03\0\0\x0a\x09\x08\x07\x01\0\0\0\
            \x02\x01\0\0\0\0\0\0\x03\x03\0\0\x01\0\0\0";
        let encoded = LONG_FRAME.encode_long(SALT);
        assert_eq!(encoded[..32], start);
        assert_eq!(encoded[32..], crc32c::crc32c_append(SALT.0, &start).to_le_bytes());
    }

    #[test]
    fn heads_survive_a_round_trip() {
        assert_eq!(FrameHead::decode_long(&LONG_FRAME.encode_long(SALT), SALT), Ok(LONG_FRAME));
        let bytes = SHORT_FRAME.encode_short(SALT);
        for from in [0x0000_0001_0000_0304_u64, 0x0001_0000_0000, 0x0000_0000_0305] {
            let from = Revision::new(from);
            assert_eq!(
                FrameHead::decode_short(&bytes, SALT, LIFE, from),
                Ok(SHORT_FRAME),
                "{from}"
            );
        }
        for other in [0x0001_0000_0305, 0x0304, 0] {
            let found = FrameHead::decode_short(&bytes, SALT, LIFE, Revision::new(other));
            assert_eq!(found, Err(BadHead::Checksum), "{other}: another revision");
        }
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        for bit in 0..SHORT_HEAD_LEN * 8 {
            let mut bytes = SHORT_FRAME.encode_short(SALT);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(short(&bytes).is_err(), "short head, bit {bit}");
        }
        for bit in 0..LONG_HEAD_LEN * 8 {
            let mut bytes = LONG_FRAME.encode_long(SALT);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHead::decode_long(&bytes, SALT).is_err(), "long head, bit {bit}");
        }
    }

    #[test]
    fn fields_out_of_range_are_rejected_though_the_checksum_is_right() {
        let forged = |at: usize, byte: u8| {
            let mut bytes = LONG_FRAME.encode_long(SALT);
            bytes[at] = byte;
            let crc = long_crc(SALT, &bytes).to_le_bytes();
            bytes[LONG_HEAD_LEN - 4..].copy_from_slice(&crc);
            FrameHead::decode_long(&bytes, SALT)
        };
        // Kinds that are not known; `durable` at `revision`; numbers beyond the last.
        assert_eq!(forged(0, 0x1b), Err(BadHead::Magic));
        assert_eq!(forged(0, 0x18), Err(BadHead::Magic));
        for (at, byte) in [(24, 4), (15, 0x80), (23, 0x80)] {
            assert_eq!(forged(at, byte), Err(BadHead::Range), "byte {at}");
        }
    }

    #[test]
    fn blank_space_is_told_from_rot() {
        assert_eq!(short(&[0; SHORT_HEAD_LEN]), Err(BadHead::Blank));
        assert_eq!(FrameHead::decode_long(&[0; LONG_HEAD_LEN], SALT), Err(BadHead::Blank));
        assert_eq!(short(&[7; SHORT_HEAD_LEN]), Err(BadHead::Magic));
        // A short head is no long one, nor the other way round.
        assert_eq!(FrameHead::decode_long(&[5; LONG_HEAD_LEN], SALT), Err(BadHead::Magic));
        assert_eq!(short(&[6; SHORT_HEAD_LEN]), Err(BadHead::Magic));
    }

    #[test]
    fn a_frame_takes_its_head_and_its_body() {
        assert_eq!(SHORT_FRAME.frame_len(), 16 + 0x0506);
        assert_eq!(LONG_FRAME.frame_len(), frame_len_max(0x0506));
        assert_eq!(frame_len_min(), 16);
    }

    proptest! {
        /// A segment is written over again and again: what it held before has every right checksum
        /// but the one of this life.
        #[test]
        fn a_frame_of_another_life_is_never_one_of_this(
            (one, other) in (1..u64::from(u32::MAX), 1..u64::from(u32::MAX)),
            (revision, body_len, body_crc) in (1_u64..1 << 62, 0..BODY_LEN_MAX, any::<u32>()),
        ) {
            prop_assume!(one != other);
            let revision = Revision::new(revision);
            let head = FrameHead { sequence: one, revision, body_len, body_crc, ..SHORT_FRAME };
            let bytes = head.encode_short(SALT);
            let [one, other] = [one, other].map(|sequence| Life { sequence, ..LIFE });
            prop_assert_eq!(FrameHead::decode_short(&bytes, SALT, one, revision), Ok(head));
            let found = FrameHead::decode_short(&bytes, SALT, other, revision);
            prop_assert_eq!(found, Err(BadHead::Checksum));
        }

        #[test]
        fn any_bytes_are_a_head_or_not(
            mut long in prop::collection::vec(any::<u8>(), LONG_HEAD_LEN),
            from: u64, is_summed: bool, small: bool,
        ) {
            let from = Revision::new(from);
            if small {
                long[15] &= 0x3f;
                long[24..32].fill(0);
            }
            let mut long: [u8; LONG_HEAD_LEN] = long.try_into().expect("as long");
            let mut head = *long.first_chunk::<SHORT_HEAD_LEN>().expect("longer");
            if is_summed {
                let crc = long_crc(SALT, &long).to_le_bytes();
                long[LONG_HEAD_LEN - 4..].copy_from_slice(&crc);
                let crc = short_crc(SALT, LIFE.sequence, from, &head).to_le_bytes();
                head[12..].copy_from_slice(&crc);
            }
            if let Ok(found) = FrameHead::decode_long(&long, SALT) {
                prop_assert_eq!(found.encode_long(SALT), long);
            }
            if let Ok(found) = FrameHead::decode_short(&head, SALT, LIFE, from) {
                prop_assert_eq!(found.encode_short(SALT), head);
            }
        }
    }
}
