//! Group commit: writers queue; one leader takes a group, appends it to the log once, applies it
//! and wakes the rest.
//!
//! ```text
//! commit() --+                    +- leader: make_room | log lock: append, apply, publish |
//! commit() --+--> queue --group-->+                                    hand over -> complete
//! submit() --+    (revision order)
//! ```
//!
//! There is at most one leader. A blocking caller who finds none leads at once, on its own thread;
//! a group of the queue's front is its own. An asynchronous submission is led by the commit thread
//! `db-commit`. A leader writes one group and then hands over to the owner of the queue's front,
//! or leaves the post vacant when the queue is empty:
//!
//! ```text
//! Vacant --commit--> Writer --front blocks--> Writer (the front's thread, woken)
//!    |                  |-----front async---> Thread (db-commit, woken)
//!    +----submit-----------------------------> Thread
//! ```
//!
//! Every change of the post happens under the queue's lock together with the look at the front, so
//! a queued batch always has a leader before or behind it. A leader that panics poisons the queue
//! and hands over all the same.
//!
//! A batch for a KVS whose root is too long is held (`held`) while others go past it; the commit
//! thread leads when it is due, if nobody else does.
//!
//! Locks: `queue` (short, no calls out) and `log` (the leader's right to write: held over the
//! append and its device IO, `apply` and `publish`; that is its purpose). They are never held
//! together, and neither is held when a caller's `done` or `make_room` runs, or the leader waits.
//!
//! A failure of the log poisons the queue: nothing that follows is accepted, because nobody can say
//! what the log holds. A full pool refuses the group alone, for nothing of it was logged; but not
//! before what the log holds has been flushed, which makes room where the log is all that is full.

mod ending;
mod held;
mod log;
mod members;
mod post;
mod room;
mod thread;
mod ticket;

#[cfg(test)]
mod tests;

pub(crate) use room::{LogFlush, LogRoom, Relief, Room};
pub(crate) use ticket::Done;

use crate::debt::patience::Waited;
use crate::debt::stall::StallReason;
use crate::entry::batch::WriteBatch;
use crate::error::{Error, Result, Scope};
use crate::key::Revision;
use crate::metrics::{Counter, MetricKind, Sample, emit};
use crate::options::{Durability, Options};
use crate::shape::life::{Failed, Life};
use crate::shape::view::Lagging;
use crate::wal::{Wal, WalMetrics};
use held::{Held, Taken};
use members::Group;
use parking_lot::{Condvar, Mutex, MutexGuard};
use post::Post;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};
use ticket::{Completion, Ticket, Turn, Waiter};

/// Bytes after which a group takes no further batch: one direct write of this size saturates a
/// drive, so a larger group would only wait longer.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Batches after which a group takes no further one: bounds how long the first waits for the last.
const GROUP_BATCHES_MAX: usize = 256;
/// What a queued batch costs beside its bytes, so that the byte limit bounds empty batches too.
const TICKET_BYTES: usize = 128;

/// What the leader drives. Called by one thread at a time, in revision order, and without a lock of
/// the queue but where it says so.
pub(crate) trait CommitSink: Send + Sync + 'static {
    /// The KVSs that are behind, so that their batches are held. None where holding is in vain:
    /// nothing is written any more, or the leader alone works.
    fn lagging(&self) -> Lagging {
        Lagging::new()
    }
    /// The log will need a segment soon ([`CommitQueue::take_wanted`]). Called under its lock.
    fn log_wants_segment(&self) {}
    /// For so long batches were held, or the leader has waited, for this reason.
    fn note_wait(&self, _time: Duration, _reason: StallReason) {}
    /// Whether the leader works where it would wait: nothing does in the background.
    fn works(&self) -> bool {
        false
    }
    /// Makes room for the batches in the active memtable before anything is logged, or says what to
    /// wait for; may refuse with [`Error::Stalled`]. An error other than `Stalled`, `Closed` or a
    /// full pool poisons the queue.
    fn make_room(
        &self,
        batches: &[&WriteBatch],
        wal_live_bytes: u64,
        waited: Waited,
    ) -> Result<Room>;
    /// The log finds no room: has what it holds flushed.
    fn flush_log(&self) -> LogFlush {
        LogFlush::default()
    }
    /// What has come of that.
    fn log_room(&self, _flush: &LogFlush) -> Result<LogRoom> {
        Ok(LogRoom::None)
    }
    /// Waits for a ring of the bell after the first `seen`, or works.
    fn wait(&self, _at_most: Duration, _seen: u64) -> Result<Relief> {
        Ok(Relief::default())
    }
    /// Applies one logged batch. Called under the log's lock.
    fn apply(&self, batch: &WriteBatch, revision: Revision);
    /// All revisions up to this one are applied: readers may see them. Called under the log's lock.
    fn publish(&self, revision: Revision);
}

