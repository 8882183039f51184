//! What is written for a key, and what is held for it.
//!
//! One vocabulary for a batch, the log, memtables, kvsets and cursors. They differ in where a value
//! may lie that is not inline: `E`. A batch and a memtable have every value inline.

use std::convert::Infallible;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op<'a, E = Infallible> {
    /// The key is deleted.
    Tombstone,
    /// Its value.
    Inline(&'a [u8]),
    /// Where its value lies.
    Extern(E),
}

/// FORMAT: the kinds, as bytes of the log's frames and of leaf pages; memtables use them too.
pub(crate) mod kind {
    pub(crate) const TOMBSTONE: u8 = 0;
    pub(crate) const INLINE: u8 = 1;
    pub(crate) const EXTERN: u8 = 2;
}

impl<'a> Op<'a> {
    /// The value; `None` of a tombstone.
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Tombstone => None,
            Self::Inline(value) => Some(value),
        }
    }
}
