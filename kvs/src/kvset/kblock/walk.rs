//! A position in a leaf, moving either way.
//!
//! The entries from one restart point to the next, at most 16, are decoded together, keys whole,
//! one after another. So a step is an index, back as cheap as forth: entries are prefix-compressed
//! from the restart point on, and one alone can be had only by way of those before it.
//!
//! ```text
//!   restart points   0               1               2
//!                    |. . . . . . . .|. . . . . . . .|. . . .
//!                     decoded: one of these blocks, `at` in it
//! ```

use super::super::page::Decode;
use super::leaf::{Leaf, LeafPayload};
use super::run::{Payload, RESTART_INTERVAL};
use crate::entry::op::Op;
use crate::entry::version::ValuePtr;
use crate::key::Revision;

/// One decoded entry.
struct Spot {
    /// Where its key ends in the keys of the block; it starts where the one before ends.
    key_end: usize,
    payload: LeafPayload,
}

/// See the module. Every method that gets a leaf gets the same one until one of `first`, `last`,
/// `seek` starts in another.
#[derive(Default)]
pub(crate) struct LeafWalk {
    /// Number of the block's restart point.
    block: usize,
    keys: Vec<u8>,
    spots: Vec<Spot>,
    at: usize,
}

impl LeafWalk {
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.key_at(self.at)
    }

    #[inline]
    fn key_at(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.spots[before].key_end);
        &self.keys[start..self.spots[at].key_end]
    }

    #[inline]
    pub(crate) fn revision(&self, leaf: &Leaf<'_>) -> Revision {
        leaf.revision(&self.spots[self.at].payload)
    }

    #[inline]
    pub(crate) fn op<'a>(&self, leaf: &Leaf<'a>) -> Op<'a, ValuePtr> {
        leaf.op(&self.spots[self.at].payload)
    }

    /// To the first entry.
    pub(crate) fn first(&mut self, leaf: &Leaf<'_>) -> Decode<()> {
        self.load(leaf, 0)
    }

    /// To the last entry.
    pub(crate) fn last(&mut self, leaf: &Leaf<'_>) -> Decode<()> {
        self.load_last(leaf, leaf.run().restarts() - 1)
    }

    /// To the first entry at or after `key`; false if there is none, then at the last entry.
    pub(crate) fn seek(&mut self, leaf: &Leaf<'_>, key: &[u8]) -> Decode<bool> {
        let up_to = leaf.run().restarts_up_to(key)?;
        self.load(leaf, up_to.saturating_sub(1))?;
        while self.key() < key {
            if !self.next(leaf)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// To the next entry; false at the last one.
    #[inline]
    pub(crate) fn next(&mut self, leaf: &Leaf<'_>) -> Decode<bool> {
        if self.at + 1 < self.spots.len() {
            self.at += 1;
            return Ok(true);
        }
        if self.block + 1 >= leaf.run().restarts() {
            return Ok(false);
        }
        self.load(leaf, self.block + 1)?;
        Ok(true)
    }

    /// To the entry before; false at the first one.
    #[inline]
    pub(crate) fn prev(&mut self, leaf: &Leaf<'_>) -> Decode<bool> {
        if let Some(before) = self.at.checked_sub(1) {
            self.at = before;
            return Ok(true);
        }
        let Some(block) = self.block.checked_sub(1) else { return Ok(false) };
        self.load_last(leaf, block)?;
        Ok(true)
    }

    fn load_last(&mut self, leaf: &Leaf<'_>, block: usize) -> Decode<()> {
        self.load(leaf, block)?;
        self.at = self.spots.len() - 1;
        Ok(())
    }

    /// Decodes a block, and stands at its first entry.
    fn load(&mut self, leaf: &Leaf<'_>, block: usize) -> Decode<()> {
        let run = leaf.run();
        let mut at = run.restart(block)?;
        let last = block + 1 == run.restarts();
        let end = if last { run.bytes().len() } else { run.restart(block + 1)? };
        (self.block, self.at) = (block, 0);
        self.keys.clear();
        self.spots.clear();
        let (mut start, mut payload) = (0, LeafPayload::default());
        while at < end {
            if self.spots.len() == RESTART_INTERVAL {
                return Err("entries do not meet");
            }
            let part = run.key_part(&mut at)?;
            if part.shared > self.keys.len() - start {
                return Err("entry shares more than there is");
            }
            let shared = start..start + part.shared;
            start = self.keys.len();
            self.keys.extend_from_within(shared);
            self.keys.extend_from_slice(part.suffix);
            payload.take(run.bytes(), &mut at)?;
            self.spots.push(Spot { key_end: self.keys.len(), payload });
        }
        if at == end && !self.spots.is_empty() { Ok(()) } else { Err("entries do not meet") }
    }
}
