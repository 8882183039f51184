//! Real zoned drives, by the suite that the emulated ones pass, and what only a real one shows.
//!
//! `cargo xtask zns` runs this in a virtual machine that has such drives. The environment names the
//! drive, `MILLPOND_ZNS_DEV`, and its contents are erased. Where it is not set, every test says so
//! and passes.

use mpool::{
    AppendRing, Device, IO_ALIGN, IoBuf, Zone, ZoneCondition, Zoned, ZonedDevice, device::AppendBy,
};
use mpool_sim::zoned_suite::{Submit, check_zoned};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, mpsc},
};

const PAGE: u64 = IO_ALIGN as u64;

/// The drive under test; one test at a time may have it.
struct Drive {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Drive {
    /// The drive that the environment names.
    fn named() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let Some(path) = std::env::var_os("MILLPOND_ZNS_DEV") else {
            say("skipped: MILLPOND_ZNS_DEV names no zoned drive; see cargo xtask zns");
            return None;
        };
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The kernel's own name for it, under which sysfs tells of it.
        let path = fs::canonicalize(path).expect("the drive is there");
        Some(Self { path, _turn: turn })
    }

    fn open(&self, append_by: AppendBy) -> ZonedDevice {
        ZonedDevice::open(&self.path, append_by).expect("the drive can be opened")
    }

    fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).expect("a device has a name")
    }

    fn is_nvme(&self) -> bool {
        self.name().starts_with("nvme")
    }

    /// The paths of a drive that is shared, as in `nvme0c0n1`.
    fn paths(&self) -> Vec<String> {
        let Some((controller, namespace)) = self.name().rsplit_once('n') else { return vec![] };
        let entries = fs::read_dir("/sys/class/block").expect("there is a sysfs");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
        let (before, after) = (format!("{controller}c"), format!("n{namespace}"));
        let path = |name: &String| name.starts_with(&before) && name.ends_with(&after);
        names.map(|name| name.expect("names are ASCII")).filter(path).collect()
    }

    fn is_shared(&self) -> bool {
        !self.paths().is_empty()
    }

    /// Flushes that the kernel has sent to the drive, by whichever path.
    fn flushes(&self) -> u64 {
        let mut devices = self.paths();
        devices.push(self.name().to_owned());
        let flushes = devices.iter().map(|device| {
            let stat = told_of(device, "stat");
            let number = stat.split_whitespace().nth(15).expect("flushes are the 16th");
            number.parse::<u64>().expect("a number")
        });
        flushes.sum()
    }

    /// A file of the kernel's about the drive.
    fn told(&self, file: &str) -> String {
        told_of(self.name(), file)
    }
}

fn told_of(device: &str, file: &str) -> String {
    let path = Path::new("/sys/class/block").join(device).join(file);
    fs::read_to_string(path).expect("the kernel tells it").trim().to_owned()
}

/// Shown whether the test passes or not.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn page(byte: u8) -> IoBuf {
    let mut buf = IoBuf::zeroed(IO_ALIGN);
    buf.fill(byte);
    buf
}

fn first_sequential(device: &ZonedDevice) -> u32 {
    device.limits().conventional_zones
}

fn zone(device: &ZonedDevice, zone: u32) -> Zone {
    device.report(zone, 1).expect("a zone is reported")[0]
}

fn check(device: ZonedDevice) {
    say(&format!("{} by {}: {:?}", device.kind(), device.append_kind(), device.limits()));
    for skipped in check_zoned(&(Arc::new(device) as Arc<dyn Device>), Some(ring)) {
        say(&format!("not checked: {skipped}"));
    }
}

fn ring(device: &Arc<dyn Device>, depth: u32) -> Submit {
    let ring = AppendRing::new(Arc::clone(device), depth).expect("an append ring");
    Box::new(move |zone, buf, len, done| ring.submit(zone, buf, len, done))
}

#[test]
fn a_drive_keeps_the_rules() {
    let Some(drive) = Drive::named() else { return };
    let append_by = if drive.is_nvme() { AppendBy::ZoneAppend } else { AppendBy::Auto };
    check(drive.open(append_by));
}

#[test]
fn a_drive_written_at_its_write_pointers_keeps_the_rules() {
    let Some(drive) = Drive::named() else { return };
    if drive.is_shared() {
        let error = ZonedDevice::open(&drive.path, AppendBy::WritePointer).unwrap_err();
        return say(&format!("skipped: {error}"));
    }
    check(drive.open(AppendBy::WritePointer));
}

#[test]
fn zone_append_goes_through_the_ring_where_the_drive_has_it() {
    let Some(drive) = Drive::named() else { return };
    let device = Arc::new(drive.open(AppendBy::Auto));
    let ring = AppendRing::new(device, 8).unwrap();
    assert_eq!(ring.backend(), if drive.is_nvme() { "uring" } else { "threads" });
}

