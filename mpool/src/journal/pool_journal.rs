//! The pool's own journal: the only way to change what exists.
//!
//! A change is checked against the catalog, appended durably, and then applied to the catalog, all
//! under the journal's lock; so a checkpoint's state always holds exactly what was appended before.
//! The catalog has a lock of its own for readers, who never wait for the medium.
//!
//! The end of the log is kept for commits that only delete, so that a pool whose objects fill its
//! journal can be emptied. How the journal is rewritten and grows: `upkeep::journal`.
//!
//! Ids come from one counter for all objects. The journal stores a limit ahead of it, in steps, so
//! that ids of objects that were never committed are not given out again after a crash.

use crate::{
    chores::Bell,
    error::{Error, Result},
    features::Features,
    heads::log::Log,
    io::volumes::Volumes,
    journal::{
        anchor::Anchor,
        catalog::Catalog,
        mdc::{
            MDC_RECORD_BYTES_MAX,
            background::{MdcSnapshot, Owner},
            due::Fill,
            pair::{LogPair, MdcRoom, Place, Position, elected, replay_elected},
            turn::Turn,
        },
        record::{self, Change},
    },
    metrics::histogram::Start,
};
use parking_lot::RwLock;
use std::sync::Arc;

/// Ids reserved by one append. A reopened pool skips what is left of them: 2^64 last long.
const ID_STEP: u64 = 1024;
const NAME: &str = "pool journal";

pub(crate) struct Journal {
    writer: Turn<Writer>,
    catalog: RwLock<Catalog>,
    /// Says which features are used before a record needs them.
    anchor: Arc<Anchor>,
    volume: Arc<Volumes>,
    bell: Bell,
}

struct Writer {
    pair: LogPair,
    next_id: u64,
}

/// Where the pool's journal lies; its owner word is the pool's, so frames of another pool that used
/// the same medium are no frames of this one.
pub(crate) fn place(uuid: [u8; 16], logs: [Log; 2]) -> Place {
    Place { name: NAME.to_owned(), owner: owner_word(uuid, 0), logs }
}

/// What journal `id` of the pool `uuid` puts into its frames; 0 is the pool's own.
pub(crate) fn owner_word(uuid: [u8; 16], id: u64) -> u64 {
    let (words, _) = uuid.as_chunks::<8>();
    words.iter().fold(id, |word, half| word ^ u64::from_le_bytes(*half))
}

/// What a journal adds up to.
#[derive(Default)]
pub(crate) struct Replayed {
    pub(crate) catalog: Catalog,
    /// What its records need, those too whose objects are gone.
    pub(crate) needs: Features,
}

/// Reads the journal, without writing anything.
pub(crate) fn load(volumes: &Volumes, place: &Place) -> Result<(Replayed, Position)> {
    let elected = elected(volumes, place)?;
    let at = place.logs[0].offset;
    let mut replayed = Replayed::default();
    replay_elected(volumes, place, &elected, &mut |bytes| replayed.record(at, bytes))?;
    Ok((replayed, elected.position(place.logs)))
}

impl Replayed {
    pub(crate) fn record(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let corrupt = |reason| Error::corrupt(NAME, at, reason);
        for change in record::decode(bytes).map_err(corrupt)? {
            self.catalog.apply(&change).map_err(corrupt)?;
            self.needs = self.needs.union(change.needs());
        }
        Ok(())
    }
}

impl Journal {
    /// Replays the journal into a catalog. If it needs features that the superblock does not name,
    /// because a program wrote it that knew of none, the superblock names them from here on.
    pub(crate) fn open(volume: &Arc<Volumes>, anchor: &Arc<Anchor>, bell: &Bell) -> Result<Self> {
        let superblock = anchor.superblock();
        let place = place(superblock.uuid, superblock.logs);
        let at = place.logs[0].offset;
        let mut replayed = Replayed::default();
        let pair =
            LogPair::open(Arc::clone(volume), place, &mut |bytes| replayed.record(at, bytes))?;
        let Replayed { catalog, needs } = replayed;
        anchor.require(needs)?;
        let next_id = catalog.id_limit.max(1);
        let writer = Turn::new(Writer { pair, next_id }, volume.metrics());
        let (volume, bell, anchor) = (Arc::clone(volume), bell.clone(), Arc::clone(anchor));
        Ok(Self { writer, catalog: RwLock::new(catalog), anchor, volume, bell })
    }

    /// Where its frames are.
    pub(crate) fn position(&self) -> Position {
        self.writer.lock().pair.position()
    }

    /// A look at what exists.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.catalog.read())
    }

    /// How full its active log is.
    pub(crate) fn fill(&self) -> Fill {
        self.writer.lock().pair.fill()
    }

    /// An id that no object has or had.
    pub(crate) fn new_id(&self) -> Result<u64> {
        let mut writer = self.writer.lock();
        let limit = self.catalog.read().id_limit;
        if writer.next_id >= limit {
            let raised = writer.next_id.checked_add(ID_STEP).expect("2^64 ids are not used up");
            self.append(&mut writer, &[Change::IdLimit(raised)])?;
        }
        let id = writer.next_id;
        writer.next_id += 1;
        Ok(id)
    }

    /// Makes `changes` durable together, then applies them. `check` sees the catalog before
    /// anything is written; `publish` runs after, before any later change.
    pub(crate) fn commit(
        &self,
        changes: &[Change],
        check: impl FnOnce(&Catalog) -> Result<()>,
        publish: impl FnOnce(),
    ) -> Result<()> {
        let mut writer = self.writer.lock();
        check(&self.catalog.read())?;
        self.append(&mut writer, changes)?;
        publish();
        Ok(())
    }

    fn append(&self, writer: &mut Writer, changes: &[Change]) -> Result<()> {
        let bytes = record::encode(changes);
        assert!(bytes.len() <= MDC_RECORD_BYTES_MAX, "commit bounds the number of changes");
        let start = Start::now();
        self.anchor.require(record::needs(changes))?;
        let state = || state_of(&self.catalog.read());
        writer.pair.append(&bytes, room_for(changes), Some(&state))?;
        let mut catalog = self.catalog.write();
        for change in changes {
            catalog.apply(change).expect("checked before it was appended");
        }
        drop(catalog);
        self.volume.metrics().mdc_append.end(start);
        if writer.pair.is_look_due() {
            self.bell.ring();
        }
        Ok(())
    }
}

/// The records that build this catalog.
fn state_of(catalog: &Catalog) -> Vec<Vec<u8>> {
    catalog.state().iter().map(|list| record::encode(list)).collect()
}

/// What only deletes may use the end of the log.
fn room_for(changes: &[Change]) -> MdcRoom {
    let deletes = |change: &Change| {
        use Change::{MblockDeleted, MdcDeleted, SegmentDeleted};
        matches!(change, MblockDeleted(_) | SegmentDeleted(_) | MdcDeleted(_))
    };
    if changes.iter().all(deletes) { MdcRoom::Reserve } else { MdcRoom::Usual }
}

impl Owner for Journal {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn is_look_due(&self) -> bool {
        self.writer.lock().pair.is_look_due()
    }

    fn background<R>(&self, step: impl FnOnce(&mut LogPair) -> R) -> R {
        self.writer.background(|writer| step(&mut writer.pair))
    }

    /// A copy of the catalog, which shares everything with it.
    fn snapshot(&self) -> MdcSnapshot {
        let catalog = self.catalog.read().clone();
        Box::new(move || state_of(&catalog))
    }
}
