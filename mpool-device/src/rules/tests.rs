//! The table of zones, verb by verb and budget by budget.

use super::*;
use ZoneCondition::{Closed, Conventional, Empty, ExplicitOpen, Full, ImplicitOpen};

const BLOCK: u64 = 4096;

fn limits() -> ZoneLimits {
    ZoneLimits {
        zones: 16,
        zone_bytes: 8 * BLOCK,
        conventional_zones: 2,
        open_max: 3,
        active_max: 5,
        append_bytes_max: 1 << 17,
        block_bytes: 4096,
    }
}

fn table() -> ZoneTable {
    ZoneTable::new(limits(), 6 * BLOCK)
}

/// A table whose zone 5 is in `condition`, and nothing else is used.
fn with_zone_in(condition: ZoneCondition) -> ZoneTable {
    let mut table = table();
    match condition {
        Empty => {}
        ImplicitOpen => drop(table.append(5, BLOCK).unwrap()),
        ExplicitOpen => table.open(5).unwrap(),
        Closed => {
            table.append(5, BLOCK).unwrap();
            table.close(5).unwrap();
        }
        Full => drop(table.append(5, 6 * BLOCK).unwrap()),
        other => table.zone_mut(5).condition = other,
    }
    assert_eq!(table.zone(5).condition, condition);
    table
}

#[test]
fn every_verb_in_every_condition_does_what_the_picture_says() {
    use Refusal::{BadTransition, NoRoom, Offline, ReadOnly};
    type After = Result<ZoneCondition, Refusal>;
    let bad: After = Err(BadTransition);
    let dead = |why: Refusal| [Err(why), bad, bad, bad, bad];
    let rows: [(ZoneCondition, [After; 5]); 8] = [
        (Empty, [Ok(ImplicitOpen), Ok(ExplicitOpen), bad, Ok(Full), Ok(Empty)]),
        (ImplicitOpen, [Ok(ImplicitOpen), Ok(ExplicitOpen), Ok(Closed), Ok(Full), Ok(Empty)]),
        (ExplicitOpen, [Ok(ExplicitOpen), Ok(ExplicitOpen), Ok(Closed), Ok(Full), Ok(Empty)]),
        (Closed, [Ok(ImplicitOpen), Ok(ExplicitOpen), Ok(Closed), Ok(Full), Ok(Empty)]),
        (Full, [Err(NoRoom), bad, bad, Ok(Full), Ok(Empty)]),
        (ZoneCondition::ReadOnly, dead(ReadOnly)),
        (ZoneCondition::Offline, dead(Offline)),
        (Conventional, dead(BadTransition)),
    ];
    for (from, expected) in rows {
        let mut seen = Vec::new();
        for verb in 0..5 {
            let mut table = with_zone_in(from);
            let outcome = match verb {
                0 => table.append(5, BLOCK).map(drop),
                1 => table.open(5),
                2 => table.close(5),
                3 => table.finish(5),
                _ => table.reset(5),
            };
            if outcome.is_err() {
                assert_eq!(table.zone(5), with_zone_in(from).zone(5), "refused: unchanged");
            }
            seen.push(outcome.map(|()| table.zone(5).condition));
        }
        assert_eq!(seen, expected, "from {from:?}");
    }
}

#[test]
fn the_oldest_implicitly_open_zone_makes_room() {
    let mut table = table();
    for zone in [4, 3, 2] {
        table.append(zone, BLOCK).unwrap();
    }
    table.open(4).unwrap();
    table.append(5, BLOCK).unwrap();
    let now = |table: &ZoneTable| (2..6).map(|zone| table.zone(zone).condition).collect::<Vec<_>>();
    assert_eq!(now(&table), [ImplicitOpen, Closed, ExplicitOpen, ImplicitOpen]);
}

#[test]
fn only_explicitly_open_zones_exhaust_the_open_budget() {
    let mut table = table();
    for zone in 2..5 {
        table.open(zone).unwrap();
    }
    assert_eq!(table.open(5), Err(Refusal::TooManyOpen));
    assert_eq!(table.append(5, BLOCK), Err(Refusal::TooManyOpen));
    table.close(2).unwrap();
    table.append(5, BLOCK).unwrap();
    table.habits.closes_for_room = false;
    assert_eq!(table.append(6, BLOCK), Err(Refusal::TooManyOpen), "a strict drive");
}

