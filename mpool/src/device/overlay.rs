//! A device that is looked at and never written: what is written to it stays in memory.
//!
//! So a pool opens on it as on any other, repairs what an opening repairs, and takes writes; and
//! the medium is as it was, byte for byte, because nothing here calls a verb of it that writes.
//! Whoever drops the device drops the writes.
//!
//! Requests reach it by calls only: it shows no file, so that neither the ring nor a mapping goes
//! past it. It does not grow, and its zones take no verb that changes them.

use crate::device::{Device, Geometry, Zone, ZoneLimits, Zoned, check_access};
use mpool_device::IO_ALIGN;
use parking_lot::RwLock;
use std::{collections::BTreeMap, fs::File, io, sync::Arc};

const PAGE: u64 = IO_ALIGN as u64;

/// A device with writes that nobody but its reader sees.
pub(crate) struct Overlay {
    below: Arc<dyn Device>,
    /// What was written, by offset.
    pages: RwLock<BTreeMap<u64, Box<[u8]>>>,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Device>) -> Self {
        Self { below, pages: RwLock::default() }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the pool is open for reading only")
}

impl Device for Overlay {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let read = self.below.read_at(offset, buf);
        let pages = self.pages.read();
        let end = offset + buf.len() as u64;
        let mut written = 0;
        for (at, page) in pages.range(offset..end) {
            let from = usize::try_from(at - offset).expect("within the buffer");
            buf[from..from + page.len()].copy_from_slice(page);
            written += page.len();
        }
        // Where all of it was written anew, the medium need not be readable.
        if written == buf.len() { Ok(()) } else { read }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        check_access(offset, buf.len(), self.geometry().len_bytes)?;
        let mut pages = self.pages.write();
        for (at, page) in (offset..).step_by(IO_ALIGN).zip(buf.chunks(IO_ALIGN)) {
            pages.insert(at, page.into());
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes <= self.geometry().len_bytes {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, refused()))
    }

    fn growth_left(&self) -> u64 {
        0
    }

    fn disk_bytes(&self) -> Option<u64> {
        self.below.disk_bytes()
    }

    fn set_len_max(&self, _len_bytes_max: u64) -> io::Result<()> {
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn kind(&self) -> &'static str {
        "read-only"
    }

    fn zones(&self) -> Option<&dyn Zoned> {
        self.below.zones().map(|_| self as &dyn Zoned)
    }
}

impl Overlay {
    fn zoned(&self) -> &dyn Zoned {
        self.below.zones().expect("asked for zones only where there are some")
    }
}

impl Zoned for Overlay {
    fn limits(&self) -> ZoneLimits {
        self.zoned().limits()
    }

    fn report(&self, first: u32, count: u32) -> io::Result<Vec<Zone>> {
        self.zoned().report(first, count)
    }

    fn open(&self, _zone: u32) -> io::Result<()> {
        Err(refused())
    }

    fn close(&self, _zone: u32) -> io::Result<()> {
        Err(refused())
    }

    fn finish(&self, _zone: u32) -> io::Result<()> {
        Err(refused())
    }

    fn reset(&self, _zone: u32) -> io::Result<()> {
        Err(refused())
    }

    fn append(&self, _zone: u32, _buf: &[u8]) -> io::Result<u64> {
        Err(refused())
    }

    fn append_kind(&self) -> &'static str {
        self.zoned().append_kind()
    }
}

const _: () = assert!(PAGE == 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IoBuf;
    use mpool_sim::SimDevice;

    #[test]
    fn what_is_written_is_read_back_and_never_reaches_the_medium() {
        let below = SimDevice::new(1 << 20);
        below.grow(1 << 20).unwrap();
        let fill = |byte: u8, pages: usize| {
            let mut buf = IoBuf::zeroed(pages * IO_ALIGN);
            buf.fill(byte);
            buf
        };
        below.write_durable_at(0, &fill(1, 8)).unwrap();
        let calls = below.calls();
        let overlay = Overlay::new(Arc::new(below.clone()));
        overlay.write_at(2 * PAGE, &fill(2, 3)).unwrap();
        overlay.write_durable_at(4 * PAGE, &fill(3, 1)).unwrap();
        overlay.flush().unwrap();
        let mut seen = fill(0, 8);
        overlay.read_at(0, &mut seen).unwrap();
        let pages: Vec<u8> = seen.chunks(IO_ALIGN).map(|page| page[0]).collect();
        assert_eq!(pages, [1, 1, 2, 2, 3, 1, 1, 1]);
        assert_eq!(below.calls(), calls, "no write and no flush");
        assert!(overlay.grow(2 << 20).is_err());
        assert!(overlay.write_at(1 << 20, &fill(2, 1)).is_err(), "beyond its end");
        assert!(overlay.file().is_none());
    }
}
