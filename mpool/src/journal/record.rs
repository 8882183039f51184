//! Records of the pool's own journal, version 2.
//!
//! A record is a list of changes that happen together or not at all. Each change is a head and its
//! payload; integers are little-endian:
//!
//! ```text
//! offset  size  field
//!      0     2  kind
//!      2     2  payload_len
//!      4     -  payload
//!
//! kind  payload
//!    1  id_limit 8                             ids below it may have been given out
//!    2  id 8, offset 8, extent_len 8, len 8    mblock created
//!    3  id 8                                   mblock deleted
//!    4  id 8, log_a 8, log_b 8, log_len 8      MDC created, its logs kept once
//!    5  id 8, offset 8, extent_len 8           segment created
//!    6  id 8                                   segment deleted
//!    7  name_len 1, name, value                property set
//!    8  id 8, len 8, sums_crc 4, reserved 4,   mblock placed: created, or moved to a new place
//!       then for each piece: address 8, len 8
//!    9  id 2, class 1, kind 1, evacuating 1,   volume set: added or changed
//!       reserved 3, capacity 8, uuid 16, path
//!   10  id 2                                   volume removed
//!   11  id 8                                   MDC deleted
//!   12  id 8, log_a 8, log_b 8, log_len 8      MDC created, its logs kept twice: log_len is that
//!                                              of a copy, and the second lies behind the first
//! ```
//!
//! Kinds 8 to 12 need features (`features`), so that an older program refuses the pool and does not
//! take them for damage; what of them a change needs is [`Change::needs`].
//!
//! Offsets are pool addresses (`address`). Kind 2 is read, not written: it is how version 1 created
//! mblocks, without checksums. The pieces of kind 8 are whole pages, its other extents whole units.
//!
//! A checkpoint uses the same changes: those that create what exists. Integrity is the frame's
//! business (`frame`), so decoding checks shape and ranges only; what the changes add up to is
//! checked by `pool::table`. Kinds are on the medium: add, never renumber.

use crate::{
    address::{Extent, VolumeId},
    features::Features,
    heads::log::{Kept, Log},
    id::{MblockId, MdcId, SegmentId},
    media::{MediaClass, VolumeKind, VolumeRecord},
    object::{mblock::MblockPlace, sums},
};
use mpool_device::IO_ALIGN;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

pub(crate) const PROPERTY_NAME_BYTES_MAX: usize = 64;
pub(crate) const PROPERTY_VALUE_BYTES_MAX: usize = 1024;

const HEAD_LEN: usize = 4;
const ID_LIMIT: u16 = 1;
const MBLOCK_CREATED: u16 = 2;
const MBLOCK_DELETED: u16 = 3;
const MDC_CREATED: u16 = 4;
const SEGMENT_CREATED: u16 = 5;
const SEGMENT_DELETED: u16 = 6;
const PROPERTY_SET: u16 = 7;
const MBLOCK_PLACED: u16 = 8;
const VOLUME_SET: u16 = 9;
const VOLUME_REMOVED: u16 = 10;
const MDC_DELETED: u16 = 11;
const MDC_CREATED_TWIN: u16 = 12;

/// What a placed mblock takes beside its pieces, and each piece; bounds the size of a commit group.
const PLACED_LEN: usize = 24;
const PIECE_LEN: usize = 16;
/// What a volume takes beside its path.
const VOLUME_LEN: usize = 32;
/// Paths of volumes are shorter than this, as the system's are.
pub(crate) const VOLUME_PATH_BYTES_MAX: usize = 4096;

/// One change of the pool's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    IdLimit(u64),
    /// Created by format version 1: one extent, no checksums.
    MblockCreated {
        id: MblockId,
        extent: Extent,
        len_bytes: u64,
    },
    /// Created, or moved to a new place.
    MblockPlaced {
        id: MblockId,
        place: MblockPlace,
    },
    MblockDeleted(MblockId),
    MdcCreated {
        id: MdcId,
        logs: [Log; 2],
    },
    MdcDeleted(MdcId),
    SegmentCreated {
        id: SegmentId,
        extent: Extent,
    },
    SegmentDeleted(SegmentId),
    PropertySet {
        name: String,
        value: Vec<u8>,
    },
    VolumeSet(VolumeRecord),
    VolumeRemoved(VolumeId),
}

