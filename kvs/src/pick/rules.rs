//! PURE: the rules of the picker but for garbage, each with its limit.

use super::garbage;
use super::leaves::Extremes;
use super::shape::{KVSET_BYTES, KvsetShape, Lands, NodeShape, Run, TreeShape};
use super::size::{self, Extent};
use super::{Action, Due, Limits, NewLeaves, Plan, Shortage, Why};
use super::{LEAF_BYTES_MAX, fits, greatest, length, percent};
use crate::key::NodeId;

/// A root that is so many times over its limit goes before leaves are split: a spill and a split
/// wait for each other.
const ROOT_FIRST: usize = 2;
/// Leaves are joined when they have less than this part of what a leaf may have.
const JOIN_SHARE: u64 = 4;
/// The first leaves have at least this part of what a leaf may have, and so many bytes of keys: a
/// tree that grows splits none of them before it is two and a half times as large, two of them
/// together are not small enough to be joined, as a rule, and what later spills bring to each is no
/// splinter.
const FIRST_SHARE: u64 = 5;
const FIRST_BYTES_MIN: u64 = 4 << 20;
const _: () = assert!(2 * JOIN_SHARE > FIRST_SHARE);
/// A leaf that grows and has this part of what it may have is split when it is merged whole: its
/// keys are written either way, and the parts have as much room again before they are.
const GROWN_SHARE: u64 = 2;
/// A leaf grows when at least so many percent of its entries are keys that live.
const GROWS_PCT: u64 = 90;

/// A leaf is merged whole when its newer kvsets have one in so many of the keys of the oldest; and
/// while garbage is due, of which a whole merge lets go.
const WHOLE_SHARE: u64 = 1;
const WHOLE_SHARE_GARBAGE: u64 = 5;

/// Rule 1.
pub(super) fn root_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let len = tree.spillable().len();
    if len == 0 || len < limits.spill_min {
        return None;
    }
    let plan = spill(tree, limits, Why::RootLength)?;
    Some(Due { pressure: percent(length(len), length(limits.spill_min)), plan })
}

/// The oldest kvsets of the root into the leaves, as many as there is room for; not while the
/// leaves they would go to change.
pub(super) fn spill(tree: &TreeShape, limits: Limits, why: Why) -> Option<Plan> {
    let root = tree.spillable();
    if root.is_empty() || tree.is_busy(&tree.root) || tree.reshaping || limits.spill_max == 0 {
        return None;
    }
    if let Some(plan) = relocate(tree, root, (limits, why)) {
        return Some(plan);
    }
    let oldest = |count: usize| &root[root.len() - count..];
    let plan = |inputs| spill_of(tree, inputs, limits, why);
    let writes = |inputs| plan(inputs).output_bytes;
    let counts = (1..=root.len().min(limits.spill_max)).rev();
    let mut one_job = counts.map(oldest).filter(|inputs| is_one_job(inputs, limits));
    let inputs = one_job.find(|inputs| fits(limits.room_bytes, writes(inputs)))?;
    let pays = || tree.pays(killers(inputs, limits), writes(inputs));
    if limits.is_short() && root.len() < Limits::DEFAULT.spill_min && !pays() {
        return None;
    }
    Some(plan(inputs))
}

/// What a spill of these writes, but for what each kvset takes besides.
fn spilled_bytes(inputs: &[KvsetShape], limits: Limits) -> u64 {
    let bytes = |kvset: &KvsetShape| {
        kvset.kblock_bytes + if limits.spill_moves_values { kvset.value_bytes } else { 0 }
    };
    inputs.iter().map(bytes).sum()
}

/// Whether a spill of these is no longer than a job may be. One kvset goes down at least.
pub(super) fn is_one_job(inputs: &[KvsetShape], limits: Limits) -> bool {
    inputs.len() == 1 || spilled_bytes(inputs, limits) <= LEAF_BYTES_MAX
}

/// A spill of these.
pub(super) fn spill_of(tree: &TreeShape, inputs: &[KvsetShape], limits: Limits, why: Why) -> Plan {
    let new_leaves = tree.leaves.is_empty().then(|| leaves_for(tree, inputs, limits));
    let kvsets = new_leaves.map_or(length(tree.leaves.len()), |leaves| leaves.count);
    Plan {
        node: tree.root.id,
        inputs: inputs.iter().map(|kvset| kvset.id).collect(),
        action: Action::Spill,
        why,
        vblocks: Vec::new(),
        distinct_keys: keys(inputs).min(tree.root.distinct_keys),
        new_leaves,
        output_bytes: spilled_bytes(inputs, limits) + kvsets * KVSET_BYTES,
    }
}

