//! What a scrub finds, as values that programs can act on.

use crate::{
    address::{VolumeId, offset_of},
    id::{MblockId, MdcId, SegmentId},
};
use std::fmt;

/// What was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScrubTarget {
    /// A copy of the superblock: 0 or 1; people read 1 or 2.
    Superblock(u8),
    /// The label of a volume other than the root.
    Label(VolumeId),
    /// The pool's own journal.
    PoolJournal,
    /// A journal of the pool's user.
    Journal(MdcId),
    /// A segment.
    Segment(SegmentId),
    /// An mblock.
    Mblock(MblockId),
}

impl fmt::Display for ScrubTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock(copy) => write!(f, "superblock copy {}", copy + 1),
            Self::Label(volume) => write!(f, "label of {volume}"),
            Self::PoolJournal => f.write_str("pool journal"),
            Self::Journal(id) => write!(f, "{id}"),
            Self::Segment(id) => write!(f, "{id}"),
            Self::Mblock(id) => write!(f, "{id}"),
        }
    }
}

/// Which part of the target an offset counts from the start of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScrubPart {
    /// The object's own bytes; of a superblock or label, its page.
    Data,
    /// The table of page checksums behind the bytes of an mblock.
    Table,
    /// The first log of a journal.
    LogA,
    /// The second log of a journal.
    LogB,
    /// The second copy of a label.
    LabelCopy,
    /// The second copy of the first log.
    LogACopy,
    /// The second copy of the second log.
    LogBCopy,
}

impl ScrubPart {
    /// The part that one copy, 0 or 1, of one log of a journal is.
    pub(crate) fn of_log(log: usize, copy: usize) -> Self {
        [[Self::LogA, Self::LogACopy], [Self::LogB, Self::LogBCopy]][log][copy]
    }

    /// "data", "table of checksums", "copy 1 of log A" (the only one where logs are kept once), or
    /// "copy 2" of a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Table => "table of checksums",
            Self::LogA => "copy 1 of log A",
            Self::LogB => "copy 1 of log B",
            Self::LabelCopy => "copy 2",
            Self::LogACopy => "copy 2 of log A",
            Self::LogBCopy => "copy 2 of log B",
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// The drive returned an error.
    Unreadable,
    /// The bytes are not those that were written.
    Checksum,
    /// Either these bytes or their checksum, which is damaged as well.
    Suspect,
    /// What stands there is intact, but is not what must stand there.
    Misplaced,
    /// The last frame of a journal that nobody has open: damaged, or an append that was cut short
    /// and never acknowledged.
    TornOrDamaged,
}

impl Damage {
    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreadable => "the drive cannot read it",
            Self::Checksum => "its bytes are not those that were written",
            Self::Suspect => "its bytes or their checksum, which is damaged too, are wrong",
            Self::Misplaced => "something else stands in its place",
            Self::TornOrDamaged => {
                "the last frame is damaged, or was cut short before it was acknowledged"
            }
        }
    }

    /// A word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Checksum => "checksum",
            Self::Suspect => "suspect",
            Self::Misplaced => "misplaced",
            Self::TornOrDamaged => "torn-or-damaged",
        }
    }
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is damaged.
    pub target: ScrubTarget,
    /// Which part of it.
    pub part: ScrubPart,
    /// Where in that part, in bytes.
    pub offset: u64,
    /// How much, in bytes: whole pages.
    pub len_bytes: u64,
    /// The volume it is on.
    pub volume: VolumeId,
    /// Where on that volume, in bytes.
    pub volume_offset: u64,
    /// What is wrong.
    pub damage: Damage,
    /// Whose it is, in the words of the pool's user.
    pub owner: Option<String>,
}

impl Finding {
    /// A finding at a pool address, without its owner's name.
    pub(crate) fn at(
        (target, part): (ScrubTarget, ScrubPart),
        offset: u64,
        (address, len_bytes): (u64, u64),
        damage: Damage,
    ) -> Self {
        let (volume, volume_offset) = (VolumeId::of(address), offset_of(address));
        Self { target, part, offset, len_bytes, volume, volume_offset, damage, owner: None }
    }

    /// The part, as people read it: the first copy of a label is all there is of it in its page.
    pub(crate) fn part_name(&self) -> &'static str {
        match (self.target, self.part) {
            (ScrubTarget::Label(_), ScrubPart::Data) => "copy 1",
            _ => self.part.name(),
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.volume.address(self.volume_offset)
    }

    /// Whether `next` goes on where this one ends, so that the two can be told as one.
    fn touches(&self, next: &Self) -> bool {
        let same = self.target == next.target
            && self.part == next.part
            && self.damage == next.damage
            && self.volume == next.volume;
        same && self.offset + self.len_bytes == next.offset
            && self.volume_offset + self.len_bytes == next.volume_offset
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, offset, len_bytes, volume, volume_offset, damage, owner, .. } = self;
        write!(f, "{target}, {}: {len_bytes} bytes at {offset}", self.part_name())?;
        write!(f, " ({volume} at {volume_offset}): {}", damage.text())?;
        match owner {
            Some(owner) => write!(f, "; it belongs to {owner}"),
            None => Ok(()),
        }
    }
}

/// Adds a finding; one that goes on where the last one ends makes that longer.
pub(crate) fn push(findings: &mut Vec<Finding>, finding: Finding) {
    match findings.last_mut() {
        Some(last) if last.touches(&finding) => last.len_bytes += finding.len_bytes,
        _ => findings.push(finding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_pages_are_one_finding_and_others_are_not() {
        let what = (ScrubTarget::Mblock(MblockId::new(31).unwrap()), ScrubPart::Data);
        let at = |offset, address| Finding::at(what, offset, (address, 4096), Damage::Checksum);
        let mut findings = Vec::new();
        for next in [at(0, 8192), at(4096, 12_288), at(8192, 65_536), at(16_384, 73_728)] {
            push(&mut findings, next);
        }
        let lens: Vec<u64> = findings.iter().map(|f| f.len_bytes).collect();
        assert_eq!(lens, [8192, 4096, 4096]);
        let text = findings[0].to_string();
        assert!(text.starts_with("mb-1f, data: 8192 bytes at 0 (vol-0 at 8192)"), "{text}");
    }
}
