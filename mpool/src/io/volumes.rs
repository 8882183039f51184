//! The volumes: one range of addresses over several devices, with counters, health, spare buffers.
//!
//! Every byte of the pool outside the maps passes through here, on the calling thread, or through
//! [`crate::IoQueue`], which shares this struct. It finds the device behind an address, turns the
//! device's errors into the pool's, and keeps the one rule that cannot be broken: after a failed
//! flush, of whichever volume, nothing is written any more. Who owns which bytes is known to
//! `space`, not here.
//!
//! A flush goes to those volumes only that were written to since their last one: the write counts
//! before the flush starts are what it covers.
//!
//! Two syncs may overlap, and the kernel tells an error of the file to one of them only: the other
//! must not take its own `Ok` for an answer. So whoever fails poisons before it does anything else,
//! and whoever succeeds looks at the poison *after* its call, at the cost of one load. What is left
//! is a failure that has returned from the kernel and not yet stored its flag, a few instructions
//! long. In there the other's `Ok` is the drive's own word on its own request, which direct IO does
//! not share with anybody; only buffered pages ([`crate::Options::allow_buffered`]) could be lost.

use crate::{
    address::{Extent, VolumeId, offset_of},
    device::Device,
    error::{Error, Result},
    io::{appends::AppendRing, buf_pool::BufPool, owner::Owner, pacer::Pacer},
    media::Priority,
    metrics::{PoolMetrics, histogram::Start},
    options::Options,
};
use arc_swap::ArcSwap;
use mpool_device::IoBuf;
use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Zeros are written in pieces of this size: one already saturates a drive.
const ZERO_CHUNK: u64 = 1 << 20;

/// Appends in flight at a zoned drive at most.
const APPENDS_IN_FLIGHT: u32 = 32;

const WRITTEN_AGAIN: &str = "it is written again from the other";
const USED: &str = "the other is used; a start that may write writes it again";

/// One volume of the pool.
pub(crate) struct Volume {
    id: VolumeId,
    device: Arc<dyn Device>,
    /// Writes that ended, ever, and how many of them a flush has covered.
    written: AtomicU64,
    flushed: AtomicU64,
    /// Appends with many in flight, where the drive has Zone Append and lets us use it.
    appends: Option<AppendRing>,
    /// Growths that failed since the last one that did not.
    growths_failed: AtomicU64,
}

/// All volumes as one range of addresses.
pub(crate) struct Volumes {
    /// By id; `None` where there is no such volume (any more). Read by every request.
    by_id: ArcSwap<Vec<Option<Arc<Volume>>>>,
    /// Whose they are.
    owner: Owner,
    metrics: Arc<PoolMetrics>,
    bufs: BufPool,
    /// Whether writes stay in memory, because the pool is open for reading only.
    read_only: bool,
    /// Asked before each transfer, here and by the queue.
    pacer: Arc<Pacer>,
    poisoned: AtomicBool,
    /// Why, set before `poisoned`.
    poison: OnceLock<&'static str>,
}

impl Volume {
    pub(crate) fn id(&self) -> VolumeId {
        self.id
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Where appends to its zones go; `None`: to the queue's threads, one call each.
    pub(crate) fn appends(&self) -> Option<&AppendRing> {
        self.appends.as_ref()
    }

    /// A write to this volume has ended: the next flush must cover it.
    pub(crate) fn wrote(&self) {
        // Release pairs with the Acquire in `flush`.
        self.written.fetch_add(1, Ordering::Release);
    }

    /// Flushes the device unless nothing was written since the last time.
    fn flush(&self) -> io::Result<bool> {
        let written = self.written.load(Ordering::Acquire);
        if self.flushed.load(Ordering::Acquire) >= written {
            return Ok(false);
        }
        self.device.flush()?;
        self.flushed.fetch_max(written, Ordering::Release);
        Ok(true)
    }
}

impl Volumes {
    /// A pool's volumes, of which only the root is there yet.
    pub(crate) fn new(root: Arc<dyn Device>, metrics: Arc<PoolMetrics>) -> Self {
        let volumes = Self {
            by_id: ArcSwap::default(),
            owner: Owner::new(),
            pacer: Arc::new(Pacer::new(&Options::default(), Arc::clone(&metrics))),
            metrics,
            bufs: BufPool::default(),
            read_only: false,
            poisoned: AtomicBool::new(false),
            poison: OnceLock::new(),
        };
        volumes.add(VolumeId::ROOT, root);
        volumes
    }

