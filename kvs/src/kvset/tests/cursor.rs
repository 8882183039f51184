//! Cursors against a sorted list, both modes.

use super::*;
use crate::entry::version::VersionCursor;
use crate::kvset::{Holes, KvsetCursor, ReadAhead, ReadMode, ScanAhead};
use mpool::MemoryConsumer;

type Entries = Vec<(Vec<u8>, Held)>;

fn check(cursor: &KvsetCursor, entries: &Entries, at: Option<usize>, told: &str) {
    let Some(at) = at else {
        assert!(!cursor.valid(), "{told}");
        return;
    };
    let (key, held) = &entries[at];
    assert!(cursor.valid(), "{told}");
    assert_eq!(cursor.key(), key, "{told}");
    assert_eq!(cursor.revision(), held.revision, "{told}");
    match (cursor.op(), &held.value) {
        (Op::Tombstone, None) => {}
        (Op::Inline(inline), Some(value)) => assert_eq!(inline, value, "{told}"),
        (Op::Extern(ptr), Some(value)) => {
            assert_eq!(usize::try_from(ptr.len).unwrap(), value.len(), "{told}");
        }
        (stored, value) => panic!("{told}: {stored:?} is not {value:?}"),
    }
}

fn check_value(cursor: &KvsetCursor, entries: &Entries, at: usize, told: &str) {
    if let Some(value) = &entries[at].1.value {
        assert_eq!(cursor.value().unwrap(), value, "{told}");
    }
}

#[test]
fn walks_agree_with_a_list() {
    for seed in seeds(6) {
        let mut random = Random(seed);
        let count = 1 + random.below(1200);
        let model = random.model(count);
        let (_, pool) = new_pool();
        let kvset = build_and_open(&pool, &model);
        let entries: Entries = model.into_iter().collect();
        for mode in [ReadMode::Mapped, ReadMode::Direct] {
            let told = format!("seed {seed} {mode:?}");
            let mut cursor = kvset.cursor(mode);
            assert!(!cursor.valid(), "{told}");
            cursor.seek_first().unwrap();
            for at in 0..entries.len() {
                check(&cursor, &entries, Some(at), &told);
                check_value(&cursor, &entries, at, &told);
                cursor.next().unwrap();
            }
            check(&cursor, &entries, None, &told);
            cursor.next().unwrap();
            cursor.prev().unwrap();
            check(&cursor, &entries, None, &told);
            cursor.seek_last().unwrap();
            for at in (0..entries.len()).rev() {
                check(&cursor, &entries, Some(at), &told);
                check_value(&cursor, &entries, at, &told);
                cursor.prev().unwrap();
            }
            check(&cursor, &entries, None, &told);
        }
    }
}

#[test]
fn jumps_agree_with_a_list() {
    for seed in seeds(10) {
        let mut random = Random(seed);
        let count = 1 + random.below(600);
        let model = random.model(count);
        let (_, pool) = new_pool();
        let kvset = build_and_open(&pool, &model);
        let entries: Entries = model.into_iter().collect();
        for mode in [ReadMode::Mapped, ReadMode::Direct] {
            let mut cursor = kvset.cursor(mode);
            let mut at = None;
            for step in 0..800 {
                let mut key = entries[random.below(entries.len())].0.clone();
                match random.below(4) {
                    0 => key = random.key(),
                    1 => key.push(0),
                    _ => {}
                }
                let first = entries.partition_point(|(have, _)| *have < key);
                let action = random.below(8);
                match action {
                    0 => {
                        cursor.seek(&key).unwrap();
                        at = (first < entries.len()).then_some(first);
                    }
                    1 => {
                        cursor.seek_before(&key).unwrap();
                        at = first.checked_sub(1);
                    }
                    2..=4 => {
                        cursor.next().unwrap();
                        at = at.map(|at| at + 1).filter(|at| *at < entries.len());
                    }
                    _ => {
                        cursor.prev().unwrap();
                        at = at.and_then(|at: usize| at.checked_sub(1));
                    }
                }
                let told = format!("seed {seed} {mode:?} step {step} action {action}");
                check(&cursor, &entries, at, &told);
                if let Some(at) = at
                    && random.below(4) == 0
                {
                    check_value(&cursor, &entries, at, &told);
                }
            }
        }
    }
}

#[test]
fn direct_walks_read_each_byte_about_once() {
    let (_, pool) = new_pool();
    let mut model = Model::new();
    for number in 0..3000u32 {
        let held = Held { revision: Revision::new(1), value: Some(vec![1; 1000]) };
        model.insert(format!("user{number:020}").into_bytes(), held);
    }
    let kvset = commit(&pool, build(&pool, &model, WHOLE).unwrap());
    let meta = kvset.meta();
    for forward in [true, false] {
        let before = pool.metrics().read_bytes();
        let mut cursor = kvset.cursor(ReadMode::Direct);
        let start = if forward { KvsetCursor::seek_first } else { KvsetCursor::seek_last };
        let step = if forward { KvsetCursor::next } else { KvsetCursor::prev };
        start(&mut cursor).unwrap();
        while cursor.valid() {
            assert_eq!(cursor.value().unwrap().len(), 1000);
            step(&mut cursor).unwrap();
        }
        let read = pool.metrics().read_bytes() - before;
        let stored = meta.kblock_bytes + meta.value_bytes;
        assert!(read < stored + stored / 20 + (64 << 10), "{read} of {stored}");
    }
    let maps = kvset.values.as_ref().unwrap().stats();
    assert_eq!(maps.hits + maps.faults, 0, "a direct cursor leaves the map alone");
}

/// As users' scans read: chunk by chunk, the next one on its way. Nothing is held afterwards.
#[test]
fn scans_read_each_byte_about_once_and_ahead() {
    let (_, pool) = new_pool();
    let mut random = Random(7);
    let mut model = Model::new();
    for number in 0..3000u32 {
        // Longer and shorter ones, so that records lie across the edges of chunks in many ways.
        let len = if number % 100 == 0 { 9000 } else { 300 + random.below(1200) };
        let held = Held { revision: Revision::new(1), value: Some(random.bytes(len)) };
        model.insert(format!("user{number:020}").into_bytes(), held);
    }
    let kvset = build_and_open(&pool, &model);
    let entries: Entries = model.into_iter().collect();
    let meta = kvset.meta();
    let all = Arc::new(ReadAhead::default());
    for forward in [true, false] {
        let before = pool.metrics().read_bytes();
        let ahead = ScanAhead::new(&all, Box::new(|| false));
        let mut cursor = kvset.scan((&Arc::new(Holes::default()), &ahead));
        let start = if forward { KvsetCursor::seek_first } else { KvsetCursor::seek_last };
        let step = if forward { KvsetCursor::next } else { KvsetCursor::prev };
        start(&mut cursor).unwrap();
        let mut most = 0;
        for number in 0..entries.len() {
            let at = if forward { number } else { entries.len() - 1 - number };
            check(&cursor, &entries, Some(at), "scan");
            check_value(&cursor, &entries, at, "scan");
            most = most.max(all.used_bytes());
            step(&mut cursor).unwrap();
        }
        assert!(most > 256 << 10, "two chunks at times: {most}");
        drop(cursor);
        assert_eq!(all.used_bytes(), 0);
        let read = pool.metrics().read_bytes() - before;
        let stored = meta.kblock_bytes + meta.value_bytes;
        assert!(read < stored + stored / 4 + (64 << 10), "{read} of {stored}");
    }
}
