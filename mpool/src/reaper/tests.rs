//! The reaper over simulated and real workloads.
//!
//! Ticks are stepped by hand where the outcome must be exact; the thread itself is only tested for
//! its life cycle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    MarginalHits, MemoryConsumer, Reaper, Registered, Shared,
    budget::Budget,
    policy::{ConsumerLevel, Levels, decide},
    task::Task,
    victim::{Histogram, Stock, Want, choose},
};
use crate::{
    IoBuf,
    object::mcache::{
        Class,
        pages::{PAGE_BYTES, PAGE_LEN},
        tests::World,
    },
    options::{MpoolOptions, ReaperOptions, ReaperPolicy},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Seeded, so that a failure replays: the seed is in every message.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// Skewed: a quarter of the range gets 7 of 16 picks, and so on down.
    fn skewed(&mut self, n: u64) -> u64 {
        let limit = 1 + self.below(n);
        let limit = 1 + self.below(limit);
        self.below(limit)
    }
}

struct Cache {
    used: AtomicU64,
    target: AtomicU64,
    weight: u32,
    marginal: Mutex<Option<MarginalHits>>,
}

impl Cache {
    fn new(used: u64, weight: u32) -> Arc<Self> {
        Arc::new(Self {
            used: used.into(),
            target: AtomicU64::new(u64::MAX),
            weight,
            marginal: Mutex::default(),
        })
    }
}

impl MemoryConsumer for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn used_bytes(&self) -> u64 {
        self.used.load(SeqCst)
    }

    fn set_target_bytes(&self, bytes: u64) {
        self.target.store(bytes, SeqCst);
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn marginal_hits(&self) -> Option<MarginalHits> {
        *self.marginal.lock()
    }
}

fn options() -> ReaperOptions {
    ReaperOptions { low_pct: 10, high_pct: 20, tick_ms: 1, ..ReaperOptions::default() }
}

/// A reaper without a thread, whose budget counts mapped pages only.
fn stepped(world: &World, budget_bytes: u64, consumers: &[&Arc<Cache>]) -> (Arc<Shared>, Task) {
    let budget = Budget::of_mapped_pages(budget_bytes);
    let shared = Shared::new(Arc::clone(&world.mcache), &options(), budget);
    for cache in consumers {
        let consumer: Arc<dyn MemoryConsumer> = Arc::clone(*cache) as _;
        shared.consumers.lock().push(Registered {
            consumer,
            target_bytes: budget_bytes / 2,
            granted: true,
        });
    }
    let task = Task::new(Arc::clone(&shared));
    (shared, task)
}

/// A store in numbers: a cache that fills up to its target, an index that grows, memtables that
/// come and go, value pages that take whatever room is granted.
#[test]
fn usage_stays_under_the_budget_in_a_simulated_workload() {
    const BUDGET: u64 = 2048 * MIB;
    for seed in 1..=20_u64 {
        let mut rng = Rng(seed * 0x9e37_79b9);
        let (mut cache, mut index, mut values) = (0_u64, 64 * MIB, 0_u64);
        let (mut target, mut reaping, mut emergencies) = (BUDGET / 2, false, 0);
        for tick in 0..4000_u64 {
            // A flush every two seconds, and an index that reaches a quarter of the budget.
            let memtables = (tick % 200) * MIB;
            index += rng.below(256 * KIB);
            cache = (cache + rng.below(16 * MIB)).min(target.max(cache / 8 * 7));
            let other = 96 * MIB + rng.below(8 * MIB);
            let usage = cache + index + values + memtables + other;
            assert!(usage <= BUDGET, "seed {seed}, tick {tick}: {usage} used");
            let consumer = |used_bytes, target_bytes, weight| ConsumerLevel {
                used_bytes,
                target_bytes,
                weight,
            };
            let levels = Levels {
                budget_bytes: BUDGET,
                usage_bytes: usage,
                low_pct: 3,
                high_pct: 5,
                index_bytes: index,
                value_bytes: values,
                value_permille: 100,
                consumers: vec![consumer(cache, target, 1), consumer(memtables, 0, 0)],
                alarm: false,
                reaping,
            };
            let decision = decide(&levels);
            target = decision.target_bytes[0];
            reaping = decision.pressure.evicts();
            emergencies += u32::from(usage > BUDGET / 100 * 98);
            let stock = Stock {
                dead_bytes: vec![],
                class_bytes: [values, 0, index, 0],
                histograms: [Histogram::default(); Class::COUNT],
            };
            let want = Want {
                bytes: decision.evict_bytes,
                pending_bytes: decision.pending_bytes,
                emergency: false,
            };
            for step in choose(&stock, want) {
                match step.class {
                    Class::Cold => values -= step.bytes,
                    _ => index -= step.bytes,
                }
            }
            values += decision.room_bytes.min(rng.below(20 * MIB));
        }
        assert!(cache > BUDGET / 4, "seed {seed}: the cache was starved, {cache}");
        assert!(emergencies < 40, "seed {seed}: {emergencies} ticks over 98 %");
    }
}

