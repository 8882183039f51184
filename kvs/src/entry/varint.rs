//! Integers of one to ten bytes: seven bits a byte, least significant first, the top bit set on all
//! but the last.
//!
//! Entries of kblock pages and of batches are made of them. Reading is bounded and never panics:
//! the bytes come from the medium.

/// Appends `value`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits fit a byte") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("less than 0x80"));
}

/// Reads the integer at `*at` and moves `*at` behind it. `None` if it is cut short or does not fit
/// 64 bits.
#[inline]
pub(crate) fn take(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// As [`take`], for fields of 32 bits.
#[inline]
pub(crate) fn take_u32(bytes: &[u8], at: &mut usize) -> Option<u32> {
    u32::try_from(take(bytes, at)?).ok()
}

/// As [`take`], for lengths inside a page.
#[inline]
pub(crate) fn take_len(bytes: &[u8], at: &mut usize) -> Option<usize> {
    usize::try_from(take(bytes, at)?).ok()
}

/// Folds a signed difference (in two's complement) so that small ones of either sign are short.
pub(crate) const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (0u64.wrapping_sub(difference >> 63))
}

/// Undoes [`zigzag`].
pub(crate) const fn unzigzag(folded: u64) -> u64 {
    (folded >> 1) ^ (0u64.wrapping_sub(folded & 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_put_is_taken(value: u64, tail: u8) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            proptest::prop_assert!(bytes.len() <= 10);
            let len = bytes.len();
            bytes.push(tail);
            let mut at = 0;
            proptest::prop_assert_eq!(take(&bytes, &mut at), Some(value));
            proptest::prop_assert_eq!(at, len);
            proptest::prop_assert_eq!(take(&bytes[..len - 1], &mut 0), None);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let mut at = 0;
            while take(&bytes, &mut at).is_some() {}
            proptest::prop_assert!(at <= bytes.len());
        }

        #[test]
        fn zigzag_is_undone(value: u64) {
            proptest::prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn lengths_are_as_expected() {
        for (value, len) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes.len(), len, "value {value}");
        }
        assert_eq!(zigzag(1), 2);
        assert_eq!(zigzag(0u64.wrapping_sub(1)), 1);
    }
}
