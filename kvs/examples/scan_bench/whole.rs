//! Whole scans: the load before them, alone, and beside a writer.

use crate::clock::{Clock, Times};
use crate::{Arguments, metric, mixed};
use kvs::{Database, Durability, Kvs, Range, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KVS: &str = "bench";

fn key(number: u64, random: bool) -> Vec<u8> {
    let number = if random { mixed(number) } else { number };
    format!("user{number:020}").into_bytes()
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let word = mixed(number ^ 1 << 63).to_le_bytes();
    let mut value = word.repeat(bytes.div_ceil(word.len()));
    value.truncate(bytes);
    value
}

pub(crate) fn load(arguments: &Arguments) -> Result<()> {
    let db = arguments.open()?;
    let kvs = db.create_kvs(KVS)?;
    let (keys, bytes) = (arguments.number("keys", 1_000_000), arguments.number("value", 1000));
    let (random, flushes) = (arguments.number("random", 1), arguments.number("flushes", 16));
    let start = Instant::now();
    let mut batch = db.batch();
    for number in 0..keys {
        batch.put(&kvs, &key(number, random == 1), &value(number, bytes as usize))?;
        if batch.len() == 100 {
            db.write(std::mem::take(&mut batch), Durability::Off)?;
        }
        if flushes > 0 && (number + 1).is_multiple_of((keys / flushes).max(1)) {
            db.write(std::mem::take(&mut batch), Durability::Off)?;
            db.flush()?;
        }
    }
    db.write(batch, Durability::Off)?;
    if arguments.number("compact", 0) == 1 {
        db.flush()?;
        db.compact()?;
    }
    println!("loaded {keys} keys of {bytes} bytes in {:.1} s", start.elapsed().as_secs_f64());
    tell_shape(&db);
    scan_rounds(&db, &kvs, arguments.number("rounds", 0))?;
    db.close()
}

fn tell_shape(db: &Database) {
    for name in ["kvs_root_kvsets", "kvs_kvsets", "kvs_leaves"] {
        print!("{name} {}  ", metric(db, name));
    }
    print!("resident {} MB  ", metric(db, "mpool_mcache_resident_bytes") / 1_000_000);
    println!("memtables_sealed {}", metric(db, "memtables_sealed"));
}

/// One whole scan: keys and bytes.
fn walk(kvs: &Kvs, reverse: bool) -> Result<(u64, u64)> {
    let (mut keys, mut bytes) = (0, 0);
    for item in kvs.cursor(Range { reverse, ..Range::default() })? {
        let item = item?;
        keys += 1;
        bytes += (item.key.len() + item.value.len()) as u64;
    }
    Ok((keys, bytes))
}

fn told_walk(db: &Database, kvs: &Kvs, reverse: bool) -> Result<f64> {
    let read = || metric(db, "mpool_read_bytes_total");
    let (before, clock) = (read(), Clock::start());
    let (keys, bytes) = walk(kvs, reverse)?;
    let times = clock.elapsed();
    let seconds = times.all.as_secs_f64();
    let way = if reverse { "reverse" } else { "forward" };
    print!(
        "{way}: {keys} keys, {:.0} a second, {:.0} MB a second; read {} MB; ",
        keys as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        (read() - before) / 1_000_000,
    );
    tell_times(keys, times);
    Ok(keys as f64 / seconds)
}

fn scan_rounds(db: &Database, kvs: &Kvs, rounds: u64) -> Result<()> {
    for _ in 0..rounds {
        for reverse in [false, true] {
            told_walk(db, kvs, reverse)?;
        }
    }
    Ok(())
}

pub(crate) fn scan(arguments: &Arguments) -> Result<()> {
    let db = arguments.open_filled()?;
    let kvs = db.open_kvs(KVS)?;
    tell_shape(&db);
    scan_rounds(&db, &kvs, arguments.number("rounds", 3))?;
    db.close()
}

/// What the writers share: whether to stop, and how much they have written.
#[derive(Default)]
struct Work {
    stop: AtomicBool,
    written: AtomicU64,
}

/// Overwrites keys in a random order, one's own for each writer, until it is stopped.
fn write((db, kvs): (&Database, &Kvs), arguments: &Arguments, writer: u64, work: &Work) {
    let (keys, bytes) = (arguments.number("keys", 1_000_000), arguments.number("value", 1000));
    let Work { stop, written } = work;
    for number in writer << 40.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = key(mixed(number) % keys, arguments.number("random", 1) == 1);
        let mut batch = db.batch();
        batch.put(kvs, &key, &value(number, bytes as usize)).expect("a good entry");
        match db.write(batch, Durability::Interval) {
            Ok(_) => written.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                println!("writer: {error}");
                continue;
            }
        };
    }
}