#[test]
fn real_pages_stay_under_the_budget_and_the_hot_ones_stay_in() {
    const OBJECTS: u64 = 16;
    const BUDGET: u64 = MIB;
    let world = World::new(OBJECTS);
    let (shared, mut task) = stepped(&world, BUDGET, &[]);
    let map = world.map(&(0..OBJECTS).collect::<Vec<_>>(), Class::Cold);
    let start = Instant::now();
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    let (seed, mut now) = (42, start);
    let mut rng = Rng(seed);
    task.tick(now);
    for op in 0..20_000_u64 {
        // Page n of the skewed order lies anywhere in the volume.
        let page = rng.skewed(OBJECTS * 64) * 397 % (OBJECTS * 64);
        let at = page % 64 * PAGE_BYTES;
        let object = usize::try_from(page / 64).unwrap();
        let bytes = map.read(object, at..at + 10, &mut scratch).unwrap();
        assert_eq!(bytes, [u8::try_from(page % 251).unwrap(); 10], "seed {seed}, op {op}");
        if op % 100 == 0 {
            let used = world.mcache.residency().total_bytes();
            assert!(used <= BUDGET, "seed {seed}, op {op}: {used} resident");
            now += Duration::from_millis(1);
            task.tick(now);
        }
    }
    let stats = map.stats();
    assert!(world.mcache.metrics.evicted_bytes.get() > 0);
    assert!(shared.levels.passes.get() > 0);
    // A quarter of the pages fits; without skew awareness a quarter of the reads would hit.
    let reads = stats.hits + stats.direct_reads + stats.faults;
    assert!(stats.hits * 100 / reads > 40, "seed {seed}: {stats:?}");
}

#[test]
fn dead_pages_go_before_live_ones_and_the_index_stays() {
    let world = World::new(12);
    let (_shared, mut task) = stepped(&world, 2 * MIB, &[]);
    // 12 objects of 256 KiB: 3 MiB in 2 MiB. Four are dead, three are index.
    let index = world.map(&[0, 1, 2], Class::Hot);
    let values = world.map(&[3, 4, 5, 6, 7], Class::Cold);
    let dead = world.map(&[8, 9, 10, 11], Class::Cold);
    for map in [&index, &values, &dead] {
        map.preload().unwrap();
    }
    (8..12).for_each(|n| world.mcache.mark_dead(World::place(n).key()));
    let now = Instant::now();
    task.tick(now);
    task.tick(now);
    let left = world.mcache.residency();
    assert_eq!(left.dead_bytes, 0);
    assert_eq!(left.bytes[Class::Hot.index()], 768 * KIB);
    assert!(left.bytes[Class::Cold.index()] >= 640 * KIB, "{left:?}");
    assert!(left.total_bytes() <= 2 * MIB / 100 * 90);
}

