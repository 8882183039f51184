//! The memtable against an ordered map. Small enough for Miri; the loom model is `interleavings`.

use super::*;
use crate::key::key_hash;
use parking_lot::Mutex;
use proptest::prelude::*;
use skiplist::COMPARED;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// (KVS, key, revision descending) to value; None is a tombstone.
type Model = BTreeMap<(u32, Vec<u8>, Reverse<u64>), Option<Vec<u8>>>;

fn insert(memtable: &Memtable, kvs: u32, key: &[u8], revision: u64, value: Option<&[u8]>) {
    let kvs = KvsId::new(kvs);
    let op = value.map_or(Op::Tombstone, Op::Inline);
    memtable.insert(kvs, key, key_hash(kvs, key), Revision::new(revision), op);
}

fn get(memtable: &Memtable, kvs: u32, key: &[u8], at: u64) -> Option<(u64, Option<Vec<u8>>)> {
    let kvs = KvsId::new(kvs);
    let found = memtable.get(kvs, key, key_hash(kvs, key), Revision::new(at))?;
    Some((found.revision.get(), found.op.value().map(<[u8]>::to_vec)))
}

fn model_get(model: &Model, kvs: u32, key: &[u8], at: u64) -> Option<(u64, Option<Vec<u8>>)> {
    let from = (kvs, key.to_vec(), Reverse(at));
    let (found, value) = model.range(from..).next()?;
    (found.0 == kvs && found.1 == key).then(|| (found.2.0, value.clone()))
}

type Version = (Vec<u8>, u64, Option<Vec<u8>>);

fn at_cursor(cursor: &MemtableCursor) -> Option<Version> {
    cursor.valid().then(|| {
        let value = match cursor.op() {
            Op::Inline(value) => Some(value.to_vec()),
            Op::Tombstone => None,
            Op::Extern(_) => panic!("memtables store values inline"),
        };
        (cursor.key().to_vec(), cursor.revision().get(), value)
    })
}

fn model_versions(model: &Model, kvs: u32) -> Vec<Version> {
    let versions = model.iter().filter(|((id, ..), _)| *id == kvs);
    versions.map(|((_, key, revision), value)| (key.clone(), revision.0, value.clone())).collect()
}

fn walk(cursor: &mut MemtableCursor, step: fn(&mut MemtableCursor) -> Result<()>) -> Vec<Version> {
    let mut found = Vec::new();
    while let Some(version) = at_cursor(cursor) {
        found.push(version);
        step(cursor).unwrap();
    }
    found
}

fn check(memtable: &Arc<Memtable>, model: &Model) {
    let ids: Vec<u32> = memtable.kvs_ids().into_iter().map(KvsId::get).collect();
    let mut expected: Vec<u32> = model.keys().map(|(kvs, ..)| *kvs).collect();
    expected.dedup();
    assert_eq!(ids, expected);
    for kvs in ids {
        let expected = model_versions(model, kvs);
        let mut cursor = memtable.cursor(KvsId::new(kvs));
        cursor.seek_first().unwrap();
        assert_eq!(walk(&mut cursor, MemtableCursor::next), expected);
        cursor.seek_last().unwrap();
        let mut backward = walk(&mut cursor, MemtableCursor::prev);
        backward.reverse();
        assert_eq!(backward, expected);
    }
    for (kvs, key, Reverse(revision)) in model.keys() {
        for at in [revision - 1, *revision, revision + 1] {
            assert_eq!(get(memtable, *kvs, key, at), model_get(model, *kvs, key, at));
        }
    }
}

#[test]
fn an_empty_memtable_has_nothing() {
    let memtable = Arc::new(Memtable::new(1 << 16));
    assert!(memtable.is_empty());
    assert!(memtable.kvs_ids().is_empty());
    assert_eq!(get(&memtable, 0, b"", u64::MAX), None);
    let mut cursor = memtable.cursor(KvsId::new(0));
    cursor.seek_first().unwrap();
    assert!(!cursor.valid());
    cursor.seek_last().unwrap();
    assert!(!cursor.valid());
    cursor.next().unwrap();
    cursor.prev().unwrap();
    assert!(!cursor.valid());
}

