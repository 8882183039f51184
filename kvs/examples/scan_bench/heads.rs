//! Short scans where much was deleted.

use crate::clock::{Clock, Times};
use crate::{Arguments, metric};
use kvs::{Advance, Database, Durability, Kvs, Range, Result, Snapshot};
use std::time::{Duration, Instant};

const KVS: &str = "heads";

fn key(number: u64) -> Vec<u8> {
    format!("item{number:016}").into_bytes()
}

/// What a scan of one key took: time, dead keys looked at, and pages read meanwhile.
#[derive(Clone, Copy, Default)]
struct Cost {
    times: Times,
    steps: u64,
    pages: u64,
}

#[derive(Default)]
struct Costs(Vec<Cost>);

impl Costs {
    fn tell(&self, what: &str) {
        let sorted = |of: &dyn Fn(&Cost) -> u64| {
            let mut numbers: Vec<u64> = self.0.iter().map(of).collect();
            numbers.sort_unstable();
            let index = |part: usize| (self.0.len() - 1) * part / 1000;
            [500, 990, 1000].map(|part| numbers[index(part)])
        };
        let us = |of: &dyn Fn(&Cost) -> Duration| {
            sorted(&|cost| of(cost).as_nanos() as u64).map(|ns| ns as f64 / 1e3)
        };
        let [p50, p99, max] = us(&|cost| cost.times.all);
        let [_, p99_alone, max_alone] = us(&|cost| cost.times.alone());
        let [dead_p50, dead_p99, dead_max] = sorted(&|cost| cost.steps);
        let [_, pages_p99, pages_max] = sorted(&|cost| cost.pages);
        println!(
            "{what}: {} scans, p50 {p50:.1} us, p99 {p99:.1} us, max {max:.1} us; \
             alone p99 {p99_alone:.1} us, max {max_alone:.1} us; \
             dead keys walked over, in sixteens: p50 {dead_p50}, p99 {dead_p99}, max {dead_max}; \
             pages waited for: p99 {pages_p99}, max {pages_max}",
            self.0.len(),
        );
    }
}

/// The first key of a scan, and what it took with its snapshot.
fn first((db, kvs): (&Database, &Kvs), reverse: bool) -> Result<(Option<Vec<u8>>, Cost)> {
    let pages = || metric(db, "mpool_mcache_filled_bytes_total") / 4096;
    let (pages_before, clock, mut steps) = (pages(), Clock::start(), 0);
    let mut cursor = kvs.cursor(Range { reverse, ..Range::default() })?;
    let first = loop {
        match cursor.advance(16)? {
            Advance::Key => break Some((cursor.key().to_vec(), cursor.value()?)),
            Advance::End => break None,
            Advance::Paused => steps += 16,
        }
    };
    let times = clock.elapsed();
    let cost = Cost { times, steps, pages: pages() - pages_before };
    Ok((first.map(|(key, _)| key), cost))
}

/// Keys that come at the tail and go at the head.
struct Moving {
    db: Database,
    kvs: Kvs,
    head: u64,
    tail: u64,
    value: Vec<u8>,
    heads: Costs,
    tails: Costs,
}

impl Moving {
    fn new(arguments: &Arguments, value: u64) -> Result<Self> {
        let db = arguments.open()?;
        let kvs = db.create_kvs(KVS)?;
        let value = vec![b'v'; arguments.number("value", value) as usize];
        let (heads, tails) = (Costs::default(), Costs::default());
        Ok(Self { db, kvs, head: 0, tail: 0, value, heads, tails })
    }

    fn insert(&mut self) -> Result<()> {
        self.kvs.put(&key(self.tail), &self.value, Durability::Off)?;
        self.tail += 1;
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        self.kvs.delete(&key(self.head), Durability::Off)?;
        self.head += 1;
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        let (shown, cost) = first((&self.db, &self.kvs), false)?;
        assert_eq!(shown, Some(key(self.head)), "the head");
        self.heads.0.push(cost);
        if self.heads.0.len().is_multiple_of(8) {
            let (shown, cost) = first((&self.db, &self.kvs), true)?;
            assert_eq!(shown, Some(key(self.tail - 1)), "the tail");
            self.tails.0.push(cost);
        }
        Ok(())
    }

