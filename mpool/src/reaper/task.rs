//! The reaper's thread: measures, decides, applies, waits.
//!
//! While nothing needs evicting, a tick is one `pread`, a walk over the objects' counters and a few
//! atomics. What takes longer is bounded: an eviction pass by bytes and pages scanned, aging by
//! pages, resync by objects.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    Registered, Shared,
    policy::{self, ConsumerLevel, Decision, Levels, Pressure},
    sweep::Sweep,
    victim::{self, Stock, Want},
};
use crate::{
    mcache::{Class, Residency, pages::PAGE_BYTES},
    sys::advise,
};

/// Objects whose counters are added up in one tick: about 50 us. With more, the sums are renewed
/// every few ticks and carried forward by the counters of filling in between.
const OBJECTS_PER_TICK: u64 = 2048;
/// One object is compared with the page cache every so many ticks, at 1-50 us each.
const RESYNC_EVERY_TICKS: u64 = 5;
/// Counts are halved once in this many accesses per resident page.
const AGE_ACCESSES: u64 = 10;
/// Pages aged each tick at most: about a millisecond.
const AGE_PAGES_MAX: u64 = 1 << 18;
/// How often the pressure file is read.
const PRESSURE_EVERY: Duration = Duration::from_millis(100);
/// Tasks that wait for memory this part of the time are an alarm.
const ALARM_PCT: u128 = 10;
/// How often the allocator is asked to give memory back, at most.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// The thread's own state.
pub(super) struct Task {
    shared: Arc<Shared>,
    sweep: Sweep,
    residency: Residency,
    /// Bytes ever filled when `residency` was added up, and ticks until it is again.
    filled_bytes: u64,
    renew_in: u64,
    reaping: bool,
    accesses: u64,
    pressure: PressureGauge,
    trimmed: Option<Instant>,
    admit_at: u8,
    was_enabled: bool,
}

