//! The log under power cuts at every device call, by the harness of `mpool::sim`.
//!
//! A step appends a few batches, some of them without asking for durability, and ends with a
//! durable one; some steps release what came before, so that segments rotate and are recycled.
//! Recovery checks that revisions ascend, that every step found is whole, and that at most the
//! last one is cut short - and then only if it was never acknowledged, which the harness checks.

use super::tests::{options, pool_options};
use super::*;
use crate::entry::op::Op;
use crate::key::KvsId;
use crate::wal::mark::ManifestEnd;
use mpool_sim::Seeded;
use mpool_sim::SimDevice;
use mpool_sim::crash::{CrashPlan, Workload, check_every_crash};
use std::cell::Cell;
use std::collections::BTreeMap;

const KVS: KvsId = KvsId::new(1);
const FLOOR: &str = "test.floor";

/// Steps of a log that may forget to ask for durability.
struct Steps {
    durable: bool,
    /// Bytes of a step's last value: large ones make segments rotate.
    value_len: usize,
    /// How often the log is released, in steps.
    release_every: u32,
    /// Whether it rests then, with everything released.
    rests: bool,
}

/// A log, and what recovery found in it.
struct System {
    pool: Arc<Pool>,
    wal: Wal,
    /// Number of steps that are there, and the last revision of each.
    ends: Vec<(u32, Revision)>,
}

/// The last batch of a step says so.
fn encode(step: u32, last: bool, value_len: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let value = vec![fill_byte(step); value_len];
    let key = [&step.to_le_bytes()[..], &[u8::from(last)]].concat();
    batch.put_id(KVS, &key, &value).unwrap();
    batch
}

fn below(random: &mut Seeded, bound: u64) -> usize {
    usize::try_from(random.below(bound)).unwrap()
}

fn fill_byte(step: u32) -> u8 {
    Seeded::new(step.into()).next_u64().to_le_bytes()[7]
}

fn decode(batch: &WriteBatch) -> (u32, bool) {
    let (_, key, op) = batch.ops().next().expect("one entry each");
    let Op::Inline(value) = op else { panic!("only puts are logged here") };
    let step = u32::from_le_bytes(*key.first_chunk().unwrap());
    assert!(value.iter().all(|&byte| byte == fill_byte(step)), "step {step} is mangled");
    (step, key[4] == 1)
}

impl Steps {
    fn open_log(pool: &Arc<Pool>) -> Result<System> {
        let floor = pool.property(FLOOR).map_or((0, 0), |bytes| {
            let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
            (word(0), word(8))
        });
        // What lies at or before the floor was released, so it is there by definition.
        let steps = u32::try_from(floor.1).unwrap();
        let mut ends: Vec<_> = (0..steps).map(|step| (step, Revision::new(floor.0))).collect();
        let next = Cell::new(floor.0 + 1);
        let (wal, _) = Wal::open(
            pool,
            &options(),
            Revision::new(floor.0),
            &OpenProgress::default(),
            &mut |revision, batch| {
                assert!(revision.get() >= next.replace(revision.get() + 1), "revisions ascend");
                let (step, last) = decode(batch);
                assert_eq!(step as usize, ends.len(), "steps are in order");
                if last {
                    ends.push((step, revision));
                }
                Ok(())
            },
        )?;
        let wal = Wal { short_bytes: 2 << 20, ..wal };
        Ok(System { pool: Arc::clone(pool), wal, ends })
    }
}

impl Workload for Steps {
    type System = System;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<System> {
        let device = Arc::new(device.clone());
        let pool = match Pool::open(device.clone(), &pool_options()) {
            Err(mpool::Error::Unusable { .. }) => Pool::create(device, &pool_options())?,
            other => other?,
        };
        Self::open_log(&pool)
    }

    fn step(&self, system: &mut System, n: u32) -> Result<()> {
        let mut random = Seeded::new(n.into());
        let first: Vec<_> =
            (0..random.below(3)).map(|_| encode(n, false, below(&mut random, 9000))).collect();
        let second = encode(n, true, below(&mut random, 9000) + self.value_len);
        let next = system.wal.last().next();
        system.wal.append(next, &first.iter().collect::<Vec<_>>(), false)?;
        let next = system.wal.last().next();
        system.wal.append(next, &[&second], self.durable)?;
        system.ends.push((n, next));
        if n % self.release_every == self.release_every - 1 {
            // As a flush does: the floor is durable before the log forgets.
            let (step, floor) = system.ends[system.ends.len() - if self.rests { 1 } else { 2 }];
            let floor_bytes =
                [floor.get().to_le_bytes(), u64::from(step + 1).to_le_bytes()].concat();
            system.pool.set_property(FLOOR, &floor_bytes)?;
            if self.rests {
                let short = system.pool.create_segment(system.wal.short_bytes())?;
                for segment in system.wal.rest(floor, short)? {
                    system.pool.delete_segment(segment.id())?;
                }
                assert_eq!(system.pool.segment_ids().len(), 1);
            } else {
                system.wal.release(floor)?;
            }
        }
        Ok(())
    }