impl Change {
    /// What makes a written object an mblock, or gives it another place.
    pub(crate) fn placed((id, place): (MblockId, MblockPlace)) -> Self {
        Self::MblockPlaced { id, place }
    }

    /// What a program must know to read it.
    pub(crate) fn needs(&self) -> Features {
        match self {
            Self::IdLimit(_)
            | Self::MblockCreated { .. }
            | Self::MblockDeleted(_)
            | Self::MdcCreated { logs: [Log { kept: Kept::Once, .. }, _], .. }
            | Self::SegmentCreated { .. }
            | Self::SegmentDeleted(_)
            | Self::PropertySet { .. } => Features::NONE,
            Self::MblockPlaced { .. } => Features::PLACED_MBLOCKS,
            Self::VolumeSet(_) | Self::VolumeRemoved(_) => Features::VOLUMES,
            Self::MdcDeleted(_) => Features::MDC_DELETION,
            Self::MdcCreated { .. } => Features::TWIN_LOGS,
        }
    }

    /// Bytes of its encoding.
    pub(crate) fn encoded_len(&self) -> usize {
        let mut record = Vec::new();
        encode_change(self, &mut record);
        record.len()
    }
}

/// What a program must know to read a record of these changes.
pub(crate) fn needs(changes: &[Change]) -> Features {
    changes.iter().fold(Features::NONE, |all, change| all.union(change.needs()))
}

/// Encodes changes into one record.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut record = Vec::new();
    for change in changes {
        encode_change(change, &mut record);
    }
    record
}

fn encode_change(change: &Change, record: &mut Vec<u8>) {
    match change {
        Change::IdLimit(limit) => put(record, ID_LIMIT, &[*limit]),
        Change::MblockCreated { id, extent, len_bytes } => {
            assert!(*len_bytes <= extent.len, "an mblock lies within its extent");
            put(record, MBLOCK_CREATED, &[id.get(), extent.offset, extent.len, *len_bytes]);
        }
        Change::MblockDeleted(id) => put(record, MBLOCK_DELETED, &[id.get()]),
        Change::MdcCreated { id, logs: [a, b] } => {
            assert!(a.len == b.len, "both logs are equally long");
            assert!(a.kept == b.kept, "both logs are kept alike");
            let kind = if a.is_twice() { MDC_CREATED_TWIN } else { MDC_CREATED };
            put(record, kind, &[id.get(), a.offset, b.offset, a.len]);
        }
        Change::MdcDeleted(id) => put(record, MDC_DELETED, &[id.get()]),
        Change::SegmentCreated { id, extent } => {
            put(record, SEGMENT_CREATED, &[id.get(), extent.offset, extent.len]);
        }
        Change::SegmentDeleted(id) => put(record, SEGMENT_DELETED, &[id.get()]),
        Change::PropertySet { name, value } => put_property(record, name, value),
        Change::MblockPlaced { id, place } => put_placed(record, *id, place),
        Change::VolumeSet(volume) => put_volume(record, volume),
        Change::VolumeRemoved(id) => {
            put_head(record, VOLUME_REMOVED, 2);
            record.extend_from_slice(&id.get().to_le_bytes());
        }
    }
}

fn put_placed(record: &mut Vec<u8>, id: MblockId, place: &MblockPlace) {
    let sums_crc = place.sums_crc.expect("version 1 is not written");
    put_head(record, MBLOCK_PLACED, PLACED_LEN + place.extents.len() * PIECE_LEN);
    record.extend_from_slice(&id.get().to_le_bytes());
    record.extend_from_slice(&place.len_bytes.to_le_bytes());
    record.extend_from_slice(&u64::from(sums_crc).to_le_bytes());
    for piece in &place.extents {
        record.extend_from_slice(&piece.offset.to_le_bytes());
        record.extend_from_slice(&piece.len.to_le_bytes());
    }
}

