//! Batches of KVSs that are behind, in a queue whose sink says which those are.

use super::*;
use crate::debt::stall::KvsDebt;

/// A batch of these KVSs.
fn of(kvss: &[u32], value_len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for kvs in kvss {
        batch.put_id(KvsId::new(*kvs), b"key", &vec![1; value_len]).unwrap();
    }
    batch
}

/// This KVS is behind, with so many kvsets in its root.
fn with_root(kvs: u32, root_kvsets: u64) -> Lagging {
    Lagging::from([(KvsId::new(kvs), KvsDebt { root_kvsets, ..KvsDebt::default() })])
}

/// How batches that were submitted have ended, by their names, in that order.
struct Ends {
    sender: mpsc::Sender<(&'static str, bool)>,
    receiver: mpsc::Receiver<(&'static str, bool)>,
}

impl Ends {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    fn submit(&self, rig: &Rig, name: &'static str, batch: WriteBatch) {
        let sender = self.sender.clone();
        let done = Box::new(move |result: Result<Revision>| {
            sender.send((name, result.is_ok())).unwrap();
        });
        rig.queue.submit(batch, Durability::Off, done);
    }

    fn next(&self, count: usize) -> Vec<(&'static str, bool)> {
        self.receiver.iter().take(count).collect()
    }
}

/// One KVS that lagged stopped the writers of all.
#[test]
fn batches_of_a_kvs_that_is_behind_are_held_and_others_pass_them() {
    let (rig, ends) = (rig(&options()), Ends::new());
    rig.sink.gate.lock().lagging = with_root(1, 40);
    ends.submit(&rig, "a", of(&[1], 10));
    ends.submit(&rig, "ab", of(&[1, 2], 10));
    ends.submit(&rig, "b, after ab", of(&[2], 10));
    ends.submit(&rig, "c", of(&[3], 10));
    assert_eq!(ends.next(1), [("c", true)]);
    for n in 2..=50 {
        let revision = rig.queue.commit(of(&[3], 10), Durability::Sync).unwrap();
        assert_eq!(revision, Revision::new(n));
    }
    assert_eq!(rig.metric("commit_queue_batches"), 3);
    rig.sink.gate.lock().lagging.clear();
    rig.queue.relieve();
    assert_eq!(ends.next(3), [("a", true), ("ab", true), ("b, after ab", true)]);
    assert_eq!(rig.metric("commit_queue_bytes"), 0);
    rig.queue.sync().unwrap();
    assert_eq!(rig.logged().len(), 53);
}

#[test]
fn a_blocking_writer_of_a_kvs_that_is_behind_goes_on_when_its_root_is_shorter() {
    let rig = rig(&options());
    rig.sink.gate.lock().lagging = with_root(1, 41);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| rig.queue.commit(of(&[1], 10), Durability::Sync).unwrap());
        rig.wait_for_depth(1);
        let passed = rig.queue.commit(of(&[2], 10), Durability::Sync).unwrap();
        rig.sink.gate.lock().lagging.clear();
        rig.queue.relieve();
        assert!(held.join().unwrap() > passed);
    });
}

/// What is held leaves half of the queue to those that go.
#[test]
fn what_is_held_is_bounded_and_a_close_holds_nothing() {
    let (rig, ends) = (rig(&Options { commit_queue_bytes_max: MIB, ..options() }), Ends::new());
    rig.sink.gate.lock().lagging = with_root(1, 40);
    ends.submit(&rig, "a", of(&[1], 400_000));
    rig.wait_for_depth(1);
    ends.submit(&rig, "refused", of(&[1], 400_000));
    assert_eq!(ends.next(1), [("refused", false)]);
    assert_eq!(rig.metric("commit_stalls_total"), 1);
    rig.queue.commit(of(&[2], 400_000), Durability::Sync).unwrap();
    rig.queue.close().unwrap();
    assert_eq!(ends.next(1), [("a", true)]);
}

/// Writers of a KVS that pays for its groups, and of one that does not.
#[test]
fn a_kvs_that_is_slowed_down_loses_no_batch() {
    let rig = rig(&options());
    rig.sink.gate.lock().lagging = with_root(1, 30);
    std::thread::scope(|scope| {
        for kvs in [1, 1, 2, 2] {
            let queue = &rig.queue;
            scope.spawn(move || {
                for n in 0..50 {
                    let kvss = if n % 10 == 9 { &[1, 2][..] } else { &[kvs] };
                    queue.commit(of(kvss, 2000), Durability::Off).unwrap();
                }
            });
        }
    });
    assert_eq!(rig.sink.applied(), (1..=200).collect::<Vec<_>>());
    assert_eq!(rig.metric("commit_queue_bytes"), 0);
}
