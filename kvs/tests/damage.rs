//! Bits rot on the medium: a read of a key that they touch is an error that names it, and a scan
//! goes past them. What a scan shows is right, what it cannot show it says, and damage hides no
//! newer version behind an older one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Advance, Cursor, Database, Durability, Error, Kvs, Options, Range, Scope, TryGet};
use mpool::{Device, IO_ALIGN, IoBuf, Pool, ScrubTarget};
use mpool_sim::{Faults, SimDevice};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use support::Rng;

const PAGE: usize = IO_ALIGN;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// From the first key on and before the second.
type KeyRange = (Box<[u8]>, Box<[u8]>);

fn options() -> Options {
    Options { value_cache_bytes: Some(0), ..support::options() }
}

fn key(n: u64) -> Vec<u8> {
    format!("user{n:04}").into_bytes()
}

fn put(kvs: &Kvs, map: &mut Map, n: u64, value: Vec<u8>) {
    kvs.put(&key(n), &value, Durability::Off).unwrap();
    map.insert(key(n), value);
}

fn delete(kvs: &Kvs, map: &mut Map, n: u64) {
    kvs.delete(&key(n), Durability::Off).unwrap();
    map.remove(&key(n));
}

/// Leaves and a root of several kvsets, so that most keys have several versions; some are deleted;
/// and a log that becomes a memtable. Values are inline or not.
fn build(seed: u64) -> (SimDevice, Map) {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    let (kvs, mut map, mut rng) = (db.kvs("birds").unwrap(), Map::new(), Rng(seed));
    let value = |rng: &mut Rng, n: u64| {
        let len = if n.is_multiple_of(3) { 600 } else { 150 };
        rng.bytes(len)
    };
    for n in 0..600 {
        let value = value(&mut rng, n);
        put(&kvs, &mut map, n, value);
    }
    db.flush().unwrap();
    db.compact().unwrap();
    for _ in 0..3 {
        for _ in 0..120 {
            let n = rng.below(700);
            if rng.below(4) == 0 {
                delete(&kvs, &mut map, n);
            } else {
                let value = value(&mut rng, n);
                put(&kvs, &mut map, n, value);
            }
        }
        db.flush().unwrap();
    }
    for _ in 0..40 {
        let n = rng.below(700);
        let value = value(&mut rng, n);
        put(&kvs, &mut map, n, value);
    }
    db.sync().unwrap();
    support::close_unflushed(&device, &db);
    (device, map)
}

fn open(device: &SimDevice) -> (Database, Kvs) {
    let db = support::open(device, &options()).unwrap();
    let kvs = db.open_kvs("birds").unwrap();
    (db, kvs)
}

fn image(device: &SimDevice) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(device.geometry().len_bytes).unwrap()];
    device.read_at(0, &mut image).unwrap();
    image
}

/// Where the pages of kvsets lie on the device: those of kblocks but for their footers, and those
/// of vblocks but for their heads.
fn pages(device: &SimDevice) -> Vec<u64> {
    let (db, _) = open(device);
    let image = image(device);
    let by_content: HashMap<&[u8], u64> =
        (0..).step_by(PAGE).zip(image.chunks(PAGE)).map(|(at, page)| (page, at)).collect();
    let mut found = Vec::new();
    for id in db.pool().mblock_ids() {
        let mblock = db.pool().mblock(id).unwrap();
        let owner = db.owner_of(ScrubTarget::Mblock(id)).unwrap_or_default();
        let count = mblock.len_bytes().div_ceil(PAGE as u64);
        let inner = match owner.rsplit(' ').next() {
            Some("kblock") => 0..count - 1,
            Some("vblock") => 1..count,
            _ => continue,
        };
        for page in inner {
            let mut bytes = IoBuf::zeroed(PAGE);
            mblock.read_at(page * PAGE as u64, &mut bytes).unwrap();
            found.extend(by_content.get(&bytes[..]));
        }
    }
    found
}

/// What a scan has said.
#[derive(Default)]
struct Said {
    items: Map,
    damaged: BTreeSet<Vec<u8>>,
    ranges: Vec<KeyRange>,
}

impl Said {
    fn error(&mut self, error: Error) {
        assert_eq!(error.scope(), Scope::Object, "{error}");
        match error {
            Error::Damaged { kvs, key, .. } => {
                assert_eq!(&*kvs, "birds");
                assert!(self.damaged.insert(key.to_vec()), "said twice: {key:?}");
            }
            Error::DamagedRange { kvs, from, to, .. } => {
                assert_eq!(&*kvs, "birds");
                assert!(from < to);
                self.ranges.push((from, to));
            }
            other => panic!("not about a key or a range: {other}"),
        }
    }

    fn item(&mut self, key: &[u8], value: Vec<u8>) {
        assert!(self.items.insert(key.to_vec(), value).is_none(), "shown twice: {key:?}");
    }

    fn of(cursor: Cursor) -> Self {
        let (mut said, mut last) = (Self::default(), None);
        for item in cursor {
            match item {
                Ok(item) => {
                    assert!(last.as_ref() != Some(&item.key));
                    last = Some(item.key.clone());
                    said.item(&item.key, item.value.to_vec());
                }
                Err(error) => said.error(error),
            }
        }
        said
    }

