//! The one mapping of each volume, and the list of them.
//!
//! Objects hold the mapping they are seen through, so a volume that is removed from the pool stays
//! mapped until the last object on it is gone, and one that has grown beyond its mapping has a
//! second one until then. The list is read by every lookup (see [`Mappings::faults`]) and changes
//! when a volume comes, grows or goes.

use super::{
    pages::PAGE_BYTES,
    region::{Region, Span},
};
use crate::{address::VolumeId, device::Device, io::volumes::Volume};
use arc_swap::ArcSwap;
use std::{
    fs::File,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The smallest reach worth mapping where the whole volume does not fit the address space.
const REACH_MIN: u64 = 1 << 30;

/// A volume seen as memory.
pub(crate) struct Mapping {
    // Dropped before the file it maps.
    pub(crate) region: Region,
    volume: Arc<Volume>,
    /// Where its faults are counted on when it is gone.
    past_faults: Arc<AtomicU64>,
}

impl Mapping {
    /// Maps as much of the volume's file as the address space allows; `None` where there is no file
    /// (the simulated device) or it cannot be mapped: then all reads are direct.
    fn new(volume: &Arc<Volume>, past_faults: &Arc<AtomicU64>) -> Option<Arc<Self>> {
        let region = map_device(&**volume.device())?;
        let (volume, past_faults) = (Arc::clone(volume), Arc::clone(past_faults));
        Some(Arc::new(Self { region, volume, past_faults }))
    }

    pub(crate) fn volume_id(&self) -> VolumeId {
        self.volume.id()
    }

    pub(crate) fn file(&self) -> &File {
        self.volume.device().file().expect("what is mapped has a file")
    }

    /// Drops the pages of `span` from the page tables and from the page cache.
    pub(crate) fn drop_span(&self, span: Span) {
        if let Err(error) = self.region.drop_span(self.file(), span) {
            let volume = self.volume_id();
            tracing::warn!(%volume, offset = span.offset, len = span.len, %error, "pages could not be dropped");
        }
    }

    /// Puts the file's pages back where lost ones were replaced by zeros.
    pub(crate) fn restore(&self, span: Span) -> io::Result<()> {
        self.region.restore(self.file(), span)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Counts must not go back: readers take any change for a fault.
        self.past_faults.fetch_add(self.region.faults(), Relaxed);
    }
}

/// All mappings of a pool.
#[derive(Default)]
pub(crate) struct Mappings {
    list: ArcSwap<List>,
    past_faults: Arc<AtomicU64>,
}

#[derive(Clone, Default)]
struct List {
    /// One of each volume: new objects are seen through these.
    current: Vec<Arc<Mapping>>,
    /// Superseded, or of volumes that are gone; alive as long as objects hold them.
    old: Vec<Weak<Mapping>>,
}

impl List {
    /// Leaves the mapping of volume `id` to the objects that hold it.
    fn retire(&mut self, id: VolumeId) {
        let (gone, current) = self.current.drain(..).partition(|mapping| mapping.volume_id() == id);
        self.current = current;
        let gone: Vec<Arc<Mapping>> = gone;
        self.old.retain(|mapping| mapping.strong_count() > 0);
        self.old.extend(gone.iter().map(Arc::downgrade));
    }
}

impl Mappings {
    /// Maps a volume that has come to the pool, or has a new limit.
    pub(crate) fn add(&self, volume: &Arc<Volume>) {
        let reach = volume.device().geometry().len_bytes_max;
        if self.of(volume.id(), reach).is_some() {
            return;
        }
        let Some(mapping) = Mapping::new(volume, &self.past_faults) else { return };
        self.list.rcu(|list| {
            let mut list = List::clone(list);
            list.retire(volume.id());
            list.current.push(Arc::clone(&mapping));
            list
        });
    }

    /// Forgets a volume that has left the pool. Nothing new is seen through its mapping.
    pub(crate) fn remove(&self, id: VolumeId) {
        self.list.rcu(|list| {
            let mut list = List::clone(list);
            list.retire(id);
            list
        });
    }

    /// The mapping of volume `id`, if all of it up to `end` is within reach.
    pub(crate) fn of(&self, id: VolumeId, end: u64) -> Option<Arc<Mapping>> {
        let list = self.list.load();
        let mapping = list.current.iter().find(|mapping| mapping.volume_id() == id)?;
        (end <= mapping.region.len()).then(|| Arc::clone(mapping))
    }

    /// Pages lost to drive errors so far, on all volumes, gone ones too.
    pub(crate) fn faults(&self) -> u64 {
        let list = self.list.load();
        let current = list.current.iter().map(|mapping| mapping.region.faults());
        let old = list.old.iter().filter_map(Weak::upgrade).map(|old| old.region.faults());
        current.sum::<u64>() + old.sum::<u64>() + self.past_faults.load(Relaxed)
    }

    /// Those that objects may be seen through.
    pub(crate) fn all(&self) -> Vec<Arc<Mapping>> {
        let list = self.list.load();
        let old = list.old.iter().filter_map(Weak::upgrade);
        list.current.iter().cloned().chain(old).collect()
    }
}

fn map_device(device: &dyn Device) -> Option<Region> {
    let file = device.file()?;
    let mut reach = device.geometry().len_bytes_max;
    loop {
        match Region::map_volume(file, reach) {
            Ok(region) => return Some(region),
            Err(_) if reach / 2 >= REACH_MIN => reach = (reach / 2).next_multiple_of(PAGE_BYTES),
            Err(error) => {
                tracing::warn!(%error, "the volume cannot be mapped; all reads go to the drive");
                return None;
            }
        }
    }
}
