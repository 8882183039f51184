//! Writing one kblock.
//!
//! Leaf pages go to the writer as they fill; separators and key hashes stay in memory (about 10
//! bytes a key) until the kblock ends and its interior pages, filter and footer follow. A kblock
//! ends when the next leaf, with everything that must follow it, would not fit the space that was
//! reserved.

use super::super::filter::{self, FilterShape};
use super::super::page::{PAGE_BYTES, Place};
use super::format::{Footer, owner};
use super::leaf::LeafBuilder;
use super::tree::{TreeBuilder, separator};
use crate::entry::op::Op;
use crate::entry::version::ValuePtr;
use crate::error::Result;
use crate::key::{KvsId, KvsetId, Revision};
use mpool::MblockWriter;

/// Least pages a kblock must have room for: a leaf, a filter page and the footer.
pub(crate) const PAGES_MIN: u64 = 3;

/// Whose kblock it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belongs {
    pub(crate) kvset: KvsetId,
    pub(crate) kvs: KvsId,
}

/// One entry to be written.
#[derive(Clone, Copy)]
pub(crate) struct NewEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
    pub(crate) revision: Revision,
    pub(crate) op: Op<'a, ValuePtr>,
}

/// A kblock being written.
pub(crate) struct KblockBuilder {
    writer: MblockWriter,
    belongs: Belongs,
    pages_max: u32,
    page: Vec<u8>,
    leaf: LeafBuilder,
    /// Leaves written; the open one has this number.
    leaf_pages: u32,
    tree: TreeBuilder,
    hashes: Vec<u64>,
    tombstones: u64,
    min_key: Vec<u8>,
    last_key: Vec<u8>,
}

impl KblockBuilder {
    pub(crate) fn new(writer: MblockWriter, belongs: Belongs) -> Self {
        let pages_max = writer.capacity_bytes() / PAGE_BYTES as u64;
        assert!(pages_max >= PAGES_MIN);
        Self {
            writer,
            belongs,
            pages_max: u32::try_from(pages_max).unwrap_or(u32::MAX),
            page: vec![0; PAGE_BYTES],
            leaf: LeafBuilder::default(),
            leaf_pages: 0,
            tree: TreeBuilder::default(),
            hashes: Vec::new(),
            tombstones: 0,
            min_key: Vec::new(),
            last_key: Vec::new(),
        }
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.writer.len_bytes()
    }

    /// Adds an entry; false, and nothing is changed, if the kblock is full. An empty kblock takes
    /// any entry.
    pub(crate) fn add(&mut self, entry: NewEntry<'_>) -> Result<bool> {
        assert!(self.last_key.as_slice() < entry.key);
        if !self.leaf.push(entry.key, entry.revision, entry.op) {
            if !self.has_room_for_a_leaf() {
                return Ok(false);
            }
            self.write_leaf()?;
            self.tree.add_leaf(separator(&self.last_key, entry.key));
            let fits = self.leaf.push(entry.key, entry.revision, entry.op);
            assert!(fits, "an empty leaf takes any entry");
        }
        if self.hashes.is_empty() {
            self.min_key.extend_from_slice(entry.key);
        }
        self.hashes.push(entry.hash);
        self.tombstones += u64::from(entry.op == Op::Tombstone);
        self.last_key.clear();
        self.last_key.extend_from_slice(entry.key);
        Ok(true)
    }

    /// Whether the open leaf, one more, and what must follow them fit.
    fn has_room_for_a_leaf(&self) -> bool {
        // The new leaf's own keys may need one more page of filter: it has fewer than 47 * 63.
        let filter_pages = FilterShape::for_keys(self.hashes.len()).pages() + 1;
        let pages = [self.leaf_pages + 2, self.tree.pages_bound(), filter_pages, 1];
        pages.iter().map(|pages| u64::from(*pages)).sum::<u64>() <= u64::from(self.pages_max)
    }

    fn write_leaf(&mut self) -> Result<()> {
        let place = Place { owner: owner(self.writer.id()), page: self.leaf_pages };
        self.leaf.write_to(&mut self.page, place);
        self.writer.append(&self.page)?;
        self.leaf_pages += 1;
        Ok(())
    }

    /// Writes what follows the leaves. At least one entry was added.
    pub(crate) fn finish(mut self) -> Result<(MblockWriter, Footer)> {
        assert!(!self.hashes.is_empty());
        self.write_leaf()?;
        let kblock = self.writer.id();
        let owner = owner(kblock);
        let levels = self.tree.levels();
        let writer = &mut self.writer;
        let interior_pages =
            self.tree.finish(owner, self.leaf_pages, |page| writer.append(page))?;
        let keys = u64::try_from(self.hashes.len()).expect("usize is at most 64 bits");
        let first = Place { owner, page: self.leaf_pages + interior_pages };
        let filter = filter::build(&mut self.hashes, first, |page| writer.append(page))?;
        let footer = Footer {
            kblock,
            kvset: self.belongs.kvset,
            kvs: self.belongs.kvs,
            leaf_pages: self.leaf_pages,
            interior_pages,
            levels,
            filter,
            keys,
            tombstones: self.tombstones,
            min_key: self.min_key,
            max_key: self.last_key,
        };
        writer.append(&footer.encode())?;
        Ok((self.writer, footer))
    }
}
