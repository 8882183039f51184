//! One connection: what it is doing, and when it has done nothing for too long.
//!
//! The HTTP library is fed through [`Wire`], which notes when bytes move. From these notes and
//! the number of requests under way a pure rule, which [`watch`] asks, decides whether the
//! connection has overstayed one of four limits:
//!
//! ```text
//!   accepted --first byte--> head --request--> busy --response sent--> idle --first byte--> head
//!      |                      |                 |                       |
//!   header_timeout      header_timeout    write_timeout           idle_timeout
//!                                         (peer reads too slowly)
//! ```
//!
//! A connection is idle since the last *progress*: a request that came or ended, a piece of a
//! response that was taken. Other bytes are none, or the pings of HTTP/2 would keep it for ever.
//! Whether the peer reads fast enough each response keeps account of ([`delivery`]): where
//! one waits for its peer, its account decides. That nothing can be written of what is too small
//! for an account is seen here.
//!
//! [`watch`] sleeps until the earliest moment at which a limit could be broken and looks again, so
//! that a request costs a few atomic stores and no timer. HTTP/2 connections have no head phase:
//! their frames belong to the HTTP library. Of theirs a header block that goes on in another frame
//! is under the limit on heads.

pub mod arrival;
pub mod delivery;
pub mod pace;
mod wire;

use crate::connection::pace::Pace;
use delivery::{Delivered, Delivery, Protocol};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
pub use wire::Wire;

/// What a peer may be ahead of the least rate: what the receiving side of a connection may swallow
/// at once. Linux takes up to 6 MiB into a socket unless it is told otherwise, and programs take
/// some megabytes between two rests (curl with a limit of its own: 100 times what it reads at
/// once).
const AHEAD_BYTES_MAX: u64 = 8 << 20;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request (or from accepting the connection) to the end of its head.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without the peer taking any of the bytes that wait for it, of small responses; of others,
    /// how far it may be behind the least rate.
    pub write: Duration,
    /// Least rate at which a peer takes a response, bytes per second; 0: none.
    pub rate_min: u64,
}

impl Timeouts {
    /// How fast a peer must read.
    pub fn pace(&self) -> Pace {
        Pace {
            bytes_per_s: self.rate_min,
            behind_max: self.write,
            ahead_bytes_max: AHEAD_BYTES_MAX,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            // Clients that pool connections expect at least a minute.
            idle: Duration::from_secs(90),
            write: Duration::from_mins(1),
            // Below the slowest links that people use, and 16 MiB still end within a quarter of an
            // hour.
            rate_min: 16 << 10,
        }
    }
}

/// Limits on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections open at a time.
    pub connections_max: usize,
    /// Most bytes of a request's head.
    pub header_bytes_max: usize,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections_max: 10_000, header_bytes_max: 64 << 10, timeouts: Timeouts::default() }
    }
}

/// Why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overstay {
    /// The head of a request came too slowly.
    Header,
    /// There was nothing to do.
    Idle,
    /// The peer read nothing, or too slowly.
    Write,
}

impl Overstay {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Header, Self::Idle, Self::Write];

    /// As label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header_timeout",
            Self::Idle => "idle",
            Self::Write => "write_timeout",
        }
    }
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again after this time at the latest.
    LookAgainIn(Duration),
    /// Close it.
    Close(Overstay),
}

/// Notes of what happens on a connection. Times are milliseconds since it was accepted, plus one,
/// so that zero means "not".
///
/// All accesses are `Relaxed`: the notes are hints for a coarse timer, and publish nothing.
pub struct Activity {
    accepted: Instant,
    requests: AtomicU64,
    progress_ms: AtomicU64,
    head_since_ms: AtomicU64,
    /// Of HTTP/2: since when a header block has not ended.
    block_since_ms: AtomicU64,
    write_blocked_since_ms: AtomicU64,
    http2: AtomicBool,
    /// Responses on their way; some may be delivered.
    deliveries: Mutex<Vec<Weak<Delivery>>>,
}

/// Responses on their way that are noted before those that were delivered are forgotten.
const DELIVERIES_KEPT: usize = 64;

