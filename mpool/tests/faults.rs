//! What a pool does when the medium fails or lies: poisoning, rot against torn tails, damaged and
//! newer superblocks, a full disk.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, Device, Error, IO_ALIGN, IoBackend, IoBuf, MblockWriter, MdcRoom, MdcSnapshot,
    Options, Pool, Priority, Scope,
};
use mpool_sim::{Faults, SimDevice};
use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const DEVICE_BYTES: u64 = 4 << 20;
/// Superblock copies, then the two logs of the pool's journal, each of two copies.
const JOURNAL_AT: u64 = 2 * ALLOC_UNIT;
const FRAME: u64 = 4096;
const LOG_BYTES: u64 = 2 * ALLOC_UNIT;

/// Flips a bit in both copies of a log.
fn flip(device: &SimDevice, log: u64, at: u64, bit: u8) {
    let copy = |n: u64| JOURNAL_AT + (2 * log + n) * LOG_BYTES + at;
    for address in [copy(0), copy(1)] {
        device.flip_bit(address, bit);
    }
}

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 4, background: false, ..Options::default() }
}

fn create(device: &SimDevice) -> Arc<Pool> {
    Pool::create(Arc::new(device.clone()), &options()).unwrap()
}

fn open(device: &SimDevice) -> Result<Arc<Pool>, Error> {
    Pool::open(Arc::new(device.clone()), &options())
}

fn written(pool: &Arc<Pool>, byte: u8) -> MblockWriter {
    let mut writer = pool.allocate(ALLOC_UNIT, Priority::Flush).unwrap();
    writer.append(&[byte; 5000]).unwrap();
    writer
}

fn faults(set: impl FnOnce(&mut Faults)) -> Faults {
    let mut faults = Faults::default();
    set(&mut faults);
    faults
}

#[test]
fn a_failed_flush_poisons_the_pool_and_reopening_recovers_it() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let kept = pool.commit(vec![written(&pool, 1)], &[]).unwrap().remove(0);
    let segment = pool.create_segment(ALLOC_UNIT).unwrap();
    let mdc_id = pool.create_mdc(ALLOC_UNIT).unwrap();
    let mdc = pool.open_mdc(mdc_id, &mut |_| Ok(())).unwrap();
    let writer = written(&pool, 2);
    device.set_faults(faults(|f| f.flush_eio_at = Some(0)));
    let failed = pool.commit(vec![writer], &[]).unwrap_err();
    assert!(matches!(failed, Error::Io { op: "flush", .. }), "{failed}");
    assert_eq!(failed.scope(), Scope::Pool);
    // Nothing is retried: every later write is refused, by name.
    let poisoned = |outcome: Result<(), Error>| matches!(outcome, Err(Error::Poisoned));
    assert!(poisoned(pool.flush()));
    assert!(poisoned(pool.allocate(1, Priority::Flush).map(|_| ())));
    assert!(poisoned(pool.commit(vec![], &[kept.id()]).map(|_| ())));
    assert!(poisoned(pool.set_property("a", b"b")));
    assert!(poisoned(pool.create_segment(1).map(|_| ())));
    assert!(poisoned(pool.delete_segment(segment.id())));
    assert!(poisoned(pool.create_mdc(ALLOC_UNIT).map(|_| ())));
    assert!(poisoned(segment.write_at(0, &[0; 4096])));
    assert!(poisoned(segment.write_durable_at(0, &[0; 4096])));
    assert!(poisoned(mdc.append(b"x", MdcRoom::Usual, || ())));
    let mut page = IoBuf::zeroed(IO_ALIGN);
    kept.read_at(0, &mut page).unwrap();
    assert_eq!(page[0], 1, "reads go on");
    let again = open(&device.after_crash(1)).unwrap();
    assert_eq!(again.mblock_ids(), [kept.id()]);
    again.set_property("a", b"b").unwrap();
}

#[test]
fn a_failed_durable_write_poisons_too() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let segment = pool.create_segment(ALLOC_UNIT).unwrap();
    device.set_faults(faults(|f| f.write_eio_at = Some(0)));
    let failed = segment.write_durable_at(0, &[1; 4096]).unwrap_err();
    assert_eq!(failed.scope(), Scope::Pool, "{failed}");
    assert!(matches!(pool.flush(), Err(Error::Poisoned)));
}