    fn run(mut self, arguments: &Arguments, (count, live, every): (u64, u64, u64)) -> Result<()> {
        let start = Instant::now();
        for number in 0..count {
            self.insert()?;
            if self.tail - self.head > live {
                self.delete()?;
            }
            if (number + 1).is_multiple_of(every) {
                self.look()?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let writes = self.head + self.tail;
        println!("{writes} writes in {seconds:.1} s, {:.0} a second", writes as f64 / seconds);
        let (_, last) = first((&self.db, &self.kvs), false)?;
        println!("at the end: {:.1} us", last.times.all.as_secs_f64() * 1e6);
        self.heads.tell("from the head");
        self.tails.tell("from the tail");
        self.db.close()?;
        let expect = key(self.head);
        drop(self);
        let start = Instant::now();
        let db = arguments.open()?;
        println!("opened again in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        let kvs = db.open_kvs(KVS)?;
        let mut costs = Costs::default();
        for number in 0..100 {
            let (shown, cost) = first((&db, &kvs), false)?;
            assert_eq!(shown.as_deref(), Some(&expect[..]), "the head");
            if number == 0 {
                let us = cost.times.all.as_secs_f64() * 1e6;
                println!("the first scan after it: {us:.1} us, over {} dead keys", cost.steps);
            } else {
                costs.0.push(cost);
            }
        }
        costs.tell("and then");
        db.close()
    }
}

pub(crate) fn queue(arguments: &Arguments) -> Result<()> {
    let inserts = arguments.number("operations", 1_000_000) / 2;
    let (live, every) = (arguments.number("live", 1000), arguments.number("every", 1000));
    Moving::new(arguments, 100)?.run(arguments, (inserts, live, every))
}

pub(crate) fn window(arguments: &Arguments) -> Result<()> {
    let inserts = arguments.number("inserts", 6_000_000);
    let (live, every) = (arguments.number("live", 200_000), arguments.number("every", 5000));
    Moving::new(arguments, 116)?.run(arguments, (inserts, live, every))
}

fn told_first(db: &Database, kvs: &Kvs, what: &str) -> Result<()> {
    println!("{what}: {} dead ranges are known", metric(db, "kvs_dead_ranges"));
    for reverse in [false, true] {
        let (_, once) = first((db, kvs), reverse)?;
        let mut costs = Costs::default();
        for _ in 0..100 {
            costs.0.push(first((db, kvs), reverse)?.1);
        }
        let way = if reverse { "reverse" } else { "forward" };
        let us = once.times.all.as_secs_f64() * 1e6;
        println!("{what}, {way}: at first {us:.1} us, over {} dead keys", once.steps);
        costs.tell("    then");
    }
    Ok(())
}

pub(crate) fn deleted(arguments: &Arguments) -> Result<()> {
    let db = arguments.open()?;
    let kvs = db.create_kvs(KVS)?;
    let keys = arguments.number("keys", 500_000);
    let value = vec![b'v'; arguments.number("value", 1000) as usize];
    for number in 0..keys {
        kvs.put(&key(number), &value, Durability::Off)?;
    }
    db.flush()?;
    for number in 0..keys / 10 * 9 {
        kvs.delete(&key(number), Durability::Off)?;
    }
    told_first(&db, &kvs, "after the deletes")?;
    db.flush()?;
    told_first(&db, &kvs, "after a flush")?;
    db.compact()?;
    told_first(&db, &kvs, "after a compaction")?;
    db.close()?;
    drop((kvs, db));
    let db = arguments.open()?;
    let kvs = db.open_kvs(KVS)?;
    told_first(&db, &kvs, "after an open")?;
    db.close()
}

fn told_snapshot(kvs: &Kvs, snapshot: &Snapshot, what: &str) -> Result<()> {
    for reverse in [false, true] {
        let mut costs = Costs::default();
        for _ in 0..20 {
            let clock = Clock::start();
            let cursor = snapshot.cursor(kvs, Range { reverse, ..Range::default() })?;
            assert_eq!(cursor.count(), 3);
            costs.0.push(Cost { times: clock.elapsed(), ..Cost::default() });
        }
        costs.tell(&format!("{what}, {}", if reverse { "reverse" } else { "forward" }));
    }
    Ok(())
}

pub(crate) fn versions(arguments: &Arguments) -> Result<()> {
    let db = arguments.open()?;
    let kvs = db.create_kvs(KVS)?;
    for number in 0..3 {
        kvs.put(&key(number), b"old", Durability::Off)?;
    }
    let snapshot = db.snapshot();
    for _ in 0..arguments.number("versions", 400_000) {
        kvs.put(&key(1), b"new", Durability::Off)?;
    }
    told_snapshot(&kvs, &snapshot, "under newer versions")?;
    told_snapshot(&kvs, &db.snapshot(), "over older versions")?;
    drop(snapshot);
    db.close()
}
