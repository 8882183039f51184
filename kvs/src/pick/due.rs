//! PURE: everything that is due in a tree, for people: what [`pick`](super::pick) chooses from.

use super::{Limits, Plan, RULES, TreeShape, Why};

/// The reasons of [`RULES`], in their order.
const REASONS: [Why; RULES.len()] = [
    Why::RootLength,
    Why::RootBlocked,
    Why::LeafKeys,
    Why::LeafLength,
    Why::Tombstones,
    Why::Tombstones,
    Why::Scatter,
    Why::Garbage,
    Why::LeafKeys,
];

/// Work that is due by one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueWork {
    pub(crate) why: Why,
    /// How far over its limit, percent; 100 is at the limit.
    pub(crate) pressure: u64,
    /// What would be done.
    pub(crate) plan: Plan,
}

/// The most pressing work of each rule, the most pressing first; of equals, as the rules stand.
pub(crate) fn due(tree: &TreeShape, limits: Limits) -> Vec<DueWork> {
    let by_rule = RULES.iter().zip(REASONS).filter_map(|(rule, why)| {
        let due = rule(tree, limits)?;
        Some(DueWork { why, pressure: due.pressure, plan: due.plan })
    });
    let mut all: Vec<DueWork> = by_rule.collect();
    all.sort_by_key(|due| std::cmp::Reverse(due.pressure));
    all
}
