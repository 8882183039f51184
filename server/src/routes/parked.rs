//! A walk between its turns: it waits for its client, for a thread, or for memory.
//!
//! How long that takes may be a client's own affair, and what the walk's snapshot holds is not free
//! meanwhile. So where the snapshot is ended, a walk that waits lets go of it then, and who waits
//! for a turn of it or for memory is told at once; who waits for its client is told when that reads
//! on.
//!
//! ```text
//!   turn: taken ---- walks ---- put -----> waits ----> next turn      the snapshot is ended
//!           |                    |           |                           in a turn: put sees it
//!           |                    |           `-- let go <---------------between: found here
//!           |                    `-- let go if it was ended
//! ```
//!
//! To let go takes its time, so async workers do not: turns are on threads that may block, and so
//! is who ends a snapshot. A walk that is given up is dropped aside.

use super::walking::Walking;
use crate::engine::Walk;
use crate::routes::aside::Aside;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// The place of one walk. Clone = another handle.
#[derive(Clone)]
pub(crate) struct Parked(Arc<Place>);

struct Place {
    /// Empty during a turn.
    walking: Mutex<Option<Walking>>,
    /// Rung when the snapshot was ended.
    ended: Notify,
}

impl Drop for Place {
    fn drop(&mut self) {
        let walk = self.walking.get_mut().take().and_then(Walking::into_walk);
        drop(walk.map(Aside::new));
    }
}

impl Parked {
    pub(crate) fn new(walking: Walking) -> Self {
        Self(Arc::new(Place { walking: Mutex::new(Some(walking)), ended: Notify::new() }))
    }

    /// One turn, on a thread that may block.
    pub(crate) fn turn<T>(&self, work: impl FnOnce(&mut Walking) -> T) -> T {
        let taken = self.0.walking.lock().take();
        let mut walking = taken.expect("a walk is put back after each turn");
        let done = work(&mut walking);
        let mut place = self.0.walking.lock();
        // Under the lock: who ends the snapshot now comes after this, and finds the walk.
        walking.let_go_if_ended();
        *place = Some(walking);
        done
    }

    /// Opens the walk in a turn, unless it is open.
    pub(crate) fn open(
        &self,
        walking: &mut Walking,
        open: impl FnOnce() -> kvs::Result<Box<dyn Walk>>,
    ) -> kvs::Result<()> {
        if walking.is_open() {
            return Ok(());
        }
        let walk = open()?;
        // Weak, as the walk keeps the call, and the place the walk.
        let there = Arc::downgrade(&self.0);
        walk.on_end(Box::new(move || {
            let Some(place) = there.upgrade() else { return };
            if let Some(walking) = &mut *place.walking.lock() {
                walking.let_go_if_ended();
            }
            place.ended.notify_one();
        }));
        walking.opened(walk);
        Ok(())
    }

    /// Waits for something between two turns, or for a turn; an error once the snapshot was ended.
    pub(crate) async fn or_ended<T>(&self, wait: impl Future<Output = T>) -> kvs::Result<T> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            ended = self.ended() => Err(ended),
        }
    }

    /// Waits until the snapshot is ended and the walk has let go of it; says why.
    async fn ended(&self) -> kvs::Error {
        loop {
            // Before the look, so that no ring is missed after it.
            let rung = self.0.ended.notified();
            // Who has the lock lets go: a turn, which then tells, or who ends it, who rings then.
            let ended =
                self.0.walking.try_lock().and_then(|mut there| there.as_mut()?.take_ended());
            if let Some(ended) = ended {
                return ended;
            }
            rung.await;
        }
    }
}
