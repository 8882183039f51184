//! The rules of zones: what a drive accepts, what that makes of a zone, and what it refuses.
//!
//! Pure: a table of zones that is asked and told; the bytes, the locks and the medium are its
//! owner's. The emulated and the simulated device both stand on it, and the suite holds both, and
//! real drives, to the same expectations.
//!
//! ```text
//!                 append          open          close       finish    reset
//! Empty           ImplicitOpen*   ExplicitOpen* refused     Full      Empty
//! ImplicitOpen    ImplicitOpen    ExplicitOpen  Closed      Full      Empty
//! ExplicitOpen    ExplicitOpen    ExplicitOpen  Closed      Full      Empty
//! Closed          ImplicitOpen+   ExplicitOpen+ Closed      Full      Empty
//! Full            refused         refused       refused     Full      Empty
//! ReadOnly        refused         refused       refused     refused   refused
//! Offline         refused         refused       refused     refused   refused
//! Conventional    refused         refused       refused     refused   refused
//!
//! *  takes a place among the active and the open zones     +  among the open ones
//! An append that reaches the capacity makes the zone Full. A drive without room among the open
//! zones closes the implicitly open one that was opened first; without such, it refuses.
//! ```

use crate::{Zone, ZoneCondition, ZoneLimits};
use std::io;

/// Why a drive refuses. The error is the one that Linux makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The zone is full, or too little is left under its capacity.
    NoRoom,
    /// The zone can only be read.
    ReadOnly,
    /// The zone is lost.
    Offline,
    /// The verb means nothing in this condition.
    BadTransition,
    /// An earlier write failed, and nobody has asked where the write pointer is.
    PointerUnknown,
    /// Over the budget of active zones.
    TooManyActive,
    /// Over the budget of open zones.
    TooManyOpen,
}

impl Refusal {
    fn errno(self) -> i32 {
        match self {
            Self::TooManyActive => libc::EOVERFLOW,
            Self::TooManyOpen => libc::ETOOMANYREFS,
            Self::NoRoom
            | Self::ReadOnly
            | Self::Offline
            | Self::BadTransition
            | Self::PointerUnknown => libc::EIO,
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::from_raw_os_error(refusal.errno())
    }
}

/// Where drives, all within their standard, differ.
#[expect(clippy::struct_excessive_bools, reason = "each is a difference of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneHabits {
    /// The drive closes an implicitly open zone to make room for another. Default true.
    pub closes_for_room: bool,
    /// Closing an open zone that nothing was written to makes it empty, not closed. Default false.
    pub forgets_unwritten: bool,
    /// Finishing an empty or closed zone needs the room that opening it would; with both budgets
    /// used up it is refused (`ETOOMANYREFS`) until one is closed. Default false.
    pub finish_needs_room: bool,
    /// After a failed append the zone accepts none until it is reported, finished or reset, as with
    /// Linux 6.10 and later for writes at the write pointer. Default false.
    pub sticks_after_failure: bool,
}

impl Default for ZoneHabits {
    fn default() -> Self {
        Self {
            closes_for_room: true,
            forgets_unwritten: false,
            finish_needs_room: false,
            sticks_after_failure: false,
        }
    }
}

/// One zone of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneState {
    /// Its state.
    pub condition: ZoneCondition,
    /// How much can be written, in bytes.
    pub capacity: u64,
    /// Bytes appended since the last reset. Of a finished zone less than its capacity.
    pub filled: u64,
    /// Counts resets, so that each leaves other noise behind.
    pub epoch: u32,
    /// What the next reset makes of the zone, if not what it was.
    pub fate: Option<ResetFate>,
    /// Made full by a finish, which is durable, and not by appends, which are not.
    pub finished: bool,
    /// The table's clock when it was opened.
    opened: u64,
    pointer_unknown: bool,
}

/// How a zone can come out of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFate {
    /// With this capacity, in bytes.
    Capacity(u64),
    /// Worn out; nothing of it was erased.
    ReadOnly,
    /// Lost.
    Offline,
}

/// The zones of a drive.
#[derive(Clone, Debug)]
pub struct ZoneTable {
    limits: ZoneLimits,
    /// How the drive behaves where drives differ.
    pub habits: ZoneHabits,
    zones: Vec<ZoneState>,
    clock: u64,
}

/// Which places a zone would take.
#[derive(Clone, Copy)]
struct Places {
    active: bool,
    open: bool,
}

