//! What a thread's time went into: the scheduler's own account, so that figures of a machine that
//! is busy with other things say something.

use std::time::{Duration, Instant};

/// Time, and which part of it this thread ran and waited for a processor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) all: Duration,
    pub(crate) ran: Duration,
    /// Ready to run.
    pub(crate) ready: Duration,
}

impl Times {
    /// What it would have taken on a machine with nothing else on it, about: the rest of the time
    /// it waited for the drive, or for a lock.
    pub(crate) fn alone(self) -> Duration {
        self.all.saturating_sub(self.ready)
    }

    fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            ran: self.ran.saturating_sub(before.ran),
            ready: self.ready.saturating_sub(before.ready),
        }
    }
}

/// Counts from its start on, for the thread that started it.
pub(crate) struct Clock {
    start: Instant,
    before: Times,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let before = account();
        Self { start: Instant::now(), before }
    }

    pub(crate) fn elapsed(&self) -> Times {
        let all = self.start.elapsed();
        Times { all, ..account().since(self.before) }
    }
}

/// Run and ready times of this thread; zero where the system does not tell them.
fn account() -> Times {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    let mut next = || Duration::from_nanos(numbers.next().unwrap_or(0));
    Times { all: Duration::ZERO, ran: next(), ready: next() }
}
