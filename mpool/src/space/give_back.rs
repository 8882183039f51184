//! Giving free space back to the disk below: the end of a volume is cut off, long free ranges
//! within it become holes.
//!
//! ```text
//!   lock: out of the free set   |  device: shrink or punch, no lock  |  lock: back, as what it is
//! ```
//!
//! While it is on loan nobody can be given it, and it counts as free; whoever finds no room
//! meanwhile waits for it. What is in the free set has no owner on the medium and no reader: a
//! lease returns when the deletion of its object is durable, its last handle is gone and its pages
//! have left the cache. So neither a reader nor a recovery needs what is given back, and whether a
//! crash brings back zeros there or what was there before is all one. No record says how long a
//! volume is: an open takes the device as it finds it.
//!
//! What is given back, and when: `crate::upkeep::returns`.

use super::{shorten, volume::VolumeSpace};
use crate::{
    address::Extent,
    error::{Error, Result},
};
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Shorter free ranges stay: objects that need no more are many, and a file of many pieces is
/// slower. But not where they take so much beside what is used that they are most of a file.
pub(crate) const RETURN_MIN: u64 = 1 << 20;
/// Part of what is used that short free ranges may take.
const SHORT_SHARE: u64 = 8;
/// One punch: 1.3 ms on ext4, during which readers of the same drive wait a little longer.
const PUNCH_BYTES: u64 = 8 << 20;
/// One cut. A file system frees the blocks of an end faster than those of a range, but a long one
/// keeps others out of the file.
const CUT_BYTES: u64 = 64 << 20;

/// What the device below takes back.
#[derive(Default)]
pub(super) struct GivesBack {
    /// It does not become shorter.
    no_cut: AtomicBool,
    /// It does not know holes.
    no_punch: AtomicBool,
}

impl VolumeSpace {
    /// Whether the device below takes anything back, as far as it is known.
    pub(crate) fn gives_back(&self) -> bool {
        let GivesBack { no_cut, no_punch } = &self.gives_back;
        !(no_cut.load(Relaxed) && no_punch.load(Relaxed))
    }

    /// What is needed of its length, if the device below becomes shorter and something ends far
    /// behind that; else `None`.
    pub(crate) fn stretch(&self) -> Option<u64> {
        let cuts = self.volume.device().can_shrink() && !self.gives_back.no_cut.load(Relaxed);
        let free = self.free.lock();
        let needed_bytes = free.volume_len() - free.idle_bytes();
        let end = free.volume_len() - free.free_tail();
        (cuts && shorten::is_long(needed_bytes, end)).then_some(needed_bytes)
    }

    /// What is free now and still is when [`Self::give_back`] is called has been free between.
    pub(crate) fn look(&self) {
        self.free.lock().look();
    }

    /// Gives one piece back of what has been free since the last look; returns its length, or 0 if
    /// there is nothing that is worth it.
    pub(crate) fn give_back(&self) -> Result<u64> {
        match self.cut()? {
            0 => self.punch(),
            bytes => Ok(bytes),
        }
    }

    fn cut(&self) -> Result<u64> {
        if self.zones().is_some() {
            // Zones follow the part that can be overwritten.
            self.gives_back.no_cut.store(true, Relaxed);
            return Ok(0);
        }
        let mut free = self.free.lock();
        let tail = free.idle_tail(CUT_BYTES).filter(|tail| tail.len >= RETURN_MIN);
        let Some(tail) = tail.filter(|_| !self.gives_back.no_cut.load(Relaxed)) else {
            return Ok(0);
        };
        let device = self.volume.device();
        let len_bytes = device.geometry().len_bytes;
        if len_bytes < tail.end() || len_bytes - tail.end() >= crate::address::ALLOC_UNIT {
            // Somebody is making it longer.
            return Ok(0);
        }
        let loan = free.lend(tail);
        drop(free);
        let outcome = device.shrink(len_bytes, tail.offset);
        let mut free = self.free.lock();
        if let Ok(true) = outcome {
            free.end_loan_with_volume(&loan);
        } else {
            free.return_loan(loan);
        }
        drop(free);
        self.returned.notify_all();
        if !self.returned_by(outcome, &self.gives_back.no_cut, ("truncate", tail))? {
            return Ok(0);
        }
        self.volumes.metrics().truncated_bytes.add(tail.len);
        Ok(tail.len)
    }

