//! MDC frame format, version 1.
//!
//! Each frame starts on a page boundary (4 KiB) and is padded with zeros to the next one:
//!
//! ```text
//! offset  size  field
//!      0     4  magic       "MDCF"
//!      4     2  version     1
//!      6     2  kind        1 record, 2 begin, 3 state, 4 end, 5 retired
//!      8     8  owner       which journal of which pool: old frames of another one are no frames
//!     16     8  generation  bumped whenever the log is rewritten; older frames are dead
//!     24     8  seqno       dense within a generation, starts at 1
//!     32     4  body_len    0..=BODY_LEN_MAX
//!     36     4  body_crc    CRC-32C of the body
//!     40     4  reserved    zero
//!     44     4  head_crc    CRC-32C of bytes 0..44
//!     48     -  body: records, each a length (4 bytes) and its bytes
//! ```
//!
//! Integers are little-endian. `magic`, `version` and `head_crc` keep their places in every
//! version, so that a newer format is told from rot. A head lies within one 512-byte sector, which
//! the device writes whole or not at all: `begin` and `retired` have no body, so they cannot tear.
//! `end` may carry the last records of the state; torn, it is no frame, and its log never ended.
//!
//! This module decides only what a well-formed frame is. Whether a bad one is a torn tail or rot is
//! decided by `scan`, which can see what follows it.

use crate::journal::mdc::MDC_RECORD_BYTES_MAX;
use mpool_device::IO_ALIGN;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

pub(crate) const FRAME_HEAD_LEN: usize = 48;
/// The longest frame, padded: a reader's window is at least this long.
pub(crate) const FRAME_LEN_MAX: usize = MDC_RECORD_BYTES_MAX + IO_ALIGN;
pub(crate) const BODY_LEN_MAX: usize = FRAME_LEN_MAX - FRAME_HEAD_LEN;
/// What a record costs in a body beyond its bytes.
pub(crate) const RECORD_PREFIX_LEN: usize = 4;

const MAGIC: [u8; 4] = *b"MDCF";
const VERSION: u16 = 1;

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    owner: U64,
    generation: U64,
    seqno: U64,
    body_len: U32,
    body_crc: U32,
    reserved: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawHead>() == FRAME_HEAD_LEN);
const _: () = assert!(core::mem::offset_of!(RawHead, head_crc) == FRAME_HEAD_LEN - 4);
const _: () = assert!(FRAME_LEN_MAX.is_multiple_of(IO_ALIGN));
const _: () = assert!(MDC_RECORD_BYTES_MAX + RECORD_PREFIX_LEN <= BODY_LEN_MAX);

/// What a frame carries. Values are on the medium: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// One appended record.
    Record = 1,
    /// The first frame of a rewritten log.
    Begin = 2,
    /// Records of the state at the rewrite.
    State = 3,
    /// The rewrite is complete, with the records of this frame: this log counts.
    End = 4,
    /// The first frame of a log that has been succeeded; `generation` is the successor's.
    Retired = 5,
}

impl FrameKind {
    fn decode(raw: u16) -> Option<Self> {
        [Self::Record, Self::Begin, Self::State, Self::End, Self::Retired]
            .into_iter()
            .find(|kind| *kind as u16 == raw)
    }
}

/// A head whose every field has been checked. The raw form never leaves this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameKind,
    pub(crate) owner: u64,
    pub(crate) generation: u64,
    pub(crate) seqno: u64,
    pub(crate) body_len: usize,
    body_crc: u32,
}

/// Which check a frame failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadFrame {
    Magic,
    HeadChecksum,
    /// Intact, but of a version this binary does not know.
    Version(u16),
    Field,
    Body,
}

impl FrameHead {
    pub(crate) fn new(
        kind: FrameKind,
        owner: u64,
        generation: u64,
        seqno: u64,
        body: &[u8],
    ) -> Self {
        assert!(generation > 0 && seqno > 0, "both start at 1");
        assert!(body.len() <= BODY_LEN_MAX, "checked at append");
        let body_crc = crc32c::crc32c(body);
        Self { kind, owner, generation, seqno, body_len: body.len(), body_crc }
    }

    pub(crate) fn encode(&self) -> [u8; FRAME_HEAD_LEN] {
        let mut raw = RawHead {
            magic: MAGIC,
            version: VERSION.into(),
            kind: (self.kind as u16).into(),
            owner: self.owner.into(),
            generation: self.generation.into(),
            seqno: self.seqno.into(),
            body_len: u32::try_from(self.body_len).expect("at most BODY_LEN_MAX").into(),
            body_crc: self.body_crc.into(),
            reserved: 0.into(),
            head_crc: 0.into(),
        };
        raw.head_crc = head_crc(&raw).into();
        zerocopy::transmute!(raw)
    }

