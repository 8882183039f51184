//! The policy `frequency`, by the engine's own rules: pages by a clock over counts, records by
//! sampled counts, admission, and the split between them. Each of its parts can be left out.

use std::ops::Range;

use mpool::Class;

use crate::{
    Memory, PAGE_BYTES, RECORD_BYTES, at,
    ghost::Ghosts as RecordGhosts,
    pages::{Leave, PageStates, Take},
    policy::Policy,
    split::{self, Ghosts},
    trace::mix,
    victim::{self, Histogram, Stock, Want},
};

/// Requests between two looks of the reaper.
const TICK_REQUESTS: u64 = 64;
/// Requests between two looks at the split: a second of 50,000 of them, a fortieth of the data.
const SPLIT_REQUESTS: u64 = 1250;
/// As in the engine: free parts where eviction starts and ends, requests for each resident page
/// between two halvings, looks between two steps down of the threshold, and its bound.
const LOW_PCT: u64 = 3;
const HIGH_PCT: u64 = 5;
const AGE_ACCESSES: u64 = 10;
const ADMIT_RELAX_TICKS: u64 = 64;
const ADMIT_AT_MAX: u8 = 12;
/// Pages looked at for a histogram.
const SAMPLE_PAGES: u32 = 1 << 11;
/// What a record takes beside its bytes: rounding, reference count, slot, buckets, counters.
const RECORD_OVERHEAD: u64 = 165;
const SHARDS: usize = 64;
const NONE: u32 = u32::MAX;

/// Which parts are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Always,
    ByCount,
}

/// Mapped pages by count.
pub(crate) struct PageClock {
    states: PageStates,
    admission: Admission,
    target_pages: u64,
    pages: u32,
    admit_at: u8,
    hand: u32,
    age_hand: u32,
    age_due: u64,
    ticks: u64,
    requests: u64,
    ghost_hits: u64,
    ghost_pages: u64,
    fills: u64,
}

impl PageClock {
    pub(crate) fn new(pages: u32, target_pages: u64, admission: Admission) -> Self {
        Self {
            states: PageStates::new(pages),
            admission,
            target_pages,
            pages,
            admit_at: 0,
            hand: 0,
            age_hand: 0,
            age_due: 0,
            ticks: 0,
            requests: 0,
            ghost_hits: 0,
            ghost_pages: 0,
            fills: 0,
        }
    }

    fn resident(&self) -> u64 {
        u64::from(self.states.resident())
    }

    fn line(&self, free_pct: u64) -> u64 {
        self.target_pages * (100 - free_pct) / 100
    }

