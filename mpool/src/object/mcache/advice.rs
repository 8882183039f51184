//! Advice: what the owner of a map knows about its pages and the pool cannot guess.
//!
//! Advice is kept by us, not by the kernel: `madvise` and `mlock` for a part of a mapping would
//! split it into several, and the number of those is what maps are to do without. A class goes into
//! the object's list ([`super::ranges`]), which the reaper obeys when it chooses victims;
//! *will need* becomes jobs on the IO queue at its lowest priority; *will not need* drops pages at
//! once.
//!
//! Objects are shared by all maps over them, and so is advice for parts of them: the last one wins,
//! and it is gone with the last map.

use super::{
    Map, Mcache,
    evict::drop_range,
    map::{MapShared, pages_of},
    object::Object,
    pages::PAGE_BYTES,
    ranges::RANGES_MAX,
};
use crate::{
    Class,
    error::{Error, Result},
    io::queue::IoQueue,
    media::Priority,
    object::mblock::Mblock,
};
use std::{
    ops::Range,
    sync::{Arc, Weak},
};

/// Pages that one job reads ahead: 8 MiB, some ten milliseconds of a drive.
const JOB_PAGES: u32 = 2048;

/// What will become of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// They leave memory as pages of this class do, whatever the class of the map. It says what
    /// leaves, not what enters: reads admit as ever, and [`Advice::WillNeed`] brings in.
    Class(Class),
    /// They leave memory as the map's class says.
    Normal,
    /// They will be read: brings them into memory in the background, as far as the reaper grants
    /// room (pages of index classes in any case). A hint: it may be forgotten.
    WillNeed,
    /// They will not be read: drops them from memory, and forgets how often they were.
    WillNotNeed,
}

impl Map {
    /// Advises on the pages that hold `range` of object `object`; on those wholly within it, for
    /// [`Advice::WillNotNeed`]. Makes no mapping in the kernel's sense. [`Error::Options`] if the
    /// range passes the end, or the object has as many parts of different classes as it may.
    pub fn advise(&self, object: usize, range: Range<u64>, advice: Advice) -> Result<()> {
        let target = &self.shared.objects[object];
        if range.start > range.end || range.end > target.len_bytes {
            let (Range { start, end }, len) = (range, target.len_bytes);
            let text = format!("advice on {start}..{end} of {}: it has {len} bytes", target.id);
            return Err(Error::Options(text));
        }
        match advice {
            Advice::Class(class) => classify(target, &range, Some(class)),
            Advice::Normal => classify(target, &range, None),
            Advice::WillNeed => {
                let place = Place { object, pages: pages_of(&range) };
                self.queue_reading(place, object + 1);
                Ok(())
            }
            Advice::WillNotNeed => {
                self.forget(target, whole_pages_of(target, &range));
                Ok(())
            }
        }
    }

    /// Advises on all its objects. [`Advice::Class`] changes the class of the map and is what
    /// [`Map::set_class`] does; with [`Advice::Normal`] no part of an object has a class of its own
    /// any more.
    pub fn advise_all(&self, advice: Advice) {
        match advice {
            Advice::Class(class) => self.set_class(class),
            Advice::Normal => self.shared.objects.iter().for_each(|object| {
                let fits = object.advise(0..object.states.len(), None);
                assert!(fits, "fewer parts always fit");
            }),
            Advice::WillNeed => {
                if let Some(first) = self.shared.objects.first() {
                    let place = Place { object: 0, pages: 0..first.states.len() };
                    self.queue_reading(place, self.len());
                }
            }
            Advice::WillNotNeed => {
                for object in &self.shared.objects {
                    self.forget(object, 0..object.states.len());
                }
            }
        }
    }

    fn forget(&self, object: &Object, pages: Range<u32>) {
        self.count_purged(drop_range(object, pages.clone()));
        pages.for_each(|page| object.states.cool(page));
    }

    /// Has the objects from `place` to before `end` read ahead.
    fn queue_reading(&self, place: Place, end: usize) {
        let reading = Reading {
            mcache: Arc::clone(&self.mcache),
            shared: Arc::clone(&self.shared),
            queue: Arc::downgrade(&self.queue),
            _held: Arc::clone(&self.mblocks),
            place,
            end,
        };
        self.queue.run_blocking(Priority::Compaction, Box::new(move || reading.step()));
    }
}

