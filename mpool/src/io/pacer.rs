//! Keeps background requests within what `pace` allows.
//!
//! Every transfer takes a [`Ticket`], whether it goes through the queue or is made on the calling
//! thread, so all of them are seen in one place. A foreground ticket costs two looks at the clock
//! and some relaxed counters, and never waits. A background one (compaction, scrub, moving objects)
//! waits until the policy lets it start; a queue thread never waits, because it is the one who ends
//! requests.
//!
//! The latencies compared are those of foreground reads and of durable log writes, each with its
//! own quiet value: a moving mean over requests during which no background request was in flight.

use super::pace::{self, Limits, Snapshot, Verdict};
use crate::{
    io::thread::on_queue_thread,
    media::Priority,
    metrics::PoolMetrics,
    options::{Options, PacingOptions},
};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The foreground counts as at work for this long after its last request.
const RECENT_US: u64 = 10_000;
/// Longer foreground requests say more of their own length than of the drive.
const WATCHED_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub(crate) struct Pacer {
    enabled: bool,
    limits: Limits,
    began: Instant,
    reads: Watch,
    logs: Watch,
    /// When the foreground was last seen, in microseconds from `began`.
    foreground_us: AtomicU64,
    hurry: AtomicBool,
    /// In flight; also in `state`, this copy for those who do not take the lock.
    background: AtomicU32,
    state: Mutex<State>,
    /// Signalled when a background request ends.
    ended: Condvar,
    metrics: Arc<PoolMetrics>,
}

struct State {
    rate: u64,
    allowance: i64,
    refilled_us: u64,
    stepped_us: u64,
}

/// The latency of one kind of foreground request.
#[derive(Default)]
struct Watch {
    /// Moving means, in nanoseconds; 0 = not known yet. Updates may race and get lost.
    lately: AtomicU64,
    quiet: AtomicU64,
    /// Requests since the last step.
    seen: AtomicU64,
}

/// A request under way. Dropped when it ends, however it ends.
#[must_use = "dropping the ticket ends the request"]
pub(crate) struct Ticket {
    pacer: Arc<Pacer>,
    kind: Kind,
    bytes: usize,
}

enum Kind {
    /// `alone`: no background request was in flight when it started.
    Foreground {
        priority: Priority,
        started: Instant,
        alone: bool,
    },
    Background,
    /// Neither: flushes of memory.
    Between,
}

impl Ticket {
    /// How many bytes the request may move: what was asked for, or less for a background read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let pacer = &self.pacer;
        match self.kind {
            Kind::Foreground { priority, started, alone } => {
                let alone = alone && pacer.background.load(Relaxed) == 0;
                let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                if self.bytes <= WATCHED_BYTES_MAX {
                    let is_log = priority == Priority::Wal;
                    let watch = if is_log { &pacer.logs } else { &pacer.reads };
                    watch.note(nanos, alone);
                }
                pacer.foreground_us.store(pacer.now_us(), Relaxed);
            }
            Kind::Background => {
                let state = pacer.state.lock();
                pacer.background.fetch_sub(1, Relaxed);
                drop(state);
                pacer.ended.notify_one();
            }
            Kind::Between => {}
        }
    }
}

impl Watch {
    fn note(&self, nanos: u64, alone: bool) {
        let blend = |mean: &AtomicU64, weight: u64| {
            let old = mean.load(Relaxed);
            let new = if old == 0 { nanos } else { old - old / weight + nanos / weight };
            mean.store(new.max(1), Relaxed);
        };
        blend(&self.lately, 16);
        if alone {
            blend(&self.quiet, 256);
        }
        self.seen.fetch_add(1, Relaxed);
    }

    /// Latency over its quiet value, in percent, if there was any since the last call.
    fn strain_pct(&self) -> Option<u64> {
        let (lately, quiet) = (self.lately.load(Relaxed), self.quiet.load(Relaxed));
        let known = self.seen.swap(0, Relaxed) > 0 && quiet > 0;
        known.then(|| lately.saturating_mul(100) / quiet)
    }
}

