//! The reaper's thread: measures, decides, applies, waits.
//!
//! While nothing needs evicting, a tick is one `pread`, a few atomics, and now and then a walk over
//! the objects' counters, so seldom that it stays under a hundredth of a core. What takes longer is
//! bounded: an eviction pass by bytes and pages scanned, aging by pages, resync by objects.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    Registered, Shared,
    policy::{self, ConsumerLevel, Decision, Levels, Pressure},
    rounds::{Clock, Rounds},
    split::{self, Ghosts},
    sweep::Sweep,
    victim::{self, Stock, Want},
};
use crate::{
    ReaperPolicy,
    object::mcache::{Class, Residency, fault_age::Supply, pages::PAGE_BYTES},
    sys::advise,
};

/// Objects whose counters are added up at the cost of one tick: under 100 us. With more, the sums
/// are renewed every so many ticks, and carried forward in between by what came and went.
const OBJECTS_PER_TICK: u64 = 1024;
/// Maps' counters take longer; they only set the pace of aging.
const ACCESSES_EVERY: u64 = 8;
/// One object is compared with the page cache every so many ticks, at 1-50 us each.
const RESYNC_EVERY_TICKS: u64 = 5;
/// Counts are halved once in this many accesses per resident page.
const AGE_ACCESSES: u64 = 10;
/// Pages aged each tick at most: about a millisecond.
const AGE_PAGES_MAX: u64 = 1 << 18;
/// How often it is read what the cgroup's usage is made of.
const FOREIGN_EVERY: Duration = Duration::from_millis(100);
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
    /// What had come and gone when `residency` was added up, and ticks until it is again.
    flow: Flow,
    renew_in: u64,
    renewals: u64,
    reaping: bool,
    accesses: u64,
    pressure: PressureGauge,
    trimmed: Option<Instant>,
    admit_at: u8,
    policy: Option<ReaperPolicy>,
    started: Instant,
    foreign: Foreign,
    rounds: Rounds,
    balance: Balance,
}

/// Bytes that ever came into maps and left them.
#[derive(Clone, Copy, Default)]
struct Flow {
    came: u64,
    left: u64,
}

/// Other people's page cache in our group, as last read.
#[derive(Default)]
struct Foreign {
    read: Option<Instant>,
    bytes: u64,
}

