//! Volume labels, version 1: whose a volume is.
//!
//! The root volume begins with the superblock; every other volume with a label. It is written when
//! the volume is added. Of its fields only the session changes (`session`); what else may change
//! about a volume is in the pool's journal. One block of 4,096 bytes, zeros after these fields:
//!
//! ```text
//! offset  size  field
//!      0     8  magic        "MILLPVOL"
//!      8     4  version      1; a larger one is refused
//!     12     2  id           of the volume within its pool
//!     14     2  reserved     zero
//!     16    16  pool uuid
//!     32    16  volume uuid  so that a removed volume's label is not taken for its successor's
//!     48     8  count, and ...
//!     56     8  nonce        ... of the session; both zero: not known
//!     64   444  reserved     zero
//!    508     4  crc          CRC-32C of bytes 0..508
//! ```
//!
//! There are two copies: at the start of the volume, and at its second allocation unit. On a zoned
//! device without conventional zones they are the first two pages, and all that is ever appended to
//! the first zone, which is then finished. The copy of the later session counts, the first of
//! equals. Where one is damaged, and a known signature of somebody else is on the device, neither
//! does, and nothing is written. Who writes writes the first one first, so that they differ, after
//! a crash, by a session (`session`). A volume that lacks one copy, as those of earlier programs
//! do, gets it when it is opened; a zoned device without conventional zones never.

use crate::{
    address::{Extent, VolumeId},
    device::{
        self, Device, ZoneCondition, ZoneLimits, Zoned, contents::foreign_on, signature::Signature,
    },
    error::{Error, Result},
    heads::{
        session::Session,
        superblock::{COPY_OFFSETS, RESERVED},
    },
    io::volumes::Volumes,
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{fs::File, io, os::unix::fs::FileExt};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

pub(crate) const LEN: usize = 512;
const MAGIC: [u8; 8] = *b"MILLPVOL";
const VERSION: u32 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    magic: [u8; 8],
    version: U32,
    id: U16,
    reserved: U16,
    pool: [u8; 16],
    volume: [u8; 16],
    session_count: U64,
    session_nonce: U64,
    reserved_too: [u8; 444],
    crc: U32,
}

const _: () = assert!(size_of::<RawLabel>() == LEN);
const _: () = assert!(core::mem::offset_of!(RawLabel, crc) == LEN - 4);
const _: () = assert!(core::mem::offset_of!(RawLabel, session_count) == 48);

/// Whose a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) pool: [u8; 16],
    pub(crate) volume: [u8; 16],
    pub(crate) id: VolumeId,
    /// [`Session::NONE`] if it is not known.
    pub(crate) session: Session,
}

impl Label {
    /// Whether both are of one volume, in whatever session.
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        (self.pool, self.volume, self.id) == (other.pool, other.volume, other.id)
    }
}

/// What stands where a label would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Label(Label),
    /// Zeros, or nothing written at all.
    Blank,
    /// A label once, or of a later version.
    Unreadable,
    /// Something else.
    Foreign,
    /// What somebody else has left is on the device, and a copy of the label is damaged.
    Taken(Signature),
}

/// The part of a volume, `len` bytes of which can be overwritten, that no object may use.
pub(crate) fn reserved(_id: VolumeId, len: u64) -> Option<Extent> {
    (len >= RESERVED.len).then_some(RESERVED)
}

/// The first zone that objects may use.
pub(crate) fn first_object_zone(limits: &ZoneLimits) -> u32 {
    limits.conventional_zones.max(1)
}

pub(crate) fn encode(label: &Label) -> [u8; LEN] {
    let mut raw = RawLabel {
        magic: MAGIC,
        version: VERSION.into(),
        id: label.id.get().into(),
        reserved: 0.into(),
        pool: label.pool,
        volume: label.volume,
        session_count: label.session.count.into(),
        session_nonce: label.session.nonce.into(),
        reserved_too: [0; 444],
        crc: 0.into(),
    };
    raw.crc = crc32c::crc32c(&raw.as_bytes()[..LEN - 4]).into();
    zerocopy::transmute!(raw)
}

/// What stands in a page where a label would; what stands behind the label counts too.
pub(crate) fn decode_page(page: &[u8]) -> Found {
    let (bytes, rest) = page.split_first_chunk().expect("a page holds a label");
    match decode(bytes) {
        Found::Label(_) if rest.iter().any(|byte| *byte != 0) => Found::Unreadable,
        found => found,
    }
}

pub(crate) fn decode(bytes: &[u8; LEN]) -> Found {
    if bytes.iter().all(|b| *b == 0) {
        return Found::Blank;
    }
    let raw: RawLabel = zerocopy::transmute!(*bytes);
    if raw.magic != MAGIC {
        return Found::Foreign;
    }
    let whole = raw.crc.get() == crc32c::crc32c(&bytes[..LEN - 4]);
    match VolumeId::new(raw.id.get()) {
        Some(id) if whole && raw.version.get() == VERSION => {
            let (count, nonce) = (raw.session_count.get(), raw.session_nonce.get());
            let session = Session { count, nonce };
            Found::Label(Label { pool: raw.pool, volume: raw.volume, id, session })
        }
        _ => Found::Unreadable,
    }
}

