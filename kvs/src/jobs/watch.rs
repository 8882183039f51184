//! What those who look after the store ask of the jobs.

use super::Jobs;
use super::ledger::JobInfo;
use crate::key::KvsId;
use crate::pick::{Limits, TreeShape, VblockIndex, needs_vblocks};
use crate::shape::tree::{Aside, Tree};
use std::time::Instant;

impl Jobs {
    /// The jobs that run, and the last ones that have ended.
    pub(crate) fn job_infos(&self) -> Vec<JobInfo> {
        self.table.lock().ledger.jobs(Instant::now())
    }

    /// What the picker does not touch now in a tree.
    pub(crate) fn aside(&self, kvs: KvsId) -> Aside {
        self.table.lock().aside(kvs)
    }

    /// What the picker would decide on, were it asked now. It takes no lock for longer the larger
    /// the tree is: which nodes refer to its vblocks is found anew. To use the picker's index, the
    /// picture would lock it, and the picker would copy it as long as the picture is there.
    pub(crate) fn picture(&self, tree: &Tree, aside: &Aside) -> (TreeShape, Limits) {
        let (admitted_bytes, is_quiet) = {
            let mut jobs = self.table.lock();
            (jobs.admitted_bytes, jobs.is_quiet(&self.store))
        };
        let (store, view) = (&self.store, self.store.shape.view.load());
        let room_bytes = store.space.job_room(&view, store.pool.free_space(), admitted_bytes);
        let limits = self.limits(room_bytes, is_quiet);
        let mut shape = tree.shape(aside);
        if needs_vblocks(&shape, limits) {
            shape.vblocks = VblockIndex::default().follow(&shape, &|id| tree.vblock_bytes(id));
            shape.held = tree.held_vblocks(aside);
        }
        (shape, limits)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use crate::db::Database;
    use crate::db::tree_info::TreePage;
    use crate::options::{Durability, Options};
    use mpool::Pool;
    use mpool_sim::SimDevice;
    use std::sync::Arc;

    /// A picture of a tree brought the picker's index up to it, under the lock that the picker
    /// waits for: a tenth of a second and more where the tree was large.
    #[test]
    fn a_picture_of_a_tree_leaves_the_picker_alone() {
        let options =
            Options { background_threads: 0, memtable_bytes: 2 << 20, ..Options::default() };
        let pool = Pool::create(Arc::new(SimDevice::new(1 << 30)), &options.pool).unwrap();
        let db = Database::open_pool(pool, options).unwrap();
        let kvs = db.create_kvs("a").unwrap();
        for round in 0..3 {
            for n in 0..16 {
                kvs.put(&[n], &vec![round; 64 << 10], Durability::Off).unwrap();
            }
            db.store().seal();
            while db.work().step(0).unwrap() {}
        }
        let debt = db.tree("a", &TreePage::default()).unwrap().debt;
        assert!(debt.due.iter().any(|due| due.reason == "garbage"), "{debt:?}");
        let indexes = db.work().jobs.vblock_indexes.try_lock().expect("nobody has it");
        assert!(indexes.is_empty(), "nothing was picked yet");
    }
}
