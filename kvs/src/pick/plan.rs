//! PURE: what a job does, and why: the picker's answer.

use crate::key::{KvsetId, NodeId};
use mpool::MblockId;

/// What is done to the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Root kvsets (a run that ends at the oldest) into the leaves, keys only; values stay in their
    /// vblocks.
    Spill,
    /// The oldest kvset of the root, as it is, into the leaf that has its range, or into a new one
    /// after all others. Nothing is written but the manifest.
    Move { new_leaf: bool },
    /// The kvsets of a node into one, keys only: all of a leaf, or those above one that cannot be
    /// read.
    KCompact,
    /// All kvsets of a leaf into one, values rewritten in key order.
    KvCompact,
    /// All kvsets of a leaf into one, the values of some vblocks rewritten, so that those die.
    Collect,
    /// All kvsets of a leaf, keys only, into `parts` new leaves.
    Split { parts: usize },
    /// All kvsets of a leaf and of the next one into one new leaf, keys only.
    Join { with: NodeId },
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
    /// A request for compaction (`Database::start_compaction`).
    Requested,
    /// Something in the root cannot be read, so what is newer cannot leave it.
    RootBlocked,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) node: NodeId,
    /// Newest first.
    pub(crate) inputs: Vec<KvsetId>,
    pub(crate) action: Action,
    pub(crate) why: Why,
    /// Those whose values `Collect` rewrites; sorted.
    pub(crate) vblocks: Vec<MblockId>,
    /// About how many different keys the inputs have.
    pub(crate) distinct_keys: u64,
    /// New leaves that the keys are divided into; `None` if they go where there are leaves.
    pub(crate) new_leaves: Option<NewLeaves>,
    /// What it may write, keys and values.
    pub(crate) output_bytes: u64,
}

/// How keys are divided into new leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewLeaves {
    /// So many, of as many keys each,
    pub(crate) count: u64,
    /// and more where one would have more bytes of values than this, and more than one key.
    pub(crate) value_bytes_max: u64,
}

impl NewLeaves {
    /// As many bytes of values as are there.
    pub(super) const fn by_keys(count: u64) -> Self {
        Self { count, value_bytes_max: u64::MAX }
    }
}

impl Plan {
    /// The places that it takes among the compactions that may run: one that was asked for runs
    /// beside those that are due.
    pub(crate) fn takes_turn(&self) -> usize {
        usize::from(self.why != Why::Requested)
    }
}

impl Why {
    /// All of them, in the order of [`Why::index`].
    pub(crate) const ALL: [Self; 8] = [
        Self::RootLength,
        Self::LeafLength,
        Self::LeafKeys,
        Self::Garbage,
        Self::Scatter,
        Self::Tombstones,
        Self::Requested,
        Self::RootBlocked,
    ];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::RootLength => 0,
            Self::LeafLength => 1,
            Self::LeafKeys => 2,
            Self::Garbage => 3,
            Self::Scatter => 4,
            Self::Tombstones => 5,
            Self::Requested => 6,
            Self::RootBlocked => 7,
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
            Self::Requested => "requested",
            Self::RootBlocked => "root_blocked",
        }
    }
}

impl Action {
    /// Names in metrics and logs, in the order of [`Action::index`].
    pub(crate) const NAMES: [&'static str; 7] =
        ["spill", "k_compact", "kv_compact", "split", "collect", "join", "move"];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Spill => 0,
            Self::KCompact => 1,
            Self::KvCompact => 2,
            Self::Split { .. } => 3,
            Self::Collect => 4,
            Self::Join { .. } => 5,
            Self::Move { .. } => 6,
        }
    }

    /// Whether it changes which leaves there are.
    pub(crate) const fn reshapes(self) -> bool {
        matches!(self, Self::Split { .. } | Self::Join { .. })
    }

    /// Its name in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}
