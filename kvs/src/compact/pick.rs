//! What to compact next, and why.
//!
//! [`pick`] maps the shape of one tree to at most one [`Plan`]: a pure function, so that a bad
//! decision seen in production is reproduced by pasting the shape from the log into a test.
//!
//! Rules, each with its limit:
//!
//! 1. *Root length*: a root of `spill_min` kvsets spills its oldest, at most `spill_max`, to the
//!    leaves.
//! 2. *Leaf keys*: a leaf of `leaf_keys_max` keys is split into parts of about half of that.
//! 3. *Leaf length*: a leaf of `leaf_len_max` kvsets is merged, keys only; not yet if its newer
//!    kvsets hold under half as many keys as the oldest, but at twice the length in any case. So
//!    a key is rewritten about three times while a leaf grows, not once a spill.
//! 4. *Tombstones*: a leaf with `tombstone_pct_max` percent of them is merged, keys only.
//! 5. *Scatter*: a leaf with a kvset that refers to more than `scatter_max` vblocks gets its values
//!    rewritten.
//! 6. *Garbage*: when `garbage_pct_max` percent of the tree's vblock bytes are referred to by
//!    nobody,
//!    the leaf that touches the most vblocks beyond what its values would fill is rewritten.
//!
//! Of all the work that is due, the piece furthest over its limit (in percent) goes first; of
//! equals, the one whose rule comes first. So neither reads (length) nor space (garbage) starve the
//! other.
//!
//! A spill writes to every leaf, so it runs alone: when it is its turn and leaves are busy, nothing
//! is picked until they are done; while it runs, nothing else is picked either. `None` for a tree
//! with a busy kvset therefore means *ask again*, for an idle one *nothing is due*.
//!
//! Rule 6 in a picture. A flush puts values of all leaves into one vblock, which dies when the last
//! leaf lets go of it. A rewritten leaf touches only its own new vblocks, so it moves to the end of
//! the order by itself, and the leaves take turns until the old vblocks are gone:
//!
//! ```text
//!   flushed    [abc] [abc] [abc]      a: touches 3       a: 1       a: 1       a: 1
//!                                     b: touches 3  ->   b: 3  ->   b: 1  ->   b: 1
//!                                     c: touches 3       c: 3       c: 3       c: 1, the 3 die
//! ```
//!
//! Space is freed at the end of a round, so the first round after a load, when all values lie in
//! vblocks of the flushes, needs room for a second copy of them (2.4 times the live values in the
//! simulation). Later rounds free a leaf's own vblocks as they go (1.5 times).
//!
//! No plan calls for itself again: a spill shortens the root; a split leaves parts under the limit;
//! a merge leaves one kvset, which is under every length and holds no tombstone; a rewritten leaf
//! is *dense* (see [`is_dense`]) and is not rewritten again before it changes, even if there is
//! garbage that no rewriting reaches.

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use crate::key::{KvsetId, NodeId};

/// Rewritten values fill at least this much of a vblock on average: half of its 32 MiB, as the
/// longest value is 16.
const VBLOCK_FILL_BYTES: u64 = 16 << 20;

/// One kvset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvsetShape {
    pub(crate) id: KvsetId,
    /// Entries, tombstones among them.
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) kblock_bytes: u64,
    /// Bytes of values its keys point at.
    pub(crate) value_bytes: u64,
    /// vblocks it refers to: scatter.
    pub(crate) vblocks: u64,
    /// An input of a running job.
    pub(crate) busy: bool,
}

/// One node, kvsets newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeShape {
    pub(crate) id: NodeId,
    pub(crate) kvsets: Vec<KvsetShape>,
}

/// One KVS's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeShape {
    pub(crate) root: NodeShape,
    pub(crate) leaves: Vec<NodeShape>,
    /// All its vblocks on the medium.
    pub(crate) vblock_bytes: u64,
    /// What all its kvsets refer to. Keys shadowed by newer ones still count, so the garbage,
    /// `vblock_bytes - value_bytes`, is a lower bound.
    pub(crate) value_bytes: u64,
}

/// When work is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Root kvsets that start a spill, and most taken at once.
    pub(crate) spill_min: usize,
    pub(crate) spill_max: usize,
    /// Leaf kvsets that start a k-compaction.
    pub(crate) leaf_len_max: usize,
    /// Keys at which a leaf is split; its parts get about half as many.
    pub(crate) leaf_keys_max: u64,
    /// Garbage in percent of vblock bytes that starts kv-compaction.
    pub(crate) garbage_pct_max: u64,
    /// vblocks of one leaf kvset beyond which its values are gathered.
    pub(crate) scatter_max: u64,
    /// Tombstones in percent of a leaf's keys that start a k-compaction.
    pub(crate) tombstone_pct_max: u64,
}