    /// The same by steps, with a look at the length of each value first.
    fn by_steps(mut cursor: Cursor, steps_max: u32) -> Self {
        let mut said = Self::default();
        loop {
            match cursor.advance(steps_max) {
                Ok(Advance::Key) => match cursor.value() {
                    Ok(value) => {
                        assert_eq!(cursor.value_len(), value.len());
                        said.item(cursor.key(), value.to_vec());
                    }
                    Err(error) => said.error(error),
                },
                Ok(Advance::Paused) => assert!(!cursor.key().is_empty()),
                Ok(Advance::End) => return said,
                Err(error) => said.error(error),
            }
        }
    }

    fn admits(&self, key: &[u8]) -> bool {
        let inside = |(from, to): &KeyRange| **from <= *key && *key < **to;
        self.damaged.contains(key) || self.ranges.iter().any(inside)
    }

    /// Everything shown is right; everything that a read of the key alone finds is shown; what is
    /// not shown is admitted; and nothing is admitted outside of the range.
    fn check(&self, kvs: &Kvs, map: &Map, range: &Range, case: &str) {
        let inside = |key: &[u8]| {
            range.start.as_ref().is_none_or(|start| **start <= *key)
                && range.end.as_ref().is_none_or(|end| *key < **end)
        };
        for (key, value) in &self.items {
            assert_eq!(map.get(key), Some(value), "{case}: {key:?} is shown");
            assert!(inside(key), "{case}");
        }
        for key in map.keys().filter(|key| inside(key)) {
            match kvs.get(key) {
                Ok(entry) => {
                    assert_eq!(entry.unwrap().value, map[key], "{case}: {key:?}");
                    assert!(self.items.contains_key(key), "{case}: {key:?} is not shown");
                }
                Err(error) => {
                    assert!(matches!(error, Error::Damaged { .. }), "{case}: {error}");
                    let known = self.items.contains_key(key) || self.admits(key);
                    assert!(known, "{case}: {key:?} is passed over in silence");
                }
            }
        }
        assert!(self.damaged.iter().all(|key| inside(key)), "{case}");
        for (from, to) in &self.ranges {
            assert!(inside(from) && range.end.as_ref().is_none_or(|end| **to <= **end), "{case}");
        }
    }
}

fn check_scans(kvs: &Kvs, map: &Map, rng: &mut Rng, case: &str) {
    for reverse in [false, true] {
        let whole = Range { reverse, ..Range::default() };
        let (a, b) = (rng.below(700), rng.below(700));
        let part = Range {
            start: Some(key(a.min(b)).into()),
            end: Some(key(a.max(b)).into()),
            ..whole.clone()
        };
        for range in [whole, part] {
            let cursor = || kvs.cursor(range.clone()).unwrap();
            let case = format!("{case}, {range:?}");
            Said::of(cursor()).check(kvs, map, &range, &case);
            let steps_max = 1 + u32::try_from(rng.below(4)).unwrap();
            Said::by_steps(cursor(), steps_max).check(kvs, map, &range, &case);
            let mut said = Said::default();
            for found in cursor().keys() {
                match found {
                    Ok((key, _)) => said.item(&key, map.get(&key[..]).unwrap().clone()),
                    Err(error) => said.error(error),
                }
            }
            said.check(kvs, map, &range, &case);
        }
    }
}

fn flip(device: &SimDevice, struck: &[(u64, u8)]) {
    for (at, bit) in struck {
        device.flip_bit(*at, *bit);
    }
}

#[test]
fn scans_of_damaged_kvsets_agree_with_the_model() {
    let mut ranges = 0;
    for seed in support::seeds(0..12) {
        println!("MILLPOND_SEED={seed}");
        let (device, map) = build(seed);
        let (pages, mut rng) = (pages(&device), Rng(seed));
        assert!(pages.len() > 50, "{}", pages.len());
        for round in 0..4 {
            let struck: Vec<(u64, u8)> = (0..=rng.below(8))
                .map(|_| {
                    let page = pages[usize::try_from(rng.below(pages.len() as u64)).unwrap()];
                    (page + rng.below(PAGE as u64), u8::try_from(rng.below(8)).unwrap())
                })
                .collect();
            flip(&device, &struck);
            let (db, kvs) = open(&device);
            check_scans(&kvs, &map, &mut rng, &format!("seed {seed}, round {round}, {struck:?}"));
            ranges += Said::of(kvs.cursor(Range::default()).unwrap()).ranges.len();
            drop((kvs, db));
            flip(&device, &struck);
        }
    }
    assert!(ranges > 0, "no leaf was ever struck");
}

/// All pages of an index but its footer: only what newer kvsets and the memtable hold can be shown.
#[test]
fn a_wholly_damaged_index_is_one_range_and_ends() {
    let (device, map) = build(77);
    let all = pages(&device);
    for at in &all {
        device.flip_bit(at + 100, 3);
    }
    let (_db, kvs) = open(&device);
    for reverse in [false, true] {
        let range = Range { reverse, ..Range::default() };
        let said = Said::of(kvs.cursor(range.clone()).unwrap());
        said.check(&kvs, &map, &range, "all");
        assert!((1..20).contains(&said.ranges.len()), "{:?}", said.ranges.len());
    }
}

