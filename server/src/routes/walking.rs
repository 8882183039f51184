//! A walk over keys, in turns that are bounded in items, bytes, time and memory.
//!
//! One turn runs on a thread that may block. Whatever ends it, the walk stands on a key that was
//! not shown, and the next turn, or another request with a cursor, goes on there. Between the
//! steps of a turn it looks whether anybody is still there to read.
//!
//! ```text
//!   advance --> a key --> room for it? --> shown --> advance ...
//!      |          |            `-> Memory: the caller waits for room, holding none
//!      |          `-> enough shown, or time is up: More
//!      |-> pause among deleted keys: time is up: Time
//!      `-> damage: told, and on
//! ```

use super::outflow::{Outflow, item_bytes};
use super::scan::Plan;
use super::unreadable;
use crate::budget::{Budget, Share};
use crate::engine::Walk;
use kvs::{Advance, Revision};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Versions looked at between two looks at the clock: well under a millisecond of memory, and at
/// worst about ten drive reads.
const STEPS_MAX: u32 = 1000;

/// What ends a turn.
pub(crate) struct Bounds {
    /// Items shown in all turns.
    pub(crate) items_max: u64,
    /// Bytes of JSON at which the turn ends.
    pub(crate) bytes_max: usize,
    /// From when the turn has its thread: who waited for one gets as far as others.
    pub(crate) time_max: Duration,
    /// Nobody reads any more.
    pub(crate) gone: Arc<AtomicBool>,
    /// What stands before the first item, and before each other.
    pub(crate) between: (&'static [u8], &'static [u8]),
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There are no more keys.
    End,
    /// As much was shown as a turn may; the walk stands on the next key.
    More,
    /// Time is up; the walk stands on a key that may be a deleted one.
    Time,
    /// The next item needs so much memory, and there is less.
    Memory(usize),
}

/// Says to the work for a request that the request was dropped.
#[derive(Default)]
pub(crate) struct Departure {
    gone: Arc<AtomicBool>,
}

impl Departure {
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.gone)
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // Relaxed: a hint, nothing is published by it.
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// See the module.
pub(crate) struct Walking {
    /// `None` until it is opened, and after it is over.
    walk: Option<Box<dyn Walk>>,
    revision: Revision,
    plan: Arc<Plan>,
    out: Outflow,
    budget: Budget,
    /// Items shown so far.
    count: u64,
    /// Keys, and ranges of keys, that could not be read.
    damaged: u64,
    /// Items, and keys that could not be read.
    taken: u64,
    /// What stands in `out`: items and damage.
    shown: u64,
    /// The walk stands on a key that was not shown.
    on_key: bool,
    /// Why that key cannot be shown, if it is known already.
    unreadable: Option<kvs::Error>,
    /// Its snapshot was ended between two turns: what the next one has to tell.
    ended: Option<kvs::Error>,
}

