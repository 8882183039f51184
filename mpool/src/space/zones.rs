//! PURE: the books of a volume's sequential zones.
//!
//! ```text
//!            take (first)            filled, or an append failed
//!   Empty ----------------> Current ----------------------------> Sealed
//!     ^                     of a stream                             |
//!     |          reset              nothing lives, nothing pending  |
//!     +------------------- Resetting <------------------------------+
//! ```
//!
//! Whoever writes belongs to a *stream*, and a stream fills one zone at a time, its current one. So
//! objects that are expected to die together lie together, and a zone dies whole. There are never
//! more streams than the drive allows zones to be active, less one: the one that is filled but
//! whose last appends are still on their way. So the budgets of the drive hold by construction.
//!
//! Space is promised before it is taken ([`Zones::reserve`]), so that an object once begun can be
//! written to its end; when empty zones run out, streams share what is left of each other's.
//!
//! [`Zones::next`] says what to do; who does it tells how it went. This file moves no bytes.

use crate::device::{Zone, ZoneCondition, ZoneLimits};
use std::collections::BTreeSet;

/// Streams at most: one for each expected lifetime, and one for what is moved.
pub(crate) const STREAMS_MAX: usize = 4;
/// Zones that only moving objects together may use: without it, a full drive could never tidy.
const SPARE_ZONES: usize = 1;
/// Lengths are multiples of this.
const BLOCK: u64 = mpool_device::IO_ALIGN as u64;

/// What a zone is to the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    /// Takes the appends of this stream.
    Current(usize),
    /// Takes no more.
    Sealed,
    Resetting,
    /// Can be read, and nothing else.
    ReadOnly,
    Offline,
}

#[derive(Clone, Copy, Debug)]
struct Book {
    capacity: u64,
    /// Promised to appends since the last reset, those under way included.
    filled: u64,
    /// Bytes of pieces that belong to somebody.
    live: u64,
    /// Appends under way.
    pending: u32,
    /// An append failed, and the drive has not been told to finish the zone yet.
    unfinished: bool,
    state: State,
}

/// What a writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Append `len` bytes to `zone`, then tell by `landed` or `failed`.
    Append {
        zone: u32,
        len: u64,
    },
    /// Reset the zone, tell by `was_reset`, and ask again.
    Reset(u32),
    /// Ask again when something has landed or was reset.
    Wait,
    Full,
}

/// One zone for people and policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) zone: u32,
    pub(crate) capacity: u64,
    pub(crate) live: u64,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Zones {
    /// The first zone that objects may use.
    first: u32,
    books: Vec<Book>,
    current: Vec<Option<u32>>,
    empty: BTreeSet<u32>,
    dead: BTreeSet<u32>,
    active_max: usize,
    reserved: u64,
}

impl Zones {
    /// The books of zones `report`, which begin with the first that objects may use, when of each
    /// zone as many bytes live as `live` says.
    pub(crate) fn recover(limits: &ZoneLimits, report: &[Zone], live: impl Fn(u32) -> u64) -> Self {
        let unlimited = |n: u32| if n == 0 { u32::MAX } else { n };
        let budget = unlimited(limits.active_max).min(unlimited(limits.open_max)).max(1);
        let active_max = usize::try_from(budget).expect("32 bits");
        let streams = active_max.saturating_sub(1).clamp(1, STREAMS_MAX);
        let mut zones = Self {
            first: report.first().map_or(limits.zones, |zone| zone.index),
            books: Vec::with_capacity(report.len()),
            current: vec![None; streams],
            empty: BTreeSet::new(),
            dead: BTreeSet::new(),
            active_max,
            reserved: 0,
        };
        for zone in report {
            let live = live(zone.index);
            let state = match zone.condition {
                ZoneCondition::Offline => State::Offline,
                ZoneCondition::ReadOnly => State::ReadOnly,
                ZoneCondition::Empty => State::Empty,
                _ => State::Sealed,
            };
            let capacity = zone.capacity / BLOCK * BLOCK;
            let filled = if state == State::Empty { 0 } else { zone.written.min(capacity) };
            zones.books.push(Book { capacity, filled, live, pending: 0, unfinished: false, state });
            zones.settle(zone.index);
        }
        // Zones that were being filled go on being filled; for the rest see `to_finish`.
        let mut partly: Vec<&Zone> = report.iter().filter(|z| z.condition.is_active()).collect();
        partly.sort_by_key(|zone| (zone.written, zone.index));
        for (stream, zone) in partly.iter().take(streams).enumerate() {
            if zones.left(zone.index) > 0 {
                zones.dead.remove(&zone.index);
                zones.book(zone.index).state = State::Current(stream);
                zones.current[stream] = Some(zone.index);
            }
        }
        zones
    }