#[test]
fn get_finds_the_newest_version_not_after_the_revision() {
    let memtable = Memtable::new(1 << 16);
    insert(&memtable, 1, b"key", 3, Some(b"three"));
    insert(&memtable, 1, b"key", 7, None);
    insert(&memtable, 1, b"key\0", 5, Some(b"other"));
    insert(&memtable, 2, b"key", 6, Some(b"elsewhere"));
    assert_eq!(get(&memtable, 1, b"key", 2), None);
    assert_eq!(get(&memtable, 1, b"key", 3), Some((3, Some(b"three".to_vec()))));
    assert_eq!(get(&memtable, 1, b"key", 6), Some((3, Some(b"three".to_vec()))));
    assert_eq!(get(&memtable, 1, b"key", u64::MAX), Some((7, None)));
    assert_eq!(get(&memtable, 1, b"ke", u64::MAX), None);
}

#[test]
fn the_last_write_of_a_revision_wins() {
    let memtable = Arc::new(Memtable::new(1 << 16));
    for value in [Some(&b"first"[..]), None, Some(b""), Some(b"a much longer last value")] {
        insert(&memtable, 1, b"key", 9, value);
        assert_eq!(get(&memtable, 1, b"key", 9), Some((9, value.map(<[u8]>::to_vec))));
    }
    let mut cursor = memtable.cursor(KvsId::new(1));
    cursor.seek_first().unwrap();
    assert_eq!(walk(&mut cursor, MemtableCursor::next).len(), 1);
}

