//! The superblock, format version 1: where a pool begins.
//!
//! Two copies, each at the start of one of the first two allocation units; within a copy:
//!
//! ```text
//! offset  size  field
//!      0     8  magic         "MILLPOND"
//!      8     4  major         format version; a larger one is refused
//!     12     4  reserved      zero
//!     16     8  compat        features whose ignorance is harmless
//!     24     8  ro_compat     features one must know to write
//!     32     8  incompat      features one must know to read
//!     40     8  generation    of the superblock; the larger of two intact copies counts
//!     48    16  uuid          names the pool, and is mixed into every journal frame
//!     64     8  alloc_unit    in bytes
//!     72     8  log_a         the pool's journal: offsets of its two logs ...
//!     80     8  log_b
//!     88     8  log_len       ... and the length of each
//!     96   412  reserved      zero
//!    508     4  crc           CRC-32C of bytes 0..508
//! ```
//!
//! Integers are little-endian. `magic`, `major` and `crc` keep their places in every version, so
//! that a newer pool is told from a damaged one. A copy is one 512-byte sector, which the device
//! writes whole or not at all; the two are written one after the other, each durable, so a crash
//! damages at most one.
//!
//! A pool exists once a copy is intact: creation writes it last.

use crate::{
    error::{Error, Result},
    io::{
        buf::{IO_ALIGN, IoBuf},
        queue::Priority,
    },
    space::{ALLOC_UNIT, extent::Extent},
    volume::Volumes,
};
use std::path::PathBuf;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// The newest major version this binary reads, and the one it writes.
pub(crate) const FORMAT_MAJOR: u32 = 1;
/// Where the copies are; both units belong to the superblock whole.
pub(crate) const COPY_OFFSETS: [u64; 2] = [0, ALLOC_UNIT];
/// The part of the volume that no object may use.
pub(crate) const RESERVED: Extent = Extent { offset: 0, len: 2 * ALLOC_UNIT };

pub(crate) const LEN: usize = 512;
const MAGIC: [u8; 8] = *b"MILLPOND";
/// Features this binary knows: none beyond version 1 itself.
const RO_COMPAT_KNOWN: u64 = 0;
const INCOMPAT_KNOWN: u64 = 0;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    major: U32,
    reserved: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    generation: U64,
    uuid: [u8; 16],
    alloc_unit: U64,
    log_a: U64,
    log_b: U64,
    log_len: U64,
    reserved_too: [u8; 412],
    crc: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == LEN);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, crc) == LEN - 4);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, uuid) == 48);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, log_len) == 88);

/// A superblock whose every field has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) compat: u64,
    pub(crate) generation: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) logs: [Extent; 2],
}

/// What one copy turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    Intact(Superblock),
    /// All zeros: never written.
    Blank,
    /// Intact, but of a later major version.
    Newer(u32),
    /// Intact, but with features this binary does not know.
    Unknown(u64),
    /// A superblock once, by its magic.
    Damaged,
    /// Something else.
    Foreign,
}

/// What the two copies say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Election {
    /// There is no pool here, and nothing else either.
    Blank,
    /// The pool; `repair` names the copy that must be written again.
    Elected { superblock: Superblock, repair: Option<usize> },
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let [a, b] = self.logs;
        assert!(a.len == b.len, "both logs are equally long");
        let mut raw = RawSuperblock {
            magic: MAGIC,
            major: FORMAT_MAJOR.into(),
            reserved: 0.into(),
            compat: self.compat.into(),
            ro_compat: 0.into(),
            incompat: 0.into(),
            generation: self.generation.into(),
            uuid: self.uuid,
            alloc_unit: ALLOC_UNIT.into(),
            log_a: a.offset.into(),
            log_b: b.offset.into(),
            log_len: a.len.into(),
            reserved_too: [0; 412],
            crc: 0.into(),
        };
        raw.crc = crc(&raw).into();
        zerocopy::transmute!(raw)
    }

    /// Makes this one copy durable.
    pub(crate) fn write_copy(&self, volume: &Volumes, copy: usize) -> Result<()> {
        let mut page = IoBuf::zeroed(IO_ALIGN);
        page[..LEN].copy_from_slice(&self.encode());
        volume.write_durable(COPY_OFFSETS[copy], &page, Priority::Wal)
    }

    /// Gives the pool's journal another place, durably: one copy after the other, so that a crash
    /// leaves an intact one, and the later counts. On an error the volume is poisoned.
    pub(crate) fn move_journal(&mut self, volume: &Volumes, logs: [Extent; 2]) -> Result<()> {
        let generation = self.generation.checked_add(1).expect("2^64 moves do not happen");
        let next = Self { generation, logs, ..self.clone() };
        next.write_copy(volume, 0)?;
        next.write_copy(volume, 1)?;
        *self = next;
        Ok(())
    }
}

