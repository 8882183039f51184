//! The database against its model.
//!
//! The model is a `BTreeMap` for each KVS. The operations include those that users never call
//! (flush, compact, reopen): they must be invisible, so the model ignores them; and snapshots,
//! whose model is a copy of the map. Keys are drawn from a small set with shared prefixes, so that
//! collisions are common; values are of every size class: empty, inline, in a vblock, longer than a
//! page.
//!
//! A failure prints its seed; `MILLPOND_SEED=<seed> cargo test -p millpond-kvs --test model`
//! replays it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{
    ColdRead, CompactionRequest, CompactionState, Cursor, Database, Durability, Entry, Error, Kvs,
    MediaPolicy, Options, Range, Snapshot, TryGet,
};
use mpool::MediaClass;
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use support::Rng;
use support::place::{Kind, Place, zones};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

struct Run {
    place: Place,
    /// Kinds of volumes that may come; none leaves the pool as it is.
    kinds: Vec<Kind>,
    options: Options,
    db: Option<Database>,
    kvs: Vec<(Kvs, Map)>,
    snapshots: Vec<(Snapshot, Vec<Map>)>,
    rng: Rng,
    /// KVSs made so far; names are never repeated.
    named: u64,
}

impl Run {
    fn new(seed: u64, place: Place, options: Options) -> Self {
        let db = place.create(&options).unwrap();
        let mut run = Self {
            place,
            kinds: Vec::new(),
            options,
            db: Some(db),
            kvs: Vec::new(),
            snapshots: Vec::new(),
            rng: Rng(seed),
            named: 0,
        };
        run.create_kvs();
        run.create_kvs();
        run
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("closed only while it reopens")
    }

    fn create_kvs(&mut self) {
        self.named += 1;
        let kvs = self.db().create_kvs(&format!("kvs{}", self.named)).unwrap();
        self.kvs.push((kvs, Map::new()));
    }

    fn key(&mut self) -> Vec<u8> {
        match self.rng.below(10) {
            0 => vec![b'k'; 1 + usize::try_from(self.rng.below(1344)).unwrap()],
            1 => vec![0xff; 1 + usize::try_from(self.rng.below(3)).unwrap()],
            2 => vec![u8::try_from(self.rng.below(256)).unwrap()],
            _ => format!("user{:03}", self.rng.below(300)).into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.rng.below(8) {
            0 => 0,
            1 | 2 => self.rng.below(256),
            3 | 4 => 256 + self.rng.below(2000),
            5 => self.rng.below(30_000),
            _ => 1000,
        };
        let fill = self.rng.next().to_le_bytes()[0];
        let mut value = vec![fill; usize::try_from(len).unwrap()];
        if let Some(first) = value.first_mut() {
            *first = self.rng.next().to_le_bytes()[0];
        }
        value
    }

    fn some_kvs(&mut self) -> usize {
        usize::try_from(self.rng.below(self.kvs.len() as u64)).unwrap()
    }

    fn durability(&mut self) -> Durability {
        match self.rng.below(3) {
            0 => Durability::Sync,
            1 => Durability::Interval,
            _ => Durability::Off,
        }
    }

    fn batch(&mut self) {
        let mut batch = self.db().batch();
        for _ in 0..=self.rng.below(20) {
            let n = self.some_kvs();
            let key = self.key();
            if self.rng.below(4) == 0 {
                batch.delete(&self.kvs[n].0, &key).unwrap();
                self.kvs[n].1.remove(&key);
            } else {
                let value = self.value();
                batch.put(&self.kvs[n].0, &key, &value).unwrap();
                self.kvs[n].1.insert(key, value);
            }
        }
        let durability = self.durability();
        let before = self.db().revision();
        let revision = self.db().write(batch, durability).unwrap();
        assert_eq!(revision, before.next());
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            48 | 49 if !self.kinds.is_empty() => self.change_volumes(),
            0..50 => self.batch(),
            50..70 => self.read_one(),
            70..80 => self.scan_one(),
            80..86 => self.db().flush().unwrap(),
            86 | 87 => self.db().compact().unwrap(),
            88 => self.compact_as_asked(),
            89..92 => self.reopen(),
            92..95 => self.take_snapshot(),
            95..98 => self.check_snapshot(),
            98 if self.kvs.len() < 4 => self.create_kvs(),
            _ if self.kvs.len() > 2 => self.drop_kvs(),
            _ => {}
        }
    }

