//! Building a kvset from entries in key order.
//!
//! Entries stream through: leaves and values go to the drive as they fill. In memory stay a leaf,
//! the separators and key hashes of the open kblock (about 10 bytes a key, so at most some 15 MiB),
//! one entry a vblock, and the writers' own buffers. Objects are allocated at their largest useful
//! size and trimmed when they are committed; where the pool has no such extent left, smaller ones
//! are taken.
//!
//! Nothing is committed here. Dropping the builder, or what it built, before the commit leaves
//! nothing behind.

use super::KvsetMeta;
use super::hblock::{Hblock, KblockRange};
use super::kblock::build::{Belongs, KblockBuilder, NewEntry, PAGES_MIN};
use super::kblock::format::Footer;
use super::lookup::object_of;
use super::page::PAGE_BYTES;
use super::sketch::Sketch;
use super::vblock::build::{VblockBuilder, bytes_for};
use super::vblock::format::{RECORD_HEAD_BYTES, VblockHead};
use crate::entry::op::Op;
use crate::entry::version::ValuePtr;
use crate::error::Result;
use crate::key::{KEY_BYTES_MAX, KvsId, KvsetId, Revision, VALUE_BYTES_MAX, key_hash};
use bytes::Bytes;
use mpool::{MblockId, MblockWriter, Placement, Pool};
use std::collections::HashMap;
use std::sync::Arc;

/// What is built, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildOptions {
    pub(crate) id: KvsetId,
    pub(crate) kvs: KvsId,
    /// Where hblock and kblocks go.
    pub(crate) keys: Placement,
    /// Where vblocks go.
    pub(crate) values: Placement,
    /// Longest value kept in the kblock. At most 1,024, so that any entry fits a page.
    pub(crate) inline_bytes_max: usize,
    /// Bytes of kblocks, and of vblocks, that are expected: they size what is reserved while an
    /// object is written. Too many cost room for that time; too few, more but smaller objects.
    pub(crate) index_bytes_hint: u64,
    pub(crate) value_bytes_hint: u64,
    /// Longest kblock and vblock; a longer value has a vblock of its own.
    pub(crate) object_bytes_max: u64,
}

/// A value that stays where it is, of a key that is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedValue {
    pub(crate) vblock: MblockId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// A kvset that is written but not committed: the caller commits `writers` (one record) and then
/// names the hblock in the manifest.
pub(crate) struct BuiltKvset {
    pub(crate) meta: KvsetMeta,
    pub(crate) writers: Vec<MblockWriter>,
}

impl BuiltKvset {
    /// Bytes of the objects that were written for it.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.writers.iter().map(MblockWriter::len_bytes).sum()
    }
}

/// Sizes of the objects; tests use smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct ObjectSizes {
    pub(super) kblock_bytes_max: u64,
    pub(super) vblock_bytes_max: u64,
}

/// Longest inline value: with the longest key, its entry still fits a page.
const INLINE_BYTES_MAX: usize = 1024;

const _: () = assert!(KEY_BYTES_MAX + INLINE_BYTES_MAX + 64 < super::page::BODY_BYTES);
const _: () = assert!(VALUE_BYTES_MAX + 4096 < 32 << 20);

/// See the module.
pub(crate) struct KvsetBuilder {
    pool: Arc<Pool>,
    options: BuildOptions,
    sizes: ObjectSizes,
    kblock: Option<KblockBuilder>,
    footers: Vec<Footer>,
    vblock: Option<(u32, VblockBuilder)>,
    /// Of the values in vblocks of its own.
    value_bytes: u64,
    /// Finished kblocks and vblocks.
    writers: Vec<MblockWriter>,
    kblock_bytes: u64,
    vblocks: Vec<(MblockId, u64)>,
    vblock_index: HashMap<MblockId, u32>,
    keys: u64,
    sketch: Sketch,
    last_key: Vec<u8>,
    min_revision: Revision,
    max_revision: Revision,
}

impl KvsetBuilder {
    pub(crate) fn new(pool: &Arc<Pool>, options: BuildOptions) -> Self {
        let bytes = options.object_bytes_max;
        let sizes = ObjectSizes { kblock_bytes_max: bytes, vblock_bytes_max: bytes };
        Self::with_sizes(pool, options, sizes)
    }