#[test]
fn a_failed_data_write_is_the_objects_matter_alone() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    // Raise the limit of ids first, so that the next write is the object's.
    drop(written(&pool, 0));
    let before = pool.info().used_bytes;
    let mut writer = written(&pool, 1);
    device.set_faults(faults(|f| f.write_eio_at = Some(0)));
    let failed = match writer.append(&vec![1; 50_000]) {
        Ok(()) => pool.commit(vec![writer, written(&pool, 2)], &[]).map(|_| ()).unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(failed, Error::Io { op: "write", .. }), "{failed}");
    assert_eq!(failed.scope(), Scope::Object);
    assert!(pool.mblock_ids().is_empty(), "of a group, all or nothing");
    assert_eq!(pool.info().used_bytes, before, "its space is back");
    pool.commit(vec![written(&pool, 3)], &[]).unwrap();
}

#[test]
fn a_failed_read_is_an_error_value() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let mblock = pool.commit(vec![written(&pool, 1)], &[]).unwrap().remove(0);
    device.set_faults(faults(|f| f.read_eio_at = Some(0)));
    let mut page = IoBuf::zeroed(IO_ALIGN);
    let failed = mblock.read_at(0, &mut page).unwrap_err();
    assert_eq!(failed.scope(), Scope::Object);
    mblock.read_at(0, &mut page).unwrap();
}

/// A pool whose journal holds begin, end, the id limit and five properties, one frame each.
fn with_properties() -> SimDevice {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    drop(written(&pool, 0));
    for n in 0..5_u8 {
        pool.set_property(&format!("p{n}"), &[n; 100]).unwrap();
    }
    drop(pool);
    device.after_crash(0)
}

fn properties(pool: &Pool) -> usize {
    (0..5).filter(|n| pool.property(&format!("p{n}")).is_some()).count()
}

#[test]
fn rot_before_intact_frames_is_an_error_and_never_a_shorter_journal() {
    let device = with_properties();
    assert_eq!(properties(&open(&device).unwrap()), 5);
    // Every bit of every head, and of the bodies, of all frames but the last.
    for frame in 0..7 {
        for byte in 0..64 {
            for bit in 0..8 {
                let rotten = device.after_crash(0);
                flip(&rotten, 0, frame * FRAME + byte, bit);
                match open(&rotten) {
                    Err(Error::Corrupt { what, .. }) => assert_eq!(what, "pool journal"),
                    Err(error) => panic!("frame {frame} byte {byte} bit {bit}: {error}"),
                    // Begin and end have no body: what follows the head is padding.
                    Ok(pool) => {
                        assert!(frame < 2 && byte >= 48, "frame {frame} byte {byte} bit {bit}");
                        assert_eq!(properties(&pool), 5);
                    }
                }
            }
        }
    }
}

#[test]
fn rot_in_a_rewritten_log_does_not_bring_the_old_one_back() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    for n in 0..40_u8 {
        pool.set_property("p", &[n]).unwrap();
    }
    drop(pool);
    // A log of 128 KiB holds 32 frames, so the second one is in use, and the first is retired.
    assert_eq!(open(&device.after_crash(0)).unwrap().property("p").unwrap(), [39]);
    for frame in 0..3 {
        let rotten = device.after_crash(0);
        flip(&rotten, 1, frame * FRAME + 20, 5);
        let refused = open(&rotten).map(|_| ());
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "frame {frame}: {refused:?}");
    }
}

#[test]
fn a_last_frame_that_both_copies_lack_is_a_torn_tail_and_the_journal_goes_on() {
    let device = with_properties();
    flip(&device, 0, 7 * FRAME + 60, 3);
    let pool = open(&device).unwrap();
    assert_eq!(properties(&pool), 4);
    pool.set_property("p4", b"again").unwrap();
    drop(pool);
    assert_eq!(properties(&open(&device.after_crash(0)).unwrap()), 5);
}

