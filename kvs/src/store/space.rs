//! Whether the volumes are full: what a writer is told, and what the log says of it.
//!
//! The figures are those of [`space`](crate::debt::space). Here they are asked for when a write or
//! a job begins, and remembered: whether puts are refused, since when, and how many were. The log
//! has one line when the first put is refused, and one before the first put is accepted again. A
//! store at the edge goes to and fro; until a good part of the volumes is writable again, refusals
//! are told once in [`TELL_AGAIN`] at most. So long compaction spares no effort.

use crate::debt::space::{Needs, SpaceInfo};
use crate::entry::batch::WriteBatch;
use crate::entry::op::Op;
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::metrics::{Counter, MetricKind, Sample, emit};
use crate::options::Options;
use crate::shape::life::Life;
use crate::shape::view::View;
use mpool::{FreeSpace, Pool};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rounds of work after space was short: one for what is in kvsets, one for the last deletes, which
/// are in the memtable until then.
const EFFORT: u8 = 2;

/// From when the log has said that puts are accepted until it says that they are refused again,
/// at least, while little has become free since.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// Whether the volumes are full, and what is remembered of it.
pub(crate) struct Space {
    pool: Arc<Pool>,
    life: Arc<Life>,
    /// Whether threads work in the background.
    has_threads: bool,
    /// What the engine's work needs of the pool.
    pub(crate) needs: Needs,
    /// Less than the reserve was free when somebody last looked.
    full: AtomicBool,
    /// Less than the reserve was free, and the relief has not been free since.
    short: AtomicBool,
    /// What the log has said of it; `None`: nothing since the relief was free.
    told: Mutex<Option<Told>>,
    /// Puts refused, ever.
    refused: Counter,
    /// Rounds of work that are still to be done as if space were short: it was until a moment ago.
    effort: AtomicU8,
    /// The deletes in the active memtable are to be flushed before the last round ends.
    last_deletes: AtomicBool,
    /// What compaction needs beyond what is free before it can free anything.
    stuck_bytes: AtomicU64,
    /// The log was asked to take what it needs while there still was room.
    log_is_ready: AtomicBool,
}

/// What the log says of refused puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// They are refused, since then; so many had been before.
    Refused(Instant, u64),
    /// They are accepted, since then.
    Accepted(Instant),
}

impl Told {
    /// Whether a refusal is to be told now.
    fn tells_refusal(told: Option<Self>, now: Instant) -> bool {
        match told {
            None => true,
            Some(Self::Refused(..)) => false,
            Some(Self::Accepted(since)) => now.duration_since(since) >= TELL_AGAIN,
        }
    }
}

impl Space {
    pub(crate) fn new((pool, life): (&Arc<Pool>, &Arc<Life>), options: &Options) -> Self {
        Self {
            needs: Needs::new(options, pool.free_space().total_bytes),
            pool: Arc::clone(pool),
            life: Arc::clone(life),
            has_threads: options.background_threads > 0,
            full: AtomicBool::default(),
            short: AtomicBool::default(),
            told: Mutex::default(),
            refused: Counter::default(),
            effort: AtomicU8::default(),
            last_deletes: AtomicBool::default(),
            stuck_bytes: AtomicU64::default(),
            log_is_ready: AtomicBool::default(),
        }
    }

    /// The space by who may use it.
    pub(crate) fn info(&self) -> SpaceInfo {
        let free = self.pool.free_space();
        self.note(free);
        self.account(free, 0)
    }

    /// As it was last noted.
    fn account(&self, free: FreeSpace, write_bytes: u64) -> SpaceInfo {
        let stuck_bytes = self.stuck_bytes.load(Ordering::Relaxed);
        let is_short = self.short.load(Ordering::Relaxed);
        SpaceInfo { stuck_bytes, ..self.needs.account(free, write_bytes, is_short) }
    }

    /// Keeps the bytes that are missing for any compaction to begin, 0 if none are. Logs a warning
    /// when it turns from 0.
    pub(crate) fn note_stuck(&self, stuck_bytes: u64) {
        let before = self.stuck_bytes.swap(stuck_bytes, Ordering::Relaxed);
        if before == 0 && stuck_bytes > 0 {
            tracing::warn!(
                stuck_bytes,
                "compaction has no room to free any space: drop a KVS, or add stuck_bytes to the \
                 volumes"
            );
        }
    }

