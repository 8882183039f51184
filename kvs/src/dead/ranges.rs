//! A sorted list of ranges of keys, each dead since some revision.
//!
//! ```text
//!   keys   a   b   c   d   e   f   g   h
//!          [a .. c) since 5      [f .. ) since 9: to the greatest key there can be
//! ```
//!
//! Ranges are disjoint and do not touch: what touches is joined, and is then dead since the later
//! revision of both. The list is bounded. What is given up is chosen by `GreedyDual` (Young, 1994):
//! a range lives the longer the more there is to walk over in it, and the more lately it was used.
//!
//! PURE: a container.

use crate::key::Revision;
use bytes::Bytes;

/// Ranges of one list.
pub(crate) const RANGES_MAX: usize = 64;

/// Entries that a range must spare a walk, to be worth its place.
pub(crate) const WEIGHT_MIN: u64 = 8;

/// Keys from `from` on and before `to`, none of which lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadRange {
    /// Inclusive; empty: from the smallest key on.
    pub(crate) from: Bytes,
    /// Exclusive; `None`: to the greatest key.
    pub(crate) to: Option<Bytes>,
    /// The first revision at which this holds.
    pub(crate) since: Revision,
    /// Dead entries in it, about.
    pub(crate) weight: u64,
}

impl DeadRange {
    /// Whether there is room for a key.
    fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    fn holds(&self, key: &[u8]) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }

    /// Becomes the range of both, which touch.
    fn join(&mut self, other: Self) {
        self.from = std::mem::take(&mut self.from).min(other.from);
        self.to = match (self.to.take(), other.to) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        self.since = self.since.max(other.since);
        self.weight = self.weight.saturating_add(other.weight);
    }

    /// What is left of it on both sides of a key in it, as far as that is worth its place.
    ///
    /// Nobody knows where its entries lie. But above all that was deleted there is nothing to walk
    /// over: it is there that a queue grows.
    fn parts(self, key: &[u8]) -> impl Iterator<Item = Self> {
        let (at_start, endless) = (*self.from == *key, self.to.is_none());
        let below = Self { to: Some(Bytes::copy_from_slice(key)), ..self.clone() };
        let above = Self { from: successor(key), ..self };
        let both = !at_start && !endless && !above.is_empty();
        [below, above].into_iter().enumerate().filter_map(move |(number, part)| {
            let weight = if both { part.weight / 2 } else { part.weight };
            let worth_it = weight >= WEIGHT_MIN && !(endless && number == 1);
            (worth_it && !part.is_empty()).then_some(Self { weight, ..part })
        })
    }
}

#[derive(Clone, Debug)]
struct Held {
    range: DeadRange,
    /// The least is given up first.
    credit: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    held: Vec<Held>,
    /// The credit of what was given up last.
    clock: u64,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn to_vec(&self) -> Vec<DeadRange> {
        self.held.iter().map(|held| held.range.clone()).collect()
    }

    /// The range that holds `key` and is dead at `at`.
    pub(crate) fn find(&mut self, key: &[u8], at: Revision) -> Option<&DeadRange> {
        let clock = self.clock;
        let index = self.index_of(key)?;
        let held = &mut self.held[index];
        if held.range.since > at {
            return None;
        }
        held.credit = clock.saturating_add(held.range.weight);
        Some(&held.range)
    }

    /// Where the last range ends that lies before `key`.
    pub(crate) fn end_before(&self, key: &[u8]) -> Option<Bytes> {
        let after = self.held.partition_point(|held| *held.range.from <= *key);
        let to = self.held[after.checked_sub(1)?].range.to.clone();
        to.filter(|to| **to <= *key)
    }

    /// Adds a range; what it touches is joined with it.
    pub(crate) fn insert(&mut self, mut range: DeadRange) {
        if range.is_empty() {
            return;
        }
        let ends_before = |held: &Held| held.range.to.as_ref().is_some_and(|to| *to < range.from);
        let first = self.held.partition_point(ends_before);
        let begins = |held: &Held| range.to.as_ref().is_none_or(|to| held.range.from <= *to);
        let end = self.held.partition_point(begins);
        for old in self.held.drain(first..end) {
            range.join(old.range);
        }
        let credit = self.clock.saturating_add(range.weight);
        self.held.insert(first, Held { range, credit });
        if self.held.len() > RANGES_MAX {
            self.give_one_up();
        }
    }

    /// A key that may live from here on.
    pub(crate) fn cut(&mut self, key: &[u8]) {
        let Some(index) = self.index_of(key) else { return };
        let Held { range, credit } = self.held.remove(index);
        let parts = range.parts(key).map(|range| Held { range, credit });
        self.held.splice(index..index, parts);
        if self.held.len() > RANGES_MAX {
            self.give_one_up();
        }
    }

    fn index_of(&self, key: &[u8]) -> Option<usize> {
        let after = self.held.partition_point(|held| *held.range.from <= *key);
        let index = after.checked_sub(1)?;
        self.held[index].range.holds(key).then_some(index)
    }

