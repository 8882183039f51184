//! One client: draws operations and does them on its session.
//!
//! What an operation's latency covers is what it covers in the original with a key-value
//! binding: of an update, the read of the row and its write back; of a read-modify-write, the
//! read and such an update, both of which are reported by themselves, too. Verification happens
//! outside of all latencies, on a copy.

pub(crate) mod course;

use crate::driver::measure::Recorder;
use crate::interrupt;
use crate::target::{Failure, Rows, Session};
use crate::workload::course::ledger::Ledger;
use crate::workload::dist::counter::Acknowledged;
use crate::workload::dist::{Keys, Lengths};
use crate::workload::random::Rng;
use crate::workload::row::{BadRow, Content, key_hash};
use crate::workload::{Fields, Operation, Workload};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an overloaded store is asked again before the operation counts as failed.
const BUSY_MAX: Duration = Duration::from_secs(30);
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(100);

pub(crate) struct Client<'a> {
    workload: &'a Workload,
    inserted: &'a Acknowledged,
    session: Box<dyn Session>,
    rng: Rng,
    keys: Keys,
    field_lengths: Lengths,
    scan_lengths: Lengths,
    key: Vec<u8>,
    row: Vec<u8>,
    /// The row as it was read, before an update changed it.
    before: Vec<u8>,
    rows: Rows,
    pub(crate) recorder: Recorder,
    /// The account of a course.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

/// Whether an operation did what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Well,
    Badly,
}

impl<'a> Client<'a> {
    pub(crate) fn new(
        workload: &'a Workload,
        inserted: &'a Acknowledged,
        session: Box<dyn Session>,
        rng: Rng,
        keys: Keys,
    ) -> Self {
        Self {
            workload,
            inserted,
            session,
            rng,
            keys,
            field_lengths: workload.field_lengths(),
            scan_lengths: workload.scan_lengths(),
            key: Vec::new(),
            row: Vec::new(),
            before: Vec::new(),
            rows: Rows::default(),
            recorder: Recorder::default(),
            ledger: None,
        }
    }

    /// Writes the record of `number`. `intended` is when it should have begun, if the load is
    /// open.
    pub(crate) fn insert(&mut self, number: u64, intended: Option<Instant>) -> Done {
        self.workload.keys.write(number, &mut self.key);
        self.build_row(0);
        let began = intended.unwrap_or_else(Instant::now);
        let mut attempts = 0;
        let result = loop {
            let result = self.write();
            let given_up = attempts >= self.workload.retries.limit;
            if result.is_ok() || given_up || interrupt::pending().is_some() {
                break result;
            }
            attempts += 1;
            self.recorder.retries += 1;
            pause(self.workload.retries.interval);
        };
        if let Some(ledger) = &self.ledger {
            match result {
                Ok(()) => ledger.inserted(&self.key, self.row.len()),
                Err(_) => ledger.doubt(),
            }
        }
        self.finish(Operation::Insert, began, result)
    }

    /// One operation of the run phase.
    pub(crate) fn transaction(&mut self, intended: Option<Instant>) -> Done {
        let operation = self.workload.operation(&mut self.rng);
        if operation == Operation::Insert {
            let number = self.inserted.take();
            let done = self.insert(number, intended);
            self.inserted.acknowledge(number);
            return done;
        }
        let number = self.keys.draw(self.inserted.last(), &mut self.rng);
        self.workload.keys.write(number, &mut self.key);
        let began = intended.unwrap_or_else(Instant::now);
        match operation {
            Operation::Read => self.read(began),
            Operation::Update => self.update(began),
            Operation::Scan => self.scan(began),
            Operation::ReadModifyWrite => {
                if self.read(began) == Done::Badly || self.update(Instant::now()) == Done::Badly {
                    return Done::Badly;
                }
                self.finish(Operation::ReadModifyWrite, began, Ok(()))
            }
            Operation::Insert => unreachable!("done above"),
            Operation::Overwrite
            | Operation::Delete
            | Operation::HeadScan
            | Operation::HeadScanAwake
            | Operation::Walk => unreachable!("no mix has it"),
        }
    }

