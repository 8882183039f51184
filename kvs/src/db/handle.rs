//! A handle of one KVS: its reads and its writes.
//!
//! A handle knows the open database it belongs to, and keeps it open; given to another one it is
//! refused ([`Error::ForeignHandle`]). [`Kvs::get`] may block on the drive; [`Kvs::try_get`] never
//! does, and hands out a [`ColdRead`] where it would.

use crate::db::cursor::Cursor;
use crate::db::snapshot::Snapshot;
use crate::db::{Database, Open};
use crate::entry::batch::WriteBatch;
use crate::entry::owner::Owner;
use crate::error::{Error, Result};
use crate::iter::bounded::Range;
use crate::key::{KEY_BYTES_MAX, KvsId, Revision};
use crate::metrics::damage::Met;
use crate::options::Durability;
use crate::read::cold::{ColdRead, NoRoom, TryGet};
use crate::read::get::{self, Cold, Entry, Found, Lookup};
use crate::shape::holds::Holder;
use crate::shape::view::View;
use arc_swap::Guard;
use bytes::Bytes;
use std::sync::Arc;

/// A named key space of a database. Clone = another handle; it keeps the database open.
#[derive(Clone)]
pub struct Kvs {
    open: Arc<Open>,
    id: KvsId,
    name: Arc<str>,
}

impl Kvs {
    pub(crate) fn new(open: &Arc<Open>, id: KvsId, name: Arc<str>) -> Self {
        Self { open: Arc::clone(open), id, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id, unique for the life of the database.
    pub fn id(&self) -> KvsId {
        self.id
    }

    /// The newest entry of `key`; may block on the drive.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let view = self.view_for(key)?;
        let store = &self.open.store;
        get::get(&view, Lookup::of(store, self.id, key, store.shape.visible()))
            .inspect_err(|error| store.metrics.damage.note(Met::Get, error))
    }

    /// The newest entry of `key` if it can be had without blocking, else a [`ColdRead`] to
    /// complete.
    pub fn try_get(&self, key: &[u8]) -> Result<TryGet> {
        let tried = self.try_get_within(key, |_| true)?;
        Ok(tried.unwrap_or_else(|_no_room| unreachable!("there is room for any length")))
    }

    /// The same, where a value that has to be copied to be answered with is copied only if `room`
    /// says that there is room for so many bytes.
    pub fn try_get_within(
        &self,
        key: &[u8],
        room: impl FnMut(usize) -> bool,
    ) -> Result<std::result::Result<TryGet, NoRoom>> {
        let view = self.view_for(key)?;
        let store = &self.open.store;
        let at = store.shape.visible();
        let lookup = Lookup::of(store, self.id, key, at);
        let hash = lookup.hash;
        let found = get::try_get(&view, lookup, room)
            .inspect_err(|error| store.metrics.damage.note(Met::Get, error));
        Ok(Ok(match found? {
            Found::NoRoom(value_len) => return Ok(Err(NoRoom { value_len })),
            Found::Answer(entry) => TryGet::Ready(entry),
            Found::Cold(cold) => {
                let (store, view) = (Arc::clone(store), Guard::into_inner(view));
                // Whether an index that is wanting must be read is known when it is read.
                store.metrics.reads.cold_value.add(u64::from(matches!(cold, Cold::Value(_))));
                let key = Bytes::copy_from_slice(key);
                TryGet::Cold(ColdRead { store, view, kvs: self.id, key, hash, at, cold })
            }
        }))
    }

    /// The open database that it is of.
    pub(crate) fn owner(&self) -> &Arc<Owner> {
        &self.open.store.owner
    }

    /// Refuses the handle where `here` is another database.
    pub(crate) fn check_owner(&self, here: &Arc<Owner>) -> Result<()> {
        self.owner().check(here, || format!("a handle of KVS {:?}", self.name))
    }

    fn view_for(&self, key: &[u8]) -> Result<Guard<Arc<View>>> {
        check_key(key)?;
        self.open.store.life.check_open()?;
        let view = self.open.store.shape.view.load();
        if view.trees.contains_key(&self.id) { Ok(view) } else { Err(Error::KvsDropped) }
    }

    /// Writes one entry.
    pub fn put(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<Revision> {
        let mut batch = WriteBatch::new();
        batch.put_id(self.id, key, value)?;
        self.database().write(batch, durability)
    }

    /// Deletes one entry; succeeds also where there is none.
    pub fn delete(&self, key: &[u8], durability: Durability) -> Result<Revision> {
        let mut batch = WriteBatch::new();
        batch.delete_id(self.id, key)?;
        self.database().write(batch, durability)
    }

    /// A cursor over a snapshot taken now.
    pub fn cursor(&self, range: Range) -> Result<Cursor> {
        self.cursor_of(range, None)
    }

    /// As [`Kvs::cursor`]; `holder` says whose it is in [`Database::snapshots`].
    pub fn cursor_for(&self, range: Range, holder: &str) -> Result<Cursor> {
        self.cursor_of(range, Some(holder.into()))
    }

    fn cursor_of(&self, range: Range, name: Option<Arc<str>>) -> Result<Cursor> {
        let holder = Holder { kvs: Some(Arc::clone(&self.name)), name };
        Snapshot::take(&self.open, holder).cursor(self, range)
    }

    fn database(&self) -> Database {
        Database::of(&self.open)
    }
}

/// Keys have 1 to [`KEY_BYTES_MAX`] bytes.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        Ok(())
    } else {
        Err(Error::KeyLength { len: key.len() })
    }
}

impl WriteBatch {
    /// Adds a write. Limits are checked at once: a bad entry is an error here and leaves the batch
    /// as it was. A later entry for a key replaces an earlier one.
    pub fn put(&mut self, kvs: &Kvs, key: &[u8], value: &[u8]) -> Result<()> {
        self.check_handle(kvs)?;
        self.put_id(kvs.id(), key, value)?;
        self.keep_owner(kvs.owner());
        Ok(())
    }

    /// Adds a deletion, with the checks of [`put`](Self::put). Deleting an absent key is no error.
    pub fn delete(&mut self, kvs: &Kvs, key: &[u8]) -> Result<()> {
        self.check_handle(kvs)?;
        self.delete_id(kvs.id(), key)?;
        self.keep_owner(kvs.owner());
        Ok(())
    }

    fn check_handle(&self, kvs: &Kvs) -> Result<()> {
        let what =
            || format!("a handle of KVS {:?}, put into a batch begun elsewhere,", kvs.name());
        self.check_from(kvs.owner(), what)
    }
}
