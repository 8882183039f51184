//! The policies that are compared: textbook ones, and the value cache's own as the cache drives it.

use crate::policy::Policy;
use crate::sketch::Sketch;
use crate::{RECORDS, at};
use std::collections::VecDeque;

const NONE: u32 = u32::MAX;

/// A cache of keys.
pub(crate) trait Cache {
    /// As printed.
    fn name(&self) -> String;
    /// True on a hit; on a miss the key may enter.
    fn access(&mut self, key: u32) -> bool;
}

/// One of each, with room for `entries`.
pub(crate) fn caches(order: &[u32], entries: usize) -> Vec<Box<dyn Cache>> {
    vec![
        Box::new(Ideal::new(order, entries)),
        Box::new(Lru { list: List::new(), entries, promote: true }),
        Box::new(Lru { list: List::new(), entries, promote: false }),
        Box::new(S3::new(entries)),
        Box::new(TinyLfu::new(entries)),
        Box::new(Built::new(entries)),
    ]
}

fn mix(key: u32) -> u64 {
    let mut z = u64::from(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Ideal(Vec<bool>);

impl Ideal {
    fn new(order: &[u32], entries: usize) -> Self {
        let mut held = vec![false; at(RECORDS)];
        order.iter().take(entries).for_each(|&key| held[at(key)] = true);
        Self(held)
    }
}

impl Cache for Ideal {
    fn name(&self) -> String {
        "ideal LFU".into()
    }

    fn access(&mut self, key: u32) -> bool {
        self.0[at(key)]
    }
}

/// A doubly linked list over keys, as an LRU stack needs it.
struct List {
    next: Vec<u32>,
    prev: Vec<u32>,
    len: usize,
}

impl List {
    fn new() -> Self {
        let end = at(RECORDS) + 1;
        let mut list = Self { next: vec![NONE; end], prev: vec![NONE; end], len: 0 };
        list.next[at(RECORDS)] = RECORDS;
        list.prev[at(RECORDS)] = RECORDS;
        list
    }

    fn holds(&self, key: u32) -> bool {
        self.next[at(key)] != NONE
    }

    fn push(&mut self, key: u32) {
        let first = self.next[at(RECORDS)];
        self.next[at(key)] = first;
        self.prev[at(key)] = RECORDS;
        self.prev[at(first)] = key;
        self.next[at(RECORDS)] = key;
        self.len += 1;
    }

    fn unlink(&mut self, key: u32) {
        let (next, prev) = (self.next[at(key)], self.prev[at(key)]);
        self.next[at(prev)] = next;
        self.prev[at(next)] = prev;
        self.next[at(key)] = NONE;
        self.len -= 1;
    }

    fn last(&self) -> u32 {
        self.prev[at(RECORDS)]
    }

    fn pop(&mut self) -> u32 {
        let last = self.last();
        self.unlink(last);
        last
    }
}

struct Lru {
    list: List,
    entries: usize,
    /// FIFO if not.
    promote: bool,
}

impl Cache for Lru {
    fn name(&self) -> String {
        if self.promote { "LRU".into() } else { "FIFO".into() }
    }

    fn access(&mut self, key: u32) -> bool {
        let hit = self.list.holds(key);
        if hit && self.promote {
            self.list.unlink(key);
            self.list.push(key);
        }
        if !hit {
            if self.list.len == self.entries {
                self.list.pop();
            }
            self.list.push(key);
        }
        hit
    }
}

/// S3-FIFO: a tenth small, the rest main, ghosts as many as main.
struct S3 {
    count: Vec<u8>,
    place: Vec<u8>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: VecDeque<u32>,
    entries: usize,
}

impl S3 {
    fn new(entries: usize) -> Self {
        let (count, place) = (vec![0; at(RECORDS)], vec![0; at(RECORDS)]);
        let empty = VecDeque::new;
        Self { count, place, small: empty(), main: empty(), ghost: empty(), entries }
    }

    fn evict(&mut self) {
        while self.small.len() + self.main.len() >= self.entries {
            if self.small.len() * 10 >= self.entries || self.main.is_empty() {
                let key = self.small.pop_front().expect("not empty");
                if self.count[at(key)] > 1 {
                    self.admit(key);
                } else {
                    self.expel(key);
                }
            } else {
                let key = self.main.pop_front().expect("not empty");
                if self.count[at(key)] > 0 {
                    self.count[at(key)] -= 1;
                    self.main.push_back(key);
                } else {
                    self.place[at(key)] = 0;
                }
            }
        }
    }

    fn admit(&mut self, key: u32) {
        self.count[at(key)] = 0;
        self.place[at(key)] = 1;
        self.main.push_back(key);
    }

    fn expel(&mut self, key: u32) {
        self.place[at(key)] = 2;
        self.ghost.push_back(key);
        if self.ghost.len() > self.entries * 9 / 10 {
            let old = self.ghost.pop_front().expect("not empty");
            if self.place[at(old)] == 2 {
                self.place[at(old)] = 0;
            }
        }
    }
}

impl Cache for S3 {
    fn name(&self) -> String {
        "S3-FIFO".into()
    }

    fn access(&mut self, key: u32) -> bool {
        if self.place[at(key)] == 1 {
            self.count[at(key)] = (self.count[at(key)] + 1).min(3);
            return true;
        }
        let ghost = self.place[at(key)] == 2;
        self.evict();
        if ghost {
            self.admit(key);
        } else {
            self.count[at(key)] = 0;
            self.place[at(key)] = 1;
            self.small.push_back(key);
        }
        false
    }
}

/// W-TinyLFU: window 1 %, main segmented 20/80, sketch of 16 counters and a history of 10 accesses
/// an entry.
struct TinyLfu {
    window: List,
    probation: List,
    protected: List,
    sketch: Sketch,
    entries: usize,
    accesses: usize,
}

impl TinyLfu {
    fn new(entries: usize) -> Self {
        let sketch = Sketch::new(entries * 16);
        let (window, probation, protected) = (List::new(), List::new(), List::new());
        Self { window, probation, protected, sketch, entries, accesses: 0 }
    }

    fn main_is_full(&self) -> bool {
        self.probation.len + self.protected.len >= self.entries * 99 / 100
    }

    fn enter(&mut self, key: u32) {
        self.window.push(key);
        if self.window.len <= self.entries / 100 {
            return;
        }
        let candidate = self.window.pop();
        if !self.main_is_full() {
            return self.probation.push(candidate);
        }
        let victim = self.probation.last();
        if self.sketch.estimate(mix(candidate)) > self.sketch.estimate(mix(victim)) {
            self.probation.pop();
            self.probation.push(candidate);
        }
    }
}

impl Cache for TinyLfu {
    fn name(&self) -> String {
        "W-TinyLFU".into()
    }

    fn access(&mut self, key: u32) -> bool {
        self.sketch.count(mix(key));
        self.accesses += 1;
        if self.accesses == self.entries * 10 {
            self.accesses = 0;
            self.sketch.halve();
        }
        if self.window.holds(key) {
            self.window.unlink(key);
            self.window.push(key);
            return true;
        }
        if self.protected.holds(key) {
            self.protected.unlink(key);
            self.protected.push(key);
            return true;
        }
        if self.probation.holds(key) {
            self.probation.unlink(key);
            self.protected.push(key);
            if self.protected.len > self.entries * 79 / 100 {
                let demoted = self.protected.pop();
                self.probation.push(demoted);
            }
            return true;
        }
        self.enter(key);
        false
    }
}

/// The value cache's policy, in 64 shards, as the cache drives it.
pub(crate) struct Built {
    shards: Vec<(Policy, Vec<u32>)>,
    slot: Vec<u32>,
    entries: usize,
}

impl Built {
    pub(crate) fn new(entries: usize) -> Self {
        let shards = (0..64).map(|_| (Policy::default(), Vec::new())).collect();
        Self { shards, slot: vec![NONE; at(RECORDS)], entries: entries / 64 }
    }
}

impl Cache for Built {
    fn name(&self) -> String {
        "value cache".into()
    }

    fn access(&mut self, key: u32) -> bool {
        let hash = mix(key);
        let (policy, keys) =
            &mut self.shards[usize::from(u8::try_from(hash >> 58).expect("6 bits"))];
        let slot = self.slot[at(key)];
        if slot != NONE {
            policy.hit(slot);
            return true;
        }
        let count = policy.missed(hash);
        if keys.len() < self.entries {
            let slot = u32::try_from(keys.len()).expect("small");
            keys.push(key);
            self.slot[at(key)] = slot;
            policy.occupy(slot, hash);
            return false;
        }
        let victim = policy.victim().expect("not empty");
        if count > victim.count {
            let out = std::mem::replace(&mut keys[at(victim.slot)], key);
            self.slot[at(out)] = NONE;
            policy.vacate(victim.slot, mix(out));
            self.slot[at(key)] = victim.slot;
            policy.occupy(victim.slot, hash);
        }
        false
    }
}
