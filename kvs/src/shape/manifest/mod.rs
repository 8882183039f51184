//! The manifest: the journal of the database's shape, in an MDC of its own.
//!
//! An edit is a list of [`Item`]s that becomes durable by one MDC record: that append is the commit
//! point of a flush and of a compaction. The mblocks an edit names are committed in the pool
//! *before* it is appended, and the mblocks it drops are deleted *after*; a crash in between leaves
//! mblocks that no edit names, which recovery deletes.
//!
//! The MDC is rewritten in the background. What it is rewritten from is the shape as of the last
//! edit, which is shared, not copied: an edit makes another shape, which has most of it in common
//! with the one before, and replaces that while the MDC's append lock is held; a snapshot is one
//! more reference to it.

#[cfg(test)]
mod contradictions;
pub(crate) mod fit;
pub(crate) mod live;
pub(crate) mod record;

use crate::error::{Error, Result};
use crate::key::KvsId;
use crate::shape::loss::{self, Loss};
use crate::wal::mark::{ManifestEnd, Mark};
use live::Live;
use mpool::{MdcId, MdcRoom, MdcSnapshot, Pool};
use parking_lot::Mutex;
use record::{Item, bad, decode, encode};
use std::sync::Arc;

/// Property of the pool that names the manifest's MDC.
const PROPERTY: &str = "kvs.manifest";
/// Bytes of each of the MDC's two logs. A kvset costs 29 bytes of checkpoint, so this holds tens of
/// thousands.
const LOG_BYTES: u64 = 4 << 20;

/// Id of the first KVS.
const FIRST_KVS: u32 = 1;

/// The journal that the pool's property names, if it names one.
pub(crate) fn journal(pool: &Pool) -> Option<MdcId> {
    let raw = pool.property(PROPERTY)?;
    MdcId::new(u64::from_le_bytes(raw.as_slice().try_into().ok()?))
}

/// The last edits, cut off.
fn lost(error: &Error) -> Loss {
    loss::of_error(error, "KVSs and kvsets that the edits from there on made are lost")
}

/// The open manifest.
pub(crate) struct Manifest {
    mdc: mpool::Mdc,
    live: Arc<Live>,
    /// The same, for the background.
    shared: Arc<Mutex<Arc<Live>>>,
}

impl Manifest {
    /// Opens the pool's manifest, or begins one in a pool that holds nothing yet. `initial` names
    /// the KVSs of a database that has never had any.
    ///
    /// One that ends before its clean close, or has an edit that does not fit those before it, is
    /// an error. With `cut` the manifest ends there instead, and `cut` gets what is lost.
    pub(crate) fn open(
        pool: &Arc<Pool>,
        initial: &[String],
        mut cut: Option<&mut Vec<Loss>>,
    ) -> Result<Self> {
        let Some(raw) = pool.property(PROPERTY) else { return Self::begin(pool, initial) };
        let raw = raw.as_slice().try_into().map_err(|_| bad("its property is malformed"))?;
        let id = MdcId::new(u64::from_le_bytes(raw)).ok_or_else(|| bad("its property is zero"))?;
        let (mut mdc, mut shape) = replay(pool, id, u64::MAX)?;
        let misfit = match (shape.misfit.take(), &mut cut) {
            (None, _) => false,
            (Some(error), Some(losses)) if !matches!(error, Error::Format { .. }) => {
                losses.push(lost(&error));
                drop(mdc);
                // What the edit has changed before its misfit does not count either.
                (mdc, shape) = replay(pool, id, shape.edits - 1)?;
                true
            }
            (Some(error), _) => return Err(error),
        };
        shape.live.check()?;
        if let Some(mark) = Mark::read(pool)?.filter(|_| !misfit) {
            match (end_of(&mdc).check(mark.manifest), cut) {
                (Ok(()), _) => {}
                (Err(error), Some(losses)) => losses.push(lost(&error)),
                (Err(error), None) => return Err(error),
            }
        }
        let mut manifest = Self::of(pool, mdc, shape.live)?;
        if misfit && !pool.is_read_only() {
            // Its journal still has the edits that were left out.
            manifest.move_to_another(pool)?;
        }
        manifest.make_up(initial);
        Ok(manifest)
    }

