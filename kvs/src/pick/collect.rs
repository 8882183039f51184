//! PURE: garbage collected by the vblock.
//!
//! To rewrite a whole leaf takes room for all of its values before the first byte comes back, and a
//! flush's vblock waits for every leaf. So the unit here is the vblock: those with the most garbage
//! are chosen, as many as make a batch and fit the room; then one leaf after the other rewrites
//! those of its values that lie in them, and shares the others as before.
//!
//! ```text
//!   room for 5        v1 a...b     v2 aab.b     v3 aaabb        a, b: live, of two leaves
//!   chosen: v1 (2)    leaf a writes 1, leaf b writes 1; v1 is freed, 5 come back
//!   room for 8        v2 (4) and v3 would be 9: v2 ...
//! ```
//!
//! The choice is stable without being remembered: when the first leaf has done its part, less of
//! the chosen ones lives, so they are chosen first again; a batch is measured in bytes of vblocks,
//! which do not change. Every live value moves at most once, into a vblock without garbage, so it
//! ends.
//!
//! The leaf that frees most for what it writes goes first; a leaf that has a small part only waits
//! until it has more.
//!
//! A vblock that only one leaf refers to needs a merge of that leaf only, one that many refer to a
//! merge of each. So the batch is one of shared vblocks or of one leaf's own, whichever frees more
//! for what it writes.

use super::shape::{KVSET_BYTES, NodeShape, TreeShape, VblockShape};
use super::{Action, Due, Limits, Plan, Why, fits, percent};
use crate::key::NodeId;
use mpool::MblockId;
use std::collections::{HashMap, HashSet};

/// Garbage of a vblock, in bytes, below which rewriting its values is not worth a job: its head and
/// the rest of its last unit look like garbage, and stay.
const GARBAGE_BYTES_MIN: u64 = 64 << 10;

/// What is collected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Garbage in percent of a vblock from which it is worth collecting.
    pub(super) least_pct: u64,
    /// vblocks of so many bytes.
    pub(super) len_bytes: u64,
}

impl Batch {
    /// As many as there is room for.
    pub(super) const fn that_fits(least_pct: u64) -> Self {
        Self { least_pct, len_bytes: u64::MAX }
    }
}

/// Gains of fewer times the keys that are written for them come last.
const WORTH: u64 = 3;

/// What work comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gain {
    pub(super) bytes: u64,
    /// Keys and values, and keys alone.
    pub(super) written_bytes: u64,
    pub(super) keys_bytes: u64,
}

impl Gain {
    /// Greater is better: whether it is worth the keys, and bytes gained for a thousand written.
    pub(super) fn rank(self) -> (bool, u64) {
        let is_worth_it = self.bytes >= self.keys_bytes.saturating_mul(WORTH);
        (is_worth_it, percent(self.bytes.saturating_mul(10), self.written_bytes))
    }
}

/// vblocks that are collected together.
struct Chosen<'a> {
    vblocks: Vec<&'a VblockShape>,
    /// Their values, and the keys of the leaves that refer to them.
    live_bytes: u64,
    keys_bytes: u64,
}

/// What a leaf has in vblocks that are collected, and its part of what is freed when all leaves
/// have done theirs.
#[derive(Clone, Copy, Default)]
struct Share {
    value_bytes: u64,
    gained: u64,
}

impl Chosen<'_> {
    fn gain(&self) -> Gain {
        let Self { live_bytes, keys_bytes, .. } = *self;
        let bytes = self.vblocks.iter().map(|vblock| vblock.garbage_bytes()).sum();
        Gain { bytes, written_bytes: live_bytes + keys_bytes, keys_bytes }
    }

    /// What each leaf has to do with them.
    fn by_leaf(&self) -> HashMap<NodeId, Share> {
        let mut shares: HashMap<NodeId, Share> = HashMap::new();
        for vblock in &self.vblocks {
            let part = vblock.garbage_bytes() / (vblock.refs().len() as u64).max(1);
            for (leaf, bytes) in vblock.refs() {
                let share = shares.entry(*leaf).or_default();
                share.value_bytes += bytes;
                share.gained += part;
            }
        }
        shares
    }
}

