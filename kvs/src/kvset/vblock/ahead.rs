//! Read-ahead of a user's scan: what it may hold, and reads that are on their way.
//!
//! ```text
//!   all scans, 64 MiB  ---lease--->  one scan, 16 MiB  ---lease--->  chunks in use or on their way
//! ```
//!
//! A chunk that is on its way needs a lease, and is not ordered without one. The chunk that a scan
//! reads from takes what it needs in any case, so a scan that is granted nothing works with one
//! short chunk at a time, and waits for each.
//!
//! Where those values of a KVS that are not in memory fit in what is free, a scan reads them into
//! the map instead, as an open does: the next one finds them there. A vblock that is deleted while
//! the scan goes on has no next one, and is read past the map.

use super::read::HELD_BYTES_USER;
use mpool::{IoBuf, IoQueue, Mblock, MemoryConsumer, Priority};
use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that the chunks of one scan may hold: those in use and as many on their way, of the
/// readers of two kvsets that each refer to many vblocks. With half of that a scan of what a random
/// load left, 34 kvsets in 10 leaves, waits for each chunk: 0.41 M values a second instead of 0.73.
const SCAN_BYTES_MAX: i64 = 16 << 20;
const _: () = assert!(SCAN_BYTES_MAX as u64 >= 2 * 2 * HELD_BYTES_USER);
/// Bytes that the chunks of all scans may hold.
const SCANS_BYTES_MAX: i64 = 64 << 20;

/// What all scans of a database hold together.
pub(crate) struct ReadAhead {
    /// Relaxed: a bound on memory, which publishes nothing.
    left: AtomicI64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self { left: AtomicI64::new(SCANS_BYTES_MAX) }
    }
}

impl MemoryConsumer for ReadAhead {
    fn name(&self) -> &'static str {
        "scans"
    }

    fn used_bytes(&self) -> u64 {
        u64::try_from(SCANS_BYTES_MAX - self.left.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn set_target_bytes(&self, _bytes: u64) {}

    fn weight(&self) -> u32 {
        0
    }
}

/// What the sources of one scan share.
pub(crate) struct ScanAhead {
    all: Arc<ReadAhead>,
    left: AtomicI64,
    fits: Box<dyn Fn() -> bool + Send + Sync>,
    admits: OnceLock<bool>,
    /// There was no room after all.
    is_refused: AtomicBool,
}

impl ScanAhead {
    /// Of a scan whose values `fits` in memory; asked once, when it shows that the scan is long.
    pub(crate) fn new(
        all: &Arc<ReadAhead>,
        fits: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> Arc<Self> {
        let (all, left) = (Arc::clone(all), AtomicI64::new(SCAN_BYTES_MAX));
        let (admits, is_refused) = (OnceLock::new(), AtomicBool::new(false));
        Arc::new(Self { all, left, fits, admits, is_refused })
    }

    /// Whether values are read into the map.
    pub(super) fn admits(&self) -> bool {
        // Relaxed: a hint.
        !self.is_refused.load(Ordering::Relaxed) && *self.admits.get_or_init(|| (self.fits)())
    }

    /// Whether that is known.
    pub(super) fn is_admitting(&self) -> bool {
        !self.is_refused.load(Ordering::Relaxed) && self.admits.get() == Some(&true)
    }

    /// The rest of the scan reads past the map.
    pub(super) fn admit_no_more(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// Memory for a chunk, whether there is any left or not.
    pub(super) fn lease(self: &Arc<Self>, bytes: usize) -> Lease {
        let bytes = i64::try_from(bytes).expect("a chunk");
        self.left.fetch_sub(bytes, Ordering::Relaxed);
        self.all.left.fetch_sub(bytes, Ordering::Relaxed);
        Lease { scan: Arc::clone(self), bytes }
    }

    /// The same, if so much is left.
    pub(super) fn try_lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let lease = self.lease(bytes);
        let left = self.left.load(Ordering::Relaxed).min(self.all.left.load(Ordering::Relaxed));
        (left >= 0).then_some(lease)
    }
}

/// Memory of a chunk; given back when it is dropped.
pub(super) struct Lease {
    scan: Arc<ScanAhead>,
    bytes: i64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.scan.left.fetch_add(self.bytes, Ordering::Relaxed);
        self.scan.all.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Slot {
    /// `Some` once the read has ended.
    outcome: Mutex<Option<mpool::Result<IoBuf>>>,
    ended: Condvar,
}

/// A read that is on its way.
pub(super) struct Coming {
    pub(super) range: Range<u64>,
    pub(super) lease: Lease,
    slot: Arc<Slot>,
}

impl Coming {
    /// Orders a range, in whole pages, of an object.
    pub(super) fn order(
        (queue, object): (&Arc<IoQueue>, &Mblock),
        range: Range<u64>,
        lease: Lease,
    ) -> Self {
        let slot = Arc::new(Slot::default());
        let told = Arc::clone(&slot);
        let done = move |outcome: mpool::Result<IoBuf>| {
            *told.outcome.lock() = Some(outcome);
            told.ended.notify_all();
        };
        object.read_async(range.clone(), (queue, Priority::Read), Box::new(done));
        Self { range, lease, slot }
    }

    /// Waits for it. `None` if it failed: what is needed of it is read again, and the error told.
    pub(super) fn wait(self) -> Option<(IoBuf, Lease)> {
        let mut outcome = self.slot.outcome.lock();
        while outcome.is_none() {
            self.slot.ended.wait(&mut outcome);
        }
        let buf = outcome.take().expect("it has ended").ok();
        drop(outcome);
        buf.map(|buf| (buf, self.lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_and_are_bounded_for_each_and_for_all() {
        let all = Arc::new(ReadAhead::default());
        let scans: Vec<_> = (0..20).map(|_| ScanAhead::new(&all, Box::new(|| false))).collect();
        let mut leases = Vec::new();
        let one_mib = 1 << 20;
        while let Some(lease) = scans[0].try_lease(one_mib) {
            leases.push(lease);
        }
        assert_eq!(leases.len(), 16);
        for scan in &scans {
            while let Some(lease) = scan.try_lease(one_mib) {
                leases.push(lease);
            }
        }
        assert_eq!(leases.len(), 64);
        assert_eq!(all.used_bytes(), 64 << 20);
        leases.push(scans[19].lease(one_mib));
        assert!(scans[19].try_lease(1).is_none());
        leases.clear();
        assert_eq!(all.used_bytes(), 0);
        assert!(scans[0].try_lease(one_mib).is_some());
    }
}