/// Where the split between value pages and consumers' caches stands.
struct Balance {
    permille: u64,
    looked: Option<Instant>,
    /// Ghost hits ever, of pages and of consumers, when it was looked at last.
    hits: (u64, u64),
    /// What the pages' ghosts would take, by the last sample.
    page_bytes: u64,
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
            flow: Flow::default(),
            renew_in: 0,
            renewals: 0,
            reaping: false,
            accesses: 0,
            pressure: PressureGauge::default(),
            trimmed: None,
            admit_at: 1,
            policy: None,
            started: Instant::now(),
            foreign: Foreign::default(),
            rounds: Rounds::default(),
            balance: Balance {
                permille: split::START_PERMILLE,
                looked: None,
                hits: (0, 0),
                page_bytes: 0,
            },
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let tick = Duration::from_millis(self.shared.options.tick_ms.into());
        loop {
            let policy = self.shared.policy();
            self.look(policy, Instant::now());
            let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let cpu_us = u64::try_from(cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1000).unwrap_or(0);
            self.shared.levels.cpu_us.store(cpu_us, Relaxed);
            let mut stop = self.shared.stop.lock();
            if !*stop {
                self.shared.wake.wait_for(&mut stop, tick);
            }
            if *stop {
                return;
            }
        }
    }

    /// One look under `policy`.
    pub(super) fn look(&mut self, policy: ReaperPolicy, now: Instant) {
        if self.policy.replace(policy) != Some(policy) {
            self.shared.mcache.room.lift();
            self.shared.levels.pressure.store(0, Relaxed);
            self.shared.levels.urgency.store(0, Relaxed);
            self.rounds = Rounds::default();
            if policy != ReaperPolicy::Frequency {
                self.grant_nothing();
            }
        }
        match policy {
            ReaperPolicy::Frequency => self.tick(now),
            ReaperPolicy::Mpool => self.tick_mpool(now),
            ReaperPolicy::Off => {}
        }
    }

    fn grant_nothing(&self) {
        let mut consumers = self.shared.consumers.lock();
        consumers.iter_mut().filter(|r| r.consumer.weight() > 0).for_each(|r| r.grant(0));
    }

    /// One look under the policy `mpool`: everything enters, objects leave by their age.
    fn tick_mpool(&mut self, now: Instant) {
        self.measure_residency();
        let levels = self.levels(false, now);
        let shared = Arc::clone(&self.shared);
        let Shared { options, mcache, levels: seen, .. } = &*shared;
        let supply = Supply {
            free_bytes: levels.budget_bytes.saturating_sub(levels.usage_bytes),
            tracked_bytes: levels.index_bytes + levels.value_bytes,
        };
        self.rounds.tune(now, supply, &options.mpool);
        let urgency = self.rounds.urgency();
        let now_us = now.duration_since(self.started).as_micros();
        let now_us =
            u64::try_from(now_us).expect("this process is younger than half a million years");
        mcache.room.set_clock(now_us);
        mcache.room.press(urgency, options.mpool.throttle);
        if urgency > 0 {
            for object in &mcache.dead_objects() {
                mcache.drop_dead(object);
            }
            let clock = Clock { now_us, ttl_us: u64::from(options.mpool.ttl_ms) * 1000 };
            let tick = Duration::from_millis(options.tick_ms.into());
            let dropped = self.rounds.run(mcache, tick, clock);
            seen.dropped_objects.add(dropped);
            seen.passes.add((dropped > 0).into());
        }
        let pressure = if urgency > 0 { Pressure::Reaping } else { Pressure::None };
        seen.ticks.add(1);
        seen.used_bytes.store(levels.usage_bytes, Relaxed);
        seen.pressure.store(pressure.index(), Relaxed);
        seen.urgency.store(urgency.into(), Relaxed);
        self.resync();
    }

    /// One look under the policy `frequency`, and what follows from it.
    pub(super) fn tick(&mut self, now: Instant) {
        self.measure_residency();
        let alarm = self.pressure.alarm(&self.shared, now);
        let levels = self.levels(alarm, now);
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
        }
        self.relax_admission(&decision);
        self.shared.mcache.room.grant(decision.room_bytes, self.admit_at);
        self.rebalance(&decision, now);
        self.resync();
        self.shared.mcache.recheck();

        let seen = &self.shared.levels;
        seen.ticks.add(1);
        seen.passes.add(self.reaping.into());
        seen.alarms.add(alarm.into());
        seen.used_bytes.store(levels.usage_bytes, Relaxed);
        seen.pressure.store(decision.pressure.index(), Relaxed);
        seen.scanned_pages.store(self.sweep.scanned_pages, Relaxed);
    }

    fn resync(&mut self) {
        if self.shared.levels.ticks.get().is_multiple_of(RESYNC_EVERY_TICKS) {
            self.sweep.resync(&self.shared.mcache, 1);
        }
    }

    /// Moves the split between value pages and consumers' caches, if both are short of memory.
    fn rebalance(&mut self, decision: &Decision, now: Instant) {
        let balance = &mut self.balance;
        let due = balance.looked.is_none_or(|at| now.duration_since(at) >= split::PERIOD);
        if !due {
            return;
        }
        let mcache = &self.shared.mcache;
        let pages = mcache.metrics.ghost_hits.get();
        if !decision.calm {
            let sample = self.sweep.sample(mcache);
            balance.page_bytes = sample.absent_bytes(self.admit_at, self.residency.pages);
        }
        let consumers = self.shared.consumers.lock();
        let reports = consumers.iter().filter_map(|r| r.consumer.marginal_hits());
        let caches = reports.fold((0, 0), |sum, m| (sum.0 + m.hits, sum.1 + m.ghost_bytes));
        let ghosts =
            |hits: u64, before: u64, bytes| Ghosts { hits: hits.saturating_sub(before), bytes };
        let pages_now = ghosts(pages, balance.hits.0, balance.page_bytes);
        let caches_now = ghosts(caches.0, balance.hits.1, caches.1);
        // Hits are gathered until there are enough to tell; with free room they tell nothing.
        if balance.looked.is_some() && !decision.calm {
            if pages_now.hits + caches_now.hits < split::HITS_MIN {
                return;
            }
            balance.permille = split::shift(balance.permille, pages_now, caches_now);
        }
        balance.looked = Some(now);
        balance.hits = (pages, caches.0);
        self.shared.levels.value_permille.store(balance.permille, Relaxed);
    }

    /// Adds up the objects' counters, and ages pages by the accesses since the last time.
    fn measure_residency(&mut self) {
        if self.renew_in > 0 {
            self.renew_in -= 1;
            return;
        }
        let mcache = &self.shared.mcache;
        self.flow = flow(&self.shared);
        self.residency = mcache.residency();
        self.renew_in = self.residency.objects / OBJECTS_PER_TICK;
        self.renewals += 1;
        if self.renew_in > 0 && !self.renewals.is_multiple_of(ACCESSES_EVERY) {
            return;
        }

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

    fn levels(&mut self, alarm: bool, now: Instant) -> Levels {
        let Shared { budget, options, levels: seen, .. } = &*self.shared;
        let of = |class: Class| self.residency.bytes[class.index()];
        let flow = flow(&self.shared);
        let came = flow.came.saturating_sub(self.flow.came);
        let left = flow.left.saturating_sub(self.flow.left);
        let index_bytes = of(Class::Hot) + of(Class::Pinned);
        let value_bytes = of(Class::Cold) + of(Class::Warm) + self.residency.dead_bytes;
        let value_bytes = (value_bytes + came).saturating_sub(left);
        let mapped_bytes = index_bytes + value_bytes;
        if self.foreign.read.is_none_or(|at| now.duration_since(at) >= FOREIGN_EVERY) {
            self.foreign = Foreign { read: Some(now), bytes: budget.foreign_bytes(mapped_bytes) };
            seen.foreign_bytes.store(self.foreign.bytes, Relaxed);
        }
        let level = |r: &Registered| ConsumerLevel {
            used_bytes: r.consumer.used_bytes(),
            target_bytes: r.target_bytes,
            weight: r.consumer.weight(),
        };
        Levels {
            budget_bytes: budget.bytes,
            usage_bytes: budget.used_bytes(mapped_bytes, self.foreign.bytes),
            low_pct: options.low_pct,
            high_pct: options.high_pct,
            index_bytes,
            value_bytes,
            value_permille: self.balance.permille,
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
        let sample = self.sweep.sample(mcache);
        let histograms = sample.resident;
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

fn flow(shared: &Shared) -> Flow {
    let metrics = &shared.mcache.metrics;
    Flow {
        came: metrics.filled_bytes.get() + metrics.preloaded_bytes.get(),
        left: metrics.evicted_bytes.get() + metrics.dead_bytes.get() + metrics.purged_bytes.get(),
    }
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
