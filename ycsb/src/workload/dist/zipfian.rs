//! Zipfian draws after Gray et al., "Quickly Generating Billion-Record Synthetic Databases"
//! (SIGMOD 1994), with the constants and quirks of YCSB's own generators.
//!
//! [`Zipfian`] gives rank 0 the most. [`Scrambled`] draws a rank of 10^10 and scatters it over
//! the keys by a hash, so that popularity has nothing to do with a key's place. [`Latest`] counts
//! ranks back from the newest key.

use super::Rng;
use crate::number::{float, floor};
use crate::workload::key::fnv64;

/// YCSB's exponent.
pub(crate) const THETA: f64 = 0.99;
/// Ranks that [`Scrambled`] draws from; the original's bounds are inclusive, hence the odd one.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000 + 1;
/// zeta(10^10, 0.99), as the original has it precomputed.
const SCRAMBLED_ZETAN: f64 = 26.469_028_201_783_02;

/// Terms of zeta that are added one by one.
const ZETA_TERMS: u64 = 1_000_000;

/// Ranks that are followed to their keys when shares are computed, per key.
const RANKS_PER_KEY: u64 = 4;

/// Ranks `0..items`, the first the most popular.
#[derive(Clone, Debug)]
pub(crate) struct Zipfian {
    /// Items when it was made. The original keeps them in `eta` when the set grows, and so do we.
    items: u64,
    /// Items that `zetan` covers.
    zeta_items: u64,
    zetan: f64,
    eta: f64,
    alpha: f64,
    zeta2: f64,
    /// Up to here u * zetan means rank 1.
    second: f64,
}

impl Zipfian {
    pub(crate) fn new(items: u64) -> Self {
        Self::with_zetan(items, zeta(0, items, 0.0))
    }

    fn with_zetan(items: u64, zetan: f64) -> Self {
        assert!(items > 0, "a zipfian needs an item");
        let zeta2 = zeta(0, 2, 0.0);
        let mut made = Self {
            items,
            zeta_items: items,
            zetan,
            eta: 0.0,
            alpha: 1.0 / (1.0 - THETA),
            zeta2,
            second: 1.0 + 0.5_f64.powf(THETA),
        };
        made.eta = made.eta_now();
        made
    }

    fn eta_now(&self) -> f64 {
        (1.0 - (2.0 / float(self.items)).powf(1.0 - THETA)) / (1.0 - self.zeta2 / self.zetan)
    }

    pub(crate) fn draw(&mut self, rng: &mut Rng) -> u64 {
        self.draw_of(self.items, rng)
    }

    /// Of `items` that may have grown since the last draw; zeta follows by the new terms only.
    /// Fewer items than before do not shrink it, as in the original.
    pub(crate) fn draw_of(&mut self, items: u64, rng: &mut Rng) -> u64 {
        if items > self.zeta_items {
            self.zetan = zeta(self.zeta_items, items, self.zetan);
            self.zeta_items = items;
            self.eta = self.eta_now();
        }
        self.rank(items, rng.unit())
    }

    /// The share of draws that fall below `rank`: the least `u` whose rank is not below it.
    fn share_below(&self, rank: u64) -> f64 {
        match rank {
            0 => 0.0,
            1 => 1.0 / self.zetan,
            _ if rank >= self.items => 1.0,
            _ => {
                let root = (float(rank) / float(self.items)).powf(1.0 / self.alpha);
                ((root - 1.0) / self.eta + 1.0).max(self.second / self.zetan)
            }
        }
    }

    /// The rank of `u`, uniform in [0, 1).
    fn rank(&self, items: u64, u: f64) -> u64 {
        let uz = u * self.zetan;
        if uz < 1.0 {
            return 0;
        }
        if uz < self.second {
            return 1;
        }
        floor(float(items) * (self.eta * u - self.eta + 1.0).powf(self.alpha))
    }
}

/// The sum of 1 / i^theta for i in `from + 1 ..= to`, added to `sum`.
///
/// Terms beyond the first [`ZETA_TERMS`] of these are summed by the Euler-Maclaurin formula, whose
/// error is far below that of the additions it replaces; so that a trillion items take no longer
/// than a million.
fn zeta(from: u64, to: u64, sum: f64) -> f64 {
    let first = to.min(from.saturating_add(ZETA_TERMS));
    let sum = (from..first).fold(sum, |sum, i| sum + 1.0 / float(i + 1).powf(THETA));
    if first == to {
        return sum;
    }
    let (a, b) = (float(first), float(to));
    let integral = (b.powf(1.0 - THETA) - a.powf(1.0 - THETA)) / (1.0 - THETA);
    let ends = (b.powf(-THETA) - a.powf(-THETA)) / 2.0;
    let slopes = THETA * (a.powf(-THETA - 1.0) - b.powf(-THETA - 1.0)) / 12.0;
    sum + integral + ends + slopes
}