/// What came of some seconds of writing and scanning.
#[derive(Clone, Copy)]
struct Both {
    written: u64,
    scanned: u64,
    /// Of the scanning thread.
    times: Times,
}

impl Both {
    fn writes_a_second(&self) -> f64 {
        self.written as f64 / self.times.all.as_secs_f64()
    }
}

/// Writes for some seconds; if asked to, scans meanwhile.
fn both(db: &Database, kvs: &Kvs, arguments: &Arguments, scans: Option<&Range>) -> Result<Both> {
    let (work, writers) = (Work::default(), arguments.number("writers", 1));
    let long = Duration::from_secs(arguments.number("seconds", 10));
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let work = &work;
            scope.spawn(move || write((db, kvs), arguments, writer, work));
        }
        let (start, clock, mut scanned) = (Instant::now(), Clock::start(), 0);
        let mut walk = || -> Result<()> {
            while start.elapsed() < long {
                let Some(range) = scans else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                for item in kvs.cursor(range.clone())? {
                    std::hint::black_box(item?);
                    scanned += 1;
                    if scanned % 1000 == 0 && start.elapsed() >= long {
                        break;
                    }
                }
            }
            Ok(())
        };
        let walked = walk();
        let times = clock.elapsed();
        work.stop.store(true, Ordering::Relaxed);
        walked.map(|()| Both { written: work.written.load(Ordering::Relaxed), scanned, times })
    })
}

pub(crate) fn beside(arguments: &Arguments) -> Result<()> {
    let db = arguments.open_filled()?;
    let kvs = db.open_kvs(KVS)?;
    let quiet = [told_walk(&db, &kvs, false)?, told_walk(&db, &kvs, true)?];
    let alone = both(&db, &kvs, arguments, None)?.writes_a_second();
    println!("writers alone: {alone:.0} a second");
    for (reverse, quiet) in [(false, quiet[0]), (true, quiet[1])] {
        let count = |name: &str| metric(&db, name) / 1_000_000;
        let counts = || ["mpool_read_bytes_total", "mpool_mcache_preloaded_bytes_total"].map(count);
        let before = counts();
        let range = Range { reverse, ..Range::default() };
        let both = both(&db, &kvs, arguments, Some(&range))?;
        let writes = both.writes_a_second();
        println!("writers beside a scan: {writes:.0} a second, {:.2} of alone", writes / alone);
        let scan = both.scanned as f64 / both.times.all.as_secs_f64();
        let way = if reverse { "reverse" } else { "forward" };
        print!("{way} beside writers: {scan:.0} a second, {:.2} of quiet; ", scan / quiet);
        tell_times(both.scanned, both.times);
        let after = counts();
        let [read, brought] = [0, 1].map(|at| after[at] - before[at]);
        let [used, budget] = ["mpool_reaper_used_bytes", "mpool_reaper_budget_bytes"].map(count);
        let passes = both.scanned as f64 / arguments.number("keys", 1_000_000) as f64;
        println!(
            "in {passes:.1} passes read {read} MB, of which {brought} MB into memory; memory in \
             use {used} of {budget} MB"
        );
        tell_shape(&db);
    }
    db.close()
}

/// Where the time of a scanning thread went.
fn tell_times(keys: u64, times: Times) {
    let part = |of: Duration| of.as_secs_f64() / times.all.as_secs_f64();
    println!(
        "it ran for {:.2} of the time, was ready for {:.2} of it; {:.0} keys a second of running",
        part(times.ran),
        part(times.ready),
        keys as f64 / times.ran.as_secs_f64(),
    );
}