/// Pages of an object of a map.
struct Place {
    object: usize,
    pages: Range<u32>,
}

/// Reading ahead in steps, each a job of its own, so that more urgent ones come between. It
/// outlives the map, whose mblocks it holds, by a step; it does not outlive the pool.
struct Reading {
    mcache: Arc<Mcache>,
    shared: Arc<MapShared>,
    queue: Weak<IoQueue>,
    _held: Arc<[Mblock]>,
    place: Place,
    end: usize,
}

impl Reading {
    fn step(mut self) {
        let Some(queue) = self.queue.upgrade() else { return };
        let object = &self.shared.objects[self.place.object];
        let pages = &mut self.place.pages;
        let now = pages.start..pages.end.min(pages.start.saturating_add(JOB_PAGES));
        pages.start = now.end;
        match self.mcache.preload(object, now) {
            Ok((_, true)) => {}
            // Without room, what is not read now is read when it is asked for.
            Ok((_, false)) => return,
            Err(error) => {
                tracing::debug!(mblock = %object.id, %error, "advised pages could not be read");
                pages.start = pages.end;
            }
        }
        if pages.start == pages.end {
            let object = self.place.object + 1;
            if object >= self.end || !self.mcache.maps.is_live(self.shared.id) {
                return;
            }
            self.place = Place { object, pages: 0..self.shared.objects[object].states.len() };
        }
        queue.run_blocking(Priority::Compaction, Box::new(move || self.step()));
    }
}

fn classify(object: &Object, range: &Range<u64>, class: Option<Class>) -> Result<()> {
    if object.advise(pages_of(range), class) {
        return Ok(());
    }
    let text = format!(
        "advice on {}: it has {RANGES_MAX} parts of different classes already; advise larger parts",
        object.id
    );
    Err(Error::Options(text))
}

