//! Mcache maps: a list of objects seen as memory.
//!
//! A [`Map`] is made without a system call: it names objects that the volume's one mapping already
//! covers. Its class says how dear its pages are to the reaper; its counters say how it is used.
//!
//! ```text
//!   try_page, try_read      never block: the page is resident, or None
//!   page                    index pages: made resident, and verified once per residency
//!   read                    values: resident -> mapped; touched before and room -> admitted;
//!                           else one uncached read into the caller's buffer
//! ```
//!
//! Bytes from `try_read` and `read` are not verified here; records carry their own checksums.
//!
//! Pages need no pins: one that is evicted under a reader faults in again. That fault reads the
//! drive once more, without the checksum of `page` and, if it fails, with zeros instead of an
//! error. So a reader of mapped bytes compares `Pool::map_faults` before and after.

use std::{
    ops::{Deref, Range},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use super::{
    Mcache,
    counters::MapCounters,
    object::{Extent, Object},
    pages::{PAGE_BYTES, PAGE_LEN},
    region::Region,
};
use crate::{
    error::{Error, Result},
    io::{
        buf::IoBuf,
        queue::{IoQueue, Priority},
    },
    mblock::Mblock,
};

/// How dear pages are: what the reaper gives up first, and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Evicted first, by frequency of access.
    Cold,
    /// Evicted when no cold page is left.
    Warm,
    /// Index pages: evicted when nothing else is left.
    Hot,
    /// Evicted only in an emergency.
    Pinned,
}

impl Class {
    pub(crate) const COUNT: usize = 4;
    /// From the cheapest to the dearest.
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Cold, Self::Warm, Self::Hot, Self::Pinned];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Cold => 0,
            Self::Warm => 1,
            Self::Hot => 2,
            Self::Pinned => 3,
        }
    }

    /// Index pages are needed by every lookup, so they enter memory whether there is room or not.
    pub(crate) fn is_index(self) -> bool {
        self >= Self::Hot
    }
}

/// One map in numbers.
#[derive(Clone, Debug)]
pub struct MapStats {
    /// How dear its pages are.
    pub class: Class,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of address space they take.
    pub mapped_bytes: u64,
    /// Bytes of them in the page cache, as the kernel counts, else as we do.
    pub resident_bytes: u64,
    /// Reads answered from resident pages.
    pub hits: u64,
    /// Pages read into the page cache.
    pub faults: u64,
    /// Reads that went to the drive past the page cache.
    pub direct_reads: u64,
}

/// One page (4 KiB) of an object.
#[derive(Debug)]
pub enum PageRef<'a> {
    /// In the volume's mapping.
    Mapped(&'a [u8]),
    /// Read into a buffer, where there is no map or the page cannot be had through it now.
    Read(IoBuf),
}

impl Deref for PageRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(buf) => buf,
        }
    }
}

/// A list of mblocks seen as memory. Holds them alive.
pub struct Map {
    pub(super) mcache: Arc<Mcache>,
    pub(super) shared: Arc<MapShared>,
    pub(super) queue: Arc<IoQueue>,
    mblocks: Box<[Mblock]>,
}

/// Receives the bytes of [`Map::read_async`], or why there are none.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8]>) + Send>;

/// What the registry of live maps sees of a map.
pub(crate) struct MapShared {
    class: AtomicU8,
    pub(super) objects: Box<[Arc<Object>]>,
    pub(crate) counters: MapCounters,
}

impl Map {
    /// A map over `extents`, which `mblocks` keep alive: the same number, in the same order.
    pub(crate) fn new(
        mcache: &Arc<Mcache>,
        queue: &Arc<IoQueue>,
        extents: &[Extent],
        mblocks: Box<[Mblock]>,
        class: Class,
    ) -> Self {
        let objects: Box<[_]> = extents.iter().map(|extent| mcache.object(*extent)).collect();
        objects.iter().for_each(|object| object.add_user(class));
        let shared = Arc::new(MapShared {
            class: AtomicU8::new(class as u8),
            objects,
            counters: MapCounters::default(),
        });
        mcache.maps.lock().push(Arc::downgrade(&shared));
        Self { mcache: Arc::clone(mcache), shared, queue: Arc::clone(queue), mblocks }
    }

