//! What is compared with: lists of pages or records, and the best fixed set.

use std::ops::Range;

use crate::{Memory, at};

const NONE: u32 = u32::MAX;

/// What a list is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Page,
    Record,
}

impl Unit {
    fn of(self, record: u32, page: u32) -> u32 {
        match self {
            Self::Page => page,
            Self::Record => record,
        }
    }
}

/// First in, first out, or least recently used.
pub(crate) struct List {
    unit: Unit,
    promotes: bool,
    entries: usize,
    len: usize,
    next: Vec<u32>,
    prev: Vec<u32>,
}

impl List {
    pub(crate) fn new(unit: Unit, promotes: bool, ids: u32, entries: usize) -> Self {
        let mut list = Self {
            unit,
            promotes,
            entries,
            len: 0,
            next: vec![NONE; at(ids) + 1],
            prev: vec![NONE; at(ids) + 1],
        };
        list.next[at(ids)] = ids;
        list.prev[at(ids)] = ids;
        list
    }

    fn head(&self) -> u32 {
        u32::try_from(self.next.len() - 1).expect("built from a u32")
    }

    fn holds(&self, id: u32) -> bool {
        self.next[at(id)] != NONE
    }

    fn push(&mut self, id: u32) {
        let head = self.head();
        let first = self.next[at(head)];
        self.next[at(id)] = first;
        self.prev[at(id)] = head;
        self.prev[at(first)] = id;
        self.next[at(head)] = id;
        self.len += 1;
    }

    fn unlink(&mut self, id: u32) {
        let (next, prev) = (self.next[at(id)], self.prev[at(id)]);
        self.next[at(prev)] = next;
        self.prev[at(next)] = prev;
        self.next[at(id)] = NONE;
        self.len -= 1;
    }
}

impl Memory for List {
    fn read(&mut self, record: u32, page: u32) -> bool {
        let id = self.unit.of(record, page);
        let hit = self.holds(id);
        if hit && self.promotes {
            self.unlink(id);
            self.push(id);
        } else if !hit {
            if self.len >= self.entries {
                self.unlink(self.prev[at(self.head())]);
            }
            self.push(id);
        }
        hit
    }

    fn dead(&mut self, pages: Range<u32>) {
        if self.unit == Unit::Page {
            for page in pages {
                if self.holds(page) {
                    self.unlink(page);
                }
            }
        }
    }
}

/// The set that is asked for most in the long run, from the start and for ever.
pub(crate) struct Ideal {
    unit: Unit,
    held: Vec<bool>,
}

impl Ideal {
    /// `counts` says how often each page or record is asked for.
    pub(crate) fn new(unit: Unit, counts: &[u32], entries: usize) -> Self {
        let mut order: Vec<u32> = (0..u32::try_from(counts.len()).expect("ids are u32")).collect();
        order.sort_unstable_by_key(|id| (std::cmp::Reverse(counts[at(*id)]), *id));
        let mut held = vec![false; counts.len()];
        order.iter().take(entries).for_each(|id| held[at(*id)] = true);
        Self { unit, held }
    }
}

impl Memory for Ideal {
    fn read(&mut self, record: u32, page: u32) -> bool {
        self.held.get(at(self.unit.of(record, page))).is_some_and(|held| *held)
    }

    fn dead(&mut self, _pages: Range<u32>) {}
}
