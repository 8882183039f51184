//! PURE: the next job of a requested compaction in one tree.
//!
//! It goes over the tree once and takes what was there when it was asked for:
//!
//! 1. Kvsets of the root that hold any of it go to the leaves, the oldest first.
//! 2. Then one leaf after the other is merged into one kvset, with its values, in key order; one
//!    that is too long is split before, and its parts are taken.
//!
//! ```text
//!   root   k9 | k8 k7      k9 was written after the question, and stays
//!   leaves    [a, g)       [g, p)        [p, ..)
//!              done         next
//! ```
//!
//! The errand (`jobs/requested/errand.rs`) remembers where the next leaf begins, and moves that to
//! the end of each leaf that is done. So writes, splits and joins meanwhile do not keep it from
//! ending. A leaf that rewriting would not change is passed by. What cannot be done is passed
//! by, too, and told.

use super::rules::{is_dense, is_one_job, is_too_long, spill_of, split};
use super::{Action, KvsetShape, Limits, NodeShape, Plan, TreeShape, Why, fits};
use crate::key::KvsetId;
use std::collections::BTreeSet;

/// Part of its vblocks, in percent, that a leaf's values fill when there is no garbage among them
/// that rewriting would win back: heads and the rests of units are not.
const FILLED_PCT: u64 = 90;

/// What is asked of a tree, in terms of its shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// How many of the root's kvsets, from the oldest on, may hold something that is asked for.
    pub(crate) root: usize,
    /// The place of the next leaf; `None`: none is left.
    pub(crate) leaf: Option<usize>,
    /// Whether that leaf holds something that was there when it was asked for.
    pub(crate) is_old: bool,
    /// Bytes of the vblocks that the leaf refers to, of each the whole.
    pub(crate) vblock_bytes: u64,
    /// Kvsets that cannot be read.
    pub(crate) damaged: &'a BTreeSet<KvsetId>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Job(Plan),
    /// Running jobs must end before the root can go to the leaves.
    WaitForAll,
    /// The job that has the leaf must end.
    WaitForLeaf,
    /// The leaf is as it should be.
    PassLeaf,
    /// It cannot be done.
    GiveUpRoot(Obstacle),
    GiveUpLeaf(Obstacle),
    /// Nothing is left in this tree.
    End,
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This kvset cannot be read.
    Damaged(KvsetId),
    /// The job may write so many bytes, and there is room for fewer.
    NoRoom { need_bytes: u64, room_bytes: u64 },
}

/// The next step.
pub(crate) fn next(tree: &TreeShape, limits: Limits, asked: Asked<'_>) -> Next {
    if asked.root > 0 {
        return spill(tree, limits, asked);
    }
    let Some(leaf) = asked.leaf.map(|at| &tree.leaves[at]) else { return Next::End };
    if let Some(damaged) = damaged_of(leaf, asked) {
        return Next::GiveUpLeaf(Obstacle::Damaged(damaged));
    }
    if tree.is_busy(leaf) {
        return Next::WaitForLeaf;
    }
    if !asked.is_old || is_clean(leaf, limits, asked.vblock_bytes) {
        return Next::PassLeaf;
    }
    if is_too_long(leaf, limits) {
        let plan = split(leaf, limits, Why::Requested);
        if fits(limits.room_bytes, plan.output_bytes) {
            // A spill and a split wait for each other.
            let may_begin = !tree.reshaping && !tree.is_busy(&tree.root);
            return if may_begin { Next::Job(plan) } else { Next::WaitForAll };
        }
    }
    let plan = tree.plan(leaf, Action::KvCompact, Why::Requested);
    if !leaf.can_be_rewritten(limits) {
        let room_bytes = limits.room_bytes.saturating_sub(limits.kept_bytes);
        return Next::GiveUpLeaf(Obstacle::NoRoom { need_bytes: plan.output_bytes, room_bytes });
    }
    Next::Job(plan)
}

/// The oldest kvsets of the root, as many as may go at once and have room.
fn spill(tree: &TreeShape, limits: Limits, asked: Asked<'_>) -> Next {
    // What is older than one that cannot be read can go, what is newer cannot.
    let is_damaged = |kvset: &KvsetShape| asked.damaged.contains(&kvset.id);
    let len = tree.root.kvsets.len();
    let oldest = || tree.root.kvsets.iter().rev();
    let readable = oldest().position(is_damaged).unwrap_or(len);
    if let (0, Some(damaged)) = (readable, oldest().next()) {
        return Next::GiveUpRoot(Obstacle::Damaged(damaged.id));
    }
    if tree.is_busy(&tree.root) || tree.reshaping {
        return Next::WaitForAll;
    }
    let inputs = |count: usize| &tree.root.kvsets[len - count..];
    let plan = |count| spill_of(tree, inputs(count), limits, Why::Requested);
    let writes = |count| plan(count).output_bytes;
    let can_go = |count: &usize| {
        fits(limits.room_bytes, writes(*count)) && is_one_job(inputs(*count), limits)
    };
    let most = asked.root.min(readable).min(limits.spill_max.max(1));
    let Some(count) = (1..=most).rev().find(can_go) else {
        let (need_bytes, room_bytes) = (writes(1), limits.room_bytes);
        return Next::GiveUpRoot(Obstacle::NoRoom { need_bytes, room_bytes });
    };
    Next::Job(plan(count))
}

