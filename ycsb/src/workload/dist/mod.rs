//! Distributions: which key, which field, how long.
//!
//! Each is a plain struct with a `draw`, owned by one thread; what threads share is in
//! [`counter`]. They are the original's, down to its inclusive bounds, so that a hit ratio
//! measured here can be compared with one measured there.

pub(crate) mod counter;
pub(crate) mod zipfian;

use crate::number::{float, floor};
use crate::workload::random::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zipfian::{Latest, Scrambled, Zipfian};

/// How key numbers are chosen.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    Uniform { first: u64, last: u64 },
    Zipfian(Scrambled),
    Latest(Latest),
    Sequential { first: u64, last: u64, next: Arc<AtomicU64> },
    Hotspot(Hotspot),
    Exponential { gamma: f64 },
}

impl Keys {
    /// A key number not above `last`, the last acknowledged one: draws above it are repeated.
    pub(crate) fn draw(&mut self, last: u64, rng: &mut Rng) -> u64 {
        loop {
            if let Some(key) = self.draw_once(last, rng)
                && key <= last
            {
                return key;
            }
        }
    }

    /// How often each key from the first up to `last` is drawn, as a share; `None` where that
    /// changes from draw to draw.
    pub(crate) fn shares(&self, last: u64) -> Option<Vec<f64>> {
        match self {
            Self::Uniform { first, last } => {
                let items = last - first + 1;
                let count = usize::try_from(items).expect("keys fit in memory");
                Some(vec![1.0 / float(items); count])
            }
            Self::Zipfian(keys) => Some(keys.shares_up_to(last)),
            Self::Latest(_)
            | Self::Sequential { .. }
            | Self::Hotspot(_)
            | Self::Exponential { .. } => None,
        }
    }

    fn draw_once(&mut self, newest: u64, rng: &mut Rng) -> Option<u64> {
        match self {
            Self::Uniform { first, last } => Some(rng.between(*first, *last)),
            Self::Zipfian(keys) => Some(keys.draw(rng)),
            Self::Latest(keys) => Some(keys.draw(newest, rng)),
            Self::Sequential { first, last, next } => {
                let step = next.fetch_add(1, Ordering::Relaxed);
                Some(*first + step % (*last - *first + 1))
            }
            Self::Hotspot(keys) => Some(keys.draw(rng)),
            // Counted back from the newest key; beyond the first key is drawn again.
            Self::Exponential { gamma } => newest.checked_sub(floor(exponential(*gamma, rng))),
        }
    }
}

/// The rate at which `percentile` percent of the draws fall below `range`.
pub(crate) fn exponential_gamma(percentile: f64, range: f64) -> f64 {
    -(1.0 - percentile / 100.0).ln() / range
}

fn exponential(gamma: f64, rng: &mut Rng) -> f64 {
    // 1 - u is never 0, whose logarithm is not a number of keys.
    -(1.0 - rng.unit()).ln() / gamma
}

/// A share of the draws goes to the first part of the keys, evenly within each part.
#[derive(Clone, Debug)]
pub(crate) struct Hotspot {
    first: u64,
    hot_items: u64,
    cold_items: u64,
    hot_share: f64,
}

impl Hotspot {
    pub(crate) fn new(first: u64, last: u64, data_fraction: f64, hot_share: f64) -> Self {
        assert!(first <= last, "{first} is above {last}");
        let items = last - first + 1;
        let hot_items = floor(float(items) * data_fraction).min(items);
        Self { first, hot_items, cold_items: items - hot_items, hot_share }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        // An empty part leaves everything to the other one.
        let hot = self.cold_items == 0 || (self.hot_items > 0 && rng.unit() < self.hot_share);
        if hot {
            self.first + rng.below(self.hot_items)
        } else {
            self.first + self.hot_items + rng.below(self.cold_items)
        }
    }
}

