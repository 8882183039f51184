//! Rewriting a journal in the background, one step a call.
//!
//! ```text
//! idle --look due--> snapshot --worth it--> pieces ... flush --> catch up --> hand over --> idle
//!                       |  not worth it                  ^----------'
//!                       '--> idle, until more is appended
//! any failure, or overtaken by appends: given up, idle until more is appended
//! ```
//!
//! What a step holds: a snapshot and the hand-over take the append lock; pieces and flushes take
//! none that an append wants.

use super::{
    due::{Due, Fill, Growth},
    pair::{Caught, LogPair, rewritten_len},
    rewrite::{Rewrite, Target, Written},
    writer::pack,
};
use crate::{
    chores::Progress,
    error::{Error, Result},
    heads::log::Log,
};
use std::sync::Arc;

/// The records of a state, still to be made: runs without the append lock.
pub type MdcSnapshot = Box<dyn FnOnce() -> Vec<Vec<u8>> + Send>;

/// Whose journal it is.
pub(crate) trait Owner {
    /// For messages.
    fn name(&self) -> String;
    /// Whether a look for garbage is due. Takes the append lock for a moment.
    fn is_look_due(&self) -> bool;
    /// Keeps appends out while `step` runs.
    fn background<R>(&self, step: impl FnOnce(&mut LogPair) -> R) -> R;
    /// The state as of the last append. Called within `background`.
    fn snapshot(&self) -> MdcSnapshot;
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Idle,
    More,
    /// The journal is on the logs that the attempt was begun for.
    Done(Target),
    /// It wants logs of this length; nothing has begun.
    Grow {
        len: u64,
    },
    /// The attempt was given up. `medium`: a log could not be written.
    Failed {
        target: Target,
        medium: bool,
    },
}

impl From<Step> for Progress {
    fn from(step: Step) -> Self {
        if step == Step::Idle { Self::Idle } else { Self::More }
    }
}

/// The attempt that is under way, if any.
#[derive(Default)]
pub(crate) struct Background {
    current: Option<Arc<Rewrite>>,
}

impl Background {
    pub(crate) fn step(
        &mut self,
        owner: &impl Owner,
        growth: Growth,
        move_to: &mut dyn FnMut([Log; 2]) -> Result<()>,
    ) -> Step {
        let Some(rewrite) = self.current.clone() else { return self.look(owner, growth) };
        let outcome = match rewrite.step() {
            Ok(Written::Partly) => return Step::More,
            Ok(Written::Never) => {
                self.current = None;
                return Step::More;
            }
            Ok(Written::Wholly) => owner.background(|pair| pair.catch_up(&rewrite, move_to)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Caught::More) => Step::More,
            Ok(Caught::Up) => {
                self.current = None;
                Step::Done(rewrite.target)
            }
            Err(error) => {
                tracing::warn!(journal = owner.name(), %error, "a rewriting was given up");
                owner.background(|pair| pair.abandon(&rewrite));
                self.current = None;
                let medium = matches!(error, Error::Io { op: "write", .. });
                Step::Failed { target: rewrite.target, medium }
            }
        }
    }

    /// Takes the state, and decides whether writing it is worth it.
    fn look(&mut self, owner: &impl Owner, growth: Growth) -> Step {
        if !owner.is_look_due() {
            return Step::Idle;
        }
        let (rewrite, fill, bodies) = begin(owner, Target::OtherLog);
        let due = fill.due(rewritten_len(&bodies), growth);
        if due == Due::Rewrite {
            rewrite.add(bodies);
            self.current = Some(rewrite);
            return Step::More;
        }
        owner.background(|pair| pair.put_off(&rewrite));
        if let Due::Grow { len } = due { Step::Grow { len } } else { Step::Idle }
    }

    /// Begins to write the state into new logs that hold zeros.
    pub(crate) fn move_to(&mut self, owner: &impl Owner, logs: [Log; 2]) {
        let (rewrite, _, bodies) = begin(owner, Target::NewLogs(logs));
        rewrite.add(bodies);
        self.current = Some(rewrite);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }
}

/// The position and the state that belongs to it, taken under one lock; the records are made
/// without it.
fn begin(owner: &impl Owner, target: Target) -> (Arc<Rewrite>, Fill, Vec<Vec<u8>>) {
    let (rewrite, fill, snapshot) = owner.background(|pair| {
        let rewrite = pair.begin(target);
        (rewrite, pair.fill(), owner.snapshot())
    });
    (rewrite, fill, pack(&snapshot()))
}