    fn give_one_up(&mut self) {
        let least = (0..self.held.len()).min_by_key(|index| self.held[*index].credit);
        self.clock = self.held.remove(least.expect("there are ranges")).credit;
    }
}

/// The smallest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.extend_from_slice(key);
    bytes.push(0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    const KEYS: u8 = 40;

    fn range(from: u8, to: Option<u8>, since: u64) -> DeadRange {
        DeadRange {
            from: if from == 0 { Bytes::new() } else { vec![from].into() },
            to: to.map(|to| vec![to].into()),
            since: Revision::new(since),
            weight: 1 << 20,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, Option<u8>, u64),
        Cut(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let to = proptest::option::weighted(0.9, 1..KEYS);
        prop_oneof![
            (0..KEYS, to, 0..9u64).prop_map(|(from, to, since)| Step::Insert(from, to, since)),
            (1..KEYS).prop_map(Step::Cut),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            rng_seed: RngSeed::Fixed(1),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn a_key_is_dead_only_since_a_range_was_put_over_it(
            steps in proptest::collection::vec(step(), 1..40),
        ) {
            let mut ranges = Ranges::default();
            // Of each key: the first revision of any range over it that no cut has ended.
            let mut dead = [None; KEYS as usize];
            let mut all_kept = true;
            for step in steps {
                match step {
                    Step::Insert(from, to, since) => {
                        ranges.insert(range(from, to, since));
                        for key in from..to.unwrap_or(KEYS).max(from) {
                            let old = dead[usize::from(key)].unwrap_or(since);
                            dead[usize::from(key)] = Some(since.min(old));
                        }
                    }
                    Step::Cut(key) => {
                        // Above the key, nothing is kept of a range without end.
                        let cut = ranges.find(&[key], Revision::MAX);
                        all_kept &= cut.is_none_or(|range| range.to.is_some());
                        ranges.cut(&[key]);
                        dead[usize::from(key)] = None;
                    }
                }
                let sorted = ranges.held.windows(2).all(|pair| {
                    pair[0].range.to.as_ref().is_some_and(|to| *to < pair[1].range.from)
                });
                prop_assert!(sorted, "{:?}", ranges);
                for key in 1..KEYS {
                    let found = ranges.find(&[key], Revision::MAX).cloned();
                    let least = dead[usize::from(key)];
                    prop_assert!(found.is_none() || least.is_some(), "{} lives", key);
                    prop_assert!(!all_kept || found.is_some() == least.is_some(), "{}", key);
                    if let (Some(found), Some(least)) = (found, least) {
                        let since = found.since.get();
                        prop_assert!(since >= least);
                        prop_assert!(ranges.find(&[key], found.since).is_some());
                        let before = since.checked_sub(1);
                        let old = before.is_some_and(|at| {
                            ranges.find(&[key], Revision::new(at)).is_some()
                        });
                        prop_assert!(!old, "seen by an older reader");
                    }
                }
            }
        }
    }

    #[test]
    fn what_spares_little_is_given_up_first_unless_it_is_used() {
        let mut ranges = Ranges::default();
        let numbered = |number: u32, weight| DeadRange {
            from: format!("{number:06}").into(),
            to: Some(format!("{number:06}x").into()),
            since: Revision::ZERO,
            weight,
        };
        let has = |ranges: &mut Ranges, number: u32| {
            ranges.find(format!("{number:06}a").as_bytes(), Revision::ZERO).is_some()
        };
        ranges.insert(numbered(0, 1 << 20));
        ranges.insert(numbered(1, 101));
        for number in 2..2 + 10 * u32::try_from(RANGES_MAX).unwrap() {
            ranges.insert(numbered(number, 100));
            assert!(has(&mut ranges, 1), "used all the time");
        }
        assert_eq!(ranges.len(), RANGES_MAX);
        assert!(has(&mut ranges, 0), "a large one");
        assert!(!has(&mut ranges, 2), "a small one, and not used");
        for number in 1000..1000 + 20_000 * u32::try_from(RANGES_MAX).unwrap() / 60 {
            ranges.insert(numbered(number, 100_000));
        }
        assert!(!has(&mut ranges, 0), "a large one, and not used for long");
    }

    #[test]
    fn pieces_that_spare_nothing_go() {
        let mut ranges = Ranges::default();
        ranges.insert(DeadRange { weight: WEIGHT_MIN * 2, ..range(1, Some(30), 1) });
        ranges.cut(&[10]);
        assert_eq!(ranges.len(), 2);
        ranges.cut(&[20]);
        assert_eq!(ranges.len(), 1, "[1, 10) alone");
        ranges.cut(&[1]);
        assert_eq!(ranges.len(), 1, "its first key parts nothing");
        ranges.cut(&[5]);
        assert!(ranges.is_empty());
    }
}
