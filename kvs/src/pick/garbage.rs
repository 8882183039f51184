//! PURE: when garbage is due, and where most of it comes back for the bytes that are written.
//!
//! Garbage lies in four places, and goes down from one of the first three to the next:
//!
//! ```text
//!   shadowed by the root        a spill brings the newer keys to the older ones
//!   shadowed within a leaf      a merge of the leaf lets go of the older ones
//!   in vblocks, unreferenced    what still lives there is moved, and the vblock dies (`collect`)
//!   beside many short objects   a merge makes one of them, also of vblocks (`units`)
//! ```
//!
//! The first two are estimates (`KeySet`), the third is exact, the last an average. Each step down
//! counts half: a byte that a merge lets go of counts half of one that is freed, one that a spill
//! brings down a quarter. The job with the greatest gain for a byte written is taken. Jobs that
//! gain at least three times the bytes of keys that they write come before all others, because
//! every job on a leaf writes all of the leaf's keys, however little it gains.

use super::collect::{self, Batch, Gain};
use super::leaves::Extremes;
use super::rules::{is_dense, spill};
use super::{
    Action, Due, Limits, NodeShape, Plan, TreeShape, Why, fits, greatest, length, percent,
};

/// Part of a tree's vblocks that is collected together.
const BATCH_SHARE: u64 = 6;
/// Least garbage of a vblock that is collected, in percent of what a tree may have.
const LEAST_PCT: u64 = 60;

/// Bytes that are of no use, by where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Garbage {
    by_root: u64,
    in_leaves: u64,
    unreferenced: u64,
    in_units: u64,
}

impl Garbage {
    fn of(tree: &TreeShape) -> Self {
        Self {
            by_root: tree.shadowed_by_root(),
            in_leaves: tree.shadowed_in_leaves(),
            unreferenced: tree.unreferenced_bytes(),
            in_units: tree.surplus_unit_bytes(),
        }
    }

    fn total(self) -> u64 {
        self.by_root + self.in_leaves + self.unreferenced + self.in_units
    }

    /// How far it is over its limit, in percent, if it is due: as a part of what is not garbage, so
    /// that space weighs as much as it grows.
    fn due(self, tree: &TreeShape, limits: Limits) -> Option<u64> {
        let (total, limit) = (self.total(), limits.garbage_pct_max.min(99));
        let pct = percent(total, tree.bytes());
        let of_rest = percent(total, tree.bytes().saturating_sub(total));
        let over = || percent(of_rest.saturating_mul(100 - limit), 100 * limit);
        (total >= limits.garbage_bytes_min && pct >= limit).then(|| over().max(100))
    }
}

/// Bytes of a tree that are of no use, about, and all that it has on the medium: what
/// `garbage_pct_max` is a percentage of.
pub(crate) fn garbage_bytes(tree: &TreeShape) -> (u64, u64) {
    (Garbage::of(tree).total(), tree.bytes())
}

/// How far garbage is over its limit, in percent, if it is due.
pub(super) fn pressure(tree: &TreeShape, limits: Limits) -> Option<u64> {
    Garbage::of(tree).due(tree, limits)
}

/// Whether there is more of it than there may be.
pub(super) fn is_due(tree: &TreeShape, limits: Limits) -> bool {
    pressure(tree, limits).is_some()
}

/// Whether the rules look at vblocks one by one.
pub(crate) fn needs_vblocks(tree: &TreeShape, limits: Limits) -> bool {
    limits.shortage.is_some() || is_due(tree, limits)
}

fn batch(tree: &TreeShape, limits: Limits) -> Batch {
    Batch {
        least_pct: limits.garbage_pct_max * LEAST_PCT / 100,
        len_bytes: (tree.vblock_bytes / BATCH_SHARE).max(2 * limits.object_bytes),
    }
}

/// The same merge of a whole leaf, but that it collects on the way, if garbage is due: the keys are
/// written either way.
pub(super) fn along(plan: Plan, tree: &TreeShape, limits: Limits) -> Plan {
    let is_due = !limits.is_short() && is_due(tree, limits);
    if !is_due || !is_whole_merge(&plan, tree) {
        return plan;
    }
    collect::along(plan, tree, limits, batch(tree, limits))
}

pub(super) fn is_whole_merge(plan: &Plan, tree: &TreeShape) -> bool {
    let is_whole =
        |leaf: &NodeShape| leaf.id == plan.node && tree.run(leaf).kvsets.len() == plan.inputs.len();
    plan.action == Action::KCompact && tree.leaves.iter().any(is_whole)
}

/// Rule 6.
pub(super) fn garbage(tree: &TreeShape, limits: Limits) -> Option<Due> {
    if let Some(shortage) = limits.shortage {
        return collect::collect(tree, limits, shortage.collect_pct());
    }
    let garbage = Garbage::of(tree);
    let pressure = garbage.due(tree, limits)?;
    let ways = [
        collect::collect_by(tree, limits, batch(tree, limits)),
        merge(tree, limits),
        gather(tree, limits),
        spill(tree, limits, Why::Garbage).map(|plan| {
            // It lengthens each leaf by one, and so brings their next merges nearer.
            let merges_bytes = tree.leaf_index_bytes() / (2 * length(limits.leaf_len_max)).max(1);
            let keys_bytes = plan.output_bytes + merges_bytes;
            let bytes = (garbage.by_root + tree.spilled_unit_bytes(keys_bytes)) / 4;
            (Gain { bytes, written_bytes: keys_bytes, keys_bytes }, plan)
        }),
    ];
    let (gain, plan) = ways.into_iter().flatten().max_by_key(|(gain, _)| gain.rank())?;
    (gain.bytes > 0).then_some(Due { pressure, plan })
}

/// The leaf that lets go of most for what its merge writes.
fn merge(tree: &TreeShape, limits: Limits) -> Option<(Gain, Plan)> {
    let gain = |leaf: &NodeShape| {
        let keys_bytes = leaf.index_bytes();
        let bytes = leaf.shadowed_bytes() / 2 + tree.merged_unit_bytes(leaf, keys_bytes);
        Gain { bytes, written_bytes: keys_bytes, keys_bytes }
    };
    let may_be = |most: &Extremes| most.kvsets > 1;
    let leaf = greatest(tree, may_be, |leaf| {
        let worth = tree.run(leaf).kvsets.len() > 1 && gain(leaf).bytes > 0;
        (worth && fits(limits.room_bytes, leaf.index_bytes())).then(|| gain(leaf).rank())
    })?;
    Some((gain(leaf), tree.plan(leaf, Action::KCompact, Why::Garbage)))
}

/// The leaf whose values lie in the most vblocks beyond what they need, where that is worth writing
/// all of them.
fn gather(tree: &TreeShape, limits: Limits) -> Option<(Gain, Plan)> {
    let gain = |leaf: &NodeShape| {
        let keys_bytes = leaf.index_bytes();
        let written_bytes = keys_bytes + leaf.value_bytes();
        let bytes = tree.gathered_unit_bytes(leaf, (written_bytes, limits.object_bytes));
        Gain { bytes, written_bytes, keys_bytes }
    };
    let may_be = |most: &Extremes| most.vblocks > 1;
    let leaf = greatest(tree, may_be, |leaf| {
        let worth = gain(leaf).bytes > 0
            && !is_dense(leaf, limits)
            && !tree.gathered.was_in_vain(leaf)
            && tree.is_readable(leaf);
        (worth && leaf.can_be_rewritten(limits)).then(|| gain(leaf).rank())
    })?;
    Some((gain(leaf), tree.plan(leaf, Action::KvCompact, Why::Garbage)))
}
