//! The file beside an emulated zoned volume that remembers its zones.
//!
//! The volume is `PATH`, this file `PATH.zones`. All integers are little-endian.
//!
//! ```text
//! offset  size  field, of the head
//!      0     8  "MPZONES1"
//!      8     4  version, 1
//!     12     4  zones
//!     16     8  zone_bytes
//!     24     4  conventional zones
//!     28     4  open zones at most, 0 = no limit
//!     32     4  active zones at most, 0 = no limit
//!     36     4  bytes of an append at most
//!     40     4  block_bytes
//!     44     8  salt of the noise
//!     52   456  zeros
//!    508     4  CRC-32C of what precedes
//!
//! offset  size  field, of the record of zone n, at 512 + 64 n
//!      0     8  bytes filled
//!      8     8  capacity
//!     16     4  epoch: resets so far
//!     20     1  0 conventional, 1 empty, 2 partly filled, 3 filled, 4 finished, 5 read-only,
//!               6 offline
//!     21    39  zeros
//!     60     4  CRC-32C of n (4 bytes) and what precedes
//! ```
//!
//! Records are overwritten in place: eight share a sector, which is written whole or not at all. A
//! record says what is durable, so it is written after the bytes it speaks of.

use super::{ZoneCondition, ZoneLimits, rules::ZoneTable};
use crate::{
    device::Access,
    error::{Error, Result},
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"MPZONES1";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 512;
const RECORD_BYTES: usize = 64;

/// What is remembered of one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) filled: u64,
    pub(super) capacity: u64,
    pub(super) epoch: u32,
    pub(super) condition: ZoneCondition,
    pub(super) finished: bool,
}

/// What is remembered of the volume as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) limits: ZoneLimits,
    pub(super) salt: u64,
}

#[derive(Debug)]
pub(super) struct Sidecar {
    file: File,
}

/// `PATH.zones`.
pub(crate) fn sidecar_path(volume: &Path) -> PathBuf {
    let mut name = volume.as_os_str().to_owned();
    name.push(".zones");
    PathBuf::from(name)
}

impl Sidecar {
    /// Writes the file of a new volume, durably.
    pub(super) fn create(volume: &Path, head: &Head, table: &ZoneTable) -> io::Result<Self> {
        let path = sidecar_path(volume);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut bytes = encode_head(head).to_vec();
        for (index, _) in table.iter() {
            bytes.extend(encode_record(index, record_of(table, index, 0)));
        }
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        Ok(Self { file })
    }

    /// Reads the file of an existing volume.
    pub(super) fn open(volume: &Path, access: Access) -> Result<(Self, Head, Vec<Record>)> {
        let path = sidecar_path(volume);
        let opened = OpenOptions::new().read(true).write(!access.is_read()).open(&path);
        let file = opened.map_err(|error| {
            let reason = format!("cannot be opened: {error}; the zones of a volume are there");
            Error::Unusable { path: path.clone(), reason }
        })?;
        let len = file.metadata().map_err(|e| Error::io("read", 0, 0, e))?.len();
        let corrupt = |offset: u64, reason| {
            let what = format!("the zone table {}", path.display());
            Error::Corrupt { what, offset, reason }
        };
        let mut head = [0; HEAD_BYTES];
        if len < HEAD_BYTES as u64 {
            return Err(corrupt(0, "the head is cut off"));
        }
        file.read_exact_at(&mut head, 0).map_err(|e| Error::io("read", 0, HEAD_BYTES, e))?;
        let head = decode_head(&head).map_err(|reason| corrupt(0, reason))?;
        let records_len = u64::from(head.limits.zones) * RECORD_BYTES as u64;
        if len - HEAD_BYTES as u64 != records_len {
            return Err(corrupt(len, "its length does not fit the number of zones"));
        }
        let mut bytes = vec![0; usize::try_from(records_len).expect("as long as a file")];
        let read = file.read_exact_at(&mut bytes, HEAD_BYTES as u64);
        read.map_err(|e| Error::io("read", HEAD_BYTES as u64, bytes.len(), e))?;
        let mut records = Vec::with_capacity(head.limits.zones as usize);
        for (index, bytes) in (0..).zip(bytes.as_chunks().0) {
            let record = decode_record(index, bytes, head.limits.zone_bytes);
            records.push(record.map_err(|reason| corrupt(record_offset(index), reason))?);
        }
        Ok((Self { file }, head, records))
    }

    /// Writes records, durably. What shares a sector with them must be among `records` or
    /// unchanged, which holds as each is written where it lies.
    pub(super) fn write(&self, records: &[(u32, Record)]) -> io::Result<()> {
        for (index, record) in records {
            self.file.write_all_at(&encode_record(*index, *record), record_offset(*index))?;
        }
        self.file.sync_data()
    }
}

fn record_offset(index: u32) -> u64 {
    HEAD_BYTES as u64 + u64::from(index) * RECORD_BYTES as u64
}

/// The record of a zone of which `filled` bytes are durable.
pub(super) fn record_of(table: &ZoneTable, index: u32, filled: u64) -> Record {
    let zone = table.zone(index);
    let (capacity, epoch, finished) = (zone.capacity, zone.epoch, zone.finished);
    let filled = if finished { zone.filled } else { filled };
    let condition = match zone.condition {
        fixed
        @ (ZoneCondition::Conventional | ZoneCondition::ReadOnly | ZoneCondition::Offline) => fixed,
        _ if finished || filled == capacity => ZoneCondition::Full,
        _ if filled == 0 => ZoneCondition::Empty,
        _ => ZoneCondition::Closed,
    };
    Record { filled, capacity, epoch, condition, finished }
}

