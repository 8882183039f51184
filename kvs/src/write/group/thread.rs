//! The commit thread: it leads for those who do not block, and when what is held is due; and it
//! makes `Interval` writes durable in time.

use super::{CommitSink, Leader, Queue, Shared};
use parking_lot::MutexGuard;
use std::time::{Duration, Instant};

impl Queue {
    /// Whether what is held is due before the thread will look at it, and nobody leads.
    pub(super) fn is_watch_late(&self) -> bool {
        let is_late = |at| self.watch.is_none_or(|watch| at < watch);
        self.leader == Leader::Vacant && self.held.look_at().is_some_and(is_late)
    }
}

impl<S: CommitSink> Shared<S> {
    /// Until the queue is closed and drained.
    pub(super) fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            let now = Instant::now();
            if queue.due.is_some_and(|due| due <= now) {
                queue.due = None;
                drop(queue);
                // Poisons the queue when it fails, which every writer hears.
                let _ = self.sync();
                queue = self.queue.lock();
            } else if queue.leader == Leader::Thread {
                drop(queue);
                self.lead();
                queue = self.queue.lock();
            } else if queue.leader == Leader::Vacant
                && queue.held.look_at().is_some_and(|at| at <= self.now())
            {
                queue.leader = Leader::Thread;
            } else if queue.closed && queue.is_drained() {
                drop(queue);
                // For batches drained after a `close` on this thread; its error went to nobody.
                let _ = self.sync();
                return;
            } else {
                self.sleep(&mut queue);
            }
        }
    }

    /// Waits until something is due, or there is news.
    fn sleep(&self, queue: &mut MutexGuard<'_, Queue>) {
        queue.watch = queue.held.look_at().filter(|_| queue.leader == Leader::Vacant);
        let looks_at = queue.watch.map(|at| self.born + at);
        match queue.due.into_iter().chain(looks_at).min() {
            Some(due) => drop(self.work.wait_until(queue, due)),
            None => self.work.wait(queue),
        }
        // Awake, it looks before it sleeps.
        queue.watch = Some(Duration::ZERO);
    }
}