    /// Checks in the order that gives the best diagnosis: identity, integrity, then meaning.
    pub(crate) fn decode(bytes: &[u8; FRAME_HEAD_LEN]) -> Result<Self, BadFrame> {
        let raw: RawHead = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(BadFrame::Magic);
        }
        if raw.head_crc.get() != head_crc(&raw) {
            return Err(BadFrame::HeadChecksum);
        }
        if raw.version.get() != VERSION {
            return Err(BadFrame::Version(raw.version.get()));
        }
        let kind = FrameKind::decode(raw.kind.get()).ok_or(BadFrame::Field)?;
        let body_len = usize::try_from(raw.body_len.get()).map_err(|_| BadFrame::Field)?;
        let sound = body_len <= BODY_LEN_MAX
            && raw.generation.get() > 0
            && raw.seqno.get() > 0
            && raw.reserved.get() == 0;
        if !sound {
            return Err(BadFrame::Field);
        }
        Ok(Self {
            kind,
            owner: raw.owner.get(),
            generation: raw.generation.get(),
            seqno: raw.seqno.get(),
            body_len,
            body_crc: raw.body_crc.get(),
        })
    }

    /// The frame's length on the medium.
    pub(crate) fn padded_len(&self) -> usize {
        padded_len(self.body_len)
    }

    /// The body of this head within `frame`, if it is what was written.
    pub(crate) fn body<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], BadFrame> {
        let end = FRAME_HEAD_LEN + self.body_len;
        let body = frame.get(FRAME_HEAD_LEN..end).ok_or(BadFrame::Body)?;
        if crc32c::crc32c(body) == self.body_crc { Ok(body) } else { Err(BadFrame::Body) }
    }
}

/// Whether these bytes are what is left of a head of this journal: by their words, or because they
/// were a head of some kind once. A head lies in one sector, so no cut leaves half of one.
pub(crate) fn was_head(bytes: &[u8; FRAME_HEAD_LEN], words: [u64; 3]) -> bool {
    let raw: RawHead = zerocopy::transmute!(*bytes);
    let damaged = raw.magic == MAGIC && raw.head_crc.get() != head_crc(&raw);
    damaged || [raw.owner, raw.generation, raw.seqno].map(U64::get) == words
}

fn head_crc(raw: &RawHead) -> u32 {
    crc32c::crc32c(&raw.as_bytes()[..FRAME_HEAD_LEN - 4])
}

/// Length on the medium of a frame with this body.
pub(crate) fn padded_len(body_len: usize) -> usize {
    (FRAME_HEAD_LEN + body_len).next_multiple_of(IO_ALIGN)
}

/// Adds one record to a body.
pub(crate) fn push_record(body: &mut Vec<u8>, record: &[u8]) {
    let len = u32::try_from(record.len()).expect("checked at append");
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(record);
}

/// The records of a body; `None` if its lengths do not add up.
pub(crate) fn records(mut body: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let (prefix, rest) = body.split_first_chunk::<RECORD_PREFIX_LEN>()?;
        let len = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
        let (record, rest) = rest.split_at_checked(len)?;
        found.push(record);
        body = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ([u8; FRAME_HEAD_LEN], Vec<u8>) {
        let mut body = Vec::new();
        push_record(&mut body, b"hello");
        push_record(&mut body, b"");
        (FrameHead::new(FrameKind::Record, 0x11, 3, 7, &body).encode(), body)
    }

    #[test]
    fn layout_is_frozen() {
        let (head, body) = sample();
        assert_eq!(&head[..8], b"MDCF\x01\x00\x01\x00");
        assert_eq!(head[8..16], 0x11_u64.to_le_bytes());
        assert_eq!(head[16..24], 3_u64.to_le_bytes());
        assert_eq!(head[24..32], 7_u64.to_le_bytes());
        assert_eq!(head[32..36], 13_u32.to_le_bytes());
        assert_eq!(head[36..40], crc32c::crc32c(&body).to_le_bytes());
        assert_eq!(head[40..44], [0; 4]);
        assert_eq!(head[44..48], crc32c::crc32c(&head[..44]).to_le_bytes());
        assert_eq!(body, b"\x05\0\0\0hello\0\0\0\0");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (bytes, body) = sample();
        let head = FrameHead::decode(&bytes).unwrap();
        assert_eq!((head.kind, head.owner, head.seqno), (FrameKind::Record, 0x11, 7));
        let frame = [&bytes[..], &body].concat();
        assert_eq!(records(head.body(&frame).unwrap()).unwrap(), [&b"hello"[..], b""]);
        assert_eq!(head.padded_len(), IO_ALIGN);
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        let (bytes, body) = sample();
        let frame = [&bytes[..], &body].concat();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let head = bad.first_chunk().unwrap();
            let outcome = FrameHead::decode(head).and_then(|h| h.body(&bad).map(<[u8]>::len));
            assert!(outcome.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_rot() {
        let (mut bytes, _) = sample();
        bytes[4] = 2;
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FrameHead::decode(&bytes), Err(BadFrame::Version(2)));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_no_records() {
        assert_eq!(records(b""), Some(vec![]));
        assert_eq!(records(b"\x01\0\0"), None);
        assert_eq!(records(b"\x05\0\0\0hell"), None);
        assert_eq!(records(b"\xff\xff\xff\xffhell"), None);
    }
}
