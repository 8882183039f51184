//! Who owns which part of the volume.
//!
//! [`Space`] hands out extents and takes them back; [`Lease`] is an extent with an owner, which
//! returns when dropped. The free set (`extent`) is never stored: opening the pool rebuilds it from
//! the extents its journal names. When nothing fits, the volume grows.

pub(crate) mod extent;

use crate::{
    error::{Error, Result},
    volume::Volume,
};
use extent::{Extent, FreeSet};
use parking_lot::Mutex;
use std::sync::Arc;

/// Extents are multiples of this, in place and length: 64 KiB. Small enough to waste little at the
/// end of an object, large enough for the free set to stay small.
pub const ALLOC_UNIT: u64 = 64 << 10;

pub(crate) struct Space {
    volume: Arc<Volume>,
    /// The volume's limit, in whole units.
    len_max: u64,
    free: Mutex<FreeSet>,
}

impl Space {
    /// A space in which everything is free but `used`. Overlap means that the journal which named
    /// them is wrong.
    pub(crate) fn rebuild(volume: Arc<Volume>, capacity_max: u64, used: &[Extent]) -> Result<Self> {
        let geometry = volume.device().geometry();
        let len = geometry.len_bytes / ALLOC_UNIT * ALLOC_UNIT;
        let len_max = capacity_max.min(geometry.len_bytes_max).max(len) / ALLOC_UNIT * ALLOC_UNIT;
        let mut free = FreeSet::new(len);
        for extent in used {
            free.take(*extent)
                .map_err(|reason| Error::corrupt("space map", extent.offset, reason))?;
        }
        let space = Self { volume, len_max, free: Mutex::new(free) };
        space.publish(&space.free.lock());
        Ok(space)
    }

    /// An extent of at least `bytes`, rounded up to whole units.
    pub(crate) fn lease(self: &Arc<Self>, bytes: u64) -> Result<Lease> {
        let len =
            bytes.max(1).checked_next_multiple_of(ALLOC_UNIT).ok_or_else(|| self.full(bytes))?;
        loop {
            let want = {
                let mut free = self.free.lock();
                if let Some(extent) = free.allocate(len) {
                    self.publish(&free);
                    return Ok(Lease { space: Arc::clone(self), extent });
                }
                (free.volume_len() - free.free_tail()).checked_add(len)
            };
            let want = want.filter(|want| *want <= self.len_max);
            self.grow(want.ok_or_else(|| self.full(len))?, len)?;
        }
    }

    /// Takes ownership of an extent that `rebuild` was told of.
    pub(crate) fn adopt(self: &Arc<Self>, extent: Extent) -> Lease {
        Lease { space: Arc::clone(self), extent }
    }

    /// Makes the volume `want` long, to hold `len` more. No lock is held while the device grows;
    /// two growers race harmlessly: the device never shrinks, and the free set takes it as it finds
    /// it.
    fn grow(&self, want: u64, len: u64) -> Result<()> {
        if !self.volume.grow(want)? {
            return Err(self.full(len));
        }
        let grown = self.volume.device().geometry().len_bytes.min(self.len_max);
        let mut free = self.free.lock();
        free.extend_to(grown / ALLOC_UNIT * ALLOC_UNIT);
        self.publish(&free);
        Ok(())
    }

    fn full(&self, need_bytes: u64) -> Error {
        self.volume.metrics().space_refused.add(1);
        Error::Full { need_bytes, free_bytes: self.free_bytes() }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        let free = self.free.lock();
        free.volume_len() - free.free_bytes()
    }

    /// Free now, or after growth up to the limit; whether the disk can take that growth is known
    /// only when it happens.
    pub(crate) fn free_bytes(&self) -> u64 {
        let free = self.free.lock();
        free.free_bytes() + (self.len_max - free.volume_len())
    }

    pub(crate) fn len_max(&self) -> u64 {
        self.len_max
    }

