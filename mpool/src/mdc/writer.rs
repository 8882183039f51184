//! Writing one log: frames of one generation, one behind the other.
//!
//! Knows where the next frame goes and which number it bears, and nothing of why it is written.

use super::frame::{
    BODY_LEN_MAX, FRAME_HEAD_LEN, FrameHead, FrameKind, RECORD_PREFIX_LEN, padded_len, push_record,
};
use crate::{
    error::Result,
    io::{buf::IO_ALIGN, queue::Priority},
    space::extent::Extent,
    volume::Volumes,
};
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
    log: Extent,
    pub(crate) generation: u64,
    /// Of the last frame written; 0 before the first.
    seqno: u64,
    /// Where the next frame goes, within the log.
    tail: u64,
}

impl LogWriter {
    /// At the start of a log.
    pub(crate) fn new(volume: Arc<Volumes>, owner: u64, log: Extent, generation: u64) -> Self {
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
        put(&self.volume, self.log.offset + self.tail, head, body, durability)?;
        self.tail += len;
        self.seqno += 1;
        Ok(())
    }
}

/// Overwrites the first frame of a log by a mark, durably.
pub(crate) fn mark(
    volume: &Volumes,
    log: Extent,
    owner: u64,
    kind: FrameKind,
    generation: u64,
) -> Result<()> {
    let head = FrameHead::new(kind, owner, generation, 1, &[]);
    put(volume, log.offset, head, &[], Durability::Now)
}

fn put(
    volume: &Volumes,
    at: u64,
    head: FrameHead,
    body: &[u8],
    durability: Durability,
) -> Result<()> {
    let mut buf = volume.bufs().take(head.padded_len());
    let body_end = FRAME_HEAD_LEN + body.len();
    buf[..FRAME_HEAD_LEN].copy_from_slice(&head.encode());
    buf[FRAME_HEAD_LEN..body_end].copy_from_slice(body);
    buf[body_end..].fill(0);
    let outcome = match durability {
        Durability::Now => volume.write_durable(at, &buf, Priority::Wal),
        Durability::AtFlush => volume.write(at, &buf, Priority::Wal),
    };
    volume.bufs().put(buf);
    outcome
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
