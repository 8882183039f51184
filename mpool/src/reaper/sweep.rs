//! The clock hand: finds the pages that `victim` has described, takes samples, ages counts.
//!
//! All walks go over the objects in order of id, a bounded number of pages at a time, and go on
//! where they stopped. An object that comes or goes meanwhile shifts the walk by itself; nothing
//! depends on visiting each page exactly once.

use std::sync::Arc;

use super::victim::{Histogram, Step};
use crate::{
    MblockId,
    mcache::{Class, Mcache, evict::Batch, object::Object},
};

/// Objects taken from the registry at a time.
const OBJECTS_PER_LOOK: usize = 32;
/// Pages that one pass looks at, at most: a byte each, so a few milliseconds.
const SCAN_PAGES_MAX: u64 = 1 << 20;
/// Pages that a histogram is made of, at most.
const SAMPLE_PAGES: u64 = 1 << 16;
/// Pages evicted by one system call.
const BATCH_PAGES: usize = 512;

/// A place in the walk: page `page` of the first object after `after`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hand {
    after: Option<MblockId>,
    page: u32,
}

impl Hand {
    /// The next objects; at the end of the round none, and the hand is back at the start.
    fn look(&mut self, mcache: &Mcache) -> Vec<Arc<Object>> {
        let objects = mcache.objects_after(self.after, OBJECTS_PER_LOOK);
        if objects.is_empty() {
            *self = Self::default();
        }
        objects
    }

    fn pass(&mut self, object: &Object) {
        *self = Self { after: Some(object.id), page: 0 };
    }
}

/// The hands of all walks.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    evict: [Hand; Class::COUNT],
    sample: Hand,
    age: Hand,
    resync: Hand,
    pub(super) scanned_pages: u64,
}

impl Sweep {
    /// Evicts what `step` says; returns the bytes that went, which may be less.
    pub(super) fn evict(&mut self, mcache: &Mcache, step: Step) -> u64 {
        let hand = &mut self.evict[step.class.index()];
        let (mut freed, mut scanned, mut rounds) = (0, 0, 0);
        while freed < step.bytes && scanned < SCAN_PAGES_MAX {
            let objects = hand.look(mcache);
            if objects.is_empty() {
                rounds += 1;
                // The first end may come after half a round.
                if rounds == 2 {
                    break;
                }
            }
            for object in &objects {
                if object.class() == step.class && object.states.resident() > 0 {
                    freed +=
                        sweep_object(mcache, object, hand, (step.threshold, step.bytes - freed));
                    scanned += u64::from(object.states.len());
                }
                if freed >= step.bytes {
                    break;
                }
                hand.pass(object);
            }
        }
        self.scanned_pages += scanned;
        freed
    }

    /// Frequencies of resident pages by class, from a piece of the walk.
    pub(super) fn sample(&mut self, mcache: &Mcache) -> [Histogram; Class::COUNT] {
        let mut histograms = [Histogram::default(); Class::COUNT];
        let (mut scanned, mut rounds) = (0, 0);
        while scanned < SAMPLE_PAGES && rounds < 2 {
            let objects = self.sample.look(mcache);
            rounds += u32::from(objects.is_empty());
            for object in &objects {
                let histogram = &mut histograms[object.class().index()];
                for page in 0..object.states.len() {
                    let state = object.states.state(page);
                    if state.is_resident() {
                        histogram[usize::from(state.frequency())] += 1;
                    }
                }
                scanned += u64::from(object.states.len()).max(1);
                self.sample.pass(object);
            }
        }
        self.scanned_pages += scanned;
        histograms
    }

    /// Halves the counts of the next `pages` pages.
    pub(super) fn age(&mut self, mcache: &Mcache, pages: u64) {
        let (mut aged, mut rounds) = (0, 0);
        while aged < pages && rounds < 2 {
            let objects = self.age.look(mcache);
            rounds += u32::from(objects.is_empty());
            for object in &objects {
                if aged >= pages {
                    return;
                }
                (0..object.states.len()).for_each(|page| object.states.age(page));
                aged += u64::from(object.states.len()).max(1);
                self.age.pass(object);
            }
        }
    }

    /// Compares the next `objects` objects with the page cache.
    pub(super) fn resync(&mut self, mcache: &Mcache, objects: usize) {
        let next = mcache.objects_after(self.resync.after, objects);
        if next.is_empty() {
            self.resync = Hand::default();
        }
        for object in &next {
            mcache.resync(object);
            self.resync.pass(object);
        }
    }
}

/// Evicts pages of one object counted up to `threshold`, until `bytes` are freed. Leaves the hand
/// within the object in that case.
fn sweep_object(
    mcache: &Mcache,
    object: &Object,
    hand: &mut Hand,
    (threshold, bytes): (u8, u64),
) -> u64 {
    let mut freed = 0;
    let mut batch = Batch::with_capacity(BATCH_PAGES);
    let first = std::mem::take(&mut hand.page).min(object.states.len());
    for page in first..object.states.len() {
        let state = object.states.state(page);
        if state.is_resident() && state.frequency() <= threshold {
            batch.add(object, page);
        }
        let wanted = (bytes - freed).div_ceil(crate::mcache::pages::PAGE_BYTES);
        if batch.pages() as u64 >= wanted || batch.pages() == BATCH_PAGES {
            freed += mcache.evict(std::mem::replace(&mut batch, Batch::with_capacity(BATCH_PAGES)));
        }
        if freed >= bytes {
            hand.page = page + 1;
            return freed;
        }
    }
    freed + mcache.evict(batch)
}