    fn release(&self, extent: Extent) {
        let mut free = self.free.lock();
        free.release(extent);
        self.publish(&free);
    }

    fn publish(&self, free: &FreeSet) {
        let metrics = self.volume.metrics();
        metrics.space_used_bytes.set(free.volume_len() - free.free_bytes());
        metrics.space_free_bytes.set(free.free_bytes() + (self.len_max - free.volume_len()));
    }
}

/// An extent with an owner. Dropping it frees the extent, so it outlives every request in flight to
/// that extent and every handle that may read it.
#[must_use = "dropping a lease frees its extent"]
pub(crate) struct Lease {
    space: Arc<Space>,
    extent: Extent,
}

impl Lease {
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// Gives the end of the extent back, so that `bytes` (rounded up to units, at least one) stay.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let keep = Self::trimmed_len(bytes);
        assert!(keep <= self.extent.len, "an extent is trimmed, not extended");
        if keep < self.extent.len {
            let rest = Extent { offset: self.extent.offset + keep, len: self.extent.len - keep };
            self.extent.len = keep;
            self.space.release(rest);
        }
    }

    /// The length an extent has after being trimmed to `bytes`.
    pub(crate) fn trimmed_len(bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(ALLOC_UNIT)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.space.release(self.extent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Faults, SimDevice, metrics::PoolMetrics};

    const U: u64 = ALLOC_UNIT;

    fn space(device: &SimDevice, used: &[Extent]) -> Result<Arc<Space>> {
        let metrics = Arc::new(PoolMetrics::default());
        let volume = Arc::new(Volume::new(Arc::new(device.clone()), metrics));
        Space::rebuild(volume, 100 * U, used).map(Arc::new)
    }

    #[test]
    fn overlapping_extents_are_corruption() {
        let device = SimDevice::new(8 * U);
        device.grow(8 * U).unwrap();
        let extent = |offset: u64, len: u64| Extent { offset: offset * U, len: len * U };
        assert_eq!(space(&device, &[extent(0, 2), extent(4, 4)]).unwrap().used_bytes(), 6 * U);
        for bad in [[extent(0, 2), extent(1, 2)], [extent(3, 1), extent(3, 1)]] {
            let Err(Error::Corrupt { offset, .. }) = space(&device, &bad).map(|_| ()) else {
                panic!("{bad:?} was accepted");
            };
            assert_eq!(offset, bad[1].offset);
        }
        let beyond = space(&device, &[extent(7, 2)]).map(|_| ());
        assert!(matches!(beyond, Err(Error::Corrupt { .. })));
    }

    #[test]
    fn the_volume_grows_by_what_is_needed_until_its_limit() {
        let device = SimDevice::new(8 * U);
        let space = space(&device, &[]).unwrap();
        let first = space.lease(1).unwrap();
        let second = space.lease(3 * U).unwrap();
        assert_eq!(device.geometry().len_bytes, 4 * U);
        drop(second);
        let third = space.lease(5 * U).unwrap();
        assert_eq!(device.geometry().len_bytes, 6 * U, "the free tail is used");
        let full = space.lease(3 * U).map(|_| ()).unwrap_err();
        let Error::Full { need_bytes, free_bytes } = full else { panic!("{full}") };
        assert_eq!((need_bytes, free_bytes), (3 * U, 2 * U));
        drop((first, third));
        assert_eq!((space.used_bytes(), space.free_bytes()), (0, 8 * U));
    }

    #[test]
    fn a_full_disk_is_a_full_pool_and_nothing_is_lost() {
        let device = SimDevice::new(8 * U);
        let space = space(&device, &[]).unwrap();
        let faults = Faults { enospc_after_bytes: Some(2 * U), ..Faults::default() };
        device.set_faults(faults);
        let held = space.lease(2 * U).unwrap();
        assert!(matches!(space.lease(U), Err(Error::Full { .. })));
        drop(held);
        assert!(space.lease(2 * U).is_ok());
    }
}
