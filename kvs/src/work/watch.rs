//! What those who look after the store ask of the jobs.

use super::ledger::JobInfo;
use super::plan::shape;
use crate::compact::pick::{Limits, TreeShape};
use crate::store::Store;
use crate::tree::Tree;
use crate::tree_info::{Aside, vblock_lens};
use std::time::Instant;

impl Store {
    /// The jobs that run, and the last ones that have ended.
    pub(crate) fn job_infos(&self) -> Vec<JobInfo> {
        self.jobs.lock().ledger.jobs(Instant::now())
    }

    /// The kvsets that the picker does not touch now.
    pub(crate) fn aside(&self) -> Aside {
        let jobs = self.jobs.lock();
        Aside { busy: jobs.busy.clone(), quarantined: jobs.quarantined.clone() }
    }

    /// What the picker would decide on, were it asked now.
    pub(crate) fn picture(&self, tree: &Tree, aside: &Aside) -> (TreeShape, Limits) {
        let admitted_bytes = self.jobs.lock().admitted_bytes;
        let limits = self.limits(self.job_room(self.pool.free_space(), admitted_bytes));
        let aside = aside.busy.union(&aside.quarantined).copied().collect();
        (shape(tree, &aside, &vblock_lens(tree), limits), limits)
    }
}
