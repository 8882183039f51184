//! Pool addresses: every byte of every volume under one number.
//!
//! ```text
//!   bit  63   62 .. 52      51 .. 0
//!        0    volume        byte on the volume
//! ```
//!
//! Extents, journals and requests carry such an address and need not know that there are several
//! volumes; only the router (`volume`) and the map take it apart. Volume 0 is the root, so on a
//! pool of one volume an address is the plain offset. The sign bit stays clear because the kernel's
//! offsets are signed.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

/// Bytes of one volume are numbered by this many bits: 4 PiB.
const OFFSET_BITS: u32 = 52;
/// The largest size of a volume.
pub(crate) const VOLUME_BYTES_MAX: u64 = 1 << OFFSET_BITS;
/// Ids of volumes lie below this; a pool has far fewer at a time.
const VOLUME_IDS: u16 = 1 << 10;

/// Names a volume of a pool. Never reused within the pool. Printed as `vol-2`.
///
/// One that a pool gives out is refused by another pool ([`crate::Error::ForeignHandle`]); one that
/// is made of its number ([`VolumeId::new`]) is taken by any. Ids are compared by number alone.
#[derive(Clone, Copy)]
pub struct VolumeId {
    number: u16,
    /// Of the pool that gave it out; 0 where it was made of a number.
    mark: u64,
}

impl VolumeId {
    /// The volume that holds the superblock and the pool's journal.
    pub const ROOT: Self = Self { number: 0, mark: 0 };

    /// The id with this number, if it is one (0 to 1,023).
    pub const fn new(raw: u16) -> Option<Self> {
        if raw < VOLUME_IDS { Some(Self { number: raw, mark: 0 }) } else { None }
    }

    /// The number, for storing it.
    pub const fn get(self) -> u16 {
        self.number
    }

    /// As the pool with this mark gives it out.
    pub(crate) const fn with_mark(self, mark: u64) -> Self {
        Self { mark, ..self }
    }

    /// The mark of the pool that gave it out; 0 if none did.
    pub(crate) const fn mark(self) -> u64 {
        self.mark
    }

    /// The pool address of byte `offset` of this volume.
    pub(crate) fn address(self, offset: u64) -> u64 {
        assert!(offset < VOLUME_BYTES_MAX, "a volume is at most 4 PiB");
        u64::from(self.number) << OFFSET_BITS | offset
    }

    /// The volume that holds `address`.
    pub(crate) fn of(address: u64) -> Self {
        let number = u16::try_from(address >> OFFSET_BITS).expect("12 bits");
        // An address from the medium may name any volume; the router knows which exist.
        Self { number, mark: 0 }
    }
}

impl PartialEq for VolumeId {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for VolumeId {}

impl PartialOrd for VolumeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VolumeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

impl Hash for VolumeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

/// The byte on its volume that `address` names.
pub(crate) fn offset_of(address: u64) -> u64 {
    address & (VOLUME_BYTES_MAX - 1)
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vol-{}", self.number)
    }
}

// Logs and panics print the short form too.
impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Extents are multiples of this, in place and length: 64 KiB. Small enough to waste little at the
/// end of an object, large enough for the free set to stay small.
pub const ALLOC_UNIT: u64 = 64 << 10;

/// A contiguous part of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    /// Whole units that do not wrap: what any extent read from the medium must be.
    pub(crate) fn is_sound(self) -> bool {
        self.len > 0
            && self.offset.is_multiple_of(ALLOC_UNIT)
            && self.len.is_multiple_of(ALLOC_UNIT)
            && self.offset.checked_add(self.len).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_as_it_was_made() {
        for (raw, offset) in [(0, 0), (0, 4096), (3, 0), (1023, VOLUME_BYTES_MAX - 4096)] {
            let volume = VolumeId::new(raw).unwrap();
            let address = volume.address(offset);
            assert_eq!((VolumeId::of(address), offset_of(address)), (volume, offset));
            assert_eq!(address >> 62, 0, "room below the sign bit");
        }
        assert_eq!(VolumeId::ROOT.address(77), 77, "a pool of one volume has plain offsets");
        assert!(VolumeId::new(1024).is_none());
        assert_eq!(VolumeId::new(2).unwrap().to_string(), "vol-2");
    }
}
