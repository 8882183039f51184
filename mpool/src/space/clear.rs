//! PURE: which zone to clear by moving what still lives in it.
//!
//! Zones of objects with one expected lifetime die whole, so moving is the last resort. Rules, in
//! order:
//!
//! 1. While [`WHOLE_MIN`] zones, or one in [`WHOLE_PART`], are empty or dead, nothing is moved.
//!    Zones whose objects have moved already, and wait for their last readers, count as dead.
//! 2. The zone with the fewest bytes to move goes first.
//! 3. It must give more than it costs: at most [`LIVE_PCT_MAX`] percent of it is to be moved,
//!    unless no whole zone is left; then [`LIVE_PCT_NEED`].

/// Fewer whole zones than this are a reason to tidy: one for each stream, and one in reserve.
const WHOLE_MIN: usize = super::zones::STREAMS_MAX + 1;
/// On drives of many zones, fewer than one in this many.
const WHOLE_PART: usize = 32;
const LIVE_PCT_MAX: u64 = 75;
const LIVE_PCT_NEED: u64 = 95;

/// What is known of the zones of a volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct ZoneSnapshot {
    /// Zones in all.
    pub(crate) zones: usize,
    /// Empty and dead ones.
    pub(crate) whole: usize,
    /// Those that take no more appends, with something alive in them.
    pub(crate) sealed: Vec<Sealed>,
}

/// A zone that could be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) zone: u32,
    pub(crate) capacity: u64,
    /// Bytes in it that belong to objects; what has moved and is still being read is not counted.
    pub(crate) movable: u64,
}

/// What follows, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// Enough zones are whole.
    Enough,
    /// Nothing would be gained.
    NothingPays,
    Zone(u32),
}

/// Applies the rules.
pub(crate) fn choose(snapshot: &ZoneSnapshot) -> Clear {
    let waiting = snapshot.sealed.iter().filter(|zone| zone.movable == 0).count();
    // A small drive is not asked for more whole zones than it can have.
    let min = WHOLE_MIN.max(snapshot.zones / WHOLE_PART).min(snapshot.zones / 2);
    if snapshot.whole + waiting >= min {
        return Clear::Enough;
    }
    let pct_max = if snapshot.whole + waiting == 0 { LIVE_PCT_NEED } else { LIVE_PCT_MAX };
    let best = snapshot
        .sealed
        .iter()
        .filter(|zone| zone.movable > 0 && zone.movable <= zone.capacity / 100 * pct_max)
        .min_by_key(|zone| (zone.movable, zone.zone));
    best.map_or(Clear::NothingPays, |zone| Clear::Zone(zone.zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(zone: u32, movable: u64) -> Sealed {
        Sealed { zone, capacity: 1000, movable }
    }

    #[test]
    fn rules() {
        type Row<'a> = (&'a str, usize, usize, &'a [(u32, u64)], Clear);
        #[rustfmt::skip]
        let table: [Row<'_>; 8] = [
            ("plenty is whole",            64,  6, &[(9, 1)],             Clear::Enough),
            ("the emptiest goes first",    64,  2, &[(9, 300), (7, 200)], Clear::Zone(7)),
            ("moved ones count as whole",  64,  3, &[(9, 0), (8, 0), (7, 5)], Clear::Enough),
            ("full zones do not pay",      64,  2, &[(9, 800)],           Clear::NothingPays),
            ("in need they do",            64,  0, &[(9, 800)],           Clear::Zone(9)),
            ("but not when wholly alive",  64,  0, &[(9, 1000)],          Clear::NothingPays),
            ("large drives want more",    640, 19, &[(9, 1)],             Clear::Zone(9)),
            ("small ones less",             6,  3, &[(5, 1)],             Clear::Enough),
        ];
        for (name, zones, whole, found, expected) in table {
            let sealed = found.iter().map(|(zone, movable)| sealed(*zone, *movable)).collect();
            assert_eq!(choose(&ZoneSnapshot { zones, whole, sealed }), expected, "{name}");
        }
    }
}