impl Pacer {
    pub(crate) fn new(options: &Options, metrics: Arc<PoolMetrics>) -> Self {
        let PacingOptions { enabled, bytes_per_second_max, chunk_bytes, depth } = options.pacing;
        let limits = Limits {
            bytes_per_second_max: bytes_per_second_max.unwrap_or(pace::RATE_MAX),
            chunk_bytes,
            depth,
            depth_quiet: (options.queue_depth / 4).max(1),
        };
        let rate = pace::next_rate(&limits, pace::RATE_MAX, None);
        let state = State { rate, allowance: 0, refilled_us: 0, stepped_us: 0 };
        Self {
            enabled,
            limits,
            began: Instant::now(),
            reads: Watch::default(),
            logs: Watch::default(),
            foreground_us: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            background: AtomicU32::new(0),
            state: Mutex::new(state),
            ended: Condvar::new(),
            metrics,
        }
    }

    /// Lifts all bounds of background requests, or sets them again.
    pub(crate) fn hurry(&self, hurry: bool) {
        if self.hurry.swap(hurry, Relaxed) != hurry && hurry {
            self.metrics.pace_hurries.add(1);
            self.ended.notify_all();
        }
    }

    /// How long one background write should be.
    pub(crate) fn chunk_bytes(&self, priority: Priority) -> usize {
        let chunk_bytes = usize::try_from(self.limits.chunk_bytes).expect("at most 1 MiB");
        if self.enabled && is_background(priority) { chunk_bytes } else { usize::MAX }
    }

    /// A ticket for a request of exactly `bytes`; a background one may wait.
    pub(crate) fn enter(self: &Arc<Self>, priority: Priority, bytes: usize) -> Ticket {
        let mut ticket = self.enter_part(priority, bytes);
        ticket.bytes = bytes;
        ticket
    }

    /// As `enter`, for a caller that goes on with the rest if the ticket is for less.
    pub(crate) fn enter_part(self: &Arc<Self>, priority: Priority, bytes: usize) -> Ticket {
        let (kind, bytes) = if is_background(priority) {
            (Kind::Background, self.wait_for_turn(bytes))
        } else if matches!(priority, Priority::Wal | Priority::Read) {
            let (started, alone) = (Instant::now(), self.background.load(Relaxed) == 0);
            (Kind::Foreground { priority, started, alone }, bytes)
        } else {
            (Kind::Between, bytes)
        };
        Ticket { pacer: Arc::clone(self), kind, bytes }
    }

    fn wait_for_turn(&self, want: usize) -> usize {
        let mut state = self.state.lock();
        let mut waited = None;
        loop {
            let now_us = self.now_us();
            self.step(&mut state, now_us);
            let now = Snapshot {
                foreground: now_us.saturating_sub(self.foreground_us.load(Relaxed)) < RECENT_US,
                background: self.background.load(Relaxed),
                allowance: state.allowance,
                hurry: self.hurry.load(Relaxed) || !self.enabled || on_queue_thread(),
            };
            match pace::verdict(&self.limits, state.rate, &now, want as u64) {
                Verdict::Start { bytes, reason: _ } => {
                    self.background.fetch_add(1, Relaxed);
                    let taken = i64::try_from(bytes).expect("a request");
                    state.allowance = state.allowance.saturating_sub(taken);
                    drop(state);
                    if let Some(since) = waited {
                        let waited = Duration::from_micros(now_us - since);
                        self.metrics.pace_wait.record_time(waited);
                    }
                    return usize::try_from(bytes).expect("no more than was wanted");
                }
                Verdict::Wait { us, reason: _ } => {
                    waited.get_or_insert(now_us);
                    self.ended.wait_for(&mut state, Duration::from_micros(us));
                }
            }
        }
    }

