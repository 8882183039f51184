//! What the engine does in the background, for its operator: `millpond tree`, `millpond compact` and
//! the documents of `/v1/admin/tree` and `/v1/admin/compact`.

pub mod cli;
pub(crate) mod command;
pub(crate) mod document;
mod table;
