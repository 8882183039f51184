//! What the engine does in the background, and what holds space, for its operator: `millpond tree`,
//! `compact` and `snapshots`, and the documents of `/v1/admin/tree`, `/compact` and `/snapshots`.

pub mod cli;
pub(crate) mod command;
pub(crate) mod document;
mod table;
