//! The end of a queue: what is in it is committed, and nothing more is taken.

use super::{CommitQueue, CommitSink};
use crate::error::Result;
use crate::wal::mark::LogEnd;

impl<S: CommitSink> CommitQueue<S> {
    /// Refuses new writes, commits what is queued, syncs, stops the thread. Idempotent.
    pub(crate) fn close(&self) -> Result<()> {
        let thread = self.thread.lock().take();
        let on_thread = self.thread_id == std::thread::current().id();
        {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            queue.held.hurry();
            self.shared.work.notify_one();
            // The commit thread cannot wait for itself: it drains the queue after this callback.
            while !on_thread && !queue.is_drained() {
                self.shared.drained.wait(&mut queue);
            }
        }
        if let Some(thread) = thread.filter(|_| !on_thread) {
            thread.join().expect("the commit thread does not panic");
        }
        self.shared.sync().map(|_| ())
    }

    /// Whether no batch can come any more. Not yet where the commit thread itself has closed the
    /// queue.
    pub(crate) fn is_over(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.closed && queue.is_drained()
    }

    /// Where the log ends, for the mark of a clean close; `None` if batches may still come.
    pub(crate) fn log_end(&self) -> Result<Option<LogEnd>> {
        let shared = &self.shared;
        if !self.is_over() {
            return Ok(None);
        }
        let mut log = shared.log.lock();
        shared.check_poison()?;
        log.end().map(Some).map_err(|error| shared.poison(error.with_sources()))
    }
}

impl<S: CommitSink> Drop for CommitQueue<S> {
    fn drop(&mut self) {
        // Nobody is left to hear of an error; who wants to know calls `close`.
        let _ = self.close();
    }
}