    fn step(&mut self) {
        self.requests += 1;
        if self.requests.is_multiple_of(TICK_REQUESTS) {
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let a_page = self.resident().max(1024) * AGE_ACCESSES;
        let due = self.age_due / a_page;
        self.age_due -= due * a_page;
        for _ in 0..due {
            self.age_hand = (self.age_hand + 1) % self.pages;
            self.states.age(self.age_hand);
        }
        if self.resident() >= self.line(LOW_PCT) {
            self.evict();
        } else if self.resident() < self.line(2 * HIGH_PCT - LOW_PCT) {
            self.admit_at = u8::from(self.admission == Admission::ByCount);
        } else if self.ticks.is_multiple_of(ADMIT_RELAX_TICKS) {
            self.admit_at = self.admit_at.saturating_sub(1).max(1);
        }
    }

    fn evict(&mut self) {
        let mut stock = Stock::default();
        let mut absent = Histogram::default();
        let stride = (self.pages / SAMPLE_PAGES).max(1);
        for page in (self.hand % stride..self.pages).step_by(at(stride)) {
            let state = self.states.state(page);
            let histogram =
                if state.is_resident() { &mut stock.histograms[0] } else { &mut absent };
            histogram[usize::from(state.frequency())] += 1;
        }
        stock.class_bytes[Class::Cold.index()] = self.resident() * PAGE_BYTES;
        let excess = self.resident().saturating_sub(self.line(HIGH_PCT));
        let want = Want { bytes: excess * PAGE_BYTES, ..Want::default() };
        for step in victim::choose(&stock, want) {
            let mut left = step.bytes / PAGE_BYTES;
            for _ in 0..2 * self.pages {
                if left == 0 {
                    break;
                }
                self.hand = (self.hand + 1) % self.pages;
                let state = self.states.state(self.hand);
                if state.is_resident() && state.frequency() <= step.threshold {
                    drop(self.states.own(self.hand, Take::Resident));
                    left -= 1;
                }
            }
            self.admit_at = step.threshold.clamp(1, ADMIT_AT_MAX);
        }
        let ghosts: u64 = absent[usize::from(self.admit_at)..].iter().sum();
        self.ghost_pages = ghosts * u64::from(stride);
    }

    /// Asks for a page: true if it is in memory. It enters if it deserves to and there is room.
    fn touch(&mut self, page: u32) -> bool {
        self.age_due += u64::from(self.pages);
        let before = self.states.touch(page);
        if before.is_resident() {
            return true;
        }
        if self.admission == Admission::Always || before.frequency() >= self.admit_at {
            self.ghost_hits += 1;
            if self.resident() < self.target_pages
                && let Some(owner) = self.states.own(page, Take::Absent)
            {
                owner.release(Leave::Resident);
                self.fills += 1;
            }
        }
        false
    }
}

impl Memory for PageClock {
    fn read(&mut self, _record: u32, page: u32) -> bool {
        self.step();
        self.touch(page)
    }

    fn dead(&mut self, pages: Range<u32>) {
        pages.for_each(|page| drop(self.states.own(page, Take::Resident)));
    }

    fn note(&self) -> String {
        format!("{:.2}", self.fills as f64 / self.requests as f64)
    }
}

/// One shard of the value cache: slots and who has them.
#[derive(Default)]
struct Shard {
    policy: Policy,
    records: Vec<u32>,
    free: Vec<u32>,
    ghosts: RecordGhosts,
}

/// The value cache.
pub(crate) struct RecordCache {
    shards: Vec<Shard>,
    slot_of: Vec<u32>,
    target: usize,
    admission: Admission,
    requests: u64,
    inserts: u64,
}

impl RecordCache {
    pub(crate) fn new(records: u32, bytes: u64, admission: Admission) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let slot_of = vec![NONE; at(records)];
        let mut cache = Self { shards, slot_of, target: 0, admission, requests: 0, inserts: 0 };
        cache.set_target(bytes);
        cache
    }

    fn set_target(&mut self, bytes: u64) {
        let entries = bytes / (RECORD_BYTES + RECORD_OVERHEAD);
        self.target = usize::try_from(entries).expect("fits memory") / SHARDS;
        for shard in &mut self.shards {
            while shard.len() > self.target {
                shard.evict(&mut self.slot_of);
            }
        }
    }

    fn hit(&mut self, record: u32) -> bool {
        let slot = self.slot_of[at(record)];
        if slot != NONE {
            self.shards[shard_of(record)].policy.hit(slot);
        }
        slot != NONE
    }

    /// A record that was read from elsewhere.
    fn offer(&mut self, record: u32) {
        let shard = &mut self.shards[shard_of(record)];
        let hash = mix(u64::from(record));
        shard.ghosts.missed(tag(record));
        let count = shard.policy.missed(hash);
        if self.target == 0 {
            return;
        }
        if shard.len() >= self.target {
            let Some(victim) = shard.policy.victim() else { return };
            if self.admission == Admission::ByCount && count <= victim.count {
                return;
            }
            shard.remove(victim.slot, &mut self.slot_of);
        }
        let slot = shard.free.pop().unwrap_or_else(|| {
            shard.records.push(NONE);
            u32::try_from(shard.records.len() - 1).expect("slots are u32")
        });
        shard.records[at(slot)] = record;
        shard.policy.occupy(slot, hash);
        self.slot_of[at(record)] = slot;
        self.inserts += 1;
    }

