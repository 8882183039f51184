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
//!    nobody, the leaf that touches the most vblocks beyond what its values would fill is
//!    rewritten.
//!
//! No plan is made that would write more than there is room for; then the next one that fits is
//! taken, and where none does there is none. When space is short ([`Limits::SHORT`]), everything
//! goes down early, so that deletes meet what they delete, as long as it pays: a merge or a spill
//! writes at most ten times what it may free. And garbage is collected by the vblock (`collect`).
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
//! simulation), or ends for want of it and goes on by the vblock. Later rounds free a leaf's own
//! vblocks as they go (1.5 times).
//!
//! No plan calls for itself again: a spill shortens the root; a split leaves parts under the limit;
//! a merge leaves one kvset, which is under every length and holds no tombstone; a rewritten leaf
//! is *dense* (see [`is_dense`]) and is not rewritten again before it changes, even if there is
//! garbage that no rewriting reaches.

mod collect;
mod due;
mod plan;
pub(crate) mod request;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub(crate) use collect::VblockShape;
pub(crate) use due::{DueWork, due};
pub(crate) use plan::{Action, Plan, Why};

use crate::key::{KvsetId, NodeId};
use crate::space::OBJECT_BYTES_MAX;

/// Rewritten values fill at least this part of a vblock on average: the longest value is half as
/// long as the longest vblock, and where vblocks are shorter, a longer value has one of its own.
const VBLOCK_FILL: u64 = 2;
/// What a kvset takes beside its keys and values: an hblock, and the rests of its last units.
const KVSET_BYTES: u64 = 256 << 10;
/// Part that objects take beyond what they hold: units of 64 KiB of objects of 4 MiB are a 64th,
/// and the checksums a 1024th.
const OVERHEAD: u64 = 32;
/// The room that a compaction needs is told in steps of this many bytes.
const LEAST_ROOM_STEP: u64 = 64 << 10;
/// When space is short, merges and spills write at most so many times what they may free.
const COST_MAX: u64 = 10;

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
    /// Each vblock; none unless space is short.
    pub(crate) vblocks: Vec<VblockShape>,
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
    /// Keys, or bytes of kblocks, at which a leaf is split; its parts get about half as many.
    pub(crate) leaf_keys_max: u64,
    pub(crate) leaf_bytes_max: u64,
    /// Garbage in percent of vblock bytes that starts kv-compaction.
    pub(crate) garbage_pct_max: u64,
    /// vblocks of one leaf kvset beyond which its values are gathered.
    pub(crate) scatter_max: u64,
    /// Tombstones in percent of a leaf's keys that start a k-compaction.
    pub(crate) tombstone_pct_max: u64,
    /// Whether space is short.
    pub(crate) shortage: Option<Shortage>,
    /// Longest vblock.
    pub(crate) object_bytes: u64,
    /// Bytes that a job may write before it frees any, and what of them is for jobs that free
    /// space as they end.
    pub(crate) room_bytes: u64,
    pub(crate) kept_bytes: u64,
    /// Whether a spill writes values, too.
    pub(crate) spill_moves_values: bool,
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
        leaf_bytes_max: u64::MAX,
        garbage_pct_max: 28,
        scatter_max: 1024,
        tombstone_pct_max: 50,
        shortage: None,
        object_bytes: OBJECT_BYTES_MAX,
        room_bytes: u64::MAX,
        kept_bytes: 0,
        spill_moves_values: false,
    };

    /// When space is short: everything goes down early, and garbage is collected by the vblock.
    pub(crate) const SHORT: Self = Self {
        spill_min: 1,
        leaf_len_max: 1,
        tombstone_pct_max: 10,
        shortage: Some(Shortage::Tight),
        ..Self::DEFAULT
    };

    fn is_short(&self) -> bool {
        self.shortage.is_some()
    }
}

/// How short space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Puts will be refused soon.
    Tight,
    /// They are.
    Full,
}