    /// Reads the record of `number` and checks it, whatever the workload says.
    pub(crate) fn verify(&mut self, number: u64) -> Done {
        self.workload.keys.write(number, &mut self.key);
        let began = Instant::now();
        let found = self.fetch();
        let latency = began.elapsed();
        self.before.clone_from(&self.row);
        match found {
            Err(failure) => self.failed(Operation::Read, &failure),
            Ok(found) => {
                self.recorder.add(Operation::Read, latency);
                self.check(found)
            }
        }
    }

    /// Reads the record of `number`, so that it is in memory. Nothing is measured.
    pub(crate) fn fill(&mut self, number: u64) -> Done {
        self.workload.keys.write(number, &mut self.key);
        match self.fetch() {
            Err(failure) => self.failed(Operation::Read, &failure),
            Ok(false) => self.bad(Operation::Read, &BadRow::Missing),
            Ok(true) => Done::Well,
        }
    }

    fn read(&mut self, began: Instant) -> Done {
        let found = self.fetch();
        // Every reader walks the fields; only then does it have the record.
        let parsed = match found {
            Ok(true) => self.workload.rows.parse(&self.row),
            _ => Ok(()),
        };
        let latency = began.elapsed();
        match (found, parsed) {
            (Err(failure), _) => self.failed(Operation::Read, &failure),
            (Ok(false), _) => self.bad(Operation::Read, &BadRow::Missing),
            (Ok(true), Err(bad)) => self.bad(Operation::Read, &bad),
            (Ok(true), Ok(())) => {
                self.recorder.add(Operation::Read, latency);
                if !self.workload.verify {
                    return Done::Well;
                }
                self.before.clone_from(&self.row);
                self.check(true)
            }
        }
    }

    fn update(&mut self, began: Instant) -> Done {
        match self.fetch() {
            Err(failure) => return self.failed(Operation::Update, &failure),
            Ok(false) => return self.bad(Operation::Update, &BadRow::Missing),
            Ok(true) => {}
        }
        if self.workload.verify {
            self.before.clone_from(&self.row);
        }
        if let Err(bad) = self.change() {
            return self.bad(Operation::Update, &bad);
        }
        let result = self.write();
        let done = self.finish(Operation::Update, began, result);
        if self.workload.verify && self.check(true) == Done::Badly {
            return Done::Badly;
        }
        done
    }

    fn scan(&mut self, began: Instant) -> Done {
        let limit = self.scan_lengths.draw(&mut self.rng);
        let limit = usize::try_from(limit).expect("scan lengths are lengths of memory");
        let Self { session, recorder, key, rows, .. } = self;
        let result = patiently(&mut recorder.retries, || session.scan(key, limit, rows));
        let latency = began.elapsed();
        if let Err(failure) = result {
            return self.failed(Operation::Scan, &failure);
        }
        // The start key exists, so a scan that finds nothing lost it.
        if self.rows.len() == 0 || self.rows.len() > limit {
            let why = format!("{} records where 1 to {limit} were asked for", self.rows.len());
            self.recorder.fail(Operation::Scan, &why);
            return Done::Badly;
        }
        self.recorder.add(Operation::Scan, latency);
        if self.workload.verify { self.check_rows() } else { Done::Well }
    }

    /// Checks a scan's records: contents and order.
    fn check_rows(&mut self) -> Done {
        let Self { workload, recorder, rows, key, .. } = self;
        let before = recorder.mismatches;
        let mut previous: &[u8] = &[];
        for (at, (found, row)) in rows.iter().enumerate() {
            recorder.verified += 1;
            if (at == 0 && found != key.as_slice()) || found <= previous {
                recorder.mismatch(found, &"out of order, or not where the scan began");
            } else if let Err(bad) = workload.rows.verify(found, row) {
                recorder.mismatch(found, &bad);
            }
            previous = found;
        }
        if recorder.mismatches == before { Done::Well } else { Done::Badly }
    }

    /// Checks the row kept in `before`.
    fn check(&mut self, found: bool) -> Done {
        self.recorder.verified += 1;
        let verdict = if found {
            self.workload.rows.verify(&self.key, &self.before)
        } else {
            Err(BadRow::Missing)
        };
        match verdict {
            Ok(()) => Done::Well,
            Err(bad) => {
                self.recorder.mismatch(&self.key, &bad);
                Done::Badly
            }
        }
    }

