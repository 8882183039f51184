//! The two logs of a journal: appending, and rewriting one into the other.
//!
//! Order of writes of a checkpoint, each step durable before the next:
//!
//! ```text
//! 1. begin g' at the start of the passive log   (one sector: cannot tear; older frames are dead)
//! 2. the state, then one flush
//! 3. end g'                                     <- from here on the new log counts
//! 4. retired g' over the old log's first frame  <- from here on the old one never counts again
//! ```
//!
//! Every attempt takes a generation that no frame of either log has, so that remains of an earlier,
//! longer attempt cannot pass for frames of this one. Which log counts at open: `elect`.

use super::{
    elect::{Elected, elect},
    frame::{
        BODY_LEN_MAX, FRAME_HEAD_LEN, FrameHead, FrameKind, RECORD_PREFIX_LEN, padded_len,
        push_record,
    },
    scan::LogReader,
};
use crate::{
    error::{Error, Result},
    io::{buf::IO_ALIGN, queue::Priority},
    space::extent::Extent,
    volume::Volume,
};
use std::sync::Arc;

/// A frame without a body.
const MARK_LEN: u64 = IO_ALIGN as u64;

/// Where a journal lies and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// For messages: "mdc-3", "pool journal".
    pub(crate) name: String,
    /// In every frame; differs between journals and between pools.
    pub(crate) owner: u64,
    pub(crate) logs: [Extent; 2],
}

pub(crate) struct LogPair {
    volume: Arc<Volume>,
    place: Place,
    active: usize,
    generation: u64,
    generation_max: u64,
    seqno: u64,
    /// Where the next frame goes, within the active log.
    tail: u64,
}

impl LogPair {
    /// Writes an empty journal over logs that hold zeros. Durable on return.
    pub(crate) fn format(volume: Arc<Volume>, place: Place) -> Result<Self> {
        let mut pair =
            Self { volume, place, active: 0, generation: 1, generation_max: 1, seqno: 0, tail: 0 };
        pair.append_frame(FrameKind::Begin, &[])?;
        pair.append_frame(FrameKind::End, &[])?;
        Ok(pair)
    }

