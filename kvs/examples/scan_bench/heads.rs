//! Short scans where much was deleted.

use crate::{Arguments, metric};
use kvs::{Database, Durability, Kvs, Range, Result, Snapshot};
use std::time::{Duration, Instant};

const KVS: &str = "heads";

fn key(number: u64) -> Vec<u8> {
    format!("item{number:016}").into_bytes()
}

/// How long scans of one key took.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn tell(mut self, what: &str) {
        self.0.sort();
        let at = |part: usize| self.0[(self.0.len() - 1) * part / 1000].as_secs_f64() * 1e6;
        let (median, late, longest) = (at(500), at(990), at(1000));
        println!(
            "{what}: {} scans, p50 {median:.1} us, p99 {late:.1} us, max {longest:.1} us",
            self.0.len()
        );
    }
}

/// The first key of a scan, and how long it took with its snapshot.
fn first(kvs: &Kvs, reverse: bool) -> Result<(Option<Vec<u8>>, Duration)> {
    let start = Instant::now();
    let mut cursor = kvs.cursor(Range { reverse, ..Range::default() })?;
    let first = cursor.next().transpose()?.map(|item| item.key.to_vec());
    Ok((first, start.elapsed()))
}

/// Keys that come at the tail and go at the head.
struct Moving {
    db: Database,
    kvs: Kvs,
    head: u64,
    tail: u64,
    value: Vec<u8>,
    heads: Times,
    tails: Times,
}

impl Moving {
    fn new(arguments: &Arguments, value: u64) -> Result<Self> {
        let db = arguments.open()?;
        let kvs = db.create_kvs(KVS)?;
        let value = vec![b'v'; arguments.number("value", value) as usize];
        let (heads, tails) = (Times::default(), Times::default());
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
        let (shown, time) = first(&self.kvs, false)?;
        assert_eq!(shown, Some(key(self.head)), "the head");
        self.heads.0.push(time);
        if self.heads.0.len().is_multiple_of(8) {
            let (shown, time) = first(&self.kvs, true)?;
            assert_eq!(shown, Some(key(self.tail - 1)), "the tail");
            self.tails.0.push(time);
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
        let (_, last) = first(&self.kvs, false)?;
        println!("at the end: {:.1} us", last.as_secs_f64() * 1e6);
        std::mem::take(&mut self.heads).tell("from the head");
        std::mem::take(&mut self.tails).tell("from the tail");
        self.db.close()?;
        let expect = key(self.head);
        drop(self);
        let start = Instant::now();
        let db = arguments.open()?;
        println!("opened again in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        let kvs = db.open_kvs(KVS)?;
        let mut times = Times::default();
        for number in 0..100 {
            let (shown, time) = first(&kvs, false)?;
            assert_eq!(shown.as_deref(), Some(&expect[..]), "the head");
            if number == 0 {
                println!("the first scan after it: {:.1} us", time.as_secs_f64() * 1e6);
            } else {
                times.0.push(time);
            }
        }
        times.tell("and then");
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
        let (_, once) = first(kvs, reverse)?;
        let mut times = Times::default();
        for _ in 0..100 {
            times.0.push(first(kvs, reverse)?.1);
        }
        let way = if reverse { "reverse" } else { "forward" };
        println!("{what}, {way}: at first {:.1} us", once.as_secs_f64() * 1e6);
        times.tell("    then");
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
        let mut times = Times::default();
        for _ in 0..20 {
            let start = Instant::now();
            let cursor = snapshot.cursor(kvs, Range { reverse, ..Range::default() })?;
            assert_eq!(cursor.count(), 3);
            times.0.push(start.elapsed());
        }
        times.tell(&format!("{what}, {}", if reverse { "reverse" } else { "forward" }));
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
