//! The simulated device.
//!
//! Two images of the medium in 4 KiB pages: what a read sees, and what is durable; between them the
//! list of writes since the last flush. A power cut leaves the durable image plus any subset of the
//! *sectors* of that list, drawn from a seed, so writes of several sectors tear and a later write
//! may survive an earlier one. Clones share one medium.
//!
//! ```text
//! write_at          -> current, pending
//! write_durable_at  -> current, durable          (this write only)
//! flush             -> pending moves to durable
//! punch             -> as a write of zeros; a write there before a refill fails
//! shrink            -> the same of the end; after a crash either length, until the next growth
//! cut               -> the call in flight is pending; it and all later calls fail
//! after_crash(seed) -> a new device: durable + coin-tossed sectors of pending
//! after_kill(seed)  -> a new device: everything, pending still pending
//! ```
//!
//! [`SimDevice::zoned`] makes a medium with zones; what is particular to them is in `zoned`.

use super::{
    Seeded,
    fate::Fate,
    pages::{Image, SECTOR},
    shuffle::Shuffle,
    zoned::{SimZones, ZoneFaults},
};
use mpool_device::{Device, Geometry, ZoneLimits, Zoned, check_access};
use parking_lot::Mutex;
use std::{collections::BTreeSet, fs::File, io, ops::Range, sync::Arc};

/// Faults to come. Counts start at zero when they are set: `Some(0)` strikes the next call of its
/// kind. Each strikes once, except that a failed flush poisons the device for good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// This read from now fails with EIO.
    pub read_eio_at: Option<u64>,
    /// From this byte to that one nothing can be read, for as long as this fault is set.
    pub unreadable: Option<(u64, u64)>,
    /// This write from now (durable or not) fails with EIO; nothing of it is written.
    pub write_eio_at: Option<u64>,
    /// This flush (or durable write) from now fails with EIO and poisons the device.
    pub flush_eio_at: Option<u64>,
    /// The device cannot grow beyond this length: ENOSPC.
    pub enospc_after_bytes: Option<u64>,
    /// And it says so before, as a file system does.
    pub enospc_is_told: bool,
    /// It has nothing left for its holes, and says so when one is refilled.
    pub no_refill: bool,
    /// Failures of the zones' verbs.
    pub zones: ZoneFaults,
}

/// In-memory device. Clone = same medium. Distinguishes written from flushed; seeded.
#[derive(Clone)]
pub struct SimDevice {
    pub(super) medium: Arc<Mutex<Medium>>,
    /// What it looks like, where it has zones.
    pub(super) limits: Option<ZoneLimits>,
    pub(super) shuffle: Arc<Shuffle>,
}

pub(super) struct Medium {
    len_bytes: u64,
    /// What it may be after a crash instead: it has been made shorter since.
    len_before: Option<u64>,
    /// Punched and not refilled, in pages.
    pub(super) holes: BTreeSet<u64>,
    len_bytes_max: u64,
    pub(super) current: Image,
    pub(super) durable: Image,
    pending: Vec<Pending>,
    pub(super) zones: Option<SimZones>,
    calls: u64,
    cut_at: Option<u64>,
    pub(super) dead: bool,
    poisoned: bool,
    pub(super) faults: Faults,
}

/// One write since the last flush, in order.
struct Pending {
    offset: u64,
    bytes: Vec<u8>,
    /// A durable write that follows a plain one of the same place: it survives every crash, but
    /// must not be overtaken when the earlier one is flushed.
    durable: bool,
    /// The power went, or the process died, during this write.
    in_flight: bool,
}