    /// Zones of `report` that are active on the drive though the books need them no more: finishing
    /// them frees their places. To be done once, after `recover`.
    pub(crate) fn to_finish(&self, report: &[Zone]) -> Vec<u32> {
        let idle = |zone: &&Zone| zone.condition.is_active() && !self.is_current(zone.index);
        report.iter().filter(idle).map(|zone| zone.index).collect()
    }

    fn is_current(&self, zone: u32) -> bool {
        self.current.contains(&Some(zone))
    }

    fn index(&self, zone: u32) -> usize {
        usize::try_from(zone.checked_sub(self.first).expect("a zone of objects")).expect("32 bits")
    }

    fn book(&mut self, zone: u32) -> &mut Book {
        let index = self.index(zone);
        &mut self.books[index]
    }

    fn left(&self, zone: u32) -> u64 {
        let book = &self.books[self.index(zone)];
        book.capacity.saturating_sub(book.filled)
    }

    /// The stream that writer number `wanted` belongs to, where there are fewer.
    fn stream(&self, wanted: usize) -> usize {
        wanted.min(self.current.len() - 1)
    }

    /// Bytes that can still be written before anything dies.
    pub(crate) fn writable_bytes(&self) -> u64 {
        let whole = self.empty.iter().chain(&self.dead);
        let whole: u64 = whole.map(|zone| self.books[self.index(*zone)].capacity).sum();
        whole + self.current.iter().flatten().map(|zone| self.left(*zone)).sum::<u64>()
    }

    /// Bytes that can be promised to new objects.
    pub(crate) fn free_bytes(&self) -> u64 {
        let spare = self.spare_bytes();
        self.writable_bytes().saturating_sub(self.reserved + spare)
    }

    /// Held back for moving objects together.
    fn spare_bytes(&self) -> u64 {
        let largest = self.books.iter().map(|book| book.capacity).max().unwrap_or(0);
        largest * SPARE_ZONES as u64
    }