/// Whether the label lies in a zone that can only be appended to.
pub(crate) fn is_appended(device: &dyn Device) -> bool {
    device.zones().is_some_and(|zones| zones.limits().conventional_zones == 0)
}

/// Where on its volume each copy lies.
pub(crate) fn offsets(device: &dyn Device) -> [u64; 2] {
    [0, if is_appended(device) { IO_ALIGN as u64 } else { COPY_OFFSETS[1] }]
}

/// Reads what stands where a label would: the label, if a copy is one.
pub(crate) fn read(device: &dyn Device) -> Result<Found> {
    let [first, second] = [0, 1].map(|copy| read_copy(device, copy));
    let is_sound = [0, 1].map(|copy| is_sound(device, copy));
    let counts = match (&first, &second) {
        (Ok(Found::Label(first)), Ok(Found::Label(second)))
            if second.is_of_same(first) && second.session.count > first.session.count =>
        {
            Found::Label(*second)
        }
        (Ok(label @ Found::Label(_)), _) | (_, Ok(label @ Found::Label(_))) => *label,
        _ => return first,
    };
    match is_sound {
        [true, true] => Ok(counts),
        _ => Ok(foreign(device)?.map_or(counts, Found::Taken)),
    }
}

/// Whether one copy is as it was written, to the end of its page.
fn is_sound(device: &dyn Device, copy: usize) -> bool {
    let page = page_at(device, copy).ok().flatten();
    page.is_some_and(|page| matches!(decode_page(&page), Found::Label(_)))
}

/// The label that a file, or a device that is not opened as a volume, carries in one of the two
/// places.
pub(crate) fn in_file(file: &File) -> Option<Label> {
    COPY_OFFSETS.into_iter().find_map(|at| {
        let mut bytes = [0; LEN];
        file.read_exact_at(&mut bytes, at).ok()?;
        match decode(&bytes) {
            Found::Label(label) => Some(label),
            _ => None,
        }
    })
}

/// What is known on the device and not ours.
fn foreign(device: &dyn Device) -> Result<Option<Signature>> {
    // What is appended once is not written over by anybody who does not empty the zone.
    if is_appended(device) {
        return Ok(None);
    }
    foreign_on(device).map_err(|source| Error::io("read", 0, IO_ALIGN, source))
}

/// What stands where one copy would be.
pub(crate) fn read_copy(device: &dyn Device, copy: usize) -> Result<Found> {
    let page = page_at(device, copy)?;
    let bytes = page.as_ref().map(|page| page.first_chunk().expect("a page holds a label"));
    Ok(bytes.map_or(Found::Blank, decode))
}

/// The page of one copy; `None` where nothing was ever written.
fn page_at(device: &dyn Device, copy: usize) -> Result<Option<IoBuf>> {
    let at = offsets(device)[copy];
    let failed = |source| Error::io("read", at, IO_ALIGN, source);
    if device.geometry().len_bytes < at + IO_ALIGN as u64 {
        return Ok(None);
    }
    if is_appended(device) {
        let zones = device.zones().expect("asked above");
        let report = zones.report(0, 1).map_err(failed)?;
        // What lies beyond a write pointer is arbitrary.
        if report.first().is_some_and(|zone| zone.condition == ZoneCondition::Empty) {
            return Ok(None);
        }
    }
    let mut page = IoBuf::zeroed(IO_ALIGN);
    device.read_at(at, &mut page).map_err(failed)?;
    Ok(Some(page))
}

/// Writes a label, durably. Whatever stood there is gone.
pub(crate) fn write(device: &dyn Device, label: &Label) -> Result<()> {
    if is_appended(device) {
        let appended = append(device, &page_of(label));
        return appended.map_err(|source| Error::io("durable write", 0, IO_ALIGN, source));
    }
    if device.zones().is_none() {
        let grown = device.grow(RESERVED.len);
        grown.map_err(|source| Error::io("durable write", 0, IO_ALIGN, source))?;
    }
    write_again(device, label)
}

/// Writes the label of a volume that has one, durably: each copy is one sector, which is the old
/// one or the new one after a crash. Not for one that is appended.
pub(crate) fn write_again(device: &dyn Device, label: &Label) -> Result<()> {
    let page = page_of(label);
    for at in offsets(device) {
        let written = device.write_durable_at(at, &page);
        written.map_err(|source| Error::io("durable write", at, IO_ALIGN, source))?;
    }
    Ok(())
}

