//! The filter in front of a memtable: says "absent" for almost every absent key, from one cache
//! line.
//!
//! A blocked Bloom filter. The high half of a key's hash picks a line of 512 bits, the low 36 bits
//! pick [`PROBES`] bits in it. Adding sets bits with `fetch_or` and never clears one, so it takes
//! no lock and cannot lose a key.
//!
//! Size: 1/64 of the memtable's budget. With entries of 100 bytes that is 12 bits a key (about 1 %
//! of absent keys pass); with 1 KiB values, 130 bits a key (next to none).

use std::sync::atomic::{AtomicU64, Ordering};

const PROBES: u32 = 4;
const WORDS: usize = 8;
/// Share of the memtable's bytes that its filter takes.
const BUDGET_SHARE: usize = 64;
/// 1 GiB of filter, more than a memtable of the largest size asks for.
const LINES_MAX: usize = 1 << 24;

#[repr(align(64))]
struct Line([AtomicU64; WORDS]);

const _: () = assert!(size_of::<Line>() == 64);

/// Keys that may be present, by their hash.
pub(super) struct Filter {
    lines: Box<[Line]>,
    /// Their number, at most 2^24, so that a product with 32 bits of hash cannot overflow.
    count: u64,
}

impl Filter {
    /// Sized for a memtable of `bytes_hint`.
    pub(super) fn new(bytes_hint: usize) -> Self {
        let count = (bytes_hint / BUDGET_SHARE / size_of::<Line>()).clamp(1, LINES_MAX);
        let lines = (0..count).map(|_| Line([const { AtomicU64::new(0) }; WORDS])).collect();
        Self { lines, count: u64::try_from(count).expect("at most LINES_MAX") }
    }

    /// Adds a key. Relaxed: a reader must find the key only once its revision is published, and
    /// publishing orders everything before it.
    pub(super) fn add(&self, hash: u64) {
        let line = self.line(hash);
        for probe in 0..PROBES {
            let (word, mask) = bit(hash, probe);
            // A plain load first: a hot key's line stays shared between the caches.
            if line.0[word].load(Ordering::Relaxed) & mask == 0 {
                line.0[word].fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// false: the key was never added.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let line = self.line(hash);
        (0..PROBES).all(|probe| {
            let (word, mask) = bit(hash, probe);
            line.0[word].load(Ordering::Relaxed) & mask != 0
        })
    }

    fn line(&self, hash: u64) -> &Line {
        // Scales 32 bits to the number of lines without a division.
        let scaled = ((hash >> 32) * self.count) >> 32;
        &self.lines[usize::try_from(scaled).expect("less than the number of lines")]
    }
}

/// Word and mask of a probe: 3 bits choose the word, 6 the bit.
fn bit(hash: u64, probe: u32) -> (usize, u64) {
    let bits = hash >> (probe * 9);
    let word = usize::try_from(bits & 7).expect("3 bits");
    (word, 1 << ((bits >> 3) & 63))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::key::{KvsId, key_hash};

    fn hash(key: u64) -> u64 {
        key_hash(KvsId::new(1), &key.to_le_bytes())
    }

    #[test]
    fn an_added_key_is_never_denied() {
        let filter = Filter::new(64 << 10);
        for key in 0..2000 {
            filter.add(hash(key));
            assert!(filter.may_contain(hash(key)));
        }
        assert!((0..2000).all(|key| filter.may_contain(hash(key))));
    }

    #[test]
    fn few_absent_keys_pass_at_12_bits_a_key() {
        let keys = if cfg!(miri) { 500 } else { 50_000 };
        let filter = Filter::new(usize::try_from(keys * 12 / 8).unwrap() * BUDGET_SHARE);
        (0..keys).for_each(|key| filter.add(hash(key)));
        let passed = (keys..2 * keys).filter(|&key| filter.may_contain(hash(key))).count();
        assert!(passed * 50 < usize::try_from(keys).unwrap(), "{passed} of {keys}: over 2 %");
    }

    #[test]
    fn the_smallest_filter_works() {
        let filter = Filter::new(0);
        assert!(!filter.may_contain(u64::MAX));
        filter.add(u64::MAX);
        assert!(filter.may_contain(u64::MAX));
    }
}
