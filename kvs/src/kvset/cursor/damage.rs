//! Past leaves that cannot be read.
//!
//! A user's scan goes on where a leaf is damaged: leaves follow each other by number, so the next
//! one is found without the damaged one, and without the pages above, whose work a search by the
//! leaves' own first keys does. What was left out is noted ([`Holes`](super::super::holes::Holes)).
//! Compaction never comes here: it fails, and leaves its inputs alone.
//!
//! ```text
//!   leaf   4: a..f     5: damaged     6: damaged     7: n..q
//!                       `----- hole: after f, before n -----'
//! ```

use super::super::holes::KeyRange;
use super::super::kblock::walk::LeafWalk;
use super::super::page::Decode;
use super::{KvsetCursor, Leaf, LeafAt, Toward};
use crate::error::{Error, Result, Scope};
use std::ops::Range;

/// The leaves of the same kblock on both sides of a hole, or those of its neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) before: Option<LeafAt>,
    pub(super) after: Option<LeafAt>,
}

impl KvsetCursor {
    /// Where to go on if leaf `bad` cannot be read for this reason; the error if it is one that
    /// ends a scan.
    #[cold]
    pub(super) fn pass(&mut self, bad: LeafAt, error: Error) -> Result<Sides> {
        let error = self.may_pass(error)?;
        let footer = self.kvset.kblocks[bad.kblock].footer();
        let (mut from, mut to) = (footer.min_key.clone(), successor(&footer.max_key));
        let leaf_pages = footer.leaf_pages;
        let mut sides = Sides {
            before: self.before(LeafAt { page: 0, ..bad }),
            after: self.after(LeafAt { page: leaf_pages - 1, ..bad }),
        };
        for page in (0..bad.page).rev() {
            let at = LeafAt { page, ..bad };
            if let Some(last) = self.edge(at, LeafWalk::last)? {
                (from, sides.before) = (successor(&last), Some(at));
                break;
            }
        }
        if let Some((page, first)) = self.first_readable(bad.kblock, bad.page + 1..leaf_pages)? {
            (to, sides.after) = (first, Some(LeafAt { page, ..bad }));
        }
        let range = KeyRange { from: from.into(), to: to.into() };
        self.holes.as_ref().expect("asked above").note(self.kvset.meta().id, range, error);
        Ok(sides)
    }

    /// The leaves that could hold `key`, found without the pages above them, which cannot be read
    /// for this reason: the last that begins at or before the key, and the last of those that
    /// follow it and cannot be read; the same twice if none does.
    #[cold]
    pub(super) fn search_leaves(
        &mut self,
        kblock: usize,
        key: &[u8],
        error: Error,
    ) -> Result<(LeafAt, LeafAt)> {
        let error = self.may_pass(error)?;
        tracing::warn!(kvset = self.kvset.meta().id.get(), %error, "keys are found by leaves alone");
        let at = |page| LeafAt { kblock, page };
        // What is looked for lies in low..end; `high` begins after the key.
        let leaf_pages = self.kvset.kblocks[kblock].footer().leaf_pages;
        let (mut low, mut end, mut high) = (0, leaf_pages, leaf_pages);
        while end - low > 1 {
            let middle = low + (end - low) / 2;
            match self.first_readable(kblock, middle..end)? {
                Some((page, first)) if *first <= *key => low = page,
                Some((page, _)) => (end, high) = (middle, page),
                None => end = middle,
            }
        }
        Ok((at(low), at(high - 1)))
    }

    /// The first of these leaves that can be read, and its first key.
    fn first_readable(
        &mut self,
        kblock: usize,
        pages: Range<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>> {
        for page in pages {
            if let Some(first) = self.edge(LeafAt { kblock, page }, LeafWalk::first)? {
                return Ok(Some((page, first)));
            }
        }
        Ok(None)
    }

    /// The first or last key of a leaf; `None` if it cannot be read.
    fn edge(
        &mut self,
        at: LeafAt,
        go: fn(&mut LeafWalk, &Leaf<'_>) -> Decode<()>,
    ) -> Result<Option<Vec<u8>>> {
        match self.load(at, Toward::End).and_then(|()| self.walk(go)) {
            Ok(()) => Ok(Some(self.walk.key().to_vec())),
            Err(error) => self.may_pass(error).map(|_| None),
        }
    }

    /// The error back as a value if the cursor goes past such.
    fn may_pass(&self, error: Error) -> Result<Error> {
        if self.holes.is_some() && error.scope() == Scope::Object { Ok(error) } else { Err(error) }
    }
}

/// The smallest key above `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
