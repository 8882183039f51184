//! The staleness protocol under seeded schedules and under threads.
//!
//! A flusher and some readers take turns at the granularity of calls on the cache, in an order
//! drawn from a seed. Every answer of the cache is held against the view the reader has. Two broken
//! flushers show that the harness can fail.

use super::*;
use crate::key::key_hash;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const KVS: KvsId = KvsId::new(3);
const KEYS: usize = 8;
const READERS: usize = 4;

/// What kvsets hold: for each key its newest flushed revision, and whether it is a value.
#[derive(Clone, Default)]
struct View {
    epoch: u64,
    /// Last revision that is flushed: what a snapshot of this view sees.
    at: u64,
    newest: [(u64, bool); KEYS],
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn value_of(key: usize, revision: u64) -> Vec<u8> {
    format!("{key} at {revision} {}", "x".repeat(key * 40)).into_bytes()
}

fn hash_of(key: usize) -> ([u8; 1], u64) {
    let name = [u8::try_from(key).unwrap()];
    (name, key_hash(KVS, &name))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Right,
    NoBegin,
    RefreshAfterPublish,
}

/// The steps of a flush: each is one call, or the publication.
#[derive(Clone, Copy)]
enum FlushStep {
    Begin,
    Refresh(usize),
    Publish,
}

fn steps(protocol: Protocol, keys: &[usize]) -> Vec<FlushStep> {
    let begin = (protocol != Protocol::NoBegin).then_some(FlushStep::Begin);
    let refreshes = keys.iter().map(|&key| FlushStep::Refresh(key));
    if protocol == Protocol::RefreshAfterPublish {
        return begin.into_iter().chain([FlushStep::Publish]).chain(refreshes).collect();
    }
    begin.into_iter().chain(refreshes).chain([FlushStep::Publish]).collect()
}

/// A view in which some keys have newer versions.
fn flushed(view: &View, random: &mut Random) -> (View, Vec<usize>) {
    let mut next = view.clone();
    next.epoch += 1;
    let keys: Vec<_> = (0..KEYS).filter(|_| random.below(3) == 0).collect();
    for &key in &keys {
        next.at += 1;
        next.newest[key] = (next.at, random.below(4) > 0);
    }
    (next, keys)
}

fn run_step(cache: &ValueCache, step: FlushStep, next: &View, publish: impl FnOnce()) {
    match step {
        FlushStep::Begin => cache.begin_flush(next.epoch),
        FlushStep::Publish => publish(),
        FlushStep::Refresh(key) => {
            let (revision, live) = next.newest[key];
            let value = live.then(|| value_of(key, revision));
            let (name, hash) = hash_of(key);
            cache.refresh(KVS, &name, hash, value.as_deref(), Revision::new(revision));
        }
    }
}

/// Asks the cache as a reader of `view` does. `Err` says what was wrong with the answer.
fn ask(cache: &ValueCache, view: &View, key: usize, snapshot: bool) -> Result<bool, String> {
    let at = if snapshot { Revision::new(view.at) } else { Revision::MAX };
    let (name, hash) = hash_of(key);
    let Some((value, revision)) = cache.get(KVS, &name, hash, at) else { return Ok(false) };
    let (newest, live) = view.newest[key];
    let got = revision.get();
    if value != value_of(key, got) {
        return Err(format!("key {key}: bytes of another version than {got}"));
    }
    // A snapshot sees exactly its version; a reader of the present may also see a later one.
    let right =
        if snapshot { got == newest && live } else { got > newest || got == newest && live };
    if right { Ok(true) } else { Err(format!("key {key}: got {got}, view has {newest} {live}")) }
}

fn offer(cache: &ValueCache, view: &View, key: usize) {
    let (revision, live) = view.newest[key];
    if live {
        let (name, hash) = hash_of(key);
        let value = value_of(key, revision).into();
        cache.insert(view.epoch, KVS, &name, hash, &value, Revision::new(revision));
    }
}

/// One seed's schedule. A reader is between two calls when it holds a view and a key.
fn schedule(seed: u64, protocol: Protocol) -> Result<u64, String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let cache = ValueCache::new(if seed.is_multiple_of(2) { 1 << 20 } else { 64 << 20 });
    let mut view = View::default();
    let mut readers: [Option<(View, usize, bool)>; READERS] = Default::default();
    let (mut next, mut todo) = (View::default(), Vec::new());
    let mut hits = 0;
    for _ in 0..400 {
        let actor = random.below(READERS + 1);
        if actor == READERS {
            if todo.is_empty() {
                let (planned, keys) = flushed(&view, &mut random);
                todo = steps(protocol, &keys);
                next = planned;
            }
            let step = todo.remove(0);
            run_step(&cache, step, &next, || view = next.clone());
            continue;
        }
        readers[actor] = match readers[actor].take() {
            None => Some((view.clone(), random.below(KEYS), false)),
            Some((seen, key, false)) => {
                let hit = ask(&cache, &seen, key, random.below(2) == 0)?;
                hits += u64::from(hit);
                (!hit).then_some((seen, key, true))
            }
            Some((seen, key, true)) => {
                offer(&cache, &seen, key);
                None
            }
        };
    }
    Ok(hits)
}

#[test]
fn no_schedule_serves_a_version_older_than_the_view() {
    let mut hits = 0;
    for seed in 1..2000 {
        match schedule(seed, Protocol::Right) {
            Ok(some) => hits += some,
            Err(wrong) => panic!("schedule({seed}, Protocol::Right): {wrong}"),
        }
    }
    assert!(hits > 10_000, "only {hits} hits: the schedules prove little");
}

#[test]
fn a_broken_flush_is_noticed() {
    for protocol in [Protocol::NoBegin, Protocol::RefreshAfterPublish] {
        let noticed = (1..2000).filter(|&seed| schedule(seed, protocol).is_err()).count();
        assert!(noticed > 0, "{protocol:?}");
    }
}

#[test]
fn threads_see_no_version_older_than_their_view() {
    // Small enough for records of their own, and large enough for chunks.
    for capacity in [1 << 20, 64 << 20] {
        threads_see_no_older_version(capacity);
    }
}

fn threads_see_no_older_version(capacity: u64) {
    let cache = ValueCache::new(capacity);
    let shared = RwLock::new(Arc::new(View::default()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (cache, shared, stop) = (&cache, &shared, &stop);
            scope.spawn(move || {
                let mut random = Random(reader + 77);
                while !stop.load(Ordering::Relaxed) {
                    let view = Arc::clone(&shared.read());
                    let key = random.below(KEYS);
                    match ask(cache, &view, key, random.below(2) == 0) {
                        Ok(true) => {}
                        Ok(false) => offer(cache, &view, key),
                        Err(wrong) => {
                            stop.store(true, Ordering::Relaxed);
                            panic!("reader {reader}: {wrong}");
                        }
                    }
                }
            });
        }
        let mut random = Random(5);
        for round in 0..20_000_u64 {
            let view = Arc::clone(&shared.read());
            let (next, keys) = flushed(&view, &mut random);
            for step in steps(Protocol::Right, &keys) {
                run_step(&cache, step, &next, || *shared.write() = Arc::new(next.clone()));
            }
            if round % 1000 == 0 {
                let target = if round % 2000 == 0 { 64 << 10 } else { capacity };
                mpool::MemoryConsumer::set_target_bytes(&cache, target);
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