#[test]
fn active_zones_are_bounded_and_the_refused_one_costs_a_place_among_the_open() {
    let mut table = table();
    for zone in 2..7 {
        table.append(zone, BLOCK).unwrap();
    }
    let open = |table: &ZoneTable| table.iter().filter(|(_, z)| z.condition.is_open()).count();
    assert_eq!(open(&table), 3);
    assert_eq!(table.append(7, BLOCK), Err(Refusal::TooManyActive));
    assert_eq!(open(&table), 2, "one was closed in vain");
    assert_eq!(table.zone(7).condition, Empty);
    table.finish(2).unwrap();
    table.append(7, BLOCK).unwrap();
    assert_eq!(io::Error::from(Refusal::TooManyActive).raw_os_error(), Some(libc::EOVERFLOW));
    assert_eq!(io::Error::from(Refusal::TooManyOpen).raw_os_error(), Some(libc::ETOOMANYREFS));
    assert_eq!(io::Error::from(Refusal::NoRoom).raw_os_error(), Some(libc::EIO));
}

#[test]
fn an_append_fits_under_the_capacity_or_changes_nothing() {
    let mut table = table();
    assert_eq!(table.append(2, 4 * BLOCK), Ok(0));
    assert_eq!(table.append(2, 3 * BLOCK), Err(Refusal::NoRoom));
    assert_eq!(table.append(2, 2 * BLOCK), Ok(4 * BLOCK));
    let report = table.report(2, 1)[0];
    assert_eq!((report.condition, report.written), (Full, 6 * BLOCK));
    assert_eq!(table.report(15, 9).len(), 1, "a report ends with the device");
}

#[test]
fn drives_differ_where_they_may() {
    let mut table = table();
    table.habits = ZoneHabits {
        forgets_unwritten: true,
        finish_needs_room: true,
        sticks_after_failure: true,
        ..ZoneHabits::default()
    };
    table.open(2).unwrap();
    table.close(2).unwrap();
    assert_eq!(table.zone(2).condition, Empty);
    for zone in 2..5 {
        table.open(zone).unwrap();
    }
    assert_eq!(table.finish(5), Err(Refusal::TooManyOpen));
    table.append(2, BLOCK).unwrap();
    table.append_failed(2);
    assert_eq!(table.append(2, BLOCK), Err(Refusal::PointerUnknown));
    table.report(2, 1);
    table.append(2, BLOCK).unwrap();
}

#[test]
fn a_reset_can_change_the_zone() {
    let mut table = table();
    table.append(2, BLOCK).unwrap();
    table.zone_mut(2).fate = Some(ResetFate::Capacity(BLOCK));
    table.reset(2).unwrap();
    assert_eq!((table.zone(2).capacity, table.zone(2).condition), (BLOCK, Empty));
    table.zone_mut(2).fate = Some(ResetFate::Offline);
    table.reset(2).unwrap();
    assert_eq!(table.append(2, BLOCK), Err(Refusal::Offline));
}

#[test]
fn power_leaves_nothing_open() {
    let cases = [
        (ImplicitOpen, BLOCK, Closed),
        (ImplicitOpen, 0, Empty),
        (ExplicitOpen, 0, Empty),
        (Closed, BLOCK, Closed),
        (Full, 6 * BLOCK, Full),
        (Full, 5 * BLOCK, Closed),
        (Full, 0, Empty),
        (ZoneCondition::ReadOnly, 0, ZoneCondition::ReadOnly),
    ];
    for (before, filled, after) in cases {
        let mut table = with_zone_in(before);
        table.power_cycled(5, filled);
        assert_eq!(table.zone(5).condition, after, "{before:?} with {filled}");
    }
    let mut finished = with_zone_in(ImplicitOpen);
    finished.finish(5).unwrap();
    finished.power_cycled(5, BLOCK);
    assert_eq!(finished.zone(5).condition, Full, "a finish is durable");
}

#[test]
fn noise_is_reproducible_and_looks_like_nothing() {
    let page = |salt, offset| {
        let mut page = [0; 4096];
        noise(salt, offset, &mut page);
        page
    };
    assert_eq!(page(1, 4096), page(1, 4096));
    assert_ne!(page(1, 4096), page(1, 8192));
    assert_ne!(page(1, 4096), page(2, 4096));
    assert!(page(1, 0).iter().any(|b| *b != 0));
}
