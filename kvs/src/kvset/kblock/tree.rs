//! Interior pages: which child holds a key, format version 1.
//!
//! ```text
//! body:  first child, 4 bytes little-endian | one entry a child (see `run`), without payload
//! ```
//!
//! The children of a page lie one after the other, so only the first one's page number is kept; the
//! number of an entry gives the rest. An entry's key is the shortest one that is greater than
//! everything before the child and not greater than anything in it; the first entry's key is empty.
//! A key of 1,344 bytes leaves room for three children, so the tree's height is bounded.

use super::super::page::{Decode, PAGE_BYTES, PageHead, PageKind, Place, seal};
use super::run::{Run, RunBuilder};

const FIRST_CHILD_BYTES: usize = 4;

/// Page number of the child that holds `key` if anything does.
#[inline]
pub(crate) fn child(page: &[u8], place: Place, level: u8, key: &[u8]) -> Decode<u32> {
    let head = PageHead::decode(page, place, PageKind::Interior)?;
    if head.level != level {
        return Err("interior page is of another level");
    }
    let first = page.first_chunk::<FIRST_CHILD_BYTES>().ok_or("page is cut short")?;
    let found = Run::new(page, head)?.find::<()>(key)?;
    let number =
        if found.equal.is_some() { Some(found.smaller) } else { found.smaller.checked_sub(1) };
    let number = number.ok_or("interior page starts too late")?;
    let number = u32::try_from(number).map_err(|_| "interior page has too many children")?;
    u32::from_le_bytes(*first).checked_add(number).ok_or("child is beyond the kblock")
}

/// The shortest key greater than `before` and not greater than `from`.
pub(crate) fn separator<'a>(before: &[u8], from: &'a [u8]) -> &'a [u8] {
    assert!(before < from);
    let common = super::run::common_prefix_len(before, from);
    &from[..=common]
}

#[derive(Default)]
struct Level {
    /// Pages that are full, with their unsealed trailers.
    full: Vec<(Vec<u8>, PageHead)>,
    open: RunBuilder,
    children: u32,
}

/// Collects the interior pages of a kblock. They wait in memory: they are a few percent of its
/// leaves at most, except with the longest keys, and a kblock's size bounds them.
#[derive(Default)]
pub(crate) struct TreeBuilder {
    /// From the one above the leaves up.
    levels: Vec<Level>,
    pages: u32,
}

impl TreeBuilder {
    /// A leaf begins; `separator` parts it from the one before. Not called for the first leaf
    /// before there is a second.
    pub(crate) fn add_leaf(&mut self, separator: &[u8]) {
        if self.levels.is_empty() {
            self.add(0, &[]);
        }
        self.add(0, separator);
    }

    fn add(&mut self, index: usize, separator: &[u8]) {
        if index == self.levels.len() {
            let mut level = Level::default();
            level.open.reset(&[0; FIRST_CHILD_BYTES]);
            self.levels.push(level);
            self.pages += 1;
        }
        let number = u8::try_from(index + 1).expect("a tree has few levels");
        let level = &mut self.levels[index];
        let separator_here = if level.open.entries() == 0 { &[][..] } else { separator };
        if level.open.push(separator_here, &[]) {
            level.children += 1;
            return;
        }
        level.close(number);
        assert!(level.open.push(&[], &[]), "an empty page has room for an empty key");
        level.children += 1;
        self.pages += 1;
        if level.full.len() == 1 {
            self.add(index + 1, &[]);
        }
        self.add(index + 1, separator);
    }

    /// Interior pages if one more leaf is added: at most this many.
    pub(crate) fn pages_bound(&self) -> u32 {
        self.pages + u32::try_from(self.levels.len()).expect("a tree has few levels") + 1
    }

    /// Levels above the leaves.
    pub(crate) fn levels(&self) -> u8 {
        u8::try_from(self.levels.len()).expect("a tree has few levels")
    }

