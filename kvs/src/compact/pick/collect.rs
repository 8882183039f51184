//! PURE: garbage collected in pieces that fit what is free, for when space is short.
//!
//! A vblock is freed when no kvset refers to it any more. To rewrite a whole leaf takes room for
//! all of its values before the first byte comes back, and a flush's vblock waits for every leaf.
//! So the unit here is the vblock: of those with the most garbage, as many are chosen as have their
//! live values, from all leaves, fit the room; then one leaf rewrites those of its values that lie
//! in them, and shares the others as before.
//!
//! ```text
//!   room for 5        v1 a...b     v2 aab.b     v3 aaabb        a, b: live, of two leaves
//!   chosen: v1 (2)    leaf a writes 1, leaf b writes 1; v1 is freed, 5 come back
//!   room for 8        v2 (4) and v3 would be 9: v2 ...
//! ```
//!
//! The choice is stable without being remembered: when the first leaf has done its part, less of
//! the chosen ones lives and the room has shrunk by as much, so they are chosen first again. Every
//! live value moves at most once, into a vblock without garbage, so it ends.

use super::{Action, Due, Limits, NodeShape, TreeShape, Why, fits, percent};
use mpool::MblockId;

/// Garbage of a vblock, in bytes, below which rewriting its values is not worth a job: its head and
/// the rest of its last unit look like garbage, and stay.
const GARBAGE_BYTES_MIN: u64 = 64 << 10;

/// One vblock, with what refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VblockShape {
    pub(crate) id: MblockId,
    pub(crate) len_bytes: u64,
    /// Bytes that kvsets of the root refer to: while there are any, no leaf can free it.
    pub(crate) root_bytes: u64,
    /// Bytes that kvsets of leaves refer to, by the leaf's place in the tree, ascending.
    pub(crate) leaf_bytes: Vec<(usize, u64)>,
}

impl VblockShape {
    fn live_bytes(&self) -> u64 {
        self.leaf_bytes.iter().map(|(_, bytes)| bytes).sum()
    }

    fn garbage_bytes(&self) -> u64 {
        self.len_bytes.saturating_sub(self.live_bytes())
    }

    fn of_leaf(&self, leaf: usize) -> u64 {
        self.leaf_bytes.iter().find(|(at, _)| *at == leaf).map_or(0, |(_, bytes)| *bytes)
    }
}

/// The leaf that does its part of the vblocks that are chosen.
pub(super) fn collect(tree: &TreeShape, limits: Limits, least_pct: u64) -> Option<Due> {
    let chosen = choose(tree, limits, least_pct);
    let best = chosen.first().map(|vblock| share(vblock))?;
    let idle = tree.leaves.iter().enumerate().filter(|(_, leaf)| !leaf.is_busy());
    let bytes = |leaf: usize| chosen.iter().map(|vblock| vblock.of_leaf(leaf)).sum::<u64>();
    // Few bytes first: the vblocks that wait for one leaf alone are freed at once.
    let parts = idle.map(|(at, leaf)| (bytes(at), leaf, at)).filter(|(bytes, ..)| *bytes > 0);
    let (value_bytes, leaf, at) = parts.min_by_key(|(bytes, _, at)| (*bytes, *at))?;
    if !fits(limits.room_bytes, leaf.index_bytes() + value_bytes) {
        return None;
    }
    let vblocks = chosen.iter().filter(|vblock| vblock.of_leaf(at) > 0).map(|vblock| vblock.id);
    let mut plan = leaf.plan(Action::Collect, Why::Garbage);
    plan.vblocks = vblocks.collect();
    plan.vblocks.sort_unstable();
    plan.output_bytes = leaf.index_bytes() + value_bytes;
    Some(Due { pressure: percent(best, least_pct), plan: Some(plan) })
}

/// Those with the most garbage, as many as fit; the ones that running jobs may free are left out.
fn choose(tree: &TreeShape, limits: Limits, least_pct: u64) -> Vec<&VblockShape> {
    let is_idle = |(at, _): &(usize, u64)| !tree.leaves[*at].is_busy();
    let mut worth: Vec<&VblockShape> = tree
        .vblocks
        .iter()
        .filter(|vblock| vblock.root_bytes == 0 && vblock.garbage_bytes() >= GARBAGE_BYTES_MIN)
        .filter(|vblock| share(vblock) >= least_pct && vblock.leaf_bytes.iter().all(is_idle))
        .collect();
    worth.sort_by_key(|vblock| (std::cmp::Reverse(share(vblock)), vblock.id));
    let index_bytes = tree.leaves.iter().map(NodeShape::index_bytes).max().unwrap_or(0);
    let mut chosen_bytes = index_bytes;
    worth.retain(|vblock| {
        let taken = fits(limits.room_bytes, chosen_bytes + vblock.live_bytes());
        if taken {
            chosen_bytes += vblock.live_bytes();
        }
        taken
    });
    worth
}

/// Garbage in percent of the vblock.
fn share(vblock: &VblockShape) -> u64 {
    percent(vblock.garbage_bytes(), vblock.len_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{KvsetShape, NodeShape, Shortage, pick};
    use super::*;
    use crate::key::{KvsetId, NodeId};

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
                busy: false,
            };
            NodeShape { id: NodeId::new(at as u64 + 1), kvsets: vec![kvset] }
        };
        let shape = |(id, (len_bytes, live)): (usize, &(u64, Vec<u64>))| VblockShape {
            id: MblockId::new(id as u64 + 1).unwrap(),
            len_bytes: *len_bytes,
            root_bytes: 0,
            leaf_bytes: live.iter().copied().enumerate().filter(|(_, bytes)| *bytes > 0).collect(),
        };
        let leaves: Vec<NodeShape> = (0..leaves).map(leaf).collect();
        TreeShape {
            root: NodeShape { id: NodeId::ROOT, kvsets: Vec::new() },
            vblock_bytes: vblocks.iter().map(|(len, _)| len).sum(),
            value_bytes: leaves.iter().map(NodeShape::value_bytes).sum(),
            leaves,
            vblocks: vblocks.iter().enumerate().map(shape).collect(),
        }
    }

    fn limits(room_bytes: u64, shortage: Shortage) -> Limits {
        Limits { room_bytes, shortage: Some(shortage), object_bytes: 8 * MIB, ..Limits::SHORT }
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
        assert_eq!(full(16), (2, vec![1, 2]));
        assert_eq!(full(30), (2, vec![1, 2]), "the fourth has no part in it");
        // A tenth is not worth it before puts are refused.
        let only = tree(&vec![(10 * MIB, m([9, 0]))], 2);
        assert_eq!(told(&only, 30, Shortage::Tight), (0, vec![]));
        assert_eq!(told(&only, 30, Shortage::Full), (1, vec![1]));
    }

    #[test]
    fn what_no_leaf_can_free_is_left_alone() {
        let vblocks = vec![(10 * MIB, vec![MIB, MIB]), (10 * MIB, vec![0, MIB])];
        let mut root = tree(&vblocks, 2);
        root.vblocks[1].root_bytes = 1;
        assert_eq!(told(&root, 30, Shortage::Full), (1, vec![1]));
        root.leaves[0].kvsets[0].busy = true;
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
