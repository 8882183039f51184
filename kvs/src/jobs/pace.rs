//! What writers owe to the jobs, and who lets compaction have the drive because of it.

use super::Jobs;
use crate::debt::stall::{self, Debt};
use crate::shape::view::Lagging;
use mpool::FreeSpace;

impl Jobs {
    /// Lets compaction have the drive while it is behind, and only then; what the store owes.
    pub(crate) fn pace(&self, free: FreeSpace, write_bytes: usize) -> Debt {
        let debt = self.debt(free, write_bytes);
        self.store.pool.queue().hurry(stall::is_short(debt) || self.is_behind());
        debt
    }

    /// Whether writers of some KVS wait for compaction, or would if they wrote now.
    pub(crate) fn is_behind(&self) -> bool {
        !self.lagging().is_empty()
    }

    /// The KVSs that are behind with what compaction can do: garbage that it cannot take away is
    /// nothing to wait for.
    pub(crate) fn lagging(&self) -> Lagging {
        let mut lagging = self.store.shape.view.load().lagging().clone();
        if !lagging.is_empty() {
            let helpless = self.helpless.lock();
            lagging.retain(|kvs, debt| {
                if helpless.contains(kvs) {
                    debt.garbage_bytes = 0;
                }
                debt.reason().is_some()
            });
        }
        lagging
    }

    /// What the store owes, but for what its KVSs owe.
    fn debt(&self, free: FreeSpace, write_bytes: usize) -> Debt {
        let view = self.store.shape.view.load();
        self.store.space.note(free);
        Debt {
            sealed_memtables: view.sealed.len() as u64,
            memtables_max: self.store.options.memtables_max,
            free_bytes: free.object_bytes,
            free_slow_bytes: self.store.space.needs.tight_bytes(free),
            free_reserve_bytes: self.store.space.needs.reserve_bytes(free),
            write_bytes: write_bytes as u64,
            ..Debt::NONE
        }
    }
}
