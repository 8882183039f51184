//! Group commit on a simulated device, with a sink that records.

mod held;

use super::*;
use crate::key::KvsId;
use crate::progress::OpenProgress;
use mpool::{IoBackend, Pool};
use mpool_sim::{Faults, SimDevice};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

const MIB: u64 = 1 << 20;
const KVS: KvsId = KvsId::new(1);

/// Records what it is told; `make_room` passes through a gate that a test may close.
#[derive(Default)]
struct Sink {
    applied: Mutex<Vec<(u64, Vec<u8>)>>,
    published: AtomicU64,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Default)]
struct Gate {
    lagging: Lagging,
    closed: bool,
    waiting: usize,
    stall: bool,
    panic: bool,
}

impl CommitSink for Sink {
    fn lagging(&self) -> Lagging {
        self.gate.lock().lagging.clone()
    }

    fn make_room(&self, batches: &[&WriteBatch], _: u64, _: Waited) -> Result<Room> {
        let bytes: usize = batches.iter().map(|batch| batch.len_bytes()).sum();
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.moved.notify_all();
        while gate.closed {
            self.moved.wait(&mut gate);
        }
        gate.waiting -= 1;
        assert!(!gate.panic, "asked to panic with {bytes} bytes");
        if gate.stall {
            return Err(Error::Stalled { reason: "test" });
        }
        Ok(Room::Made { log_segments: None })
    }

    fn apply(&self, batch: &WriteBatch, revision: Revision) {
        assert!(self.published.load(Ordering::Relaxed) < revision.get());
        self.applied.lock().push((revision.get(), batch.body().to_vec()));
    }

    fn publish(&self, revision: Revision) {
        assert_eq!(self.applied.lock().last().map(|(last, _)| *last), Some(revision.get()));
        self.published.store(revision.get(), Ordering::Relaxed);
    }
}

impl Sink {
    fn close_gate(&self) {
        self.gate.lock().closed = true;
    }

    fn open_gate(&self) {
        self.gate.lock().closed = false;
        self.moved.notify_all();
    }

    /// Returns once a leader stands before the closed gate.
    fn wait_for_leader(&self) {
        let mut gate = self.gate.lock();
        while gate.waiting == 0 {
            self.moved.wait(&mut gate);
        }
    }

    fn applied(&self) -> Vec<u64> {
        self.applied.lock().iter().map(|(revision, _)| *revision).collect()
    }
}

struct Rig {
    device: SimDevice,
    pool: Arc<Pool>,
    sink: Arc<Sink>,
    queue: Arc<CommitQueue<Sink>>,
}

fn options() -> Options {
    let mut options = Options { wal_segment_bytes: 4 * MIB, interval_ms: 5, ..Options::default() };
    options.pool.io = IoBackend::Threads;
    options.pool.queue_depth = 1;
    options.pool.capacity_bytes_max = 256 * MIB;
    options.pool.reaper.policy = mpool::ReaperPolicy::Off;
    options
}

fn rig(options: &Options) -> Rig {
    let device = SimDevice::new(256 * MIB);
    let pool = Pool::create(Arc::new(device.clone()), &options.pool).unwrap();
    let (wal, replayed) =
        Wal::open(&pool, options, Revision::ZERO, &OpenProgress::default(), &mut |_, _| {
            panic!("nothing to replay")
        })
        .unwrap();
    let sink = Arc::new(Sink::default());
    let life = Arc::new(Life::new(false));
    let queue = CommitQueue::new((wal, Arc::clone(&sink)), life, options, replayed.last);
    Rig { device, pool, sink, queue }
}

impl Rig {
    fn metric(&self, name: &str) -> u64 {
        let mut found = None;
        self.queue.visit(&mut |sample| {
            if sample.name == name {
                found = sample.value.number();
            }
        });
        format!("{:.0}", found.expect("the metric exists")).parse().unwrap()
    }

