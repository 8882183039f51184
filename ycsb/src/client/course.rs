//! What a client does in a course ([`course`](mod@crate::course)), and what it notes in the ledger.

use super::{Client, Done, patiently};
use crate::course::Task;
use crate::course::ledger::Ledger;
use crate::key;
use crate::workload::Operation;
use std::sync::Arc;
use std::time::Instant;

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
    pub(crate) fn work_on(&mut self, task: Task, intended: Option<Instant>) -> Done {
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
            Task::HeadScan => self.scan_head(&ledger),
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
        let number = ledger.head.take();
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
        let began = Instant::now();
        let Self { session, recorder, rows, .. } = self;
        let result = patiently(&mut recorder.retries, || session.scan(key::FIRST, 1, rows));
        let latency = began.elapsed();
        let bounds = HeadBounds { deleted, inserted, chosen: ledger.head.taken() };
        if let Err(failure) = result {
            return self.failed(Operation::HeadScan, &failure);
        }
        let Self { workload, recorder, rows, .. } = self;
        recorder.add(Operation::HeadScan, latency);
        recorder.verified += 1;
        let Some((key, row)) = rows.iter().next() else {
            if bounds.may_be_empty() {
                return Done::Well;
            }
            recorder.mismatch(b"user", &format!("a scan finds nothing, with {bounds:?}"));
            return Done::Badly;
        };
        if !workload.keys.number(key).is_some_and(|number| bounds.may_be_first(number)) {
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