/// Those that a leaf refers to, sorted.
fn ids_of(vblocks: &[&VblockShape], leaf: NodeId) -> Vec<MblockId> {
    let has = vblocks.iter().filter(|vblock| vblock.of_leaf(leaf) > 0);
    let mut ids: Vec<MblockId> = has.map(|vblock| vblock.id).collect();
    ids.sort_unstable();
    ids
}

/// For when space is short.
pub(super) fn collect(tree: &TreeShape, limits: Limits, least_pct: u64) -> Option<Due> {
    let chosen_pct = worth(tree, least_pct).first()?.share();
    let (_, plan) = collect_by(tree, limits, Batch::that_fits(least_pct))?;
    Some(Due { pressure: percent(chosen_pct, least_pct), plan })
}

/// The leaf that does its part of the vblocks that are chosen, and what all leaves' parts gain.
pub(super) fn collect_by(tree: &TreeShape, limits: Limits, batch: Batch) -> Option<(Gain, Plan)> {
    let worth = worth(tree, batch.least_pct);
    if worth.is_empty() {
        return None;
    }
    let leaves = Leaves::of(tree);
    let owner = |vblock: &VblockShape| match vblock.refs() {
        [(leaf, _)] => Some(leaves.0[leaf].0),
        _ => None,
    };
    // By owner; of each those with the most garbage first, as before.
    let mut owned: Vec<(usize, &VblockShape)> =
        worth.iter().filter_map(|vblock| Some((owner(vblock)?, *vblock))).collect();
    owned.sort_by_key(|(at, _)| *at);
    let batches = owned.chunk_by(|(one, _), (two, _)| one == two).map(|own| {
        let vblocks = own.iter().map(|(_, vblock)| *vblock);
        choose((tree, &leaves), vblocks, limits, batch)
    });
    // The last one of equals is taken: the shared ones, in a round that has begun.
    let shared = choose((tree, &leaves), worth.iter().copied(), limits, batch);
    let chosen = batches.chain([shared]).max_by_key(|chosen| chosen.gain().rank())?;
    let shares = chosen.by_leaf();
    let parts = shares.iter().filter_map(|(id, share)| {
        let (at, leaf) = leaves.0[id];
        let output_bytes = leaf.index_bytes() + share.value_bytes;
        let can_do =
            share.value_bytes > 0 && fits(limits.room_bytes, output_bytes) && !tree.is_busy(leaf);
        let yields = percent(share.gained.saturating_mul(10), output_bytes);
        can_do.then_some((yields, output_bytes, at, leaf))
    });
    let best = parts.max_by_key(|(yields, _, at, _)| (*yields, std::cmp::Reverse(*at)));
    let (_, output_bytes, _, leaf) = best?;
    let vblocks = ids_of(&chosen.vblocks, leaf.id);
    let plan = Plan { vblocks, output_bytes, ..tree.plan(leaf, Action::Collect, Why::Garbage) };
    Some((chosen.gain(), plan))
}

/// A merge of a leaf that does the leaf's part of the shared batch on the way, as far as there is
/// room.
pub(super) fn along(plan: Plan, tree: &TreeShape, limits: Limits, batch: Batch) -> Plan {
    let leaf = plan.node;
    let worth = worth(tree, batch.least_pct).into_iter();
    let chosen = choose_vblocks(tree, worth, limits, batch);
    let value_bytes = chosen.iter().map(|vblock| vblock.of_leaf(leaf)).sum::<u64>();
    let output_bytes = plan.output_bytes + value_bytes;
    if value_bytes == 0 || !fits(limits.room_bytes, output_bytes) {
        return plan;
    }
    Plan { action: Action::Collect, vblocks: ids_of(&chosen, leaf), output_bytes, ..plan }
}