    fn fetch(&mut self) -> Result<bool, Failure> {
        let Self { session, recorder, key, row, .. } = self;
        patiently(&mut recorder.retries, || session.read(key, row))
    }

    fn write(&mut self) -> Result<(), Failure> {
        let Self { session, recorder, key, row, .. } = self;
        patiently(&mut recorder.retries, || session.write(key, row))
    }

    /// All fields of the record of the current key.
    fn build_row(&mut self, version: u32) {
        let key = key_hash(&self.key);
        self.row.clear();
        for field in 0..self.workload.rows.names.len() {
            let len = self.draw_length();
            let of = Content { key, field, version };
            self.workload.rows.push(&mut self.row, of, len);
        }
    }

    /// What an update does to the row that was read.
    fn change(&mut self) -> Result<(), BadRow> {
        let version = u32::try_from(self.rng.next() >> 32).expect("32 bits are left");
        if self.workload.write == Fields::All {
            self.build_row(version);
            return Ok(());
        }
        let len = self.draw_length();
        let field = self.rng.below(u64::try_from(self.workload.rows.names.len()).expect("fits"));
        let field = usize::try_from(field).expect("below the number of fields");
        let of = Content { key: key_hash(&self.key), field, version };
        self.workload.rows.replace(&mut self.row, of, len)
    }

    fn draw_length(&mut self) -> usize {
        let len = self.field_lengths.draw(&mut self.rng);
        usize::try_from(len).expect("checked by the workload: rows are short")
    }

    fn finish(
        &mut self,
        operation: Operation,
        began: Instant,
        result: Result<(), Failure>,
    ) -> Done {
        let latency = began.elapsed();
        match result {
            Ok(()) => {
                self.recorder.add(operation, latency);
                Done::Well
            }
            Err(failure) => self.failed(operation, &failure),
        }
    }

    fn failed(&mut self, operation: Operation, failure: &Failure) -> Done {
        self.recorder.fail(operation, &failure.to_string());
        Done::Badly
    }

    /// A record that is missing or malformed: a mismatch where records are verified, else an
    /// error.
    fn bad(&mut self, operation: Operation, bad: &BadRow) -> Done {
        if self.workload.verify {
            self.recorder.verified += 1;
            self.recorder.mismatch(&self.key, bad);
        } else {
            let key = String::from_utf8_lossy(&self.key);
            self.recorder.fail(operation, &format!("{key}: {bad}"));
        }
        Done::Badly
    }
}

/// Asks an overloaded store again, in growing intervals.
fn patiently<T>(
    retries: &mut u64,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut began = None;
    let mut wait = Duration::from_millis(1);
    loop {
        match attempt() {
            Err(Failure::Busy(why)) => {
                if began.get_or_insert_with(Instant::now).elapsed() > BUSY_MAX {
                    return Err(Failure::Busy(format!("{why} (for {} s)", BUSY_MAX.as_secs())));
                }
                if interrupt::pending().is_some() {
                    return Err(Failure::Busy(format!("{why} (interrupted)")));
                }
                *retries += 1;
                pause(wait);
                wait = (wait * 2).min(BUSY_PAUSE_MAX);
            }
            other => return other,
        }
    }
}

