//! One attempt to write a journal's state into a log that does not count yet.
//!
//! Taken in steps, each of which writes one piece or flushes. Nobody's appends wait for a step: the
//! log that counts is another one. Steps and the end of the attempt exclude each other by the
//! attempt's own lock, so that once [`Rewrite::kill`] has returned nothing is written into that
//! log any more, and the next attempt may begin.
//!
//! ```text
//! begin, flush | state, state, ... | flush |     hand over: see `pair`
//!              ^ what follows can no longer be taken for part of an older log
//! ```
//!
//! The begin mark is written and flushed rather than written durably: a bad sector in the log that
//! does not count is this attempt's matter, and must not poison the pool. No state is written
//! before the mark is durable in every copy of the log.

use super::{
    frame::{FrameKind, padded_len},
    writer::{Durability, LogWriter, MARK_LEN},
};
use crate::{
    error::{Error, Result},
    heads::log::Log,
};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Where the state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The journal's other log.
    OtherLog,
    /// The first of two new logs, where the journal will live from then on.
    NewLogs([Log; 2]),
}

/// What a step has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Partly,
    Wholly,
    /// The attempt has been given up.
    Never,
}

pub(crate) struct Rewrite {
    pub(crate) target: Target,
    attempt: Mutex<Option<Attempt>>,
}

struct Attempt {
    writer: LogWriter,
    /// Bodies of state frames to come.
    pieces: VecDeque<Vec<u8>>,
    begun: bool,
    flushed: bool,
}

impl Rewrite {
    /// `writer` stands at the start of the log and has the attempt's own generation.
    pub(crate) fn new(target: Target, writer: LogWriter) -> Self {
        let pieces = VecDeque::new();
        let attempt = Attempt { writer, pieces, begun: false, flushed: true };
        Self { target, attempt: Mutex::new(Some(attempt)) }
    }

    /// More state, or what has been appended since it was taken.
    pub(crate) fn add(&self, bodies: Vec<Vec<u8>>) {
        if let Some(attempt) = &mut *self.attempt.lock() {
            attempt.pieces.extend(bodies);
        }
    }

    /// Writes one piece, or flushes what is written.
    pub(crate) fn step(&self) -> Result<Written> {
        match &mut *self.attempt.lock() {
            Some(attempt) => attempt.step(),
            None => Ok(Written::Never),
        }
    }

    /// Ends the attempt; waits for the step that is under way.
    pub(crate) fn kill(&self) {
        self.attempt.lock().take();
    }

    /// Ends the attempt by taking over what it has written; `None` if it has been killed.
    pub(crate) fn finish(&self) -> Option<LogWriter> {
        let attempt = self.attempt.lock().take()?;
        assert!(attempt.flushed, "the state is durable before its end");
        assert!(attempt.pieces.is_empty(), "all pieces are written");
        Some(attempt.writer)
    }
}

impl Attempt {
    fn step(&mut self) -> Result<Written> {
        if !self.begun {
            self.writer.frame(FrameKind::Begin, &[], Durability::AtFlush)?;
            self.writer.volume().flush()?;
            self.begun = true;
        } else if let Some(piece) = self.pieces.front() {
            // The end mark must fit behind it.
            let need_bytes = padded_len(piece.len()) as u64 + MARK_LEN;
            let free_bytes = self.writer.free_bytes();
            if need_bytes > free_bytes {
                return Err(Error::Full { need_bytes, free_bytes });
            }
            self.writer.frame(FrameKind::State, piece, Durability::AtFlush)?;
            self.flushed = false;
            self.pieces.pop_front();
        } else if !self.flushed {
            self.writer.volume().flush()?;
            self.flushed = true;
        } else {
            return Ok(Written::Wholly);
        }
        Ok(Written::Partly)
    }
}
