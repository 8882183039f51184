//! Every crash point of a log in zones: the harness and the simulated device's zones together.
//!
//! The log is the smallest thing that needs all of the rules: it appends, it flushes, and it frees
//! a zone when another one holds what matters. Planted mistakes show that the harness sees them.

use mpool::{Device, IO_ALIGN, IoBuf, ZoneCondition, ZoneLimits, Zoned};
use mpool_sim::{
    SimDevice,
    crash::{CrashPlan, Workload, check_every_crash},
};
use std::io;

const PAGE: u64 = IO_ALIGN as u64;
const MARK: u32 = 0x5A4F_4E45;

/// A counter in zones: each step appends a page with its number. A full zone is left for an empty
/// one, and emptied when the number is safe in the new one.
#[derive(Clone, Copy)]
struct Counter {
    /// Each step is flushed before it is acknowledged.
    flushes: bool,
    /// The old zone is emptied after the flush of the new one.
    frees_late: bool,
    /// Only a page that says that it is one counts.
    checks: bool,
}

const SOUND: Counter = Counter { flushes: true, frees_late: true, checks: true };

struct Open {
    device: SimDevice,
    zone: u32,
    found: u32,
}

fn limits() -> ZoneLimits {
    ZoneLimits {
        zones: 4,
        zone_bytes: 8 * PAGE,
        conventional_zones: 0,
        open_max: 2,
        active_max: 2,
        append_bytes_max: 4 * IO_ALIGN,
        block_bytes: 4096,
    }
}

fn page_of(number: u32) -> IoBuf {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    let words = [MARK, number, MARK ^ number];
    for (chunk, word) in page.chunks_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    page
}

impl Counter {
    fn number_in(self, page: &[u8]) -> Option<u32> {
        let word =
            |at: usize| u32::from_le_bytes(*page[at..].first_chunk().expect("within a page"));
        let number = word(4);
        let valid = word(0) == MARK && word(8) == MARK ^ number;
        (valid || !self.checks).then_some(number)
    }

    /// The highest number in a zone.
    fn highest(self, device: &SimDevice, zone: u32) -> io::Result<Option<u32>> {
        let mut highest = None;
        let report = device.report(zone, 1)?[0];
        let mut page = IoBuf::zeroed(IO_ALIGN);
        for at in (report.start..report.start + report.written).step_by(IO_ALIGN) {
            device.read_at(at, &mut page)?;
            highest = highest.max(self.number_in(&page));
        }
        Ok(highest)
    }

    fn append(self, system: &mut Open, number: u32) -> io::Result<()> {
        let device = &system.device;
        if device.report(system.zone, 1)?[0].condition != ZoneCondition::Full {
            device.append(system.zone, &page_of(number))?;
            return if self.flushes { device.flush() } else { Ok(()) };
        }
        let old = system.zone;
        system.zone = (old + 1) % limits().zones;
        // A crash may have left something there.
        device.reset(system.zone)?;
        if !self.frees_late {
            device.reset(old)?;
        }
        device.append(system.zone, &page_of(number))?;
        device.flush()?;
        if self.frees_late { device.reset(old) } else { Ok(()) }
    }
}

impl Workload for Counter {
    type System = Open;
    type Error = io::Error;

    fn medium(&self, _: CrashPlan) -> SimDevice {
        SimDevice::zoned_with_capacity(limits(), 3 * PAGE)
    }

    fn open(&self, device: &SimDevice) -> io::Result<Open> {
        // What is read from here on must be on the medium.
        device.flush()?;
        let mut best = (None, 0);
        for zone in 0..limits().zones {
            best = best.max((self.highest(device, zone)?, zone));
        }
        let (found, zone) = best;
        Ok(Open { device: device.clone(), zone, found: found.unwrap_or(0) })
    }

    fn step(&self, system: &mut Open, n: u32) -> io::Result<()> {
        self.append(system, n + 1)?;
        system.found = n + 1;
        Ok(())
    }

    fn steps_found(&self, system: &mut Open) -> u32 {
        system.found
    }
}

const PLAN: CrashPlan = CrashPlan { steps: 9, seeds: 16, recovery_seeds: 4, device_bytes: 0 };

#[test]
fn a_sound_log_in_zones_survives_every_crash() {
    // Opening flushes; 9 steps append and flush; two of them reset two zones besides.
    assert_eq!(check_every_crash(&SOUND, PLAN), (1 + 9 * 2 + 2 * 2) * 16);
}

#[test]
#[should_panic(expected = "acknowledged")]
fn a_missing_flush_is_caught() {
    check_every_crash(&Counter { flushes: false, ..SOUND }, PLAN);
}

#[test]
#[should_panic(expected = "acknowledged")]
fn a_zone_emptied_too_early_is_caught() {
    check_every_crash(&Counter { frees_late: false, ..SOUND }, PLAN);
}

#[test]
#[should_panic(expected = "acknowledged")]
fn trust_in_what_lies_before_the_write_pointer_is_caught() {
    check_every_crash(&Counter { checks: false, ..SOUND }, PLAN);
}
