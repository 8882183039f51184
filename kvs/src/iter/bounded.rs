//! What a user's cursor shows: the newest visible version of each key, without tombstones, within
//! bounds.
//!
//! [`Visible`] walks any version cursor. Forward, the first version of a key that is old enough is
//! the one to show; the rest of the key is stepped over. Backward, versions of a key come oldest
//! first, so the walk goes one version too far before it knows, and takes that step back
//! ([`VersionCursor::return_to`]). A key with many versions (a counter in a memtable) is left by a
//! seek after a few steps.
//!
//! Prefix, start and end are folded into one pair of bounds when the cursor is made. Nothing is
//! read before the first [`Visible::advance`].
//!
//! Between two keys that are shown any number of deleted ones may lie. Each version looked at takes
//! one of the caller's steps; when they are used up the walk pauses where it is.

use super::{Stored, VersionCursor};
use crate::error::Result;
use crate::key::Revision;
use crate::kvset::KeyRange;
use bytes::Bytes;

/// Versions of one key that are stepped over one by one before a seek takes the rest.
const STEPS_MAX: u32 = 8;

/// Which keys a cursor shows, and in which order. The default is all keys, ascending.
///
/// All bounds apply at once: a key is shown if it starts with `prefix` and lies in
/// `start <= key < end`. Keys are compared as unsigned bytes, a prefix before its extensions.
/// Bounds that exclude each other are no error; the cursor is empty.
///
/// ```
/// use kvs::Range;
/// // The last keys of the tenant `t7`, newest name first.
/// let range = Range { prefix: "t7/".into(), reverse: true, ..Range::default() };
/// # assert_eq!(range.start, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Only keys that start with these bytes. Empty: every key does.
    pub prefix: Bytes,
    /// Smallest key, inclusive. `None`: no bound.
    pub start: Option<Bytes>,
    /// Bound above all keys, exclusive. `None`: no bound.
    pub end: Option<Bytes>,
    /// From the greatest key to the smallest.
    pub reverse: bool,
}

/// Smallest byte string above every string that starts with `prefix`; none if there is no such
/// string.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Smallest byte string above `key`, into `buffer`.
fn successor<'a>(key: &[u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    buffer.clear();
    buffer.extend_from_slice(key);
    buffer.push(0);
    buffer
}

/// Where a step of a cursor has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// To the next key.
    Key,
    /// Past the last key.
    End,
    /// The steps are used up before the next key was found: deleted keys, or versions too new for
    /// the snapshot, lie between. The next call goes on from here.
    Paused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first key, or at the key given if there is one.
    Start(Option<Vec<u8>>),
    /// The cursor stands on the version shown, a version of `Visible::shown`.
    On,
    /// The cursor stands on a version that has not been looked at.
    Between,
    /// Past the last key.
    End,
}

/// A user's view of a cursor over versions.
pub(crate) struct Visible<C: VersionCursor> {
    cursor: C,
    at: Revision,
    /// Smallest key, inclusive.
    low: Bytes,
    /// Above the greatest key.
    high: Option<Bytes>,
    reverse: bool,
    place: Place,
    /// The key being shown or stepped over; kept to reuse its allocation.
    shown: Vec<u8>,
    scratch: Vec<u8>,
}