    /// The same, with background requests paced, and for reading only, as the options say.
    pub(crate) fn opened_by(mut self, options: &Options) -> Self {
        self.read_only = options.read_only;
        self.pacer = Arc::new(Pacer::new(options, Arc::clone(&self.metrics)));
        self
    }

    /// Whether what is written stays in memory.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What becomes of a copy that is damaged, for the log.
    pub(crate) fn remedy(&self) -> &'static str {
        if self.read_only { USED } else { WRITTEN_AGAIN }
    }

    /// The pool, as messages name it.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Adds a volume; its id must be free.
    pub(crate) fn add(&self, id: VolumeId, device: Arc<dyn Device>) {
        // What an earlier process wrote and did not flush counts as unflushed.
        let (written, flushed) = (AtomicU64::new(1), AtomicU64::new(0));
        let appends = append_ring(&device);
        let growths_failed = AtomicU64::new(0);
        let volume = Arc::new(Volume { id, device, written, flushed, appends, growths_failed });
        let index = usize::from(id.get());
        self.by_id.rcu(|by_id| {
            let mut by_id = Vec::clone(by_id);
            by_id.resize(by_id.len().max(index + 1), None);
            assert!(by_id[index].is_none(), "an id names one volume");
            by_id[index] = Some(Arc::clone(&volume));
            by_id
        });
    }

    /// Takes a volume away; whoever holds it still can finish.
    pub(crate) fn remove(&self, id: VolumeId) {
        self.by_id.rcu(|by_id| {
            let mut by_id = Vec::clone(by_id);
            by_id[usize::from(id.get())] = None;
            by_id
        });
    }

    /// The volume `id`, if the pool has it.
    pub(crate) fn get(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.by_id.load().get(usize::from(id.get()))?.clone()
    }

