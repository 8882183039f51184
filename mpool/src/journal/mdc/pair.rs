//! The two logs of a journal: appending, and rewriting one into the other.
//!
//! Order of writes of a checkpoint, each step durable before the next:
//!
//! ```text
//! 1. begin g' at the start of the passive log   (one sector: cannot tear; older frames are dead)
//! 2. the state, in pieces, then one flush
//! 3. end g', with what was appended meanwhile   <- from here on the new log counts
//! 4. retired g' over the old log's first frame  <- from here on the old one never counts again
//! ```
//!
//! Every attempt takes a generation that no frame of either log has, so that remains of an earlier,
//! longer attempt cannot pass for frames of this one. Which log counts at open: `elect`.
//!
//! Steps 1 and 2 need not keep appends out: they go on in the active log, which counts, and are
//! kept in memory too, from the moment that the state was taken. What has come together is added to
//! the state, piece by piece; the last of it travels with the end mark, in steps 3 and 4, which do
//! keep appends out:
//!
//! ```text
//! appends  ----A----B----C----D---------------E====wait====F--->
//! active   ....A....B....C....D...............E            retired
//! passive        begin state state A+B C D flush  end(E)   F ...
//!                ^ the state is taken             ^ the append lock is held: two short writes
//! ```
//!
//! A crash before step 3 finds the active log, with every acknowledged append; a crash after it
//! finds the new one, with the same. Between 3 and 4 nothing is acknowledged, so then both logs say
//! the same. An attempt that fails, or that appends overtake by filling the active log, is given
//! up; its remains are a checkpoint that never ended. The journal of the pool may also move to new,
//! longer logs: then step 4 writes their place into the superblock.

use super::{
    due::{Fill, usual_limit},
    elect::{Elected, LogState, Other, elect},
    frame::{FrameKind, RECORD_PREFIX_LEN, padded_len, push_record},
    heal::heal,
    rewrite::{Rewrite, Target, Written},
    scan::LogReader,
    writer::{Durability, LogWriter, MARK_LEN, frames_len, mark, pack},
};
use crate::{
    error::{Error, Result},
    heads::log::Log,
    io::volumes::Volumes,
    metrics::histogram::Start,
};
use std::sync::Arc;

/// With no more than this appended since the last look, the rest goes with the end mark.
const HANDOVER_BYTES_MAX: u64 = 64 << 10;
/// Appends that are faster than this many rounds of catching up are made to wait.
const CATCH_UPS_MAX: u32 = 16;

/// Where a journal lies and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// For messages: "mdc-3", "pool journal".
    pub(crate) name: String,
    /// In every frame; differs between journals and between pools.
    pub(crate) owner: u64,
    pub(crate) logs: [Log; 2],
}

/// How much of the log an append may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdcRoom {
    /// All but the reserve at the end: an eighth of the log, at most 512 KiB.
    Usual,
    /// The reserve too. For records that make the state shorter, so that a journal full of state
    /// can be emptied.
    Reserve,
}

/// Where a journal is: what stands before the tail of the active log was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) logs: [Log; 2],
    /// 0 or 1.
    pub(crate) active: usize,
    pub(crate) generation: u64,
    /// Of the last frame.
    pub(crate) seqno: u64,
    /// Where the next frame goes, within the active log.
    pub(crate) tail: u64,
}

impl Position {
    /// Whether the frames before this tail are still where they were.
    pub(crate) fn same_log(&self, later: &Self) -> bool {
        let log = |position: &Self| (position.logs, position.active, position.generation);
        log(self) == log(later) && self.tail <= later.tail
    }
}

/// Shows every record of the elected log to `replay`; returns how many there are. Writes nothing.
pub(crate) fn replay_elected(
    volumes: &Volumes,
    place: &Place,
    elected: &Elected,
    replay: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    LogReader::new(volumes, place.logs[elected.active], place.owner).replay(elected, replay)
}

pub(crate) struct LogPair {
    volume: Arc<Volumes>,
    place: Place,
    active: usize,
    writer: LogWriter,
    generation_max: u64,
    running: Option<Running>,
    /// No look for garbage before the active log is this full.
    look_at: u64,
}

/// A rewriting in the background, and what has been appended since its state was taken. Bounded by
/// what is left of the active log, and handed on piece by piece.
struct Running {
    rewrite: Arc<Rewrite>,
    since: Vec<Vec<u8>>,
    since_bytes: u64,
    catch_ups: u32,
}

