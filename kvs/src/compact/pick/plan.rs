//! PURE: what a job does, and why: the picker's answer.

use crate::key::{KvsetId, NodeId};
use mpool::MblockId;

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
    /// All kvsets of a leaf into one, the values of some vblocks rewritten, so that those die.
    Collect,
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
    /// Somebody has asked for it.
    Requested,
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
    /// What it may write, keys and values.
    pub(crate) output_bytes: u64,
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
    pub(crate) const ALL: [Self; 7] = [
        Self::RootLength,
        Self::LeafLength,
        Self::LeafKeys,
        Self::Garbage,
        Self::Scatter,
        Self::Tombstones,
        Self::Requested,
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
        }
    }
}

impl Action {
    /// Names in metrics and logs, in the order of [`Action::index`].
    pub(crate) const NAMES: [&'static str; 5] =
        ["spill", "k_compact", "kv_compact", "split", "collect"];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Spill => 0,
            Self::KCompact => 1,
            Self::KvCompact => 2,
            Self::Split { .. } => 3,
            Self::Collect => 4,
        }
    }

    /// Its name in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}
