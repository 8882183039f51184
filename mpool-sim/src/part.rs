//! Several devices on one simulated medium, so that one power cut strikes them all.
//!
//! A [`SimPart`] is a range of a [`SimDevice`] used as a device of its own: a flush of one part
//! does nothing for the writes to another, as with separate drives, but calls are counted and the
//! power is cut in common.

use super::SimDevice;
use mpool_device::{Device, Geometry, check_access};
use std::{fs::File, io, ops::Range};

/// A range of a simulated medium as a device: of fixed size, or to the medium's end.
#[derive(Clone)]
pub struct SimPart {
    whole: SimDevice,
    start: u64,
    /// `None`: where the medium ends.
    end: Option<u64>,
}

impl SimDevice {
    /// The part `range` of this medium as a device of its own. Ranges are in allocation units and
    /// lie below the medium's limit.
    pub fn part(&self, range: Range<u64>) -> SimPart {
        assert!(range.start < range.end, "a part is of something");
        self.reach(range.end);
        SimPart { whole: self.clone(), start: range.start, end: Some(range.end) }
    }

    /// All behind `start` as a device of its own, which grows and shrinks with the medium.
    pub fn rest(&self, start: u64) -> SimPart {
        self.reach(start);
        SimPart { whole: self.clone(), start, end: None }
    }
}

impl SimPart {
    fn place(&self, offset: u64, len: usize) -> io::Result<u64> {
        check_access(offset, len, self.geometry().len_bytes)?;
        Ok(self.start + offset)
    }
}

impl Device for SimPart {
    fn geometry(&self) -> Geometry {
        let Geometry { sector_bytes, len_bytes, len_bytes_max } = self.whole.geometry();
        let here = |end| self.end.unwrap_or(end) - self.start;
        Geometry { sector_bytes, len_bytes: here(len_bytes), len_bytes_max: here(len_bytes_max) }
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
        self.whole.flush_range(self.start..self.end.unwrap_or(u64::MAX))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.whole.punch(self.start + offset, len)
    }

    fn refill(&self, offset: u64, len: u64) -> io::Result<()> {
        self.whole.refill(self.start + offset, len)
    }

    fn holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        let mut holes = self.whole.holes(self.start + offset, len)?;
        for hole in &mut holes {
            *hole = hole.start - self.start..hole.end - self.start;
        }
        Ok(holes)
    }

    fn disk_bytes(&self) -> Option<u64> {
        let len = self.geometry().len_bytes;
        let holes = self.holes(0, len).ok()?;
        Some(len - holes.iter().map(|hole| hole.end - hole.start).sum::<u64>())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes <= self.geometry().len_bytes {
            return Ok(());
        }
        match self.end {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.whole.grow(self.start + len_bytes),
        }
    }

    fn can_shrink(&self) -> bool {
        self.end.is_none() && self.whole.can_shrink()
    }

    fn shrink(&self, from: u64, to: u64) -> io::Result<bool> {
        match self.end {
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
            None => self.whole.shrink(self.start + from, self.start + to),
        }
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
    use mpool_device::{IO_ALIGN, IoBuf};

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