/// How lengths are chosen: of fields in bytes, of scans in records.
#[derive(Clone, Debug)]
pub(crate) enum Lengths {
    Constant(u64),
    Uniform { min: u64, max: u64 },
    Zipfian { min: u64, max: u64, ranks: Box<Zipfian> },
    Histogram(Arc<Histogram>),
}

impl Lengths {
    pub(crate) fn zipfian(min: u64, max: u64) -> Self {
        Self::Zipfian { min, max, ranks: Box::new(Zipfian::new(max - min + 1)) }
    }

    pub(crate) fn draw(&mut self, rng: &mut Rng) -> u64 {
        match self {
            Self::Constant(len) => *len,
            Self::Uniform { min, max } => rng.between(*min, *max),
            Self::Zipfian { min, ranks, .. } => *min + ranks.draw(rng),
            Self::Histogram(histogram) => histogram.draw(rng),
        }
    }

    /// The longest that can be drawn.
    pub(crate) fn max(&self) -> u64 {
        match self {
            Self::Constant(len) => *len,
            Self::Uniform { max, .. } | Self::Zipfian { max, .. } => *max,
            Self::Histogram(histogram) => histogram.max(),
        }
    }

    /// The shortest that can be drawn.
    pub(crate) fn min(&self) -> u64 {
        match self {
            Self::Constant(len) => *len,
            Self::Uniform { min, .. } | Self::Zipfian { min, .. } => *min,
            Self::Histogram(histogram) => histogram.block,
        }
    }
}

