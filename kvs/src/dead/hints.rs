//! Where keys were deleted: hints for the thread that looks for dead ranges.
//!
//! One delete in two thousand of a KVS leaves its key here. Hints may fall behind: then they are
//! dropped, the oldest first, and what they meant is found from a later one if there lies nothing
//! in between.

use crate::key::KvsId;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::thread::JoinHandle;

/// Hints that may wait.
const HINTS_MAX: usize = 64;
pub(crate) type Hint = (KvsId, Bytes);

#[derive(Default)]
struct Waiting {
    hints: VecDeque<Hint>,
    closed: bool,
}

/// Where keys were deleted. See the module.
#[derive(Default)]
pub(crate) struct Hints {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while the thread holds a view.
    walk: Mutex<()>,
}

impl Hints {
    pub(crate) fn push(&self, kvs: KvsId, key: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.hints.len() == HINTS_MAX {
            waiting.hints.pop_front();
        }
        waiting.hints.push_back((kvs, Bytes::copy_from_slice(key)));
        self.bell.notify_one();
    }

    /// The next hint; `None` once they are closed.
    pub(crate) fn next(&self) -> Option<Hint> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(hint) = waiting.hints.pop_front() {
                return Some(hint);
            }
            self.bell.wait(&mut waiting);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.bell.notify_all();
    }

    /// Until the guard is dropped, the thread holds a view.
    pub(crate) fn begin_walk(&self) -> MutexGuard<'_, ()> {
        self.walk.lock()
    }

    /// Waits until the thread holds no view that is older than this call.
    pub(crate) fn wait_for_walk(&self) {
        drop(self.walk.lock());
    }

    /// The thread that takes them.
    pub(crate) fn set_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock() = Some(thread);
    }

    /// The thread, for who joins it after [`close`](Self::close).
    pub(crate) fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().take()
    }
}