    /// What a replay of the log finds.
    fn logged(&self) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        Wal::open(
            &self.pool,
            &options(),
            Revision::ZERO,
            &OpenProgress::default(),
            &mut |revision, batch| {
                found.push((revision.get(), batch.body().to_vec()));
                Ok(())
            },
        )
        .unwrap();
        found
    }

    fn wait_for_depth(&self, depth: u64) {
        while self.metric("commit_queue_batches") < depth {
            std::thread::yield_now();
        }
    }
}

fn batch(id: u64) -> WriteBatch {
    sized(id, 10)
}

fn sized(id: u64, value_len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put_id(KVS, &id.to_le_bytes(), &vec![1; value_len]).unwrap();
    batch
}

#[test]
fn a_lone_writer_gets_consecutive_revisions() {
    let rig = rig(&options());
    for id in 1..=5 {
        assert_eq!(rig.queue.commit(batch(id), Durability::Sync).unwrap(), Revision::new(id));
    }
    assert_eq!(rig.sink.applied(), [1, 2, 3, 4, 5]);
    assert_eq!(rig.metric("wal_syncs_total"), 1 + 5, "a segment's head, and one for each");
    assert_eq!(rig.logged(), *rig.sink.applied.lock());
}

#[test]
fn writers_who_wait_are_committed_as_one_group() {
    let rig = rig(&options());
    rig.queue.commit(batch(1), Durability::Sync).unwrap();
    let syncs = rig.metric("wal_syncs_total");
    rig.sink.close_gate();
    std::thread::scope(|scope| {
        scope.spawn(|| rig.queue.commit(batch(2), Durability::Sync).unwrap());
        rig.sink.wait_for_leader();
        let writers: Vec<_> = (3..=9)
            .map(|id| {
                let queue = &rig.queue;
                scope.spawn(move || queue.commit(batch(id), Durability::Sync).unwrap().get())
            })
            .collect();
        rig.wait_for_depth(7);
        rig.sink.open_gate();
        let mut revisions: Vec<u64> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        revisions.sort_unstable();
        assert_eq!(revisions, (3..=9).collect::<Vec<_>>());
    });
    assert_eq!(rig.metric("commit_groups_total"), 3);
    assert_eq!(rig.metric("wal_syncs_total"), syncs + 2);
    assert_eq!(rig.metric("commit_batches_total"), 9);
}

#[test]
fn groups_are_bounded_by_bytes_and_by_batches() {
    let rig = rig(&options());
    rig.sink.close_gate();
    let (sender, receiver) = mpsc::channel();
    let submit = |batch| {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Revision>| sender.send(result.unwrap()).unwrap());
        rig.queue.submit(batch, Durability::Off, done);
    };
    submit(batch(0));
    rig.sink.wait_for_leader();
    (0..300).for_each(|id| submit(batch(id)));
    (0..3).for_each(|id| submit(sized(id, 600_000)));
    rig.sink.open_gate();
    let revisions: Vec<u64> = receiver.iter().take(304).map(Revision::get).collect();
    assert_eq!(revisions, (1..=304).collect::<Vec<_>>());
    // 1 | 256 | 44 and a large one | a large one | a large one.
    assert_eq!(rig.metric("commit_groups_total"), 5);
}

