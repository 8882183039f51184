//! PURE: where a scrub is, as it survives a restart; format version 1.
//!
//! Kept as a property of the pool's journal, written now and then. Little-endian:
//!
//! ```text
//! offset  size  field
//!      0     1  version     1; another one is as good as none: the scrub starts over
//!      1     1  under_way   1 while a pass has begun and not ended
//!      2     1  stage       what comes next: 0 heads, 1 journals, 2 segments, 3 mblocks
//!      3     1  reserved    zero
//!      4     4  findings    of this pass, those included that are not listed
//!      8     8  next_id     of the stage's objects; those below have been verified
//!     16     8  bytes       verified in this pass
//!     24     8  objects     verified in this pass
//!     32     8  began       of this pass, seconds since 1970
//!     40     8  completed   when the last whole pass ended, seconds since 1970; 0 = never
//!     48     8  passes      completed
//!     56     -  findings, at most 30, each:
//!
//!      0     1  target      0, 1 superblock copy; 2 label; 3 pool journal; 4 MDC; 5 segment;
//!                           6 mblock
//!      1     1  part        0 data, 1 table, 2 log A, 3 log B
//!      2     1  damage      0 unreadable, 1 checksum, 2 suspect, 3 misplaced, 4 torn or damaged
//!      3     1  reserved    zero
//!      4     4  len         in pages
//!      8     8  id          of the target; 0 where it has none
//!     16     8  offset      within the part
//!     24     8  address     of the pool
//! ```

use super::finding::{Damage, Finding, ScrubPart, ScrubTarget};
use crate::{
    address::VolumeId,
    id::{MblockId, MdcId, SegmentId},
};
use mpool_device::IO_ALIGN;

/// The property's name.
pub(crate) const PROPERTY: &str = "pool.scrub";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 56;
const FINDING_LEN: usize = 32;
/// Findings that are listed by name; beyond that they are counted, and logged when found.
pub(crate) const FINDINGS_KEPT: usize = 30;
const PAGE: u64 = IO_ALIGN as u64;

const _: () = assert!(
    HEAD_LEN + FINDINGS_KEPT * FINDING_LEN <= crate::journal::record::PROPERTY_VALUE_BYTES_MAX
);

/// What is verified next. Values are on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Stage {
    /// Superblock and labels.
    #[default]
    Heads = 0,
    /// The pool's journal (id 0) and its users'.
    Journals = 1,
    Segments = 2,
    Mblocks = 3,
}

/// How far a scrub has come.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) under_way: bool,
    pub(crate) stage: Stage,
    pub(crate) next_id: u64,
    pub(crate) bytes: u64,
    pub(crate) objects: u64,
    pub(crate) began_s: u64,
    pub(crate) completed_s: u64,
    pub(crate) passes: u64,
    /// All of this pass.
    pub(crate) findings_total: u32,
    /// The first of them.
    pub(crate) findings: Vec<Finding>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.under_way), self.stage as u8, 0];
        bytes.extend_from_slice(&self.findings_total.to_le_bytes());
        let words =
            [self.next_id, self.bytes, self.objects, self.began_s, self.completed_s, self.passes];
        bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
        for finding in self.findings.iter().take(FINDINGS_KEPT) {
            encode_finding(finding, &mut bytes);
        }
        bytes
    }

    /// `None`: of another version, or not written by this code.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        if head[0] != VERSION || head[1] > 1 || head[3] != 0 {
            return None;
        }
        let stages = [Stage::Heads, Stage::Journals, Stage::Segments, Stage::Mblocks];
        let stage = *stages.get(usize::from(head[2]))?;
        let findings_total = u32::from_le_bytes(*head[4..].first_chunk()?);
        let (words, _) = head[8..].as_chunks::<8>();
        let word = |at: usize| u64::from_le_bytes(words[at]);
        let (records, left) = rest.as_chunks::<FINDING_LEN>();
        if !left.is_empty() || records.len() > FINDINGS_KEPT {
            return None;
        }
        let findings = records.iter().map(decode_finding).collect::<Option<Vec<_>>>()?;
        if findings_total < u32::try_from(findings.len()).ok()? {
            return None;
        }
        Some(Self {
            under_way: head[1] == 1,
            stage,
            next_id: word(0),
            bytes: word(1),
            objects: word(2),
            began_s: word(3),
            completed_s: word(4),
            passes: word(5),
            findings_total,
            findings,
        })
    }
}

/// By their codes.
const PARTS: [ScrubPart; 7] = [
    ScrubPart::Data,
    ScrubPart::Table,
    ScrubPart::LogA,
    ScrubPart::LogB,
    ScrubPart::LogACopy,
    ScrubPart::LogBCopy,
    ScrubPart::LabelCopy,
];

