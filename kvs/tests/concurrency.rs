//! Many threads at once: atomic batches stay atomic, readers see no time run backward.
//!
//! Writers move amounts between accounts in two KVSs, one batch a move, so the total never changes.
//! Readers take snapshots and sum, walk cursors, and re-read single accounts, while memtables are
//! flushed and kvsets compacted below them. The amounts of work are fixed; nothing waits for a
//! clock.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod support;

use kvs::{Database, Durability, Kvs, Options, Range, TryGet};
use mpool_sim::SimDevice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use support::Rng;

const ACCOUNTS: u64 = 64;
const START: u64 = 1_000;
const MOVES: u64 = 1_500;
const WRITERS: u64 = 3;

fn account(n: u64) -> (usize, Vec<u8>) {
    (usize::try_from(n % 2).unwrap(), format!("account{n:04}").into_bytes())
}

/// An amount, padded so that memtables fill and values go to vblocks.
fn value(amount: u64, stamp: u64) -> Vec<u8> {
    let mut value = amount.to_le_bytes().to_vec();
    value.extend_from_slice(&stamp.to_le_bytes());
    value.resize(2_000, b'.');
    value
}

fn amount(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

fn options() -> Options {
    Options { background_threads: 2, ..support::options() }
}

/// One account a writer: no two writers touch the same pair, so reads before writes need no
/// transaction.
fn writer(db: &Database, kvs: &[Kvs; 2], id: u64) {
    let mut rng = Rng(id);
    let own: Vec<u64> = (0..ACCOUNTS).filter(|n| n % WRITERS == id).collect();
    let pick = |rng: &mut Rng| own[usize::try_from(rng.below(own.len() as u64)).unwrap()];
    for stamp in 0..MOVES {
        let (from, to) = (pick(&mut rng), pick(&mut rng));
        if from == to {
            continue;
        }
        let read = |n: u64| {
            let (which, key) = account(n);
            amount(&kvs[which].get(&key).unwrap().expect("accounts are never deleted").value)
        };
        let (source, target) = (read(from), read(to));
        let moved = rng.below(source + 1);
        let mut batch = db.batch();
        for (n, amount) in [(from, source - moved), (to, target + moved)] {
            let (which, key) = account(n);
            batch.put(&kvs[which], &key, &value(amount, stamp)).unwrap();
        }
        let durability = if stamp % 50 == 0 { Durability::Sync } else { Durability::Interval };
        db.write(batch, durability).unwrap();
    }
}

fn reader(db: &Database, kvs: &[Kvs; 2], done: &AtomicBool, id: u64) {
    let mut rng = Rng(1_000 + id);
    let mut last_revision = vec![0; usize::try_from(ACCOUNTS).unwrap()];
    while !done.load(Ordering::Acquire) {
        let snapshot = db.snapshot();
        let mut total = 0;
        for which in kvs {
            let cursor = snapshot
                .cursor(which, Range { reverse: rng.below(2) == 0, ..Range::default() })
                .unwrap();
            for item in cursor {
                let item = item.unwrap();
                assert!(item.revision <= snapshot.revision());
                total += amount(&item.value);
            }
        }
        assert_eq!(
            total,
            ACCOUNTS * START,
            "a snapshot at {} saw half a batch",
            snapshot.revision()
        );
        for n in 0..ACCOUNTS {
            let (which, key) = account(n);
            let entry = match kvs[which].try_get(&key).unwrap() {
                TryGet::Ready(entry) => entry,
                TryGet::Cold(cold) => cold.wait().unwrap(),
            };
            let revision = entry.expect("accounts are never deleted").revision.get();
            let last = &mut last_revision[usize::try_from(n).unwrap()];
            assert!(revision >= *last, "account {n} went back from {last} to {revision}");
            *last = revision;
        }
    }
}

#[test]
fn batches_are_atomic_under_flush_and_compaction() {
    let device = SimDevice::new(2 << 30);
    let db = support::create(&device, &options()).unwrap();
    let kvs = [db.create_kvs("even").unwrap(), db.create_kvs("odd").unwrap()];
    for n in 0..ACCOUNTS {
        let (which, key) = account(n);
        kvs[which].put(&key, &value(START, 0), Durability::Off).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for id in 0..2 {
            let (db, kvs, done) = (&db, &kvs, &done);
            scope.spawn(move || reader(db, kvs, done, id));
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|id| {
                scope.spawn({
                    let (db, kvs) = (&db, &kvs);
                    move || writer(db, kvs, id)
                })
            })
            .collect();
        let failed =
            writers.into_iter().map(thread::ScopedJoinHandle::join).filter(Result::is_err).count();
        done.store(true, Ordering::Release);
        assert_eq!(failed, 0, "a writer panicked");
    });
    let before = db.revision();
    db.close().unwrap();
    drop((kvs, db));
    let db = support::open(&device, &options()).unwrap();
    assert_eq!(db.revision(), before);
}

