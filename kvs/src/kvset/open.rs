//! Opening a kvset.
//!
//! Reads the hblock, looks up its mblocks, maps the kblocks in one map and the vblocks in another,
//! and checks each footer against the hblock. Cost: one request for the hblock and one a kblock;
//! about 100 bytes and two keys of memory a kblock afterwards.
//!
//! Heads of vblocks are not read: there may be many, and each value carries a check that names its
//! vblock. Whoever looks for damage asks [`Kvset::damaged_heads`]. Nor is the index brought into
//! memory here: that is for `read_ahead`, after the open.

use super::hblock::{Hblock, KblockRange};
use super::kblock::format::Footer;
use super::kblock::read::Kblock;
use super::page::{self, PAGE_BYTES};
use super::vblock::format::VblockHead;
use super::{KvsetMeta, corrupt};
use crate::error::{Error, Result};
use mpool::{Class, IO_ALIGN, IoBuf, Map, Mblock, MblockId, Pool};
use std::sync::Arc;

/// A kvset that can be read. Its mblocks are not reused while it exists.
pub(crate) struct Kvset {
    pub(super) pool: Arc<Pool>,
    pub(super) meta: KvsetMeta,
    /// Object `i` of `index` is `kblocks[i]`.
    pub(super) kblocks: Arc<[Kblock]>,
    pub(super) index: Arc<Map>,
    /// Object `i` is `meta.vblocks[i]`. `None` if all values are inline.
    pub(super) values: Option<Arc<Map>>,
}

impl Kvset {
    /// Reads the hblock and the footers, maps kblocks (`index` class) and vblocks (`values` class).
    pub(crate) fn open(
        pool: &Arc<Pool>,
        hblock: MblockId,
        index: Class,
        values: Class,
    ) -> Result<Arc<Self>> {
        let Hblock { meta, kblocks: ranges } = read_hblock(&pool.mblock(hblock)?)?;
        let kblock_objects = objects(pool, &mut meta.kblocks.iter().copied())?;
        let vblock_objects = objects(pool, &mut meta.vblocks.iter().map(|(id, _)| *id))?;
        let index = map_index(pool, &kblock_objects, index, &meta)?;
        let kblocks = ranges
            .iter()
            .zip(&kblock_objects)
            .map(|(range, object)| read_kblock(object, range, &meta))
            .collect::<Result<Arc<[_]>>>()?;
        let add = |(keys, tombstones): (u64, u64), kblock: &Kblock| {
            let footer = kblock.footer();
            Some((keys.checked_add(footer.keys)?, tombstones.checked_add(footer.tombstones)?))
        };
        if kblocks.iter().try_fold((0, 0), add) != Some((meta.keys, meta.tombstones)) {
            return Err(corrupt(format!("hblock {hblock}"), "counts other keys than its kblocks"));
        }
        let owner = format!("kvset {} values", meta.id.get());
        let values = (!vblock_objects.is_empty())
            .then(|| pool.map_named(&vblock_objects, values, &owner).map(Arc::new))
            .transpose()?;
        Ok(Arc::new(Self { pool: Arc::clone(pool), meta, kblocks, index, values }))
    }

    /// What the hblock says, where the rest of it cannot be read.
    pub(crate) fn meta_at(pool: &Arc<Pool>, hblock: MblockId) -> Result<KvsetMeta> {
        Ok(read_hblock(&pool.mblock(hblock)?)?.meta)
    }

    /// What is wrong with the heads of its vblocks; their values are read all the same. One read a
    /// vblock.
    pub(crate) fn damaged_heads(&self) -> Vec<Error> {
        let Some(values) = &self.values else { return Vec::new() };
        let check = |at| check_vblock(values.mblock(at), &self.meta).err();
        (0..values.len()).filter_map(check).collect()
    }

    /// Whether the pool has moved any of its objects since it was opened. It goes on working, and
    /// keeps the old places from being used again.
    pub(crate) fn has_moved(&self) -> bool {
        self.index.has_moved() || self.values.as_ref().is_some_and(|values| values.has_moved())
    }