fn put_volume(record: &mut Vec<u8>, volume: &VolumeRecord) {
    let path = volume.path.as_os_str().as_bytes();
    assert!((1..=VOLUME_PATH_BYTES_MAX).contains(&path.len()), "checked when it is added");
    put_head(record, VOLUME_SET, VOLUME_LEN + path.len());
    record.extend_from_slice(&volume.id.get().to_le_bytes());
    let class = match volume.class {
        MediaClass::Capacity => 0,
        MediaClass::Staging => 1,
    };
    let kind = match volume.kind {
        VolumeKind::File => 0,
        VolumeKind::Block => 1,
        VolumeKind::Zoned => 2,
        VolumeKind::EmulatedZoned => 3,
    };
    record.extend_from_slice(&[class, kind, volume.evacuating.into(), 0, 0, 0]);
    record.extend_from_slice(&volume.capacity_bytes_max.to_le_bytes());
    record.extend_from_slice(&volume.uuid);
    record.extend_from_slice(path);
}

fn put(record: &mut Vec<u8>, kind: u16, words: &[u64]) {
    put_head(record, kind, words.len() * 8);
    for word in words {
        record.extend_from_slice(&word.to_le_bytes());
    }
}

fn put_property(record: &mut Vec<u8>, name: &str, value: &[u8]) {
    assert!((1..=PROPERTY_NAME_BYTES_MAX).contains(&name.len()), "checked by set_property");
    assert!(value.len() <= PROPERTY_VALUE_BYTES_MAX, "checked by set_property");
    put_head(record, PROPERTY_SET, 1 + name.len() + value.len());
    record.push(u8::try_from(name.len()).expect("at most 64"));
    record.extend_from_slice(name.as_bytes());
    record.extend_from_slice(value);
}

fn put_head(record: &mut Vec<u8>, kind: u16, payload_len: usize) {
    record.extend_from_slice(&kind.to_le_bytes());
    let payload_len = u16::try_from(payload_len).expect("payloads are short");
    record.extend_from_slice(&payload_len.to_le_bytes());
}

/// Decodes one record; the error names what does not hold.
pub(crate) fn decode(mut record: &[u8]) -> Result<Vec<Change>, &'static str> {
    let mut changes = Vec::new();
    while !record.is_empty() {
        let Some((head, rest)) = record.split_first_chunk::<HEAD_LEN>() else {
            return Err("a change is cut short");
        };
        let kind = u16::from_le_bytes([head[0], head[1]]);
        let payload_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let Some((payload, rest)) = rest.split_at_checked(payload_len) else {
            return Err("a change is cut short");
        };
        changes.push(decode_change(kind, payload)?);
        record = rest;
    }
    Ok(changes)
}

fn decode_change(kind: u16, payload: &[u8]) -> Result<Change, &'static str> {
    match kind {
        ID_LIMIT => words(payload).map(|[limit]| Change::IdLimit(limit)),
        MBLOCK_CREATED => {
            let [id, offset, len, len_bytes] = words(payload)?;
            let extent = sound(offset, len)?;
            if len_bytes > len {
                return Err("an mblock is longer than its extent");
            }
            Ok(Change::MblockCreated { id: id_of(MblockId::new(id))?, extent, len_bytes })
        }
        MBLOCK_DELETED => {
            let [id] = words(payload)?;
            Ok(Change::MblockDeleted(id_of(MblockId::new(id))?))
        }
        MDC_CREATED => decode_mdc(payload, Kept::Once),
        MDC_CREATED_TWIN => decode_mdc(payload, Kept::Twice),
        MDC_DELETED => {
            let [id] = words(payload)?;
            Ok(Change::MdcDeleted(id_of(MdcId::new(id))?))
        }
        SEGMENT_CREATED => {
            let [id, offset, len] = words(payload)?;
            let id = id_of(SegmentId::new(id))?;
            Ok(Change::SegmentCreated { id, extent: sound(offset, len)? })
        }
        SEGMENT_DELETED => {
            let [id] = words(payload)?;
            Ok(Change::SegmentDeleted(id_of(SegmentId::new(id))?))
        }
        PROPERTY_SET => decode_property(payload),
        MBLOCK_PLACED => decode_placed(payload),
        VOLUME_SET => decode_volume(payload),
        VOLUME_REMOVED => {
            let raw = payload.try_into().map_err(|_| "a change has the wrong length")?;
            let id = VolumeId::new(u16::from_le_bytes(raw)).ok_or("a volume's id is too large")?;
            Ok(Change::VolumeRemoved(id))
        }
        _ => Err("a change is of an unknown kind, which only a later version would write"),
    }
}

