//! Snapshots.
//!
//! A snapshot is a view and a revision. It needs no support from flush or compaction: the view
//! keeps the memtables and kvsets it was taken with alive, with every version they hold. The price
//! is space: what a snapshot sees is not freed while it lives. So it is listed, and ended where an
//! option bounds its age (`holds`).

use crate::db::Open;
use crate::db::cursor::Cursor;
use crate::db::handle::{Kvs, check_key};
use crate::error::{Error, Result};
use crate::iter::bounded::Range;
use crate::key::{Revision, SnapshotId};
use crate::metrics::damage::Met;
use crate::read::get::{self, Entry, Lookup};
use crate::shape::holds::{Hold, Holder};
use crate::shape::view::View;
use std::sync::Arc;

/// An unchanging picture of all KVSs. `Send + 'static`; clones share it.
#[derive(Clone)]
pub struct Snapshot {
    open: Arc<Open>,
    hold: Arc<Hold>,
    at: Revision,
}

impl Snapshot {
    pub(crate) fn take(open: &Arc<Open>, holder: Holder) -> Self {
        let (view, at) = open.store.shape.moment();
        let hold = Arc::new(open.store.holds.hold(&view, at, holder));
        Self { open: Arc::clone(open), hold, at }
    }

    /// Its name in the list of those that live.
    pub fn id(&self) -> SnapshotId {
        self.hold.id()
    }

    /// Everything up to this revision is in the snapshot, and nothing later.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The entry of `key` in this snapshot; may block on the drive.
    pub fn get(&self, kvs: &Kvs, key: &[u8]) -> Result<Option<Entry>> {
        check_key(key)?;
        let view = self.view_of(kvs)?;
        let store = &self.open.store;
        get::get(&view, Lookup::of(store, kvs.id(), key, self.at))
            .inspect_err(|error| store.metrics.damage.note(Met::Get, error))
    }

    /// A cursor over `range` of a KVS.
    pub fn cursor(&self, kvs: &Kvs, range: Range) -> Result<Cursor> {
        let view = self.view_of(kvs)?;
        Ok(Cursor::new((&self.open, &self.hold), &view, (kvs.id(), self.at), range))
    }

    /// A KVS dropped before, or created after, is not in this snapshot.
    fn view_of(&self, kvs: &Kvs) -> Result<Arc<View>> {
        let store = &self.open.store;
        store.life.check_open()?;
        kvs.check_owner(&store.owner)?;
        let view = self.hold.view()?;
        if view.trees.contains_key(&kvs.id()) {
            return Ok(view);
        }
        if store.shape.view.load().trees.contains_key(&kvs.id()) {
            return Err(Error::KvsNewer { name: kvs.name().into(), at: self.at });
        }
        Err(Error::KvsDropped)
    }
}
