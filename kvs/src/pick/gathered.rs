//! PURE: leaves whose values were gathered in vain.
//!
//! Where free space lies in small pieces the vblocks that a gathering writes are short, and values
//! that cannot be read stay where they are. Then a leaf is in as many pieces after it as before,
//! and the next one would come to the same. So it is kept in how many vblocks the values lie after
//! one that leaves too many, or more than half of those before; the leaf is gathered again once
//! they lie in twice as many. An entry goes when half of them are gone, or the leaf; nothing is
//! stored, so each open begins with none.

use super::{Action, Limits, NodeShape};
use crate::key::NodeId;
use std::collections::BTreeMap;

/// A leaf is gathered again when its values lie in so many times the vblocks that the last
/// gathering left.
const AGAIN: u64 = 2;

/// The most vblocks that one kvset of a node refers to, before a job and after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VblocksMax {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gathered {
    left: BTreeMap<NodeId, u64>,
}

impl Gathered {
    /// Whether there is nothing to learn from a job that leaves so many vblocks.
    pub(crate) fn has_nothing_to_note(&self, of: (NodeId, Action), vblocks: VblocksMax) -> bool {
        !is_in_vain(of.1, vblocks) && !self.left.contains_key(&of.0)
    }

    /// A job on a node ends, which leaves so many vblocks. `exists` tells which leaves there are.
    pub(crate) fn note(
        &mut self,
        (node, action): (NodeId, Action),
        vblocks: VblocksMax,
        exists: impl Fn(NodeId) -> bool,
    ) {
        if is_in_vain(action, vblocks) {
            // At each doubling, as there may be many.
            if self.left.len().is_power_of_two() {
                self.left.retain(|node, _| exists(*node));
            }
            self.left.insert(node, vblocks.after);
        } else if self.left.get(&node).is_some_and(|left| vblocks.after * AGAIN <= *left) {
            self.left.remove(&node);
        }
    }

    /// Whether gathering a leaf's values again would come to the same, as far as is known.
    pub(super) fn was_in_vain(&self, leaf: &NodeShape) -> bool {
        let left = self.left.get(&leaf.id);
        left.is_some_and(|left| leaf.vblocks_max() < left.saturating_mul(AGAIN))
    }
}

/// Values in one vblock are as well gathered as can be.
fn is_in_vain(action: Action, VblocksMax { before, after }: VblocksMax) -> bool {
    let many = after > Limits::DEFAULT.scatter_max || after.saturating_mul(AGAIN) > before;
    action == Action::KvCompact && after > 1 && many
}

#[cfg(test)]
mod tests {
    use super::super::shape::{KvsetShape, Lands};
    use super::super::{Objects, Plan, TreeShape, Why, pick};
    use super::*;
    use crate::key::KvsetId;
    use std::sync::Arc;

    /// A leaf of one kvset that refers to so many vblocks.
    fn tree(vblocks: u64, gathered: &Gathered) -> TreeShape {
        let kvset = KvsetShape {
            id: KvsetId::new(1),
            keys: 1000,
            tombstones: 0,
            kblock_bytes: 40_000,
            value_bytes: 64 << 20,
            vblocks,
            refs: Arc::default(),
        };
        let leaf = Arc::new(NodeShape::new(NodeId::new(1), vec![kvset], 1000));
        TreeShape {
            root: NodeShape::new(NodeId::ROOT, Vec::new(), 0),
            lands: Lands::Apart,
            leaves: std::iter::once(leaf).collect(),
            busy: Arc::default(),
            unreadable: Arc::default(),
            vblocks: Arc::default(),
            held: Arc::default(),
            gathered: Arc::new(gathered.clone()),
            vblock_bytes: 64 << 20,
            value_bytes: 64 << 20,
            distinct_keys: 1000,
            reshaping: false,
            objects: Objects::default(),
        }
    }

    /// A job leaves as many vblocks as there were.
    fn as_many(vblocks: u64) -> VblocksMax {
        VblocksMax { before: vblocks, after: vblocks }
    }

    fn is_gathering(plan: &Plan) -> bool {
        (plan.action, plan.why) == (Action::KvCompact, Why::Scatter)
    }

    /// On a volume whose free space is in small pieces the values lay in as many vblocks as before,
    /// and the leaf was gathered for ever.
    #[test]
    fn a_leaf_that_was_gathered_in_vain_is_left_until_it_is_twice_as_scattered() {
        let mut gathered = Gathered::default();
        let mut gatherings = Vec::new();
        for vblocks in [1024, 1025, 1025, 1100, 2049, 2050, 2050, 4099, 4100, 4100] {
            // As much is left as was there.
            for _ in 0..3 {
                let Some(plan) = pick(&tree(vblocks, &gathered), Limits::DEFAULT) else { break };
                assert!(is_gathering(&plan), "{plan:?}");
                gathered.note((plan.node, plan.action), as_many(vblocks), |_| true);
                gatherings.push(vblocks);
            }
        }
        assert_eq!(gatherings, [1025, 2050, 4100]);
    }

    #[test]
    fn what_is_kept_goes_with_the_scatter_and_with_the_leaf() {
        let mut gathered = Gathered::default();
        let is_due = |gathered: &Gathered| pick(&tree(1500, gathered), Limits::DEFAULT).is_some();
        let note = |gathered: &mut Gathered, action, vblocks| {
            gathered.note((NodeId::new(1), action), as_many(vblocks), |_| true);
        };
        note(&mut gathered, Action::KvCompact, 1500);
        assert!(!is_due(&gathered));
        note(&mut gathered, Action::KCompact, 1500);
        assert!(!is_due(&gathered), "a merge moves no values");
        let collected = (NodeId::new(1), Action::Collect);
        assert!(!gathered.has_nothing_to_note(collected, as_many(3)));
        note(&mut gathered, Action::Collect, 3);
        assert!(is_due(&gathered), "it was scattered anew");
        assert!(gathered.has_nothing_to_note(collected, as_many(3)));
        // Of leaves that are gone hardly anything stays.
        for leaf in 1..100 {
            let of = (NodeId::new(leaf), Action::KvCompact);
            gathered.note(of, as_many(1500), |node| node == NodeId::new(leaf - 1));
            assert!(gathered.left.len() <= 2);
        }
    }
}
