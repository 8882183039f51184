//! Walks of the engine in memory: what they show, the snapshots that they hold, and how a test
//! makes them slow, fail or end.

use super::MemoryEngine;
use crate::engine::Walk;
use bytes::Bytes;
use kvs::{Advance, Error, Item, Result, Revision, SnapshotEnd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::ThreadId;

/// All walks of an engine.
#[derive(Default)]
pub(super) struct Walks {
    fail_next_step: Arc<Mutex<Option<Error>>>,
    steps: Arc<Steps>,
    hold: AtomicBool,
    snapshots: Mutex<Vec<Weak<Held>>>,
    let_go_on: Arc<Mutex<Vec<ThreadId>>>,
}

impl Walks {
    /// Waits while walks are held.
    pub(super) fn wait_until_let(&self) {
        while self.hold.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    /// A walk over these, from the last to the first.
    pub(super) fn open(&self, items: Vec<Item>, revision: Revision) -> Box<dyn Walk> {
        let end = Mutex::default();
        let held = Arc::new(Held { end, let_go_on: Arc::clone(&self.let_go_on) });
        let mut snapshots = self.snapshots.lock().expect("no holder panics");
        snapshots.retain(|held| held.strong_count() > 0);
        snapshots.push(Arc::downgrade(&held));
        drop(snapshots);
        Box::new(MemoryWalk {
            held: Some(held),
            items,
            revision,
            fail_next_step: Arc::clone(&self.fail_next_step),
            here: None,
            steps: Arc::clone(&self.steps),
        })
    }
}

impl MemoryEngine {
    /// Makes the next step of any walk return `error`.
    pub fn fail_next_step(&self, error: Error) {
        *self.walks.fail_next_step.lock().expect("no holder panics") = Some(error);
    }

    /// Makes walks wait with their opening, on the thread of whoever asked, until they may.
    pub fn hold_walks(&self, hold: bool) {
        self.walks.hold.store(hold, Ordering::SeqCst);
    }

    /// Makes all walks find nothing but deleted keys, without end.
    pub fn endless_walks(&self, endless: bool) {
        self.walks.steps.endless.store(endless, Ordering::SeqCst);
    }

    /// Ends the snapshots of all walks that are open.
    pub fn end_snapshots(&self) {
        let held = std::mem::take(&mut *self.walks.snapshots.lock().expect("no holder panics"));
        for held in held {
            let Some(calls) = held.upgrade().map(|held| {
                let mut end = held.end.lock().expect("no holder panics");
                end.is_ended = true;
                std::mem::take(&mut end.calls)
            }) else {
                continue;
            };
            for call in calls {
                call();
            }
        }
    }

    /// Walks that hold a snapshot.
    pub fn open_snapshots(&self) -> usize {
        let held = self.walks.snapshots.lock().expect("no holder panics");
        held.iter().filter(|held| held.strong_count() > 0).count()
    }

    /// The threads that have let go of the snapshots of walks, in that order.
    pub fn let_go_on(&self) -> Vec<ThreadId> {
        self.walks.let_go_on.lock().expect("no holder panics").clone()
    }

    /// How often walks have paused.
    pub fn walk_pauses(&self) -> u64 {
        self.walks.steps.paused.load(Ordering::SeqCst)
    }

    /// Whether a walk was asked for a value after its snapshot was ended.
    pub fn was_used_after_end(&self) -> bool {
        self.walks.steps.after_end.load(Ordering::SeqCst)
    }
}

/// The snapshot of a walk.
struct Held {
    end: Mutex<End>,
    /// Where it is noted which thread has let go of it.
    let_go_on: Arc<Mutex<Vec<ThreadId>>>,
}

/// Whether a snapshot was ended, and what is called when it is.
#[derive(Default)]
struct End {
    is_ended: bool,
    calls: Vec<Box<dyn FnOnce() + Send>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut threads = self.let_go_on.lock().expect("no holder panics");
        threads.push(std::thread::current().id());
    }
}

/// How walks go.
#[derive(Default)]
struct Steps {
    /// No walk ever comes to a key.
    endless: AtomicBool,
    /// Pauses so far.
    paused: AtomicU64,
    after_end: AtomicBool,
}

struct MemoryWalk {
    /// `None` once it has met its end.
    held: Option<Arc<Held>>,
    items: Vec<Item>,
    revision: Revision,
    fail_next_step: Arc<Mutex<Option<Error>>>,
    here: Option<Item>,
    steps: Arc<Steps>,
}

impl MemoryWalk {
    fn here(&self) -> &Item {
        self.here.as_ref().expect("the walk is on a key")
    }
}

impl Walk for MemoryWalk {
    fn advance(&mut self, _steps_max: u32) -> Result<Advance> {
        let failure = self.fail_next_step.lock().expect("no holder panics").take();
        if let Some(error) = failure {
            return Err(error);
        }
        self.check()?;
        if self.steps.endless.load(Ordering::SeqCst) {
            self.steps.paused.fetch_add(1, Ordering::SeqCst);
            return Ok(Advance::Paused);
        }
        self.here = self.items.pop();
        Ok(if self.here.is_some() { Advance::Key } else { Advance::End })
    }

    fn key(&self) -> &[u8] {
        self.here.as_ref().map_or(b"deleted", |item| &item.key)
    }

    fn key_revision(&self) -> Revision {
        self.here().revision
    }

    fn value_len(&self) -> usize {
        self.steps.after_end.fetch_or(self.held.is_none(), Ordering::SeqCst);
        self.here().value.len()
    }

    fn value(&self) -> Result<Bytes> {
        Ok(self.here().value.clone())
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn check(&mut self) -> Result<()> {
        let is_ended = |held: &mut Arc<Held>| held.end.lock().expect("no holder panics").is_ended;
        drop(self.held.take_if(is_ended));
        match self.held {
            Some(_) => Ok(()),
            None => Err(Error::SnapshotEnded { at: self.revision, why: SnapshotEnd::Requested }),
        }
    }

    fn on_end(&self, call: Box<dyn FnOnce() + Send>) {
        let Some(held) = &self.held else { return call() };
        let mut end = held.end.lock().expect("no holder panics");
        if !end.is_ended {
            end.calls.push(call);
            return;
        }
        drop(end);
        call();
    }
}
