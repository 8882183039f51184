//! PURE: the set of free extents, and what the disk below has of them.
//!
//! ```text
//!   free      nobody owns it
//!   `- backed    the disk has blocks for it: a write there asks the disk for nothing
//!      `- rested    free since the last look: it may be given back to the disk
//!   `- hole      the rest: it must be refilled before it is written to
//! ```
//!
//! An object takes the smallest extent that fits (best fit, lowest offset first), a log the lowest,
//! because logs do not move and the end of a file is cut off; of what is backed if there is one,
//! else of all. So what is freed and used again at once never leaves the disk,
//! and holes are used before the volume grows. What may lie in pieces takes a few long ones before
//! that: reserved lengths and kept ones differ, so extents of just the right length are rare, and
//! best fit alone leaves half as much again free as is used. All places and lengths are multiples
//! of [`ALLOC_UNIT`]. Taking what is not free is an error, because the request may come from a
//! journal; giving back what is not taken is a bug, and asserted.

use super::ranges::Ranges;
use crate::address::{ALLOC_UNIT, Extent};

#[derive(Clone)]
pub(crate) struct FreeSet {
    free: Ranges,
    backed: Ranges,
    rested: Ranges,
    /// Bytes of holes that the disk has blocks for all the same, it does not say which.
    paid_bytes: u64,
    /// On loan to whoever gives them back to the disk: free, and not to be had at the moment.
    lent_bytes: u64,
    volume_len: u64,
}

/// What is free within the present length of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeExtents {
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many there are: neighbours count as one.
    pub count: u64,
    /// The length of the longest: no object longer than that finds room unless the volume grows.
    pub longest_bytes: u64,
    /// Bytes of them that take no space on the disk below.
    pub hole_bytes: u64,
}

/// Extents that are taken and must be refilled before they are written to.
#[must_use = "what is claimed is leased, or returned"]
pub(super) struct Claim {
    pub(super) extents: Vec<Extent>,
    pub(super) holes: Vec<Extent>,
}

/// Shorter objects are one extent: there are many of them, and they find room anywhere.
const IN_PIECES_MIN: u64 = 4 << 20;
/// The most extents of one object, and the least length of each but the last. A read across the end
/// of one is two requests, and cannot be shown as one slice of a map.
const PIECES_MAX: usize = 8;
const PIECE_MIN: u64 = 1 << 20;

/// What an allocation may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One extent, the lowest that holds it: of what stays where it is for long.
    Lowest,
    /// The smallest extent that holds it; a few, if it is long and there is no such extent.
    Pieces,
}

impl FreeSet {
    /// A volume of this length, all free and backed.
    pub(crate) fn new(volume_len: u64) -> Self {
        let mut set = Self {
            free: Ranges::default(),
            backed: Ranges::default(),
            rested: Ranges::default(),
            paid_bytes: 0,
            lent_bytes: 0,
            volume_len: 0,
        };
        set.extend_to(volume_len);
        set
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free.bytes() + self.lent_bytes
    }

    /// Bytes of the free ones that the disk must be asked for.
    pub(super) fn unpaid_bytes(&self) -> u64 {
        self.hole_bytes().saturating_sub(self.paid_bytes)
    }

    fn hole_bytes(&self) -> u64 {
        self.free.bytes() - self.backed.bytes()
    }

    pub(super) fn extents(&self) -> FreeExtents {
        FreeExtents {
            bytes: self.free_bytes(),
            count: self.free.count() as u64,
            longest_bytes: self.free.longest().map_or(0, |longest| longest.len),
            hole_bytes: self.hole_bytes(),
        }
    }

    pub(crate) fn volume_len(&self) -> u64 {
        self.volume_len
    }

    /// The length of the free extent that touches the volume's end; growth adds to it.
    pub(crate) fn free_tail(&self) -> u64 {
        self.tail().map_or(0, |tail| tail.len)
    }

    fn tail(&self) -> Option<Extent> {
        self.free.last().filter(|last| last.end() == self.volume_len)
    }

    /// The volume has grown; a length that is not longer changes nothing.
    pub(crate) fn extend_to(&mut self, volume_len: u64) {
        assert!(volume_len.is_multiple_of(ALLOC_UNIT));
        if volume_len > self.volume_len {
            let grown = Extent { offset: self.volume_len, len: volume_len - self.volume_len };
            self.volume_len = volume_len;
            self.release(grown);
        }
    }

    /// The smallest backed extent that holds `len`, the lowest of equals.
    pub(crate) fn allocate(&mut self, len: u64) -> Option<Extent> {
        self.allocate_in(len, Shape::Pieces).map(|extents| extents[0])
    }

    /// The same, or several that hold it together.
    pub(super) fn allocate_in(&mut self, len: u64, shape: Shape) -> Option<Vec<Extent>> {
        let extents = fitting(&self.backed, (len, u64::MAX), shape)?;
        for extent in &extents {
            self.remove(*extent);
        }
        Some(extents)
    }

    /// The same of all that is free: its holes must be refilled.
    pub(super) fn claim(&mut self, len: u64, shape: Shape) -> Option<Claim> {
        let extents = fitting(&self.free, (len, u64::MAX), shape)?;
        Some(self.taken(extents))
    }

    /// The same of what ends at `end` or before, rather of what is backed.
    pub(super) fn claim_before(&mut self, len: u64, end: u64, shape: Shape) -> Option<Claim> {
        let extents = fitting(&self.backed, (len, end), shape)
            .or_else(|| fitting(&self.free, (len, end), shape))?;
        Some(self.taken(extents))
    }

    fn taken(&mut self, extents: Vec<Extent>) -> Claim {
        let holes = extents.iter().flat_map(|extent| self.backed.gaps(*extent)).collect();
        for extent in &extents {
            self.remove(*extent);
        }
        Claim { extents, holes }
    }