/// The oldest kvset of the root, if it may go down as it is. What comes after all leaves makes a
/// leaf of its own once the last one is not small.
fn relocate(tree: &TreeShape, root: &[KvsetShape], (limits, why): (Limits, Why)) -> Option<Plan> {
    let oldest = root.last().filter(|_| tree.lands != Lands::Apart)?;
    if limits.spill_moves_values {
        return None;
    }
    let is_small = |leaf: &NodeShape| size::of_leaf(leaf, limits) < 100 / JOIN_SHARE;
    let new_leaf = tree.lands == Lands::After && !tree.leaves.last().is_some_and(is_small);
    Some(Plan {
        node: NodeId::ROOT,
        inputs: vec![oldest.id],
        action: Action::Move { new_leaf },
        why,
        vblocks: Vec::new(),
        distinct_keys: oldest.keys,
        new_leaves: None,
        output_bytes: 0,
    })
}

fn keys(kvsets: &[KvsetShape]) -> u64 {
    kvsets.iter().map(|kvset| kvset.keys).sum()
}

/// What a merge of their keys writes, at most.
fn index_bytes(kvsets: &[KvsetShape]) -> u64 {
    kvsets.iter().map(|kvset| kvset.kblock_bytes).sum::<u64>() + KVSET_BYTES
}

/// Leaves that the first spill of a tree makes: at least as many as a split would.
fn leaves_for(tree: &TreeShape, inputs: &[KvsetShape], limits: Limits) -> NewLeaves {
    let extent = Extent {
        keys: keys(inputs).min(tree.root.distinct_keys),
        index_bytes: inputs.iter().map(|kvset| kvset.kblock_bytes).sum(),
        value_bytes: inputs.iter().map(|kvset| kvset.value_bytes).sum(),
    };
    let size = extent.size(limits);
    let by_bytes = extent.index_bytes / FIRST_BYTES_MIN;
    let for_growth = (size.saturating_mul(FIRST_SHARE) / 100).min(by_bytes);
    let count = size::halves(size).max(for_growth).clamp(1, extent.keys.max(1));
    NewLeaves { count, value_bytes_max: size::part_value_bytes_max(limits) }
}

/// Rule 1, where something that cannot be read lies in the root: what is newer cannot go past it,
/// and is merged where it is. Of kvsets that double in size the newest ones are taken, so that a
/// key is written once for each doubling, and the root stays short.
pub(super) fn root_blocked(tree: &TreeShape, limits: Limits) -> Option<Due> {
    if tree.is_readable(&tree.root) || tree.is_busy(&tree.root) || limits.spill_max == 0 {
        return None;
    }
    let run = tree.run(&tree.root).kvsets;
    let inputs = &run[..doubling(run)];
    if inputs.len() < limits.spill_min.max(2) {
        return None;
    }
    let output_bytes = index_bytes(inputs);
    let plan = Plan {
        node: NodeId::ROOT,
        inputs: inputs.iter().map(|kvset| kvset.id).collect(),
        action: Action::KCompact,
        why: Why::RootBlocked,
        vblocks: Vec::new(),
        distinct_keys: keys(inputs),
        new_leaves: None,
        output_bytes,
    };
    let pressure = percent(length(run.len()), length(limits.spill_min));
    fits(limits.room_bytes, output_bytes).then_some(Due { pressure, plan })
}

/// Whether a leaf may be split, for all that the root has to do.
fn may_split(tree: &TreeShape, limits: Limits) -> bool {
    let is_long = tree.root.kvsets.len() >= limits.spill_min.saturating_mul(ROOT_FIRST);
    let waits = is_long && !tree.spillable().is_empty();
    !tree.reshaping && !tree.is_busy(&tree.root) && !waits
}

/// A split of a leaf of more than one key into parts of half of what a leaf may have.
pub(super) fn split(leaf: &NodeShape, limits: Limits, why: Why) -> Plan {
    let parts = size::halves(size::of_leaf(leaf, limits)).clamp(2, leaf.distinct_keys.max(2));
    let action = Action::Split { parts: usize::try_from(parts).unwrap_or(usize::MAX) };
    let value_bytes_max = size::part_value_bytes_max(limits);
    let new_leaves = Some(NewLeaves { count: parts, value_bytes_max });
    Plan { new_leaves, ..leaf.plan_of(&leaf.kvsets, action, why) }
}