#[test]
fn asynchronous_writes_all_complete_in_order() {
    let device = SimDevice::new(1 << 30);
    let db = support::create(&device, &options()).unwrap();
    let kvs = db.create_kvs("k").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let writes = 2_000;
    let failed = AtomicU64::new(0);
    for n in 0..writes {
        let mut batch = db.batch();
        batch.put(&kvs, format!("{:03}", n % 300).as_bytes(), &value(n, n)).unwrap();
        let sender = sender.clone();
        let durability = if n % 3 == 0 { Durability::Sync } else { Durability::Interval };
        db.write_async(batch, durability, Box::new(move |done| sender.send((n, done)).unwrap()));
    }
    let mut revisions = vec![0; usize::try_from(writes).unwrap()];
    for _ in 0..writes {
        let (n, done) = receiver.recv().unwrap();
        match done {
            Ok(revision) => revisions[usize::try_from(n).unwrap()] = revision.get(),
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "the queue's limit is far above this");
    assert!(revisions.is_sorted(), "one submitter's writes keep their order");
    let last = kvs.get(b"199").unwrap().unwrap();
    assert_eq!(amount(&last.value), 1_999);
}

/// The head and the tail of a queue after each of its operations, one revision each.
struct Queue {
    ops: Vec<(u64, bool)>,
    ends: Vec<Option<(u64, u64)>>,
}

impl Queue {
    /// Inserts at the tail, deletes at the head, and now and then puts back what was deleted.
    fn new(seed: u64, count: usize) -> Self {
        let mut rng = Rng(seed);
        let mut live = std::collections::BTreeSet::new();
        let (mut tail, mut deleted) = (0, Vec::new());
        let (mut ops, mut ends) = (Vec::new(), vec![None]);
        for number in 0..count {
            // It grows, shrinks to nothing, and grows again.
            let grows = number / 1500 % 2 == 0;
            let op = match (live.first().copied(), rng.below(100)) {
                (_, 0) if !deleted.is_empty() => {
                    let again = rng.below(deleted.len() as u64);
                    (deleted.swap_remove(usize::try_from(again).unwrap()), true)
                }
                (Some(head), choice) if choice < if grows { 45 } else { 95 } => (head, false),
                _ => {
                    tail += 1;
                    (tail, true)
                }
            };
            if op.1 {
                live.insert(op.0);
            } else {
                live.remove(&op.0);
                deleted.push(op.0);
            }
            ops.push(op);
            ends.push(live.first().copied().zip(live.last().copied()));
        }
        Self { ops, ends }
    }

    fn key(number: u64) -> Vec<u8> {
        format!("{number:08}").into_bytes()
    }

    /// What is first at a revision, from either end.
    fn check(&self, kvs: &Kvs, db: &Database, first: u64, reverse: bool) {
        let snapshot = db.snapshot();
        let after = usize::try_from(snapshot.revision().get() - first).unwrap();
        let (head, tail) = self.ends[after].unzip();
        let range = Range { reverse, ..Range::default() };
        let shown = snapshot.cursor(kvs, range).unwrap().next().map(|item| item.unwrap().key);
        let expect = if reverse { tail } else { head };
        assert_eq!(shown.as_deref(), expect.map(Self::key).as_deref(), "after {after}");
    }
}

#[test]
fn a_queue_that_moves_is_read_from_both_ends_as_it_is() {
    let device = SimDevice::new(2 << 30);
    let db = support::create(&device, &options()).unwrap();
    let kvs = db.create_kvs("queue").unwrap();
    let (queue, first) = (Queue::new(7, 40_000), db.revision().get());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reverse in [false, true] {
            let (queue, kvs, db, done) = (&queue, &kvs, &db, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    queue.check(kvs, db, first, reverse);
                }
            });
        }
        let written = scope.spawn(|| {
            for (number, put) in &queue.ops {
                let key = Queue::key(*number);
                if *put {
                    kvs.put(&key, &[7; 300], Durability::Off).unwrap();
                } else {
                    kvs.delete(&key, Durability::Off).unwrap();
                }
            }
        });
        let written = written.join();
        done.store(true, Ordering::Release);
        assert!(written.is_ok(), "the writer panicked");
    });
    queue.check(&kvs, &db, first, false);
    queue.check(&kvs, &db, first, true);
}
