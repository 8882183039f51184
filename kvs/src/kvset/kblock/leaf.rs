//! Leaf pages: one entry a key, format version 1.
//!
//! ```text
//! body:     base revision, 8 bytes little-endian | entries (see `run`)
//! payload:  kind byte | revision varint | then by kind
//!             0 tombstone  -
//!             1 inline     len varint | value
//!             2 extern     vblock varint | offset varint | len varint
//!             6 extern, the record follows that of the last extern entry:  len varint
//! ```
//!
//! The revision is the zigzag difference to the page's base, so that the pages of a young kvset
//! spend one or two bytes on it. Kind 6 is what a flush writes: values lie in key order, so place
//! is known from the entry before, and 5 bytes a key are saved. It is never used at a restart
//! point. Bits 3 to 7 of the kind byte are reserved for expiry, compression, merge operands and
//! prefix tombstones: version 1 refuses an entry that sets one.
//!
//! Sketch, 24-byte keys in a million, values in vblocks: 2 lengths + 14 suffix + 1 kind + 3
//! revision + 2 length = 22, restart points 1, filter 1.4, interior pages 0.1.

use super::super::page::{Decode, PAGE_BYTES, PageHead, PageKind, Place};
use super::run::{Payload, Run, RunBuilder};
use crate::entry::op::{Op, kind};
use crate::entry::varint;
use crate::entry::version::ValuePtr;
use crate::key::{KEY_BYTES_MAX, Revision};

const BASE_BYTES: usize = 8;
const KIND_MASK: u8 = 0b011;
const FOLLOWS: u8 = 0b100;
const EXTERN_FOLLOWS: u8 = kind::EXTERN | FOLLOWS;
/// Bytes of the checksum before each value of a vblock.
pub(crate) const RECORD_HEAD_BYTES: u32 = 4;

/// What an entry holds; an inline value by its place in the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Tombstone,
    Inline {
        at: usize,
        len: usize,
    },
    Extern(ValuePtr),
}

/// The payload of a leaf entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeafPayload {
    held: Held,
    folded_revision: u64,
    /// Where the record after the last extern one starts: (vblock, offset).
    follower: Option<(u32, u32)>,
}

impl Payload for LeafPayload {
    #[inline]
    fn take(&mut self, bytes: &[u8], at: &mut usize) -> Decode<()> {
        const CUT: &str = "entry is cut short";
        let byte = *bytes.get(*at).ok_or(CUT)?;
        *at += 1;
        self.folded_revision = varint::take(bytes, at).ok_or(CUT)?;
        self.held = match byte {
            kind::TOMBSTONE => Held::Tombstone,
            kind::INLINE => {
                let len = varint::take_len(bytes, at).ok_or(CUT)?;
                let start = *at;
                *at = start.checked_add(len).filter(|end| *end <= bytes.len()).ok_or(CUT)?;
                Held::Inline { at: start, len }
            }
            kind::EXTERN | EXTERN_FOLLOWS => {
                let (vblock, offset) = if byte == kind::EXTERN {
                    let vblock = varint::take_u32(bytes, at).ok_or(CUT)?;
                    (vblock, varint::take_u32(bytes, at).ok_or(CUT)?)
                } else {
                    self.follower.ok_or("entry follows nothing")?
                };
                let len = varint::take_u32(bytes, at).ok_or(CUT)?;
                let ptr = ValuePtr { vblock, offset, len };
                self.follower = follower(ptr);
                Held::Extern(ptr)
            }
            _ if byte & !(KIND_MASK | FOLLOWS) != 0 => return Err("entry uses a newer format"),
            _ => return Err("entry is of an unknown kind"),
        };
        Ok(())
    }
}

fn follower(ptr: ValuePtr) -> Option<(u32, u32)> {
    let end = ptr.offset.checked_add(RECORD_HEAD_BYTES)?.checked_add(ptr.len)?;
    Some((ptr.vblock, end))
}

/// A leaf page.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    base: u64,
    run: Run<'a>,
}

impl<'a> Leaf<'a> {
    /// Checks that `page` is the leaf at `place`.
    #[inline]
    pub(crate) fn decode(page: &'a [u8], place: Place) -> Decode<Self> {
        Self::of(page, PageHead::decode(page, place, PageKind::Leaf)?)
    }

    /// The leaf whose trailer was decoded before.
    #[inline]
    pub(crate) fn of(page: &'a [u8], head: PageHead) -> Decode<Self> {
        let base = page.first_chunk::<BASE_BYTES>().ok_or("page is cut short")?;
        Ok(Self { base: u64::from_le_bytes(*base), run: Run::new(page, head)? })
    }

