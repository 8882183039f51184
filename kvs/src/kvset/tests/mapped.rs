//! On a file, where the maps are real: what the simulated device, which has none, cannot show.

use super::*;
use crate::entry::version::VersionCursor;
use crate::kvset::{Holes, Probe, ReadAhead, ReadMode, ScanAhead};
use std::sync::atomic::{AtomicU64, Ordering};

fn file_pool(dir: &std::path::Path) -> Arc<Pool> {
    let options = mpool::Options {
        allow_buffered: true,
        allow_volatile: true,
        grow_step_bytes: 16 << 20,
        capacity_bytes_max: 1 << 30,
        reserve_bytes: Some(0),
        ..mpool::Options::default()
    };
    Pool::open_or_create(dir, &options).unwrap()
}

#[test]
fn an_open_kvset_answers_without_blocking() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let mut random = Random(21);
    let model = random.model(1000);
    let kvset = build_and_open(&pool, &model);
    let mut cold = 0;
    for (key, expect) in &model {
        let answer = probe(&kvset, key).unwrap();
        // Each page was verified by the probe, or by one before it.
        match try_probe(&kvset, key).unwrap() {
            Probe::Cold => cold += 1,
            again => assert_eq!(again, answer),
        }
        let value = match answer {
            Probe::Tombstone(_) => None,
            Probe::Inline(_, value) => Some(value),
            Probe::Extern(_, ptr) => Some(kvset.read_value(ptr).unwrap()),
            Probe::Excluded | Probe::Miss | Probe::Cold => panic!("the key is there: {answer:?}"),
        };
        assert_eq!(value.as_deref(), expect.value.as_deref());
        let stranger = [key, &[0][..]].concat();
        if !model.contains_key(&stranger) {
            let answer = probe(&kvset, &stranger).unwrap();
            assert!(matches!(answer, Probe::Excluded | Probe::Miss), "{answer:?}");
        }
    }
    // The kernel may take a page back at any time, but not most of them.
    assert!(cold < model.len() / 2, "{cold} of {} would block", model.len());
}

#[test]
fn absent_keys_are_told_by_the_filter() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = Random(22).model(1000);
    let kvset = build_and_open(&pool, &model);
    for key in model.keys() {
        assert!(kvset.may_contain(key, hash(key)));
        probe(&kvset, key).unwrap();
    }
    let strangers = model.keys().map(|key| [key, &[1, 2][..]].concat());
    let strangers: Vec<_> = strangers.filter(|key| !model.contains_key(key)).collect();
    let taken = strangers.iter().filter(|key| kvset.may_contain(key, hash(key))).count();
    assert!(taken * 10 < strangers.len(), "{taken} of {}", strangers.len());
}

#[test]
fn walks_and_values_are_the_same_in_both_modes() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = Random(23).model(800);
    let kvset = build_and_open(&pool, &model);
    for mode in [ReadMode::Mapped, ReadMode::Direct, ReadMode::Mapped] {
        let mut cursor = kvset.cursor(mode);
        cursor.seek_first().unwrap();
        for (key, held) in &model {
            assert_eq!(cursor.key(), key, "{mode:?}");
            if let Some(value) = &held.value {
                assert_eq!(cursor.value().unwrap(), value, "{mode:?}");
            }
            cursor.next().unwrap();
        }
        assert!(!cursor.valid());
    }
}

#[test]
fn a_kvset_is_found_again_when_the_pool_opens() {
    let dir = tempfile::tempdir().unwrap();
    let model = Random(24).model(300);
    let hblock = {
        let pool = file_pool(dir.path());
        build_and_open(&pool, &model).meta().hblock
    };
    let pool = file_pool(dir.path());
    let kvset = Kvset::open(&pool, hblock, Class::Pinned, Class::Cold).unwrap();
    let mut cursor = kvset.cursor(ReadMode::Mapped);
    cursor.seek_last().unwrap();
    for key in model.keys().rev() {
        assert_eq!(cursor.key(), key);
        cursor.prev().unwrap();
    }
    assert!(!cursor.valid());
}

#[test]
fn readers_on_several_threads_agree() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = Random(25).model(400);
    let kvset = build_and_open(&pool, &model);
    std::thread::scope(|scope| {
        for turn in 0..4 {
            let (kvset, model) = (&kvset, &model);
            scope.spawn(move || {
                for (key, held) in model.iter().skip(turn * 90) {
                    let value = match probe(kvset, key).unwrap() {
                        Probe::Extern(_, ptr) => Some(kvset.read_value(ptr).unwrap()),
                        Probe::Inline(_, value) => Some(value),
                        Probe::Tombstone(_) => None,
                        other => panic!("the key is there: {other:?}"),
                    };
                    assert_eq!(value.as_deref(), held.value.as_deref());
                }
            });
        }
    });
}

/// 4 MB in order.
fn long_model() -> Model {
    let mut model = Model::new();
    for number in 0..4000u32 {
        let value = Some(Random(number.into()).bytes(1000));
        let held = Held { revision: Revision::new(1), value };
        model.insert(format!("user{number:020}").into_bytes(), held);
    }
    model
}