/// What a rewriting in the background still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caught {
    /// Pieces were added.
    More,
    /// The new log is the active one.
    Up,
}

impl LogPair {
    /// Writes an empty journal over logs that hold zeros. Durable on return.
    pub(crate) fn format(volume: Arc<Volumes>, place: Place) -> Result<Self> {
        let writer = LogWriter::new(Arc::clone(&volume), place.owner, place.logs[0], 1);
        let mut pair = Self::new(volume, place, 0, writer, 1);
        pair.writer.frame(FrameKind::Begin, &[], Durability::Now)?;
        pair.writer.frame(FrameKind::End, &[], Durability::Now)?;
        Ok(pair)
    }

    fn new(
        volume: Arc<Volumes>,
        place: Place,
        active: usize,
        writer: LogWriter,
        generation_max: u64,
    ) -> Self {
        Self { volume, place, active, writer, generation_max, running: None, look_at: 0 }
    }

    /// Elects the active log, replays its records, makes the copies of both logs alike, and
    /// finishes a checkpoint that was cut short.
    pub(crate) fn open(
        volume: Arc<Volumes>,
        place: Place,
        replay: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Self> {
        let elected = elected(&volume, &place)?;
        let Elected { active, generation, seqno, tail, generation_max, other } = elected;
        let log = place.logs[active];
        let count = replay_elected(&volume, &place, &elected, replay)?;
        volume.metrics().mdc_replayed.add(count);
        heal(&volume, &place, &elected)?;
        let passive = place.logs[1 - active];
        match other {
            Other::Dead => {}
            Other::Retire => {
                mark(&volume, passive, place.owner, FrameKind::Retired, generation)?;
            }
            Other::Void => {
                tracing::warn!(journal = place.name, "one of two logs cannot be read; it is void");
                mark(&volume, passive, place.owner, FrameKind::Begin, generation_max)?;
            }
        }
        let writer = LogWriter::new(Arc::clone(&volume), place.owner, log, generation);
        Ok(Self::new(volume, place, active, writer.go_on(seqno, tail), generation_max))
    }

    /// Where it is at the moment.
    pub(crate) fn position(&self) -> Position {
        Position {
            logs: self.place.logs,
            active: self.active,
            generation: self.writer.generation,
            seqno: self.writer.seqno(),
            tail: self.writer.used_bytes(),
        }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.writer.used_bytes()
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.place.logs[0].len
    }

    fn limit(&self, room: MdcRoom) -> u64 {
        match room {
            MdcRoom::Usual => usual_limit(self.log_bytes()),
            MdcRoom::Reserve => self.log_bytes(),
        }
    }

    /// Appends one record, durable on return; see [`super::Mdc::append`]. `state` gives the records
    /// that describe everything before it, if the log may be rewritten.
    pub(crate) fn append(
        &mut self,
        record: &[u8],
        room: MdcRoom,
        state: Option<&dyn Fn() -> Vec<Vec<u8>>>,
    ) -> Result<()> {
        self.volume.check_writable()?;
        let mut body = Vec::with_capacity(RECORD_PREFIX_LEN + record.len());
        push_record(&mut body, record);
        let frame_len = padded_len(body.len()) as u64;
        if self.used_bytes() + frame_len > self.limit(room) {
            let Some(state) = state else {
                let (need_bytes, free_bytes) = (self.used_bytes() + frame_len, self.limit(room));
                return Err(Error::Full { need_bytes, free_bytes });
            };
            let start = Start::now();
            let outcome = self.checkpoint(&state(), frame_len, room);
            self.volume.metrics().mdc_wait.end(start);
            outcome?;
        }
        self.writer.frame(FrameKind::Record, &body, Durability::Now)?;
        if let Some(running) = &mut self.running {
            running.since.push(record.to_vec());
            running.since_bytes += body.len() as u64;
        }
        let metrics = self.volume.metrics();
        metrics.mdc_appends.add(1);
        metrics.mdc_append_bytes.add(frame_len);
        Ok(())
    }

    /// The last resort of an append that finds no room: rewrites `state` into the other log at
    /// once, if `next_len` more fits behind it. An attempt in the background is overtaken.
    fn checkpoint(&mut self, state: &[Vec<u8>], next_len: u64, room: MdcRoom) -> Result<()> {
        let bodies = pack(state);
        let (need_bytes, free_bytes) = (rewritten_len(&bodies) + next_len, self.limit(room));
        if need_bytes > free_bytes {
            return Err(Error::Full { need_bytes, free_bytes });
        }
        self.give_up();
        self.volume.metrics().mdc_checkpoints_forced.add(1);
        let rewrite = self.begin(Target::OtherLog);
        rewrite.add(bodies);
        let mut outcome = Ok(Written::Partly);
        while matches!(outcome, Ok(Written::Partly)) {
            outcome = rewrite.step();
        }
        let outcome = outcome.and_then(|_| self.hand_over(&mut no_move));
        if outcome.is_err() {
            // Before `end` the old log still counts, and the other is half a checkpoint like any
            // other. A failure of `end` or `retired` has poisoned the volume: nobody appends.
            self.give_up();
        }
        outcome
    }
}

// Rewriting in the background; `background` takes the steps.
impl LogPair {
    /// Whether the log is so full that garbage in it should be looked for.
    pub(crate) fn is_look_due(&self) -> bool {
        let fill = self.fill();
        self.running.is_none() && fill.is_look_due() && fill.used >= self.look_at
    }

