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

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, AtomicU32};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, AtomicU32};

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
    states: Box<[AtomicU8]>,
    resident: AtomicU32,
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
        Self { states: (0..pages).map(|_| AtomicU8::new(0)).collect(), resident: AtomicU32::new(0) }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.states.len()).expect("built from a u32")
    }

    /// Pages that we count as resident.
    pub(crate) fn resident(&self) -> u32 {
        self.resident.load(Relaxed)
    }

    pub(crate) fn state(&self, page: u32) -> PageState {
        // Acquire pairs with the release in `leave`: what the filler saw of the page, we see.
        PageState(self.byte(page).load(Acquire))
    }

    /// Counts an access and returns the state before it.
    pub(crate) fn touch(&self, page: u32) -> PageState {
        let state = self.state(page);
        self.bump(page, state);
        state
    }

    /// Counts an access to a page whose state the caller has just seen. Tried once: the count is a
    /// hint, and a page that is hot enough to be contended gets its count anyway.
    pub(crate) fn bump(&self, page: u32, seen: PageState) {
        if seen.frequency() < FREQUENCY {
            // A lost race is a lost count, see above.
            let _ = self.byte(page).compare_exchange(seen.0, seen.0 + 1, Relaxed, Relaxed);
        }
    }

    /// Halves the count of one page.
    pub(crate) fn age(&self, page: u32) {
        let state = self.byte(page).load(Relaxed);
        let halved = (state & !FREQUENCY) | ((state & FREQUENCY) >> 1);
        if halved != state {
            // As in `bump`.
            let _ = self.byte(page).compare_exchange(state, halved, Relaxed, Relaxed);
        }
    }

    /// Takes the page if nobody owns it and it is as wanted. Never waits.
    pub(crate) fn own(&self, page: u32, take: Take) -> Option<Owned<'_>> {
        let byte = self.byte(page);
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
        self.byte(page).fetch_or(LOST, AcqRel) & LOST == 0
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
        // AcqRel: publishes what the owner did, see `state` and `own`. One step, so that no bump,
        // aging or loss in between is undone. Toggling is exact: only the owner changes these bits,
        // and `own` left them as OWNED alone.
        let before = self.byte(page).fetch_xor(set | OWNED, AcqRel);
        debug_assert!(before & (OWNED | RESIDENT | VERIFIED) == OWNED);
    }

    fn byte(&self, page: u32) -> &AtomicU8 {
        &self.states[usize::try_from(page).expect("pages fit a usize")]
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
    fn a_loss_while_owned_is_not_undone() {
        let pages = PageStates::new(1);
        let owner = pages.own(0, Take::Absent).unwrap();
        pages.lose(0);
        owner.release(Leave::Verified);
        assert!(!pages.state(0).is_resident());
    }
}

/// Every interleaving of the protocol. Run with
/// `RUSTFLAGS="--cfg loom" cargo test -p millpond-mpool --lib --release mcache::pages`.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{
        sync::{Arc, atomic::AtomicBool},
        thread,
    };

    use super::*;

    /// One page, and the truth about it: is it in the page cache, and is what is there checked?
    struct World {
        states: PageStates,
        cached: AtomicBool,
        checked: AtomicBool,
    }

    impl World {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                states: PageStates::new(1),
                cached: AtomicBool::new(false),
                checked: AtomicBool::new(false),
            })
        }

        fn fill(&self, leave: Leave) {
            if let Some(owner) = self.states.own(0, Take::Readable) {
                self.cached.store(true, Relaxed);
                self.checked.store(leave == Leave::Verified, Relaxed);
                owner.release(leave);
            }
        }

        fn evict(&self) {
            if let Some(owner) = self.states.own(0, Take::Resident) {
                self.cached.store(false, Relaxed);
                self.checked.store(false, Relaxed);
                drop(owner);
            }
        }

        fn assert_true(&self) {
            let state = self.states.state(0);
            assert!(state.0 & OWNED == 0);
            assert_eq!(state.is_resident(), self.cached.load(Relaxed));
            assert!(!state.is_verified() || self.checked.load(Relaxed));
            assert_eq!(self.states.resident(), u32::from(state.is_resident()));
        }
    }

    /// Three threads, so bounded: three preemptions reach every pair of races.
    #[test]
    fn fill_evict_and_verify_never_leave_a_false_state() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let world = World::new();
            let run = |f: fn(&World)| {
                let world = Arc::clone(&world);
                thread::spawn(move || f(&world))
            };
            let threads = [
                run(|w| w.fill(Leave::Resident)),
                run(|w| w.fill(Leave::Verified)),
                run(|w| w.evict()),
            ];
            for t in threads {
                t.join().unwrap();
            }
            world.assert_true();
        });
    }

    /// The harness is shown to fail: an evictor that gives the page up before it drops it.
    #[test]
    #[should_panic(expected = "assertion")]
    fn an_evictor_that_lets_go_too_early_is_caught() {
        loom::model(|| {
            let world = World::new();
            let other = Arc::clone(&world);
            world.fill(Leave::Resident);
            let t = thread::spawn(move || {
                drop(other.states.own(0, Take::Resident));
                other.cached.store(false, Relaxed);
            });
            world.fill(Leave::Resident);
            t.join().unwrap();
            world.assert_true();
        });
    }

    #[test]
    fn bumps_and_aging_disturb_no_transition() {
        loom::model(|| {
            let world = World::new();
            let other = Arc::clone(&world);
            let t = thread::spawn(move || {
                other.states.touch(0);
                other.states.age(0);
            });
            world.fill(Leave::Verified);
            world.evict();
            t.join().unwrap();
            world.assert_true();
        });
    }

    #[test]
    fn a_loss_wins_against_every_transition() {
        loom::model(|| {
            let world = World::new();
            let other = Arc::clone(&world);
            let t = thread::spawn(move || {
                other.states.lose(0);
            });
            world.fill(Leave::Verified);
            t.join().unwrap();
            assert!(!world.states.state(0).is_resident());
            drop(world.states.own(0, Take::Any).unwrap());
            assert_eq!(world.states.resident(), 0);
        });
    }
}
