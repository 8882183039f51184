//! Merging sorted sources of versions into one.
//!
//! Sources are listed newest first. Every version of every source is shown once, in the order of
//! the [`VersionCursor`] laws; where two sources hold the same key and revision, the newer source
//! is shown and the older one is stepped over.
//!
//! ```text
//!                 sources          a: 3  7  9      b: 4  7  8      c: 1
//!  forward        each stands at its first version at or after the current one
//!  backward       each stands at its last version at or before the current one
//! ```
//!
//! `heap` is a binary heap of source indices: the current version's source is on top, exhausted
//! sources are not in it. Changing direction therefore needs no search: a source on the heap steps
//! once, an exhausted one starts from the end it ran off. A step allocates nothing. Mostly one
//! source runs on for a while, and in leaves that were merged lately nearly all keys are of one; so
//! the merge knows which source comes second ([`Second`]), and a step that leaves the same one on
//! top compares one pair of keys; any other about `2 log2(sources)`.
//!
//! After an error the merge is invalid until the next seek. Which versions a reader may see is
//! decided in [`bounded`](super::bounded), not here.

use crate::entry::op::Op;
use crate::entry::version::{ValuePtr, VersionCursor, step_to};
use crate::error::Result;
use crate::key::Revision;
use bytes::Bytes;
use mpool::MblockId;
use std::cmp::Ordering;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// The place in the heap of the source that comes after the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    None,
    /// It stands at a later version.
    After(usize),
    /// It stands at the same version, and is shown by the top.
    Twin(usize),
}

/// A merge of version cursors, itself a version cursor.
pub(crate) struct Merge<C: VersionCursor> {
    sources: Vec<C>,
    heap: Vec<usize>,
    second: Second,
    direction: Direction,
    /// The only source that the last step moved, if that step went backward.
    moved_back: Option<usize>,
}

/// The order of two positions: key ascending, then revision descending.
fn position<C: VersionCursor>(a: &C, b: &C) -> Ordering {
    a.key().cmp(b.key()).then_with(|| b.revision().cmp(&a.revision()))
}

impl<C: VersionCursor> Merge<C> {
    /// `sources` are newest first. The merge is invalid until the first seek.
    pub(crate) fn new(sources: Vec<C>) -> Self {
        let heap = Vec::with_capacity(sources.len());
        let (direction, second) = (Direction::Forward, Second::None);
        Self { sources, heap, second, direction, moved_back: None }
    }

    /// Places every source by `place` and orders them for `direction`.
    fn place(
        &mut self,
        direction: Direction,
        mut place: impl FnMut(&mut C) -> Result<()>,
    ) -> Result<()> {
        self.direction = direction;
        self.moved_back = None;
        self.heap.clear();
        self.sources.iter_mut().try_for_each(&mut place)?;
        self.build();
        Ok(())
    }

    /// Fills the heap with the valid sources.
    fn build(&mut self) {
        self.heap.clear();
        self.heap.extend((0..self.sources.len()).filter(|&i| self.sources[i].valid()));
        for parent in (0..self.heap.len() / 2).rev() {
            self.sift_down(parent);
        }
        self.find_second();
    }

    /// What follows the top of a heap that is in order.
    fn find_second(&mut self) {
        self.second = match self.first_child(0) {
            None => Second::None,
            Some(place) => match self.order(self.heap[0], self.heap[place]) {
                Ordering::Equal => Second::Twin(place),
                _ => Second::After(place),
            },
        };
    }

    /// The order of two sources' positions in the present direction.
    #[inline]
    fn order(&self, a: usize, b: usize) -> Ordering {
        let order = position(&self.sources[a], &self.sources[b]);
        match self.direction {
            Direction::Forward => order,
            Direction::Backward => order.reverse(),
        }
    }

