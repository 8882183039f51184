//! PURE: whether the places that a journal names can be.
//!
//! Every object's extents lie on a volume that exists, within it, outside of the part that belongs
//! to the volume itself, and nobody else's; in zones that are written in sequence they lie before
//! the write pointer of a zone that can be read.

use crate::{
    address::{Extent, VolumeId, offset_of},
    device::{Zone, ZoneCondition},
    heads::superblock::RESERVED,
};
use std::collections::BTreeMap;

/// A volume as its device shows itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) len_bytes: u64,
    /// From this byte on the zones are written in sequence; `len_bytes` where there are none.
    pub(crate) conventional_bytes: u64,
    pub(crate) zone_bytes: u64,
    /// Those written in sequence, in order.
    pub(crate) zones: Vec<Zone>,
}

/// An extent and its owner's printed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) extent: Extent,
    pub(crate) owner: String,
}

/// What is wrong with a place: whose it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impossible {
    pub(crate) owner: String,
    pub(crate) extent: Extent,
    pub(crate) reason: String,
}

/// Checks all places against the volumes that are there.
pub(crate) fn check(volumes: &BTreeMap<VolumeId, Shape>, mut owned: Vec<Owned>) -> Vec<Impossible> {
    let mut wrong = Vec::new();
    owned.sort_by_key(|place| (place.extent.offset, place.extent.len));
    for place in &owned {
        let id = VolumeId::of(place.extent.offset);
        let reason = match volumes.get(&id) {
            None => Some(format!("it lies on {id}, which is not here")),
            Some(shape) => misfit(shape, id, place.extent),
        };
        if let Some(reason) = reason {
            wrong.push(Impossible { owner: place.owner.clone(), extent: place.extent, reason });
        }
    }
    let mut widest: Option<&Owned> = None;
    for place in &owned {
        if let Some(before) = widest
            && before.extent.end() > place.extent.offset
        {
            let reason = format!("it overlaps {}", before.owner);
            wrong.push(Impossible { owner: place.owner.clone(), extent: place.extent, reason });
        }
        if widest.is_none_or(|before| before.extent.end() < place.extent.end()) {
            widest = Some(place);
        }
    }
    wrong
}

fn misfit(shape: &Shape, id: VolumeId, extent: Extent) -> Option<String> {
    let offset = offset_of(extent.offset);
    let end = offset.saturating_add(extent.len);
    if end > shape.len_bytes {
        return Some(format!("it ends at {end} of {id}, which is {} long", shape.len_bytes));
    }
    let reserved = RESERVED.end().min(shape.conventional_bytes);
    if offset < reserved {
        return Some(format!("it lies in the head of {id}"));
    }
    if offset < shape.conventional_bytes {
        let over = end > shape.conventional_bytes;
        return over.then(|| format!("it crosses into the sequential zones of {id}"));
    }
    let mut at = offset;
    while at < end {
        let index = (at - shape.conventional_bytes) / shape.zone_bytes;
        let zone = usize::try_from(index).ok().and_then(|index| shape.zones.get(index));
        let Some(zone) = zone else { return Some(format!("{id} has no zone at {at}")) };
        let here = end.min(zone.start + shape.zone_bytes);
        if zone.condition == ZoneCondition::Offline {
            return Some(format!("zone {} of {id} is offline", zone.index));
        }
        let written = match zone.condition {
            ZoneCondition::Full | ZoneCondition::ReadOnly => zone.start + zone.capacity,
            _ => zone.start + zone.written,
        };
        if here > written {
            let at = zone.written;
            return Some(format!("zone {} of {id} is written up to {at} only", zone.index));
        }
        at = here;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 64 << 10;

    fn owned(volume: u16, at: u64, len: u64, owner: &str) -> Owned {
        let offset = VolumeId::new(volume).unwrap().address(at * K);
        Owned { extent: Extent { offset, len: len * K }, owner: owner.to_owned() }
    }

    fn zone(index: u32, written: u64, condition: ZoneCondition) -> Zone {
        let start = u64::from(index) * 8 * K;
        Zone { index, start, capacity: 6 * K, written: written * K, condition }
    }

    fn volumes() -> BTreeMap<VolumeId, Shape> {
        let (len_bytes, conventional_bytes) = (20 * K, 20 * K);
        let plain = Shape { len_bytes, conventional_bytes, ..Shape::default() };
        let zoned = Shape {
            len_bytes: 32 * K,
            conventional_bytes: 8 * K,
            zone_bytes: 8 * K,
            zones: vec![
                zone(1, 6, ZoneCondition::Full),
                zone(2, 3, ZoneCondition::Closed),
                zone(3, 0, ZoneCondition::Offline),
            ],
        };
        [(VolumeId::ROOT, plain), (VolumeId::new(1).unwrap(), zoned)].into()
    }

    #[test]
    fn places_that_can_be_are_fine() {
        let fine =
            [owned(0, 2, 3, "a"), owned(0, 5, 15, "b"), owned(1, 8, 6, "c"), owned(1, 16, 3, "d")];
        assert_eq!(check(&volumes(), fine.to_vec()), []);
    }

    #[test]
    fn each_impossible_place_is_named_with_its_reason() {
        for (bad, reason) in [
            (owned(0, 1, 3, "x"), "head of vol-0"),
            (owned(0, 19, 2, "x"), "ends at"),
            (owned(7, 4, 1, "x"), "vol-7, which is not here"),
            (owned(1, 7, 2, "x"), "crosses into"),
            (owned(1, 12, 3, "x"), "zone 1 of vol-1 is written up to"),
            (owned(1, 16, 4, "x"), "zone 2 of vol-1 is written up to"),
            (owned(1, 24, 1, "x"), "zone 3 of vol-1 is offline"),
        ] {
            let wrong = check(&volumes(), vec![bad]);
            assert_eq!(wrong.len(), 1, "{reason}: {wrong:?}");
            assert!(wrong[0].reason.contains(reason), "{reason}: {wrong:?}");
        }
    }

    #[test]
    fn every_overlap_is_named_also_with_one_that_began_long_before() {
        let all = [
            owned(0, 2, 9, "long"),
            owned(0, 3, 1, "a"),
            owned(0, 5, 1, "b"),
            owned(0, 11, 1, "c"),
        ];
        let wrong = check(&volumes(), all.to_vec());
        let named: Vec<_> = wrong.iter().map(|w| (w.owner.as_str(), w.reason.as_str())).collect();
        assert_eq!(named, [("a", "it overlaps long"), ("b", "it overlaps long")]);
    }
}
