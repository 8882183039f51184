//! What a client does in a course ([`course`](mod@crate::course)), and what it notes in the ledger.

use super::{Client, Done, patiently};
use crate::workload::Operation;
use crate::workload::Way;
use crate::workload::course::ledger::Ledger;
use crate::workload::course::steps::Task;
use crate::workload::key;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a client and the main thread tell each other during a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire<'a> {
    /// Records of a walk, counted as they come.
    pub(crate) count: &'a AtomicU64,
    pub(crate) stop: &'a AtomicBool,
}

/// What the ledger says around a scan of the head of a queue.
#[derive(Clone, Copy, Debug)]
struct HeadBounds {
    /// Before it: all numbers below were deleted, and all below the second were inserted.
    deleted: u64,
    inserted: u64,
    /// After it: no number from here on was being deleted.
    chosen: u64,
}

impl Client<'_> {
    /// One turn of a task.
    pub(crate) fn work_on(
        &mut self,
        task: Task,
        intended: Option<Instant>,
        wire: Wire<'_>,
    ) -> Done {
        let ledger = self.ledger.clone().expect("a course has a ledger");
        match task {
            Task::Overwrite => self.overwrite(&ledger, intended),
            Task::Queue { live } if ledger.queued() > live => self.delete_head(&ledger, intended),
            Task::Queue { .. } => {
                let number = ledger.tail.take();
                let done = self.insert(number, intended);
                ledger.tail.acknowledge(number);
                done
            }
            Task::Delete => {
                let victim = ledger.next_victim().expect("there are no more turns than victims");
                self.delete(victim, intended)
            }
            Task::HeadScan => self.scan_head(&ledger),
            Task::Walk(way) => self.walk(way, &ledger, wire),
        }
    }

    fn overwrite(&mut self, ledger: &Ledger, intended: Option<Instant>) -> Done {
        let number = self.keys.draw(self.inserted.last(), &mut self.rng);
        self.workload.keys.write(number, &mut self.key);
        let version = u32::try_from(self.rng.next() >> 32).expect("32 bits are left");
        self.build_row(version);
        let began = intended.unwrap_or_else(Instant::now);
        let result = self.write();
        let done = self.finish(Operation::Overwrite, began, result);
        if done == Done::Well {
            ledger.overwritten(&self.key, self.row.len());
        }
        done
    }

    fn delete_head(&mut self, ledger: &Arc<Ledger>, intended: Option<Instant>) -> Done {
        let number = ledger.take_head();
        let done = self.delete(number, intended);
        ledger.head.acknowledge(number);
        done
    }

    /// Deletes the record of `number`, which is there.
    fn delete(&mut self, number: u64, intended: Option<Instant>) -> Done {
        self.workload.keys.write(number, &mut self.key);
        let began = intended.unwrap_or_else(Instant::now);
        let Self { session, recorder, key, .. } = self;
        let result = patiently(&mut recorder.retries, || session.delete(key));
        let done = self.finish(Operation::Delete, began, result);
        if let Some(ledger) = &self.ledger {
            match done {
                Done::Well => ledger.deleted(&self.key, self.workload.row_bytes()),
                Done::Badly => ledger.doubt(),
            }
        }
        done
    }

    /// Asks for the first record, and checks that it can be the first.
    fn scan_head(&mut self, ledger: &Ledger) -> Done {
        let (deleted, inserted) = (ledger.head.end(), ledger.tail.end());
        let asleep_before = waited_for_a_processor();
        let began = Instant::now();
        let Self { session, recorder, rows, .. } = self;
        let result = patiently(&mut recorder.retries, || session.scan(key::FIRST, 1, rows));
        let latency = began.elapsed();
        let asleep =
            waited_for_a_processor().zip(asleep_before).map(|(now, then)| now.saturating_sub(then));
        let bounds = HeadBounds { deleted, inserted, chosen: ledger.head.taken() };
        if let Err(failure) = result {
            return self.failed(Operation::HeadScan, &failure);
        }
        let Self { workload, recorder, rows, .. } = self;
        recorder.add(Operation::HeadScan, latency);
        if let Some(asleep) = asleep {
            recorder.add(Operation::HeadScanAwake, latency.saturating_sub(asleep));
        }
        recorder.heads_checked += 1;
        let first = rows.iter().next();
        let must = ledger.victims().map(|victims| victims.first.as_deref());
        if let Some(must) = must.filter(|must| *must != first.map(|(key, _)| key)) {
            let must = must.map(String::from_utf8_lossy);
            let key = first.map_or(key::FIRST, |(key, _)| key);
            recorder.mismatch(key, &format!("the first record must be {must:?}"));
            return Done::Badly;
        }
        let Some((key, row)) = first else {
            if bounds.may_be_empty() {
                return Done::Well;
            }
            recorder.mismatch(b"user", &format!("a scan finds nothing, with {bounds:?}"));
            return Done::Badly;
        };
        let number = workload.keys.number(key);
        if must.is_none() && !number.is_some_and(|n| bounds.may_be_first(n)) {
            recorder.mismatch(key, &format!("cannot be the first record, with {bounds:?}"));
            return Done::Badly;
        }
        match workload.rows.verify(key, row) {
            Ok(()) => Done::Well,
            Err(bad) => {
                recorder.mismatch(key, &bad);
                Done::Badly
            }
        }
    }
}