impl Shortage {
    /// Garbage in percent of one vblock that makes it worth collecting. While puts are refused,
    /// writing twenty bytes to win one back is better than winning none.
    fn collect_pct(self) -> u64 {
        match self {
            Self::Tight => 20,
            Self::Full => 5,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Work that is due.
struct Due {
    /// How far over its limit, percent; 100 is at the limit.
    pressure: u64,
    /// None: it must wait for running jobs, and holds back less pressing work meanwhile.
    plan: Option<Plan>,
}

/// What may be due.
type Rule = fn(&TreeShape, Limits) -> Option<Due>;

const RULES: [Rule; 6] = [root_length, leaf_keys, leaf_length, tombstones, scatter, garbage];
/// Those that free space when it is short, or bring down what does.
const FREEING: [Rule; 4] = [root_length, leaf_length, tombstones, garbage];

/// The most pressing piece of work, if it can start.
pub(crate) fn pick(tree: &TreeShape, limits: Limits) -> Option<Plan> {
    pick_by(&RULES, tree, limits)
}

fn pick_by(rules: &[Rule], tree: &TreeShape, limits: Limits) -> Option<Plan> {
    if tree.root.is_busy() {
        return None;
    }
    let mut most: Option<Due> = None;
    for rule in rules {
        if let Some(due) = rule(tree, limits)
            && most.as_ref().is_none_or(|most| due.pressure > most.pressure)
        {
            most = Some(due);
        }
    }
    most?.plan
}

/// The least room with which there is something to do that frees space, to [`LEAST_ROOM_STEP`];
/// `None` if there is nothing with any.
pub(crate) fn least_room(tree: &TreeShape, limits: Limits) -> Option<u64> {
    let is_enough = |room_bytes| pick_by(&FREEING, tree, Limits { room_bytes, ..limits }).is_some();
    let (mut too_little, mut enough) = (0, 1_u64 << 50);
    if !is_enough(enough) {
        return None;
    }
    while enough - too_little > LEAST_ROOM_STEP {
        let middle = too_little + (enough - too_little) / 2;
        if is_enough(middle) { enough = middle } else { too_little = middle }
    }
    Some(enough)
}

/// Rule 1.
fn root_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let len = tree.root.kvsets.len();
    if len == 0 || len < limits.spill_min {
        return None;
    }
    let oldest = |count: usize| &tree.root.kvsets[len - count..];
    let writes = |inputs: &[KvsetShape]| {
        let bytes = |kvset: &KvsetShape| {
            kvset.kblock_bytes + if limits.spill_moves_values { kvset.value_bytes } else { 0 }
        };
        inputs.iter().map(bytes).sum::<u64>() + length(tree.leaves.len().max(1)) * KVSET_BYTES
    };
    // As many as there is room for.
    let counts = (1..=len.min(limits.spill_max.max(1))).rev();
    let inputs = counts.map(oldest).find(|inputs| fits(limits.room_bytes, writes(inputs)))?;
    let pays = || tree.pays(killers(inputs, limits), writes(inputs));
    if limits.is_short() && len < Limits::DEFAULT.spill_min && !pays() {
        return None;
    }
    let plan = Plan {
        node: tree.root.id,
        inputs: inputs.iter().map(|kvset| kvset.id).collect(),
        action: Action::Spill,
        why: Why::RootLength,
        vblocks: Vec::new(),
        output_bytes: writes(inputs),
    };
    let alone = !tree.leaves.iter().any(NodeShape::is_busy);
    Some(Due {
        pressure: percent(length(len), length(limits.spill_min)),
        plan: alone.then_some(plan),
    })
}

/// Rule 2. Under two keys there is nothing to split, whatever the limit.
fn leaf_keys(tree: &TreeShape, limits: Limits) -> Option<Due> {
    // How far over its limit, by keys or by bytes.
    let size = |leaf: &NodeShape| {
        let bytes = percent(leaf.kblock_bytes(), limits.leaf_bytes_max.max(1));
        percent(leaf.keys(), limits.leaf_keys_max.max(2)).max(bytes)
    };
    let leaf = greatest(tree, |leaf| {
        let due = size(leaf) >= 100 && leaf.keys() >= 2;
        (due && fits(limits.room_bytes, leaf.index_bytes())).then(|| size(leaf))
    })?;
    let parts = size(leaf).saturating_mul(2).div_ceil(100).clamp(2, leaf.keys());
    let parts = usize::try_from(parts).unwrap_or(usize::MAX);
    let plan = leaf.plan(Action::Split { parts }, Why::LeafKeys);
    Some(Due { pressure: size(leaf), plan: Some(plan) })
}

/// Rule 3. A single kvset cannot get shorter.
fn leaf_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let leaf = greatest(tree, |leaf| {
        let (oldest, newer) = leaf.kvsets.split_last()?;
        let newer_keys: u64 = newer.iter().map(|kvset| kvset.keys).sum();
        let len = leaf.kvsets.len();
        let due = len >= limits.leaf_len_max && !newer.is_empty();
        let worth = newer_keys.saturating_mul(2) >= oldest.keys
            || if limits.is_short() {
                len >= Limits::DEFAULT.leaf_len_max * 2
                    || tree.pays(killers(newer, limits), leaf.index_bytes())
            } else {
                len >= limits.leaf_len_max.saturating_mul(2)
            };
        (due && worth && fits(limits.room_bytes, leaf.index_bytes())).then_some(length(len))
    })?;
    let pressure = percent(length(leaf.kvsets.len()), length(limits.leaf_len_max));
    Some(Due { pressure, plan: Some(leaf.plan(Action::KCompact, Why::LeafLength)) })
}

/// Rule 4.
fn tombstones(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let limit = limits.tombstone_pct_max.max(1);
    let share = |leaf: &NodeShape| percent(leaf.tombstones(), leaf.keys());
    let leaf = greatest(tree, |leaf| {
        let due = share(leaf) >= limit && fits(limits.room_bytes, leaf.index_bytes());
        due.then(|| share(leaf))
    })?;
    let plan = leaf.plan(Action::KCompact, Why::Tombstones);
    Some(Due { pressure: percent(share(leaf), limit), plan: Some(plan) })
}

/// Rule 5.
fn scatter(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let vblocks = |leaf: &NodeShape| leaf.kvsets.iter().map(|kvset| kvset.vblocks).max();
    let leaf = greatest(tree, |leaf| {
        let due = !is_dense(leaf, limits) && leaf.can_be_rewritten(limits);
        vblocks(leaf).filter(|&vblocks| vblocks > limits.scatter_max && due)
    })?;
    let pressure = percent(vblocks(leaf).unwrap_or(0), limits.scatter_max);
    Some(Due { pressure, plan: Some(leaf.plan(Action::KvCompact, Why::Scatter)) })
}

/// Rule 6.
fn garbage(tree: &TreeShape, limits: Limits) -> Option<Due> {
    if let Some(shortage) = limits.shortage {
        return collect::collect(tree, limits, shortage.collect_pct());
    }
    let garbage_bytes = tree.vblock_bytes.saturating_sub(tree.value_bytes);
    let pct = percent(garbage_bytes, tree.vblock_bytes);
    if garbage_bytes == 0 || pct < limits.garbage_pct_max {
        return None;
    }
    let leaf = greatest(tree, |leaf| {
        let filled = leaf.value_bytes() / limits.vblock_fill_bytes();
        let due = !is_dense(leaf, limits) && leaf.can_be_rewritten(limits);
        due.then_some(leaf.vblocks().saturating_sub(filled))
    })?;
    let pressure = percent(pct, limits.garbage_pct_max);
    Some(Due { pressure, plan: Some(leaf.plan(Action::KvCompact, Why::Garbage)) })
}

/// Whether rewriting the leaf's values would change nothing: one kvset that touches no more vblocks
/// than a rewriting could leave.
fn is_dense(leaf: &NodeShape, limits: Limits) -> bool {
    match &leaf.kvsets[..] {
        [] => true,
        [only] => only.vblocks <= 2 + only.value_bytes / limits.vblock_fill_bytes(),
        _ => false,
    }
}

/// Whether a job that writes so many bytes has room for them, with their checksums and the rests of
/// each object's last unit.
fn fits(room_bytes: u64, output_bytes: u64) -> bool {
    output_bytes.saturating_add(output_bytes / OVERHEAD) <= room_bytes
}

/// Keys that kill something below, as far as is known: deletes; while puts are refused any key may.
fn killers(kvsets: &[KvsetShape], limits: Limits) -> u64 {
    let count = |kvset: &KvsetShape| match limits.shortage {
        Some(Shortage::Full) => kvset.keys,
        _ => kvset.tombstones,
    };
    kvsets.iter().map(count).sum()
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

impl Limits {
    /// What rewritten values fill of a vblock, on average.
    fn vblock_fill_bytes(&self) -> u64 {
        (self.object_bytes / VBLOCK_FILL).max(1)
    }
}

impl TreeShape {
    /// Whether taking so many keys that may kill something to the older ones below may free a good
    /// part of the bytes that it writes.
    fn pays(&self, keys: u64, written_bytes: u64) -> bool {
        let sum = |of: fn(&NodeShape) -> u64| self.leaves.iter().map(of).sum::<u64>();
        let leaf_keys = sum(NodeShape::keys);
        let leaf_bytes = sum(NodeShape::kblock_bytes) + sum(NodeShape::value_bytes);
        let may_free = u128::from(keys) * u128::from(leaf_bytes) * u128::from(COST_MAX);
        leaf_keys == 0 || may_free >= u128::from(written_bytes) * u128::from(leaf_keys)
    }
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

    fn kblock_bytes(&self) -> u64 {
        self.sum(|kvset| kvset.kblock_bytes)
    }

    /// What a merge of its keys writes, at most.
    fn index_bytes(&self) -> u64 {
        self.kblock_bytes() + KVSET_BYTES
    }

    /// Whether there is room for all of its values, beside what is kept for jobs that free space
    /// sooner.
    fn can_be_rewritten(&self, limits: Limits) -> bool {
        let room = limits.room_bytes.saturating_sub(limits.kept_bytes);
        fits(room, self.index_bytes() + self.value_bytes())
    }

    fn vblocks(&self) -> u64 {
        self.sum(|kvset| kvset.vblocks)
    }

    /// A job on all its kvsets.
    fn plan(&self, action: Action, why: Why) -> Plan {
        let inputs = self.kvsets.iter().map(|kvset| kvset.id).collect();
        let values = if action == Action::KvCompact { self.value_bytes() } else { 0 };
        let kvsets = if let Action::Split { parts } = action { length(parts) } else { 1 };
        let output_bytes = self.kblock_bytes() + values + kvsets * KVSET_BYTES;
        Plan { node: self.id, inputs, action, why, vblocks: Vec::new(), output_bytes }
    }
}
