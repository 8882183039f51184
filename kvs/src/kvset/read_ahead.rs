//! Bringing a kvset into memory before it is asked for.
//!
//! An index has two parts. Every lookup reads the *upper* one, filter and interior pages, a few
//! hundredths of the whole; of the *leaves* it reads one page, and none where the filter says no.
//!
//! Reading ahead is a favour: what fails is read, or reported, when it is needed. Whether there is
//! room is decided by the caller.

use super::kblock::format::Footer;
use super::open::Kvset;
use super::page::PAGE_BYTES;
use crate::error::Result;
use mpool::{Advice, MblockId};
use std::ops::Range;

/// A part of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexPart {
    Upper,
    Leaves,
}

impl IndexPart {
    /// Its bytes of a kblock.
    fn range(self, footer: &Footer) -> Range<u64> {
        let (leaves, end) = (u64::from(footer.leaf_pages), u64::from(footer.page()));
        let pages = match self {
            Self::Upper => leaves..end,
            Self::Leaves => 0..leaves,
        };
        pages.start * PAGE_BYTES as u64..pages.end * PAGE_BYTES as u64
    }
}

impl Kvset {
    /// Bytes of a part of its index.
    pub(crate) fn index_bytes(&self, part: IndexPart) -> u64 {
        let bytes = |range: Range<u64>| range.end - range.start;
        self.kblocks.iter().map(|kblock| bytes(part.range(kblock.footer()))).sum()
    }

    /// Bytes of its index that are in memory.
    pub(crate) fn resident_index_bytes(&self) -> u64 {
        self.index.resident_bytes()
    }

    /// Bytes of its values that are not in memory: of each vblock as large a part of what it refers
    /// to as of all its pages.
    pub(crate) fn absent_value_bytes(&self) -> u64 {
        let Some(values) = &self.values else { return 0 };
        let absent = |(at, (_, bytes)): (usize, &(MblockId, u64))| {
            let len = u128::from(values.mblock(at).len_bytes()).max(1);
            let there = u128::from(values.resident_bytes_of(at)).min(len);
            u64::try_from(u128::from(*bytes) * (len - there) / len).unwrap_or(*bytes)
        };
        self.meta.vblocks.iter().enumerate().map(absent).sum()
    }

    /// Reads a part of its index, whether there is room or not, object by object for as long as
    /// `go` says so; returns the bytes that are there.
    pub(crate) fn preload_index(&self, part: IndexPart, go: &dyn Fn() -> bool) -> Result<u64> {
        let mut loaded = 0;
        for (at, kblock) in self.kblocks.iter().enumerate().take_while(|_| go()) {
            let range = part.range(kblock.footer());
            loaded += range.end - range.start;
            self.index.preload_part(at, range, 0..0)?;
        }
        Ok(loaded)
    }

    /// Has a part of its index read in the background, whether there is room or not.
    pub(crate) fn want_index(&self, part: IndexPart) -> Result<()> {
        for (at, kblock) in self.kblocks.iter().enumerate() {
            let range = part.range(kblock.footer());
            if !range.is_empty() {
                self.index.advise(at, range, Advice::WillNeed)?;
            }
        }
        Ok(())
    }

    /// The same of its values, as far as the governor has room.
    pub(crate) fn preload_values(&self, go: &dyn Fn() -> bool) -> Result<u64> {
        let Some(values) = &self.values else { return Ok(0) };
        let mut loaded = 0;
        for at in (0..values.len()).take_while(|_| go()) {
            let len = values.mblock(at).len_bytes();
            if !values.preload_part(at, 0..len, 0..0)? {
                break;
            }
            loaded += len;
        }
        Ok(loaded)
    }
}
