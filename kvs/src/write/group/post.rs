//! Handing over the right to lead.

use super::ticket::{Ticket, Turn};
use super::{CommitSink, Leader, Shared};

/// The leader's post. Dropping it hands over, after a panic too.
pub(super) struct Post<'a, S: CommitSink> {
    pub(super) shared: &'a Shared<S>,
    /// Of the group.
    pub(super) bytes: usize,
    /// Whether the group has `Interval` writes.
    pub(super) interval: bool,
}

impl<S: CommitSink> Drop for Post<'_, S> {
    fn drop(&mut self) {
        let shared = self.shared;
        if std::thread::panicking() {
            shared.poison("the thread that was committing a group panicked".to_owned());
        }
        let mut queue = shared.queue.lock();
        queue.bytes -= self.bytes;
        let mut wake = false;
        if self.interval && queue.due.is_none() {
            queue.due = Some(shared.next_due());
            wake = true;
        }
        let next = queue.waiting.front().map(Ticket::waiter);
        match &next {
            None => queue.leader = Leader::Vacant,
            Some(Some(_)) => queue.leader = Leader::Writer,
            Some(None) => queue.leader = Leader::Thread,
        }
        wake |= queue.leader == Leader::Thread || queue.closed || queue.is_watch_late();
        let drained = queue.closed && queue.is_drained();
        drop(queue);
        if let Some(Some(waiter)) = next {
            waiter.give(Turn::Lead);
        }
        if wake {
            shared.work.notify_one();
        }
        if drained {
            shared.drained.notify_all();
        }
    }
}
