//! The cache through its own door: answers, budget, and the staleness protocol under every schedule
//! tried.

use super::*;
use crate::key::key_hash;
use mpool::MemoryConsumer;

const KVS: KvsId = KvsId::new(1);
const MIB: u64 = 1 << 20;

fn key(n: u64) -> Vec<u8> {
    format!("user{n:020}").into_bytes()
}

fn put(cache: &ValueCache, epoch: u64, n: u64, value: &[u8], revision: u64) {
    let (key, value) = (key(n), Bytes::copy_from_slice(value));
    cache.insert(epoch, KVS, &key, key_hash(KVS, &key), &value, Revision::new(revision));
}

fn get(cache: &ValueCache, n: u64, at: u64) -> Option<(Bytes, u64)> {
    let key = key(n);
    let found = cache.get(KVS, &key, key_hash(KVS, &key), Revision::new(at));
    found.map(|(value, revision)| (value, revision.get()))
}

fn refresh(cache: &ValueCache, n: u64, value: Option<&[u8]>, revision: u64) {
    let key = key(n);
    cache.refresh(KVS, &key, key_hash(KVS, &key), value, Revision::new(revision));
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
fn metric(cache: &ValueCache, wanted: &str) -> u64 {
    let mut found = None;
    cache.visit(&mut |sample| {
        if sample.name == wanted {
            found = sample.value.number().map(|number| number as u64);
        }
    });
    found.unwrap()
}

#[test]
fn a_value_is_found_by_kvs_key_and_revision() {
    let cache = ValueCache::new(64 * MIB);
    assert_eq!(get(&cache, 1, 9), None);
    put(&cache, 0, 1, b"one", 5);
    assert_eq!(get(&cache, 1, 5), Some(("one".into(), 5)));
    assert_eq!(get(&cache, 1, 4), None, "a snapshot before the entry");
    assert_eq!(get(&cache, 2, 9), None);
    let (other, name) = (KvsId::new(2), key(1));
    assert_eq!(cache.get(other, &name, key_hash(KVS, &name), Revision::MAX), None);
    put(&cache, 0, 2, b"", 6);
    assert_eq!(get(&cache, 2, 9), Some((Bytes::new(), 6)), "an empty value is a value");
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    let cache = ValueCache::new(64 * MIB);
    for name in ["a", "b", "ab"] {
        let value = Bytes::from(format!("value of {name}"));
        cache.insert(0, KVS, name.as_bytes(), 7, &value, Revision::new(1));
    }
    for name in ["a", "b", "ab"] {
        let found = cache.get(KVS, name.as_bytes(), 7, Revision::MAX).unwrap();
        assert_eq!(found.0, format!("value of {name}"));
    }
}

#[test]
fn an_older_version_does_not_replace_a_newer_one() {
    let cache = ValueCache::new(64 * MIB);
    put(&cache, 0, 1, b"new", 5);
    put(&cache, 0, 1, b"old", 4);
    assert_eq!(get(&cache, 1, 9), Some(("new".into(), 5)));
    put(&cache, 0, 1, b"newer", 6);
    assert_eq!(get(&cache, 1, 9), Some(("newer".into(), 6)));
}

#[test]
fn a_flush_refreshes_what_is_cached_and_refuses_old_views() {
    let cache = ValueCache::new(64 * MIB);
    for n in 1..=3 {
        put(&cache, 0, n, b"old", n);
    }
    cache.begin_flush(1);
    refresh(&cache, 1, Some(b"new"), 10);
    refresh(&cache, 2, None, 11);
    refresh(&cache, 4, Some(b"not asked for"), 12);
    refresh(&cache, 3, Some(b"older than cached"), 2);
    assert_eq!(get(&cache, 1, 99), Some(("new".into(), 10)));
    assert_eq!(get(&cache, 2, 99), None);
    assert_eq!(get(&cache, 3, 99), Some(("old".into(), 3)));
    assert_eq!(get(&cache, 4, 99), Some(("not asked for".into(), 12)), "there is room");
    put(&cache, 0, 2, b"old", 2);
    assert_eq!(get(&cache, 2, 99), None, "read before the flush");
    assert_eq!(metric(&cache, "value_cache_refreshes_total"), 2);
}

/// Until a later flush succeeds, which on a full volume takes a while, nothing entered the cache.
#[test]
fn after_a_flush_that_failed_readers_of_the_view_enter_what_they_find() {
    let cache = ValueCache::new(64 * MIB);
    cache.begin_flush(1);
    refresh(&cache, 1, Some(b"new"), 10);
    put(&cache, 0, 2, b"found", 2);
    assert_eq!(get(&cache, 2, 99), None);
    cache.cancel_flush(0);
    put(&cache, 0, 2, b"found", 2);
    assert_eq!(get(&cache, 2, 99), Some(("found".into(), 2)));
    put(&cache, 0, 1, b"old", 1);
    assert_eq!(get(&cache, 1, 99), Some(("new".into(), 10)), "what is newer stays");
    cache.begin_flush(1);
    refresh(&cache, 2, None, 11);
    put(&cache, 0, 2, b"found", 2);
    assert_eq!(get(&cache, 2, 99), None);
}

#[test]
fn a_flush_displaces_nobody() {
    let cache = ValueCache::new(MIB);
    let value = vec![7; 1000];
    (0..4_000).for_each(|n| put(&cache, 0, n, &value, 1));
    let evicted = metric(&cache, "value_cache_evictions_total");
    cache.begin_flush(1);
    (10_000..14_000).for_each(|n| refresh(&cache, n, Some(&value), 2));
    assert_eq!(metric(&cache, "value_cache_evictions_total"), evicted);
    assert!(cache.used_bytes() <= MIB, "{}", cache.used_bytes());
}

#[test]
fn memory_stays_within_the_target_and_is_told_honestly() {
    let cache = ValueCache::new(16 * MIB);
    let value = vec![7; 1000];
    for n in 0..40_000 {
        put(&cache, 0, n, &value, 1);
        assert!(cache.used_bytes() <= 16 * MIB, "{n}: {}", cache.used_bytes());
    }
    let entries = metric(&cache, "value_cache_entries");
    assert!(cache.used_bytes() > 14 * MIB, "{}", cache.used_bytes());
    let overhead = cache.used_bytes() / entries - 1024;
    assert!((64..250).contains(&overhead), "{overhead} bytes an entry");
}

#[test]
fn a_lower_target_takes_effect_at_once_and_a_higher_one_is_filled_later() {
    let cache = ValueCache::new(32 * MIB);
    let value = vec![7; 1000];
    (0..30_000).for_each(|n| put(&cache, 0, n, &value, 1));
    cache.set_target_bytes(4 * MIB);
    assert!(cache.used_bytes() <= 4 * MIB, "{}", cache.used_bytes());
    assert!(metric(&cache, "value_cache_entries") > 2000);
    cache.set_target_bytes(32 * MIB);
    (0..30_000).for_each(|n| put(&cache, 0, n, &value, 1));
    assert!(cache.used_bytes() > 24 * MIB, "{}", cache.used_bytes());
    cache.set_target_bytes(0);
    assert_eq!(metric(&cache, "value_cache_entries"), 0);
    put(&cache, 0, 1, b"x", 1);
    assert_eq!(get(&cache, 1, 9), None);
    assert!(cache.used_bytes() <= MIB, "{}", cache.used_bytes());
}

#[test]
fn hot_keys_survive_a_scan() {
    let cache = ValueCache::new(8 * MIB);
    let value = vec![7; 1000];
    for _ in 0..8 {
        for n in 0..4000 {
            if get(&cache, n, 9).is_none() {
                put(&cache, 0, n, &value, 1);
            }
        }
    }
    (100_000..200_000).for_each(|n| put(&cache, 0, n, &value, 1));
    let kept = (0..4000).filter(|&n| get(&cache, n, 9).is_some()).count();
    assert!(kept > 3900, "{kept} of 4000");
}

#[test]
fn values_too_large_for_a_shard_are_not_cached() {
    let cache = ValueCache::new(64 * MIB);
    put(&cache, 0, 1, &vec![0; 17 << 10], 1);
    assert_eq!(get(&cache, 1, 9), None);
    put(&cache, 0, 1, &vec![0; 15 << 10], 1);
    assert!(get(&cache, 1, 9).is_some());
    cache.begin_flush(1);
    refresh(&cache, 1, Some(&vec![1; 17 << 10]), 2);
    assert_eq!(get(&cache, 1, 9), None, "dropped, not left stale");
}

#[test]
fn a_cache_that_shrinks_by_little_keeps_what_is_asked_for_most() {
    let cache = ValueCache::new(160 * MIB);
    (0..100_000).for_each(|n| put(&cache, 0, n, &[7; 1100], 1));
    let hot = |n: &u64| !n.is_multiple_of(4);
    for _ in 0..3 {
        (0..100_000).filter(hot).for_each(|n| drop(get(&cache, n, 9).unwrap()));
    }
    let before = metric(&cache, "value_cache_entries");
    let filled = cache.used_bytes();
    // In steps, as the memory governor does it. 76 of 100 are hot.
    for percent in [95, 92, 90, 88, 85, 82] {
        let target = filled * percent / 100;
        cache.set_target_bytes(target);
        assert!(cache.used_bytes() <= target, "{} of {target}", cache.used_bytes());
        // What is given up is whole chunks, but no more of them than needed.
        let entries = metric(&cache, "value_cache_entries");
        assert!(entries * 100 >= before * (percent - 3), "{entries} of {before} at {percent} %");
    }
    let kept = (0..100_000).filter(hot).filter(|n| get(&cache, *n, 9).is_some()).count();
    assert!(kept > 74_000, "{kept} of 75,000 hot ones");
    let wrong = (0..100_000).filter_map(|n| get(&cache, n, 9)).find(|(v, _)| *v != [7; 1100][..]);
    assert_eq!(wrong, None);
}

#[test]
fn records_of_any_length_share_a_cache_that_breathes() {
    let cache = ValueCache::new(96 * MIB);
    let value = |n: u64, round: u64| {
        let len = usize::try_from((n * 7919 + round * 131) % 9000).unwrap();
        vec![u8::try_from((n + round) % 256).unwrap(); len]
    };
    for round in 0..8 {
        for n in 0..30_000 {
            if n % 5 == round % 5 {
                refresh(&cache, n, (n % 3 > 0).then_some(&value(n, round)), round + 1);
            } else {
                put(&cache, 0, n, &value(n, round), round + 1);
            }
            if n % 1000 == 0 {
                let target = (64 + (n / 1000 * 13 + round) % 32) * MIB;
                cache.set_target_bytes(target);
                assert!(cache.used_bytes() <= target, "round {round}, {n}");
            }
        }
        for n in 0..30_000 {
            if let Some((found, revision)) = get(&cache, n, Revision::MAX.get()) {
                assert_eq!(found, value(n, revision - 1), "{n} at {revision}");
            }
        }
    }
    assert!(metric(&cache, "value_cache_entries") > 5000);
}

#[test]
fn a_value_outlives_its_eviction() {
    for capacity in [MIB, 64 * MIB] {
        let cache = ValueCache::new(capacity);
        put(&cache, 0, 1, b"held", 1);
        let (held, _) = get(&cache, 1, 9).unwrap();
        cache.set_target_bytes(0);
        assert_eq!(held, "held");
    }
}

#[test]
fn a_target_of_nothing_empties_the_cache_and_lets_nothing_in() {
    let cache = ValueCache::new(4 * MIB);
    for n in 0..10_000 {
        put(&cache, 0, n, &[7; 500], 1);
        get(&cache, n, 9);
    }
    assert!(metric(&cache, "value_cache_entries") > 5000);
    cache.set_target_bytes(0);
    assert_eq!(metric(&cache, "value_cache_entries"), 0);
    assert!(cache.used_bytes() < MIB / 4, "{}", cache.used_bytes());
    for n in 0..1000 {
        put(&cache, 0, n, &[7; 500], 2);
        refresh(&cache, n, Some(&[8; 500]), 3);
        assert_eq!(get(&cache, n, 9), None);
    }
    assert_eq!(metric(&cache, "value_cache_entries"), 0);
    cache.set_target_bytes(4 * MIB);
    put(&cache, 0, 1, &[9; 500], 4);
    assert!(get(&cache, 1, 9).is_some(), "and it can come back");
}

#[test]
fn a_request_for_what_was_just_evicted_is_a_marginal_hit() {
    let cache = ValueCache::new(4 * MIB);
    assert_eq!(cache.marginal_hits(), Some(mpool::MarginalHits::default()));
    // Asked for in turn, twice each: more than fits, so that each time around some must go.
    for round in 0..4 {
        for n in 0..12_000 {
            if get(&cache, n, 9).is_none() {
                put(&cache, 0, n, &[7; 500], 1);
            }
        }
        let evicted = metric(&cache, "value_cache_evictions_total");
        let marginal = cache.marginal_hits().unwrap();
        assert!(marginal.hits <= evicted, "round {round}: {marginal:?} of {evicted}");
        assert!(marginal.ghost_bytes <= 4 * MIB / 4, "round {round}: {marginal:?}");
    }
    assert!(metric(&cache, "value_cache_ghost_hits_total") > 100, "{:?}", cache.marginal_hits());
}
