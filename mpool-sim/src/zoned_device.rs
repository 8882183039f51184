//! The simulated device's zones: their verbs, and the faults that strike them.

use super::{
    device::{Medium, SimDevice, Turn, power_cut},
    zoned::{ZoneCall, ZoneHarm, strikes},
};
use mpool_device::{
    ResetFate, Zone, ZoneCondition, ZoneHabits, ZoneLimits, Zoned,
    rules::{ZoneTable, noise},
};
use std::io;

impl SimDevice {
    /// How the drive behaves where drives differ.
    pub fn set_zone_habits(&self, habits: ZoneHabits) {
        self.medium.lock().zone_table().habits = habits;
    }

    /// The zone wears out, now: [`ZoneCondition::ReadOnly`] or [`ZoneCondition::Offline`].
    pub fn wear_zone(&self, zone: u32, condition: ZoneCondition) {
        self.medium.lock().zone_table().zone_mut(zone).condition = condition;
    }

    /// What the next reset makes of the zone.
    pub fn set_reset_fate(&self, zone: u32, fate: ResetFate) {
        self.medium.lock().zone_table().zone_mut(zone).fate = Some(fate);
    }
}

impl Medium {
    fn zone_table(&mut self) -> &mut ZoneTable {
        &mut self.zones.as_mut().expect("made by SimDevice::zoned").table
    }

    fn zone_call(&mut self, call: ZoneCall) -> io::Result<u64> {
        self.check_writable()?;
        let turn = self.turn()?;
        let Self { current, durable, zones, faults, .. } = self;
        let zones = zones.as_mut().expect("made by SimDevice::zoned");
        if matches!(turn, Turn::Cut) {
            zones.in_flight = Some(call);
            return Err(power_cut());
        }
        let zone = call.zone();
        let is_append = matches!(call, ZoneCall::Append(..));
        let fault = if is_append { &mut faults.zones.append } else { &mut faults.zones.verb };
        let Some(fault) = strikes(fault) else {
            return Ok(zones.apply(call, [current, durable])?);
        };
        match (fault.harm, call) {
            (ZoneHarm::MovesPointer, ZoneCall::Append(zone, mut bytes)) => {
                noise(zones.salt, 0, &mut bytes);
                zones.apply(ZoneCall::Append(zone, bytes), [current, durable])?;
            }
            (ZoneHarm::ReadOnly, _) => {
                zones.table.zone_mut(zone).condition = ZoneCondition::ReadOnly;
            }
            (ZoneHarm::Offline, _) => {
                zones.table.zone_mut(zone).condition = ZoneCondition::Offline;
            }
            (ZoneHarm::None | ZoneHarm::MovesPointer, _) => {}
        }
        if is_append {
            zones.table.append_failed(zone);
        }
        Err(io::Error::from_raw_os_error(fault.errno))
    }
}

impl SimDevice {
    fn zone_call(&self, call: ZoneCall) -> io::Result<()> {
        Zoned::limits(self).check_zone(call.zone())?;
        self.medium.lock().zone_call(call).map(drop)
    }
}

impl Zoned for SimDevice {
    fn limits(&self) -> ZoneLimits {
        self.limits.expect("made by SimDevice::zoned")
    }

    fn report(&self, first: u32, count: u32) -> io::Result<Vec<Zone>> {
        let mut medium = self.medium.lock();
        if medium.dead { Err(power_cut()) } else { Ok(medium.zone_table().report(first, count)) }
    }

    fn open(&self, zone: u32) -> io::Result<()> {
        self.zone_call(ZoneCall::Open(zone))
    }

    fn close(&self, zone: u32) -> io::Result<()> {
        self.zone_call(ZoneCall::Close(zone))
    }

    fn finish(&self, zone: u32) -> io::Result<()> {
        self.zone_call(ZoneCall::Finish(zone))
    }

    fn reset(&self, zone: u32) -> io::Result<()> {
        self.zone_call(ZoneCall::Reset(zone))
    }

    fn append(&self, zone: u32, buf: &[u8]) -> io::Result<u64> {
        Zoned::limits(self).check_append(zone, buf.len())?;
        let _turn = self.shuffle.enter();
        self.medium.lock().zone_call(ZoneCall::Append(zone, buf.to_vec()))
    }

    fn append_kind(&self) -> &'static str {
        "zone append"
    }
}