    fn punch(&self) -> Result<u64> {
        let mut free = self.free.lock();
        let used_bytes = free.volume_len() - free.free_bytes();
        let len_min = shortest(free.rested_bytes(), used_bytes);
        let range = free.idle_range(len_min, PUNCH_BYTES);
        let Some(range) = range.filter(|_| !self.gives_back.no_punch.load(Relaxed)) else {
            return Ok(0);
        };
        let loan = free.lend(range);
        drop(free);
        let outcome = self.volume.device().punch(range.offset, range.len);
        let mut free = self.free.lock();
        // After an error that comes in the middle, too: what is refilled in vain does no harm.
        if matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::Unsupported) {
            free.return_loan(loan);
        } else {
            free.return_hole(&loan);
        }
        drop(free);
        self.returned.notify_all();
        let done = outcome.map(|()| true);
        if !self.returned_by(done, &self.gives_back.no_punch, ("punch", range))? {
            return Ok(0);
        }
        self.volumes.metrics().punched_bytes.add(range.len);
        Ok(range.len)
    }

    /// Whether the device took something back; where it never will, it is not asked again.
    fn returned_by(
        &self,
        outcome: io::Result<bool>,
        never: &AtomicBool,
        (op, range): (&'static str, Extent),
    ) -> Result<bool> {
        match outcome {
            Ok(done) => Ok(done),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                never.store(true, Relaxed);
                let (volume, device) = (self.id(), self.volume.device().kind());
                tracing::info!(%volume, device, op, "free space stays with the volume: its device cannot");
                Ok(false)
            }
            Err(source) => {
                never.store(true, Relaxed);
                let len = usize::try_from(range.len).expect("a piece");
                Err(Error::io(op, self.id().address(range.offset), len, source))
            }
        }
    }

    /// Waits until nothing of it is on loan.
    pub(super) fn wait_for_loans(&self) {
        let mut free = self.free.lock();
        while free.is_lending() {
            self.returned.wait(&mut free);
        }
    }
}

