//! The devices of tests that have zones: by the suite, and what only crashes and faults show.

use super::{
    Faults, SimDevice, ZoneFault, ZoneFaults, ZoneHarm,
    suite::{check_zoned, page_of},
    zoned_suite::errno_of,
};
use crate::{
    Device, IO_ALIGN, ZoneCondition, ZoneHabits, ZoneLimits, Zoned,
    device::{Allow, EmulatedOptions, EmulatedZoned, ResetFate},
};
use ZoneCondition::{Closed, Empty, Full};
use std::{
    collections::{BTreeSet, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

const PAGE: u64 = IO_ALIGN as u64;

fn limits(conventional_zones: u32) -> ZoneLimits {
    ZoneLimits {
        zones: 16,
        zone_bytes: 64 * PAGE,
        conventional_zones,
        open_max: 4,
        active_max: 6,
        append_bytes_max: 8 * IO_ALIGN,
        block_bytes: 4096,
    }
}

fn sim() -> SimDevice {
    SimDevice::zoned_with_capacity(limits(2), 40 * PAGE)
}

const ANY: Allow = Allow { buffered: true, volatile: true };

fn emulated(dir: &tempfile::TempDir) -> EmulatedZoned {
    let options = EmulatedOptions { limits: limits(2), capacity: 40 * PAGE, allow: ANY };
    EmulatedZoned::create(&dir.path().join("zoned"), &options).unwrap()
}

fn habits() -> [ZoneHabits; 2] {
    let strange =
        ZoneHabits { forgets_unwritten: true, sticks_after_failure: true, ..ZoneHabits::default() };
    [ZoneHabits::default(), strange]
}

#[test]
fn the_simulated_device_keeps_the_rules() {
    for habits in habits() {
        let device = sim();
        device.set_zone_habits(habits);
        assert_eq!(check_zoned(&(Arc::new(device) as Arc<dyn Device>)), [""; 0]);
    }
    let bare = limits(0);
    let bare = ZoneLimits { open_max: 0, active_max: 0, ..bare };
    let device: Arc<dyn Device> = Arc::new(SimDevice::zoned(bare));
    assert_eq!(check_zoned(&device).len(), 3, "what it does not have is not checked");
}

#[test]
fn the_emulated_device_keeps_the_rules() {
    for habits in habits() {
        let dir = tempfile::tempdir().unwrap();
        let device = Arc::new(emulated(&dir));
        device.set_zone_habits(habits);
        let checked = Arc::clone(&device) as Arc<dyn Device>;
        assert_eq!(check_zoned(&checked), [""; 0]);
        assert_eq!(device.early_cached_pages(), 0, "the suite reads past the page cache");
    }
}

#[test]
fn what_was_flushed_survives_every_crash_and_the_write_pointer_lies_between() {
    let device = sim();
    device.append(3, &page_of(1, 2)).unwrap();
    device.flush().unwrap();
    device.append(3, &page_of(2, 4)).unwrap();
    let mut seen = BTreeSet::new();
    let mut holes = 0;
    for seed in 0..64 {
        let after = device.after_crash(seed);
        let zone = after.report(3, 1).unwrap()[0];
        assert_eq!(zone.condition, Closed);
        assert!((2 * PAGE..=6 * PAGE).contains(&zone.written), "{zone:?}");
        seen.insert(zone.written / PAGE);
        let mut found = page_of(0, 6);
        after.read_at(zone.start, &mut found).unwrap();
        assert_eq!(found[..2 * IO_ALIGN], page_of(1, 2)[..], "rule 2: flushed");
        for page in (2..6).map(|n| &found[n * IO_ALIGN..][..IO_ALIGN]) {
            let whole = page.iter().all(|b| *b == 2);
            assert!(whole || page.iter().any(|b| *b != 0), "a block is whole, or noise");
            holes += u32::from(!whole);
        }
        assert_eq!(after.append(3, &page_of(3, 1)).unwrap(), zone.start + zone.written);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5, 6], "all are drawn");
    assert!(holes > 0, "and so are holes");
}

#[test]
fn resets_and_finishes_are_durable_at_once_and_either_way_at_the_cut() {
    let device = sim();
    for zone in [3, 4] {
        device.append(zone, &page_of(1, 2)).unwrap();
    }
    device.flush().unwrap();
    device.reset(3).unwrap();
    device.finish(4).unwrap();
    for seed in 0..8 {
        let after = device.after_crash(seed);
        let seen: Vec<_> = after.report(3, 2).unwrap().iter().map(|z| z.condition).collect();
        assert_eq!(seen, [Empty, Full]);
    }
    device.cut_at(device.calls());
    device.reset(4).unwrap_err();
    assert!(device.append(5, &page_of(1, 1)).is_err(), "nothing works after the cut");
    for remains in [SimDevice::after_crash, SimDevice::after_kill] {
        let outcomes: HashSet<_> =
            (0..32).map(|seed| remains(&device, seed).report(4, 1).unwrap()[0].condition).collect();
        assert_eq!(outcomes, [Empty, Full].into(), "the call in flight: done or not");
    }
}

#[test]
fn a_killed_process_leaves_its_zones_as_they_were() {
    let device = sim();
    device.append(3, &page_of(1, 2)).unwrap();
    device.cut_at(device.calls());
    device.append(3, &page_of(2, 2)).unwrap_err();
    let mut pointers = BTreeSet::new();
    for seed in 0..32 {
        let found = device.after_kill(seed);
        let zone = found.report(3, 1).unwrap()[0];
        assert_eq!(zone.condition, ZoneCondition::ImplicitOpen, "the power stayed");
        pointers.insert(zone.written / PAGE);
        let mut page = page_of(0, 2);
        found.read_at(zone.start, &mut page).unwrap();
        assert!(page[..] == page_of(1, 2)[..]);
        let lost = found.after_crash(seed).report(3, 1).unwrap()[0];
        assert!(lost.written <= zone.written, "and is still at the mercy of a power cut");
    }
    assert_eq!(pointers.into_iter().collect::<Vec<_>>(), [2, 4]);
}

/// Both devices of tests, by what they share.
fn with_faults(check: impl Fn(&dyn Device, &dyn Fn(ZoneFaults))) {
    let device = sim();
    check(&device, &|zones| device.set_faults(Faults { zones, ..Faults::default() }));
    let dir = tempfile::tempdir().unwrap();
    let device = emulated(&dir);
    check(&device, &|faults| device.set_zone_faults(faults));
}

#[test]
fn faults_strike_when_and_as_they_are_told_to() {
    with_faults(|device, set| {
        let zones = device.zones().unwrap();
        let fault = |after, errno, harm| Some(ZoneFault { after, errno, harm });
        let append = fault(1, libc::EIO, ZoneHarm::MovesPointer);
        let verb = fault(0, libc::ENODEV, ZoneHarm::ReadOnly);
        set(ZoneFaults { append, verb });
        zones.append(3, &page_of(1, 1)).unwrap();
        assert_eq!(errno_of(zones.append(3, &page_of(1, 2))), Some(libc::EIO));
        assert_eq!(zones.report(3, 1).unwrap()[0].written, 3 * PAGE, "the pointer has moved");
        zones.append(3, &page_of(4, 1)).unwrap();
        assert_eq!(errno_of(zones.reset(3)), Some(libc::ENODEV));
        assert_eq!(zones.report(3, 1).unwrap()[0].condition, ZoneCondition::ReadOnly);
        assert_eq!(errno_of(zones.append(3, &page_of(1, 1))), Some(libc::EIO));
        assert_eq!(errno_of(zones.reset(3)), Some(libc::EIO));
        let mut page = page_of(0, 1);
        device.read_at(3 * 64 * PAGE + 3 * PAGE, &mut page).unwrap();
        assert!(page[..] == page_of(4, 1)[..], "a worn zone can be read");
        set(ZoneFaults { append: fault(0, libc::EIO, ZoneHarm::Offline), verb: None });
        assert!(zones.append(4, &page_of(1, 1)).is_err());
        assert_eq!(errno_of(device.read_at(4 * 64 * PAGE, &mut page)), Some(libc::EIO));
    });
}

#[test]
fn a_reset_zone_reads_as_noise_and_never_as_before() {
    with_faults(|device, _| {
        let zones = device.zones().unwrap();
        let at = zones.append(5, &page_of(7, 2)).unwrap();
        let mut page = page_of(0, 1);
        device.read_at(at + 2 * PAGE, &mut page).unwrap();
        assert!(page.iter().any(|b| *b != 0), "beyond the write pointer there are no zeros");
        zones.reset(5).unwrap();
        let mut read = || {
            device.read_at(at, &mut page).unwrap();
            page.to_vec()
        };
        let after = read();
        assert!(after.iter().any(|b| *b != 0));
        assert_ne!(after[..], page_of(7, 1)[..]);
        zones.append(5, &page_of(8, 1)).unwrap();
        zones.reset(5).unwrap();
        assert_ne!(read(), after, "another noise after another reset");
    });
}

#[test]
fn an_emulated_volume_is_found_again_as_it_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let device = emulated(&dir);
    let path = device.path().to_owned();
    device.write_durable_at(3 * PAGE, &page_of(9, 1)).unwrap();
    device.append(3, &page_of(1, 4)).unwrap();
    for _ in 0..5 {
        device.append(4, &page_of(2, 8)).unwrap();
    }
    device.set_reset_fate(6, ResetFate::Capacity(20 * PAGE));
    device.reset(6).unwrap();
    device.wear_zone(7, ZoneCondition::Offline);
    device.flush().unwrap();
    device.append(3, &page_of(3, 4)).unwrap();
    device.finish(5).unwrap();
    let second = EmulatedZoned::open(&path, ANY).unwrap_err();
    assert!(matches!(second, crate::Error::InUse { .. }), "{second}");
    drop(device);
    let again = EmulatedZoned::open(&path, ANY).unwrap();
    let report = again.report(3, 4).unwrap();
    let seen: Vec<_> =
        report.iter().map(|z| (z.condition, z.written / PAGE, z.capacity / PAGE)).collect();
    assert_eq!(seen, [(Closed, 4, 40), (Full, 40, 40), (Full, 40, 40), (Empty, 0, 20)]);
    let mut page = page_of(0, 1);
    again.read_at(3 * PAGE, &mut page).unwrap();
    assert!(page[..] == page_of(9, 1)[..]);
    again.read_at(report[0].start + 3 * PAGE, &mut page).unwrap();
    assert!(page[..] == page_of(1, 1)[..]);
    let taken = EmulatedZoned::create(
        &path,
        &EmulatedOptions { limits: limits(0), capacity: PAGE, allow: ANY },
    );
    assert!(taken.unwrap_err().to_string().contains("exists already"));
}

