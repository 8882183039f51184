//! Many appends in flight, with one thread to look after them.
//!
//! An [`AppendRing`] takes appends to any zones of one device and says when each has ended and
//! where its bytes are. Two back-ends with the same semantics: `io_uring` with `NVMe` commands,
//! where the device has a [`Passthrough`](crate::device::Passthrough); else threads that call
//! [`Zoned::append`](crate::Zoned::append).
//!
//! ```text
//!   submit -> queue (at most `depth`; then the submitter waits) -> in flight (at most `depth`)
//!          -> done, on a thread of the ring
//! ```
//!
//! `done` must be short: it holds up the next completion. It may submit. Appends to one zone may
//! land in any order. Dropping the ring completes what was accepted, then joins its threads. If
//! `io_uring` ever fails as a whole, the appends in it end with an error and the ring goes on
//! without it, one append at a time.

use crate::{
    device::{Device, Passthrough, Zoned},
    io::thread::{enter_queue_thread, join_all, on_queue_thread, run_guarded},
    sys::{
        append_ring::{self, Appended},
        uring::Waker,
    },
};
use mpool_device::IoBuf;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

/// Runs on a thread of the ring when an append has ended: the byte offset on the device and the
/// buffer, or why not. An append that could never be right is refused on the submitting thread.
pub type AppendDone = Box<dyn FnOnce(io::Result<(u64, IoBuf)>) + Send>;

/// Appends in flight at most.
const DEPTH_MAX: u32 = 1024;
/// More threads than these would only wait for the drive.
const THREADS_MAX: u32 = 16;

struct Append {
    zone: u32,
    buf: IoBuf,
    len: usize,
    done: AppendDone,
}

impl Append {
    /// Serves the append on the calling thread.
    fn run(self, device: &dyn Device) {
        let Self { zone, buf, len, done } = self;
        let zones = device.zones().expect("checked in new");
        let outcome = zones.append(zone, &buf[..len]);
        finish(done, outcome.map(|offset| (offset, buf)));
    }
}

fn finish(done: AppendDone, outcome: io::Result<(u64, IoBuf)>) {
    run_guarded(Box::new(move || done(outcome)));
}

/// Appends with a bounded number in flight.
pub struct AppendRing {
    shared: Arc<Shared>,
    waker: Option<Waker>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    device: Arc<dyn Device>,
    depth: usize,
    state: Mutex<State>,
    /// For submitters: the queue has room.
    room: Condvar,
    /// For threads without a ring: the queue has work, or closes.
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Append>,
    /// The reactor waits in the kernel, or is about to; who finds this set clears it and wakes.
    asleep: bool,
    closing: bool,
}

/// The way past the block layer, if the device has the one that is known here.
fn passthrough_of(zones: &dyn Zoned) -> Option<&Passthrough> {
    zones.passthrough()?.downcast_ref()
}

impl AppendRing {
    /// A ring with `depth` (1..=1024) appends in flight on a device with zones.
    pub fn new(device: Arc<dyn Device>, depth: u32) -> io::Result<Self> {
        let Some(zones) = device.zones() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the device has no zones"));
        };
        if depth == 0 || depth > DEPTH_MAX {
            let text = format!("depth is {depth}, must be in 1..={DEPTH_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let ring = match passthrough_of(zones) {
            Some(passthrough) => passthrough
                .file()
                .and_then(|file| append_ring::AppendRing::new(file, depth))
                .inspect_err(|error| {
                    tracing::debug!(%error, "io_uring is not available; appending by threads");
                })
                .ok(),
            None => None,
        };
        let shared = Arc::new(Shared {
            device,
            depth: usize::try_from(depth).expect("at most 1,024"),
            state: Mutex::default(),
            room: Condvar::new(),
            work: Condvar::new(),
        });
        let waker = ring.as_ref().map(append_ring::AppendRing::waker);
        // Made first, so that an early return joins what has been started.
        let mut appends = Self { shared, waker, threads: Vec::new() };
        match ring {
            Some(ring) => appends.spawn(move |shared| Loop::new(shared, ring).run())?,
            None => {
                for _ in 0..depth.min(THREADS_MAX) {
                    appends.spawn(|shared| shared.serve())?;
                }
            }
        }
        Ok(appends)
    }