#[test]
fn a_cache_gives_way_to_the_index() {
    let world = World::new(4);
    let cache = Cache::new(0, 1);
    let (_shared, mut task) = stepped(&world, 2 * MIB, &[&cache]);
    let now = Instant::now();
    (0..200).for_each(|_| task.tick(now));
    let alone = cache.target.load(SeqCst);
    world.map(&[0, 1, 2, 3], Class::Pinned).preload().unwrap();
    let index = world.map(&[0, 1, 2, 3], Class::Pinned);
    (0..200).for_each(|_| task.tick(now));
    let beside = cache.target.load(SeqCst);
    // 80 % of 2 MiB, less a tenth; then less 1 MiB of index.
    assert!(alone.abs_diff(2 * MIB / 100 * 80 / 10 * 9) < KIB, "{alone}");
    assert_eq!(index.stats().resident_bytes, MIB);
    assert!((alone - beside).abs_diff(MIB / 10 * 9) < KIB, "{alone} {beside}");
}

/// Memory goes where a byte more of it would have saved more reads: here to the cache, while it
/// says so, and back to its start when it says that it has no use for more.
#[test]
fn ghost_hits_move_the_split() {
    let world = World::new(8);
    let cache = Cache::new(0, 1);
    let (shared, mut task) = stepped(&world, MIB, &[&cache]);
    let map = world.map(&(0..8).collect::<Vec<_>>(), Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    let mut now = Instant::now();
    let mut rng = Rng(7);
    let mut moves = |hits_a_round: u64| {
        let mut seen = Vec::new();
        for _ in 0..600 {
            for _ in 0..100 {
                let page = rng.below(8 * 64);
                let at = page % 64 * PAGE_BYTES;
                map.read(usize::try_from(page / 64).unwrap(), at..at + 10, &mut scratch).unwrap();
            }
            let mut marginal = cache.marginal.lock();
            let hits = marginal.map_or(0, |m| m.hits) + hits_a_round;
            *marginal = Some(MarginalHits { hits, ghost_bytes: 64 * KIB });
            drop(marginal);
            now += Duration::from_millis(100);
            task.tick(now);
            seen.push(shared.levels.value_permille.load(SeqCst));
        }
        seen
    };
    let towards_the_cache = moves(1000);
    assert!(towards_the_cache.is_sorted_by(|a, b| a >= b), "{towards_the_cache:?}");
    assert_eq!(towards_the_cache.last(), Some(&20), "its bound");
    let towards_pages = moves(0);
    assert!(towards_pages.is_sorted(), "{towards_pages:?}");
    assert!(*towards_pages.last().unwrap() > 300, "{towards_pages:?}");
}

#[test]
fn mpool_drops_whole_objects_by_the_time_since_their_last_fault() {
    let world = World::new(8);
    let budget = Budget::of_mapped_pages(2200 * KIB);
    let mpool = MpoolOptions { mempct: 50, ..MpoolOptions::default() };
    let shared =
        Shared::new(Arc::clone(&world.mcache), &ReaperOptions { mpool, ..options() }, budget);
    let mut task = Task::new(Arc::clone(&shared));
    let start = Instant::now() + Duration::from_secs(1);
    let at = |ms| start + Duration::from_millis(ms);
    // 256 KiB an object. With seven of them, 18.5 % are free and half should be: urgency 6402, and
    // a cold object may stay for 60 ms, a hot one for 6 s.
    let maps: Vec<_> = [Class::Cold, Class::Cold, Class::Cold, Class::Hot, Class::Pinned]
        .into_iter()
        .zip([&[0, 1][..], &[2], &[3], &[4, 5], &[6]])
        .map(|(class, objects)| world.map(objects, class))
        .collect();
    task.look(ReaperPolicy::Mpool, at(0));
    for map in &maps {
        assert!(map.preload().unwrap() > 0);
    }
    assert_eq!(world.mcache.residency().total_bytes(), 7 * 256 * KIB, "all enters at first touch");
    // Urgency was decided at 0; it is again 333 ms later. Object 3 faults shortly before.
    task.look(ReaperPolicy::Mpool, at(320));
    maps[2].purge();
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    maps[2].read(0, 0..10, &mut scratch).unwrap();
    maps[2].preload().unwrap();
    task.look(ReaperPolicy::Mpool, at(340));
    let left: Vec<u64> = maps.iter().map(|map| map.stats().resident_bytes / KIB).collect();
    assert_eq!(left, [0, 0, 256, 512, 256], "age, class and pins decide");
    assert_eq!(shared.levels.dropped_objects.get(), 3);
    assert!(world.mcache.residency().total_bytes() <= MIB);
    // Enough is free: urgency ends at the next look, and ages no longer matter.
    task.look(ReaperPolicy::Mpool, at(700));
    task.look(ReaperPolicy::Mpool, at(100_000));
    assert_eq!(world.mcache.residency().total_bytes(), MIB);
    assert_eq!(shared.levels.urgency.load(SeqCst), 0);
}

#[test]
fn off_does_nothing_and_admits_everything() {
    let world = World::new(8);
    let cache = Cache::new(0, 1);
    let (shared, mut task) = stepped(&world, MIB, &[&cache]);
    let map = world.map(&(0..8).collect::<Vec<_>>(), Class::Cold);
    let mut scratch = IoBuf::zeroed(PAGE_LEN);
    let mut now = Instant::now();
    task.look(ReaperPolicy::Off, now);
    for page in 0..8 * 64 {
        let at = page % 64 * PAGE_BYTES;
        map.read(usize::try_from(page / 64).unwrap(), at..at + 10, &mut scratch).unwrap();
        now += Duration::from_millis(10);
        task.look(ReaperPolicy::Off, now);
    }
    assert_eq!(world.mcache.residency().total_bytes(), 2 * MIB, "twice the budget");
    assert_eq!((cache.target.load(SeqCst), shared.levels.passes.get()), (0, 0));
    // And the next policy takes over where it finds things.
    task.look(ReaperPolicy::Frequency, now);
    for _ in 0..20 {
        now += Duration::from_millis(10);
        task.look(ReaperPolicy::Frequency, now);
    }
    assert!(world.mcache.residency().total_bytes() <= MIB);
    assert!(cache.target.load(SeqCst) > 0);
}

#[test]
fn the_thread_starts_reports_switches_and_ends() {
    let world = World::new(1);
    let wanted = ReaperOptions { budget_bytes: Some(1 << 40), ..options() };
    let reaper = Reaper::start(&wanted, &world.mcache).unwrap();
    let cache = Cache::new(100, 2);
    let consumer: Arc<dyn MemoryConsumer> = Arc::clone(&cache) as _;
    reaper.register(Arc::clone(&consumer));
    assert!(cache.target.load(SeqCst) < u64::MAX, "a first target at once");
    wait_until(|| reaper.stats().used_bytes > 0);
    let stats = reaper.stats();
    assert!(stats.budget_bytes > 0);
    assert_eq!((stats.consumers[0].0, stats.consumers[0].1), ("cache", 100));
    wait_until(|| world.mcache.room.admit_at() == 1);

    reaper.set_policy(ReaperPolicy::Off);
    wait_until(|| cache.target.load(SeqCst) == 0);
    assert_eq!((reaper.stats().policy, reaper.stats().pressure), (ReaperPolicy::Off, "off"));
    assert_eq!(world.mcache.room.admit_at(), 0, "everything at the first touch");
    assert!(reaper.room() <= 1 << 40, "what is more than the budget displaces something");
    reaper.set_policy(ReaperPolicy::Frequency);
    wait_until(|| world.mcache.room.admit_at() == 1);
    wait_until(|| cache.target.load(SeqCst) > 0);

    let mut names = std::collections::BTreeSet::new();
    reaper.visit(&mut |name, help, _, _| {
        assert!(names.insert(name) && !help.is_empty(), "{name}");
    });
    world.mcache.visit(&mut |name, help, _, _| {
        assert!(names.insert(name) && !help.is_empty(), "{name}");
    });
    reaper.unregister(&consumer);
    assert!(reaper.stats().consumers.is_empty());
    drop(reaper);
    assert_eq!(Arc::strong_count(&consumer), 2, "the reaper holds nothing back");
    assert_eq!(world.mcache.room.admit_at(), 0, "without a reaper nothing is refused");
}

/// Waits for another thread by yielding to it; a hang is the test runner's to end.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}
