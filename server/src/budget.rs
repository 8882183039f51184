//! Memory that the bodies of requests, or of responses, may hold together.
//!
//! A [`Share`] is taken before its bytes are read or allocated, and lives as long as they do:
//! [`counted`] ties the two together, so that a share goes back when the last slice is written to
//! its socket or dropped, whoever held it. Peers that hold little are not kept waiting by those
//! that hold much: shares of up to [`SMALL_BYTES`] come out of a lane of their own, an eighth of
//! the budget on top of it. What is smaller still is not counted, because the number of
//! connections, and of the streams of each, bounds it.
//!
//! Waiting is in the order of asking, for a bounded time, and nobody who waits holds a share:
//! so no two can wait for each other.

use crate::api::problem::Problem;
use crate::api::rejected::Rejected;
use bytes::Bytes;
use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to this size are not counted.
pub const UNCOUNTED_BYTES: usize = 4 << 10;

/// Shares up to this size come out of the lane for small ones.
pub const SMALL_BYTES: usize = 64 << 10;

/// The lane for small shares is this part of the budget.
const SMALL_PART: usize = 8;

/// What a budget tells of itself.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// Bytes held.
    pub held: IntGauge,
    /// Most bytes held at a time.
    pub peak: IntGauge,
    /// Most bytes that may be held, small shares included.
    pub limit: IntGauge,
}

/// What a budget is for, in the words of its refusals.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Whose bytes they are.
    pub what: &'static str,
    /// What is short, when it is.
    pub reason: Rejected,
}

/// See the module. Clone = another handle.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    large_bytes: usize,
    small_bytes: usize,
    held: AtomicUsize,
    /// Most held since somebody asked.
    peak: AtomicUsize,
    purpose: Purpose,
    gauges: Gauges,
}

/// A part of a budget.
#[derive(Debug, Default)]
#[must_use = "dropping this returns the share"]
pub struct Share {
    parts: Vec<OwnedSemaphorePermit>,
    budget: Option<Arc<Shared>>,
    bytes: usize,
}