/// Those worth collecting, with the most garbage first. The ones that running jobs may free, or
/// that no leaf can, are left out.
fn worth(tree: &TreeShape, least_pct: u64) -> Vec<&VblockShape> {
    let leaves = tree.leaves.iter().filter(|_| !tree.busy.is_empty());
    let busy: Vec<NodeId> = leaves.filter(|leaf| tree.is_busy(leaf)).map(|leaf| leaf.id).collect();
    let is_idle = |vblock: &VblockShape| busy.iter().all(|leaf| vblock.of_leaf(*leaf) == 0);
    let is_held = |vblock: &VblockShape| vblock.is_in_root() || tree.held.contains(&vblock.id);
    let mut worth: Vec<&VblockShape> = tree
        .vblocks
        .iter()
        .filter(|vblock| vblock.garbage_bytes() >= GARBAGE_BYTES_MIN)
        .filter(|vblock| vblock.share() >= least_pct && !is_held(vblock) && is_idle(vblock))
        .collect();
    worth.sort_by_cached_key(|vblock| (std::cmp::Reverse(vblock.share()), vblock.id));
    worth
}

/// The leaves by their ids, each with its place in the tree.
struct Leaves<'a>(HashMap<NodeId, (usize, &'a NodeShape)>);

impl<'a> Leaves<'a> {
    fn of(tree: &'a TreeShape) -> Self {
        let placed = tree.leaves.iter().enumerate();
        Self(placed.map(|(at, leaf)| (leaf.id, (at, leaf))).collect())
    }
}

/// As many as make a batch and fit, and what comes with them.
fn choose<'a>(
    (tree, leaves): (&TreeShape, &Leaves<'_>),
    worth: impl Iterator<Item = &'a VblockShape>,
    limits: Limits,
    batch: Batch,
) -> Chosen<'a> {
    let vblocks = choose_vblocks(tree, worth, limits, batch);
    let live_bytes = vblocks.iter().map(|vblock| vblock.live_bytes()).sum();
    let mut counted = HashSet::new();
    let mut keys_bytes = 0;
    for (leaf, _) in vblocks.iter().flat_map(|vblock| vblock.refs()) {
        if counted.insert(*leaf) {
            keys_bytes += leaves.0[leaf].1.index_bytes();
        }
    }
    Chosen { vblocks, live_bytes, keys_bytes }
}

/// As many as make a batch and fit.
fn choose_vblocks<'a>(
    tree: &TreeShape,
    worth: impl Iterator<Item = &'a VblockShape>,
    limits: Limits,
    batch: Batch,
) -> Vec<&'a VblockShape> {
    let longest_index = tree.leaves.sums().extremes.kblock_bytes + KVSET_BYTES;
    let (mut len_bytes, mut live_bytes) = (0_u64, 0);
    let mut vblocks = Vec::new();
    for vblock in worth {
        let more_bytes = live_bytes + vblock.live_bytes();
        if len_bytes >= batch.len_bytes {
            break;
        }
        if fits(limits.room_bytes, longest_index + more_bytes) {
            (len_bytes, live_bytes) = (len_bytes.saturating_add(vblock.len_bytes), more_bytes);
            vblocks.push(vblock);
        }
    }
    vblocks
}

#[cfg(test)]
mod tests {
    use super::super::shape::{KvsetShape, Lands};
    use super::super::{LeafShapes, Shortage, pick};
    use super::*;
    use crate::key::KvsetId;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;
    /// Keys of a leaf, bytes.
    const INDEX_BYTES: u64 = MIB / 2;

    /// Live MiB of each vblock by leaf, and its length; a tree whose leaves hold one kvset each.
    type Vblocks = Vec<(u64, Vec<u64>)>;