/// 28 % garbage bounds the space at 1 / 0.72 = 1.4 times the live values, plus what shadowed keys
/// still hide between two merges of a leaf, plus one leaf in rewriting: 1.5 in the simulation,
/// which rewrites each value 2.5 times under uniform updates. At 33 % it is 1.7 and 1.7 times, at
/// 40 % 1.9 and 1.3 times.
impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        spill_min: 4,
        spill_max: 8,
        leaf_len_max: 4,
        leaf_keys_max: 1 << 20,
        garbage_pct_max: 28,
        scatter_max: 1024,
        tombstone_pct_max: 50,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What is done to the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Root kvsets (a run that ends at the oldest) into the leaves, keys only; values stay in their
    /// vblocks.
    Spill,
    /// All kvsets of a leaf into one, keys only.
    KCompact,
    /// All kvsets of a leaf into one, values rewritten in key order.
    KvCompact,
    /// All kvsets of a leaf, keys only, into `parts` new leaves.
    Split { parts: usize },
}

/// For the log line and the metric; never branched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    RootLength,
    LeafLength,
    LeafKeys,
    Garbage,
    Scatter,
    Tombstones,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) node: NodeId,
    /// Newest first.
    pub(crate) inputs: Vec<KvsetId>,
    pub(crate) action: Action,
    pub(crate) why: Why,
}

/// Work that is due.
struct Due {
    /// How far over its limit, percent; 100 is at the limit.
    pressure: u64,
    /// None: it must wait for running jobs, and holds back less pressing work meanwhile.
    plan: Option<Plan>,
}

/// The most pressing piece of work, if it can start.
pub(crate) fn pick(tree: &TreeShape, limits: Limits) -> Option<Plan> {
    if tree.root.is_busy() {
        return None;
    }
    let mut most: Option<Due> = None;
    for rule in [root_length, leaf_keys, leaf_length, tombstones, scatter, garbage] {
        if let Some(due) = rule(tree, limits)
            && most.as_ref().is_none_or(|most| due.pressure > most.pressure)
        {
            most = Some(due);
        }
    }
    most?.plan
}

/// Rule 1.
fn root_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let len = tree.root.kvsets.len();
    if len == 0 || len < limits.spill_min {
        return None;
    }
    let newest = len - len.min(limits.spill_max.max(1));
    let plan = Plan {
        node: tree.root.id,
        inputs: tree.root.kvsets[newest..].iter().map(|kvset| kvset.id).collect(),
        action: Action::Spill,
        why: Why::RootLength,
    };
    let alone = !tree.leaves.iter().any(NodeShape::is_busy);
    Some(Due {
        pressure: percent(length(len), length(limits.spill_min)),
        plan: alone.then_some(plan),
    })
}

/// Rule 2. Under two keys there is nothing to split, whatever the limit.
fn leaf_keys(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let limit = limits.leaf_keys_max.max(2);
    let leaf = greatest(tree, |leaf| Some(leaf.keys()).filter(|&keys| keys >= limit))?;
    let parts = leaf.keys().saturating_mul(2).div_ceil(limit).max(2);
    let parts = usize::try_from(parts).unwrap_or(usize::MAX);
    let pressure = percent(leaf.keys(), limit);
    Some(Due { pressure, plan: Some(leaf.plan(Action::Split { parts }, Why::LeafKeys)) })
}

/// Rule 3. A single kvset cannot get shorter.
fn leaf_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let leaf = greatest(tree, |leaf| {
        let (oldest, newer) = leaf.kvsets.split_last()?;
        let newer_keys: u64 = newer.iter().map(|kvset| kvset.keys).sum();
        let len = leaf.kvsets.len();
        let due = len >= limits.leaf_len_max && !newer.is_empty();
        let worth = newer_keys.saturating_mul(2) >= oldest.keys
            || len >= limits.leaf_len_max.saturating_mul(2);
        (due && worth).then_some(length(len))
    })?;
    let pressure = percent(length(leaf.kvsets.len()), length(limits.leaf_len_max));
    Some(Due { pressure, plan: Some(leaf.plan(Action::KCompact, Why::LeafLength)) })
}

/// Rule 4.
fn tombstones(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let limit = limits.tombstone_pct_max.max(1);
    let share = |leaf: &NodeShape| percent(leaf.tombstones(), leaf.keys());
    let leaf = greatest(tree, |leaf| Some(share(leaf)).filter(|&pct| pct >= limit))?;
    let plan = leaf.plan(Action::KCompact, Why::Tombstones);
    Some(Due { pressure: percent(share(leaf), limit), plan: Some(plan) })
}