    fn ghosts(&self) -> (u64, u64) {
        let sum = |of: fn(&Shard) -> u64| self.shards.iter().map(of).sum::<u64>();
        let names = sum(|shard| shard.ghosts.len() as u64);
        (sum(|shard| shard.ghosts.hits()), names * (RECORD_BYTES + RECORD_OVERHEAD))
    }
}

impl Shard {
    fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    fn evict(&mut self, slot_of: &mut [u32]) {
        let victim = self.policy.victim().expect("the shard is over its target");
        self.remove(victim.slot, slot_of);
    }

    fn remove(&mut self, slot: u32, slot_of: &mut [u32]) {
        let record = std::mem::replace(&mut self.records[at(slot)], NONE);
        self.ghosts.evicted(tag(record), self.len());
        self.policy.vacate(slot, mix(u64::from(record)));
        self.free.push(slot);
        slot_of[at(record)] = NONE;
    }
}

fn shard_of(record: u32) -> usize {
    usize::from(u8::try_from(mix(u64::from(record)) >> 58).expect("6 bits"))
}

fn tag(record: u32) -> u32 {
    mix(u64::from(record)) as u32
}

impl Memory for RecordCache {
    fn read(&mut self, record: u32, _page: u32) -> bool {
        self.requests += 1;
        let hit = self.hit(record);
        if !hit {
            self.offer(record);
        }
        hit
    }

    fn dead(&mut self, _pages: Range<u32>) {}

    fn note(&self) -> String {
        format!("{:.2}", self.inserts as f64 / self.requests as f64)
    }
}

/// Both, as the engine has them.
pub(crate) struct Engine {
    pages: PageClock,
    records: RecordCache,
    bytes: u64,
    permille: u64,
    moves: bool,
    requests: u64,
    seen: (u64, u64),
}

impl Engine {
    /// Where the split stays at `permille`, or starts there and moves.
    pub(crate) fn new(pages: u32, records: u32, bytes: u64, split: (u64, bool)) -> Self {
        let mut engine = Self {
            pages: PageClock::new(pages, 0, Admission::ByCount),
            records: RecordCache::new(records, 0, Admission::ByCount),
            bytes,
            permille: split.0,
            moves: split.1,
            requests: 0,
            seen: (0, 0),
        };
        engine.share();
        engine
    }

    fn share(&mut self) {
        let pages = self.bytes * self.permille / 1000;
        self.pages.target_pages = pages / PAGE_BYTES;
        self.records.set_target(self.bytes - pages);
    }

    fn look(&mut self) {
        let hits = (self.pages.ghost_hits, self.records.ghosts().0);
        let pages =
            Ghosts { hits: hits.0 - self.seen.0, bytes: self.pages.ghost_pages * PAGE_BYTES };
        let caches = Ghosts { hits: hits.1 - self.seen.1, bytes: self.records.ghosts().1 };
        if pages.hits + caches.hits < split::HITS_MIN {
            return;
        }
        self.seen = hits;
        let before = self.permille;
        self.permille = split::shift(before, pages, caches);
        if self.permille != before {
            self.share();
        }
    }
}

impl Memory for Engine {
    fn read(&mut self, record: u32, page: u32) -> bool {
        self.requests += 1;
        self.pages.step();
        if self.moves && self.requests.is_multiple_of(SPLIT_REQUESTS) {
            self.look();
        }
        if self.records.hit(record) {
            return true;
        }
        let hit = self.pages.touch(page);
        self.records.offer(record);
        hit
    }

    fn dead(&mut self, pages: Range<u32>) {
        self.pages.dead(pages);
    }

    fn note(&self) -> String {
        if self.moves { format!("{}", self.permille) } else { String::new() }
    }
}
