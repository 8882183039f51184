//! What those who look after the store ask of the jobs.

use super::ledger::JobInfo;
use crate::compact::pick::{Limits, TreeShape, needs_vblocks};
use crate::key::KvsId;
use crate::store::Store;
use crate::tree::{Aside, Tree};
use std::time::Instant;

impl Store {
    /// The jobs that run, and the last ones that have ended.
    pub(crate) fn job_infos(&self) -> Vec<JobInfo> {
        self.jobs.lock().ledger.jobs(Instant::now())
    }

    /// What the picker does not touch now in a tree.
    pub(crate) fn aside(&self, kvs: KvsId) -> Aside {
        self.jobs.lock().aside(kvs)
    }

    /// What the picker would decide on, were it asked now.
    pub(crate) fn picture(&self, tree: &Tree, aside: &Aside) -> (TreeShape, Limits) {
        let (admitted_bytes, is_quiet) = {
            let mut jobs = self.jobs.lock();
            (jobs.admitted_bytes, jobs.is_quiet(self))
        };
        let room_bytes = self.job_room(self.pool.free_space(), admitted_bytes);
        let limits = self.limits(room_bytes, is_quiet);
        (self.shape(tree, aside, limits, needs_vblocks), limits)
    }
}
