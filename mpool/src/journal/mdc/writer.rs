//! Writing one log: frames of one generation, one behind the other.
//!
//! Knows where the next frame goes and which number it bears, and nothing of why it is written. A
//! log that is kept twice gets every frame twice: two writes, and one flush for both where it must
//! be durable, as a flush of its own for each would be most of what it costs.

use super::frame::{
    BODY_LEN_MAX, FRAME_HEAD_LEN, FrameHead, FrameKind, RECORD_PREFIX_LEN, padded_len, push_record,
};
use crate::{error::Result, heads::log::Log, io::volumes::Volumes, media::Priority};
use mpool_device::IO_ALIGN;
use std::sync::Arc;

/// A frame without a body.
pub(crate) const MARK_LEN: u64 = IO_ALIGN as u64;

/// When a frame must be on the medium.
#[derive(Clone, Copy)]
pub(crate) enum Durability {
    /// Before the call returns.
    Now,
    /// After the next flush.
    AtFlush,
}

pub(crate) struct LogWriter {
    volume: Arc<Volumes>,
    /// In every frame; differs between journals and between pools.
    owner: u64,
    log: Log,
    pub(crate) generation: u64,
    /// Of the last frame written; 0 before the first.
    seqno: u64,
    /// Where the next frame goes, within the log.
    tail: u64,
}

impl LogWriter {
    /// At the start of a log.
    pub(crate) fn new(volume: Arc<Volumes>, owner: u64, log: Log, generation: u64) -> Self {
        Self { volume, owner, log, generation, seqno: 0, tail: 0 }
    }

    /// Goes on after the frame `seqno`, at `tail`.
    pub(crate) fn go_on(self, seqno: u64, tail: u64) -> Self {
        Self { seqno, tail, ..self }
    }

    pub(crate) fn volume(&self) -> &Arc<Volumes> {
        &self.volume
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.tail
    }

    /// Of the last frame; 0 before the first.
    pub(crate) fn seqno(&self) -> u64 {
        self.seqno
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.log.len - self.tail
    }

    /// Writes the next frame; the caller has made room. After an error the log is as before: the
    /// next frame takes the same place.
    pub(crate) fn frame(
        &mut self,
        kind: FrameKind,
        body: &[u8],
        durability: Durability,
    ) -> Result<()> {
        let head = FrameHead::new(kind, self.owner, self.generation, self.seqno + 1, body);
        let len = head.padded_len() as u64;
        assert!(len <= self.free_bytes(), "the caller made room");
        put(&self.volume, (self.log, self.tail), &head, body, durability)?;
        self.tail += len;
        self.seqno += 1;
        Ok(())
    }
}

/// Overwrites the first frame of a log by a mark, durably.
pub(crate) fn mark(
    volume: &Volumes,
    log: Log,
    owner: u64,
    kind: FrameKind,
    generation: u64,
) -> Result<()> {
    let head = FrameHead::new(kind, owner, generation, 1, &[]);
    put(volume, (log, 0), &head, &[], Durability::Now)
}

/// Writes a frame into every copy of a log.
fn put(
    volume: &Volumes,
    (log, at): (Log, u64),
    head: &FrameHead,
    body: &[u8],
    durability: Durability,
) -> Result<()> {
    let mut buf = volume.bufs().take(head.padded_len());
    encode(head, body, &mut buf);
    let addresses: Vec<u64> = log.copies().map(|copy| copy.offset + at).collect();
    let outcome = match durability {
        Durability::Now => volume.write_durable_each(&addresses, &buf, Priority::Wal),
        Durability::AtFlush => {
            let mut addresses = addresses.into_iter();
            addresses.try_for_each(|address| volume.write(address, &buf, Priority::Wal))
        }
    };
    volume.bufs().put(buf);
    outcome
}

/// A frame as it is on the medium.
pub(crate) fn encode(head: &FrameHead, body: &[u8], frame: &mut [u8]) {
    assert!(frame.len() == head.padded_len(), "the frame and nothing else");
    let body_end = FRAME_HEAD_LEN + body.len();
    frame[..FRAME_HEAD_LEN].copy_from_slice(&head.encode());
    frame[FRAME_HEAD_LEN..body_end].copy_from_slice(body);
    frame[body_end..].fill(0);
}

/// Packs records into as few frame bodies as they fit in, in order.
pub(crate) fn pack(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for record in records {
        let len = RECORD_PREFIX_LEN + record.len();
        assert!(len <= BODY_LEN_MAX, "state records obey the limit of appended ones");
        match bodies.last_mut() {
            Some(body) if body.len() + len <= BODY_LEN_MAX => push_record(body, record),
            _ => {
                let mut body = Vec::new();
                push_record(&mut body, record);
                bodies.push(body);
            }
        }
    }
    bodies
}

/// Length on the medium of frames with these bodies.
pub(crate) fn frames_len(bodies: &[Vec<u8>]) -> u64 {
    bodies.iter().map(|body| padded_len(body.len()) as u64).sum()
}
