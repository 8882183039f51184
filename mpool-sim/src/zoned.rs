//! The zones of the simulated device.
//!
//! The rules are `device::zoned::rules`; here are the bytes, the volatile cache and the faults.
//! What was appended is in the current image at once, and in the durable one after a flush. A power
//! cut leaves each zone with its write pointer anywhere between what was flushed and what was
//! appended, and of the blocks between, some may be noise. Finish and reset are durable at once.
//! Whatever is read beyond a write pointer is noise, another one after every reset and crash.

use super::{Seeded, fate::Fate, pages::Image};
use mpool_device::{
    IO_ALIGN, ZoneCondition, ZoneLimits,
    rules::{Refusal, ZoneState, ZoneTable, noise},
};
use std::{io, ops::Range};

/// Failures to come of the verbs of zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFaults {
    /// Of appends.
    pub append: Option<ZoneFault>,
    /// Of open, close, finish and reset, counted together.
    pub verb: Option<ZoneFault>,
}

/// One failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneFault {
    /// How many calls of the kind go well before it.
    pub after: u64,
    /// What the failing call returns.
    pub errno: i32,
    /// What else it does.
    pub harm: ZoneHarm,
}

/// What a failing call does to its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneHarm {
    /// Nothing.
    None,
    /// An append moves the write pointer and leaves arbitrary bytes.
    MovesPointer,
    /// The zone is worn out: it can only be read.
    ReadOnly,
    /// The zone is lost.
    Offline,
}

/// Counts one fault down; the fault when it is due.
pub fn strikes(fault: &mut Option<ZoneFault>) -> Option<ZoneFault> {
    match fault {
        Some(due) if due.after == 0 => fault.take(),
        Some(later) => {
            later.after -= 1;
            None
        }
        None => None,
    }
}

/// A verb with its arguments.
#[derive(Clone, Debug)]
pub(super) enum ZoneCall {
    Open(u32),
    Close(u32),
    Finish(u32),
    Reset(u32),
    Append(u32, Vec<u8>),
}

impl ZoneCall {
    pub(super) fn zone(&self) -> u32 {
        match self {
            Self::Open(zone)
            | Self::Close(zone)
            | Self::Finish(zone)
            | Self::Reset(zone)
            | Self::Append(zone, _) => *zone,
        }
    }
}

#[derive(Clone)]
pub(super) struct SimZones {
    pub(super) table: ZoneTable,
    /// By zone: the bytes that a power cut leaves alone.
    durable: Vec<u64>,
    pub(super) salt: u64,
    /// The power went, or the process died, during this call.
    pub(super) in_flight: Option<ZoneCall>,
}

impl SimZones {
    pub(super) fn new(limits: ZoneLimits, capacity: u64) -> Self {
        let table = ZoneTable::new(limits, capacity);
        let durable = table.iter().map(|_| 0).collect();
        Self { table, durable, salt: 0, in_flight: None }
    }

    pub(super) fn limits(&self) -> ZoneLimits {
        self.table.limits()
    }

    fn start(&self, zone: u32) -> u64 {
        u64::from(zone) * self.limits().zone_bytes
    }

    fn salt_of(&self, zone: &ZoneState) -> u64 {
        self.salt ^ (u64::from(zone.epoch) << 32)
    }

    /// Fills `buf` with what is there: what was written, or noise.
    pub(super) fn read(&self, image: &Image, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let zone_bytes = self.limits().zone_bytes;
        for (i, page) in buf.chunks_mut(IO_ALIGN).enumerate() {
            let at = offset + (i * IO_ALIGN) as u64;
            let index = u32::try_from(at / zone_bytes).expect("within the device");
            let zone = self.table.zone(index);
            match zone.condition {
                ZoneCondition::Offline => return Err(Refusal::Offline.into()),
                ZoneCondition::Conventional => image.read(at, page),
                _ if at % zone_bytes < zone.filled => image.read(at, page),
                _ => noise(self.salt_of(zone), at, page),
            }
        }
        Ok(())
    }

    /// Everything appended is durable.
    pub(super) fn flushed(&mut self, current: &Image, durable: &mut Image) {
        for (index, zone) in self.table.iter() {
            let start = u64::from(index) * self.table.limits().zone_bytes;
            let upto = &mut self.durable[index as usize];
            if *upto < zone.filled {
                durable.copy(current, start + *upto..start + zone.filled);
                *upto = zone.filled;
            }
        }
    }

