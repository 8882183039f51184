//! What is known of each page of one object: one byte a page.
//!
//! ```text
//!   bit    7         6       5         4     3..0
//!       RESIDENT   OWNED  VERIFIED   LOST   frequency, 0-15
//! ```
//!
//! Residency changes hands only through an owner. Whoever fills, verifies or evicts a page first
//! takes it; everybody else who meets an owned page leaves it alone and reads the drive directly.
//! So no two threads ever fill and evict the same page at once, and `RESIDENT` is never set for a
//! page that somebody has just dropped.
//!
//! ```text
//!                own                      release(Resident | Verified)
//!   absent -------------------> OWNED ------------------------------------> RESIDENT [VERIFIED]
//!     ^  ^                      |   ^                                        |        |
//!     |  +--- release(Absent) --+   +------------------ own -----------------+        |
//!     +--------------------------- forget (the kernel evicted it) --------------------+
//! ```
//!
//! `RESIDENT` promises that *we* have not evicted the page. The kernel may have (reclaim in a
//! full cgroup, platform housekeeping); then a touch faults it in again, which costs the touching
//! thread a read but is not wrong. `forget` follows up when a look at the page cache tells.
//!
//! `VERIFIED` means the bytes of this residency have passed their checksum. It is set together with
//! `RESIDENT` and goes with it.
//!
//! `LOST`: the drive failed under the mapped page and the mapping holds zeros there. It stays until
//! the object dies; such a page is read directly, which reports the drive's error.
//!
//! `frequency` counts accesses, resident or not, saturates, survives eviction, and is halved now
//! and then. It is a hint: a lost update is harmless, so a bump is tried once.
//!
//! An object that nobody reads has no bytes here: they are made at the first touch, so that mapping
//! an object costs nothing a page. One whose extent goes back to the allocator is *closed*: every
//! page gets an owner for good, so whoever still knows the object cannot do anything in its name.

#[cfg(loom)]
use loom::{
    sync::atomic::{AtomicU8, AtomicU32},
    thread::yield_now,
};
use std::sync::{
    OnceLock,
    atomic::{
        AtomicBool,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};
#[cfg(not(loom))]
use std::{
    sync::atomic::{AtomicU8, AtomicU32},
    thread::yield_now,
};

// Named, because the simulator of the reaper's policies takes this file in from elsewhere.
#[cfg(all(test, loom))]
#[path = "pages/loom_tests.rs"]
mod loom_tests;

/// Bytes that a page state describes.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// `PAGE_BYTES` for lengths of memory.
pub(crate) const PAGE_LEN: usize = 4096;
/// Values the frequency can take.
pub(crate) const FREQUENCIES: usize = 16;

const RESIDENT: u8 = 1 << 7;
const OWNED: u8 = 1 << 6;
const VERIFIED: u8 = 1 << 5;
const LOST: u8 = 1 << 4;
const FREQUENCY: u8 = 0x0f;

const _: () = assert!(RESIDENT | OWNED | VERIFIED | LOST | FREQUENCY == 0xff);
const _: () = assert!(FREQUENCY as usize + 1 == FREQUENCIES);

/// A look at one page's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageState(u8);

impl PageState {
    /// May be read through the map.
    pub(crate) fn is_resident(self) -> bool {
        self.0 & (RESIDENT | LOST) == RESIDENT
    }

    /// May be read through the map, and its bytes have passed their checksum.
    pub(crate) fn is_verified(self) -> bool {
        self.0 & (RESIDENT | VERIFIED | LOST) == RESIDENT | VERIFIED
    }

    pub(crate) fn is_lost(self) -> bool {
        self.0 & LOST != 0
    }

    pub(crate) fn frequency(self) -> u8 {
        self.0 & FREQUENCY
    }
}

/// How an owner leaves a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Absent,
    Resident,
    Verified,
}

/// Which pages an owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Not resident and not lost: to fill it.
    Absent,
    /// Resident: to evict it.
    Resident,
    /// Either, but not lost: to make it resident and verified.
    Readable,
    /// Any that has no owner, lost ones too: to drop everything there is.
    Any,
}