    /// All volumes, in order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Volume>> {
        self.by_id.load().iter().flatten().cloned().collect()
    }

    /// The volume that holds `address`, and the place there.
    pub(crate) fn route(&self, address: u64) -> io::Result<(Arc<Volume>, u64)> {
        let id = VolumeId::of(address);
        match self.get(id) {
            Some(volume) => Ok((volume, offset_of(address))),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("the pool has no {id}"))),
        }
    }

    pub(crate) fn root(&self) -> Arc<Volume> {
        self.get(VolumeId::ROOT).expect("a pool has a root volume")
    }

    pub(crate) fn metrics(&self) -> &Arc<PoolMetrics> {
        &self.metrics
    }

    pub(crate) fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    pub(crate) fn bufs(&self) -> &BufPool {
        &self.bufs
    }

    /// No write is accepted from here on. Nothing lifts it but a restart.
    pub(crate) fn poison(&self) {
        self.poison_for("a write could not be made durable");
    }

    /// The same, for another reason.
    pub(crate) fn poison_for(&self, reason: &'static str) {
        self.poison.get_or_init(|| reason);
        // Release pairs with the Acquire in `check_writable`.
        if !self.poisoned.swap(true, Ordering::Release) {
            tracing::error!(reason, "pool is read-only");
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Why no write is accepted, if that is so.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.check_writable().err().and_then(|_| self.poison.get().copied())
    }

    /// Background reads wait for their turn, and go in pieces while others wait for the drive.
    pub(crate) fn read(&self, address: u64, buf: &mut [u8], priority: Priority) -> Result<()> {
        let (mut at, mut rest) = (address, buf);
        loop {
            let ticket = self.pacer.enter_part(priority, rest.len());
            let (now, later) = rest.split_at_mut(ticket.bytes());
            self.read_piece(at, now, priority)?;
            drop(ticket);
            at += now.len() as u64;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn read_piece(&self, address: u64, buf: &mut [u8], priority: Priority) -> Result<()> {
        let start = Start::now();
        let outcome = self.route(address).and_then(|(m, offset)| m.device.read_at(offset, buf));
        self.metrics.reads(priority).record(start, buf.len(), &outcome);
        outcome.map_err(|source| Error::io("read", address, buf.len(), source))
    }

    pub(crate) fn write(&self, address: u64, buf: &[u8], priority: Priority) -> Result<()> {
        self.check_writable()?;
        let _ticket = self.pacer.enter(priority, buf.len());
        let start = Start::now();
        let outcome = self.route(address).and_then(|(volume, offset)| {
            volume.device.write_at(offset, buf)?;
            volume.wrote();
            Ok(())
        });
        self.metrics.writes(priority).record(start, buf.len(), &outcome);
        outcome.map_err(|source| Error::io("write", address, buf.len(), source))
    }

    /// A write that is durable on return. A failure leaves unknown what is on the medium, so it
    /// poisons, as a failed flush does.
    pub(crate) fn write_durable(&self, address: u64, buf: &[u8], priority: Priority) -> Result<()> {
        self.check_writable()?;
        let (volume, offset) = self
            .route(address)
            .map_err(|source| Error::io("durable write", address, buf.len(), source))?;
        let ticket = self.pacer.enter(priority, buf.len());
        let start = Start::now();
        let outcome = volume.device.write_durable_at(offset, buf).inspect_err(|_| self.poison());
        drop(ticket);
        self.metrics.writes(priority).record(start, buf.len(), &outcome);
        self.synced(outcome, |source| Error::io("durable write", address, buf.len(), source))
    }

    /// The same of several places on one volume: all are written, and one flush makes them durable.
    pub(crate) fn write_durable_each(
        &self,
        addresses: &[u64],
        buf: &[u8],
        priority: Priority,
    ) -> Result<()> {
        if let [address] = addresses {
            return self.write_durable(*address, buf, priority);
        }
        for address in addresses {
            self.write(*address, buf, priority).inspect_err(|_| self.poison())?;
        }
        let volumes: Vec<_> = addresses.iter().map(|address| VolumeId::of(*address)).collect();
        assert!(volumes.iter().all(|id| *id == volumes[0]), "one volume is flushed");
        let volume = self.get(volumes[0]).expect("it has been written to");
        self.flush_one(&volume)
    }

    /// Makes durable whatever has been written to any volume before the call.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_writable()?;
        self.all().iter().try_for_each(|volume| self.flush_one(volume))
    }

    fn flush_one(&self, volume: &Volume) -> Result<()> {
        let start = Start::now();
        let outcome = volume.flush().inspect_err(|_| {
            self.poison();
            self.metrics.flush_errors.add(1);
        });
        if let Ok(true) = &outcome {
            self.metrics.flushes.add(1);
            self.metrics.flush.end(start);
        }
        let address = volume.id.address(0);
        self.synced(outcome.map(|_| ()), |source| Error::io("flush", address, 0, source))
    }

    /// What a sync came to, given that others may have failed beside it.
    fn synced(
        &self,
        outcome: io::Result<()>,
        error: impl FnOnce(io::Error) -> Error,
    ) -> Result<()> {
        outcome.map_err(error)?;
        self.check_writable()
    }

    /// Fills an extent with zeros, so that no earlier owner's bytes can be taken for the new one's,
    /// and later writes find blocks that the file system has already initialised.
    pub(crate) fn write_zeros(&self, extent: Extent, priority: Priority) -> Result<()> {
        let zeros =
            IoBuf::zeroed(usize::try_from(extent.len.min(ZERO_CHUNK)).expect("at most 1 MiB"));
        let mut at = extent.offset;
        while at < extent.end() {
            let len = usize::try_from((extent.end() - at).min(ZERO_CHUNK)).expect("at most 1 MiB");
            self.write(at, &zeros[..len], priority)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Makes a volume at least `len_bytes` long. `Ok(false)`: it cannot be that long.
    pub(crate) fn grow(&self, id: VolumeId, len_bytes: u64) -> Result<bool> {
        self.check_writable()?;
        let Some(volume) = self.get(id) else { return Ok(false) };
        match volume.device.grow(len_bytes) {
            Ok(()) => {
                self.metrics.grows.add(1);
                let failed = volume.growths_failed.swap(0, Ordering::Relaxed);
                if failed > 0 {
                    tracing::info!(%id, len_bytes, failed, "volume grows again");
                }
                Ok(true)
            }
            Err(e) if is_full(&e) => {
                // One line when it begins, one when it ends: whoever finds no room tries again.
                if volume.growths_failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(error = %e, %id, len_bytes, "volume cannot grow");
                }
                Ok(false)
            }
            Err(source) => {
                Err(Error::Io { op: "grow", offset: id.address(0), len: len_bytes, source })
            }
        }
    }

    /// Gets blocks for a hole of a volume from the disk below, before anybody writes there.
    /// `Ok(false)`: the disk has none left.
    pub(crate) fn refill(&self, id: VolumeId, hole: Extent) -> Result<bool> {
        self.check_writable()?;
        let Some(volume) = self.get(id) else { return Ok(false) };
        match volume.device.refill(hole.offset, hole.len) {
            Ok(()) => {
                self.metrics.refilled_bytes.add(hole.len);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                tracing::debug!(%error, %id, "a hole cannot be refilled");
                Ok(false)
            }
            Err(source) => {
                let offset = id.address(hole.offset);
                Err(Error::Io { op: "refill", offset, len: hole.len, source })
            }
        }
    }
}

/// Whether the disk below has nothing left.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn append_ring(device: &Arc<dyn Device>) -> Option<AppendRing> {
    device.zones()?.passthrough()?;
    match AppendRing::new(Arc::clone(device), APPENDS_IN_FLIGHT) {
        Ok(ring) => Some(ring),
        Err(error) => {
            tracing::warn!(%error, "appends go one call at a time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Geometry;
    use mpool_sim::{Faults, SimDevice};
    use std::{fs::File, sync::Barrier};

    /// Two syncs are in the drive at the same time; the one that asks first returns last.
    struct Overlap {
        inner: SimDevice,
        inside: Barrier,
        failed: Barrier,
        first: AtomicBool,
    }

    impl Overlap {
        fn sync(&self, fails: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            let first = self.first.swap(false, Ordering::SeqCst);
            self.inside.wait();
            if first {
                // The other has failed, and its caller knows.
                self.failed.wait();
                return Ok(());
            }
            fails()
        }
    }

    impl Device for Overlap {
        fn geometry(&self) -> Geometry {
            self.inner.geometry()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.inner.read_at(offset, buf)
        }
        fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            self.inner.write_at(offset, buf)
        }
        fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            self.sync(|| self.inner.write_durable_at(offset, buf))
        }
        fn flush(&self) -> io::Result<()> {
            self.sync(|| self.inner.flush())
        }
        fn grow(&self, len_bytes: u64) -> io::Result<()> {
            self.inner.grow(len_bytes)
        }
        fn file(&self) -> Option<&File> {
            None
        }
        fn kind(&self) -> &'static str {
            "overlap"
        }
    }

    /// One sync returned `Ok` while another had failed beside it: the kernel tells an error once.
    #[test]
    fn a_sync_that_overlaps_a_failed_one_fails_too() {
        type Sync = fn(&Volumes) -> Result<()>;
        let flush: Sync = |volume| volume.flush();
        let write: Sync = |volume| volume.write_durable(0, &[0; 4096], Priority::Wal);
        for (slow, failing) in [(flush, flush), (write, flush), (flush, write), (write, write)] {
            let inner = SimDevice::new(1 << 20);
            inner.grow(4096).unwrap();
            inner.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
            let (inside, failed) = (Barrier::new(2), Barrier::new(2));
            let device = Arc::new(Overlap { inner, inside, failed, first: AtomicBool::new(true) });
            let metrics = Arc::new(PoolMetrics::default());
            let volume = Volumes::new(Arc::clone(&device) as Arc<dyn Device>, metrics);
            std::thread::scope(|scope| {
                let slow = scope.spawn(|| slow(&volume));
                while device.first.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                assert!(matches!(failing(&volume), Err(Error::Io { .. })));
                device.failed.wait();
                let outcome = slow.join().expect("it does not panic");
                assert!(matches!(outcome, Err(Error::Poisoned)), "{outcome:?}");
            });
        }
    }
}
