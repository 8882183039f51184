//! Submission and completion rings of `io_uring`, made safe by ownership.
//!
//! A [`Ring`] owns the buffer of every request from submission to completion, holds the file that
//! the kernel works on, and on drop waits for what is in flight. So no buffer is freed or touched
//! while the kernel may write to it. One thread drives a ring; [`Waker`] lets others wake it.
//!
//! Priorities, bounds and completion callbacks are the business of `io::uring`.

use io_uring::{IoUring, opcode, squeue, types};
use mpool_device::IoBuf;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsRawFd, OwnedFd},
};
use std::{fs::File, io, mem::ManuallyDrop, sync::Arc};

/// Marks the completion of the wake-up read.
const WAKE_TOKEN: u64 = u64::MAX;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Holds a file open, that the kernel works on.
pub(crate) trait OnFile {
    fn file(&self) -> &File;
}

/// One transfer: `len` bytes of `buf` from or to `offset` of `device`, which has a file.
pub(crate) struct Transfer<D> {
    pub(crate) device: D,
    pub(crate) direction: Direction,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) buf: IoBuf,
}

/// Wakes the thread that waits in [`Ring::wait`]. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Waker(pub(super) Arc<OwnedFd>);

impl Waker {
    pub(crate) fn wake(&self) {
        // Any number above zero wakes, so its byte order does not matter. The write fails only when
        // the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&*self.0, &1_u64.to_le_bytes());
    }
}

/// A ring, its file and the transfers in flight.
pub(crate) struct Ring<D: OnFile> {
    uring: IoUring,
    wake_fd: Arc<OwnedFd>,
    /// Where the kernel puts the eventfd's counter. Leaked with the rest if the ring cannot drain.
    wake_buf: ManuallyDrop<Box<u64>>,
    wake_armed: bool,
    /// Slot = token. `done` counts bytes of a transfer that came in pieces.
    slots: ManuallyDrop<Vec<Option<Slot<D>>>>,
    in_flight: usize,
}

struct Slot<D> {
    transfer: Transfer<D>,
    done: usize,
}

/// The end of one transfer.
pub(crate) struct Finished {
    pub(crate) token: usize,
    pub(crate) buf: IoBuf,
    pub(crate) outcome: io::Result<()>,
}

impl<D: OnFile> Ring<D> {
    /// A ring for `depth` transfers; fails where the kernel or its sandbox does not allow it.
    pub(crate) fn new(depth: u32) -> io::Result<Self> {
        let uring = IoUring::builder().setup_clamp().build(depth + 1)?;
        let mut probe = io_uring::Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::Write::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's ring is too old"));
        }
        let slots = (0..depth).map(|_| None).collect();
        Ok(Self {
            uring,
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

    /// Puts a transfer into the ring; the kernel sees it at the next [`wait`](Self::wait). The
    /// caller chooses `token` below the depth and does not reuse it before it has finished.
    pub(crate) fn submit(&mut self, token: usize, transfer: Transfer<D>) {
        assert!(self.slots[token].is_none(), "a token is used once at a time");
        assert!(transfer.len > 0, "a transfer moves bytes");
        assert!(transfer.len <= transfer.buf.len(), "a transfer stays within its buffer");
        self.slots[token] = Some(Slot { transfer, done: 0 });
        self.in_flight += 1;
        self.push_slot(token);
    }

    fn push_slot(&mut self, token: usize) {
        let slot = self.slots[token].as_mut().expect("the caller filled the slot");
        let Slot { transfer, done } = slot;
        let file = transfer.device.file();
        let fd = types::Fd(file.as_raw_fd());
        let rest = &mut transfer.buf[*done..transfer.len];
        let len = u32::try_from(rest.len()).expect("buffers are far smaller than 4 GiB");
        let offset = transfer.offset + *done as u64;
        let entry = match transfer.direction {
            Direction::Read => opcode::Read::new(fd, rest.as_mut_ptr(), len).offset(offset).build(),
            Direction::Write => opcode::Write::new(fd, rest.as_ptr(), len).offset(offset).build(),
        };
        self.push(&entry.user_data(token as u64));
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.wake_fd.as_raw_fd());
        let target: *mut u64 = &raw mut **self.wake_buf;
        let entry = opcode::Read::new(fd, target.cast(), 8).build().user_data(WAKE_TOKEN);
        self.push(&entry);
        self.wake_armed = true;
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry's memory is a slot's buffer or `wake_buf`, both owned by `self` until
        // the completion is reaped, and leaked if `drop` cannot wait for it; the fds are owned by
        // a slot's device or by `self` too.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the ring has an entry for each slot and one for the wake-up");
    }

    /// Submits what was pushed, waits for at least one completion or a wake-up, and moves what has
    /// finished into `finished`.
    pub(crate) fn wait(&mut self, finished: &mut Vec<Finished>) -> io::Result<()> {
        if !self.wake_armed {
            self.arm_wake();
        }
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            // Interrupted, or the completion ring must be emptied first: reap and come again.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(e) => return Err(e),
        }
        self.reap(finished);
        Ok(())
    }

