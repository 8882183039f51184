//! The command lines of `millpond tree`, `millpond compact` and `millpond snapshots`.

use crate::cli::Server;
use clap::Args;
use std::ffi::OsString;

pub(crate) const TREE_HELP: &str = "\
Examples:
  millpond tree                          # the debt of every KVS, and what jobs run
  millpond tree birds                    # its nodes and kvsets, and the last jobs
  millpond tree birds --from heron --limit 100
  millpond tree birds --json | jq .debt

A pressure of 100 % is at its limit; what is furthest over is done first. A kvset that is left alone
could not be read: compaction leaves it as it is until the next start (millpond pool scrub).
The server must serve /v1/admin (see millpond serve --admin).";

pub(crate) const COMPACT_HELP: &str = "\
Examples:
  millpond compact --wait                           # everything
  millpond compact --kvs birds --wait
  millpond compact --kvs birds --from a --to m
  millpond compact --status
  millpond compact --cancel

What is there now goes down to the leaves, deletes that hide nothing go away, and values are written
anew, without the garbage among them: that reads and writes all of it once. Whole leaves are
rewritten. Other work goes on beside it. One runs at a time; a stop of the server ends it, and
what it has done stays done. With --wait an interrupt (Ctrl-C) ends the command, not the compaction.

It ends as done (all of it, or there was nothing to do), as incomplete (the problems say which parts
could not be done, why, and what helps: no_room, unreadable, kvs_dropped, failed), as cancelled, or
as failed.

Exit codes: 0 done, or it runs (--status), or is told to end or was over (--cancel)
            1 incomplete; or none is there to show or end   2 wrong usage
            3 refused, cancelled, or it failed   4 no connection   130 interrupted";

pub(crate) const SNAPSHOTS_HELP: &str = "\
Examples:
  millpond snapshots                     # those that live, the oldest first, and what they hold
  millpond snapshots --end 7             # end the one with ID 7

A snapshot holds what was deleted since it was taken, in all KVSs. Over HTTP it is a scan: HOLDER
has the request's id, which its client may choose (X-Request-Id) and the log has, and the client's
address. An ended scan stops with an error of type snapshot-ended; its client goes on after the last
key that it has read, on another snapshot. Each is ended at the age that the option snapshot_age_max
says.

Exit codes: 0 shown, or ended   1 no snapshot with this ID lives   2 wrong usage   3 refused
            4 no connection";

/// Flags of `millpond tree`.
#[derive(Debug, Args)]
pub struct Tree {
    /// Name of the KVS; without it a line for each
    pub kvs: Option<String>,
    /// Begin with the leaf that holds this key
    #[arg(long, value_name = "KEY", requires = "kvs")]
    pub from: Option<OsString>,
    /// The key is base64url, as it is shown where it is no text
    #[arg(long, requires = "from")]
    pub k64: bool,
    /// Most kvsets shown, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub limit: u64,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

/// Flags of `millpond compact`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub struct Compact {
    /// Only this KVS
    #[arg(long, value_name = "NAME")]
    pub kvs: Option<String>,
    /// First key, inclusive
    #[arg(long, value_name = "KEY", requires = "kvs")]
    pub from: Option<OsString>,
    /// Last key, exclusive
    #[arg(long, value_name = "KEY", requires = "kvs")]
    pub to: Option<OsString>,
    /// The keys are base64url
    #[arg(long)]
    pub k64: bool,
    /// Wait for its end, and show how far it is
    #[arg(long)]
    pub wait: bool,
    /// Show the one that was asked for last
    #[arg(long, conflicts_with_all = ["kvs", "wait", "cancel"])]
    pub status: bool,
    /// End the one that runs
    #[arg(long, conflicts_with_all = ["kvs", "wait"])]
    pub cancel: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

/// Flags of `millpond snapshots`.
#[derive(Debug, Args)]
pub struct Snapshots {
    /// End this one: who reads by it is told so, and what it holds becomes free
    #[arg(long, value_name = "ID")]
    pub end: Option<u64>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}