fn damaged_of(node: &NodeShape, asked: Asked<'_>) -> Option<KvsetId> {
    node.kvsets.iter().map(|kvset| kvset.id).find(|id| asked.damaged.contains(id))
}

/// Whether rewriting it would change nothing: one kvset without tombstones, whose values lie
/// together and fill what they lie in.
fn is_clean(leaf: &NodeShape, limits: Limits, vblock_bytes: u64) -> bool {
    let filled = u128::from(leaf.value_bytes()) * 100 >= u128::from(vblock_bytes * FILLED_PCT);
    leaf.kvsets.is_empty() || leaf.tombstones() == 0 && is_dense(leaf, limits) && filled
}

#[cfg(test)]
mod tests {
    use super::super::Lands;
    use super::super::shape::KVSET_BYTES;
    use super::*;
    use crate::key::NodeId;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;
    const NONE: &BTreeSet<KvsetId> = &BTreeSet::new();

    /// Kvsets of 1 MiB of keys and 8 of values in one vblock of 8.
    fn kvset(id: u64) -> KvsetShape {
        KvsetShape {
            id: KvsetId::new(id),
            keys: 1000,
            tombstones: 0,
            kblock_bytes: MIB,
            value_bytes: 8 * MIB,
            vblocks: 1,
            refs: Arc::default(),
        }
    }

    /// A tree of kvsets by their ids, newest first.
    fn tree(root: &[u64], leaves: &[&[u64]]) -> TreeShape {
        let node = |id, ids: &[u64]| {
            let kvsets = ids.iter().map(|id| kvset(*id)).collect();
            NodeShape::new(NodeId::new(id), kvsets, 1000 * ids.len() as u64)
        };
        let leaves = (1..).zip(leaves).map(|(id, ids)| Arc::new(node(id, ids))).collect();
        TreeShape {
            root: node(0, root),
            lands: Lands::Apart,
            busy: Arc::default(),
            unreadable: Arc::default(),
            leaves,
            vblocks: Arc::default(),
            held: Arc::default(),
            gathered: Arc::default(),
            vblock_bytes: 0,
            value_bytes: 0,
            distinct_keys: 0,
            reshaping: false,
            objects: super::super::Objects::default(),
        }
    }

