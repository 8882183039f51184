//! What an open has left out, where it was asked to go on past damage.

use crate::error::Error;
use crate::key::Revision;
use bytes::Bytes;
use std::fmt;
use std::ops::RangeInclusive;

/// Something that an open has left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// What is damaged, by its name.
    pub what: String,
    /// What is wrong, or what follows from it.
    pub reason: String,
    /// Revisions that are lost, some of which may never have been given out, and some of whose
    /// writes may be elsewhere, too.
    pub revisions: Option<RangeInclusive<u64>>,
    /// Where the lost keys lie, if that is all that is known of them.
    pub range: Option<LostRange>,
    /// Keys that the lost writes changed, as far as they can be read; at most 10,000.
    pub keys: Vec<LostKey>,
    /// How many more there were.
    pub keys_left_off: u64,
}

/// Keys that may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// Name of their KVS.
    pub kvs: String,
    /// The first of them.
    pub from: Bytes,
    /// The first key after them; `None` to the end.
    pub to: Option<Bytes>,
}

/// A key that a lost write changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostKey {
    /// Name of its KVS.
    pub kvs: String,
    /// The key.
    pub key: Bytes,
    /// Of the lost write.
    pub revision: Revision,
    /// Read from bytes whose checksum is right. Otherwise it may be wrong itself.
    pub is_certain: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// What an error says is damaged, and what is lost by that.
pub(crate) fn of_error(error: &Error, lost: &str) -> Loss {
    let (what, reason) = match error {
        Error::Corrupt { what, reason } => (what.clone(), reason.clone()),
        other => ("store".to_owned(), other.to_string()),
    };
    Loss { what, reason: format!("{reason}; {lost}"), ..Loss::default() }
}
