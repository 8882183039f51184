//! The clock hand: finds the pages that `victim` has described, takes samples, ages counts.
//!
//! All walks go over the objects in order of id, a bounded number of pages at a time, and go on
//! where they stopped. An object that comes or goes meanwhile shifts the walk by itself; nothing
//! depends on visiting each page exactly once.

use std::sync::Arc;

use super::victim::{Histogram, Step};
use crate::object::mcache::{Class, Mcache, evict::Batch, object::Object, pages::PAGE_BYTES};

/// Objects taken from the registry at a time.
const OBJECTS_PER_LOOK: usize = 32;
/// Pages that one pass looks at, at most: a byte each, so a few milliseconds.
const SCAN_PAGES_MAX: u64 = 1 << 20;
/// Pages that a histogram is made of, at most.
const SAMPLE_PAGES: u64 = 1 << 16;
/// Pages evicted by one system call.
const BATCH_PAGES: usize = 512;

/// A place in the walk: page `page` of the first object whose key is after `after`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hand {
    after: Option<u64>,
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
        *self = Self { after: Some(object.key()), page: 0 };
    }
}

/// Pages by frequency, of a piece of all there are.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// In memory, by class.
    pub(super) resident: [Histogram; Class::COUNT],
    /// Value pages that are not.
    absent: Histogram,
    /// Pages looked at, of all classes.
    pages: u64,
}

impl Sample {
    /// Bytes of absent value pages counted `admit_at` times or more, where there are `all_pages`.
    pub(super) fn absent_bytes(&self, admit_at: u8, all_pages: u64) -> u64 {
        let seen: u64 = self.absent[usize::from(admit_at)..].iter().sum();
        let all = u128::from(seen) * u128::from(all_pages) / u128::from(self.pages.max(1));
        u64::try_from(all).unwrap_or(u64::MAX).saturating_mul(PAGE_BYTES)
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
                if object.states.resident() > 0 && object.has_class(step.class) {
                    let left = Step { bytes: step.bytes - freed, ..step };
                    freed += sweep_object(mcache, object, hand, left);
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

    /// Frequencies of pages, from a piece of the walk.
    pub(super) fn sample(&mut self, mcache: &Mcache) -> Sample {
        let mut sample = Sample::default();
        let (mut scanned, mut rounds) = (0, 0);
        while scanned < SAMPLE_PAGES && rounds < 2 {
            let objects = self.sample.look(mcache);
            rounds += u32::from(objects.is_empty());
            for object in &objects {
                for (pages, class) in object.touched_pieces() {
                    for state in pages.map(|page| object.states.state(page)) {
                        let frequency = usize::from(state.frequency());
                        if state.is_resident() {
                            sample.resident[class.index()][frequency] += 1;
                        } else if !class.is_index() && !object.is_dead() {
                            sample.absent[frequency] += 1;
                        }
                    }
                }
                sample.pages += u64::from(object.states.len());
                scanned += u64::from(object.states.len()).max(1);
                self.sample.pass(object);
            }
        }
        self.scanned_pages += scanned;
        sample
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

/// Evicts pages of one object as `step` says, until its bytes are freed. Leaves the hand within the
/// object in that case.
fn sweep_object(mcache: &Mcache, object: &Object, hand: &mut Hand, step: Step) -> u64 {
    let Step { class, threshold, bytes } = step;
    let mut freed = 0;
    let mut batch = Batch::with_capacity(BATCH_PAGES);
    let first = std::mem::take(&mut hand.page).min(object.states.len());
    let pieces = object.pieces(first..object.states.len());
    let pieces = pieces.into_iter().filter(|(_, of)| *of == class);
    for page in pieces.flat_map(|(pages, _)| pages) {
        let state = object.states.state(page);
        if state.is_resident() && state.frequency() <= threshold {
            batch.add(object, page);
        }
        let wanted = (bytes - freed).div_ceil(PAGE_BYTES);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::mcache::{Advice, pages::PAGE_BYTES, tests::World};

    #[test]
    fn parts_of_an_object_are_sampled_and_evicted_by_their_own_class() {
        let world = World::new(2);
        if !world.can_evict() {
            return;
        }
        let map = world.map(&[0, 1], Class::Cold);
        map.preload().unwrap();
        let part = 8 * PAGE_BYTES..24 * PAGE_BYTES;
        map.advise(0, part.clone(), Advice::Class(Class::Pinned)).unwrap();
        map.advise(1, part.clone(), Advice::Class(Class::Warm)).unwrap();
        let mut sweep = Sweep::default();
        let sampled =
            sweep.sample(&world.mcache).resident.map(|histogram| histogram.iter().sum::<u64>());
        // The sample may go round more than once.
        assert_eq!(sampled.map(|pages| pages * 96 / sampled[0]), [96, 16, 0, 16]);
        let all = |class| Step { class, threshold: 15, bytes: u64::MAX };
        assert_eq!(sweep.evict(&world.mcache, all(Class::Cold)), 96 * PAGE_BYTES);
        assert!(map.try_read(0, part.clone()).is_some() && map.try_read(1, part.clone()).is_some());
        assert_eq!(sweep.evict(&world.mcache, all(Class::Warm)), 16 * PAGE_BYTES);
        assert!(map.try_read(0, part.clone()).is_some() && map.try_read(1, part).is_none());
    }
}
