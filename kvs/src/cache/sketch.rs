//! How often keys were asked for, in half a byte a counter.
//!
//! A count-min sketch: a key has four counters, one in each row, shared with other keys; the least
//! of the four is its estimate and never too low. Only the least are raised (conservative update),
//! which keeps the others' error small. All four lie in one 64-byte block, so an access costs one
//! cache line.
//!
//! ```text
//!  block     8 words of 16 counters:  row 0: words 0-1  row 1: words 2-3  row 2: 4-5  row 3: 6-7
//! ```
//!
//! Halving all counters from time to time lets old popularity fade.

/// Highest count.
pub(crate) const COUNT_MAX: u8 = 15;

const BLOCK_WORDS: usize = 8;
const ROWS: usize = 4;

/// Frequency estimates of an unbounded set of hashes in bounded memory.
#[derive(Clone, Default)]
pub(crate) struct Sketch {
    words: Vec<u64>,
}

/// A counter: its word, and its shift within.
type Place = (usize, u32);

impl Sketch {
    /// At least `counters` counters, zero.
    pub(crate) fn new(counters: usize) -> Self {
        let words = (counters / 16).next_power_of_two().max(BLOCK_WORDS);
        Self { words: vec![0; words] }
    }

    /// A sketch of these words, as [`words`](Self::words) gives them. None if their number is none
    /// that a sketch has.
    pub(crate) fn from_words(words: Vec<u64>) -> Option<Self> {
        let fits = words.len().is_power_of_two() && words.len() >= BLOCK_WORDS;
        fits.then_some(Self { words })
    }

    /// All its counters.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn counters(&self) -> usize {
        self.words.len() * 16
    }

    /// Memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// Times `hash` was counted, as far as is known.
    pub(crate) fn estimate(&self, hash: u64) -> u8 {
        self.least(&self.places(hash))
    }

    /// Counts `hash` once and returns its new estimate.
    pub(crate) fn count(&mut self, hash: u64) -> u8 {
        let places = self.places(hash);
        let least = self.least(&places);
        if least == COUNT_MAX {
            return least;
        }
        self.raise_places(&places, least + 1);
        least + 1
    }

    /// Makes the estimate of `hash` at least `count`.
    pub(crate) fn raise(&mut self, hash: u64, count: u8) {
        let places = self.places(hash);
        self.raise_places(&places, count.min(COUNT_MAX));
    }

    /// Halves every counter.
    pub(crate) fn halve(&mut self) {
        for word in &mut self.words {
            *word = (*word >> 1) & 0x7777_7777_7777_7777;
        }
    }

    /// Doubles the number of counters, keeping every estimate.
    pub(crate) fn double(&mut self) {
        // A hash finds its block by its low bits, so each block's keys go to it or to its copy.
        self.words.extend_from_within(..);
    }

    /// Halves the number of counters; estimates stay or grow. False at the least size.
    pub(crate) fn fold(&mut self) -> bool {
        if self.words.len() <= BLOCK_WORDS {
            return false;
        }
        let upper = self.words.split_off(self.words.len() / 2);
        for (low, high) in self.words.iter_mut().zip(upper) {
            *low = greater(*low, high);
        }
        self.words.shrink_to_fit();
        true
    }

    fn places(&self, hash: u64) -> [Place; ROWS] {
        // The high half of the product depends on all bits below.
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        let blocks = self.words.len() / BLOCK_WORDS;
        let block = usize::try_from(spread).expect("addresses have 64 bits") & (blocks - 1);
        let mut bits = spread >> 40;
        std::array::from_fn(|row| {
            let word = block * BLOCK_WORDS + row * 2 + usize::from(bits & 1 == 1);
            let shift = u32::try_from((bits >> 1) & 15).expect("masked") * 4;
            bits >>= 5;
            (word, shift)
        })
    }

    fn at(&self, (word, shift): Place) -> u8 {
        u8::try_from((self.words[word] >> shift) & 15).expect("masked")
    }

    fn least(&self, places: &[Place; ROWS]) -> u8 {
        places.iter().map(|&place| self.at(place)).min().expect("there are rows")
    }

    fn raise_places(&mut self, places: &[Place; ROWS], count: u8) {
        for &(word, shift) in places {
            if self.at((word, shift)) < count {
                self.words[word] &= !(15 << shift);
                self.words[word] |= u64::from(count) << shift;
            }
        }
    }
}

/// The greater of each pair of counters.
fn greater(a: u64, b: u64) -> u64 {
    (0..16).map(|nibble| 15 << (nibble * 4)).map(|mask| (a & mask).max(b & mask)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    #[test]
    fn estimates_are_never_too_low_and_seldom_too_high() {
        let mut sketch = Sketch::new(16 << 10);
        for round in 0..4 {
            for n in 0..1000 {
                if n % 4 >= round {
                    sketch.count(hash(n));
                }
            }
        }
        let mut high = 0;
        for n in 0..1000 {
            let truth = u8::try_from(n % 4 + 1).unwrap();
            assert!(sketch.estimate(hash(n)) >= truth, "{n}");
            high += u64::from(sketch.estimate(hash(n)) > truth);
        }
        assert!(high < 20, "{high} of 1000 too high");
    }

    #[test]
    fn counts_stop_at_the_highest_and_halve() {
        let mut sketch = Sketch::new(128);
        for _ in 0..40 {
            sketch.count(7);
        }
        assert_eq!(sketch.estimate(7), COUNT_MAX);
        sketch.halve();
        assert_eq!(sketch.estimate(7), 7);
        sketch.raise(7, 200);
        assert_eq!(sketch.estimate(7), COUNT_MAX);
    }

    #[test]
    fn doubling_keeps_estimates() {
        let mut sketch = Sketch::new(1024);
        for n in 0..100 {
            sketch.raise(hash(n), u8::try_from(n % 15).unwrap());
        }
        let before: Vec<_> = (0..100).map(|n| sketch.estimate(hash(n))).collect();
        sketch.double();
        let after: Vec<_> = (0..100).map(|n| sketch.estimate(hash(n))).collect();
        assert_eq!(before, after);
        assert_eq!(sketch.counters(), 2048);
        sketch.fold();
        let folded: Vec<_> = (0..100).map(|n| sketch.estimate(hash(n))).collect();
        assert_eq!(before, folded, "both copies are the same");
        sketch.fold();
        let folded = (0..100).map(|n| sketch.estimate(hash(n)));
        assert!(folded.zip(before).all(|(after, before)| after >= before));
        assert_eq!(sketch.bytes(), 256);
        assert!(sketch.fold() && sketch.fold() && !sketch.fold(), "one block is left");
        assert_eq!(sketch.bytes(), 64);
    }
}
