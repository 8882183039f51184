//! PURE. Medians, and how far the rounds of a measurement lie apart.

use serde::Serialize;

/// Ratios of several rounds: the middle one, the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of one value a round; all zero where there was no round.
    pub(crate) fn of(values: &[f64]) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        Self {
            median: median(values),
            min: if values.is_empty() { 0.0 } else { least },
            max: values.iter().copied().fold(0.0, f64::max),
        }
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// Nothing against nothing is a draw; something against nothing is bounded, for JSON knows no
/// infinity.
pub(crate) fn quotient(x: f64, y: f64) -> f64 {
    const MOST: f64 = 1e6;
    if x.total_cmp(&y).is_eq() { 1.0 } else { (x / y).min(MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quotients_at_their_edges() {
        for (values, expect) in [(vec![], 0.0), (vec![3.0, 1.0, 2.0], 2.0), (vec![1.0, 2.0], 1.5)] {
            assert!((median(&values) - expect).abs() < 1e-12, "{values:?}");
        }
        for (x, y, expect) in [(0.0, 0.0, 1.0), (1.0, 0.0, 1e6), (0.0, 1.0, 0.0), (6.0, 3.0, 2.0)] {
            assert!((quotient(x, y) - expect).abs() < 1e-12, "{x} / {y}");
        }
    }

    #[test]
    fn a_spread_has_the_lowest_and_the_highest() {
        let expect = Spread { median: 2.0, min: 0.5, max: 7.0 };
        assert_eq!(Spread::of(&[7.0, 0.5, 2.0]), expect);
        assert_eq!(Spread::of(&[]), Spread { median: 0.0, min: 0.0, max: 0.0 });
    }
}