    /// What the page holds for `key`.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Decode<Option<(Revision, Op<'a, ValuePtr>)>> {
        let found = self.run.find::<LeafPayload>(key)?;
        Ok(found.equal.map(|payload| (self.revision(&payload), self.op(&payload))))
    }

    #[inline]
    pub(super) const fn run(&self) -> &Run<'a> {
        &self.run
    }

    #[inline]
    pub(super) fn revision(&self, payload: &LeafPayload) -> Revision {
        Revision::new(self.base.wrapping_add(varint::unzigzag(payload.folded_revision)))
    }

    #[inline]
    pub(super) fn op(&self, payload: &LeafPayload) -> Op<'a, ValuePtr> {
        match payload.held {
            Held::Tombstone => Op::Tombstone,
            Held::Inline { at, len } => Op::Inline(&self.run.bytes()[at..at + len]),
            Held::Extern(ptr) => Op::Extern(ptr),
        }
    }
}

/// Collects the entries of one leaf.
#[derive(Default)]
pub(crate) struct LeafBuilder {
    run: RunBuilder,
    base: Revision,
    follower: Option<(u32, u32)>,
    payload: Vec<u8>,
}

impl LeafBuilder {
    pub(crate) const fn is_empty(&self) -> bool {
        self.run.entries() == 0
    }

