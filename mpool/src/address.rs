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

use std::fmt;

/// Bytes of one volume are numbered by this many bits: 4 PiB.
const OFFSET_BITS: u32 = 52;
/// The largest size of a volume.
pub(crate) const VOLUME_BYTES_MAX: u64 = 1 << OFFSET_BITS;
/// Ids of volumes lie below this; a pool has far fewer at a time.
const VOLUME_IDS: u16 = 1 << 10;

/// Names a volume of a pool. Never reused within the pool. Printed as `vol-2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(u16);

impl VolumeId {
    /// The volume that holds the superblock and the pool's journal.
    pub const ROOT: Self = Self(0);

    /// The id with this number, if it is one (0 to 1,023).
    pub const fn new(raw: u16) -> Option<Self> {
        if raw < VOLUME_IDS { Some(Self(raw)) } else { None }
    }

    /// The number, for storing it.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The pool address of byte `offset` of this volume.
    pub(crate) fn address(self, offset: u64) -> u64 {
        assert!(offset < VOLUME_BYTES_MAX, "a volume is at most 4 PiB");
        u64::from(self.0) << OFFSET_BITS | offset
    }

    /// The volume that holds `address`.
    pub(crate) fn of(address: u64) -> Self {
        let raw = u16::try_from(address >> OFFSET_BITS).expect("12 bits");
        // An address from the medium may name any volume; the router knows which exist.
        Self(raw)
    }
}

/// The byte on its volume that `address` names.
pub(crate) fn offset_of(address: u64) -> u64 {
    address & (VOLUME_BYTES_MAX - 1)
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vol-{}", self.0)
    }
}

// Logs and panics print the short form too.
impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
