//! Housekeeping of journals when all goes well, when the medium fails, when they are full, and on
//! its own thread.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, Device, Error, IO_ALIGN, IoBackend, IoBuf, Mdc, MdcId, MdcRoom, MdcSnapshot,
    Options, Pool, Priority,
};
use mpool_sim::{Faults, SimDevice};
use parking_lot::Mutex;
use std::sync::Arc;

const DEVICE_BYTES: u64 = 4 << 20;
/// Superblock copies, then the two logs of the pool's journal, each of two copies.
const JOURNAL_AT: u64 = 2 * ALLOC_UNIT;
const LOG_BYTES: u64 = 2 * ALLOC_UNIT;

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 2, background: false, ..Options::default() }
}

fn create(device: &SimDevice) -> Arc<Pool> {
    Pool::create(Arc::new(device.clone()), &options()).unwrap()
}

fn open(device: &SimDevice) -> Result<Arc<Pool>, Error> {
    Pool::open(Arc::new(device.clone()), &options())
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

fn tidy_all(pool: &Pool) {
    while pool.tidy() {}
}

/// Objects without a byte: 64 KiB each on paper.
fn add_objects(pool: &Arc<Pool>, count: usize) {
    let one = |_| pool.allocate(1, Priority::Flush).unwrap();
    pool.commit((0..count).map(one).collect(), &[]).unwrap();
}

/// 8 MiB of log describe 233,000 objects and refused any more of them.
#[test]
fn the_journal_grows_with_the_number_of_objects() {
    const GROUP: usize = 20_000;
    const GROUPS: usize = 13;
    let device = SimDevice::new(64 << 30);
    let pool = create(&device);
    assert_eq!(pool.info().journal_log_bytes, 8 << 20);
    for _ in 0..GROUPS {
        add_objects(&pool, GROUP);
        tidy_all(&pool);
    }
    let info = pool.info();
    assert_eq!(info.mblocks, u64::try_from(GROUP * GROUPS).unwrap());
    assert_eq!(info.journal_log_bytes, 32 << 20, "11 MiB are more than half of 16");
    assert_eq!(metric(&pool, "mpool_mdc_checkpoints_forced_total"), 0, "no commit has waited");
    assert_eq!(info.commits.count, u64::try_from(GROUPS).unwrap());
    assert_eq!(info.journal_waits.count, 0);
    let ids = pool.mblock_ids();
    drop(pool);
    let pool = open(&device.after_crash(0)).unwrap();
    assert_eq!(pool.mblock_ids(), ids);
    assert_eq!(pool.info().used_bytes, info.used_bytes);
    for some in ids.chunks(GROUP) {
        pool.commit(vec![], some).unwrap();
    }
    assert_eq!(pool.info().mblocks, 0);
}

/// A journal full of live state refused deletions too.
#[test]
fn a_full_journal_still_takes_deletions() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let objects: Vec<_> = (0..30)
        .map(|_| {
            add_objects(&pool, 1);
            pool.mblock_ids().pop().unwrap()
        })
        .collect();
    let segments: Vec<_> = (0..3).map(|_| pool.create_segment(1).unwrap().id()).collect();
    let mut properties = 0;
    let full = loop {
        match pool.set_property(&format!("p{properties}"), &[7; 1024]) {
            Ok(()) => properties += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert!(properties > 60, "{properties} properties");
    assert_eq!(pool.info().journal_log_bytes, LOG_BYTES, "nobody has tidied");
    for id in objects {
        pool.commit(vec![], &[id]).unwrap();
    }
    for id in segments {
        pool.delete_segment(id).unwrap();
    }
    drop(pool);
    let pool = open(&device.after_crash(0)).unwrap();
    assert!(pool.mblock_ids().is_empty() && pool.segment_ids().is_empty());
    // And there is a way out for the rest.
    tidy_all(&pool);
    pool.set_property("x", &[7; 1024]).unwrap();
    assert_eq!(pool.info().journal_log_bytes, 2 * LOG_BYTES);
}

/// Sets one property again and again: a state of nothing, and a log full of garbage.
fn churn(pool: &Pool, times: u8) {
    for n in 0..times {
        pool.set_property("p", &[n]).unwrap();
    }
}

#[test]
fn a_log_that_cannot_be_written_is_left_for_another() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    churn(&pool, 24);
    device.set_faults(Faults { write_eio_at: Some(0), ..Faults::default() });
    tidy_all(&pool);
    assert_eq!(metric(&pool, "mpool_mdc_checkpoints_abandoned_total"), 1);
    assert_eq!(metric(&pool, "mpool_journal_moves_total"), 1);
    assert_eq!(pool.info().journal_log_bytes, LOG_BYTES);
    churn(&pool, 60);
    drop(pool);
    let pool = open(&device.after_crash(0)).unwrap();
    assert_eq!(pool.property("p").unwrap(), [59]);
}

#[test]
fn a_journal_that_finds_no_room_to_grow_is_rewritten_where_it_is() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    for n in 0..70 {
        pool.set_property(&format!("p{n}"), &[7; 1024]).unwrap();
    }
    let len = device.geometry().len_bytes;
    device.set_faults(Faults { enospc_after_bytes: Some(len), ..Faults::default() });
    for n in 0..60 {
        pool.set_property("p0", &[n; 1024]).unwrap();
        tidy_all(&pool);
    }
    assert_eq!(metric(&pool, "mpool_journal_moves_total"), 0);
    let forced = metric(&pool, "mpool_mdc_checkpoints_forced_total");
    let all = metric(&pool, "mpool_mdc_checkpoints_total");
    assert!(all > 2 * forced, "{all} rewritings, {forced} of them forced");
    device.set_faults(Faults::default());
    for n in 0..30 {
        pool.set_property("p0", &[n; 1024]).unwrap();
        tidy_all(&pool);
    }
    assert_eq!(metric(&pool, "mpool_journal_moves_total"), 1);
}

