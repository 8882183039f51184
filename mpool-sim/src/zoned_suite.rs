//! Conformance of a device with zones: the rules of [`Zoned`], checked.
//!
//! One function for every implementation, real drives among them; so it asks for what all must do,
//! and accepts what drives do differently. It erases the device.

use super::suite::{page_of, reads_and_writes, unaligned_memory};
use mpool_device::{Device, IO_ALIGN, IoBuf, Zone, ZoneCondition, ZoneLimits, Zoned};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, mpsc},
};

const PAGE: u64 = IO_ALIGN as u64;
/// Sequential zones that the suite works with.
const ZONES_MIN: u32 = 4;

/// What is called at the end of an append, with where its bytes are and the buffer.
pub type Ended = Box<dyn FnOnce(io::Result<(u64, IoBuf)>) + Send>;

/// Takes many appends at once: to a zone, so much of a buffer. Dropping it ends them.
pub type Submit = Box<dyn Fn(u32, IoBuf, usize, Ended)>;

/// Makes what takes so many appends at once to a device.
pub type MakeRing = fn(&Arc<dyn Device>, u32) -> Submit;

/// Checks what can be seen without a crash or a fault; and `ring`, where there is one. Erases the
/// device, which has at least four sequential zones of at least 16 pages. Returns what could not be
/// checked on it, and why.
///
/// # Panics
///
/// If the device breaks a rule; the message says which.
pub fn check_zoned(device: &Arc<dyn Device>, ring: Option<MakeRing>) -> Vec<String> {
    let zones = device.zones().expect("the device has zones");
    let limits = zones.limits();
    let sequential = limits.zones - limits.conventional_zones;
    assert!(sequential >= ZONES_MIN, "the suite needs {ZONES_MIN} sequential zones");
    let subject = Subject { device, zones, limits, first: limits.conventional_zones };
    let mut skipped = Vec::new();
    subject.shape();
    subject.erase();
    subject.conventional(&mut skipped);
    subject.arguments();
    subject.appends();
    subject.capacity();
    subject.transitions();
    subject.reads();
    subject.open_budget(&mut skipped);
    subject.active_budget(&mut skipped);
    subject.concurrent_appends();
    if let Some(ring) = ring {
        subject.ring(ring);
    }
    subject.erase();
    device.flush().expect("a healthy device flushes");
    skipped
}

struct Subject<'a> {
    device: &'a Arc<dyn Device>,
    zones: &'a dyn Zoned,
    limits: ZoneLimits,
    /// The first sequential zone.
    first: u32,
}

/// What the operating system called the failure.
pub fn errno_of(outcome: io::Result<impl Sized>) -> Option<i32> {
    outcome.err().expect("must be refused").raw_os_error()
}

fn kind_of(outcome: io::Result<impl Sized>) -> io::ErrorKind {
    outcome.err().expect("must be refused").kind()
}

/// A page that says which it is.
fn marked(number: u64) -> IoBuf {
    let mut page = IoBuf::zeroed(IO_ALIGN);
    for word in page.chunks_mut(8) {
        word.copy_from_slice(&(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).to_le_bytes());
    }
    page
}

