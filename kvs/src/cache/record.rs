//! A record of the value cache: where its bytes are, and what they cost.
//!
//! Key and value lie side by side in a place of the shard's chunks (`slab`). Long records, and all
//! records of a cache too small for chunks, are allocations of their own, which are handed out by
//! reference.

use super::slab::{self, Place, RECORD_BYTES_MAX};
use crate::key::Revision;
use bytes::Bytes;

/// The block of a `Bytes` that counts references: three words and the allocator's head.
const SHARED_BYTES: u64 = 32;
/// A shard of less than this takes no chunks: a few of them would be all it has.
const SLAB_BUDGET_MIN: u64 = 1 << 20;

/// A record that is offered.
pub(crate) struct Incoming<'a> {
    pub(crate) parts: [&'a [u8]; 2],
    /// The copy that enters, where it is not one in a chunk.
    pub(crate) own: Option<Bytes>,
    pub(crate) revision: Revision,
}

impl<'a> Incoming<'a> {
    /// For a shard of `budget` bytes. Long records are copied here, outside the lock.
    pub(crate) fn new(key: &'a [u8], value: &'a [u8], revision: Revision, budget: u64) -> Self {
        let len = key.len() + value.len();
        let own = (!in_slab(len, budget)).then(|| {
            // One byte to spare: a full buffer would grow its reference count at the first hit,
            // not now.
            let mut bytes = Vec::with_capacity(len + 1);
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
            bytes.into()
        });
        Self { parts: [key, value], own, revision }
    }

    /// Bytes of key and value.
    pub(crate) fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }
}

/// Whether a record of `len` bytes lies in a chunk, in a shard of `budget` bytes.
pub(crate) fn in_slab(len: usize, budget: u64) -> bool {
    len <= RECORD_BYTES_MAX && budget >= SLAB_BUDGET_MIN
}

/// Memory that a record of `len` bytes takes in a shard of `budget` bytes.
pub(crate) fn charge(len: usize, budget: u64) -> u64 {
    if in_slab(len, budget) { slab::record_charge(len) } else { own_charge(len) }
}

/// Of an allocation of its own: rounded up to 16 with a head of 8, and its reference count.
pub(crate) fn own_charge(len: usize) -> u64 {
    let len = u64::try_from(len).expect("lengths fit 64 bits");
    (len + 1 + 8).next_multiple_of(16).max(32) + SHARED_BYTES
}

/// Where a record's bytes are: key, then value.
pub(crate) enum Body {
    InSlab(Place),
    Own(Box<Bytes>),
}

/// A record that is cached.
pub(crate) struct Record {
    pub(crate) body: Body,
    pub(crate) len: u32,
    pub(crate) key_len: u16,
    pub(crate) revision: Revision,
}

impl Record {
    /// Bytes of key and value.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.len).expect("32 bits fit an address")
    }

    /// Memory it takes.
    pub(crate) fn charge(&self) -> u64 {
        match self.body {
            Body::InSlab(_) => slab::record_charge(self.len()),
            Body::Own(_) => own_charge(self.len()),
        }
    }
}
