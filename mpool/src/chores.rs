//! Housekeeping of the pool: chores that nobody waits for, on one thread.
//!
//! A [`Chore`] takes bounded steps. The thread `mp-tidy` goes round the list, one step each, as
//! long as any of them has more to do, and then sleeps until the bell is rung, or until the moment
//! that a chore has named. Without the thread
//! ([`crate::Options::background`]) the pool's user calls [`crate::Pool::tidy`], which takes one
//! step: that is how tests put a power cut between any two of them.
//!
//! A chore ends with its [`Registered`], whose drop waits for the step that is being taken.
//!
//! A chore that panics may have left half a change behind, of a journal say. On the thread that is
//! the end of housekeeping, and told to the pool, which then takes no more writes.

use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::{
    cell::Cell,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{JoinHandle, ThreadId},
    time::{Duration, Instant},
};

/// Chores at most: one a journal, and a few of the pool's own.
const CHORES_MAX: usize = 4096;

thread_local! {
    /// This thread is taking a step, so it holds the lock of a chore.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to do until the bell rings.
    Idle,
    /// There may be more to do.
    More,
    /// The same, but not before so much time has passed.
    Later(Duration),
}

impl Progress {
    /// What is left to do of two chores' work.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::More, _) | (_, Self::More) => Self::More,
            (Self::Later(one), Self::Later(other)) => Self::Later(one.min(other)),
            (Self::Later(wait), Self::Idle) | (Self::Idle, Self::Later(wait)) => Self::Later(wait),
            (Self::Idle, Self::Idle) => Self::Idle,
        }
    }
}

/// This thread takes a step until this is dropped.
struct Stepping {
    before: bool,
}

impl Drop for Stepping {
    fn drop(&mut self) {
        STEPPING.set(self.before);
    }
}

/// Something to be done in bounded steps.
pub(crate) trait Chore: Send {
    /// Does a little. Errors are the chore's own matter.
    fn step(&mut self) -> Progress;
}

/// A chore, locked while it takes a step; empty once it has been taken off.
type Turn = Arc<Mutex<Option<Box<dyn Chore>>>>;

/// The thread and its chores. Ends with the pool.
pub(crate) struct Tidy {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread, and takes new chores.
#[derive(Clone)]
pub(crate) struct Bell {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order of their next steps.
    chores: VecDeque<(u64, Turn)>,
    next_id: u64,
    rung: bool,
    stop: bool,
}

/// A chore on the list. Dropping it takes the chore off.
#[must_use = "dropping it takes the chore off the list"]
pub(crate) struct Registered {
    shared: Arc<Shared>,
    id: u64,
    turn: Turn,
}

impl Tidy {
    /// An empty list; with `background`, the thread `mp-tidy` over it, which calls `on_fault` if a
    /// chore panics, and ends.
    pub(crate) fn start(
        background: bool,
        on_fault: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let bell = Bell { shared: Arc::default() };
        let mut thread = None;
        if background {
            let shared = Arc::clone(&bell.shared);
            let spawned = std::thread::Builder::new()
                .name("mp-tidy".into())
                .spawn(move || {
                    if catch_unwind(AssertUnwindSafe(|| shared.run())).is_err() {
                        tracing::error!("a chore panicked: there is no housekeeping any more");
                        on_fault();
                    }
                })
                .map_err(|e| Error::Options(format!("no thread for housekeeping: {e}")))?;
            thread = Some(spawned);
        }
        Ok(Self { bell, thread })
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// One step of the next chore that has something to do; false if none has.
    pub(crate) fn step(&self) -> bool {
        self.bell.shared.step() == Progress::More
    }

    fn is_on(&self, thread: ThreadId) -> bool {
        self.thread.as_ref().is_some_and(|own| own.thread().id() == thread)
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        {
            let mut state = self.bell.shared.state.lock();
            state.stop = true;
            self.bell.shared.wake.notify_all();
        }
        // What a chore lets go of may be what drops the pool.
        let own = self.is_on(std::thread::current().id());
        let joined = self.thread.take().filter(|_| !own).map(JoinHandle::join);
        if matches!(joined, Some(Err(_))) {
            tracing::error!("the housekeeping thread had panicked");
        }
        // Outside of the lock: they hold parts of the pool.
        let chores = std::mem::take(&mut self.bell.shared.state.lock().chores);
        for (_, turn) in chores {
            let_go(&turn);
        }
    }
}

impl Bell {
    /// There may be something to do.
    pub(crate) fn ring(&self) {
        let mut state = self.shared.state.lock();
        if !state.rung {
            state.rung = true;
            self.shared.wake.notify_one();
        }
    }