    /// Capacity of the zones that can be written, in all.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.books.iter().filter(|book| !book.is_worn()).map(|book| book.capacity).sum()
    }

    /// Bytes of objects.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.books.iter().map(|book| book.live).sum()
    }

    /// Promises `bytes`, if they are there. `moving` may use the spare zones.
    pub(crate) fn reserve(&mut self, bytes: u64, moving: bool) -> bool {
        let spare = if moving { 0 } else { self.spare_bytes() };
        let fits = self.writable_bytes() >= self.reserved + spare + bytes;
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Takes a promise back, or what is left of it.
    pub(crate) fn unreserve(&mut self, bytes: u64) {
        self.reserved = self.reserved.checked_sub(bytes).expect("promised before");
    }

    /// Where up to `want` bytes of a promise go; the promise shrinks by what is appended.
    pub(crate) fn next(&mut self, stream: usize, want: u64) -> Next {
        assert!(want > 0 && want.is_multiple_of(BLOCK), "whole blocks");
        let stream = self.stream(stream);
        if let Some(zone) = self.current[stream] {
            return self.grant(zone, want);
        }
        let active = self.books.iter().filter(|book| book.is_active()).count();
        if active < self.active_max
            && let Some(zone) = self.empty.pop_first()
        {
            self.book(zone).state = State::Current(stream);
            self.current[stream] = Some(zone);
            return self.grant(zone, want);
        }
        if active < self.active_max
            && let Some(zone) = self.dead.pop_first().or_else(|| self.deserted())
        {
            self.begin_reset(zone);
            return Next::Reset(zone);
        }
        if let Some(zone) = self.current.iter().flatten().next().copied() {
            return self.grant(zone, want);
        }
        let busy = |b: &Book| b.pending > 0 || b.unfinished || b.state == State::Resetting;
        if self.books.iter().any(busy) { Next::Wait } else { Next::Full }
    }

    fn grant(&mut self, zone: u32, want: u64) -> Next {
        let len = self.left(zone).min(want);
        assert!(len > 0, "a current zone has room");
        self.unreserve(len);
        let book = self.book(zone);
        book.filled += len;
        book.pending += 1;
        if book.filled == book.capacity {
            self.seal(zone);
        }
        Next::Append { zone, len }
    }

    fn seal(&mut self, zone: u32) {
        let book = self.book(zone);
        if let State::Current(stream) = book.state {
            book.state = State::Sealed;
            self.current[stream] = None;
        }
    }

    /// A current zone all of whose objects have died; taken from its stream.
    fn deserted(&mut self) -> Option<u32> {
        let is_deserted = |zone: &u32| {
            let book = &self.books[self.index(*zone)];
            book.live == 0 && book.pending == 0 && book.filled > 0
        };
        let zone = self.current.iter().flatten().copied().find(is_deserted)?;
        self.seal(zone);
        Some(zone)
    }

    /// Puts a zone on the list it belongs to.
    fn settle(&mut self, zone: u32) {
        let book = *self.book(zone);
        match book.state {
            State::Empty => {
                self.empty.insert(zone);
            }
            State::Sealed if book.live == 0 && !book.is_active() => {
                self.dead.insert(zone);
            }
            _ => {}
        }
    }

    /// An append has ended well: its bytes belong to somebody until they are released. Returns
    /// whether the zone should be finished now, because another append to it failed before.
    pub(crate) fn landed(&mut self, zone: u32, len: u64) -> bool {
        let book = self.book(zone);
        book.pending = book.pending.checked_sub(1).expect("it was under way");
        book.live += len;
        assert!(book.live <= book.filled, "no more lives than was written");
        book.unfinished && book.pending == 0
    }

    /// An append has failed: the zone takes no more, because nobody knows where its write pointer
    /// is. Finish it on the drive and tell by `finished`, if this says so: it is the last under
    /// way.
    pub(crate) fn failed(&mut self, zone: u32) -> bool {
        let book = self.book(zone);
        book.pending = book.pending.checked_sub(1).expect("it was under way");
        book.filled = book.capacity;
        book.unfinished = true;
        let last = book.pending == 0;
        self.seal(zone);
        last
    }

    /// A zone that failed is no longer active on the drive.
    pub(crate) fn finished(&mut self, zone: u32) {
        self.book(zone).unfinished = false;
        self.settle(zone);
    }

    /// Bytes of a piece are nobody's any more.
    pub(crate) fn release(&mut self, zone: u32, len: u64) {
        let book = self.book(zone);
        book.live = book.live.checked_sub(len).expect("it was live");
        self.settle(zone);
    }

    /// A zone whose objects are all dead, to be reset now.
    pub(crate) fn next_dead(&mut self) -> Option<u32> {
        let zone = self.dead.pop_first()?;
        self.begin_reset(zone);
        Some(zone)
    }

    /// The last look before what is in a zone is gone for good.
    fn begin_reset(&mut self, zone: u32) {
        let book = self.book(zone);
        assert!(book.state == State::Sealed, "zone {zone} takes no appends when it is reset");
        assert!(book.live == 0, "{} bytes live in zone {zone}, which is to be reset", book.live);
        assert!(book.pending == 0, "appends to zone {zone} have ended when it is reset");
        book.state = State::Resetting;
    }

    /// A reset has ended; `found` is the zone as the drive reports it, `None` if it failed.
    pub(crate) fn was_reset(&mut self, zone: u32, found: Option<Zone>) {
        let book = self.book(zone);
        assert!(book.state == State::Resetting, "it was being reset");
        match found {
            Some(found) if found.condition == ZoneCondition::Empty => {
                book.state = State::Empty;
                book.filled = 0;
                book.capacity = found.capacity / BLOCK * BLOCK;
            }
            Some(found) if found.condition == ZoneCondition::Offline => book.state = State::Offline,
            // Worn out, or the drive refuses: it is not written again.
            _ => book.state = State::ReadOnly,
        }
        self.settle(zone);
    }

    /// Empty and dead zones: those that can take a whole zone's worth.
    pub(crate) fn whole_zones(&self) -> usize {
        self.empty.len() + self.dead.len()
    }

    /// Zones that can never be written again: read-only and offline ones.
    pub(crate) fn worn_zones(&self) -> usize {
        self.books.iter().filter(|book| book.is_worn()).count()
    }

    /// Sealed zones in which something lives and nothing is under way, fewest live bytes first:
    /// what tidying may clear.
    pub(crate) fn sealed(&self) -> Vec<Usage> {
        let usage = |(zone, book): (u32, &Book)| {
            let quiet = book.state == State::Sealed && !book.is_active() && book.live > 0;
            quiet.then_some(Usage { zone, capacity: book.capacity, live: book.live })
        };
        let mut found: Vec<Usage> = (self.first..).zip(&self.books).filter_map(usage).collect();
        found.sort_by_key(|usage| (usage.live, usage.zone));
        found
    }
}

