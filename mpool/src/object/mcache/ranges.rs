//! PURE: classes of parts of an object, where they differ from that of the whole.
//!
//! A sorted list of page ranges that do not touch each other in the same class: 12 bytes a range,
//! and none for the objects (nearly all) that nobody has given such advice for. It is replaced as a
//! whole when advice comes, so whoever walks an object sees one state of it.

use super::Class;
use std::ops::Range;

/// Ranges that one object can have; advice that would make more is refused.
pub(crate) const RANGES_MAX: usize = 4096;

/// Classes of parts of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Box<[Part]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u32,
    end: u32,
    class: Class,
}

impl Ranges {
    /// The list after `pages` got `class`; `None` gives them back to the class of the whole.
    pub(crate) fn with(&self, pages: Range<u32>, class: Option<Class>) -> Self {
        if pages.is_empty() {
            return self.clone();
        }
        let before = self.0.iter().filter(|part| part.start < pages.start);
        let before = before.map(|part| Part { end: part.end.min(pages.start), ..*part });
        let after = self.0.iter().filter(|part| part.end > pages.end);
        let after = after.map(|part| Part { start: part.start.max(pages.end), ..*part });
        let new = class.map(|class| Part { start: pages.start, end: pages.end, class });
        let mut parts: Vec<Part> = Vec::with_capacity(self.0.len() + 2);
        for part in before.chain(new).chain(after) {
            match parts.last_mut() {
                Some(last) if last.end == part.start && last.class == part.class => {
                    last.end = part.end;
                }
                _ => parts.push(part),
            }
        }
        Self(parts.into())
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the list takes on the heap.
    pub(crate) fn heap_bytes(&self) -> u64 {
        size_of_val(&*self.0) as u64
    }

    /// Whether a part is of `class`.
    pub(crate) fn has(&self, class: Class) -> bool {
        self.0.iter().any(|part| part.class == class)
    }

    /// The class of one page, if it has one of its own.
    pub(crate) fn class_of(&self, page: u32) -> Option<Class> {
        let part = self.0.get(self.0.partition_point(|part| part.end <= page))?;
        (part.start <= page).then_some(part.class)
    }

    /// `pages` in order, in pieces of one class each; `rest` is the class of the whole.
    pub(crate) fn pieces(&self, pages: Range<u32>, rest: Class) -> Vec<(Range<u32>, Class)> {
        let mut pieces = Vec::with_capacity(2 * self.0.len() + 1);
        if pages.is_empty() {
            return pieces;
        }
        let mut at = pages.start;
        let first = self.0.partition_point(|part| part.end <= pages.start);
        for part in self.0[first..].iter().take_while(|part| part.start < pages.end) {
            if at < part.start {
                pieces.push((at..part.start, rest));
            }
            let end = part.end.min(pages.end);
            pieces.push((at.max(part.start)..end, part.class));
            at = end;
        }
        if at < pages.end {
            pieces.push((at..pages.end, rest));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::{Class::*, *};
    use proptest::prelude::*;

    #[test]
    fn advice_replaces_what_it_covers() {
        let ranges = Ranges::default().with(10..20, Some(Hot)).with(15..30, Some(Pinned));
        assert_eq!(
            ranges.pieces(0..40, Cold),
            [(0..10, Cold), (10..15, Hot), (15..30, Pinned), (30..40, Cold),]
        );
        assert_eq!(ranges.pieces(12..16, Cold), [(12..15, Hot), (15..16, Pinned)]);
        let ranges = ranges.with(12..18, None);
        assert_eq!((ranges.class_of(11), ranges.class_of(12)), (Some(Hot), None));
        assert_eq!((ranges.class_of(18), ranges.class_of(30)), (Some(Pinned), None));
        assert_eq!(ranges.with(0..40, None), Ranges::default());
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let ranges = (0..100).fold(Ranges::default(), |r, n| r.with(n..n + 1, Some(Warm)));
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges.with(50..50, Some(Hot)).len(), 1, "an empty range is no advice");
    }

    proptest! {
        /// Against one class a page.
        #[test]
        fn behaves_as_a_table(
            advice in prop::collection::vec((0_u32..40, 0_u32..40, 0_usize..5), 0..30),
            (from, to) in (0_u32..40, 0_u32..40),
        ) {
            let mut table = [None; 40];
            let mut ranges = Ranges::default();
            for (a, b, class) in advice {
                let (pages, class) = (a.min(b)..a.max(b), Class::ALL.get(class).copied());
                for page in pages.clone() {
                    table[usize::try_from(page).unwrap()] = class;
                }
                ranges = ranges.with(pages, class);
            }
            for page in 0..40 {
                prop_assert_eq!(ranges.class_of(page), table[usize::try_from(page).unwrap()]);
            }
            let asked = from.min(to)..from.max(to);
            let mut at = asked.start;
            for (pages, class) in ranges.pieces(asked.clone(), Warm) {
                prop_assert!(pages.start == at && pages.end > at, "in order, without holes");
                at = pages.end;
                for page in pages {
                    prop_assert_eq!(ranges.class_of(page).unwrap_or(Warm), class);
                }
            }
            prop_assert_eq!(at, asked.end);
        }
    }
}
