//! Every log is kept twice: what one copy has lost the other one gives back, at every place, and
//! the open says so. What both have lost is told as ever (`faults`).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use mpool::{
    ALLOC_UNIT, CheckOptions, Device, Error, IO_ALIGN, IoBackend, IoBuf, MdcId, MdcRoom, Options,
    Pool, Severity,
};
use mpool_sim::{Faults, SimDevice};
use std::sync::Arc;

const DEVICE_BYTES: u64 = 4 << 20;
/// Superblock copies, then the two logs of the pool's journal, each of two copies.
const JOURNAL_AT: u64 = 2 * ALLOC_UNIT;
const LOG_BYTES: u64 = 2 * ALLOC_UNIT;
const PAGE: u64 = IO_ALIGN as u64;

fn options() -> Options {
    Options { io: IoBackend::Threads, queue_depth: 2, background: false, ..Options::default() }
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

fn healed(pool: &Pool) -> u64 {
    metric(pool, "mpool_mdc_healed_total")
}

fn page(device: &SimDevice, at: u64) -> Vec<u8> {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    device.read_at(at, &mut page).unwrap();
    page.to_vec()
}

/// Where copy `copy` of log `log` of the pool's journal begins.
fn copy_at(log: u64, copy: u64) -> u64 {
    JOURNAL_AT + (2 * log + copy) * LOG_BYTES
}

/// A killed pool whose journal has been rewritten `rewrites` times, and how far its log is full.
fn killed(rewrites: u64) -> (SimDevice, u64) {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    for n in 0..rewrites {
        while metric(&pool, "mpool_mdc_checkpoints_total") <= n {
            pool.set_property("filler", &[7; 1000]).unwrap();
        }
    }
    for n in 0..5_u8 {
        pool.set_property(&format!("p{n}"), &[n; 1000]).unwrap();
    }
    let used = pool.info().journal_used_bytes;
    drop(pool);
    (device.after_kill(1), used)
}

fn check_properties(pool: &Pool, at: &str) {
    for n in 0..5_u8 {
        assert_eq!(pool.property(&format!("p{n}")), Some(vec![n; 1000]), "{at}: p{n}");
    }
}

/// One flipped bit in the last frame passed for a torn tail: what it had made was gone.
#[test]
fn every_page_of_either_copy_may_rot_and_nothing_is_lost() {
    for rewrites in [0, 1, 2] {
        let (device, used) = killed(rewrites);
        let active = rewrites % 2;
        for (copy, at) in
            [0, 1].into_iter().flat_map(|c| (0..used / PAGE).map(move |p| (c, p * PAGE)))
        {
            for byte in [0, 20, 60, 4095] {
                let what = format!("{rewrites} rewritings, copy {copy}, byte {byte} at {at}");
                let rotten = device.after_kill(0);
                rotten.flip_bit(copy_at(active, copy) + at + byte, 3);
                let pool = open(&rotten).unwrap_or_else(|error| panic!("{what}: {error}"));
                check_properties(&pool, &what);
                assert_eq!(healed(&pool), 1, "{what}");
                let both = [0, 1].map(|n| page(&rotten, copy_at(active, n) + at));
                assert!(both[0] == both[1], "{what}: both are alike again");
                pool.set_property("p5", b"goes on").unwrap();
                drop(pool);
                let pool = open(&rotten.after_crash(0)).unwrap();
                assert_eq!((healed(&pool), pool.property("p5")), (0, Some(b"goes on".to_vec())));
            }
        }
    }
}

#[test]
fn a_whole_copy_may_be_gone_or_unreadable() {
    let (device, used) = killed(1);
    for copy in [0, 1] {
        let at = copy_at(1, copy);
        let unreadable = Faults { unreadable: Some((at, at + LOG_BYTES)), ..Faults::default() };
        device.set_faults(unreadable);
        let pool = open(&device).unwrap();
        check_properties(&pool, "unreadable");
        // The frames, and what may be hidden behind them.
        assert!(healed(&pool) > used / PAGE / 2, "{} frames", healed(&pool));
        drop(pool);
        device.set_faults(Faults::default());
        check_properties(&open(&device.after_crash(0)).unwrap(), "readable again");
        let gone = device.after_crash(0);
        let mut zeros = IoBuf::zeroed(usize::try_from(LOG_BYTES).unwrap());
        zeros.fill(0);
        gone.write_durable_at(at, &zeros).unwrap();
        check_properties(&open(&gone).unwrap(), "gone");
    }
}

#[test]
fn what_both_copies_lack_is_rot_but_for_the_last_frame() {
    let (device, used) = killed(0);
    let pages = used / PAGE;
    for at in 0..pages {
        let rotten = device.after_kill(0);
        for copy in [0, 1] {
            rotten.flip_bit(copy_at(0, copy) + at * PAGE + 20, 3);
        }
        match open(&rotten) {
            Err(Error::Corrupt { what, .. }) => assert_eq!(what, "pool journal"),
            Err(error) => panic!("page {at}: {error}"),
            Ok(pool) => {
                assert_eq!(at, pages - 1, "the last frame alone may be a torn append");
                assert_eq!(pool.property("p4"), None);
            }
        }
    }
    // Damage of different frames in different copies is none.
    let rotten = device.after_kill(0);
    for at in 0..pages {
        rotten.flip_bit(copy_at(0, at % 2) + at * PAGE + 20, 3);
    }
    let pool = open(&rotten).unwrap();
    check_properties(&pool, "alternating");
    assert_eq!(healed(&pool), pages);
}

#[test]
fn a_check_and_a_read_only_open_use_the_good_copy_and_write_nothing() {
    let (device, used) = killed(0);
    for (copy, part) in [(0, "copy 1 of log A"), (1, "copy 2 of log A")] {
        let rotten = device.after_kill(0);
        rotten.flip_bit(copy_at(0, copy) + used - PAGE + 60, 3);
        let before = page(&rotten, copy_at(0, copy) + used - PAGE);
        let options = Options { read_only: true, ..options() };
        let pool = Pool::open(Arc::new(rotten.clone()), &options).unwrap();
        check_properties(&pool, part);
        assert_eq!(healed(&pool), 0, "nothing was healed on the medium");
        drop(pool);
        for _ in 0..2 {
            let root = Arc::new(rotten.clone());
            let report = Pool::check_on(root, &[], CheckOptions::default()).unwrap();
            assert_eq!(report.issues.len(), 1, "{:?}", report.issues);
            assert_eq!(report.worst(), Some(Severity::Warning));
            let text = report.issues[0].to_string();
            assert!(text.contains(&format!("pool journal: {part}, 4096 bytes")), "{text}");
            assert!(text.contains("the next start writes this copy again"), "{text}");
        }
        assert!(page(&rotten, copy_at(0, copy) + used - PAGE) == before, "nothing was written");
        drop(open(&rotten).unwrap());
        let report = Pool::check_on(Arc::new(rotten), &[], CheckOptions::default()).unwrap();
        assert_eq!(report.issues, []);
    }
}

/// A frame of many pages, each copy of which has a bit or a page of its own that is bad.
#[test]
fn both_copies_of_a_frame_may_rot_in_different_places() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let id = pool.create_mdc(ALLOC_UNIT).unwrap();
    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
    mdc.append(&vec![5; 30_000], MdcRoom::Usual, || ()).unwrap();
    drop((mdc, pool));
    let mark = page(&device, JOURNAL_AT)[..8].to_vec();
    let begins: Vec<u64> = (JOURNAL_AT + 4 * LOG_BYTES..device.geometry().len_bytes)
        .step_by(usize::try_from(ALLOC_UNIT).unwrap())
        .filter(|at| page(&device, *at)[..8] == mark[..])
        .collect();
    // Behind begin and end; the record's frame has 8 pages.
    let frame = 2 * PAGE;
    for (first, second) in [(20, 7 * PAGE), (3 * PAGE, 30), (PAGE, 2 * PAGE), (20, 600)] {
        let rotten = device.after_kill(0);
        rotten.flip_bit(begins[0] + frame + first, 2);
        rotten.flip_bit(begins[1] + frame + second, 5);
        let pool = open(&rotten).unwrap();
        let mut found = Vec::new();
        let replay = &mut |record: &[u8]| {
            found.push(record.to_vec());
            Ok(())
        };
        let mdc = pool.open_mdc(MdcId::new(id.get()).unwrap(), replay).unwrap();
        drop(mdc);
        assert!(found == [vec![5; 30_000]], "{first} and {second}");
        assert_eq!(healed(&pool), 2, "both are written again");
        for n in 0..8 {
            let both = [0, 1].map(|copy| page(&rotten, begins[copy] + frame + n * PAGE));
            assert!(both[0] == both[1], "{first} and {second}: page {n}");
        }
    }
}

