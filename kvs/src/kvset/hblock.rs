//! The hblock: what a kvset is made of, format version 1.
//!
//! ```text
//! offset  size  field
//!      0     4  magic         "MPHB"
//!      4     2  version       1
//!      6     2  flags         bit 0: a sketch ends the body; a bit that is not known is refused
//!      8     8  hblock        its mblock id
//!     16     8  kvset
//!     24     4  kvs
//!     28     4  kblocks       number of kblock entries
//!     32     4  vblocks       number of vblock entries
//!     36     4  body_len      bytes after the head
//!     40     8  keys          entries, tombstones included
//!     48     8  tombstones
//!     56     8  min_revision
//!     64     8  max_revision
//!     72     8  kblock_bytes
//!     80     8  value_bytes   sum of the referenced bytes
//!     88     4  body_crc      CRC-32C of the body
//!     92     4  head_crc      CRC-32C of bytes 0..92
//!     96     -  body:  kblock entries in key order, then vblock entries by their index, then the
//!                     sketch
//!
//! kblock entry:  id 8 | min_key_len 2 | max_key_len 2 | min_key | max_key
//! vblock entry:  id 8 | referenced bytes 8
//! sketch:        1,024 registers of a byte (`sketch`)
//! ```
//!
//! Integers are little-endian. The object is padded with zeros to whole pages. Key ranges ascend
//! and do not overlap.

use super::KvsetMeta;
use super::page::{Decode, PAGE_BYTES};
use super::sketch::{SKETCH_BYTES, Sketch};
use crate::key::{KEY_BYTES_MAX, KvsId, KvsetId, Revision};
use bytes::Bytes;
use mpool::MblockId;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"MPHB";
const VERSION: u16 = 1;
/// Flag: a sketch of the keys ends the body.
const SKETCH: u16 = 1;
/// Bytes of the head.
pub(crate) const HEAD_BYTES: usize = 96;
/// More keys and bytes than any pool holds, so that sums over kvsets never overflow.
const COUNT_MAX: u64 = 1 << 50;
const HEAD_CRC_OFFSET: usize = HEAD_BYTES - 4;
const KBLOCK_ENTRY_BYTES: usize = 12;
const VBLOCK_ENTRY_BYTES: usize = 16;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    flags: U16,
    hblock: U64,
    kvset: U64,
    kvs: U32,
    kblocks: U32,
    vblocks: U32,
    body_len: U32,
    keys: U64,
    tombstones: U64,
    min_revision: U64,
    max_revision: U64,
    kblock_bytes: U64,
    value_bytes: U64,
    body_crc: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!(core::mem::offset_of!(RawHead, head_crc) == HEAD_CRC_OFFSET);

/// A kblock and the keys it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KblockRange {
    pub(crate) id: MblockId,
    pub(crate) min_key: Bytes,
    pub(crate) max_key: Bytes,
}

/// What an hblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hblock {
    pub(crate) meta: KvsetMeta,
    /// As `meta.kblocks`, with key ranges.
    pub(crate) kblocks: Vec<KblockRange>,
}