    /// Whether it was rung since this was asked last, where no thread listens.
    #[cfg(test)]
    pub(crate) fn was_rung(&self) -> bool {
        std::mem::take(&mut self.shared.state.lock().rung)
    }

    /// A step, where no thread takes them. A test that has the bell need not hold the pool.
    #[cfg(test)]
    pub(crate) fn step(&self) -> bool {
        self.shared.step() == Progress::More
    }

    /// Puts a chore on the list.
    pub(crate) fn add(&self, chore: Box<dyn Chore>) -> Result<Registered> {
        let turn = Arc::new(Mutex::new(Some(chore)));
        let mut state = self.shared.state.lock();
        if state.chores.len() >= CHORES_MAX {
            return Err(Error::Options(format!(
                "{CHORES_MAX} journals are tidied in the background already; close one first"
            )));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.chores.push_back((id, Arc::clone(&turn)));
        drop(state);
        self.ring();
        Ok(Registered { shared: Arc::clone(&self.shared), id, turn })
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let progress = self.step();
            let until = match progress {
                Progress::Later(wait) => Some(Instant::now() + wait),
                Progress::Idle | Progress::More => None,
            };
            let mut state = self.state.lock();
            let mut due = progress == Progress::More;
            while !due && !state.rung && !state.stop {
                match until {
                    Some(until) => due = self.wake.wait_until(&mut state, until).timed_out(),
                    None => self.wake.wait(&mut state),
                }
            }
            if state.stop {
                return;
            }
            if progress != Progress::More {
                state.rung = false;
            }
        }
    }

    /// One step of the next chore that has more to do now; else when the first will.
    fn step(&self) -> Progress {
        let mut all = Progress::Idle;
        let count = self.state.lock().chores.len();
        for _ in 0..count {
            let next = {
                let mut state = self.state.lock();
                let next = state.chores.pop_front();
                if let Some((id, turn)) = &next {
                    state.chores.push_back((*id, Arc::clone(turn)));
                }
                next
            };
            let Some((_, turn)) = next else { return all };
            let stepping = Stepping { before: STEPPING.replace(true) };
            let progress = turn.lock().as_mut().map(|chore| chore.step());
            drop(stepping);
            all = all.and(progress.unwrap_or(Progress::Idle));
            if all == Progress::More {
                return all;
            }
        }
        all
    }
}

impl Registered {
    /// Takes the chore off.
    pub(crate) fn end(&self) {
        let removed = {
            let mut state = self.shared.state.lock();
            let at = state.chores.iter().position(|(id, _)| *id == self.id);
            at.and_then(|at| state.chores.remove(at))
        };
        drop(removed);
        let_go(&self.turn);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.end();
    }
}

/// Drops what a chore holds. Whoever is taking a step of it has it locked and is waited for; unless
/// that is this very thread, because what the chore let go of in its step is what drops the pool:
/// then it goes when the step ends.
fn let_go(turn: &Turn) {
    let chore = if STEPPING.get() {
        turn.try_lock().and_then(|mut t| t.take())
    } else {
        turn.lock().take()
    };
    drop(chore);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    };

    /// Has this many steps to take, and tells each.
    struct Count {
        name: u32,
        left: Arc<AtomicU32>,
        told: mpsc::Sender<u32>,
    }