    fn asked(root: usize, leaf: Option<usize>) -> Asked<'static> {
        Asked { root, leaf, is_old: true, vblock_bytes: 8 * MIB, damaged: NONE }
    }

    /// Action, node and inputs of a job.
    fn job(next: Next) -> (&'static str, u64, Vec<u64>) {
        let Next::Job(plan) = next else { panic!("{next:?}") };
        assert_eq!(plan.why, Why::Requested);
        let inputs = plan.inputs.iter().map(|id| id.get()).collect();
        (plan.action.as_str(), plan.node.get(), inputs)
    }

    #[test]
    fn the_root_goes_first_and_only_what_was_asked_for() {
        let limits = Limits { spill_max: 2, ..Limits::DEFAULT };
        let tree = tree(&[9, 8, 7, 6], &[&[1], &[2]]);
        let step = |root| job(next(&tree, limits, asked(root, Some(0))));
        assert_eq!(step(3), ("spill", 0, vec![7, 6]));
        assert_eq!(step(1), ("spill", 0, vec![6]));
        let room_bytes = MIB + 3 * KVSET_BYTES;
        let cramped = Limits { room_bytes, ..limits };
        assert_eq!(job(next(&tree, cramped, asked(3, None))), ("spill", 0, vec![6]));
        let none = next(&tree, Limits { room_bytes: MIB, ..limits }, asked(3, Some(0)));
        let (need_bytes, room_bytes) = (MIB + 2 * KVSET_BYTES, MIB);
        assert_eq!(none, Next::GiveUpRoot(Obstacle::NoRoom { need_bytes, room_bytes }));
    }

    #[test]
    fn leaves_are_rewritten_unless_that_would_change_nothing() {
        let tree = tree(&[9], &[&[], &[2], &[4, 3]]);
        let step = |asked| next(&tree, Limits::DEFAULT, asked);
        assert_eq!(step(asked(0, Some(0))), Next::PassLeaf, "it is empty");
        assert_eq!(step(asked(0, Some(1))), Next::PassLeaf, "it is dense");
        assert_eq!(job(step(asked(0, Some(2)))), ("kv_compact", 3, vec![4, 3]));
        assert_eq!(step(Asked { is_old: false, ..asked(0, Some(2)) }), Next::PassLeaf, "newer");
        assert_eq!(step(asked(0, None)), Next::End);
        // Of the vblock others refer to a part, or nobody does.
        let shared = Asked { vblock_bytes: 16 * MIB, ..asked(0, Some(1)) };
        assert_eq!(job(step(shared)), ("kv_compact", 2, vec![2]));
        let mut deleted = tree.clone();
        let two = KvsetShape { tombstones: 1, ..kvset(2) };
        let two = NodeShape::new(NodeId::new(2), vec![two], 1000);
        deleted.leaves = [tree.leaves[0].clone(), two].into_iter().map(Arc::new).collect();
        let (action, ..) = job(next(&deleted, Limits::DEFAULT, asked(0, Some(1))));
        assert_eq!(action, "kv_compact");
    }

    /// A leaf of many bytes of values was one job, however long.
    #[test]
    fn a_leaf_that_is_too_long_is_split_before_its_parts_are_rewritten() {
        let mut tree = tree(&[9], &[&[4, 3], &[2]]);
        let limits = Limits { leaf_value_bytes_max: 10 * MIB, ..Limits::DEFAULT };
        let shared = Asked { vblock_bytes: 16 * MIB, ..asked(0, Some(1)) };
        assert_eq!(job(next(&tree, limits, asked(0, Some(0)))), ("split", 1, vec![4, 3]));
        assert_eq!(job(next(&tree, limits, shared)).0, "kv_compact", "it is not");
        tree.busy = Arc::new(BTreeSet::from([KvsetId::new(9)]));
        assert_eq!(next(&tree, limits, asked(0, Some(0))), Next::WaitForAll, "a spill runs");
        tree.busy = Arc::default();
        tree.reshaping = true;
        assert_eq!(next(&tree, limits, asked(0, Some(0))), Next::WaitForAll);
        assert_eq!(job(next(&tree, limits, shared)).0, "kv_compact", "it waits for nobody");
        tree.reshaping = false;
        let cramped = Limits { room_bytes: MIB, ..limits };
        let none = next(&tree, cramped, asked(0, Some(0)));
        assert!(matches!(none, Next::GiveUpLeaf(Obstacle::NoRoom { .. })), "{none:?}");
    }

    #[test]
    fn what_is_busy_is_waited_for_and_what_cannot_be_done_is_given_up() {
        let mut tree = tree(&[9, 8], &[&[4, 3], &[6, 5]]);
        let step = |tree: &TreeShape, asked| next(tree, Limits::DEFAULT, asked);
        let busy = |id| Arc::new(BTreeSet::from([KvsetId::new(id)]));
        tree.busy = busy(9);
        assert_eq!(step(&tree, asked(1, Some(0))), Next::WaitForAll, "one spill at a time");
        tree.busy = busy(4);
        assert_eq!(job(step(&tree, asked(1, Some(0)))).2, [8], "on top of what is busy");
        assert_eq!(step(&tree, asked(0, Some(0))), Next::WaitForLeaf);
        assert_eq!(job(step(&tree, asked(0, Some(1)))).1, 2, "another leaf is not");
        let damaged = BTreeSet::from([KvsetId::new(4)]);
        let with = |root, leaf| Asked { damaged: &damaged, ..asked(root, leaf) };
        let four = Obstacle::Damaged(KvsetId::new(4));
        assert_eq!(step(&tree, with(0, Some(0))), Next::GiveUpLeaf(four));
        assert_eq!(job(step(&tree, with(1, Some(0)))).2, [8], "nobody works on it");
        tree.busy = Arc::default();
        let damaged = BTreeSet::from([KvsetId::new(9)]);
        let with = |root, leaf| Asked { damaged: &damaged, ..asked(root, leaf) };
        assert_eq!(job(step(&tree, with(2, Some(1)))).2, [8], "it is older");
        tree.root.kvsets.pop();
        let nine = Obstacle::Damaged(KvsetId::new(9));
        assert_eq!(step(&tree, with(1, Some(1))), Next::GiveUpRoot(nine));
        let cramped = Limits { room_bytes: 10 * MIB, kept_bytes: 5 * MIB, ..Limits::DEFAULT };
        let need_bytes = 18 * MIB + KVSET_BYTES;
        let no_room = Obstacle::NoRoom { need_bytes, room_bytes: 5 * MIB };
        assert_eq!(next(&tree, cramped, asked(0, Some(1))), Next::GiveUpLeaf(no_room));
    }
}