impl Book {
    /// Can never be written again.
    fn is_worn(&self) -> bool {
        matches!(self.state, State::ReadOnly | State::Offline)
    }

    /// Counts against the drive's budgets, as far as we know.
    fn is_active(&self) -> bool {
        match self.state {
            State::Current(_) => true,
            State::Sealed => self.pending > 0 || self.unfinished,
            State::Resetting => self.filled < self.capacity,
            State::Empty | State::ReadOnly | State::Offline => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpool_sim::Seeded;

    const Z: u64 = 16 * BLOCK;

    fn limits(zones: u32, active_max: u32) -> ZoneLimits {
        ZoneLimits {
            zones,
            zone_bytes: Z,
            conventional_zones: 0,
            open_max: 0,
            active_max,
            append_bytes_max: 4096,
            block_bytes: 4096,
        }
    }

    fn zone(index: u32, written: u64, condition: ZoneCondition) -> Zone {
        Zone { index, start: u64::from(index) * Z, capacity: Z, written, condition }
    }

    fn fresh(zones: u32, active_max: u32) -> Zones {
        let report: Vec<Zone> = (0..zones).map(|n| zone(n, 0, ZoneCondition::Empty)).collect();
        Zones::recover(&limits(zones, active_max), &report, |_| 0)
    }

    fn append(zones: &mut Zones, stream: usize, want: u64) -> (u32, u64) {
        assert!(zones.reserve(want, true), "room");
        match zones.next(stream, want) {
            Next::Append { zone, len } => {
                zones.unreserve(want - len);
                zones.landed(zone, len);
                (zone, len)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn streams_fill_zones_of_their_own_and_zones_die_whole() {
        let mut zones = fresh(6, 12);
        assert_eq!(append(&mut zones, 0, 10 * BLOCK), (0, 10 * BLOCK));
        assert_eq!(append(&mut zones, 1, 4 * BLOCK), (1, 4 * BLOCK));
        assert_eq!(append(&mut zones, 0, 10 * BLOCK), (0, 6 * BLOCK), "to the capacity");
        assert_eq!(append(&mut zones, 0, 4 * BLOCK), (2, 4 * BLOCK));
        assert_eq!(zones.next_dead(), None);
        zones.release(0, 10 * BLOCK);
        assert_eq!(zones.next_dead(), None, "something lives");
        zones.release(0, 6 * BLOCK);
        assert_eq!(zones.next_dead(), Some(0));
        zones.was_reset(0, Some(zone(0, 0, ZoneCondition::Empty)));
        assert_eq!(append(&mut zones, 2, BLOCK), (0, BLOCK), "and is used again");
    }

    #[test]
    fn a_filled_zone_counts_as_active_until_its_appends_have_landed() {
        let mut zones = fresh(4, 2);
        assert!(zones.reserve(3 * Z, true));
        assert_eq!(zones.next(0, Z), Next::Append { zone: 0, len: Z });
        assert_eq!(zones.next(0, Z), Next::Append { zone: 1, len: Z });
        assert_eq!(zones.next(0, Z), Next::Wait, "two are active, and two is the limit");
        zones.landed(0, Z);
        assert_eq!(zones.next(0, Z), Next::Append { zone: 2, len: Z });
    }

    #[test]
    fn a_promise_is_kept_by_sharing_what_is_left() {
        let mut zones = fresh(3, 12);
        append(&mut zones, 0, BLOCK);
        append(&mut zones, 1, BLOCK);
        append(&mut zones, 2, BLOCK);
        assert!(!zones.reserve(30 * BLOCK, false), "a zone is spare");
        assert!(zones.reserve(45 * BLOCK, true));
        assert!(!zones.reserve(BLOCK, true));
        let mut got = 0;
        while got < 45 * BLOCK {
            match zones.next(0, 45 * BLOCK - got) {
                Next::Append { zone, len } => {
                    zones.landed(zone, len);
                    got += len;
                }
                other => panic!("{other:?} after {got}"),
            }
        }
        assert_eq!(zones.writable_bytes(), 0);
    }

    #[test]
    fn a_failed_append_seals_the_zone() {
        let mut zones = fresh(3, 12);
        assert!(zones.reserve(2 * BLOCK, true));
        assert!(matches!(zones.next(0, BLOCK), Next::Append { zone: 0, .. }));
        assert!(zones.failed(0), "it is to be finished");
        zones.finished(0);
        assert!(matches!(zones.next(0, BLOCK), Next::Append { zone: 1, .. }));
        assert_eq!(zones.next_dead(), Some(0), "nothing lives there");
        zones.was_reset(0, Some(zone(0, 0, ZoneCondition::ReadOnly)));
        assert_eq!(zones.capacity_bytes(), 2 * Z, "worn out");
    }

    #[test]
    fn recovery_goes_on_with_zones_that_were_being_filled() {
        use ZoneCondition::{Closed, Empty, Full, Offline, ReadOnly};
        let report = [
            zone(4, 5 * BLOCK, Closed),
            zone(5, 0, Empty),
            zone(6, Z, Full),
            zone(7, 2 * BLOCK, Closed),
            zone(8, 3 * BLOCK, ReadOnly),
            zone(9, 0, Offline),
            zone(10, Z, Full),
        ];
        let live = |zone: u32| if zone == 6 { BLOCK } else { 0 };
        let mut zones = Zones::recover(&limits(11, 2), &report, live);
        assert_eq!(zones.to_finish(&report), [4], "one stream only");
        assert_eq!(append(&mut zones, 0, BLOCK), (7, BLOCK));
        let dead: Vec<u32> = std::iter::from_fn(|| zones.next_dead()).collect();
        assert_eq!(dead, [4, 10]);
        let sealed = zones.sealed();
        assert_eq!(sealed, [Usage { zone: 6, capacity: Z, live: BLOCK }]);
    }

    /// Random work against a naive model: the budgets hold, nothing is granted twice, and no zone
    /// is reset while something lives in it.
    #[test]
    fn random_work_keeps_the_books() {
        for seed in 0..200 {
            let mut coin = Seeded::new(seed);
            let active_max = 1 + u32::try_from(coin.below(5)).unwrap();
            let mut zones = fresh(8, active_max);
            let mut under_way: Vec<(u32, u64)> = Vec::new();
            let mut live: Vec<(u32, u64)> = Vec::new();
            let mut written = [0_u64; 8];
            for step in 0..600 {
                let at = format!("seed {seed} step {step}");
                match coin.below(5) {
                    0 | 1 => {
                        let want = (1 + coin.below(20)) * BLOCK;
                        let stream = usize::try_from(coin.below(4)).unwrap();
                        if !zones.reserve(want, coin.coin()) {
                            continue;
                        }
                        match zones.next(stream, want) {
                            Next::Append { zone, len } => {
                                zones.unreserve(want - len);
                                let index = usize::try_from(zone).unwrap();
                                written[index] += len;
                                assert!(written[index] <= Z, "{at}: beyond the capacity");
                                under_way.push((zone, len));
                            }
                            Next::Reset(zone) => {
                                zones.unreserve(want);
                                assert!(!live.iter().any(|l| l.0 == zone), "{at}: lives");
                                assert!(!under_way.iter().any(|l| l.0 == zone), "{at}");
                                written[usize::try_from(zone).unwrap()] = 0;
                                let found = tests::zone(zone, 0, ZoneCondition::Empty);
                                zones.was_reset(zone, Some(found));
                            }
                            Next::Wait => zones.unreserve(want),
                            Next::Full => panic!("{at}: promised and not kept"),
                        }
                    }
                    2 | 3 if !under_way.is_empty() => {
                        let index = usize::try_from(coin.below(under_way.len() as u64)).unwrap();
                        let (zone, len) = under_way.swap_remove(index);
                        zones.landed(zone, len);
                        live.push((zone, len));
                    }
                    _ if !live.is_empty() => {
                        let index = usize::try_from(coin.below(live.len() as u64)).unwrap();
                        let (zone, len) = live.swap_remove(index);
                        zones.release(zone, len);
                    }
                    _ => {}
                }
                let open: BTreeSet<u32> = (0..8)
                    .filter(|zone| {
                        let index = usize::try_from(*zone).unwrap();
                        let partly = written[index] > 0 && written[index] < Z;
                        partly || under_way.iter().any(|u| u.0 == *zone)
                    })
                    .collect();
                assert!(open.len() <= usize::try_from(active_max).unwrap(), "{at}: {open:?}");
            }
        }
    }
}