    fn reap(&mut self, finished: &mut Vec<Finished>) {
        let completions: Vec<(u64, i32)> =
            self.uring.completion().map(|c| (c.user_data(), c.result())).collect();
        for (user_data, result) in completions {
            if user_data == WAKE_TOKEN {
                self.wake_armed = false;
            } else {
                let token = usize::try_from(user_data).expect("tokens are small");
                self.complete(token, result, finished);
            }
        }
    }

    /// One completion: an error, the whole transfer, or a piece of it that is continued.
    fn complete(&mut self, token: usize, result: i32, finished: &mut Vec<Finished>) {
        let slot = self.slots[token].as_mut().expect("only submitted tokens complete");
        let outcome = match usize::try_from(result) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                slot.done += n;
                if slot.done < slot.transfer.len {
                    return self.push_slot(token);
                }
                Ok(())
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => {
                return self.push_slot(token);
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let slot = self.slots[token].take().expect("looked at above");
        self.in_flight -= 1;
        finished.push(Finished { token, buf: slot.transfer.buf, outcome });
    }

    /// Waits until nothing is in flight, the wake-up included. After an error the kernel may go on
    /// with what has not finished for as long as it likes.
    pub(crate) fn drain(&mut self, finished: &mut Vec<Finished>) -> io::Result<()> {
        if self.wake_armed {
            self.waker().wake();
        }
        while self.in_flight > 0 || self.wake_armed {
            match self.uring.submit_and_wait(1) {
                Err(e)
                    if !matches!(
                        e.raw_os_error(),
                        Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                    ) =>
                {
                    // What has completed lies in memory that is shared with the kernel.
                    self.reap(finished);
                    return Err(e);
                }
                _ => self.reap(finished),
            }
        }
        Ok(())
    }

    /// The ring's descriptor, for tests that take it away.
    #[cfg(test)]
    pub(crate) fn raw_fd(&self) -> std::os::fd::RawFd {
        self.uring.as_raw_fd()
    }
}

/// Puts another file in the place of a descriptor, so that whoever uses it fails.
#[cfg(test)]
pub(crate) fn replace_fd(fd: std::os::fd::RawFd) {
    let null = File::open("/dev/null").expect("there is one");
    // SAFETY: both are open; the ring's owner meets errors from here on, which is the purpose.
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), fd) };
    assert_eq!(replaced, fd);
}

impl<D: OnFile> Drop for Ring<D> {
    fn drop(&mut self) {
        if self.drain(&mut Vec::new()).is_err() {
            // The kernel may still write to the buffers: they are leaked, not freed.
            return;
        }
        // SAFETY: dropped once, here; nothing is in flight, so the kernel holds no pointer to it.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.wake_buf) };
    }
}
