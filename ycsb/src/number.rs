//! Conversions between integers and floating point that `From` does not offer.
//!
//! Distributions and reports live in `f64`, counts in `u64`. The three functions here are the
//! only places where one becomes the other, so that each loss is stated once.

/// The nearest `f64`; exact up to 2^53, far beyond any record count.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53; no count here comes near")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// Rounds toward zero; negative numbers and NaN become 0, as Rust's saturating cast has it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturation is what callers want: a draw below zero is the first item"
)]
pub(crate) fn floor(x: f64) -> u64 {
    x as u64
}

/// `part / whole`, or 0 where there is no whole.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Three digits that matter.
pub(crate) fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    let mut x = float(n);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            return format!("{} {unit}", short(x));
        }
        x /= 1024.0;
    }
    format!("{} TiB", short(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_saturates_at_both_ends() {
        assert_eq!(floor(-1.0), 0);
        assert_eq!(floor(f64::NAN), 0);
        assert_eq!(floor(2.999), 2);
        assert_eq!(floor(f64::INFINITY), u64::MAX);
    }

    #[test]
    fn a_ratio_without_a_whole_is_zero() {
        assert!(ratio(1.0, 0.0).abs() < f64::EPSILON);
        assert!((ratio(1.0, 4.0) - 0.25).abs() < f64::EPSILON);
    }

    #[test]
    fn byte_counts_are_readable() {
        assert_eq!([bytes(0), bytes(1536), bytes(2 << 30)], ["0.00 B", "1.50 KiB", "2.00 GiB"]);
    }
}
