//! The footer of a kblock, its last page, format version 1.
//!
//! ```text
//! offset  size  field
//!      0     4  magic           "MPKB"
//!      4     2  version         1
//!      6     2  flags           0; a bit that is not known is refused
//!      8     8  kblock          its mblock id
//!     16     8  kvset           the kvset it was written for
//!     24     4  kvs             the KVS, which seeds the hashes of the filter
//!     28     4  leaf_pages      pages 0..
//!     32     4  interior_pages  after the leaves, the root last; 0 if there is one leaf
//!     36     4  levels          of interior pages
//!     40     4  filter_pages    after the interior pages
//!     44     4  filter_blocks
//!     48     8  keys            entries, tombstones included
//!     56     8  tombstones
//!     64     2  min_key_len
//!     66     2  max_key_len
//!     68     4  reserved        0
//!     72     -  min_key | max_key | zeros
//!   4076    20  page trailer (see `page`), kind 4
//! ```
//!
//! Integers are little-endian. The hblock names the kblocks with their key ranges; the footer
//! repeats what the kblock is, so that it can be checked, and read in an emergency, alone.

use super::super::filter::FilterShape;
use super::super::page::{BODY_BYTES, Decode, PAGE_BYTES, PageHead, PageKind, Place, seal};
use crate::key::{KEY_BYTES_MAX, KvsId, KvsetId};
use mpool::MblockId;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"MPKB";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 72;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    magic: [u8; 4],
    version: U16,
    flags: U16,
    kblock: U64,
    kvset: U64,
    kvs: U32,
    leaf_pages: U32,
    interior_pages: U32,
    levels: U32,
    filter_pages: U32,
    filter_blocks: U32,
    keys: U64,
    tombstones: U64,
    min_key_len: U16,
    max_key_len: U16,
    reserved: U32,
}

const _: () = assert!(size_of::<RawFooter>() == HEAD_BYTES);
const _: () = assert!(HEAD_BYTES + 2 * KEY_BYTES_MAX <= BODY_BYTES);

/// Low 32 bits of a kblock's id: the `owner` of its pages.
pub(crate) fn owner(kblock: MblockId) -> u32 {
    u32::try_from(kblock.get() & u64::from(u32::MAX)).expect("32 bits are left")
}

/// Most levels of interior pages. A page has at least three children and a kblock fewer than 2^32
/// pages.
const LEVELS_MAX: u32 = 21;

/// What a footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) kblock: MblockId,
    pub(crate) kvset: KvsetId,
    pub(crate) kvs: KvsId,
    pub(crate) leaf_pages: u32,
    pub(crate) interior_pages: u32,
    pub(crate) levels: u8,
    pub(crate) filter: FilterShape,
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) min_key: Vec<u8>,
    pub(crate) max_key: Vec<u8>,
}

impl Footer {
    /// Page number of the first filter page.
    pub(crate) const fn filter_start(&self) -> u32 {
        self.leaf_pages + self.interior_pages
    }

    /// Page number of the root.
    pub(crate) const fn root(&self) -> u32 {
        self.leaf_pages + self.interior_pages - 1
    }

    /// Page number of the footer itself.
    pub(crate) const fn page(&self) -> u32 {
        self.filter_start() + self.filter.pages()
    }

