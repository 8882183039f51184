//! Sorted, prefix-compressed keys inside one page, with restart points.
//!
//! ```text
//! entry:  shared varint | unshared varint | suffix | payload
//! ```
//!
//! `shared` counts the leading bytes that the key has in common with the key before it. Every 16th
//! entry is a *restart point*: its `shared` is 0, so its key stands alone. The offsets of the
//! restart points, 2 bytes each, end the body; a search is binary over them, then linear over at
//! most 16 entries.
//!
//! The linear part compares without building keys. Let `m` be the length of the prefix that the
//! target shares with the entry before, which is smaller than the target. If the next entry shares
//! more than `m` with that entry, it is smaller too; if less, it is greater; only if exactly `m`
//! its suffix must be looked at.
//!
//! Leaf and interior pages use this; they differ in the payload. What the payload means is theirs.

use super::super::page::{BODY_BYTES, Decode, PageHead};
use crate::entry::varint;
use crate::key::KEY_BYTES_MAX;

/// Entries from one restart point to the next. Part of the format.
pub(crate) const RESTART_INTERVAL: usize = 16;

/// What follows the key in an entry.
pub(crate) trait Payload: Default {
    /// Reads one at `*at`, moves `*at` behind it. `self` holds the payload of the entry before, or,
    /// at a restart point, the default.
    fn take(&mut self, bytes: &[u8], at: &mut usize) -> Decode<()>;
}

/// Interior entries have none: the child is known by the entry's number.
impl Payload for () {
    fn take(&mut self, _: &[u8], _: &mut usize) -> Decode<()> {
        Ok(())
    }
}

/// The entries of a page.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The body up to the end of the last entry.
    bytes: &'a [u8],
    restarts: &'a [u8],
    entries: usize,
}

/// Where a search ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<P> {
    /// Number of entries smaller than the target.
    pub(crate) smaller: usize,
    /// The payload of the entry whose key is the target.
    pub(crate) equal: Option<P>,
}

/// The head of one entry: how its key is made, and where its payload starts.
pub(crate) struct KeyPart<'a> {
    pub(crate) shared: usize,
    pub(crate) suffix: &'a [u8],
}

impl<'a> Run<'a> {
    /// The entries of `page`, whose trailer is `head`.
    #[inline]
    pub(crate) fn new(page: &'a [u8], head: PageHead) -> Decode<Self> {
        let entries = usize::from(head.entries);
        let restarts = usize::from(head.restarts);
        if entries == 0 || restarts != entries.div_ceil(RESTART_INTERVAL) {
            return Err("page has a wrong number of restart points");
        }
        let restarts_at =
            BODY_BYTES.checked_sub(2 * restarts).ok_or("page has too many entries")?;
        let bytes = page.get(..usize::from(head.body_len)).ok_or("page is cut short")?;
        let restarts = page.get(restarts_at..BODY_BYTES).ok_or("page is cut short")?;
        Ok(Self { bytes, restarts, entries })
    }

    /// The body up to the end of the last entry.
    #[inline]
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of restart points; at least one.
    #[inline]
    pub(crate) const fn restarts(&self) -> usize {
        self.restarts.len() / 2
    }

    /// Offset of restart point `index`.
    #[inline]
    pub(crate) fn restart(&self, index: usize) -> Decode<usize> {
        let bytes = self.restarts.get(2 * index..2 * index + 2).ok_or("no such restart point")?;
        let offset = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        if offset < self.bytes.len() { Ok(offset) } else { Err("restart point beyond the entries") }
    }

