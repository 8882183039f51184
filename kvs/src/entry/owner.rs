//! Which open database a handle belongs to.
//!
//! Handles of KVSs, and batches filled by them, carry the [`Owner`] of their database. Ids of KVSs
//! are numbers that every database counts from 1, so without it a handle of one database would read
//! and write whatever has that number in another. Two owners are the same if they are the same
//! allocation: the check of a handle is one comparison of pointers, and no owner's place in memory
//! is used again while a handle carries it.

use crate::error::{Error, Result};
use mpool::Pool;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Databases that this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// An open database, as messages name it.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Counts openings: the same pool opened twice is two owners.
    number: u64,
    place: String,
}

impl Owner {
    pub(crate) fn new(pool: &Pool) -> Arc<Self> {
        let uuid = mpool::uuid_text(pool.info().uuid);
        let place = match pool.dir() {
            Some(dir) => format!("{}, pool {uuid}", dir.display()),
            None => format!("pool {uuid}"),
        };
        Arc::new(Self { number: OPENED.fetch_add(1, Ordering::Relaxed) + 1, place })
    }

    /// Refuses what belongs to `self` where `here` is another; `what` names it.
    #[inline]
    pub(crate) fn check(
        self: &Arc<Self>,
        here: &Arc<Self>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        if Arc::ptr_eq(self, here) {
            return Ok(());
        }
        Err(Error::ForeignHandle {
            what: what().into(),
            owner: self.to_string().into(),
            given_to: here.to_string().into(),
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {} of this process ({})", self.number, self.place)
    }
}
