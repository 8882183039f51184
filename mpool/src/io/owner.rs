//! Which open pool a handle belongs to.
//!
//! Handles share the [`Volumes`] of their pool, so two are of one opening if they share the same
//! ones: the check is one comparison of pointers. Ids of volumes are numbers that every pool counts
//! from 1; those that a pool gives out carry a mark of its UUID, which outlives the opening, as the
//! volumes do. Ids of objects are numbers that their owners store, and carry nothing.

use crate::{
    address::VolumeId,
    error::{Error, Result},
    id::uuid_text,
    io::volumes::Volumes,
};
use std::{
    fmt,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Pools that this process has opened, or begun to.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// An open pool, as messages name it.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Counts openings: the same pool opened twice is two owners.
    number: u64,
    /// Known once the superblock is read.
    pool: OnceLock<Named>,
}

#[derive(Debug)]
struct Named {
    /// Of its ids of volumes; not 0.
    mark: u64,
    place: String,
}

impl Owner {
    pub(crate) fn new() -> Self {
        Self { number: OPENED.fetch_add(1, Ordering::Relaxed) + 1, pool: OnceLock::new() }
    }

    /// Tells which pool it is; the first time counts.
    pub(crate) fn name(&self, uuid: [u8; 16], dir: Option<&Path>) {
        self.pool.get_or_init(|| {
            let text = uuid_text(uuid);
            let place = match dir {
                Some(dir) => format!("{}, pool {text}", dir.display()),
                None => format!("pool {text}"),
            };
            let word = uuid.first_chunk().expect("a UUID has 16 bytes");
            Named { mark: u64::from_le_bytes(*word) | 1, place }
        });
    }

    fn mark(&self) -> u64 {
        self.pool.get().map_or(0, |pool| pool.mark)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.pool.get().map_or("not read yet", |pool| &pool.place);
        write!(f, "pool {} of this process ({place})", self.number)
    }
}

impl Volumes {
    /// Refuses what belongs to `self` where `here` is another pool; `what` names it.
    pub(crate) fn check_owner(
        self: &Arc<Self>,
        here: &Arc<Self>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        if Arc::ptr_eq(self, here) {
            return Ok(());
        }
        Err(Error::foreign(what(), self.owner(), here.owner()))
    }

    /// The id of one of its volumes, as it is given out.
    pub(crate) fn marked(&self, id: VolumeId) -> VolumeId {
        id.with_mark(self.owner().mark())
    }

    /// Refuses an id that another pool gave out; one that was made of a number is taken for ours.
    pub(crate) fn check_volume(&self, id: VolumeId) -> Result<()> {
        match id.mark() {
            0 => Ok(()),
            mark if mark == self.owner().mark() => Ok(()),
            _ => Err(Error::foreign(id.to_string(), "another pool", self.owner())),
        }
    }
}