/// The share of time that tasks waited for memory.
#[derive(Default)]
struct PressureGauge {
    read: Option<(Instant, u64)>,
    alarm: bool,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sweep: Sweep::default(),
            residency: Residency::default(),
            filled_bytes: 0,
            renew_in: 0,
            reaping: false,
            accesses: 0,
            pressure: PressureGauge::default(),
            trimmed: None,
            admit_at: 1,
            was_enabled: false,
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let tick = Duration::from_millis(self.shared.options.tick_ms.into());
        loop {
            if self.shared.enabled.load(Relaxed) {
                self.was_enabled = true;
                self.tick(Instant::now());
            } else if std::mem::take(&mut self.was_enabled) {
                self.shared.mcache.room.lift();
                self.shared.levels.pressure.store(0, Relaxed);
            }
            let mut stop = self.shared.stop.lock();
            if !*stop {
                self.shared.wake.wait_for(&mut stop, tick);
            }
            if *stop {
                return;
            }
        }
    }

    /// One look, and what follows from it.
    pub(super) fn tick(&mut self, now: Instant) {
        self.measure_residency();
        let alarm = self.pressure.alarm(&self.shared, now);
        let levels = self.levels(alarm);
        let decision = policy::decide(&levels);
        self.apply_targets(&decision, now);
        self.reaping = decision.pressure.evicts();
        if decision.pressure.is_tight() {
            let dead = self.shared.mcache.dead_objects();
            let dead_bytes: Vec<u64> = dead.iter().map(|o| o.resident_bytes()).collect();
            for object in &dead {
                self.shared.mcache.drop_dead(object);
            }
            if self.reaping {
                self.evict(&decision, dead_bytes);
            }
            self.renew_in = 0;
        }
        self.relax_admission(&decision);
        self.shared.mcache.room.grant(decision.room_bytes, self.admit_at);
        if self.shared.levels.ticks.get().is_multiple_of(RESYNC_EVERY_TICKS) {
            self.sweep.resync(&self.shared.mcache, 1);
        }

        let seen = &self.shared.levels;
        seen.ticks.add(1);
        seen.passes.add(self.reaping.into());
        seen.alarms.add(alarm.into());
        seen.used_bytes.store(levels.usage_bytes, Relaxed);
        seen.pressure.store(decision.pressure.index(), Relaxed);
        seen.scanned_pages.store(self.sweep.scanned_pages, Relaxed);
    }

    /// Adds up the objects' counters, and ages pages by the accesses since the last time.
    fn measure_residency(&mut self) {
        if self.renew_in > 0 {
            self.renew_in -= 1;
            return;
        }
        let mcache = &self.shared.mcache;
        self.filled_bytes = filled_bytes(&self.shared);
        self.residency = mcache.residency();
        self.renew_in = self.residency.objects / OBJECTS_PER_TICK;

        let accesses = mcache.accesses();
        let new = accesses.saturating_sub(self.accesses);
        let resident_pages = (self.residency.total_bytes() / PAGE_BYTES).max(1024);
        let due = u128::from(new) * u128::from(self.residency.pages)
            / u128::from(resident_pages * AGE_ACCESSES);
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(AGE_PAGES_MAX);
        // Small dues are kept for later: an object is aged whole.
        if due > self.residency.pages.min(AGE_PAGES_MAX) / 64 {
            self.accesses = accesses;
            self.sweep.age(mcache, due);
        }
    }

    fn levels(&self, alarm: bool) -> Levels {
        let Shared { budget, options, .. } = &*self.shared;
        let of = |class: Class| self.residency.bytes[class.index()];
        let grown = filled_bytes(&self.shared).saturating_sub(self.filled_bytes);
        let index_bytes = of(Class::Hot) + of(Class::Pinned);
        let value_bytes = of(Class::Cold) + of(Class::Warm) + self.residency.dead_bytes + grown;
        let level = |r: &Registered| ConsumerLevel {
            used_bytes: r.consumer.used_bytes(),
            target_bytes: r.target_bytes,
            weight: r.consumer.weight(),
        };
        Levels {
            budget_bytes: budget.bytes,
            usage_bytes: budget.used_bytes(index_bytes + value_bytes),
            low_pct: options.low_pct,
            high_pct: options.high_pct,
            index_bytes,
            value_bytes,
            consumers: self.shared.consumers.lock().iter().map(level).collect(),
            alarm,
            reaping: self.reaping,
        }
    }

    fn apply_targets(&mut self, decision: &Decision, now: Instant) {
        let mut consumers = self.shared.consumers.lock();
        // A consumer that came since the measurement waits for the next one.
        for (r, target) in consumers.iter_mut().zip(&decision.target_bytes) {
            if r.consumer.weight() > 0 {
                r.grant(*target);
            }
        }
        drop(consumers);
        // What consumers free stays with the allocator unless it is asked.
        let due = self.trimmed.is_none_or(|at| now.duration_since(at) >= TRIM_EVERY);
        if decision.pending_bytes > 0 && due {
            self.trimmed = Some(now);
            advise::trim_heap();
        }
    }

    /// The threshold of the last eviction holds while memory is full, so that pages do not enter
    /// only to be the next victims. It sinks slowly, because counts are halved meanwhile.
    fn relax_admission(&mut self, decision: &Decision) {
        if decision.calm {
            self.admit_at = 1;
        } else if self.shared.levels.ticks.get().is_multiple_of(ADMIT_RELAX_TICKS) {
            self.admit_at = self.admit_at.saturating_sub(1).max(1);
        }
    }

    fn evict(&mut self, decision: &Decision, dead_bytes: Vec<u64>) {
        let mcache = &self.shared.mcache;
        let histograms = self.sweep.sample(mcache);
        let class_bytes = self.residency.bytes;
        let stock = Stock { dead_bytes, class_bytes, histograms };
        let want = Want {
            bytes: decision.evict_bytes,
            pending_bytes: decision.pending_bytes,
            emergency: decision.pressure == Pressure::Emergency,
        };
        let steps = victim::choose(&stock, want);
        for step in &steps {
            self.sweep.evict(mcache, *step);
        }
        // A page that would be the next victim is not worth admitting.
        let cold = steps.iter().find(|step| step.class == Class::Cold);
        self.admit_at = cold.map_or(1, |step| step.threshold.clamp(1, ADMIT_AT_MAX));
        tracing::trace!(?decision, ?steps, "reaped");
    }
}

/// One step down in the threshold for admission every so many ticks.
const ADMIT_RELAX_TICKS: u64 = 64;
/// Counts saturate at 15; a threshold near it would admit nothing any more.
const ADMIT_AT_MAX: u8 = 12;

fn filled_bytes(shared: &Shared) -> u64 {
    let metrics = &shared.mcache.metrics;
    metrics.filled_bytes.get() + metrics.preloaded_bytes.get()
}

impl PressureGauge {
    fn alarm(&mut self, shared: &Shared, now: Instant) -> bool {
        if self.read.is_some_and(|(at, _)| now.duration_since(at) < PRESSURE_EVERY) {
            return self.alarm;
        }
        let Some(stalled_us) = shared.budget.stalled_us() else { return false };
        if let Some((at, before)) = self.read {
            let stalled = u128::from(stalled_us.saturating_sub(before));
            self.alarm = stalled * 100 >= now.duration_since(at).as_micros() * ALARM_PCT;
        }
        self.read = Some((now, stalled_us));
        self.alarm
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // However the thread ends: nobody renews the allowance any more, so it must not run out.
        self.shared.mcache.room.lift();
    }
}
