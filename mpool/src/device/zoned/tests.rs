//! The emulated device: by the suite, and what only crashes and faults show.

use super::{
    Allow, EmulatedOptions, EmulatedZoned, ZoneCondition, ZoneLimits, Zoned,
    emulated::Hooks,
    rules::{ZoneTable, noise},
    sidecar::record_of,
    transfer,
};
use crate::{
    device::{Device, ResetFate, ZoneHabits},
    io::appends::AppendRing,
    sys::cachestat::cached_pages,
};
use ZoneCondition::{Closed, Empty, Full};
use mpool_device::IO_ALIGN;
use mpool_sim::{
    Faults, Seeded, SimDevice, ZoneFault, ZoneFaults, ZoneHarm, draw_loss,
    shuffle::Shuffle,
    strikes,
    suite::page_of,
    zoned_suite::{Submit, check_zoned, errno_of},
};
use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const PAGE: u64 = IO_ALIGN as u64;
const ANY: Allow = Allow { buffered: true, volatile: true };

/// What the tests do to the device: faults, wear, a power cut, a watch over the cache.
///
/// The watch finds what a real drive punishes with stale bytes: an append into pages of the file
/// that somebody has cached before, by a map, a buffered read or the read-ahead of either.
#[derive(Default)]
struct Harm {
    faults: Mutex<ComingFaults>,
    shuffle: Shuffle,
    early_pages: AtomicU64,
}

#[derive(Default)]
struct ComingFaults {
    zones: ZoneFaults,
    flush_eio: bool,
}

impl std::fmt::Debug for Harm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Harm")
    }
}

impl Hooks for Harm {
    fn in_turn(&self, place: &mut dyn FnMut()) {
        let _inside = self.shuffle.enter();
        place();
    }

