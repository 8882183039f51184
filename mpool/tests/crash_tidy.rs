//! Every crash point of what housekeeping does to journals: rewriting in the background while
//! appends go on, being overtaken by them, and moving the pool's own journal to longer logs.
//!
//! Housekeeping is stepped by hand between appends, so every run makes the same device calls.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{ALLOC_UNIT, Error, IoBackend, Mdc, MdcId, MdcRoom, MdcSnapshot, Options, Pool};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use parking_lot::Mutex;
use std::sync::Arc;

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 2, background: false, ..Options::default() }
}

/// Opens the pool; what a crash during creation left is created again.
fn open(device: &SimDevice) -> Result<Arc<Pool>, Error> {
    match Pool::open(Arc::new(device.clone()), &options()) {
        Err(Error::Unusable { .. }) => Pool::create(Arc::new(device.clone()), &options()),
        outcome => outcome,
    }
}

fn metric(pool: &Pool, wanted: &str) -> u64 {
    let mut found = None;
    pool.metrics().visit(&mut |name, _, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap_or_else(|| panic!("no metric {wanted}"))
}

fn checkpoints(pool: &Pool) -> [u64; 3] {
    [
        metric(pool, "mpool_mdc_checkpoints_total"),
        metric(pool, "mpool_mdc_checkpoints_forced_total"),
        metric(pool, "mpool_mdc_checkpoints_abandoned_total"),
    ]
}

/// A client's journal that is rewritten in the background, in the middle of its appends.
#[derive(Clone, Copy)]
struct Appends {
    log_bytes: u64,
    /// Record lengths are up to this.
    record_len: u32,
    /// Steps of housekeeping: this many after every so many appends.
    tidy: u32,
    every: u32,
}

struct Journal {
    mdc: Mdc,
    records: Arc<Mutex<Vec<Vec<u8>>>>,
    pool: Arc<Pool>,
}

impl Appends {
    /// Record `n`: its number and a length that differs from the next one's.
    fn record(self, n: u32) -> Vec<u8> {
        let len = 8 + usize::try_from(n * 3_001 % self.record_len).unwrap();
        let mut bytes = vec![u8::try_from(n % 251).unwrap(); len];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        bytes
    }
}

/// The number of records left out, then the last few.
fn state(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let from = records.len().saturating_sub(3);
    let mut state = vec![u32::try_from(from).unwrap().to_le_bytes().to_vec()];
    state.extend(records[from..].iter().cloned());
    state
}

impl Workload for Appends {
    type System = Journal;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Journal, Error> {
        let pool = open(device)?;
        let id = match pool.property("journal") {
            Some(raw) => MdcId::new(u64::from_le_bytes(raw.try_into().unwrap())).unwrap(),
            None => pool.create_named_mdc("journal", self.log_bytes)?,
        };
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mdc = pool.open_mdc(id, &mut |bytes| {
            if bytes.len() == 4 {
                let left_out = u32::from_le_bytes(bytes.try_into().unwrap());
                assert!(records.is_empty(), "a state comes first");
                records = (0..left_out).map(|n| self.record(n)).collect();
            } else {
                records.push(bytes.to_vec());
            }
            Ok(())
        })?;
        let records = Arc::new(Mutex::new(records));
        let shared = Arc::clone(&records);
        mdc.compact_in_background(Arc::new(move || {
            let records = shared.lock().clone();
            Box::new(move || state(&records)) as MdcSnapshot
        }))?;
        Ok(Journal { mdc, records, pool })
    }

    fn step(&self, system: &mut Journal, n: u32) -> Result<(), Error> {
        let Journal { mdc, records, pool } = system;
        let record = self.record(n);
        mdc.append(&record, MdcRoom::Usual, || records.lock().push(record.clone()))?;
        if n.is_multiple_of(self.every) {
            for _ in 0..self.tidy {
                pool.tidy();
            }
        }
        Ok(())
    }

    fn steps_found(&self, system: &mut Journal) -> u32 {
        let records = system.records.lock();
        for (n, found) in records.iter().enumerate() {
            assert!(*found == self.record(u32::try_from(n).unwrap()), "record {n}");
        }
        u32::try_from(records.len()).unwrap()
    }
}

impl Appends {
    /// Checkpoints, forced ones and abandoned ones of a run without a crash.
    fn run(self, plan: CrashPlan) -> [u64; 3] {
        let device = SimDevice::new(plan.device_bytes);
        let mut system = self.open(&device).unwrap();
        for n in 0..plan.steps {
            self.step(&mut system, n).unwrap();
        }
        checkpoints(&system.pool)
    }
}

/// Without the background, the append that finds no room rewrites the log.
#[test]
fn a_rewriting_while_an_append_waits_survives_every_crash() {
    let appends = Appends { log_bytes: ALLOC_UNIT, record_len: 9_000, tidy: 0, every: 1 };
    let plan = CrashPlan { steps: 30, seeds: 6, recovery_seeds: 2, device_bytes: 4 << 20 };
    let [done, forced, _] = appends.run(plan);
    assert!(done >= 2 && done == forced, "{done} rewritings, {forced} forced");
    check_every_crash(&appends, plan);
}

/// Records follow the state into the new log with its end mark.
#[test]
fn appends_during_a_background_rewriting_survive_every_crash() {
    let appends = Appends { log_bytes: 4 * ALLOC_UNIT, record_len: 9_000, tidy: 2, every: 1 };
    let plan = CrashPlan { steps: 70, seeds: 2, recovery_seeds: 1, device_bytes: 4 << 20 };
    let [done, forced, abandoned] = appends.run(plan);
    assert!(done >= 2, "{done} rewritings");
    assert_eq!((forced, abandoned), (0, 0), "no append has waited");
    check_every_crash(&appends, plan);
}

/// So much is appended meanwhile that it is added to the state piece by piece.
#[test]
fn catching_up_survives_every_crash() {
    let appends = Appends { log_bytes: 32 * ALLOC_UNIT, record_len: 90_000, tidy: 3, every: 1 };
    let plan = CrashPlan { steps: 60, seeds: 1, recovery_seeds: 0, device_bytes: 12 << 20 };
    let [done, forced, abandoned] = appends.run(plan);
    assert!(done >= 1, "{done} rewritings");
    assert_eq!((forced, abandoned), (0, 0), "no append has waited");
    check_every_crash(&appends, plan);
}

/// The log is full before the background is done: its attempt is given up in any state.
#[test]
fn being_overtaken_by_appends_survives_every_crash() {
    for every in [3, 4] {
        let appends = Appends { log_bytes: 2 * ALLOC_UNIT, record_len: 9_000, tidy: 2, every };
        let plan = CrashPlan { steps: 50, seeds: 2, recovery_seeds: 1, device_bytes: 4 << 20 };
        let [done, forced, abandoned] = appends.run(plan);
        assert!(
            forced >= 1 && abandoned >= 1,
            "{done} done, {forced} forced, {abandoned} given up"
        );
        check_every_crash(&appends, plan);
    }
}

/// The pool's own journal, whose state grows until it must move to longer logs.
struct Properties {
    tidy: u32,
}

impl Workload for Properties {
    type System = Arc<Pool>;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        open(device)
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let value = [&n.to_le_bytes()[..], &[u8::try_from(n % 251).unwrap(); 1020]].concat();
        pool.set_property(&format!("p{n}"), &value)?;
        for _ in 0..self.tidy {
            pool.tidy();
        }
        Ok(())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        for n in 0.. {
            let Some(value) = pool.property(&format!("p{n}")) else { return n };
            assert_eq!(value[..4], n.to_le_bytes());
            assert!(value[4..].iter().all(|b| u32::from(*b) == n % 251), "property {n}");
        }
        unreachable!("the log is not that long")
    }
}

#[test]
fn moving_to_longer_logs_survives_every_crash() {
    let properties = Properties { tidy: 2 };
    let plan = CrashPlan { steps: 90, seeds: 2, recovery_seeds: 1, device_bytes: 4 << 20 };
    let device = SimDevice::new(plan.device_bytes);
    let mut pool = open(&device).unwrap();
    let (log_bytes, used) = (pool.info().journal_log_bytes, pool.info().used_bytes);
    for n in 0..plan.steps {
        properties.step(&mut pool, n).unwrap();
    }
    assert_eq!(metric(&pool, "mpool_journal_moves_total"), 1);
    assert_eq!(pool.info().journal_log_bytes, 2 * log_bytes);
    assert_eq!(pool.info().used_bytes, used + 4 * log_bytes, "the old logs are free");
    let [done, forced, _] = checkpoints(&pool);
    assert!(done >= 3 && forced == 0, "{done} done, {forced} forced");
    drop(pool);
    let again = open(&device.after_crash(0)).unwrap();
    assert_eq!(again.info().used_bytes, used + 4 * log_bytes);
    assert_eq!(again.info().journal_log_bytes, 2 * log_bytes);
    drop(again);
    check_every_crash(&properties, plan);
}
