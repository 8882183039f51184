//! One mblock as the mcache sees it: where it lies, what is known of its pages, who uses it.
//!
//! All maps over an mblock share one `Object`, and it outlives them: residency and frequency are
//! facts of the page cache, not of a map. It goes when the mblock's extent goes back to the
//! allocator.

use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{
    Class,
    pages::{PAGE_BYTES, PageStates},
    region::Span,
};
use crate::{id::MblockId, mblock::Mblock};

/// Where an object's bytes are in the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) id: MblockId,
    /// Page-aligned.
    pub(crate) offset: u64,
    pub(crate) len_bytes: u64,
}

impl Extent {
    pub(crate) fn of(mblock: &Mblock) -> Self {
        let (id, len_bytes) = (mblock.id(), mblock.len_bytes());
        Self { id, offset: mblock.extent_offset(), len_bytes }
    }

    /// Whole pages that hold the object.
    pub(crate) fn span(&self) -> Span {
        assert!(self.offset.is_multiple_of(PAGE_BYTES));
        Span { offset: self.offset, len: self.len_bytes.next_multiple_of(PAGE_BYTES) }
    }
}

/// One mblock in the mcache.
pub(crate) struct Object {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    pub(crate) span: Span,
    /// Empty where the volume is not mapped.
    pub(crate) states: PageStates,
    users: [AtomicU32; Class::COUNT],
    dead: AtomicBool,
}

impl Object {
    pub(crate) fn new(extent: Extent, mapped: bool) -> Self {
        let span = extent.span();
        let pages = u32::try_from(span.len / PAGE_BYTES).expect("an mblock is under 16 TiB");
        Self {
            id: extent.id,
            len_bytes: extent.len_bytes,
            span,
            states: PageStates::new(if mapped { pages } else { 0 }),
            users: [const { AtomicU32::new(0) }; Class::COUNT],
            dead: AtomicBool::new(false),
        }
    }

    /// Whether it can be read through the map.
    pub(crate) fn is_mapped(&self) -> bool {
        self.states.len() > 0
    }

    /// The piece of the volume that holds pages `first..first + count`.
    pub(crate) fn pages(&self, first: u32, count: u32) -> Span {
        let span = Span {
            offset: self.span.offset + u64::from(first) * PAGE_BYTES,
            len: u64::from(count) * PAGE_BYTES,
        };
        assert!(span.offset + span.len <= self.span.offset + self.span.len);
        span
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        u64::from(self.states.resident()) * PAGE_BYTES
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
