//! What the option `capacity` does to a pool: it raises what the root volume may take, for good, as
//! `millpond pool grow` does. It never lowers it, as volumes do not shrink. And what
//! the start says of space and memory that do not suffice.

use kvs::SpaceInfo;
use mpool::{Pool, VolumeId};
use std::sync::Arc;
use units::Size;

/// The limit of the root volume, by what is asked for and by what the pool was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What the pool is opened with; `None` is the default of new pools.
    pub(crate) opens_with: Option<Size>,
    /// It is news to the pool, and is written down.
    is_new: bool,
    /// What was asked for, where the pool was told more before.
    too_low: Option<Size>,
}

/// `asked` is 0 where nothing is asked for.
pub(crate) fn limit(asked: Size, told: Option<u64>) -> Limit {
    let told = told.map(Size);
    let asked = Some(asked).filter(|asked| asked.0 > 0);
    let is_new = asked > told;
    let too_low = asked.filter(|asked| told.is_some_and(|told| *asked < told));
    Limit { opens_with: asked.max(told), is_new, too_low }
}

impl Limit {
    /// Whether the pool has not been told it before.
    pub(crate) fn is_new(self) -> bool {
        self.is_new
    }

    /// Says what was not done, and writes down what was.
    pub(crate) fn keep(self, pool: &Arc<Pool>) {
        if let (Some(capacity), Some(told)) = (self.too_low, self.opens_with) {
            tracing::warn!(
                %capacity,
                %told,
                "option capacity is less than the pool was told before, which holds: a volume does \
                 not shrink"
            );
        }
        let Some(Size(bytes)) = self.opens_with.filter(|_| self.is_new && !pool.is_read_only())
        else {
            return;
        };
        if let Err(error) = pool.grow_volume(VolumeId::ROOT, bytes) {
            tracing::warn!(%error, "option capacity is not written down; it holds until the stop");
        }
    }
}

/// Says that memtables, of which the engine holds so many, may take all the memory for data.
pub(crate) fn tell_memory(memory: Size, memtable: Size) {
    if let Some(full) = beyond(memory, memtable) {
        tracing::warn!(
            %memory,
            %memtable,
            %full,
            "option memory is less than full memtables take: raise it, or lower option memtable"
        );
    }
}

/// What full memtables take, if `memory` was given and is less.
fn beyond(memory: Size, memtable: Size) -> Option<Size> {
    // One is written to, the others wait for their flush.
    let full = memtable.0.saturating_mul(kvs::Options::default().memtables_max + 1);
    (memory.0 > 0 && memory.0 < full).then_some(Size(full))
}

/// Says which volumes a copy of the data directory would share.
pub(crate) fn tell_outside(pool: &Pool) {
    let outside = pool.volumes().into_iter().filter(|volume| volume.outside);
    let named = outside.map(|volume| format!("{} {}", volume.id, volume.path.display()));
    let volumes: Vec<String> = named.collect();
    if !volumes.is_empty() {
        let volumes = volumes.join(", ");
        tracing::info!(%volumes, "outside the data directory: a copy of it opens the same volumes");
    }
}

/// Says at the start that puts will be refused, and whether deleting can help at all.
pub(crate) fn tell_full(space: &SpaceInfo) {
    let SpaceInfo { total_bytes, reserve_bytes, writable_bytes, missing_bytes, .. } = *space;
    if reserve_bytes >= total_bytes {
        tracing::warn!(
            total_bytes,
            reserve_bytes,
            "the volumes are too small for any put, as far as limits (capacity, ulimit -f) and disks \
             let them grow"
        );
    } else if writable_bytes == 0 {
        tracing::warn!(missing_bytes, "the volumes are full: puts are refused until there is room");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_holds_the_memtables() {
        let mib = |count: u64| Size(count << 20);
        assert_eq!(beyond(mib(255), mib(64)), Some(mib(256)));
        for memory in [0, 256] {
            assert_eq!(beyond(mib(memory), mib(64)), None);
        }
    }

    #[test]
    fn a_capacity_raises_and_never_lowers() {
        let (no, low, high) = (Size(0), Size(1 << 30), Size(2 << 30));
        for (asked, told, opens_with, is_new, too_low) in [
            (no, None, None, false, None),
            (no, Some(low), Some(low), false, None),
            (low, None, Some(low), true, None),
            (low, Some(low), Some(low), false, None),
            (high, Some(low), Some(high), true, None),
            (low, Some(high), Some(high), false, Some(low)),
        ] {
            let want = Limit { opens_with, is_new, too_low };
            assert_eq!(limit(asked, told.map(|told: Size| told.0)), want, "{asked} {told:?}");
        }
    }
}
