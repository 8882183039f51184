//! PURE: on which class of volume a part of a kvset goes, and how long it will stay.
//!
//! A pool may have a staging volume, faster and smaller than the rest. What goes there is the
//! policy's:
//!
//! ```text
//!                         root keys   root values   leaf keys   leaf values
//!   capacity_only         capacity    capacity      capacity    capacity
//!   staging_only          staging     staging       staging     staging
//!   staging_max_capacity  staging     staging       staging     capacity
//!   staging_min_capacity  staging     staging       capacity    capacity
//!   auto                  capacity_only without a staging volume, else staging_max_capacity
//! ```
//!
//! A class that is full, or absent, is no error: the pool takes another one. The log prefers
//! staging whatever the policy, as its latency is every writer's.
//!
//! A spill leaves values in place unless the policy wants those of leaves on another class: then
//! they are written again, once, and the staging volume holds the root's values only
//! ([`values_move`]).
//!
//! Lifetimes decide what shares a zone of a zoned drive. Root keys die with the next spill; leaf
//! keys with the next merge of their leaf; values when garbage is collected. A flush's values that
//! stay in place wait for the last leaf to let go of them, a leaf's own for that leaf alone.

use mpool::{Lifetime, MediaClass, Placement, Priority};
use std::fmt;
use std::str::FromStr;

/// What goes on the staging volume, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MediaPolicy {
    /// Nothing but the log without a staging volume, else `StagingMaxCapacity`.
    #[default]
    Auto,
    /// Nothing but the log.
    CapacityOnly,
    /// Everything.
    StagingOnly,
    /// All but the values of leaves.
    StagingMaxCapacity,
    /// Keys and values of the root.
    StagingMinCapacity,
}

/// Where in the tree a kvset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Root,
    Leaf,
}

/// What of a kvset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// hblock and kblocks.
    Keys,
    /// vblocks.
    Values,
}

impl MediaPolicy {
    /// All of them, as they are written in configurations.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::CapacityOnly,
        Self::StagingOnly,
        Self::StagingMaxCapacity,
        Self::StagingMinCapacity,
    ];

    /// `auto`, `capacity_only`, and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::CapacityOnly => "capacity_only",
            Self::StagingOnly => "staging_only",
            Self::StagingMaxCapacity => "staging_max_capacity",
            Self::StagingMinCapacity => "staging_min_capacity",
        }
    }

    fn class(self, has_staging: bool, level: Level, part: Part) -> MediaClass {
        let staging = match self {
            Self::CapacityOnly => false,
            Self::StagingOnly => true,
            Self::Auto if !has_staging => false,
            Self::Auto | Self::StagingMaxCapacity => (level, part) != (Level::Leaf, Part::Values),
            Self::StagingMinCapacity => level == Level::Root,
        };
        if staging { MediaClass::Staging } else { MediaClass::Capacity }
    }
}

impl fmt::Display for MediaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MediaPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|policy| policy.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text} is no media policy; use one of {names}")
        })
    }
}

/// Where a part of a kvset goes. All of them may use the spare part of a volume: a flush frees
/// memory and log, a compaction frees space, and writers are stopped before either runs out.
pub(crate) fn place(
    policy: MediaPolicy,
    has_staging: bool,
    level: Level,
    part: Part,
    priority: Priority,
) -> Placement {
    let lifetime = match (level, part) {
        (Level::Root, Part::Keys) => Lifetime::Short,
        (Level::Root, Part::Values) if values_move(policy, has_staging) => Lifetime::Short,
        (Level::Root, Part::Values) | (Level::Leaf, Part::Keys) => Lifetime::Medium,
        (Level::Leaf, Part::Values) => Lifetime::Long,
    };
    let class = policy.class(has_staging, level, part);
    Placement { class, lifetime, priority, spare: true }
}

/// Whether values change their class when they leave the root.
pub(crate) fn values_move(policy: MediaPolicy, has_staging: bool) -> bool {
    let class = |level| policy.class(has_staging, level, Part::Values);
    has_staging && class(Level::Root) != class(Level::Leaf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lifetime::{Long, Medium, Short};
    use MediaPolicy::{Auto, CapacityOnly, StagingMaxCapacity, StagingMinCapacity, StagingOnly};

    const C: MediaClass = MediaClass::Capacity;
    const S: MediaClass = MediaClass::Staging;

    #[test]
    fn table() {
        // Root keys and values, leaf keys and values; how long the root's values stay.
        let table: [(MediaPolicy, bool, [MediaClass; 4], Lifetime); 10] = [
            (Auto, false, [C, C, C, C], Medium),
            (Auto, true, [S, S, S, C], Short),
            (CapacityOnly, false, [C, C, C, C], Medium),
            (CapacityOnly, true, [C, C, C, C], Medium),
            (StagingOnly, false, [S, S, S, S], Medium),
            (StagingOnly, true, [S, S, S, S], Medium),
            (StagingMaxCapacity, false, [S, S, S, C], Medium),
            (StagingMaxCapacity, true, [S, S, S, C], Short),
            (StagingMinCapacity, false, [S, S, C, C], Medium),
            (StagingMinCapacity, true, [S, S, C, C], Short),
        ];
        let parts = [
            (Level::Root, Part::Keys),
            (Level::Root, Part::Values),
            (Level::Leaf, Part::Keys),
            (Level::Leaf, Part::Values),
        ];
        for (policy, has_staging, classes, root_values) in table {
            let lifetimes = [Short, root_values, Medium, Long];
            for (((level, part), class), lifetime) in parts.into_iter().zip(classes).zip(lifetimes)
            {
                let priority = Priority::Flush;
                assert_eq!(
                    place(policy, has_staging, level, part, priority),
                    Placement { class, lifetime, priority, spare: true },
                    "{policy} {has_staging} {level:?} {part:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for policy in MediaPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        let error = "fast".parse::<MediaPolicy>().unwrap_err();
        assert!(error.contains("fast") && error.contains("staging_min_capacity"), "{error}");
    }
}