/// The door of all writes.
pub(crate) struct CommitQueue<S: CommitSink> {
    shared: Arc<Shared<S>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whose `thread` it is, also after that has been joined or left.
    thread_id: ThreadId,
}

struct Shared<S> {
    /// When the queue began.
    born: Instant,
    queue: Mutex<Queue>,
    /// The commit thread waits here, with `queue`.
    work: Condvar,
    /// `close` waits here, with `queue`.
    drained: Condvar,
    log: Mutex<Wal>,
    /// Copies of the log's figures, for those who do not hold it: the bytes that a replay would
    /// read, and whether it wants a segment made; whether that was told.
    wal_live_bytes: AtomicU64,
    wal_wants: AtomicBool,
    wal_told: AtomicBool,
    /// A failure of the log ends all writing. Set under the log's lock or by a panicking leader.
    life: Arc<Life>,
    sink: Arc<S>,
    limits: Limits,
    counters: Counters,
    wal_metrics: Arc<WalMetrics>,
}

struct Limits {
    batch_bytes_max: usize,
    queue_bytes_max: usize,
    interval: Duration,
}

struct Queue {
    waiting: VecDeque<Ticket>,
    held: Held,
    /// Of waiting and held batches and of the group being written.
    bytes: usize,
    leader: Leader,
    /// When the commit thread will look at what is held; `None`: when it is told.
    watch: Option<Duration>,
    /// When `Interval` writes must be made durable.
    due: Option<Instant>,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    Vacant,
    /// The thread of a blocking caller.
    Writer,
    /// The commit thread.
    Thread,
}

#[derive(Default)]
struct Counters {
    groups: Counter,
    batches: Counter,
    stalls: Counter,
}

impl<S: CommitSink> CommitQueue<S> {
    /// Starts the commit thread. `last` is the last revision in use, that of the log.
    pub(crate) fn new(
        (wal, sink): (Wal, Arc<S>),
        life: Arc<Life>,
        options: &Options,
        last: Revision,
    ) -> Arc<Self> {
        assert_eq!(last, wal.last(), "the next revision follows the log's last");
        let shared = Arc::new(Shared {
            born: Instant::now(),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                held: Held::default(),
                bytes: 0,
                leader: Leader::Vacant,
                watch: None,
                due: None,
                closed: false,
            }),
            work: Condvar::new(),
            drained: Condvar::new(),
            wal_live_bytes: AtomicU64::new(wal.live_bytes()),
            wal_wants: AtomicBool::new(false),
            wal_told: AtomicBool::new(false),
            wal_metrics: Arc::clone(wal.metrics()),
            log: Mutex::new(wal),
            life,
            sink,
            limits: Limits {
                batch_bytes_max: options.batch_bytes_max(),
                queue_bytes_max: usize::try_from(options.commit_queue_bytes_max)
                    .unwrap_or(usize::MAX),
                interval: Duration::from_millis(options.interval_ms),
            },
            counters: Counters::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("db-commit".to_owned())
            .spawn(move || of_thread.run())
            .expect("the process may start one more thread");
        let thread_id = thread.thread().id();
        Arc::new(Self { shared, thread: Mutex::new(Some(thread)), thread_id })
    }

