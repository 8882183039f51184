//! FORMAT: dead ranges kept over a restart, version 1. Property `kvs.dead` of the pool's journal.
//!
//! ```text
//! offset  size  field
//!      0     1  version   1
//!      1     8  floor     that of the manifest when they were written
//!      9     -  ranges, to the end
//!
//! range:   kvs 4 | since 8 | weight 4 | from_len 2 | to_len 2 (0xffff: no end) | from | to
//! ```
//!
//! Integers are little-endian. Without them the first scan after an open would walk over all that
//! was deleted and not collected yet. A close that has flushed everything writes the heaviest
//! ranges that fit a property. They hold at the revision `floor`, up to which kvsets have
//! everything. An open whose manifest has another floor takes none: puts may have been flushed
//! since. One that has the same replays all later puts from the log, and each takes its key out as
//! it did at first. Where the open leaves something out, as a salvage does, deletes may be missing:
//! it takes none.
//!
//! Only speed depends on them: damage to them is logged, and scans learn anew.

use super::ranges::DeadRange;
use crate::error::{Error, Result};
use crate::key::{KEY_BYTES_MAX, KvsId, Revision};
use bytes::Bytes;
use mpool::Pool;
use std::cmp::Reverse;

/// Property of the pool that holds them.
const PROPERTY: &str = "kvs.dead";
const VERSION: u8 = 1;
/// Bytes that a property may have.
const LEN_MAX: usize = 1024;
const NO_END: u16 = u16::MAX;
const _: () = assert!(KEY_BYTES_MAX < NO_END as usize);

/// Dead ranges as of a floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) floor: Revision,
    pub(crate) ranges: Vec<(KvsId, DeadRange)>,
}

impl Kept {
    /// As many as fit, the heaviest first.
    fn encode(&self) -> Vec<u8> {
        let mut raw = vec![VERSION];
        raw.extend_from_slice(&self.floor.get().to_le_bytes());
        for (kvs, range) in &self.ranges {
            let to = range.to.as_deref();
            let len = |key: &[u8]| u16::try_from(key.len()).expect("keys are short");
            let mut entry = Vec::new();
            entry.extend_from_slice(&kvs.get().to_le_bytes());
            entry.extend_from_slice(&range.since.get().to_le_bytes());
            let weight = u32::try_from(range.weight).unwrap_or(u32::MAX);
            entry.extend_from_slice(&weight.to_le_bytes());
            entry.extend_from_slice(&len(&range.from).to_le_bytes());
            entry.extend_from_slice(&to.map_or(NO_END, len).to_le_bytes());
            entry.extend_from_slice(&range.from);
            entry.extend_from_slice(to.unwrap_or_default());
            if raw.len() + entry.len() <= LEN_MAX {
                raw.extend_from_slice(&entry);
            }
        }
        raw
    }

    fn decode(raw: &[u8]) -> Option<Self> {
        let mut rest = raw;
        let [VERSION] = take(&mut rest)? else { return None };
        let floor = Revision::new(u64::from_le_bytes(take(&mut rest)?));
        let mut ranges = Vec::new();
        while !rest.is_empty() {
            let kvs = KvsId::new(u32::from_le_bytes(take(&mut rest)?));
            let since = Revision::new(u64::from_le_bytes(take(&mut rest)?));
            let weight = u32::from_le_bytes(take(&mut rest)?).into();
            let [from_len, to_len] = [take(&mut rest)?, take(&mut rest)?].map(u16::from_le_bytes);
            let from = take_key(&mut rest, from_len)?;
            let to = if to_len == NO_END { None } else { Some(take_key(&mut rest, to_len)?) };
            if since > floor || to.as_ref().is_some_and(|to| *to <= from) {
                return None;
            }
            ranges.push((kvs, DeadRange { from, to, since, weight }));
        }
        Some(Self { floor, ranges })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_key(rest: &mut &[u8], len: u16) -> Option<Bytes> {
    // One byte more than a key: the end of a range may be what follows it.
    let len = Some(usize::from(len)).filter(|len| *len <= KEY_BYTES_MAX + 1)?;
    let (key, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(Bytes::copy_from_slice(key))
}

impl Kept {
    /// Puts as many of them as fit into the pool, the heaviest first.
    pub(crate) fn write(mut self, pool: &Pool) -> Result<()> {
        self.ranges.sort_by_key(|(_, range)| Reverse(range.weight));
        let raw = self.encode();
        if pool.property(PROPERTY).is_none_or(|old| old != raw) {
            pool.set_property(PROPERTY, &raw)?;
        }
        Ok(())
    }

    /// What the last close has put there.
    pub(crate) fn read(pool: &Pool) -> Result<Option<Self>> {
        let Some(raw) = pool.property(PROPERTY) else { return Ok(None) };
        let reason = "no dead ranges of version 1".to_owned();
        let bad = || Error::Corrupt { what: format!("property {PROPERTY}"), reason };
        Self::decode(&raw).map(Some).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(from: &[u8], to: Option<&[u8]>, weight: u64) -> DeadRange {
        let to = to.map(Bytes::copy_from_slice);
        DeadRange { from: Bytes::copy_from_slice(from), to, since: Revision::new(7), weight }
    }

    fn kept() -> Kept {
        let ranges =
            vec![(KvsId::new(3), range(b"", Some(b"k"), 9)), (KvsId::new(4), range(b"a", None, 5))];
        Kept { floor: Revision::new(0x0102_0304), ranges }
    }

    #[test]
    fn layout_is_frozen() {
        let mut raw = vec![1, 4, 3, 2, 1, 0, 0, 0, 0];
        raw.extend([3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, b'k']);
        raw.extend([4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 255, 255, b'a']);
        assert_eq!(kept().encode(), raw);
        assert_eq!(Kept::decode(&raw), Some(kept()));
        for cut in (0..raw.len()).filter(|cut| ![9, 30].contains(cut)) {
            assert_eq!(Kept::decode(&raw[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let long = |weight| (KvsId::new(1), range(&[1; 600], Some(&[2; 300]), weight));
        let short = (KvsId::new(1), range(b"c", Some(b"d"), 1));
        let kept = Kept { floor: Revision::new(9), ranges: vec![long(3), long(2), short.clone()] };
        let raw = kept.encode();
        assert!(raw.len() <= LEN_MAX);
        assert_eq!(Kept::decode(&raw).unwrap().ranges, [long(3), short]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(
            mut raw in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Some(first) = raw.first_mut() {
                *first = VERSION;
            }
            if let Some(kept) = Kept::decode(&raw) {
                prop_assert_eq!(Kept::decode(&kept.encode()), Some(kept));
            }
        }
    }
}
