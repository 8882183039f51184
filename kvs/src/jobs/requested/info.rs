//! A compaction on request, described: its range, its state, its problems.

use crate::key::KeyText;
use bytes::Bytes;
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