/// Rule 5.
fn scatter(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let vblocks = |leaf: &NodeShape| leaf.kvsets.iter().map(|kvset| kvset.vblocks).max();
    let leaf = greatest(tree, |leaf| {
        vblocks(leaf).filter(|&vblocks| vblocks > limits.scatter_max && !is_dense(leaf))
    })?;
    let pressure = percent(vblocks(leaf).unwrap_or(0), limits.scatter_max);
    Some(Due { pressure, plan: Some(leaf.plan(Action::KvCompact, Why::Scatter)) })
}

/// Rule 6.
fn garbage(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let garbage_bytes = tree.vblock_bytes.saturating_sub(tree.value_bytes);
    let pct = percent(garbage_bytes, tree.vblock_bytes);
    if garbage_bytes == 0 || pct < limits.garbage_pct_max {
        return None;
    }
    let leaf = greatest(tree, |leaf| {
        let filled = leaf.value_bytes() / VBLOCK_FILL_BYTES;
        (!is_dense(leaf)).then_some(leaf.vblocks().saturating_sub(filled))
    })?;
    let pressure = percent(pct, limits.garbage_pct_max);
    Some(Due { pressure, plan: Some(leaf.plan(Action::KvCompact, Why::Garbage)) })
}

/// Whether rewriting the leaf's values would change nothing: one kvset that touches no more vblocks
/// than a rewriting could leave.
fn is_dense(leaf: &NodeShape) -> bool {
    match &leaf.kvsets[..] {
        [] => true,
        [only] => only.vblocks <= 2 + only.value_bytes / VBLOCK_FILL_BYTES,
        _ => false,
    }
}

/// The idle leaf with the greatest measure, the first of equals. A busy leaf does not block the
/// others.
fn greatest(tree: &TreeShape, measure: impl Fn(&NodeShape) -> Option<u64>) -> Option<&NodeShape> {
    let idle = tree.leaves.iter().rev().filter(|leaf| !leaf.is_busy());
    idle.filter_map(|leaf| Some((measure(leaf)?, leaf)))
        .max_by_key(|(measured, _)| *measured)
        .map(|(_, leaf)| leaf)
}

/// `part` in percent of `whole`.
fn percent(part: u64, whole: u64) -> u64 {
    let pct = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(pct).unwrap_or(u64::MAX)
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl NodeShape {
    fn is_busy(&self) -> bool {
        self.kvsets.iter().any(|kvset| kvset.busy)
    }

    fn sum(&self, of: impl Fn(&KvsetShape) -> u64) -> u64 {
        self.kvsets.iter().map(of).sum()
    }

    fn keys(&self) -> u64 {
        self.sum(|kvset| kvset.keys)
    }

    fn tombstones(&self) -> u64 {
        self.sum(|kvset| kvset.tombstones)
    }

    fn value_bytes(&self) -> u64 {
        self.sum(|kvset| kvset.value_bytes)
    }

    fn vblocks(&self) -> u64 {
        self.sum(|kvset| kvset.vblocks)
    }

    /// A job on all its kvsets.
    fn plan(&self, action: Action, why: Why) -> Plan {
        let inputs = self.kvsets.iter().map(|kvset| kvset.id).collect();
        Plan { node: self.id, inputs, action, why }
    }
}

impl Why {
    /// All of them, in the order of [`Why::index`].
    pub(crate) const ALL: [Self; 6] = [
        Self::RootLength,
        Self::LeafLength,
        Self::LeafKeys,
        Self::Garbage,
        Self::Scatter,
        Self::Tombstones,
    ];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::RootLength => 0,
            Self::LeafLength => 1,
            Self::LeafKeys => 2,
            Self::Garbage => 3,
            Self::Scatter => 4,
            Self::Tombstones => 5,
        }
    }

    /// Its name in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RootLength => "root_length",
            Self::LeafLength => "leaf_length",
            Self::LeafKeys => "leaf_keys",
            Self::Garbage => "garbage",
            Self::Scatter => "scatter",
            Self::Tombstones => "tombstones",
        }
    }
}

impl Action {
    /// Names in metrics and logs, in the order of [`Action::index`].
    pub(crate) const NAMES: [&'static str; 4] = ["spill", "k_compact", "kv_compact", "split"];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Spill => 0,
            Self::KCompact => 1,
            Self::KvCompact => 2,
            Self::Split { .. } => 3,
        }
    }

    /// Its name in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}