    /// Appends an entry; false, and nothing is changed, if it does not fit. An empty leaf has room
    /// for any entry.
    #[must_use]
    pub(crate) fn push(
        &mut self,
        key: &[u8],
        revision: Revision,
        stored: Op<'_, ValuePtr>,
    ) -> bool {
        assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX);
        if self.is_empty() {
            self.base = revision;
            self.run.reset(&revision.get().to_le_bytes());
        }
        let follower = self.encode(revision, stored);
        let fits = self.run.push(key, &self.payload);
        if fits {
            self.follower = follower;
        }
        fits
    }

    /// Fills `payload`; returns the follower after this entry.
    fn encode(&mut self, revision: Revision, stored: Op<'_, ValuePtr>) -> Option<(u32, u32)> {
        let difference = varint::zigzag(revision.get().wrapping_sub(self.base.get()));
        let out = &mut self.payload;
        out.clear();
        let before = if self.run.at_restart() { None } else { self.follower };
        match stored {
            Op::Tombstone => {
                out.push(kind::TOMBSTONE);
                varint::put(out, difference);
                before
            }
            Op::Inline(value) => {
                out.push(kind::INLINE);
                varint::put(out, difference);
                varint::put(out, u64::try_from(value.len()).expect("usize is at most 64 bits"));
                out.extend_from_slice(value);
                before
            }
            Op::Extern(ptr) => {
                let follows = before == Some((ptr.vblock, ptr.offset));
                out.push(if follows { EXTERN_FOLLOWS } else { kind::EXTERN });
                varint::put(out, difference);
                if !follows {
                    varint::put(out, ptr.vblock.into());
                    varint::put(out, ptr.offset.into());
                }
                varint::put(out, ptr.len.into());
                follower(ptr)
            }
        }
    }

    /// Writes the leaf into `page` and starts the next one.
    pub(crate) fn write_to(&mut self, page: &mut [u8], place: Place) {
        assert_eq!(page.len(), PAGE_BYTES);
        assert!(!self.is_empty());
        page.fill(0);
        let (entries, restarts, body_len) = self.run.write_to(page);
        let head = PageHead { kind: PageKind::Leaf, level: 0, entries, restarts, body_len };
        super::super::page::seal(page, place, head);
        self.run.reset(&[]);
        self.follower = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::page::seal;
    use super::super::walk::LeafWalk;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PLACE: Place = Place { owner: 3, page: 4 };

    #[derive(Clone, Debug)]
    enum Value {
        Tombstone,
        Inline(Vec<u8>),
        Extern(ValuePtr),
    }

    impl Value {
        fn op(&self) -> Op<'_, ValuePtr> {
            match self {
                Self::Tombstone => Op::Tombstone,
                Self::Inline(value) => Op::Inline(value),
                Self::Extern(ptr) => Op::Extern(*ptr),
            }
        }
    }

    /// Places chosen so that records often follow each other.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Tombstone),
            proptest::collection::vec(any::<u8>(), 0..30).prop_map(Value::Inline),
            (0u32..2, 0u32..4).prop_map(|(vblock, number)| {
                Value::Extern(ValuePtr { vblock, offset: 32 + 14 * number, len: 10 })
            }),
            (any::<u32>(), any::<u32>(), any::<u32>())
                .prop_map(|(vblock, offset, len)| Value::Extern(ValuePtr { vblock, offset, len })),
        ]
    }

    fn entries() -> impl Strategy<Value = Entries> {
        let key = proptest::collection::vec(b'a'..=b'c', 1..20);
        let revision = prop_oneof![0u64..1000, any::<u64>()];
        proptest::collection::btree_map(key, (revision, value()), 1..150)
    }

    type Entries = BTreeMap<Vec<u8>, (u64, Value)>;
    type Read<'a> = (&'a [u8], Revision, Op<'a, ValuePtr>);

    /// The page, and the entries that fit.
    fn build(entries: &Entries) -> (Vec<u8>, Vec<Read<'_>>) {
        let mut builder = LeafBuilder::default();
        let mut held = Vec::new();
        for (key, (revision, value)) in entries {
            let revision = Revision::new(*revision);
            if !builder.push(key, revision, value.op()) {
                break;
            }
            held.push((key.as_slice(), revision, value.op()));
        }
        let mut page = vec![0xff; PAGE_BYTES];
        builder.write_to(&mut page, PLACE);
        (page, held)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_both_ways(entries in entries()) {
            let (page, held) = build(&entries);
            let leaf = Leaf::decode(&page, PLACE).unwrap();
            let mut walk = LeafWalk::default();
            walk.first(&leaf).unwrap();
            for (index, (key, revision, stored)) in held.iter().enumerate() {
                prop_assert_eq!(leaf.find(key).unwrap(), Some((*revision, *stored)));
                prop_assert_eq!(walk.key(), *key);
                prop_assert_eq!(walk.revision(&leaf), *revision);
                prop_assert_eq!(walk.op(&leaf), *stored);
                prop_assert_eq!(walk.next(&leaf).unwrap(), index + 1 < held.len());
            }
            walk.last(&leaf).unwrap();
            for (index, (key, revision, stored)) in held.iter().enumerate().rev() {
                prop_assert_eq!(walk.key(), *key);
                prop_assert_eq!(walk.revision(&leaf), *revision);
                prop_assert_eq!(walk.op(&leaf), *stored);
                prop_assert_eq!(walk.prev(&leaf).unwrap(), index > 0);
            }
        }

        #[test]
        fn flips_that_a_checksum_would_miss_never_panic(entries in entries(), bit: u16) {
            let (mut page, _) = build(&entries);
            page[usize::from(bit / 8) % PAGE_BYTES] ^= 1 << (bit % 8);
            read_all(&page, entries.keys());
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            mut page in proptest::collection::vec(any::<u8>(), PAGE_BYTES),
            entries in 1u16..60, body_len in 0u16..3900,
            key in proptest::collection::vec(any::<u8>(), 1..9),
        ) {
            let restarts = entries.div_ceil(16);
            let head = PageHead { kind: PageKind::Leaf, level: 0, entries, restarts, body_len };
            seal(&mut page, PLACE, head);
            read_all(&page, [&key].into_iter());
        }
    }

    /// Walks and searches as far as the page lets it; bounded, as each step moves.
    fn read_all<'a>(page: &[u8], keys: impl Iterator<Item = &'a Vec<u8>>) {
        let Ok(leaf) = Leaf::decode(page, PLACE) else { return };
        let mut walk = LeafWalk::default();
        let mut steps = 0;
        let mut go = walk.first(&leaf).is_ok();
        while go {
            let _any = (walk.op(&leaf), walk.revision(&leaf));
            steps += 1;
            assert!(steps <= PAGE_BYTES);
            go = walk.next(&leaf) == Ok(true);
        }
        if walk.last(&leaf).is_ok() {
            let _any_outcome = walk.prev(&leaf).is_ok();
        }
        for key in keys {
            let _any_outcome = leaf.find(key).is_ok();
            let _any_outcome = walk.seek(&leaf, key).is_ok();
        }
    }

    #[test]
    fn layout_is_frozen() {
        let mut builder = LeafBuilder::default();
        let follow = |offset| Op::Extern(ValuePtr { vblock: 1, offset, len: 300 });
        assert!(builder.push(b"ab", Revision::new(7), Op::Tombstone));
        assert!(builder.push(b"abc", Revision::new(9), Op::Inline(b"xy")));
        assert!(builder.push(b"ad", Revision::new(6), follow(32)));
        assert!(builder.push(b"b", Revision::new(7), follow(336)));
        let mut page = vec![0; PAGE_BYTES];
        builder.write_to(&mut page, PLACE);
        let entries = [
            &[7, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 2, b'a', b'b', 0, 0],
            &[2, 1, b'c', 1, 4, 2, b'x', b'y'],
            &[1, 1, b'd', 2, 1, 1, 32, 0xac, 2],
            &[0, 1, b'b', 6, 0, 0xac, 2],
        ]
        .concat();
        assert_eq!(page[..entries.len()], entries);
        let restarts_at = PAGE_BYTES - 20 - 2;
        assert!(page[entries.len()..restarts_at].iter().all(|byte| *byte == 0));
        assert_eq!(page[restarts_at..restarts_at + 8], [8, 0, 1, 0, 4, 0, 1, 0]);
    }

    #[test]
    fn reserved_bits_are_refused() {
        for (kind, refused) in [(0u8, false), (3, true), (4, true), (8, true), (0x80, true)] {
            let bytes = [kind, 0, 0, 0];
            let taken = LeafPayload::default().take(&bytes, &mut 0);
            assert_eq!(taken.is_err(), refused, "kind {kind}");
        }
        assert!(LeafPayload::default().take(&[6, 0, 1], &mut 0).is_err(), "follows nothing");
    }
}