    /// Refuses a batch that puts into a full volume, with `more_bytes` of values still to come.
    pub(crate) fn check_put(&self, batch: &WriteBatch, more_bytes: u64) -> Result<()> {
        if !self.is_full() || batch.ops().all(|(_, _, op)| op == Op::Tombstone) {
            return Ok(());
        }
        let free = self.pool.free_space();
        if !self.note(free) {
            return Ok(());
        }
        let need_bytes = batch.len_bytes() as u64 + more_bytes;
        let SpaceInfo { free_bytes, reserve_bytes, missing_bytes, .. } =
            self.account(free, need_bytes);
        self.refuse(free_bytes, reserve_bytes, missing_bytes);
        Err(self.full(free, need_bytes))
    }

    /// Refuses a compaction of what is stored while puts are refused: it has to write before it
    /// frees, and what is free is kept for those that free most for least.
    pub(crate) fn check_compact(&self) -> Result<()> {
        let free = self.pool.free_space();
        if !self.note(free) {
            return Ok(());
        }
        Err(self.full(free, self.needs.object_bytes))
    }

    fn full(&self, free: FreeSpace, need_bytes: u64) -> Error {
        let SpaceInfo { free_bytes, reserve_bytes, missing_bytes, stuck_bytes, .. } =
            self.account(free, need_bytes);
        let held_bytes = self.pool.metrics().held_bytes();
        Error::Full {
            need_bytes,
            free_bytes,
            reserve_bytes,
            missing_bytes,
            stuck_bytes,
            held_bytes,
        }
    }

    /// Counts a refusal; the first one is told.
    fn refuse(&self, free_bytes: u64, reserve_bytes: u64, missing_bytes: u64) {
        let before = self.refused.get();
        self.refused.add(1);
        let mut told = self.told.lock();
        let now = Instant::now();
        if Told::tells_refusal(*told, now) {
            *told = Some(Told::Refused(now, before));
            tracing::warn!(
                free_bytes,
                reserve_bytes,
                missing_bytes,
                "the volumes are full: puts are refused until about missing_bytes are deleted or \
                 added"
            );
            drop(told);
            // Compaction has more to do than a moment ago.
            self.life.bell.ring();
        }
    }

    /// Remembers whether the volumes are full, and says so.
    pub(crate) fn note(&self, free: FreeSpace) -> bool {
        let full = self.needs.is_short(free, false);
        // Of two who look at the same time either is right.
        let short = self.needs.is_short(free, self.short.load(Ordering::Relaxed));
        self.short.store(short, Ordering::Relaxed);
        if !full {
            // Before the first put is accepted, so that its writer finds the line.
            self.end_refusal(self.needs.account(free, 0, short));
        }
        if !short {
            *self.told.lock() = None;
        }
        self.full.store(full, Ordering::Relaxed);
        full
    }

    /// Tells that puts are accepted again, if the log says that they are refused.
    fn end_refusal(&self, SpaceInfo { writable_bytes, missing_bytes, .. }: SpaceInfo) {
        let mut told = self.told.lock();
        if let Some(Told::Refused(since, before)) = *told {
            *told = Some(Told::Accepted(Instant::now()));
            let refused = self.refused.get() - before;
            let seconds = since.elapsed().as_secs();
            tracing::info!(
                writable_bytes,
                missing_bytes,
                refused,
                seconds,
                "there is room for puts again"
            );
        }
    }

