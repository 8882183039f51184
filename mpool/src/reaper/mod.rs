//! The reaper: keeps mapped pages, caches and everything else under one memory budget.
//!
//! A thread looks every few milliseconds at how much is in use ([`budget`]), decides what follows
//! ([`policy`], [`victim`]; both pure) and applies it ([`task`], [`sweep`]): targets for whoever
//! else holds memory, pages to evict, room to grant to those who want to fill pages. So no reader
//! ever waits for the kernel to reclaim memory, and the choice of victims is ours: behind a mapping
//! advised `RANDOM` the kernel's own is no better than first in, first out.
//!
//! With the policy `off`, everything is admitted at the first touch, the kernel reclaims, and
//! consumers with a weight get nothing.

mod budget;
pub(crate) mod cgroup;
mod policy;
mod rounds;
mod split;
mod sweep;
mod task;
#[cfg(test)]
mod tests;
mod victim;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use self::{budget::Budget, policy::Pressure, task::Task};
use crate::{
    error::{Error, Result},
    metrics::{Counter, MetricKind, Sample, Value},
    object::mcache::Mcache,
    options::{ReaperOptions, ReaperPolicy},
};

/// The memory that a pool opened now would have for data: its cgroup's limit, or `wanted_bytes`
/// where that is less, or a share of what is available; see [`ReaperOptions::budget_bytes`].
pub fn memory_budget_bytes(wanted_bytes: Option<u64>) -> u64 {
    Budget::find(wanted_bytes).bytes
}

/// Someone else who holds memory under the same budget: a value cache, memtables.
///
/// Its methods run on the reaper's thread and must not call the reaper.
pub trait MemoryConsumer: Send + Sync {
    /// For people and metrics.
    fn name(&self) -> &'static str;
    /// Bytes held now. Called every tick: cheap, and takes no lock that is held for long.
    fn used_bytes(&self) -> u64;
    /// What is granted from now on; called when it changes. Consumers that cannot shrink ignore it.
    fn set_target_bytes(&self, bytes: u64);
    /// What a larger target would have brought; see [`MarginalHits`]. Called every second or so.
    /// None, which is also the default, where nobody counts: then the split with mapped pages stays
    /// as it is.
    fn marginal_hits(&self) -> Option<MarginalHits> {
        None
    }
    /// Share of what is left after fixed consumers; 0 = fixed: reported and made room for.
    fn weight(&self) -> u32;
}

/// Requests that went to the drive, but would have been answered from memory if the consumer had
/// had a little more of it: those for names that it has evicted of late (*ghosts*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarginalHits {
    /// Such requests, ever.
    pub hits: u64,
    /// What the ghosts that are remembered now would take if they were in memory.
    pub ghost_bytes: u64,
}