/// The same of a journal of the pool's user: its first frames, one that is several pages long, and
/// its last one.
#[test]
fn a_users_journal_is_kept_twice_too() {
    let device = SimDevice::new(DEVICE_BYTES);
    let pool = Pool::create(Arc::new(device.clone()), &options()).unwrap();
    let id = pool.create_mdc(ALLOC_UNIT).unwrap();
    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
    assert_eq!(mdc.log_bytes(), ALLOC_UNIT, "what its user sees");
    let lens = [10, 9000, 100, 12];
    for len in lens {
        mdc.append(&vec![9; len], MdcRoom::Usual, || ()).unwrap();
    }
    let used = mdc.used_bytes();
    drop((mdc, pool));
    // Logs lie where the first of their frames is.
    let mark = page(&device, JOURNAL_AT)[..8].to_vec();
    let begins: Vec<u64> = (JOURNAL_AT + 4 * LOG_BYTES..device.geometry().len_bytes)
        .step_by(usize::try_from(ALLOC_UNIT).unwrap())
        .filter(|at| page(&device, *at)[..8] == mark[..])
        .collect();
    assert_eq!(begins.len(), 2, "two copies of the log that counts");
    for begin in begins {
        for at in (0..used).step_by(IO_ALIGN) {
            let rotten = device.after_kill(0);
            rotten.flip_bit(begin + at + 30, 2);
            let pool = open(&rotten).unwrap();
            assert_eq!(healed(&pool), 0);
            let mut found = Vec::new();
            let id = MdcId::new(id.get()).unwrap();
            let mdc = pool.open_mdc(id, &mut |record| {
                found.push(record.len());
                Ok(())
            });
            mdc.unwrap().append(b"on", MdcRoom::Usual, || ()).unwrap();
            assert_eq!((&found[..], healed(&pool)), (&lens[..], 1), "at {at}");
        }
    }
}
