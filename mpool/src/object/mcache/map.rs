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
    counters::{Accesses, MapCounters},
    evict,
    object::Object,
    pages::{PAGE_BYTES, PAGE_LEN},
    stats::{MapId, MapStats},
};
use crate::{
    error::{Error, Result},
    io::queue::IoQueue,
    media::Priority,
    object::mblock::Mblock,
};
use mpool_device::IoBuf;

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
    /// How many there are.
    pub const COUNT: usize = 4;
    /// From the cheapest to the dearest.
    pub const ALL: [Self; Self::COUNT] = [Self::Cold, Self::Warm, Self::Hot, Self::Pinned];

    /// Its place in [`Class::ALL`].
    pub fn index(self) -> usize {
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

/// One page (4 KiB) of an object.
#[derive(Debug)]
pub enum PageRef<'a> {
    /// In the volume's mapping, where it was.
    Mapped(&'a [u8]),
    /// In the volume's mapping, and read from the drive into it for this.
    Filled(&'a [u8]),
    /// Read into a buffer, where there is no map or the page cannot be had through it now.
    Read(IoBuf),
}

impl Deref for PageRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) | Self::Filled(bytes) => bytes,
            Self::Read(buf) => buf,
        }
    }
}

/// A list of mblocks seen as memory. Holds them alive.
pub struct Map {
    pub(super) mcache: Arc<Mcache>,
    pub(super) shared: Arc<MapShared>,
    pub(super) queue: Arc<IoQueue>,
    pub(super) mblocks: Arc<[Mblock]>,
}

/// Receives the bytes of [`Map::read_async`], or why there are none.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8]>) + Send>;

/// What the registry of live maps sees of a map.
pub(crate) struct MapShared {
    pub(super) id: MapId,
    owner: Box<str>,
    class: AtomicU8,
    pub(super) mapped_bytes: u64,
    pub(crate) objects: Box<[Arc<Object>]>,
    pub(crate) counters: MapCounters,
}

impl Map {
    /// A map over `objects`, which `mblocks` keep alive: the same number, in the same order.
    pub(crate) fn new(
        mcache: &Arc<Mcache>,
        queue: &Arc<IoQueue>,
        (objects, mblocks): (Box<[Arc<Object>]>, Arc<[Mblock]>),
        class: Class,
        owner: &str,
    ) -> Self {
        objects.iter().for_each(|object| object.add_user(class));
        let shared = Arc::new(MapShared {
            id: mcache.maps.new_id(),
            owner: owner.into(),
            class: AtomicU8::new(class as u8),
            mapped_bytes: objects.iter().map(|object| object.padded_bytes()).sum(),
            objects,
            counters: MapCounters::default(),
        });
        mcache.maps.insert(&shared);
        Self { mcache: Arc::clone(mcache), shared, queue: Arc::clone(queue), mblocks }
    }

    pub(crate) fn of_mblocks(
        mcache: &Arc<Mcache>,
        queue: &Arc<IoQueue>,
        mblocks: &[Mblock],
        class: Class,
        owner: &str,
    ) -> Self {
        let objects = mblocks.iter().map(|mblock| mcache.object_of(mblock)).collect();
        Self::new(mcache, queue, (objects, held(mblocks)), class, owner)
    }

    /// Names the map in statistics.
    pub fn id(&self) -> MapId {
        self.shared.id
    }

    /// Whose it is, as [`crate::Pool::map_named`] was told; else nothing.
    pub fn owner(&self) -> &str {
        &self.shared.owner
    }

    /// How dear its pages are.
    pub fn class(&self) -> Class {
        self.shared.class()
    }

    /// Changes how dear its pages are from here on.
    pub fn set_class(&self, class: Class) {
        let before = self.mcache.maps.set_class(&self.shared, class);
        for object in &self.shared.objects {
            // In this order, so that the object is never without a user in between.
            object.add_user(class);
            object.remove_user(before);
        }
    }

    /// How many mblocks it is over.
    pub fn len(&self) -> usize {
        self.shared.objects.len()
    }

    /// Whether it is over none.
    pub fn is_empty(&self) -> bool {
        self.shared.objects.is_empty()
    }

    /// The `object`-th mblock.
    pub fn mblock(&self, object: usize) -> &Mblock {
        &self.mblocks[object]
    }

    /// Whether the pool has moved any of its mblocks since the map was made. The map goes on
    /// working, in the old places; one made of new handles frees them.
    pub fn has_moved(&self) -> bool {
        self.mblocks.iter().any(Mblock::has_moved)
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
        if offset >= object.padded_bytes() {
            return Err(beyond_the_end(object, offset));
        }
        if let Some(page) = self.fill_page(object, page, verify)? {
            return Ok(page);
        }
        let mut buf = IoBuf::zeroed(PAGE_LEN);
        self.read_direct(object, offset..offset + PAGE_BYTES, &mut buf)?;
        if verify(&buf) { Ok(PageRef::Read(buf)) } else { Err(self.verify_failed(object, offset)) }
    }

