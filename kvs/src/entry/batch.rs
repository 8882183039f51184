//! A set of writes that become visible and durable together.
//!
//! A batch is encoded as it is filled, in the body format of a WAL frame, so that committing it
//! copies its bytes once. It knows the limits of keys and values; the limit of a whole batch is an
//! option of the database and is checked at commit.
//!
//! Body format, version 2 (the version is that of the frame around it; version 1 is in
//! `wal/wide.rs`). A body is a sequence of entries without gaps; integers of more than a byte are
//! varints:
//!
//! ```text
//! size    field
//!    1    op         bits 0-3: 0 = delete, 1 = put, 2 = merge (reserved)
//!                    bit    4: the value begins with a time to live (reserved)
//!                    bits 5-7: zero
//!  1-5    kvs        id of the KVS
//!  1-2    key_len    1..=KEY_BYTES_MAX
//!  1-4    value_len  0..=VALUE_BYTES_MAX; not there for a delete
//!    -    key, then value
//! ```
//!
//! Version 2 writes no reserved bit and refuses to read one. A later entry for a key replaces an
//! earlier one: entries keep their order, and the memtable lets the last of one revision win.

use crate::entry::op::{Op, kind};
use crate::entry::owner::Owner;
use crate::entry::varint;
use crate::error::{Error, Result};
use crate::key::{KEY_BYTES_MAX, KvsId, VALUE_BYTES_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The longest head of an entry: operation, KVS, length of the key, length of the value.
const ENTRY_HEAD_LEN_MAX: usize = 1 + 5 + 2 + 4;
const _: () = assert!(KEY_BYTES_MAX < 1 << 14);
const _: () = assert!(VALUE_BYTES_MAX < 1 << 28);

/// Writes over any KVSs of one database, applied all or none. The first handle says of which
/// database; handles of another are refused, and so is the batch by another.
///
/// ```
/// # fn main() -> kvs::Result<()> {
/// # let dir = tempfile::tempdir().expect("a scratch directory");
/// # for _again in 0..2 {
/// # let mut options = kvs::Options::default();
/// # options.pool.allow_buffered = true;
/// # options.pool.allow_volatile = true;
/// # let db = kvs::Database::open(dir.path(), options)?;
/// let users = db.kvs("users")?;
/// let mut batch = kvs::WriteBatch::new();
/// batch.put(&users, b"alice", b"1")?;
/// batch.delete(&users, b"bob")?;
/// db.write(batch, kvs::Durability::Sync)?;
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    body: Vec<u8>,
    entries: usize,
    kvss: Kvss,
    /// Of the first handle; `None` for what the log or a handle itself has filled.
    owner: Option<Arc<Owner>>,
}

/// The KVSs of a batch: one, as a rule, and no allocation for that.
#[derive(Clone, Debug, Default)]
enum Kvss {
    #[default]
    None,
    One(KvsId),
    Several(BTreeSet<KvsId>),
}

impl Kvss {
    fn add(&mut self, kvs: KvsId) {
        match self {
            Self::None => *self = Self::One(kvs),
            Self::One(one) if *one == kvs => {}
            Self::One(one) => *self = Self::Several(BTreeSet::from([*one, kvs])),
            Self::Several(all) => drop(all.insert(kvs)),
        }
    }
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses what belongs to another database than what is in the batch; `what` names it.
    pub(crate) fn check_from(
        &self,
        owner: &Arc<Owner>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        self.owner.as_ref().map_or(Ok(()), |first| owner.check(first, what))
    }

    /// The batch belongs to the database of its first handle.
    pub(crate) fn keep_owner(&mut self, owner: &Arc<Owner>) {
        if self.owner.is_none() {
            self.owner = Some(Arc::clone(owner));
        }
    }

    /// Refuses the batch where `here` is another database than its handles'.
    pub(crate) fn check_owner(&self, here: &Arc<Owner>) -> Result<()> {
        self.owner.as_ref().map_or(Ok(()), |owner| owner.check(here, || "a batch".to_owned()))
    }

