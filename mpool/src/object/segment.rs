//! Segments: fixed extents that their owner overwrites at will.
//!
//! Made for write-ahead logs. A segment is written with zeros when it is created, so that no later
//! write allocates in the file system (a durable append costs a third less), unless its owner
//! writes so much at a time that this does not matter. It is meant to be reused rather than
//! deleted. Its contents are the owner's business: nothing here is checksummed, and a write is
//! atomic per sector only.

use crate::{
    address::VolumeId,
    error::{Error, Result},
    id::SegmentId,
    io::volumes::Volumes,
    media::Priority,
    space::Lease,
};
use mpool_device::IO_ALIGN;
use std::{fmt, sync::Arc};

/// A handle of a segment. Clone = another user; the extent of a deleted segment returns with the
/// last of them.
#[derive(Clone)]
pub struct Segment {
    shared: Arc<Shared>,
}

struct Shared {
    pool: [u8; 16],
    id: SegmentId,
    lease: Lease,
    volumes: Arc<Volumes>,
}

impl Segment {
    /// One of the pool with this UUID.
    pub(crate) fn new(pool: [u8; 16], id: SegmentId, lease: Lease, volumes: &Arc<Volumes>) -> Self {
        Self { shared: Arc::new(Shared { pool, id, lease, volumes: Arc::clone(volumes) }) }
    }

    /// The UUID of its pool: by it an owner can tell its bytes from what another pool has left
    /// there.
    pub fn pool_uuid(&self) -> [u8; 16] {
        self.shared.pool
    }

    /// The volume it is on.
    pub fn volume(&self) -> VolumeId {
        self.shared.volumes.marked(self.shared.lease.volume())
    }

    /// The pool address of its first byte.
    pub(crate) fn address(&self) -> u64 {
        self.shared.lease.extent().offset
    }

    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.shared.id
    }

    /// Its size, which never changes.
    pub fn len_bytes(&self) -> u64 {
        self.shared.lease.extent().len
    }

    /// Direct write on the calling thread, aligned to [`IO_ALIGN`]. Durable after the next
    /// [`crate::Pool::flush`].
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let at = self.place("write", offset, buf.len())?;
        self.shared.volumes.write(at, buf, Priority::Wal)
    }

    /// Same, durable on return (this write only). An error leaves unknown what is on the medium,
    /// and poisons the pool.
    pub fn write_durable_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let at = self.place("write", offset, buf.len())?;
        self.shared.volumes.write_durable(at, buf, Priority::Wal)
    }

    /// Direct read on the calling thread, aligned to [`IO_ALIGN`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let at = self.place("read", offset, buf.len())?;
        self.shared.volumes.read(at, buf, Priority::Wal)
    }

    fn place(&self, verb: &str, offset: u64, len: usize) -> Result<u64> {
        let align = IO_ALIGN as u64;
        let bytes = len as u64;
        let aligned = offset.is_multiple_of(align) && bytes.is_multiple_of(align) && len > 0;
        let within = offset.checked_add(bytes).is_some_and(|end| end <= self.len_bytes());
        if aligned && within {
            return Ok(self.shared.lease.extent().offset + offset);
        }
        let (id, len_bytes) = (self.shared.id, self.len_bytes());
        Err(Error::Options(format!(
            "{verb} of {bytes} bytes at {offset} of {id}: must be in units of {IO_ALIGN} within its {len_bytes}"
        )))
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.shared.id, self.len_bytes())
    }
}