    fn spawn(&mut self, serve: impl FnOnce(Arc<Shared>) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("mpool-append".to_owned()).spawn(move || {
            enter_queue_thread();
            serve(shared);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// "uring" or "threads".
    pub fn backend(&self) -> &'static str {
        if self.waker.is_some() { "uring" } else { "threads" }
    }

    /// Appends the first `len` bytes of `buf` to `zone`; see
    /// [`Zoned::append`](crate::Zoned::append). Waits while `depth` appends are queued, but not on
    /// a thread that runs completions.
    pub fn submit(&self, zone: u32, buf: IoBuf, len: usize, done: AppendDone) {
        if let Err(refused) = self.check(zone, &buf, len) {
            return done(Err(refused));
        }
        let mut state = self.shared.state.lock();
        while state.queue.len() >= self.shared.depth && !on_queue_thread() {
            self.shared.room.wait(&mut state);
        }
        state.queue.push_back(Append { zone, buf, len, done });
        let wake = std::mem::replace(&mut state.asleep, false);
        drop(state);
        match &self.waker {
            Some(waker) if wake => waker.wake(),
            Some(_) => {}
            None => drop(self.shared.work.notify_one()),
        }
    }

    fn check(&self, zone: u32, buf: &IoBuf, len: usize) -> io::Result<()> {
        let zones = self.shared.device.zones().expect("checked in new");
        if len > buf.len() {
            let text = format!("append of {len} bytes from a buffer of {}", buf.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        zones.limits().check_append(zone, len)
    }
}

impl Drop for AppendRing {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        join_all(std::mem::take(&mut self.threads));
    }
}

impl Shared {
    /// What a thread without a ring does until the ring closes.
    fn serve(&self) {
        loop {
            let mut state = self.state.lock();
            if let Some(append) = state.queue.pop_front() {
                drop(state);
                self.room.notify_one();
                append.run(&*self.device);
            } else if state.closing {
                return;
            } else {
                self.work.wait(&mut state);
            }
        }
    }
}

/// The reactor thread's own state.
struct Loop {
    shared: Arc<Shared>,
    ring: append_ring::AppendRing,
    tokens: Vec<usize>,
    /// By token.
    waiting: Vec<Option<AppendDone>>,
}

impl Loop {
    fn new(shared: Arc<Shared>, ring: append_ring::AppendRing) -> Self {
        let depth = shared.depth;
        Self {
            shared,
            ring,
            tokens: (0..depth).collect(),
            waiting: (0..depth).map(|_| None).collect(),
        }
    }

    fn run(mut self) {
        let mut finished = Vec::new();
        while self.start_next() {
            if let Err(error) = self.ring.wait(&mut finished) {
                tracing::error!(%error, "io_uring failed; appending without it");
                return self.run_without_ring();
            }
            for end in finished.drain(..) {
                self.complete(end);
            }
        }
    }

    fn complete(&mut self, end: Appended) {
        let done = self.waiting[end.token].take().expect("one per token");
        self.tokens.push(end.token);
        let shared = Arc::clone(&self.shared);
        let zones = shared.device.zones().expect("checked in new");
        let passthrough = passthrough_of(zones).expect("checked in new");
        finish(done, end.outcome.map(|block| (passthrough.bytes_of(block), end.buf)));
    }

    /// Moves what there is room for into the kernel's ring; false when closed and empty.
    fn start_next(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let zones = shared.device.zones().expect("checked in new");
        let passthrough = passthrough_of(zones).expect("checked in new");
        loop {
            let mut state = shared.state.lock();
            let Some(token) = self.tokens.pop() else {
                // The next completion comes without a wake-up.
                return true;
            };
            let Some(append) = state.queue.pop_front() else {
                self.tokens.push(token);
                state.asleep = true;
                return !(state.closing && self.ring.in_flight() == 0);
            };
            drop(state);
            shared.room.notify_one();
            let Append { zone, buf, len, done } = append;
            if let Err(poisoned) = passthrough.check_writable() {
                self.tokens.push(token);
                finish(done, Err(poisoned));
                continue;
            }
            self.waiting[token] = Some(done);
            self.ring.submit(token, passthrough.target(zone), buf, len);
        }
    }

    fn run_without_ring(self) {
        let Self { shared, ring, waiting, .. } = self;
        // Waits for the kernel as far as it can, so that no buffer is in use any more.
        drop(ring);
        for done in waiting.into_iter().flatten() {
            finish(done, Err(io::Error::other("io_uring failed under the append")));
        }
        loop {
            let mut state = shared.state.lock();
            if let Some(append) = state.queue.pop_front() {
                drop(state);
                shared.room.notify_one();
                append.run(&*shared.device);
            } else if state.closing {
                return;
            } else {
                // Without a ring nobody can wake this thread by it; `submit` cannot know, so look
                // again often enough for nobody to notice.
                shared.work.wait_for(&mut state, std::time::Duration::from_millis(5));
            }
        }
    }
}
