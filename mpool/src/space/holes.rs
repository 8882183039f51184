//! Free ranges of a volume that the disk below has no blocks for: found at open, refilled before
//! they are used.
//!
//! A write into a hole would find the disk full when it is too late to say so, and end all writing.

use super::{
    Lease,
    extent::{Claim, FreeSet},
    volume::VolumeSpace,
};
use crate::{
    address::{ALLOC_UNIT, Extent},
    device::Device,
    error::Result,
};
use std::{ops::Range, sync::Arc};

impl VolumeSpace {
    /// Gets blocks from the disk for what it has none for; `None` if it has none left. No lock is
    /// held meanwhile.
    pub(super) fn refill(self: &Arc<Self>, claim: Claim) -> Result<Option<Lease>> {
        for hole in &claim.holes {
            match self.volumes.refill(self.id(), *hole) {
                Ok(true) => {}
                outcome => {
                    self.free.lock().return_claim(claim);
                    return outcome.map(|_| None);
                }
            }
        }
        self.free.lock().refilled(&claim);
        Ok(Some(self.leased(claim.extents)))
    }
}

/// Asks the disk below which free ranges it has no blocks for, where the device is longer than what
/// it takes there. A range that was never written may pass for a hole although it has blocks.
pub(super) fn find_holes(device: &dyn Device, free: &mut FreeSet) {
    let len_bytes = device.geometry().len_bytes;
    let Some(disk_bytes) = device.disk_bytes().filter(|bytes| *bytes < len_bytes) else { return };
    let ranges: Vec<Extent> = free.iter().collect();
    let holes: Vec<Extent> = ranges.into_iter().flat_map(|range| holes_in(device, range)).collect();
    let hole_bytes: u64 = holes.iter().map(|hole| hole.len).sum();
    free.note_holes(&holes, hole_bytes.saturating_sub(len_bytes - disk_bytes));
}

fn holes_in(device: &dyn Device, range: Extent) -> Vec<Extent> {
    match device.holes(range.offset, range.len) {
        Ok(holes) => units(&holes, range),
        Err(error) => {
            // Refilling what is none does no harm.
            tracing::debug!(%error, "the disk does not say where a volume has holes");
            vec![range]
        }
    }
}

/// Whole units within `range`, as ranges that do not touch: one that is a hole in part is refilled
/// as one.
fn units(holes: &[Range<u64>], range: Extent) -> Vec<Extent> {
    let mut units: Vec<Extent> = Vec::new();
    for hole in holes {
        let start = (hole.start / ALLOC_UNIT * ALLOC_UNIT).max(range.offset);
        let end = hole.end.next_multiple_of(ALLOC_UNIT).min(range.end());
        match units.last_mut() {
            Some(last) if last.end() >= start => last.len = end - last.offset,
            _ => units.push(Extent { offset: start, len: end - start }),
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_counted_in_whole_units() {
        const U: u64 = ALLOC_UNIT;
        let range = Extent { offset: 2 * U, len: 8 * U };
        let holes = [2 * U + 4096..3 * U, 5 * U..5 * U + 4096, 6 * U - 4096..7 * U, 9 * U..10 * U];
        let found: Vec<_> =
            units(&holes, range).iter().map(|e| (e.offset / U, e.len / U)).collect();
        assert_eq!(found, [(2, 1), (5, 2), (9, 1)]);
    }
}
