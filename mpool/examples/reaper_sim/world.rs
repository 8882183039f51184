//! Where records lie: in pages of objects, which flushes add and a compaction replaces.
//!
//! It goes its way by the trace alone, so it is the same for every policy.

use std::ops::Range;

use crate::{PAGE_BYTES, RECORD_BYTES, at};

/// Records of unflushed writes, a part of all: 64 MiB of 8 M records.
const UNFLUSHED_PART: u32 = 138;
/// Objects at the start: 32 MiB each of 8 M records.
pub(crate) const OBJECTS: u32 = 288;

pub(crate) struct World {
    page_of: Vec<u32>,
    /// Written and not flushed: read from there, without a policy.
    unflushed: Vec<bool>,
    fresh: Vec<u32>,
    object_pages: u32,
    next_page: u32,
}

impl World {
    pub(crate) fn new(records: u32) -> Self {
        let page_of: Vec<u32> = (0..records).map(|record| page(0, record)).collect();
        let pages = page(0, records) + 1;
        let object_pages = pages.div_ceil(OBJECTS);
        Self {
            page_of,
            unflushed: vec![false; at(records)],
            fresh: Vec::new(),
            object_pages,
            next_page: object_pages * OBJECTS,
        }
    }

    /// Pages that there can ever be after `writes`, and a compaction or none.
    pub(crate) fn pages_max(&self, writes: u32) -> u32 {
        // A flush begins an object, so each wastes less than one.
        let flushes = writes / self.unflushed_max() + 2;
        self.next_page * 2 + page(0, writes) + (flushes + 2) * self.object_pages
    }

    pub(crate) fn object_pages(&self) -> u32 {
        self.object_pages
    }

    pub(crate) fn page_of(&self, record: u32) -> u32 {
        self.page_of[at(record)]
    }

    pub(crate) fn is_unflushed(&self, record: u32) -> bool {
        self.unflushed[at(record)]
    }

    /// A new version of `record`. A full lot of them is flushed into new pages.
    pub(crate) fn write(&mut self, record: u32) {
        if !std::mem::replace(&mut self.unflushed[at(record)], true) {
            self.fresh.push(record);
        }
        if self.fresh.len() >= at(self.unflushed_max()) {
            let mut flushed = std::mem::take(&mut self.fresh);
            flushed.sort_unstable();
            for record in &flushed {
                self.unflushed[at(*record)] = false;
            }
            self.place(&flushed);
        }
    }

    /// Every other object is read and written anew. Returns the pages that died.
    pub(crate) fn compact(&mut self) -> Vec<Range<u32>> {
        let pages = self.object_pages;
        let dies = |object: u32| object.is_multiple_of(2);
        let records = u32::try_from(self.page_of.len()).expect("records are counted in 32 bits");
        let moved: Vec<u32> =
            (0..records).filter(|record| dies(self.page_of(*record) / pages)).collect();
        let objects = self.next_page / pages;
        self.place(&moved);
        (0..objects).filter(|o| dies(*o)).map(|o| o * pages..(o + 1) * pages).collect()
    }

    fn unflushed_max(&self) -> u32 {
        let records = u32::try_from(self.page_of.len()).expect("records are counted in 32 bits");
        (records / UNFLUSHED_PART).max(1)
    }

    fn place(&mut self, records: &[u32]) {
        for (n, record) in (0..).zip(records) {
            self.page_of[at(*record)] = page(self.next_page, n);
        }
        let len = u32::try_from(records.len()).expect("records are counted in 32 bits");
        self.next_page = (page(self.next_page, len) + 1).next_multiple_of(self.object_pages);
    }
}

/// The page of the `n`-th record from page `first` on. One that crosses into the next page counts
/// where it begins.
fn page(first: u32, n: u32) -> u32 {
    first + u32::try_from(u64::from(n) * RECORD_BYTES / PAGE_BYTES).expect("under 16 TiB")
}