    pub(crate) fn of_mblocks(
        mcache: &Arc<Mcache>,
        queue: &Arc<IoQueue>,
        mblocks: &[Mblock],
        class: Class,
    ) -> Self {
        let extents: Vec<Extent> = mblocks.iter().map(Extent::of).collect();
        Self::new(mcache, queue, &extents, mblocks.into(), class)
    }

    /// How dear its pages are.
    pub fn class(&self) -> Class {
        self.shared.class()
    }

    /// Changes how dear its pages are from here on.
    pub fn set_class(&self, class: Class) {
        let before = Class::ALL[usize::from(self.shared.class.swap(class as u8, Relaxed))];
        for object in &self.shared.objects {
            // In this order, so that the object is never without a user in between.
            object.add_user(class);
            object.remove_user(before);
        }
    }

    /// The `object`-th mblock.
    pub fn mblock(&self, object: usize) -> &Mblock {
        &self.mblocks[object]
    }

    /// Index pages: page `page` of object `object`, resident and verified. `verify` runs once per
    /// residency, on the 4 KiB of the page; if it says no, the error is [`Error::Corrupt`] and the
    /// page is dropped. Blocks on the drive.
    pub fn page(&self, object: usize, page: u32, verify: fn(&[u8]) -> bool) -> Result<PageRef<'_>> {
        if let Some(bytes) = self.try_page(object, page) {
            return Ok(PageRef::Mapped(bytes));
        }
        let object = &self.shared.objects[object];
        let offset = u64::from(page) * PAGE_BYTES;
        if offset >= object.span.len {
            return Err(beyond_the_end(object, offset));
        }
        if let Some(bytes) = self.fill_page(object, page, verify)? {
            return Ok(PageRef::Mapped(bytes));
        }
        let mut buf = IoBuf::zeroed(PAGE_LEN);
        self.read_direct(object, offset..offset + PAGE_BYTES, &mut buf)?;
        if verify(&buf) { Ok(PageRef::Read(buf)) } else { Err(self.verify_failed(object, offset)) }
    }

    /// The page if it is resident and verified. Never blocks; `None` also for a page that does not
    /// exist.
    pub fn try_page(&self, object: usize, page: u32) -> Option<&[u8]> {
        let object = &self.shared.objects[object];
        let region = self.mcache.region.as_ref()?;
        if page >= object.states.len() {
            return None;
        }
        let state = object.states.state(page);
        if !state.is_verified() {
            return None;
        }
        object.states.bump(page, state);
        self.shared.counters.hit();
        Some(region.bytes(object.span.offset + u64::from(page) * PAGE_BYTES, PAGE_LEN))
    }

    /// The bytes if all their pages are resident; counts an access to each. Never blocks.
    pub fn try_read(&self, object: usize, range: Range<u64>) -> Option<&[u8]> {
        let object = &self.shared.objects[object];
        let region = self.mcache.region.as_ref()?;
        if range.start > range.end || range.end > object.len_bytes || !object.is_mapped() {
            return None;
        }
        let pages = pages_of(&range);
        if !pages.clone().all(|page| object.states.state(page).is_resident()) {
            return None;
        }
        for page in pages {
            object.states.touch(page);
        }
        self.shared.counters.hit();
        let len = usize::try_from(range.end - range.start).expect("within a mapping");
        Some(region.bytes(object.span.offset + range.start, len))
    }

    /// The bytes: from the map if they are resident; else admitted to it if their pages have been
    /// touched before and the reaper grants room; else one uncached read into `scratch`, which
    /// grows as needed. Blocks on the drive.
    pub fn read<'a>(
        &'a self,
        object: usize,
        range: Range<u64>,
        scratch: &'a mut IoBuf,
    ) -> Result<&'a [u8]> {
        if let Some(bytes) = self.try_read(object, range.clone()) {
            return Ok(bytes);
        }
        let object = &self.shared.objects[object];
        check_range(object, &range)?;
        if range.is_empty() {
            return Ok(&[]);
        }
        if self.deserves_admission(object, &range)
            && let Some(bytes) = self.fill_range(object, &range)
        {
            return Ok(bytes);
        }
        self.read_direct(object, range, scratch)
    }

    /// The same, asynchronously: an uncached read goes through the queue, an admission is served by
    /// one of its threads. `done` runs on a queue thread and is short.
    pub fn read_async(self: &Arc<Self>, object: usize, range: Range<u64>, done: ReadDone) {
        let map = Arc::clone(self);
        let target = &self.shared.objects[object];
        if let Err(error) = check_range(target, &range) {
            return self.queue.run_blocking(Priority::Read, Box::new(move || done(Err(error))));
        }
        let resident = pages_of(&range).all(|page| map.is_resident(object, page));
        if resident || self.deserves_admission(target, &range) {
            let job = move || {
                let target = &map.shared.objects[object];
                let mapped = map.try_read(object, range.clone());
                match mapped.or_else(|| map.fill_range(target, &range)) {
                    Some(bytes) => done(Ok(bytes)),
                    None => map.submit_direct(object, range, done),
                }
            };
            return self.queue.run_blocking(Priority::Read, Box::new(job));
        }
        map.submit_direct(object, range, done);
    }

    /// Reads whole objects into the page cache by large read-ahead, as far as the reaper grants
    /// room (index maps: in any case). Returns the bytes made resident. Blocks on the drive.
    pub fn preload(&self) -> Result<u64> {
        let mut loaded = 0;
        for object in &self.shared.objects {
            let (bytes, more) = self.preload_object(object)?;
            loaded += bytes;
            if !more {
                break;
            }
        }
        Ok(loaded)
    }

    /// Drops the pages of all its objects from memory.
    pub fn purge(&self) {
        for object in &self.shared.objects {
            let dropped = self.mcache.drop_object(object);
            self.mcache.metrics.purged_bytes.add(dropped);
        }
    }

    /// The map in numbers; asks the kernel about residency.
    pub fn stats(&self) -> MapStats {
        self.shared.stats(&self.mcache)
    }

    fn is_resident(&self, object: usize, page: u32) -> bool {
        let object = &self.shared.objects[object];
        object.is_mapped() && object.states.state(page).is_resident()
    }

    pub(super) fn region(&self, object: &Object) -> Option<&Region> {
        self.mcache.region.as_ref().filter(|_| object.is_mapped())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let class = self.class();
        self.shared.objects.iter().for_each(|object| object.remove_user(class));
        let metrics = &self.mcache.metrics;
        metrics.past_hits.add(self.shared.counters.hits());
        metrics.past_accesses.add(self.shared.counters.accesses());
    }
}

