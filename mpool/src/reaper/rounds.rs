//! The rounds of the policy `mpool`: decides urgency three times a second, and while there is any
//! drops the objects of map after map that have had their time.
//!
//! What has had its time is decided by `fault_age`. A round visits the maps in the order in which
//! they were made, not by age; one tick does what the original's workers would have done in it.

use std::time::{Duration, Instant};

use crate::{
    MapId,
    object::mcache::{
        Class, Mcache,
        evict::drop_range,
        fault_age::{self, MAP_PAGES_MIN, MAPS_AT_A_TIME, Supply, TUNE_EVERY, WORKERS_MAX},
        map::MapShared,
        pages::PAGE_BYTES,
    },
    options::MpoolOptions,
};

/// Where the rounds are, and how urgent they are.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Place of the next map.
    hand: Option<MapId>,
    tuned: Option<Instant>,
    urgency: u32,
    workers: u32,
}

impl Rounds {
    pub(super) fn urgency(&self) -> u32 {
        self.urgency
    }

    /// Decides urgency anew, if it is time.
    pub(super) fn tune(&mut self, now: Instant, supply: Supply, options: &MpoolOptions) {
        if self.tuned.is_some_and(|at| now.duration_since(at) < TUNE_EVERY) {
            return;
        }
        self.tuned = Some(now);
        self.urgency = fault_age::urgency(supply, options.mempct, self.urgency);
        self.workers = if self.urgency == 0 { 0 } else { (self.workers + 1).min(WORKERS_MAX) };
    }

    /// The maps that the workers get to within `tick`; at most one round. Returns the objects
    /// dropped.
    pub(super) fn run(&mut self, mcache: &Mcache, tick: Duration, clock: Clock) -> u64 {
        if self.urgency == 0 {
            return 0;
        }
        let turns = tick.as_micros() / fault_age::WORKER_REST.as_micros();
        let turns = u32::try_from(turns).unwrap_or(u32::MAX).max(1).saturating_mul(self.workers);
        let ttl_us = fault_age::ttl_us(clock.ttl_us, self.urgency);
        let (mut dropped, mut ends) = (0, 0);
        for _ in 0..turns {
            // A turn is a few maps that are worth a visit; those that are not cost it nothing.
            let mut visits = 0;
            while visits < MAPS_AT_A_TIME {
                let Some(map) = mcache.map_after(&mut self.hand) else {
                    ends += 1;
                    if ends == 2 {
                        return dropped;
                    }
                    continue;
                };
                if map.class() != Class::Pinned && resident_pages(&map) >= MAP_PAGES_MIN {
                    visits += 1;
                    dropped += visit(mcache, &map, clock.now_us, ttl_us);
                }
            }
        }
        dropped
    }
}

/// The time, on the clock that faults are stamped by, and how long objects may stay at leisure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now_us: u64,
    pub(super) ttl_us: u64,
}

fn resident_pages(map: &MapShared) -> u64 {
    map.objects.iter().map(|object| u64::from(object.states.resident())).sum()
}

/// Drops what has had its time until fewer pages than are worth it are left.
fn visit(mcache: &Mcache, map: &MapShared, now_us: u64, ttl_us: u64) -> u64 {
    let mut left = resident_pages(map);
    let mut dropped = 0;
    for object in &map.objects {
        if left < MAP_PAGES_MIN {
            break;
        }
        if object.states.resident() == 0 {
            continue;
        }
        let last_us = object.faulted_us();
        let expired = |class| fault_age::is_expired(class, last_us, now_us, ttl_us);
        let mut bytes = 0;
        // Parts with a class of their own have its time.
        for (pages, class) in object.touched_pieces() {
            if expired(class) {
                object.set_faulted_us(fault_age::DROPPED);
                bytes += drop_range(object, pages);
            }
        }
        mcache.metrics.evicted_bytes.add(bytes);
        left = left.saturating_sub(bytes / PAGE_BYTES);
        dropped += u64::from(bytes > 0);
    }
    dropped
}