#[test]
fn a_drive_belongs_to_one_opener() {
    let Some(drive) = Drive::named() else { return };
    let first = drive.open(AppendBy::Auto);
    let second = ZonedDevice::open(&drive.path, AppendBy::Auto).unwrap_err();
    assert!(matches!(second, mpool::Error::InUse { .. }), "{second}");
    drop(first);
    drive.open(AppendBy::Auto);
}

#[test]
fn what_a_drive_lacks_is_told() {
    let Some(drive) = Drive::named() else { return };
    if drive.is_nvme() {
        return say("skipped: this drive has Zone Append");
    }
    let error = ZonedDevice::open(&drive.path, AppendBy::ZoneAppend).unwrap_err().to_string();
    assert!(error.contains("Zone Append cannot be sent to it"), "{error}");
}

#[test]
fn the_budgets_are_those_of_the_drive() {
    let Some(drive) = Drive::named() else { return };
    let limits = drive.open(AppendBy::Auto).limits();
    let told = |file: &str| drive.told(file).parse::<u64>().unwrap();
    assert_eq!(u64::from(limits.zones), told("queue/nr_zones"));
    assert_eq!(limits.zone_bytes, told("queue/chunk_sectors") * 512);
    for (budget, file) in
        [(limits.open_max, "queue/max_open_zones"), (limits.active_max, "queue/max_active_zones")]
    {
        match told(file) {
            // Multipath hides the budgets; the drive was asked itself. This one has some.
            0 => assert!(budget > 0, "{file} says 0, and so do we"),
            told => assert_eq!(u64::from(budget), told, "{file}"),
        }
    }
    assert!(limits.append_bytes_max as u64 <= told("queue/zone_append_max_bytes"));
}

/// An append past the block layer leaves no dirty page behind, and is in the drive's cache all the
/// same.
#[test]
fn a_flush_reaches_the_drive_though_no_page_is_dirty() {
    let Some(drive) = Drive::named() else { return };
    if drive.told("queue/write_cache") != "write back" {
        return say("skipped: this drive has no volatile cache");
    }
    let device = drive.open(AppendBy::Auto);
    let zone = first_sequential(&device);
    device.reset(zone).unwrap();
    device.append(zone, &page(1)).unwrap();
    let before = drive.flushes();
    device.flush().unwrap();
    assert!(drive.flushes() > before, "the drive was not told to flush");
    device.reset(zone).unwrap();
}

/// A page cached before the append that writes it may stay as it was. The rule that avoids it: no
/// page is cached before its data is committed. And a reset drops what was cached of the zone.
#[test]
fn pages_cached_after_their_append_are_right_and_a_reset_drops_them() {
    let Some(drive) = Drive::named() else { return };
    let device = drive.open(AppendBy::Auto);
    let zone = first_sequential(&device) + 1;
    device.reset(zone).unwrap();
    // Through the page cache, as a map reads, and without read-ahead, as the map asks for.
    let cached = File::open(&drive.path).unwrap();
    let random = rustix::fs::Advice::Random;
    rustix::fs::fadvise(&cached, 0, None, random).unwrap();
    let see = |at: u64| {
        let mut buf = page(0);
        cached.read_exact_at(&mut buf, at).unwrap();
        buf[0]
    };
    for round in 1..=3_u8 {
        let places: Vec<u64> = (0..16)
            .map(|n| {
                let at = device.append(zone, &page(round * 16 + n)).unwrap();
                assert_eq!(see(at), round * 16 + n, "read as soon as it is committed");
                at
            })
            .collect();
        for (n, at) in (0..).zip(&places) {
            assert_eq!(see(*at), round * 16 + n, "round {round}: the bytes of this round");
        }
        device.reset(zone).unwrap();
    }
    // The trap itself: whoever breaks the rule may get old bytes. Told, not demanded.
    let start = self::zone(&device, zone).start;
    see(start + 4 * PAGE);
    for n in 0..8 {
        device.append(zone, &page(200 + n)).unwrap();
    }
    let (through_cache, mut direct) = (see(start + 4 * PAGE), page(0));
    device.read_at(start + 4 * PAGE, &mut direct).unwrap();
    assert_eq!(direct[0], 204, "reads past the page cache are always right");
    let verdict = if through_cache == 204 { "not stale" } else { "STALE, as the rule says" };
    say(&format!("a page cached before its append, by {}: {verdict}", device.append_kind()));
    device.reset(zone).unwrap();
    let at = device.append(zone, &page(9)).unwrap();
    assert_eq!(see(at), 9);
    device.reset(zone).unwrap();
}

