//! PURE: what exists in a pool, as its journal tells it.
//!
//! Replaying the journal's changes into an empty catalog gives the pool's objects;
//! [`Catalog::state`] gives the changes that would build the same catalog, for a checkpoint. A
//! change that cannot follow from what is there (an id created twice, a deletion of nothing) is
//! refused: on replay that is corruption, on a commit it is the caller's mistake, found before
//! anything is written.
//!
//! A copy of it shares all maps with it (`shared_map`): it is a snapshot, taken while commits wait,
//! and costs the same for a hundred objects and for millions.

use crate::{
    address::{Extent, VolumeId},
    heads::log::Log,
    id::{MblockId, MdcId, SegmentId},
    journal::{mdc::MDC_RECORD_BYTES_MAX, record::Change},
    media::VolumeRecord,
    missing::VolumeHolds,
    object::mblock::MblockPlace,
    shared_map::SharedMap,
};
use std::{collections::BTreeMap, sync::Arc};

/// The property that holds the pool's name.
pub(crate) const NAME_PROPERTY: &str = "pool.name";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// Ids below it may have been given out; none from it on has.
    pub(crate) id_limit: u64,
    pub(crate) mblocks: SharedMap<MblockId, MblockPlace>,
    pub(crate) mdcs: SharedMap<MdcId, [Log; 2]>,
    pub(crate) segments: SharedMap<SegmentId, Extent>,
    pub(crate) properties: SharedMap<String, Vec<u8>>,
    /// The root is named only once something about it was changed. Few, and seldom changed.
    pub(crate) volumes: Arc<BTreeMap<VolumeId, VolumeRecord>>,
    /// Ids of volumes below it have been used.
    pub(crate) volume_limit: u16,
}

/// A checkpoint's records are about this long: large ones are replayed faster, but are one read.
const STATE_RECORD_BYTES: usize = MDC_RECORD_BYTES_MAX / 2;

impl Catalog {
    /// What it says lies on a volume.
    pub(crate) fn held_by(&self, id: VolumeId) -> VolumeHolds {
        let here = |extent: &Extent| VolumeId::of(extent.offset) == id;
        let mut holds = VolumeHolds::default();
        for place in self.mblocks.values() {
            let bytes: u64 = place.extents.iter().filter(|e| here(e)).map(|e| e.len).sum();
            holds.mblocks += u64::from(bytes > 0);
            holds.mblock_bytes += bytes;
        }
        let on_it = |logs: &&[Log; 2]| logs.iter().any(|log| log.volume() == id);
        holds.segments = self.segments.values().filter(|e| here(e)).count() as u64;
        holds.journals = self.mdcs.values().filter(on_it).count() as u64;
        holds
    }

    /// Applies one change; the error says why it cannot follow from what is there.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), &'static str> {
        match change {
            Change::IdLimit(limit) => {
                if *limit < self.id_limit {
                    return Err("the limit of ids went back");
                }
                self.id_limit = *limit;
            }
            Change::MblockCreated { id, extent, len_bytes } => {
                self.check_new_id(id.get())?;
                let (extents, len_bytes) = (vec![*extent], *len_bytes);
                let place = MblockPlace { extents, len_bytes, sums_crc: None };
                if self.mblocks.insert(*id, place).is_some() {
                    return Err("an mblock is created twice");
                }
            }
            Change::MblockPlaced { id, place } => {
                self.check_new_id(id.get())?;
                if let Some(before) = self.mblocks.insert(*id, place.clone())
                    && before.len_bytes != place.len_bytes
                {
                    return Err("an mblock changes its length");
                }
            }
            Change::MblockDeleted(id) => {
                self.mblocks.remove(id).ok_or("an mblock is deleted that does not exist")?;
            }
            Change::MdcCreated { id, logs } => {
                self.check_new_id(id.get())?;
                if self.mdcs.insert(*id, *logs).is_some() {
                    return Err("an MDC is created twice");
                }
            }
            Change::MdcDeleted(id) => {
                self.mdcs.remove(id).ok_or("an MDC is deleted that does not exist")?;
            }
            Change::SegmentCreated { id, extent } => {
                self.check_new_id(id.get())?;
                if self.segments.insert(*id, *extent).is_some() {
                    return Err("a segment is created twice");
                }
            }
            Change::SegmentDeleted(id) => {
                self.segments.remove(id).ok_or("a segment is deleted that does not exist")?;
            }
            Change::PropertySet { name, value } => {
                self.properties.insert(name.clone(), value.clone());
            }
            Change::VolumeSet(volume) => {
                self.volume_limit = self.volume_limit.max(volume.id.get() + 1);
                Arc::make_mut(&mut self.volumes).insert(volume.id, volume.clone());
            }
            Change::VolumeRemoved(id) => {
                // A checkpoint says so of the highest id ever used, so that it stays used.
                self.volume_limit = self.volume_limit.max(id.get() + 1);
                Arc::make_mut(&mut self.volumes).remove(id);
            }
        }
        Ok(())
    }

    fn check_new_id(&self, id: u64) -> Result<(), &'static str> {
        if id < self.id_limit {
            Ok(())
        } else {
            Err("an id is beyond the limit of those given out")
        }
    }

    /// The changes that build this catalog from nothing, in lists that fit a record each.
    pub(crate) fn state(&self) -> Vec<Vec<Change>> {
        let limit = std::iter::once(Change::IdLimit(self.id_limit));
        let mblocks = self.mblocks.iter().map(|(id, place)| match place {
            MblockPlace { extents, len_bytes, sums_crc: None } => {
                let (extent, len_bytes) = (extents[0], *len_bytes);
                Change::MblockCreated { id: *id, extent, len_bytes }
            }
            placed => Change::MblockPlaced { id: *id, place: placed.clone() },
        });
        let used = self.volume_limit.checked_sub(1).and_then(VolumeId::new);
        let removed = used.filter(|id| !self.volumes.contains_key(id)).map(Change::VolumeRemoved);
        let volumes =
            removed.into_iter().chain(self.volumes.values().cloned().map(Change::VolumeSet));
        let mdcs = self.mdcs.iter().map(|(id, logs)| Change::MdcCreated { id: *id, logs: *logs });
        let segments = self
            .segments
            .iter()
            .map(|(id, extent)| Change::SegmentCreated { id: *id, extent: *extent });
        let properties = self
            .properties
            .iter()
            .map(|(name, value)| Change::PropertySet { name: name.clone(), value: value.clone() });
        let all = limit.chain(volumes).chain(mblocks).chain(mdcs).chain(segments).chain(properties);
        in_records(all)
    }

    /// Every extent that belongs to an object.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        let mblocks = self.mblocks.values().flat_map(|place| place.extents.iter().copied());
        let mdcs = self.mdcs.values().flatten().map(|log| log.extent());
        mblocks.chain(mdcs).chain(self.segments.values().copied()).collect()
    }
}