/// Whether a leaf is at its limit of keys or bytes. A leaf of one key cannot be split.
pub(super) fn is_too_long(leaf: &NodeShape, limits: Limits) -> bool {
    size::of_leaf(leaf, limits) >= 100 && leaf.distinct_keys >= 2
}

/// Rule 2.
pub(super) fn leaf_keys(tree: &TreeShape, limits: Limits) -> Option<Due> {
    if !may_split(tree, limits) {
        return None;
    }
    let may_be = |most: &Extremes| Extent::greatest(most).size(limits) >= 100;
    let leaf = greatest(tree, may_be, |leaf| {
        let due = is_too_long(leaf, limits) && tree.is_readable(leaf);
        let fits = due && fits(limits.room_bytes, leaf.index_bytes());
        fits.then(|| size::of_leaf(leaf, limits))
    })?;
    let pressure = size::of_leaf(leaf, limits);
    Some(Due { pressure, plan: split(leaf, limits, Why::LeafKeys) })
}

/// Rule 7. Two neighbours that are small together become one leaf, so that what was deleted does
/// not leave leaves behind.
pub(super) fn join(tree: &TreeShape, limits: Limits) -> Option<Due> {
    if tree.reshaping || tree.is_busy(&tree.root) {
        return None;
    }
    let may_be = |most: &Extremes| Extent::least(most).size(limits) < 100 / JOIN_SHARE;
    let are_small = |pair: [&NodeShape; 2]| {
        Extent::of(pair).size(limits) < 100 / JOIN_SHARE
            && pair.iter().all(|leaf| tree.is_readable(leaf) && !tree.is_busy(leaf))
    };
    let pair = tree.leaves.find_pair(may_be, are_small)?;
    let inputs = pair.iter().flat_map(|leaf| &leaf.kvsets).map(|kvset| kvset.id).collect();
    let output_bytes = pair[0].kblock_bytes() + pair[1].index_bytes();
    let plan = Plan {
        inputs,
        distinct_keys: pair[0].distinct_keys + pair[1].distinct_keys,
        output_bytes,
        ..tree.plan(pair[0], Action::Join { with: pair[1].id }, Why::LeafKeys)
    };
    fits(limits.room_bytes, output_bytes).then_some(Due { pressure: 100, plan })
}

/// Rule 3.
pub(super) fn leaf_length(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let len = |leaf: &NodeShape| tree.run(leaf).kvsets.len();
    let may_be = |most: &Extremes| most.kvsets >= limits.leaf_len_max;
    let share = if garbage::is_due(tree, limits) { WHOLE_SHARE_GARBAGE } else { WHOLE_SHARE };
    let measure = |leaf: &NodeShape| too_many(tree, leaf, limits, share).map(|_| len(leaf));
    let leaf = greatest(tree, may_be, measure)?;
    let inputs = too_many(tree, leaf, limits, share)?;
    let pressure = percent(length(len(leaf)), length(limits.leaf_len_max));
    let is_whole = inputs.len() == leaf.kvsets.len();
    let plan = is_whole.then(|| split_along(tree, leaf, limits)).flatten();
    let merge = || leaf.plan_of(inputs, Action::KCompact, Why::LeafLength);
    Some(Due { pressure, plan: plan.unwrap_or_else(merge) })
}

/// A split of a leaf that is merged whole, if it would have to be split soon.
fn split_along(tree: &TreeShape, leaf: &NodeShape, limits: Limits) -> Option<Plan> {
    let is_grown = size::of_leaf(leaf, limits) >= 100 / GROWN_SHARE;
    let grows = percent(leaf.live_keys(), leaf.keys()) >= GROWS_PCT;
    if !grows || !is_grown || limits.is_short() || !may_split(tree, limits) {
        return None;
    }
    Some(split(leaf, limits, Why::LeafLength))
        .filter(|plan| fits(limits.room_bytes, plan.output_bytes))
}

