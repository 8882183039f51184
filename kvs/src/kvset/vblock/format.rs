//! vblock format, version 1.
//!
//! ```text
//! offset  size  field
//!      0     4  magic     "MPVB"
//!      4     2  version   1
//!      6     2  flags     0; a bit that is not known is refused
//!      8     8  vblock    its mblock id
//!     16     8  kvset     the kvset it was written for
//!     24     4  kvs
//!     28     4  crc       CRC-32C of bytes 0..28
//!     32     -  records:  crc 4 | value
//! ```
//!
//! Integers are little-endian. A record's CRC-32C covers the id of the vblock (8 bytes), the offset
//! of the record (4 bytes), then the value. So a record that was lost or misdirected on the way to
//! the medium, and in whose place another whole record lies, is told too. Lengths are in the index
//! only.

use super::super::page::Decode;
use crate::entry::version::ValuePtr;
use crate::key::{KvsId, KvsetId, VALUE_BYTES_MAX};
use mpool::MblockId;
use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes before the first record.
pub(crate) const HEAD_BYTES: usize = 32;
/// Bytes before the value of a record.
pub(crate) const RECORD_HEAD_BYTES: usize = 4;
const MAGIC: [u8; 4] = *b"MPVB";
const VERSION: u16 = 1;
const HEAD_CRC_OFFSET: usize = HEAD_BYTES - 4;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    flags: U16,
    vblock: U64,
    kvset: U64,
    kvs: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!(core::mem::offset_of!(RawHead, crc) == HEAD_CRC_OFFSET);

/// What the head of a vblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VblockHead {
    pub(crate) vblock: MblockId,
    pub(crate) kvset: KvsetId,
    pub(crate) kvs: KvsId,
}

impl VblockHead {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut raw = RawHead {
            magic: MAGIC,
            version: VERSION.into(),
            flags: U16::ZERO,
            vblock: self.vblock.get().into(),
            kvset: self.kvset.get().into(),
            kvs: self.kvs.get().into(),
            crc: U32::ZERO,
        };
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..HEAD_CRC_OFFSET]).into();
        zerocopy::transmute!(raw)
    }

    /// Checks in the order that gives the best diagnosis: identity, integrity, version.
    pub(crate) fn decode(bytes: &[u8]) -> Decode<Self> {
        let Ok((raw, _)) = RawHead::ref_from_prefix(bytes) else {
            return Err("head is cut short");
        };
        if raw.magic != MAGIC {
            return Err("head has a wrong magic");
        }
        if raw.crc.get() != crc32c::crc32c(&raw.as_bytes()[..HEAD_CRC_OFFSET]) {
            return Err("head has a wrong checksum");
        }
        if raw.version.get() != VERSION || raw.flags.get() != 0 {
            return Err("vblock uses a newer format");
        }
        Ok(Self {
            vblock: MblockId::new(raw.vblock.get()).ok_or("head has no id")?,
            kvset: KvsetId::new(raw.kvset.get()),
            kvs: KvsId::new(raw.kvs.get()),
        })
    }
}

/// The checksum of a record.
pub(crate) fn record_crc(vblock: MblockId, offset: u32, value: &[u8]) -> u32 {
    let place =
        crc32c::crc32c_append(crc32c::crc32c(&vblock.get().to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(place, value)
}

/// Bytes of the vblock that a record takes, if a vblock of `len_bytes` can hold it.
pub(crate) fn record_range(ptr: ValuePtr, len_bytes: u64) -> Decode<Range<u64>> {
    let start = u64::from(ptr.offset);
    let end = start + RECORD_HEAD_BYTES as u64 + u64::from(ptr.len);
    if start < HEAD_BYTES as u64 || end > len_bytes {
        return Err("record lies outside its vblock");
    }
    if u64::from(ptr.len) > VALUE_BYTES_MAX as u64 {
        return Err("record is longer than values are");
    }
    Ok(start..end)
}

/// The value of a record that was copied out of the vblock, after its checksum matched.
pub(crate) fn record_value(vblock: MblockId, offset: u32, record: &[u8]) -> Decode<&[u8]> {
    let Some((crc, value)) = record.split_first_chunk::<RECORD_HEAD_BYTES>() else {
        return Err("record is cut short");
    };
    if u32::from_le_bytes(*crc) == record_crc(vblock, offset, value) {
        Ok(value)
    } else {
        Err("record has a wrong checksum")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> MblockId {
        MblockId::new(0x0102).unwrap()
    }

    fn head() -> VblockHead {
        VblockHead { vblock: id(), kvset: KvsetId::new(3), kvs: KvsId::new(4) }
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = head().encode();
        assert_eq!(&bytes[..8], b"MPVB\x01\0\0\0");
        assert_eq!(bytes[8..28], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(VblockHead::decode(&bytes), Ok(head()));
        assert_eq!(record_crc(id(), 32, b"value"), 0xd9ad_4441);
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        for bit in 0..HEAD_BYTES * 8 {
            let mut bytes = head().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(VblockHead::decode(&bytes).is_err(), "bit {bit}");
        }
        let mut record = record_crc(id(), 77, b"some value").to_le_bytes().to_vec();
        record.extend_from_slice(b"some value");
        assert_eq!(record_value(id(), 77, &record), Ok(&b"some value"[..]));
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            assert!(record_value(id(), 77, &record).is_err(), "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_record_in_anothers_place_is_rejected() {
        let mut record = record_crc(id(), 77, b"v").to_le_bytes().to_vec();
        record.push(b'v');
        assert!(record_value(id(), 78, &record).is_err());
        assert!(record_value(MblockId::new(1).unwrap(), 77, &record).is_err());
        assert!(record_value(id(), 77, &record[..3]).is_err());
        assert!(record_value(id(), 77, &[0; 5]).is_err());
    }

    #[test]
    fn places_outside_are_rejected() {
        let ptr = |offset, len| ValuePtr { vblock: 0, offset, len };
        assert_eq!(record_range(ptr(32, 10), 46), Ok(32..46));
        assert!(record_range(ptr(32, 10), 45).is_err());
        assert!(record_range(ptr(31, 10), 100).is_err());
        assert!(record_range(ptr(u32::MAX, u32::MAX), u64::MAX).is_err());
    }
}