/// PURE: the shortest range that becomes a hole.
fn shortest(rested_bytes: u64, used_bytes: u64) -> u64 {
    if rested_bytes > used_bytes / SHORT_SHARE { crate::address::ALLOC_UNIT } else { RETURN_MIN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, Geometry, MediaClass,
        address::{ALLOC_UNIT, VolumeId},
        io::volumes::Volumes,
        media::{VolumeKind, VolumeRecord},
        metrics::PoolMetrics,
        space::{Lease, Space},
    };
    use mpool_sim::{Faults, SimDevice};
    use std::{fs::File, sync::Arc};

    const MIB: u64 = 1 << 20;

    fn space_on(device: Arc<dyn Device>) -> Space {
        let volumes = Arc::new(Volumes::new(device, Arc::new(PoolMetrics::default())));
        let record = VolumeRecord {
            id: VolumeId::ROOT,
            class: MediaClass::Capacity,
            kind: VolumeKind::File,
            evacuating: false,
            capacity_bytes_max: 64 * MIB,
            uuid: [0; 16],
            path: "x".into(),
        };
        let space = Space::new(&volumes);
        space.add(VolumeSpace::rebuild(&volumes, &record, &[], 0).unwrap());
        space
    }

    /// A volume of 16 MiB: six leases of 2 MiB, and what is left.
    fn filled() -> (SimDevice, Space, Vec<Lease>) {
        let device = SimDevice::new(64 * MIB);
        device.grow(16 * MIB).unwrap();
        let space = space_on(Arc::new(device.clone()));
        let leases = (0..6).map(|_| lease(&space, 2).unwrap()).collect();
        (device, space, leases)
    }

    fn lease(space: &Space, mib: u64) -> Result<Lease> {
        space.lease(mib * MIB, MediaClass::Capacity)
    }

    fn root(space: &Space) -> Arc<VolumeSpace> {
        space.of(VolumeId::ROOT).unwrap()
    }

    /// All that may go goes, but nothing moves.
    fn give_all(space: &Space) -> u64 {
        root(space).look();
        std::iter::from_fn(|| Some(root(space).give_back().unwrap()).filter(|b| *b > 0)).sum()
    }

    #[test]
    fn the_end_is_cut_off_and_long_ranges_within_become_holes() {
        let (device, space, mut leases) = filled();
        let free = space.free_bytes();
        drop(leases.remove(2));
        leases[0].trim(MIB + 1);
        assert_eq!(root(&space).give_back().unwrap(), 0, "it has not been looked at");
        let given = give_all(&space);
        // The first lease begins behind the superblocks, and one of its units stays.
        let tail = 16 * MIB - 12 * MIB - 2 * ALLOC_UNIT;
        assert_eq!(given, tail + 2 * MIB);
        assert_eq!(device.geometry().len_bytes, 12 * MIB + 2 * ALLOC_UNIT);
        let info = root(&space).free_extents();
        assert_eq!((info.count, info.longest_bytes, info.hole_bytes), (2, 2 * MIB, 2 * MIB));
        assert_eq!(device.disk_bytes(), Some(10 * MIB + 2 * ALLOC_UNIT));
        assert_eq!(space.free_bytes(), free + 3 * MIB - ALLOC_UNIT, "what is given back is free");
        assert_eq!(give_all(&space), 0);
        // It is refilled before it is written to, and the file grows after that only.
        let again = lease(&space, 2).unwrap();
        device.write_at(again.extent().offset, &vec![1; 2 << 20]).unwrap();
        assert_eq!(device.geometry().len_bytes, 12 * MIB + 2 * ALLOC_UNIT);
        assert_eq!(lease(&space, 2).unwrap().extent().end(), 14 * MIB + 2 * ALLOC_UNIT);
    }

    /// A store of many small objects took twice what it used, for ever.
    #[test]
    fn short_ranges_become_holes_while_they_are_much_beside_what_is_used() {
        let device = SimDevice::new(64 * MIB);
        device.grow(16 * MIB).unwrap();
        let space = space_on(Arc::new(device.clone()));
        let leases: Vec<Lease> =
            (0..60).map(|_| space.lease(4 * ALLOC_UNIT, MediaClass::Capacity).unwrap()).collect();
        give_all(&space);
        // A quarter of them, each a range of a quarter of a MiB.
        let (freed, kept): (Vec<_>, Vec<_>) =
            leases.into_iter().enumerate().partition(|(n, _)| n % 4 == 1);
        drop(freed);
        let used = kept.len() as u64 * 4 * ALLOC_UNIT;
        let given = give_all(&space);
        let left = root(&space).free_extents();
        assert_eq!(left.hole_bytes, given);
        assert!(left.bytes - given <= used / SHORT_SHARE + 2 * ALLOC_UNIT, "{left:?}");
        assert!(given < left.bytes, "a little stays for small objects");
    }

    #[test]
    fn what_has_been_used_since_the_look_stays() {
        let (device, space, mut leases) = filled();
        drop(leases.remove(2));
        root(&space).look();
        let held = lease(&space, 2).unwrap();
        let tail = lease(&space, 1).unwrap();
        drop((held, tail));
        let rested = 16 * MIB - 13 * MIB - 2 * ALLOC_UNIT;
        assert_eq!(root(&space).give_back().unwrap(), rested, "the end behind it");
        assert_eq!(root(&space).give_back().unwrap(), 0);
        assert_eq!(device.geometry().len_bytes, 16 * MIB - rested);
    }

    /// A write into a hole found the disk full, which ends all writing.
    #[test]
    fn a_hole_that_cannot_be_refilled_is_no_room() {
        let (device, space, mut leases) = filled();
        drop(leases.remove(2));
        give_all(&space);
        let before = device.geometry().len_bytes;
        let full =
            Faults { no_refill: true, enospc_after_bytes: Some(before), ..Faults::default() };
        device.set_faults(Faults { enospc_is_told: true, ..full });
        assert_eq!(space.free_bytes(), 0, "the disk has nothing left for it");
        assert!(matches!(lease(&space, 2), Err(Error::Full { .. })));
        device.set_faults(full);
        assert!(matches!(lease(&space, 2), Err(Error::Full { .. })), "asked in vain");
        let extents = root(&space).free_extents();
        assert_eq!((extents.count, extents.hole_bytes), (1, 2 * MIB));
        drop(leases.remove(0));
        assert!(lease(&space, 2).is_ok(), "what is freed now needs nothing of the disk");
        device.set_faults(Faults::default());
        assert!(lease(&space, 2).is_ok());
    }

    #[test]
    fn holes_are_found_again_by_the_next_open() {
        let (device, space, mut leases) = filled();
        drop(leases.remove(2));
        give_all(&space);
        drop((leases, space));
        let space = space_on(Arc::new(device.clone()));
        assert_eq!(root(&space).free_extents().hole_bytes, 2 * MIB);
        let all = lease(&space, 12).unwrap();
        device.write_at(all.extent().offset, &vec![1; 12 << 20]).unwrap();
    }

    /// Calls something while it is being made shorter.
    struct Slow<F> {
        inner: SimDevice,
        meanwhile: F,
    }

    impl<F: Fn(bool) + Send + Sync + 'static> Device for Slow<F> {
        fn geometry(&self) -> Geometry {
            self.inner.geometry()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.inner.read_at(offset, buf)
        }
        fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            self.inner.write_at(offset, buf)
        }
        fn flush(&self) -> io::Result<()> {
            self.inner.flush()
        }
        fn grow(&self, len_bytes: u64) -> io::Result<()> {
            self.inner.grow(len_bytes)
        }
        fn shrink(&self, from: u64, to: u64) -> io::Result<bool> {
            (self.meanwhile)(false);
            let outcome = self.inner.shrink(from, to);
            (self.meanwhile)(true);
            outcome
        }
        fn file(&self) -> Option<&File> {
            None
        }
        fn kind(&self) -> &'static str {
            "slow"
        }
    }

    #[test]
    fn a_device_that_takes_nothing_back_is_asked_once() {
        let inner = SimDevice::zoned(crate::ZoneLimits {
            zones: 16,
            zone_bytes: 2 * MIB,
            conventional_zones: 8,
            open_max: 4,
            active_max: 5,
            append_bytes_max: 64 << 10,
            block_bytes: 4096,
        });
        let space = space_on(Arc::new(inner.clone()));
        assert!(root(&space).gives_back());
        let (calls, free) = (inner.calls(), space.free_bytes());
        assert_eq!(give_all(&space), 0);
        assert!(!root(&space).gives_back());
        assert_eq!((inner.calls(), space.free_bytes()), (calls, free), "nothing has changed");
    }

    /// Somebody needs room just before, and just after, the device is made shorter.
    #[test]
    fn growth_beside_a_cut_loses_nothing() {
        type Held = Arc<parking_lot::Mutex<(Option<Arc<Space>>, Vec<Lease>)>>;
        for when in [false, true] {
            let inner = SimDevice::new(64 * MIB);
            inner.grow(16 * MIB).unwrap();
            let held = Held::default();
            let seen = Arc::clone(&held);
            let meanwhile = move |after: bool| {
                let space = seen.lock().0.clone();
                if let Some(space) = space.filter(|_| after == when) {
                    let lease = lease(&space, 3).unwrap();
                    seen.lock().1.push(lease);
                }
            };
            let device = Arc::new(Slow { inner: inner.clone(), meanwhile });
            let space = Arc::new(space_on(device));
            held.lock().0 = Some(Arc::clone(&space));
            let first = lease(&space, 2).unwrap();
            root(&space).look();
            let given = root(&space).give_back().unwrap();
            let taken = std::mem::take(&mut held.lock().1);
            assert_eq!((taken.len(), given > 0), (1, when));
            // Nobody has what another has, and every byte of it can be written.
            for extent in taken.iter().chain([&first]).map(Lease::extent) {
                let len = usize::try_from(extent.len).unwrap();
                inner.write_at(extent.offset, &vec![1; len]).unwrap();
            }
            assert!(taken[0].extent().offset >= first.extent().end());
            let len = inner.geometry().len_bytes;
            assert_eq!(root(&space).free_extents().bytes, len - 5 * MIB - 2 * ALLOC_UNIT);
            held.lock().0 = None;
        }
    }
}
