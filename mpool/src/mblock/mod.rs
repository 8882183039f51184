//! mblocks: immutable objects.
//!
//! ```text
//!   allocate ----> MblockWriter ----> commit ----> Mblock ----> delete ----> last handle dropped
//!   extent leased  appends            one record   readable     one record   pages dropped,
//!   (memory only)  (uncached)         = durable                 = durable    extent free
//! ```
//!
//! Nothing of an mblock is on the journal before its commit, so what was not committed vanishes
//! with a crash. An [`Mblock`] is a handle; the extent is not used again while one exists.

mod writer;

pub use writer::MblockWriter;
pub(crate) use writer::{Finished, Sink};

use crate::{
    error::{Error, Result},
    id::MblockId,
    io::{
        buf::{IO_ALIGN, IoBuf},
        queue::Priority,
    },
    mcache::Mcache,
    space::{Lease, extent::Extent},
    volume::Volume,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A committed, immutable object. Clone = another user; its extent is not reused while one exists.
#[derive(Clone)]
pub struct Mblock {
    shared: Arc<Shared>,
}

struct Shared {
    id: MblockId,
    len_bytes: u64,
    lease: Lease,
    volume: Arc<Volume>,
    mcache: Arc<Mcache>,
    deleted: AtomicBool,
}

impl Mblock {
    pub(crate) fn new(
        id: MblockId,
        len_bytes: u64,
        lease: Lease,
        volume: &Arc<Volume>,
        mcache: &Arc<Mcache>,
    ) -> Self {
        assert!(len_bytes <= lease.extent().len, "checked when the record was decoded");
        let (volume, mcache) = (Arc::clone(volume), Arc::clone(mcache));
        let deleted = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { id, len_bytes, lease, volume, mcache, deleted }) }
    }

    /// The object's id.
    pub fn id(&self) -> MblockId {
        self.shared.id
    }

    /// How many bytes were appended to it.
    pub fn len_bytes(&self) -> u64 {
        self.shared.len_bytes
    }

    /// Uncached direct read on the calling thread. `offset` and the buffer's length are multiples
    /// of [`IO_ALIGN`]; bytes past the object's length read as zeros.
    pub fn read_at(&self, offset: u64, buf: &mut IoBuf) -> Result<()> {
        self.read_at_priority(offset, buf, Priority::Read)
    }

    /// As [`read_at`](Self::read_at), counted under another priority: compaction's reads, say.
    pub fn read_at_priority(&self, offset: u64, buf: &mut IoBuf, priority: Priority) -> Result<()> {
        let len_bytes = self.shared.len_bytes;
        if !offset.is_multiple_of(IO_ALIGN as u64) || offset >= len_bytes.max(1) {
            let id = self.shared.id;
            let text = format!(
                "read of {id} at {offset}: must be a multiple of {IO_ALIGN} below its length {len_bytes}"
            );
            return Err(Error::Options(text));
        }
        // What lies behind the last page of the object is somebody else's, or old.
        let present = usize::try_from(len_bytes - offset).unwrap_or(usize::MAX);
        let aligned = present.checked_next_multiple_of(IO_ALIGN).unwrap_or(usize::MAX);
        let readable = buf.len().min(aligned);
        if readable > 0 {
            let at = self.extent_offset() + offset;
            self.shared.volume.read(at, &mut buf[..readable], priority)?;
        }
        let present = present.min(buf.len());
        buf[present..].fill(0);
        Ok(())
    }

    /// Drops its pages from the page cache, whole object at once.
    pub fn drop_pages(&self) {
        self.shared.mcache.drop_pages(self);
    }

    /// Where its bytes are on the volume.
    pub(crate) fn extent_offset(&self) -> u64 {
        self.extent().offset
    }

    pub(crate) fn extent(&self) -> Extent {
        self.shared.lease.extent()
    }

    /// Its deletion is durable: the extent goes back when the last handle does.
    pub(crate) fn mark_deleted(&self) {
        // Release pairs with the Acquire in `drop`, beyond what the reference count orders.
        self.shared.deleted.store(true, Ordering::Release);
        self.shared.mcache.mark_dead(self.shared.id);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.deleted.load(Ordering::Acquire) {
            // Cached pages of this object must be gone before the lease frees the extent: the next
            // owner's bytes are written past the page cache.
            self.mcache.retire(self.id);
        }
    }
}

impl fmt::Debug for Mblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.shared.id, self.shared.len_bytes)
    }
}