fn decode_mdc(payload: &[u8], kept: Kept) -> Result<Change, &'static str> {
    let [id, a, b, len] = words(payload)?;
    let logs = [a, b].map(|offset| Log { offset, len, kept });
    if logs.iter().any(|log| !log.is_sound()) {
        return Err("a log is not in whole allocation units");
    }
    Ok(Change::MdcCreated { id: id_of(MdcId::new(id))?, logs })
}

fn decode_placed(payload: &[u8]) -> Result<Change, &'static str> {
    let (head, pieces) = payload.split_at_checked(PLACED_LEN).ok_or("a change is cut short")?;
    let [id, len_bytes, sums_crc] = words(head)?;
    let sums_crc = u32::try_from(sums_crc).map_err(|_| "a reserved field is not zero")?;
    let (pieces, rest) = pieces.as_chunks::<PIECE_LEN>();
    if !rest.is_empty() || pieces.is_empty() {
        return Err("a change has the wrong length");
    }
    let mut extents = Vec::with_capacity(pieces.len());
    let mut total = 0_u64;
    for piece in pieces {
        let [offset, len] = words(piece)?;
        let page = IO_ALIGN as u64;
        let ends = offset.checked_add(len).is_some();
        if len == 0 || !offset.is_multiple_of(page) || !len.is_multiple_of(page) || !ends {
            return Err("a piece is not made of pages");
        }
        total = total.checked_add(len).ok_or("an mblock is too long")?;
        extents.push(Extent { offset, len });
    }
    let volume = VolumeId::of(extents[0].offset);
    let here = |e: &Extent| VolumeId::of(e.offset) == volume && VolumeId::of(e.end() - 1) == volume;
    if !extents.iter().all(here) {
        return Err("an mblock lies on two volumes");
    }
    if len_bytes > total || sums::total_len(len_bytes) > total {
        return Err("an mblock is longer than its pieces");
    }
    let id = id_of(MblockId::new(id))?;
    let place = MblockPlace { extents, len_bytes, sums_crc: Some(sums_crc) };
    Ok(Change::MblockPlaced { id, place })
}

fn decode_volume(payload: &[u8]) -> Result<Change, &'static str> {
    let (head, path) = payload.split_first_chunk::<VOLUME_LEN>().ok_or("a change is cut short")?;
    if !(1..=VOLUME_PATH_BYTES_MAX).contains(&path.len()) {
        return Err("a volume's path is out of its range");
    }
    let id = VolumeId::new(u16::from_le_bytes([head[0], head[1]]));
    let class = match head[2] {
        0 => MediaClass::Capacity,
        1 => MediaClass::Staging,
        _ => return Err("a volume is of an unknown class"),
    };
    let kind = match head[3] {
        0 => VolumeKind::File,
        1 => VolumeKind::Block,
        2 => VolumeKind::Zoned,
        3 => VolumeKind::EmulatedZoned,
        _ => return Err("a volume is of an unknown kind"),
    };
    if head[4] > 1 || head[5..8] != [0; 3] {
        return Err("a reserved field is not zero");
    }
    let (words, _) = head[8..].as_chunks::<8>();
    Ok(Change::VolumeSet(VolumeRecord {
        id: id.ok_or("a volume's id is too large")?,
        class,
        kind,
        evacuating: head[4] == 1,
        capacity_bytes_max: u64::from_le_bytes(words[0]),
        uuid: head[16..32].try_into().expect("16 bytes"),
        path: PathBuf::from(OsStr::from_bytes(path)),
    }))
}

