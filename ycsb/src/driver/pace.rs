//! The open loop: when a client's operations are due.

use crate::number::float;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Timers are late by some 60 us; the last part of a wait is spent looking at the clock.
const TIMER_SLACK: Duration = Duration::from_micros(150);
/// Longest sleep, so that a run at a low rate ends when it is told to.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// One client's due times.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Between two operations of this client; none in a closed loop.
    interval: Option<Duration>,
    offset: Duration,
    due: Instant,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The next operation may begin; in an open loop it was due then.
    Begin(Option<Instant>),
    /// The run has ended.
    Stop,
}

impl Pace {
    /// Of client number `client` among `clients`, that together offer `rate` operations a second.
    pub(crate) fn new(rate: Option<f64>, client: usize, clients: usize) -> Self {
        let count = |n: usize| float(u64::try_from(n).expect("a number of threads"));
        let after = |operations: f64| {
            let seconds = operations / rate?;
            Some(Duration::try_from_secs_f64(seconds).expect("checked by the workload: bounded"))
        };
        let offset = after(count(client)).unwrap_or_default();
        Self { interval: after(count(clients)), offset, due: Instant::now() }
    }

    /// A turn every `interval`, where there is one, from now on.
    pub(crate) fn every(interval: Option<Duration>) -> Self {
        Self { interval, offset: Duration::ZERO, due: Instant::now() }
    }

    /// Turns that have gone by are given up: the next one is now or later.
    pub(crate) fn skip_missed(&mut self) {
        self.due = self.due.max(Instant::now());
    }

    pub(crate) fn restart(&mut self) {
        self.due = Instant::now() + self.offset;
    }

    /// Waits until the next operation is due. Late operations are due in the past, and do not
    /// wait.
    pub(crate) fn wait(&mut self, stop: &AtomicBool) -> Turn {
        let Some(interval) = self.interval else { return Turn::Begin(None) };
        let due = self.due;
        self.due += interval;
        loop {
            let now = Instant::now();
            let Some(left) = due.checked_duration_since(now).filter(|left| !left.is_zero()) else {
                return Turn::Begin(Some(due));
            };
            // Only says that the run is over; nothing is passed on with it.
            if stop.load(Ordering::Relaxed) {
                return Turn::Stop;
            }
            match left.checked_sub(TIMER_SLACK) {
                Some(sleep) => std::thread::park_timeout(sleep.min(SLEEP_MAX)),
                None => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_all_clients_are_due_in_turn() {
        let going = AtomicBool::new(false);
        let mut paces = [0, 1].map(|client| Pace::new(Some(1000.0), client, 2));
        let start = Instant::now();
        for pace in &mut paces {
            pace.due = start + pace.offset;
        }
        let mut due = Vec::new();
        for _ in 0..3 {
            for pace in &mut paces {
                let Turn::Begin(Some(at)) = pace.wait(&going) else { panic!("nobody stopped it") };
                due.push((at - start).as_millis());
            }
        }
        assert_eq!(due, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn missed_turns_are_given_up() {
        let going = AtomicBool::new(false);
        let mut pace = Pace::every(Some(Duration::from_millis(1)));
        pace.due = Instant::now().checked_sub(Duration::from_secs(9)).expect("the clock ran");
        assert!(matches!(pace.wait(&going), Turn::Begin(Some(_))));
        let before = Instant::now();
        pace.skip_missed();
        assert!(pace.due >= before);
    }

    #[test]
    fn a_stopped_run_waits_for_nothing() {
        let mut pace = Pace::new(Some(1e-3), 1, 2);
        pace.restart();
        assert_eq!(pace.wait(&AtomicBool::new(true)), Turn::Stop);
        assert_eq!(Pace::new(None, 0, 1).wait(&AtomicBool::new(true)), Turn::Begin(None));
    }
}