impl Budget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize, purpose: Purpose, gauges: Gauges) -> Self {
        let small_bytes = (bytes_max / SMALL_PART).max(SMALL_BYTES);
        let limit = i64::try_from(bytes_max.saturating_add(small_bytes)).unwrap_or(i64::MAX);
        gauges.limit.set(limit);
        let lane = |bytes: usize| Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Self {
            shared: Arc::new(Shared {
                large: lane(bytes_max),
                small: lane(small_bytes),
                large_bytes: bytes_max,
                small_bytes,
                held: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
                purpose,
                gauges,
            }),
        }
    }

    /// Bytes held by all shares.
    pub fn held_bytes(&self) -> usize {
        // Relaxed: a figure to show; the semaphores hold the bound.
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Most bytes held since the last call.
    pub fn take_peak(&self) -> usize {
        // Relaxed: as above.
        self.shared.peak.swap(self.held_bytes(), Ordering::Relaxed)
    }

    /// A share of `bytes`, at once.
    pub fn try_share(&self, bytes: usize) -> Result<Share, Problem> {
        let mut share = Share::default();
        self.try_grow(&mut share, bytes)?;
        Ok(share)
    }

    /// Enlarges a share to `bytes`, at once or not at all.
    pub fn try_grow(&self, share: &mut Share, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(share.bytes);
        if bytes <= UNCOUNTED_BYTES || more == 0 {
            return Ok(());
        }
        let (lane, _) = self.shared.lane(bytes);
        // Where the lane for small shares is full, they have what the large ones leave.
        let lanes = [lane, &self.shared.large];
        let permit = permits(more).and_then(|n| {
            lanes.into_iter().find_map(|lane| Arc::clone(lane).try_acquire_many_owned(n).ok())
        });
        let permit = permit.ok_or_else(|| self.refusal(bytes, more, Duration::ZERO))?;
        share.add(&self.shared, permit);
        Ok(())
    }

    /// A share of `bytes`, as soon as there is room, but not after `wait_max`.
    pub async fn share(&self, bytes: usize, wait_max: Duration) -> Result<Share, Problem> {
        let mut share = Share::default();
        self.grow(&mut share, bytes, wait_max).await?;
        Ok(share)
    }

    /// Enlarges a share to `bytes` as soon as there is room, but not after `wait_max`. For one
    /// caller at a time: it waits while it holds.
    pub(crate) async fn grow(
        &self,
        share: &mut Share,
        bytes: usize,
        wait_max: Duration,
    ) -> Result<(), Problem> {
        if self.try_grow(share, bytes).is_ok() {
            return Ok(());
        }
        let more = bytes.saturating_sub(share.bytes);
        let (lane, lane_bytes) = self.shared.lane(bytes);
        let Some(permits) = permits(more).filter(|_| bytes <= lane_bytes) else {
            return Err(self.refusal(bytes, more, Duration::ZERO));
        };
        let waiting = Arc::clone(lane).acquire_many_owned(permits);
        match tokio::time::timeout(wait_max, waiting).await {
            Ok(permit) => share.add(&self.shared, permit.expect("the lanes are never closed")),
            Err(_elapsed) => return Err(self.refusal(bytes, more, wait_max)),
        }
        Ok(())
    }

    /// Why a share of `bytes` cannot have `more`, in numbers.
    fn refusal(&self, bytes: usize, more: usize, waited: Duration) -> Problem {
        let Purpose { what, reason } = self.shared.purpose;
        let (reason, held) = (reason.as_str(), self.held_bytes());
        let (lane, max) = self.shared.lane(bytes);
        let free = lane.available_permits().min(max);
        let lane = if bytes <= SMALL_BYTES { "up to" } else { "more than" };
        let way_out = if bytes > max {
            format!("that is more than option {reason} allows at all: raise it")
        } else if waited.is_zero() {
            format!("try again, or raise option {reason}")
        } else {
            let waited = waited.as_secs();
            format!("no room came free within {waited} s: try again, or raise option {reason}")
        };
        Problem::overloaded(
            reason,
            format!(
                "{more} more bytes are wanted for one of {bytes}, and {free} are free of the {max} for \
                 {what} of {lane} {SMALL_BYTES} bytes ({reason}; all of them hold {held}); {way_out}"
            ),
        )
    }
}

/// A number of bytes as the semaphore counts them; none if no lane is that large.
fn permits(bytes: usize) -> Option<u32> {
    u32::try_from(bytes).ok()
}

impl Shared {
    /// The lane of a share of `bytes`, and its size.
    fn lane(&self, bytes: usize) -> (&Arc<Semaphore>, usize) {
        if bytes <= SMALL_BYTES {
            (&self.small, self.small_bytes)
        } else {
            (&self.large, self.large_bytes)
        }
    }

    fn note(&self, held: usize) {
        self.peak.fetch_max(held, Ordering::Relaxed);
        self.gauges.held.set(i64::try_from(held).unwrap_or(i64::MAX));
        if self.gauges.held.get() > self.gauges.peak.get() {
            self.gauges.peak.set(self.gauges.held.get());
        }
    }
}

impl Share {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn add(&mut self, shared: &Arc<Shared>, permit: OwnedSemaphorePermit) {
        let bytes = permit.num_permits();
        self.bytes += bytes;
        self.parts.push(permit);
        self.budget.get_or_insert_with(|| Arc::clone(shared));
        shared.note(shared.held.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    /// Takes `bytes` of it, or all if it has less, as a share of its own.
    pub fn split(&mut self, bytes: usize) -> Self {
        let mut out = Self { parts: Vec::new(), budget: self.budget.clone(), bytes: 0 };
        while out.bytes < bytes {
            let Some(last) = self.parts.last_mut() else { break };
            let wanted = (bytes - out.bytes).min(last.num_permits());
            if let Some(part) = last.split(wanted) {
                out.parts.push(part);
            }
            out.bytes += wanted;
            self.bytes -= wanted;
            if last.num_permits() == 0 {
                self.parts.pop();
            }
        }
        out
    }

    /// Returns what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        drop(self.split(self.bytes.saturating_sub(bytes)));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(shared) = &self.budget {
            let before = shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
            shared.note(before - self.bytes);
        }
    }
}

