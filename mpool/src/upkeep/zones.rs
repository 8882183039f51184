//! Tidying zones: resetting those in which everything has died, and, as the last resort, clearing
//! those in which little lives by moving it (`space::clear` decides which).
//!
//! A step resets one zone or moves one mblock. What is moved frees its old place when the last
//! handle over it is gone, so a zone is whole some time after it was cleared.

use crate::{
    address::VolumeId,
    chores::{Chore, Progress},
    error::Scope,
    id::MblockId,
    object::mblock::Mblock,
    space::{
        clear::{self, Clear, Sealed, ZoneSnapshot},
        volume::VolumeSpace,
    },
    upkeep::parts::Parts,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The chore of all zoned volumes of a pool.
pub(crate) struct ZoneChore {
    pool: Parts,
    /// Mblocks that could not be moved: left alone until the pool is opened again.
    stuck: BTreeSet<MblockId>,
    /// Volumes out of whose zones nothing could be moved for want of room: what was free then.
    no_room: BTreeMap<VolumeId, u64>,
}

impl ZoneChore {
    pub(crate) fn new(pool: Parts) -> Self {
        Self { pool, stuck: BTreeSet::new(), no_room: BTreeMap::new() }
    }

    fn tidy(&mut self, space: &Arc<VolumeSpace>) -> Progress {
        let pool = &self.pool;
        let Some(zones) = space.zones() else { return Progress::Idle };
        if zones.reset_dead_one() {
            pool.space.publish();
            return Progress::More;
        }
        if pool.volumes.check_writable().is_err() {
            return Progress::Idle;
        }
        // Moving failed for want of room, and nothing has changed since.
        let free_bytes = pool.space.free_bytes();
        if self.no_room.get(&space.id()).is_some_and(|then| free_bytes == *then) {
            return Progress::Idle;
        }
        let snapshot = self.snapshot(space);
        let Clear::Zone(zone) = clear::choose(&snapshot) else { return Progress::Idle };
        let Some(id) = self.lives_in(space, zone).into_iter().next() else {
            return Progress::Idle;
        };
        match pool.relocate(id) {
            Ok(bytes) => {
                tracing::debug!(volume = %space.id(), zone, %id, bytes, "moved out of a zone");
                if self.no_room.remove(&space.id()).is_some() {
                    tracing::info!(volume = %space.id(), "objects can be moved out of zones again");
                }
                Progress::More
            }
            Err(error) if error.scope() == Scope::Object => {
                tracing::warn!(volume = %space.id(), zone, %id, %error, "an mblock could not be moved");
                self.stuck.insert(id);
                Progress::More
            }
            Err(error) => {
                // No room to move it to, or the pool is poisoned. Whoever frees some rings.
                if self.no_room.insert(space.id(), free_bytes).is_none() {
                    tracing::warn!(volume = %space.id(), zone, %id, %error, "an mblock could not be moved");
                }
                Progress::Idle
            }
        }
    }

    fn snapshot(&self, space: &VolumeSpace) -> ZoneSnapshot {
        let zones = space.zones().expect("asked by tidy");
        let (whole, usage) = zones.usage();
        let mut movable: BTreeMap<u32, u64> = BTreeMap::new();
        for mblock in self.pool.table.read().mblocks.values().filter(|m| m.volume() == space.id()) {
            // What cannot be moved lives as if it could, so that its zone is never chosen for it.
            for (zone, len) in zones.parts_of(mblock.layout()) {
                *movable.entry(zone).or_default() +=
                    if self.stuck.contains(&mblock.id()) { u64::MAX / 4096 } else { len };
            }
        }
        let sealed = usage.iter().map(|usage| Sealed {
            zone: usage.zone,
            capacity: usage.capacity,
            movable: movable.get(&usage.zone).copied().unwrap_or(0),
        });
        let count = usize::try_from(zones.limits().zones).expect("32 bits");
        ZoneSnapshot { zones: count, whole, sealed: sealed.collect() }
    }

    fn lives_in(&self, space: &VolumeSpace, zone: u32) -> Vec<MblockId> {
        let zones = space.zones().expect("asked by tidy");
        let table = self.pool.table.read();
        let here = table.mblocks.values().filter(|mblock| {
            mblock.volume() == space.id()
                && !self.stuck.contains(&mblock.id())
                && zones.parts_of(mblock.layout()).any(|(at, _)| at == zone)
        });
        here.map(Mblock::id).collect()
    }
}

impl Chore for ZoneChore {
    fn step(&mut self) -> Progress {
        for space in self.pool.space.all() {
            if self.tidy(&space) == Progress::More {
                return Progress::More;
            }
        }
        Progress::Idle
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Device, Geometry, Lifetime, Mblock, Options, Placement, Pool, Priority, ZoneLimits, Zoned,
    };
    use mpool_sim::SimDevice;
    use parking_lot::Mutex;
    use std::{
        fs::File,
        io,
        sync::{Arc, Weak},
    };

    const LIMITS: ZoneLimits = ZoneLimits {
        zones: 16,
        zone_bytes: 256 << 10,
        conventional_zones: 8,
        open_max: 4,
        active_max: 5,
        append_bytes_max: 64 << 10,
        block_bytes: 4096,
    };

    fn create(device: Arc<dyn Device>) -> Arc<Pool> {
        let options = Options {
            capacity_bytes_max: 64 << 20,
            reserve_bytes: Some(0),
            background: false,
            ..Options::default()
        };
        Pool::create(device, &options).unwrap()
    }

    /// A zone in which everything is dead once these readers are gone.
    fn dead_zone(pool: &Arc<Pool>) -> Vec<Mblock> {
        let object = |len: u64| {
            let place = Placement { lifetime: Lifetime::Short, ..Placement::from(Priority::Flush) };
            let mut writer = pool.allocate(len, place).unwrap();
            writer.append(&vec![7; usize::try_from(len).unwrap()]).unwrap();
            pool.commit(vec![writer], &[]).unwrap().remove(0)
        };
        // More than it holds, so that nothing is appended to it any more.
        let readers = vec![object(240 << 10), object(240 << 10)];
        let ids: Vec<_> = readers.iter().map(Mblock::id).collect();
        pool.commit(vec![], &ids).unwrap();
        readers
    }

    /// A deleted mblock dies when its last handle drops, which is no commit: its zone stayed as it
    /// was until the next commit rang the bell.
    #[test]
    fn housekeeping_wakes_when_the_last_reader_leaves() {
        let pool = create(Arc::new(SimDevice::zoned(LIMITS)));
        let readers = dead_zone(&pool);
        while pool.tidy() {}
        pool.tidy.bell().was_rung();
        drop(readers);
        assert!(pool.tidy.bell().was_rung());
    }

    /// A device whose user lets go of his pool while a chore is at it.
    struct Leaves {
        device: SimDevice,
        user: Mutex<Option<Arc<Pool>>>,
        pool: Mutex<Weak<Pool>>,
        /// Whether the pool was still there when he had.
        outlived: Mutex<Option<bool>>,
    }

    impl Device for Leaves {
        fn geometry(&self) -> Geometry {
            self.device.geometry()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.device.read_at(offset, buf)
        }
        fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            self.device.write_at(offset, buf)
        }
        fn flush(&self) -> io::Result<()> {
            self.device.flush()
        }
        fn grow(&self, len_bytes: u64) -> io::Result<()> {
            self.device.grow(len_bytes)
        }
        fn file(&self) -> Option<&File> {
            None
        }
        fn kind(&self) -> &'static str {
            "leaves"
        }
        fn zones(&self) -> Option<&dyn Zoned> {
            let user = self.user.lock().take();
            if user.is_some() {
                drop(user);
                *self.outlived.lock() = Some(self.pool.lock().upgrade().is_some());
            }
            self.device.zones()
        }
    }

    /// The chore held the pool for a step. Who let go of it meanwhile found its volumes still
    /// locked, and it was closed later, by the chore.
    #[test]
    fn a_pool_ends_with_its_last_user_though_a_chore_is_at_it() {
        let device = Arc::new(Leaves {
            device: SimDevice::zoned(LIMITS),
            user: Mutex::default(),
            pool: Mutex::default(),
            outlived: Mutex::default(),
        });
        let pool = create(Arc::<Leaves>::clone(&device));
        drop(dead_zone(&pool));
        let bell = pool.tidy.bell().clone();
        *device.pool.lock() = Arc::downgrade(&pool);
        *device.user.lock() = Some(pool);
        bell.step();
        assert_eq!(*device.outlived.lock(), Some(false));
    }
}
