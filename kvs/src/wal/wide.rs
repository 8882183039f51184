//! FORMAT: the frame of a batch in the write-ahead log, version 1, with its body.
//!
//! Earlier programs wrote it, into segments whose heads are of version 1 or 2. It is read and never
//! written.
//!
//! ```text
//! frame                                          entry of a body
//! offset  size  field                            offset  size  field
//!      0     4  magic     "MWFR"                      0     1  op         0 = delete, 1 = put
//!      4     2  version   1                           1     1  reserved   zero
//!      6     2  reserved  zero                        2     2  key_len    1..=KEY_BYTES_MAX
//!      8     8  sequence  that of the segment         4     4  kvs        id of the KVS
//!     16     8  revision  of the batch                8     4  value_len  0 for a delete
//!     24     8  durable   as in `frame`              12     -  key, then value
//!     32     4  body_len  of the batch
//!     36     4  body_crc  CRC-32C of the body
//!     40     4  reserved  zero
//!     44     4  head_crc  CRC-32C of 0..44
//!     48     -  body, then zeros to a multiple of 8
//! ```
//!
//! Integers are little-endian. A body is a sequence of entries without gaps.

use super::frame::{FrameHead, Kind};
use super::segment_head::{BadHead, SEQUENCE_LAST, head_crc};
use crate::entry::batch::WriteBatch;
use crate::entry::op::kind;
use crate::error::{Error, Result};
use crate::key::{KvsId, Revision};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const HEAD_LEN: usize = 48;
pub(super) const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"MWFR";
const ALIGN: u64 = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
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

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    op: u8,
    reserved: u8,
    key_len: U16,
    kvs: U32,
    value_len: U32,
}

const _: () = assert!(size_of::<RawHead>() == HEAD_LEN);

/// Where the next frame begins, from the start of one whose body ends there.
pub(super) fn padded(len: u64) -> u64 {
    len.next_multiple_of(ALIGN)
}

pub(super) fn decode(bytes: &[u8; HEAD_LEN]) -> Result<FrameHead, BadHead> {
    let raw: RawHead = zerocopy::transmute!(*bytes);
    if raw.magic == [0; 4] {
        return Err(BadHead::Blank);
    }
    if raw.magic != MAGIC {
        return Err(BadHead::Magic);
    }
    if raw.head_crc.get() != head_crc(bytes) {
        return Err(BadHead::Checksum);
    }
    if raw.version.get() != VERSION {
        return Err(BadHead::Version(raw.version.get()));
    }
    let reserved = u32::from(raw.reserved.get()) | raw.reserved_too.get();
    let in_range = (1..=SEQUENCE_LAST).contains(&raw.sequence.get())
        && raw.durable.get() < raw.revision.get()
        && raw.revision.get() <= Revision::LAST.get();
    if !in_range || reserved != 0 {
        return Err(BadHead::Range);
    }
    Ok(FrameHead {
        kind: Kind::Wide,
        sequence: raw.sequence.get(),
        revision: Revision::new(raw.revision.get()),
        durable: Revision::new(raw.durable.get()),
        body_len: raw.body_len.get(),
        body_crc: raw.body_crc.get(),
    })
}

/// The batch that a body is.
pub(super) fn batch(body: &[u8]) -> Result<WriteBatch> {
    let (mut batch, mut rest) = (WriteBatch::new(), body);
    while !rest.is_empty() {
        rest = add_entry(&mut batch, rest).map_err(|reason| Error::Corrupt {
            what: format!(
                "entry {} at byte {} of a batch of {} bytes",
                batch.len(),
                body.len() - rest.len(),
                body.len()
            ),
            reason,
        })?;
    }
    Ok(batch)
}

/// Adds the first entry of `bytes`, and returns what follows it.
fn add_entry<'a>(batch: &mut WriteBatch, bytes: &'a [u8]) -> Result<&'a [u8], String> {
    const CUT: &str = "the entry is cut short";
    let (head, rest) = RawEntry::read_from_prefix(bytes).map_err(|_| CUT)?;
    let value_len = usize::try_from(head.value_len.get()).map_err(|_| CUT)?;
    let (key, rest) = rest.split_at_checked(head.key_len.get().into()).ok_or(CUT)?;
    let (value, rest) = rest.split_at_checked(value_len).ok_or(CUT)?;
    let kvs = KvsId::new(head.kvs.get());
    match (head.op, head.reserved) {
        (kind::INLINE, 0) => batch.put_id(kvs, key, value),
        (kind::TOMBSTONE, 0) if value.is_empty() => batch.delete_id(kvs, key),
        _ => return Err("the operation is unknown to this version".to_owned()),
    }
    .map_err(|error| error.to_string())?;
    Ok(rest)
}

