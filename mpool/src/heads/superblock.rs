//! The superblock, format version 1: where a pool begins.
//!
//! Two copies, each at the start of one of the first two allocation units; within a copy:
//!
//! ```text
//! offset  size  field
//!      0     8  magic         "MILLPOND"
//!      8     4  major         format version; a larger one is refused
//!     12     4  reserved      zero
//!     16     8  compat        features whose ignorance is harmless,
//!     24     8  ro_compat     ... that one must know to write,
//!     32     8  incompat      ... and to read: the bits are in `features`
//!     40     8  generation    of the superblock; the larger of two intact copies counts
//!     48    16  uuid          names the pool, and is mixed into every journal frame
//!     64     8  alloc_unit    in bytes
//!     72     8  log_a         the pool's journal: offsets of its two logs ...
//!     80     8  log_b
//!     88     8  log_len       ... and the length of each; of a copy, where they are kept twice
//!     96    16  program       version that last added a feature, in ASCII, zeros behind; all zero:
//!                             from before there were features
//!    112     4  log_copies    of each log: 2, one behind the other; 0 means 1 (of a pool from
//!                             before logs were kept twice, until its journal moves)
//!    116   392  reserved      zero
//!    508     4  crc           CRC-32C of bytes 0..508
//! ```
//!
//! Integers are little-endian. `magic`, `major` and `crc` keep their places in every version, so
//! that a newer pool is told from a damaged one. A copy is one 512-byte sector, which the device
//! writes whole or not at all; the two are written one after the other, each durable, so a crash
//! damages at most one. How it changes while the pool is open: `journal::anchor`.
//!
//! A pool exists once a copy is intact: creation writes it last. Before anything else it writes,
//! in the second copy's place, one sector that says that a creation is under way, so that one that
//! was cut short is told from a pool that has lost both copies:
//!
//! ```text
//! offset  size  field
//!      0     8  magic         "MILLPNEW"
//!      8   500  reserved      zero
//!    508     4  crc           CRC-32C of bytes 0..508
//! ```

use crate::{
    address::{ALLOC_UNIT, Extent},
    error::{Error, Result},
    features::{FORMAT_MAJOR, Features},
    heads::log::{Kept, Log},
    io::volumes::Volumes,
    media::Priority,
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::path::PathBuf;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// Where the copies are; both units belong to the superblock whole.
pub(crate) const COPY_OFFSETS: [u64; 2] = [0, ALLOC_UNIT];
/// The part of the volume that no object may use.
pub(crate) const RESERVED: Extent = Extent { offset: 0, len: 2 * ALLOC_UNIT };

pub(crate) const LEN: usize = 512;
/// The reason where there were copies, and both are damaged.
pub(crate) const NEITHER_INTACT: &str =
    "neither copy is intact; `millpond recover --superblock` opens the pool by its journal";
const MAGIC: [u8; 8] = *b"MILLPOND";
const MAGIC_BEGUN: [u8; 8] = *b"MILLPNEW";
/// The version of this program, cut to what there is room for.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// A program's version, as the superblock has it.
pub(crate) type Program = [u8; 16];

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
    program: Program,
    log_copies: U32,
    reserved_too: [u8; 392],
    crc: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == LEN);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, crc) == LEN - 4);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, uuid) == 48);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, log_len) == 88);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, program) == 96);
const _: () = assert!(core::mem::offset_of!(RawSuperblock, log_copies) == 112);

/// A superblock whose every field has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Unknown ones too, except those one must know to read.
    pub(crate) features: Features,
    /// Who added the last of them.
    pub(crate) program: Program,
    pub(crate) generation: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) logs: [Log; 2],
}

/// What one copy turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    Intact(Superblock),
    /// All zeros: never written.
    Blank,
    /// Intact, but of a later major version.
    Newer(u32),
    /// Intact, but one must know these features to read on.
    Unknown {
        unknown: Features,
        program: Program,
    },
    /// A creation is under way, or was cut short.
    Begun,
    /// A superblock once, by its magic.
    Damaged,
    /// Something else.
    Foreign,
}

