//! `NVMe` commands past the block layer: Zone Append, and Identify for its limits.
//!
//! What `linux/nvme_ioctl.h` defines. The block layer has no system call for Zone Append, so the
//! command is handed to the driver as it is: here by `ioctl`, which blocks, in `append_ring` by
//! `io_uring`. An append by either passes the page cache by, and is not durable before a flush.

use super::zones::{check, request};
use std::{fs::File, io, os::fd::AsRawFd, ptr};
use zerocopy::{Immutable, IntoBytes};

const NAMESPACE_ID: libc::Ioctl = request(0, b'N', 0x40, 0);
const ADMIN_COMMAND: libc::Ioctl = request(3, b'N', 0x47, size_of::<Command>());
const IO_COMMAND: libc::Ioctl = request(3, b'N', 0x48, size_of::<Command>());
/// The command of `IORING_OP_URING_CMD`. It is eight bytes shorter: its result comes with the
/// completion.
pub(super) const URING_COMMAND: u32 = 0xC048_4E80;
pub(super) const URING_COMMAND_BYTES: usize = size_of::<Command>() - size_of::<u64>();

const OPCODE_ZONE_APPEND: u8 = 0x7D;
const OPCODE_IDENTIFY: u8 = 0x06;
/// Identify a namespace as its command set sees it; the command set of zones.
const IDENTIFY_NAMESPACE_OF_SET: u32 = 0x05;
const ZONED_COMMAND_SET: u32 = 0x02;
const IDENTIFY_BYTES: usize = 4096;

/// `struct nvme_passthru_cmd64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
pub(super) struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    word2: u32,
    word3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    word10: u32,
    word11: u32,
    word12: u32,
    word13: u32,
    word14: u32,
    word15: u32,
    timeout_ms: u32,
    reserved_too: u32,
    result: u64,
}

const _: () = assert!(size_of::<Command>() == 80);

/// Where an append goes. In blocks of the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: u32,
    /// The zone's first block, whatever its write pointer is.
    pub(crate) zone_block: u64,
    pub(crate) block_bytes: u32,
}

/// The command that appends `buf` to the zone of `target`. Valid for as long as `buf` stays where
/// it is.
pub(super) fn append_command(target: Target, buf: &[u8]) -> Command {
    let bytes = u32::try_from(buf.len()).expect("an append is far shorter than 4 GiB");
    let blocks = bytes / target.block_bytes;
    assert!(blocks > 0, "an append moves blocks");
    assert!(bytes.is_multiple_of(target.block_bytes), "an append moves whole blocks");
    Command {
        opcode: OPCODE_ZONE_APPEND,
        namespace: target.namespace,
        address: buf.as_ptr().expose_provenance() as u64,
        data_len: bytes,
        word10: low(target.zone_block),
        word11: low(target.zone_block >> 32),
        // Counted from zero.
        word12: blocks - 1,
        ..Command::default()
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("masked")
}

/// Appends; returns the block that the drive chose. An error with an errno is the kernel's or one
/// that it would make of the drive's answer.
pub(crate) fn append(file: &File, target: Target, buf: &[u8]) -> io::Result<u64> {
    let mut command = append_command(target, buf);
    send(file, IO_COMMAND, &mut command)?;
    Ok(command.result)
}

/// True where appends can be sent through `file`: one to a place beyond any drive is refused by the
/// drive and not by the kernel.
pub(crate) fn can_append(file: &File, namespace: u32, block: &[u8]) -> io::Result<()> {
    let block_bytes = u32::try_from(block.len()).expect("one block");
    let target = Target { namespace, zone_block: u64::MAX << 16, block_bytes };
    let mut command = append_command(target, block);
    match raw_send(file, IO_COMMAND, &mut command)? {
        0 => Err(io::Error::other("an append beyond the drive was accepted")),
        _ => Ok(()),
    }
}

/// The number of the namespace behind `file`, or an error where it is not of `NVMe`.
pub(crate) fn namespace_id(file: &File) -> io::Result<u32> {
    // SAFETY: this one takes no argument.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), NAMESPACE_ID) };
    check(code).map(i32::cast_unsigned)
}

/// The most active and the most open zones, from the drive itself; 0 = no limit.
pub(crate) fn zone_budgets(file: &File, namespace: u32) -> io::Result<[u32; 2]> {
    let mut answer = vec![0_u8; IDENTIFY_BYTES];
    let mut command = Command {
        opcode: OPCODE_IDENTIFY,
        namespace,
        address: answer.as_mut_ptr().expose_provenance() as u64,
        data_len: u32::try_from(IDENTIFY_BYTES).expect("4,096"),
        word10: IDENTIFY_NAMESPACE_OF_SET,
        word11: ZONED_COMMAND_SET << 24,
        ..Command::default()
    };
    send(file, ADMIN_COMMAND, &mut command)?;
    // Counted from zero, so that "no limit", all ones, becomes 0.
    let budget = |at: usize| {
        u32::from_le_bytes(*answer[at..].first_chunk().expect("within 4,096 bytes")).wrapping_add(1)
    };
    Ok([budget(4), budget(8)])
}

fn send(file: &File, request: libc::Ioctl, command: &mut Command) -> io::Result<()> {
    match raw_send(file, request, command)? {
        0 => Ok(()),
        status => Err(status_error(status)),
    }
}

/// The drive's status, or the kernel's refusal.
fn raw_send(file: &File, request: libc::Ioctl, command: &mut Command) -> io::Result<i32> {
    // SAFETY: the kernel writes the command's result, and reads or writes `data_len` bytes at
    // `address`, which this file's callers set to a buffer that they hold during the call.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), request, ptr::from_mut(command)) };
    check(code)
}

/// What the kernel makes of a drive's refusal when it goes through the block layer.
pub(super) fn status_error(status: i32) -> io::Error {
    let errno = match status & 0x7FF {
        0x1BD => libc::EOVERFLOW,
        0x1BE => libc::ETOOMANYREFS,
        _ => libc::EIO,
    };
    tracing::debug!(status = format!("{status:#x}"), "the drive refused an NVMe command");
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel_headers() {
        assert_eq!(NAMESPACE_ID, 0x4E40);
        assert_eq!(ADMIN_COMMAND, 0xC050_4E47);
        assert_eq!(IO_COMMAND, 0xC050_4E48);
        assert_eq!(URING_COMMAND_BYTES, 72);
    }

    #[test]
    fn an_append_names_the_zone_and_counts_blocks_from_zero() {
        let target = Target { namespace: 3, zone_block: 0x1_0000_0002, block_bytes: 512 };
        let command = append_command(target, &[0; 4096]);
        let words = (command.opcode, command.word10, command.word11, command.word12);
        assert_eq!(words, (0x7D, 2, 1, 7));
        assert_eq!((command.namespace, command.data_len), (3, 4096));
    }

    #[test]
    fn a_drives_refusals_become_the_kernels_errors() {
        let cases =
            [(0x41BD, libc::EOVERFLOW), (0x1BE, libc::ETOOMANYREFS), (0x1B9, libc::EIO), (2, 5)];
        for (status, errno) in cases {
            assert_eq!(status_error(status).raw_os_error(), Some(errno));
        }
    }

    #[test]
    fn a_regular_file_is_no_namespace() {
        let file = tempfile::tempfile().unwrap();
        assert!(namespace_id(&file).is_err());
        assert!(can_append(&file, 1, &[0; 4096]).is_err());
        assert!(zone_budgets(&file, 1).is_err());
    }
}
