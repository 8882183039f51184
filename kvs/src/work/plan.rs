//! The next compaction: the shapes of the trees, and the room there is, for the picker.

use super::requested::Take;
use super::{Job, Jobs, Running};
use crate::compact::pick::{self, Limits, Plan, Shortage, TreeShape};
use crate::key::{KvsId, NodeId};
use crate::store::Store;
use crate::tree::{Aside, Tree};
use std::time::Duration;

impl Store {
    /// Takes the most pressing plan that fits what is free, of the first KVS that has one.
    pub(super) fn take_plan(&self) -> Option<Running<'_>> {
        let free = self.pool.free_space();
        self.note_space(free);
        let mut jobs = self.jobs.lock();
        let room_bytes = self.job_room(free, jobs.admitted_bytes);
        let room_bytes = jobs.cramp.room(room_bytes, free.object_bytes, self.needs.object_bytes);
        let is_quiet = jobs.is_quiet(self);
        let limits = self.limits(room_bytes, is_quiet);
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
            let (mut limits, mut aside) = (limits, jobs.aside(*kvs));
            for node in self.waiting(&jobs, *kvs, now) {
                match tree.leaf(node) {
                    Some(leaf) => {
                        aside.busy.extend(leaf.kvsets.iter().map(|kvset| kvset.meta().id));
                    }
                    // Spills wait; what goes on below the root does not.
                    None => limits.spill_max = 0,
                }
            }
            let shape = shape(tree, &aside, limits);
            if let Some(plan) = pick::pick(&shape, limits) {
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
    pub(super) fn admit(&self, jobs: &mut Jobs, kvs: KvsId, plan: Plan) -> Running<'_> {
        tracing::debug!(%kvs, node = plan.node.get(), action = plan.action.as_str(),
            why = plan.why.as_str(), inputs = plan.inputs.len(),
            output_bytes = plan.output_bytes, "compaction");
        jobs.compactions += plan.takes_turn();
        jobs.admitted_bytes += plan.output_bytes;
        jobs.busy.extend(&plan.inputs);
        if plan.action.reshapes() {
            jobs.reshaping.insert(kvs);
        }
        self.running(jobs, Job::Compact(kvs, plan))
    }

    /// The nodes that wait after a failure. Without threads nobody waits: the caller decides when.
    fn waiting(&self, jobs: &Jobs, kvs: KvsId, now: Duration) -> Vec<NodeId> {
        if self.options.background_threads == 0 {
            return Vec::new();
        }
        jobs.setbacks.waiting(kvs, now).collect()
    }

    /// What is due, with so much room for a job.
    pub(super) fn limits(&self, room_bytes: u64, is_quiet: bool) -> Limits {
        let base = if self.is_emptying() {
            Limits::SHORT
        } else if is_quiet {
            Limits::QUIET
        } else {
            Limits::DEFAULT
        };
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

impl Jobs {
    /// What the picker leaves alone in a tree.
    pub(super) fn aside(&self, kvs: KvsId) -> Aside {
        Aside {
            busy: self.busy.clone(),
            unreadable: self.unreadable.kvsets.clone(),
            unreadable_vblocks: self.unreadable.vblocks.clone(),
            reshaping: self.reshaping.contains(&kvs),
        }
    }
}

/// The picker's picture of a tree; its vblocks only where they are asked for.
pub(super) fn shape(tree: &Tree, aside: &Aside, limits: Limits) -> TreeShape {
    let mut shape = tree.shape(aside);
    if pick::needs_vblocks(&shape, limits) {
        shape.vblocks = tree.vblock_shapes(aside);
    }
    shape
}
