//! Sizes and durations as people write them: `2GiB`, `1.5G`, `64KiB`, `10s`, `250ms`.
//!
//! All programs of the workspace read them by this crate, so that what one takes, the others take.
#![forbid(unsafe_code)]

use serde::de::{Error as _, Visitor};
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

/// Units of sizes. The first few are what sizes are printed in, largest first. A bare letter is
/// binary, as with `dd`, systemd and the JVM.
const SIZE_UNITS: [(&str, u64); 17] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("P", 1 << 50),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
    ("", 1),
];

/// How many of the units sizes are printed in.
const PRINTED_UNITS: usize = 5;

/// Units of spans, in milliseconds; a bare number is refused.
const SPAN_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("ms", 1), ("s", 1000)];

const SIZE_WANTED: &str =
    "a size such as 64KiB, 512MiB, 1.5GiB, 2G or 1000000, in units up to PiB and below 16384PiB";

const SPAN_WANTED: &str = "a time such as 250ms, 1.5s, 5min or 1h, in whole milliseconds";

/// Digits behind the point that are read; more mean nothing in any unit.
const FRACTION_DIGITS_MAX: usize = 12;

/// A whole or decimal number and a unit, scaled: the whole part, and whether something is left
/// below one.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<(u64, bool)> {
    let text = text.trim();
    let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let scale = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale);
    let scaled = u128::from(whole) * u128::from(scale) + part / denominator;
    Some((u64::try_from(scaled).ok()?, !part.is_multiple_of(denominator)))
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { got: text.into(), want: SIZE_WANTED };
        // Part of a byte is left off.
        parse(text, &SIZE_UNITS).map(|(bytes, _)| Self(bytes)).ok_or_else(wrong)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { got: text.into(), want: SPAN_WANTED };
        match parse(text, &SPAN_UNITS) {
            Some((millis, false)) => Ok(Self(Duration::from_millis(millis))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_UNITS
            .iter()
            .take(PRINTED_UNITS)
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

/// Reads a text; of anything else says what it must be, with its quotes.
struct Quoted {
    want: &'static str,
}

impl Visitor<'_> for Quoted {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in quotes {}", self.want)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Quoted { want: SIZE_WANTED })?;
        text.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Quoted { want: SPAN_WANTED })?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Bytes with three digits or so: "1.5 GiB".
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, so that no float is needed.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths >= 1000 {
        return format!("{} {}", tenths / 10, UNITS[unit]);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
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
            ("2G", 2 << 30, "2GiB"),
            ("2g", 2 << 30, "2GiB"),
            ("1.5GiB", 1536 << 20, "1536MiB"),
            ("0.5K", 512, "512B"),
            ("1.5MB", 1_500_000, "1500000B"),
            ("0.3B", 0, "0B"),
            ("1PiB", 1 << 50, "1PiB"),
            ("4096TiB", 1 << 52, "4PiB"),
            ("2p", 2 << 50, "2PiB"),
            ("1PB", 1_000_000_000_000_000, "976562500000KiB"),
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
        for (text, millis, shown) in [
            ("250ms", 250, "250ms"),
            ("10s", 10_000, "10s"),
            ("1.5s", 1500, "1500ms"),
            ("5min", 300_000, "300s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span(Duration::from_millis(millis)), "{text}");
            assert_eq!(span.to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "GiB",
            "1.GiB",
            ".5GiB",
            "1.2.3G",
            "2XiB",
            "-1",
            "99999999999TiB",
            "16384PiB",
            "1EiB",
        ] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.to_string().contains("1.5GiB"), "{text}: {error}");
        }
        for text in ["10", "s", "1d", "0.5ms"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (150 << 20, "150 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }
}