fn encode_finding(finding: &Finding, bytes: &mut Vec<u8>) {
    let (target, id) = match finding.target {
        ScrubTarget::Superblock(copy) => (copy.min(1), 0),
        ScrubTarget::Label(volume) => (2, u64::from(volume.get())),
        ScrubTarget::PoolJournal => (3, 0),
        ScrubTarget::Journal(id) => (4, id.get()),
        ScrubTarget::Segment(id) => (5, id.get()),
        ScrubTarget::Mblock(id) => (6, id.get()),
    };
    let part = match finding.part {
        ScrubPart::Data => 0,
        ScrubPart::Table => 1,
        ScrubPart::LogA => 2,
        ScrubPart::LogB => 3,
        ScrubPart::LogACopy => 4,
        ScrubPart::LogBCopy => 5,
        ScrubPart::LabelCopy => 6,
    };
    let damage = match finding.damage {
        Damage::Unreadable => 0,
        Damage::Checksum => 1,
        Damage::Suspect => 2,
        Damage::Misplaced => 3,
        Damage::TornOrDamaged => 4,
    };
    bytes.extend_from_slice(&[target, part, damage, 0]);
    let pages = u32::try_from(finding.len_bytes / PAGE).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&pages.to_le_bytes());
    let words = [id, finding.offset, finding.address()];
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
}

fn decode_finding(bytes: &[u8; FINDING_LEN]) -> Option<Finding> {
    let (words, _) = bytes[8..].as_chunks::<8>();
    let [id, offset, address] = [0, 1, 2].map(|at: usize| u64::from_le_bytes(words[at]));
    let nameless = |target| (id == 0).then_some(target);
    let target = match bytes[0] {
        copy @ (0 | 1) => nameless(ScrubTarget::Superblock(copy))?,
        2 => ScrubTarget::Label(VolumeId::new(u16::try_from(id).ok()?)?),
        3 => nameless(ScrubTarget::PoolJournal)?,
        4 => ScrubTarget::Journal(MdcId::new(id)?),
        5 => ScrubTarget::Segment(SegmentId::new(id)?),
        6 => ScrubTarget::Mblock(MblockId::new(id)?),
        _ => return None,
    };
    let part = *PARTS.get(usize::from(bytes[1]))?;
    let damages = [
        Damage::Unreadable,
        Damage::Checksum,
        Damage::Suspect,
        Damage::Misplaced,
        Damage::TornOrDamaged,
    ];
    let damage = *damages.get(usize::from(bytes[2]))?;
    let known = bytes[3] == 0 && VolumeId::new(VolumeId::of(address).get()).is_some();
    let len = u64::from(u32::from_le_bytes(*bytes[4..].first_chunk()?)) * PAGE;
    known.then(|| Finding::at((target, part), offset, (address, len), damage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finding() -> impl Strategy<Value = Finding> {
        let id = 1_u64..u64::MAX;
        let target = prop_oneof![
            (0_u8..2).prop_map(ScrubTarget::Superblock),
            (0_u16..1024).prop_map(|id| ScrubTarget::Label(VolumeId::new(id).unwrap())),
            Just(ScrubTarget::PoolJournal),
            id.clone().prop_map(|id| ScrubTarget::Journal(MdcId::new(id).unwrap())),
            id.clone().prop_map(|id| ScrubTarget::Segment(SegmentId::new(id).unwrap())),
            id.prop_map(|id| ScrubTarget::Mblock(MblockId::new(id).unwrap())),
        ];
        let damages = [Damage::Unreadable, Damage::Checksum, Damage::Suspect, Damage::Misplaced];
        (
            target,
            0..PARTS.len(),
            0_usize..4,
            any::<u32>(),
            any::<u64>(),
            0_u16..1024,
            0_u64..1 << 40,
        )
            .prop_map(move |(target, part, damage, pages, offset, volume, at)| {
                let address = VolumeId::new(volume).unwrap().address(at);
                let place = (address, u64::from(pages) * PAGE);
                Finding::at((target, PARTS[part]), offset, place, damages[damage])
            })
    }

    fn state() -> impl Strategy<Value = State> {
        let stages = [Stage::Heads, Stage::Journals, Stage::Segments, Stage::Mblocks];
        let words = prop::array::uniform6(any::<u64>());
        let findings = prop::collection::vec(finding(), 0..=FINDINGS_KEPT);
        (any::<bool>(), 0_usize..4, words, findings, 0_u32..100).prop_map(
            move |(under_way, stage, [next_id, bytes, objects, a, b, passes], findings, more)| {
                State {
                    under_way,
                    stage: stages[stage],
                    next_id,
                    bytes,
                    objects,
                    began_s: a,
                    completed_s: b,
                    passes,
                    findings_total: u32::try_from(findings.len()).unwrap() + more,
                    findings,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(state in state()) {
            prop_assert_eq!(State::decode(&state.encode()), Some(state));
        }

        #[test]
        fn what_decodes_encodes_to_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(state) = State::decode(&bytes) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }
    }

    #[test]
    fn layout_is_frozen() {
        let what = (ScrubTarget::Mblock(MblockId::new(9).unwrap()), ScrubPart::Table);
        let finding = Finding::at(what, 4096, (8192, 4096), Damage::Checksum);
        let state = State {
            under_way: true,
            stage: Stage::Mblocks,
            findings_total: 7,
            findings: vec![finding],
            next_id: 1,
            bytes: 2,
            objects: 3,
            began_s: 4,
            completed_s: 5,
            passes: 6,
        };
        let words = [1_u64, 2, 3, 4, 5, 6].map(u64::to_le_bytes).concat();
        let places = [9_u64, 4096, 8192].map(u64::to_le_bytes).concat();
        let want = [&[1, 1, 3, 0, 7, 0, 0, 0][..], &words, &[6, 1, 1, 0, 1, 0, 0, 0], &places];
        assert_eq!(state.encode(), want.concat());
    }
}