    /// A new manifest. It is filled before the property names it, so a crash leaves a database with
    /// all its initial KVSs, or none; in that case the MDC is deleted at the next open.
    fn begin(pool: &Arc<Pool>, initial: &[String]) -> Result<Self> {
        check_is_new(pool)?;
        let mut live = first_shape();
        let items = creations(initial);
        items.iter().try_for_each(|item| live.apply(item))?;
        let id = pool.create_mdc(LOG_BYTES)?;
        let mdc = pool.open_mdc(id, &mut |_| Ok(()))?;
        if !items.is_empty() {
            mdc.append(&encode(&items), MdcRoom::Usual, || ())?;
        }
        // The commit point.
        pool.set_property(PROPERTY, &id.get().to_le_bytes())?;
        Self::of(pool, mdc, live)
    }

    fn of(pool: &Arc<Pool>, mdc: mpool::Mdc, live: Live) -> Result<Self> {
        delete_strays(pool, mdc.id());
        let live = Arc::new(live);
        let shared = Arc::new(Mutex::new(Arc::clone(&live)));
        rewrite_in_background(&mdc, &shared)?;
        Ok(Self { mdc, live, shared })
    }

    /// Gives a database that has never had a KVS its first ones: a program that made them in a step
    /// of their own has been cut off before it, or the database was made without any. Nothing is
    /// lost without them, so a failure does not keep it from being opened.
    fn make_up(&mut self, initial: &[String]) {
        if initial.is_empty() || self.live.next_kvs > FIRST_KVS {
            return;
        }
        if let Err(error) = self.append(&creations(initial)) {
            tracing::warn!(%error, "the database's first KVSs are not created");
        }
    }

    /// Moves off a volume that is being emptied: another MDC is filled with the shape as it is, the
    /// property names it from then on, and the old one is deleted. Returns whether that was needed.
    pub(crate) fn leave_volumes(&mut self, pool: &Arc<Pool>) -> Result<bool> {
        let old = self.mdc.id();
        if !pool.mdc_volumes(old)?.into_iter().any(|volume| pool.is_evacuating(volume)) {
            return Ok(false);
        }
        self.move_to_another(pool)?;
        Ok(true)
    }

    fn move_to_another(&mut self, pool: &Arc<Pool>) -> Result<()> {
        let old = self.mdc.id();
        let id = pool.create_mdc(LOG_BYTES)?;
        let moved = self.fill(pool, id);
        let mdc = moved.inspect_err(|_| {
            if let Err(error) = pool.delete_mdc(id) {
                tracing::warn!(%error, "an unfinished manifest stays until the next open");
            }
        })?;
        // The commit point. If it fails, one of the two is named, and both say the same.
        pool.set_property(PROPERTY, &id.get().to_le_bytes())?;
        self.mdc = mdc;
        Ok(pool.delete_mdc(old)?)
    }

    fn fill(&self, pool: &Arc<Pool>, id: MdcId) -> Result<mpool::Mdc> {
        let mdc = pool.open_mdc(id, &mut |_| Ok(()))?;
        for record in &self.live.records() {
            mdc.append(record, MdcRoom::Usual, || ())?;
        }
        // Not before: what it is rewritten from is the whole.
        rewrite_in_background(&mdc, &self.shared)?;
        Ok(mdc)
    }

    /// Where it ends, for the mark of a clean close.
    pub(crate) fn end(&self) -> ManifestEnd {
        end_of(&self.mdc)
    }

    /// The shape now.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Makes an edit durable, then true. On an error its fate is unknown: the caller must stop
    /// editing.
    pub(crate) fn append(&mut self, items: &[Item]) -> Result<()> {
        let mut next = Live::clone(&self.live);
        for item in items {
            next.apply(item).expect("an edit of ours fits the shape it was made for");
        }
        let next = Arc::new(next);
        let shared = &self.shared;
        self.mdc.append(&encode(items), room_for(items), || {
            *shared.lock() = Arc::clone(&next);
        })?;
        self.live = next;
        Ok(())
    }
}

/// The shape as edits tell it, one after the other.
struct Shape {
    live: Live,
    /// How many there were, the one that does not fit included.
    edits: u64,
    misfit: Option<Error>,
}

impl Shape {
    fn edit(&mut self, record: &[u8]) {
        if self.misfit.is_some() {
            return;
        }
        self.edits += 1;
        let items = decode(record);
        let applied =
            items.and_then(|items| items.iter().try_for_each(|item| self.live.apply(item)));
        self.misfit = applied.err().map(|error| match error {
            Error::Corrupt { what, reason } => {
                let edit = self.edits;
                Error::Corrupt { what, reason: format!("{MISFIT} {edit} of its journal: {reason}") }
            }
            other => other,
        });
    }
}

