//! What tests do to an emulated zoned volume: faults, wear, a power cut, a watch over the cache.
//!
//! The watch finds what a real drive punishes with stale bytes: an append into pages of the file
//! that somebody has cached before, by a map, a buffered read or the read-ahead of either.

use super::{
    EmulatedZoned, ResetFate, ZoneCondition, ZoneHabits, Zoned,
    rules::{ZoneTable, noise},
    sidecar::record_of,
    transfer,
};
use crate::{
    sim::{
        Seeded, ZoneFaults, ZoneHarm,
        shuffle::{Inside, Shuffle},
        zoned::{draw_loss, strikes},
    },
    sys::{buf::IO_ALIGN, cachestat::cached_pages},
};
use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;
use std::{
    fs::File,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

#[derive(Default)]
pub(super) struct Hooks {
    faults: Mutex<Faults>,
    shuffle: Shuffle,
    early_pages: AtomicU64,
}

#[derive(Default)]
struct Faults {
    zones: ZoneFaults,
    flush_eio: bool,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    pub(super) fn enter(&self) -> Inside<'_> {
        self.shuffle.enter()
    }

    pub(super) fn before_append(
        &self,
        table: &mut ZoneTable,
        zone: u32,
        len: u64,
    ) -> io::Result<()> {
        let Some(fault) = strikes(&mut self.faults.lock().zones.append) else { return Ok(()) };
        if fault.harm == ZoneHarm::MovesPointer {
            table.append(zone, len)?;
        }
        wear(table, zone, fault.harm);
        table.append_failed(zone);
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    pub(super) fn before_verb(&self, table: &mut ZoneTable, zone: u32) -> io::Result<()> {
        let Some(fault) = strikes(&mut self.faults.lock().zones.verb) else { return Ok(()) };
        wear(table, zone, fault.harm);
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    pub(super) fn before_flush(&self) -> io::Result<()> {
        if std::mem::take(&mut self.faults.lock().flush_eio) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// Counts pages that are cached before they are written.
    pub(super) fn watch(&self, file: &File, offset: u64, len: u64) {
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

impl EmulatedZoned {
    /// Replaces the failures to come of the zones' verbs.
    pub fn set_zone_faults(&self, faults: ZoneFaults) {
        self.hooks.faults.lock().zones = faults;
    }

    /// The next flush fails, and poisons the device.
    pub fn fail_next_flush(&self) {
        self.hooks.faults.lock().flush_eio = true;
    }

    /// How the drive behaves where drives differ.
    pub fn set_zone_habits(&self, habits: ZoneHabits) {
        self.state.lock().table.habits = habits;
    }

    /// The zone wears out, now: [`ZoneCondition::ReadOnly`] or [`ZoneCondition::Offline`].
    pub fn wear_zone(&self, zone: u32, condition: ZoneCondition) {
        self.state.lock().table.zone_mut(zone).condition = condition;
    }

    /// What the next reset makes of the zone.
    pub fn set_reset_fate(&self, zone: u32, fate: ResetFate) {
        self.state.lock().table.zone_mut(zone).fate = Some(fate);
    }

    /// Pages that were in the page cache before an append wrote them. On a real drive each could
    /// show its old contents for ever. 0 where the kernel cannot count (before 6.5), and not a
    /// finding where the volume is written through the page cache.
    pub fn early_cached_pages(&self) -> u64 {
        self.hooks.early_pages.load(Relaxed)
    }

    /// True where the volume is written through the page cache.
    pub fn volume_is_buffered(&self) -> bool {
        self.volume.is_buffered()
    }

    /// Loses power and gets it back: each sequential zone keeps its write pointer anywhere between
    /// what was flushed and what was appended, and of the blocks between, some become noise.
    /// Conventional zones lose nothing; [`SimDevice`](crate::SimDevice) does that.
    pub fn lose_power(&self, seed: u64) -> io::Result<()> {
        let sidecar = self.sidecar.lock();
        let mut state = self.state.lock();
        let mut seeded = Seeded::new(seed);
        let mut page = [0; IO_ALIGN];
        let mut records = Vec::new();
        for zone in Zoned::limits(self).conventional_zones..Zoned::limits(self).zones {
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
