//! Several devices on one simulated medium, so that one power cut strikes them all.
//!
//! A [`SimPart`] is a range of a [`SimDevice`] used as a device of its own: a flush of one part
//! does nothing for the writes to another, as with separate drives, but calls are counted and the
//! power is cut in common.

use super::SimDevice;
use crate::device::{Device, Geometry, check_access};
use std::{fs::File, io, ops::Range};

/// A range of a simulated medium as a device of fixed size.
#[derive(Clone)]
pub struct SimPart {
    whole: SimDevice,
    range: Range<u64>,
}

impl SimDevice {
    /// The part `range` of this medium as a device of its own. Ranges are in allocation units and
    /// lie below the medium's limit.
    pub fn part(&self, range: Range<u64>) -> SimPart {
        assert!(range.start < range.end, "a part is of something");
        self.reach(range.end);
        SimPart { whole: self.clone(), range }
    }
}

impl SimPart {
    fn place(&self, offset: u64, len: usize) -> io::Result<u64> {
        check_access(offset, len, self.range.end - self.range.start)?;
        Ok(self.range.start + offset)
    }
}

impl Device for SimPart {
    fn geometry(&self) -> Geometry {
        let len_bytes = self.range.end - self.range.start;
        Geometry { sector_bytes: 512, len_bytes, len_bytes_max: len_bytes }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.whole.read_at(self.place(offset, buf.len())?, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.whole.write_at(self.place(offset, buf.len())?, buf)
    }

    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.whole.write_durable_at(self.place(offset, buf.len())?, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.whole.flush_range(self.range.clone())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.whole.punch(self.range.start + offset, len)
    }

    fn refill(&self, offset: u64, len: u64) -> io::Result<()> {
        self.whole.refill(self.range.start + offset, len)
    }

    fn holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        let mut holes = self.whole.holes(self.range.start + offset, len)?;
        for hole in &mut holes {
            *hole = hole.start - self.range.start..hole.end - self.range.start;
        }
        Ok(holes)
    }

    fn disk_bytes(&self) -> Option<u64> {
        let len = self.range.end - self.range.start;
        let holes = self.holes(0, len).ok()?;
        Some(len - holes.iter().map(|hole| hole.end - hole.start).sum::<u64>())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes <= self.geometry().len_bytes {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn kind(&self) -> &'static str {
        "sim"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buf::{IO_ALIGN, IoBuf};

    #[test]
    fn a_flush_covers_its_part_alone() {
        let whole = SimDevice::new(1 << 20);
        let (a, b) = (whole.part(0..1 << 19), whole.part(1 << 19..1 << 20));
        let mut page = IoBuf::zeroed(IO_ALIGN);
        page.fill(7);
        a.write_at(0, &page).unwrap();
        b.write_at(4096, &page).unwrap();
        b.flush().unwrap();
        // Seeds in plenty: the flushed write is always there, the other one is lost now and then.
        let mut lost = 0;
        for seed in 0..32 {
            let after = whole.after_crash(seed);
            let mut seen = IoBuf::zeroed(IO_ALIGN);
            after.part(1 << 19..1 << 20).read_at(4096, &mut seen).unwrap();
            assert_eq!(seen[..], page[..], "seed {seed}");
            after.part(0..1 << 19).read_at(0, &mut seen).unwrap();
            lost += u32::from(seen[..] != page[..]);
        }
        assert!(lost > 0, "an unflushed write may be lost");
        assert!(a.write_at(1 << 19, &page).is_err(), "beyond its end");
    }
}
