//! Rows: the fields of a record as one value, and what each field must hold.
//!
//! A record is encoded as YCSB's RocksDB binding does, field after field:
//!
//! ```text
//! size  field
//!    4  length of the name, big-endian
//!    -  name, `field0` ..
//!    4  length of the value, big-endian
//!    -  value
//! ```
//!
//! The value of a field is a function of the key, the field's number, its length and a version,
//! which the value itself carries:
//!
//! ```text
//! offset  size  value of VERSIONED_BYTES and more      shorter value
//!      0     8  version, lower-case hexadecimal        filler of version 0
//!      8     -  filler: printable ASCII, from SplitMix64 seeded by all four
//! ```
//!
//! So any value read can be checked on its own, whoever wrote it and however often the record was
//! updated: a value of another key, of another field, of two versions mixed, or with one byte
//! changed is a mismatch. That a value is the *latest* one cannot be told from the value.

use crate::workload::random::mix;
use std::fmt;
use std::ops::Range;

/// Values of this length and more carry their version.
pub(crate) const VERSIONED_BYTES: usize = 16;
const VERSION_DIGITS: usize = 8;

/// What all rows of a workload have in common.
#[derive(Clone, Debug)]
pub(crate) struct RowShape {
    /// Field names in the order of their encoding.
    pub(crate) names: Vec<String>,
    /// Bounds of a field's length in bytes, inclusive.
    pub(crate) lengths: (usize, usize),
}

/// What is wrong with a row that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadRow {
    Missing,
    Cut { at: usize, len: usize },
    FieldCount { got: usize, expect: usize },
    FieldName { at: usize, got: String },
    FieldLength { field: String, got: usize },
    Content { field: String, offset: usize, got: String, expect: String },
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the record is not there"),
            Self::Cut { at, len } => {
                write!(f, "the row of {len} bytes ends inside a field at {at}")
            }
            Self::FieldCount { got, expect } => write!(f, "{got} fields, must be {expect}"),
            Self::FieldName { at, got } => write!(f, "field number {at} is named {got:?}"),
            Self::FieldLength { field, got } => write!(f, "{field} has {got} bytes"),
            Self::Content { field, offset, got, expect } => {
                write!(f, "{field} differs from byte {offset} on: {got:?}, must be {expect:?}")
            }
        }
    }
}

impl RowShape {
    /// Appends one field with the value that `of` must hold.
    pub(crate) fn push(&self, row: &mut Vec<u8>, of: Content, len: usize) {
        let name = self.names[of.field].as_bytes();
        row.extend_from_slice(&length_bytes(name.len()));
        row.extend_from_slice(name);
        row.extend_from_slice(&length_bytes(len));
        let at = row.len();
        row.resize(at + len, 0);
        of.fill(&mut row[at..]);
    }

    /// Replaces the value of one field, leaving the others as they are.
    pub(crate) fn replace(&self, row: &mut Vec<u8>, of: Content, len: usize) -> Result<(), BadRow> {
        let expect = self.names.len();
        let field = fields(row).nth(of.field).ok_or(BadRow::FieldCount { got: 0, expect })??;
        let mut value = field.value;
        if value.len() != len {
            let lead = value.start - 4..value.start;
            row[lead].copy_from_slice(&length_bytes(len));
            row.splice(value.clone(), std::iter::repeat_n(0, len));
            value.end = value.start + len;
        }
        of.fill(&mut row[value]);
        Ok(())
    }

    /// Walks the row as every reader must, without looking at the values.
    pub(crate) fn parse(&self, row: &[u8]) -> Result<(), BadRow> {
        let mut got = 0;
        for field in fields(row) {
            field?;
            got += 1;
        }
        let expect = self.names.len();
        if got == expect { Ok(()) } else { Err(BadRow::FieldCount { got, expect }) }
    }

    /// Checks every byte of the row against what `key` must hold.
    pub(crate) fn verify(&self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let key = key_hash(key);
        let mut scratch = Vec::new();
        self.parse(row)?;
        for (at, field) in fields(row).enumerate() {
            let field = field?;
            let name = &row[field.name];
            if name != self.names[at].as_bytes() {
                return Err(BadRow::FieldName { at, got: text(name) });
            }
            let value = &row[field.value];
            let (min, max) = self.lengths;
            if !(min..=max).contains(&value.len()) {
                let field = self.names[at].clone();
                return Err(BadRow::FieldLength { field, got: value.len() });
            }
            scratch.clear();
            scratch.resize(value.len(), 0);
            Content { key, field: at, version: version_of(value) }.fill(&mut scratch);
            if let Some(offset) = value.iter().zip(&scratch).position(|(got, must)| got != must) {
                return Err(BadRow::Content {
                    field: self.names[at].clone(),
                    offset,
                    got: text(&value[offset..]),
                    expect: text(&scratch[offset..]),
                });
            }
        }
        Ok(())
    }
}

/// What determines a field's value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    /// [`key_hash`] of the key.
    pub(crate) key: u64,
    pub(crate) field: usize,
    /// 0 as loaded; anything by updates.
    pub(crate) version: u32,
}

