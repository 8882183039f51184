//! Every crash point of the pool's own journal: append, checkpoint, recovery; of properties,
//! segments, and the creation of a client's journal. What a client appends: `crash_tidy`.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{ALLOC_UNIT, Error, IoBackend, MdcId, Options, Pool};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::sync::Arc;

const DEVICE_BYTES: u64 = 4 << 20;

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

fn mdc_id(pool: &Arc<Pool>) -> Result<MdcId, Error> {
    if let Some(raw) = pool.property("journal") {
        return Ok(MdcId::new(u64::from_le_bytes(raw.try_into().unwrap())).unwrap());
    }
    pool.create_named_mdc("journal", ALLOC_UNIT)
}

/// The pool's own journal: properties and segments come and go. Each step replaces the segment and
/// names it in a property; the property is set last and so is the step's commit point.
struct Segments;

impl Workload for Segments {
    type System = Arc<Pool>;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        open(device)
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let named = pool.property("segment");
        // Left over from a crash between creation and naming.
        for id in pool.segment_ids() {
            if named.as_deref() != Some(&id.get().to_le_bytes()) {
                pool.delete_segment(id)?;
            }
        }
        let segment = pool.create_segment(ALLOC_UNIT)?;
        let mut page = [0; 4096];
        segment.read_at(ALLOC_UNIT - 4096, &mut page)?;
        assert_eq!(page, [0; 4096], "a new segment is zeros, whatever was there before");
        page.fill(u8::try_from(n + 1).unwrap());
        segment.write_durable_at(0, &page)?;
        segment.write_durable_at(ALLOC_UNIT - 4096, &page)?;
        pool.set_property("step", &n.to_le_bytes())?;
        pool.set_property("segment", &segment.id().get().to_le_bytes())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        let Some(named) = pool.property("segment") else { return 0 };
        let id = mpool::SegmentId::new(u64::from_le_bytes(named.try_into().unwrap())).unwrap();
        let mut page = [0; 4096];
        pool.open_segment(id).unwrap().read_at(0, &mut page).unwrap();
        assert!(page.iter().all(|b| *b == page[0]), "the segment's page is whole");
        u32::from(page[0])
    }
}

#[test]
fn segments_and_properties_survive_every_crash() {
    let plan = CrashPlan { steps: 6, seeds: 6, recovery_seeds: 2, device_bytes: DEVICE_BYTES };
    check_every_crash(&Segments, plan);
}

/// Properties alone, enough of them to rewrite the pool's own journal.
struct Properties;

impl Workload for Properties {
    type System = Arc<Pool>;
    type Error = Error;

    fn open(&self, device: &SimDevice) -> Result<Arc<Pool>, Error> {
        open(device)
    }

    fn step(&self, pool: &mut Arc<Pool>, n: u32) -> Result<(), Error> {
        let value = vec![u8::try_from(n % 251).unwrap(); 1000];
        pool.set_property(&format!("p{}", n % 20), &[&n.to_le_bytes()[..], &value].concat())
    }

    fn steps_found(&self, pool: &mut Arc<Pool>) -> u32 {
        let newest = |slot: u32| {
            let value = pool.property(&format!("p{slot}"))?;
            let n = u32::from_le_bytes(*value.first_chunk().unwrap());
            assert!(value[4..].iter().all(|b| u32::from(*b) == n % 251), "property {slot}");
            Some(n)
        };
        let found = (0..20).filter_map(newest).max().map_or(0, |n| n + 1);
        for n in found.saturating_sub(20)..found {
            assert_eq!(newest(n % 20), Some(n), "the last twenty are all there");
        }
        found
    }
}

#[test]
fn the_pools_own_journal_survives_every_crash_of_its_rewriting() {
    let plan = CrashPlan { steps: 70, seeds: 3, recovery_seeds: 1, device_bytes: DEVICE_BYTES };
    check_every_crash(&Properties, plan);
}

/// A journal was created by one record and named by the next: a crash between them left 8 MiB to
/// nobody.
#[test]
fn a_crash_leaves_no_journal_without_a_name() {
    let blank = SimDevice::new(DEVICE_BYTES);
    let empty = open(&blank).unwrap().info().used_bytes;
    let base = blank.after_crash(0);
    let (mut with, mut without) = (0, 0);
    for call in 0.. {
        let device = base.after_crash(0);
        let pool = open(&device).unwrap();
        device.cut_at(device.calls() + call);
        let outcome = pool.create_named_mdc("journal", ALLOC_UNIT);
        drop(pool);
        for seed in 0..8 {
            let pool = open(&device.after_crash(seed)).unwrap();
            let used = pool.info().used_bytes - empty;
            if pool.property("journal").is_some() {
                assert_eq!(used, 4 * ALLOC_UNIT, "call {call}, seed {seed}");
                drop(pool.open_mdc(mdc_id(&pool).unwrap(), &mut |_| Ok(())).unwrap());
                with += 1;
            } else {
                assert_eq!(used, 0, "call {call}, seed {seed}: space without an owner");
                assert!(outcome.is_err(), "call {call}, seed {seed}: acknowledged");
                without += 1;
            }
        }
        if let Ok(id) = outcome {
            let pool = open(&device.after_crash(0)).unwrap();
            assert_eq!(mdc_id(&pool).unwrap(), id);
            let again = pool.create_named_mdc("journal", ALLOC_UNIT).unwrap_err();
            assert!(again.to_string().contains("set already"), "{again}");
            break;
        }
    }
    assert!(with > 0 && without > 0, "both outcomes are seen: {with}, {without}");
}
