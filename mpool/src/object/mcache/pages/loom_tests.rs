//! Every interleaving of the protocol of a page.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p millpond-mpool --lib --release loom_tests`.

use loom::{
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use super::{Leave, OWNED, PageStates, Relaxed, Take};

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
fn bumps_aging_and_doubts_disturb_no_transition() {
    loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let t = thread::spawn(move || {
            other.states.touch(0);
            other.states.age(0);
            other.states.unverify(0);
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