impl MapShared {
    pub(crate) fn class(&self) -> Class {
        Class::ALL[usize::from(self.class.load(Relaxed))]
    }

    pub(super) fn stats(&self, mcache: &Mcache) -> MapStats {
        MapStats {
            class: self.class(),
            objects: u64::try_from(self.objects.len()).unwrap_or(u64::MAX),
            mapped_bytes: self.objects.iter().map(|o| o.span.len).sum(),
            resident_bytes: self.objects.iter().map(|o| mcache.cached_bytes(o)).sum(),
            hits: self.counters.hits(),
            faults: self.counters.faults.get(),
            direct_reads: self.counters.direct_reads.get(),
        }
    }
}

/// The pages that hold `range`; none for an empty one.
pub(super) fn pages_of(range: &Range<u64>) -> Range<u32> {
    let page = |n: u64| u32::try_from(n).expect("an mblock is under 16 TiB");
    page(range.start / PAGE_BYTES)
        ..page(range.end.div_ceil(PAGE_BYTES)).max(page(range.start / PAGE_BYTES))
}

/// Offsets come from index pages, that is from the medium: a bad one is an error, not a panic.
pub(super) fn check_range(object: &Object, range: &Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > object.len_bytes {
        return Err(beyond_the_end(object, range.start.max(range.end)));
    }
    Ok(())
}

fn beyond_the_end(object: &Object, offset: u64) -> Error {
    Error::Corrupt {
        what: object.id.to_string(),
        offset,
        reason: "a reference points past the end of the object",
    }
}