impl Medium {
    /// Tossed for what survives here. When the power goes is part of the seed: else the first write
    /// after a flush would have one fate for a seed, wherever the power is cut.
    fn coin(&self, seed: u64) -> Seeded {
        Seeded::new(seed ^ self.calls.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

impl SimDevice {
    /// An empty device that may grow to `len_bytes_max`.
    pub fn new(len_bytes_max: u64) -> Self {
        Self::with_images(0, len_bytes_max, Image::default(), None)
    }

    /// An empty device with zones, all of `limits.zone_bytes` capacity. Its length is fixed.
    pub fn zoned(limits: ZoneLimits) -> Self {
        Self::zoned_with_capacity(limits, limits.zone_bytes)
    }

    /// An empty device whose sequential zones can hold `capacity` bytes, fewer than they span.
    pub fn zoned_with_capacity(limits: ZoneLimits, capacity: u64) -> Self {
        assert!(capacity > 0, "a zone holds something");
        assert!(capacity <= limits.zone_bytes, "a zone holds no more than it spans");
        let len_bytes = u64::from(limits.zones) * limits.zone_bytes;
        let zones = SimZones::new(limits, capacity);
        Self::with_images(len_bytes, len_bytes, Image::default(), Some(zones))
    }

    fn with_images(
        len_bytes: u64,
        len_bytes_max: u64,
        durable: Image,
        zones: Option<SimZones>,
    ) -> Self {
        let limits = zones.as_ref().map(SimZones::limits);
        let medium = Medium {
            len_bytes,
            len_before: None,
            holes: BTreeSet::new(),
            len_bytes_max,
            current: durable.clone(),
            durable,
            pending: Vec::new(),
            zones,
            calls: 0,
            cut_at: None,
            dead: false,
            poisoned: false,
            faults: Faults::default(),
        };
        Self { medium: Arc::new(Mutex::new(medium)), limits, shuffle: Arc::default() }
    }

    /// Device calls (write, flush, grow) made so far: the crash points.
    pub fn calls(&self) -> u64 {
        self.medium.lock().calls
    }

    /// Power is cut at this call (counted from zero): it and every later call fail with EIO.
    pub fn cut_at(&self, call: u64) {
        self.medium.lock().cut_at = Some(call);
    }

    /// True once the power has been cut.
    pub fn is_cut(&self) -> bool {
        self.medium.lock().dead
    }

    /// The medium found after power returns: each unflushed *sector* survives by a coin (so writes
    /// of several sectors tear), whose seed is this one and the count of calls. This device is left
    /// as it is.
    #[must_use = "the medium as it was is left alone"]
    pub fn after_crash(&self, seed: u64) -> Self {
        let medium = self.medium.lock();
        let mut coin = medium.coin(seed);
        let mut image = medium.durable.clone();
        for write in &medium.pending {
            let fate = Fate::draw(&mut coin);
            for (i, sector) in write.bytes.chunks(SECTOR).enumerate() {
                if write.durable || fate.survives(&mut coin) {
                    image.write(write.offset + (i * SECTOR) as u64, sector);
                }
            }
        }
        let lost = |zones: &SimZones| zones.after_crash(&medium.current, &mut image, &mut coin);
        let zones = medium.zones.as_ref().map(lost);
        let len_bytes = medium.len_before.filter(|_| coin.coin()).unwrap_or(medium.len_bytes);
        let after = Self::with_images(len_bytes, medium.len_bytes_max, image, zones);
        after.medium.lock().holes.clone_from(&medium.holes);
        after
    }

    /// The medium found by a new process after the old one was killed where the power was to be
    /// cut: everything written is seen, any subset of the sectors of the write in flight too, but
    /// what was not flushed is still at the mercy of a later power cut. This device is left as it
    /// is.
    #[must_use = "the medium as it was is left alone"]
    pub fn after_kill(&self, seed: u64) -> Self {
        let medium = self.medium.lock();
        let mut coin = medium.coin(seed);
        let durable = medium.durable.clone();
        let zones = medium.zones.clone();
        let after = Self::with_images(medium.len_bytes, medium.len_bytes_max, durable, zones);
        {
            let mut found = after.medium.lock();
            (found.len_before, found.holes) = (medium.len_before, medium.holes.clone());
            let Medium { current, durable, zones, .. } = &mut *found;
            if let Some(zones) = zones {
                zones.killed(&medium.current, [current, durable], &mut coin);
            }
            for write in &medium.pending {
                let fate = Fate::draw(&mut coin);
                for (i, sector) in write.bytes.chunks(SECTOR).enumerate() {
                    if write.in_flight && !fate.survives(&mut coin) {
                        continue;
                    }
                    let offset = write.offset + (i * SECTOR) as u64;
                    found.current.write(offset, sector);
                    let (bytes, durable) = (sector.to_vec(), write.durable);
                    found.pending.push(Pending { offset, bytes, durable, in_flight: false });
                }
            }
        }
        after
    }

    /// Makes the writes to `range` durable.
    pub(super) fn flush_range(&self, range: Range<u64>) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.check_writable()?;
        if matches!(medium.turn()?, Turn::Cut) {
            return Err(power_cut());
        }
        if strikes(&mut medium.faults.flush_eio_at) {
            medium.poisoned = true;
            return Err(eio());
        }
        let Medium { durable, pending, .. } = &mut *medium;
        for write in pending.extract_if(.., |write| range.contains(&write.offset)) {
            durable.write(write.offset, &write.bytes);
        }
        Ok(())
    }

    /// Makes the medium at least `len_bytes` long, as a drive is from the start.
    pub(super) fn reach(&self, len_bytes: u64) {
        let mut medium = self.medium.lock();
        assert!(len_bytes <= medium.len_bytes_max, "a part lies on its medium");
        medium.len_bytes = medium.len_bytes.max(len_bytes);
    }

    /// Replaces the faults to come.
    pub fn set_faults(&self, faults: Faults) {
        self.medium.lock().faults = faults;
    }

    /// Rot: turns one bit of the medium around, in what is read and in what is durable.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        assert!(bit < 8, "a byte has eight bits");
        let mut medium = self.medium.lock();
        let Medium { current, durable, .. } = &mut *medium;
        for image in [current, durable] {
            image.flip(offset, bit);
        }
    }
}

/// What a call may do.
pub(super) enum Turn {
    Go,
    /// The power goes during this call.
    Cut,
}

impl Medium {
    pub(super) fn turn(&mut self) -> io::Result<Turn> {
        if self.dead {
            return Err(power_cut());
        }
        let call = self.calls;
        self.calls += 1;
        if self.cut_at.is_some_and(|cut| call >= cut) {
            self.dead = true;
            return Ok(Turn::Cut);
        }
        Ok(Turn::Go)
    }

