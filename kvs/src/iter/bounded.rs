//! What a user's cursor shows: the newest visible version of each key, without tombstones, within
//! bounds.
//!
//! [`Visible`] walks any version cursor. Forward, the first version of a key that is old enough is
//! the one to show; the rest of the key is stepped over. Backward, versions of a key come oldest
//! first, so the walk goes one version too far before it knows, and takes that step back
//! ([`VersionCursor::return_to`]). A key with many versions (a counter in a memtable) is left by a
//! seek after a few steps, and so are its versions that are too new
//! ([`VersionCursor::seek_version`]).
//!
//! Prefix, start and end are folded into one pair of bounds when the cursor is made. Nothing is
//! read before the first [`Visible::advance`].
//!
//! Between two keys that are shown any number of deleted ones may lie. Each key looked at takes one
//! of the caller's steps; when they are used up the walk pauses where it is. Where it is known that
//! nothing lives the walk seeks past ([`dead`](crate::dead)).

use crate::dead::walk::{DeadWalk, Onward};
use crate::entry::op::Op;
use crate::entry::version::VersionCursor;
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
    /// What is known of keys that are dead, if anything can be.
    dead: Option<DeadWalk>,
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
        Self { cursor, at, low, high, reverse, place, dead: None, shown, scratch }
    }

    /// Asks and tells about dead ranges. `dead` is of the same revision and way.
    pub(crate) fn with_dead(mut self, dead: Option<DeadWalk>) -> Self {
        self.dead = dead;
        self
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
        self.tell_dead(led);
        Ok(led)
    }

    /// Says where the stretch of dead keys ends that the walk was in.
    fn tell_dead(&mut self, led: Advance) {
        let Some(dead) = self.dead.as_mut().filter(|dead| dead.is_in_run()) else { return };
        match (led, self.reverse) {
            (Advance::Paused, _) => dead.pause(self.cursor.key()),
            (Advance::Key, false) => dead.end(Some(self.cursor.key())),
            (Advance::Key, true) => {
                dead.end(Some(successor(self.cursor.key(), &mut self.scratch)));
            }
            (Advance::End, false) => dead.end(self.high.as_deref()),
            (Advance::End, true) => dead.end(Some(&self.low)),
        }
    }

    /// Continues from `key` (inclusive) in the direction, within the bounds. Reads at the next
    /// `advance`.
    #[expect(clippy::unnecessary_wraps, reason = "a seek is allowed to read")]
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.place = Place::Start(Some(key.to_vec()));
        if let Some(dead) = &mut self.dead {
            dead.leave();
        }
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
        match self.cursor.op() {
            Op::Tombstone => 0,
            Op::Inline(value) => value.len(),
            Op::Extern(ptr) => usize::try_from(ptr.len).expect("usize has at least 32 bits"),
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
        match self.dead.as_mut().map_or(Onward::Step, |dead| dead.start(from)) {
            Onward::Past(key) if self.high.as_ref().is_some_and(|high| key >= high) => {
                return Ok(false);
            }
            Onward::Past(key) => self.cursor.seek(&key)?,
            Onward::End => return Ok(false),
            Onward::Step | Onward::Again(_) => self.cursor.seek(from)?,
        }
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
            self.copy_key();
            let has_newer = self.cursor.revision() > self.at;
            if has_newer {
                self.end_dead();
                self.leave_newer()?;
                if !self.on_shown() {
                    continue;
                }
            }
            if self.cursor.op() != Op::Tombstone {
                return Ok(Advance::Key);
            }
            match self.pass_dead(has_newer) {
                Onward::Step => self.leave_forward()?,
                Onward::Again(key) | Onward::Past(key) => self.cursor.seek(&key)?,
                Onward::End => return Ok(Advance::End),
            }
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
            let mut has_newer = self.cursor.revision() > self.at;
            if !has_newer {
                has_newer = self.newest_backward()?;
                if self.cursor.op() != Op::Tombstone {
                    return Ok(Advance::Key);
                }
            }
            if has_newer {
                self.end_dead();
            }
            match self.pass_dead(has_newer) {
                Onward::Step => self.leave_backward()?,
                Onward::Again(key) => {
                    let before = successor(&key, &mut self.scratch);
                    self.cursor.seek_before(before)?;
                }
                Onward::Past(key) => self.cursor.seek_before(&key)?,
                Onward::End => return Ok(Advance::End),
            }
        }
        Ok(Advance::End)
    }

    /// How to go on from the dead key `shown`. One that has versions newer than the walk's revision
    /// is of no stretch: the next reader may see it live.
    fn pass_dead(&mut self, has_newer: bool) -> Onward {
        match &mut self.dead {
            Some(dead) if !has_newer => dead.pass(&self.shown),
            _ => Onward::Step,
        }
    }

    /// A stretch of dead keys ends at `shown`, which is not of it.
    fn end_dead(&mut self) {
        let Some(dead) = self.dead.as_mut().filter(|dead| dead.is_in_run()) else { return };
        let shown = &self.shown[..];
        let end = if self.reverse { successor(shown, &mut self.scratch) } else { shown };
        dead.end(Some(end));
    }

    /// From a visible version of `shown` to the newest visible one. True: there are newer ones.
    fn newest_backward(&mut self) -> Result<bool> {
        if !self.cursor.may_have_newer() {
            return Ok(false);
        }
        for _ in 0..STEPS_MAX {
            let revision = self.cursor.revision();
            self.cursor.prev()?;
            let has_newer = self.on_shown();
            if !has_newer || self.cursor.revision() > self.at {
                self.cursor.return_to(&self.shown, revision)?;
                return Ok(has_newer);
            }
        }
        self.cursor.seek(&self.shown)?;
        let has_newer = self.cursor.revision() > self.at;
        if has_newer {
            self.cursor.seek_version(&self.shown, self.at)?;
        }
        Ok(has_newer)
    }

    /// Past the versions of `shown` that are too new.
    fn leave_newer(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            if !self.on_shown() || self.cursor.revision() <= self.at {
                return Ok(());
            }
            self.cursor.next()?;
        }
        self.cursor.seek_version(&self.shown, self.at)
    }

    fn on_shown(&self) -> bool {
        self.cursor.valid() && self.cursor.key() == self.shown
    }

    fn copy_key(&mut self) {
        self.shown.clear();
        self.shown.extend_from_slice(self.cursor.key());
    }

    /// From a version of `shown` past its older ones.
    fn leave_forward(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            self.cursor.next()?;
            if !self.on_shown() {
                return Ok(());
            }
        }
        self.cursor.seek(successor(&self.shown, &mut self.scratch))
    }

    /// From a version of `shown` past its newer ones.
    fn leave_backward(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            self.cursor.prev()?;
            if !self.on_shown() {
                return Ok(());
            }
        }
        self.cursor.seek_before(&self.shown)
    }
}

#[cfg(test)]
mod tests;
