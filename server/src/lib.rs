//! Millpond's HTTP server: a durable key-value service over [`kvs`].
//!
//! The binary is thin: [`cli`] parses, [`serve`] runs the server, [`client`] is the HTTP client
//! behind `millpond get` and its siblings. [`app`] holds what requests share and answers them;
//! `routes` has one file for each group of routes; [`listener`] and [`connection`] own the
//! sockets and their time limits, [`arrival`] and [`delivery`] bodies on their way in and out, and
//! [`budget`] the memory they take; `head`, [`framing`] and [`access`] refuse what must not be
//! carried out, before any route sees it. [`shutdown`] is how it ends.
//!
//! The server holds no data and decides no policy: killing it loses nothing that was acknowledged.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a binary's inside: its users read the README and --help")]

pub mod access;
pub mod admin;
pub mod app;
pub mod arrival;
mod aside;
pub mod blocking;
pub mod body;
pub mod budget;
mod capacity;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod delivery;
pub mod engine;
mod etag;
pub mod framing;
mod head;
mod heap;
pub mod listener;
pub mod man;
pub mod metrics;
mod object;
pub mod pace;
pub mod pool;
pub mod problem;
pub mod process_limits;
pub mod route;
mod routes;
pub mod serve;
pub mod shutdown;
pub mod target;
pub mod telemetry;

/// The commit this was built from, as far as `build.rs` could tell.
pub const COMMIT: &str = match option_env!("MILLPOND_BUILT_FROM") {
    Some(commit) => commit,
    None => "unknown",
};