/// The reaper in numbers.
#[derive(Clone, Debug)]
pub struct ReaperStats {
    /// Who decides what leaves memory.
    pub policy: ReaperPolicy,
    /// What may be used.
    pub budget_bytes: u64,
    /// What is used, by the last look.
    pub used_bytes: u64,
    /// Where the budget comes from: "cgroup v2", "options", ...
    pub source: &'static str,
    /// Times something was evicted.
    pub passes: u64,
    /// Bytes of live objects' pages evicted.
    pub evicted_bytes: u64,
    /// Bytes of deleted objects' pages dropped.
    pub dead_bytes: u64,
    /// How tight memory is: "none", "near", "reaping", "alarm", "emergency"; "off".
    pub pressure: &'static str,
    /// Other processes' page cache in our cgroup that is left to the kernel, and not counted as
    /// used.
    pub foreign_bytes: u64,
    /// Value pages' part of what they share with weighted consumers, in thousandths.
    pub value_permille: u64,
    /// How urgent the policy `mpool` finds it, from 0 to 10,000.
    pub urgency: u32,
    /// CPU time that the reaper has taken.
    pub cpu: Duration,
    /// Name, bytes used and bytes granted of each consumer.
    pub consumers: Vec<(&'static str, u64, u64)>,
}

/// The memory governor of one pool. Its thread ends with it.
pub struct Reaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its owner share.
struct Shared {
    mcache: Arc<Mcache>,
    budget: Budget,
    options: ReaperOptions,
    policy: AtomicU8,
    consumers: Mutex<Vec<Registered>>,
    stop: Mutex<bool>,
    wake: Condvar,
    levels: Seen,
}

struct Registered {
    consumer: Arc<dyn MemoryConsumer>,
    /// 0 for a fixed consumer.
    target_bytes: u64,
    /// It was told its target.
    granted: bool,
}

/// What the last tick saw and did, for people.
#[derive(Debug, Default)]
struct Seen {
    used_bytes: AtomicU64,
    pressure: AtomicU8,
    ticks: Counter,
    passes: Counter,
    scanned_pages: AtomicU64,
    alarms: Counter,
    foreign_bytes: AtomicU64,
    value_permille: AtomicU64,
    urgency: AtomicU64,
    dropped_objects: Counter,
    cpu_us: AtomicU64,
}

impl Reaper {
    /// Starts the thread `mp-reaper` over `mcache`.
    pub(crate) fn start(options: &ReaperOptions, mcache: &Arc<Mcache>) -> Result<Self> {
        let budget = Budget::find(options.budget_bytes);
        tracing::info!(budget_bytes = budget.bytes, source = budget.source, "memory budget");
        let shared = Shared::new(Arc::clone(mcache), options, budget);
        let task = Task::new(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("mp-reaper".into())
            .spawn(move || task.run())
            .map_err(|e| Error::Options(format!("no thread for the reaper: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Counts `consumer` in, and grants it a first target at once. It stays until
    /// [`Reaper::unregister`] or the end of the pool.
    pub fn register(&self, consumer: Arc<dyn MemoryConsumer>) {
        let mut consumers = self.shared.consumers.lock();
        let weight = consumer.weight();
        let weights = consumers.iter().map(|r| u64::from(r.consumer.weight())).sum::<u64>();
        let weights = weights + u64::from(weight);
        let mut new = Registered { consumer, target_bytes: 0, granted: false };
        if weight > 0 {
            new.grant(match self.policy() {
                ReaperPolicy::Frequency => {
                    policy::static_target(self.shared.budget.bytes, weight, weights)
                }
                ReaperPolicy::Mpool | ReaperPolicy::Off => 0,
            });
        }
        consumers.push(new);
        drop(consumers);
        self.shared.wake.notify_all();
    }

    /// Counts `consumer` out.
    pub fn unregister(&self, consumer: &Arc<dyn MemoryConsumer>) {
        let is_it =
            |r: &Registered| Arc::as_ptr(&r.consumer).addr() == Arc::as_ptr(consumer).addr();
        self.shared.consumers.lock().retain(|r| !is_it(r));
    }

    /// The reaper in numbers, as of its last look.
    pub fn stats(&self) -> ReaperStats {
        let Shared { budget, levels, mcache, .. } = &*self.shared;
        let pressure = Pressure::from_index(levels.pressure.load(Relaxed));
        let consumers = self.shared.consumers.lock();
        let consumer =
            |r: &Registered| (r.consumer.name(), r.consumer.used_bytes(), r.target_bytes);
        ReaperStats {
            policy: self.policy(),
            budget_bytes: budget.bytes,
            used_bytes: levels.used_bytes.load(Relaxed),
            source: budget.source,
            passes: levels.passes.get(),
            evicted_bytes: mcache.metrics.evicted_bytes.get(),
            dead_bytes: mcache.metrics.dead_bytes.get(),
            pressure: match self.policy() {
                ReaperPolicy::Off => "off",
                ReaperPolicy::Frequency | ReaperPolicy::Mpool => pressure.name(),
            },
            foreign_bytes: levels.foreign_bytes.load(Relaxed),
            value_permille: levels.value_permille.load(Relaxed),
            urgency: u32::try_from(levels.urgency.load(Relaxed)).unwrap_or(u32::MAX),
            cpu: Duration::from_micros(levels.cpu_us.load(Relaxed)),
            consumers: consumers.iter().map(consumer).collect(),
        }
    }

    /// Who decides what leaves memory.
    pub fn policy(&self) -> ReaperPolicy {
        self.shared.policy()
    }

    /// Changes who decides, while the pool is open. Takes effect within a tick; memory changes
    /// hands over the next seconds.
    pub fn set_policy(&self, policy: ReaperPolicy) {
        self.shared.policy.store(policy.index(), Relaxed);
        self.shared.wake.notify_all();
    }

    /// Bytes that may enter the page cache until its next look, as far as they are worth it.
    pub fn room(&self) -> u64 {
        let room = self.shared.mcache.room.left();
        if self.policy() == ReaperPolicy::Frequency {
            return room;
        }
        // Admission has no bound then, but what is more than the budget displaces something.
        let budget = &self.shared.budget;
        let mapped = self.shared.mcache.residency().total_bytes();
        let foreign = self.shared.levels.foreign_bytes.load(Relaxed);
        room.min(budget.bytes.saturating_sub(budget.used_bytes(mapped, foreign)))
    }

    /// Shows every metric to `see`: name without the `millpond_` prefix, help, kind, value.
    pub fn visit(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        use MetricKind::{Counter as C, Gauge as G};
        let Seen { used_bytes, pressure, ticks, passes, scanned_pages, alarms, .. } =
            &self.shared.levels;
        let room = &self.shared.mcache.room;
        let (used, pressure) = (used_bytes.load(Relaxed), pressure.load(Relaxed).into());
        see("mpool_reaper_budget_bytes", "memory that may be used", G, self.shared.budget.bytes);
        see("mpool_reaper_used_bytes", "memory in use, as the budget counts it", G, used);
        let policy = self.policy().index().into();
        see("mpool_reaper_policy", "0 frequency, 1 mpool, 2 off", G, policy);
        see(
            "mpool_reaper_pressure",
            "0 none, 1 near, 2 reaping, 3 alarm, 4 emergency",
            G,
            pressure,
        );
        see("mpool_reaper_room_bytes", "bytes that may enter the page cache now", G, room.left());
        see(
            "mpool_reaper_admit_at",
            "touches before a page is admitted",
            G,
            room.admit_at().into(),
        );
        see("mpool_reaper_ticks_total", "looks at memory", C, ticks.get());
        see("mpool_reaper_passes_total", "looks that evicted something", C, passes.get());
        see(
            "mpool_reaper_alarms_total",
            "looks that found tasks waiting for memory",
            C,
            alarms.get(),
        );
        let scanned = scanned_pages.load(Relaxed);
        see("mpool_reaper_scanned_pages_total", "page states looked at for victims", C, scanned);
        self.visit_policies(see);
    }

    /// What each policy knows of its own.
    fn visit_policies(&self, see: &mut dyn FnMut(&'static str, &'static str, MetricKind, u64)) {
        use MetricKind::{Counter as C, Gauge as G};
        // Exhaustive on purpose: a new field does not compile until it is named here.
        let Seen {
            used_bytes: _,
            pressure: _,
            ticks: _,
            passes: _,
            scanned_pages: _,
            alarms: _,
            foreign_bytes,
            value_permille,
            urgency,
            dropped_objects,
            cpu_us: _,
        } = &self.shared.levels;
        let help = "page cache of others in our cgroup, not counted as used";
        see("mpool_reaper_foreign_bytes", help, G, foreign_bytes.load(Relaxed));
        let help = "value pages' part of what they share with caches";
        see("mpool_reaper_value_pages_permille", help, G, value_permille.load(Relaxed));
        let help = "policy mpool: 0 idle, up to 10000";
        see("mpool_reaper_urgency", help, G, urgency.load(Relaxed));
        let help = "policy mpool: objects dropped for their age";
        see("mpool_reaper_dropped_objects_total", help, C, dropped_objects.get());
    }

    /// Shows the times it spent and cost.
    pub(crate) fn visit_times(&self, see: &mut dyn FnMut(Sample<'_>)) {
        let throttled_us = self.shared.mcache.room.throttled_us.get();
        let cpu_us = self.shared.levels.cpu_us.load(Relaxed);
        for (name, help, us) in [
            (
                "mpool_reaper_throttled_seconds_total",
                "policy mpool: time that faults were made to sleep",
                throttled_us,
            ),
            ("mpool_reaper_cpu_seconds_total", "CPU time of the reaper's thread", cpu_us),
        ] {
            let value = Value::Counter(Duration::from_micros(us).as_secs_f64());
            see(Sample { name, help, labels: &[], value });
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        *self.shared.stop.lock() = true;
        self.shared.wake.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // A consumer's target can be set from the thread itself, and may be what drops the pool.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the reaper's thread had panicked");
        }
    }
}

impl Shared {
    fn new(mcache: Arc<Mcache>, options: &ReaperOptions, budget: Budget) -> Arc<Self> {
        Arc::new(Self {
            mcache,
            budget,
            options: options.clone(),
            policy: AtomicU8::new(options.policy.index()),
            consumers: Mutex::default(),
            stop: Mutex::new(false),
            wake: Condvar::new(),
            levels: Seen::default(),
        })
    }

    fn policy(&self) -> ReaperPolicy {
        ReaperPolicy::from_index(self.policy.load(Relaxed))
    }
}

impl Registered {
    fn grant(&mut self, bytes: u64) {
        if self.target_bytes != bytes || !self.granted {
            self.granted = true;
            self.target_bytes = bytes;
            self.consumer.set_target_bytes(bytes);
        }
    }
}
