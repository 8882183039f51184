//! Reading and writing an open file or block device past the page cache.
//!
//! What [`super::FileDevice`] and [`super::BlockDevice`] have in common: whole transfers, memory
//! that is aligned by a copy where the caller's is not, durable writes, and the rule that after a
//! failed sync nothing is written any more. Lengths and bounds are the device's business.

use mpool_device::IoBuf;
use rustix::{
    fs::OFlags,
    io::{Errno, ReadWriteFlags},
};
use std::{
    fs::File,
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering},
};

/// An open file that is read and written directly.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    /// What the addresses of buffers must be multiples of.
    memory_align: usize,
    /// Goes through the page cache, because the file system refuses anything else.
    buffered: bool,
    poisoned: AtomicBool,
}

impl DirectFile {
    pub(super) fn new(file: File, memory_align: u32, buffered: bool) -> Self {
        let memory_align = usize::try_from(memory_align).expect("at most a page");
        Self { file, memory_align, buffered, poisoned: AtomicBool::new(false) }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn is_buffered(&self) -> bool {
        self.buffered
    }

    /// Goes on through the page cache.
    pub(super) fn use_page_cache(&mut self) -> rustix::io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags.difference(OFlags::DIRECT))?;
        self.buffered = true;
        Ok(())
    }

    pub(super) fn check_writable(&self) -> io::Result<()> {
        // Acquire pairs with the Release in `poison`.
        if self.poisoned.load(Ordering::Acquire) {
            return Err(io::Error::other("device is poisoned by a failed flush"));
        }
        Ok(())
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    fn is_unaligned(&self, buf: &[u8]) -> bool {
        !self.buffered && !buf.as_ptr().addr().is_multiple_of(self.memory_align)
    }

    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.is_unaligned(buf) {
            // Direct IO needs aligned memory; a caller with a plain slice pays one copy.
            let mut bounce = IoBuf::zeroed(buf.len());
            self.read_at(offset, &mut bounce)?;
            buf.copy_from_slice(&bounce);
            return Ok(());
        }
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(super) fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        self.write_all(offset, buf, ReadWriteFlags::empty())
    }

    pub(super) fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        let in_two_steps =
            || self.write_all(offset, buf, ReadWriteFlags::empty()).and_then(|()| self.sync_data());
        let outcome = if self.buffered {
            in_two_steps()
        } else {
            match self.write_all(offset, buf, ReadWriteFlags::DSYNC) {
                // What does not know the flag has not written anything.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => in_two_steps(),
                outcome => outcome,
            }
        };
        outcome.inspect_err(|_| self.poison())
    }

    /// Makes the data of the file durable, and poisons if that fails.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.check_writable()?;
        self.sync_data().inspect_err(|_| self.poison())
    }

    /// As `flush`, the file's length included.
    pub(super) fn flush_all(&self) -> io::Result<()> {
        self.check_writable()?;
        self.file.sync_all().inspect_err(|_| self.poison())
    }

    fn write_all(&self, offset: u64, buf: &[u8], flags: ReadWriteFlags) -> io::Result<()> {
        if self.is_unaligned(buf) {
            let mut bounce = IoBuf::zeroed(buf.len());
            bounce.copy_from_slice(buf);
            return self.write_all(offset, &bounce, flags);
        }
        let mut done = 0;
        while done < buf.len() {
            let rest = &buf[done..];
            let at = offset + done as u64;
            let wrote = if flags.is_empty() {
                rustix::io::pwrite(&self.file, rest, at)
            } else {
                rustix::io::pwritev2(&self.file, &[IoSlice::new(rest)], at, flags)
            };
            match wrote {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Never retried, EINTR included: what a failed sync has dropped, a second one will not
        // find.
        rustix::fs::fdatasync(&self.file).map_err(io::Error::from)
    }
}
