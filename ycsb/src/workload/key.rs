//! Keys: how a key number becomes the bytes that the store sees.
//!
//! `user` and the decimal of the number's FNV-1a hash (or of the number itself with
//! `insertorder=ordered`), padded on the left with zeros to `zeropadding` digits. Hashing
//! scatters the insertion order over the key space, so a load is not one long append.

/// All keys begin with this, and it is below all of them.
pub(crate) const FIRST: &[u8] = b"user";

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 1_099_511_628_211;

/// FNV-1a over the eight octets of `n`, low first; the absolute value as a signed number.
pub(crate) fn fnv64(n: u64) -> u64 {
    let hash =
        n.to_le_bytes().iter().fold(FNV_OFFSET, |h, b| (h ^ u64::from(*b)).wrapping_mul(FNV_PRIME));
    hash.cast_signed().unsigned_abs()
}

/// The naming rule of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyNames {
    /// Least number of digits.
    pub(crate) zero_padding: usize,
    pub(crate) order: InsertOrder,
}

/// Whether keys are scattered or in the order of their insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsertOrder {
    Hashed,
    Ordered,
}

impl KeyNames {
    /// Replaces the contents of `out` with the key of number `n`. Allocates nothing once `out`
    /// has grown.
    pub(crate) fn write(self, n: u64, out: &mut Vec<u8>) {
        let number = match self.order {
            InsertOrder::Hashed => fnv64(n),
            InsertOrder::Ordered => n,
        };
        let mut digits = [0_u8; 20];
        let mut first = digits.len();
        let mut rest = number;
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).expect("a digit is below 10");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let digits = &digits[first..];
        out.clear();
        out.extend_from_slice(FIRST);
        out.resize(FIRST.len() + self.zero_padding.saturating_sub(digits.len()), b'0');
        out.extend_from_slice(digits);
    }

    /// The number whose key this is, where keys are in the order of their numbers.
    pub(crate) fn number(self, key: &[u8]) -> Option<u64> {
        let digits = key.strip_prefix(FIRST).filter(|_| self.order == InsertOrder::Ordered)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64, zero_padding: usize, order: InsertOrder) -> String {
        let mut out = vec![1, 2, 3];
        KeyNames { zero_padding, order }.write(n, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn first_keys_are_those_of_every_ycsb_data_set() {
        // The first keys that the original loads, known from countless logs.
        assert_eq!(name(0, 1, InsertOrder::Hashed), "user6284781860667377211");
        assert_eq!(name(1, 1, InsertOrder::Hashed), "user8517097267634966620");
        assert_eq!(name(2, 1, InsertOrder::Hashed), "user1820151046732198393");
    }

    #[test]
    fn ordered_keys_are_padded() {
        assert_eq!(name(42, 1, InsertOrder::Ordered), "user42");
        assert_eq!(name(42, 5, InsertOrder::Ordered), "user00042");
        assert_eq!(name(0, 1, InsertOrder::Ordered), "user0");
        assert_eq!(name(u64::MAX, 1, InsertOrder::Ordered), format!("user{}", u64::MAX));
    }

    #[test]
    fn the_hash_is_never_negative() {
        for n in 0..100_000 {
            assert!(i64::try_from(fnv64(n)).is_ok(), "hash of {n}");
        }
    }

    #[test]
    fn an_ordered_key_has_its_number() {
        let names = KeyNames { zero_padding: 12, order: InsertOrder::Ordered };
        let mut key = Vec::new();
        for n in [0, 7, 123_456_789_012, u64::MAX] {
            names.write(n, &mut key);
            assert_eq!(names.number(&key), Some(n));
        }
        let hashed = KeyNames { order: InsertOrder::Hashed, ..names };
        assert_eq!(
            (hashed.number(&key), names.number(b"user1x"), names.number(b"1")),
            (None, None, None)
        );
    }
}