#[test]
fn a_stalled_group_gets_the_error_and_logs_nothing() {
    let rig = rig(&options());
    rig.queue.commit(batch(1), Durability::Sync).unwrap();
    rig.sink.gate.lock().stall = true;
    let error = rig.queue.commit(batch(2), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::Stalled { reason: "test" }));
    rig.sink.gate.lock().stall = false;
    assert_eq!(rig.queue.commit(batch(3), Durability::Sync).unwrap(), Revision::new(2));
    assert_eq!(rig.logged(), *rig.sink.applied.lock());
    assert_eq!(rig.metric("commit_stalls_total"), 1);
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let rig = rig(&Options { commit_queue_bytes_max: MIB, ..options() });
    rig.sink.close_gate();
    std::thread::scope(|scope| {
        scope.spawn(|| rig.queue.commit(sized(1, 900_000), Durability::Sync).unwrap());
        rig.sink.wait_for_leader();
        let error = rig.queue.commit(sized(2, 200_000), Durability::Sync).unwrap_err();
        assert!(matches!(error, Error::Stalled { reason: "commit queue" }));
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| sender.send(result).unwrap());
        rig.queue.submit(sized(3, 200_000), Durability::Sync, done);
        assert!(matches!(receiver.recv().unwrap(), Err(Error::Stalled { .. })));
        rig.sink.open_gate();
    });
    // A batch over the limit goes through an idle queue.
    rig.queue.commit(sized(4, 1_200_000), Durability::Sync).unwrap();
    assert_eq!(rig.metric("commit_queue_bytes"), 0);
}

#[test]
fn a_batch_over_its_limit_is_refused() {
    let rig = rig(&options());
    let error = rig.queue.commit(sized(1, 4 << 20), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::BatchLength { max, .. } if max == options().batch_bytes_max()));
}

#[test]
fn a_failing_log_poisons_everything_that_follows() {
    let rig = rig(&options());
    rig.queue.commit(batch(1), Durability::Sync).unwrap();
    rig.sink.close_gate();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| rig.queue.commit(batch(2), Durability::Sync));
        rig.sink.wait_for_leader();
        let follower = scope.spawn(|| rig.queue.commit(batch(3), Durability::Sync));
        rig.wait_for_depth(1);
        rig.device.set_faults(Faults { flush_eio_at: Some(0), ..Faults::default() });
        rig.sink.open_gate();
        for writer in [leader, follower] {
            let error = writer.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        }
    });
    let error = rig.queue.commit(batch(4), Durability::Off).unwrap_err();
    assert!(matches!(&error, Error::Poisoned { cause } if cause.contains("failed")), "{error}");
    assert!(matches!(rig.queue.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(rig.queue.close(), Err(Error::Poisoned { .. })));
    assert_eq!(rig.sink.applied(), [1], "what was not logged is not applied");
}

#[test]
fn a_panicking_leader_leaves_nobody_waiting() {
    let rig = rig(&options());
    rig.sink.close_gate();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| rig.queue.commit(batch(1), Durability::Sync));
        rig.sink.wait_for_leader();
        let follower = scope.spawn(|| rig.queue.commit(batch(2), Durability::Sync));
        rig.wait_for_depth(1);
        rig.sink.gate.lock().panic = true;
        rig.sink.open_gate();
        assert!(leader.join().is_err());
        assert!(matches!(follower.join().unwrap(), Err(Error::Poisoned { .. })));
    });
    assert!(matches!(rig.queue.commit(batch(3), Durability::Sync), Err(Error::Poisoned { .. })));
}

#[test]
fn interval_writes_become_durable_without_further_calls() {
    let rig = rig(&options());
    rig.queue.commit(batch(1), Durability::Interval).unwrap();
    rig.queue.commit(batch(2), Durability::Interval).unwrap();
    // The commit thread does it; the test ends when it has.
    let durable = || {
        let device = rig.device.after_crash(1);
        let after = Pool::open(Arc::new(device), &options().pool).unwrap();
        Wal::open(&after, &options(), Revision::ZERO, &OpenProgress::default(), &mut |_, _| Ok(()))
            .unwrap()
            .1
            .frames
    };
    while durable() < 2 {}
}

#[test]
fn sync_makes_unsynced_writes_durable() {
    let rig = rig(&options());
    for id in 1..=3 {
        rig.queue.commit(batch(id), Durability::Off).unwrap();
    }
    assert_eq!(rig.queue.sync().unwrap(), Revision::new(3));
    assert_eq!(rig.logged().len(), 3);
}