    pub(crate) fn fill(&self) -> Fill {
        Fill { len: self.log_bytes(), used: self.used_bytes() }
    }

    /// Begins an attempt: appends are kept from here on, so the state must be taken before the
    /// append lock is let go. Writes nothing.
    pub(crate) fn begin(&mut self, target: Target) -> Arc<Rewrite> {
        assert!(self.running.is_none(), "one attempt at a time");
        let log = match target {
            Target::OtherLog => self.place.logs[1 - self.active],
            Target::NewLogs(logs) => logs[0],
        };
        self.generation_max += 1;
        let volume = Arc::clone(&self.volume);
        let writer = LogWriter::new(volume, self.place.owner, log, self.generation_max);
        let rewrite = Arc::new(Rewrite::new(target, writer));
        let running = Arc::clone(&rewrite);
        self.running =
            Some(Running { rewrite: running, since: Vec::new(), since_bytes: 0, catch_ups: 0 });
        rewrite
    }

    /// Ends an attempt that turned out to be no use.
    pub(crate) fn put_off(&mut self, rewrite: &Arc<Rewrite>) {
        if self.is_running(rewrite) {
            self.running = None;
            rewrite.kill();
            self.look_at = self.fill().look_again_at();
        }
    }

    /// Ends an attempt that failed.
    pub(crate) fn abandon(&mut self, rewrite: &Arc<Rewrite>) {
        if self.is_running(rewrite) {
            self.give_up();
        }
    }

    /// All pieces are written and flushed: adds what has been appended meanwhile, or, if that is
    /// little, makes the new log the active one. `move_to` makes new logs the journal's place.
    pub(crate) fn catch_up(
        &mut self,
        rewrite: &Arc<Rewrite>,
        move_to: &mut dyn FnMut([Log; 2]) -> Result<()>,
    ) -> Result<Caught> {
        let Some(running) = self.running.as_mut().filter(|r| Arc::ptr_eq(&r.rewrite, rewrite))
        else {
            // Overtaken: the next step says so.
            return Ok(Caught::More);
        };
        let little = running.since_bytes <= HANDOVER_BYTES_MAX;
        if !little && running.catch_ups < CATCH_UPS_MAX {
            running.catch_ups += 1;
            running.since_bytes = 0;
            rewrite.add(pack(&std::mem::take(&mut running.since)));
            return Ok(Caught::More);
        }
        self.hand_over(move_to)?;
        Ok(Caught::Up)
    }

    fn is_running(&self, rewrite: &Arc<Rewrite>) -> bool {
        self.running.as_ref().is_some_and(|running| Arc::ptr_eq(&running.rewrite, rewrite))
    }

    /// Gives the running attempt up, if there is one. Waits for the piece that is being written.
    fn give_up(&mut self) {
        if let Some(Running { rewrite, .. }) = self.running.take() {
            rewrite.kill();
            self.look_at = self.fill().look_again_at();
            self.volume.metrics().mdc_checkpoints_abandoned.add(1);
        }
    }