    /// Gives each page, sealed, in the order in which they follow the leaves. The root is last.
    pub(crate) fn finish<E>(
        self,
        owner: u32,
        leaf_pages: u32,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u32, E> {
        let (mut below, mut page_number) = (0, leaf_pages);
        for (index, mut level) in self.levels.into_iter().enumerate() {
            level.close(u8::try_from(index + 1).expect("a tree has few levels"));
            let start = page_number;
            for (mut page, head) in level.full {
                let slot = page.first_chunk_mut::<FIRST_CHILD_BYTES>().expect("a page is longer");
                *slot = (u32::from_le_bytes(*slot) + below).to_le_bytes();
                seal(&mut page, Place { owner, page: page_number }, head);
                write(&page)?;
                page_number += 1;
            }
            below = start;
        }
        assert_eq!(page_number - leaf_pages, self.pages);
        Ok(self.pages)
    }
}

impl Level {
    fn close(&mut self, level: u8) {
        let mut page = vec![0; PAGE_BYTES];
        let (entries, restarts, body_len) = self.open.write_to(&mut page);
        self.full.push((
            page,
            PageHead { kind: PageKind::Interior, level, entries, restarts, body_len },
        ));
        self.open.reset(&self.children.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::page::is_whole;
    use super::*;
    use std::convert::Infallible;

    /// Interior pages over leaves that start at these keys, as (pages, levels).
    fn build(starts: &[Vec<u8>]) -> (Vec<Vec<u8>>, u8) {
        let mut tree = TreeBuilder::default();
        for start in &starts[1..] {
            let bound = tree.pages_bound();
            tree.add_leaf(start);
            assert!(tree.pages <= bound);
        }
        let (levels, mut pages) = (tree.levels(), Vec::new());
        let leaves = u32::try_from(starts.len()).unwrap();
        let count = tree.finish(1, leaves, |page| {
            pages.push(page.to_vec());
            Ok::<(), Infallible>(())
        });
        assert_eq!(count.unwrap() as usize, pages.len());
        assert!(pages.iter().all(|page| is_whole(page)));
        (pages, levels)
    }

    fn descend(pages: &[Vec<u8>], levels: u8, leaves: u32, key: &[u8]) -> u32 {
        let mut page = leaves + u32::try_from(pages.len()).unwrap() - 1;
        for level in (1..=levels).rev() {
            let bytes = &pages[(page - leaves) as usize];
            page = child(bytes, Place { owner: 1, page }, level, key).unwrap();
        }
        page
    }

    /// Distinct at the front, so that little of it is shared.
    fn key(number: u32, len: usize) -> Vec<u8> {
        let mut key = format!("{number:08}").into_bytes();
        key.resize(len, b'x');
        key
    }

    #[test]
    fn every_key_finds_its_leaf() {
        // (leaves, key length, levels): the longest keys leave three children a page.
        for (count, len, expect) in [(2u32, 8, 1), (300, 8, 1), (5_000, 8, 2), (40, 1344, 3)] {
            let starts: Vec<Vec<u8>> = (0..count).map(|n| key(n * 2, len)).collect();
            let (pages, levels) = build(&starts);
            assert_eq!(levels, expect, "{count} leaves");
            for (number, start) in (0..count).zip(&starts) {
                assert_eq!(descend(&pages, levels, count, start), number);
                let between = key(number * 2 + 1, len);
                assert_eq!(descend(&pages, levels, count, &between), number);
            }
            assert_eq!(descend(&pages, levels, count, b""), 0);
            assert_eq!(descend(&pages, levels, count, &[0xff]), count - 1);
        }
    }

    #[test]
    fn one_leaf_needs_no_tree() {
        assert_eq!(build(&[vec![]]), (vec![], 0));
    }

    #[test]
    fn separators_are_the_shortest() {
        for (before, from, expect) in
            [("a", "b", "b"), ("abc", "abdef", "abd"), ("ab", "abcd", "abc"), ("abz", "b", "b")]
        {
            assert_eq!(separator(before.as_bytes(), from.as_bytes()), expect.as_bytes());
        }
    }

    #[test]
    fn pages_of_another_level_are_refused() {
        let (pages, _) = build(&[b"a".to_vec(), b"b".to_vec()]);
        let place = Place { owner: 1, page: 2 };
        assert_eq!(child(&pages[0], place, 1, b"b"), Ok(1));
        assert!(child(&pages[0], place, 2, b"b").is_err());
        assert!(child(&pages[0], Place { page: 3, ..place }, 1, b"b").is_err());
    }

    #[test]
    fn layout_is_frozen() {
        let (pages, _) = build(&[b"a".to_vec(), b"b".to_vec(), b"bc".to_vec()]);
        let entries = [0, 0, 0, 0, 0, 0, 0, 1, b'b', 1, 1, b'c', 0];
        assert_eq!(pages[0][..13], entries);
        assert_eq!(pages[0][4074..4084], [4, 0, 2, 1, 3, 0, 1, 0, 12, 0]);
    }
}
