//! Whole scans: the load before them, alone, and beside a writer.

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
    word.iter().copied().cycle().take(bytes).collect()
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
    let (before, start) = (read(), Instant::now());
    let (keys, bytes) = walk(kvs, reverse)?;
    let seconds = start.elapsed().as_secs_f64();
    let way = if reverse { "reverse" } else { "forward" };
    println!(
        "{way}: {keys} keys, {:.0} a second, {:.0} MB a second; read {} MB",
        keys as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        (read() - before) / 1_000_000,
    );
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

/// Overwrites keys in a random order until it is stopped; counts.
fn write(db: &Database, kvs: &Kvs, arguments: &Arguments, shared: (&AtomicBool, &AtomicU64)) {
    let (keys, bytes) = (arguments.number("keys", 1_000_000), arguments.number("value", 1000));
    let (stop, count) = shared;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = key(mixed(number) % keys, arguments.number("random", 1) == 1);
        let mut batch = db.batch();
        batch.put(kvs, &key, &value(number, bytes as usize)).expect("a good entry");
        match db.write(batch, Durability::Interval) {
            Ok(_) => count.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                println!("writer: {error}");
                continue;
            }
        };
    }
}

/// Writes for some seconds; if asked to, scans meanwhile. Writes and scanned keys a second.
fn both(db: &Database, kvs: &Kvs, arguments: &Arguments, scans: bool) -> Result<(f64, f64)> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let long = Duration::from_secs(arguments.number("seconds", 10));
    std::thread::scope(|scope| {
        scope.spawn(|| write(db, kvs, arguments, (&stop, &count)));
        let start = Instant::now();
        let mut scanned = 0;
        let mut walk = || -> Result<()> {
            while start.elapsed() < long {
                if !scans {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                for item in kvs.cursor(Range::default())? {
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
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let rate = |count: u64| count as f64 / seconds;
        walked.map(|()| (rate(count.load(Ordering::Relaxed)), rate(scanned)))
    })
}

pub(crate) fn beside(arguments: &Arguments) -> Result<()> {
    let db = arguments.open_filled()?;
    let kvs = db.open_kvs(KVS)?;
    let quiet = told_walk(&db, &kvs, false)?;
    let (alone, _) = both(&db, &kvs, arguments, false)?;
    println!("writer alone: {alone:.0} a second");
    let (writer, scan) = both(&db, &kvs, arguments, true)?;
    println!("writer beside a scan: {writer:.0} a second, {:.2} of alone", writer / alone);
    println!("scan beside a writer: {scan:.0} a second, {:.2} of quiet", scan / quiet);
    tell_shape(&db);
    db.close()
}