    /// Steps 3 and 4. After an error the old log is still the active one, or the volume is
    /// poisoned.
    fn hand_over(&mut self, move_to: &mut dyn FnMut([Log; 2]) -> Result<()>) -> Result<()> {
        let running = self.running.as_ref().expect("an attempt is under way");
        let mut writer = running.rewrite.finish().expect("who kills it also forgets it");
        let target = running.rewrite.target;
        let bodies = pack(&running.since);
        let (need_bytes, free_bytes) = (frames_len(&bodies) + MARK_LEN, writer.free_bytes());
        if need_bytes > free_bytes {
            return Err(Error::Full { need_bytes, free_bytes });
        }
        let (last, before) = bodies.split_last().map_or((&[][..], &[][..]), |(l, b)| (&l[..], b));
        for body in before {
            writer.frame(FrameKind::State, body, Durability::AtFlush)?;
        }
        if !before.is_empty() {
            self.volume.flush()?;
        }
        writer.frame(FrameKind::End, last, Durability::Now)?;
        match target {
            Target::OtherLog => {
                let old = self.place.logs[self.active];
                mark(&self.volume, old, self.place.owner, FrameKind::Retired, writer.generation)?;
                self.active = 1 - self.active;
            }
            Target::NewLogs(logs) => {
                move_to(logs)?;
                // Not free yet. Nothing looks there but a search for a lost journal
                // (`offline::recover`).
                for old in self.place.logs {
                    mark(
                        &self.volume,
                        old,
                        self.place.owner,
                        FrameKind::Retired,
                        writer.generation,
                    )?;
                }
                self.place.logs = logs;
                self.active = 0;
            }
        }
        self.writer = writer;
        self.running = None;
        self.look_at = 0;
        self.volume.metrics().mdc_checkpoints.add(1);
        Ok(())
    }
}

/// What the state takes in a log of its own.
pub(crate) fn rewritten_len(bodies: &[Vec<u8>]) -> u64 {
    2 * MARK_LEN + frames_len(bodies)
}

/// For journals whose logs stay where they are.
pub(crate) fn no_move(_: [Log; 2]) -> Result<()> {
    unreachable!("only the pool's journal is given new logs")
}

/// Scans both logs. One that cannot be read is set aside: if the other counts, it is not needed.
pub(crate) fn elected(volume: &Volumes, place: &Place) -> Result<Elected> {
    let mut unreadable = None;
    let mut states = [LogState::Unreadable; 2];
    for (state, log) in states.iter_mut().zip(place.logs) {
        match LogReader::new(volume, log, place.owner).scan() {
            Ok(found) => *state = found,
            Err(error @ Error::Io { .. }) => unreadable = Some(error),
            Err(error) => return Err(error),
        }
    }
    elect(states).map_err(|e| {
        let corrupt =
            || Error::corrupt(place.name.clone(), place.logs[e.log].offset + e.at, e.reason);
        unreadable.unwrap_or_else(corrupt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, address::ALLOC_UNIT, heads::log::Kept, journal::mdc::MDC_RECORD_BYTES_MAX,
        metrics::PoolMetrics,
    };
    use mpool_sim::SimDevice;

    const LOG_LEN: u64 = 64 * ALLOC_UNIT;

    fn place() -> Place {
        let log = |n: u64| Log { offset: 2 * n * LOG_LEN, len: LOG_LEN, kept: Kept::Twice };
        Place { name: "test journal".to_owned(), owner: 7, logs: [log(0), log(1)] }
    }

    fn volume(device: &SimDevice) -> Arc<Volumes> {
        Arc::new(Volumes::new(Arc::new(device.clone()), Arc::new(PoolMetrics::default())))
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
        let device = SimDevice::new(4 * LOG_LEN);
        device.grow(4 * LOG_LEN).unwrap();
        let mut pair = LogPair::format(volume(&device), place()).unwrap();
        // Three of them fit into a log, a fourth does not.
        for _ in 0..3 + 3 * rewrites {
            pair.append(&big(1), MdcRoom::Usual, Some(&Vec::new)).unwrap();
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
        pair.append(record, MdcRoom::Usual, Some(&|| state.to_vec())).is_ok()
    }

    /// Two attempts to rewrite the same log, the first cut short: nothing of it shows in the
    /// second.
    #[test]
    fn remains_of_an_unfinished_checkpoint_never_pass_for_frames_of_the_next() {
        // begin, flush, three states, flush, end and flush, retired and flush, each write twice;
        // the second has two states less, and its record.
        const CALLS: u64 = 16;
        for (rewrites, first) in
            [0, 1].into_iter().flat_map(|r| (0..CALLS - 1).map(move |c| (r, c)))
        {
            let base = full(rewrites);
            for second in 0..CALLS {
                let seed = first * CALLS + second;
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