    /// The sealed page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let short = |len: usize| u16::try_from(len).expect("keys have at most 1344 bytes");
        let raw = RawFooter {
            magic: MAGIC,
            version: VERSION.into(),
            flags: U16::ZERO,
            kblock: self.kblock.get().into(),
            kvset: self.kvset.get().into(),
            kvs: self.kvs.get().into(),
            leaf_pages: self.leaf_pages.into(),
            interior_pages: self.interior_pages.into(),
            levels: u32::from(self.levels).into(),
            filter_pages: self.filter.pages().into(),
            filter_blocks: self.filter.blocks().into(),
            keys: self.keys.into(),
            tombstones: self.tombstones.into(),
            min_key_len: short(self.min_key.len()).into(),
            max_key_len: short(self.max_key.len()).into(),
            reserved: U32::ZERO,
        };
        let mut body = raw.as_bytes().to_vec();
        body.extend_from_slice(&self.min_key);
        body.extend_from_slice(&self.max_key);
        let body_len = short(body.len());
        body.resize(PAGE_BYTES, 0);
        let head = PageHead { kind: PageKind::Footer, level: 0, entries: 0, restarts: 0, body_len };
        seal(&mut body, Place { owner: owner(self.kblock), page: self.page() }, head);
        body
    }

    /// Checks that `page`, whose checksum was checked, is the footer of `kblock`, and page `number`
    /// of it.
    pub(crate) fn decode(page: &[u8], kblock: MblockId, number: u32) -> Decode<Self> {
        let place = Place { owner: owner(kblock), page: number };
        PageHead::decode(page, place, PageKind::Footer)?;
        let Ok((raw, rest)) = RawFooter::ref_from_prefix(page) else {
            return Err("footer is cut short");
        };
        if raw.magic != MAGIC {
            return Err("footer has a wrong magic");
        }
        if raw.version.get() != VERSION || raw.flags.get() != 0 {
            return Err("kblock uses a newer format");
        }
        if raw.kblock.get() != kblock.get() {
            return Err("footer belongs to another kblock");
        }
        let levels = match raw.levels.get() {
            levels @ 0..=LEVELS_MAX => u8::try_from(levels).expect("at most 21"),
            _ => return Err("footer has too many levels"),
        };
        let (min_len, max_len) =
            (usize::from(raw.min_key_len.get()), usize::from(raw.max_key_len.get()));
        if !(1..=KEY_BYTES_MAX).contains(&min_len) || !(1..=KEY_BYTES_MAX).contains(&max_len) {
            return Err("footer has a key of a wrong length");
        }
        let footer = Self {
            kblock,
            kvset: KvsetId::new(raw.kvset.get()),
            kvs: KvsId::new(raw.kvs.get()),
            leaf_pages: raw.leaf_pages.get(),
            interior_pages: raw.interior_pages.get(),
            levels,
            filter: FilterShape::with_blocks(raw.filter_blocks.get())
                .ok_or("footer has no filter")?,
            keys: raw.keys.get(),
            tombstones: raw.tombstones.get(),
            min_key: rest[..min_len].to_vec(),
            max_key: rest[min_len..min_len + max_len].to_vec(),
        };
        footer.check(raw.filter_pages.get(), number)?;
        Ok(footer)
    }

    fn check(&self, filter_pages: u32, number: u32) -> Decode<()> {
        let pages = u64::from(self.leaf_pages)
            + u64::from(self.interior_pages)
            + u64::from(self.filter.pages());
        if self.leaf_pages == 0 || filter_pages != self.filter.pages() || pages != u64::from(number)
        {
            return Err("footer counts its pages wrong");
        }
        if (self.levels == 0) != (self.interior_pages == 0)
            || (self.levels == 0) != (self.leaf_pages == 1)
        {
            return Err("footer describes no tree");
        }
        if self.min_key > self.max_key || self.tombstones > self.keys {
            return Err("footer contradicts itself");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Footer {
        Footer {
            kblock: MblockId::new(0x1_0000_0005).unwrap(),
            kvset: KvsetId::new(6),
            kvs: KvsId::new(7),
            leaf_pages: 8,
            interior_pages: 1,
            levels: 1,
            filter: FilterShape::with_blocks(64).unwrap(),
            keys: 1000,
            tombstones: 10,
            min_key: b"a".to_vec(),
            max_key: b"zz".to_vec(),
        }
    }

    #[test]
    fn layout_is_frozen() {
        let page = sample().encode();
        assert_eq!(&page[..8], b"MPKB\x01\0\0\0");
        assert_eq!(page[8..28], [5, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
        let counts = [8, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 64, 0, 0, 0];
        assert_eq!(page[28..48], counts);
        assert_eq!(page[48..64], [0xe8, 3, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&page[64..76], b"\x01\0\x02\0\0\0\0\0azz\0");
        assert_eq!(
            page[BODY_BYTES..BODY_BYTES + 16],
            [4, 0, 0, 0, 0, 0, 75, 0, 11, 0, 0, 0, 5, 0, 0, 0]
        );
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let footer = sample();
        let page = footer.encode();
        assert_eq!(Footer::decode(&page, footer.kblock, footer.page()), Ok(footer.clone()));
        assert!(Footer::decode(&page, MblockId::new(5).unwrap(), footer.page()).is_err());
        assert!(Footer::decode(&page, footer.kblock, footer.page() + 1).is_err());
    }

    #[test]
    fn flips_behind_the_checksum_never_panic() {
        let footer = sample();
        let mut page = footer.encode();
        for bit in 0..80 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            let _may_be_either = Footer::decode(&page, footer.kblock, footer.page()).is_ok();
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