/// Writes both copies again if one of them is not this label, which the other one is. What fails
/// here fails again at the next open: the label can be read.
pub(crate) fn heal(device: &dyn Device, label: &Label, volumes: &Volumes) {
    let copies = [0, 1].map(|copy| match page_at(device, copy) {
        Ok(page) => page.map_or(Found::Blank, |page| decode_page(&page)),
        Err(_) => Found::Unreadable,
    });
    if is_appended(device) || copies == [Found::Label(*label); 2] {
        return;
    }
    let id = label.id;
    for (copy, found) in copies.into_iter().enumerate() {
        let what = match found {
            Found::Label(_) => continue,
            // So is the second one of a volume of an earlier program.
            Found::Blank => "missing",
            Found::Unreadable | Found::Foreign | Found::Taken(_) => "damaged",
        };
        let (copy, remedy) = (copy + 1, volumes.remedy());
        tracing::warn!(volume = %id, copy, "one copy of a volume's label is {what}; {remedy}");
    }
    if volumes.is_read_only() {
        return;
    }
    if let Err(error) = write_again(device, label) {
        tracing::warn!(volume = %id, %error, "the label of a volume cannot be written again");
    }
}

fn page_of(label: &Label) -> IoBuf {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    page[..LEN].copy_from_slice(&encode(label));
    page
}

/// Makes a volume blank, the label last, so that it can be used for something else. Before that,
/// nothing may live there.
pub(crate) fn wipe(device: &dyn Device) -> Result<()> {
    let wiped = device.zones().map_or(Ok(()), reset_written).and_then(|()| {
        // Without zones, and in those that can be overwritten.
        if is_appended(device) { Ok(()) } else { device::wipe_ends(device) }
    });
    wiped.map_err(|source| Error::io("durable write", 0, IO_ALIGN, source))
}

/// Empties every zone that has something in it, the first one last.
fn reset_written(zones: &dyn Zoned) -> io::Result<()> {
    let limits = zones.limits();
    let first = limits.conventional_zones;
    let report = zones.report(first, limits.zones - first)?;
    let written = report.iter().rev().filter(|zone| zone.condition.is_written());
    written.map(|zone| zone.index).try_for_each(|zone| zones.reset(zone))
}

fn append(device: &dyn Device, page: &IoBuf) -> io::Result<()> {
    let zones = device.zones().expect("asked above");
    if zones.report(0, 1)?.first().is_some_and(|zone| zone.condition != ZoneCondition::Empty) {
        zones.reset(0)?;
    }
    zones.append(0, page)?;
    zones.append(0, page)?;
    device.flush()?;
    zones.finish(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label {
        pool: [1; 16],
        volume: [2; 16],
        id: VolumeId::ROOT,
        session: Session { count: 3, nonce: 4 },
    };

    #[test]
    fn layout_is_frozen() {
        let id = VolumeId::new(0x0102).unwrap();
        let bytes = encode(&Label { id, ..LABEL });
        assert_eq!(&bytes[..16], b"MILLPVOL\x01\0\0\0\x02\x01\0\0");
        assert_eq!((&bytes[16..32], &bytes[32..48]), (&[1; 16][..], &[2; 16][..]));
        assert_eq!((bytes[48], bytes[56], &bytes[64..508]), (3, 4, &[0; 444][..]));
        assert_eq!(decode(&bytes), Found::Label(Label { id, ..LABEL }));
    }

    /// Where nothing can be overwritten both copies are appended, and either is enough.
    #[test]
    fn a_zone_that_is_appended_to_has_two_copies_too() {
        let limits = ZoneLimits {
            zones: 4,
            zone_bytes: 1 << 20,
            conventional_zones: 0,
            open_max: 2,
            active_max: 2,
            append_bytes_max: 1 << 16,
            block_bytes: 4096,
        };
        let device = mpool_sim::SimDevice::zoned(limits);
        let root = std::sync::Arc::new(mpool_sim::SimDevice::new(1 << 20));
        let volumes = Volumes::new(root, std::sync::Arc::default());
        assert_eq!(read(&device).unwrap(), Found::Blank);
        write(&device, &LABEL).unwrap();
        assert_eq!(offsets(&device), [0, 4096]);
        for copy in [0, 4096] {
            device.flip_bit(copy + 20, 1);
            assert_eq!(read(&device).unwrap(), Found::Label(LABEL), "without the copy at {copy}");
            heal(&device, &LABEL, &volumes);
            device.flip_bit(copy + 20, 1);
        }
        for byte in [20, 4116] {
            device.flip_bit(byte, 1);
        }
        assert_eq!(read(&device).unwrap(), Found::Unreadable);
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let good = encode(&LABEL);
        for bit in 0..LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&bytes), Found::Label(_) | Found::Blank), "bit {bit}");
        }
        assert_eq!(decode(&[0; LEN]), Found::Blank);
        assert_eq!(decode(&[b'x'; LEN]), Found::Foreign);
    }
}