/// `requestdistribution=zipfian`: popular keys all over the key space.
#[derive(Clone, Debug)]
pub(crate) struct Scrambled {
    ranks: Zipfian,
    first: u64,
    items: u64,
}

impl Scrambled {
    /// Over `first ..= last`, the original's inclusive bounds.
    pub(crate) fn new(first: u64, last: u64) -> Self {
        assert!(first <= last, "{first} is above {last}");
        let ranks = Zipfian::with_zetan(SCRAMBLED_ITEMS, SCRAMBLED_ZETAN);
        Self { ranks, first, items: last - first + 1 }
    }

    pub(crate) fn draw(&mut self, rng: &mut Rng) -> u64 {
        self.first + fnv64(self.ranks.draw(rng)) % self.items
    }

    /// How often each key up to `last` is drawn, as a share: draws above it are repeated.
    pub(crate) fn shares_up_to(&self, last: u64) -> Vec<f64> {
        let mut shares = self.shares(self.items.saturating_mul(RANKS_PER_KEY));
        let keys = usize::try_from(last - self.first + 1).expect("keys fit in memory");
        shares.truncate(keys);
        let sum: f64 = shares.iter().sum();
        for share in &mut shares {
            *share /= sum;
        }
        shares
    }

    /// How often each key is drawn, as a share of all draws, keys in their order.
    ///
    /// The first `ranks` ranks are followed to the keys that they hash to, so that keys with two
    /// popular ranks have both. What is left of the 10^10 is spread evenly: four ranks a key and
    /// sixteen differ by 0.0002 of the hits of any cache.
    fn shares(&self, ranks: u64) -> Vec<f64> {
        let ranks = ranks.min(self.ranks.items);
        let mut shares = vec![0.0; usize::try_from(self.items).expect("keys fit in memory")];
        let mut below = 0.0;
        for rank in 0..ranks {
            let next = self.ranks.share_below(rank + 1);
            let key = usize::try_from(fnv64(rank) % self.items).expect("below the items");
            shares[key] += next - below;
            below = next;
        }
        let rest = (1.0 - below) / float(self.items);
        for share in &mut shares {
            *share += rest;
        }
        shares
    }
}

/// `requestdistribution=latest`: the newer, the more popular.
#[derive(Clone, Debug)]
pub(crate) struct Latest {
    ranks: Zipfian,
}

impl Latest {
    /// For keys `0 ..= last` at the start.
    pub(crate) fn new(last: u64) -> Self {
        Self { ranks: Zipfian::new(last.max(1)) }
    }

