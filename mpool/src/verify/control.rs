//! The running scrub as others see it: how far it is, and how to end it.

use super::state::State;
use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// One scrub of a pool at a time; this is where it meets its observers.
#[derive(Default)]
pub(crate) struct Control {
    shared: Mutex<Shared>,
    /// Signalled when a stop is asked for, and when a scrub has ended.
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    running: bool,
    stopping: bool,
    /// Of the running pass, or of the last one that ran in this process.
    seen: Option<Seen>,
}

/// What observers are shown.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) state: State,
    /// What there was to verify when the scrub began.
    pub(crate) goal_bytes: u64,
}

/// The right to scrub; gone, it lets the next one begin.
pub(crate) struct Turn<'a> {
    control: &'a Control,
}

impl Control {
    /// `None` while another scrub runs.
    pub(crate) fn begin(&self) -> Option<Turn<'_>> {
        let mut shared = self.shared.lock();
        if shared.running {
            return None;
        }
        (shared.running, shared.stopping) = (true, false);
        Some(Turn { control: self })
    }

    pub(crate) fn show(&self, seen: Seen) {
        self.shared.lock().seen = Some(seen);
    }

    /// Whether one runs, and how far it is.
    pub(crate) fn look(&self) -> (bool, Option<Seen>) {
        let shared = self.shared.lock();
        (shared.running, shared.seen.clone())
    }

    /// Asks the running scrub to end, and waits until it has. False: none runs.
    pub(crate) fn stop(&self) -> bool {
        let mut shared = self.shared.lock();
        if !shared.running {
            return false;
        }
        shared.stopping = true;
        self.changed.notify_all();
        while shared.running && shared.stopping {
            self.changed.wait(&mut shared);
        }
        true
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.lock().stopping
    }

    /// Waits; true if asked to stop.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let mut shared = self.shared.lock();
        if time.is_zero() || shared.stopping {
            return shared.stopping;
        }
        let until = Instant::now() + time;
        while !shared.stopping {
            if self.changed.wait_until(&mut shared, until).timed_out() {
                break;
            }
        }
        shared.stopping
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut shared = self.control.shared.lock();
        (shared.running, shared.stopping) = (false, false);
        drop(shared);
        self.control.changed.notify_all();
    }
}