    /// Elects the active log, replays its records, and finishes a checkpoint that was cut short.
    pub(crate) fn open(
        volume: Arc<Volume>,
        place: Place,
        replay: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Self> {
        let scan = |log: usize| LogReader::new(&volume, place.logs[log], place.owner).scan();
        let elected = elect([scan(0)?, scan(1)?]).map_err(|e| {
            Error::corrupt(place.name.clone(), place.logs[e.log].offset + e.at, e.reason)
        })?;
        let Elected { active, generation, seqno, tail, generation_max, retire_other } = elected;
        let mut reader = LogReader::new(&volume, place.logs[active], place.owner);
        let count = reader.replay(tail, replay)?;
        volume.metrics().mdc_replayed.add(count);
        let pair = Self { volume, place, active, generation, generation_max, seqno, tail };
        if retire_other {
            pair.retire(1 - active, generation)?;
        }
        Ok(pair)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.tail
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.place.logs[0].len
    }

    /// Appends one record, durable on return; see [`super::Mdc::append`].
    pub(crate) fn append(
        &mut self,
        record: &[u8],
        state: &mut dyn FnMut() -> Vec<Vec<u8>>,
    ) -> Result<()> {
        self.volume.check_writable()?;
        let mut body = Vec::with_capacity(RECORD_PREFIX_LEN + record.len());
        push_record(&mut body, record);
        let frame_len = padded_len(body.len()) as u64;
        if self.tail + frame_len > self.log_bytes() {
            self.checkpoint(&state(), frame_len)?;
        }
        self.append_frame(FrameKind::Record, &body)?;
        let metrics = self.volume.metrics();
        metrics.mdc_appends.add(1);
        metrics.mdc_append_bytes.add(frame_len);
        Ok(())
    }

    /// Rewrites `state` into the other log and makes it the active one, if `next_len` more fits.
    fn checkpoint(&mut self, state: &[Vec<u8>], next_len: u64) -> Result<()> {
        let bodies = pack(state);
        let state_len: u64 = bodies.iter().map(|body| padded_len(body.len()) as u64).sum();
        let need_bytes = 2 * MARK_LEN + state_len + next_len;
        if need_bytes > self.log_bytes() {
            return Err(Error::Full { need_bytes, free_bytes: self.log_bytes() });
        }
        let old = self.active;
        let before = (self.generation, self.seqno, self.tail);
        self.generation_max += 1;
        self.generation = self.generation_max;
        self.active = 1 - old;
        self.seqno = 0;
        self.tail = 0;
        let outcome =
            self.write_checkpoint(&bodies).and_then(|()| self.retire(old, self.generation));
        if outcome.is_err() {
            // Before `end` the old log still counts, and this one is half a checkpoint like any
            // other. A failure of `end` or `retired` has poisoned the volume: nobody appends.
            self.active = old;
            (self.generation, self.seqno, self.tail) = before;
        }
        self.volume.metrics().mdc_checkpoints.add(1);
        outcome
    }

    fn write_checkpoint(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        self.append_frame(FrameKind::Begin, &[])?;
        for body in bodies {
            self.write_frame(FrameKind::State, body)?;
        }
        if !bodies.is_empty() {
            self.volume.flush()?;
        }
        self.append_frame(FrameKind::End, &[])
    }

    fn retire(&self, log: usize, successor: u64) -> Result<()> {
        let head = FrameHead::new(FrameKind::Retired, self.place.owner, successor, 1, &[]);
        self.put(self.place.logs[log].offset, head, &[], Durability::Now)
    }

    fn append_frame(&mut self, kind: FrameKind, body: &[u8]) -> Result<()> {
        self.next_frame(kind, body, Durability::Now)
    }

    fn write_frame(&mut self, kind: FrameKind, body: &[u8]) -> Result<()> {
        self.next_frame(kind, body, Durability::AtFlush)
    }

    fn next_frame(&mut self, kind: FrameKind, body: &[u8], durability: Durability) -> Result<()> {
        let head = FrameHead::new(kind, self.place.owner, self.generation, self.seqno + 1, body);
        let len = head.padded_len() as u64;
        assert!(self.tail + len <= self.log_bytes(), "the caller made room");
        self.put(self.place.logs[self.active].offset + self.tail, head, body, durability)?;
        self.tail += len;
        self.seqno += 1;
        Ok(())
    }

    fn put(&self, at: u64, head: FrameHead, body: &[u8], durability: Durability) -> Result<()> {
        let mut buf = self.volume.bufs().take(head.padded_len());
        let body_end = FRAME_HEAD_LEN + body.len();
        buf[..FRAME_HEAD_LEN].copy_from_slice(&head.encode());
        buf[FRAME_HEAD_LEN..body_end].copy_from_slice(body);
        buf[body_end..].fill(0);
        let outcome = match durability {
            Durability::Now => self.volume.write_durable(at, &buf, Priority::Wal),
            Durability::AtFlush => self.volume.write(at, &buf, Priority::Wal),
        };
        self.volume.bufs().put(buf);
        outcome
    }
}

#[derive(Clone, Copy)]
enum Durability {
    Now,
    AtFlush,
}

/// Packs records into as few frame bodies as they fit in, in order.
fn pack(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, SimDevice, mdc::MDC_RECORD_BYTES_MAX, metrics::PoolMetrics, space::ALLOC_UNIT,
    };

    const LOG_LEN: u64 = 64 * ALLOC_UNIT;

    fn place() -> Place {
        let log = |n: u64| Extent { offset: n * LOG_LEN, len: LOG_LEN };
        Place { name: "test journal".to_owned(), owner: 7, logs: [log(0), log(1)] }
    }