    pub(super) fn check_writable(&self) -> io::Result<()> {
        if self.poisoned {
            return Err(io::Error::other("device is poisoned by a failed flush"));
        }
        Ok(())
    }

    /// What is taken from a range: any part of it may be back after a crash.
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_access(offset, usize::try_from(len).expect("in memory"), self.len_bytes)?;
        self.write_at_turn(offset, &vec![0; usize::try_from(len).expect("in memory")], false)
    }

    fn write(&mut self, offset: u64, buf: &[u8], durable: bool) -> io::Result<()> {
        self.check_writable()?;
        check_access(offset, buf.len(), self.len_bytes)?;
        if let Some(zones) = &self.zones {
            zones.limits().check_write(offset, buf.len())?;
        }
        if self.holes.range(pages(offset, buf.len() as u64)).next().is_some() {
            return Err(io::Error::other("a write into a hole that was not refilled"));
        }
        self.write_at_turn(offset, buf, durable)
    }

    /// The same, wherever it is.
    fn write_at_turn(&mut self, offset: u64, buf: &[u8], durable: bool) -> io::Result<()> {
        if matches!(self.turn()?, Turn::Cut) {
            let (bytes, durable) = (buf.to_vec(), false);
            self.pending.push(Pending { offset, bytes, durable, in_flight: true });
            return Err(power_cut());
        }
        if strikes(&mut self.faults.write_eio_at) {
            return Err(eio());
        }
        if durable && strikes(&mut self.faults.flush_eio_at) {
            self.poisoned = true;
            return Err(eio());
        }
        self.current.write(offset, buf);
        let end = offset + buf.len() as u64;
        let overlaps = |p: &Pending| p.offset < end && offset < p.offset + p.bytes.len() as u64;
        if durable && !self.pending.iter().any(overlaps) {
            self.durable.write(offset, buf);
        } else {
            let bytes = buf.to_vec();
            self.pending.push(Pending { offset, bytes, durable, in_flight: false });
        }
        Ok(())
    }
}

/// Numbers of the pages in a range.
pub(super) fn pages(offset: u64, len: u64) -> Range<u64> {
    let page = mpool_device::IO_ALIGN as u64;
    offset / page..(offset + len) / page
}

/// Counts one fault down; true when it is due.
pub(super) fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

pub(super) fn power_cut() -> io::Error {
    io::Error::other("power cut")
}