/// What the two copies say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Election {
    /// Zeros where the copies would be; what else there is, is not known here.
    Blank,
    /// There is no pool here yet: a creation was cut short.
    Begun,
    /// The pool.
    Elected(Superblock),
}

impl Superblock {
    /// Of a new pool.
    pub(crate) fn new(uuid: [u8; 16], logs: [Log; 2]) -> Self {
        let features = Features::NONE;
        Self { features, program: Program::default(), generation: 1, uuid, logs }
            .with_features(Features::PLACED_MBLOCKS)
            .with_logs(logs)
    }

    /// The same, with its journal in other logs.
    pub(crate) fn with_logs(&self, logs: [Log; 2]) -> Self {
        let moved = Self { logs, ..self.clone() };
        if logs[0].is_twice() { moved.with_features(Features::TWIN_LOGS) } else { moved }
    }

    /// The same, and this program has added `features`.
    pub(crate) fn with_features(&self, features: Features) -> Self {
        let mut program = Program::default();
        let len = PROGRAM.len().min(program.len());
        program[..len].copy_from_slice(&PROGRAM.as_bytes()[..len]);
        Self { features: self.features.union(features), program, ..self.clone() }
    }

    /// Whether this program may write to the pool.
    pub(crate) fn check_writable(&self) -> Result<()> {
        let unknown = Features { compat: 0, ..self.features.unknown() };
        if unknown.is_empty() { Ok(()) } else { Err(refused(unknown, self.program)) }
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let [a, b] = self.logs;
        assert!(a.len == b.len, "both logs are equally long");
        assert!(a.kept == b.kept, "both logs are kept alike");
        let mut raw = RawSuperblock {
            magic: MAGIC,
            major: FORMAT_MAJOR.into(),
            reserved: 0.into(),
            compat: self.features.compat.into(),
            ro_compat: self.features.ro_compat.into(),
            incompat: self.features.incompat.into(),
            generation: self.generation.into(),
            uuid: self.uuid,
            alloc_unit: ALLOC_UNIT.into(),
            log_a: a.offset.into(),
            log_b: b.offset.into(),
            log_len: a.len.into(),
            program: self.program,
            log_copies: if a.is_twice() { 2 } else { 0 }.into(),
            reserved_too: [0; 392],
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
}

fn encode_begun() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..MAGIC_BEGUN.len()].copy_from_slice(&MAGIC_BEGUN);
    let crc = crc32c::crc32c(&bytes[..LEN - 4]);
    bytes[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Says durably that a pool is being made here.
pub(crate) fn write_begun(volume: &Volumes) -> Result<()> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    page[..LEN].copy_from_slice(&encode_begun());
    volume.write_durable(COPY_OFFSETS[1], &page, Priority::Wal)
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
    if *bytes == encode_begun() {
        return Copy::Begun;
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
    let (compat, ro_compat) = (raw.compat.get(), raw.ro_compat.get());
    let features = Features { compat, ro_compat, incompat: raw.incompat.get() };
    let unknown = features.unknown();
    if unknown.incompat != 0 {
        return Copy::Unknown { unknown, program: raw.program };
    }
    let kept = match raw.log_copies.get() {
        0 => Kept::Once,
        2 => Kept::Twice,
        _ => return Copy::Damaged,
    };
    let log = |offset: U64| Log { offset: offset.get(), len: raw.log_len.get(), kept };
    let logs = [log(raw.log_a), log(raw.log_b)];
    let sound = raw.major.get() == FORMAT_MAJOR
        && raw.generation.get() > 0
        && raw.alloc_unit.get() == ALLOC_UNIT
        && logs.iter().all(|log| log.is_sound());
    if !sound {
        return Copy::Damaged;
    }
    let RawSuperblock { generation, uuid, program, .. } = raw;
    Copy::Intact(Superblock { features, program, generation: generation.get(), uuid, logs })
}

/// The error that names unknown features and who added them.
fn refused(unknown: Features, program: Program) -> Error {
    let printable = |byte: &u8| byte.is_ascii_graphic();
    let text: String =
        program.iter().take_while(|b| printable(b)).copied().map(char::from).collect();
    Error::Features { unknown, added_by: if text.is_empty() { None } else { Some(text) } }
}

fn crc(raw: &RawSuperblock) -> u32 {
    crc32c::crc32c(&raw.as_bytes()[..LEN - 4])
}

/// The superblock in one copy, if everything in its page is as it was written.
pub(crate) fn read_page(volume: &Volumes, copy: usize) -> Option<Superblock> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    volume.read(COPY_OFFSETS[copy], &mut page, Priority::Read).ok()?;
    decode_page(&page)
}

/// Reads both copies and decides; of two pools' the one that `named` says, which the mark beside
/// the root volume does. A device too short for them is blank.
pub(crate) fn read(volume: &Volumes, named: Option<[u8; 16]>) -> Result<Election> {
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
    match (elect(copies, named), failed) {
        (Err(_), Some(read_error)) => Err(read_error),
        (outcome, _) => outcome,
    }
}

pub(crate) fn elect(copies: [Copy; 2], named: Option<[u8; 16]>) -> Result<Election> {
    for copy in &copies {
        // A newer program may have been stopped between its two writes: its word counts.
        match copy {
            Copy::Newer(found) => {
                return Err(Error::Format { found: *found, supported: FORMAT_MAJOR });
            }
            Copy::Unknown { unknown, program } => return Err(refused(*unknown, *program)),
            _ => {}
        }
    }
    match copies {
        [Copy::Intact(a), Copy::Intact(b)] => {
            if a.uuid != b.uuid {
                let of_named = [a, b].into_iter().find(|copy| Some(copy.uuid) == named);
                let reason = "the two copies belong to different pools, and pool.id beside the root \
                              volume, which would say to which one it belongs, names neither";
                let corrupt = || Error::corrupt("superblock", COPY_OFFSETS[1], reason);
                return of_named.map(Election::Elected).ok_or_else(corrupt);
            }
            Ok(Election::Elected(if a.generation < b.generation { b } else { a }))
        }
        [Copy::Intact(superblock), _] | [_, Copy::Intact(superblock)] => {
            Ok(Election::Elected(superblock))
        }
        [Copy::Blank, Copy::Blank] => Ok(Election::Blank),
        [Copy::Blank, Copy::Begun] => Ok(Election::Begun),
        [Copy::Foreign, _] | [_, Copy::Foreign] => Err(Error::Unusable {
            path: PathBuf::from("volume"),
            reason: "holds something that is not a Millpond pool; choose another place".to_owned(),
        }),
        _ => Err(Error::corrupt("superblock", 0, NEITHER_INTACT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(generation: u64) -> Superblock {
        let (len, kept) = (4 * ALLOC_UNIT, Kept::Twice);
        let logs = [2, 10].map(|unit| Log { offset: unit * ALLOC_UNIT, len, kept });
        Superblock { generation, ..Superblock::new([7; 16], logs) }
    }

    /// A superblock as programs wrote it that knew of no features.
    fn plain() -> Superblock {
        let logs = sample(3).logs.map(|log| Log { kept: Kept::Once, ..log });
        Superblock { features: Features::NONE, program: [0; 16], logs, ..sample(3) }
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
        let plain = plain().encode();
        let bytes = sample(3).encode();
        assert_eq!(&bytes[..16], b"MILLPOND\x01\0\0\0\0\0\0\0");
        assert_eq!(plain[16..40], [0; 24], "a pool from before there were features");
        assert_eq!(bytes[16..40], [&[0; 16][..], &[9, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(bytes[40..48], 3_u64.to_le_bytes());
        assert_eq!(bytes[48..64], [7; 16]);
        let words = [1, 2, 10, 4].map(|units| (units * ALLOC_UNIT).to_le_bytes()).concat();
        assert_eq!(bytes[64..96], words);
        assert_eq!(plain[96..508], [0; 412]);
        assert_eq!(&bytes[96..102], b"0.1.0\0");
        assert_eq!(bytes[112..116], 2_u32.to_le_bytes(), "logs are kept twice");
        assert_eq!(bytes[116..508], [0; 392]);
        assert_eq!(patched(112, 1), Copy::Damaged, "nobody writes that");
        assert_eq!(decode(&plain), Copy::Intact(self::plain()));
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
    fn the_newer_intact_copy_counts() {
        let intact = |g| Copy::Intact(sample(g));
        for (copies, generation) in [
            ([intact(2), intact(2)], 2),
            ([intact(2), intact(1)], 2),
            ([intact(1), intact(2)], 2),
            ([intact(1), Copy::Damaged], 1),
            ([Copy::Blank, intact(1)], 1),
        ] {
            assert_eq!(elect(copies, None).unwrap(), Election::Elected(sample(generation)));
        }
        assert_eq!(elect([Copy::Blank, Copy::Blank], None).unwrap(), Election::Blank);
        let cut_short = elect([Copy::Blank, Copy::Begun], None).unwrap();
        assert_eq!(cut_short, Election::Begun);
        let whole = elect([intact(1), Copy::Begun], None).unwrap();
        assert_eq!(whole, Election::Elected(sample(1)));
        for torn in [[Copy::Damaged, Copy::Begun], [Copy::Foreign, Copy::Begun]] {
            elect(torn, None).unwrap_err();
        }
    }

    #[test]
    fn a_creation_under_way_is_told_and_a_flipped_bit_in_it_is_something_else() {
        let good = encode_begun();
        assert_eq!(&good[..8], b"MILLPNEW");
        assert_eq!(decode(&good), Copy::Begun);
        for bit in 0..LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Copy::Foreign, "bit {bit}");
        }
    }

    #[test]
    fn what_this_binary_cannot_serve_is_refused_by_name() {
        assert_eq!(patched(8, 2), Copy::Newer(2));
        let Copy::Intact(harmless) = patched(16, 4) else { panic!("a compatible feature") };
        assert_eq!(harmless.features.unknown(), Features { compat: 4, ..Features::NONE });
        harmless.check_writable().unwrap();
        assert_eq!(decode(&harmless.encode()), Copy::Intact(harmless), "it is kept");
        let Copy::Intact(readable) = patched(24, 4) else { panic!("it can be read") };
        let refused = readable.check_writable().unwrap_err().to_string();
        assert!(refused.contains("read-only-compatible bit 2"), "{refused}");
        let unreadable = elect([patched(35, 0x80), Copy::Intact(sample(1))], None).unwrap_err();
        let Error::Features { unknown, added_by } = &unreadable else { panic!("{unreadable}") };
        assert_eq!(*unknown, Features { incompat: 1 << 31, ..Features::NONE });
        assert_eq!(added_by.as_deref(), Some("0.1.0"));
        let text = unreadable.to_string();
        for part in ["incompatible bit 31", "0.1.0", "format 1", "volumes", "or later"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let newer = elect([Copy::Intact(sample(1)), Copy::Newer(2)], None);
        assert!(matches!(newer, Err(Error::Format { found: 2, supported: 1 })));
        let other = Superblock { uuid: [8; 16], ..sample(5) };
        let pair = [Copy::Intact(sample(1)), Copy::Intact(other.clone())];
        for named in [None, Some([9; 16])] {
            assert!(matches!(elect(pair.clone(), named), Err(Error::Corrupt { .. })));
        }
        for (named, counts) in [([7; 16], sample(1)), ([8; 16], other)] {
            assert_eq!(elect(pair.clone(), Some(named)).unwrap(), Election::Elected(counts));
        }
        assert!(matches!(elect([Copy::Foreign, Copy::Blank], None), Err(Error::Unusable { .. })));
        assert!(matches!(elect([Copy::Damaged, Copy::Blank], None), Err(Error::Corrupt { .. })));
    }
}
