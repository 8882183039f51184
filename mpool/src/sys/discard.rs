//! Telling a block device that a range of it holds nothing any more, by `ioctl`.
//!
//! What `linux/fs.h` calls `BLKDISCARD`, and no crate offers.

use super::zones::{check, request};
use std::{fs::File, io, os::fd::AsRawFd, ptr};

/// Has neither a direction nor a size, although it takes a range.
const DISCARD: libc::Ioctl = request(0, 0x12, 119, 0);

/// Discards a range of whole blocks. `Unsupported` where the device takes no discards.
pub(crate) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the kernel reads two numbers of 64 bits, which outlive the call.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), DISCARD, ptr::from_ref(&range)) };
    check(code).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_kernel_header() {
        assert_eq!(DISCARD, 0x1277);
    }

    #[test]
    fn a_regular_file_takes_no_discards() {
        let file = tempfile::tempfile().unwrap();
        assert!(discard(&file, 0, 4096).is_err());
    }
}