fn decode_property(payload: &[u8]) -> Result<Change, &'static str> {
    let (name_len, rest) = payload.split_first().ok_or("a property has no name")?;
    let name_len = usize::from(*name_len);
    let (name, value) = rest.split_at_checked(name_len).ok_or("a property's name is cut short")?;
    if !(1..=PROPERTY_NAME_BYTES_MAX).contains(&name_len) || value.len() > PROPERTY_VALUE_BYTES_MAX
    {
        return Err("a property's name or value is out of its range");
    }
    let name = std::str::from_utf8(name).map_err(|_| "a property's name is not UTF-8")?;
    Ok(Change::PropertySet { name: name.to_owned(), value: value.to_vec() })
}

fn words<const N: usize>(payload: &[u8]) -> Result<[u64; N], &'static str> {
    let (chunks, rest) = payload.as_chunks::<8>();
    if chunks.len() != N || !rest.is_empty() {
        return Err("a change has the wrong length");
    }
    let mut found = [0; N];
    for (word, chunk) in found.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    Ok(found)
}

fn sound(offset: u64, len: u64) -> Result<Extent, &'static str> {
    let extent = Extent { offset, len };
    if extent.is_sound() { Ok(extent) } else { Err("an extent is not in whole allocation units") }
}

fn id_of<T>(id: Option<T>) -> Result<T, &'static str> {
    id.ok_or("an id is zero")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::ALLOC_UNIT;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        (0_u64..1000, 1_u64..100)
            .prop_map(|(o, l)| Extent { offset: o * ALLOC_UNIT, len: l * ALLOC_UNIT })
    }

    const PAGE: u64 = IO_ALIGN as u64;

    fn pieces() -> impl Strategy<Value = Vec<Extent>> {
        let piece =
            (0_u64..1000, 1_u64..100).prop_map(|(o, l)| Extent { offset: o * PAGE, len: l * PAGE });
        prop::collection::vec(piece, 1..5)
    }

    fn volume() -> impl Strategy<Value = VolumeRecord> {
        let class = prop_oneof![Just(MediaClass::Capacity), Just(MediaClass::Staging)];
        let kind = prop_oneof![
            Just(VolumeKind::File),
            Just(VolumeKind::Block),
            Just(VolumeKind::Zoned),
            Just(VolumeKind::EmulatedZoned)
        ];
        (0_u16..1024, class, kind, any::<bool>(), any::<u64>(), any::<[u8; 16]>(), "[a-z/]{1,80}")
            .prop_map(|(id, class, kind, evacuating, capacity_bytes_max, uuid, path)| {
                let (id, path) = (VolumeId::new(id).unwrap(), path.into());
                VolumeRecord { id, class, kind, evacuating, capacity_bytes_max, uuid, path }
            })
    }

    fn change() -> impl Strategy<Value = Change> {
        let id = 1_u64..u64::MAX;
        let name = "[a-z/]{1,64}";
        prop_oneof![
            any::<u64>().prop_map(Change::IdLimit),
            (id.clone(), extent(), 0_u64..=ALLOC_UNIT).prop_map(|(id, extent, len_bytes)| {
                Change::MblockCreated { id: MblockId::new(id).unwrap(), extent, len_bytes }
            }),
            id.clone().prop_map(|id| Change::MblockDeleted(MblockId::new(id).unwrap())),
            (id.clone(), extent(), extent(), any::<bool>()).prop_map(|(id, a, b, twice)| {
                let kept = if twice { Kept::Twice } else { Kept::Once };
                let log = |offset| Log { offset, len: a.len, kept };
                Change::MdcCreated {
                    id: MdcId::new(id).unwrap(),
                    logs: [a, b].map(|e| log(e.offset)),
                }
            }),
            (id.clone(), extent()).prop_map(|(id, extent)| Change::SegmentCreated {
                id: SegmentId::new(id).unwrap(),
                extent,
            }),
            id.clone().prop_map(|id| Change::SegmentDeleted(SegmentId::new(id).unwrap())),
            id.prop_map(|id| Change::MdcDeleted(MdcId::new(id).unwrap())),
            (1_u64..u64::MAX, pieces(), any::<u32>()).prop_map(|(id, extents, crc)| {
                let total: u64 = extents.iter().map(|e| e.len).sum();
                let len_bytes = if total >= 2 * PAGE { 1 + id % PAGE } else { 0 };
                let place = MblockPlace { extents, len_bytes, sums_crc: Some(crc) };
                Change::MblockPlaced { id: MblockId::new(id).unwrap(), place }
            }),
            volume().prop_map(Change::VolumeSet),
            (0_u16..1024).prop_map(|id| Change::VolumeRemoved(VolumeId::new(id).unwrap())),
            (name, prop::collection::vec(any::<u8>(), 0..=PROPERTY_VALUE_BYTES_MAX))
                .prop_map(|(name, value)| Change::PropertySet { name, value }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(changes in prop::collection::vec(change(), 0..20)) {
            prop_assert_eq!(decode(&encode(&changes)), Ok(changes));
        }

        #[test]
        fn any_bytes_decode_to_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_record_cut_short_is_refused(changes in prop::collection::vec(change(), 1..4)) {
            let whole = encode(&changes);
            let last = encode(&changes[changes.len() - 1..]).len();
            for cut in 1..last {
                prop_assert!(decode(&whole[..whole.len() - cut]).is_err(), "cut {}", cut);
            }
        }
    }

    #[test]
    fn layout_is_frozen() {
        let id = MblockId::new(5).unwrap();
        let extent = Extent { offset: ALLOC_UNIT, len: 2 * ALLOC_UNIT };
        let bytes = encode(&[Change::MblockCreated { id, extent, len_bytes: 9 }]);
        let words = [5, ALLOC_UNIT, 2 * ALLOC_UNIT, 9].map(u64::to_le_bytes).concat();
        assert_eq!(bytes, [&[2, 0, 32, 0][..], &words].concat());
        let extents = vec![Extent { offset: 4096, len: 8192 }, Extent { offset: 0, len: 4096 }];
        let place = MblockPlace { extents, len_bytes: 9, sums_crc: Some(7) };
        let bytes = encode(&[Change::MblockPlaced { id, place }]);
        let words = [5, 9, 7, 4096, 8192, 0, 4096].map(u64::to_le_bytes).concat();
        assert_eq!(bytes, [&[8, 0, 56, 0][..], &words].concat());
        let volume = VolumeRecord {
            id: VolumeId::new(3).unwrap(),
            class: MediaClass::Staging,
            kind: VolumeKind::Zoned,
            evacuating: true,
            capacity_bytes_max: 11,
            uuid: [6; 16],
            path: "/v".into(),
        };
        let bytes = encode(&[Change::VolumeSet(volume), Change::VolumeRemoved(VolumeId::ROOT)]);
        let head = [9, 0, 34, 0, 3, 0, 1, 2, 1, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, [&head[..], &[6; 16], b"/v", &[10, 0, 2, 0, 0, 0]].concat());
        let property = Change::PropertySet { name: "a".to_owned(), value: vec![7] };
        assert_eq!(encode(&[property]), [7, 0, 3, 0, 1, b'a', 7]);
        let bytes = encode(&[Change::MdcDeleted(MdcId::new(5).unwrap())]);
        assert_eq!(bytes, [11, 0, 8, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        for (kind, kept) in [(4, Kept::Once), (12, Kept::Twice)] {
            let logs = [2, 6].map(|unit| Log { offset: unit * ALLOC_UNIT, len: ALLOC_UNIT, kept });
            let bytes = encode(&[Change::MdcCreated { id: MdcId::new(5).unwrap(), logs }]);
            let words = [5, 2 * ALLOC_UNIT, 6 * ALLOC_UNIT, ALLOC_UNIT].map(u64::to_le_bytes);
            assert_eq!(bytes, [&[kind, 0, 32, 0][..], &words.concat()].concat());
        }
    }
}
