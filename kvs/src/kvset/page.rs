//! Pages of a kblock: what all kinds have in common, format version 1.
//!
//! A page is 4,096 bytes. It ends with a trailer that says what it is, where it belongs, and that
//! it is whole:
//!
//! ```text
//! offset  size  field
//!      0  4076  body
//!   4076     1  kind      1 = leaf, 2 = interior, 3 = filter, 4 = footer
//!   4077     1  level     0 for leaves, 1.. for interior pages, else 0
//!   4078     2  entries   entries in the page
//!   4080     2  restarts  restart points in the page
//!   4082     2  body_len  bytes of the body that are in use from its start
//!   4084     4  page      number of the page in its kblock
//!   4088     4  owner     low 32 bits of the kblock's id
//!   4092     4  crc       CRC-32C of bytes 0..4092
//! ```
//!
//! Integers are little-endian. [`is_whole`] is checked once per residency of the page;
//! [`PageHead::decode`] each time the page is used: it costs one cache line and tells a page that
//! was lost or misdirected on the way to the medium (and that holds another object's valid bytes)
//! from the one that was meant.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Bytes of its trailer.
pub(crate) const TRAILER_BYTES: usize = 20;
/// Bytes before the trailer.
pub(crate) const BODY_BYTES: usize = PAGE_BYTES - TRAILER_BYTES;
const CRC_OFFSET: usize = PAGE_BYTES - 4;

/// Why bytes of the medium are not what they must be.
pub(crate) type Reason = &'static str;
/// Result of decoding.
pub(crate) type Decode<T> = Result<T, Reason>;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTrailer {
    kind: u8,
    level: u8,
    entries: U16,
    restarts: U16,
    body_len: U16,
    page: U32,
    owner: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawTrailer>() == TRAILER_BYTES);
const _: () = assert!(BODY_BYTES + core::mem::offset_of!(RawTrailer, crc) == CRC_OFFSET);

/// What a page holds. Values are on the medium: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PageKind {
    Leaf = 1,
    Interior = 2,
    Filter = 3,
    Footer = 4,
}

impl PageKind {
    const fn code(self) -> u8 {
        match self {
            Self::Leaf => 1,
            Self::Interior => 2,
            Self::Filter => 3,
            Self::Footer => 4,
        }
    }
}

/// Where a page belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Low 32 bits of the kblock's id.
    pub(crate) owner: u32,
    /// Number of the page in its kblock.
    pub(crate) page: u32,
}

/// What a trailer says beside place and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHead {
    pub(crate) kind: PageKind,
    pub(crate) level: u8,
    pub(crate) entries: u16,
    pub(crate) restarts: u16,
    pub(crate) body_len: u16,
}

impl PageHead {
    /// Checks that `bytes` are the page that was asked for. Does not compute the checksum.
    #[inline]
    pub(crate) fn decode(bytes: &[u8], place: Place, kind: PageKind) -> Decode<Self> {
        if bytes.len() != PAGE_BYTES {
            return Err("page is not 4096 bytes");
        }
        let Ok(raw) = RawTrailer::ref_from_bytes(&bytes[BODY_BYTES..]) else {
            return Err("page has no trailer");
        };
        if raw.owner.get() != place.owner || raw.page.get() != place.page {
            return Err("page belongs elsewhere");
        }
        if raw.kind != kind.code() {
            return Err("page is of another kind");
        }
        let restarts = usize::from(raw.restarts.get());
        if usize::from(raw.body_len.get()) + 2 * restarts > BODY_BYTES {
            return Err("page body is too long");
        }
        Ok(Self {
            kind,
            level: raw.level,
            entries: raw.entries.get(),
            restarts: raw.restarts.get(),
            body_len: raw.body_len.get(),
        })
    }
}

/// Writes the trailer. The body is complete.
pub(crate) fn seal(bytes: &mut [u8], place: Place, head: PageHead) {
    assert_eq!(bytes.len(), PAGE_BYTES);
    assert!(usize::from(head.body_len) + 2 * usize::from(head.restarts) <= BODY_BYTES);
    let mut raw = RawTrailer {
        kind: head.kind.code(),
        level: head.level,
        entries: head.entries.into(),
        restarts: head.restarts.into(),
        body_len: head.body_len.into(),
        page: place.page.into(),
        owner: place.owner.into(),
        crc: U32::ZERO,
    };
    bytes[BODY_BYTES..].copy_from_slice(raw.as_bytes());
    raw.crc = crc32c::crc32c(&bytes[..CRC_OFFSET]).into();
    bytes[BODY_BYTES..].copy_from_slice(raw.as_bytes());
    debug_assert!(is_whole(bytes));
}

/// Whether the checksum matches. The `verify` of `Map::page`.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return false };
    bytes.len() == PAGE_BYTES && crc32c::crc32c(body) == u32::from_le_bytes(*crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { owner: 0x0a0b_0c0d, page: 7 };
    const HEAD: PageHead =
        PageHead { kind: PageKind::Leaf, level: 0, entries: 3, restarts: 1, body_len: 40 };

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0u8; PAGE_BYTES];
        bytes[..40].fill(0x5a);
        seal(&mut bytes, PLACE, HEAD);
        bytes
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = sample();
        assert_eq!(
            bytes[BODY_BYTES..],
            [1, 0, 3, 0, 1, 0, 40, 0, 7, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 213, 94, 159, 174]
        );
    }

    #[test]
    fn a_sealed_page_is_recognised() {
        let bytes = sample();
        assert!(is_whole(&bytes));
        assert_eq!(PageHead::decode(&bytes, PLACE, PageKind::Leaf), Ok(HEAD));
        let elsewhere = Place { page: 8, ..PLACE };
        assert!(PageHead::decode(&bytes, elsewhere, PageKind::Leaf).is_err());
        let other = Place { owner: 1, ..PLACE };
        assert!(PageHead::decode(&bytes, other, PageKind::Leaf).is_err());
        assert!(PageHead::decode(&bytes, PLACE, PageKind::Filter).is_err());
        assert!(PageHead::decode(&bytes[1..], PLACE, PageKind::Leaf).is_err());
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        let mut bytes = sample();
        for bit in 0..PAGE_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&bytes), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!is_whole(&[]));
        assert!(!is_whole(&[0; PAGE_BYTES]) || crc32c::crc32c(&[0; CRC_OFFSET]) == 0);
    }
}
