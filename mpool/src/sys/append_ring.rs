//! Zone Append through `io_uring`, made safe by ownership.
//!
//! Like `uring`: an [`AppendRing`] owns the buffer of every append from submission to completion,
//! holds the file, and waits on drop for what is in flight. It differs by the size of its entries,
//! which carry a whole `NVMe` command, and by its answers, which say where the bytes went.
//!
//! Bounds, threads and callbacks are the business of `io::appends`.

use super::{
    nvme::{Target, URING_COMMAND, URING_COMMAND_BYTES, append_command, status_error},
    uring::Waker,
};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use mpool_device::IoBuf;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsRawFd, OwnedFd},
};
use std::{fs::File, io, mem::ManuallyDrop, sync::Arc};
use zerocopy::IntoBytes;

/// Marks the completion of the wake-up read.
const WAKE_TOKEN: u64 = u64::MAX;

pub(crate) struct AppendRing {
    uring: IoUring<squeue::Entry128, cqueue::Entry32>,
    /// The character device of the namespace.
    file: File,
    wake_fd: Arc<OwnedFd>,
    /// Where the kernel puts the eventfd's counter. Leaked with the rest if the ring cannot drain.
    wake_buf: ManuallyDrop<Box<u64>>,
    wake_armed: bool,
    /// Slot = token.
    slots: ManuallyDrop<Vec<Option<IoBuf>>>,
    in_flight: usize,
}

/// The end of one append.
pub(crate) struct Appended {
    pub(crate) token: usize,
    pub(crate) buf: IoBuf,
    /// The block that the drive chose.
    pub(crate) outcome: io::Result<u64>,
}

impl AppendRing {
    /// A ring for `depth` appends on `file`; fails where the kernel or its sandbox does not allow
    /// it.
    pub(crate) fn new(file: File, depth: u32) -> io::Result<Self> {
        let uring = IoUring::builder().setup_clamp().build(depth + 1)?;
        let mut probe = io_uring::Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::UringCmd80::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's ring is too old"));
        }
        let slots = (0..depth).map(|_| None).collect();
        Ok(Self {
            uring,
            file,
            wake_fd: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
            wake_buf: ManuallyDrop::new(Box::new(0)),
            wake_armed: false,
            slots: ManuallyDrop::new(slots),
            in_flight: 0,
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake_fd))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts an append of the first `len` bytes of `buf` into the ring; the kernel sees it at the
    /// next [`wait`](Self::wait). The caller chooses `token` below the depth and does not reuse it
    /// before it has finished.
    pub(crate) fn submit(&mut self, token: usize, target: Target, buf: IoBuf, len: usize) {
        assert!(self.slots[token].is_none(), "a token is used once at a time");
        let buf = self.slots[token].insert(buf);
        let command = append_command(target, &buf[..len]);
        let mut bytes = [0; 80];
        bytes[..URING_COMMAND_BYTES].copy_from_slice(&command.as_bytes()[..URING_COMMAND_BYTES]);
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, URING_COMMAND).cmd(bytes).build();
        self.in_flight += 1;
        self.push(&entry.user_data(token as u64));
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.wake_fd.as_raw_fd());
        let target: *mut u64 = &raw mut **self.wake_buf;
        let entry = opcode::Read::new(fd, target.cast(), 8).build().user_data(WAKE_TOKEN);
        self.push(&entry.into());
        self.wake_armed = true;
    }

    fn push(&mut self, entry: &squeue::Entry128) {
        // SAFETY: the entry's memory is a slot's buffer or `wake_buf`, both owned by `self` until
        // the completion is reaped, and leaked if `drop` cannot wait for it; the fds are owned by
        // `self` too.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the ring has an entry for each slot and one for the wake-up");
    }

    /// Submits what was pushed, waits for at least one completion or a wake-up, and moves what has
    /// finished into `finished`.
    pub(crate) fn wait(&mut self, finished: &mut Vec<Appended>) -> io::Result<()> {
        if !self.wake_armed {
            self.arm_wake();
        }
        self.enter()?;
        self.reap(finished);
        Ok(())
    }

    fn enter(&mut self) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            // Interrupted, or the completion ring must be emptied first: reap and come again.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn reap(&mut self, finished: &mut Vec<Appended>) {
        for entry in self.uring.completion() {
            if entry.user_data() == WAKE_TOKEN {
                self.wake_armed = false;
                continue;
            }
            let token = usize::try_from(entry.user_data()).expect("tokens are small");
            let buf = self.slots[token].take().expect("only submitted tokens complete");
            self.in_flight -= 1;
            let outcome = match entry.result() {
                0 => Ok(entry.big_cqe()[0]),
                status @ 1.. => Err(status_error(status)),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            };
            finished.push(Appended { token, buf, outcome });
        }
    }

    /// Waits until nothing is in flight, the wake-up included.
    fn drain(&mut self) -> io::Result<()> {
        let mut finished = Vec::new();
        if self.wake_armed {
            self.waker().wake();
        }
        while self.in_flight > 0 || self.wake_armed {
            self.enter()?;
            self.reap(&mut finished);
        }
        Ok(())
    }
}

impl Drop for AppendRing {
    fn drop(&mut self) {
        if self.drain().is_err() {
            // The kernel may still read the buffers: they are leaked, not freed.
            return;
        }
        // SAFETY: dropped once, here; nothing is in flight, so the kernel holds no pointer to it.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.wake_buf) };
    }
}
