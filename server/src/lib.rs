//! Millpond's HTTP server: a durable key-value service over [`kvs`].
//!
//! The binary is thin: [`cli`] parses, [`serve`] runs the server and owns its sockets, [`client`]
//! is the HTTP client behind `millpond get` and its siblings. [`app`] answers requests; `routes`
//! has one file for each group of routes, and [`state`] holds what they share. [`connection`] has
//! time limits, and bodies on their way in and out, [`budget`] the memory they take; [`framing`]
//! and [`admission`] refuse what must not be carried out, before any route sees it. [`api`] is
//! what all of them speak of.
//!
//! ```text
//!   client   serve            commands; the server's life, from its socket to its end
//!     cli      app            flags; the life of one request
//!     config   routes
//!              state          what requests share
//!   admission  metrics        who is let in; what is counted
//!   framing    budget         bytes as they come; memory
//!   connection engine api documents telemetry
//! ```
//!
//! The server holds no data and decides no policy: killing it loses nothing that was acknowledged.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a binary's inside: its users read the README and --help")]

pub mod admission;
pub mod api;
pub mod app;
pub mod budget;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
mod documents;
pub mod engine;
pub mod framing;
pub mod metrics;
mod process_limits;
mod routes;
pub mod serve;
pub mod state;
pub mod telemetry;

/// The commit this was built from, as far as `build.rs` could tell.
pub const COMMIT: &str = match option_env!("MILLPOND_BUILT_FROM") {
    Some(commit) => commit,
    None => "unknown",
};
