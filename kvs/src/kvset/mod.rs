//! Immutable sorted sets of entries on the medium.
//!
//! ```text
//! hblock ---> kblock, kblock, ..    keys, revisions, small values; a B-tree and a filter each
//!        \--> vblock, vblock, ..    larger values; may be shared with other kvsets
//! ```
//!
//! A flush or a compaction streams entries in key order into a [`KvsetBuilder`]; its mblocks are
//! committed together; [`Kvset::open`] makes them readable. There is one version a key, the newest:
//! snapshots keep their own view, so nothing older is needed.
//!
//! A point lookup ([`Kvset::probe`]) touches one filter line, and for keys that are present one
//! page a tree level, all through the index map; then, unless the value is inline,
//! [`Kvset::read_value`] reads one record. Whatever comes from the medium is checked: pages by
//! checksum once a residency, and by place and kind on each use; values by checksum on each read.
//! Bad bytes are an `Err`, never a panic and never an answer.
//!
//! [`hblock`], [`kblock`] and [`vblock`] own the formats. What kvsets there are is the manifest's
//! business; what keys a reader sees among several kvsets, the merge's.

mod builder;
mod cursor;
mod filter;
mod hblock;
mod holes;
mod kblock;
mod lookup;
mod open;
mod page;
mod places;
mod read_ahead;
pub(crate) mod sketch;
#[cfg(test)]
mod tests;
mod vblock;

pub(crate) use builder::{BuildOptions, BuiltKvset, KvsetBuilder, SharedValue};
#[cfg(test)]
pub(crate) use cursor::STEPS;
pub(crate) use cursor::{KvsetCursor, ReadMode, Shared};
pub(crate) use holes::{Holes, KeyRange};
pub(crate) use lookup::{Blocking, Pages, Passed, Probe, Resident};
pub(crate) use open::Kvset;
pub(crate) use read_ahead::IndexPart;
pub(crate) use vblock::ahead::{ReadAhead, ScanAhead};

use crate::error::Error;
use crate::key::{KvsId, KvsetId, Revision};
use bytes::Bytes;
use mpool::MblockId;
use sketch::Sketch;
use std::sync::Arc;

/// What a kvset is made of. Kept in its hblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvsetMeta {
    pub(crate) id: KvsetId,
    pub(crate) kvs: KvsId,
    pub(crate) hblock: MblockId,
    /// In key order.
    pub(crate) kblocks: Vec<MblockId>,
    /// Every vblock referenced (own or shared) with the bytes this kvset references in it, record
    /// heads included.
    pub(crate) vblocks: Arc<[(MblockId, u64)]>,
    /// Entries, tombstones included.
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) min_key: Bytes,
    pub(crate) max_key: Bytes,
    pub(crate) min_revision: Revision,
    pub(crate) max_revision: Revision,
    /// Bytes of all kblocks, filters included.
    pub(crate) kblock_bytes: u64,
    /// Sum of the referenced bytes of all vblocks.
    pub(crate) value_bytes: u64,
    /// Which keys it has, roughly; `None` in kvsets of before there were sketches.
    pub(crate) sketch: Option<Arc<Sketch>>,
}

/// The error for bytes that are not what they must be.
fn corrupt(what: String, reason: impl Into<String>) -> Error {
    Error::Corrupt { what, reason: reason.into() }
}