impl Hblock {
    /// Bytes of the encoded form.
    pub(crate) fn len_bytes(kblocks: &[KblockRange], vblocks: usize, sketched: bool) -> usize {
        let keys = |kblock: &KblockRange| kblock.min_key.len() + kblock.max_key.len();
        let entries: usize = kblocks.iter().map(|kblock| KBLOCK_ENTRY_BYTES + keys(kblock)).sum();
        let sketch = if sketched { SKETCH_BYTES } else { 0 };
        (HEAD_BYTES + entries + vblocks * VBLOCK_ENTRY_BYTES + sketch).next_multiple_of(PAGE_BYTES)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let meta = &self.meta;
        assert_eq!(meta.kblocks.len(), self.kblocks.len());
        let count = |len: usize| U32::from(u32::try_from(len).expect("a kvset has few objects"));
        let sketched = meta.sketch.is_some();
        let len_bytes = Self::len_bytes(&self.kblocks, meta.vblocks.len(), sketched);
        let mut out = Vec::with_capacity(len_bytes);
        out.resize(HEAD_BYTES, 0);
        for kblock in &self.kblocks {
            put_kblock(&mut out, kblock);
        }
        for (id, referenced) in meta.vblocks.iter() {
            out.extend_from_slice(&id.get().to_le_bytes());
            out.extend_from_slice(&referenced.to_le_bytes());
        }
        if let Some(sketch) = &meta.sketch {
            out.extend_from_slice(sketch.as_bytes());
        }
        let body = &out[HEAD_BYTES..];
        let mut raw = RawHead {
            magic: MAGIC,
            version: VERSION.into(),
            flags: if sketched { SKETCH.into() } else { U16::ZERO },
            hblock: meta.hblock.get().into(),
            kvset: meta.id.get().into(),
            kvs: meta.kvs.get().into(),
            kblocks: count(self.kblocks.len()),
            vblocks: count(meta.vblocks.len()),
            body_len: count(body.len()),
            keys: meta.keys.into(),
            tombstones: meta.tombstones.into(),
            min_revision: meta.min_revision.get().into(),
            max_revision: meta.max_revision.get().into(),
            kblock_bytes: meta.kblock_bytes.into(),
            value_bytes: meta.value_bytes.into(),
            body_crc: crc32c::crc32c(body).into(),
            head_crc: U32::ZERO,
        };
        raw.head_crc = crc32c::crc32c(&raw.as_bytes()[..HEAD_CRC_OFFSET]).into();
        out[..HEAD_BYTES].copy_from_slice(raw.as_bytes());
        out.resize(len_bytes, 0);
        out
    }

    /// Checks in the order that gives the best diagnosis: identity, integrity, version, then
    /// meaning.
    pub(crate) fn decode(bytes: &[u8], id: MblockId) -> Decode<Self> {
        let Ok((raw, rest)) = RawHead::ref_from_prefix(bytes) else {
            return Err("head is cut short");
        };
        if raw.magic != MAGIC {
            return Err("head has a wrong magic");
        }
        if raw.head_crc.get() != crc32c::crc32c(&raw.as_bytes()[..HEAD_CRC_OFFSET]) {
            return Err("head has a wrong checksum");
        }
        if raw.version.get() != VERSION || raw.flags.get() & !SKETCH != 0 {
            return Err("hblock uses a newer format");
        }
        if raw.hblock.get() != id.get() {
            return Err("head belongs to another hblock");
        }
        let body_len = usize::try_from(raw.body_len.get()).map_err(|_| "body is too long")?;
        let body = rest.get(..body_len).ok_or("body is cut short")?;
        if raw.body_crc.get() != crc32c::crc32c(body) {
            return Err("body has a wrong checksum");
        }
        let mut body = Body { rest: body };
        let kblocks = (0..raw.kblocks.get()).map(|_| body.kblock()).collect::<Decode<Vec<_>>>()?;
        let vblocks = (0..raw.vblocks.get()).map(|_| body.vblock()).collect::<Decode<Vec<_>>>()?;
        let sketched = raw.flags.get() & SKETCH != 0;
        let sketch = sketched.then(|| body.sketch()).transpose()?;
        if !body.rest.is_empty() {
            return Err("body is too long");
        }
        let mut hblock = assemble(raw, id, kblocks, vblocks)?;
        hblock.meta.sketch = sketch;
        Ok(hblock)
    }
}

fn put_kblock(out: &mut Vec<u8>, kblock: &KblockRange) {
    let short = |key: &Bytes| u16::try_from(key.len()).expect("keys have at most 1344 bytes");
    out.extend_from_slice(&kblock.id.get().to_le_bytes());
    out.extend_from_slice(&short(&kblock.min_key).to_le_bytes());
    out.extend_from_slice(&short(&kblock.max_key).to_le_bytes());
    out.extend_from_slice(&kblock.min_key);
    out.extend_from_slice(&kblock.max_key);
}