impl<C: VersionCursor> Visible<C> {
    /// Versions after `at` are not seen.
    pub(crate) fn new(cursor: C, at: Revision, range: Range) -> Self {
        let Range { prefix, start, end, reverse } = range;
        let high = match (prefix_end(&prefix), end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let low = start.map_or(prefix.clone(), |start| start.max(prefix));
        let (place, shown, scratch) = (Place::Start(None), Vec::new(), Vec::new());
        Self { cursor, at, low, high, reverse, place, shown, scratch }
    }

    /// To the next key in the direction (first call: the first key), looking at `steps_max`
    /// versions at most.
    ///
    /// After an error the cursor is past the end, until a seek.
    pub(crate) fn advance(&mut self, steps_max: u32) -> Result<Advance> {
        assert!(steps_max > 0, "a walk without steps never ends");
        let place = std::mem::replace(&mut self.place, Place::End);
        let possible = match (place, self.reverse) {
            (Place::Start(from), true) => self.start_backward(from.as_deref())?,
            (Place::Start(from), false) => self.start_forward(from.as_deref())?,
            (Place::On, true) => self.leave_backward().map(|()| true)?,
            (Place::On, false) => self.leave_forward().map(|()| true)?,
            (Place::Between, _) => true,
            (Place::End, _) => false,
        };
        let led = match (possible, self.reverse) {
            (false, _) => Advance::End,
            (true, true) => self.backward(steps_max)?,
            (true, false) => self.forward(steps_max)?,
        };
        match led {
            Advance::Key => self.place = Place::On,
            Advance::Paused => self.place = Place::Between,
            Advance::End => {}
        }
        Ok(led)
    }

    /// Continues from `key` (inclusive) in the direction, within the bounds. Reads at the next
    /// `advance`.
    #[expect(clippy::unnecessary_wraps, reason = "a seek is allowed to read")]
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.place = Place::Start(Some(key.to_vec()));
        Ok(())
    }

    /// The key shown; after a pause, the one that is looked at next.
    pub(crate) fn key(&self) -> &[u8] {
        assert!(matches!(self.place, Place::On | Place::Between), "the cursor is on no key");
        self.cursor.key()
    }

    /// The revision of the version shown.
    pub(crate) fn revision(&self) -> Revision {
        assert!(self.place == Place::On, "no key is shown");
        self.cursor.revision()
    }

    /// Bytes of the value shown.
    pub(crate) fn value_len(&self) -> usize {
        assert!(self.place == Place::On, "no key is shown");
        match self.cursor.stored() {
            Stored::Tombstone => 0,
            Stored::Inline(value) => value.len(),
            Stored::Extern(ptr) => usize::try_from(ptr.len).expect("usize has at least 32 bits"),
        }
    }

    /// The value shown, read from wherever it lies.
    pub(crate) fn value(&self) -> Result<Bytes> {
        assert!(self.place == Place::On, "no key is shown");
        self.cursor.value()
    }

    /// The part of `range` that lies within the bounds.
    pub(crate) fn within_bounds(&self, range: KeyRange) -> Option<KeyRange> {
        let KeyRange { from, to } = range;
        let from = from.max(self.low[..].into());
        let to = match &self.high {
            Some(high) => to.min(high[..].into()),
            None => to,
        };
        (from < to).then_some(KeyRange { from, to })
    }

    /// Whether there can be any key between the bounds.
    fn possible(&self) -> bool {
        self.high.as_ref().is_none_or(|high| self.low < *high)
    }

    fn start_forward(&mut self, from: Option<&[u8]>) -> Result<bool> {
        if !self.possible() {
            return Ok(false);
        }
        let from = from.unwrap_or_default().max(&self.low[..]);
        self.cursor.seek(from)?;
        Ok(true)
    }

    fn start_backward(&mut self, from: Option<&[u8]>) -> Result<bool> {
        if !self.possible() {
            return Ok(false);
        }
        let before = from.map(|from| successor(from, &mut self.scratch));
        let before = match (before, self.high.as_deref()) {
            (Some(before), Some(high)) => Some(before.min(high)),
            (before, high) => before.or(high),
        };
        match before {
            Some(before) => self.cursor.seek_before(before)?,
            None => self.cursor.seek_last()?,
        }
        Ok(true)
    }

    /// From the newest version of a key to the first version to show.
    fn forward(&mut self, mut steps: u32) -> Result<Advance> {
        while self.cursor.valid() {
            if self.high.as_ref().is_some_and(|high| self.cursor.key() >= &high[..]) {
                return Ok(Advance::End);
            }
            let Some(left) = steps.checked_sub(1) else { return Ok(Advance::Paused) };
            steps = left;
            if self.cursor.revision() > self.at {
                self.cursor.next()?;
                continue;
            }
            self.copy_key();
            if self.cursor.stored() != Stored::Tombstone {
                return Ok(Advance::Key);
            }
            self.leave_forward()?;
        }
        Ok(Advance::End)
    }

