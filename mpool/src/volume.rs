//! The volume: the device with its counters, its health and its spare buffers.
//!
//! Every byte of the pool outside the map passes through here, on the calling thread, or through
//! [`crate::IoQueue`], which shares this struct. It turns the device's errors into the pool's and
//! keeps the one rule that cannot be broken: after a failed flush nothing is written any more.
//! Who owns which bytes is known to `space`, not here.

use crate::{
    device::Device,
    error::{Error, Result},
    io::{buf::IoBuf, buf_pool::BufPool, queue::Priority},
    metrics::PoolMetrics,
    space::extent::Extent,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Zeros are written in pieces of this size: one already saturates a drive.
const ZERO_CHUNK: u64 = 1 << 20;

pub(crate) struct Volume {
    device: Arc<dyn Device>,
    metrics: Arc<PoolMetrics>,
    bufs: BufPool,
    poisoned: AtomicBool,
}

impl Volume {
    pub(crate) fn new(device: Arc<dyn Device>, metrics: Arc<PoolMetrics>) -> Self {
        Self { device, metrics, bufs: BufPool::default(), poisoned: AtomicBool::new(false) }
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    pub(crate) fn metrics(&self) -> &Arc<PoolMetrics> {
        &self.metrics
    }

    pub(crate) fn bufs(&self) -> &BufPool {
        &self.bufs
    }

    /// No write is accepted from here on. Nothing lifts it but a restart.
    pub(crate) fn poison(&self) {
        // Release pairs with the Acquire in `check_writable`.
        if !self.poisoned.swap(true, Ordering::Release) {
            tracing::error!("pool is read-only: a write could not be made durable");
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(Error::Poisoned) } else { Ok(()) }
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8], priority: Priority) -> Result<()> {
        let outcome = self.device.read_at(offset, buf);
        self.metrics.reads(priority).record(buf.len(), &outcome);
        outcome.map_err(|source| Error::io("read", offset, buf.len(), source))
    }

    pub(crate) fn write(&self, offset: u64, buf: &[u8], priority: Priority) -> Result<()> {
        self.check_writable()?;
        let outcome = self.device.write_at(offset, buf);
        self.metrics.writes(priority).record(buf.len(), &outcome);
        outcome.map_err(|source| Error::io("write", offset, buf.len(), source))
    }

    /// A write that is durable on return. A failure leaves unknown what is on the medium, so it
    /// poisons, as a failed flush does.
    pub(crate) fn write_durable(&self, offset: u64, buf: &[u8], priority: Priority) -> Result<()> {
        self.check_writable()?;
        let outcome = self.device.write_durable_at(offset, buf);
        self.metrics.writes(priority).record(buf.len(), &outcome);
        outcome.map_err(|source| {
            self.poison();
            Error::io("durable write", offset, buf.len(), source)
        })
    }

    pub(crate) fn flush(&self) -> Result<()> {
        self.check_writable()?;
        self.metrics.flushes.add(1);
        self.device.flush().map_err(|source| {
            self.metrics.flush_errors.add(1);
            self.poison();
            Error::io("flush", 0, 0, source)
        })
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

    /// Makes the volume at least `len_bytes` long. `Ok(false)`: it cannot be that long.
    pub(crate) fn grow(&self, len_bytes: u64) -> Result<bool> {
        self.check_writable()?;
        match self.device.grow(len_bytes) {
            Ok(()) => {
                self.metrics.grows.add(1);
                Ok(true)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                tracing::warn!(error = %e, len_bytes, "volume cannot grow");
                Ok(false)
            }
            Err(source) => Err(Error::Io { op: "grow", offset: 0, len: len_bytes, source }),
        }
    }
}