#[test]
fn one_damaged_superblock_copy_is_repaired_and_two_are_an_error() {
    let device = with_properties();
    for copy in [0, ALLOC_UNIT] {
        for bit in 0..512 * 8 {
            let damaged = device.after_crash(0);
            damaged.flip_bit(copy + bit / 8, u8::try_from(bit % 8).unwrap());
            // A damaged magic cannot be told from something else in that place.
            match open(&damaged) {
                Ok(pool) => assert_eq!(properties(&pool), 5),
                Err(error) => panic!("copy at {copy}, bit {bit}: {error}"),
            }
            let mut copies = [IoBuf::zeroed(IO_ALIGN), IoBuf::zeroed(IO_ALIGN)];
            damaged.read_at(0, &mut copies[0]).unwrap();
            damaged.read_at(ALLOC_UNIT, &mut copies[1]).unwrap();
            assert!(copies[0][..] == copies[1][..], "the damaged copy is written again");
        }
    }
    device.flip_bit(100, 1);
    device.flip_bit(ALLOC_UNIT + 100, 1);
    assert!(matches!(open(&device), Err(Error::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let device = with_properties();
    let mut page = IoBuf::zeroed(IO_ALIGN);
    device.read_at(0, &mut page).unwrap();
    page[8] = 9;
    let crc = crc32c::crc32c(&page[..508]);
    page[508..512].copy_from_slice(&crc.to_le_bytes());
    device.write_durable_at(0, &page).unwrap();
    let refused = open(&device).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Format { found: 9, supported: 1 }), "{refused}");
}

#[test]
fn a_journal_whose_state_does_not_fit_is_full_and_unharmed() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let id = pool.create_mdc(ALLOC_UNIT).unwrap();
    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
    assert_eq!(mdc.log_bytes(), ALLOC_UNIT);
    let big = vec![7; 20_000];
    let append = |record: &[u8]| mdc.append(record, MdcRoom::Usual, || ());
    append(&big).unwrap();
    append(&big).unwrap();
    let used = mdc.used_bytes();
    let full = || {
        let refused = mdc.append(&big, MdcRoom::Usual, || panic!("it is not there")).unwrap_err();
        assert!(matches!(refused, Error::Full { .. }), "{refused}");
        assert_eq!(mdc.used_bytes(), used);
    };
    // Without a state, and with one.
    full();
    let state = vec![big.clone(), big.clone()];
    let snapshot = move || {
        let state = state.clone();
        Box::new(move || state) as MdcSnapshot
    };
    mdc.compact_in_background(Arc::new(snapshot)).unwrap();
    full();
    append(b"small").unwrap();
    drop(mdc);
    let mut lens = Vec::new();
    pool.open_mdc(id, &mut |record| {
        lens.push(record.len());
        Ok(())
    })
    .unwrap();
    assert_eq!(lens, [20_000, 20_000, 5]);
}

#[test]
fn a_full_disk_refuses_objects_and_keeps_the_rest() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = create(&device);
    let mblock = pool.commit(vec![written(&pool, 1)], &[]).unwrap().remove(0);
    let len = device.geometry().len_bytes;
    device.set_faults(faults(|f| f.enospc_after_bytes = Some(len)));
    let full = pool.allocate(ALLOC_UNIT, Priority::Flush).map(|_| ()).unwrap_err();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert_eq!(full.scope(), Scope::Call);
    pool.set_property("still", b"writable").unwrap();
    let id = mblock.id();
    drop(mblock);
    pool.commit(vec![], &[id]).unwrap();
    pool.commit(vec![written(&pool, 2)], &[]).unwrap();
}

/// Its code has a bug that shows while it is armed.
struct Buggy {
    inner: SimDevice,
    armed: AtomicBool,
}

impl Device for Buggy {
    fn geometry(&self) -> mpool::Geometry {
        self.inner.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        assert!(!self.armed.load(Ordering::SeqCst), "on purpose: a bug on a queue thread");
        self.inner.write_at(offset, buf)
    }
    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_durable_at(offset, buf)
    }
    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.grow(len_bytes)
    }
    fn file(&self) -> Option<&File> {
        None
    }
    fn kind(&self) -> &'static str {
        "buggy"
    }
}

/// A queue thread that panicked under a write went on with the next; the writer waited for ever.
#[test]
fn a_panic_on_a_queue_thread_fails_the_write_it_happened_under() {
    let inner = SimDevice::new(DEVICE_BYTES);
    let device = Arc::new(Buggy { inner, armed: AtomicBool::new(false) });
    let pool = Pool::create(Arc::clone(&device) as Arc<dyn Device>, &options()).unwrap();
    let writer = written(&pool, 1);
    device.armed.store(true, Ordering::SeqCst);
    let failed = pool.commit(vec![writer], &[]).map(|_| ()).unwrap_err();
    let Error::Io { op: "write", source, .. } = &failed else { panic!("{failed}") };
    assert!(source.to_string().contains("a fault of this program"), "{source}");
    device.armed.store(false, Ordering::SeqCst);
    pool.commit(vec![written(&pool, 2)], &[]).unwrap();
}