    /// A claim is refilled: its owner has it.
    pub(super) fn refilled(&mut self, claim: &Claim) {
        let bytes = claim.holes.iter().map(|hole| hole.len).sum();
        self.paid_bytes = self.paid_bytes.saturating_sub(bytes);
    }

    /// A claim could not be refilled: all is as before.
    pub(super) fn return_claim(&mut self, claim: Claim) {
        for extent in claim.extents {
            self.release(extent);
        }
        for hole in claim.holes {
            self.backed.cut(hole);
        }
    }

    /// Takes a given extent; the error says why it cannot be.
    pub(crate) fn take(&mut self, extent: Extent) -> Result<(), &'static str> {
        if !extent.is_sound() {
            return Err("an extent is not in whole allocation units");
        }
        if extent.end() > self.volume_len {
            return Err("an extent lies beyond the end of the volume");
        }
        if !self.free.has(extent) {
            return Err("two objects own the same extent");
        }
        self.remove(extent);
        Ok(())
    }

    /// Gives an extent back, joining it with its free neighbours.
    pub(crate) fn release(&mut self, extent: Extent) {
        assert!(extent.is_sound());
        assert!(extent.end() <= self.volume_len);
        self.free.join(extent);
        self.backed.join(extent);
    }

    fn remove(&mut self, extent: Extent) {
        self.free.cut(extent);
        self.backed.cut(extent);
        self.rested.cut(extent);
    }
}

/// The part of `ranges` before `end` that an allocation takes.
fn fitting(ranges: &Ranges, (len, end): (u64, u64), shape: Shape) -> Option<Vec<Extent>> {
    assert!(len > 0 && len.is_multiple_of(ALLOC_UNIT));
    let whole = match shape {
        Shape::Lowest => ranges.iter().find(|range| range.len >= len && range.offset + len <= end),
        Shape::Pieces => ranges.best_fit_before(len, end),
    };
    if let Some(Extent { offset, .. }) = whole {
        return Some(vec![Extent { offset, len }]);
    }
    let in_pieces = shape == Shape::Pieces && len >= IN_PIECES_MIN;
    in_pieces.then(|| ranges.longest_for(len, end, (PIECE_MIN, PIECES_MAX))).flatten()
}

// What the disk has of it.
impl FreeSet {
    /// What is free, for a look at the disk below.
    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> {
        self.free.iter()
    }

    /// The disk says that it has no blocks for these free ranges; for `paid_bytes` of them it has.
    pub(super) fn note_holes(&mut self, holes: &[Extent], paid_bytes: u64) {
        for hole in holes {
            self.backed.cut(*hole);
        }
        self.paid_bytes = paid_bytes;
    }

    /// A look: what is free and backed now is rested at the next one, if it still is.
    pub(super) fn look(&mut self) {
        self.rested = self.backed.clone();
    }

    /// The end of the volume, as far as all of it is rested, or is a hole; at most `len_max`.
    pub(super) fn idle_tail(&self, len_max: u64) -> Option<Extent> {
        let tail = self.tail()?;
        let fresh_end = |backed: Extent| self.rested.gaps(backed).last().map(|gap| gap.end());
        let fresh = self.backed.parts(tail).into_iter().rev().find_map(fresh_end);
        let start = fresh.unwrap_or(tail.offset).max(self.volume_len.saturating_sub(len_max));
        (start < self.volume_len).then(|| Extent { offset: start, len: self.volume_len - start })
    }

    /// What is free and has been for some time, or takes nothing of the disk.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.rested.bytes() + self.hole_bytes()
    }

    /// What is rested.
    pub(super) fn rested_bytes(&self) -> u64 {
        self.rested.bytes()
    }

    /// The first `len_max` bytes of the longest rested range, if it has at least `len_min`.
    pub(super) fn idle_range(&self, len_min: u64, len_max: u64) -> Option<Extent> {
        let longest = self.rested.longest().filter(|longest| longest.len >= len_min)?;
        Some(Extent { len: longest.len.min(len_max), ..longest })
    }

    /// Takes a free range out of reach, to give it back to the disk.
    pub(super) fn lend(&mut self, extent: Extent) -> Claim {
        assert!(self.free.has(extent), "what is free is lent");
        self.lent_bytes += extent.len;
        self.taken(vec![extent])
    }

    /// Whether something is on loan: it comes back soon, in whatever state.
    pub(super) fn is_lending(&self) -> bool {
        self.lent_bytes > 0
    }

    /// What was lent comes back as it was; it was rested.
    pub(super) fn return_loan(&mut self, claim: Claim) {
        let extent = claim.extents[0];
        self.lent_bytes -= extent.len;
        self.return_claim(claim);
        for backed in self.backed.parts(extent) {
            self.rested.join(backed);
        }
    }

    /// What was lent comes back as a hole.
    pub(super) fn return_hole(&mut self, claim: &Claim) {
        self.lent_bytes -= claim.extents[0].len;
        self.free.join(claim.extents[0]);
    }

    /// What was lent is no part of the volume any more. If the volume has grown meanwhile, growth
    /// began where the loan does, so it comes back.
    pub(super) fn end_loan_with_volume(&mut self, claim: &Claim) {
        let extent = claim.extents[0];
        self.lent_bytes -= extent.len;
        if extent.end() == self.volume_len {
            self.volume_len = extent.offset;
            // Of what is left the disk says nothing new: rather too little is paid than too much.
            self.paid_bytes = self.paid_bytes.min(self.hole_bytes());
        } else {
            self.release(extent);
        }
    }
}

#[cfg(test)]
mod tests;