impl Client<'_> {
    /// Asks for everything, once. Records are counted and their order is looked at; their contents
    /// with `--verify` only, which costs more than many a scan.
    fn walk(&mut self, way: Way, ledger: &Ledger, wire: Wire<'_>) -> Done {
        let Self { workload, session, recorder, before: previous, .. } = self;
        let (mut found, mut out_of_order) = (0_u64, None);
        previous.clear();
        let began = Instant::now();
        let result = session.walk(way, &mut |key, row| {
            let in_order = match way {
                Way::Forward => key > previous.as_slice(),
                Way::Reverse => key < previous.as_slice(),
            };
            if found > 0 && !in_order && out_of_order.is_none() {
                out_of_order = Some(key.to_vec());
            }
            previous.clear();
            previous.extend_from_slice(key);
            found += 1;
            // Written by this thread only.
            wire.count.store(wire.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if workload.verify {
                recorder.verified += 1;
                if let Err(bad) = workload.rows.verify(key, row) {
                    recorder.mismatch(key, &bad);
                }
            }
            // Only says that the run is over; nothing is passed on with it.
            if wire.stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let latency = began.elapsed();
        if let Err(failure) = result {
            return self.failed(Operation::Walk, &failure);
        }
        if wire.stop.load(Ordering::Relaxed) {
            return Done::Well;
        }
        self.recorder.add(Operation::Walk, latency);
        if let Some(key) = out_of_order {
            self.recorder.mismatch(&key, &"out of order in a scan of everything");
        }
        let must = ledger.alive().records;
        if found != must && ledger.doubts() == 0 {
            let why = format!("a scan of everything found {found} records, must be {must}");
            self.recorder.mismatch(b"user", &why);
            return Done::Badly;
        }
        Done::Well
    }
}

impl HeadBounds {
    /// Whether no record was there all the time.
    fn may_be_empty(self) -> bool {
        self.chosen >= self.inserted
    }

    /// The record at `chosen` was there all the time, if it was inserted: none behind it is first.
    fn may_be_first(self, number: u64) -> bool {
        number >= self.deleted && (self.may_be_empty() || number <= self.chosen)
    }
}

/// How long this thread has been ready to run while others had the processors, since it began;
/// `None` where the kernel does not tell.
fn waited_for_a_processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_is_neither_deleted_nor_behind_one_that_stayed() {
        let bounds = HeadBounds { deleted: 10, inserted: 100, chosen: 13 };
        let may: Vec<u64> = (0..101).filter(|n| bounds.may_be_first(*n)).collect();
        assert_eq!(may, [10, 11, 12, 13]);
        assert!(!bounds.may_be_empty());
        let emptied = HeadBounds { deleted: 10, inserted: 13, chosen: 13 };
        assert!(emptied.may_be_empty() && emptied.may_be_first(20));
        assert!(!emptied.may_be_first(9));
    }
}
