//! FORMAT: manifest records, version 1.
//!
//! One record is one atomic edit of the database's shape; it is the payload of one MDC frame, which
//! checksums it.
//!
//! ```text
//! offset  size  field
//!      0     1  version    1
//!      1     -  items, back to back until the end of the record:
//!
//! tag 1  create KVS     kvs u32, name length u8, name
//! tag 2  drop KVS       kvs u32
//! tag 3  add leaf       kvs u32, node u64, first key length u16, first key
//! tag 4  remove leaf    kvs u32, node u64
//! tag 5  add kvset      kvs u32, node u64, kvset u64, hblock u64
//! tag 6  remove kvset   kvset u64
//! tag 7  floor          revision u64: everything up to it is in kvsets
//! tag 8  next ids       kvs u32, node u64, kvset u64: none below is ever given again
//! ```
//!
//! Integers are little-endian. Tags are on the medium: add, never renumber. What the items mean
//! together is decided by `manifest::live`.

use crate::error::{Error, Result};
use crate::key::{KEY_BYTES_MAX, KVS_NAME_BYTES_MAX, KvsId, KvsetId, NodeId, Revision};
use bytes::Bytes;
use mpool::MblockId;

const VERSION: u8 = 1;

/// One change of the database's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    KvsCreate { kvs: KvsId, name: String },
    KvsDrop { kvs: KvsId },
    LeafAdd { kvs: KvsId, node: NodeId, first_key: Bytes },
    LeafRemove { kvs: KvsId, node: NodeId },
    KvsetAdd { kvs: KvsId, node: NodeId, kvset: KvsetId, hblock: MblockId },
    KvsetRemove { kvset: KvsetId },
    Floor { revision: Revision },
    NextIds { kvs: u32, node: u64, kvset: u64 },
}

/// Encodes an edit.
pub(crate) fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for item in items {
        encode_item(&mut out, item);
    }
    out
}

fn encode_item(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::KvsCreate { kvs, name } => {
            out.push(1);
            put_u32(out, kvs.get());
            out.push(u8::try_from(name.len()).expect("names are checked when they are given"));
            out.extend_from_slice(name.as_bytes());
        }
        Item::KvsDrop { kvs } => {
            out.push(2);
            put_u32(out, kvs.get());
        }
        Item::LeafAdd { kvs, node, first_key } => {
            out.push(3);
            put_u32(out, kvs.get());
            put_u64(out, node.get());
            let len = u16::try_from(first_key.len()).expect("keys are checked when they are put");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(first_key);
        }
        Item::LeafRemove { kvs, node } => {
            out.push(4);
            put_u32(out, kvs.get());
            put_u64(out, node.get());
        }
        Item::KvsetAdd { kvs, node, kvset, hblock } => {
            out.push(5);
            put_u32(out, kvs.get());
            put_u64(out, node.get());
            put_u64(out, kvset.get());
            put_u64(out, hblock.get());
        }
        Item::KvsetRemove { kvset } => {
            out.push(6);
            put_u64(out, kvset.get());
        }
        Item::Floor { revision } => {
            out.push(7);
            put_u64(out, revision.get());
        }
        Item::NextIds { kvs, node, kvset } => {
            out.push(8);
            put_u32(out, *kvs);
            put_u64(out, *node);
            put_u64(out, *kvset);
        }
    }
}

fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// Decodes an edit. Never panics: the bytes come from the medium.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Item>> {
    let mut rest = Reader(bytes);
    let version = rest.u8()?;
    if version != VERSION {
        return Err(Error::Format { found: version.into(), supported: VERSION.into() });
    }
    let mut items = Vec::new();
    while !rest.0.is_empty() {
        items.push(decode_item(&mut rest)?);
    }
    Ok(items)
}