    /// Shows the gauges and the counter of the space.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let SpaceInfo {
            total_bytes,
            free_bytes: _,
            reserve_bytes,
            writable_bytes,
            missing_bytes,
            stuck_bytes,
        } = self.info();
        for (name, help, value) in [
            ("space_total_bytes", "Bytes in use and free, together.", total_bytes),
            (
                "space_reserve_bytes",
                "Free bytes kept for the log, flushes and compaction.",
                reserve_bytes,
            ),
            (
                "space_writable_bytes",
                "Bytes that puts can take before they are refused.",
                writable_bytes,
            ),
            (
                "space_missing_bytes",
                "About what must become free before puts are accepted for good; 0 unless they are \
                 refused or were and little has become free since.",
                missing_bytes,
            ),
            (
                "space_stuck_bytes",
                "Bytes that compaction lacks to free any; deleting does not help while there are.",
                stuck_bytes,
            ),
        ] {
            emit(see, MetricKind::Gauge, (name, help), &[], value);
        }
        let refused = ("space_refused_total", "Puts refused because the volumes were full.");
        emit(see, MetricKind::Counter, refused, &[], self.refused.get());
    }

    /// Whether the volumes were full when somebody last looked.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether puts are refused, or were until a moment ago.
    pub(crate) fn is_refusing(&self) -> bool {
        self.is_full() || self.told.lock().is_some()
    }

    /// Whether the volumes are full, or nearly.
    pub(crate) fn is_tight(&self) -> bool {
        let free = self.pool.free_space();
        free.object_bytes < self.needs.tight_bytes(free)
    }

    /// Whether work goes on as if space were short: it is, or what was deleted then has not all
    /// come back yet.
    pub(crate) fn is_emptying(&self) -> bool {
        if self.is_tight() {
            self.effort.store(EFFORT, Ordering::Relaxed);
            return true;
        }
        self.effort.load(Ordering::Relaxed) > 0
    }

    /// Ends a round of collection: the picker found no plan. The last one begins when the deletes
    /// are flushed that came with the round before it.
    pub(crate) fn end_round(&self, active: &Memtable) {
        if self.is_tight() {
            return;
        }
        let effort = self.effort.load(Ordering::Relaxed);
        if effort == EFFORT {
            // First, so that no other worker ends the last round before that flush.
            self.last_deletes.store(true, Ordering::Relaxed);
        }
        let less = less_effort(effort, self.last_deletes_wait(active));
        let order = Ordering::Relaxed;
        // Where another worker has changed it, that was the end of this round.
        let _ = self.effort.compare_exchange(effort, less, order, order);
    }

    /// Whether deletes are to be flushed for the last round. Without threads nothing flushes them.
    fn last_deletes_wait(&self, active: &Memtable) -> bool {
        self.has_threads && self.last_deletes.load(Ordering::Relaxed) && active.has_deletes()
    }

    /// Whether the deletes of the last round are to be flushed: once, at once.
    pub(crate) fn take_last_deletes(&self) -> bool {
        self.last_deletes.swap(false, Ordering::Relaxed)
    }

    /// Bytes that a job may write now: what flushes of the present memtables, segments that are
    /// still to come, and running jobs (`admitted_bytes`) do not need.
    pub(crate) fn job_room(&self, view: &View, free: FreeSpace, admitted_bytes: u64) -> u64 {
        let memtables: usize = view.memtables().map(|table| table.bytes()).sum();
        let promised = memtables as u64 + self.needs.log_bytes(free) + admitted_bytes;
        free.object_bytes.saturating_sub(promised)
    }

    /// When space becomes short, the log takes the segments that it needs to go on, once: later
    /// there may be none in one piece. Whether that is now.
    pub(crate) fn log_gets_ready(&self, free: FreeSpace) -> bool {
        let is_ready = &self.log_is_ready;
        if free.object_bytes >= self.needs.tight_bytes(free) {
            is_ready.store(false, Ordering::Relaxed);
            return false;
        }
        self.needs.log_bytes(free) > 0 && !is_ready.swap(true, Ordering::Relaxed)
    }
}

/// The rounds that are left at the end of one. `deletes_wait`: for the flush before the last.
fn less_effort(effort: u8, deletes_wait: bool) -> u8 {
    match effort {
        EFFORT => EFFORT - 1,
        rest if deletes_wait => rest,
        rest => rest.saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_again_a_while_after_puts_were_accepted() {
        let then = Instant::now();
        let told = Told::tells_refusal;
        assert!(told(None, then));
        assert!(!told(Some(Told::Refused(then, 0)), then + TELL_AGAIN * 9));
        assert!(!told(Some(Told::Accepted(then)), then + TELL_AGAIN / 2));
        assert!(told(Some(Told::Accepted(then)), then + TELL_AGAIN));
    }

    /// Two workers ended both rounds within a moment, and the last deletes stayed in the memtable.
    #[test]
    fn the_last_round_waits_for_the_flush_of_the_last_deletes() {
        for (effort, deletes_wait, left) in
            [(2, false, 1), (2, true, 1), (1, true, 1), (1, false, 0), (0, true, 0), (0, false, 0)]
        {
            assert_eq!(less_effort(effort, deletes_wait), left, "{effort} {deletes_wait}");
        }
    }
}