#[test]
fn cursors_stay_in_their_kvs() {
    let memtable = Arc::new(Memtable::new(1 << 16));
    for kvs in [0, 1, u32::MAX] {
        insert(&memtable, kvs, b"a", 1, Some(b"x"));
        insert(&memtable, kvs, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", 2, Some(b"y"));
    }
    for kvs in [0, 1, u32::MAX] {
        let mut cursor = memtable.cursor(KvsId::new(kvs));
        cursor.seek_first().unwrap();
        assert_eq!(walk(&mut cursor, MemtableCursor::next).len(), 2);
        cursor.seek_last().unwrap();
        assert_eq!(walk(&mut cursor, MemtableCursor::prev).len(), 2);
        cursor.seek(b"b").unwrap();
        assert_eq!(cursor.revision(), Revision::new(2));
        cursor.seek_before(b"b").unwrap();
        assert_eq!(cursor.key(), b"a");
        assert_eq!(cursor.value().unwrap(), b"x"[..]);
        cursor.seek_before(b"a").unwrap();
        assert!(!cursor.valid());
    }
    assert!(memtable.kvs_ids().len() == 3);
}

#[test]
fn a_cursor_outlives_its_memtable() {
    let memtable = Arc::new(Memtable::new(1 << 16));
    insert(&memtable, 1, b"key", 1, Some(b"value"));
    let mut cursor = memtable.cursor(KvsId::new(1));
    drop(memtable);
    let found = std::thread::spawn(move || {
        cursor.seek(b"k").unwrap();
        cursor.value().unwrap()
    });
    assert_eq!(found.join().unwrap(), b"value"[..]);
}

#[test]
fn values_of_any_size_are_kept_whole() {
    let memtable = Memtable::new(1 << 16);
    let lens = [0_usize, 1, 15, 4096, 200_000, 3 << 20];
    for &len in &lens {
        let value = vec![u8::try_from(len % 251).unwrap(); len];
        insert(&memtable, 1, format!("{len}").as_bytes(), 1, Some(&value));
    }
    for &len in &lens {
        let (_, value) = get(&memtable, 1, format!("{len}").as_bytes(), 1).unwrap();
        assert_eq!(value.unwrap(), vec![u8::try_from(len % 251).unwrap(); len]);
    }
    assert!(memtable.bytes() >= lens.iter().sum());
}

#[test]
fn heights_fall_off_by_four() {
    let mut counts = [0_u32; HEIGHT_MAX + 1];
    (0..100_000_u64).for_each(|seed| counts[height(seed)] += 1);
    assert_eq!(counts[0], 0);
    assert!((70_000..80_000).contains(&counts[1]), "{counts:?}");
    assert!((15_000..22_500).contains(&counts[2]), "{counts:?}");
    assert_eq!(height(0), HEIGHT_MAX);
}

/// A step back was a search from the top of the list, and so was the look for a newer version.
#[test]
fn a_walk_back_compares_a_few_keys_a_step_however_long_the_list_is() {
    let memtable = Arc::new(Memtable::new(1 << 20));
    let keys = if cfg!(miri) { 200 } else { 50_000_u64 };
    for number in 0..keys {
        // An odd factor: each number once, in no order.
        let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        insert(&memtable, 1, &key, number + 1, Some(b"value"));
    }
    let mut cursor = memtable.cursor(KvsId::new(1));
    cursor.seek_last().unwrap();
    let (before, mut steps) = (COMPARED.get(), 0);
    while cursor.valid() {
        assert!(!cursor.may_have_newer());
        cursor.prev().unwrap();
        steps += 1;
    }
    let compared = COMPARED.get() - before;
    assert_eq!(steps, keys);
    assert!(compared < 6 * steps, "{compared} comparisons in {steps} steps");
}

#[test]
fn concurrent_inserts_and_reads_agree_with_a_locked_map() {
    let (threads, per_thread) = if cfg!(miri) { (3, 40) } else { (4, 20_000) };
    let memtable = Arc::new(Memtable::new(1 << 20));
    let model = Mutex::new(Model::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (memtable, model) = (&memtable, &model);
            scope.spawn(move || {
                let mut random = 0x1234_5678_9abc_def1_u64 ^ thread;
                for round in 0..per_thread {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let key = format!("user{}", random % (per_thread / 2 + 1));
                    let (kvs, revision) =
                        (u32::from(random & 1 == 0), round * threads + thread + 1);
                    let value =
                        (!random.is_multiple_of(7)).then(|| key.repeat(1 + (round % 5) as usize));
                    let value = value.as_deref().map(str::as_bytes);
                    insert(memtable, kvs, key.as_bytes(), revision, value);
                    let mine = (revision, value.map(<[u8]>::to_vec));
                    assert_eq!(get(memtable, kvs, key.as_bytes(), revision), Some(mine.clone()));
                    model.lock().insert((kvs, key.into_bytes(), Reverse(revision)), mine.1);
                }
            });
        }
        scope.spawn(|| {
            // Order holds at every moment, and what was there at the start is met both ways.
            let place = |(key, revision, _): &Version| (key.clone(), Reverse(*revision));
            let mut known = Vec::new();
            for _ in 0..if cfg!(miri) { 2 } else { 20 } {
                let mut cursor = memtable.cursor(KvsId::new(1));
                cursor.seek_last().unwrap();
                let mut backward = walk(&mut cursor, MemtableCursor::prev);
                backward.reverse();
                cursor.seek_first().unwrap();
                let forward = walk(&mut cursor, MemtableCursor::next);
                for found in [backward, forward] {
                    assert!(found.is_sorted_by_key(place));
                    let there: BTreeSet<_> = found.iter().map(place).collect();
                    assert!(known.iter().all(|version| there.contains(version)));
                    known = there.into_iter().collect();
                }
            }
        });
    });
    check(&memtable, &model.into_inner());
}

/// KVS, key, revision, value.
type Insert = (u32, Vec<u8>, u64, Option<Vec<u8>>);