/// Flips a bit of a value wherever it stands: the log may still hold it.
fn strike(device: &SimDevice, value: &[u8]) {
    let image = image(device);
    let places = image.windows(64).enumerate().filter(|(_, bytes)| *bytes == &value[..64]);
    places.for_each(|(at, _)| device.flip_bit(at as u64 + 70, 5));
}

/// One kvset of values of this length.
fn flat(keys: u64, len: usize) -> (SimDevice, Map) {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    let (kvs, mut map, mut rng) = (db.kvs("birds").unwrap(), Map::new(), Rng(len as u64));
    for n in 0..keys {
        let value = rng.bytes(len);
        put(&kvs, &mut map, n, value);
    }
    db.flush().unwrap();
    db.close().unwrap();
    (device, map)
}

#[test]
fn a_damaged_value_is_an_error_that_names_its_key_and_a_scan_goes_on() {
    let (device, map) = flat(60, 3000);
    let mut rng = Rng(3);
    let bad: BTreeSet<_> = [0, 17, 18, 59].map(key).into();
    for key in &bad {
        strike(&device, &map[key]);
    }
    let (db, kvs) = open(&device);
    let whole = Said::of(kvs.cursor(Range::default()).unwrap());
    assert_eq!(whole.damaged, bad);
    assert!(whole.ranges.is_empty(), "the index is sound");
    assert_eq!(whole.items.len(), 56);
    check_scans(&kvs, &map, &mut rng, "values");
    assert_eq!(kvs.cursor(Range::default()).unwrap().keys().count(), 60, "keys need no values");
    // Reads of one key, the other ways.
    let named = |error: Error| {
        let text = error.to_string();
        assert!(text.contains("\"birds\"") && text.contains("\"user0017\""), "{text}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("corrupt"), "{cause}");
    };
    named(kvs.get(&key(17)).unwrap_err());
    named(db.snapshot().get(&kvs, &key(17)).unwrap_err());
    for way in 0..2 {
        let cold = match kvs.try_get(&key(17)) {
            Ok(TryGet::Ready(entry)) => panic!("{entry:?}"),
            Ok(TryGet::Cold(cold)) => cold,
            Err(error) => return named(error),
        };
        if way == 0 {
            named(cold.wait().unwrap_err());
        } else {
            let (told, hears) = std::sync::mpsc::channel();
            cold.submit(Box::new(move |outcome| told.send(outcome).unwrap()));
            named(hears.recv().unwrap().unwrap_err());
        }
    }
}

#[test]
fn a_cursor_stays_on_a_damaged_key_until_it_is_led_on() {
    let (device, map) = flat(60, 600);
    let target = key(30);
    strike(&device, &map[&target]);
    let (_db, kvs) = open(&device);
    let range = Range { start: Some(target.clone().into()), ..Range::default() };
    let mut cursor = kvs.cursor(range).unwrap();
    assert_eq!(cursor.advance(u32::MAX).unwrap(), Advance::Key);
    for _ in 0..2 {
        assert_eq!(cursor.key(), target);
        assert!(matches!(cursor.value(), Err(Error::Damaged { .. })));
    }
    assert!(matches!(cursor.next_key(), Some(Ok((next, _))) if *next > *target));
    cursor.seek(&target).unwrap();
    assert!(matches!(cursor.next(), Some(Err(Error::Damaged { .. }))), "told again");
}

/// A drive that cannot read a sector of what is read ahead: only the value in it is lost.
#[test]
fn a_read_that_fails_costs_one_value() {
    let (device, map) = flat(200, 1000);
    for nth in 0..12 {
        let (_db, kvs) = open(&device);
        let cursor = kvs.cursor(Range::default()).unwrap();
        device.set_faults(Faults { read_eio_at: Some(nth), ..Faults::default() });
        let said = Said::of(cursor);
        device.set_faults(Faults::default());
        // The first ones read the index, and a value alone; the others read ahead.
        let lost = usize::from(nth < 3);
        assert!(said.damaged.len() <= lost, "read {nth}: {}", said.damaged.len());
        for (key, value) in &said.items {
            assert_eq!(map.get(key), Some(value), "read {nth}");
        }
        let known = |key: &Vec<u8>| said.items.contains_key(key) || said.admits(key);
        assert!(map.keys().all(known), "read {nth}");
    }
}

/// An error that is not about an object ends a cursor: whoever goes on for ever does not.
#[test]
fn a_closed_store_still_reads_what_a_cursor_holds_or_ends() {
    let (device, map) = build(8);
    let pool = Pool::open(Arc::new(device.clone()), &support::pool_options()).unwrap();
    let db = Database::open_pool(pool, options()).unwrap();
    let cursor = db.open_kvs("birds").unwrap().cursor(Range::default()).unwrap();
    db.close().unwrap();
    assert!(cursor.count() <= map.len() + 1);
}
