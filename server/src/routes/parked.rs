//! A walk that waits between two turns, for its client or for memory.
//!
//! How long a client takes to read is its own affair, and what the walk's snapshot holds is not
//! free meanwhile. So where the snapshot is ended, a walk that waits lets go of it then; its client
//! is told when it reads on.
//!
//! ```text
//!   put -----> waits ----> take          the snapshot is ended
//!    |           |                          before put: put sees it
//!    |           `-- let go <---------------between: the call finds the walk here
//!    `-- let go if it was ended             after take: the turn sees it
//! ```

use super::walking::Walking;
use parking_lot::Mutex;
use std::sync::Arc;

/// The place of one walk.
pub(crate) struct Parked(Arc<Mutex<Option<Walking>>>);

impl Parked {
    /// Of a walk that is open.
    pub(crate) fn new(walking: Walking) -> Self {
        let place: Arc<Mutex<Option<Walking>>> = Arc::default();
        // Weak, as the walk keeps the call, and the place the walk.
        let (parked, there) = (Self(Arc::clone(&place)), Arc::downgrade(&place));
        walking.on_end(Box::new(move || {
            if let Some(place) = there.upgrade()
                && let Some(walking) = &mut *place.lock()
            {
                walking.let_go_if_ended();
            }
        }));
        parked.put(walking);
        parked
    }

    /// Puts the walk back.
    pub(crate) fn put(&self, mut walking: Walking) {
        let mut place = self.0.lock();
        // Under the lock: who ends the snapshot now comes after this, and finds the walk.
        walking.let_go_if_ended();
        *place = Some(walking);
    }

    /// Takes the walk for its next turn.
    pub(crate) fn take(&self) -> Walking {
        self.0.lock().take().expect("a walk is put back after each turn")
    }
}