impl Activity {
    /// Of a connection accepted now. It owes a head from the start.
    pub fn new() -> Self {
        Self {
            accepted: Instant::now(),
            requests: AtomicU64::new(0),
            progress_ms: AtomicU64::new(1),
            head_since_ms: AtomicU64::new(1),
            block_since_ms: AtomicU64::new(0),
            write_blocked_since_ms: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            deliveries: Mutex::new(Vec::new()),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// A request's head is complete; it is under way until the guard drops.
    pub fn begin_request(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since_ms.store(0, Ordering::Relaxed);
        self.note_progress();
        Busy { activity: Arc::clone(self) }
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn note_progress(&self) {
        self.progress_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn look_after(&self, delivery: &Arc<Delivery>) {
        let mut deliveries = self.deliveries.lock();
        if deliveries.len() >= DELIVERIES_KEPT {
            deliveries.retain(|delivery| delivery.strong_count() > 0);
        }
        deliveries.push(Arc::downgrade(delivery));
    }

    /// The response whose peer is nearest to being too slow.
    pub(crate) fn slowest(&self) -> Option<Arc<Delivery>> {
        let mut deliveries = self.deliveries.lock();
        deliveries.retain(|delivery| delivery.strong_count() > 0);
        let waiting = deliveries.iter().filter_map(Weak::upgrade);
        let waiting = waiting.filter_map(|one| one.left().map(|left| (left, one)));
        waiting.min_by_key(|(left, _)| *left).map(|(_, slowest)| slowest)
    }

    fn note_read(&self) {
        if !self.is_busy() && self.head_since_ms.load(Ordering::Relaxed) == 0 {
            self.head_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Whether a header block of HTTP/2 has begun and not ended.
    pub(crate) fn note_block(&self, is_open: bool) {
        if is_open != (self.block_since_ms.load(Ordering::Relaxed) != 0) {
            let since = if is_open { self.now_ms() } else { 0 };
            self.block_since_ms.store(since, Ordering::Relaxed);
        }
    }

    fn note_written(&self) {
        self.write_blocked_since_ms.store(0, Ordering::Relaxed);
    }

    fn note_write_blocked(&self) {
        if self.write_blocked_since_ms.load(Ordering::Relaxed) == 0 {
            self.write_blocked_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// The notes at this moment.
    fn snapshot(&self) -> Snapshot {
        let since = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            mark => Some(Duration::from_millis(self.now_ms().saturating_sub(mark))),
        };
        Snapshot {
            requests: self.requests.load(Ordering::Relaxed),
            quiet: since(&self.progress_ms).unwrap_or_default(),
            head: if self.http2.load(Ordering::Relaxed) {
                since(&self.block_since_ms)
            } else if self.is_busy() {
                None
            } else {
                since(&self.head_since_ms)
            },
            write_blocked: since(&self.write_blocked_since_ms),
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

/// What a connection has been doing, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Snapshot {
    requests: u64,
    quiet: Duration,
    head: Option<Duration>,
    write_blocked: Option<Duration>,
}

fn verdict(seen: Snapshot, timeouts: Timeouts) -> Verdict {
    let idle = (seen.requests == 0).then_some(seen.quiet);
    let limits = [
        (seen.write_blocked, timeouts.write, Overstay::Write),
        (seen.head, timeouts.header, Overstay::Header),
        (idle, timeouts.idle, Overstay::Idle),
    ];
    // Nothing can be overstayed sooner than the shortest limit from now, whatever begins.
    let mut next = timeouts.write.min(timeouts.header).min(timeouts.idle);
    for (lasted, limit, overstay) in limits {
        match lasted {
            Some(lasted) if lasted >= limit => return Verdict::Close(overstay),
            Some(lasted) => next = next.min(limit.saturating_sub(lasted)),
            None => {}
        }
    }
    Verdict::LookAgainIn(next.max(Duration::from_millis(1)))
}

/// Returns when the connection has overstayed a limit. `cut` is called for each response that was
/// given up because its peer read nothing, or too slowly; without one for small ones.
pub async fn watch(
    activity: Arc<Activity>,
    timeouts: Timeouts,
    cut: impl Fn(Option<Delivered>),
) -> Overstay {
    loop {
        // Bound apart: its lock is not held while this sleeps.
        let slowest = activity.slowest().and_then(|one| one.left().map(|left| (left, one)));
        let mut seen = activity.snapshot();
        let blocked = seen.write_blocked;
        if slowest.is_some() {
            seen.write_blocked = None;
        }
        let wait = match verdict(seen, timeouts) {
            Verdict::Close(Overstay::Write) => {
                cut(None);
                return Overstay::Write;
            }
            Verdict::Close(overstay) => return overstay,
            Verdict::LookAgainIn(wait) => wait,
        };
        let wait = match slowest {
            Some((left, slowest)) if left.is_zero() => {
                cut(Some(slowest.delivered_so_far()));
                let is_stuck = blocked.is_some_and(|blocked| blocked >= timeouts.write);
                match slowest.protocol() {
                    Protocol::Http1 => return Overstay::Write,
                    Protocol::Http2 if is_stuck => return Overstay::Write,
                    Protocol::Http2 => slowest.cut(),
                }
                continue;
            }
            Some((left, _)) => wait.min(left),
            None => wait,
        };
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
    }
}

/// Marks its connection as busy while it lives.
#[must_use = "dropping this ends the request"]
pub struct Busy {
    activity: Arc<Activity>,
}

impl Busy {
    /// Of which connection.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.note_progress();
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(90),
        write: Duration::from_mins(1),
        rate_min: 0,
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_phase_has_its_limit() {
        let at_rest = Snapshot::default();
        for (seen, want) in [
            (Snapshot { quiet: s(89), ..at_rest }, Verdict::LookAgainIn(s(1))),
            (Snapshot { quiet: s(90), ..at_rest }, Verdict::Close(Overstay::Idle)),
            (Snapshot { head: Some(s(4)), ..at_rest }, Verdict::LookAgainIn(s(6))),
            (Snapshot { head: Some(s(10)), ..at_rest }, Verdict::Close(Overstay::Header)),
            (Snapshot { requests: 1, quiet: s(900), ..at_rest }, Verdict::LookAgainIn(s(10))),
            // Streams of HTTP/2 go on while a header block does not end.
            (
                Snapshot { requests: 1, head: Some(s(99)), ..at_rest },
                Verdict::Close(Overstay::Header),
            ),
            (
                Snapshot { write_blocked: Some(s(60)), requests: 1, ..at_rest },
                Verdict::Close(Overstay::Write),
            ),
            (Snapshot { write_blocked: Some(s(57)), ..at_rest }, Verdict::LookAgainIn(s(3))),
        ] {
            assert_eq!(verdict(seen, TIMEOUTS), want, "{seen:?}");
        }
    }
}