    fn tree(vblocks: &Vblocks, leaves: usize) -> TreeShape {
        let leaf = |at: usize| {
            let value_bytes = vblocks.iter().map(|(_, live)| live[at]).sum();
            let refers = vblocks.iter().filter(|(_, live)| live[at] > 0).count() as u64;
            let kvset = KvsetShape {
                id: KvsetId::new(at as u64 + 1),
                keys: 1000,
                tombstones: 0,
                kblock_bytes: INDEX_BYTES,
                value_bytes,
                vblocks: refers,
                refs: Arc::default(),
            };
            Arc::new(NodeShape::new(NodeId::new(at as u64 + 1), vec![kvset], 1000))
        };
        let shape = |(id, (len_bytes, live)): (usize, &(u64, Vec<u64>))| {
            let refs = live.iter().copied().enumerate().filter(|(_, bytes)| *bytes > 0);
            let refs = refs.map(|(at, bytes)| (NodeId::new(at as u64 + 1), bytes)).collect();
            VblockShape::new(MblockId::new(id as u64 + 1).unwrap(), *len_bytes, refs)
        };
        let leaves: LeafShapes = (0..leaves).map(leaf).collect();
        TreeShape {
            root: NodeShape::new(NodeId::ROOT, Vec::new(), 0),
            lands: Lands::Apart,
            busy: Arc::default(),
            unreadable: Arc::default(),
            vblock_bytes: vblocks.iter().map(|(len, _)| len).sum(),
            value_bytes: leaves.iter().map(NodeShape::value_bytes).sum(),
            leaves,
            vblocks: Arc::new(vblocks.iter().enumerate().map(shape).collect()),
            held: Arc::default(),
            gathered: Arc::default(),
            distinct_keys: 1000 * vblocks.first().map_or(0, |(_, live)| live.len() as u64),
            reshaping: false,
            objects: super::super::Objects::default(),
        }
    }

    fn limits(room_bytes: u64, shortage: Shortage) -> Limits {
        Limits {
            // No leaf is so small that it would be joined.
            leaf_keys_max: 4000,
            shortage: Some(shortage),
            object_bytes: 8 * MIB,
            room_bytes,
            ..Limits::SHORT
        }
    }

    /// Leaf and vblocks of the plan, or nothing.
    fn told(tree: &TreeShape, room_mib: u64, shortage: Shortage) -> (u64, Vec<u64>) {
        let plan = pick(tree, limits(room_mib * MIB, shortage));
        plan.map_or((0, Vec::new()), |plan| {
            assert_eq!((plan.action, plan.why), (Action::Collect, Why::Garbage));
            (plan.node.get(), plan.vblocks.iter().map(|id| id.get()).collect())
        })
    }

    #[test]
    fn the_vblocks_with_most_garbage_go_first_as_far_as_there_is_room() {
        let m = |mib: [u64; 2]| mib.map(|mib| mib * MIB).to_vec();
        // Garbage: 7, 4, 5, and 1 of 10 MiB.
        let vblocks = vec![
            (10 * MIB, m([1, 2])),
            (10 * MIB, m([3, 3])),
            (10 * MIB, m([5, 0])),
            (10 * MIB, m([9, 0])),
        ];
        let four = tree(&vblocks, 2);
        let full = |room| told(&four, room, Shortage::Full);
        assert_eq!(full(3), (0, vec![]), "the first takes 3 and the keys of a leaf");
        assert_eq!(full(4), (1, vec![1]), "the leaf with less to do first");
        assert_eq!(full(10), (2, vec![1]), "with the third, the other has less to do");
        assert_eq!(full(16), (1, vec![1, 2, 3]), "it frees more for what it writes");
        assert_eq!(full(30), (2, vec![1, 2]), "the other one would move the fourth, too");
        // A tenth is not worth it before puts are refused.
        let only = tree(&vec![(10 * MIB, m([9, 0]))], 2);
        assert_eq!(told(&only, 30, Shortage::Tight), (0, vec![]));
        assert_eq!(told(&only, 30, Shortage::Full), (1, vec![1]));
    }