    /// Reads the head of the entry at `*at`.
    #[inline]
    pub(crate) fn key_part(&self, at: &mut usize) -> Decode<KeyPart<'a>> {
        const CUT: &str = "entry is cut short";
        let shared = varint::take_len(self.bytes, at).ok_or(CUT)?;
        let unshared = varint::take_len(self.bytes, at).ok_or(CUT)?;
        if shared > KEY_BYTES_MAX || unshared > KEY_BYTES_MAX - shared {
            return Err("entry has too long a key");
        }
        let suffix = self.bytes.get(*at..*at + unshared).ok_or(CUT)?;
        *at += unshared;
        Ok(KeyPart { shared, suffix })
    }

    /// Number of restart points whose key is at or before `target`.
    pub(crate) fn restarts_up_to(&self, target: &[u8]) -> Decode<usize> {
        let (mut low, mut high) = (0, self.restarts());
        while low < high {
            let middle = low + (high - low) / 2;
            let part = self.key_part(&mut self.restart(middle)?)?;
            if part.shared != 0 {
                return Err("restart point shares a prefix");
            }
            if part.suffix <= target {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Looks for `target`.
    #[inline]
    pub(crate) fn find<P: Payload>(&self, target: &[u8]) -> Decode<Found<P>> {
        let up_to = self.restarts_up_to(target)?;
        if up_to == 0 {
            return Ok(Found { smaller: 0, equal: None });
        }
        let mut at = self.restart(up_to - 1)?;
        let end = if up_to < self.restarts() { self.restart(up_to)? } else { self.bytes.len() };
        let mut smaller = (up_to - 1) * RESTART_INTERVAL;
        let mut matched = 0;
        let mut payload = P::default();
        while at < end {
            let part = self.key_part(&mut at)?;
            payload.take(self.bytes, &mut at)?;
            if part.shared < matched {
                return Ok(Found { smaller, equal: None });
            }
            if part.shared == matched {
                let rest = target.get(matched..).ok_or("entries are out of order")?;
                let common = common_prefix_len(part.suffix, rest);
                matched += common;
                let (have, want) = (part.suffix.get(common), rest.get(common));
                if have.is_none() && want.is_none() {
                    return Ok(Found { smaller, equal: Some(payload) });
                }
                // `None`, the end of a key, is before every byte.
                if have > want {
                    return Ok(Found { smaller, equal: None });
                }
            }
            smaller += 1;
        }
        Ok(Found { smaller: smaller.min(self.entries), equal: None })
    }
}

/// Length of the longest common prefix.
#[inline]
pub(crate) fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Collects the entries of one page.
#[derive(Default)]
pub(crate) struct RunBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u16>,
    entries: usize,
    last_key: Vec<u8>,
    head: Vec<u8>,
}

impl RunBuilder {
    /// Empty, with `prelude` before the first entry.
    pub(crate) fn reset(&mut self, prelude: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(prelude);
        self.restarts.clear();
        self.entries = 0;
        self.last_key.clear();
    }

    pub(crate) const fn entries(&self) -> usize {
        self.entries
    }

    /// Whether the next entry is a restart point.
    pub(crate) const fn at_restart(&self) -> bool {
        self.entries.is_multiple_of(RESTART_INTERVAL)
    }

    /// Appends an entry; false, and nothing is changed, if it does not fit.
    #[must_use]
    pub(crate) fn push(&mut self, key: &[u8], payload: &[u8]) -> bool {
        let restart = self.at_restart();
        let shared = if restart { 0 } else { common_prefix_len(&self.last_key, key) };
        let suffix = &key[shared..];
        self.head.clear();
        varint::put(&mut self.head, len_u64(shared));
        varint::put(&mut self.head, len_u64(suffix.len()));
        let restarts = self.restarts.len() + usize::from(restart);
        let len = self.bytes.len() + self.head.len() + suffix.len() + payload.len();
        if len + 2 * restarts > BODY_BYTES {
            return false;
        }
        if restart {
            self.restarts.push(u16::try_from(self.bytes.len()).expect("a page is 4096 bytes"));
        }
        self.bytes.extend_from_slice(&self.head);
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(payload);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
        self.entries += 1;
        true
    }

    /// Writes the entries into the zeroed `page`; returns `(entries, restarts, body_len)` for its
    /// trailer.
    pub(crate) fn write_to(&self, page: &mut [u8]) -> (u16, u16, u16) {
        page[..self.bytes.len()].copy_from_slice(&self.bytes);
        let restarts_at = BODY_BYTES - 2 * self.restarts.len();
        assert!(self.bytes.len() <= restarts_at);
        for (slot, offset) in page[restarts_at..BODY_BYTES].chunks_exact_mut(2).zip(&self.restarts)
        {
            slot.copy_from_slice(&offset.to_le_bytes());
        }
        let fits = "bounded by the page";
        (
            u16::try_from(self.entries).expect(fits),
            u16::try_from(self.restarts.len()).expect(fits),
            u16::try_from(self.bytes.len()).expect(fits),
        )
    }
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).expect("usize is at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::super::super::page::{PAGE_BYTES, PageKind};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn build(keys: &BTreeSet<Vec<u8>>) -> (Vec<u8>, PageHead, Vec<Vec<u8>>) {
        let mut builder = RunBuilder::default();
        builder.reset(&[1, 2, 3, 4]);
        let held: Vec<_> = keys.iter().take_while(|key| builder.push(key, &[])).cloned().collect();
        let mut page = vec![0; PAGE_BYTES];
        let (entries, restarts, body_len) = builder.write_to(&mut page);
        let head = PageHead { kind: PageKind::Interior, level: 1, entries, restarts, body_len };
        (page, head, held)
    }

    /// Few letters, so that keys share prefixes; sometimes long.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(b'a'..=b'c', 0..12),
            proptest::collection::vec(b'a'..=b'b', 0..200)
        ]
    }

    proptest! {
        #[test]
        fn find_agrees_with_a_sorted_set(
            keys in proptest::collection::btree_set(key(), 1..200),
            others in proptest::collection::vec(key(), 50),
        ) {
            let (page, head, held) = build(&keys);
            let run = Run::new(&page, head).unwrap();
            for target in held.iter().chain(&others) {
                let found = run.find::<()>(target).unwrap();
                prop_assert_eq!(found.smaller, held.partition_point(|key| key < target));
                prop_assert_eq!(found.equal.is_some(), held.contains(target));
            }
        }

        #[test]
        fn any_bytes_are_searched_without_panic(
            body in proptest::collection::vec(any::<u8>(), PAGE_BYTES),
            entries in 0u16..400, restarts in 0u16..30, body_len in 0u16..4096, target in key(),
        ) {
            let head = PageHead { kind: PageKind::Leaf, level: 0, entries, restarts, body_len };
            if let Ok(run) = Run::new(&body, head) {
                let _ignored_either_way = run.find::<()>(&target).is_ok();
            }
        }
    }

    #[test]
    fn a_key_that_does_not_fit_changes_nothing() {
        let mut builder = RunBuilder::default();
        builder.reset(&[]);
        assert!(builder.push(&[1; 1344], &[0; 1100]));
        assert!(builder.push(&[2; 1344], &[]));
        let before = builder.bytes.clone();
        assert!(!builder.push(&[3; 1344], &[]));
        assert_eq!(before, builder.bytes);
        assert_eq!(builder.entries(), 2);
    }
}
