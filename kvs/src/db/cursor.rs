//! Cursors: the keys of one KVS in a snapshot, in order.
//!
//! A cursor is an iterator of results, for `for`, `take`, `map` and `?`. Damage is an error in the
//! place where it is met, and the cursor goes on after it: [`Error::Damaged`] is one key whose
//! value cannot be read, [`Error::DamagedRange`] says that keys may be missing. Any other error
//! ends it.
//!
//! A page of a kvset that cannot be read hides what it holds: keys, and newer versions of keys that
//! other kvsets hold too. So a key that lies in such a hole is looked up before it is shown, as a
//! read of that key alone would: mostly the filter says that the page does not matter to it.
//!
//! [`Cursor::advance`] is the same in steps that a caller can leave between two keys; the value is
//! read only when it is asked for.

use crate::db::Open;
use crate::error::{Error, Result, SnapshotEnd};
use crate::iter::bounded::{Advance, Range, Visible};
use crate::iter::merge::Merge;
use crate::key::{KvsId, Revision};
use crate::kvset::Holes;
use crate::metrics::damage::Met;
use crate::read::get::{self, Entry, Lookup};
use crate::read::scan::{self, Source};
use crate::shape::holds::Hold;
use crate::shape::view::View;
use bytes::Bytes;
use std::sync::Arc;

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
///
/// ```
/// # fn main() -> Result<(), kvs::Error> {
/// # let dir = tempfile::tempdir().expect("a scratch directory");
/// # for _again in 0..2 {
/// # let mut options = kvs::Options::default();
/// # options.pool.allow_buffered = true;
/// # options.pool.allow_volatile = true;
/// let db = kvs::Database::open(dir.path(), options)?;
/// let birds = db.kvs("birds")?;
/// birds.put(b"heron", b"grey", kvs::Durability::Sync)?;
/// birds.put(b"teal", b"small", kvs::Durability::Sync)?;
/// for item in birds.cursor(kvs::Range::default())?.take(10) {
///     let item = item?;
///     println!("{:?} is {:?}", item.key, item.value);
/// }
/// let keys: Vec<_> = birds.cursor(kvs::Range::default())?.keys().collect::<Result<_, _>>()?;
/// assert_eq!(keys[1].0, "teal");
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Cursor {
    visible: Visible<Merge<Source>>,
    kvs: KvsId,
    at: Revision,
    view: Arc<View>,
    /// What the sources could not read and have passed over.
    holes: Arc<Holes>,
    /// The result of the last step, kept back while a hole that it passed is returned first.
    led: Option<Advance>,
    /// What a lookup says of the key that the cursor stands on, if that lies in a hole.
    found: Option<Entry>,
    /// Its snapshot's place in the list; `None` once that was ended.
    hold: Option<Arc<Hold>>,
    /// Why that was.
    ended: Option<SnapshotEnd>,
    /// Keeps the database open for as long as its kvsets are read.
    open: Arc<Open>,
}

impl Cursor {
    pub(crate) fn new(
        (open, hold): (&Arc<Open>, &Arc<Hold>),
        view: &Arc<View>,
        (kvs, at): (KvsId, Revision),
        range: Range,
    ) -> Self {
        let holes = Arc::new(Holes::default());
        let visible = scan::visible(&open.store, view, (kvs, at), range, &holes);
        let (view, open, hold) = (Arc::clone(view), Arc::clone(open), Some(Arc::clone(hold)));
        let (led, found, ended) = (None, None, None);
        Self { visible, kvs, at, view, holes, led, found, hold, ended, open }
    }

