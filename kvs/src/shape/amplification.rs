//! What a KVS takes on the drive, and what of that is believed to live.
//!
//! The first is known: the bytes of the objects that its kvsets refer to. The second is an
//! estimate: sketches tell how many keys of older kvsets newer ones shadow.

use crate::debt::stall::{Debt, KvsDebt, StallReason};
use crate::metrics::{MetricKind, Sample, emit};
use crate::shape::tree::Tree;

/// Bytes of one KVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) used: u64,
    /// At most what is used.
    pub(crate) live: u64,
}

/// Shows both for one KVS; their quotient is its space amplification, their difference what its
/// writers may have to wait for. That is helpless where compaction can do nothing about it.
pub(crate) fn visit(kvs: &str, debt: KvsDebt, is_helpless: bool, see: &mut dyn FnMut(Sample<'_>)) {
    let Debt { garbage_bytes, garbage_slow_bytes, garbage_most_bytes, .. } = debt.debt(0);
    let is_helpless = is_helpless && debt.reason() == Some(StallReason::Garbage);
    let labels = [("kvs", kvs)];
    for (name, help, value) in [
        (
            "kvs_used_bytes",
            "Bytes of kblocks and vblocks that kvsets refer to.",
            debt.live_bytes + garbage_bytes,
        ),
        (
            "kvs_live_bytes",
            "Bytes of those that are believed to belong to keys that live.",
            debt.live_bytes,
        ),
        ("kvs_garbage_bytes", "The other bytes of those.", garbage_bytes),
        (
            "kvs_garbage_slow_bytes",
            "Garbage from which on writers of the KVS are slowed down.",
            garbage_slow_bytes,
        ),
        (
            "kvs_garbage_slowest_bytes",
            "Garbage from which on they are slowed down most; they are never stopped for it.",
            garbage_most_bytes,
        ),
        (
            "kvs_garbage_helpless",
            "1 while writers are not slowed down though there is that much, as compaction can do \
             nothing about it.",
            is_helpless.into(),
        ),
    ] {
        emit(see, MetricKind::Gauge, (name, help), &labels, value);
    }
}

pub(crate) fn bytes(tree: &Tree) -> Bytes {
    let totals = tree.totals();
    let live = live_bytes(Stored {
        keys: totals.keys,
        distinct_keys: tree.distinct_keys(),
        tombstones: totals.tombstones,
        index_bytes: totals.kblock_bytes,
        value_bytes: totals.value_bytes,
    });
    let used = totals.kblock_bytes + totals.vblock_bytes;
    Bytes { used, live: live.min(used) }
}

/// What kvsets hold, shadowed keys included.
#[derive(Clone, Copy, Debug)]
struct Stored {
    keys: u64,
    /// Of those, about how many are different.
    distinct_keys: u64,
    tombstones: u64,
    index_bytes: u64,
    value_bytes: u64,
}

/// What of it lives, if each tombstone is of a key of its own.
fn live_bytes(stored: Stored) -> u64 {
    let puts = stored.keys.saturating_sub(stored.tombstones);
    let lives = stored.distinct_keys.saturating_sub(stored.tombstones);
    let part = |bytes: u64, of: u64| {
        let part = u128::from(bytes) * u128::from(lives) / u128::from(of.max(1));
        u64::try_from(part).unwrap_or(bytes)
    };
    part(stored.value_bytes, puts) + part(stored.index_bytes, stored.keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_or_shadowed_is_not_believed_to_live() {
        let live = |keys, distinct_keys, tombstones| {
            let (index_bytes, value_bytes) = (1900, 10_000);
            live_bytes(Stored { keys, distinct_keys, tombstones, index_bytes, value_bytes })
        };
        assert_eq!(live(100, 100, 0), 11_900);
        assert_eq!(live(200, 100, 0), 5000 + 950, "each key twice");
        assert_eq!(live(190, 100, 90), 1000 + 100, "a tenth of 100");
        assert_eq!(live(60, 60, 60), 0);
        assert_eq!(live(0, 0, 0), 0);
    }
}
