//! PURE: what a pool uses that not every program knows, as bits of its superblock.
//!
//! There are three words of them. They differ in what a program does that meets a bit of which it
//! does not know the meaning:
//!
//! ```text
//! word       an unknown bit of it
//! compat     does no harm: the pool is opened, and keeps the bit
//! ro_compat  can be read around: check and identification go on, opening (which writes) is refused
//! incompat   is in the way of reading: everything is refused
//!
//! word      bit  name            what needs it
//! incompat    0  placed-mblocks  record kind 8: mblocks with page checksums, and in pieces
//! incompat    1  volumes         record kinds 9 and 10: volumes beside the root
//! incompat    2  mdc-deletion    record kind 11
//! incompat    3  twin-logs       record kind 12, and the superblock's log_copies: logs kept twice
//! ```
//!
//! A bit is durable before the first record that needs it is written (`journal::anchor`), and stays
//! when the last one is gone. Pools from before there were bits have none, whatever they use;
//! opening such a pool sets those that its journal needs. Bits are on the medium: add, never
//! renumber.

use std::fmt;

/// The newest major version this binary reads, and the one it writes.
pub(crate) const FORMAT_MAJOR: u32 = 1;

/// What an unknown bit means to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// Harmless.
    Compatible,
    /// The pool can be looked at, and not opened.
    ReadOnlyCompatible,
    /// The pool can be neither looked at nor opened.
    Incompatible,
}

impl FeatureKind {
    const ALL: [Self; 3] = [Self::Incompatible, Self::ReadOnlyCompatible, Self::Compatible];

    /// "compatible", "read-only-compatible" or "incompatible".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::ReadOnlyCompatible => "read-only-compatible",
            Self::Incompatible => "incompatible",
        }
    }
}

/// One feature of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it means not to know it.
    pub kind: FeatureKind,
    /// Its bit in the superblock's word of that kind.
    pub bit: u32,
    /// What it is called, if this program knows it.
    pub name: Option<&'static str>,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{} bit {}", self.kind.name(), self.bit),
        }
    }
}

/// A set of features, as the superblock has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those whose ignorance is harmless.
    pub compat: u64,
    /// Those one must know to write.
    pub ro_compat: u64,
    /// Those one must know to read.
    pub incompat: u64,
}

impl Features {
    pub(crate) const NONE: Self = Self { compat: 0, ro_compat: 0, incompat: 0 };
    pub(crate) const PLACED_MBLOCKS: Self = Self { incompat: 1 << 0, ..Self::NONE };
    pub(crate) const VOLUMES: Self = Self { incompat: 1 << 1, ..Self::NONE };
    pub(crate) const MDC_DELETION: Self = Self { incompat: 1 << 2, ..Self::NONE };
    pub(crate) const TWIN_LOGS: Self = Self { incompat: 1 << 3, ..Self::NONE };

    /// All that this program knows, by name.
    const NAMED: [(Self, &'static str); 4] = [
        (Self::PLACED_MBLOCKS, "placed-mblocks"),
        (Self::VOLUMES, "volumes"),
        (Self::MDC_DELETION, "mdc-deletion"),
        (Self::TWIN_LOGS, "twin-logs"),
    ];

    pub(crate) fn known() -> Self {
        Self::NAMED.iter().fold(Self::NONE, |all, (feature, _)| all.union(*feature))
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self {
            compat: self.compat | other.compat,
            ro_compat: self.ro_compat | other.ro_compat,
            incompat: self.incompat | other.incompat,
        }
    }

    /// Those that are not in `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self {
            compat: self.compat & !other.compat,
            ro_compat: self.ro_compat & !other.ro_compat,
            incompat: self.incompat & !other.incompat,
        }
    }

    /// Those whose meaning this program does not know.
    pub(crate) fn unknown(self) -> Self {
        self.without(Self::known())
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Each of them.
    pub fn list(self) -> Vec<Feature> {
        let mut found = Vec::new();
        for kind in FeatureKind::ALL {
            let bits = (0..u64::BITS).filter(|bit| self.word(kind) >> bit & 1 == 1);
            found.extend(bits.map(|bit| Feature { kind, bit, name: name_of(kind, bit) }));
        }
        found
    }

    fn word(self, kind: FeatureKind) -> u64 {
        match kind {
            FeatureKind::Compatible => self.compat,
            FeatureKind::ReadOnlyCompatible => self.ro_compat,
            FeatureKind::Incompatible => self.incompat,
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (n, feature) in self.list().iter().enumerate() {
            write!(f, "{}{feature}", if n > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

fn name_of(kind: FeatureKind, bit: u32) -> Option<&'static str> {
    let named = Features::NAMED.iter().find(|(feature, _)| feature.word(kind) >> bit & 1 == 1);
    named.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_frozen() {
        let words = |f: Features| [f.compat, f.ro_compat, f.incompat];
        for (feature, name, frozen) in [
            (Features::PLACED_MBLOCKS, "placed-mblocks", [0, 0, 1]),
            (Features::VOLUMES, "volumes", [0, 0, 2]),
            (Features::MDC_DELETION, "mdc-deletion", [0, 0, 4]),
            (Features::TWIN_LOGS, "twin-logs", [0, 0, 8]),
        ] {
            assert_eq!((words(feature), feature.to_string().as_str()), (frozen, name));
        }
        assert_eq!(words(Features::known()), [0, 0, 15]);
    }

    #[test]
    fn unknown_bits_are_named_by_word_and_number() {
        let features = Features { compat: 1 << 63, ro_compat: 1, incompat: 1 << 40 | 2 };
        let all = "volumes, incompatible bit 40, read-only-compatible bit 0, compatible bit 63";
        assert_eq!(features.to_string(), all);
        let unknown = features.unknown();
        assert_eq!(unknown, Features { incompat: 1 << 40, ..features });
        assert_eq!(Features::NONE.to_string(), "none");
    }
}