fn decode_item(rest: &mut Reader<'_>) -> Result<Item> {
    Ok(match rest.u8()? {
        1 => {
            let kvs = KvsId::new(rest.u32()?);
            let len = usize::from(rest.u8()?);
            let name =
                std::str::from_utf8(rest.take(len)?).map_err(|_| bad("a name is not UTF-8"))?;
            if name.is_empty() || len > KVS_NAME_BYTES_MAX {
                return Err(bad("a name has a bad length"));
            }
            Item::KvsCreate { kvs, name: name.to_owned() }
        }
        2 => Item::KvsDrop { kvs: KvsId::new(rest.u32()?) },
        3 => {
            let (kvs, node) = (KvsId::new(rest.u32()?), NodeId::new(rest.u64()?));
            let len = usize::from(rest.u16()?);
            if len > KEY_BYTES_MAX {
                return Err(bad("a leaf's first key is too long"));
            }
            Item::LeafAdd { kvs, node, first_key: Bytes::copy_from_slice(rest.take(len)?) }
        }
        4 => Item::LeafRemove { kvs: KvsId::new(rest.u32()?), node: NodeId::new(rest.u64()?) },
        5 => Item::KvsetAdd {
            kvs: KvsId::new(rest.u32()?),
            node: NodeId::new(rest.u64()?),
            kvset: KvsetId::new(rest.u64()?),
            hblock: MblockId::new(rest.u64()?).ok_or_else(|| bad("an hblock id is zero"))?,
        },
        6 => Item::KvsetRemove { kvset: KvsetId::new(rest.u64()?) },
        7 => Item::Floor { revision: Revision::new(rest.u64()?) },
        8 => Item::NextIds { kvs: rest.u32()?, node: rest.u64()?, kvset: rest.u64()? },
        _ => return Err(bad("a record has an unknown tag")),
    })
}

/// What every complaint about the manifest looks like.
pub(crate) fn bad(reason: impl Into<String>) -> Error {
    Error::Corrupt { what: "manifest".into(), reason: reason.into() }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            self.0.split_at_checked(len).ok_or_else(|| bad("a record is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take returns what was asked for"))
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item() -> impl Strategy<Value = Item> {
        let kvs = any::<u32>().prop_map(KvsId::new);
        let node = any::<u64>().prop_map(NodeId::new);
        let kvset = any::<u64>().prop_map(KvsetId::new);
        let mblock = (1..u64::MAX).prop_map(|raw| MblockId::new(raw).expect("not zero"));
        let key = prop::collection::vec(any::<u8>(), 0..=KEY_BYTES_MAX).prop_map(Bytes::from);
        prop_oneof![
            (kvs.clone(), "[a-z]{1,64}").prop_map(|(kvs, name)| Item::KvsCreate { kvs, name }),
            kvs.clone().prop_map(|kvs| Item::KvsDrop { kvs }),
            (kvs.clone(), node.clone(), key).prop_map(|(kvs, node, first_key)| Item::LeafAdd {
                kvs,
                node,
                first_key
            }),
            (kvs.clone(), node.clone()).prop_map(|(kvs, node)| Item::LeafRemove { kvs, node }),
            (kvs, node, kvset.clone(), mblock).prop_map(|(kvs, node, kvset, hblock)| {
                Item::KvsetAdd { kvs, node, kvset, hblock }
            }),
            kvset.prop_map(|kvset| Item::KvsetRemove { kvset }),
            any::<u64>().prop_map(|r| Item::Floor { revision: Revision::new(r) }),
            any::<(u32, u64, u64)>().prop_map(|(kvs, node, kvset)| Item::NextIds {
                kvs,
                node,
                kvset
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_edit_survives_the_round_trip(items in prop::collection::vec(item(), 0..20)) {
            prop_assert_eq!(decode(&encode(&items)).unwrap(), items);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Ok or Err are both fine; a panic is not.
            drop(decode(&bytes));
        }

        #[test]
        fn a_cut_record_never_decodes_to_the_whole(items in prop::collection::vec(item(), 1..5)) {
            let whole = encode(&items);
            for len in 0..whole.len() {
                if let Ok(part) = decode(&whole[..len]) {
                    prop_assert!(part.len() < items.len());
                }
            }
        }
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = encode(&[
            Item::KvsCreate { kvs: KvsId::new(7), name: "ab".into() },
            Item::Floor { revision: Revision::new(258) },
        ]);
        assert_eq!(bytes, [1, 1, 7, 0, 0, 0, 2, b'a', b'b', 7, 2, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_newer_version_is_refused() {
        assert!(matches!(decode(&[2]), Err(Error::Format { found: 2, supported: 1 })));
    }
}
