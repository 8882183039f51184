//! What all threads of the IO queue have in common.

use std::{
    cell::Cell,
    thread::{self, JoinHandle},
};

/// A job for [`IoQueue::run_blocking`](crate::IoQueue::run_blocking).
pub type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    static ON_QUEUE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Queue threads never wait for room: they are the ones who make it.
pub(crate) fn on_queue_thread() -> bool {
    ON_QUEUE_THREAD.get()
}

pub(crate) fn enter_queue_thread() {
    ON_QUEUE_THREAD.set(true);
}

/// Runs foreign code; a panic in it ends that code, not the queue.
pub(crate) fn run_guarded(job: Job) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
        tracing::error!("a job on the IO queue panicked; the queue goes on");
    }
}

/// Joins threads, except the calling one: a callback may hold the last reference to the pool.
pub(crate) fn join_all(threads: Vec<JoinHandle<()>>) {
    for handle in threads {
        if handle.thread().id() != thread::current().id() && handle.join().is_err() {
            tracing::error!("an IO thread panicked");
        }
    }
}