    fn before_append(&self, table: &mut ZoneTable, zone: u32, len: u64) -> io::Result<()> {
        let Some(fault) = strikes(&mut self.faults.lock().zones.append) else { return Ok(()) };
        if fault.harm == ZoneHarm::MovesPointer {
            table.append(zone, len)?;
        }
        wear(table, zone, fault.harm);
        table.append_failed(zone);
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn before_verb(&self, table: &mut ZoneTable, zone: u32) -> io::Result<()> {
        let Some(fault) = strikes(&mut self.faults.lock().zones.verb) else { return Ok(()) };
        wear(table, zone, fault.harm);
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn before_flush(&self) -> io::Result<()> {
        if std::mem::take(&mut self.faults.lock().flush_eio) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// Counts pages that are cached before they are written.
    fn before_write(&self, file: &File, offset: u64, len: u64) {
        // A kernel that cannot count finds nothing.
        self.early_pages.fetch_add(cached_pages(file, offset, len).unwrap_or(0), Relaxed);
    }
}

fn wear(table: &mut ZoneTable, zone: u32, harm: ZoneHarm) {
    match harm {
        ZoneHarm::ReadOnly => table.zone_mut(zone).condition = ZoneCondition::ReadOnly,
        ZoneHarm::Offline => table.zone_mut(zone).condition = ZoneCondition::Offline,
        ZoneHarm::None | ZoneHarm::MovesPointer => {}
    }
}

/// The device, and what is done to it.
struct Emulated {
    device: Arc<EmulatedZoned>,
    hooks: Arc<Harm>,
}

impl Deref for Emulated {
    type Target = EmulatedZoned;

    fn deref(&self) -> &EmulatedZoned {
        &self.device
    }
}

impl Emulated {
    /// Replaces the failures to come of the zones' verbs.
    fn set_zone_faults(&self, faults: ZoneFaults) {
        self.hooks.faults.lock().zones = faults;
    }

    /// The next flush fails, and poisons the device.
    fn fail_next_flush(&self) {
        self.hooks.faults.lock().flush_eio = true;
    }

    /// How the drive behaves where drives differ.
    fn set_zone_habits(&self, habits: ZoneHabits) {
        self.state.lock().table.habits = habits;
    }

    /// The zone wears out, now: [`ZoneCondition::ReadOnly`] or [`ZoneCondition::Offline`].
    fn wear_zone(&self, zone: u32, condition: ZoneCondition) {
        self.state.lock().table.zone_mut(zone).condition = condition;
    }

    /// What the next reset makes of the zone.
    fn set_reset_fate(&self, zone: u32, fate: ResetFate) {
        self.state.lock().table.zone_mut(zone).fate = Some(fate);
    }

    /// Pages that were in the page cache before an append wrote them. On a real drive each could
    /// show its old contents for ever. 0 where the kernel cannot count (before 6.5), and not a
    /// finding where the volume is written through the page cache.
    fn early_cached_pages(&self) -> u64 {
        self.hooks.early_pages.load(Relaxed)
    }

    /// True where the volume is written through the page cache.
    fn volume_is_buffered(&self) -> bool {
        self.volume.is_buffered()
    }

    /// Loses power and gets it back: each sequential zone keeps its write pointer anywhere between
    /// what was flushed and what was appended, and of the blocks between, some become noise.
    /// Conventional zones lose nothing; [`SimDevice`] does that.
    fn lose_power(&self, seed: u64) -> io::Result<()> {
        let sidecar = self.sidecar.lock();
        let mut state = self.state.lock();
        let mut seeded = Seeded::new(seed);
        let mut page = [0; IO_ALIGN];
        let mut records = Vec::new();
        for zone in self.limits().conventional_zones..self.limits().zones {
            let at = zone as usize;
            let before = state.table.zone(zone).clone();
            let (kept, lost) = draw_loss(&before, state.flushed[at], &mut seeded);
            for within in lost {
                let offset = self.start(zone) + within;
                noise(seed, offset, &mut page);
                transfer::write_all(self.data(), offset, &page, ReadWriteFlags::empty())?;
            }
            state.table.power_cycled(zone, kept);
            (state.completed[at], state.flushed[at]) = (kept, kept);
            records.push((zone, record_of(&state.table, zone, kept)));
        }
        self.data().sync_data()?;
        sidecar.write(&records)
    }
}

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

fn habits() -> [ZoneHabits; 2] {
    let strange =
        ZoneHabits { forgets_unwritten: true, sticks_after_failure: true, ..ZoneHabits::default() };
    [ZoneHabits::default(), strange]
}

fn emulated(dir: &tempfile::TempDir) -> Emulated {
    let options = EmulatedOptions { limits: limits(2), capacity: 40 * PAGE, allow: ANY };
    let mut device = EmulatedZoned::create(&dir.path().join("zoned"), &options).unwrap();
    let hooks = Arc::new(Harm::default());
    device.hooks = Arc::clone(&hooks) as Arc<dyn Hooks>;
    Emulated { device: Arc::new(device), hooks }
}

fn ring(device: &Arc<dyn Device>, depth: u32) -> Submit {
    let ring = AppendRing::new(Arc::clone(device), depth).unwrap();
    Box::new(move |zone, buf, len, done| ring.submit(zone, buf, len, done))
}

#[test]
fn a_ring_of_appends_keeps_the_rules_of_the_simulated_device() {
    let device: Arc<dyn Device> = Arc::new(SimDevice::zoned(limits(0)));
    assert_eq!(check_zoned(&device, Some(ring)).len(), 1, "it has no conventional zones");
}

#[test]
fn the_emulated_device_keeps_the_rules() {
    for habits in habits() {
        let dir = tempfile::tempdir().unwrap();
        let device = emulated(&dir);
        device.set_zone_habits(habits);
        let checked = Arc::clone(&device.device) as Arc<dyn Device>;
        assert_eq!(check_zoned(&checked, Some(ring)), [""; 0]);
        assert_eq!(device.early_cached_pages(), 0, "the suite reads past the page cache");
    }
}

/// Both devices of tests, by what they share.
fn with_faults(check: impl Fn(&dyn Device, &dyn Fn(ZoneFaults))) {
    let device = SimDevice::zoned_with_capacity(limits(2), 40 * PAGE);
    check(&device, &|zones| device.set_faults(Faults { zones, ..Faults::default() }));
    let dir = tempfile::tempdir().unwrap();
    let device = emulated(&dir);
    check(&*device, &|faults| device.set_zone_faults(faults));
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
        cached_pages(&file, 0, PAGE).is_ok()
    };
    if device.volume_is_buffered() || !counted {
        return;
    }
    let at = device.append(3, &page_of(1, 1)).unwrap();
    let cached = File::open(device.path()).unwrap();
    let mut page = page_of(0, 1);
    cached.read_exact_at(&mut page, at).unwrap();
    assert_eq!(page[0], 1);
    assert_eq!(device.early_cached_pages(), 0, "it was written before it was cached");
    cached.read_exact_at(&mut page, at + 4 * PAGE).unwrap();
    device.append(3, &page_of(2, 8)).unwrap();
    assert!(device.early_cached_pages() > 0, "it was cached before it was written");
}
