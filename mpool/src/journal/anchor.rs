//! The superblock of an open pool, and how it changes.
//!
//! It changes for two reasons: the journal moves to other logs, and something is about to be
//! written that needs a feature bit which is not there yet. Either is two durable writes, one copy
//! after the other, so that a crash leaves an intact one, and the later counts:
//!
//! ```text
//! copy 1 with the bit | copy 2 with the bit | the record that needs it
//! ^ before: the pool as it was              ^ from here on: a bit that nothing needs yet
//! ```
//!
//! Whoever changes it holds the journal's append lock, which also orders it before the record.

use crate::{
    error::Result,
    features::Features,
    heads::{log::Log, superblock::Superblock},
    io::volumes::Volumes,
};
use arc_swap::ArcSwap;
use std::sync::Arc;

pub(crate) struct Anchor {
    volumes: Arc<Volumes>,
    current: ArcSwap<Superblock>,
}

impl Anchor {
    /// `superblock` is on the medium.
    pub(crate) fn new(volumes: &Arc<Volumes>, superblock: Superblock) -> Self {
        Self { volumes: Arc::clone(volumes), current: ArcSwap::from_pointee(superblock) }
    }

    pub(crate) fn superblock(&self) -> Arc<Superblock> {
        self.current.load_full()
    }

    /// What the pool uses.
    pub(crate) fn features(&self) -> Features {
        self.current.load().features
    }

    /// Gives the pool's journal another place, durably. The caller holds the append lock. On an
    /// error the volume is poisoned.
    pub(crate) fn move_journal(&self, logs: [Log; 2]) -> Result<()> {
        self.change(self.superblock().with_logs(logs))
    }

    /// Says durably that the pool uses `needs`, if it does not say so yet. The caller holds the
    /// append lock, or nobody can append yet. On an error the volume is poisoned.
    pub(crate) fn require(&self, needs: Features) -> Result<()> {
        let before = self.superblock();
        let missing = needs.without(before.features);
        if missing.is_empty() {
            return Ok(());
        }
        self.change(before.with_features(missing))?;
        tracing::info!(features = %missing, "the pool uses these from here on; programs that do not know them refuse it");
        Ok(())
    }

    fn change(&self, mut next: Superblock) -> Result<()> {
        let before = self.superblock();
        next.generation = before.generation.checked_add(1).expect("2^64 changes do not happen");
        next.write_copy(&self.volumes, 0)?;
        next.write_copy(&self.volumes, 1)?;
        let replaced = self.current.swap(Arc::new(next));
        assert!(Arc::ptr_eq(&replaced, &before), "one change at a time: the append lock is held");
        Ok(())
    }
}