    fn read_one(&mut self) {
        let (n, key) = (self.some_kvs(), self.key());
        let expect = self.kvs[n].1.get(&key);
        let kvs = &self.kvs[n].0;
        let got = kvs.get(&key).unwrap();
        assert_eq!(got.as_ref().map(|entry| &entry.value[..]), expect.map(|value| &value[..]));
        let again = match kvs.try_get(&key).unwrap() {
            TryGet::Ready(entry) => entry,
            TryGet::Cold(cold) if self.rng.below(2) == 0 => cold.wait().unwrap(),
            TryGet::Cold(cold) => located(cold),
        };
        assert_eq!(again, got);
    }

    fn range(&mut self) -> Range {
        let bound = |run: &mut Self| (run.rng.below(2) == 0).then(|| run.key().into());
        let prefix = match self.rng.below(3) {
            0 => format!("user{}", self.rng.below(3)).into_bytes(),
            1 => vec![0xff],
            _ => Vec::new(),
        };
        Range {
            prefix: prefix.into(),
            start: bound(self),
            end: bound(self),
            reverse: self.rng.below(2) == 0,
        }
    }

    /// Everything, a KVS, or a range of one.
    fn compact_as_asked(&mut self) {
        let (n, range) = (self.some_kvs(), self.range());
        let kvs = (self.rng.below(3) > 0).then(|| self.kvs[n].0.name().to_owned());
        let (from, to) = match kvs {
            Some(_) => (range.start, range.end),
            None => (None, None),
        };
        let request = CompactionRequest { kvs, from, to };
        match self.db().start_compaction(request.clone()) {
            Ok(begun) => {
                let info = begun.wait().unwrap();
                assert_eq!((info.state, info.problems), (CompactionState::Done, Vec::new()));
            }
            Err(Error::CompactionRange { .. }) => {}
            Err(other) => panic!("{request}: {other}"),
        }
    }

    fn scan_one(&mut self) {
        let (n, range) = (self.some_kvs(), self.range());
        let cursor = self.kvs[n].0.cursor(range.clone()).unwrap();
        assert_eq!(collect(cursor), expected(&self.kvs[n].1, &range), "{range:?}");
    }

    fn take_snapshot(&mut self) {
        if self.snapshots.len() == 3 {
            self.snapshots.remove(0);
        }
        let maps = self.kvs.iter().map(|(_, map)| map.clone()).collect();
        self.snapshots.push((self.db().snapshot(), maps));
    }

    fn check_snapshot(&mut self) {
        let range = self.range();
        let key = self.key();
        for (snapshot, maps) in &self.snapshots {
            for ((kvs, _), map) in self.kvs.iter().zip(maps) {
                let got = snapshot.get(kvs, &key).unwrap();
                assert_eq!(got.map(|entry| entry.value.to_vec()), map.get(&key).cloned());
                let cursor = snapshot.cursor(kvs, range.clone()).unwrap();
                assert_eq!(collect(cursor), expected(map, &range), "{range:?}");
            }
        }
    }

    /// The last one, so that the snapshots' maps keep their places.
    fn drop_kvs(&mut self) {
        self.snapshots.clear();
        let (kvs, _) = self.kvs.pop().expect("there are more than two");
        self.db().drop_kvs(kvs.name()).unwrap();
        assert!(matches!(kvs.get(b"k"), Err(Error::KvsDropped)));
        assert!(matches!(self.db().open_kvs(kvs.name()), Err(Error::NoSuchKvs { .. })));
    }

    fn reopen(&mut self) {
        let revision = self.db().revision();
        let names: Vec<String> = self.kvs.iter().map(|(kvs, _)| kvs.name().to_owned()).collect();
        let maps: Vec<Map> = self.kvs.drain(..).map(|(_, map)| map).collect();
        self.snapshots.clear();
        let db = self.db.take().expect("it is open");
        db.close().unwrap();
        drop(db);
        let db = self.place.open(&self.options).unwrap();
        assert_eq!(db.revision(), revision, "revisions go on where they were");
        self.kvs = names.iter().map(|name| db.open_kvs(name).unwrap()).zip(maps).collect();
        self.db = Some(db);
    }

    /// Adds a volume, or empties one and takes it out.
    fn change_volumes(&mut self) {
        let volumes = self.db().volumes();
        let other = 1 + usize::try_from(self.rng.below(2)).unwrap();
        if let Some(volume) = volumes.get(other) {
            self.snapshots.clear();
            support::place::drain(self.db(), volume.id);
            return;
        }
        let classes = [MediaClass::Capacity, MediaClass::Staging];
        let class = classes[usize::try_from(self.rng.below(2)).unwrap()];
        let kind = self.kinds[usize::try_from(self.rng.below(self.kinds.len() as u64)).unwrap()];
        let db = self.db().clone();
        self.place.add(&db, class, kind);
    }

