//! The filter of a kblock: which keys it certainly does not hold, format version 1.
//!
//! A blocked Bloom filter. A block is 64 bytes, one cache line: 496 bits and a stamp of 16. A page
//! holds 63 blocks and the page trailer, so a probe touches one line of one page:
//!
//! ```text
//! page:   block 0 | block 1 | .. | block 62 | zeros | trailer (see `page`)
//! block:  62 bytes of bits | stamp, 2 bytes little-endian
//! ```
//!
//! Key hash `h` (`key::key_hash`) goes to block `h * blocks / 2^64`, and sets 7 bits there, taken
//! nine hash bits each from a remix of `h`. With 47 keys a block (10.9 bits a key with all
//! overheads) a false positive comes about once in 120 absent keys.
//!
//! The stamp is never zero and depends on kblock and page: the trailer is not read on each probe,
//! and a block of another kblock, or of zeros, must not be taken for an answer.

use super::page::{Decode, PAGE_BYTES, PageHead, PageKind, Place, TRAILER_BYTES, seal};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 64;
/// Blocks of a page.
pub(crate) const PAGE_BLOCKS: u32 = 63;
const BLOCK_BITS: u64 = 496;
const BLOCK_KEYS: usize = 47;
const PROBES: u32 = 7;
const PROBE_BITS: u32 = 9;

const _: () = assert!(PAGE_BLOCKS as usize * BLOCK_BYTES + TRAILER_BYTES <= PAGE_BYTES);
const _: () = assert!(PROBES * PROBE_BITS <= 64);
const _: () = assert!(BLOCK_BITS + 16 == 8 * BLOCK_BYTES as u64);

/// Pages and blocks of a filter, and the block of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterShape {
    blocks: u32,
}

impl FilterShape {
    /// Of a filter with this many blocks. `None` for none.
    pub(crate) const fn with_blocks(blocks: u32) -> Option<Self> {
        if blocks == 0 { None } else { Some(Self { blocks }) }
    }

    /// Of a filter for this many keys.
    pub(crate) fn for_keys(keys: usize) -> Self {
        let blocks = u32::try_from(keys.div_ceil(BLOCK_KEYS)).expect("a kblock bounds its keys");
        Self { blocks: blocks.max(1) }
    }

    pub(crate) const fn blocks(self) -> u32 {
        self.blocks
    }

    pub(crate) const fn pages(self) -> u32 {
        self.blocks.div_ceil(PAGE_BLOCKS)
    }

    /// Page and block in that page.
    #[inline]
    pub(crate) fn locate(self, hash: u64) -> (u32, u32) {
        let block = (u128::from(hash) * u128::from(self.blocks)) >> 64;
        let block = u32::try_from(block).expect("less than blocks");
        (block / PAGE_BLOCKS, block % PAGE_BLOCKS)
    }
}

/// Whether the page's block may hold the key with this hash.
#[inline]
pub(crate) fn may_hold(page: &[u8], place: Place, block: u32, hash: u64) -> Decode<bool> {
    let start =
        usize::try_from(block).map_or(usize::MAX, |block| block.saturating_mul(BLOCK_BYTES));
    let Some(block) = page.get(start..).and_then(<[u8]>::first_chunk::<BLOCK_BYTES>) else {
        return Err("filter page is cut short");
    };
    if u16::from_le_bytes([block[62], block[63]]) != stamp(place) {
        return Err("filter block belongs elsewhere");
    }
    Ok(bits(hash).all(|(byte, mask)| block[byte] & mask != 0))
}

/// The (byte, mask) of each bit of a hash.
#[inline]
fn bits(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let mixed = remix(hash);
    (0..PROBES).map(move |probe| {
        let nine = (mixed >> (probe * PROBE_BITS)) & ((1 << PROBE_BITS) - 1);
        let bit = (nine * BLOCK_BITS) >> PROBE_BITS;
        let byte = usize::try_from(bit / 8).expect("less than 62");
        (byte, 1u8 << (bit % 8))
    })
}

