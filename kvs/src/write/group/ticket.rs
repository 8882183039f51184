//! A queued batch and the one who waits for it.
//!
//! A [`Ticket`] is an obligation: whoever holds it completes it once. Dropping it otherwise - the
//! leader panicked - completes it with [`Error::Poisoned`], so nobody waits for ever.

use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result};
use crate::key::Revision;
use crate::options::Durability;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Told how a submitted batch ended.
pub(crate) type Done = Box<dyn FnOnce(Result<Revision>) + Send>;

/// Who hears of the end.
pub(super) enum Completion {
    Waiter(Arc<Seat>),
    Callback(Done),
}

/// A queued batch.
#[must_use = "a ticket is completed, or its owner is told that it was dropped"]
pub(super) struct Ticket {
    batch: WriteBatch,
    durability: Durability,
    /// None once completed.
    completion: Option<Completion>,
}

impl Ticket {
    pub(super) fn new(batch: WriteBatch, durability: Durability, completion: Completion) -> Self {
        Self { batch, durability, completion: Some(completion) }
    }

    pub(super) fn batch(&self) -> &WriteBatch {
        &self.batch
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn is_blocking(&self) -> bool {
        matches!(self.completion, Some(Completion::Waiter(_)))
    }

    /// Where its owner waits; None if it does not.
    pub(super) fn waiter(&self) -> Option<Arc<Seat>> {
        match &self.completion {
            Some(Completion::Waiter(waiter)) => Some(Arc::clone(waiter)),
            _ => None,
        }
    }

    pub(super) fn complete(mut self, result: Result<Revision>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<Revision>) {
        match self.completion.take() {
            None => {}
            Some(Completion::Waiter(waiter)) => waiter.give(Turn::Done(result)),
            Some(Completion::Callback(done)) => call(done, result),
        }
    }
}

/// One caller's panic must not take the other members' answers with it.
fn call(done: Done, result: Result<Revision>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("the completion of a submitted batch panicked");
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.completion.is_some() {
            let cause = "the thread that was committing this batch panicked".to_owned();
            self.finish(Err(Error::Poisoned { cause }));
        }
    }
}

/// What a waiting writer is told.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is the leader now.
    Lead,
    /// Its batch has ended.
    Done(Result<Revision>),
}

/// Where one writer waits for its turn.
#[derive(Default)]
pub(super) struct Seat {
    turn: Mutex<Option<Turn>>,
    given: Condvar,
}

impl Seat {
    pub(super) fn give(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.given.notify_one();
    }
}

thread_local! {
    /// Kept between commits, so that a commit allocates nothing to wait.
    static IDLE: Cell<Option<Arc<Seat>>> = const { Cell::new(None) };
}

/// This thread's [`Seat`] for the time of one commit.
pub(super) struct Waiter {
    post: Arc<Seat>,
}

impl Waiter {
    /// A commit inside another's completion gets a seat of its own.
    pub(super) fn of_this_thread() -> Self {
        Self { post: IDLE.take().unwrap_or_default() }
    }

    pub(super) fn handle(&self) -> Arc<Seat> {
        Arc::clone(&self.post)
    }

    pub(super) fn wait(&self) -> Turn {
        let mut turn = self.post.turn.lock();
        loop {
            if let Some(turn) = turn.take() {
                return turn;
            }
            self.post.given.wait(&mut turn);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        IDLE.set(Some(Arc::clone(&self.post)));
    }
}