    impl Chore for Count {
        fn step(&mut self) -> Progress {
            if self.left.load(SeqCst) == 0 {
                return Progress::Idle;
            }
            self.left.fetch_sub(1, SeqCst);
            self.told.send(self.name).unwrap();
            Progress::More
        }
    }

    fn count(name: u32, steps: u32, told: &mpsc::Sender<u32>) -> (Box<Count>, Arc<AtomicU32>) {
        let left = Arc::new(AtomicU32::new(steps));
        (Box::new(Count { name, left: Arc::clone(&left), told: told.clone() }), left)
    }

    #[test]
    fn chores_take_turns_and_one_taken_off_takes_no_more() {
        let tidy = Tidy::start(false, || ()).unwrap();
        let (told, hear) = mpsc::channel();
        let first = tidy.bell().add(count(1, 3, &told).0).unwrap();
        let (second, more) = count(2, 2, &told);
        let _second = tidy.bell().add(second).unwrap();
        while tidy.step() {}
        assert_eq!(hear.try_iter().collect::<Vec<_>>(), [1, 2, 1, 2, 1]);
        drop(first);
        more.store(1, SeqCst);
        while tidy.step() {}
        assert_eq!(hear.try_iter().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn the_thread_wakes_for_the_bell_and_ends_with_its_owner() {
        let tidy = Tidy::start(true, || ()).unwrap();
        let (told, hear) = mpsc::channel();
        let (chore, left) = count(1, 2, &told);
        let registered = tidy.bell().add(chore).unwrap();
        drop(told);
        assert_eq!((hear.recv(), hear.recv()), (Ok(1), Ok(1)));
        left.store(1, SeqCst);
        tidy.bell().ring();
        assert_eq!(hear.recv(), Ok(1));
        drop(tidy);
        drop(registered);
        assert!(hear.recv().is_err(), "the chore is gone");
    }

    /// Waits before its only step.
    struct Late {
        wait: Option<Duration>,
        told: mpsc::Sender<u32>,
    }

    impl Chore for Late {
        fn step(&mut self) -> Progress {
            if let Some(wait) = self.wait.take() {
                return Progress::Later(wait);
            }
            self.told.send(1).unwrap();
            Progress::Idle
        }
    }

    #[test]
    fn the_thread_wakes_for_a_chore_that_named_a_moment() {
        let tidy = Tidy::start(true, || ()).unwrap();
        let (told, hear) = mpsc::channel();
        let wait = Some(Duration::from_millis(1));
        let late = tidy.bell().add(Box::new(Late { wait, told })).unwrap();
        assert_eq!(hear.recv(), Ok(1), "nobody rang");
        drop(late);
        let (told, _hear) = mpsc::channel();
        let tidy = Tidy::start(false, || ()).unwrap();
        let late = tidy.bell().add(Box::new(Late { wait, told })).unwrap();
        assert!(!tidy.step(), "there is nothing to do now");
        drop(late);
    }

    struct Broken;

    impl Chore for Broken {
        fn step(&mut self) -> Progress {
            panic!("on purpose: a chore is broken");
        }
    }

    /// A chore that panicked took the thread with it, and nobody knew.
    #[test]
    fn a_chore_that_panics_is_told_of_and_can_be_taken_off() {
        let (told, hear) = mpsc::channel();
        let tidy = Tidy::start(true, move || told.send("fault").unwrap()).unwrap();
        let broken = tidy.bell().add(Box::new(Broken)).unwrap();
        assert_eq!(hear.recv(), Ok("fault"));
        drop(broken);
        tidy.bell().ring();
        drop(tidy);
    }

    #[test]
    fn the_list_is_bounded() {
        let tidy = Tidy::start(false, || ()).unwrap();
        let (told, _hear) = mpsc::channel();
        let add = || tidy.bell().add(count(0, 0, &told).0);
        let all: Vec<_> = (0..CHORES_MAX).map(|_| add().unwrap()).collect();
        assert!(add().map(|_| ()).unwrap_err().to_string().contains("4096"));
        drop(all);
        drop(add().unwrap());
    }
}