/// What earlier programs wrote, for tests.
#[cfg(test)]
pub(super) mod old {
    use super::*;
    use crate::entry::op::Op;

    pub(in super::super) fn encode(head: FrameHead) -> [u8; HEAD_LEN] {
        let mut raw = RawHead {
            magic: MAGIC,
            version: U16::new(VERSION),
            reserved: U16::ZERO,
            sequence: U64::new(head.sequence),
            revision: U64::new(head.revision.get()),
            durable: U64::new(head.durable.get()),
            body_len: U32::new(head.body_len),
            body_crc: U32::new(head.body_crc),
            reserved_too: U32::ZERO,
            head_crc: U32::ZERO,
        };
        raw.head_crc = U32::new(head_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    pub(in super::super) fn body(batch: &WriteBatch) -> Vec<u8> {
        let mut body = Vec::new();
        for (kvs, key, op) in batch.ops() {
            let (op, value) = match op {
                Op::Inline(value) => (kind::INLINE, value),
                Op::Tombstone => (kind::TOMBSTONE, &[][..]),
            };
            let raw = RawEntry {
                op,
                reserved: 0,
                key_len: U16::new(u16::try_from(key.len()).expect("short")),
                kvs: U32::new(kvs.get()),
                value_len: U32::new(u32::try_from(value.len()).expect("short")),
            };
            body.extend_from_slice(raw.as_bytes());
            body.extend_from_slice(key);
            body.extend_from_slice(value);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: FrameHead = FrameHead {
        kind: Kind::Wide,
        sequence: 0x0102,
        revision: Revision::new(0x0304),
        durable: Revision::new(0x0303),
        body_len: 0x0506,
        body_crc: 0x0708_090a,
    };

    #[test]
    fn layout_is_frozen() {
        let frame = *b"MWFR\x01\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\
            \x06\x05\0\0\x0a\x09\x08\x07\0\0\0\0";
        let encoded = old::encode(FRAME);
        assert_eq!(encoded[..44], frame);
        assert_eq!(encoded[44..], crc32c::crc32c(&frame).to_le_bytes());
        assert_eq!(decode(&encoded), Ok(FRAME));

        let mut bytes = vec![1, 0, 3, 0, 7, 0, 0, 0, 5, 0, 0, 0];
        bytes.extend_from_slice(b"keyvalue");
        bytes.extend_from_slice(&[0, 0, 1, 0, 4, 3, 2, 1, 0, 0, 0, 0, b'k']);
        let batch = batch(&bytes).unwrap();
        assert_eq!(batch.len(), 2);
        assert_eq!(old::body(&batch), bytes);
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        for bit in 0..HEAD_LEN * 8 {
            let mut bytes = old::encode(FRAME);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn fields_out_of_range_are_rejected_though_the_checksum_is_right() {
        let forged = |at: usize, byte: u8| {
            let mut bytes = old::encode(FRAME);
            bytes[at] = byte;
            let crc = head_crc(&bytes).to_le_bytes();
            bytes[HEAD_LEN - 4..].copy_from_slice(&crc);
            decode(&bytes)
        };
        assert_eq!(forged(4, 9), Err(BadHead::Version(9)));
        // Reserved fields, and `durable` at `revision`.
        for (at, byte) in [(6, 1), (7, 1), (40, 1), (43, 1), (24, 4)] {
            assert_eq!(forged(at, byte), Err(BadHead::Range), "byte {at}");
        }
        assert_eq!(decode(&[0; HEAD_LEN]), Err(BadHead::Blank));
        assert_eq!(decode(&[7; HEAD_LEN]), Err(BadHead::Magic));
    }

    #[test]
    fn frames_are_padded() {
        let len = |body_len| FrameHead { body_len, ..FRAME }.frame_len();
        assert_eq!([0, 1, 8, 9].map(len), [48, 56, 56, 64]);
    }

    #[test]
    fn bad_entries_are_refused() {
        let good = [1, 0, 1, 0, 7, 0, 0, 0, 1, 0, 0, 0, b'k', b'v'];
        assert!(batch(&good).is_ok());
        for (at, byte) in [(0, 0), (0, 2), (0, 0x11), (1, 1), (2, 0), (2, 9), (8, 9), (11, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(batch(&bad).is_err(), "byte {at}");
        }
        (1..good.len()).for_each(|len| assert!(batch(&good[..len]).is_err(), "{len}"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(batch) = batch(&body) {
                prop_assert_eq!(old::body(&batch), body);
            }
        }
    }
}