impl Take {
    fn wants(self, state: u8) -> bool {
        match self {
            Take::Absent => state & (RESIDENT | LOST) == 0,
            Take::Resident => state & RESIDENT != 0,
            Take::Readable => state & LOST == 0,
            Take::Any => true,
        }
    }
}

/// The states of all pages of one object.
pub(crate) struct PageStates {
    /// Made at the first touch; empty if the object was closed before.
    bytes: OnceLock<Box<[AtomicU8]>>,
    pages: u32,
    resident: AtomicU32,
    /// Whether a page was ever verified. Not part of the protocol, so not modelled.
    verified: AtomicBool,
}

/// The right to change one page's residency. Dropping it leaves the page absent.
#[must_use = "dropping the owner marks the page absent at once"]
pub(crate) struct Owned<'a> {
    states: &'a PageStates,
    page: u32,
    was: PageState,
}

impl PageStates {
    pub(crate) fn new(pages: u32) -> Self {
        let (resident, verified) = (AtomicU32::new(0), AtomicBool::new(false));
        let states = Self { bytes: OnceLock::new(), pages, resident, verified };
        if cfg!(loom) {
            // loom does not see what `OnceLock` orders, so there the bytes exist from the start.
            states.made();
        }
        states
    }

    /// Pages of the object, whether anything is known of them or not.
    pub(crate) fn len(&self) -> u32 {
        self.pages
    }

    /// Whether a page was ever touched. Of an object that never was, no page is resident, counted
    /// or lost.
    pub(crate) fn is_touched(&self) -> bool {
        self.bytes.get().is_some()
    }

    /// Bytes of memory that the states take beside the struct itself.
    pub(crate) fn heap_bytes(&self) -> u64 {
        self.bytes.get().map_or(0, |bytes| bytes.len() as u64)
    }

    /// Whether there can be verified pages.
    pub(crate) fn is_verified(&self) -> bool {
        self.verified.load(Relaxed) && self.resident() > 0
    }

    /// Pages that we count as resident.
    pub(crate) fn resident(&self) -> u32 {
        self.resident.load(Relaxed)
    }

    /// What is known of a page; absent if it does not exist.
    pub(crate) fn state(&self, page: u32) -> PageState {
        // Acquire pairs with the release in `leave`: what the filler saw of the page, we see.
        self.byte(page).map_or(PageState(0), |byte| PageState(byte.load(Acquire)))
    }

    /// Counts an access and returns the state before it.
    pub(crate) fn touch(&self, page: u32) -> PageState {
        self.made();
        let state = self.state(page);
        self.bump(page, state);
        state
    }

    /// Counts an access to a page whose state the caller has just seen. Tried once: the count is a
    /// hint, and a page that is hot enough to be contended gets its count anyway.
    pub(crate) fn bump(&self, page: u32, seen: PageState) {
        if seen.frequency() < FREQUENCY
            && let Some(byte) = self.byte(page)
        {
            // A lost race is a lost count, see above.
            let _ = byte.compare_exchange(seen.0, seen.0 + 1, Relaxed, Relaxed);
        }
    }

    /// Halves the count of one page.
    pub(crate) fn age(&self, page: u32) {
        let Some(byte) = self.byte(page) else { return };
        let state = byte.load(Relaxed);
        let halved = (state & !FREQUENCY) | ((state & FREQUENCY) >> 1);
        if halved != state {
            // As in `bump`.
            let _ = byte.compare_exchange(state, halved, Relaxed, Relaxed);
        }
    }

    /// Sets the count of one page to nothing.
    pub(crate) fn cool(&self, page: u32) {
        if let Some(byte) = self.byte(page) {
            byte.fetch_and(!FREQUENCY, Relaxed);
        }
    }

    /// The page's bytes may not be those that passed their checksum: they are checked again before
    /// they are next used. Returns whether that is news.
    pub(crate) fn unverify(&self, page: u32) -> bool {
        // An owner has taken the bit away and sets it only for what it has checked itself.
        self.byte(page).is_some_and(|byte| byte.fetch_and(!VERIFIED, Relaxed) & VERIFIED != 0)
    }

