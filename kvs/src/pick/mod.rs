//! What to compact next, and why: a pure function of one tree.
//!
//! [`pick`] maps the shape of one tree to at most one [`Plan`]: a pure function, so that a bad
//! decision seen in production is reproduced by pasting the shape from the log into a test.
//!
//! Rules, each with its limit:
//!
//! 1. *Root length*: a root of `spill_min` kvsets spills its oldest, at most `spill_max`, to the
//!    leaves. If all keys of the oldest one belong in one leaf, it is moved there as it is; so keys
//!    that are put in their order are never written again. The first spill makes leaves of a fifth
//!    of what one may have, so that a tree that grows has no leaf to split for long.
//! 2. *Leaf keys*: a leaf of `leaf_keys_max` different keys is split into parts of about half of
//!    that; and so is one of as many bytes of keys, or of values, as a leaf may have. So a job that
//!    rewrites a leaf is no longer than those bytes take.
//! 3. *Leaf length*: a leaf of `leaf_len_max` kvsets is merged, keys only: whole, when its newer
//!    kvsets have as many keys as the oldest (a fifth while garbage is due); else of the newest
//!    ones those that double in size from one to the next, once there are `leaf_len_max` of them.
//!    So a key is rewritten once for each doubling, however small the pieces of a spill are. A leaf
//!    that has half of what it may have, and grows, is split by its whole merge.
//! 4. *Tombstones*: when the root has `tombstone_pct_max` percent as many tombstones as there are
//!    keys that live, it spills; a leaf with as many is merged, keys only.
//! 5. *Scatter*: a leaf with a kvset that refers to more than `scatter_max` vblocks gets its values
//!    rewritten; one for which that was in vain, when it is twice as scattered (`gathered`).
//! 6. *Garbage*: when `garbage_pct_max` percent of a tree's bytes are of no use (`garbage`), they
//!    are taken down, leaf by leaf and vblock by vblock (`collect`); a leaf that is merged for
//!    another reason does its part then. What more objects than needed take counts, too (`units`);
//!    a leaf that was gathered for it in vain is left like a scattered one.
//! 7. *Small leaves*: two neighbours that have less than a quarter of what one may have are joined.
//!
//! No plan is made that would write more than there is room for; then the next one that fits is
//! taken, and where none does there is none. When space is short ([`Limits::SHORT`]), everything
//! goes down early, so that deletes meet what they delete, as long as it pays: a merge or a spill
//! writes at most ten times what it may free. In a quiet database ([`Limits::QUIET`]), less garbage
//! is due.
//!
//! Of all the work that is due, the piece furthest over its limit (in percent) goes first; of
//! equals, the one whose rule comes first. So neither reads (length) nor space (garbage) starve the
//! other.
//!
//! Jobs run beside each other: a spill puts its kvsets on top of a leaf that is being merged, whose
//! job takes away only its own inputs. Two things exclude each other: a spill, which needs to know
//! the leaves, and what changes which leaves there are (a split, a join). And there is one spill
//! at a time. `None` for a tree with a busy kvset therefore means *ask again*, for an idle one
//! *nothing is due*.
//!
//! A kvset whose keys cannot all be read stays where it is, and what lies around it is worked on:
//! in a leaf the kvsets above it are merged with each other; in the root those below it go down,
//! and those above it are merged.
//!
//! No plan calls for itself again: a spill shortens the root; a split leaves parts under the limit,
//! a join one leaf far from it; a merge leaves one kvset, which is under every length, shadows
//! nothing and holds no tombstone; a vblock that is collected dies when the leaves are through.

mod collect;
mod due;
mod garbage;
mod gathered;
mod leaves;
mod plan;
pub(crate) mod request;
mod rules;
mod shape;
#[cfg(test)]
mod sim;
mod size;
#[cfg(test)]
mod tests;
mod units;
mod vblocks;

pub(crate) use due::{DueWork, due};
pub(crate) use garbage::{garbage_bytes, needs_vblocks};
pub(crate) use gathered::{Gathered, VblocksMax};
pub(crate) use leaves::{ChunkShape, LeafShapes};
pub(crate) use plan::{Action, NewLeaves, Plan, Why};
#[cfg(test)]
pub(crate) use shape::VblockShape;
pub(crate) use shape::{KvsetShape, Lands, NodeShape, TreeShape};
pub(crate) use units::Objects;
pub(crate) use vblocks::VblockIndex;
#[cfg(test)]
pub(crate) use vblocks::Vblocks;

use crate::debt::space::OBJECT_BYTES_MAX;
use leaves::Extremes;

/// Rewritten values fill at least this part of a vblock on average: the longest value is half as
/// long as the longest vblock, and where vblocks are shorter, a longer value has one of its own.
const VBLOCK_FILL: u64 = 2;
/// Part that objects take beyond what they hold: units of 64 KiB of objects of 4 MiB are a 64th,
/// and the checksums a 1024th.
const OVERHEAD: u64 = 32;
/// [`least_room`] rounds up to a multiple of this, about.
const LEAST_ROOM_STEP: u64 = 64 << 10;
/// When space is short, merges and spills write at most so many times what they may free.
const COST_MAX: u64 = 10;
/// Bytes of keys, and of values, at which a leaf is split; the same on volumes of all sizes. A job
/// over a leaf reads and writes that much: some 7 s at 600 MB/s. A leaf with values of 2 KB or less
/// is split by its keys before that.
pub(crate) const LEAF_BYTES_MAX: u64 = 2 << 30;