impl Walking {
    pub(crate) fn new(plan: Arc<Plan>, out: Outflow, budget: Budget) -> Self {
        Self {
            walk: None,
            revision: Revision::default(),
            plan,
            out,
            budget,
            count: 0,
            damaged: 0,
            taken: 0,
            shown: 0,
            on_key: false,
            unreadable: None,
            ended: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.walk.is_some()
    }

    pub(crate) fn opened(&mut self, walk: Box<dyn Walk>) {
        self.revision = walk.revision();
        self.walk = Some(walk);
    }

    /// It is over: the walk goes, with its snapshot.
    pub(crate) fn close(&mut self) {
        self.walk = None;
    }

    /// The walk, to be dropped.
    pub(crate) fn into_walk(self) -> Option<Box<dyn Walk>> {
        self.walk
    }

    /// The key it stands on, not shown.
    pub(crate) fn key(&self) -> &[u8] {
        self.walk.as_ref().expect("the walk was opened").key()
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Items shown so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Keys and ranges of keys so far that could not be read.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Keys so far, those included that could not be read: what a limit limits.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the turns since the last [`take_out`](Self::take_out) showed nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.shown == 0
    }

    /// Memory for the next item, if it had to wait for some.
    pub(crate) fn give_room(&mut self, share: Option<Share>) {
        if let Some(share) = share {
            *self.out.room() = share;
        }
    }

    /// Holds nothing any more where its snapshot was ended; the next turn says so, also one that
    /// comes after that was told.
    pub(crate) fn let_go_if_ended(&mut self) {
        if let Some(walk) = &mut self.walk
            && let Err(ended) = walk.check()
        {
            (self.on_key, self.unreadable, self.ended) = (false, None, Some(ended));
        }
    }

    /// Why its snapshot was ended, once it has let go of that.
    pub(crate) fn take_ended(&mut self) -> Option<kvs::Error> {
        self.ended.take()
    }

    /// What was shown.
    pub(crate) fn take_out(&mut self) -> Outflow {
        self.shown = 0;
        std::mem::take(&mut self.out)
    }

    /// One turn. After an error the walk is over.
    pub(crate) fn go_on(&mut self, bounds: &Bounds) -> kvs::Result<Stop> {
        if let Some(ended) = self.ended.take() {
            return Err(ended);
        }
        let begun = Instant::now();
        loop {
            let late = begun.elapsed() >= bounds.time_max || bounds.gone.load(Ordering::Relaxed);
            if !self.on_key {
                let walk = self.walk.as_mut().expect("the walk was opened");
                match walk.advance(STEPS_MAX) {
                    Ok(Advance::Key) => self.on_key = true,
                    Ok(Advance::End) => return Ok(Stop::End),
                    Ok(Advance::Paused) if late => return Ok(Stop::Time),
                    Ok(Advance::Paused) => continue,
                    Err(error) if !self.plan.on_damage.passes(&error) => return Err(error),
                    // The walk stands on it; whether it is told here or later, limits say.
                    Err(error @ kvs::Error::Damaged { .. }) => {
                        (self.on_key, self.unreadable) = (true, Some(error));
                    }
                    Err(range) => {
                        self.tell(&range, bounds);
                        continue;
                    }
                }
            }
            let enough = self.taken >= bounds.items_max || self.out.len() >= bounds.bytes_max;
            if enough || (late && self.shown > 0) {
                return Ok(Stop::More);
            }
            if let Some(stop) = self.show(bounds)? {
                return Ok(stop);
            }
        }
    }

    /// Shows the key it stands on, if there is room for it.
    fn show(&mut self, bounds: &Bounds) -> kvs::Result<Option<Stop>> {
        let walk = &**self.walk.as_ref().expect("the walk was opened");
        let has_value = !self.plan.keys_only && self.unreadable.is_none();
        let value_len = has_value.then(|| walk.value_len());
        let need = self.out.tail_bytes() + item_bytes(walk.key().len(), value_len);
        let budget = self.budget.clone();
        if budget.try_grow(self.out.room(), need).is_err() {
            return Ok(Some(Stop::Memory(need)));
        }
        let value = match (self.unreadable.take(), has_value) {
            (Some(error), _) => Err(error),
            (None, true) => walk.value().map(Some),
            (None, false) => Ok(None),
        };
        (self.on_key, self.taken) = (false, self.taken + 1);
        match value {
            Ok(value) => {
                let (first, other) = bounds.between;
                self.out.text(if self.count + self.damaged == 0 { first } else { other });
                self.out.item(self.plan.encoding, (walk.key(), value, walk.key_revision()));
                if bounds.between.1.is_empty() {
                    self.out.text(b"\n");
                }
                (self.count, self.shown) = (self.count + 1, self.shown + 1);
            }
            Err(error) if self.plan.on_damage.passes(&error) => self.tell(&error, bounds),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Says what cannot be read. The engine has logged it; the scan's last line counts.
    fn tell(&mut self, error: &kvs::Error, bounds: &Bounds) {
        let (first, other) = bounds.between;
        self.out.text(if self.count + self.damaged == 0 { first } else { other });
        self.out.text(&unreadable::document(error, self.plan.encoding));
        if bounds.between.1.is_empty() {
            self.out.text(b"\n");
        }
        (self.damaged, self.shown) = (self.damaged + 1, self.shown + 1);
    }
}