/// Bytes and their share, which goes back when the last slice of them is dropped.
pub fn counted(bytes: Bytes, share: Share) -> Bytes {
    if share.bytes == 0 { bytes } else { Bytes::from_owner(Counted { bytes, _share: share }) }
}

struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A budget that nobody watches.
    pub(crate) fn budget(bytes_max: usize, reason: Rejected) -> Budget {
        let gauge = |name: &str| IntGauge::new(name, "for a test").unwrap();
        let gauges = Gauges { held: gauge("held"), peak: gauge("peak"), limit: gauge("limit") };
        Budget::new(bytes_max, Purpose { what: "test bodies", reason }, gauges)
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn shares_split_and_go_back_with_their_last_slice() {
        let budget = budget(4 * MIB, Rejected::ResponseMemory);
        let mut share = budget.try_share(3 * MIB).unwrap();
        budget.try_grow(&mut share, 4 * MIB).unwrap();
        assert_eq!((share.bytes(), budget.held_bytes()), (4 * MIB, 4 * MIB));
        let refused = budget.try_share(MIB).unwrap_err();
        assert_eq!(refused.stall, Some("response_memory"));
        assert_eq!(
            refused.detail,
            "1048576 more bytes are wanted for one of 1048576, and 0 are free of the 4194304 for test \
             bodies of more than 65536 bytes (response_memory; all of them hold 4194304); try again, or \
             raise option response_memory"
        );
        let value = counted(Bytes::from(vec![7; MIB]), share.split(MIB + MIB / 2));
        share.shrink_to(MIB);
        assert_eq!(budget.held_bytes(), 2 * MIB + MIB / 2);
        let slice = value.slice(5..6);
        drop((value, share));
        assert_eq!(budget.held_bytes(), MIB + MIB / 2);
        drop(slice);
        assert_eq!(budget.held_bytes(), 0);
        assert_eq!(budget.shared.gauges.held.get(), 0);
        assert_eq!(budget.shared.gauges.peak.get(), 4 << 20);
        assert_eq!((budget.take_peak(), budget.take_peak()), (4 * MIB, 0));
    }

    #[test]
    fn small_shares_have_room_when_large_ones_have_not() {
        let budget = budget(MIB, Rejected::ResponseMemory);
        let _all = budget.try_share(MIB).unwrap();
        let small = budget.try_share(SMALL_BYTES).unwrap();
        let other = budget.try_share(SMALL_BYTES).unwrap();
        let small_one = budget.try_share(SMALL_BYTES).unwrap_err();
        assert!(small_one.detail.contains("of up to 65536 bytes"), "{}", small_one.detail);
        assert!(budget.try_share(UNCOUNTED_BYTES).is_ok(), "what is tiny is not counted");
        drop((small, other));
        assert_eq!(budget.held_bytes(), MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_room_in_order_or_a_refusal_in_time() {
        let budget = budget(2 * MIB, Rejected::ResponseMemory);
        let held = budget.try_share(2 * MIB).unwrap();
        let patience = Duration::from_secs(5);
        let refused = budget.share(MIB, patience).await.unwrap_err();
        assert!(refused.detail.contains("within 5 s"), "{}", refused.detail);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.share(MIB, patience).await.map(|share| share.bytes()) }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiting.await.unwrap().unwrap(), MIB);
        let never = budget.share(3 * MIB, patience).await.unwrap_err();
        assert!(never.detail.contains("more than option response_memory"), "{}", never.detail);
        assert_eq!(budget.held_bytes(), 0);
    }
}