fn encode_head(head: &Head) -> [u8; HEAD_BYTES] {
    let Head { limits, salt } = head;
    let append_bytes_max = u32::try_from(limits.append_bytes_max).expect("checked at creation");
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[16..24].copy_from_slice(&limits.zone_bytes.to_le_bytes());
    bytes[44..52].copy_from_slice(&salt.to_le_bytes());
    let words = [
        (8, VERSION),
        (12, limits.zones),
        (24, limits.conventional_zones),
        (28, limits.open_max),
        (32, limits.active_max),
        (36, append_bytes_max),
        (40, limits.block_bytes),
    ];
    for (at, word) in words {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..508]);
    bytes[508..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the structure"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the structure"))
}

fn decode_head(bytes: &[u8; HEAD_BYTES]) -> Result<Head, &'static str> {
    if &bytes[..8] != MAGIC {
        return Err("not a zone table");
    }
    if word(bytes, 508) != crc32c::crc32c(&bytes[..508]) {
        return Err("the head's checksum is wrong");
    }
    if word(bytes, 8) != VERSION {
        return Err("the version is not 1, the only one that this binary knows");
    }
    let limits = ZoneLimits {
        zones: word(bytes, 12),
        zone_bytes: long(bytes, 16),
        conventional_zones: word(bytes, 24),
        open_max: word(bytes, 28),
        active_max: word(bytes, 32),
        append_bytes_max: usize::try_from(word(bytes, 36)).map_err(|_| "a length is too long")?,
        block_bytes: word(bytes, 40),
    };
    super::emulated::check_limits(&limits).map_err(|_| "the limits are out of their ranges")?;
    Ok(Head { limits, salt: long(bytes, 44) })
}

fn encode_record(index: u32, record: Record) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&record.filled.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.capacity.to_le_bytes());
    bytes[16..20].copy_from_slice(&record.epoch.to_le_bytes());
    bytes[20] = match record.condition {
        ZoneCondition::Conventional => 0,
        ZoneCondition::Empty => 1,
        ZoneCondition::ImplicitOpen | ZoneCondition::ExplicitOpen | ZoneCondition::Closed => 2,
        ZoneCondition::Full if record.finished => 4,
        ZoneCondition::Full => 3,
        ZoneCondition::ReadOnly => 5,
        ZoneCondition::Offline => 6,
    };
    let crc = record_crc(index, &bytes);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn record_crc(index: u32, bytes: &[u8; RECORD_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_le_bytes()), &bytes[..60])
}

fn decode_record(
    index: u32,
    bytes: &[u8; RECORD_BYTES],
    zone_bytes: u64,
) -> Result<Record, &'static str> {
    if word(bytes, 60) != record_crc(index, bytes) {
        return Err("the record's checksum is wrong");
    }
    let (condition, finished) = match bytes[20] {
        0 => (ZoneCondition::Conventional, false),
        1 => (ZoneCondition::Empty, false),
        2 => (ZoneCondition::Closed, false),
        3 => (ZoneCondition::Full, false),
        4 => (ZoneCondition::Full, true),
        5 => (ZoneCondition::ReadOnly, false),
        6 => (ZoneCondition::Offline, false),
        _ => return Err("the record's condition is unknown"),
    };
    let (filled, capacity) = (long(bytes, 0), long(bytes, 8));
    if filled > capacity || capacity > zone_bytes {
        return Err("the record's lengths do not fit the zone");
    }
    Ok(Record { filled, capacity, epoch: word(bytes, 16), condition, finished })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let limits = ZoneLimits {
            zones: 9,
            zone_bytes: 1 << 20,
            conventional_zones: 1,
            open_max: 3,
            active_max: 5,
            append_bytes_max: 1 << 17,
            block_bytes: 4096,
        };
        Head { limits, salt: 7 }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode_head(&encode_head(&head())), Ok(head()));
        let conditions = [
            (ZoneCondition::Conventional, false),
            (ZoneCondition::Empty, false),
            (ZoneCondition::Closed, false),
            (ZoneCondition::Full, false),
            (ZoneCondition::Full, true),
            (ZoneCondition::ReadOnly, false),
            (ZoneCondition::Offline, false),
        ];
        for (condition, finished) in conditions {
            let record = Record { filled: 4096, capacity: 1 << 19, epoch: 3, condition, finished };
            assert_eq!(decode_record(5, &encode_record(5, record), 1 << 20), Ok(record));
            assert!(decode_record(6, &encode_record(5, record), 1 << 20).is_err(), "misplaced");
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let record = Record {
            filled: 4096,
            capacity: 1 << 19,
            epoch: 3,
            condition: ZoneCondition::Closed,
            finished: false,
        };
        for bit in 0..RECORD_BYTES * 8 {
            let mut bytes = encode_record(5, record);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(5, &bytes, 1 << 20).is_err(), "bit {bit}");
        }
        for bit in 0..HEAD_BYTES * 8 {
            let mut bytes = encode_head(&head());
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_head(&bytes).is_err(), "bit {bit}");
        }
    }
}