/// What is left of the body.
struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn take(&mut self, len: usize) -> Decode<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("body is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Decode<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or("body is cut short")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn id(&mut self) -> Decode<MblockId> {
        MblockId::new(u64::from_le_bytes(self.array()?)).ok_or("an entry has no id")
    }

    fn key_len(&mut self) -> Decode<usize> {
        match usize::from(u16::from_le_bytes(self.array()?)) {
            len @ 1..=KEY_BYTES_MAX => Ok(len),
            _ => Err("an entry has a key of a wrong length"),
        }
    }

    fn kblock(&mut self) -> Decode<KblockRange> {
        let id = self.id()?;
        let (min_len, max_len) = (self.key_len()?, self.key_len()?);
        let min_key = Bytes::copy_from_slice(self.take(min_len)?);
        let max_key = Bytes::copy_from_slice(self.take(max_len)?);
        Ok(KblockRange { id, min_key, max_key })
    }

    fn vblock(&mut self) -> Decode<(MblockId, u64)> {
        Ok((self.id()?, u64::from_le_bytes(self.array()?)))
    }

    fn sketch(&mut self) -> Decode<Arc<Sketch>> {
        let sketch = Sketch::from_bytes(self.take(SKETCH_BYTES)?);
        sketch.map(Arc::new).ok_or("sketch has a register that no key makes")
    }
}

