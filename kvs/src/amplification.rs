//! What a KVS takes on the drive, and what of that is believed to live.
//!
//! The first is known: the bytes of the objects that its kvsets refer to. The second is an
//! estimate: which keys of older kvsets newer ones shadow is known when a merge meets them.

use crate::kvset::KvsetMeta;
use crate::metrics::{MetricKind, Sample, emit};
use crate::tree::Tree;
use crate::tree_info::vblock_lens;

/// Bytes of one KVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    used: u64,
    live: u64,
}

/// Shows both for one KVS; their quotient is its space amplification.
pub(crate) fn visit(tree: &Tree, see: &mut dyn FnMut(Sample<'_>)) {
    let Bytes { used, live } = bytes(tree);
    let labels = [("kvs", &*tree.name)];
    let help = "Bytes of kblocks and vblocks that kvsets refer to.";
    emit(see, MetricKind::Gauge, ("kvs_used_bytes", help), &labels, used);
    let help = "Bytes of those that are believed to belong to keys that live.";
    emit(see, MetricKind::Gauge, ("kvs_live_bytes", help), &labels, live);
}

fn bytes(tree: &Tree) -> Bytes {
    let sum = |of: fn(&KvsetMeta) -> u64| tree.kvsets().map(|kvset| of(kvset.meta())).sum::<u64>();
    let index_bytes = sum(|meta| meta.kblock_bytes);
    let vblock_bytes: u64 = vblock_lens(tree).values().sum();
    let live = live_bytes(Stored {
        keys: sum(|meta| meta.keys),
        tombstones: sum(|meta| meta.tombstones),
        index_bytes,
        value_bytes: sum(|meta| meta.value_bytes),
    });
    let used = index_bytes + vblock_bytes;
    Bytes { used, live: live.min(used) }
}

/// What kvsets hold, shadowed keys included.
#[derive(Clone, Copy, Debug)]
struct Stored {
    keys: u64,
    tombstones: u64,
    index_bytes: u64,
    value_bytes: u64,
}

/// What of it lives, if each delete hides one key and no key is overwritten: too much where some
/// are, until they are merged.
fn live_bytes(stored: Stored) -> u64 {
    let puts = stored.keys.saturating_sub(stored.tombstones);
    let lives = puts.saturating_sub(stored.tombstones);
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
    fn what_is_deleted_is_not_believed_to_live() {
        let live = |keys, tombstones| {
            live_bytes(Stored { keys, tombstones, index_bytes: 1900, value_bytes: 10_000 })
        };
        assert_eq!(live(100, 0), 11_900);
        assert_eq!(live(190, 90), 1000 + 100, "a tenth of 100");
        assert_eq!(live(100, 60), 0, "more deletes than there are keys to hide");
        assert_eq!(live(0, 0), 0);
    }
}