fn eio() -> io::Error {
    // 5 is EIO on every Linux.
    io::Error::from_raw_os_error(5)
}

impl Device for SimDevice {
    fn geometry(&self) -> Geometry {
        let medium = self.medium.lock();
        Geometry {
            sector_bytes: 512,
            len_bytes: medium.len_bytes,
            len_bytes_max: medium.len_bytes_max,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut medium = self.medium.lock();
        check_access(offset, buf.len(), medium.len_bytes)?;
        if medium.dead {
            return Err(power_cut());
        }
        let end = offset + buf.len() as u64;
        let unreadable = medium.faults.unreadable.is_some_and(|(a, b)| offset < b && end > a);
        if unreadable || strikes(&mut medium.faults.read_eio_at) {
            return Err(eio());
        }
        if let Some(zones) = &medium.zones {
            return zones.read(&medium.current, offset, buf);
        }
        medium.current.read(offset, buf);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.medium.lock().write(offset, buf, false)
    }

    fn write_durable_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.medium.lock().write(offset, buf, true)
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_range(0..u64::MAX)?;
        let mut medium = self.medium.lock();
        let Medium { current, durable, zones, .. } = &mut *medium;
        if let Some(zones) = zones {
            zones.flushed(current, durable);
        }
        Ok(())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.check_writable()?;
        if len_bytes <= medium.len_bytes {
            return Ok(());
        }
        if medium.zones.is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if matches!(medium.turn()?, Turn::Cut) {
            return Err(power_cut());
        }
        let limit = medium.faults.enospc_after_bytes.unwrap_or(u64::MAX).min(medium.len_bytes_max);
        if len_bytes > limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        (medium.len_bytes, medium.len_before) = (len_bytes, None);
        Ok(())
    }

    fn can_shrink(&self) -> bool {
        self.medium.lock().zones.is_none()
    }

    fn shrink(&self, from: u64, to: u64) -> io::Result<bool> {
        let mut medium = self.medium.lock();
        medium.check_writable()?;
        if medium.zones.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if medium.len_bytes != from {
            return Ok(false);
        }
        medium.zero(to, from - to)?;
        // Of several since the last growth the first counts: any of them may be undone.
        medium.len_before = medium.len_before.or(Some(from));
        medium.len_bytes = to;
        medium.holes.split_off(&pages(to, 0).start);
        Ok(true)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.check_writable()?;
        if medium.zones.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        medium.zero(offset, len)?;
        medium.holes.extend(pages(offset, len));
        Ok(())
    }

    fn refill(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.check_writable()?;
        if matches!(medium.turn()?, Turn::Cut) {
            return Err(power_cut());
        }
        if medium.faults.no_refill {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let range = pages(offset, len);
        medium.holes.retain(|page| !range.contains(page));
        Ok(())
    }

    fn holes(&self, offset: u64, len: u64) -> io::Result<Vec<Range<u64>>> {
        let medium = self.medium.lock();
        let page = |number: u64| number * mpool_device::IO_ALIGN as u64;
        let mut holes: Vec<Range<u64>> = Vec::new();
        for number in medium.holes.range(pages(offset, len)) {
            match holes.last_mut() {
                Some(last) if last.end == page(*number) => last.end = page(number + 1),
                _ => holes.push(page(*number)..page(number + 1)),
            }
        }
        Ok(holes)
    }

    fn disk_bytes(&self) -> Option<u64> {
        let medium = self.medium.lock();
        let pages = medium.holes.len() as u64;
        Some(medium.len_bytes - pages * mpool_device::IO_ALIGN as u64)
    }

    fn growth_left(&self) -> u64 {
        let medium = self.medium.lock();
        let limit = medium.faults.enospc_after_bytes.filter(|_| medium.faults.enospc_is_told);
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(medium.len_bytes))
    }

    fn set_len_max(&self, len_bytes_max: u64) -> io::Result<()> {
        let mut medium = self.medium.lock();
        medium.len_bytes_max = len_bytes_max.max(medium.len_bytes);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn kind(&self) -> &'static str {
        "sim"
    }

    fn zones(&self) -> Option<&dyn Zoned> {
        self.limits.is_some().then_some(self as &dyn Zoned)
    }
}