/// Begins the reason of an error of a manifest whose frames are intact, and whose edits are not.
pub(crate) const MISFIT: &str = "nothing fits from edit";

/// Stands in the error of a manifest that has lost the edit that made a KVS.
pub(crate) const UNKNOWN: &str = "which it does not know";

/// The shape as far as the manifest can be read; nothing is written.
pub(crate) fn as_far_as_it_goes(pool: &Arc<Pool>) -> Option<Live> {
    let (mdc, shape) = replay(pool, journal(pool)?, u64::MAX).ok()?;
    let Shape { live, edits, misfit } = shape;
    if misfit.is_none() {
        return Some(live);
    }
    drop(mdc);
    Some(replay(pool, journal(pool)?, edits - 1).ok()?.1.live)
}

/// Opens a manifest's journal, and gives the shape after so many of its edits.
fn replay(pool: &Arc<Pool>, id: MdcId, edits_max: u64) -> Result<(mpool::Mdc, Shape)> {
    let mut shape = Shape { live: first_shape(), edits: 0, misfit: None };
    let mdc = pool.open_mdc(id, &mut |record| {
        // The pool's replay has its own error type; ours is kept aside and wins.
        if shape.edits < edits_max {
            shape.edit(record);
        }
        Ok(())
    })?;
    Ok((mdc, shape))
}

fn end_of(mdc: &mpool::Mdc) -> ManifestEnd {
    let (generation, seqno) = mdc.end();
    ManifestEnd { journal: mdc.id().get(), generation, seqno }
}

/// A pool without a manifest is a new one if nothing else is in it either but what a crash has left
/// of [`Manifest::begin`]. Whatever is in another one would count as orphans or strays, and be
/// deleted.
fn check_is_new(pool: &Arc<Pool>) -> Result<()> {
    let count = |len: usize| u64::try_from(len).expect("a count in memory");
    let mblocks = count(pool.mblock_ids().len());
    let (segments, journals) = (count(pool.segment_ids().len()), count(pool.mdc_ids().len()));
    let mut is_new = mblocks + segments == 0;
    for id in pool.mdc_ids() {
        drop(pool.open_mdc(id, &mut |record| {
            let creates = |item: &Item| matches!(item, Item::KvsCreate { .. });
            is_new &= decode(record).is_ok_and(|items| items.iter().all(creates));
            Ok(())
        })?);
    }
    if is_new { Ok(()) } else { Err(Error::NoManifest { mblocks, segments, journals }) }
}

fn rewrite_in_background(mdc: &mpool::Mdc, shared: &Arc<Mutex<Arc<Live>>>) -> Result<()> {
    let state = Arc::clone(shared);
    mdc.compact_in_background(Arc::new(move || {
        let live = Arc::clone(&state.lock());
        Box::new(move || live.records()) as MdcSnapshot
    }))?;
    Ok(())
}

/// The shape of a database without anything.
fn first_shape() -> Live {
    Live { next_kvs: FIRST_KVS, next_node: 1, next_kvset: 1, ..Live::default() }
}

/// The edit that creates a database's first KVSs.
fn creations(names: &[String]) -> Vec<Item> {
    let ids = (FIRST_KVS..).map(KvsId::new);
    names.iter().zip(ids).map(|(name, kvs)| Item::KvsCreate { kvs, name: name.clone() }).collect()
}

/// The pool's other MDCs are of moves, and of beginnings, that a crash cut off. One that cannot be
/// deleted costs room only, until the next open.
fn delete_strays(pool: &Arc<Pool>, named: MdcId) {
    for id in pool.mdc_ids().into_iter().filter(|id| *id != named) {
        tracing::info!(%id, "deleting an MDC that is not the manifest");
        if let Err(error) = pool.delete_mdc(id) {
            tracing::warn!(%id, %error, "it stays until the next open");
        }
    }
}

