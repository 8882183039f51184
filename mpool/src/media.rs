//! Media classes, lifetimes, and what is stored of each volume.
//!
//! A pool has volumes of two classes, as mpool had: *capacity*, where data ends up, and *staging*,
//! a faster medium for what is young or small. Whoever allocates says which it would like and how
//! long it expects the object to live; on a zoned volume that decides with what it shares a zone.

use crate::address::VolumeId;
use std::{fmt, path::PathBuf, str::FromStr};

/// How urgent a request is. Earlier ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for durability.
    Wal,
    /// Somebody waits for an answer.
    Read,
    /// Memory waits to be freed.
    Flush,
    /// Nobody waits yet.
    Compaction,
}

impl Priority {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Wal, Self::Read, Self::Flush, Self::Compaction];

    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Read => "foreground",
            Self::Flush => "flush",
            Self::Compaction => "compaction",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Wal => 0,
            Self::Read => 1,
            Self::Flush => 2,
            Self::Compaction => 3,
        }
    }
}

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum MediaClass {
    /// The bulk of the data.
    #[default]
    Capacity,
    /// A faster medium for logs and young objects.
    Staging,
}

impl MediaClass {
    /// "capacity" or "staging".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Staging => "staging",
        }
    }
}

impl fmt::Display for MediaClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MediaClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "capacity" => Ok(Self::Capacity),
            "staging" => Ok(Self::Staging),
            other => Err(format!("{other} is no media class; use capacity or staging")),
        }
    }
}

/// How long an object is expected to live. Objects of one expectation share zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Lifetime {
    /// Gone soon: a kvset of the root, say.
    Short,
    /// Gone when its neighbourhood is rewritten.
    #[default]
    Medium,
    /// Rewritten rarely.
    Long,
}

/// Where a new object should go, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The class of volume. Where none of that class has room, another is taken.
    pub class: MediaClass,
    /// What it shares a zone with.
    pub lifetime: Lifetime,
    /// The priority of its writes.
    pub priority: Priority,
    /// Whether it may use the spare part of a volume ([`crate::Options::spare_pct`]): for what
    /// frees space in the end.
    pub spare: bool,
}

impl From<Priority> for Placement {
    fn from(priority: Priority) -> Self {
        let (class, lifetime) = (MediaClass::default(), Lifetime::default());
        Self { class, lifetime, priority, spare: false }
    }
}

/// What kind of device a volume is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeKind {
    /// A regular file, which grows.
    File,
    /// A block device, used whole.
    Block,
    /// A zoned block device.
    Zoned,
    /// A file that behaves as a zoned device.
    EmulatedZoned,
}

impl VolumeKind {
    /// "file", "block", "zoned" or "emulated-zoned".
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Block => "block",
            Self::Zoned => "zoned",
            Self::EmulatedZoned => "emulated-zoned",
        }
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VolumeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::File, Self::Block, Self::Zoned, Self::EmulatedZoned];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!("{text} is no kind of volume; use file, block, zoned or emulated-zoned")
        })
    }
}

/// What the pool's journal says of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeRecord {
    pub(crate) id: VolumeId,
    pub(crate) class: MediaClass,
    pub(crate) kind: VolumeKind,
    /// Nothing new is placed there: it is being emptied.
    pub(crate) evacuating: bool,
    /// What a file may grow to; what a device had when it was added.
    pub(crate) capacity_bytes_max: u64,
    /// In the volume's label too.
    pub(crate) uuid: [u8; 16],
    /// Relative ones are within the pool's directory.
    pub(crate) path: PathBuf,
}
