//! Verifying superblock and labels: everything in their pages, the zeros behind their fields
//! included.

use super::{
    finding::{Damage, Finding, ScrubPart, ScrubTarget},
    reader::{Halted, Reader},
};
use crate::{
    address::VolumeId,
    device::Device,
    heads::{
        label::{self, Found, Label},
        session::{Session, Sessions},
        superblock::{self, COPY_OFFSETS, Superblock},
    },
};
use mpool_device::IO_ALIGN;

const PAGE: u64 = IO_ALIGN as u64;

/// Verifies both copies of the superblock. Returns the one that counts, if one is intact.
pub(crate) fn superblock(
    pool: Option<[u8; 16]>,
    reader: &mut Reader<'_>,
    findings: &mut Vec<Finding>,
) -> Halted<Option<Superblock>> {
    let mut copies = [None, None];
    let mut damages = [None, None];
    for (copy, address) in COPY_OFFSETS.into_iter().enumerate() {
        let page = reader.page(address)?;
        (copies[copy], damages[copy]) = match page.as_deref().map(superblock::decode_page) {
            None => (None, Some(Damage::Unreadable)),
            Some(None) => (None, Some(Damage::Checksum)),
            Some(Some(found)) if pool.is_some_and(|pool| found.uuid != pool) => {
                (None, Some(Damage::Misplaced))
            }
            Some(Some(found)) => (Some(found), None),
        };
    }
    let counts = copies.iter().flatten().max_by_key(|found| found.generation).cloned();
    for (copy, address) in COPY_OFFSETS.into_iter().enumerate() {
        // An older copy is what a crash between the two writes leaves, and opening repairs.
        let stale = copies[copy].is_some() && copies[copy] != counts;
        let damage = damages[copy].or(stale.then_some(Damage::Misplaced));
        if let Some(damage) = damage {
            let what = (ScrubTarget::Superblock(u8::from(copy == 1)), ScrubPart::Data);
            findings.push(Finding::at(what, 0, (address, PAGE), damage));
        }
    }
    Ok(counts)
}

/// Verifies both copies of the label of one volume; their session too, if the pool has sessions.
pub(crate) fn label(
    (expected, sessions): (&Label, Option<Sessions>),
    device: &dyn Device,
    reader: &mut Reader<'_>,
    findings: &mut Vec<Finding>,
) -> Halted<()> {
    let is_expected = |found: &Label| {
        let is_current = sessions.is_none_or(|sessions| sessions.judge(found.session).is_ok());
        found.is_of_same(expected) && is_current
    };
    for (copy, at) in label::offsets(device).into_iter().enumerate() {
        let address = expected.id.address(at);
        let found = reader.page(address)?.as_deref().map(label::decode_page);
        let damage = match found {
            Some(Found::Label(found)) if is_expected(&found) => continue,
            // What was never appended is arbitrary.
            Some(Found::Blank | Found::Foreign) if copy == 1 && label::is_appended(device) => {
                continue;
            }
            // In a pool that is open, which is what has sessions here, it is damage.
            Some(Found::Blank) if copy == 1 && sessions.is_none() => continue,
            None => Damage::Unreadable,
            Some(Found::Label(_)) => Damage::Misplaced,
            Some(Found::Blank | Found::Unreadable | Found::Foreign | Found::Taken(_)) => {
                Damage::Checksum
            }
        };
        let part = [ScrubPart::Data, ScrubPart::LabelCopy][copy];
        let what = (ScrubTarget::Label(expected.id), part);
        findings.push(Finding::at(what, 0, (address, PAGE), damage));
    }
    Ok(())
}

/// The labels that the volumes of a pool must carry, in whatever session.
pub(crate) fn labels(
    pool: [u8; 16],
    volumes: impl IntoIterator<Item = (VolumeId, [u8; 16])>,
) -> Vec<Label> {
    let labelled = volumes.into_iter().filter(|(id, _)| *id != VolumeId::ROOT);
    labelled.map(|(id, volume)| Label { pool, volume, id, session: Session::NONE }).collect()
}
