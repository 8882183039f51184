//! Identifiers of the pool's objects.
//!
//! All of them come from one counter that never goes back (`pool::ids` keeps its high-water mark on
//! the medium), so an id is never reused and a stale one can only miss. Zero is not an id, which
//! makes `Option` free. Printed as `mb-1f`, `mdc-3`, `seg-7`: hexadecimal.

use std::{fmt, num::NonZeroU64};

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) NonZeroU64);

        impl $name {
            /// The id with this number, or `None` for zero.
            pub const fn new(raw: u64) -> Option<Self> {
                match NonZeroU64::new(raw) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The number, for storing it.
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{:x}"), self.0)
            }
        }

        // Logs and panics print the short form too.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        const _: () = assert!(size_of::<Option<$name>>() == 8);
    };
}

object_id! {
    /// Names an mblock for the life of the pool. Never reused. A number that its owner stores, so
    /// it does not say of which pool it is: ask the right one.
    MblockId, "mb"
}
object_id! {
    /// Names an MDC (journal) for the life of the pool. Never reused.
    MdcId, "mdc"
}
object_id! {
    /// Names a segment for the life of the pool. Never reused.
    SegmentId, "seg"
}

/// A pool's UUID as people write it: 32 hexadecimal digits in five groups.
pub fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("four bits"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_form_is_short_and_zero_is_no_id() {
        assert_eq!(MblockId::new(31).unwrap().to_string(), "mb-1f");
        assert_eq!(format!("{:?}", MdcId::new(3).unwrap()), "mdc-3");
        assert_eq!(SegmentId::new(7).unwrap().to_string(), "seg-7");
        assert!(MblockId::new(0).is_none());
    }
}
