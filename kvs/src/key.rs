//! Ids, revisions, keys as text, and their limits.

use std::fmt;

/// Longest key, bytes. HSE's limit (facts of HSE 3: `HSE_KVS_KEY_LEN_MAX`), so that a key and its
/// entry fit a B-tree page.
pub const KEY_BYTES_MAX: usize = 1344;
/// Longest value, bytes: 16 MiB.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Most KVSs in one database.
pub const KVS_MAX: usize = 256;
/// Longest KVS name, bytes. Names match `[A-Za-z0-9._-]{1,64}`.
pub const KVS_NAME_BYTES_MAX: usize = 64;

/// Whether a KVS may have this name.
pub(crate) fn is_kvs_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // In a URL they mean another place, which clients go to before they ask.
    let is_dots = name == "." || name == "..";
    let has_length = (1..=KVS_NAME_BYTES_MAX).contains(&name.len());
    has_length && !is_dots && name.bytes().all(allowed)
}

/// The global sequence number: each committed batch gets the next one, and all its entries carry
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);
    /// Sees everything.
    pub const MAX: Self = Self(u64::MAX);
    /// No batch has a greater one. Half of what the number holds, so that counting on from what the
    /// medium says never overflows.
    pub(crate) const LAST: Self = Self(u64::MAX >> 1);

    /// A revision from its number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The revision so many after this one.
    #[must_use]
    pub(crate) const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a KVS for the life of the database. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KvsId(u32);

impl KvsId {
    /// An id from its number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for KvsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kvs-{}", self.0)
    }
}

/// Names a snapshot. Later ones have greater numbers, also in later opens, as far as the clock is
/// not set back. Below 2^53, so that it is exact in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// An id from its number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a kvset for the life of the database. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KvsetId(u64);

impl KvsetId {
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// Names a node of one KVS's tree. 0 is the root; leaves count from 1. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u64);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// Most bytes of a key that a message shows.
const SHOWN_BYTES_MAX: usize = 64;

/// A key in a message: quoted, on one line, in ASCII, not longer than a reader likes.
pub(crate) struct KeyText<'a>(pub(crate) &'a [u8]);

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() {
            write!(f, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// The hash that filters, the value cache and the memtable filter share: computed once a lookup.
///
/// Part of the on-medium format (kblock filters): xxh3-64 of the key, seeded by the KVS id.
pub(crate) fn key_hash(kvs: KvsId, key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(kvs.get()))
}