#[test]
fn a_damaged_zone_table_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = emulated(&dir).path().to_owned();
    let table = dir.path().join("zoned.zones");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[512 + 3 * 64] ^= 1;
    std::fs::write(&table, &bytes).unwrap();
    let error = EmulatedZoned::open(&path, ANY).unwrap_err();
    assert!(matches!(error, crate::Error::Corrupt { offset: 704, .. }), "{error}");
    std::fs::write(&table, &bytes[..700]).unwrap();
    assert!(matches!(
        EmulatedZoned::open(&path, ANY),
        Err(crate::Error::Corrupt { offset: 700, .. })
    ));
}

#[test]
fn a_failed_flush_poisons_an_emulated_volume() {
    let dir = tempfile::tempdir().unwrap();
    let device = emulated(&dir);
    let at = device.append(3, &page_of(1, 1)).unwrap();
    device.fail_next_flush();
    assert!(device.flush().is_err());
    assert!(device.flush().is_err(), "a second flush is no cure");
    assert!(device.append(3, &page_of(1, 1)).is_err());
    assert!(device.reset(3).is_err());
    let mut page = page_of(0, 1);
    device.read_at(at, &mut page).unwrap();
    assert_eq!(page[0], 1, "reads go on");
}

#[test]
fn an_emulated_power_cut_keeps_the_flushed_and_any_part_of_the_rest() {
    let mut kept = BTreeSet::new();
    for seed in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        let device = emulated(&dir);
        device.append(3, &page_of(1, 2)).unwrap();
        device.flush().unwrap();
        device.append(3, &page_of(2, 4)).unwrap();
        device.append(4, &page_of(2, 1)).unwrap();
        device.finish(4).unwrap();
        device.lose_power(seed).unwrap();
        let report = device.report(3, 2).unwrap();
        kept.insert(report[0].written / PAGE);
        assert_eq!(report[1].condition, Full, "a finish is durable");
        let mut page = page_of(0, 2);
        device.read_at(report[0].start, &mut page).unwrap();
        assert!(page[..] == page_of(1, 2)[..], "rule 2: flushed");
    }
    assert!(kept.len() >= 4 && kept.iter().all(|n| (2..=6).contains(n)), "{kept:?}");
}

