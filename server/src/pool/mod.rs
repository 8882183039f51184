//! The pool under the store, for those who operate it: `millpond pool` and `/v1/admin/pool`.
//!
//! What is shown has one form, the JSON of `document`, whether it comes from a running server or
//! from a data directory; `table` writes it for people. `command` runs the commands,
//! `offline` those on a data directory that no server has open, `recover` is `millpond recover`,
//! which copies by `keep` what it cuts.
//! `jobs` is work that a server does meanwhile.

pub mod cli;
pub mod command;
pub(crate) mod document;
pub mod jobs;
mod keep;
mod offline;
pub(crate) mod recover;
pub(crate) mod table;
