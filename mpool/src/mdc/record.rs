//! Records of the pool's own journal, version 1.
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
//!    4  id 8, log_a 8, log_b 8, log_len 8      MDC created
//!    5  id 8, offset 8, extent_len 8           segment created
//!    6  id 8                                   segment deleted
//!    7  name_len 1, name, value                property set
//! ```
//!
//! A checkpoint uses the same changes: those that create what exists. Integrity is the frame's
//! business (`frame`), so decoding checks shape and ranges only; what the changes add up to is
//! checked by `pool::table`. Kinds are on the medium: add, never renumber.

use crate::{
    id::{MblockId, MdcId, SegmentId},
    space::extent::Extent,
};

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

/// The longest encoding of one mblock's creation; bounds the size of a commit group.
pub(crate) const CHANGE_BYTES_MAX: usize = HEAD_LEN + 32;

/// One change of the pool's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    IdLimit(u64),
    MblockCreated { id: MblockId, extent: Extent, len_bytes: u64 },
    MblockDeleted(MblockId),
    MdcCreated { id: MdcId, logs: [Extent; 2] },
    SegmentCreated { id: SegmentId, extent: Extent },
    SegmentDeleted(SegmentId),
    PropertySet { name: String, value: Vec<u8> },
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
            put(record, MDC_CREATED, &[id.get(), a.offset, b.offset, a.len]);
        }
        Change::SegmentCreated { id, extent } => {
            put(record, SEGMENT_CREATED, &[id.get(), extent.offset, extent.len]);
        }
        Change::SegmentDeleted(id) => put(record, SEGMENT_DELETED, &[id.get()]),
        Change::PropertySet { name, value } => put_property(record, name, value),
    }
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
        MDC_CREATED => {
            let [id, a, b, len] = words(payload)?;
            let logs = [sound(a, len)?, sound(b, len)?];
            Ok(Change::MdcCreated { id: id_of(MdcId::new(id))?, logs })
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
        _ => Err("a change is of an unknown kind"),
    }
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
    use crate::space::ALLOC_UNIT;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        (0_u64..1000, 1_u64..100)
            .prop_map(|(o, l)| Extent { offset: o * ALLOC_UNIT, len: l * ALLOC_UNIT })
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
            (id.clone(), extent(), extent()).prop_map(|(id, a, b)| Change::MdcCreated {
                id: MdcId::new(id).unwrap(),
                logs: [a, Extent { offset: b.offset, len: a.len }],
            }),
            (id.clone(), extent()).prop_map(|(id, extent)| Change::SegmentCreated {
                id: SegmentId::new(id).unwrap(),
                extent,
            }),
            id.prop_map(|id| Change::SegmentDeleted(SegmentId::new(id).unwrap())),
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
        assert_eq!(bytes.len(), CHANGE_BYTES_MAX);
        let property = Change::PropertySet { name: "a".to_owned(), value: vec![7] };
        assert_eq!(encode(&[property]), [7, 0, 3, 0, 1, b'a', 7]);
    }
}
