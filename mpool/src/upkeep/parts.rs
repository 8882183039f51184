//! What chores have of a pool: all that it takes to move objects and to free space, and not the
//! pool itself.
//!
//! A chore that held the pool, if only for a step, could be the last to hold it. Then who had let
//! go of it found it open still, and locked, and its end came later, on the chore's thread. What
//! chores hold ends with them, and the pool takes them off its list before anything else
//! (`chores::Registered`).

use crate::{
    io::{queue::IoQueue, volumes::Volumes},
    journal::{anchor::Anchor, pool_journal::Journal},
    object::{mcache::Mcache, table::Table},
    space::Space,
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