/// An edit that removes more than it adds may use the end of the log, so that a database whose
/// shape fills it can be made smaller.
fn room_for(items: &[Item]) -> MdcRoom {
    let adds = |item: &&Item| {
        matches!(item, Item::KvsCreate { .. } | Item::LeafAdd { .. } | Item::KvsetAdd { .. })
    };
    let removes = |item: &&Item| {
        matches!(item, Item::KvsDrop { .. } | Item::LeafRemove { .. } | Item::KvsetRemove { .. })
    };
    let (added, removed) =
        (items.iter().filter(adds).count(), items.iter().filter(removes).count());
    if removed > added { MdcRoom::Reserve } else { MdcRoom::Usual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KvsetId, NodeId, Revision};
    use mpool::{MblockId, Options};
    use mpool_sim::SimDevice;

    fn open_pool(device: &SimDevice) -> Arc<Pool> {
        let options = Options { background: false, ..Options::default() };
        let device = Arc::new(device.clone());
        Pool::open(Arc::clone(&device) as Arc<_>, &options)
            .or_else(|_| Pool::create(device, &options))
            .expect("the device is sound")
    }

    fn add(kvset: u64) -> Item {
        let hblock = MblockId::new(kvset).unwrap();
        let (kvs, node) = (KvsId::new(1), NodeId::ROOT);
        Item::KvsetAdd { kvs, node, kvset: KvsetId::new(kvset), hblock }
    }

    /// What is in a pool that has lost its manifest would be deleted as orphans.
    #[test]
    fn a_pool_that_holds_something_and_no_manifest_is_refused_and_left_as_it_is() {
        for what in 0..3 {
            let device = SimDevice::new(1 << 30);
            let pool = open_pool(&device);
            match what {
                0 => {
                    let mut writer = pool.allocate(1 << 16, mpool::Priority::Flush).unwrap();
                    writer.append(&[7; 5000]).unwrap();
                    pool.commit(vec![writer], &[]).unwrap();
                }
                1 => drop(pool.create_segment(1 << 20).unwrap()),
                _ => {
                    let id = pool.create_mdc(1 << 20).unwrap();
                    let mdc = pool.open_mdc(id, &mut |_| Ok(())).unwrap();
                    mdc.append(b"another program's", MdcRoom::Usual, || ()).unwrap();
                }
            }
            let Err(error) = Manifest::open(&pool, &[], None) else {
                panic!("it was taken for a new one")
            };
            assert!(matches!(error, Error::NoManifest { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("1 ") && text.contains("backup"), "{text}");
            let left = (pool.mblock_ids().len(), pool.segment_ids().len(), pool.mdc_ids().len());
            assert_eq!(left.0 + left.1 + left.2, 1, "nothing is deleted or made");
            assert!(pool.property(PROPERTY).is_none());
        }
    }

    /// More edits than the log has pages: it is rewritten from the shape of the moment, in between.
    #[test]
    fn edits_survive_rewriting_in_the_background() {
        const EDITS: u64 = 3 * (LOG_BYTES / 4096);
        let device = SimDevice::new(1 << 30);
        let pool = open_pool(&device);
        let mut manifest = Manifest::open(&pool, &[], None).unwrap();
        manifest.append(&[Item::KvsCreate { kvs: KvsId::new(1), name: "a".into() }]).unwrap();
        for n in 1..=EDITS {
            let mut items = vec![add(n), Item::Floor { revision: Revision::new(n) }];
            if n > 20 {
                items.push(Item::KvsetRemove { kvset: KvsetId::new(n - 20) });
            }
            manifest.append(&items).unwrap();
            pool.tidy();
        }
        let info = pool.info();
        assert_eq!(info.journal_waits.count, 0, "no edit has waited for a rewriting");
        let live = manifest.live().clone();
        assert_eq!(live.kvsets.len(), 20);
        assert!(manifest.mdc.used_bytes() < LOG_BYTES * 3 / 4);
        drop((manifest, pool));
        let pool = open_pool(&device.after_crash(0));
        assert_eq!(*Manifest::open(&pool, &[], None).unwrap().live(), live);
    }

    #[test]
    fn what_shrinks_the_shape_may_use_the_reserve() {
        let (kvs, node) = (KvsId::new(1), NodeId::new(5));
        let remove = |n| Item::KvsetRemove { kvset: KvsetId::new(n) };
        let floor = Item::Floor { revision: Revision::new(1) };
        for (items, room) in [
            (vec![Item::KvsDrop { kvs }], MdcRoom::Reserve),
            (vec![remove(1), remove(2), add(3)], MdcRoom::Reserve),
            (vec![remove(1), floor.clone()], MdcRoom::Reserve),
            (vec![remove(1), add(2)], MdcRoom::Usual),
            (vec![Item::LeafRemove { kvs, node }, add(1), add(2)], MdcRoom::Usual),
            (vec![floor], MdcRoom::Usual),
        ] {
            assert_eq!(room_for(&items), room, "{items:?}");
        }
    }
}