    /// Brings the allowance and, when it is time, the rate up to date.
    fn step(&self, state: &mut State, now_us: u64) {
        let elapsed_us = now_us.saturating_sub(state.refilled_us);
        state.allowance = pace::refill(state.allowance, state.rate, elapsed_us);
        state.refilled_us = now_us;
        if now_us.saturating_sub(state.stepped_us) < pace::STEP_US {
            return;
        }
        state.stepped_us = now_us;
        let strain = [&self.reads, &self.logs].into_iter().filter_map(Watch::strain_pct).max();
        state.rate = pace::next_rate(&self.limits, state.rate, strain);
        self.metrics.pace_bytes_per_second.set(state.rate);
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn is_background(priority: Priority) -> bool {
    priority == Priority::Compaction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(pacing: &PacingOptions) -> Arc<Pacer> {
        let options = Options { pacing: pacing.clone(), ..Options::default() };
        Arc::new(Pacer::new(&options, Arc::new(PoolMetrics::default())))
    }

    #[test]
    fn background_requests_are_cut_while_the_foreground_is_at_work() {
        let pacer = pacer(&PacingOptions { chunk_bytes: 64 << 10, ..PacingOptions::default() });
        // Long ago, so that nobody was seen lately.
        pacer.foreground_us.store(0, Relaxed);
        drop(pacer.enter(Priority::Read, 4096));
        let ticket = pacer.enter_part(Priority::Compaction, 1 << 20);
        assert_eq!(ticket.bytes(), 64 << 10);
        let whole = pacer.enter(Priority::Compaction, 100 << 10);
        assert_eq!(whole.bytes(), 100 << 10, "a write keeps its length");
        assert_eq!(pacer.background.load(Relaxed), 2);
        drop((ticket, whole));
        assert_eq!(pacer.background.load(Relaxed), 0);
    }

    #[test]
    fn a_request_over_the_depth_waits_for_the_end_of_another() {
        let pacer = pacer(&PacingOptions { depth: 1, ..PacingOptions::default() });
        pacer.foreground_us.store(u64::MAX, Relaxed);
        let first = pacer.enter(Priority::Compaction, 4096);
        let ended = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (pacer, seen) = (&pacer, Arc::clone(&ended));
            let second = scope.spawn(move || {
                let _ticket = pacer.enter(Priority::Compaction, 4096);
                seen.load(Relaxed)
            });
            // The foreground is never held up.
            drop(pacer.enter(Priority::Wal, 4096));
            pacer.foreground_us.store(u64::MAX, Relaxed);
            drop(pacer.enter(Priority::Flush, 4096));
            ended.store(true, Relaxed);
            drop(first);
            assert!(second.join().unwrap(), "it started after the end of the first");
        });
    }

    #[test]
    fn hurry_and_disabled_let_everything_through() {
        let off = PacingOptions { enabled: false, ..PacingOptions::default() };
        let lifted = pacer(&PacingOptions { depth: 1, ..PacingOptions::default() });
        lifted.hurry(true);
        for pacer in [pacer(&off), lifted] {
            pacer.foreground_us.store(u64::MAX, Relaxed);
            let tickets: Vec<_> =
                (0..100).map(|_| pacer.enter_part(Priority::Compaction, 1 << 20)).collect();
            assert!(tickets.iter().all(|ticket| ticket.bytes() == 1 << 20));
        }
    }

    #[test]
    fn strain_is_the_latency_over_that_of_requests_alone() {
        let watch = Watch::default();
        assert_eq!(watch.strain_pct(), None, "nothing is known");
        (0..1000).for_each(|_| watch.note(100_000, true));
        assert!(watch.strain_pct().unwrap().abs_diff(100) < 5);
        (0..1000).for_each(|_| watch.note(500_000, false));
        assert!(watch.strain_pct().unwrap().abs_diff(500) < 20);
        assert_eq!(watch.strain_pct(), None, "nothing new");
    }
}