/// The kvsets of a leaf that are merged because there are too many, if there is room. All of them,
/// if the newer ones have one in `share` of the keys of the oldest; else the newest ones, of which
/// each has at most as many keys as those above it together; and at twice the length all but the
/// oldest.
fn too_many<'a>(
    tree: &TreeShape,
    leaf: &'a NodeShape,
    limits: Limits,
    share: u64,
) -> Option<&'a [KvsetShape]> {
    let all = tree.run(leaf).kvsets;
    let (oldest, newer) = all.split_last()?;
    if newer.is_empty() || all.len() < limits.leaf_len_max {
        return None;
    }
    let even = &newer[..doubling(newer)];
    let is_long = |limits: Limits| all.len() >= limits.leaf_len_max.saturating_mul(2);
    let pays = || tree.pays(killers(newer, limits), leaf.index_bytes());
    let inputs = if keys(newer).saturating_mul(share) >= oldest.keys {
        all
    } else if limits.is_short() {
        (is_long(Limits::DEFAULT) || pays()).then_some(all)?
    } else if even.len() >= limits.leaf_len_max.max(2) {
        even
    } else {
        (is_long(limits) && newer.len() >= 2).then_some(newer)?
    };
    fits(limits.room_bytes, index_bytes(inputs)).then_some(inputs)
}

/// How many of the newest kvsets at least double in size from the first on, so that a key is
/// written once for each doubling.
fn doubling(kvsets: &[KvsetShape]) -> usize {
    let mut newer = 0;
    let is_even = |(at, kvset): &(usize, &KvsetShape)| {
        let is_even = *at == 0 || kvset.keys <= newer;
        newer += kvset.keys;
        is_even
    };
    kvsets.iter().enumerate().take_while(is_even).count()
}

/// Rule 4, for the root: deletes are taken to what they delete when there are many of them for what
/// lives.
pub(super) fn root_tombstones(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let spillable = tree.spillable();
    let tombstones = spillable.iter().map(|kvset| kvset.tombstones).sum();
    let limit = limits.tombstone_pct_max.max(1);
    let share = percent(tombstones, tree.live_keys());
    if tombstones == 0 || share < limit {
        return None;
    }
    let plan = spill(tree, limits, Why::Tombstones)?;
    Some(Due { pressure: percent(share, limit).min(pressure_max(limits)), plan })
}

/// Deletes weigh no more than this, however little lives, unless space is short: writers wait for
/// other work, not for them.
fn pressure_max(limits: Limits) -> u64 {
    if limits.is_short() { u64::MAX } else { 200 }
}

/// Rule 4. Where something older cannot be read below, tombstones must stay.
pub(super) fn leaf_tombstones(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let limit = limits.tombstone_pct_max.max(1);
    let share = |leaf: &NodeShape| percent(leaf.tombstones(), leaf.live_keys());
    let may_be = |most: &Extremes| most.tombstone_pct >= limit;
    let leaf = greatest(tree, may_be, |leaf| {
        let Run { bottom, .. } = tree.run(leaf);
        let due = leaf.tombstones() > 0 && share(leaf) >= limit && bottom;
        (due && fits(limits.room_bytes, leaf.index_bytes())).then(|| share(leaf))
    })?;
    let pressure = percent(share(leaf), limit).min(pressure_max(limits));
    Some(Due { pressure, plan: tree.plan(leaf, Action::KCompact, Why::Tombstones) })
}

/// Rule 5. A leaf that is too long is split first.
pub(super) fn scatter(tree: &TreeShape, limits: Limits) -> Option<Due> {
    let may_be = |most: &Extremes| most.vblocks > limits.scatter_max;
    let leaf = greatest(tree, may_be, |leaf| {
        let due = !is_dense(leaf, limits)
            && !is_too_long(leaf, limits)
            && !tree.gathered.was_in_vain(leaf)
            && leaf.can_be_rewritten(limits)
            && tree.is_readable(leaf);
        Some(leaf.vblocks_max()).filter(|&vblocks| vblocks > limits.scatter_max && due)
    })?;
    let pressure = percent(leaf.vblocks_max(), limits.scatter_max);
    Some(Due { pressure, plan: tree.plan(leaf, Action::KvCompact, Why::Scatter) })
}

/// Whether rewriting the leaf's values would change nothing: one kvset that touches no more vblocks
/// than a rewriting could leave.
pub(super) fn is_dense(leaf: &NodeShape, limits: Limits) -> bool {
    match &leaf.kvsets[..] {
        [] => true,
        [only] => only.vblocks <= 2 + only.value_bytes / limits.vblock_fill_bytes(),
        _ => false,
    }
}

/// Keys that kill something below, as far as is known: deletes; while puts are refused any key may.
fn killers(kvsets: &[KvsetShape], limits: Limits) -> u64 {
    let count = |kvset: &KvsetShape| match limits.shortage {
        Some(Shortage::Full) => kvset.keys,
        _ => kvset.tombstones,
    };
    kvsets.iter().map(count).sum()
}
