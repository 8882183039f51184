//! What lies last on a volume: it keeps a file as long as it is.

use crate::{
    address::{Extent, VolumeId, offset_of},
    heads::log::Log,
    journal::catalog::Catalog,
};

/// What lies last on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastOnVolume {
    /// Its name: `mb-1f` an mblock, `seg-7` a segment, `mdc-3` a journal, or `the pool's journal`.
    pub what: String,
    /// Where it ends, in bytes from the start of the volume.
    pub end_bytes: u64,
}

impl LastOnVolume {
    /// `journal`: the logs of the pool's own. `None` where nothing of all that lies on the volume.
    pub(crate) fn of(catalog: &Catalog, journal: [Log; 2], volume: VolumeId) -> Option<Self> {
        let mut last: Option<Self> = None;
        let mut see = |extent: Extent, what: &dyn Fn() -> String| {
            let end_bytes = offset_of(extent.offset) + extent.len;
            let is_later = last.as_ref().is_none_or(|last| last.end_bytes < end_bytes);
            if VolumeId::of(extent.offset) == volume && is_later {
                last = Some(Self { what: what(), end_bytes });
            }
        };
        for (id, place) in &catalog.mblocks {
            for extent in &place.extents {
                see(*extent, &|| id.to_string());
            }
        }
        for (id, extent) in &catalog.segments {
            see(*extent, &|| id.to_string());
        }
        for (id, logs) in &catalog.mdcs {
            for log in logs {
                see(log.extent(), &|| id.to_string());
            }
        }
        for log in journal {
            see(log.extent(), &|| "the pool's journal".to_owned());
        }
        last
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{MediaClass, Options, Pool, Priority};
    use mpool_sim::SimDevice;
    use std::sync::Arc;

    #[test]
    fn each_volume_names_what_lies_last() {
        let options = Options { allow_buffered: true, ..Options::default() };
        let device = Arc::new(SimDevice::new(1 << 30));
        let pool = Pool::create(device, &options).unwrap();
        let last = |pool: &Arc<Pool>, at: usize| {
            pool.volumes()[at].last.clone().map(|last| (last.what, last.end_bytes))
        };
        assert_eq!(last(&pool, 0).unwrap().0, "the pool's journal");
        let object = |class| {
            let place = crate::Placement { class, ..Priority::Flush.into() };
            let mut writer = pool.allocate(1 << 20, place).unwrap();
            writer.append(&vec![7; 1 << 20]).unwrap();
            pool.commit(vec![writer], &[]).unwrap().remove(0)
        };
        pool.add_volume_on(Arc::new(SimDevice::new(1 << 30)), MediaClass::Staging).unwrap();
        assert_eq!(last(&pool, 1), None);
        let (first, second) = (object(MediaClass::Capacity), object(MediaClass::Capacity));
        let other = object(MediaClass::Staging);
        let (what, end) = last(&pool, 0).unwrap();
        assert_eq!(what, second.id().to_string());
        assert_eq!(last(&pool, 1).unwrap().0, other.id().to_string());
        pool.commit(vec![], &[second.id()]).unwrap();
        let (what, earlier) = last(&pool, 0).unwrap();
        assert_eq!(what, first.id().to_string());
        assert!(earlier < end, "{earlier} {end}");
        let segment = pool.create_segment(64 << 20).unwrap();
        let (what, later) = last(&pool, 1).unwrap();
        assert_eq!(what, segment.id().to_string(), "logs go to the staging class");
        assert!(later >= 64 << 20 && later <= pool.volumes()[1].len_bytes, "{later}");
    }
}
