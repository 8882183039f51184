//! What the parts of a database know of its health, asked for.

use super::Database;
use crate::health::{Ailment, Health, Part};

impl Database {
    /// What has failed, as far as it is known now. Cheap, and never blocks on the drive.
    pub fn health(&self) -> Health {
        let store = self.store();
        let pool = &store.pool;
        let jobs = &self.work().jobs;
        let causes = [
            (Part::Log, self.commits().failure()),
            (Part::Shape, store.failure()),
            (Part::Volumes, pool.failure().map(str::to_owned)),
            (Part::Flush, jobs.health.flush.lock().clone()),
            (Part::Compaction, jobs.health.compaction.lock().clone()),
        ];
        let ailment = |(part, cause): (Part, Option<String>)| Some(Ailment { part, cause: cause? });
        Health { ailments: causes.into_iter().filter_map(ailment).collect() }
    }
}