/// Neither copy of a log can be read.
fn unreadable(log: u64) -> Faults {
    let at = log_at(log);
    Faults { unreadable: Some((at, at + 2 * LOG_BYTES)), ..Faults::default() }
}

fn log_at(log: u64) -> u64 {
    JOURNAL_AT + 2 * LOG_BYTES * log
}

#[test]
fn an_unreadable_passive_log_does_not_keep_the_pool_shut() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    churn(&pool, 24);
    tidy_all(&pool);
    drop(pool);
    // Rewritten once: log 1 counts, and log 0 is retired.
    let device = device.after_crash(0);
    device.set_faults(unreadable(0));
    let pool = open(&device).unwrap();
    device.set_faults(Faults::default());
    assert_eq!(pool.property("p").unwrap(), [23]);
    churn(&pool, 40);
    drop(pool);
    assert_eq!(open(&device.after_crash(0)).unwrap().property("p").unwrap(), [39]);
}

#[test]
fn an_unreadable_log_that_holds_the_truth_is_an_error_and_not_an_older_state() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    churn(&pool, 24);
    // Log 0 counts, log 1 is blank.
    let early = device.after_crash(0);
    early.set_faults(unreadable(0));
    assert!(matches!(open(&early), Err(Error::Io { op: "read", .. })));
    // In the middle of a rewriting.
    for _ in 0..3 {
        assert!(pool.tidy());
    }
    let middle = device.after_crash(0);
    middle.set_faults(unreadable(0));
    assert!(matches!(open(&middle), Err(Error::Io { op: "read", .. })));
    tidy_all(&pool);
    // Log 1 counts, log 0 is retired.
    let late = device.after_crash(0);
    late.set_faults(unreadable(1));
    assert!(matches!(open(&late), Err(Error::Io { op: "read", .. })));
    late.set_faults(Faults::default());
    assert_eq!(open(&late).unwrap().property("p").unwrap(), [23], "it was readable again");
}

/// Both logs are complete, and the newer one cannot be read for a moment: what is appended to the
/// older one must not be forgotten when the newer one is back.
#[test]
fn a_log_that_comes_back_does_not_count() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    churn(&pool, 24);
    let mut both = 0;
    for call in 0.. {
        let device = device.after_crash(0);
        let pool = open(&device).unwrap();
        device.cut_at(device.calls() + call);
        tidy_all(&pool);
        if !device.is_cut() {
            break;
        }
        drop(pool);
        for seed in 0..6 {
            let device = device.after_crash(seed);
            let marks = [0, 1].map(|log| kinds(&device, log_at(log)));
            let complete = |kinds: &[u16]| kinds.first() == Some(&2) && kinds.contains(&4);
            both += u32::from(marks.iter().all(|kinds| complete(kinds)));
            device.set_faults(unreadable(1));
            let Ok(pool) = open(&device) else { continue };
            device.set_faults(Faults::default());
            pool.set_property("p", b"newer").unwrap();
            drop(pool);
            let again = open(&device.after_crash(0)).unwrap();
            assert_eq!(again.property("p").unwrap(), b"newer", "call {call}, seed {seed}");
        }
    }
    assert!(both > 0, "the case has been met");
}