fn versions() -> impl Strategy<Value = Vec<Insert>> {
    let key = prop_oneof![
        prop::collection::vec(0_u8..3, 1..4),
        prop::collection::vec(0_u8..2, 7..11),
        prop::collection::vec(any::<u8>(), 1..20),
    ];
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec((0_u32..3, key, 1_u64..6, value), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn inserts_in_any_order_read_like_an_ordered_map(versions in versions()) {
        let (memtable, mut model) = (Arc::new(Memtable::new(1 << 12)), Model::new());
        for (kvs, key, revision, value) in versions {
            insert(&memtable, kvs, &key, revision, value.as_deref());
            model.insert((kvs, key, Reverse(revision)), value);
        }
        check(&memtable, &model);
    }

    /// Turns and steps between inserts: a cursor stands on a version, or past an end.
    #[test]
    fn a_cursor_moves_as_in_a_map_that_grows(
        versions in versions(),
        steps in prop::collection::vec(0_u8..8, 0..200),
    ) {
        let (memtable, mut model) = (Arc::new(Memtable::new(1 << 12)), Model::new());
        let mut versions = versions.into_iter();
        let mut cursor = memtable.cursor(KvsId::new(1));
        let mut at: Option<(Vec<u8>, Reverse<u64>)> = None;
        for step in steps {
            let places: Vec<_> = model_versions(&model, 1)
                .into_iter()
                .map(|(key, revision, _)| (key, Reverse(revision)))
                .collect();
            let here = at.as_ref().map(|at| places.partition_point(|place| place < at));
            match step {
                0 => {
                    cursor.seek_first().unwrap();
                    at = places.first().cloned();
                }
                1 => {
                    cursor.seek_last().unwrap();
                    at = places.last().cloned();
                }
                2 => {
                    cursor.next().unwrap();
                    at = here.and_then(|here| places.get(here + 1).cloned());
                }
                3 | 4 => {
                    cursor.prev().unwrap();
                    at = here.and_then(|here| Some(places[here.checked_sub(1)?].clone()));
                }
                5 => {
                    let before = here.and_then(|here| places.get(here.checked_sub(1)?));
                    let newer = before.is_some_and(|(key, _)| *key == at.as_ref().unwrap().0);
                    prop_assert_eq!(cursor.may_have_newer(), newer);
                }
                _ => if let Some((kvs, key, revision, value)) = versions.next() {
                    insert(&memtable, kvs, &key, revision, value.as_deref());
                    model.insert((kvs, key, Reverse(revision)), value);
                },
            }
            let shown = at_cursor(&cursor).map(|(key, revision, _)| (key, Reverse(revision)));
            prop_assert_eq!(&shown, &at);
        }
    }

    #[test]
    fn seeks_land_where_an_ordered_map_says(
        versions in versions(),
        key in prop::collection::vec(0_u8..3, 1..10),
        at in 0_u64..7,
    ) {
        let (memtable, mut model) = (Arc::new(Memtable::new(1 << 12)), Model::new());
        for (kvs, key, revision, value) in versions {
            insert(&memtable, kvs, &key, revision, value.as_deref());
            model.insert((kvs, key, Reverse(revision)), value);
        }
        for kvs in 0..3 {
            let all = model_versions(&model, kvs);
            let split = all.partition_point(|(found, ..)| found < &key);
            let mut cursor = memtable.cursor(KvsId::new(kvs));
            cursor.seek(&key).unwrap();
            prop_assert_eq!(at_cursor(&cursor), all.get(split).cloned());
            cursor.seek_before(&key).unwrap();
            prop_assert_eq!(at_cursor(&cursor), split.checked_sub(1).map(|at| all[at].clone()));
            let is_before = |(found, revision, _): &(Vec<u8>, u64, Option<Vec<u8>>)| {
                (found, Reverse(*revision)) < (&key, Reverse(at))
            };
            cursor.seek_version(&key, Revision::new(at)).unwrap();
            let split = all.partition_point(is_before);
            prop_assert_eq!(at_cursor(&cursor), all.get(split).cloned());
        }
    }
}
