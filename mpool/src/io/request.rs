//! One transfer from its acceptance to its end.

use super::{
    pacer::Ticket,
    thread::run_guarded,
    volumes::{Volume, Volumes},
};
use crate::{
    device::Device,
    error::{Error, Result},
    media::Priority,
    metrics::histogram::Start,
    sys::uring::{Direction, OnFile, Transfer},
};
use mpool_device::IoBuf;
use std::{fs::File, io, sync::Arc};

/// Runs on a queue thread when a transfer has ended; gets the buffer back unless it failed.
pub type Done = Box<dyn FnOnce(Result<IoBuf>) + Send>;

/// A transfer that has been accepted, with all that its end needs.
pub(crate) struct Request {
    pub(crate) transfer: Transfer<Arc<dyn Device>>,
    pub(crate) completion: Completion,
}

/// What remains to be told of a request once its bytes are with the kernel.
pub(crate) struct Completion {
    pub(crate) priority: Priority,
    pub(super) start: Start,
    pub(super) direction: Direction,
    pub(super) address: u64,
    pub(super) len: usize,
    pub(super) volumes: Arc<Volumes>,
    /// Where the bytes go; `None` where the request names no volume, and fails.
    pub(super) volume: Option<Arc<Volume>>,
    /// Held until the transfer has ended.
    pub(super) ticket: Option<Ticket>,
    pub(super) done: Done,
}

impl Completion {
    pub(crate) fn finish(self, outcome: io::Result<IoBuf>) {
        let Self { priority, start, direction, address, len, volumes, volume, ticket, done } = self;
        drop(ticket);
        let (verb, counters) = match direction {
            Direction::Read => ("read", volumes.metrics().reads(priority)),
            Direction::Write => ("write", volumes.metrics().writes(priority)),
        };
        counters.record(start, len, &outcome);
        if let (Direction::Write, Some(volume)) = (direction, volume) {
            volume.wrote();
        }
        let outcome = outcome.map_err(|source| Error::io(verb, address, len, source));
        run_guarded(Box::new(move || done(outcome)));
    }

    /// Ends a request of which nobody knows whether, or when, the kernel carries it out. A write of
    /// that kind may hit what is written later, so there is to be no later.
    pub(crate) fn lose(self, reason: &'static str) {
        if self.direction == Direction::Write {
            self.volumes.poison();
        }
        self.finish(Err(io::Error::other(reason)));
    }
}

/// Only what is on a device with a file is given to a ring.
impl OnFile for Arc<dyn Device> {
    fn file(&self) -> &File {
        (**self).file().expect("the queue chose a device with a file")
    }
}

impl Request {
    /// Serves the request on the calling thread.
    pub(crate) fn run(self) {
        let Self { transfer, completion } = self;
        let Transfer { device, direction, offset, len, mut buf } = transfer;
        let outcome = match direction {
            Direction::Read => device.read_at(offset, &mut buf[..len]),
            Direction::Write => device.write_at(offset, &buf[..len]),
        };
        completion.finish(outcome.map(|()| buf));
    }
}
