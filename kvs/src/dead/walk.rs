//! What one scan knows of the dead stretch it is in, and what it asks and tells the table.
//!
//! ```text
//!   dead keys in a row   1 . . . . . . . 16 . . . . 64        live, or a version newer than `at`
//!                        ask             ask        watch, and      enter [first, here)
//!                                                   again from the first
//! ```
//!
//! Where a range is known the walk goes on behind it, and a watch begins with the range: so a scan
//! from the head of a queue enters what was deleted there since, without walking over the rest.
//!
//! A walk forward that begins at some key asks before it seeks there, so that it touches no page of
//! what is dead; and a stretch that begins with the first key it finds is entered from where it
//! began, so that the next one that begins there finds the range.

use super::ranges::{WEIGHT_MIN, successor};
use super::{DeadRanges, Skip, WatchId, Way};
use crate::key::Revision;
use crate::kvset::Holes;
use bytes::Bytes;
use std::sync::Arc;

/// Dead keys in a row from which on a scan learns.
const LEARN_FROM: u64 = 64;
/// Dead keys in a row between two looks for a range.
const ASK_EVERY: u64 = 16;
/// Dead keys found after which a paused scan enters them.
const PAUSE_FROM: u64 = 512;

/// How a walk goes on from a dead key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// To the next key.
    Step,
    /// By a seek to the first key of the stretch, which is looked at again.
    Again(Bytes),
    /// By a seek past a dead range: forward to this key or the next, backward to one before it.
    Past(Bytes),
    /// To the end: all keys that way are dead.
    End,
}

/// See the module.
pub(crate) struct DeadWalk {
    table: Arc<DeadRanges>,
    at: Revision,
    way: Way,
    holes: Arc<Holes>,
    /// Whether the view that is walked over is the one that takes writes.
    is_current: Box<dyn Fn() -> bool + Send>,
    /// Dead keys in a row.
    run: u64,
    /// The first of them, or the key from which on the walk has found nothing else.
    first: Vec<u8>,
    /// `first` is where the walk begins: no key has been looked at.
    at_start: bool,
    watch: Option<WatchId>,
    /// Dead keys since the watch began, or since they were last entered.
    walked: u64,
    /// This scan will not learn.
    is_reader: bool,
}

impl DeadWalk {
    /// For a scan of a view at `at`, whose sources note in `holes` what they could not read.
    pub(crate) fn new(
        table: &Arc<DeadRanges>,
        (at, way): (Revision, Way),
        holes: &Arc<Holes>,
        is_current: Box<dyn Fn() -> bool + Send>,
    ) -> Self {
        Self {
            table: Arc::clone(table),
            at,
            way,
            holes: Arc::clone(holes),
            is_current,
            run: 0,
            first: Vec::new(),
            at_start: false,
            watch: None,
            walked: 0,
            is_reader: false,
        }
    }

    /// Whether the walk is in what may be a dead stretch.
    pub(crate) fn is_in_run(&self) -> bool {
        self.run > 0 || self.at_start
    }

    /// A walk forward begins at `key`: it seeks there (`Step`), or past a dead range.
    pub(crate) fn start(&mut self, key: &[u8]) -> Onward {
        self.leave();
        self.first.clear();
        self.first.extend_from_slice(key);
        let Some(skip) = self.skip(key) else {
            self.at_start = true;
            return Onward::Step;
        };
        // In a stretch, of which this walk has seen nothing yet.
        self.run = 1;
        skip.beyond.map_or(Onward::End, Onward::Past)
    }

    /// The walk has met a dead key that has no version newer than `at`.
    pub(crate) fn pass(&mut self, key: &[u8]) -> Onward {
        self.run += 1;
        self.walked += 1;
        if self.run == 1 && !std::mem::take(&mut self.at_start) {
            self.first.clear();
            self.first.extend_from_slice(key);
        }
        if (self.run == 1 || self.run.is_multiple_of(ASK_EVERY))
            && let Some(skip) = self.skip(key)
        {
            return skip.beyond.map_or(Onward::End, Onward::Past);
        }
        if self.run < LEARN_FROM || self.watch.is_some() || self.is_reader {
            return Onward::Step;
        }
        let (again, edge) = match self.way {
            Way::Forward => (Bytes::copy_from_slice(&self.first), None),
            Way::Backward => (Bytes::copy_from_slice(&self.first), Some(successor(&self.first))),
        };
        let edge = edge.unwrap_or_else(|| again.clone());
        let watch = self.table.watch(self.way, Some(edge));
        self.begin(watch);
        if self.watch.is_some() { Onward::Again(again) } else { Onward::Step }
    }

    fn skip(&mut self, key: &[u8]) -> Option<Skip> {
        let wants_watch = self.watch.is_none() && !self.is_reader;
        let skip = self.table.skip(key, self.at, self.way, wants_watch)?;
        if wants_watch {
            self.begin(skip.watch);
        }
        Some(skip)
    }

    /// Takes a watch, if there is room for one and it will see every put.
    fn begin(&mut self, watch: Option<WatchId>) {
        self.watch = watch;
        self.walked = 0;
        if self.watch.is_none() || !(self.is_current)() {
            self.leave_watch();
            self.is_reader = true;
        }
    }

    /// The stretch ends: at `end` going forward, which is not dead; from `end` on going backward,
    /// where all is dead. `None`: no key is left that way.
    pub(crate) fn end(&mut self, end: Option<&[u8]>) {
        self.enter(end, WEIGHT_MIN);
        self.leave();
    }

    /// The walk rests before `next`, and may never go on.
    pub(crate) fn pause(&mut self, next: &[u8]) {
        match self.way {
            Way::Forward => self.enter(Some(next), PAUSE_FROM),
            Way::Backward => self.enter(Some(&successor(next)), PAUSE_FROM),
        }
    }

    /// The walk begins anew elsewhere.
    pub(crate) fn leave(&mut self) {
        self.leave_watch();
        self.run = 0;
        self.at_start = false;
    }

    fn enter(&mut self, end: Option<&[u8]>, walked_min: u64) {
        let Some(watch) = self.watch.filter(|_| self.walked >= walked_min) else { return };
        if self.holes.is_empty() {
            self.table.enter(watch, end.map(Bytes::copy_from_slice), self.at, self.walked);
        }
        self.walked = 0;
    }

    fn leave_watch(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.table.end(watch);
        }
    }
}

impl Drop for DeadWalk {
    fn drop(&mut self) {
        self.leave_watch();
    }
}