    /// The page if it is resident and verified. Never blocks; `None` also for a page that does not
    /// exist.
    pub fn try_page(&self, object: usize, page: u32) -> Option<&[u8]> {
        let object = &self.shared.objects[object];
        let mapping = object.mapping.as_ref()?;
        let state = object.states.state(page);
        if !state.is_verified() {
            return None;
        }
        object.states.bump(page, state);
        self.shared.counters.hit();
        Some(mapping.region.bytes(object.page(page).offset, PAGE_LEN))
    }

    /// The bytes if all their pages are resident and in one piece; counts an access to each. Never
    /// blocks.
    pub fn try_read(&self, object: usize, range: Range<u64>) -> Option<&[u8]> {
        let object = &self.shared.objects[object];
        let mapping = object.mapping.as_ref()?;
        if range.start > range.end || range.end > object.len_bytes {
            return None;
        }
        let offset = object.contiguous(&range)?;
        let pages = pages_of(&range);
        if !pages.clone().all(|page| object.states.state(page).is_resident()) {
            return None;
        }
        for page in pages {
            object.states.bump(page, object.states.state(page));
        }
        self.shared.counters.hit();
        let len = usize::try_from(range.end - range.start).expect("within a mapping");
        Some(mapping.region.bytes(offset, len))
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
            let (bytes, more) = self.mcache.preload(object, 0..object.states.len())?;
            loaded += bytes;
            if !more {
                break;
            }
        }
        Ok(loaded)
    }

    /// As [`preload`](Self::preload), of a part of one object; what lies in `next` is ordered, and
    /// not waited for. False: there was no room for all of it. Nothing is read of an object that is
    /// deleted, for lack of a future and not of room.
    pub fn preload_part(&self, object: usize, part: Range<u64>, next: Range<u64>) -> Result<bool> {
        let object = &self.shared.objects[object];
        check_range(object, &part)?;
        check_range(object, &next)?;
        let (_, all) = self.mcache.preload(object, pages_of(&part))?;
        self.mcache.order(object, pages_of(&next));
        Ok(all)
    }

    /// The queue of its pool.
    pub fn queue(&self) -> &Arc<IoQueue> {
        &self.queue
    }

    /// Bytes of its objects that are in memory, as far as the page states know.
    pub fn resident_bytes(&self) -> u64 {
        self.shared.objects.iter().map(|object| object.resident_bytes()).sum()
    }

    /// The same of one object.
    pub fn resident_bytes_of(&self, object: usize) -> u64 {
        self.shared.objects[object].resident_bytes()
    }

    /// Drops the pages of all its objects from memory.
    pub fn purge(&self) {
        for object in &self.shared.objects {
            self.count_purged(evict::drop_object(object));
        }
    }

    pub(super) fn count_purged(&self, bytes: u64) {
        self.shared.counters.purged_bytes.add(bytes);
        self.mcache.metrics.purged_bytes.add(bytes);
    }

    /// The map in numbers; asks the kernel about the residency of each object.
    pub fn stats(&self) -> MapStats {
        self.shared.stats(evict::cached_bytes)
    }

    fn is_resident(&self, object: usize, page: u32) -> bool {
        let object = &self.shared.objects[object];
        object.is_mapped() && object.states.state(page).is_resident()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.mcache.maps.remove(&self.shared);
        let class = self.class();
        self.shared.objects.iter().for_each(|object| object.leave(class));
    }
}

impl MapShared {
    pub(crate) fn class(&self) -> Class {
        Class::ALL[usize::from(self.class.load(Relaxed))]
    }

    /// Only for the registry, which settles counts by class.
    pub(super) fn swap_class(&self, class: Class) -> Class {
        Class::ALL[usize::from(self.class.swap(class as u8, Relaxed))]
    }

    pub(super) fn stats(&self, resident_bytes: impl Fn(&Object) -> u64) -> MapStats {
        let Accesses { hits, faults, direct_reads } = self.counters.accesses();
        MapStats {
            id: self.id,
            owner: self.owner.to_string(),
            class: self.class(),
            objects: u64::try_from(self.objects.len()).unwrap_or(u64::MAX),
            mapped_bytes: self.mapped_bytes,
            resident_bytes: self.objects.iter().map(|object| resident_bytes(object)).sum(),
            hits,
            faults,
            direct_reads,
            purged_bytes: self.counters.purged_bytes.get(),
            heap_bytes: self.heap_bytes(),
        }
    }

    /// With the list of mblocks that the map holds beside it, and both reference counts.
    fn heap_bytes(&self) -> u64 {
        let each = size_of::<Arc<Object>>() + size_of::<Mblock>();
        let fixed = size_of::<Self>() + self.owner.len() + 4 * size_of::<usize>();
        (fixed + each * self.objects.len()) as u64
    }
}

/// The handles that keep a map's extents from being used again.
fn held(mblocks: &[Mblock]) -> Arc<[Mblock]> {
    #[cfg(test)]
    if super::pool_tests::HOLDS_NOTHING.get() {
        return Arc::new([]);
    }
    mblocks.into()
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