    /// Blocks until acknowledged as `durability` says. After a failure of the log every call is
    /// [`Error::Poisoned`].
    pub(crate) fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Revision> {
        let waiter = Waiter::of_this_thread();
        let ticket = Ticket::new(batch, durability, Completion::Waiter(waiter.handle()));
        if self.shared.enqueue(ticket) {
            self.shared.lead();
        }
        loop {
            match waiter.wait() {
                Turn::Lead => self.shared.lead(),
                Turn::Done(result) => return result,
            }
        }
    }

    /// Does not block; `done` runs on the leader's thread, or on this one if the batch is refused.
    pub(crate) fn submit(&self, batch: WriteBatch, durability: Durability, done: Done) {
        self.shared.enqueue(Ticket::new(batch, durability, Completion::Callback(done)));
    }

    /// Everything acknowledged so far onto stable storage; returns the last revision.
    pub(crate) fn sync(&self) -> Result<Revision> {
        self.shared.sync()
    }

    /// Compaction has done something: what is held for it is looked at.
    pub(crate) fn relieve(&self) {
        self.shared.relieve();
    }

    /// Runs `f` while no group is being committed. `f` must not write.
    pub(crate) fn exclusive<T>(&self, f: impl FnOnce() -> T) -> T {
        let _log = self.shared.log.lock();
        f()
    }

    /// Counters of the queue and of the log.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let shared = &self.shared;
        let (depth, bytes) = {
            let queue = shared.queue.lock();
            (queue.waiting.len() + queue.held.len(), queue.bytes)
        };
        let to_u64 = |count: usize| u64::try_from(count).expect("a count in memory");
        let counters = &shared.counters;
        let live = shared.wal_live_bytes.load(Ordering::Relaxed);
        for (name, help, kind, value) in [
            ("commit_groups_total", "Groups committed.", COUNTER, counters.groups.get()),
            (
                "commit_batches_total",
                "Batches committed in groups.",
                COUNTER,
                counters.batches.get(),
            ),
            ("commit_stalls_total", "Batches refused by a stall.", COUNTER, counters.stalls.get()),
            ("commit_queue_batches", "Batches waiting for a group.", GAUGE, to_u64(depth)),
            ("commit_queue_bytes", "Bytes waiting or being committed.", GAUGE, to_u64(bytes)),
            ("wal_live_bytes", "Bytes of log not yet in kvsets.", GAUGE, live),
        ] {
            emit(see, kind, (name, help), &[], value);
        }
        shared.wal_metrics.visit(see);
    }
}

const COUNTER: MetricKind = MetricKind::Counter;
const GAUGE: MetricKind = MetricKind::Gauge;

impl Queue {
    fn is_drained(&self) -> bool {
        self.leader == Leader::Vacant && self.waiting.is_empty() && self.held.is_empty()
    }
}

impl<S: CommitSink> Shared<S> {
    /// Queues the batch or refuses it. true: the caller is the leader.
    fn enqueue(&self, ticket: Ticket) -> bool {
        let blocking = ticket.is_blocking();
        match self.admit(ticket) {
            Ok(vacant) => vacant && blocking,
            Err(refused) => {
                let (ticket, error) = *refused;
                if matches!(error, Error::Stalled { .. }) {
                    self.counters.stalls.add(1);
                }
                ticket.complete(Err(error));
                false
            }
        }
    }