    fn volume(device: &SimDevice) -> Arc<Volume> {
        Arc::new(Volume::new(Arc::new(device.clone()), Arc::new(PoolMetrics::default())))
    }

    /// As the pool does it: what is read must be on the medium.
    fn open(device: &SimDevice, records: &mut Vec<Vec<u8>>) -> Result<LogPair> {
        device.flush().expect("nothing has failed yet");
        LogPair::open(volume(device), place(), &mut |record| {
            records.push(record.to_vec());
            Ok(())
        })
    }

    /// A journal that has been rewritten `rewrites` times, and whose next append rewrites it again.
    fn full(rewrites: usize) -> SimDevice {
        let device = SimDevice::new(2 * LOG_LEN);
        device.grow(2 * LOG_LEN).unwrap();
        let mut pair = LogPair::format(volume(&device), place()).unwrap();
        // Three of them fit into a log, a fourth does not.
        for _ in 0..3 + 3 * rewrites {
            pair.append(&big(1), &mut Vec::new).unwrap();
        }
        device.after_crash(0)
    }

    /// The state of the first attempt: three frames, the third of which lies exactly where the log
    /// of the second attempt ends, with the seqno that would come next there.
    fn long_state() -> Vec<Vec<u8>> {
        vec![vec![2; 4041], big(3), vec![4; 4041]]
    }

    fn short_state() -> Vec<Vec<u8>> {
        vec![big(5)]
    }

    fn big(byte: u8) -> Vec<u8> {
        vec![byte; MDC_RECORD_BYTES_MAX]
    }

    #[test]
    fn the_trap_is_set() {
        let frames: Vec<usize> = pack(&long_state()).iter().map(|b| padded_len(b.len())).collect();
        assert_eq!(frames.len(), 3);
        let short: usize = pack(&short_state()).iter().map(|b| padded_len(b.len())).sum();
        let mark = usize::try_from(MARK_LEN).unwrap();
        assert_eq!(mark + frames[0] + frames[1], mark + short + mark);
    }

    /// Appends with `state`, with the power cut at `call`; true if the append was acknowledged.
    fn append_until(device: &SimDevice, call: u64, state: &[Vec<u8>], record: &[u8]) -> bool {
        let mut pair = open(device, &mut Vec::new()).expect("it recovers");
        device.cut_at(device.calls() + call);
        pair.append(record, &mut || state.to_vec()).is_ok()
    }

    /// Two attempts to rewrite the same log, the first cut short: nothing of it shows in the
    /// second.
    #[test]
    fn remains_of_an_unfinished_checkpoint_never_pass_for_frames_of_the_next() {
        // begin, three states, flush, end, retired; the second has two states less, and its record.
        const CALLS: u64 = 7;
        for (rewrites, first) in
            [0, 1].into_iter().flat_map(|r| (0..CALLS - 1).map(move |c| (r, c)))
        {
            let base = full(rewrites);
            for (second, seed) in (0..CALLS).flat_map(|c| (0..4).map(move |s| (c, s))) {
                let device = base.after_crash(0);
                assert!(!append_until(&device, first, &long_state(), &big(6)));
                let device = device.after_crash(seed);
                let mut after_first = Vec::new();
                open(&device, &mut after_first).unwrap();
                if after_first[0][0] == 2 {
                    // Its end was in flight and has made it: the first attempt counts.
                    continue;
                }
                let acked = append_until(&device, second, &short_state(), &big(7));
                let mut records = Vec::new();
                open(&device.after_crash(seed), &mut records).unwrap();
                let at = format!("rewrites {rewrites}, cuts {first} and {second}, seed {seed}");
                records.retain(|r| r[0] != 1);
                let new = [&short_state()[..], &[big(7)]].concat();
                let found = new.starts_with(&records);
                assert!(found, "{at}: {} records of something else", records.len());
                assert!(!acked || records == new, "{at}: acknowledged and not there");
            }
        }
    }
}
