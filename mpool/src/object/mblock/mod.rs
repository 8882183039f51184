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

use crate::{
    address::{Extent, VolumeId},
    error::{Error, Result},
    id::MblockId,
    io::{queue::IoQueue, request::Done, volumes::Volumes},
    media::Priority,
    metrics::Gauge,
    object::{mcache::Mcache, sums},
    space::{Lease, layout::Layout},
};
use mpool_device::{IO_ALIGN, IoBuf};
pub use writer::MblockWriter;
pub(crate) use writer::{Finished, Sink};

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where an mblock is, and what its bytes must add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MblockPlace {
    /// In the order of its bytes: the data, padded to pages, then the table of page checksums.
    pub(crate) extents: Vec<Extent>,
    pub(crate) len_bytes: u64,
    /// CRC-32C of the table; `None` for mblocks of format version 1, which have none.
    pub(crate) sums_crc: Option<u32>,
}

/// A committed, immutable object. Clone = another user; its extent is not reused while one exists.
#[derive(Clone)]
pub struct Mblock {
    shared: Arc<Shared>,
}

struct Shared {
    id: MblockId,
    len_bytes: u64,
    layout: Layout,
    /// Frees the place when it is dropped, which comes after `retire`.
    lease: Lease,
    /// CRC of the table of page checksums; `None` for objects of format version 1.
    sums_crc: Option<u32>,
    volumes: Arc<Volumes>,
    mcache: Arc<Mcache>,
    /// Nothing on the medium names this place any more: it goes back with the last handle.
    retired: AtomicBool,
    /// The object lives on in another place.
    moved: AtomicBool,
}

impl Mblock {
    pub(crate) fn new(
        (id, len_bytes, sums_crc): (MblockId, u64, Option<u32>),
        lease: Lease,
        volumes: &Arc<Volumes>,
        mcache: &Arc<Mcache>,
    ) -> Self {
        let layout = Layout::new(lease.extents());
        assert!(sums::padded_len(len_bytes) <= layout.len(), "checked when it was decoded");
        let shared = Shared {
            id,
            len_bytes,
            layout,
            lease,
            sums_crc,
            volumes: Arc::clone(volumes),
            mcache: Arc::clone(mcache),
            retired: AtomicBool::new(false),
            moved: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
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
        self.read_padded(offset, &mut buf[..readable], priority)?;
        let present = present.min(buf.len());
        buf[present..].fill(0);
        Ok(())
    }

    /// As [`read_at`](Self::read_at), through `queue` and without waiting: `done` gets a buffer as
    /// long as `range`, on a thread of the queue. The range may go up to the object's last page.
    pub fn read_async(
        &self,
        range: Range<u64>,
        (queue, priority): (&Arc<IoQueue>, Priority),
        done: Done,
    ) {
        let (len_bytes, align) = (self.shared.len_bytes, IO_ALIGN as u64);
        let is_whole = range.start.is_multiple_of(align) && range.end.is_multiple_of(align);
        let end_max = len_bytes.next_multiple_of(align);
        if !is_whole || range.is_empty() || range.end > end_max {
            let id = self.shared.id;
            let text = format!("read of {id} at {range:?}: must be pages below {end_max}");
            return done(Err(Error::Options(text)));
        }
        let len = usize::try_from(range.end - range.start).expect("fits a buffer");
        let Some(address) = self.shared.layout.address_of(&range) else {
            // In several pieces: one after the other, on a thread that may wait.
            let object = self.clone();
            let job = move || {
                let mut buf = IoBuf::zeroed(len);
                done(object.read_at_priority(range.start, &mut buf, priority).map(|()| buf));
            };
            return queue.run_blocking(priority, Box::new(job));
        };
        // The handle keeps the place from being used again before the read has ended.
        let object = self.clone();
        let finish = move |outcome: Result<IoBuf>| {
            let present = usize::try_from(object.len_bytes() - range.start).unwrap_or(usize::MAX);
            done(outcome.map(|mut buf| {
                if present < buf.len() {
                    buf[present..].fill(0);
                }
                buf
            }));
        };
        queue.submit_read(address, len, priority, Box::new(finish));
    }

    /// Drops its pages from the page cache, whole object at once.
    pub fn drop_pages(&self) {
        self.shared.mcache.drop_pages(self);
    }

    /// The volume it is on.
    pub fn volume(&self) -> VolumeId {
        self.shared.volumes.marked(self.shared.lease.volume())
    }

    /// Refuses the handle where `here` is another pool.
    pub(crate) fn check_owner(&self, here: &Arc<Volumes>) -> Result<()> {
        self.shared.volumes.check_owner(here, || format!("a handle of {}", self.shared.id))
    }

    /// Whether the pool has moved the object since this handle was taken. The handle goes on
    /// working, and keeps the old place from being used again; [`crate::Pool::mblock`] gives one of
    /// the new place.
    pub fn has_moved(&self) -> bool {
        self.shared.moved.load(Ordering::Acquire)
    }

    /// Where its bytes are: the data, padded, and then the table of checksums.
    pub(crate) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// CRC of the table of page checksums, if it has one.
    pub(crate) fn sums_crc(&self) -> Option<u32> {
        self.shared.sums_crc
    }

    /// Reads whole pages of its place, the table of checksums included.
    pub(crate) fn read_padded(&self, at: u64, buf: &mut [u8], priority: Priority) -> Result<()> {
        let mut rest = buf;
        for part in self.shared.layout.parts(at..at + rest.len() as u64) {
            let (now, later) = rest.split_at_mut(usize::try_from(part.len).expect("a part"));
            self.shared.volumes.read(part.offset, now, priority)?;
            rest = later;
        }
        Ok(())
    }

    /// Its deletion is durable: the place goes back when the last handle does.
    pub(crate) fn mark_deleted(&self) {
        // Release pairs with the Acquire in `drop`, beyond what the reference count orders.
        if !self.shared.retired.swap(true, Ordering::Release) {
            self.shared.held().add(self.shared.layout.len());
        }
        self.shared.mcache.mark_dead(self.shared.layout.first());
    }

    /// Its move to another place is durable: this place goes back when the last handle does.
    pub(crate) fn mark_moved(&self) {
        // Release pairs with the Acquire in `has_moved`.
        if !self.shared.moved.swap(true, Ordering::Release) {
            self.shared.lease.space().leave(self.shared.layout.len());
        }
        self.mark_deleted();
    }
}

impl Shared {
    /// Bytes of what is deleted and not gone.
    fn held(&self) -> &Gauge {
        &self.volumes.metrics().space_held_bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.moved.load(Ordering::Acquire) {
            self.lease.space().let_go(self.layout.len());
        }
        if self.retired.load(Ordering::Acquire) {
            self.held().sub(self.layout.len());
            // Cached pages of this object must be gone before the lease frees the extent: the next
            // owner's bytes are written past the page cache.
            self.mcache.retire(self.layout.first());
        }
    }
}

impl fmt::Debug for Mblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.shared.id, self.shared.len_bytes)
    }
}