    /// The same kvset in the places where its objects are now. What is known of their contents
    /// holds, so nothing is read; pages of what has not moved stay resident.
    pub(crate) fn renewed(&self) -> Result<Arc<Self>> {
        let (pool, meta) = (&self.pool, self.meta.clone());
        let index = if self.index.has_moved() {
            let kblocks = objects(pool, &mut meta.kblocks.iter().copied())?;
            map_index(pool, &kblocks, self.index.class(), &meta)?
        } else {
            Arc::clone(&self.index)
        };
        let values = match &self.values {
            Some(values) if values.has_moved() => {
                let vblocks = objects(pool, &mut meta.vblocks.iter().map(|(id, _)| *id))?;
                Some(Arc::new(pool.map(&vblocks, values.class())?))
            }
            values => values.clone(),
        };
        let kblocks = Arc::clone(&self.kblocks);
        Ok(Arc::new(Self { pool: Arc::clone(pool), meta, kblocks, index, values }))
    }

    /// A kvset that says this of itself, for tests that look no deeper.
    #[cfg(test)]
    pub(crate) fn posing_as(&self, meta: KvsetMeta) -> Arc<Self> {
        let (pool, index) = (Arc::clone(&self.pool), Arc::clone(&self.index));
        Arc::new(Self { pool, meta, kblocks: Arc::clone(&self.kblocks), index, values: None })
    }

    /// The vblocks that it refers to, with the length of each.
    pub(crate) fn vblock_lens(&self) -> impl Iterator<Item = (MblockId, u64)> {
        let len = |at| self.values.as_ref().map_or(0, |values| values.mblock(at).len_bytes());
        self.meta.vblocks.iter().enumerate().map(move |(at, (id, _))| (*id, len(at)))
    }

    /// What it is made of.
    pub(crate) const fn meta(&self) -> &KvsetMeta {
        &self.meta
    }
}

fn objects(pool: &Arc<Pool>, ids: &mut dyn Iterator<Item = MblockId>) -> Result<Vec<Mblock>> {
    ids.map(|id| Ok(pool.mblock(id)?)).collect()
}

fn map_index(
    pool: &Arc<Pool>,
    kblocks: &[Mblock],
    class: Class,
    meta: &KvsetMeta,
) -> Result<Arc<Map>> {
    let owner = format!("kvset {} keys", meta.id.get());
    Ok(Arc::new(pool.map_named(kblocks, class, &owner)?))
}

fn read_hblock(object: &Mblock) -> Result<Hblock> {
    let bad = |reason| corrupt(format!("hblock {}", object.id()), reason);
    let len = usize::try_from(object.len_bytes()).map_err(|_| bad("object is too long"))?;
    if len == 0 || !len.is_multiple_of(IO_ALIGN) {
        return Err(bad("object is not made of pages"));
    }
    let mut bytes = IoBuf::zeroed(len);
    object.read_at(0, &mut bytes)?;
    Hblock::decode(&bytes, object.id()).map_err(bad)
}

fn check_vblock(object: &Mblock, meta: &KvsetMeta) -> Result<()> {
    let bad = |reason| corrupt(format!("vblock {}", object.id()), reason);
    if object.len_bytes() == 0 {
        return Err(bad("object is empty"));
    }
    let mut bytes = IoBuf::zeroed(IO_ALIGN);
    object.read_at(0, &mut bytes)?;
    let head = VblockHead::decode(&bytes).map_err(bad)?;
    if head.vblock != object.id() || head.kvs != meta.kvs {
        return Err(bad("head belongs to another vblock"));
    }
    Ok(())
}

fn read_kblock(object: &Mblock, range: &KblockRange, meta: &KvsetMeta) -> Result<Kblock> {
    let bad = |reason| corrupt(format!("footer of kblock {}", object.id()), reason);
    let len_bytes = object.len_bytes();
    let last = (len_bytes / PAGE_BYTES as u64).checked_sub(1);
    let number = last.and_then(|last| u32::try_from(last).ok());
    let Some(number) = number.filter(|_| len_bytes.is_multiple_of(PAGE_BYTES as u64)) else {
        return Err(bad("object is not made of pages"));
    };
    let mut bytes = IoBuf::zeroed(PAGE_BYTES);
    object.read_at(u64::from(number) * PAGE_BYTES as u64, &mut bytes)?;
    if !page::is_whole(&bytes) {
        return Err(bad("page has a wrong checksum"));
    }
    let footer = Footer::decode(&bytes, object.id(), number).map_err(bad)?;
    if footer.kvs != meta.kvs || footer.kvset != meta.id {
        return Err(bad("kblock belongs to another kvset"));
    }
    if footer.min_key != range.min_key || footer.max_key != range.max_key {
        return Err(bad("key range differs from the hblock's"));
    }
    Ok(Kblock::new(footer))
}
