//! Compactions on request: of all of a database, of one KVS, or of a range of its keys.
//!
//! What was there when it was asked for goes down to the leaves, deletes that hide nothing go away,
//! and values are written anew, so that the garbage among them goes. Whole leaves are rewritten, of
//! a range the first and the last one, too. It is done by a thread of its own, one job at a time,
//! beside the work that is due by itself; so it comes to an end while others write, and takes no
//! thread from them.
//!
//! There is one at a time, in memory: a close ends it. What it has done by then stays done.

use super::{Database, Open};
use crate::error::{Error, Result};
use crate::jobs::requested::Errand;
use crate::jobs::requested::info::{CompactionInfo, CompactionRequest};
use crate::key::{KeyText, KvsId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// A compaction that was asked for. Clones share it. It goes on when the last of them is dropped.
#[derive(Clone)]
pub struct Compaction {
    open: Arc<Open>,
    errand: Arc<Mutex<Errand>>,
}

impl Database {
    /// Begins a compaction; see [`Compaction`]. Blocks only to seal what is in memory. Without
    /// background threads the callers of [`Compaction::wait`], `flush` and `compact` do the work.
    ///
    /// [`Error::CompactionRuns`] while another one runs. [`Error::Full`] while puts are refused:
    /// there is no room to rewrite what is stored; what is deleted is collected without being
    /// asked for.
    pub fn start_compaction(&self, request: CompactionRequest) -> Result<Compaction> {
        let store = self.store();
        store.life.check_writable()?;
        let todo = self.asked_for(&request)?;
        store.space.check_compact()?;
        let errand = self.work().jobs.begin_errand(request, todo)?;
        let at = self.commits().exclusive(|| {
            store.seal();
            store.shape.visible()
        });
        errand.lock().take_up_to(at);
        self.work().start_errand(&errand);
        store.life.bell.ring();
        Ok(Compaction { open: self.opened(), errand })
    }

    /// The compaction that was asked for last, running or over.
    pub fn compaction(&self) -> Option<Compaction> {
        let errand = self.work().jobs.errand()?;
        Some(Compaction { open: self.opened(), errand })
    }

    /// The KVSs of a request.
    fn asked_for(&self, request: &CompactionRequest) -> Result<VecDeque<(KvsId, Arc<str>)>> {
        let CompactionRequest { kvs, from, to } = request;
        if kvs.is_none() && (from.is_some() || to.is_some()) {
            let reason = "a range of keys is of one KVS; name it".into();
            return Err(Error::CompactionRange { reason });
        }
        let first = from.as_deref().unwrap_or_default();
        if let Some(to) = to
            && first >= to.as_ref()
        {
            let (from, to) = (KeyText(first), KeyText(to));
            let reason = format!("no key is from {from} on and before {to}; from must be less");
            return Err(Error::CompactionRange { reason: reason.into() });
        }
        if let Some(name) = kvs {
            self.open_kvs(name)?;
        }
        let view = self.store().shape.view.load();
        let trees =
            view.trees.values().filter(|tree| kvs.as_ref().is_none_or(|name| **name == *tree.name));
        Ok(trees.map(|tree| (tree.kvs, Arc::clone(&tree.name))).collect())
    }
}

impl Compaction {
    /// How far it is.
    pub fn info(&self) -> CompactionInfo {
        self.open.work.jobs.errand_info(&self.errand)
    }

    /// Ends it. What it has done stays done; the job under way ends without a result, between two
    /// entries. Does nothing where it is over.
    pub fn cancel(&self) {
        self.errand.lock().cancel();
        self.open.store.life.bell.ring();
    }

    /// Blocks until it is over. An error is of the database, not of what could not be compacted:
    /// that the state says, and the problems.
    pub fn wait(&self) -> Result<CompactionInfo> {
        self.open.work.wait_for_errand(&self.errand)?;
        Ok(self.info())
    }
}