/// Kinds of the frames that start in the first pages of a log.
fn kinds(device: &SimDevice, at: u64) -> Vec<u16> {
    let mut pages = IoBuf::zeroed(8 * IO_ALIGN);
    device.read_at(at, &mut pages).unwrap();
    let head =
        |page: &[u8]| (&page[..4] == b"MDCF").then(|| u16::from_le_bytes([page[6], page[7]]));
    pages.chunks(IO_ALIGN).map_while(head).collect()
}

/// A counter for each of several writers.
type Counts = Arc<Mutex<Vec<u32>>>;

fn open_counts(pool: &Arc<Pool>, id: MdcId, writers: usize) -> (Mdc, Counts) {
    let mut found = vec![0_u32; writers];
    let mdc = pool
        .open_mdc(id, &mut |record| {
            let (writer, n) = record.split_at(4);
            let writer = u32::from_le_bytes(writer.try_into().unwrap());
            found[usize::try_from(writer).unwrap()] = u32::from_le_bytes(n.try_into().unwrap());
            Ok(())
        })
        .unwrap();
    let counts = Arc::new(Mutex::new(found));
    let shared = Arc::clone(&counts);
    let state = move || {
        let counts = shared.lock().clone();
        let record = |(writer, n): (usize, u32)| count_record(writer, n);
        Box::new(move || counts.into_iter().enumerate().map(record).collect()) as MdcSnapshot
    };
    mdc.compact_in_background(Arc::new(state)).unwrap();
    (mdc, counts)
}

fn count_record(writer: usize, n: u32) -> Vec<u8> {
    let writer = u32::try_from(writer).unwrap();
    [writer.to_le_bytes(), n.to_le_bytes()].concat()
}

#[test]
fn the_thread_rewrites_journals_while_others_append_and_close_and_open_them() {
    const WRITERS: usize = 4;
    const ROUNDS: u32 = 6;
    const APPENDS: u32 = 150;
    let device = SimDevice::new(16 << 20);
    let options = Options { background: true, ..options() };
    let pool = Pool::create(Arc::new(device.clone()), &options).unwrap();
    let id = pool.create_named_mdc("counts", ALLOC_UNIT).unwrap();
    for round in 0..ROUNDS {
        let (mdc, counts) = open_counts(&pool, id, WRITERS);
        assert_eq!(*counts.lock(), [round * APPENDS; WRITERS]);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (mdc, counts, pool) = (&mdc, &counts, &pool);
                scope.spawn(move || {
                    for n in round * APPENDS + 1..=(round + 1) * APPENDS {
                        let apply = || counts.lock()[writer] = n;
                        let record = count_record(writer, n);
                        mdc.append(&record, MdcRoom::Usual, apply).unwrap();
                        pool.set_property(&format!("p{writer}"), &n.to_le_bytes()).unwrap();
                    }
                });
            }
        });
    }
    assert!(metric(&pool, "mpool_mdc_checkpoints_total") > 0);
    drop(pool);
    let pool = Pool::open(Arc::new(device.after_crash(0)), &options).unwrap();
    let (_mdc, counts) = open_counts(&pool, id, WRITERS);
    assert_eq!(*counts.lock(), [ROUNDS * APPENDS; WRITERS]);
    for writer in 0..WRITERS {
        let last = pool.property(&format!("p{writer}")).unwrap();
        assert_eq!(last, (ROUNDS * APPENDS).to_le_bytes());
    }
}

#[test]
fn a_journal_is_told_its_state_once() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let id = pool.create_mdc(ALLOC_UNIT).unwrap();
    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
    let state: Arc<mpool::MdcState> = Arc::new(|| Box::new(Vec::new));
    mdc.compact_in_background(Arc::clone(&state)).unwrap();
    assert!(matches!(mdc.compact_in_background(state), Err(Error::Options(_))));
}
