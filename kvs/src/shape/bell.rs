//! Rung when something changes that threads wait for: a memtable is sealed or flushed, a job ends,
//! the database fails or is closed.
//!
//! Who waits counts the rings *before* it looks at the state, and waits for a later one, so none is
//! missed in between:
//!
//! ```text
//!   let seen = bell.rings();  look;  nothing?  bell.wait(seen, at_most)
//! ```

use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Default)]
pub(crate) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// How often it was rung.
    pub(crate) fn rings(&self) -> u64 {
        *self.rings.lock()
    }

    /// Wakes all that wait.
    pub(crate) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    /// Waits for a ring after the first `seen`, for `at_most` so long.
    pub(crate) fn wait(&self, seen: u64, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut rings = self.rings.lock();
        while *rings == seen && !self.rung.wait_until(&mut rings, until).timed_out() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_between_the_look_and_the_wait_is_not_missed() {
        let bell = Bell::default();
        let seen = bell.rings();
        bell.ring();
        // Without the count this would be an hour.
        bell.wait(seen, Duration::from_hours(1));
        assert_eq!(bell.rings(), seen + 1);
        bell.wait(seen + 1, Duration::ZERO);
    }

    #[test]
    fn a_ring_wakes_a_thread_that_waits() {
        let bell = Bell::default();
        let seen = bell.rings();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.wait(seen, Duration::from_hours(1)));
            bell.ring();
        });
    }
}