    fn check_all(&self) {
        for (kvs, map) in &self.kvs {
            let range = Range::default();
            assert_eq!(collect(kvs.cursor(range.clone()).unwrap()), expected(map, &range));
            for (key, value) in map {
                let entry = kvs.get(key).unwrap().expect("the model has it");
                assert_eq!(entry.value, value);
            }
        }
    }
}

fn collect(cursor: Cursor) -> Vec<(Vec<u8>, Vec<u8>)> {
    let shown = |item: kvs::Result<kvs::Item>| {
        let item = item.unwrap();
        (item.key.to_vec(), item.value.to_vec())
    };
    cursor.map(shown).collect()
}

fn expected(map: &Map, range: &Range) -> Vec<(Vec<u8>, Vec<u8>)> {
    let inside = |key: &Vec<u8>| {
        key.starts_with(&range.prefix)
            && range.start.as_ref().is_none_or(|start| **start <= **key)
            && range.end.as_ref().is_none_or(|end| **key < **end)
    };
    let items =
        map.iter().filter(|(key, _)| inside(key)).map(|(key, value)| (key.clone(), value.clone()));
    if range.reverse { items.rev().collect() } else { items.collect() }
}

fn run(seed: u64, steps: u32, options: &Options) {
    println!("MILLPOND_SEED={seed}");
    finish(Run::new(seed, Place::on(SimDevice::new(2 << 30)), options.clone()), steps);
}

fn finish(mut run: Run, steps: u32) {
    for _ in 0..steps {
        run.step();
    }
    run.check_all();
    run.reopen();
    run.check_all();
}

/// On a pool whose volumes come and go, of these kinds; it begins with one of each class.
fn run_on_volumes(seed: u64, steps: u32, place: Place, kinds: &[Kind], options: &Options) {
    println!("MILLPOND_SEED={seed}");
    let mut run = Run::new(seed, place, options.clone());
    kinds.clone_into(&mut run.kinds);
    let db = run.db().clone();
    run.place.add(&db, MediaClass::Staging, kinds[0]);
    drop(db);
    finish(run, steps);
}

/// A cold read in two steps: its length, then its value.
fn located(cold: ColdRead) -> Option<Entry> {
    let (tell, told) = std::sync::mpsc::channel();
    cold.locate(Box::new(move |found| tell.send(found).unwrap()));
    match told.recv().unwrap().unwrap() {
        TryGet::Ready(entry) => entry,
        TryGet::Cold(cold) => {
            let len = cold.value_len().expect("the index was read");
            let entry = cold.wait().unwrap();
            assert_eq!(entry.as_ref().map(|entry| entry.value.len()), Some(len));
            entry
        }
    }
}

#[test]
fn the_database_agrees_with_its_model() {
    for seed in support::seeds(0..4) {
        run(seed, 600, &support::options());
    }
}

#[test]
fn it_agrees_with_work_in_the_background() {
    let options = Options { background_threads: 2, ..support::options() };
    for seed in support::seeds(100..102) {
        run(seed, 600, &options);
    }
}

#[test]
fn it_agrees_without_a_value_cache_and_without_inline_values() {
    let options = Options { value_cache_bytes: Some(0), inline_bytes_max: 0, ..support::options() };
    for seed in support::seeds(200..202) {
        run(seed, 400, &options);
    }
}

#[test]
fn it_agrees_while_simulated_volumes_come_and_go() {
    for (seed, media_policy) in support::seeds(300..305).into_iter().zip(MediaPolicy::ALL) {
        let options = Options { media_policy, ..support::options() };
        let place = Place::on(SimDevice::new(1 << 30));
        run_on_volumes(seed, 400, place, &[Kind::Plain, Kind::Zoned], &options);
    }
}

#[test]
fn it_agrees_while_volumes_come_and_go_and_work_is_in_the_background() {
    let mut options = Options { background_threads: 2, ..support::options() };
    options.pool.background = true;
    for seed in support::seeds(310..312) {
        let place = Place::on(SimDevice::new(1 << 30));
        run_on_volumes(seed, 400, place, &[Kind::Plain, Kind::Zoned], &options);
    }
}

#[test]
fn it_agrees_while_files_come_and_go() {
    for seed in support::seeds(320..321) {
        run_on_volumes(seed, 300, Place::files(), &[Kind::Plain], &support::options());
    }
}

#[test]
fn it_agrees_on_a_zoned_drive() {
    for seed in support::seeds(330..332) {
        println!("MILLPOND_SEED={seed}");
        let place = Place::on(SimDevice::zoned(zones(64, 192)));
        finish(Run::new(seed, place, support::options()), 500);
    }
}
