//! The zones of a block device, by `ioctl`: report, open, close, finish, reset.
//!
//! What `linux/blkzoned.h` and `linux/fs.h` define, and no crate does. Everything is in sectors of
//! 512 bytes here, whatever the drive's block is; `device::zoned::block` turns it into bytes.

use std::{fs::File, io, os::fd::AsRawFd, ptr};

const WRITE: u32 = 1;
const READ: u32 = 2;

/// Builds the number of an `ioctl`, as `asm-generic/ioctl.h` does.
pub(super) const fn request(direction: u32, kind: u8, number: u8, size: usize) -> libc::Ioctl {
    assert!(size < 1 << 14, "the size has 14 bits");
    let (direction, kind) = (direction as libc::Ioctl, kind as libc::Ioctl);
    direction << 30 | (size as libc::Ioctl) << 16 | kind << 8 | number as libc::Ioctl
}

/// The verbs that take a range of zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneVerb {
    Reset,
    Open,
    Close,
    Finish,
}

impl ZoneVerb {
    fn request(self) -> libc::Ioctl {
        let number = match self {
            Self::Reset => 131,
            Self::Open => 134,
            Self::Close => 135,
            Self::Finish => 136,
        };
        request(WRITE, 0x12, number, size_of::<SectorRange>())
    }
}

const REPORT: libc::Ioctl = request(READ | WRITE, 0x12, 130, size_of::<ReportHead>());
/// What the header calls `BLKGETSIZE64`; its size is that of a pointer, by an old mistake.
const DEVICE_BYTES: libc::Ioctl = request(READ, 0x12, 114, size_of::<usize>());

/// Zones that are asked for at once.
const ZONES_PER_REPORT: usize = 64;
/// The kernel says so when it fills in `capacity`.
const CAPACITY_IS_TOLD: u32 = 1;

#[repr(C)]
struct SectorRange {
    start: u64,
    len: u64,
}

/// `struct blk_zone_report` without the zones that follow it.
#[repr(C)]
struct ReportHead {
    sector: u64,
    zones: u32,
    flags: u32,
}

#[repr(C)]
struct Report {
    head: ReportHead,
    zones: [RawZone; ZONES_PER_REPORT],
}

/// `struct blk_zone`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawZone {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) write_pointer: u64,
    /// 1 = conventional.
    pub(crate) kind: u8,
    /// 0 = no write pointer, 1 = empty, 2 = implicitly open, 3 = explicitly open, 4 = closed, 13 =
    /// read-only, 14 = full, 15 = offline.
    pub(crate) condition: u8,
    pub(crate) non_sequential: u8,
    pub(crate) reset_recommended: u8,
    pub(crate) reserved: [u8; 4],
    pub(crate) capacity: u64,
    pub(crate) reserved_too: [u8; 24],
}

const _: () = assert!(size_of::<ReportHead>() == 16);
const _: () = assert!(size_of::<RawZone>() == 64);

/// The zones from the one at `sector` on, at most `count`.
pub(crate) fn report(file: &File, sector: u64, count: usize) -> io::Result<Vec<RawZone>> {
    let mut zones: Vec<RawZone> = Vec::with_capacity(count);
    let mut next = sector;
    while zones.len() < count {
        let wanted = (count - zones.len()).min(ZONES_PER_REPORT);
        let asked = u32::try_from(wanted).expect("at most 64");
        let head = ReportHead { sector: next, zones: asked, flags: 0 };
        let mut report = Report { head, zones: [RawZone::default(); ZONES_PER_REPORT] };
        // SAFETY: the kernel writes the head and at most as many zones as the head asks for, which
        // are no more than the array has.
        let code = unsafe { libc::ioctl(file.as_raw_fd(), REPORT, ptr::from_mut(&mut report)) };
        check(code)?;
        let got = usize::try_from(report.head.zones).expect("at most 64").min(wanted);
        let Some(last) = report.zones[..got].last() else { break };
        next = last.start + last.len;
        let told = report.head.flags & CAPACITY_IS_TOLD != 0;
        zones.extend(report.zones[..got].iter().map(|zone| RawZone {
            capacity: if told { zone.capacity } else { zone.len },
            ..*zone
        }));
    }
    Ok(zones)
}

/// Applies `verb` to the zones in `len` sectors from `start` on.
pub(crate) fn apply(file: &File, verb: ZoneVerb, start: u64, len: u64) -> io::Result<()> {
    let range = SectorRange { start, len };
    // SAFETY: the kernel reads the range, which outlives the call.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), verb.request(), ptr::from_ref(&range)) };
    check(code).map(drop)
}

/// The length of a block device.
pub(crate) fn device_bytes(file: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes eight bytes.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), DEVICE_BYTES, ptr::from_mut(&mut bytes)) };
    check(code).map(|_| bytes)
}

pub(super) fn check(code: libc::c_int) -> io::Result<libc::c_int> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel_headers() {
        assert_eq!(REPORT, 0xC010_1282);
        assert_eq!(DEVICE_BYTES, 0x8008_1272);
        let verbs = [ZoneVerb::Reset, ZoneVerb::Open, ZoneVerb::Close, ZoneVerb::Finish];
        let numbers = verbs.map(ZoneVerb::request);
        assert_eq!(numbers, [0x4010_1283, 0x4010_1286, 0x4010_1287, 0x4010_1288]);
    }

    #[test]
    fn a_regular_file_has_no_zones() {
        let file = tempfile::tempfile().unwrap();
        assert!(report(&file, 0, 1).is_err());
        assert!(apply(&file, ZoneVerb::Reset, 0, 8).is_err());
        assert!(device_bytes(&file).is_err());
    }
}