    /// Does what the rules make of `call`, to the table and both images. Returns where an append
    /// went.
    pub(super) fn apply(
        &mut self,
        call: ZoneCall,
        images: [&mut Image; 2],
    ) -> Result<u64, Refusal> {
        let start = self.start(call.zone());
        match call {
            ZoneCall::Open(zone) => self.table.open(zone)?,
            ZoneCall::Close(zone) => self.table.close(zone)?,
            ZoneCall::Finish(zone) => self.table.finish(zone)?,
            ZoneCall::Reset(zone) => {
                self.table.reset(zone)?;
                if self.table.zone(zone).condition == ZoneCondition::Empty {
                    self.durable[zone as usize] = 0;
                    let end = start + self.limits().zone_bytes;
                    for image in images {
                        image.remove(start..end);
                    }
                }
            }
            ZoneCall::Append(zone, bytes) => {
                let offset = start + self.table.append(zone, bytes.len() as u64)?;
                images[0].write(offset, &bytes);
                return Ok(offset);
            }
        }
        Ok(start)
    }

    /// The zones after a power cut. `image` is what survives of the medium: durable bytes on entry,
    /// with the lucky ones of `current` on return.
    pub(super) fn after_crash(
        &self,
        current: &Image,
        image: &mut Image,
        seeded: &mut Seeded,
    ) -> Self {
        let (mut after, mut current) = (self.clone(), current.clone());
        if let Some(call) = after.in_flight.take()
            && seeded.coin()
        {
            // What the drive would have refused has not happened.
            let _ = after.apply(call, [&mut current, image]);
        }
        after.salt = seeded.next_u64();
        for index in self.limits().conventional_zones..self.limits().zones {
            after.lose_power(index, (&current, image), seeded);
        }
        after
    }

    fn lose_power(&mut self, zone: u32, images: (&Image, &mut Image), seeded: &mut Seeded) {
        let (current, image) = images;
        let start = self.start(zone);
        let (durable, state) = (self.durable[zone as usize], self.table.zone(zone).clone());
        let (kept, lost) = draw_loss(&state, durable, seeded);
        image.copy(current, start + durable..start + kept);
        for at in lost {
            self.spoil(image, start + at..start + at + IO_ALIGN as u64);
        }
        self.table.power_cycled(zone, kept);
        self.durable[zone as usize] = kept;
    }

    /// Writes noise.
    fn spoil(&self, image: &mut Image, range: Range<u64>) {
        let mut page = [0; IO_ALIGN];
        for at in range.step_by(IO_ALIGN) {
            noise(self.salt ^ 1, at, &mut page);
            image.write(at, &page);
        }
    }

    /// The zones that a new process finds after the old one was killed: nothing is lost yet.
    /// `images` are the current and the durable one of the medium that it finds.
    pub(super) fn killed(&mut self, current: &Image, images: [&mut Image; 2], seeded: &mut Seeded) {
        let [found, durable] = images;
        for (index, zone) in self.table.iter() {
            let start = u64::from(index) * self.limits().zone_bytes;
            found.copy(current, start + self.durable[index as usize]..start + zone.filled);
        }
        let Some(call) = self.in_flight.take() else { return };
        let len = if let ZoneCall::Append(_, bytes) = &call { bytes.len() as u64 } else { 0 };
        let fate = Fate::draw(seeded);
        if matches!(fate, Fate::Gone) {
            return;
        }
        let Ok(at) = self.apply(call, [found, durable]) else { return };
        if matches!(fate, Fate::Torn) {
            self.spoil(found, at + len / 2 / IO_ALIGN as u64 * IO_ALIGN as u64..at + len);
        }
    }
}

/// What a power cut leaves of a zone of which `durable` bytes were flushed: its write pointer, and
/// the blocks before it that are lost.
pub fn draw_loss(zone: &ZoneState, durable: u64, seeded: &mut Seeded) -> (u64, Vec<u64>) {
    let block = IO_ALIGN as u64;
    let fate = Fate::draw(seeded);
    let kept = match fate {
        // A finish is durable, though what was appended before it is not.
        _ if zone.finished => zone.filled,
        Fate::Whole => zone.filled,
        Fate::Gone => durable,
        Fate::Torn => durable + seeded.below((zone.filled - durable) / block + 1) * block,
    };
    let unflushed = (durable / block..kept / block).map(|block_no| block_no * block);
    let lost = unflushed.filter(|_| match fate {
        Fate::Whole => false,
        Fate::Gone => true,
        Fate::Torn => seeded.below(4) == 0,
    });
    (kept, lost.collect())
}