/// When work is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Root kvsets that start a spill, and most taken at once.
    pub(crate) spill_min: usize,
    pub(crate) spill_max: usize,
    /// Leaf kvsets that start a k-compaction.
    pub(crate) leaf_len_max: usize,
    /// Keys, or bytes of kblocks or of values, at which a leaf is split; its parts get about half
    /// as many.
    pub(crate) leaf_keys_max: u64,
    pub(crate) leaf_bytes_max: u64,
    pub(crate) leaf_value_bytes_max: u64,
    /// Garbage in percent of a tree's bytes that is collected.
    pub(crate) garbage_pct_max: u64,
    /// Less of a tree is not worth a job.
    pub(crate) garbage_bytes_min: u64,
    /// vblocks of one leaf kvset beyond which its values are gathered.
    pub(crate) scatter_max: u64,
    /// Tombstones in percent of the keys that live which are taken down, or merged away.
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

/// 28 % garbage bounds the space at 1 / 0.72 = 1.4 times what lives, and one batch in moving.
impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        spill_min: 4,
        spill_max: 8,
        leaf_len_max: 4,
        leaf_keys_max: 1 << 20,
        leaf_bytes_max: LEAF_BYTES_MAX,
        leaf_value_bytes_max: LEAF_BYTES_MAX,
        garbage_pct_max: 28,
        garbage_bytes_min: 256 << 10,
        scatter_max: 1024,
        tombstone_pct_max: 25,
        shortage: None,
        object_bytes: OBJECT_BYTES_MAX,
        room_bytes: u64::MAX,
        kept_bytes: 0,
        spill_moves_values: false,
    };

    /// In a quiet database: 15 % garbage bounds the space at 1 / 0.85 = 1.18 times what lives.
    pub(crate) const QUIET: Self = Self {
        garbage_pct_max: 15,
        garbage_bytes_min: 64 << 10,
        tombstone_pct_max: 5,
        ..Self::DEFAULT
    };

    /// When space is short: everything goes down early, and all vblocks that are worth it and fit
    /// the room are collected together.
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

    /// What rewritten values fill of a vblock, on average.
    fn vblock_fill_bytes(&self) -> u64 {
        (self.object_bytes / VBLOCK_FILL).max(1)
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
    plan: Plan,
}

/// What may be due.
type Rule = fn(&TreeShape, Limits) -> Option<Due>;

const RULES: [Rule; 9] = [
    rules::root_length,
    rules::root_blocked,
    rules::leaf_keys,
    rules::leaf_length,
    rules::root_tombstones,
    rules::leaf_tombstones,
    rules::scatter,
    garbage::garbage,
    rules::join,
];
/// As many of them go before garbage that is as pressing.
const BEFORE_GARBAGE: usize = 7;
/// Those that free space when it is short, or bring down what does.
const FREEING: [Rule; 5] = [
    rules::root_length,
    rules::leaf_length,
    rules::root_tombstones,
    rules::leaf_tombstones,
    garbage::garbage,
];

/// The most pressing piece of work that can start.
pub(crate) fn pick(tree: &TreeShape, limits: Limits) -> Option<Plan> {
    pick_by(&RULES, tree, limits)
}

fn pick_by(rules: &[Rule], tree: &TreeShape, limits: Limits) -> Option<Plan> {
    Some(garbage::along(most_pressing(rules, tree, limits)?.plan, tree, limits))
}

fn most_pressing(rules: &[Rule], tree: &TreeShape, limits: Limits) -> Option<Due> {
    let mut most: Option<Due> = None;
    for rule in rules {
        if let Some(due) = rule(tree, limits)
            && most.as_ref().is_none_or(|most| due.pressure > most.pressure)
        {
            most = Some(due);
        }
    }
    most
}

/// Whether [`pick`] looks at vblocks one by one: not where something else is at least as pressing
/// as garbage, unless that is a merge that collects on the way.
pub(crate) fn pick_needs_vblocks(tree: &TreeShape, limits: Limits) -> bool {
    if limits.is_short() {
        return true;
    }
    let Some(pressure) = garbage::pressure(tree, limits) else { return false };
    let before = most_pressing(&RULES[..BEFORE_GARBAGE], tree, limits);
    before.is_none_or(|due| due.pressure < pressure || garbage::is_whole_merge(&due.plan, tree))
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

/// Whether a job that writes so many bytes has room for them, with their checksums and the rests of
/// each object's last unit.
fn fits(room_bytes: u64, output_bytes: u64) -> bool {
    output_bytes.saturating_add(output_bytes / OVERHEAD) <= room_bytes
}

/// The idle leaf with the greatest measure, the first of equals, in chunks in which one may be due.
/// A busy leaf does not block the others.
fn greatest<M: Ord + Copy>(
    tree: &TreeShape,
    may_be: impl Fn(&Extremes) -> bool,
    measure: impl Fn(&NodeShape) -> Option<M>,
) -> Option<&NodeShape> {
    let mut most: Option<(M, &NodeShape)> = None;
    for leaf in tree.leaves.among(may_be) {
        if let Some(measured) = measure(leaf)
            && most.is_none_or(|(most, _)| measured > most)
            && !tree.is_busy(leaf)
        {
            most = Some((measured, leaf));
        }
    }
    most.map(|(_, leaf)| leaf)
}

/// `part` in percent of `whole`.
fn percent(part: u64, whole: u64) -> u64 {
    let pct = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(pct).unwrap_or(u64::MAX)
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