    /// From the oldest version of a key to the first version to show, going down.
    fn backward(&mut self, mut steps: u32) -> Result<Advance> {
        while self.cursor.valid() {
            if self.cursor.key() < &self.low[..] {
                return Ok(Advance::End);
            }
            let Some(left) = steps.checked_sub(1) else { return Ok(Advance::Paused) };
            steps = left;
            self.copy_key();
            if self.cursor.revision() <= self.at {
                self.newest_backward()?;
                if self.cursor.stored() != Stored::Tombstone {
                    return Ok(Advance::Key);
                }
            }
            self.leave_backward()?;
        }
        Ok(Advance::End)
    }

    /// From a visible version of `shown` to the newest visible one.
    fn newest_backward(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            let revision = self.cursor.revision();
            self.cursor.prev()?;
            if !self.on_shown() || self.cursor.revision() > self.at {
                return self.cursor.return_to(&self.shown, revision);
            }
        }
        self.cursor.seek(&self.shown)?;
        while self.cursor.revision() > self.at {
            self.cursor.next()?;
        }
        Ok(())
    }

    fn on_shown(&self) -> bool {
        self.cursor.valid() && self.cursor.key() == self.shown
    }

    fn copy_key(&mut self) {
        self.shown.clear();
        self.shown.extend_from_slice(self.cursor.key());
    }

    /// Past the older versions of `shown`.
    fn leave_forward(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            if !self.on_shown() {
                return Ok(());
            }
            self.cursor.next()?;
        }
        if self.on_shown() {
            self.cursor.seek(successor(&self.shown, &mut self.scratch))?;
        }
        Ok(())
    }

    /// Past the newer versions of `shown`.
    fn leave_backward(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            if !self.on_shown() {
                return Ok(());
            }
            self.cursor.prev()?;
        }
        if self.on_shown() {
            self.cursor.seek_before(&self.shown)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::merge::Merge;
    use super::super::model::{Model, Version, VersionList, key_of, runs_of};
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = Range> {
        let key = || any::<u8>().prop_map(|seed| Bytes::from(key_of(seed)));
        let prefix = (0..3usize, key()).prop_map(|(len, key)| key.slice(..len.min(key.len())));
        let bound = || proptest::option::weighted(0.4, key());
        (prefix, bound(), bound(), any::<bool>()).prop_map(|(prefix, start, end, reverse)| Range {
            prefix,
            start,
            end,
            reverse,
        })
    }

    fn expected(model: &Model, at: u64, range: &Range, from: Option<&[u8]>) -> Vec<Version> {
        let mut all = model.visible(at);
        all.retain(|(key, _, _)| {
            key.starts_with(&range.prefix)
                && range.start.as_ref().is_none_or(|start| key >= start)
                && range.end.as_ref().is_none_or(|end| key < end)
        });
        if range.reverse {
            all.reverse();
        }
        all.retain(|(key, _, _)| {
            from.is_none_or(|from| if range.reverse { &key[..] <= from } else { &key[..] >= from })
        });
        all
    }

    /// To the next key, a few steps at a time.
    fn on<C: VersionCursor>(visible: &mut Visible<C>, steps_max: u32) -> bool {
        loop {
            match visible.advance(steps_max).unwrap() {
                Advance::Key => return true,
                Advance::End => return false,
                Advance::Paused => assert!(!visible.key().is_empty()),
            }
        }
    }

    fn shown<C: VersionCursor>(visible: &Visible<C>) -> Version {
        let value = visible.value().unwrap().to_vec();
        assert_eq!(visible.value_len(), value.len());
        (visible.key().to_vec(), visible.revision().get(), Some(value))
    }

    proptest! {
        #![proptest_config(super::super::model::config())]
        #[test]
        fn a_cursor_shows_the_newest_visible_version_of_each_key_in_bounds(
            runs in runs_of(5, 40),
            range in range(),
            at in 0..13u64,
            steps_max in 1..5u32,
            seeks in proptest::collection::vec((any::<u8>(), 0..6usize), 0..4),
        ) {
            let sources = runs.iter().map(|run| VersionList::new(run.clone())).collect();
            let model = Model::of(&runs);
            let at_revision = Revision::new(at);
            let mut visible = Visible::new(Merge::new(sources), at_revision, range.clone());
            let mut from = None;
            for (seek, steps) in seeks {
                let all = expected(&model, at, &range, from.as_deref());
                for expect in all.into_iter().take(steps) {
                    prop_assert!(on(&mut visible, steps_max));
                    prop_assert_eq!(shown(&visible), expect);
                }
                from = Some(key_of(seek));
                visible.seek(&key_of(seek)).unwrap();
            }
            for expect in expected(&model, at, &range, from.as_deref()) {
                prop_assert!(on(&mut visible, steps_max));
                prop_assert_eq!(shown(&visible), expect);
            }
            prop_assert!(!on(&mut visible, steps_max));
            prop_assert!(!on(&mut visible, steps_max), "the end is stable");
        }
    }

    #[test]
    fn prefix_end_is_the_smallest_string_above_the_prefix() {
        let table: [(&[u8], Option<&[u8]>); 6] = [
            (b"", None),
            (b"a", Some(b"b")),
            (b"a\xff", Some(b"b")),
            (b"a\xff\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"\xfe\xff", Some(b"\xff")),
        ];
        for (prefix, end) in table {
            assert_eq!(prefix_end(prefix).as_deref(), end, "{prefix:?}");
        }
    }

    #[test]
    fn a_prefix_of_ff_bytes_is_walked_in_both_directions() {
        let keys: [&[u8]; 4] = [b"\xfe", b"\xff", b"\xff\xff", b"\xff\xff\x00"];
        let run = keys.map(|key| (key.to_vec(), 1, Some(vec![]))).to_vec();
        for reverse in [false, true] {
            let range = Range { prefix: b"\xff\xff"[..].into(), reverse, ..Range::default() };
            let mut visible = Visible::new(VersionList::new(run.clone()), Revision::MAX, range);
            let mut seen = Vec::new();
            while on(&mut visible, u32::MAX) {
                seen.push(visible.key().to_vec());
            }
            seen.sort();
            assert_eq!(seen, [b"\xff\xff".to_vec(), b"\xff\xff\x00".to_vec()]);
        }
    }

    #[test]
    fn a_key_with_many_versions_is_left_by_a_seek() {
        let mut run: Vec<Version> =
            (0..1000).map(|r| (b"hot".to_vec(), r, Some(vec![1]))).collect();
        run.push((b"a".to_vec(), 1, Some(vec![2])));
        run.push((b"z".to_vec(), 1, Some(vec![3])));
        for (reverse, expect) in [(false, [1, 500, 1]), (true, [1, 500, 1])] {
            let list = VersionList::new(run.clone());
            list.fail_after(600);
            let range = Range { reverse, ..Range::default() };
            let mut visible = Visible::new(list, Revision::new(500), range);
            for revision in expect {
                assert!(on(&mut visible, u32::MAX));
                assert_eq!(visible.revision().get(), revision);
            }
            assert!(!on(&mut visible, u32::MAX));
        }
    }

    #[test]
    fn a_walk_over_deleted_keys_pauses_and_goes_on_from_its_key() {
        let mut run: Vec<Version> =
            (0..1000u32).map(|n| (format!("{n:04}").into_bytes(), 1, None)).collect();
        run[0].2 = Some(vec![1]);
        run[999].2 = Some(vec![2]);
        for reverse in [false, true] {
            let range = Range { reverse, ..Range::default() };
            let list = || VersionList::new(run.clone());
            let mut visible = Visible::new(list(), Revision::MAX, range.clone());
            assert_eq!(visible.advance(1).unwrap(), Advance::Key);
            assert_eq!(visible.advance(400).unwrap(), Advance::Paused);
            let place = visible.key().to_vec();
            assert_eq!(place, if reverse { b"0598" } else { b"0401" });
            assert_eq!(visible.advance(400).unwrap(), Advance::Paused);
            assert_eq!(visible.advance(400).unwrap(), Advance::Key);
            assert_eq!(visible.advance(400).unwrap(), Advance::End);
            // The place can be gone on from by another cursor.
            let mut other = Visible::new(list(), Revision::MAX, range);
            other.seek(&place).unwrap();
            assert_eq!(other.advance(599).unwrap(), Advance::Key);
        }
    }
}
