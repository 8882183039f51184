//! Verifying an mblock: its table of page checksums against the journal, its pages against the
//! table.
//!
//! ```text
//!   journal --CRC--> table --CRC--> each page of data
//! ```
//!
//! Where the table is damaged the pages are still to be trusted or not: their own checksums make a
//! table, and if *that* has the CRC that the journal names, every page is sound and the damage is
//! in those pages of the table that differ from it. Else both are damaged, and what differs is
//! suspect.

use super::{
    finding::{Damage, Finding, ScrubPart, ScrubTarget, push},
    reader::{Halted, Reader},
};
use crate::{
    id::MblockId,
    object::sums::{self, SUMS_PER_PAGE},
    space::layout::Layout,
};
use mpool_device::IO_ALIGN;
use std::ops::Range;

const PAGE: u64 = IO_ALIGN as u64;

/// An mblock as the journal describes it.
pub(crate) struct Object<'a> {
    pub(crate) id: MblockId,
    pub(crate) layout: &'a Layout,
    pub(crate) len_bytes: u64,
    /// `None`: of format version 1; such objects can be read, not verified.
    pub(crate) sums_crc: Option<u32>,
}

/// Verifies one mblock; what is damaged is added to `findings`.
pub(crate) fn verify(
    object: &Object<'_>,
    reader: &mut Reader<'_>,
    findings: &mut Vec<Finding>,
) -> Halted<()> {
    let data = 0..sums::padded_len(object.len_bytes);
    let Some(sums_crc) = object.sums_crc else {
        return each_piece(object, &data, reader, &mut |at, _, unreadable| {
            for page in unreadable {
                note(object, at + *page as u64 * PAGE, Damage::Unreadable, findings);
            }
        });
    };
    let mut table = Vec::new();
    let mut table_unreadable = Vec::new();
    let behind = data.end..sums::total_len(object.len_bytes);
    each_piece(object, &behind, reader, &mut |at, bytes, unreadable| {
        table.extend_from_slice(bytes);
        table_unreadable.extend(unreadable.iter().map(|page| at + *page as u64 * PAGE));
    })?;
    let trusted = table_unreadable.is_empty() && crc32c::crc32c(&table) == sums_crc;
    let stored = sums::decode(&table);
    let mut computed = Vec::new();
    let mut suspects = Vec::new();
    each_piece(object, &data, reader, &mut |at, bytes, unreadable| {
        let first = computed.len();
        sums::push(bytes, &mut computed);
        for (page, sum) in computed[first..].iter().enumerate() {
            let offset = at + page as u64 * PAGE;
            if unreadable.contains(&page) {
                note(object, offset, Damage::Unreadable, findings);
            } else if stored.get(first + page) != Some(sum) {
                if trusted {
                    note(object, offset, Damage::Checksum, findings);
                } else {
                    suspects.push(offset);
                }
            }
        }
    })?;
    if !trusted {
        let unreadable = &table_unreadable;
        let table = Table { stored: &table, computed: &computed, unreadable };
        judge(object, &table, &suspects, findings);
    }
    Ok(())
}

/// A table whose CRC is wrong, and what it would be by the data as it reads.
struct Table<'a> {
    stored: &'a [u8],
    computed: &'a [u32],
    /// Offsets within the object.
    unreadable: &'a [u64],
}

/// Decides whether the table is damaged alone.
fn judge(object: &Object<'_>, table: &Table<'_>, suspects: &[u64], findings: &mut Vec<Finding>) {
    let mut right = vec![0; table.stored.len()];
    sums::encode(table.computed, &mut right);
    let data_is_sound = Some(crc32c::crc32c(&right)) == object.sums_crc;
    let first = sums::padded_len(object.len_bytes);
    let pages = table.stored.chunks(IO_ALIGN).zip(right.chunks(IO_ALIGN)).enumerate();
    for (page, (stored, right)) in pages {
        let offset = first + page as u64 * PAGE;
        if table.unreadable.contains(&offset) {
            note(object, offset, Damage::Unreadable, findings);
        } else if stored != right {
            let damage = if data_is_sound { Damage::Checksum } else { Damage::Suspect };
            note(object, offset, damage, findings);
        }
    }
    if data_is_sound {
        return;
    }
    for offset in suspects {
        // Without its checksum nothing can be said of a page.
        let sum_at = first + offset / PAGE / SUMS_PER_PAGE as u64 * PAGE;
        if !table.unreadable.contains(&sum_at) {
            note(object, *offset, Damage::Suspect, findings);
        }
    }
}

/// Gets a piece's offset within the object, its bytes, and which of its pages could not be read.
type SeePiece<'a> = &'a mut dyn FnMut(u64, &[u8], &[usize]);

/// Reads `range` of the object piece by piece.
fn each_piece(
    object: &Object<'_>,
    range: &Range<u64>,
    reader: &mut Reader<'_>,
    see: SeePiece<'_>,
) -> Halted<()> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + reader.read_bytes() as u64);
        for part in object.layout.parts(at..end) {
            let pages = reader.pages(part.offset, usize::try_from(part.len).expect("one read"))?;
            see(at, &pages.bytes, &pages.unreadable);
            at += part.len;
        }
    }
    Ok(())
}

/// One damaged page at `offset` of the object, its table counted on.
fn note(object: &Object<'_>, offset: u64, damage: Damage, findings: &mut Vec<Finding>) {
    let table = sums::padded_len(object.len_bytes);
    let in_table = offset >= table && object.sums_crc.is_some();
    let (part, within) =
        if in_table { (ScrubPart::Table, offset - table) } else { (ScrubPart::Data, offset) };
    let address = object.layout.address_of(&(offset..offset + PAGE));
    let address = address.expect("pieces are whole pages");
    let what = (ScrubTarget::Mblock(object.id), part);
    push(findings, Finding::at(what, within, (address, PAGE), damage));
}