/// Spreads the bits of a hash that the choice of the block left over.
#[inline]
const fn remix(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Never zero.
#[inline]
fn stamp(place: Place) -> u16 {
    let mixed = u64::from(place.owner) << 32 | u64::from(place.page);
    let high = remix(mixed) >> 48;
    u16::try_from(high).expect("16 bits are left") | 0x8000
}

/// Builds the pages of a filter and gives each, sealed, to `write`. The first one is page `first`
/// of `owner`.
pub(crate) fn build<E>(
    hashes: &mut [u64],
    first: Place,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<FilterShape, E> {
    let shape = FilterShape::for_keys(hashes.len());
    // Blocks follow hashes in order, so sorted hashes fill page after page, and one page is in
    // memory at a time.
    hashes.sort_unstable();
    let mut rest = &hashes[..];
    let mut page = vec![0u8; PAGE_BYTES];
    for number in 0..shape.pages() {
        let place = Place { owner: first.owner, page: first.page + number };
        let blocks = (shape.blocks() - number * PAGE_BLOCKS).min(PAGE_BLOCKS);
        page.fill(0);
        let used = usize::try_from(blocks).expect("at most 63") * BLOCK_BYTES;
        for block in page[..used].chunks_exact_mut(BLOCK_BYTES) {
            block[62..].copy_from_slice(&stamp(place).to_le_bytes());
        }
        let here = rest.partition_point(|hash| shape.locate(*hash).0 <= number);
        for hash in &rest[..here] {
            let (_, block) = shape.locate(*hash);
            let start = usize::try_from(block).expect("at most 63") * BLOCK_BYTES;
            for (byte, mask) in bits(*hash) {
                page[start + byte] |= mask;
            }
        }
        rest = &rest[here..];
        let entries = u16::try_from(blocks).expect("at most 63");
        let head = PageHead {
            kind: PageKind::Filter,
            level: 0,
            entries,
            restarts: 0,
            body_len: entries * 64,
        };
        seal(&mut page, place, head);
        write(&page)?;
    }
    assert!(rest.is_empty());
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KvsId, key_hash};
    use std::convert::Infallible;

    const FIRST: Place = Place { owner: 9, page: 100 };

    fn built(hashes: &[u64]) -> (FilterShape, Vec<Vec<u8>>) {
        let mut pages = Vec::new();
        let write = |page: &[u8]| {
            pages.push(page.to_vec());
            Ok::<(), Infallible>(())
        };
        let shape = build(&mut hashes.to_vec(), FIRST, write).unwrap();
        (shape, pages)
    }

    fn ask(shape: FilterShape, pages: &[Vec<u8>], hash: u64) -> bool {
        let (page, block) = shape.locate(hash);
        let place = Place { owner: FIRST.owner, page: FIRST.page + page };
        may_hold(&pages[page as usize], place, block, hash).unwrap()
    }

    fn hash_of(prefix: &str, number: u32) -> u64 {
        key_hash(KvsId::new(3), format!("{prefix}{number:020}").as_bytes())
    }

    #[test]
    fn no_key_is_missed_and_few_are_invented() {
        for keys in [1u32, 47, 48, 5_000, 200_000] {
            let hashes: Vec<u64> = (0..keys).map(|number| hash_of("user", number)).collect();
            let (shape, pages) = built(&hashes);
            assert_eq!(pages.len(), shape.pages() as usize);
            assert!(hashes.iter().all(|hash| ask(shape, &pages, *hash)));
            let absent = 200_000u32;
            let wrong = (0..absent).filter(|n| ask(shape, &pages, hash_of("none", *n))).count();
            // Less than 1.3 in a hundred; 0.84 at 200,000 keys.
            assert!(wrong * 1000 < 200_000 * 13, "{keys} keys: {wrong} of {absent}");
        }
    }

    #[test]
    fn a_key_costs_eleven_bits() {
        let shape = FilterShape::for_keys(1_000_000);
        let bits = u64::from(shape.pages()) * 8 * PAGE_BYTES as u64;
        assert!(bits < 11_100_000, "{bits} for a million keys");
    }

    #[test]
    fn layout_is_frozen() {
        let (shape, pages) = built(&[0x0123_4567_89ab_cdef]);
        assert_eq!(shape.blocks(), 1);
        let set: Vec<usize> =
            (0..64 * 8).filter(|b| pages[0][b / 8] & (1 << (b % 8)) != 0).collect();
        // Seven bits of the key, then the stamp.
        let bits = [3, 71, 177, 366, 369, 450, 482];
        let stamp = [496, 498, 499, 500, 501, 504, 505, 506, 508, 510, 511];
        assert_eq!(set, [&bits[..], &stamp[..]].concat());
    }

    #[test]
    fn blocks_of_others_and_zeros_are_refused() {
        let (shape, pages) = built(&[1, 2, 3]);
        let (page, block) = shape.locate(1);
        let there = Place { owner: FIRST.owner, page: FIRST.page + page };
        assert!(may_hold(&pages[0], there, block, 1).unwrap());
        let elsewhere = Place { owner: FIRST.owner, page: FIRST.page + 1 };
        assert!(may_hold(&pages[0], elsewhere, block, 1).is_err());
        assert!(may_hold(&[0; PAGE_BYTES], there, block, 1).is_err());
        assert!(may_hold(&pages[0], there, 64, 1).is_err());
        assert!(may_hold(&pages[0], there, u32::MAX, 1).is_err());
    }
}
