//! Tidying zones: resetting those in which everything has died, and, as the last resort, clearing
//! those in which little lives by moving it (`space::clear` decides which).
//!
//! A step resets one zone or moves one mblock. What is moved frees its old place when the last
//! handle over it is gone, so a zone is whole some time after it was cleared.

use crate::{
    address::VolumeId,
    error::Scope,
    id::MblockId,
    mblock::Mblock,
    pool::Pool,
    space::{
        MoveTo,
        clear::{self, Clear, Sealed, ZoneSnapshot},
        volume::VolumeSpace,
    },
    tidy::{Chore, Progress},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

/// The chore of all zoned volumes of a pool.
pub(crate) struct ZoneChore {
    pool: Weak<Pool>,
    /// Mblocks that could not be moved: left alone until the pool is opened again.
    stuck: BTreeSet<MblockId>,
    /// Volumes out of whose zones nothing could be moved for want of room: what was free then.
    no_room: BTreeMap<VolumeId, u64>,
}

impl ZoneChore {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::downgrade(pool), stuck: BTreeSet::new(), no_room: BTreeMap::new() }
    }

    fn tidy(&mut self, pool: &Arc<Pool>, space: &Arc<VolumeSpace>) -> Progress {
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
        let snapshot = self.snapshot(pool, space);
        let Clear::Zone(zone) = clear::choose(&snapshot) else { return Progress::Idle };
        let Some(id) = self.lives_in(pool, space, zone).into_iter().next() else {
            return Progress::Idle;
        };
        match pool.relocate(id, MoveTo::Elsewhere) {
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

    fn snapshot(&self, pool: &Pool, space: &VolumeSpace) -> ZoneSnapshot {
        let zones = space.zones().expect("asked by tidy");
        let (whole, usage) = zones.usage();
        let mut movable: BTreeMap<u32, u64> = BTreeMap::new();
        for mblock in pool.table.read().mblocks.values().filter(|m| m.volume() == space.id()) {
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

    fn lives_in(&self, pool: &Pool, space: &VolumeSpace, zone: u32) -> Vec<MblockId> {
        let zones = space.zones().expect("asked by tidy");
        let table = pool.table.read();
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
        let Some(pool) = self.pool.upgrade() else { return Progress::Idle };
        for space in pool.space.all() {
            if self.tidy(&pool, &space) == Progress::More {
                return Progress::More;
            }
        }
        Progress::Idle
    }
}

#[cfg(test)]
mod tests {
    use crate::{Lifetime, Options, Placement, Pool, Priority, SimDevice, ZoneLimits};
    use std::sync::Arc;

    /// What was deleted dies when its last reader lets go of it, and nobody commits anything then:
    /// the zone stayed as it was until somebody did.
    #[test]
    fn housekeeping_wakes_when_the_last_reader_leaves() {
        let limits = ZoneLimits {
            zones: 16,
            zone_bytes: 256 << 10,
            conventional_zones: 8,
            open_max: 4,
            active_max: 5,
            append_bytes_max: 64 << 10,
            block_bytes: 4096,
        };
        let options = Options {
            capacity_bytes_max: 64 << 20,
            reserve_bytes: Some(0),
            background: false,
            ..Options::default()
        };
        let pool = Pool::create(Arc::new(SimDevice::zoned(limits)), &options).unwrap();
        let place = Placement { lifetime: Lifetime::Short, ..Placement::from(Priority::Flush) };
        let mut writer = pool.allocate(240 << 10, place).unwrap();
        writer.append(&vec![7; 240 << 10]).unwrap();
        let reader = pool.commit(vec![writer], &[]).unwrap().remove(0);
        pool.commit(vec![], &[reader.id()]).unwrap();
        while pool.tidy() {}
        pool.tidy.bell().was_rung();
        drop(reader);
        assert!(pool.tidy.bell().was_rung());
    }
}
