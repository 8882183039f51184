//! Whole reads and writes by direct IO: in pieces if need be, from and to any memory.

use mpool_device::IoBuf;
use rustix::io::{Errno, ReadWriteFlags};
use std::{
    fs::File,
    io::{self, IoSlice},
};

/// What direct IO asks of memory, at most.
const MEMORY_ALIGN: usize = 512;

/// Calls `act` with `buf`, or with a copy where its memory is not aligned.
pub(super) fn with_aligned<T>(
    buf: &[u8],
    act: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    if buf.as_ptr().addr().is_multiple_of(MEMORY_ALIGN) {
        return act(buf);
    }
    let mut bounce = IoBuf::zeroed(buf.len());
    bounce.copy_from_slice(buf);
    act(&bounce)
}

/// Fills `buf` from `offset`.
pub(super) fn read_all(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    if !buf.as_ptr().addr().is_multiple_of(MEMORY_ALIGN) {
        let mut bounce = IoBuf::zeroed(buf.len());
        read_all(file, offset, &mut bounce)?;
        buf.copy_from_slice(&bounce);
        return Ok(());
    }
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pread(file, &mut buf[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes all of `buf` at `offset`.
pub(super) fn write_all(
    file: &File,
    offset: u64,
    buf: &[u8],
    flags: ReadWriteFlags,
) -> io::Result<()> {
    with_aligned(buf, |buf| {
        let mut done = 0;
        while done < buf.len() {
            let (rest, at) = (&buf[done..], offset + done as u64);
            match rustix::io::pwritev2(file, &[IoSlice::new(rest)], at, flags) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    })
}