    fn steps_found(&self, system: &mut System) -> u32 {
        u32::try_from(system.ends.len()).unwrap()
    }
}

const PLAN: CrashPlan =
    CrashPlan { steps: 10, seeds: 3, recovery_seeds: 1, device_bytes: 64 << 20 };

#[test]
fn acknowledged_batches_survive_within_a_segment() {
    check_every_crash(
        &Steps { durable: true, value_len: 0, release_every: 1000, rests: false },
        PLAN,
    );
}

#[test]
fn acknowledged_batches_survive_rotation_and_recycling() {
    let steps = Steps { durable: true, value_len: 1_300_000, release_every: 4, rests: false };
    check_every_crash(&steps, CrashPlan { steps: 12, seeds: 1, ..PLAN });
}

#[test]
fn acknowledged_batches_survive_a_log_that_rests() {
    let steps = Steps { durable: true, value_len: 700_000, release_every: 4, rests: true };
    check_every_crash(&steps, CrashPlan { steps: 12, seeds: 1, ..PLAN });
}

/// What revisions name, by the number of a batch.
#[derive(Default)]
struct Given {
    /// For ever: somebody was told, or a replay has shown it.
    known: BTreeMap<u64, u64>,
    /// The power went during the append: nobody was told.
    unknown: BTreeMap<u64, u64>,
}

/// Opens the log and writes until the power goes; every batch carries a number of its own.
fn life(device: &SimDevice, given: &mut Given, random: &mut Seeded) -> Result<()> {
    let pool = match Pool::open(Arc::new(device.clone()), &pool_options()) {
        Err(mpool::Error::Unusable { .. }) => {
            Pool::create(Arc::new(device.clone()), &pool_options())?
        }
        other => other?,
    };
    let mut found = BTreeMap::new();
    let (mut wal, replayed) = Wal::open(
        &pool,
        &options(),
        Revision::ZERO,
        &OpenProgress::default(),
        &mut |at, batch| {
            found.insert(at.get(), number(batch));
            Ok(())
        },
    )?;
    for (revision, number) in found {
        let unknown = given.unknown.remove(&revision).filter(|is| *is == number);
        unknown.map(|_| given.known.insert(revision, number));
        let known = given.known.get(&revision);
        assert_eq!(known, Some(&number), "revision {revision} names another batch");
    }
    given.unknown.clear();
    let greatest = given.known.last_key_value().map_or(0, |(revision, _)| *revision);
    assert!(replayed.last.get() >= greatest, "revision {greatest} would be given again");
    for _ in 0..8 {
        let number = random.next_u64();
        let mut batch = WriteBatch::new();
        let bound = [40, 9000, 1_500_000][below(random, 3)];
        let value = vec![7; below(random, bound)];
        batch.put_id(KVS, &number.to_le_bytes(), &value)?;
        let next = wal.last().next();
        given.unknown.insert(next.get(), number);
        wal.append(next, &[&batch], random.below(4) == 0)?;
        given.unknown.clear();
        assert_eq!(given.known.insert(next.get(), number), None, "{next} was given before");
    }
    let (log, manifest) = (wal.end()?, ManifestEnd::default());
    Mark { log, manifest }.leave(&pool)
}

fn number(batch: &WriteBatch) -> u64 {
    let (_, key, _) = batch.ops().next().expect("one entry each");
    u64::from_le_bytes(*key.first_chunk().unwrap())
}

/// Lives that a power cut ends, one after the other on the same medium, and some that end well.
#[test]
fn a_revision_never_names_two_batches_wherever_the_power_is_cut() {
    for cut in 0..60 {
        let (mut device, mut given) = (SimDevice::new(256 << 20), Given::default());
        for round in 0..6 {
            let mut random = Seeded::new(cut * 100 + round);
            if round % 3 != 2 {
                device.cut_at(device.calls() + (cut + 7 * round) % 60);
            }
            // An error is the power cut.
            drop(life(&device, &mut given, &mut random));
            device = device.after_crash(cut + round);
        }
        let count = given.known.len();
        assert!(count > 8, "cut {cut}: {count} revisions were given out");
    }
}

#[test]
#[should_panic(expected = "acknowledged")]
fn the_harness_catches_a_missing_sync() {
    check_every_crash(
        &Steps { durable: false, value_len: 0, release_every: 1000, rests: false },
        PLAN,
    );
}