/// Waits at least `time`, or until a signal asks for the end: a benchmark's clients have nothing
/// else to wait on.
fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        if interrupt::pending().is_some() {
            return;
        }
        std::thread::park_timeout(left.min(BUSY_PAUSE_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::measure::Latencies;
    use crate::target::Target;
    use crate::target::memory::Memory;
    use crate::workload::property::Properties;

    fn workload(pairs: &[&str]) -> Workload {
        let pairs: Vec<String> = pairs.iter().map(|s| (*s).to_owned()).collect();
        Workload::new(&Properties::gather(&[], &pairs).unwrap()).unwrap()
    }

    fn client<'a>(w: &'a Workload, inserted: &'a Acknowledged, memory: &Memory) -> Client<'a> {
        let keys = w.choose_keys(inserted);
        Client::new(w, inserted, memory.session().unwrap(), Rng::new(1, 0), keys)
    }

    /// What became of it shows in the recorder.
    fn ignore(_: Done) {}

    /// Flips one byte of the record of `number`.
    fn corrupt(w: &Workload, memory: &mut Memory, number: u64) -> Vec<u8> {
        let (mut key, mut row) = (Vec::new(), Vec::new());
        w.keys.write(number, &mut key);
        assert!(memory.read(&key, &mut row).unwrap());
        row[500] ^= 1;
        memory.write(&key, &row).unwrap();
        key
    }

    #[test]
    fn a_planted_corruption_is_caught_by_every_operation() {
        for share in ["readproportion", "updateproportion", "scanproportion"] {
            let only = format!("{share}=1");
            let none = ["readproportion=0", "updateproportion=0", &only];
            let w = workload(&[&none[..], &["recordcount=50", "dataintegrity=true"]].concat());
            let (inserted, mut memory) = (Acknowledged::new(50), Memory::new());
            let mut client = client(&w, &inserted, &memory);
            (0..50).for_each(|n| assert_eq!(client.insert(n, None), Done::Well));
            (0..300).for_each(|_| assert_eq!(client.transaction(None), Done::Well, "{share}"));
            assert_eq!(client.recorder.mismatches, 0);
            let key = corrupt(&w, &mut memory, 7);
            (0..300).for_each(|_| ignore(client.transaction(None)));
            assert!(client.recorder.mismatches > 0, "{share}: not seen");
            let example = &client.recorder.mismatch_examples[0];
            assert!(example.starts_with(&String::from_utf8(key).unwrap()), "{example}");
        }
    }

    #[test]
    fn a_missing_record_is_a_mismatch_or_an_error() {
        for (pair, mismatches, errors) in
            [("dataintegrity=true", 1, 0), ("dataintegrity=false", 0, 1)]
        {
            let w = workload(&["recordcount=5", "readproportion=1", "updateproportion=0", pair]);
            let (inserted, memory) = (Acknowledged::new(5), Memory::new());
            let mut client = client(&w, &inserted, &memory);
            assert_eq!(client.transaction(None), Done::Badly);
            assert_eq!(client.recorder.mismatches, mismatches);
            assert_eq!(client.recorder.errors_total(), errors);
        }
    }

    #[test]
    fn verify_checks_whatever_the_workload_says() {
        let w = workload(&["recordcount=10", "dataintegrity=false"]);
        let (inserted, mut memory) = (Acknowledged::new(10), Memory::new());
        let mut client = client(&w, &inserted, &memory);
        (0..10).for_each(|n| ignore(client.insert(n, None)));
        corrupt(&w, &mut memory, 3);
        (0..11).for_each(|n| ignore(client.verify(n)));
        // The planted one, and record 10, which nobody inserted.
        assert_eq!((client.recorder.verified, client.recorder.mismatches), (11, 2));
    }

    #[test]
    fn read_modify_write_is_reported_besides_its_parts() {
        let w = workload(&[
            "recordcount=10",
            "readproportion=0",
            "updateproportion=0",
            "readmodifywriteproportion=1",
        ]);
        let (inserted, memory) = (Acknowledged::new(10), Memory::new());
        let mut client = client(&w, &inserted, &memory);
        (0..10).for_each(|n| ignore(client.insert(n, None)));
        (0..40).for_each(|_| assert_eq!(client.transaction(None), Done::Well));
        let count = |op| client.recorder.latencies(op).map_or(0, Latencies::len);
        assert_eq!(count(Operation::ReadModifyWrite), 40);
        assert_eq!((count(Operation::Read), count(Operation::Update)), (40, 40));
    }

    #[test]
    fn a_busy_store_is_asked_again_and_the_wait_counts() {
        let mut left = 3;
        let mut retries = 0;
        let answer = patiently(&mut retries, || {
            left -= 1;
            if left > 0 { Err(Failure::Busy("full".into())) } else { Ok(left) }
        });
        assert_eq!((answer.unwrap(), retries), (0, 2));
    }
}