    /// Takes the page if nobody owns it and it is as wanted. Never waits.
    pub(crate) fn own(&self, page: u32, take: Take) -> Option<Owned<'_>> {
        if take != Take::Resident {
            self.made();
        }
        let byte = self.byte(page)?;
        let mut state = byte.load(Relaxed);
        loop {
            if state & OWNED != 0 || !take.wants(state) {
                return None;
            }
            let owned = (state | OWNED) & !(RESIDENT | VERIFIED);
            // AcqRel pairs with itself: owners of one page follow each other.
            match byte.compare_exchange_weak(state, owned, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        if state & RESIDENT != 0 {
            self.resident.fetch_sub(1, Relaxed);
        }
        Some(Owned { states: self, page, was: PageState(state) })
    }

    /// The kernel has evicted the page behind our back. Returns whether it was counted resident.
    pub(crate) fn forget(&self, page: u32) -> bool {
        // An owner that leaves the page absent does exactly this.
        self.own(page, Take::Resident).is_some()
    }

    /// The drive failed under the mapped page. Returns whether that is news.
    pub(crate) fn lose(&self, page: u32) -> bool {
        self.byte(page).is_some_and(|byte| byte.fetch_or(LOST, AcqRel) & LOST == 0)
    }

    /// Takes every page for good, once, waiting for those who are at work on one: their steps are
    /// bounded. From here on nobody can bring a page in or take one out in this object's name.
    /// Returns how many were resident.
    pub(crate) fn close(&self) -> u32 {
        let bytes = self.bytes.get_or_init(Box::default);
        let pages = u32::try_from(bytes.len()).expect("built from a u32");
        let mut resident = 0;
        for page in 0..pages {
            let owner = loop {
                match self.own(page, Take::Any) {
                    Some(owner) => break owner,
                    None => yield_now(),
                }
            };
            resident += u32::from(owner.was().is_resident());
            owner.keep();
        }
        resident
    }

    fn leave(&self, page: u32, leave: Leave) {
        let set = match leave {
            Leave::Absent => 0,
            Leave::Resident => RESIDENT,
            Leave::Verified => RESIDENT | VERIFIED,
        };
        if set != 0 {
            self.resident.fetch_add(1, Relaxed);
        }
        if leave == Leave::Verified && !self.verified.load(Relaxed) {
            self.verified.store(true, Relaxed);
        }
        // AcqRel: publishes what the owner did, see `state` and `own`. One step, so that no bump,
        // aging or loss in between is undone. Toggling is exact: only the owner changes these bits,
        // and `own` left them as OWNED alone.
        let byte = self.byte(page).expect("an owned page has a byte");
        let before = byte.fetch_xor(set | OWNED, AcqRel);
        debug_assert!(before & (OWNED | RESIDENT | VERIFIED) == OWNED);
    }

    fn byte(&self, page: u32) -> Option<&AtomicU8> {
        self.bytes.get()?.get(usize::try_from(page).expect("pages fit a usize"))
    }

    fn made(&self) -> &[AtomicU8] {
        self.bytes.get_or_init(|| (0..self.pages).map(|_| AtomicU8::new(0)).collect())
    }
}

impl Owned<'_> {
    pub(crate) fn page(&self) -> u32 {
        self.page
    }

    /// The state in which the page was taken.
    pub(crate) fn was(&self) -> PageState {
        self.was
    }

    /// Gives the page back in the named state.
    pub(crate) fn release(self, leave: Leave) {
        let (states, page) = (self.states, self.page);
        // The destructor would leave it absent.
        let _ = std::mem::ManuallyDrop::new(self);
        states.leave(page, leave);
    }

