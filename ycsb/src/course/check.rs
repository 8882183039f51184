//! The end of a course: what is there is compared with what must be.
//!
//! One walk over everything. Every record must be whole, in order, and of those that the ledger
//! holds: as many, with the same sum of their keys. A failed insert or delete leaves it open which
//! records those are; then only the records themselves are checked.

use crate::driver::measure::Recorder;
use crate::interrupt;
use crate::target::Target;
use crate::workload::Way;
use crate::workload::course::ledger::{Alive, Ledger};
use crate::workload::{Operation, Workload};
use anyhow::{Result, bail};
use std::ops::ControlFlow;
use std::time::Instant;

/// Walks over all records; what is wrong is in the recorder. False if a signal has cut it short.
pub(crate) fn check(
    target: &dyn Target,
    workload: &Workload,
    ledger: &Ledger,
    recorder: &mut Recorder,
) -> Result<bool> {
    let mut session = target.session()?;
    let mut found = Alive::default();
    let mut previous = Vec::new();
    // Each table has an order of its own.
    let mut tables_left = workload.tables;
    let began = Instant::now();
    let walked = session.walk(Way::Forward, &mut |key, row| {
        recorder.verified += 1;
        if key <= previous.as_slice() {
            tables_left = tables_left.saturating_sub(1);
        }
        if tables_left == 0 {
            recorder.mismatch(key, &"out of order in a walk");
        } else if let Err(bad) = workload.rows.verify(key, row) {
            recorder.mismatch(key, &bad);
        }
        found.add(key, row.len());
        previous.clear();
        previous.extend_from_slice(key);
        match interrupt::pending() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    });
    if let Err(failure) = walked {
        bail!("the walk over all records stopped after {}: {failure}", found.records);
    }
    if interrupt::pending().is_some() {
        return Ok(false);
    }
    recorder.add(Operation::Walk, began.elapsed());
    let must = ledger.alive();
    if ledger.doubts() == 0 && found != must {
        let why = format!(
            "{} records of {} bytes were found, {} of {} must be there{}",
            found.records,
            found.bytes,
            must.records,
            must.bytes,
            if found.records == must.records { "; they are not the same" } else { "" }
        );
        recorder.mismatch(b"user", &why);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Session as _;
    use crate::target::memory::Memory;
    use crate::workload::property::Properties;
    use crate::workload::row::{Content, key_hash};

    fn workload() -> Workload {
        let pairs = ["fieldcount=1".to_owned(), "fieldlength=20".to_owned()];
        Workload::new(&Properties::gather(&[], &pairs).unwrap()).unwrap()
    }

    /// What is found of ten records after `spoil`.
    fn found(spoil: impl FnOnce(&mut Memory, &Ledger)) -> Vec<String> {
        let (w, ledger, mut memory) = (workload(), Ledger::new(), Memory::new());
        for number in 0..10 {
            let (mut key, mut row) = (Vec::new(), Vec::new());
            w.keys.write(number, &mut key);
            w.rows.push(&mut row, Content { key: key_hash(&key), field: 0, version: 3 }, 20);
            memory.write(&key, &row).unwrap();
            ledger.inserted(&key, row.len());
        }
        spoil(&mut memory, &ledger);
        let mut recorder = Recorder::default();
        assert!(check(&memory, &w, &ledger, &mut recorder).unwrap());
        recorder.mismatch_examples
    }

    fn first_key() -> Vec<u8> {
        let mut key = Vec::new();
        workload().keys.write(0, &mut key);
        key
    }

    #[test]
    fn a_sound_store_passes() {
        assert!(found(|_, _| {}).is_empty());
    }

    #[test]
    fn a_record_too_few_or_too_many_is_seen() {
        let lost = found(|memory, _| memory.delete(&first_key()).unwrap());
        assert!(lost[0].contains("9 records of") && lost[0].contains("10 of"), "{lost:?}");
        let undead = found(|_, ledger| ledger.deleted(&first_key(), 34));
        assert!(undead[0].contains("10 records of"), "{undead:?}");
    }

    #[test]
    fn another_record_in_the_place_of_one_is_seen() {
        let swapped = found(|memory, _| {
            let mut row = Vec::new();
            memory.read(&first_key(), &mut row).unwrap();
            memory.delete(&first_key()).unwrap();
            memory.write(b"user1234567890123456789", &row).unwrap();
        });
        assert!(swapped.iter().any(|why| why.contains("not the same")), "{swapped:?}");
    }

    #[test]
    fn a_changed_byte_is_seen_and_doubts_leave_the_rest_open() {
        let spoilt = found(|memory, ledger| {
            let mut row = Vec::new();
            memory.read(&first_key(), &mut row).unwrap();
            *row.last_mut().unwrap() ^= 1;
            memory.write(&first_key(), &row).unwrap();
            ledger.deleted(b"some other", 1);
            ledger.doubt();
        });
        assert!(spoilt.len() == 1 && spoilt[0].contains("field0 differs"), "{spoilt:?}");
    }
}