    /// Whether source `a` is shown before source `b`.
    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        self.order(a, b).then(a.cmp(&b)).is_lt()
    }

    fn sift_down(&mut self, mut parent: usize) {
        while let Some(child) = self.first_child(parent) {
            if !self.before(self.heap[child], self.heap[parent]) {
                return;
            }
            self.heap.swap(parent, child);
            parent = child;
        }
    }

    fn sift_up(&mut self, mut child: usize) {
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.before(self.heap[child], self.heap[parent]) {
                return;
            }
            self.heap.swap(parent, child);
            child = parent;
        }
    }

    /// The place of the child that comes first, if there is one.
    fn first_child(&self, parent: usize) -> Option<usize> {
        let (left, right) = (2 * parent + 1, 2 * parent + 2);
        if right < self.heap.len() && self.before(self.heap[right], self.heap[left]) {
            return Some(right);
        }
        (left < self.heap.len()).then_some(left)
    }

    /// Steps a source in the present direction; false: it has run off its end. An error leaves the
    /// merge invalid.
    #[inline]
    fn step_source(&mut self, source: usize) -> Result<bool> {
        let stepped = match self.direction {
            Direction::Forward => self.sources[source].next(),
            Direction::Backward => self.sources[source].prev(),
        };
        match stepped {
            Ok(()) => Ok(self.sources[source].valid()),
            Err(error) => {
                self.heap.clear();
                Err(error)
            }
        }
    }

    /// Steps the source at a place of the heap and restores the heap.
    fn step_at(&mut self, place: usize) -> Result<()> {
        if !self.step_source(self.heap[place])? {
            self.heap.swap_remove(place);
        }
        // A step only moves a source away from the top, and so does the last one that fills its
        // place: it was below `place` or in the other half, in which case nothing changes.
        if place < self.heap.len() {
            self.sift_up(place);
            self.sift_down(place);
        }
        self.find_second();
        Ok(())
    }

    /// Steps the top, which has no twin.
    #[inline]
    fn step_top(&mut self) -> Result<()> {
        let top = self.heap[0];
        if self.step_source(top)? {
            let Second::After(place) = self.second else { return Ok(()) };
            if self.order(top, self.heap[place]).is_lt() {
                return Ok(());
            }
        } else {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        self.find_second();
        Ok(())
    }

    /// Steps past the current version, and past its twins in older sources.
    fn step(&mut self) -> Result<()> {
        self.moved_back = None;
        let Some(&top) = self.heap.first() else { return Ok(()) };
        let mut alone = true;
        while let Second::Twin(place) = self.second {
            alone = false;
            self.step_at(place)?;
        }
        self.step_top()?;
        self.moved_back = (alone && self.direction == Direction::Backward).then_some(top);
        Ok(())
    }

    /// Steps once against the present direction.
    fn turn(&mut self) -> Result<()> {
        let Some(&top) = self.heap.first() else { return Ok(()) };
        self.moved_back = None;
        let turned = self.turn_sources(top);
        self.heap.clear();
        turned?;
        self.direction = match self.direction {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        };
        self.build();
        Ok(())
    }

    /// Moves every source to its neighbour on the other side of `top`'s version, `top` last.
    ///
    /// One step suffices for a source that does not change. A memtable grows while it is read, so
    /// the step is repeated over versions that appeared in between.
    fn turn_sources(&mut self, top: usize) -> Result<()> {
        let backward = self.direction == Direction::Forward;
        for i in (0..self.sources.len()).filter(|&i| i != top) {
            match (self.sources[i].valid(), backward) {
                (true, true) => self.sources[i].prev()?,
                (true, false) => self.sources[i].next()?,
                (false, true) => self.sources[i].seek_last()?,
                (false, false) => self.sources[i].seek_first()?,
            }
            let beyond = if backward { Ordering::Less } else { Ordering::Greater };
            while self.sources[i].valid()
                && position(&self.sources[i], &self.sources[top]) != beyond
            {
                if backward { self.sources[i].prev()? } else { self.sources[i].next()? }
            }
        }
        if backward { self.sources[top].prev() } else { self.sources[top].next() }
    }

    fn current(&self) -> &C {
        &self.sources[*self.heap.first().expect("the cursor is valid")]
    }
}

impl<C: VersionCursor> VersionCursor for Merge<C> {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.place(Direction::Forward, |source| source.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.place(Direction::Backward, |source| source.seek_before(key))
    }

    fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        self.place(Direction::Forward, |source| source.seek_version(key, at))
    }

    fn seek_first(&mut self) -> Result<()> {
        self.place(Direction::Forward, C::seek_first)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.place(Direction::Backward, C::seek_last)
    }

    fn valid(&self) -> bool {
        !self.heap.is_empty()
    }

    fn key(&self) -> &[u8] {
        self.current().key()
    }

    fn revision(&self) -> Revision {
        self.current().revision()
    }

    fn op(&self) -> Op<'_, ValuePtr> {
        self.current().op()
    }

    fn vblock(&self, ptr: ValuePtr) -> MblockId {
        self.current().vblock(ptr)
    }

    fn next(&mut self) -> Result<()> {
        if self.direction == Direction::Forward { self.step() } else { self.turn() }
    }

    fn prev(&mut self) -> Result<()> {
        if self.direction == Direction::Backward { self.step() } else { self.turn() }
    }

    /// Going backward, the next version is that of the second source or of the top itself.
    fn may_have_newer(&self) -> bool {
        let of_second = match self.second {
            _ if self.direction == Direction::Forward => true,
            Second::After(place) | Second::Twin(place) => {
                self.sources[self.heap[place]].key() == self.key()
            }
            Second::None => false,
        };
        of_second || self.current().may_have_newer()
    }

    fn value(&self) -> Result<Bytes> {
        self.current().value()
    }

    /// Takes back the step of the one source that moved; the direction stays backward.
    fn return_to(&mut self, key: &[u8], revision: Revision) -> Result<()> {
        let Some(moved) = self.moved_back.take() else {
            return step_to(self, key, revision);
        };
        if let Err(error) = self.sources[moved].return_to(key, revision) {
            self.heap.clear();
            return Err(error);
        }
        let place = self.heap.iter().position(|&i| i == moved).unwrap_or_else(|| {
            self.heap.push(moved);
            self.heap.len() - 1
        });
        self.sift_up(place);
        self.find_second();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, Version, VersionList, key_of, runs_of};
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Seek(u8),
        SeekBefore(u8),
        SeekVersion(u8, u64),
        First,
        Last,
        Next,
        Prev,
        /// Back and at once forth again by `return_to`.
        Return,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => any::<u8>().prop_map(Step::Seek),
            1 => any::<u8>().prop_map(Step::SeekBefore),
            1 => (any::<u8>(), 0..13u64).prop_map(|(key, at)| Step::SeekVersion(key, at)),
            1 => Just(Step::First),
            1 => Just(Step::Last),
            8 => Just(Step::Next),
            8 => Just(Step::Prev),
            2 => Just(Step::Return),
        ]
    }

    fn apply(merge: &mut Merge<VersionList>, model: &mut Model, step: Step) {
        match step {
            Step::Seek(key) => {
                merge.seek(&key_of(key)).unwrap();
                model.seek(&key_of(key));
            }
            Step::SeekBefore(key) => {
                merge.seek_before(&key_of(key)).unwrap();
                model.seek_before(&key_of(key));
            }
            Step::SeekVersion(key, at) => {
                merge.seek_version(&key_of(key), Revision::new(at)).unwrap();
                model.seek_version(&key_of(key), at);
            }
            Step::First => {
                merge.seek_first().unwrap();
                model.seek_first();
            }
            Step::Last => {
                merge.seek_last().unwrap();
                model.seek_last();
            }
            Step::Next => {
                merge.next().unwrap();
                model.next();
            }
            Step::Prev => {
                merge.prev().unwrap();
                model.prev();
            }
            Step::Return if merge.valid() => {
                let (key, revision) = (merge.key().to_vec(), merge.revision());
                merge.prev().unwrap();
                merge.return_to(&key, revision).unwrap();
            }
            Step::Return => {}
        }
    }

    fn shown(merge: &Merge<VersionList>) -> Option<Version> {
        merge.valid().then(|| {
            let value = match merge.op() {
                Op::Tombstone => None,
                _ => Some(merge.value().unwrap().to_vec()),
            };
            (merge.key().to_vec(), merge.revision().get(), value)
        })
    }

    proptest! {
        #![proptest_config(super::super::model::config())]
        #[test]
        fn merge_is_the_ordered_union_of_its_sources(
            runs in runs_of(6, 24),
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let sources = runs.iter().map(|run| VersionList::new(run.clone())).collect();
            let mut merge = Merge::new(sources);
            let mut model = Model::of(&runs);
            prop_assert!(!merge.valid());
            for (number, step) in steps.into_iter().enumerate() {
                apply(&mut merge, &mut model, step);
                prop_assert_eq!(shown(&merge), model.current(), "step {}: {:?}", number, step);
                if merge.valid() && !merge.may_have_newer() {
                    model.prev();
                    let newer = model.current().is_some_and(|version| version.0 == merge.key());
                    prop_assert!(!newer, "step {}: {:?}", number, step);
                    let (key, revision) = (merge.key().to_vec(), merge.revision());
                    model.seek_version(&key, revision.get());
                }
            }
        }
    }

    #[test]
    fn a_merge_of_nothing_is_invalid() {
        let mut merge = Merge::<VersionList>::new(Vec::new());
        merge.seek_first().unwrap();
        merge.next().unwrap();
        merge.prev().unwrap();
        assert!(!merge.valid());
    }

    #[test]
    fn the_newest_source_shows_a_twin() {
        let version = |value: &[u8]| vec![(b"k".to_vec(), 5, Some(value.to_vec()))];
        let lists = [b"new", b"old"].map(|value| VersionList::new(version(value)));
        let mut merge = Merge::new(lists.to_vec());
        merge.seek_first().unwrap();
        assert_eq!(merge.value().unwrap(), "new");
        merge.seek_last().unwrap();
        assert_eq!(merge.value().unwrap(), "new");
        merge.prev().unwrap();
        assert!(!merge.valid());
    }

    #[test]
    fn versions_that_appear_while_turning_are_not_shown_out_of_order() {
        let run = |keys: &[&[u8]]| keys.iter().map(|k| (k.to_vec(), 1, Some(vec![]))).collect();
        let growing = VersionList::new(run(&[b"a", b"m"]));
        let grow = growing.clone();
        let mut merge = Merge::new(vec![growing, VersionList::new(run(&[b"c", b"e"]))]);
        merge.seek(b"e").unwrap();
        grow.insert((b"f".to_vec(), 9, None));
        merge.prev().unwrap();
        assert_eq!(merge.key(), b"c");
        merge.prev().unwrap();
        assert_eq!(merge.key(), b"a");
    }

    #[test]
    fn an_error_leaves_the_merge_invalid_until_a_seek() {
        let version = |key: &[u8]| (key.to_vec(), 1, Some(vec![]));
        let failing = VersionList::new(vec![version(b"a"), version(b"c")]);
        failing.fail_after(1);
        let mut merge = Merge::new(vec![failing.clone(), VersionList::new(vec![version(b"b")])]);
        merge.seek_first().unwrap();
        assert!(merge.next().is_err());
        assert!(!merge.valid());
        failing.fail_after(u64::MAX);
        merge.seek_first().unwrap();
        assert_eq!(merge.key(), b"a");
    }
}
