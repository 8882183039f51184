//! Worker threads that run jobs by priority.
//!
//! They are the thread back-end of the queue, and run blocking jobs beside a ring. Threads start
//! when there is work for them, up to the depth, and stay. The queue of waiting jobs is bounded: a
//! pusher waits for room, except a queue thread, which would wait for itself.

use super::lanes::Lanes;
use crate::{
    io::{
        lanes::WAITING_PER_DEPTH,
        thread::{Job, enter_queue_thread, join_all, on_queue_thread, run_guarded},
    },
    media::Priority,
};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

pub(crate) struct Workers {
    shared: Arc<Shared>,
    waiting_max: usize,
    threads_max: u32,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a job may be started, and at the end.
    work: Condvar,
    /// Signalled when a waiting job has been taken.
    room: Condvar,
}

struct State {
    lanes: Lanes<Job>,
    idle: u32,
    closing: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(crate) fn new(threads_max: u32) -> Self {
        let state =
            State { lanes: Lanes::new(threads_max), idle: 0, closing: false, threads: Vec::new() };
        let shared =
            Shared { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new() };
        let waiting_max = usize::try_from(threads_max * WAITING_PER_DEPTH).expect("at most 16,384");
        Self { shared: Arc::new(shared), waiting_max, threads_max }
    }

    pub(crate) fn push(&self, priority: Priority, job: Job) {
        let mut state = self.shared.state.lock();
        while state.lanes.waiting() >= self.waiting_max && !on_queue_thread() {
            self.shared.room.wait(&mut state);
        }
        state.lanes.push(priority, job);
        let threads = u32::try_from(state.threads.len()).expect("bounded by threads_max");
        // An idle thread may have been woken for an earlier job and not be up yet, so idle ones are
        // counted against all that waits: a job must not stand in line behind one that blocks.
        let idle = usize::try_from(state.idle).expect("bounded by threads_max");
        if idle < state.lanes.waiting() && threads < self.threads_max {
            self.start_thread(&mut state);
        }
        drop(state);
        self.shared.work.notify_one();
    }

    fn start_thread(&self, state: &mut State) {
        let shared = Arc::clone(&self.shared);
        let name = format!("mpool-io-{}", state.threads.len());
        match thread::Builder::new().name(name).spawn(move || shared.serve()) {
            Ok(handle) => state.threads.push(handle),
            // With at least one thread the work is done, if more slowly.
            Err(error) if !state.threads.is_empty() => {
                tracing::warn!(%error, threads = state.threads.len(), "no more IO threads");
            }
            Err(error) => panic!("the first IO thread cannot be started: {error}"),
        }
    }
}

impl Shared {
    fn serve(&self) {
        enter_queue_thread();
        let mut state = self.state.lock();
        loop {
            if let Some((priority, job)) = state.lanes.pop() {
                drop(state);
                self.room.notify_one();
                run_guarded(job);
                state = self.state.lock();
                state.lanes.finish(priority);
                // The end of one job may let another lane start, or let all threads leave.
                if state.closing {
                    self.work.notify_all();
                } else {
                    self.work.notify_one();
                }
            } else if state.closing && state.lanes.waiting() == 0 {
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.state.lock();
            state.closing = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.work.notify_all();
        join_all(threads);
    }
}