/// Linux 6.10 and later refuse writes to a zone after a failed one, until somebody asks where the
/// write pointer is; and somebody else may have moved it.
#[test]
fn a_zone_can_be_used_after_a_failed_write() {
    let Some(drive) = Drive::named() else { return };
    for append_by in [AppendBy::Auto, AppendBy::WritePointer] {
        if append_by == AppendBy::WritePointer && drive.is_shared() {
            continue;
        }
        let device = drive.open(append_by);
        let zone = first_sequential(&device) + 2;
        device.reset(zone).unwrap();
        let start = device.append(zone, &page(1)).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::DIRECT;
        let foreign = rustix::fs::open(&drive.path, flags, rustix::fs::Mode::empty()).unwrap();
        let foreign = File::from(foreign);
        foreign.write_at(&page(2), start + 5 * PAGE).unwrap_err();
        // The first append may find the zone stuck; the one after it may not.
        let outcomes = [device.append(zone, &page(3)), device.append(zone, &page(4))];
        say(&format!("after a failed write, by {}: {outcomes:?}", device.append_kind()));
        let [first, second] = outcomes;
        let second = second.unwrap();
        let before = first.unwrap_or(start);
        assert_eq!(second, before + PAGE, "nothing is left out");
        if append_by == AppendBy::Auto {
            // Plain writes have no place beside appends past the block layer.
            continue;
        }
        foreign.write_all_at(&page(5), second + PAGE).unwrap();
        let outcomes = [device.append(zone, &page(6)), device.append(zone, &page(7))];
        let written = self::zone(&device, zone).written;
        let last = *outcomes[1].as_ref().unwrap();
        assert_eq!(last, start + written - PAGE, "the last append is at the end of the zone");
        let mut seen = page(0);
        for (at, byte) in [(second, 4), (second + PAGE, 5), (last, 7)] {
            device.read_at(at, &mut seen).unwrap();
            assert_eq!(seen[0], byte, "every write that succeeded is there");
        }
        device.reset(zone).unwrap();
    }
}

/// A ring that is dropped with appends in flight completes them all.
#[test]
fn a_dropped_ring_completes_what_it_accepted() {
    let Some(drive) = Drive::named() else { return };
    let device = Arc::new(drive.open(AppendBy::Auto));
    let zone = first_sequential(&device) + 3;
    device.reset(zone).unwrap();
    let (sender, receiver) = mpsc::channel();
    {
        let ring = AppendRing::new(Arc::clone(&device) as Arc<dyn Device>, 32).unwrap();
        for _ in 0..200 {
            let sender = sender.clone();
            let done = move |end: io::Result<(u64, IoBuf)>| sender.send(end.map(|e| e.0)).unwrap();
            ring.submit(zone, page(1), IO_ALIGN, Box::new(done));
        }
    }
    drop(sender);
    let mut places: Vec<u64> = receiver.into_iter().map(Result::unwrap).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 200);
    assert_eq!(self::zone(&device, zone).written, 200 * PAGE);
    device.reset(zone).unwrap();
}

/// A drive of `null_blk` can be told to lose zones.
#[test]
fn worn_zones_are_seen_and_refused() {
    let Some(drive) = Drive::named() else { return };
    if !drive.name().starts_with("nullb") {
        return say("skipped: only null_blk wears zones out on request");
    }
    let device = drive.open(AppendBy::Auto);
    let (worn, lost) = (device.limits().zones - 1, device.limits().zones - 2);
    let places = [worn, lost].map(|zone| device.append(zone, &page(3)).unwrap());
    let folder = Path::new("/sys/kernel/config/nullb").join(drive.name());
    for (zone, file) in [(worn, "zone_readonly"), (lost, "zone_offline")] {
        let sector = u64::from(zone) * device.limits().zone_bytes / 512;
        fs::write(folder.join(file), sector.to_string()).unwrap();
    }
    let seen = [worn, lost].map(|zone| self::zone(&device, zone).condition);
    assert_eq!(seen, [ZoneCondition::ReadOnly, ZoneCondition::Offline]);
    for zone in [worn, lost] {
        for _ in 0..2 {
            let refused = device.append(zone, &page(4)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        }
        assert!(device.reset(zone).is_err());
        assert_eq!(self::zone(&device, zone).written, 0, "a pointer that means nothing is 0");
    }
    let mut buf = page(0);
    device.read_at(places[0], &mut buf).unwrap();
    assert_eq!(buf[0], 3, "a worn zone can be read");
    assert!(device.read_at(places[1], &mut buf).is_err(), "a lost one cannot");
    // Back as they were, for the tests that come after.
    for (zone, file) in [(worn, "zone_readonly"), (lost, "zone_offline")] {
        let sector = u64::from(zone) * device.limits().zone_bytes / 512;
        fs::write(folder.join(file), sector.to_string()).unwrap();
        assert_eq!(self::zone(&device, zone).condition, ZoneCondition::Empty);
    }
}
