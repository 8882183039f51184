//! Who puts, deletes, reads and asks, and knows what must be there.

use crate::support::{self, Rng};
use crate::{Counts, Course, key, options, value};
use kvs::{
    Advance, Compaction, CompactionProblem, CompactionRequest, CompactionState, Cursor, Database,
    Durability, Error, Kvs, Options, ProblemReason, Range, Snapshot, WriteBatch,
};
use mpool_sim::SimDevice;
use std::collections::BTreeMap;
use std::sync::Arc;

const KVSS: usize = 2;

/// By the number of a key: which put it was, and how long its value is.
type Map = BTreeMap<u64, (u64, usize)>;

/// A snapshot, and what was there when it was taken.
struct Held {
    snapshot: Snapshot,
    maps: [Arc<Map>; KVSS],
}

/// A cursor under way, and what it has yet to show, next last.
struct Walk {
    cursor: Cursor,
    map: Arc<Map>,
    range: Range,
    rest: Vec<u64>,
}

pub(crate) struct Churn {
    seed: u64,
    course: Course,
    options: Options,
    device: SimDevice,
    db: Option<Database>,
    kvs: Vec<Kvs>,
    maps: [Arc<Map>; KVSS],
    held: Vec<Held>,
    walks: Vec<Walk>,
    asked: Option<Compaction>,
    rng: Rng,
    puts: u64,
    /// Where a queue puts next.
    tail: u64,
    pub(crate) counts: Counts,
}

