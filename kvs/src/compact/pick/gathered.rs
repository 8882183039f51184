//! PURE: leaves whose values were gathered in vain.
//!
//! Where free space lies in small pieces the vblocks that a gathering writes are short, and values
//! that cannot be read stay where they are. Then a leaf is as scattered after it as before, and the
//! next one would come to the same. So it is kept in how many vblocks the values lay then; the leaf
//! is gathered again once they lie in twice as many. An entry goes when its leaf is no longer
//! scattered, or no more; nothing is stored, so each open begins with none.

use super::{Action, Limits, NodeShape};
use crate::key::NodeId;
use std::collections::BTreeMap;

/// A leaf is gathered again when its values lie in so many times the vblocks that the last
/// gathering left.
const AGAIN: u64 = 2;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gathered {
    left: BTreeMap<NodeId, u64>,
}

impl Gathered {
    /// Whether there is nothing to learn from a job on this node that leaves so many vblocks.
    pub(crate) fn has_nothing_to_note(&self, node: NodeId, vblocks: u64) -> bool {
        vblocks <= Limits::DEFAULT.scatter_max && !self.left.contains_key(&node)
    }

    /// A job on a node ends, after which one of the node's kvsets refers to so many vblocks, and
    /// none to more. `exists` tells which leaves there are.
    pub(crate) fn note(
        &mut self,
        (node, action): (NodeId, Action),
        vblocks: u64,
        exists: impl Fn(NodeId) -> bool,
    ) {
        if vblocks <= Limits::DEFAULT.scatter_max {
            self.left.remove(&node);
        } else if action == Action::KvCompact {
            self.left.retain(|node, _| exists(*node));
            self.left.insert(node, vblocks);
        }
    }

    /// Whether gathering a leaf's values again would come to the same, as far as is known.
    pub(super) fn was_in_vain(&self, leaf: &NodeShape) -> bool {
        let left = self.left.get(&leaf.id);
        left.is_some_and(|left| leaf.vblocks_max() < left.saturating_mul(AGAIN))
    }
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
                gathered.note((plan.node, plan.action), vblocks, |_| true);
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
            gathered.note((NodeId::new(1), action), vblocks, |_| true);
        };
        note(&mut gathered, Action::KvCompact, 1500);
        assert!(!is_due(&gathered));
        note(&mut gathered, Action::KCompact, 1500);
        assert!(!is_due(&gathered), "a merge moves no values");
        assert!(!gathered.has_nothing_to_note(NodeId::new(1), 3));
        note(&mut gathered, Action::Collect, 3);
        assert!(is_due(&gathered), "it was scattered anew");
        assert!(gathered.has_nothing_to_note(NodeId::new(1), 3));
        // Of leaves that are gone nothing stays.
        for leaf in 1..100 {
            let of = (NodeId::new(leaf), Action::KvCompact);
            gathered.note(of, 1500, |node| node == NodeId::new(leaf - 1));
            assert!(gathered.left.len() <= 2);
        }
    }
}
