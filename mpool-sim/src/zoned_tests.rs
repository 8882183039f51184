//! The simulated device with zones: by the suite, and what only crashes show.

use super::{
    Faults, SimDevice, ZoneFault, ZoneFaults, ZoneHarm, suite::page_of, zoned_suite::check_zoned,
};
use ZoneCondition::{Closed, Empty, Full};
use mpool_device::{Device, IO_ALIGN, ZoneCondition, ZoneHabits, ZoneLimits, Zoned};
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
        assert_eq!(check_zoned(&(Arc::new(device) as Arc<dyn Device>), None), [""; 0]);
    }
    let bare = limits(0);
    let bare = ZoneLimits { open_max: 0, active_max: 0, ..bare };
    let device: Arc<dyn Device> = Arc::new(SimDevice::zoned(bare));
    assert_eq!(check_zoned(&device, None).len(), 3, "what it does not have is not checked");
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

#[test]
fn the_suite_finds_a_device_that_breaks_a_rule() {
    // Planted: a drive that refuses the last block of its zones, as if they were smaller.
    let device = sim();
    let fault = ZoneFault { after: 6, errno: libc::EIO, harm: ZoneHarm::MovesPointer };
    let zones = ZoneFaults { append: Some(fault), verb: None };
    device.set_faults(Faults { zones, ..Faults::default() });
    let device: Arc<dyn Device> = Arc::new(device);
    let broken = std::panic::catch_unwind(AssertUnwindSafe(|| check_zoned(&device, None)));
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
