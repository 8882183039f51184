//! The next compaction: the shapes of the trees, and the room there is, for the picker.
//!
//! Shapes and plans of large trees take their time, and the leader of a commit takes the lock of
//! the jobs. So what is decided on is copied under that lock ([`Sight`]), and a plan that was made
//! without it is admitted only if no compaction has begun or ended meanwhile. One thread picks at a
//! time: for who comes while it does so there is nothing to do, and it is rung afterwards.

use super::requested::{Errand, Take};
use super::setbacks::Setbacks;
use super::{Job, Jobs, Running, Table};
use crate::key::{KvsId, NodeId};
use crate::kvset::Kvset;
use crate::pick::{self, Limits, Plan, Shortage, TreeShape, VblocksMax};
use crate::shape::tree::{Aside, Tree};
use crate::shape::view::View;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is decided on: the view, and what the jobs were then.
pub(super) struct Sight {
    pub(super) view: Arc<View>,
    pub(super) limits: Limits,
    /// Room for a job, were the free space in one piece.
    pub(super) room_bytes: u64,
    pub(super) errand: Option<Arc<Mutex<Errand>>>,
    /// Others go before the errand.
    rests: bool,
    /// Nothing but the errand may begin.
    pub(super) holds: bool,
    /// Of no tree in particular.
    aside: Aside,
    reshaping: BTreeSet<KvsId>,
    setbacks: Setbacks,
    now: Duration,
    /// Which tree is looked at first.
    turn: usize,
    compactions: usize,
    changes: u64,
}

impl Sight {
    /// What the picker leaves alone in a tree.
    pub(super) fn aside(&self, kvs: KvsId) -> Aside {
        Aside { reshaping: self.reshaping.contains(&kvs), ..self.aside.clone() }
    }

    /// Whether no compaction has begun or ended since.
    pub(super) fn is_of(&self, jobs: &Table) -> bool {
        self.changes == jobs.changes
    }
}

/// The right to pick.
struct Picking<'a>(&'a Jobs);

impl Drop for Picking<'_> {
    fn drop(&mut self) {
        let mut jobs = self.0.table.lock();
        jobs.is_picking = false;
        let is_wanted = std::mem::take(&mut jobs.wants_to_pick);
        drop(jobs);
        if is_wanted {
            self.0.store.life.bell.ring();
        }
    }
}