/// A scan that met a vblock that was deleted under it, as compaction does, took that for lack of
/// room, and read all else past the map from there on.
#[test]
fn a_deleted_vblock_does_not_end_what_a_scan_brings_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = long_model();
    let [gone, stays] = [build_and_open(&pool, &model), build_and_open(&pool, &model)];
    let stored = stays.meta().value_bytes;
    assert_eq!(stays.absent_value_bytes(), stored);
    let values = stays.values.as_ref().unwrap();
    values.preload().unwrap();
    if values.resident_bytes() < stored {
        return; // no room on this machine
    }
    assert_eq!(stays.absent_value_bytes(), 0);
    values.purge();
    let dead: Vec<_> = gone.meta().vblocks.iter().map(|(id, _)| *id).collect();
    crate::shape::delete(&pool, &dead).unwrap();
    let ahead = ScanAhead::new(&Arc::new(ReadAhead::default()), Box::new(|| true));
    for kvset in [&gone, &stays] {
        let mut cursor = kvset.scan((&Arc::new(Holes::default()), &ahead));
        cursor.seek_first().unwrap();
        while cursor.valid() {
            assert_eq!(cursor.value().unwrap(), model[cursor.key()].value.as_deref().unwrap());
            cursor.next().unwrap();
        }
    }
    assert_eq!(gone.values.as_ref().unwrap().resident_bytes(), 0);
    assert!(values.resident_bytes() > stored / 2, "{} of {stored}", values.resident_bytes());
}

/// What fits in memory is read into it by the first scan, and not from the drive again.
#[test]
fn a_scan_of_what_fits_brings_it_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = long_model();
    let kvset = build_and_open(&pool, &model);
    let values = kvset.values.as_ref().unwrap();
    let scan = |fits: bool, reverse: bool| {
        let ahead = ScanAhead::new(&Arc::new(ReadAhead::default()), Box::new(move || fits));
        let mut cursor = kvset.scan((&Arc::new(Holes::default()), &ahead));
        let before = pool.metrics().read_bytes() + values.stats().direct_reads * 4096;
        if reverse {
            cursor.seek_last().unwrap();
        } else {
            cursor.seek_first().unwrap();
        }
        let mut left = model.len();
        while cursor.valid() {
            assert_eq!(cursor.value().unwrap(), model[cursor.key()].value.as_deref().unwrap());
            if reverse {
                cursor.prev().unwrap();
            } else {
                cursor.next().unwrap();
            }
            left -= 1;
        }
        assert_eq!(left, 0);
        pool.metrics().read_bytes() + values.stats().direct_reads * 4096 - before
    };
    let stored = kvset.meta().value_bytes;
    for reverse in [false, true] {
        values.purge();
        assert!(scan(false, reverse) > stored * 9 / 10, "past the map");
        assert!(scan(false, reverse) > stored * 9 / 10, "and it left nothing there");
        let first = scan(true, reverse);
        if values.stats().resident_bytes < stored / 2 {
            return; // no room on this machine
        }
        // The beginning of each stream is read past the map.
        assert!(first < stored / 4, "{first} of {stored} past the map");
        let again = scan(true, reverse);
        assert!(again < stored / 8, "{again} of {stored} past the map, again");
    }
}

/// Whether values fit is asked once, when a stream has been followed for a while; if they do, each
/// further vblock is read into memory from its second value on, and if not, none is.
#[test]
fn a_scan_that_has_shown_to_be_long_brings_in_further_vblocks_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pool = file_pool(dir.path());
    let model = long_model();
    let kvset = build_and_open(&pool, &model);
    let values = kvset.values.as_ref().unwrap();
    values.preload().unwrap();
    let has_room = values.resident_bytes() >= kvset.meta().value_bytes;
    let past_the_map = || pool.metrics().read_bytes() + values.stats().direct_reads * 8192;
    for fits in [true, false] {
        values.purge();
        let asked = Arc::new(AtomicU64::new(0));
        let ask = Arc::clone(&asked);
        let fits_or_not = move || {
            ask.fetch_add(1, Ordering::Relaxed);
            fits
        };
        let ahead = ScanAhead::new(&Arc::new(ReadAhead::default()), Box::new(fits_or_not));
        let mut cursor = kvset.scan((&Arc::new(Holes::default()), &ahead));
        cursor.seek_first().unwrap();
        let (mut seen, mut seen_before, mut bytes_after) = (0u64, 0, 0);
        while cursor.valid() {
            assert_eq!(cursor.value().unwrap(), model[cursor.key()].value.as_deref().unwrap());
            cursor.next().unwrap();
            seen += 1;
            if asked.load(Ordering::Relaxed) == 0 {
                (seen_before, bytes_after) = (seen, past_the_map());
            }
        }
        assert!((100..1000).contains(&seen_before), "it is asked after {seen_before} values");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let bytes_after = past_the_map() - bytes_after;
        let stored_after = (seen - seen_before) * 1000;
        // The first value of each vblock is read alone, as by a lookup.
        let first_bytes = kvset.meta().vblocks.len() as u64 * 8192;
        if !fits {
            assert!(values.resident_bytes() <= first_bytes, "{}", values.resident_bytes());
        } else if has_room {
            assert!(bytes_after < stored_after / 8, "{bytes_after} of {stored_after}");
            assert!(values.resident_bytes() > stored_after * 9 / 10);
        }
    }
}