    /// Queues the batch. true: the post was vacant, and is given to the batch's side.
    fn admit(&self, ticket: Ticket) -> Result<bool, Box<(Ticket, Error)>> {
        let (len, max) = (ticket.batch().len_bytes(), self.limits.batch_bytes_max);
        if len > max {
            return Err(Box::new((ticket, Error::BatchLength { len, max })));
        }
        if let Err(error) = self.check_poison() {
            return Err(Box::new((ticket, error)));
        }
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Box::new((ticket, Error::Closed)));
        }
        let bytes = queue.bytes + len + TICKET_BYTES;
        // An idle queue takes any batch, so that none is refused for ever.
        if queue.bytes > 0 && bytes > self.limits.queue_bytes_max {
            return Err(Box::new((ticket, Error::Stalled { reason: "commit queue" })));
        }
        queue.bytes = bytes;
        let vacant = queue.leader == Leader::Vacant;
        if vacant {
            queue.leader = if ticket.is_blocking() { Leader::Writer } else { Leader::Thread };
        }
        queue.waiting.push_back(ticket);
        let wake = queue.leader == Leader::Thread && vacant;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        Ok(vacant)
    }

    /// Commits one group and hands over. Called by the leader only.
    fn lead(&self) {
        let Taken { group, refused, reason, .. } = self.take();
        let post = Post { shared: self, bytes: group.bytes, interval: group.interval };
        let outcome = (!group.tickets.is_empty()).then(|| self.write(&group));
        // Before the members wake: the next leader writes while this one completes them.
        drop(post);
        if let Some(outcome) = outcome {
            group.complete(outcome);
        }
        self.tell_refused(refused, reason);
    }

    /// Logs, applies and publishes the group; returns its first revision.
    fn write(&self, group: &Group) -> Result<Revision> {
        self.check_poison()?;
        let batches: Vec<&WriteBatch> = group.tickets.iter().map(Ticket::batch).collect();
        self.make_room(&batches).map_err(|error| self.refuse(error))?;
        let log = self.append(&batches, group.durable).map_err(|error| self.refuse(error))?;
        let first = Revision::new(log.last().get() + 1 - batches.len() as u64);
        let mut revision = first;
        for batch in batches {
            self.sink.apply(batch, revision);
            revision = revision.next();
        }
        self.sink.publish(log.last());
        self.counters.groups.add(1);
        self.counters.batches.add(revision.get() - first.get());
        Ok(first)
    }

    /// Logs the batches; returns the log, still locked.
    fn append(&self, batches: &[&WriteBatch], durable: bool) -> Result<MutexGuard<'_, Wal>> {
        let append = |log: &mut Wal| {
            let appended = log.append(log.last().next(), batches, durable);
            self.note(log);
            appended
        };
        let mut log = self.log.lock();
        self.check_poison()?;
        let full = match append(&mut log) {
            Ok(()) => return Ok(log),
            Err(error @ Error::LogFull { .. }) => error,
            Err(error) => return Err(error),
        };
        drop(log);
        let Some(floor) = self.flush_log()? else { return Err(full) };
        let mut log = self.log.lock();
        self.check_poison()?;
        log.release(floor)?;
        append(&mut log)?;
        Ok(log)
    }

    /// Poisons the queue unless the error is one of the moment.
    fn refuse(&self, error: Error) -> Error {
        match error {
            Error::Stalled { .. } => {
                self.counters.stalls.add(1);
                error
            }
            Error::Closed | Error::Poisoned { .. } => error,
            passing if passing.scope() == Scope::Moment => passing,
            fatal => self.poison(fatal.with_sources()),
        }
    }

    fn poison(&self, cause: String) -> Error {
        self.life.fail(Failed::Log, cause)
    }

    fn check_poison(&self) -> Result<()> {
        self.life.check(Failed::Log)
    }

    /// Since the queue began.
    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    /// When `Interval` writes of now must be durable.
    fn next_due(&self) -> Instant {
        Instant::now() + self.limits.interval
    }

    fn sync(&self) -> Result<Revision> {
        let mut log = self.log.lock();
        self.check_poison()?;
        log.sync().map_err(|error| self.poison(error.with_sources()))?;
        Ok(log.last())
    }
}
