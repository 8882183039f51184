//! The pool's own journal: the only way to change what exists.
//!
//! A change is checked against the catalog, appended durably, and then applied to the catalog, all
//! under the journal's lock; so a checkpoint's state always holds exactly what was appended before.
//! The catalog has a lock of its own for readers, who never wait for the medium.
//!
//! Ids come from one counter for all objects. The journal stores a limit ahead of it, in steps, so
//! that ids of objects that were never committed are not given out again after a crash.

use crate::{
    catalog::Catalog,
    error::{Error, Result},
    mdc::{
        MDC_RECORD_BYTES_MAX,
        pair::{LogPair, Place},
        record::{self, Change},
    },
    volume::Volume,
};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

/// Ids reserved by one append. A reopened pool skips what is left of them: 2^64 last long.
const ID_STEP: u64 = 1024;
const NAME: &str = "pool journal";

pub(crate) struct Journal {
    writer: Mutex<Writer>,
    catalog: RwLock<Catalog>,
}

struct Writer {
    pair: LogPair,
    next_id: u64,
}

/// Where the pool's journal lies; its owner word is the pool's, so frames of another pool that used
/// the same medium are no frames of this one.
pub(crate) fn place(uuid: [u8; 16], logs: [crate::space::extent::Extent; 2]) -> Place {
    Place { name: NAME.to_owned(), owner: owner_word(uuid, 0), logs }
}

/// What journal `id` of the pool `uuid` puts into its frames; 0 is the pool's own.
pub(crate) fn owner_word(uuid: [u8; 16], id: u64) -> u64 {
    let (words, _) = uuid.as_chunks::<8>();
    words.iter().fold(id, |word, half| word ^ u64::from_le_bytes(*half))
}

impl Journal {
    /// Replays the journal into a catalog.
    pub(crate) fn open(volume: Arc<Volume>, place: Place) -> Result<Self> {
        let at = place.logs[0].offset;
        let mut catalog = Catalog::default();
        let pair = LogPair::open(volume, place, &mut |bytes| {
            let corrupt = |reason| Error::corrupt(NAME, at, reason);
            for change in record::decode(bytes).map_err(corrupt)? {
                catalog.apply(&change).map_err(corrupt)?;
            }
            Ok(())
        })?;
        let next_id = catalog.id_limit.max(1);
        let writer = Mutex::new(Writer { pair, next_id });
        Ok(Self { writer, catalog: RwLock::new(catalog) })
    }

    /// A look at what exists.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.catalog.read())
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
        let mut state = || {
            let changes = self.catalog.read().state();
            changes.iter().map(|list| record::encode(list)).collect()
        };
        writer.pair.append(&bytes, &mut state)?;
        let mut catalog = self.catalog.write();
        for change in changes {
            catalog.apply(change).expect("checked before it was appended");
        }
        Ok(())
    }
}