/// The trap of real drives: a page cached before it is written may keep its old bytes.
#[test]
fn pages_cached_before_they_are_written_are_noticed() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let device = emulated(&dir);
    let counted = {
        let file = tempfile::tempfile_in(dir.path()).unwrap();
        crate::sys::cachestat::cached_pages(&file, 0, PAGE).is_ok()
    };
    if device.volume_is_buffered() || !counted {
        return;
    }
    let at = device.append(3, &page_of(1, 1)).unwrap();
    let cached = std::fs::File::open(device.path()).unwrap();
    let mut page = page_of(0, 1);
    cached.read_exact_at(&mut page, at).unwrap();
    assert_eq!(page[0], 1);
    assert_eq!(device.early_cached_pages(), 0, "it was written before it was cached");
    cached.read_exact_at(&mut page, at + 4 * PAGE).unwrap();
    device.append(3, &page_of(2, 8)).unwrap();
    assert!(device.early_cached_pages() > 0, "it was cached before it was written");
}

#[test]
fn the_suite_finds_a_device_that_breaks_a_rule() {
    // Planted: a drive that refuses the last block of its zones, as if they were smaller.
    let device = sim();
    let fault = ZoneFault { after: 6, errno: libc::EIO, harm: ZoneHarm::MovesPointer };
    let zones = ZoneFaults { append: Some(fault), verb: None };
    device.set_faults(Faults { zones, ..Faults::default() });
    let device: Arc<dyn Device> = Arc::new(device);
    let broken = std::panic::catch_unwind(AssertUnwindSafe(|| check_zoned(&device)));
    assert!(broken.is_err());
}

#[test]
fn concurrent_appends_come_in_any_order() {
    let device = sim();
    let mut orders = BTreeSet::new();
    for _ in 0..64 {
        std::thread::scope(|scope| {
            let inside = device.shuffle.enter();
            for (arrival, byte) in [(1, 0), (2, 1)] {
                let device = &device;
                scope.spawn(move || device.append(3, &page_of(byte, 1)).unwrap());
                while device.shuffle.waiting() < arrival {
                    std::thread::yield_now();
                }
            }
            drop(inside);
        });
        let mut page = page_of(9, 1);
        device.read_at(3 * 64 * PAGE, &mut page).unwrap();
        orders.insert(page[0]);
        device.reset(3).unwrap();
    }
    assert_eq!(orders.len(), 2, "neither the first nor the second always wins");
}
