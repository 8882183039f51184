//! The mark: a small file beside the root volume that says whose the directory is, version 1.
//!
//! It is left when a pool is made, and tells a directory that has lost its root volume from one
//! that never had any. It is text, of at least these three lines:
//!
//! ```text
//! line  contents
//!    1  "millpond pool mark 1"     the 1 is the version
//!    2  "pool " UUID               32 hexadecimal digits in five groups
//!    3  "crc " CRC                 CRC-32C of lines 1 and 2 with their ends, 8 hexadecimal digits
//!    4  what the file is for, for people; not read
//! ```
//!
//! A mark that cannot be read counts as the mark of some pool: it keeps a pool from being made, and
//! not from being opened, which writes the mark again. Pools from before there were marks get one
//! when they are opened.

use crate::id::uuid_text;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Its name within the pool's directory.
pub(crate) const MARK_FILE: &str = "pool.id";
/// Under which it is written before it gets its name.
pub(super) const MARK_FILE_NEW: &str = "pool.id.new";
/// More than a mark has.
const LEN_MAX: u64 = 4096;
const HEAD: &str = "millpond pool mark 1";
const FOR_PEOPLE: &str = "The root volume of this pool is capacity.vol beside this file. Where that is missing, no new \
     pool is made.\n";

/// What stands where a mark would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Absent,
    /// Of the pool with this UUID.
    Of([u8; 16]),
    /// Damaged, of a later version, or not to be had.
    Unreadable,
}

pub(crate) fn encode(pool: [u8; 16]) -> String {
    let lines = format!("{HEAD}\npool {}\n", uuid_text(pool));
    let crc = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc {crc:08x}\n{FOR_PEOPLE}")
}

pub(crate) fn decode(bytes: &[u8]) -> Mark {
    decoded(bytes).map_or(Mark::Unreadable, Mark::Of)
}

fn decoded(bytes: &[u8]) -> Option<[u8; 16]> {
    let text = std::str::from_utf8(bytes).ok()?;
    let crc_at = text.match_indices('\n').nth(1)?.0 + 1;
    let (lines, rest) = text.split_at(crc_at);
    let crc = rest.strip_prefix("crc ")?.get(..8)?;
    let pool = lines.strip_prefix(HEAD)?.strip_prefix("\npool ")?.strip_suffix('\n')?;
    let digits: Vec<u8> = pool.bytes().filter(|byte| *byte != b'-').collect();
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // As it is written and in no other way.
    let whole = uuid_text(uuid) == pool
        && crc == format!("{:08x}", crc32c::crc32c(lines.as_bytes()))
        && rest.as_bytes().get(12) == Some(&b'\n');
    whole.then_some(uuid)
}

/// Reads the mark of a directory.
pub(super) fn read(dir: &Path) -> Mark {
    let path = dir.join(MARK_FILE);
    // The open of a fifo would wait.
    if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Mark::Unreadable;
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Mark::Absent,
        Err(_) => return Mark::Unreadable,
    };
    let mut bytes = Vec::new();
    match file.take(LEN_MAX).read_to_end(&mut bytes) {
        Ok(_) => decode(&bytes),
        Err(_) => Mark::Unreadable,
    }
}

/// Leaves a mark, durably.
pub(super) fn write(dir: &Path, pool: [u8; 16]) -> io::Result<()> {
    let new = dir.join(MARK_FILE_NEW);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(encode(pool).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(MARK_FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: [u8; 16] = [0xAB, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn layout_is_frozen() {
        let text = encode(POOL);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "millpond pool mark 1");
        assert_eq!(lines[1], "pool ab010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(lines[2], "crc 3fd72ccd");
        assert_eq!(decode(text.as_bytes()), Mark::Of(POOL));
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let good = encode(POOL).into_bytes();
        let read = good.len() - FOR_PEOPLE.len();
        for bit in 0..read * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Mark::Unreadable, "bit {bit}");
        }
        for len in 0..read {
            assert_eq!(decode(&good[..len]), Mark::Unreadable, "{len} bytes");
        }
        assert_eq!(decode(&good[..read]), Mark::Of(POOL), "what is for people is not read");
    }

    #[test]
    fn a_mark_is_written_over_whatever_is_left_of_an_earlier_attempt() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Mark::Absent);
        std::fs::write(dir.path().join(MARK_FILE), "scribble").unwrap();
        std::fs::write(dir.path().join(MARK_FILE_NEW), [b'x'; 5000]).unwrap();
        assert_eq!(read(dir.path()), Mark::Unreadable);
        write(dir.path(), POOL).unwrap();
        assert_eq!(read(dir.path()), Mark::Of(POOL));
        assert!(!dir.path().join(MARK_FILE_NEW).exists());
    }
}
