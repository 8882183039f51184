//! Sizes and durations as people write them: `2GiB`, `64KiB`, `10s`, `250ms`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a text is no size or span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not {want}")]
pub struct UnitError {
    got: String,
    want: &'static str,
}

/// Largest first, so that the first that divides a size is the one to print.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

const SPAN_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("ms", 1), ("s", 1000)];

fn parse(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.trim().split_at(digits);
    let unit = unit.trim();
    let known = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let scale = if unit.is_empty() { bare } else { known.map(|(_, scale)| *scale) };
    number.parse::<u64>().ok()?.checked_mul(scale?)
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let want = "a size such as 64KiB, 512MiB, 2GiB or 1000000";
        let wrong = || UnitError { got: text.into(), want };
        parse(text.trim(), &SIZE_UNITS, Some(1)).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let want = "a time such as 250ms, 10s, 5min or 1h";
        let wrong = || UnitError { got: text.into(), want };
        let millis = parse(text.trim(), &SPAN_UNITS, None);
        millis.map(|millis| Self(Duration::from_millis(millis))).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_UNITS
            .iter()
            .take(4)
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match binary {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) {
            write!(f, "{}s", millis / 1000)
        } else {
            write!(f, "{millis}ms")
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, shown) in [
            ("2GiB", 2 << 30, "2GiB"),
            ("64 kib", 64 << 10, "64KiB"),
            ("1536MiB", 1536 << 20, "1536MiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("7", 7, "7B"),
            ("0", 0, "0B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes), "{text}");
            assert_eq!(size.to_string(), shown);
            assert_eq!(shown.parse(), Ok(size));
        }
    }

    #[test]
    fn spans_parse_and_print() {
        for (text, millis, shown) in
            [("250ms", 250, "250ms"), ("10s", 10_000, "10s"), ("5min", 300_000, "300s")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span(Duration::from_millis(millis)), "{text}");
            assert_eq!(span.to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "GiB", "1.5GiB", "2XiB", "-1", "99999999999TiB"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.to_string().contains("2GiB"), "{text}: {error}");
        }
        for text in ["10", "s", "1d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
