//! What compactions could not read: it is left alone until the next open, and work goes on around
//! it.
//!
//! A kvset whose keys cannot all be read stays in its place: what it holds is still served as far
//! as it can be read, and nothing acknowledged is at risk. The picker works around it. A value that
//! cannot be read stays in its vblock, which is not collected any more. A job that failed although
//! all of its inputs can be read (the drive had a bad moment, or what the job wrote cannot be read
//! back) is tried again, as any other that fails. What leaves the trees, or is deleted with its
//! KVS, is not left alone any more.

use super::Jobs;
use crate::error::{Error, Scope};
use crate::jobs::compact::job;
use crate::key::{KvsId, KvsetId};
use crate::metrics::damage::Met;
use crate::pick::Plan;
use mpool::MblockId;
use std::collections::BTreeSet;

/// What is left alone.
#[derive(Default)]
pub(super) struct Unreadable {
    pub(super) kvsets: BTreeSet<KvsetId>,
    pub(super) vblocks: BTreeSet<MblockId>,
}

impl Jobs {
    /// Leaves those of a plan's inputs alone that cannot be read: reading them would fail again.
    /// False: there are none.
    pub(super) fn leave_alone(&self, kvs: KvsId, plan: &Plan, error: &Error) -> bool {
        let kvsets = job::unreadable(&self.store, kvs, plan);
        if kvsets.is_empty() {
            self.store.metrics.damage.note(Met::Compaction, error);
            return false;
        }
        let ids: Vec<u64> = kvsets.iter().map(|kvset| kvset.get()).collect();
        let (name, cause) = (self.name_of(kvs), error.with_sources());
        tracing::error!(kvs = name, node = plan.node.get(), kvsets = ?ids, cause,
            "a compaction cannot read its inputs: they stay where they are");
        self.note_unreadable(error);
        let mut jobs = self.table.lock();
        // Of a KVS that is dropped meanwhile nothing is left: see `forget_unreadable`.
        if self.store.shape.tree(kvs).is_some() {
            jobs.changes += 1;
            jobs.unreadable.kvsets.extend(kvsets);
        }
        true
    }

    /// Leaves a vblock alone in which a value cannot be read.
    pub(crate) fn leave_vblock(&self, kvs: KvsId, vblock: MblockId, error: &Error) {
        {
            let mut jobs = self.table.lock();
            if self.store.shape.tree(kvs).is_none() || !jobs.unreadable.vblocks.insert(vblock) {
                return;
            }
            jobs.changes += 1;
        }
        let (name, cause) = (self.name_of(kvs), error.with_sources());
        tracing::error!(
            kvs = name,
            vblock = vblock.get(),
            cause,
            "a compaction cannot read a value: it stays where it is"
        );
        self.note_unreadable(error);
    }

    /// These kvsets have left the view, and these mblocks are deleted. Comes after the view has
    /// changed: who adds to what is left alone looks at it.
    pub(crate) fn forget_unreadable(
        &self,
        kvsets: impl Iterator<Item = KvsetId>,
        mblocks: &[MblockId],
    ) {
        let mut jobs = self.table.lock();
        let Unreadable { kvsets: of_keys, vblocks: of_values } = &mut jobs.unreadable;
        if of_keys.is_empty() && of_values.is_empty() {
            return;
        }
        for kvset in kvsets {
            of_keys.remove(&kvset);
        }
        for mblock in mblocks {
            of_values.remove(mblock);
        }
        if of_keys.is_empty() && of_values.is_empty() {
            self.ailments.nothing_is_left_alone();
        }
    }

    /// Kvsets and vblocks that are left alone.
    pub(crate) fn left_alone(&self) -> (u64, u64) {
        let jobs = self.table.lock();
        (jobs.unreadable.kvsets.len() as u64, jobs.unreadable.vblocks.len() as u64)
    }

    fn note_unreadable(&self, error: &Error) {
        self.store.metrics.job_failures.add(1);
        self.ailments.compaction_failed(error);
        self.store.metrics.damage.note(Met::Compaction, error);
    }

    fn name_of(&self, kvs: KvsId) -> Option<String> {
        self.store.shape.tree(kvs).map(|tree| tree.name.to_string())
    }
}

/// Whether a compaction failed because of what it read, not for want of space or time, nor because
/// the drive refused what it wrote.
pub(super) fn is_about_inputs(error: &Error) -> bool {
    let wrote = matches!(error, Error::Pool(mpool::Error::Io { op: "write", .. }));
    matches!(error.scope(), Scope::Object | Scope::Call) && !wrote
}