impl ZoneTable {
    /// A new drive: conventional zones first, the others empty, all of one capacity.
    pub fn new(limits: ZoneLimits, capacity: u64) -> Self {
        let zone = |index| {
            let conventional = index < limits.conventional_zones;
            ZoneState {
                condition: if conventional {
                    ZoneCondition::Conventional
                } else {
                    ZoneCondition::Empty
                },
                capacity: if conventional { limits.zone_bytes } else { capacity },
                filled: 0,
                epoch: 0,
                fate: None,
                finished: false,
                opened: 0,
                pointer_unknown: false,
            }
        };
        let zones = (0..limits.zones).map(zone).collect();
        Self { limits, habits: ZoneHabits::default(), zones, clock: 0 }
    }

    /// What the drive looks like and allows.
    pub fn limits(&self) -> ZoneLimits {
        self.limits
    }

    /// The zones with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &ZoneState)> {
        (0..).zip(&self.zones)
    }

    /// One zone.
    pub fn zone(&self, zone: u32) -> &ZoneState {
        &self.zones[at(zone)]
    }

    /// For what happens to a zone without a verb: wear, power, injected faults.
    pub fn zone_mut(&mut self, zone: u32) -> &mut ZoneState {
        &mut self.zones[at(zone)]
    }

    /// What the drive reports. Asking makes a stuck zone usable again.
    pub fn report(&mut self, first: u32, count: u32) -> Vec<Zone> {
        let zone_bytes = self.limits.zone_bytes;
        let zones = (0..).zip(&mut self.zones).skip(at(first)).take(at(count));
        zones
            .map(|(index, state)| {
                state.pointer_unknown = false;
                let start = u64::from(index) * zone_bytes;
                let (capacity, written) = (state.capacity, state.written());
                Zone { index, start, capacity, written, condition: state.condition }
            })
            .collect()
    }

    /// Takes `len` bytes at the write pointer of `zone`; returns where in the zone that is.
    pub fn append(&mut self, zone: u32, len: u64) -> Result<u64, Refusal> {
        let state = self.zone(zone);
        match state.condition {
            ZoneCondition::Conventional => return Err(Refusal::BadTransition),
            ZoneCondition::ReadOnly => return Err(Refusal::ReadOnly),
            ZoneCondition::Offline => return Err(Refusal::Offline),
            ZoneCondition::Full => return Err(Refusal::NoRoom),
            _ => {}
        }
        if state.pointer_unknown {
            return Err(Refusal::PointerUnknown);
        }
        if state.capacity - state.filled < len {
            return Err(Refusal::NoRoom);
        }
        if !state.condition.is_open() {
            self.make_room(zone)?;
            self.enter(zone, ZoneCondition::ImplicitOpen);
        }
        let state = self.zone_mut(zone);
        let offset = state.filled;
        state.filled += len;
        if state.filled == state.capacity {
            state.condition = ZoneCondition::Full;
        }
        Ok(offset)
    }

    /// An append to `zone` failed under way.
    pub fn append_failed(&mut self, zone: u32) {
        self.zone_mut(zone).pointer_unknown = self.habits.sticks_after_failure;
    }

    /// Opens a zone explicitly.
    pub fn open(&mut self, zone: u32) -> Result<(), Refusal> {
        match self.zone(zone).condition {
            ZoneCondition::ImplicitOpen | ZoneCondition::ExplicitOpen => {}
            ZoneCondition::Empty | ZoneCondition::Closed => self.make_room(zone)?,
            _ => return Err(Refusal::BadTransition),
        }
        self.enter(zone, ZoneCondition::ExplicitOpen);
        Ok(())
    }

    /// Closes an open zone.
    pub fn close(&mut self, zone: u32) -> Result<(), Refusal> {
        let forgets = self.habits.forgets_unwritten;
        let state = self.zone_mut(zone);
        if !state.condition.is_active() {
            return Err(Refusal::BadTransition);
        }
        let unwritten = state.filled == 0 && forgets;
        state.condition = if unwritten { ZoneCondition::Empty } else { ZoneCondition::Closed };
        Ok(())
    }

    /// Makes a zone full.
    pub fn finish(&mut self, zone: u32) -> Result<(), Refusal> {
        match self.zone(zone).condition {
            ZoneCondition::Empty | ZoneCondition::Closed if self.habits.finish_needs_room => {
                // Such a drive closes none for it when it has no active zone to spare.
                if self.lacks(Places { active: true, open: false })
                    && self.lacks(Places { active: false, open: true })
                {
                    return Err(Refusal::TooManyOpen);
                }
                self.make_room(zone)?;
            }
            ZoneCondition::Conventional | ZoneCondition::ReadOnly | ZoneCondition::Offline => {
                return Err(Refusal::BadTransition);
            }
            _ => {}
        }
        let state = self.zone_mut(zone);
        state.condition = ZoneCondition::Full;
        state.finished = true;
        state.pointer_unknown = false;
        Ok(())
    }

    /// Empties a zone.
    pub fn reset(&mut self, zone: u32) -> Result<(), Refusal> {
        let state = self.zone_mut(zone);
        match state.condition {
            ZoneCondition::Conventional | ZoneCondition::ReadOnly | ZoneCondition::Offline => {
                return Err(Refusal::BadTransition);
            }
            _ => {}
        }
        state.pointer_unknown = false;
        match state.fate.take() {
            Some(ResetFate::ReadOnly) => state.condition = ZoneCondition::ReadOnly,
            Some(ResetFate::Offline) => state.condition = ZoneCondition::Offline,
            Some(ResetFate::Capacity(capacity)) => {
                state.capacity = capacity;
                state.empty();
            }
            None => state.empty(),
        }
        Ok(())
    }

    /// The power went and came back: nothing is open, and `filled` bytes of the zone are left.
    /// What the drive looks like and allows.
    pub fn power_cycled(&mut self, zone: u32, filled: u64) {
        let state = self.zone_mut(zone);
        let fell_short = filled < state.filled;
        state.pointer_unknown = false;
        state.filled = filled;
        match state.condition {
            // Full by its appends, of which some are lost.
            ZoneCondition::Full if fell_short && !state.finished => {
                state.condition = ZoneCondition::Closed;
            }
            condition if condition.is_active() => state.condition = ZoneCondition::Closed,
            _ => return,
        }
        if filled == 0 {
            state.condition = ZoneCondition::Empty;
        }
    }

    fn enter(&mut self, zone: u32, condition: ZoneCondition) {
        self.clock += 1;
        let clock = self.clock;
        let state = self.zone_mut(zone);
        if !state.condition.is_open() {
            state.opened = clock;
        }
        state.condition = condition;
    }

    /// Makes room for `zone` among the open zones and, if it is empty, among the active ones.
    fn make_room(&mut self, zone: u32) -> Result<(), Refusal> {
        let empty = self.zone(zone).condition == ZoneCondition::Empty;
        // A drive closes a zone before it looks at the other budget, and so may close one in vain.
        if self.lacks(Places { active: false, open: true }) && self.habits.closes_for_room {
            self.close_the_oldest();
        }
        if self.lacks(Places { active: empty, open: false }) {
            return Err(Refusal::TooManyActive);
        }
        if self.lacks(Places { active: false, open: true }) {
            return Err(Refusal::TooManyOpen);
        }
        Ok(())
    }

    fn lacks(&self, places: Places) -> bool {
        let over = |max: u32, taken: fn(ZoneCondition) -> bool| {
            max > 0 && self.zones.iter().filter(|z| taken(z.condition)).count() >= at(max)
        };
        places.active && over(self.limits.active_max, ZoneCondition::is_active)
            || places.open && over(self.limits.open_max, ZoneCondition::is_open)
    }

    fn close_the_oldest(&mut self) {
        let implicit = self.zones.iter_mut().filter(|z| z.condition == ZoneCondition::ImplicitOpen);
        if let Some(oldest) = implicit.min_by_key(|z| z.opened) {
            oldest.condition = ZoneCondition::Closed;
        }
    }
}

impl ZoneState {
    fn empty(&mut self) {
        self.condition = ZoneCondition::Empty;
        self.filled = 0;
        self.finished = false;
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// The write pointer as it is reported; 0 where it means nothing.
    pub fn written(&self) -> u64 {
        match self.condition {
            ZoneCondition::Conventional | ZoneCondition::ReadOnly | ZoneCondition::Offline => 0,
            ZoneCondition::Full => self.capacity,
            _ => self.filled,
        }
    }
}

fn at(zone: u32) -> usize {
    usize::try_from(zone).expect("usize has at least 32 bits")
}

/// Fills `page` with bytes that nobody has written: what a drive may answer beyond a write pointer.
/// The same every time for the same `salt` and `offset`.
pub fn noise(salt: u64, offset: u64, page: &mut [u8]) {
    let mut state = salt ^ offset.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for word in page.chunks_mut(8) {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..word.len()]);
    }
}

#[cfg(test)]
mod tests;
