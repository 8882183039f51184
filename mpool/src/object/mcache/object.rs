//! One mblock as the mcache sees it: where it lies, what is known of its pages, who uses it.
//!
//! All maps over an mblock share one `Object`, and it outlives them: residency and frequency are
//! facts of the page cache, not of a map. It goes when the mblock's extent goes back to the
//! allocator. Classes of parts of it ([`Object::advise`]) go with its last map.
//!
//! Memory: 136 bytes with its reference counts, about 30 in the registry, 12 for each part with a
//! class of its own, and one byte a page once a page of it was touched.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{
    Class,
    mapping::Mapping,
    pages::{PAGE_BYTES, PageStates},
    ranges::{RANGES_MAX, Ranges},
    region::Span,
};
use crate::{address::offset_of, id::MblockId, object::mblock::Mblock, space::layout::Layout};
use arc_swap::ArcSwapOption;
use std::{ops::Range, sync::Arc};

/// Which object, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    /// Covers at least the whole pages that hold the object.
    pub(crate) layout: Layout,
}

impl Place {
    pub(crate) fn of(mblock: &Mblock) -> Self {
        let layout = mblock.layout().clone();
        Self { id: mblock.id(), len_bytes: mblock.len_bytes(), layout }
    }

    /// Names the object in the registry: an mblock that moves has two places for a while.
    #[cfg(test)]
    pub(crate) fn key(&self) -> u64 {
        self.layout.first()
    }
}

/// One mblock in the mcache.
pub(crate) struct Object {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    /// Where its bytes are, as addresses.
    pub(crate) layout: Layout,
    /// What its volume is seen through; `None` where it is not mapped.
    pub(crate) mapping: Option<Arc<Mapping>>,
    /// Empty where the volume is not mapped.
    pub(crate) states: PageStates,
    users: [AtomicU32; Class::COUNT],
    /// Parts with a class of their own.
    ranges: ArcSwapOption<Ranges>,
    dead: AtomicBool,
    /// On the reaper's clock; see `reaper::fault_age`.
    faulted_us: AtomicU64,
}

impl Object {
    pub(crate) fn new(place: Place, mapping: Option<Arc<Mapping>>) -> Self {
        let Place { id, len_bytes, layout } = place;
        let pages = u32::try_from(len_bytes.div_ceil(PAGE_BYTES)).expect("under 16 TiB");
        assert!(u64::from(pages) * PAGE_BYTES <= layout.len(), "the layout covers the object");
        Self {
            id,
            len_bytes,
            layout,
            states: PageStates::new(if mapping.is_some() { pages } else { 0 }),
            mapping,
            users: [const { AtomicU32::new(0) }; Class::COUNT],
            ranges: ArcSwapOption::empty(),
            dead: AtomicBool::new(false),
            faulted_us: AtomicU64::new(0),
        }
    }

    /// Names it in the registry.
    pub(crate) fn key(&self) -> u64 {
        self.layout.first()
    }

    /// Whole pages that hold it, in bytes.
    pub(crate) fn padded_bytes(&self) -> u64 {
        self.len_bytes.next_multiple_of(PAGE_BYTES)
    }

