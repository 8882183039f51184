//! What chores have of a pool: all that it takes to move objects and to free space, and not the
//! pool itself.
//!
//! A chore that held the pool, if only for a step, could be the last to hold it. Then who had let
//! go of it found it open still, and locked, and its end came later, on the chore's thread. What
//! chores hold ends with them, and the pool takes them off its list before anything else
//! (`tidy::Registered`).

use crate::{
    anchor::Anchor,
    io::queue::IoQueue,
    journal::Journal,
    mcache::Mcache,
    pool::{Pool, Table},
    space::Space,
    volume::Volumes,
};
use parking_lot::RwLock;
use std::sync::Arc;

/// See the module. The names are those of [`Pool`].
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) journal: Arc<Journal>,
    pub(crate) table: Arc<RwLock<Table>>,
    pub(crate) space: Arc<Space>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) mcache: Arc<Mcache>,
    pub(crate) queue: Arc<IoQueue>,
    pub(crate) anchor: Arc<Anchor>,
}

impl Parts {
    pub(crate) fn of(pool: &Pool) -> Self {
        Self {
            journal: Arc::clone(&pool.journal),
            table: Arc::clone(&pool.table),
            space: Arc::clone(&pool.space),
            volumes: Arc::clone(&pool.volumes),
            mcache: Arc::clone(&pool.mcache),
            queue: Arc::clone(&pool.queue),
            anchor: Arc::clone(&pool.anchor),
        }
    }
}
