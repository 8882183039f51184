//! The second half of `ycsb verify`: one scan over everything.
//!
//! The first half asks for every loaded key. The scan finds what the first cannot: keys out of
//! order, keys that are there twice, and records that were inserted later, whose values must be
//! right, too.

use crate::driver::{Outcome, Part};
use crate::interrupt;
use crate::target::{Failure, Rows, Target};
use crate::workload::key;
use crate::workload::{Operation, Workload};
use anyhow::{Result, bail};
use std::time::Instant;

const PAGE: usize = 1000;

/// Scans all records, adding what it finds to the outcome.
pub(crate) fn verify_scan(
    target: &dyn Target,
    workload: &Workload,
    outcome: &mut Outcome,
) -> Result<()> {
    let began = Instant::now();
    let mut session = target.session()?;
    let recorder = &mut outcome.recorder;
    let (mut rows, mut found) = (Rows::default(), 0_u64);
    let mut start = key::FIRST.to_vec();
    loop {
        if interrupt::pending().is_some() {
            outcome.interrupted = Some(Part::Verifying);
            outcome.elapsed += began.elapsed();
            return Ok(());
        }
        let page_began = Instant::now();
        match session.scan(&start, PAGE, &mut rows) {
            Ok(()) => recorder.add(Operation::Scan, page_began.elapsed()),
            Err(Failure::Busy(why) | Failure::Failed(why)) => {
                bail!("the scan stopped after {found} records: {why}")
            }
        }
        for (key, row) in rows.iter() {
            recorder.verified += 1;
            found += 1;
            if key < start.as_slice() {
                recorder.mismatch(key, &"out of order in a scan");
            } else if let Err(bad) = workload.rows.verify(key, row) {
                recorder.mismatch(key, &bad);
            }
            // The least key above this one.
            start.clear();
            start.extend_from_slice(key);
            start.push(0);
        }
        outcome.operations += 1;
        if rows.len() < PAGE {
            break;
        }
    }
    if found < workload.insert_count {
        let why = format!(
            "a scan found {found} records, at least {} must be there",
            workload.insert_count
        );
        recorder.mismatch(b"user", &why);
    }
    outcome.elapsed += began.elapsed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Phase, Plan, drive};
    use crate::target::Session as _;
    use crate::target::memory::Memory;
    use crate::workload::property::Properties;
    use std::ops::ControlFlow;

    fn verified(spoil: impl FnOnce(&mut Memory)) -> (u64, Vec<String>) {
        let pairs = ["recordcount=2500".to_owned()];
        let w = Workload::new(&Properties::gather(&[], &pairs).unwrap()).unwrap();
        let mut memory = Memory::new();
        let plan = Plan { phase: Phase::Load, seed: 1, ..Plan::default() };
        let mut outcome =
            drive(&memory, &w, &plan, None, &mut |_| ControlFlow::Continue(())).unwrap();
        spoil(&mut memory);
        verify_scan(&memory, &w, &mut outcome).unwrap();
        (outcome.recorder.verified, outcome.recorder.mismatch_examples)
    }

    #[test]
    fn a_sound_store_passes() {
        assert_eq!(verified(|_| {}), (2500, Vec::new()));
    }

    #[test]
    fn a_record_with_the_wrong_contents_is_found() {
        let (seen, examples) = verified(|memory| memory.write(b"user9x", b"junk").unwrap());
        assert_eq!(seen, 2501);
        assert!(examples[0].starts_with("user9x: the row of 4 bytes"), "{examples:?}");
    }

    #[test]
    fn a_lost_record_is_found() {
        let (seen, examples) =
            verified(|memory| memory.delete(b"user6284781860667377211").unwrap());
        assert_eq!(seen, 2499);
        assert!(examples[0].contains("found 2499 records, at least 2500"), "{examples:?}");
    }
}