    pub(super) fn with_sizes(pool: &Arc<Pool>, options: BuildOptions, sizes: ObjectSizes) -> Self {
        assert!(options.inline_bytes_max <= INLINE_BYTES_MAX);
        Self {
            pool: Arc::clone(pool),
            options,
            sizes,
            kblock: None,
            footers: Vec::new(),
            vblock: None,
            value_bytes: 0,
            writers: Vec::new(),
            kblock_bytes: 0,
            vblocks: Vec::new(),
            vblock_index: HashMap::new(),
            keys: 0,
            sketch: Sketch::default(),
            last_key: Vec::new(),
            min_revision: Revision::MAX,
            max_revision: Revision::ZERO,
        }
    }

    /// Keys added so far.
    pub(crate) const fn keys(&self) -> u64 {
        self.keys
    }

    /// Bytes of its objects so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        let finished: u64 = self.writers.iter().map(MblockWriter::len_bytes).sum();
        let kblock = self.kblock.as_ref().map_or(0, KblockBuilder::written_bytes);
        let vblock = self.vblock.as_ref().map_or(0, |(_, open)| open.written_bytes());
        finished + kblock + vblock
    }

    /// Adds an entry. Keys strictly ascend.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        revision: Revision,
        value: Op<'_, SharedValue>,
    ) -> Result<()> {
        assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX);
        assert!(self.last_key.as_slice() < key, "keys strictly ascend");
        let op = match value {
            Op::Tombstone => Op::Tombstone,
            Op::Inline(value) if value.len() <= self.options.inline_bytes_max => Op::Inline(value),
            Op::Inline(value) => Op::Extern(self.write_value(value)?),
            Op::Extern(SharedValue { vblock, offset, len }) => {
                Op::Extern(ValuePtr { vblock: self.vblock_number(vblock), offset, len })
            }
        };
        if let Op::Extern(ptr) = op {
            let record = RECORD_HEAD_BYTES as u64 + u64::from(ptr.len);
            self.vblocks[object_of(ptr)].1 += record;
        }
        let hash = key_hash(self.options.kvs, key);
        self.sketch.add(hash);
        self.write_entry(NewEntry { key, hash, revision, op })?;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.keys += 1;
        self.min_revision = self.min_revision.min(revision);
        self.max_revision = self.max_revision.max(revision);
        Ok(())
    }

    /// Ends the last objects and writes the hblock. `None` if nothing was added.
    pub(crate) fn finish(mut self) -> Result<Option<BuiltKvset>> {
        self.close_kblock()?;
        if let Some((_, vblock)) = self.vblock.take() {
            self.keep(vblock.finish())?;
        }
        if self.footers.is_empty() {
            return Ok(None);
        }
        let kblocks: Vec<_> = self
            .footers
            .iter()
            .map(|footer| KblockRange {
                id: footer.kblock,
                min_key: Bytes::copy_from_slice(&footer.min_key),
                max_key: Bytes::copy_from_slice(&footer.max_key),
            })
            .collect();
        let len_bytes = Hblock::len_bytes(&kblocks, self.vblocks.len(), true) as u64;
        let mut writer = self.pool.allocate(len_bytes, self.options.keys)?;
        let meta = self.meta(writer.id(), &kblocks);
        let hblock = Hblock { meta, kblocks };
        writer.append(&hblock.encode())?;
        self.keep(writer)?;
        Ok(Some(BuiltKvset { meta: hblock.meta, writers: self.writers }))
    }

    fn meta(&self, hblock: MblockId, kblocks: &[KblockRange]) -> KvsetMeta {
        let (first, last) = (&kblocks[0], &kblocks[kblocks.len() - 1]);
        let keys: u64 = self.footers.iter().map(|footer| footer.keys).sum();
        assert_eq!(keys, self.keys);
        KvsetMeta {
            id: self.options.id,
            kvs: self.options.kvs,
            hblock,
            kblocks: kblocks.iter().map(|kblock| kblock.id).collect(),
            vblocks: self.vblocks.as_slice().into(),
            keys,
            tombstones: self.footers.iter().map(|footer| footer.tombstones).sum(),
            min_key: first.min_key.clone(),
            max_key: last.max_key.clone(),
            min_revision: self.min_revision,
            max_revision: self.max_revision,
            kblock_bytes: self.kblock_bytes,
            value_bytes: self.vblocks.iter().map(|(_, referenced)| referenced).sum(),
            sketch: Some(Arc::new(self.sketch.clone())),
        }
    }

    fn write_entry(&mut self, entry: NewEntry<'_>) -> Result<()> {
        if let Some(kblock) = &mut self.kblock {
            if kblock.add(entry)? {
                return Ok(());
            }
            self.close_kblock()?;
        }
        let mut kblock = self.open_kblock()?;
        let added = kblock.add(entry)?;
        assert!(added, "an empty kblock takes any entry");
        self.kblock = Some(kblock);
        Ok(())
    }

    /// A kblock with room for the keys to come, up to the largest size. Where there are more than
    /// was hinted, kblocks grow with what was written, so that there are few of them in any case.
    fn open_kblock(&self) -> Result<KblockBuilder> {
        let page_bytes = PAGE_BYTES as u64;
        let to_come = self.options.index_bytes_hint.saturating_sub(self.kblock_bytes);
        // With a part to spare, for leaves that are less full, and the pages that end a kblock.
        let wanted = to_come.saturating_add(to_come / 8).saturating_add(8 * page_bytes);
        let wanted = wanted.max(2 * self.kblock_bytes).min(self.sizes.kblock_bytes_max);
        let wanted = wanted / page_bytes * page_bytes;
        let writer = self.allocate(wanted, PAGES_MIN * page_bytes, self.options.keys)?;
        let belongs = Belongs { kvset: self.options.id, kvs: self.options.kvs };
        Ok(KblockBuilder::new(writer, belongs))
    }

    fn close_kblock(&mut self) -> Result<()> {
        let Some(kblock) = self.kblock.take() else { return Ok(()) };
        let (writer, footer) = kblock.finish()?;
        self.kblock_bytes += writer.len_bytes();
        self.keep(writer)?;
        self.footers.push(footer);
        Ok(())
    }

    /// Keeps a finished object for the commit, without the space and the buffer it does not need.
    fn keep(&mut self, mut writer: MblockWriter) -> Result<()> {
        writer.seal()?;
        self.writers.push(writer);
        Ok(())
    }

    fn write_value(&mut self, value: &[u8]) -> Result<ValuePtr> {
        assert!(value.len() <= VALUE_BYTES_MAX);
        if let Some((_, full)) = self.vblock.take_if(|(_, open)| !open.has_room_for(value.len())) {
            self.keep(full.finish())?;
        }
        if self.vblock.is_none() {
            let least = bytes_for(value.len());
            let writer =
                self.allocate(self.vblock_bytes().max(least), least, self.options.values)?;
            let head =
                VblockHead { vblock: writer.id(), kvset: self.options.id, kvs: self.options.kvs };
            let vblock = VblockBuilder::new(writer, &head)?;
            self.vblock = Some((self.vblock_number(vblock.id()), vblock));
        }
        let (index, vblock) = self.vblock.as_mut().expect("opened above");
        let offset = vblock.add(value)?;
        self.value_bytes += (RECORD_HEAD_BYTES + value.len()) as u64;
        let len = u32::try_from(value.len()).expect("values have at most 16 MiB");
        Ok(ValuePtr { vblock: *index, offset, len })
    }

    /// Length of the next vblock: for the values to come, or the longest where there are more than
    /// was hinted.
    fn vblock_bytes(&self) -> u64 {
        let longest = self.sizes.vblock_bytes_max;
        match self.options.value_bytes_hint.saturating_sub(self.value_bytes) {
            0 => longest,
            to_come => longest.min(to_come.saturating_add(bytes_for(0))),
        }
    }

    fn vblock_number(&mut self, id: MblockId) -> u32 {
        *self.vblock_index.entry(id).or_insert_with(|| {
            self.vblocks.push((id, 0));
            u32::try_from(self.vblocks.len() - 1).expect("a kvset has few vblocks")
        })
    }

    /// Reserves `wanted` bytes, or, where no extent is that long, as much as there is, but at least
    /// `least`.
    fn allocate(&self, wanted: u64, least: u64, place: Placement) -> Result<MblockWriter> {
        let mut bytes = wanted.max(least);
        loop {
            match self.pool.allocate(bytes, place) {
                // `Options`: longer than the volume.
                Err(mpool::Error::Full { .. } | mpool::Error::Options(_)) if bytes > least => {
                    bytes = (bytes / 2).max(least);
                }
                outcome => return Ok(outcome?),
            }
        }
    }
}