/// The superblock in a page, if everything in the page is as it was written.
pub(crate) fn decode_page(page: &[u8]) -> Option<Superblock> {
    let (bytes, rest) = page.split_first_chunk()?;
    match decode(bytes) {
        Copy::Intact(superblock) if rest.iter().all(|byte| *byte == 0) => Some(superblock),
        _ => None,
    }
}

pub(crate) fn decode(bytes: &[u8; LEN]) -> Copy {
    if bytes.iter().all(|b| *b == 0) {
        return Copy::Blank;
    }
    let raw: RawSuperblock = zerocopy::transmute!(*bytes);
    if raw.magic != MAGIC {
        return Copy::Foreign;
    }
    if raw.crc.get() != crc(&raw) {
        return Copy::Damaged;
    }
    if raw.major.get() > FORMAT_MAJOR {
        return Copy::Newer(raw.major.get());
    }
    let incompat = raw.incompat.get() & !INCOMPAT_KNOWN;
    let unknown = incompat | (raw.ro_compat.get() & !RO_COMPAT_KNOWN);
    if unknown != 0 {
        return Copy::Unknown(unknown);
    }
    let log = |offset: U64| Extent { offset: offset.get(), len: raw.log_len.get() };
    let logs = [log(raw.log_a), log(raw.log_b)];
    let sound = raw.major.get() == FORMAT_MAJOR
        && raw.generation.get() > 0
        && raw.alloc_unit.get() == ALLOC_UNIT
        && logs.iter().all(|log| log.is_sound());
    if !sound {
        return Copy::Damaged;
    }
    let (compat, generation) = (raw.compat.get(), raw.generation.get());
    Copy::Intact(Superblock { compat, generation, uuid: raw.uuid, logs })
}

fn crc(raw: &RawSuperblock) -> u32 {
    crc32c::crc32c(&raw.as_bytes()[..LEN - 4])
}

/// Reads both copies and decides. A device too short for them is blank.
pub(crate) fn read(volume: &Volumes) -> Result<Election> {
    let device_len = volume.root().device().geometry().len_bytes;
    let mut copies = [Copy::Blank, Copy::Blank];
    let mut failed = None;
    for (copy, offset) in copies.iter_mut().zip(COPY_OFFSETS) {
        if offset + IO_ALIGN as u64 > device_len {
            continue;
        }
        let mut page = IoBuf::zeroed(IO_ALIGN);
        match volume.read(offset, &mut page, Priority::Read) {
            Ok(()) => *copy = decode(page.first_chunk().expect("a page holds a superblock")),
            // The other copy may be readable; this one will be written again.
            Err(error) => {
                failed = Some(error);
                *copy = Copy::Damaged;
            }
        }
    }
    match (elect(copies), failed) {
        (Err(_), Some(read_error)) => Err(read_error),
        (outcome, _) => outcome,
    }
}

