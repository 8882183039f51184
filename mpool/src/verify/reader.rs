//! How a scrub reads: small, one at a time, paced, past the page cache, and ending when asked to.
//!
//! Reads go through the pool's queue with [`Priority::Compaction`], so they start only when nobody
//! more urgent waits, and there is never more than one in flight. A read that fails is tried again
//! page by page, so that the bad page is named and not its neighbours.

use super::{control::Control, pace::Pace};
use crate::{
    error::Result,
    io::{queue::IoQueue, volumes::Volumes},
    media::Priority,
};
use mpool_device::{IO_ALIGN, IoBuf};
use std::{
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

/// The scrub was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

/// What a look at the medium may say beside an answer.
pub(crate) type Halted<T> = std::result::Result<T, Stopped>;

/// Reads of one scrub.
pub(crate) struct Reader<'a> {
    volumes: &'a Volumes,
    /// `None` reads on the calling thread: where there is no queue yet.
    queue: Option<&'a IoQueue>,
    control: Option<&'a Control>,
    pace: Pace,
    began: Instant,
    read_bytes: usize,
    /// Bytes read so far.
    pub(crate) bytes: u64,
}

/// Bytes read, and which of their pages could not be.
pub(crate) struct Pages {
    pub(crate) bytes: Vec<u8>,
    /// By number, from the start of the bytes. These read as zeros.
    pub(crate) unreadable: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// Reads on the calling thread, as fast as the drive gives it.
    pub(crate) fn direct(volumes: &'a Volumes, read_bytes: usize) -> Self {
        let (pace, began) = (Pace::new(0, 0), Instant::now());
        Self { volumes, queue: None, control: None, pace, began, read_bytes, bytes: 0 }
    }

    /// Reads beside others, at most `bytes_per_s` (0 = no limit).
    pub(crate) fn paced(
        (volumes, queue): (&'a Volumes, &'a IoQueue),
        control: &'a Control,
        (bytes_per_s, read_bytes): (u64, usize),
    ) -> Self {
        let (pace, began) = (Pace::new(bytes_per_s, 0), Instant::now());
        let (queue, control) = (Some(queue), Some(control));
        Self { volumes, queue, control, pace, began, read_bytes, bytes: 0 }
    }

    /// The most that one read takes; callers divide their work by it.
    pub(crate) fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.control.is_some_and(Control::is_stopping)
    }

    /// Reads whole pages at a pool address: `len` of them in bytes.
    pub(crate) fn pages(&mut self, address: u64, len: usize) -> Halted<Pages> {
        let mut pages = Pages { bytes: Vec::with_capacity(len), unreadable: Vec::new() };
        for at in (0..len).step_by(self.read_bytes) {
            let now = self.read_bytes.min(len - at);
            self.pause(now as u64)?;
            if self.append(address + at as u64, now, &mut pages).is_ok() {
                continue;
            }
            for page in (at..at + now).step_by(IO_ALIGN) {
                if self.append(address + page as u64, IO_ALIGN, &mut pages).is_err() {
                    pages.unreadable.push(page / IO_ALIGN);
                    pages.bytes.resize(page + IO_ALIGN, 0);
                }
            }
        }
        Ok(pages)
    }

    /// One page, if it can be read.
    pub(crate) fn page(&mut self, address: u64) -> Halted<Option<Vec<u8>>> {
        let pages = self.pages(address, IO_ALIGN)?;
        Ok(pages.unreadable.is_empty().then_some(pages.bytes))
    }

    fn append(&mut self, address: u64, len: usize, pages: &mut Pages) -> Result<()> {
        self.bytes += len as u64;
        let buf = self.read(address, len)?;
        pages.bytes.extend_from_slice(&buf[..len]);
        self.volumes.bufs().put(buf);
        Ok(())
    }

    fn read(&self, address: u64, len: usize) -> Result<IoBuf> {
        let Some(queue) = self.queue else {
            let mut buf = self.volumes.bufs().take(len);
            self.volumes.read(address, &mut buf[..len], Priority::Compaction)?;
            return Ok(buf);
        };
        let (done, outcome) = sync_channel(1);
        // The receiver waits below, so the send cannot fail.
        let done = Box::new(move |outcome| drop(done.send(outcome)));
        queue.submit_read(address, len, Priority::Compaction, done);
        outcome.recv().expect("the queue answers every request")
    }

    /// Waits until so many bytes may be read.
    pub(crate) fn pause(&mut self, bytes: u64) -> Halted<()> {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(self.pace.wait_us(bytes, now));
        match self.control {
            Some(control) if control.wait(wait) => Err(Stopped),
            _ => Ok(()),
        }
    }
}
