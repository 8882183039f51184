//! The next compaction: the shapes of the trees, and the room there is, for the picker.

use super::requested::Take;
use super::{Job, Running};
use crate::compact::pick::{self, Limits, Plan, Shortage, TreeShape};
use crate::key::{KvsId, NodeId};
use crate::store::Store;
use crate::tree::Tree;
use mpool::MblockId;
use std::collections::BTreeMap;
use std::time::Duration;

impl Store {
    /// Takes the most pressing plan that fits what is free, of the first KVS that has one.
    pub(super) fn take_plan(&self) -> Option<Running<'_>> {
        let vblock_bytes = self
            .versions
            .lock()
            .mblocks
            .iter()
            .map(|(id, mblock)| (*id, mblock.len_bytes))
            .collect();
        let free = self.pool.free_space();
        self.note_space(free);
        let mut jobs = self.jobs.lock();
        let room_bytes = self.job_room(free, jobs.admitted_bytes);
        let room_bytes = jobs.cramp.room(room_bytes, free.object_bytes, self.needs.object_bytes);
        let limits = self.limits(room_bytes);
        let view = self.view.load();
        let count = view.trees.len();
        let rested = jobs.requested.rests;
        if !rested {
            match self.take_turn(&mut jobs, &view, limits) {
                Take::Job(running) => return Some(running),
                Take::Hold => return None,
                Take::Nothing => {}
            }
        }
        let turn = jobs.turn;
        let now = jobs.now();
        // What the least of the plans for which there is no room would need.
        let mut least: Option<u64> = None;
        for (kvs, tree) in view.trees.iter().cycle().skip(turn % count.max(1)).take(count) {
            let mut limits = limits;
            let mut aside = jobs.busy.union(&jobs.quarantined).copied().collect();
            for node in self.waiting(&jobs, *kvs, now) {
                match tree.leaf(node) {
                    Some(leaf) => extend(&mut aside, leaf.kvsets.iter()),
                    // Spills wait; what goes on below the root does not.
                    None => limits.spill_min = usize::MAX,
                }
            }
            let shape = shape(tree, &aside, &vblock_bytes, limits);
            if let Some(plan) = pick::pick(&shape, limits) {
                tracing::debug!(%kvs, node = plan.node.get(), action = plan.action.as_str(),
                    why = plan.why.as_str(), inputs = plan.inputs.len(),
                    output_bytes = plan.output_bytes, room_bytes = limits.room_bytes, "compaction");
                jobs.turn = turn.wrapping_add(1);
                jobs.requested.rests = false;
                self.note_stuck(0);
                return Some(self.admit(&mut jobs, *kvs, plan));
            }
            if limits.shortage == Some(Shortage::Full) && jobs.compactions == 0 {
                least = least.into_iter().chain(pick::least_room(&shape, limits)).min();
            }
        }
        if rested && let Take::Job(running) = self.take_turn(&mut jobs, &view, limits) {
            return Some(running);
        }
        self.note_stuck(least.map_or(0, |least| least.saturating_sub(room_bytes)));
        self.end_round();
        None
    }

    /// Makes a plan a job that runs.
    pub(super) fn admit(&self, jobs: &mut super::Jobs, kvs: KvsId, plan: Plan) -> Running<'_> {
        jobs.compactions += plan.takes_turn();
        jobs.admitted_bytes += plan.output_bytes;
        jobs.busy.extend(&plan.inputs);
        self.running(jobs, Job::Compact(kvs, plan))
    }

    /// The nodes that wait after a failure. Without threads nobody waits: the caller decides when.
    fn waiting(&self, jobs: &super::Jobs, kvs: KvsId, now: Duration) -> Vec<NodeId> {
        if self.options.background_threads == 0 {
            return Vec::new();
        }
        jobs.setbacks.waiting(kvs, now).collect()
    }

    /// What is due, with so much room for a job.
    pub(super) fn limits(&self, room_bytes: u64) -> Limits {
        let base = if self.is_emptying() { Limits::SHORT } else { Limits::DEFAULT };
        let free = self.pool.free_space();
        Limits {
            leaf_bytes_max: self.needs.leaf_bytes_max(free),
            shortage: if self.is_refusing() { Some(Shortage::Full) } else { base.shortage },
            object_bytes: self.needs.object_bytes,
            room_bytes,
            kept_bytes: self.needs.compaction_bytes(),
            spill_moves_values: self.values_move_to().is_some(),
            ..base
        }
    }
}

type Ids = std::collections::BTreeSet<crate::key::KvsetId>;

fn extend<'a>(
    aside: &mut Ids,
    kvsets: impl Iterator<Item = &'a std::sync::Arc<crate::kvset::Kvset>>,
) {
    aside.extend(kvsets.map(|kvset| kvset.meta().id));
}

/// The picker's picture of a tree; its vblocks only where they are asked for.
pub(super) fn shape(
    tree: &Tree,
    aside: &Ids,
    vblock_bytes: &BTreeMap<MblockId, u64>,
    limits: Limits,
) -> TreeShape {
    let mut shape = tree.shape(aside, vblock_bytes);
    if limits.shortage.is_some() {
        shape.vblocks = tree.vblock_shapes(vblock_bytes);
    }
    shape
}