/// The pages that hold nothing but `range`; the last page of an object may be padding beyond it.
fn whole_pages_of(object: &Object, range: &Range<u64>) -> Range<u32> {
    let end = if range.end == object.len_bytes { object.padded_bytes() } else { range.end };
    let start = range.start.next_multiple_of(PAGE_BYTES);
    pages_of(&(start..(end / PAGE_BYTES * PAGE_BYTES).max(start)))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::World, *};
    use mpool_device::IoBuf;

    const PAGES: u32 = 64;

    fn resident(map: &Map, object: usize) -> Vec<u32> {
        let states = &map.shared.objects[object].states;
        (0..states.len()).filter(|page| states.state(*page).is_resident()).collect()
    }

    #[test]
    fn pages_are_counted_and_chosen_by_the_class_of_their_part() {
        let world = World::new(1);
        let map = world.map(&[0], Class::Warm);
        map.preload().unwrap();
        let page = PAGE_BYTES;
        map.advise(0, 10 * page..20 * page, Advice::Class(Class::Pinned)).unwrap();
        // A part of a page is on that page.
        map.advise(0, 30 * page + 1..31 * page + 1, Advice::Class(Class::Cold)).unwrap();
        let object = &map.shared.objects[0];
        assert_eq!(
            object.pieces(0..PAGES),
            [
                (0..10, Class::Warm),
                (10..20, Class::Pinned),
                (20..30, Class::Warm),
                (30..32, Class::Cold),
                (32..PAGES, Class::Warm),
            ]
        );
        assert_eq!(world.mcache.residency().bytes, [2 * page, 52 * page, 0, 10 * page]);
        map.set_class(Class::Hot);
        assert_eq!(object.class_of(30), Class::Cold, "a part keeps its class");
        map.advise(0, 0..15 * page, Advice::Normal).unwrap();
        assert_eq!(world.mcache.residency().bytes, [2 * page, 0, 57 * page, 5 * page]);
        map.advise_all(Advice::Normal);
        assert_eq!(world.mcache.residency().bytes, [0, 0, 64 * page, 0]);
    }

    #[test]
    fn advice_for_a_part_goes_with_the_last_map() {
        let world = World::new(1);
        let (first, second) = (world.map(&[0], Class::Cold), world.map(&[0], Class::Warm));
        first.advise(0, 0..4096, Advice::Class(Class::Hot)).unwrap();
        let object = Arc::clone(&first.shared.objects[0]);
        drop(first);
        assert_eq!(object.class_of(0), Class::Hot);
        drop(second);
        assert_eq!(object.class_of(0), Class::Cold);
    }

    #[test]
    fn what_is_not_needed_leaves_and_is_forgotten() {
        let world = World::new(1);
        if !world.can_evict() {
            return;
        }
        let map = world.map(&[0], Class::Cold);
        map.preload().unwrap();
        (0..3).for_each(|_| assert!(map.try_read(0, 0..PAGE_BYTES * 20).is_some()));
        map.advise(0, 1..PAGE_BYTES * 10 + 1, Advice::WillNotNeed).unwrap();
        let states = &map.shared.objects[0].states;
        assert_eq!(resident(&map, 0), [vec![0], (10..PAGES).collect()].concat());
        assert_eq!((states.state(0).frequency(), states.state(5).frequency()), (3, 0));
        assert_eq!(map.stats().purged_bytes, 9 * PAGE_BYTES);
        let end = map.shared.objects[0].len_bytes;
        map.advise(0, end - 1..end, Advice::WillNotNeed).unwrap();
        assert_eq!(resident(&map, 0).len(), 55, "less than a page is not dropped");
        map.advise_all(Advice::WillNotNeed);
        assert!(resident(&map, 0).is_empty());
        assert_eq!(map.stats().resident_bytes, 0);
        let mut scratch = IoBuf::zeroed(4096);
        assert_eq!(map.read(0, 0..1, &mut scratch).unwrap(), [0], "and can be read as ever");
    }

    #[test]
    fn what_is_needed_is_read_in_the_background_as_far_as_there_is_room() {
        let world = World::new(3);
        let map = world.map(&[0, 1, 2], Class::Cold);
        let kib = 1024;
        world.mcache.room.grant(128 * kib, 1);
        map.advise(1, 5..64 * kib, Advice::WillNeed).unwrap();
        world.drain_queue();
        assert_eq!(resident(&map, 1), (0..16).collect::<Vec<_>>());
        assert_eq!(world.mcache.room.left(), 64 * kib);
        // What is there needs no room.
        map.advise(1, 0..128 * kib, Advice::WillNeed).unwrap();
        world.drain_queue();
        assert_eq!((resident(&map, 1).len(), world.mcache.room.left()), (32, 0));
        map.advise_all(Advice::WillNeed);
        world.drain_queue();
        assert!(resident(&map, 0).is_empty() && resident(&map, 2).is_empty(), "no room");
        // Index pages are read in any case, and only those.
        map.advise(2, 0..16 * kib, Advice::Class(Class::Hot)).unwrap();
        map.advise(2, 0..100 * kib, Advice::WillNeed).unwrap();
        world.drain_queue();
        assert_eq!(resident(&map, 2), [0, 1, 2, 3]);
        world.mcache.room.lift();
        map.advise_all(Advice::WillNeed);
        world.drain_queue();
        assert_eq!((0..3).map(|object| resident(&map, object).len()).sum::<usize>(), 192);
    }

    #[test]
    fn advice_beyond_an_object_or_beyond_measure_is_refused() {
        let world = World::new(1);
        let map = world.map(&[0], Class::Cold);
        let len = map.shared.objects[0].len_bytes;
        let error = map.advise(0, 0..len + 1, Advice::WillNeed).unwrap_err().to_string();
        assert!(error.contains("262145") && error.contains("262144"), "{error}");
        assert!(map.advise(0, 0..len, Advice::Class(Class::Pinned)).is_ok());
        assert!(map.advise(0, len..len, Advice::WillNotNeed).is_ok(), "nothing is something");
    }

    #[test]
    fn an_object_has_a_bounded_number_of_parts() {
        let place = World::place(0);
        let long = super::super::object::Place {
            layout: crate::space::layout::Layout::new(&[crate::address::Extent {
                offset: 0,
                len: 1 << 30,
            }]),
            len_bytes: 1 << 30,
            ..place
        };
        let object = Object::new(long, None);
        let parts = u32::try_from(RANGES_MAX).unwrap();
        assert!((0..parts).all(|n| object.advise(2 * n..2 * n + 1, Some(Class::Hot))));
        assert!(!object.advise(2 * parts..2 * parts + 1, Some(Class::Hot)), "one too many");
        assert_eq!(object.class_of(2 * parts - 2), Class::Hot, "the others stay");
        assert!(object.advise(0..2 * parts, Some(Class::Hot)), "one large part is fewer");
    }
}