/// Divides changes into lists that fit a record each.
fn in_records(changes: impl Iterator<Item = Change>) -> Vec<Vec<Change>> {
    let mut records = Vec::new();
    let (mut list, mut bytes) = (Vec::new(), 0);
    for change in changes {
        let len = change.encoded_len();
        if bytes + len > STATE_RECORD_BYTES {
            records.push(std::mem::take(&mut list));
            bytes = 0;
        }
        bytes += len;
        list.push(change);
    }
    records.push(list);
    records
}

/// The name that a catalog gives the pool.
pub(crate) fn name_of(catalog: &Catalog) -> Option<String> {
    let name = catalog.properties.get(NAME_PROPERTY)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::ALLOC_UNIT, shared_map::tests::copied};

    fn extent(unit: u64) -> Extent {
        Extent { offset: unit * ALLOC_UNIT, len: ALLOC_UNIT }
    }

    fn mblock(raw: u64) -> MblockId {
        MblockId::new(raw).unwrap()
    }

    fn created(raw: u64) -> Change {
        Change::MblockCreated { id: mblock(raw), extent: extent(raw), len_bytes: 5 }
    }

    fn built(changes: &[Change]) -> Catalog {
        let mut catalog = Catalog::default();
        for change in changes {
            catalog.apply(change).unwrap();
        }
        catalog
    }

    #[test]
    fn the_state_builds_the_same_catalog() {
        let mut changes = vec![Change::IdLimit(5000)];
        changes.extend((1..2000).map(created));
        changes.extend((1..1000).map(|raw| Change::MblockDeleted(mblock(raw))));
        let mdc = MdcId::new(3000).unwrap();
        changes
            .push(Change::MdcCreated { id: mdc, logs: [3000, 3001].map(|n| Log::once(extent(n))) });
        let segment = SegmentId::new(3001).unwrap();
        changes.push(Change::SegmentCreated { id: segment, extent: extent(3002) });
        changes.push(Change::PropertySet { name: "a".to_owned(), value: vec![1] });
        changes.push(Change::PropertySet { name: "a".to_owned(), value: vec![2] });
        let catalog = built(&changes);
        assert_eq!(built(&catalog.state().concat()), catalog);
        assert_eq!(catalog.properties.get("a"), Some(&vec![2]));
        assert_eq!(catalog.extents().len(), 1000 + 2 + 1);
    }

    /// Every object's place was copied while commits waited: 2 to 10 ms for so many.
    #[test]
    fn a_snapshot_of_a_hundred_thousand_objects_copies_none() {
        let mut changes = vec![Change::IdLimit(200_001)];
        changes.extend((1..=100_000).map(created));
        for raw in 100_001..=101_000 {
            changes.push(Change::PropertySet { name: raw.to_string(), value: vec![1; 1000] });
            let segment = SegmentId::new(raw).unwrap();
            changes.push(Change::SegmentCreated { id: segment, extent: extent(raw) });
        }
        let mut catalog = built(&changes);
        let mut snapshot = None;
        assert_eq!(copied(|| snapshot = Some(catalog.clone())), 0);
        // The commits that follow copy a path of each map they change, and that once.
        let next = [created(101_001), Change::MblockDeleted(mblock(50_000))];
        let entries = copied(|| next.iter().for_each(|change| catalog.apply(change).unwrap()));
        assert!(entries <= 5 * 64, "{entries} entries copied");
        assert_eq!(snapshot.unwrap(), built(&changes));
    }

    #[test]
    fn changes_that_cannot_follow_are_refused() {
        let base = built(&[Change::IdLimit(10), created(1)]);
        for (change, why) in [
            (created(1), "twice"),
            (created(10), "beyond the limit"),
            (Change::MblockDeleted(mblock(2)), "does not exist"),
            (Change::SegmentDeleted(SegmentId::new(1).unwrap()), "does not exist"),
            (Change::MdcDeleted(MdcId::new(1).unwrap()), "does not exist"),
            (Change::IdLimit(9), "went back"),
        ] {
            let error = base.clone().apply(&change).unwrap_err();
            assert!(error.contains(why), "{change:?}: {error}");
        }
    }
}
