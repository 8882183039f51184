//! Policies that know objects only: by the time since their last fault, and by how often they are
//! asked for.

use std::{collections::VecDeque, ops::Range};

use mpool::Class;

use crate::{
    Memory, PAGE_BYTES, at,
    fault_age::{self, Supply},
};

/// Objects in one map.
const MAP_OBJECTS: usize = 8;
/// Microseconds between two requests where there are 8 M records; with fewer, time passes faster,
/// so that each object sees as many requests in its time as it would there.
const REQUEST_US: u64 = 20;
const MPOOL_TICK_US: u64 = 10_000;
/// mpool's defaults.
const MEMPCT: u8 = 87;
const TTL_US: u64 = 10_000_000;

/// Which pages are in memory, by object.
struct Pages {
    resident: Vec<bool>,
    of_object: Vec<u64>,
    all: u64,
    per_object: u32,
}

impl Pages {
    fn new(pages: u32, per_object: u32) -> Self {
        let objects = at(pages.div_ceil(per_object));
        Self {
            resident: vec![false; objects * at(per_object)],
            of_object: vec![0; objects],
            all: 0,
            per_object,
        }
    }

    fn object(&self, page: u32) -> usize {
        at(page / self.per_object)
    }

    fn set(&mut self, page: u32, resident: bool) {
        if std::mem::replace(&mut self.resident[at(page)], resident) != resident {
            let object = self.object(page);
            let step = |n: &mut u64| *n = if resident { *n + 1 } else { *n - 1 };
            step(&mut self.of_object[object]);
            step(&mut self.all);
        }
    }

    fn drop_object(&mut self, object: usize) {
        let first = object * at(self.per_object);
        self.resident[first..first + at(self.per_object)].fill(false);
        self.all -= std::mem::take(&mut self.of_object[object]);
    }
}

/// The policy `mpool`, by the engine's own rules.
pub(crate) struct FaultAge {
    pages: Pages,
    budget_pages: u64,
    faulted_us: Vec<u64>,
    request_us: u64,
    now_us: u64,
    ticked_us: u64,
    tuned_us: u64,
    urgency: u32,
    hand: usize,
    /// In order of arrival: the kernel's reclaim, where a tick comes too late.
    order: VecDeque<u32>,
}

impl FaultAge {
    pub(crate) fn new(pages: u32, object_pages: u32, budget_pages: u64, records: u32) -> Self {
        let pages = Pages::new(pages, object_pages);
        Self {
            faulted_us: vec![0; pages.of_object.len()],
            pages,
            budget_pages,
            request_us: (REQUEST_US * 8_000_000 / u64::from(records)).max(1),
            now_us: 0,
            ticked_us: 0,
            tuned_us: 0,
            urgency: 0,
            hand: 0,
            order: VecDeque::new(),
        }
    }

    fn tick(&mut self) {
        let tune_us = u64::try_from(fault_age::TUNE_EVERY.as_micros()).expect("a third of 1 s");
        if self.now_us - self.tuned_us >= tune_us {
            self.tuned_us = self.now_us;
            let supply = Supply {
                free_bytes: self.budget_pages.saturating_sub(self.pages.all) * PAGE_BYTES,
                tracked_bytes: self.pages.all * PAGE_BYTES,
            };
            self.urgency = fault_age::urgency(supply, MEMPCT, self.urgency);
        }
        if self.urgency == 0 {
            return;
        }
        // A tick of the engine gets round all of so few maps.
        let ttl_us = fault_age::ttl_us(TTL_US, self.urgency);
        let maps = self.faulted_us.len().div_ceil(MAP_OBJECTS);
        for _ in 0..maps {
            self.hand = (self.hand + 1) % maps;
            let first = self.hand * MAP_OBJECTS;
            self.visit(first..(first + MAP_OBJECTS).min(self.faulted_us.len()), ttl_us);
        }
    }

    fn visit(&mut self, objects: Range<usize>, ttl_us: u64) {
        let mut left: u64 = self.pages.of_object[objects.clone()].iter().sum();
        for object in objects {
            if left < fault_age::MAP_PAGES_MIN {
                return;
            }
            let last_us = self.faulted_us[object];
            if fault_age::is_expired(Class::Cold, last_us, self.now_us, ttl_us) {
                left -= self.pages.of_object[object];
                self.pages.drop_object(object);
                self.faulted_us[object] = fault_age::DROPPED;
            }
        }
    }
}

impl Memory for FaultAge {
    fn read(&mut self, _record: u32, page: u32) -> bool {
        self.now_us += self.request_us;
        if self.now_us - self.ticked_us >= MPOOL_TICK_US {
            self.ticked_us = self.now_us;
            self.tick();
        }
        if self.pages.resident[at(page)] {
            return true;
        }
        while self.pages.all >= self.budget_pages {
            let Some(oldest) = self.order.pop_front() else { break };
            self.pages.set(oldest, false);
        }
        // Pages that were dropped and came again stand in it twice; that only hastens them.
        self.order.push_back(page);
        if self.order.len() as u64 > 4 * self.budget_pages {
            self.order.retain(|page| self.pages.resident[at(*page)]);
        }
        self.pages.set(page, true);
        let last = &mut self.faulted_us[at(page / self.pages.per_object)];
        if fault_age::renews(*last, self.now_us) {
            *last = self.now_us;
        }
        false
    }

    fn dead(&mut self, pages: Range<u32>) {
        pages.for_each(|page| self.pages.set(page, false));
    }
}

/// Whole objects by how often they were asked for of late: the least so goes.
pub(crate) struct ObjectCounts {
    pages: Pages,
    budget_pages: u64,
    counts: Vec<u64>,
    requests: u64,
}

impl ObjectCounts {
    pub(crate) fn new(pages: u32, object_pages: u32, budget_pages: u64) -> Self {
        let pages = Pages::new(pages, object_pages);
        Self { counts: vec![0; pages.of_object.len()], pages, budget_pages, requests: 0 }
    }
}

impl Memory for ObjectCounts {
    fn read(&mut self, _record: u32, page: u32) -> bool {
        let object = self.pages.object(page);
        self.counts[object] += 1;
        self.requests += 1;
        if self.requests.is_multiple_of(10 * self.budget_pages) {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        if self.pages.resident[at(page)] {
            return true;
        }
        while self.pages.all >= self.budget_pages {
            let held = (0..self.counts.len()).filter(|o| self.pages.of_object[*o] > 0);
            let least = held.min_by_key(|o| self.counts[*o]).expect("memory is full");
            self.pages.drop_object(least);
        }
        self.pages.set(page, true);
        false
    }

    fn dead(&mut self, pages: Range<u32>) {
        pages.for_each(|page| self.pages.set(page, false));
    }
}
