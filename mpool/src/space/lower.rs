//! Room for what moves down on its volume, from the end that is to be cut off
//! (`shorten` says what moves, and what it may take).

use super::{
    Lease,
    extent::Shape,
    shorten::{self, Means},
    volume::VolumeSpace,
};
use crate::{address::ALLOC_UNIT, error::Result};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Places of its volume, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Below {
    /// Anywhere before this.
    pub(crate) goal: u64,
    /// Else the lowest place before this.
    pub(crate) else_lowest: Option<u64>,
}

impl VolumeSpace {
    /// An object has moved from here; the place is taken for as long as it is read.
    pub(crate) fn leave(&self, bytes: u64) {
        self.left_bytes.fetch_add(bytes, Relaxed);
    }

    /// Its last reader is gone.
    pub(crate) fn let_go(&self, bytes: u64) {
        self.left_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Whether so much may move down, as things are.
    pub(crate) fn affords_move(&self, bytes: u64) -> bool {
        let (used_bytes, free_bytes) = (self.used_bytes(), self.free_extent_bytes());
        let means = Means {
            used_bytes,
            left_bytes: self.left_bytes.load(Relaxed),
            free_bytes,
            spare_bytes: self.spare_bytes(),
        };
        shorten::affords(means, bytes)
    }

    /// Room for an object of so many bytes that moves down. If there is none, no refusal is
    /// counted: the object stays where it is.
    pub(crate) fn room_below(self: &Arc<Self>, bytes: u64, below: Below) -> Result<Option<Lease>> {
        let Some(len) = bytes.max(1).checked_next_multiple_of(ALLOC_UNIT) else { return Ok(None) };
        let mut free = self.free.lock();
        let mut claim = free.claim_before(len, below.goal, Shape::Pieces);
        if let (None, Some(end)) = (&claim, below.else_lowest) {
            claim = free.claim_before(len, end, Shape::Lowest);
        }
        drop(free);
        claim.map_or(Ok(None), |claim| self.refill(claim))
    }
}