    /// `last` is the last acknowledged key. Key 0 is never drawn once there are others, which is
    /// the original's doing: it draws a rank below `last`, not up to it.
    pub(crate) fn draw(&mut self, last: u64, rng: &mut Rng) -> u64 {
        last - self.ranks.draw_of(last.max(1), rng).min(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeta_has_its_published_values() {
        // 1 + 2^-0.99.
        assert!((zeta(0, 2, 0.0) - 1.503_477_775).abs() < 1e-8);
        // The Euler-Maclaurin expansion gives zeta(n) from zeta(1000) without summing.
        let tail = |n: f64| n.powf(1.0 - THETA) / (1.0 - THETA) + 0.5 * n.powf(-THETA);
        let from_1000 = |n: f64| zeta(0, 1000, 0.0) + tail(n) - tail(1000.0);
        assert!((zeta(0, 1_000_000, 0.0) - from_1000(1e6)).abs() < 1e-6);
        assert!((SCRAMBLED_ZETAN - from_1000(1e10)).abs() < 1e-5, "{}", from_1000(1e10));
    }

    #[test]
    fn the_far_terms_are_those_that_adding_gives() {
        let added = |from: u64, to: u64| {
            (from..to).fold(0.0, |sum, i| sum + 1.0 / float(i + 1).powf(THETA))
        };
        for (from, to) in [(0, 3_000_000), (999_999, 1_000_001), (2_000_000, 2_000_003)] {
            let (got, expect) = (zeta(from, to, 0.0), added(from, to));
            assert!((got / expect - 1.0).abs() < 1e-9, "{from} to {to}: {got}, not {expect}");
        }
    }

    #[test]
    fn growing_equals_starting_larger() {
        let mut grown = Zipfian::new(1000);
        grown.draw_of(5000, &mut Rng::new(1, 0));
        assert!((grown.zetan - Zipfian::new(5000).zetan).abs() < 1e-9);
    }

    #[test]
    fn ranks_follow_the_law() {
        let (items, draws) = (1000_u64, 400_000_u32);
        let mut zipfian = Zipfian::new(items);
        let mut rng = Rng::new(11, 0);
        let mut seen = vec![0_u32; 1000];
        for _ in 0..draws {
            seen[usize::try_from(zipfian.draw(&mut rng)).unwrap()] += 1;
        }
        // Ranks 0 and 1 are exact in Gray's method; the rest is an approximation of a few percent.
        for (rank, slack) in [(0_u32, 0.01), (1, 0.02), (10, 0.12), (100, 0.12)] {
            let expect = f64::from(draws) / f64::from(rank + 1).powf(THETA) / zipfian.zetan;
            let got = f64::from(seen[usize::try_from(rank).unwrap()]);
            assert!((got / expect - 1.0).abs() < slack, "rank {rank}: {got}, expected {expect}");
        }
        let head: u32 = seen[..100].iter().sum();
        let expect = zeta(0, 100, 0.0) / zipfian.zetan;
        let share = f64::from(head) / f64::from(draws);
        assert!((share - expect).abs() < 0.02, "head {share}, expected {expect}");
    }

    #[test]
    fn hottest_key_gets_its_published_share_at_any_size() {
        for records in [1000, 1_000_000] {
            let mut keys = Scrambled::new(0, records);
            let hottest = fnv64(0) % (records + 1);
            let mut rng = Rng::new(5, 0);
            let draws = 400_000;
            let hits = (0..draws).filter(|_| keys.draw(&mut rng) == hottest).count();
            let share = float(u64::try_from(hits).unwrap()) / f64::from(draws);
            // 1 / 26.469 = 3.78 %, and a thousandth of the tail where there are 1000 keys.
            assert!((share - 0.0378).abs() < 0.0017, "{records} records: {share}");
        }
    }

    #[test]
    fn shares_are_what_is_drawn() {
        let mut keys = Scrambled::new(0, 999);
        let shares = keys.shares(64_000);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let (draws, mut seen, mut rng) = (2_000_000_u32, vec![0_u32; 1000], Rng::new(6, 0));
        for _ in 0..draws {
            seen[usize::try_from(keys.draw(&mut rng)).unwrap()] += 1;
        }
        for (key, (share, seen)) in shares.iter().zip(&seen).enumerate() {
            let expect = share * f64::from(draws);
            // Five standard deviations, and a thousandth for the ranks that are spread evenly.
            let slack = 5.0 * expect.sqrt() + 0.001 * expect + 0.02 * f64::from(draws) / 1000.0;
            let off = (f64::from(*seen) - expect).abs();
            assert!(off < slack, "key {key}: {seen} draws, expected {expect}");
        }
    }

    #[test]
    fn shares_below_turn_ranks_back_into_draws() {
        let zipfian = Zipfian::new(100_000);
        for rank in [1, 2, 3, 10, 1000, 99_999] {
            let edge = zipfian.share_below(rank);
            assert!(zipfian.rank(100_000, edge - 1e-9) < rank, "rank {rank} begins at {edge}");
            assert!(zipfian.rank(100_000, edge + 1e-9) >= rank, "rank {rank} begins at {edge}");
        }
        assert!(zipfian.share_below(0).abs() < f64::EPSILON);
        assert!((zipfian.share_below(100_000) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn scrambled_tail_is_even() {
        // Leave out the 16 heaviest ranks; the rest must spread over blocks of keys.
        let heavy: Vec<u64> = (0..200).map(|rank| fnv64(rank) % 1_000_001).collect();
        let (mut keys, mut rng) = (Scrambled::new(0, 1_000_000), Rng::new(9, 0));
        let mut blocks = [0_u32; 10];
        for _ in 0..300_000 {
            let key = keys.draw(&mut rng);
            if !heavy.contains(&key) {
                blocks[usize::try_from(key.min(999_999) / 100_000).unwrap()] += 1;
            }
        }
        let mean = f64::from(blocks.iter().sum::<u32>()) / 10.0;
        for n in blocks {
            assert!((f64::from(n) / mean - 1.0).abs() < 0.05, "{blocks:?}");
        }
    }

    #[test]
    fn latest_prefers_the_newest() {
        let (mut keys, mut rng) = (Latest::new(9999), Rng::new(2, 0));
        let draws: Vec<u64> = (0..100_000).map(|_| keys.draw(12_000, &mut rng)).collect();
        assert!(draws.iter().all(|k| (1..=12_000).contains(k)));
        let newest = draws.iter().filter(|k| **k == 12_000).count();
        let expect = 100_000.0 / zeta(0, 12_000, 0.0);
        assert!((float(newest as u64) / expect - 1.0).abs() < 0.05, "{newest} of {expect}");
    }

    #[test]
    fn latest_of_one_key_is_that_key() {
        let (mut keys, mut rng) = (Latest::new(0), Rng::new(2, 0));
        assert!((0..1000).all(|_| keys.draw(0, &mut rng) == 0));
    }
}