impl Churn {
    pub(crate) fn new(seed: u64, course: Course) -> Self {
        let (device, options) = (SimDevice::new(course.volume_bytes), options(course));
        let db = support::create(&device, &options).unwrap();
        let kvs = (0..KVSS).map(|n| db.create_kvs(&format!("kvs{n}")).unwrap()).collect();
        Self {
            seed,
            course,
            options,
            device,
            db: Some(db),
            kvs,
            maps: [Arc::default(), Arc::default()],
            held: Vec::new(),
            walks: Vec::new(),
            asked: None,
            rng: Rng(seed),
            puts: 0,
            tail: 0,
            counts: Counts::default(),
        }
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("closed only while it reopens")
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n.max(1))
    }

    fn some(&mut self) -> usize {
        usize::try_from(self.below(KVSS as u64)).unwrap()
    }

    pub(crate) fn step(&mut self) {
        match self.below(100) {
            0..18 => self.put_some(),
            18..26 => self.put_run(),
            26..34 => self.queue(),
            34..43 => self.delete_run(),
            43..46 => self.delete_some(),
            46 => self.hammer(),
            47..55 => self.get_some(),
            55..72 => self.scan(),
            72..82 => self.go_on(),
            82..84 => self.begin_walk(),
            84..88 => self.db().flush().unwrap(),
            88..90 => self.settle(),
            90..93 => self.ask(),
            93..95 => self.end_asked(),
            95..97 => self.take_snapshot(),
            97 => self.let_go(),
            98 => self.pass_by(),
            _ => self.reopen(),
        }
    }

    fn len(&mut self) -> usize {
        let Course { value_bytes_min, value_bytes_max, .. } = self.course;
        let len = match self.below(8) {
            0 => 0,
            1 | 2 => self.below(300),
            _ => value_bytes_min + self.below(value_bytes_max - value_bytes_min),
        };
        usize::try_from(len).unwrap()
    }

    /// Writes a batch of puts and deletes; what is refused is not there.
    fn write(&mut self, n: usize, ops: &[(u64, bool)]) {
        let mut map = Map::clone(&self.maps[n]);
        let mut batch = self.db().batch();
        for (at, put) in ops {
            if *put {
                self.puts += 1;
                let (put, len) = (self.puts, self.len());
                batch.put(&self.kvs[n], &key(*at), &value(put, len)).unwrap();
                map.insert(*at, (put, len));
            } else {
                batch.delete(&self.kvs[n], &key(*at)).unwrap();
                map.remove(at);
            }
        }
        self.counts.operations += ops.len() as u64;
        if self.commit(batch) {
            self.maps[n] = Arc::new(map);
        } else {
            assert!(ops.iter().any(|(_, put)| *put), "seed {}: a delete is refused", self.seed);
            self.make_room();
        }
    }

    fn commit(&mut self, batch: WriteBatch) -> bool {
        let durability = match self.below(4) {
            0 => Durability::Sync,
            1 => Durability::Interval,
            _ => Durability::Off,
        };
        match self.db().write(batch, durability) {
            Ok(_) => true,
            Err(Error::Full { .. } | Error::LogFull { .. }) => false,
            Err(other) => panic!("seed {}: {other}", self.seed),
        }
    }

    /// As an operator does: deletes a part, then lets go of what holds the rest, then deletes all.
    fn make_room(&mut self) {
        self.counts.refused += 1;
        for part in [1 + self.below(3), 0] {
            for n in 0..KVSS {
                let gone = self.maps[n].keys().filter(|at| *at % 4 >= part);
                let gone: Vec<_> = gone.map(|at| (*at, false)).collect();
                for some in gone.chunks(100) {
                    self.write(n, some);
                }
            }
            self.db().flush().unwrap();
            self.settle();
            if self.has_room() {
                return;
            }
            self.held.clear();
            self.walks.clear();
            self.settle();
            if self.has_room() {
                return;
            }
        }
        let space = self.db().space();
        panic!("seed {}: nothing comes back: {space:?}", self.seed);
    }

    fn has_room(&self) -> bool {
        self.db().space().writable_bytes > 0
    }

    fn settle(&mut self) {
        self.db().compact().unwrap();
        if self.course.threads == 0 {
            self.db().pool().tidy();
        }
    }

    fn put_some(&mut self) {
        let (n, keys) = (self.some(), self.course.keys);
        let count = 1 + self.below(20);
        let ops: Vec<_> = (0..count).map(|_| (self.below(keys), self.below(5) > 0)).collect();
        self.write(n, &ops);
    }

    fn delete_some(&mut self) {
        let (n, keys) = (self.some(), self.course.keys);
        let count = 1 + self.below(60);
        let ops: Vec<_> = (0..count).map(|_| (self.below(keys), false)).collect();
        self.write(n, &ops);
    }

    /// More versions of a key than are stepped over one by one.
    fn hammer(&mut self) {
        let (n, at) = (self.some(), self.below(self.course.keys));
        for _ in 0..=self.below(40) {
            if self.below(8) == 0 {
                self.begin_walk();
            }
            let put = self.below(5) > 0;
            self.write(n, &[(at, put)]);
        }
    }

    fn put_run(&mut self) {
        let (n, first, count) =
            (self.some(), self.below(self.course.keys), 1 + self.below(self.course.run));
        self.write_run(n, first..first + count, true);
    }

    fn write_run(&mut self, n: usize, run: std::ops::Range<u64>, put: bool) {
        let ops: Vec<_> = run.map(|at| (at, put)).collect();
        for some in ops.chunks(50) {
            self.write(n, some);
        }
    }

    /// Puts at the tail, deletes at the head.
    fn queue(&mut self) {
        let (n, count) = (self.some(), 1 + self.below(self.course.run));
        if self.tail > 4 * self.course.keys {
            self.tail = 0;
        }
        let first = self.tail.max(self.course.keys);
        self.tail = first + count;
        self.write_run(n, first..first + count, true);
        let count = usize::try_from(1 + self.below(300)).unwrap();
        let head: Vec<_> = self.maps[n].keys().take(count).map(|at| (*at, false)).collect();
        for some in head.chunks(1 + count / 3) {
            self.write(n, some);
        }
    }

    fn delete_run(&mut self) {
        let (n, keys) = (self.some(), self.course.keys);
        let first = match self.below(3) {
            0 => 0,
            1 => self.below(keys),
            _ => self.maps[n].keys().next_back().map_or(0, |last| last.saturating_sub(200)),
        };
        let count = match self.below(16) {
            0 => keys,
            1 => keys / 2,
            _ => 1 + self.below(400),
        };
        self.write_run(n, first..first + count, false);
    }

    fn get_some(&mut self) {
        for _ in 0..10 {
            let (n, at) = (self.some(), self.below(self.course.keys + 200));
            let got = self.kvs[n].get(&key(at)).unwrap().map(|entry| entry.value.to_vec());
            let want = self.maps[n].get(&at).map(|(put, len)| value(*put, *len));
            assert_eq!(got, want, "seed {}: key {at}", self.seed);
        }
        self.counts.operations += 10;
    }

    fn range(&mut self) -> Range {
        let bound = |churn: &mut Self| {
            (churn.below(3) == 0).then(|| key(churn.below(churn.course.keys * 2)).into())
        };
        let prefix = match self.below(4) {
            0 => format!("k{:03}", self.below(self.course.keys.div_ceil(1000))),
            _ => String::new(),
        };
        let (start, end) = (bound(self), bound(self));
        Range { prefix: prefix.into(), start, end, reverse: self.below(2) == 0 }
    }

    /// A cursor over what is there now, or over a snapshot.
    fn walk(&mut self) -> Walk {
        let (n, range) = (self.some(), self.range());
        let which = usize::try_from(self.below(2 * self.held.len() as u64 + 1)).unwrap();
        let (cursor, map) = match self.held.get(which) {
            Some(held) => {
                (held.snapshot.cursor(&self.kvs[n], range.clone()), Arc::clone(&held.maps[n]))
            }
            None => (self.kvs[n].cursor(range.clone()), Arc::clone(&self.maps[n])),
        };
        let rest = rest_of(&map, &range, None);
        Walk { cursor: cursor.unwrap(), map, range, rest }
    }

    fn scan(&mut self) {
        let limit = if self.below(3) == 0 { u64::MAX } else { 1 + self.below(40) };
        let mut walk = self.walk();
        self.advance(&mut walk, limit);
    }

    fn begin_walk(&mut self) {
        if self.walks.len() == 4 {
            let at = usize::try_from(self.below(4)).unwrap();
            self.walks.swap_remove(at);
        }
        let walk = self.walk();
        self.walks.push(walk);
    }

    fn go_on(&mut self) {
        let mut walks = std::mem::take(&mut self.walks);
        walks.retain_mut(|walk| {
            if self.below(6) == 0 {
                let at = key(self.below(self.course.keys * 2));
                walk.cursor.seek(&at).unwrap();
                walk.rest = rest_of(&walk.map, &walk.range, Some(&at));
            }
            let limit = 1 + self.below(30);
            self.advance(walk, limit)
        });
        self.walks = walks;
    }

    /// Shows so many keys more; false: it is at its end.
    fn advance(&mut self, walk: &mut Walk, limit: u64) -> bool {
        let steps = if self.below(2) == 0 {
            u32::MAX
        } else {
            1 + u32::from(self.rng.next().to_le_bytes()[0])
        };
        let mut shown = 0;
        while shown < limit {
            match walk.cursor.advance(steps).unwrap() {
                Advance::Paused => continue,
                Advance::End => {
                    let left = walk.rest.len();
                    assert_eq!(left, 0, "seed {}: {:?} ends early", self.seed, walk.range);
                    return false;
                }
                Advance::Key => {}
            }
            let at = walk.rest.pop().unwrap_or(u64::MAX);
            assert_eq!(walk.cursor.key(), key(at), "seed {}: {:?}", self.seed, walk.range);
            let (put, len) = walk.map[&at];
            assert_eq!(walk.cursor.value_len(), len);
            if self.below(4) > 0 {
                assert!(walk.cursor.value().unwrap() == value(put, len), "seed {}", self.seed);
            }
            shown += 1;
            self.counts.operations += 1;
        }
        true
    }

    fn ask(&mut self) {
        let (n, range) = (self.some(), self.range());
        let kvs = (self.below(3) > 0).then(|| format!("kvs{n}"));
        let (from, to) = if kvs.is_some() { (range.start, range.end) } else { (None, None) };
        match self.db().start_compaction(CompactionRequest { kvs, from, to }) {
            Ok(asked) => self.asked = Some(asked),
            Err(
                Error::CompactionRange { .. } | Error::CompactionRuns { .. } | Error::Full { .. },
            ) => {}
            Err(other) => panic!("seed {}: {other}", self.seed),
        }
    }

    pub(crate) fn end_asked(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        if self.below(2) == 0 {
            asked.cancel();
        }
        let info = asked.wait().unwrap();
        // A small volume may have no room for a part, and KVSs go.
        let is_excused = |problem: &CompactionProblem| {
            matches!(problem.reason, ProblemReason::NoRoom | ProblemReason::KvsDropped)
        };
        let expected = match info.state {
            CompactionState::Done | CompactionState::Cancelled => true,
            CompactionState::Incomplete => info.problems.iter().all(is_excused),
            _ => false,
        };
        assert!(expected, "seed {}: {info:?}", self.seed);
    }

    fn take_snapshot(&mut self) {
        if self.held.len() == 3 {
            let at = usize::try_from(self.below(3)).unwrap();
            self.held.swap_remove(at);
        }
        let snapshot = self.db().snapshot();
        self.held.push(Held { snapshot, maps: self.maps.clone() });
    }

    fn let_go(&mut self) {
        if self.below(2) == 0 {
            self.walks.clear();
        }
        if !self.held.is_empty() {
            let at = usize::try_from(self.below(self.held.len() as u64)).unwrap();
            self.held.swap_remove(at);
        }
    }

    /// A KVS that comes and goes.
    fn pass_by(&mut self) {
        let name = "passing";
        if self.below(2) == 0
            && let Ok(kvs) = self.db().open_kvs(name)
        {
            self.db().drop_kvs(name).unwrap();
            assert!(matches!(kvs.get(b"k"), Err(Error::KvsDropped)));
            return;
        }
        let kvs = match self.db().open_kvs(name) {
            Ok(kvs) => kvs,
            Err(_) => self.db().create_kvs(name).unwrap(),
        };
        let mut batch = self.db().batch();
        for at in 0..self.below(200) {
            batch.put(&kvs, &key(at), &value(at, 500)).unwrap();
        }
        if !batch.is_empty() && !self.commit(batch) {
            self.make_room();
        }
    }

    /// A close in order, or a power cut.
    pub(crate) fn reopen(&mut self) {
        let before = self.db().revision();
        if self.course.crashes && self.below(2) == 0 {
            // Deletes are not refused, and what is durable is so up to here.
            let mut batch = self.db().batch();
            batch.delete(&self.kvs[0], b"k").unwrap();
            self.db().write(batch, Durability::Sync).unwrap();
            let coin = self.rng.next();
            self.device = self.device.after_crash(coin);
        }
        (self.asked, self.held, self.walks) = (None, Vec::new(), Vec::new());
        self.count_jobs();
        self.kvs.clear();
        let db = self.db.take().expect("it is open");
        db.close().unwrap();
        drop(db);
        let db = support::open(&self.device, &self.options).unwrap();
        assert!(db.revision() >= before);
        self.kvs = (0..KVSS).map(|n| db.open_kvs(&format!("kvs{n}")).unwrap()).collect();
        self.db = Some(db);
    }

    fn count_jobs(&mut self) {
        let mut counts = std::mem::take(&mut self.counts);
        self.db().visit_metrics(&mut |sample| {
            let action = sample.labels.iter().find(|(name, _)| *name == "action");
            if let (Some((_, action)), "compactions_total") = (action, sample.name) {
                let count = sample.value.number().unwrap();
                *counts.jobs.entry((*action).to_owned()).or_default() += count;
            }
        });
        self.counts = counts;
    }

    pub(crate) fn check_all(&mut self) {
        for n in 0..KVSS {
            for reverse in [false, true] {
                let range = Range { reverse, ..Range::default() };
                let cursor = self.kvs[n].cursor(range.clone()).unwrap();
                let map = Arc::clone(&self.maps[n]);
                let rest = rest_of(&map, &range, None);
                let mut walk = Walk { cursor, map, range, rest };
                self.advance(&mut walk, u64::MAX);
            }
            for (at, (put, len)) in Map::clone(&self.maps[n]) {
                let entry = self.kvs[n].get(&key(at)).unwrap().expect("the model has it");
                assert!(entry.value == value(put, len), "seed {}: key {at}", self.seed);
            }
        }
    }
}

/// The keys that a cursor shows, the next one last; from a key on.
fn rest_of(map: &Map, range: &Range, from: Option<&[u8]>) -> Vec<u64> {
    let is_inside = |at: &&u64| {
        let key = &key(**at)[..];
        let reached = from.is_none_or(|from| if range.reverse { key <= from } else { key >= from });
        reached
            && key.starts_with(&range.prefix)
            && range.start.as_ref().is_none_or(|start| **start <= *key)
            && range.end.as_ref().is_none_or(|end| *key < **end)
    };
    let mut rest: Vec<u64> = map.keys().filter(is_inside).copied().collect();
    if !range.reverse {
        rest.reverse();
    }
    rest
}