fn elect(copies: [Copy; 2]) -> Result<Election> {
    for copy in &copies {
        // A newer program may have been stopped between its two writes: its word counts.
        match copy {
            Copy::Newer(found) => {
                return Err(Error::Format { found: *found, supported: FORMAT_MAJOR });
            }
            Copy::Unknown(unknown) => return Err(Error::Features { unknown: *unknown }),
            _ => {}
        }
    }
    match copies {
        [Copy::Intact(a), Copy::Intact(b)] => {
            if a.uuid != b.uuid {
                let reason = "the two copies belong to different pools";
                return Err(Error::corrupt("superblock", COPY_OFFSETS[1], reason));
            }
            let repair = match a.generation.cmp(&b.generation) {
                std::cmp::Ordering::Less => Some(0),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(1),
            };
            let superblock = if repair == Some(0) { b } else { a };
            Ok(Election::Elected { superblock, repair })
        }
        [Copy::Intact(superblock), _] => Ok(Election::Elected { superblock, repair: Some(1) }),
        [_, Copy::Intact(superblock)] => Ok(Election::Elected { superblock, repair: Some(0) }),
        [Copy::Blank, Copy::Blank] => Ok(Election::Blank),
        [Copy::Foreign, _] | [_, Copy::Foreign] => Err(Error::Unusable {
            path: PathBuf::from("volume"),
            reason: "holds something that is not a Millpond pool; choose another place".to_owned(),
        }),
        _ => Err(Error::corrupt("superblock", 0, "neither copy is intact")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(generation: u64) -> Superblock {
        let len = 4 * ALLOC_UNIT;
        let logs = [2, 6].map(|unit| Extent { offset: unit * ALLOC_UNIT, len });
        Superblock { compat: 0, generation, uuid: [7; 16], logs }
    }

    fn patched(at: usize, value: u8) -> Copy {
        let mut bytes = sample(1).encode();
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[..LEN - 4]);
        bytes[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        decode(&bytes)
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = sample(3).encode();
        assert_eq!(&bytes[..16], b"MILLPOND\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..40], [0; 24]);
        assert_eq!(bytes[40..48], 3_u64.to_le_bytes());
        assert_eq!(bytes[48..64], [7; 16]);
        let words = [1, 2, 6, 4].map(|units| (units * ALLOC_UNIT).to_le_bytes()).concat();
        assert_eq!(bytes[64..96], words);
        assert_eq!(decode(&bytes), Copy::Intact(sample(3)));
    }

    #[test]
    fn every_single_bit_flip_is_rejected() {
        let good = sample(1).encode();
        for bit in 0..LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&bytes), Copy::Intact(_)), "bit {bit}");
        }
    }

    #[test]
    fn the_newer_intact_copy_counts_and_the_other_is_repaired() {
        let intact = |g| Copy::Intact(sample(g));
        for (copies, generation, repair) in [
            ([intact(2), intact(2)], 2, None),
            ([intact(2), intact(1)], 2, Some(1)),
            ([intact(1), intact(2)], 2, Some(0)),
            ([intact(1), Copy::Damaged], 1, Some(1)),
            ([Copy::Blank, intact(1)], 1, Some(0)),
        ] {
            let superblock = sample(generation);
            assert_eq!(elect(copies).unwrap(), Election::Elected { superblock, repair });
        }
        assert_eq!(elect([Copy::Blank, Copy::Blank]).unwrap(), Election::Blank);
    }

    #[test]
    fn what_this_binary_cannot_serve_is_refused_by_name() {
        assert_eq!(patched(8, 2), Copy::Newer(2));
        assert_eq!(patched(16, 1).clone(), Copy::Intact(Superblock { compat: 1, ..sample(1) }));
        assert_eq!(patched(24, 4), Copy::Unknown(4));
        assert_eq!(patched(32, 8), Copy::Unknown(8));
        let newer = elect([Copy::Intact(sample(1)), Copy::Newer(2)]);
        assert!(matches!(newer, Err(Error::Format { found: 2, supported: 1 })));
        let other = Copy::Intact(Superblock { uuid: [8; 16], ..sample(1) });
        assert!(matches!(elect([Copy::Intact(sample(1)), other]), Err(Error::Corrupt { .. })));
        assert!(matches!(elect([Copy::Foreign, Copy::Blank]), Err(Error::Unusable { .. })));
        assert!(matches!(elect([Copy::Damaged, Copy::Blank]), Err(Error::Corrupt { .. })));
    }
}