#[test]
fn close_commits_what_is_queued_and_refuses_the_rest() {
    let rig = rig(&options());
    rig.sink.close_gate();
    let (sender, receiver) = mpsc::channel();
    for id in 1..=20 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Revision>| sender.send(result.is_ok()).unwrap());
        rig.queue.submit(batch(id), Durability::Off, done);
    }
    std::thread::scope(|scope| {
        let closer = scope.spawn(|| rig.queue.close());
        // A refusal is told on this thread.
        let refused = Arc::new(AtomicUsize::new(0));
        while refused.load(Ordering::Relaxed) == 0 {
            let refused = Arc::clone(&refused);
            let done = Box::new(move |result| {
                refused.store(usize::from(matches!(result, Err(Error::Closed))), Ordering::Relaxed);
            });
            rig.queue.submit(batch(99), Durability::Off, done);
        }
        rig.sink.open_gate();
        closer.join().unwrap().unwrap();
    });
    assert_eq!(receiver.iter().take(20).filter(|ok| *ok).count(), 20);
    assert!(rig.logged().len() >= 20);
    rig.queue.close().unwrap();
}

#[test]
fn a_completion_may_write_and_may_close() {
    let rig = rig(&options());
    let (sender, receiver) = mpsc::channel();
    let queue = Arc::clone(&rig.queue);
    let done = Box::new(move |result: Result<Revision>| {
        result.unwrap();
        let nested = queue.commit(batch(2), Durability::Sync);
        let closed = queue.close();
        sender.send((nested.is_ok(), closed.is_ok())).unwrap();
    });
    rig.queue.submit(batch(1), Durability::Sync, done);
    assert_eq!(receiver.recv().unwrap(), (true, true));
    assert_eq!(rig.logged().len(), 2);
}

#[test]
fn exclusive_excludes_groups() {
    let rig = rig(&options());
    let running = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..200 {
                rig.queue.commit(batch(id), Durability::Off).unwrap();
            }
            running.store(1, Ordering::Relaxed);
        });
        while running.load(Ordering::Relaxed) == 0 {
            rig.queue.exclusive(|| {
                // All that is applied is published: no group is half done.
                let applied = rig.sink.applied().last().copied().unwrap_or(0);
                assert_eq!(applied, rig.sink.published.load(Ordering::Relaxed));
            });
        }
    });
}

/// Blocking and asynchronous writers of all durabilities, syncs and releases at once: every batch
/// is answered once, revisions are dense, and the log holds what was applied in the same order.
#[test]
fn many_writers_lose_no_wake_up() {
    const WRITERS: u64 = 6;
    const EACH: u64 = 400;
    let rig = rig(&options());
    let revisions = Mutex::new(Vec::new());
    let answered = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (rig, revisions, answered) = (&rig, &revisions, &answered);
            scope.spawn(move || {
                let mut random = mpool_sim::Seeded::new(writer);
                for at in 0..EACH {
                    let batch =
                        sized(writer * EACH + at, usize::try_from(random.below(300)).unwrap());
                    let durability = match random.below(20) {
                        0 => Durability::Sync,
                        1..4 => Durability::Interval,
                        _ => Durability::Off,
                    };
                    if writer % 2 == 0 {
                        revisions.lock().push(rig.queue.commit(batch, durability).unwrap().get());
                    } else {
                        let answered = Arc::clone(answered);
                        let done = Box::new(move |result: Result<Revision>| {
                            result.unwrap();
                            answered.fetch_add(1, Ordering::Relaxed);
                        });
                        rig.queue.submit(batch, durability, done);
                    }
                    if random.below(50) == 0 {
                        rig.queue.sync().unwrap();
                    }
                }
            });
        }
    });
    rig.queue.close().unwrap();
    let total = WRITERS * EACH;
    assert_eq!(answered.load(Ordering::Relaxed) as u64, total / 2);
    assert_eq!(revisions.lock().len() as u64, total / 2);
    assert_eq!(rig.sink.applied(), (1..=total).collect::<Vec<_>>());
    assert_eq!(rig.logged(), *rig.sink.applied.lock());
}