    /// The next key, its value left on the drive.
    pub fn next_key(&mut self) -> Option<Result<(Bytes, Revision)>> {
        match self.advance(u32::MAX) {
            Ok(Advance::Key) => Some(Ok((Bytes::copy_from_slice(self.key()), self.key_revision()))),
            Ok(Advance::End | Advance::Paused) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The keys alone, as an iterator; values are left on the drive.
    pub fn keys(&mut self) -> Keys<'_> {
        Keys { cursor: self }
    }

    /// To the next key in at most `steps_max` steps, of which there must be one. Each version
    /// looked at is a step, so that a walk over many deleted keys can be left and gone on with.
    ///
    /// After [`Error::Damaged`] the cursor stands on that key, and the next call leads to the one
    /// after it; after [`Error::DamagedRange`] the next call goes on, too. After any other error
    /// the cursor is at its end.
    pub fn advance(&mut self, steps_max: u32) -> Result<Advance> {
        if let Some(hold) = &self.hold
            && let Some(why) = hold.ended()
        {
            self.let_go(why);
            return Err(Error::SnapshotEnded { at: self.at, why });
        }
        let led = self.lead(steps_max);
        led.inspect_err(|error| self.open.store.metrics.damage.note(Met::Scan, error))
    }

    /// Fails once its snapshot was ended; from then on the cursor holds nothing, and is at its end.
    /// [`advance`](Self::advance) does the same; this is for cursors that stand still.
    pub fn check(&mut self) -> Result<()> {
        if let Some(why) = self.hold.as_ref().and_then(|hold| hold.ended()) {
            self.let_go(why);
        }
        match self.ended {
            Some(why) => Err(Error::SnapshotEnded { at: self.at, why }),
            None => Ok(()),
        }
    }

    /// Has `call` called when its snapshot is ended, at once if it has been: on the thread that
    /// ends it, so it must be short. It is for cursors that stand still, and would hold what they
    /// read until they are used again.
    pub fn on_end(&self, call: impl FnOnce() + Send + 'static) {
        match &self.hold {
            Some(hold) => hold.on_end(Box::new(call)),
            None => call(),
        }
    }

    /// Gives back what it holds, and is at its end.
    #[cold]
    fn let_go(&mut self, why: SnapshotEnd) {
        self.ended = Some(why);
        let nothing = Arc::new(View::of_nothing());
        self.visible = Visible::new(Merge::new(Vec::new()), self.at, Range::default());
        (self.view, self.hold, self.led, self.found) = (nothing, None, None, None);
        self.holes.clear();
    }

    fn lead(&mut self, steps_max: u32) -> Result<Advance> {
        loop {
            let led = if let Some(led) = self.led.take() {
                led
            } else {
                self.found = None;
                self.visible.advance(steps_max)?
            };
            if let Some(hole) = self.hole_to_tell() {
                self.led = Some(led);
                return Err(hole);
            }
            match led {
                Advance::Key if self.holes.hold(self.visible.key()) => {
                    if self.look_up()? {
                        return Ok(led);
                    }
                }
                // Who asks for all steps has no use for a pause.
                Advance::Paused if steps_max == u32::MAX => {}
                Advance::Key | Advance::Paused | Advance::End => return Ok(led),
            }
        }
    }

    /// Asks for the key as a read of it alone would. False: it is not there.
    #[cold]
    fn look_up(&mut self) -> Result<bool> {
        let lookup = Lookup::of(&self.open.store, self.kvs, self.visible.key(), self.at);
        self.found = get::get(&self.view, lookup)?;
        Ok(self.found.is_some())
    }

    /// A hole that lies within the bounds and has not been told.
    fn hole_to_tell(&self) -> Option<Error> {
        while let Some((range, error)) = self.holes.tell() {
            if let Some(range) = self.visible.within_bounds(range) {
                return Some(Error::DamagedRange {
                    kvs: get::name_of(&self.view, self.kvs),
                    from: range.from,
                    to: range.to,
                    source: Box::new(error),
                });
            }
        }
        None
    }

    /// The key that [`advance`](Self::advance) led to; after a pause, the one that it looks at
    /// next. Panics at the end and before the first step.
    pub fn key(&self) -> &[u8] {
        self.visible.key()
    }

    /// The revision of the key that [`advance`](Self::advance) led to.
    pub fn key_revision(&self) -> Revision {
        self.found.as_ref().map_or_else(|| self.visible.revision(), |entry| entry.revision)
    }

    /// Bytes of its value; nothing is read.
    pub fn value_len(&self) -> usize {
        self.found.as_ref().map_or_else(|| self.visible.value_len(), |entry| entry.value.len())
    }

    /// Its value. An error leaves the cursor where it is.
    pub fn value(&self) -> Result<Bytes> {
        if let Some(entry) = &self.found {
            return Ok(entry.value.clone());
        }
        let of_key = |error| get::of_key(&self.view, (self.kvs, self.visible.key()), error);
        let value = self.visible.value().map_err(of_key);
        value.inspect_err(|error| self.open.store.metrics.damage.note(Met::Scan, error))
    }

    /// Continues from `key` (inclusive) in the cursor's direction, within its bounds. Fails once
    /// its snapshot was ended: there is nothing to go on with.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        if let Some(why) = self.ended {
            return Err(Error::SnapshotEnded { at: self.at, why });
        }
        // A hole that the walk meets again is returned again.
        self.holes.clear();
        (self.led, self.found) = (None, None);
        self.visible.seek(key)
    }

    /// The revision of the snapshot below.
    pub fn revision(&self) -> Revision {
        self.at
    }
}

impl Iterator for Cursor {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance(u32::MAX) {
            Ok(Advance::Key) => Some(self.value().map(|value| Item {
                key: Bytes::copy_from_slice(self.key()),
                value,
                revision: self.key_revision(),
            })),
            Ok(Advance::End | Advance::Paused) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// The keys of a [`Cursor`], from where it stands.
pub struct Keys<'a> {
    cursor: &'a mut Cursor,
}

impl Iterator for Keys<'_> {
    type Item = Result<(Bytes, Revision)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next_key()
    }
}
