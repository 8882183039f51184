//! Compactions that somebody asks for: all of a database, one KVS, or a range of its keys.
//!
//! What was there when it was asked for goes down to the leaves, deletes that hide nothing go away,
//! and values are written anew, so that the garbage among them goes. Whole leaves are rewritten, of
//! a range the first and the last one, too. It is done by a thread of its own, one job at a time,
//! beside the work that is due by itself; so it comes to an end while others write, and takes no
//! thread from them.
//!
//! There is one at a time, in memory: a close ends it. What it has done by then stays done.

use crate::db::{Database, Open};
use crate::error::{Error, Result};
use crate::key::{KeyText, KvsId};
use crate::work::requested::{self, Errand};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What is to be compacted; the default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactionRequest {
    /// Name of the KVS; `None`: all of them.
    pub kvs: Option<String>,
    /// First key of a range, inclusive; `None`: no bound. Needs a KVS.
    pub from: Option<Bytes>,
    /// Bound above its keys, exclusive; `None`: no bound. Needs a KVS.
    pub to: Option<Bytes>,
}

/// How far a compaction is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactionState {
    /// What is in memory is being written to kvsets.
    Flushing,
    /// Kvsets are being merged.
    Running,
    /// All that was asked for is done. Where it took no job there was nothing to do.
    Done,
    /// It is at its end, and a part of what was asked for, or all of it, could not be done: its
    /// problems say what, why, and what helps.
    Incomplete,
    /// It was told to end.
    Cancelled,
    /// It ended early: why, on one line.
    Failed(String),
}

impl CompactionState {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Flushing => "flushing",
            Self::Running => "running",
            Self::Done => "done",
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether it is at its end.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Flushing | Self::Running)
    }
}

/// A part of what was asked for that could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionProblem {
    /// Of which kind it is.
    pub reason: ProblemReason,
    /// Which part, why, and what helps, on one line.
    pub detail: String,
}

/// Why a part of a compaction could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemReason {
    /// There is no room for what it would write.
    NoRoom,
    /// Something in it cannot be read.
    Unreadable,
    /// The KVS that was named is gone.
    KvsDropped,
    /// Its job failed otherwise.
    Failed,
}

impl ProblemReason {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::Unreadable => "unreadable",
            Self::KvsDropped => "kvs_dropped",
            Self::Failed => "failed",
        }
    }
}

/// What is known of a compaction that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionInfo {
    /// Counts those that were asked for since the open.
    pub number: u64,
    /// What is compacted.
    pub request: CompactionRequest,
    /// How far it is.
    pub state: CompactionState,
    /// For how long it runs, or ran.
    pub elapsed: Duration,
    /// The KVS that it is at.
    pub kvs: Option<Arc<str>>,
    /// Bytes of keys and values that it goes over, about.
    pub bytes_total: u64,
    /// Bytes of those that it has gone over. What could not be done is not among them.
    pub bytes_done: u64,
    /// Jobs that it has done.
    pub jobs: u64,
    /// Bytes that its jobs read from the drive.
    pub read_bytes: u64,
    /// Bytes of the objects that its jobs wrote.
    pub written_bytes: u64,
    /// What could not be compacted, and why: the first 30.
    pub problems: Vec<CompactionProblem>,
    /// How many there are.
    pub problems_total: u64,
}

impl CompactionInfo {
    /// Whether all was as it should be.
    pub fn had_nothing_to_do(&self) -> bool {
        self.state == CompactionState::Done && self.jobs == 0
    }
}

/// A compaction that was asked for. Clones share it. It goes on when the last of them is dropped.
#[derive(Clone)]
pub struct Compaction {
    open: Arc<Open>,
    errand: Arc<Mutex<Errand>>,
}

impl Database {
    /// Begins a compaction; see [`Compaction`]. Blocks only to seal what is in memory. Without
    /// background threads the work is done by who calls [`Compaction::wait`], or whatever else
    /// works.
    ///
    /// [`Error::CompactionRuns`] while another one runs. [`Error::Full`] while puts are refused:
    /// there is no room to rewrite what is stored; what is deleted is collected without being
    /// asked for.
    pub fn start_compaction(&self, request: CompactionRequest) -> Result<Compaction> {
        let store = self.store();
        store.check_writable()?;
        let todo = self.asked_for(&request)?;
        store.check_room_to_compact()?;
        let errand = store.begin_errand(request, todo)?;
        let at = self.commits().exclusive(|| {
            store.seal();
            store.visible()
        });
        errand.lock().take_up_to(at);
        requested::start(store, &errand);
        store.ring();
        Ok(Compaction { open: self.opened(), errand })
    }

    /// The compaction that was asked for last, running or over.
    pub fn compaction(&self) -> Option<Compaction> {
        let errand = self.store().errand()?;
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
        let view = self.store().view.load();
        let trees =
            view.trees.values().filter(|tree| kvs.as_ref().is_none_or(|name| **name == *tree.name));
        Ok(trees.map(|tree| (tree.kvs, Arc::clone(&tree.name))).collect())
    }
}

impl Compaction {
    /// How far it is.
    pub fn info(&self) -> CompactionInfo {
        self.open.store.errand_info(&self.errand)
    }

    /// Ends it. What it has done stays done; the job under way ends without a result, between two
    /// entries. Does nothing where it is over.
    pub fn cancel(&self) {
        self.errand.lock().cancel();
        self.open.store.ring();
    }

    /// Blocks until it is over. An error is of the database, not of what could not be compacted:
    /// that the state says, and the problems.
    pub fn wait(&self) -> Result<CompactionInfo> {
        self.open.store.wait_for_errand(&self.errand)?;
        Ok(self.info())
    }
}

impl fmt::Display for CompactionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(kvs) = &self.kvs else { return f.write_str("of everything") };
        write!(f, "of KVS {kvs}")?;
        if let Some(from) = &self.from {
            write!(f, " from {}", KeyText(from))?;
        }
        if let Some(to) = &self.to {
            write!(f, " up to {}", KeyText(to))?;
        }
        Ok(())
    }
}
