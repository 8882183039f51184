//! The members of one group, and how its outcome is told to each of them.
//!
//! Errors are not `Clone`, and each member gets its own: [`again`] makes the same error once more.
//! Which errors may come here is decided by the leader, in the parent.

use super::ticket::Ticket;
use crate::error::{Error, Result};
use crate::key::Revision;

/// Batches that are logged together.
#[derive(Default)]
pub(super) struct Group {
    pub(super) tickets: Vec<Ticket>,
    /// Of the batches, and with what the queue counts for each.
    pub(super) batch_bytes: usize,
    pub(super) bytes: usize,
    pub(super) durable: bool,
    pub(super) interval: bool,
}

impl Group {
    pub(super) fn complete(self, outcome: Result<Revision>) {
        match outcome {
            Ok(first) => {
                let mut revision = first;
                for ticket in self.tickets {
                    ticket.complete(Ok(revision));
                    revision = revision.next();
                }
            }
            Err(error) => {
                self.tickets.into_iter().for_each(|ticket| ticket.complete(Err(again(&error))));
            }
        }
    }
}

/// The same error for the next member of a group.
fn again(error: &Error) -> Error {
    match error {
        Error::Stalled { reason } => Error::Stalled { reason },
        Error::Closed => Error::Closed,
        Error::LogFull { need_bytes, free_bytes } => {
            Error::LogFull { need_bytes: *need_bytes, free_bytes: *free_bytes }
        }
        Error::Poisoned { cause } => Error::Poisoned { cause: cause.clone() },
        // `refuse` lets no other through.
        other => Error::Poisoned { cause: other.with_sources() },
    }
}