    /// Entries, counting every one that a later entry replaces.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes it takes in the write-ahead log: keys, values and 3 to 12 bytes an entry. What
    /// [`Options::batch_bytes_max`](crate::Options::batch_bytes_max) limits.
    pub fn len_bytes(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn put_id(&mut self, kvs: KvsId, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::ValueLength { len: value.len() });
        }
        self.push(kind::INLINE, kvs, key, value)
    }

    pub(crate) fn delete_id(&mut self, kvs: KvsId, key: &[u8]) -> Result<()> {
        self.push(kind::TOMBSTONE, kvs, key, &[])
    }

    /// The KVSs that it writes to, each once.
    pub(crate) fn kvss(&self) -> impl Iterator<Item = KvsId> + Clone + '_ {
        let (one, several) = match &self.kvss {
            Kvss::None => (None, None),
            Kvss::One(one) => (Some(*one), None),
            Kvss::Several(all) => (None, Some(all)),
        };
        one.into_iter().chain(several.into_iter().flatten().copied())
    }

    /// The entries in order of insertion.
    pub(crate) fn ops(&self) -> Ops<'_> {
        Ops { rest: &self.body }
    }

    /// A batch from the body of a WAL frame.
    pub(crate) fn from_body(body: Vec<u8>) -> Result<Self> {
        let mut rest = &body[..];
        let (mut entries, mut kvss) = (0, Kvss::None);
        while !rest.is_empty() {
            let offset = body.len() - rest.len();
            let entry;
            (entry, rest) = split_entry(rest).map_err(|reason| Error::Corrupt {
                what: format!(
                    "entry {entries} at byte {offset} of a batch of {} bytes",
                    body.len()
                ),
                reason: reason.to_owned(),
            })?;
            kvss.add(entry.0);
            entries += 1;
        }
        Ok(Self { body, entries, kvss, owner: None })
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    fn push(&mut self, op: u8, kvs: KvsId, key: &[u8], value: &[u8]) -> Result<()> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyLength { len: key.len() });
        }
        self.body.reserve(ENTRY_HEAD_LEN_MAX + key.len() + value.len());
        self.body.push(op);
        varint::put(&mut self.body, u64::from(kvs.get()));
        varint::put(&mut self.body, len_u64(key));
        if op == kind::INLINE {
            varint::put(&mut self.body, len_u64(value));
        }
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        self.entries += 1;
        self.kvss.add(kvs);
        Ok(())
    }
}

/// The entries of a batch. See [`WriteBatch::ops`].
pub(crate) struct Ops<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Ops<'a> {
    type Item = (KvsId, &'a [u8], Op<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (entry, rest) = split_entry(self.rest).expect("a batch holds only entries it checked");
        self.rest = rest;
        Some(entry)
    }
}

type Entry<'a> = (KvsId, &'a [u8], Op<'a>);