impl Content {
    fn fill(self, value: &mut [u8]) {
        let len = u64::try_from(value.len()).expect("a length fits 64 bits");
        let field = u64::try_from(self.field).expect("a field number fits 64 bits");
        let (version, filler) = if value.len() >= VERSIONED_BYTES {
            let (head, filler) = value.split_at_mut(VERSION_DIGITS);
            write_hex(self.version, head);
            (self.version, filler)
        } else {
            (0, value)
        };
        let mut state = mix(mix(self.key ^ mix(field)) ^ (len << 32) ^ u64::from(version));
        for chunk in filler.chunks_mut(8) {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            // Six bits a byte, moved to 0x20..=0x5F: printable, and no carry between bytes.
            let bits = (mix(state) & 0x3F3F_3F3F_3F3F_3F3F) + 0x2020_2020_2020_2020;
            chunk.copy_from_slice(&bits.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A hash of a key's bytes, the root of its fields' contents.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    let seed = u64::try_from(key.len()).expect("a length fits 64 bits");
    key.chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

fn write_hex(version: u32, out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, byte) in out.iter_mut().rev().enumerate() {
        *byte = DIGITS[usize::try_from((version >> (4 * at)) & 15).expect("a nibble")];
    }
}

/// The version a value claims. A head that is no number gives 0, whose content then differs.
fn version_of(value: &[u8]) -> u32 {
    if value.len() < VERSIONED_BYTES {
        return 0;
    }
    let head = std::str::from_utf8(&value[..VERSION_DIGITS]).unwrap_or_default();
    u32::from_str_radix(head, 16).unwrap_or(0)
}

/// Where a field's parts are in its row.
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// The fields of a row; the first malformed one ends it with an error.
fn fields(row: &[u8]) -> impl Iterator<Item = Result<Field, BadRow>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == row.len() {
            return None;
        }
        let start = at;
        let mut part = || {
            let len = length_at(row, at)?;
            let range = at + 4..(at + 4).checked_add(len)?;
            at = range.end;
            (range.end <= row.len()).then_some(range)
        };
        let field = part().and_then(|name| Some(Field { name, value: part()? }));
        if field.is_none() {
            at = row.len();
        }
        Some(field.ok_or(BadRow::Cut { at: start, len: row.len() }))
    })
}

#[expect(clippy::big_endian_bytes, reason = "the RocksDB binding's format, see the module")]
fn length_at(row: &[u8], at: usize) -> Option<usize> {
    let bytes = row.get(at..at.checked_add(4)?)?;
    let bytes = <[u8; 4]>::try_from(bytes).expect("a slice of four bytes");
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

#[expect(clippy::big_endian_bytes, reason = "the RocksDB binding's format, see the module")]
fn length_bytes(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("field names and values are shorter than 4 GiB").to_be_bytes()
}

/// At most 24 bytes, for a message.
fn text(bytes: &[u8]) -> String {
    bytes.iter().take(24).map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(count: usize, lengths: (usize, usize)) -> RowShape {
        RowShape { names: (0..count).map(|i| format!("field{i}")).collect(), lengths }
    }

    fn row_of(shape: &RowShape, key: &[u8], version: u32) -> Vec<u8> {
        let mut row = Vec::new();
        for field in 0..shape.names.len() {
            let of = Content { key: key_hash(key), field, version };
            shape.push(&mut row, of, shape.lengths.0);
        }
        row
    }

    #[test]
    fn a_standard_row_has_1140_bytes() {
        let shape = shape(10, (100, 100));
        let row = row_of(&shape, b"user1", 0);
        assert_eq!(row.len(), 1140);
        assert_eq!(&row[..18], b"\0\0\0\x06field0\0\0\0\x6400000000"[..18].as_ref());
        assert_eq!(shape.verify(b"user1", &row), Ok(()));
    }

    #[test]
    fn values_are_frozen() {
        // A data set written by one version must verify with every later one.
        let mut value = [0; 24];
        Content { key: key_hash(b"user6284781860667377211"), field: 3, version: 0xBEEF }
            .fill(&mut value);
        assert_eq!(text(&value), "0000beef3,'Q(TNJAK-U^(O?");
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let shape = shape(3, (40, 40));
        let row = row_of(&shape, b"user42", 7);
        for at in 0..row.len() {
            let mut bad = row.clone();
            bad[at] ^= 1;
            assert!(shape.verify(b"user42", &bad).is_err(), "byte {at}");
        }
        for len in 0..row.len() {
            assert!(shape.verify(b"user42", &row[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_row_of_another_key_or_a_mixed_version_is_seen() {
        let shape = shape(2, (30, 30));
        let row = row_of(&shape, b"user1", 1);
        assert!(matches!(shape.verify(b"user2", &row), Err(BadRow::Content { .. })));
        let mut mixed = row.clone();
        let other = row_of(&shape, b"user1", 2);
        mixed[34..44].copy_from_slice(&other[34..44]);
        assert!(matches!(shape.verify(b"user1", &mixed), Err(BadRow::Content { .. })));
    }

    #[test]
    fn an_update_changes_one_field() {
        let shape = shape(4, (20, 60));
        let mut row = row_of(&shape, b"k", 0);
        for (field, len) in [(0, 20), (2, 60), (3, 33), (2, 21)] {
            let before = row.clone();
            let of = Content { key: key_hash(b"k"), field, version: 99 };
            shape.replace(&mut row, of, len).unwrap();
            assert_eq!(shape.verify(b"k", &row), Ok(()), "field {field} to {len}");
            let changed = fields(&before)
                .zip(fields(&row))
                .filter(|(a, b)| {
                    let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
                    before[a.value.clone()] != row[b.value.clone()]
                })
                .count();
            assert_eq!(changed, 1);
        }
    }

    #[test]
    fn short_values_verify_too() {
        for len in [0, 1, 7, 8, 15, 16, 17] {
            let shape = shape(2, (len, len));
            let row = row_of(&shape, b"k", 5);
            assert_eq!(shape.verify(b"k", &row), Ok(()), "{len} bytes");
        }
    }

    #[test]
    fn a_wrong_length_names_the_field() {
        let wide = shape(1, (50, 50));
        let narrow = shape(1, (10, 20));
        let row = row_of(&wide, b"k", 0);
        let bad = narrow.verify(b"k", &row).unwrap_err();
        assert_eq!(bad.to_string(), "field0 has 50 bytes");
    }
}
