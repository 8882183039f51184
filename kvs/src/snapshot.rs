//! Snapshots, and cursors over them.
//!
//! A snapshot is a view and a revision. It needs no support from flush or compaction: the view
//! keeps the memtables and kvsets it was taken with alive, with every version they hold. The price
//! is space: what a snapshot sees is not freed while it lives.

use crate::db::Open;
use crate::error::{Error, Result};
use crate::handle::{Kvs, check_key};
use crate::iter::bounded::{Advance, Range, Visible};
use crate::iter::merge::Merge;
use crate::key::Revision;
use crate::read::get::{self, Entry};
use crate::read::scan::{self, Source};
use crate::view::View;
use bytes::Bytes;
use std::sync::Arc;

/// An unchanging picture of all KVSs. `Send + 'static`; clones share it.
#[derive(Clone)]
pub struct Snapshot {
    open: Arc<Open>,
    view: Arc<View>,
    at: Revision,
}

impl Snapshot {
    pub(crate) fn take(open: &Arc<Open>) -> Self {
        let store = &open.store;
        let mut view = store.view.load_full();
        loop {
            let at = store.visible();
            let again = store.view.load_full();
            // The memtable that was active before is still active, so it holds everything up to
            // `at`.
            if Arc::ptr_eq(&view.active, &again.active) {
                return Self { open: Arc::clone(open), view: again, at };
            }
            view = again;
        }
    }

    /// Everything up to this revision is in the snapshot, and nothing later.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The entry of `key` in this snapshot; may block on the drive.
    pub fn get(&self, kvs: &Kvs, key: &[u8]) -> Result<Option<Entry>> {
        check_key(key)?;
        self.check(kvs)?;
        get::get(&self.view, self.open.store.lookup(kvs.id(), key, self.at))
    }

    /// A cursor over `range` of a KVS.
    pub fn cursor(&self, kvs: &Kvs, range: Range) -> Result<Cursor> {
        self.check(kvs)?;
        let visible = Visible::new(scan::merged(&self.view, kvs.id()), self.at, range);
        Ok(Cursor { visible, at: self.at, _open: Arc::clone(&self.open) })
    }

    /// A KVS dropped before, or created after, is not in this snapshot.
    fn check(&self, kvs: &Kvs) -> Result<()> {
        self.open.store.check_open()?;
        kvs.check_owner(&self.open.store.owner)?;
        if self.view.trees.contains_key(&kvs.id()) { Ok(()) } else { Err(Error::KvsDropped) }
    }
}

/// One entry of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// Walks the keys of one KVS in a snapshot. `Send + 'static`; blocks on the drive.
pub struct Cursor {
    visible: Visible<Merge<Source>>,
    at: Revision,
    /// Keeps the database open for as long as its kvsets are read.
    _open: Arc<Open>,
}

impl Cursor {
    /// The next entry in the cursor's direction; `None` past the last.
    #[expect(
        clippy::should_implement_trait,
        reason = "reading may fail, and an iterator of results invites ignoring it"
    )]
    pub fn next(&mut self) -> Result<Option<Item>> {
        if self.advance(u32::MAX)? != Advance::Key {
            return Ok(None);
        }
        let key = Bytes::copy_from_slice(self.key());
        Ok(Some(Item { key, value: self.value()?, revision: self.key_revision() }))
    }

    /// The next key, its value left on the drive.
    pub fn next_key(&mut self) -> Result<Option<(Bytes, Revision)>> {
        if self.advance(u32::MAX)? != Advance::Key {
            return Ok(None);
        }
        Ok(Some((Bytes::copy_from_slice(self.key()), self.key_revision())))
    }

    /// To the next key in at most `steps_max` steps, of which there must be one. Each version
    /// looked at is a step, so that a walk over many deleted keys can be left and gone on with.
    pub fn advance(&mut self, steps_max: u32) -> Result<Advance> {
        loop {
            let led = self.visible.advance(steps_max)?;
            // Who asks for all steps has no use for a pause.
            if led != Advance::Paused || steps_max < u32::MAX {
                return Ok(led);
            }
        }
    }

    /// The key that [`advance`](Self::advance) led to; after a pause, the one that it looks at
    /// next. Panics at the end and before the first step.
    pub fn key(&self) -> &[u8] {
        self.visible.key()
    }

    /// The revision of the key that [`advance`](Self::advance) led to.
    pub fn key_revision(&self) -> Revision {
        self.visible.revision()
    }

    /// Bytes of its value; nothing is read.
    pub fn value_len(&self) -> usize {
        self.visible.value_len()
    }

    /// Its value. An error leaves the cursor where it is.
    pub fn value(&self) -> Result<Bytes> {
        self.visible.value()
    }

    /// Continues from `key` (inclusive) in the cursor's direction, within its bounds.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.visible.seek(key)
    }

    /// The revision of the snapshot below.
    pub fn revision(&self) -> Revision {
        self.at
    }
}