impl Jobs {
    /// Takes the most pressing plan that fits what is free, of the first KVS that has one.
    pub(super) fn take_plan(&self) -> Option<Running<'_>> {
        let _picking = self.begin_to_pick()?;
        loop {
            match self.take_by(&self.sight()) {
                Take::Job(running) => return Some(running),
                Take::Hold | Take::Nothing => return None,
                Take::Again => {}
            }
        }
    }

    /// `None` while another thread picks.
    fn begin_to_pick(&self) -> Option<Picking<'_>> {
        let mut jobs = self.table.lock();
        if std::mem::replace(&mut jobs.is_picking, true) {
            jobs.wants_to_pick = true;
            return None;
        }
        Some(Picking(self))
    }

    /// Copies what is decided on.
    pub(super) fn sight(&self) -> Sight {
        let free = self.store.pool.free_space();
        self.store.space.note(free);
        let mut jobs = self.table.lock();
        // After the lock was taken: what a job has changed is seen if the job is not.
        let view = self.store.shape.view.load_full();
        let room_bytes = self.store.space.job_room(&view, free, jobs.admitted_bytes);
        let in_pieces =
            jobs.cramp.room(room_bytes, free.object_bytes, self.store.space.needs.object_bytes);
        let is_quiet = jobs.is_quiet(&self.store);
        Sight {
            view,
            limits: self.limits(in_pieces, is_quiet),
            room_bytes,
            errand: jobs.requested.errand(),
            rests: jobs.requested.rests,
            holds: jobs.requested.holds,
            aside: jobs.aside_of_all(),
            reshaping: jobs.reshaping.clone(),
            setbacks: jobs.setbacks.clone(),
            now: jobs.now(),
            turn: jobs.turn,
            compactions: jobs.compactions,
            changes: jobs.changes,
        }
    }

    fn take_by(&self, sight: &Sight) -> Take<'_> {
        if !sight.rests {
            match self.take_turn(sight) {
                Take::Nothing => {}
                other => return other,
            }
        }
        let (found, least) = self.pick(sight);
        if let Some((kvs, plan)) = found {
            let mut jobs = self.table.lock();
            if !sight.is_of(&jobs) {
                return Take::Again;
            }
            jobs.turn = sight.turn.wrapping_add(1);
            jobs.requested.rests = false;
            let running = self.admit(&mut jobs, kvs, plan);
            drop(jobs);
            self.store.space.note_stuck(0);
            return Take::Job(running);
        }
        if sight.rests
            && let take @ (Take::Job(_) | Take::Again) = self.take_turn(sight)
        {
            return take;
        }
        self.store
            .space
            .note_stuck(least.map_or(0, |least| least.saturating_sub(sight.limits.room_bytes)));
        self.store.space.end_round(&sight.view.active);
        Take::Nothing
    }

    /// The plan; without one, what the least of the plans for which there is no room would need.
    fn pick(&self, sight: &Sight) -> (Option<(KvsId, Plan)>, Option<u64>) {
        let mut least: Option<u64> = None;
        self.vblock_indexes.lock().retain(|kvs, _| sight.view.trees.contains_key(kvs));
        let count = sight.view.trees.len();
        let first = sight.turn % count.max(1);
        for (kvs, tree) in sight.view.trees.iter().cycle().skip(first).take(count) {
            let (mut limits, mut aside) = (sight.limits, sight.aside(*kvs));
            for node in self.waiting(sight, *kvs) {
                match tree.leaf(node) {
                    Some(leaf) => {
                        let ids = leaf.kvsets.iter().map(|kvset| kvset.meta().id);
                        Arc::make_mut(&mut aside.busy).extend(ids);
                    }
                    // Spills wait; what goes on below the root does not.
                    None => limits.spill_max = 0,
                }
            }
            let shape = self.shape(tree, &aside, limits);
            let plan = pick::pick(&shape, limits);
            self.note_helpless(sight, tree, plan.is_some());
            if let Some(plan) = plan {
                return (Some((*kvs, plan)), None);
            }
            if limits.shortage == Some(Shortage::Full) && sight.compactions == 0 {
                least = least.into_iter().chain(pick::least_room(&shape, limits)).min();
            }
        }
        (None, least)
    }

    /// Notes whether something can be done about the garbage that delays a KVS's writers: there is
    /// a plan, or a job runs.
    fn note_helpless(&self, sight: &Sight, tree: &Tree, has_plan: bool) {
        let kvs = tree.kvs;
        let is_busy = |kvset: &Arc<Kvset>| sight.aside.busy.contains(&kvset.meta().id);
        let is_behind = sight.view.lagging().contains_key(&kvs);
        let is_helpless = is_behind && !has_plan && !tree.kvsets().any(is_busy);
        let mut helpless = self.helpless.lock();
        if !is_helpless {
            helpless.remove(&kvs);
            return;
        }
        let is_new = helpless.insert(kvs);
        drop(helpless);
        if is_new {
            self.news.lock().relief = true;
        }
    }

    /// The picker's picture of a tree; its vblocks only where they are looked at.
    fn shape(&self, tree: &Tree, aside: &Aside, limits: Limits) -> TreeShape {
        let mut shape = tree.shape(aside);
        if pick::pick_needs_vblocks(&shape, limits) {
            let mut indexes = self.vblock_indexes.lock();
            let index = indexes.entry(tree.kvs).or_default();
            shape.vblocks = index.follow(&shape, &|id| tree.vblock_bytes(id));
            shape.held = tree.held_vblocks(aside);
        }
        shape
    }

    /// Makes a plan a job that runs.
    pub(super) fn admit(&self, jobs: &mut Table, kvs: KvsId, plan: Plan) -> Running<'_> {
        tracing::debug!(%kvs, node = plan.node.get(), action = plan.action.as_str(),
            why = plan.why.as_str(), inputs = plan.inputs.len(),
            output_bytes = plan.output_bytes, "compaction");
        jobs.changes += 1;
        jobs.compactions += plan.takes_turn();
        jobs.admitted_bytes += plan.output_bytes;
        jobs.busy.extend(&plan.inputs);
        if plan.action.reshapes() {
            jobs.reshaping.insert(kvs);
        }
        self.running(jobs, Job::Compact(kvs, plan))
    }

    /// Notes what a job leaves of its node's scatter: see [`pick::Gathered`].
    pub(crate) fn note_gathered(&self, plan: &Plan, vblocks: VblocksMax) {
        let of = (plan.node, plan.action);
        let mut jobs = self.table.lock();
        if jobs.gathered.has_nothing_to_note(of, vblocks) {
            return;
        }
        let view = self.store.shape.view.load();
        let exists = |node| view.trees.values().any(|tree| tree.leaf(node).is_some());
        Arc::make_mut(&mut jobs.gathered).note(of, vblocks, exists);
    }

    /// The nodes that wait after a failure. Without threads nobody waits: the caller decides when.
    fn waiting<'a>(&self, sight: &'a Sight, kvs: KvsId) -> impl Iterator<Item = NodeId> + 'a {
        let is_alone = self.store.options.background_threads == 0;
        sight.setbacks.waiting(kvs, sight.now).filter(move |_| !is_alone)
    }

    /// What is due, with so much room for a job.
    pub(super) fn limits(&self, room_bytes: u64, is_quiet: bool) -> Limits {
        let base = if self.store.space.is_emptying() {
            Limits::SHORT
        } else if is_quiet {
            Limits::QUIET
        } else {
            Limits::DEFAULT
        };
        let free = self.store.pool.free_space();
        Limits {
            leaf_bytes_max: self.store.space.needs.leaf_bytes_max(free).min(base.leaf_bytes_max),
            shortage: if self.store.space.is_refusing() {
                Some(Shortage::Full)
            } else {
                base.shortage
            },
            object_bytes: self.store.space.needs.object_bytes,
            room_bytes,
            kept_bytes: self.store.space.needs.compaction_bytes(),
            spill_moves_values: self.store.values_move_to().is_some(),
            ..base
        }
    }
}

impl Table {
    /// What the picker leaves alone, whatever the tree; but for which trees change their leaves.
    fn aside_of_all(&self) -> Aside {
        Aside {
            busy: Arc::new(self.busy.clone()),
            unreadable: Arc::new(self.unreadable.kvsets.clone()),
            unreadable_vblocks: Arc::new(self.unreadable.vblocks.clone()),
            gathered: Arc::clone(&self.gathered),
            reshaping: false,
        }
    }

    /// What the picker leaves alone in a tree.
    pub(super) fn aside(&self, kvs: KvsId) -> Aside {
        Aside { reshaping: self.reshaping.contains(&kvs), ..self.aside_of_all() }
    }
}