impl Subject<'_> {
    fn zone(&self, zone: u32) -> Zone {
        let report = self.zones.report(zone, 1).expect("a zone is reported");
        assert_eq!(report.len(), 1, "one zone was asked for");
        report[0]
    }

    fn condition(&self, zone: u32) -> ZoneCondition {
        self.zone(zone).condition
    }

    fn read(&self, offset: u64, pages: usize) -> IoBuf {
        let mut buf = IoBuf::zeroed(pages * IO_ALIGN);
        self.device.read_at(offset, &mut buf).expect("a read within the device");
        buf
    }

    fn append_page(&self, zone: u32) -> io::Result<u64> {
        self.zones.append(zone, &page_of(5, 1))
    }

    fn shape(&self) {
        let limits = &self.limits;
        let report = self.zones.report(0, u32::MAX).expect("all zones are reported");
        assert_eq!(report.len(), limits.zones as usize, "all zones are reported");
        for (index, zone) in (0..).zip(&report) {
            assert_eq!(zone.index, index, "zones are reported in order");
            assert_eq!(zone.start, u64::from(index) * limits.zone_bytes, "zones are of one size");
            assert!(zone.capacity <= limits.zone_bytes, "a zone holds no more than it spans");
            let conventional = zone.condition == ZoneCondition::Conventional;
            assert_eq!(conventional, index < self.first, "conventional zones lead");
        }
        assert!(self.zones.report(limits.zones, 1).expect("nothing").is_empty(), "past the end");
        assert_eq!(self.zones.report(1, 2).expect("two zones")[1].index, 2);
        let geometry = self.device.geometry();
        assert_eq!(geometry.len_bytes, geometry.len_bytes_max, "the length is fixed");
        assert!(geometry.len_bytes > u64::from(limits.zones - 1) * limits.zone_bytes);
        self.device.grow(geometry.len_bytes).expect("it is as long as it is");
        let grown = self.device.grow(geometry.len_bytes + PAGE);
        assert_eq!(kind_of(grown), io::ErrorKind::StorageFull, "it does not grow");
        assert!(limits.append_bytes_max >= IO_ALIGN, "a page can be appended");
        assert!(!self.zones.append_kind().is_empty(), "people are told how it appends");
    }

    /// Every zone that can be emptied is.
    fn erase(&self) {
        for zone in self.first..self.limits.zones {
            let worn =
                matches!(self.condition(zone), ZoneCondition::ReadOnly | ZoneCondition::Offline);
            if !worn {
                self.zones.reset(zone).expect("a sequential zone can be reset");
                let empty = self.zone(zone);
                assert_eq!(empty.condition, ZoneCondition::Empty, "a reset zone is empty");
                assert_eq!(empty.written, 0, "and written from its start");
            }
        }
    }

    fn conventional(&self, skipped: &mut Vec<String>) {
        if self.first == 0 {
            return skipped.push("conventional zones: the device has none".to_owned());
        }
        // The drive may have been used; rule 4 is for one that was not.
        self.device.write_at(9 * PAGE, &page_of(0, 4)).expect("a write to a conventional zone");
        reads_and_writes(&**self.device);
        unaligned_memory(&**self.device);
        assert_eq!(self.condition(0), ZoneCondition::Conventional);
        for refused in
            [self.zones.open(0), self.zones.close(0), self.zones.finish(0), self.zones.reset(0)]
        {
            assert!(refused.is_err(), "rule 7: conventional zones have no verbs");
        }
        assert_eq!(kind_of(self.append_page(0)), io::ErrorKind::InvalidInput, "rule 7");
        let seam = u64::from(self.first) * self.limits.zone_bytes;
        let across = self.device.write_at(seam - PAGE, &page_of(1, 2));
        assert_eq!(kind_of(across), io::ErrorKind::InvalidInput, "writes end with those zones");
    }

    fn arguments(&self) {
        let (zone, limits) = (self.first, &self.limits);
        let invalid = |outcome: io::Result<u64>, why: &str| {
            assert_eq!(kind_of(outcome), io::ErrorKind::InvalidInput, "{why}");
        };
        invalid(self.append_page(limits.zones), "there is no such zone");
        invalid(self.zones.append(zone, &[]), "an append moves bytes");
        invalid(self.zones.append(zone, &page_of(1, 1)[..512]), "appends are whole pages");
        let pages = limits.append_bytes_max / IO_ALIGN + 1;
        invalid(self.zones.append(zone, &page_of(1, pages)), "appends have a longest");
        assert_eq!(kind_of(self.zones.reset(limits.zones)), io::ErrorKind::InvalidInput);
        let offset = u64::from(zone) * limits.zone_bytes;
        for refused in [
            self.device.write_at(offset, &page_of(1, 1)),
            self.device.write_durable_at(offset, &page_of(1, 1)),
        ] {
            assert_eq!(kind_of(refused), io::ErrorKind::InvalidInput, "plain writes are refused");
        }
        assert_eq!(self.condition(zone), ZoneCondition::Empty, "and nothing has happened");
    }

    fn appends(&self) {
        let zone = self.first + 1;
        let start = self.zone(zone).start;
        assert_eq!(self.append_page(zone).expect("fits"), start, "the first at the start");
        let mut page = IoBuf::zeroed(2 * IO_ALIGN);
        page.copy_from_slice(&[marked(1), marked(2)].map(|p| p.to_vec()).concat());
        let at = self.zones.append(zone, &page).expect("fits");
        assert_eq!(at, start + PAGE, "the next at the write pointer");
        assert!(self.read(at, 2)[..] == page[..], "what is appended is read, before a flush too");
        let mut odd = vec![9; IO_ALIGN + 1];
        odd[1..].copy_from_slice(&marked(3));
        let at = self.zones.append(zone, &odd[1..]).expect("plain memory can be appended from");
        assert!(self.read(at, 1)[..] == odd[1..]);
        let largest = page_of(6, self.limits.append_bytes_max.min(8 * IO_ALIGN) / IO_ALIGN);
        self.zones.append(zone, &largest).expect("fits");
        let now = self.zone(zone);
        assert_eq!(now.written, 4 * PAGE + largest.len() as u64, "the write pointer follows");
        assert!(now.condition.is_open(), "a zone that is written is open");
        self.device.flush().expect("a healthy device flushes");
        assert!(self.read(start + 3 * PAGE, 1)[..] == odd[1..], "rule 2: and after it");
        self.zones.reset(zone).expect("can be reset");
        self.append_page(zone).expect("a reset zone is written again");
        assert!(self.read(start, 1)[..] == page_of(5, 1)[..], "and holds what is new");
        self.zones.reset(zone).expect("can be reset");
    }

    fn capacity(&self) {
        let zone = self.first + 2;
        let Zone { start, capacity, .. } = self.zone(zone);
        let longest = self.limits.append_bytes_max as u64 / PAGE * PAGE;
        let mut at = 0;
        while at < capacity - 2 * PAGE {
            let len = longest.min(capacity - 2 * PAGE - at);
            let pages = usize::try_from(len / PAGE).expect("a short append");
            assert_eq!(self.zones.append(zone, &page_of(1, pages)).expect("fits"), start + at);
            at += len;
        }
        let before = self.zone(zone);
        let too_long = self.zones.append(zone, &page_of(2, 3));
        assert_eq!(errno_of(too_long), Some(libc::EIO), "rule 6: it does not fit");
        assert_eq!(self.zone(zone).written, before.written, "rule 6: nothing changes");
        assert_eq!(self.zones.append(zone, &page_of(3, 2)).expect("fits"), start + at);
        let full = self.zone(zone);
        assert_eq!(full.condition, ZoneCondition::Full, "a zone without room is full");
        assert_eq!(full.written, full.capacity, "and written to its capacity");
        assert_eq!(errno_of(self.append_page(zone)), Some(libc::EIO), "rule 6: it is full");
        assert!(self.zones.open(zone).is_err(), "a full zone is not opened");
        assert!(self.zones.close(zone).is_err(), "a full zone is not closed");
        self.zones.finish(zone).expect("a full zone is finished already");
        assert!(self.read(start + at, 2)[..] == page_of(3, 2)[..], "the last pages are there");
        self.zones.reset(zone).expect("a full zone can be reset");
    }

    fn transitions(&self) {
        use ZoneCondition::{Closed, Empty, ExplicitOpen, Full};
        let zone = self.first;
        self.zones.open(zone).expect("an empty zone can be opened");
        assert_eq!(self.condition(zone), ExplicitOpen);
        self.zones.close(zone).expect("an open zone can be closed");
        assert!(matches!(self.condition(zone), Closed | Empty), "unwritten, drives differ");
        self.zones.open(zone).expect("and opened again");
        self.append_page(zone).expect("fits");
        assert_eq!(self.condition(zone), ExplicitOpen, "writing leaves it so");
        self.zones.close(zone).expect("an open zone can be closed");
        assert_eq!((self.condition(zone), self.zone(zone).written), (Closed, PAGE));
        self.append_page(zone).expect("fits");
        assert_eq!(self.condition(zone), ZoneCondition::ImplicitOpen, "a write opens it");
        self.zones.open(zone).expect("an implicitly open zone can be opened");
        assert_eq!(self.condition(zone), ExplicitOpen);
        self.zones.finish(zone).expect("an open zone can be finished");
        let full = self.zone(zone);
        assert_eq!((full.condition, full.written), (Full, full.capacity));
        assert!(self.read(full.start + PAGE, 1)[..] == page_of(5, 1)[..], "what was there stays");
        self.zones.finish(self.first + 1).expect("an empty zone can be finished");
        assert_eq!(self.condition(self.first + 1), Full);
        assert_eq!(errno_of(self.append_page(zone)), Some(libc::EIO), "a finished zone is full");
        self.erase();
        assert!(self.zones.close(zone).is_err(), "an empty zone is not closed");
    }

    /// Rule 5: bytes that nobody has written are arbitrary, and can be read.
    fn reads(&self) {
        let zone = self.first + 1;
        self.append_page(zone).expect("fits");
        let Zone { start, .. } = self.zone(zone);
        assert_eq!(self.read(start, 4)[..IO_ALIGN], page_of(5, 1)[..], "beyond the write pointer");
        self.read(start + self.limits.zone_bytes - PAGE, 1);
        self.read(start - PAGE, 2);
        self.read(start + self.limits.zone_bytes - PAGE, 2);
        self.zones.reset(zone).expect("can be reset");
        self.read(start, 1);
    }

    /// As many zones as a budget allows, and the next one; `None` where there are not as many.
    fn within(&self, budget: u32) -> Option<(Vec<u32>, u32)> {
        let sequential = self.limits.zones - self.first;
        (budget > 0 && budget < sequential)
            .then(|| ((self.first..self.first + budget).collect(), self.first + budget))
    }

    fn open_budget(&self, skipped: &mut Vec<String>) {
        let Some((zones, next)) = self.within(self.limits.open_max) else {
            return skipped.push("the open budget: none, or as many as zones".to_owned());
        };
        for zone in &zones {
            self.zones.open(*zone).expect("within the budget");
        }
        let refused = errno_of(self.zones.open(next));
        assert_eq!(refused, Some(libc::ETOOMANYREFS), "rule 6: over the open budget");
        assert_eq!(errno_of(self.append_page(next)), Some(libc::ETOOMANYREFS), "by append too");
        assert_eq!(self.condition(next), ZoneCondition::Empty, "rule 6: nothing changes");
        self.append_page(zones[0]).expect("an open zone is written");
        self.zones.close(zones[0]).expect("an open zone can be closed");
        let active = self.limits.active_max;
        if active == 0 || active > self.limits.open_max {
            self.append_page(next).expect("closing makes room");
        } else {
            assert_eq!(errno_of(self.append_page(next)), Some(libc::EOVERFLOW));
        }
        self.erase();
    }

    fn active_budget(&self, skipped: &mut Vec<String>) {
        let Some((zones, next)) = self.within(self.limits.active_max) else {
            return skipped.push("the active budget: none, or as many as zones".to_owned());
        };
        for zone in &zones {
            self.append_page(*zone).expect("the drive closes zones to open others");
        }
        let active = zones.iter().filter(|zone| self.condition(**zone).is_active()).count();
        assert_eq!(active, zones.len(), "all are active");
        assert_eq!(errno_of(self.append_page(next)), Some(libc::EOVERFLOW), "rule 6: over it");
        assert_eq!(self.condition(next), ZoneCondition::Empty, "rule 6: nothing changes");
        self.finish_active(zones[0], &zones);
        self.append_page(next).expect("finishing makes room");
        self.zones.reset(zones[1]).expect("can be reset");
        self.append_page(zones[1]).expect("resetting makes room");
        self.erase();
    }

    /// Some drives finish a closed zone only if they could open it: not with both budgets used up.
    fn finish_active(&self, zone: u32, among: &[u32]) {
        let Err(refused) = self.zones.finish(zone) else { return };
        assert_eq!(refused.raw_os_error(), Some(libc::ETOOMANYREFS), "an active zone is finished");
        let open = among.iter().find(|zone| self.condition(**zone).is_open());
        self.zones.close(*open.expect("as many are open as may be")).expect("can be closed");
        self.zones.finish(zone).expect("an active zone can be finished when one may be opened");
    }

    /// Rule 1: appends of many threads to a few zones land whole, next to each other, each once.
    fn concurrent_appends(&self) {
        const THREADS: u64 = 4;
        const EACH: u64 = 8;
        let landed = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let landed = &landed;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let number = thread * EACH + n;
                        let zone = self.first + u32::try_from(n % 2).expect("0 or 1");
                        let at = self.zones.append(zone, &marked(number)).expect("fits");
                        let before = landed.lock().insert(at, number);
                        assert_eq!(before, None, "rule 1: two appends in one place");
                    }
                });
            }
        });
        self.all_there(&landed.into_inner(), THREADS * EACH);
    }

    /// The same by a ring, and with buffers longer than what is appended.
    fn ring(&self, make: MakeRing) {
        const APPENDS: u64 = 64;
        let ring = make(self.device, 16);
        let (sender, receiver) = mpsc::channel();
        for number in 0..APPENDS {
            let mut buf = IoBuf::zeroed(2 * IO_ALIGN);
            buf[..IO_ALIGN].copy_from_slice(&marked(number));
            let zone = self.first + u32::try_from(number % 2).expect("0 or 1");
            let sender = sender.clone();
            let done = move |outcome: io::Result<(u64, IoBuf)>| {
                let (at, buf) = outcome.expect("fits");
                assert_eq!(buf.len(), 2 * IO_ALIGN, "the buffer comes back");
                sender.send((at, number)).expect("the suite waits for it");
            };
            ring(zone, buf, IO_ALIGN, Box::new(done));
        }
        drop(sender);
        // Dropping the ring completes what it has accepted.
        drop(ring);
        let landed: BTreeMap<u64, u64> = receiver.into_iter().collect();
        self.all_there(&landed, APPENDS);
        let ring = make(self.device, 1);
        let (sender, receiver) = mpsc::channel();
        let done = move |outcome: io::Result<(u64, IoBuf)>| {
            sender.send(outcome.map(drop)).expect("the suite waits for it");
        };
        self.zones.finish(self.first).expect("can be finished");
        ring(self.first, page_of(1, 1), IO_ALIGN, Box::new(done));
        let refused = receiver.recv().expect("it ends");
        assert_eq!(errno_of(refused), Some(libc::EIO), "rule 6: by the ring as well");
        drop(ring);
        self.erase();
    }

    fn all_there(&self, landed: &BTreeMap<u64, u64>, count: u64) {
        assert_eq!(landed.len() as u64, count, "every append has a place of its own");
        for (at, number) in landed {
            assert!(self.read(*at, 1)[..] == marked(*number)[..], "rule 1: append {number}");
        }
        for zone in [self.first, self.first + 1] {
            let Zone { start, written, .. } = self.zone(zone);
            assert_eq!(written, count / 2 * PAGE, "nothing else was written");
            assert!(
                (start..start + written).step_by(IO_ALIGN).all(|at| landed.contains_key(&at)),
                "rule 1: appends leave no gap"
            );
            self.zones.reset(zone).expect("can be reset");
        }
    }
}
