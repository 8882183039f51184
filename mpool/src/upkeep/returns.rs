//! Housekeeping that gives free space back to the disks below (`space::give_back`), in its time.
//!
//! Space that is freed is used again soon in a pool that is written to; giving it back then costs a
//! punch, a refill and slower writes. So a range goes only when it has been free since a look at
//! least [`ReturnOptions::after_s`] ago, one piece a step, no faster than
//! [`ReturnOptions::bytes_per_second`]:
//!
//! ```text
//!   look ---- after_s ----> pieces, one by one ----> look ---- after_s ----> ...
//! ```
//!
//! Without the thread ([`crate::Options::background`]) whoever calls [`crate::Pool::tidy`] paces
//! it: the pieces follow each other, and with an `after_s` of 0 there is no clock in it.

use crate::{
    chores::{Chore, Progress},
    options::ReturnOptions,
    space::{Space, give_back::RETURN_MIN},
    upkeep::{
        move_down::{MoveDown, MoveStep},
        parts::Parts,
    },
};
use std::time::{Duration, Instant};

/// The thread looks no more often.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// What is moved is read, written, and later cut off.
const MOVE_COST: u64 = 4;

/// The chore of all volumes of a pool.
pub(crate) struct ReturnChore {
    pool: Parts,
    began: Instant,
    timetable: Timetable,
    move_down: MoveDown,
}

/// PURE: when what is done, by a clock that begins with the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timetable {
    /// How long a range is free before it goes.
    rest: Duration,
    /// `None` lets pieces follow each other at once.
    bytes_per_second: Option<u64>,
    /// Nothing goes before.
    next: Duration,
    /// Since when what is to move has waited for readers.
    waiting: Option<Duration>,
}

impl Timetable {
    fn new(options: &ReturnOptions, background: bool) -> Self {
        let rest = Duration::from_secs(options.after_s.into());
        let bytes_per_second = background.then_some(options.bytes_per_second);
        Self { rest, bytes_per_second, next: rest, waiting: None }
    }

    /// How long to wait, if at all.
    fn wait(&self, now: Duration) -> Option<Duration> {
        self.next.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// A piece has gone: the next one may when its time is over.
    fn gone(&mut self, bytes: u64, now: Duration) {
        let pause = self.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1))
        });
        self.next = now + pause;
        self.waiting = None;
    }

    /// What is to go waits for readers: whether to come back for it soon. Not for ever, as what is
    /// freed meanwhile does not rest before another look.
    fn waits(&mut self, now: Duration) -> bool {
        let since = *self.waiting.get_or_insert(now);
        let goes_on = now.saturating_sub(since) < self.rest;
        if goes_on {
            self.next = now + LOOK_MIN;
        }
        goes_on
    }

    /// Nothing is left to go: another look has been taken.
    fn looked(&mut self, now: Duration) {
        // Nobody rings for space that is freed, so the thread looks by the clock.
        let least = self.bytes_per_second.map_or(Duration::ZERO, |_| LOOK_MIN);
        self.next = now + self.rest.max(least);
        self.waiting = None;
    }
}

impl ReturnChore {
    pub(crate) fn new(pool: Parts, options: &ReturnOptions, background: bool) -> Self {
        look(&pool.space);
        let (began, timetable) = (Instant::now(), Timetable::new(options, background));
        Self { pool, began, timetable, move_down: MoveDown::default() }
    }

    /// One piece, or one object, which counts as more than it has.
    fn give_back(&mut self) -> MoveStep {
        let step = match give_back(&self.pool.space) {
            0 => self.move_down.step(&self.pool),
            bytes => return MoveStep::Moved(bytes),
        };
        match step {
            MoveStep::Moved(bytes) => MoveStep::Moved(bytes.saturating_mul(MOVE_COST)),
            other => other,
        }
    }
}

/// What is free now rests.
fn look(space: &Space) {
    space.all().iter().filter(|volume| volume.gives_back()).for_each(|volume| volume.look());
}

/// One piece, of the first volume that has one.
fn give_back(space: &Space) -> u64 {
    for space in space.all().iter().filter(|volume| volume.gives_back()) {
        match space.give_back() {
            Ok(0) => {}
            Ok(bytes) => return bytes,
            Err(error) => {
                let volume = space.id();
                tracing::warn!(%volume, %error, "free space stays with the volume until the next start");
            }
        }
    }
    0
}

impl Chore for ReturnChore {
    fn step(&mut self) -> Progress {
        if self.pool.volumes.check_writable().is_err() {
            return Progress::Idle;
        }
        if let Some(wait) = self.timetable.wait(self.began.elapsed()) {
            return Progress::Later(wait);
        }
        if self.timetable.rest.is_zero() {
            // What is free now is free long enough.
            look(&self.pool.space);
        }
        let step = self.give_back();
        let now = self.began.elapsed();
        let at_once = match step {
            MoveStep::Moved(bytes) => {
                self.pool.space.publish();
                // A short piece costs the disk as much as a longer one.
                self.timetable.gone(bytes.max(RETURN_MIN), now);
                Progress::More
            }
            MoveStep::Waits if self.timetable.waits(now) => Progress::Idle,
            MoveStep::Waits | MoveStep::Nothing => {
                self.move_down.forget();
                look(&self.pool.space);
                self.timetable.looked(now);
                Progress::Idle
            }
        };
        self.timetable.wait(now).map_or(at_once, Progress::Later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_rest_and_pieces_are_paced() {
        let options = ReturnOptions { after_s: 60, bytes_per_second: 8 << 20 };
        let seconds = Duration::from_secs;
        let mut timetable = Timetable::new(&options, true);
        assert_eq!(timetable.wait(seconds(20)), Some(seconds(40)));
        assert_eq!(timetable.wait(seconds(60)), None);
        timetable.gone(16 << 20, seconds(61));
        assert_eq!(timetable.wait(seconds(61)), Some(seconds(2)));
        timetable.looked(seconds(70));
        assert_eq!(timetable.wait(seconds(129)), Some(seconds(1)));
        assert!(timetable.waits(seconds(130)));
        assert_eq!(timetable.wait(seconds(130)), Some(LOOK_MIN));
        assert!(timetable.waits(seconds(189)));
        assert!(!timetable.waits(seconds(190)), "another look is due");
        timetable.looked(seconds(190));
        assert!(timetable.waits(seconds(250)));
        let mut timetable = Timetable::new(&options, false);
        timetable.gone(1 << 40, seconds(61));
        assert_eq!(timetable.wait(seconds(61)), None, "its caller paces it");
    }
}