fn assemble(
    raw: &RawHead,
    id: MblockId,
    kblocks: Vec<KblockRange>,
    vblocks: Vec<(MblockId, u64)>,
) -> Decode<Hblock> {
    let (Some(first), Some(last)) = (kblocks.first(), kblocks.last()) else {
        return Err("kvset has no kblock");
    };
    let ordered = kblocks.iter().all(|kblock| kblock.min_key <= kblock.max_key);
    if !ordered || kblocks.windows(2).any(|pair| pair[0].max_key >= pair[1].min_key) {
        return Err("kblocks are out of order");
    }
    let referenced =
        vblocks.iter().try_fold(0u64, |sum, (_, referenced)| sum.checked_add(*referenced));
    if referenced != Some(raw.value_bytes.get()) {
        return Err("referenced bytes do not add up");
    }
    if raw.tombstones.get() > raw.keys.get() || raw.min_revision.get() > raw.max_revision.get() {
        return Err("head contradicts itself");
    }
    let counts = [raw.keys, raw.kblock_bytes, raw.value_bytes];
    if counts.iter().any(|count| count.get() > COUNT_MAX)
        || raw.max_revision.get() > Revision::LAST.get()
    {
        return Err("head counts more than there can be");
    }
    let meta = KvsetMeta {
        id: KvsetId::new(raw.kvset.get()),
        kvs: KvsId::new(raw.kvs.get()),
        hblock: id,
        kblocks: kblocks.iter().map(|kblock| kblock.id).collect(),
        vblocks: vblocks.into(),
        keys: raw.keys.get(),
        tombstones: raw.tombstones.get(),
        min_key: first.min_key.clone(),
        max_key: last.max_key.clone(),
        min_revision: Revision::new(raw.min_revision.get()),
        max_revision: Revision::new(raw.max_revision.get()),
        kblock_bytes: raw.kblock_bytes.get(),
        value_bytes: raw.value_bytes.get(),
        sketch: None,
    };
    Ok(Hblock { meta, kblocks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(raw: u64) -> MblockId {
        MblockId::new(raw).unwrap()
    }

    fn range(raw: u64, min_key: &'static [u8], max_key: &'static [u8]) -> KblockRange {
        let (min_key, max_key) = (Bytes::from_static(min_key), Bytes::from_static(max_key));
        KblockRange { id: id(raw), min_key, max_key }
    }

    fn sample() -> Hblock {
        let kblocks = vec![range(2, b"a", b"cc"), range(3, b"d", b"d")];
        let meta = KvsetMeta {
            id: KvsetId::new(9),
            kvs: KvsId::new(8),
            hblock: id(1),
            kblocks: vec![id(2), id(3)],
            vblocks: [(id(4), 100), (id(0x1_0000), 7)].into(),
            keys: 6,
            tombstones: 5,
            min_key: Bytes::from_static(b"a"),
            max_key: Bytes::from_static(b"d"),
            min_revision: Revision::new(3),
            max_revision: Revision::new(4),
            kblock_bytes: 8192,
            value_bytes: 107,
            sketch: None,
        };
        Hblock { meta, kblocks }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Hblock::decode(&sample().encode(), id(1)), Ok(sample()));
        let mut large = sample();
        large.meta.vblocks = (1..2000).map(|raw| (id(raw), 1)).collect();
        large.meta.value_bytes = 1999;
        let bytes = large.encode();
        assert_eq!(bytes.len(), 32_768, "spans pages");
        assert_eq!(Hblock::decode(&bytes, id(1)), Ok(large));
        assert!(Hblock::decode(&sample().encode(), id(2)).is_err());
    }

    #[test]
    fn a_sketch_ends_the_body() {
        let mut sketched = sample();
        let mut sketch = Sketch::default();
        sketch.add(0xFFFF_0000_0000_0005);
        sketched.meta.sketch = Some(Arc::new(sketch));
        let bytes = sketched.encode();
        assert_eq!(bytes[6..8], [1, 0]);
        let at = HEAD_BYTES + 61;
        assert_eq!(bytes[at..at + 7], [0, 0, 0, 0, 0, 1, 0]);
        assert!(bytes[at + SKETCH_BYTES..].iter().all(|byte| *byte == 0));
        assert_eq!(Hblock::decode(&bytes, id(1)), Ok(sketched.clone()));
        let mut wrong = bytes;
        wrong[at] = 200;
        let body_len = 61 + SKETCH_BYTES;
        let crc = crc32c::crc32c(&wrong[HEAD_BYTES..HEAD_BYTES + body_len]);
        wrong[88..92].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&wrong[..HEAD_CRC_OFFSET]);
        wrong[HEAD_CRC_OFFSET..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Hblock::decode(&wrong, id(1)), Err("sketch has a register that no key makes"));
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = sample().encode();
        assert_eq!(bytes.len(), PAGE_BYTES);
        assert_eq!(&bytes[..8], b"MPHB\x01\0\0\0");
        assert_eq!(bytes[8..24], [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..40], [8, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 61, 0, 0, 0]);
        let numbers: Vec<u64> = bytes[40..88]
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [6, 5, 3, 4, 8192, 107]);
        let entries = [
            &b"\x02\0\0\0\0\0\0\0\x01\0\x02\0acc"[..],
            b"\x03\0\0\0\0\0\0\0\x01\0\x01\0dd",
            b"\x04\0\0\0\0\0\0\0\x64\0\0\0\0\0\0\0",
            b"\0\0\x01\0\0\0\0\0\x07\0\0\0\0\0\0\0",
        ]
        .concat();
        assert_eq!(bytes[HEAD_BYTES..HEAD_BYTES + 61], entries);
        assert_eq!(bytes[88..96], [50, 124, 210, 215, 194, 31, 106, 112]);
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        let mut bytes = sample().encode();
        for bit in 0..(HEAD_BYTES + 61) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Hblock::decode(&bytes, id(1)).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let broken: [fn(&mut Hblock); 8] = [
            |hblock| hblock.kblocks[1].min_key = Bytes::from_static(b"cc"),
            |hblock| hblock.kblocks[1].max_key = Bytes::from_static(b"c"),
            |hblock| hblock.meta.tombstones = 7,
            |hblock| hblock.meta.value_bytes = 1,
            |hblock| hblock.meta.min_revision = Revision::MAX,
            |hblock| hblock.meta.max_revision = Revision::MAX,
            |hblock| hblock.meta.keys = u64::MAX,
            |hblock| {
                hblock.kblocks.clear();
                hblock.meta.kblocks.clear();
            },
        ];
        for (index, breaks) in broken.iter().enumerate() {
            let mut hblock = sample();
            breaks(&mut hblock);
            assert!(Hblock::decode(&hblock.encode(), id(1)).is_err(), "case {index}");
        }
    }

    proptest! {
        #[test]
        fn bodies_that_a_checksum_would_pass_never_panic(
            body in proptest::collection::vec(any::<u8>(), 0..200), kblocks: u32, vblocks: u32,
        ) {
            let mut bytes = sample().encode();
            bytes[HEAD_BYTES..HEAD_BYTES + body.len()].copy_from_slice(&body);
            bytes[28..32].copy_from_slice(&(kblocks % 5).to_le_bytes());
            bytes[32..36].copy_from_slice(&vblocks.to_le_bytes());
            let len = u32::try_from(body.len()).unwrap();
            bytes[36..40].copy_from_slice(&len.to_le_bytes());
            bytes[88..92].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..HEAD_CRC_OFFSET]);
            bytes[HEAD_CRC_OFFSET..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
            let _any_outcome = Hblock::decode(&bytes, id(1)).is_ok();
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(Hblock::decode(&bytes, id(1)).is_err());
        }
    }
}