    /// Whether it can be read through the map.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapping.is_some()
    }

    /// The place of one page on its volume.
    pub(crate) fn page(&self, page: u32) -> Span {
        let at = u64::from(page) * PAGE_BYTES;
        let address = self.layout.address_of(&(at..at + PAGE_BYTES)).expect("pages are not split");
        Span { offset: offset_of(address), len: PAGE_BYTES }
    }

    /// The pieces of the volume that hold `pages`, in order.
    pub(crate) fn pages(&self, pages: Range<u32>) -> impl Iterator<Item = Span> + '_ {
        let range = u64::from(pages.start) * PAGE_BYTES..u64::from(pages.end) * PAGE_BYTES;
        let parts = self.layout.parts(range);
        parts.map(|part| Span { offset: offset_of(part.offset), len: part.len })
    }

    /// Where on the volume `range` is, if it is in one piece there.
    pub(crate) fn contiguous(&self, range: &Range<u64>) -> Option<u64> {
        self.layout.address_of(range).map(offset_of)
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        u64::from(self.states.resident()) * PAGE_BYTES
    }

    /// What it takes on the heap, with its reference counts and its page states.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let parts = self.ranges.load().as_ref().map_or(0, |ranges| ranges.heap_bytes());
        (size_of::<Self>() + 2 * size_of::<usize>()) as u64 + self.states.heap_bytes() + parts
    }

    /// The highest class that a live map gives it; `Cold` without one.
    pub(crate) fn class(&self) -> Class {
        let used = |class: &Class| self.users[class.index()].load(Relaxed) > 0;
        Class::ALL.into_iter().rev().find(used).unwrap_or(Class::Cold)
    }

    pub(crate) fn add_user(&self, class: Class) {
        self.users[class.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn remove_user(&self, class: Class) {
        let before = self.users[class.index()].fetch_sub(1, Relaxed);
        assert!(before > 0, "a user leaves once");
    }

    /// When a page of it was last read in.
    pub(crate) fn faulted_us(&self) -> u64 {
        self.faulted_us.load(Relaxed)
    }

    pub(crate) fn set_faulted_us(&self, us: u64) {
        self.faulted_us.store(us, Relaxed);
    }

    /// A map that gave it `class` is gone; advice for parts of it goes with the last one.
    pub(crate) fn leave(&self, class: Class) {
        self.remove_user(class);
        let unused = self.users.iter().all(|users| users.load(Relaxed) == 0);
        // A map that comes at this moment and advises at once may lose its advice: a hint, lost.
        if unused && self.ranges.load().is_some() {
            self.ranges.store(None);
        }
    }

    /// Gives `pages` a class of their own, or back to the class of the whole. False: the object has
    /// as many parts as it may.
    pub(crate) fn advise(&self, pages: Range<u32>, class: Option<Class>) -> bool {
        let mut fits = true;
        self.ranges.rcu(|old| {
            let old = old.as_deref().cloned().unwrap_or_default();
            let new = old.with(pages.clone(), class);
            fits = new.len() <= RANGES_MAX;
            let kept = if fits { new } else { old };
            (kept.len() > 0).then(|| Arc::new(kept))
        });
        fits
    }

    /// The class of one page.
    pub(crate) fn class_of(&self, page: u32) -> Class {
        let own = self.ranges.load().as_ref().and_then(|ranges| ranges.class_of(page));
        own.unwrap_or_else(|| self.class())
    }

    /// `pages` in order, in pieces of one class each.
    pub(crate) fn pieces(&self, pages: Range<u32>) -> Vec<(Range<u32>, Class)> {
        match &*self.ranges.load() {
            Some(ranges) => ranges.pieces(pages, self.class()),
            None => Vec::from([(pages, self.class())]),
        }
    }

    /// The same of all its pages, if anything is known of one.
    pub(crate) fn touched_pieces(&self) -> Vec<(Range<u32>, Class)> {
        if self.states.is_touched() { self.pieces(0..self.states.len()) } else { Vec::new() }
    }

    /// Whether some of its pages are of `class`.
    pub(crate) fn has_class(&self, class: Class) -> bool {
        // The list of parts is short, and most objects have none.
        self.class() == class || self.ranges.load().as_ref().is_some_and(|r| r.has(class))
    }

    /// Adds its resident bytes to the sums of their classes.
    pub(crate) fn add_residency(&self, bytes: &mut [u64; Class::COUNT]) {
        let resident = self.resident_bytes();
        if resident == 0 || self.ranges.load().is_none() {
            bytes[self.class().index()] += resident;
            return;
        }
        for (pages, class) in self.pieces(0..self.states.len()) {
            let resident = pages.filter(|page| self.states.state(*page).is_resident()).count();
            bytes[class.index()] += resident as u64 * PAGE_BYTES;
        }
    }

    /// Deleted, but a reader may still hold it: nothing of it is admitted any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire)
    }

    /// Release pairs with `is_dead`; returns whether that is news.
    pub(crate) fn mark_dead(&self) -> bool {
        let news = !self.dead.load(Relaxed);
        self.dead.store(true, Release);
        news
    }
}
