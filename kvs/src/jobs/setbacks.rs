//! PURE: what has failed waits before it is tried again, longer each time.
//!
//! A job that fails for want of space, or because the drive refused a write, would fail again at
//! once: everything it wrote until then would be written in vain. So it waits, from 0.2 s doubling
//! to a minute, while other work goes on; a flush, for which writers wait, ten seconds at most. A
//! compaction that was admitted and found less room than it was promised is first tried in smaller
//! pieces ([`Cramp`]).
//! Time is given by the caller, as what has passed since some moment of its choice.

use crate::key::{KvsId, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// First pause, and the longest ones.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_mins(1);
const FLUSH_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often the room of a compaction is halved.
const HALVINGS_MAX: u32 = 4;

/// What may fail and be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Flush,
    Refresh,
    /// A compaction that begins at this node.
    Node(KvsId, NodeId),
}

/// Failures in a row of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setback {
    failures: u32,
    until: Duration,
}

/// Everything that failed and has not succeeded since.
#[derive(Clone, Default)]
pub(crate) struct Setbacks(BTreeMap<What, Setback>);

impl Setbacks {
    /// It has failed; returns how often in a row.
    pub(crate) fn failed(&mut self, what: What, now: Duration) -> u32 {
        let setback = self.0.entry(what).or_insert(Setback { failures: 0, until: now });
        setback.failures = setback.failures.saturating_add(1);
        setback.until = now + pause(what, setback.failures);
        setback.failures
    }

    /// It has succeeded; returns how often it had failed.
    pub(crate) fn succeeded(&mut self, what: What) -> u32 {
        self.0.remove(&what).map_or(0, |setback| setback.failures)
    }

    /// Whether it may be tried.
    pub(crate) fn is_due(&self, what: What, now: Duration) -> bool {
        self.0.get(&what).is_none_or(|setback| setback.until <= now)
    }

    /// The nodes of a KVS that wait.
    pub(crate) fn waiting(&self, kvs: KvsId, now: Duration) -> impl Iterator<Item = NodeId> {
        self.0.iter().filter_map(move |(what, setback)| match what {
            What::Node(of, node) if *of == kvs && setback.until > now => Some(*node),
            _ => None,
        })
    }

    /// Forgets what is gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(KvsId) -> bool) {
        self.0.retain(|what, _| match what {
            What::Node(kvs, _) => is_there(*kvs),
            What::Flush | What::Refresh => true,
        });
    }
}

/// How much of the room that is free compactions may plan with. Free space in small pieces holds
/// less than its bytes: objects are cut to the pieces, each with its own head, checksums and rest
/// of a unit. So a compaction for which there was no room after all halves it for those to come,
/// until clearly more is free than then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cramp {
    halvings: u32,
    /// What was free when it was last halved.
    free_bytes: u64,
}

impl Cramp {
    /// A compaction found no room; `false` if smaller ones are not worth a try.
    pub(crate) fn found_none(&mut self, free_bytes: u64) -> bool {
        let is_worth_it = self.halvings < HALVINGS_MAX;
        self.halvings += u32::from(is_worth_it);
        self.free_bytes = free_bytes;
        is_worth_it
    }

    /// What compactions may plan with, when so much is free; `object_bytes` more are clearly more.
    pub(crate) fn room(&mut self, room_bytes: u64, free_bytes: u64, object_bytes: u64) -> u64 {
        if self.halvings > 0 && free_bytes >= self.free_bytes.saturating_add(object_bytes) {
            *self = Self::default();
        }
        room_bytes >> self.halvings
    }
}

/// How long it waits after so many failures in a row.
fn pause(what: What, failures: u32) -> Duration {
    let longest = if what == What::Flush { FLUSH_PAUSE_MAX } else { PAUSE_MAX };
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_MIN.saturating_mul(doubled).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: What = What::Node(KvsId::new(1), NodeId::new(7));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses = |what| [1, 2, 3, 6, 7, 9, 10, 33, 1000].map(|n| pause(what, n).as_millis());
        let long = [200, 400, 800, 6400, 12_800, 51_200, 60_000, 60_000, 60_000];
        assert_eq!(pauses(NODE), long);
        let short = [200, 400, 800, 6400, 10_000, 10_000, 10_000, 10_000, 10_000];
        assert_eq!(pauses(What::Flush), short);
    }

    /// A plan that could not end was taken again every 0.2 s for ever.
    #[test]
    fn what_fails_for_ever_is_tried_a_few_times_an_hour() {
        let mut setbacks = Setbacks::default();
        let mut tried = 0;
        for now in (0..3_600_000).step_by(200).map(ms) {
            if setbacks.is_due(NODE, now) {
                tried += 1;
                assert_eq!(setbacks.failed(NODE, now), tried);
            }
        }
        assert!(tried < 70, "{tried}");
    }

    #[test]
    fn what_found_no_room_is_tried_with_half_of_it() {
        let mut cramp = Cramp::default();
        assert_eq!(cramp.room(64, 100, 10), 64);
        assert!(cramp.found_none(100));
        assert_eq!([100, 90, 109].map(|free| cramp.room(64, free, 10)), [32, 32, 32]);
        assert!(cramp.found_none(109));
        assert_eq!(cramp.room(64, 118, 10), 16, "no object more than then");
        assert_eq!(cramp.room(64, 119, 10), 64, "an object has come back");
        let tries = (0..100).filter(|_| cramp.found_none(100)).count();
        assert_eq!((tries, cramp.room(64, 100, 10)), (4, 4), "not for ever");
    }

    #[test]
    fn each_waits_for_itself_and_success_ends_it() {
        let mut setbacks = Setbacks::default();
        setbacks.failed(NODE, ms(0));
        setbacks.failed(NODE, ms(200));
        assert!(!setbacks.is_due(NODE, ms(599)));
        assert!(setbacks.is_due(What::Flush, ms(599)));
        let waiting = |setbacks: &Setbacks, kvs, now| {
            setbacks.waiting(KvsId::new(kvs), ms(now)).map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(waiting(&setbacks, 1, 599), [7]);
        assert!(waiting(&setbacks, 2, 599).is_empty());
        assert!(waiting(&setbacks, 1, 600).is_empty());
        assert_eq!(setbacks.succeeded(NODE), 2);
        assert_eq!((setbacks.succeeded(NODE), setbacks.failed(NODE, ms(900))), (0, 1));
        setbacks.retain(|kvs| kvs != KvsId::new(1));
        assert!(setbacks.is_due(NODE, ms(900)));
    }
}