/// The first entry of `bytes`, every field checked, and what follows it.
fn split_entry(bytes: &[u8]) -> Result<(Entry<'_>, &[u8]), &'static str> {
    const CUT: &str = "the entry's head is cut short, or a number in it is too large";
    let op = *bytes.first().ok_or(CUT)?;
    if op != kind::TOMBSTONE && op != kind::INLINE {
        return Err("the operation is unknown to this version");
    }
    let mut at = 1;
    let kvs = varint::take_u32(bytes, &mut at).ok_or(CUT)?;
    let key_len = varint::take_len(bytes, &mut at).ok_or(CUT)?;
    let value_len =
        if op == kind::INLINE { varint::take_len(bytes, &mut at).ok_or(CUT)? } else { 0 };
    if key_len == 0 || key_len > KEY_BYTES_MAX {
        return Err("the key's length is out of range");
    }
    if value_len > VALUE_BYTES_MAX {
        return Err("the value's length is out of range");
    }
    let (key, rest) = bytes[at..].split_at_checked(key_len).ok_or("the key is cut short")?;
    let (value, rest) = rest.split_at_checked(value_len).ok_or("the value is cut short")?;
    let op = if op == kind::INLINE { Op::Inline(value) } else { Op::Tombstone };
    Ok(((KvsId::new(kvs), key, op), rest))
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KVS: KvsId = KvsId::new(7);

    fn sample() -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put_id(KVS, b"key", b"value").unwrap();
        batch.delete_id(KvsId::new(0x0102_0304), b"k").unwrap();
        batch
    }

    #[test]
    fn layout_is_frozen() {
        let mut bytes = vec![1, 7, 3, 5];
        bytes.extend_from_slice(b"keyvalue");
        bytes.extend_from_slice(&[0, 0x84, 0x86, 0x88, 0x08, 1, b'k']);
        assert_eq!(sample().body(), bytes);
    }

    #[test]
    fn a_batch_knows_its_kvss() {
        let kvss = |batch: &WriteBatch| batch.kvss().map(KvsId::get).collect::<Vec<_>>();
        let mut batch = WriteBatch::new();
        assert_eq!(kvss(&batch), []);
        for (kvs, all) in [(7, &[7][..]), (7, &[7]), (3, &[3, 7]), (7, &[3, 7]), (9, &[3, 7, 9])] {
            batch.put_id(KvsId::new(kvs), b"k", b"v").unwrap();
            assert_eq!(kvss(&batch), all);
            assert_eq!(kvss(&WriteBatch::from_body(batch.body().to_vec()).unwrap()), all);
        }
    }

    #[test]
    fn a_bad_entry_leaves_the_batch_as_it_was() {
        let mut batch = sample();
        let before = batch.body().to_vec();
        let long = vec![0; KEY_BYTES_MAX + 1];
        let huge = vec![0; VALUE_BYTES_MAX + 1];
        assert!(matches!(batch.put_id(KVS, b"", b""), Err(Error::KeyLength { len: 0 })));
        assert!(matches!(batch.delete_id(KVS, &long), Err(Error::KeyLength { len: 1345 })));
        assert!(matches!(batch.put_id(KVS, b"k", &huge), Err(Error::ValueLength { .. })));
        assert_eq!(batch.body(), before);
        assert_eq!(batch.len(), 2);
    }

    #[test]
    fn limits_themselves_are_accepted() {
        let (key, value) = (vec![1; KEY_BYTES_MAX], vec![2; VALUE_BYTES_MAX]);
        let mut batch = WriteBatch::new();
        batch.put_id(KVS, &key, &value).unwrap();
        let again = WriteBatch::from_body(batch.body().to_vec()).unwrap();
        assert_eq!(again.ops().next(), Some((KVS, &key[..], Op::Inline(&value[..]))));
        let mut batch = WriteBatch::new();
        batch.put_id(KvsId::new(u32::MAX), &key, &value).unwrap();
        assert_eq!(batch.len_bytes(), ENTRY_HEAD_LEN_MAX + key.len() + value.len());
    }

    #[test]
    fn reserved_bits_are_refused() {
        for bit in [1, 4, 5, 7] {
            let mut body = sample().body().to_vec();
            body[0] |= 1 << bit;
            assert!(WriteBatch::from_body(body.clone()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_cut_body_is_refused() {
        let batch = sample();
        for len in 1..batch.len_bytes() {
            let whole_first_entry = len == 12;
            assert_eq!(
                WriteBatch::from_body(batch.body()[..len].to_vec()).is_ok(),
                whole_first_entry
            );
        }
    }

    type Model = Vec<(u32, Vec<u8>, Option<Vec<u8>>)>;

    fn model() -> impl Strategy<Value = Model> {
        let key = prop::collection::vec(any::<u8>(), 1..40);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..100));
        prop::collection::vec((any::<u32>(), key, value), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_after_a_round_trip(model in model()) {
            let mut batch = WriteBatch::new();
            for (kvs, key, value) in &model {
                match value {
                    Some(value) => batch.put_id(KvsId::new(*kvs), key, value).unwrap(),
                    None => batch.delete_id(KvsId::new(*kvs), key).unwrap(),
                }
            }
            let again = WriteBatch::from_body(batch.body().to_vec()).unwrap();
            prop_assert_eq!(again.len(), model.len());
            let found: Model = again
                .ops()
                .map(|(kvs, key, op)| {
                    let value = match op {
                        Op::Inline(value) => Some(value.to_vec()),
                        Op::Tombstone => None,
                    };
                    (kvs.get(), key.to_vec(), value)
                })
                .collect();
            prop_assert_eq!(found, model);
        }

        #[test]
        fn any_bytes_decode_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(batch) = WriteBatch::from_body(body.clone()) {
                prop_assert_eq!(batch.ops().count(), batch.len());
                prop_assert_eq!(batch.body(), body);
            }
        }
    }
}
