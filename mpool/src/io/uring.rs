//! The `io_uring` back-end: one reactor thread owns the ring.
//!
//! Submitters put requests into lanes and wake the reactor if it sleeps; the reactor moves them
//! into the ring as the lanes allow, waits, and runs the callbacks of what has finished.
//!
//! If the ring ever fails as a whole, the reactor waits for what is in it and goes on without it,
//! one request at a time. Where even waiting fails, the requests in it end with an error; the
//! kernel may still carry out the writes among them, at any time, on room that is somebody else's
//! by then: so the pool is poisoned. The unsafe part is `sys::uring`.

use super::lanes::Lanes;
use crate::{
    device::Device,
    io::{
        lanes::WAITING_PER_DEPTH,
        request::{Completion, Request},
        thread::{enter_queue_thread, join_all, on_queue_thread},
    },
    sys::uring::{Finished, Ring, Waker},
};
use parking_lot::{Condvar, Mutex};
use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

pub(crate) struct Reactor {
    shared: Arc<Shared>,
    waker: Waker,
    waiting_max: usize,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    ring_fd: std::os::fd::RawFd,
}

struct Shared {
    state: Mutex<State>,
    room: Condvar,
}

struct State {
    lanes: Lanes<Request>,
    /// The reactor waits in the ring, or is about to; who finds this set clears it and wakes.
    asleep: bool,
    closing: bool,
}

impl Reactor {
    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        let ring = Ring::new(depth)?;
        let waker = ring.waker();
        #[cfg(test)]
        let ring_fd = ring.raw_fd();
        let state = State { lanes: Lanes::new(depth), asleep: false, closing: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new() });
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new().name("mpool-uring".to_owned()).spawn(move || {
            enter_queue_thread();
            Loop::new(served, ring, depth).run();
        })?;
        let waiting_max = usize::try_from(depth * WAITING_PER_DEPTH).expect("at most 16,384");
        let thread = Some(thread);
        Ok(Self {
            shared,
            waker,
            waiting_max,
            thread,
            #[cfg(test)]
            ring_fd,
        })
    }

    /// From here on every use of the ring fails.
    #[cfg(test)]
    pub(crate) fn break_ring(&self) {
        crate::sys::uring::replace_fd(self.ring_fd);
        self.waker.wake();
    }

    pub(crate) fn submit(&self, request: Request) {
        let mut state = self.shared.state.lock();
        while state.lanes.waiting() >= self.waiting_max && !on_queue_thread() {
            self.shared.room.wait(&mut state);
        }
        state.lanes.push(request.completion.priority, request);
        // With the depth used up, the next completion wakes the reactor anyway.
        let wake = state.lanes.has_next() && std::mem::replace(&mut state.asleep, false);
        drop(state);
        if wake {
            self.waker.wake();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.waker.wake();
        join_all(self.thread.take().into_iter().collect());
    }
}

/// The reactor thread's own state.
struct Loop {
    shared: Arc<Shared>,
    ring: Ring<Arc<dyn Device>>,
    tokens: Vec<usize>,
    /// By token.
    completions: Vec<Option<Completion>>,
}

impl Loop {
    fn new(shared: Arc<Shared>, ring: Ring<Arc<dyn Device>>, depth: u32) -> Self {
        let depth = usize::try_from(depth).expect("at most 1,024");
        let completions = (0..depth).map(|_| None).collect();
        Self { shared, ring, tokens: (0..depth).rev().collect(), completions }
    }

    fn run(mut self) {
        let mut finished = Vec::new();
        while self.start_next() {
            if let Err(error) = self.ring.wait(&mut finished) {
                tracing::error!(%error, "io_uring failed; going on without it");
                return self.run_without_ring(finished);
            }
            self.complete(&mut finished);
        }
        debug_assert_eq!(self.ring.in_flight(), 0);
    }

    fn complete(&mut self, finished: &mut Vec<Finished>) {
        for end in finished.drain(..) {
            let completion = self.completions[end.token].take().expect("one per token");
            self.tokens.push(end.token);
            self.shared.state.lock().lanes.finish(completion.priority);
            completion.finish(end.outcome.map(|()| end.buf));
        }
    }

    /// Moves what the lanes allow into the ring; false when closed and empty.
    fn start_next(&mut self) -> bool {
        let mut state = self.shared.state.lock();
        while let Some((_, request)) = state.lanes.pop() {
            let token = self.tokens.pop().expect("the lanes keep to the depth");
            self.completions[token] = Some(request.completion);
            self.ring.submit(token, request.transfer);
        }
        self.shared.room.notify_all();
        state.asleep = true;
        !(state.closing && state.lanes.waiting() == 0 && state.lanes.running() == 0)
    }

    fn run_without_ring(mut self, mut finished: Vec<Finished>) {
        let drained = self.ring.drain(&mut finished);
        self.complete(&mut finished);
        let Self { shared, ring, completions, .. } = self;
        // What the kernel may still use is leaked.
        drop(ring);
        for completion in completions.into_iter().flatten() {
            if let Err(error) = &drained {
                tracing::error!(%error, "a request is lost in a ring that failed");
            }
            shared.state.lock().lanes.finish(completion.priority);
            completion.lose("io_uring failed under the request");
        }
        loop {
            let mut state = shared.state.lock();
            let Some((priority, request)) = state.lanes.pop() else {
                if state.closing {
                    return;
                }
                // Without a ring there is no eventfd to wait on; `submit` cannot know, so look
                // again often enough for nobody to notice.
                shared.room.wait_for(&mut state, std::time::Duration::from_millis(5));
                continue;
            };
            drop(state);
            shared.room.notify_all();
            request.run();
            shared.state.lock().lanes.finish(priority);
        }
    }
}