    #[test]
    fn what_no_leaf_can_free_is_left_alone() {
        let vblocks = vec![(10 * MIB, vec![MIB, MIB]), (10 * MIB, vec![0, MIB])];
        let mut root = tree(&vblocks, 2);
        root.held = Arc::new(BTreeSet::from([MblockId::new(2).unwrap()]));
        assert_eq!(told(&root, 30, Shortage::Full), (1, vec![1]));
        root.held = Arc::default();
        let held = |vblock: &VblockShape| {
            let mut held = vblock.clone();
            if held.id.get() == 2 {
                held.add(NodeId::ROOT, 1);
            }
            held
        };
        root.vblocks = Arc::new(root.vblocks.iter().map(held).collect());
        assert_eq!(told(&root, 30, Shortage::Full), (1, vec![1]));
        root.busy = Arc::new(BTreeSet::from([KvsetId::new(1)]));
        assert_eq!(told(&root, 30, Shortage::Full), (0, vec![]));
        // The head of a small vblock is no garbage.
        let small = tree(&vec![(40_000, vec![30_000])], 1);
        assert_eq!(told(&small, 30, Shortage::Full), (0, vec![]));
    }

    /// splitmix64.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % n
        }
    }

    /// Does what the plan says; returns the bytes written.
    fn apply(vblocks: &mut Vblocks, leaf: usize, chosen: &[MblockId], leaves: usize) -> u64 {
        let mut moved = 0;
        for id in chosen {
            let at = usize::try_from(id.get() - 1).unwrap();
            moved += std::mem::take(&mut vblocks[at].1[leaf]);
        }
        let mut rest = moved;
        while rest > 0 {
            let len = rest.min(8 * MIB);
            let mut live = vec![0; leaves];
            live[leaf] = len;
            vblocks.push((len, live));
            rest -= len;
        }
        vblocks.retain(|(_, live)| live.iter().any(|bytes| *bytes > 0));
        moved + INDEX_BYTES
    }

    /// Of a random part of the values of many volumes: no job writes more than there is room for,
    /// all of it comes back, and what lives is written about once.
    #[test]
    fn garbage_comes_back_in_pieces_whatever_the_volume() {
        for seed in 0..300 {
            let mut rng = Rng(seed);
            let leaves = usize::try_from(1 + rng.below(12)).unwrap();
            let (count, deleted_pct) = (20 + rng.below(200), 20 + rng.below(75));
            let mut vblocks: Vblocks = (0..count)
                .map(|_| {
                    let part = 8 * MIB / leaves as u64;
                    let live = |_| part * (100 - deleted_pct) / 100 / 2 + rng.below(part / 4);
                    (8 * MIB, (0..leaves).map(live).collect())
                })
                .collect();
            let lived: u64 = vblocks.iter().flat_map(|(_, live)| live).sum();
            let total: u64 = vblocks.iter().map(|(len, _)| len).sum();
            // As much is free as is kept for compaction.
            let volume = total + 3 * 8 * MIB;
            let (mut written, mut plans) = (0, 0);
            loop {
                let used: u64 = vblocks.iter().map(|(len, _)| len).sum();
                let room = volume - used;
                let plan = pick(&tree(&vblocks, leaves), limits(room, Shortage::Full));
                let Some(plan) = plan else { break };
                assert!(plan.output_bytes <= room, "seed {seed}: {plan:?} in {room}");
                let leaf = usize::try_from(plan.node.get() - 1).unwrap();
                written += apply(&mut vblocks, leaf, &plan.vblocks, leaves);
                plans += 1;
                assert!(plans <= 20 * (count + leaves as u64), "seed {seed} does not end");
            }
            let used: u64 = vblocks.iter().map(|(len, _)| len).sum();
            assert!(used - lived <= used / 20, "seed {seed}: {used} bytes hold {lived}");
            assert!(
                written <= 2 * lived + plans * INDEX_BYTES,
                "seed {seed}: {written} of {lived}"
            );
        }
    }
}