/// Lengths as multiples of a block, each with its weight.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    block: u64,
    weights: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// The text that the original writes and reads: `BlockSize` and its bytes, then a line per
    /// bucket with its number from 0 and its weight, separated by a tab.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let pair = |line: &str| -> Option<(String, u64)> {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next().and_then(pair);
        let Some((_, block)) = first.filter(|(word, block)| word == "BlockSize" && *block > 0)
        else {
            return Err("the first line must be `BlockSize` and a number of bytes".into());
        };
        let mut weights = Vec::new();
        for line in lines {
            let parsed = pair(line).and_then(|(at, n)| Some((at.parse::<usize>().ok()?, n)));
            let Some((at, weight)) = parsed.filter(|(at, _)| *at < 1 << 20) else {
                return Err(format!("{line:?} is not a bucket number and a weight"));
            };
            weights.resize(weights.len().max(at + 1), 0);
            weights[at] = weight;
        }
        let total = weights.iter().try_fold(0_u64, |sum, weight| sum.checked_add(*weight));
        let total = total.ok_or("the weights are more than 64 bits can count")?;
        let buckets = u64::try_from(weights.len()).expect("bounded above");
        if total == 0 {
            Err("no bucket has a weight".into())
        } else if block.checked_mul(buckets).is_none() {
            Err(format!("{buckets} buckets of {block} bytes are more than 64 bits can count"))
        } else {
            Ok(Self { block, weights, total })
        }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        let mut left = rng.below(self.total);
        for (bucket, weight) in (1..).zip(&self.weights) {
            if left < *weight {
                return self.block * bucket;
            }
            left -= weight;
        }
        self.max()
    }

    fn max(&self) -> u64 {
        self.block * (1..).zip(&self.weights).map(|(bucket, _)| bucket).last().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(mut keys: Keys, last: u64, n: usize) -> Vec<u64> {
        let mut rng = Rng::new(17, 0);
        (0..n).map(|_| keys.draw(last, &mut rng)).collect()
    }

    fn mean(draws: &[u64]) -> f64 {
        float(draws.iter().sum()) / float(draws.len() as u64)
    }

    #[test]
    fn uniform_has_its_mean_and_spread() {
        let got = draws(Keys::Uniform { first: 100, last: 1099 }, 1099, 100_000);
        assert!((mean(&got) - 599.5).abs() < 4.0);
        let spread = got.iter().map(|k| (float(*k) - 599.5).powi(2)).sum::<f64>() / 100_000.0;
        assert!((spread / 83_333.0 - 1.0).abs() < 0.03, "variance {spread}");
    }

    #[test]
    fn nothing_above_the_last_acknowledged_is_drawn() {
        let got = draws(Keys::Zipfian(Scrambled::new(0, 1999)), 999, 50_000);
        assert!(got.iter().all(|k| *k <= 999));
        let got = draws(Keys::Uniform { first: 0, last: 1999 }, 999, 50_000);
        assert!((mean(&got) - 499.5).abs() < 5.0);
    }

    #[test]
    fn sequential_wraps_and_is_shared() {
        let keys = Keys::Sequential { first: 5, last: 7, next: Arc::default() };
        let other = keys.clone();
        assert_eq!(draws(keys, 7, 4), [5, 6, 7, 5]);
        assert_eq!(draws(other, 7, 3), [6, 7, 5]);
    }

    #[test]
    fn hotspot_keeps_its_shares() {
        let got = draws(Keys::Hotspot(Hotspot::new(0, 999, 0.2, 0.8)), 999, 100_000);
        let hot = got.iter().filter(|k| **k < 200).count();
        assert!((79_000..81_000).contains(&hot), "{hot} of 100000");
        assert!(got.contains(&0) && got.contains(&199) && got.contains(&200) && got.contains(&999));
    }

    #[test]
    fn hotspot_with_an_empty_part_uses_the_other() {
        assert!(
            draws(Keys::Hotspot(Hotspot::new(0, 9, 0.0, 0.8)), 9, 1000).iter().all(|k| *k < 10)
        );
        assert!(
            draws(Keys::Hotspot(Hotspot::new(0, 9, 1.0, 0.0)), 9, 1000).iter().all(|k| *k < 10)
        );
    }

    #[test]
    fn exponential_keeps_its_percentile() {
        let gamma = exponential_gamma(95.0, 1000.0);
        let got = draws(Keys::Exponential { gamma }, 99_999, 100_000);
        let near = got.iter().filter(|k| **k > 99_999 - 1000).count();
        assert!((94_700..95_300).contains(&near), "{near} of 100000");
    }

    #[test]
    fn lengths_stay_in_their_bounds() {
        let mut rng = Rng::new(4, 0);
        for mut lengths in [
            Lengths::Constant(7),
            Lengths::Uniform { min: 3, max: 9 },
            Lengths::zipfian(3, 9),
            Lengths::Histogram(Arc::new(Histogram::parse("BlockSize\t10\n0\t1\n2\t3\n").unwrap())),
        ] {
            let seen: Vec<u64> = (0..2000).map(|_| lengths.draw(&mut rng)).collect();
            assert_eq!(seen.iter().min(), Some(&lengths.min()), "{lengths:?}");
            assert_eq!(seen.iter().max(), Some(&lengths.max()), "{lengths:?}");
        }
    }

    #[test]
    fn zipfian_lengths_prefer_the_shortest() {
        let (mut lengths, mut rng) = (Lengths::zipfian(1, 100), Rng::new(4, 0));
        let ones = (0..10_000).filter(|_| lengths.draw(&mut rng) == 1).count();
        // 1 / zeta(100) = 18.7 %.
        assert!((1750..2000).contains(&ones), "{ones}");
    }

    #[test]
    fn bad_histograms_say_why() {
        for (text, say) in [
            ("", "first line"),
            ("0\t1", "first line"),
            ("BlockSize\t0\n0\t1", "first line"),
            ("BlockSize\t10\nx\t1", "\"x\\t1\""),
            ("BlockSize\t10\n", "no bucket"),
            ("BlockSize\t10\n0\t18446744073709551615\n1\t1", "the weights are more"),
            ("BlockSize\t18446744073709551615\n1\t1", "2 buckets of"),
        ] {
            let error = Histogram::parse(text).unwrap_err();
            assert!(error.contains(say), "{text:?}: {error}");
        }
    }
}