    /// Never gives the page back.
    fn keep(self) {
        // The destructor would.
        let _ = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.states.leave(self.page, Leave::Absent);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_page_walks_through_its_states() {
        let pages = PageStates::new(3);
        assert!(!pages.state(1).is_resident());
        let owner = pages.own(1, Take::Absent).unwrap();
        assert!(pages.own(1, Take::Any).is_none(), "two owners");
        assert!(!pages.state(1).is_resident());
        owner.release(Leave::Resident);
        assert!(pages.state(1).is_resident() && !pages.state(1).is_verified());
        assert_eq!(pages.resident(), 1);

        let owner = pages.own(1, Take::Readable).unwrap();
        assert!(owner.was().is_resident());
        owner.release(Leave::Verified);
        assert!(pages.state(1).is_verified());
        drop(pages.own(1, Take::Resident).unwrap());
        assert_eq!(pages.state(1), PageState(0));
        assert_eq!(pages.resident(), 0);
    }

    #[test]
    fn frequency_saturates_survives_eviction_and_halves() {
        let pages = PageStates::new(1);
        for expect in 0..40_u8 {
            assert_eq!(pages.touch(0).frequency(), expect.min(15));
        }
        pages.own(0, Take::Absent).unwrap().release(Leave::Verified);
        assert!(pages.forget(0));
        assert_eq!(pages.state(0).frequency(), 15);
        pages.age(0);
        assert_eq!(pages.state(0).frequency(), 7);
    }

    #[test]
    fn a_lost_page_is_never_read_through_the_map_again() {
        let pages = PageStates::new(1);
        pages.own(0, Take::Absent).unwrap().release(Leave::Verified);
        assert!(pages.lose(0));
        assert!(!pages.lose(0), "news only once");
        assert!(!pages.state(0).is_resident() && !pages.state(0).is_verified());
        assert!(pages.own(0, Take::Absent).is_none());
        assert!(pages.own(0, Take::Readable).is_none());
        drop(pages.own(0, Take::Any).unwrap());
        assert_eq!(pages.resident(), 0);
        assert!(pages.state(0).is_lost());
    }

    #[test]
    fn an_object_that_nobody_touches_has_no_bytes() {
        let pages = PageStates::new(1 << 20);
        assert_eq!(pages.state(7), PageState(0));
        assert!(!pages.state(1 << 20).is_resident(), "a page that does not exist");
        assert!(pages.own(7, Take::Resident).is_none());
        assert!(!pages.forget(7) && !pages.unverify(7) && !pages.lose(7));
        (0..9).for_each(|page| pages.age(page));
        pages.cool(7);
        assert_eq!((pages.is_touched(), pages.heap_bytes()), (false, 0));
        pages.touch(7);
        assert_eq!((pages.is_touched(), pages.heap_bytes()), (true, 1 << 20));
        assert_eq!((pages.state(7).frequency(), pages.state(6).frequency()), (1, 0));
        pages.cool(7);
        assert_eq!(pages.state(7).frequency(), 0);
    }

    #[test]
    fn a_closed_object_takes_and_gives_nothing() {
        for touched in [false, true] {
            let pages = PageStates::new(3);
            if touched {
                pages.own(1, Take::Absent).unwrap().release(Leave::Verified);
                pages.lose(2);
            }
            assert_eq!(pages.close(), u32::from(touched));
            for take in [Take::Absent, Take::Resident, Take::Readable, Take::Any] {
                assert!((0..3).all(|page| pages.own(page, take).is_none()), "{take:?}");
            }
            assert!(!pages.touch(1).is_resident() && !pages.forget(1));
            assert_eq!((pages.resident(), pages.state(2).is_lost()), (0, touched));
        }
    }

    #[test]
    fn a_page_that_is_doubted_is_verified_again() {
        let pages = PageStates::new(1);
        assert!(!pages.unverify(0));
        pages.own(0, Take::Absent).unwrap().release(Leave::Verified);
        assert!(pages.unverify(0) && !pages.unverify(0));
        assert!(pages.state(0).is_resident() && !pages.state(0).is_verified());
        let owner = pages.own(0, Take::Readable).unwrap();
        assert!(!pages.unverify(0), "an owner decides for itself");
        owner.release(Leave::Verified);
        assert!(pages.state(0).is_verified());
    }

    #[test]
    fn a_loss_while_owned_is_not_undone() {
        let pages = PageStates::new(1);
        let owner = pages.own(0, Take::Absent).unwrap();
        pages.lose(0);
        owner.release(Leave::Verified);
        assert!(!pages.state(0).is_resident());
    }
}
